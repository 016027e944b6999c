"""What programs do around their work: Ctrl-C, python -I, and bars and samples on a terminal."""

import re

import pytest
from helpers import LETTERS, add_data, make_project, run, succeeded
from running import DATA, FAST, LONG, on_terminal, posix, within
from test_help import PROGRAMS


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return add_data(make_project(tmp_path_factory.mktemp("console")))


# ----------------------------------------------------------------------------
# Ctrl-C and Python's own settings


@posix
def test_ctrl_c_in_a_program_that_has_begun(project):
    code = "import tools.console, signal"
    code += "; tools.console.Parser.parse_args = lambda *_: signal.raise_signal(signal.SIGINT)"
    done = run(project, "prepro_text.py", "x", python=within(code))
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_find_their_modules(project, tmp_path, program):
    """Where Python doesn't look into the program's folder (-I, PYTHONSAFEPATH)."""
    done = run(project, program, "--help", python=["-I"], cwd=tmp_path)
    assert "--help" in succeeded(done)


# ----------------------------------------------------------------------------
# The bar, and samples

SLOW = ["--steps", 60, "--batch-size", 8, "--seq-len", 32]


def test_steps_and_tokens_per_second_agree(project):
    """Whatever the bar shows, one is the other times the tokens of a step."""
    shown, status, _ = on_terminal(project, LONG, *FAST, *DATA, *SLOW)
    assert status == 0, shown
    found = re.findall(r"([\d.]+)(step/s|s/step), loss [\d.]+, (\d+) tokens/s", shown)
    assert len(found) >= 2  # and the last, when all is done
    for rate, unit, tokens in found:
        steps = float(rate) if unit == "step/s" else 1 / float(rate)
        # two digits of the rate behind the point are shown, none of the tokens
        rounding = 0.005 / float(rate) * float(tokens) + 1
        assert float(tokens) == pytest.approx(steps * 8 * 32, abs=rounding)
    for line in re.split(r"[\r\n]", shown):
        assert len(line) <= 80 or not line.strip().startswith(("0%", "100%")), line


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
