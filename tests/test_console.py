"""What programs do around their work: Ctrl-C, closed streams, bars and samples on a terminal."""

import os

import pytest
from helpers import LETTERS, add_data, failed, make_project, run
from running import DATA, FAST, LONG, on_terminal, posix, within


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return add_data(make_project(tmp_path_factory.mktemp("console")))


# ----------------------------------------------------------------------------
# Ctrl-C, streams, an old NumPy


@posix
def test_ctrl_c_in_a_program_that_has_begun(project):
    code = "import tools.console, signal"
    code += "; tools.console.Parser.parse_args = lambda *_: signal.raise_signal(signal.SIGINT)"
    done = run(project, "prepro_text.py", "x", python=within(code))
    assert (done.returncode, done.stderr) == (130, "")


@posix
@pytest.mark.parametrize("stream", [1, 2])
def test_a_stream_that_is_closed(project, stream):
    """As by `2>&-`: the run does its work."""
    closed = {"preexec_fn": lambda: os.close(stream)}
    done = run(project, LONG, *FAST, *DATA, "--out", f"{stream}.bin", streams=closed)
    assert done.returncode == 0 and done.stderr == "" and (project / f"{stream}.bin").exists()
    assert ("step 1: train loss" in done.stdout) == (stream == 2)


def test_an_old_numpy(project):
    old = within("sys.modules['numpy'].__version__ = '1.26.4'")
    failed(run(project, LONG, python=old), "NumPy 2 or later is needed; ", "pip install -U numpy")


# ----------------------------------------------------------------------------
# The bar, and samples


def test_sample_of_training_comes_as_it_is_made(project):
    """On a terminal its tokens arrive one after the other, and no bar is amid them."""
    marked = """
from tools import sampling

def marked(*args, made=sampling.generate):
    for token in made(*args):
        print("[1]", end="", flush=True)
        yield token

sampling.generate = marked
"""
    flags = [*FAST, *DATA, "--no-save", "--sample-every", 2, "--seq-len", 8]
    shown, status, _ = on_terminal(project, LONG, *flags, python=within(marked))
    assert status == 0, shown
    text = shown.split(": sample\n---\n")[1].split("\n---")[0]
    _, *pieces, _ = text.split("[1]")  # before and behind them there is the bar
    assert len(pieces) == 255
    assert set(pieces) <= {*map(bytes.decode, LETTERS)}  # a token, and then the next
