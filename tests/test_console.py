"""
What every program does around its work: Ctrl-C amid its imports, python -I, no threads left, and
what would steer a terminal.
"""

import os
import signal
import sys

import train_gpt2 as gpt2
from tools import console

import pytest
from helpers import add_data, failed, make_project, run, start, succeeded, write_tokenizer
from running import DATA, DRIVER, FAST, posix, shown_on, train, within

PROGRAMS = [
    "sample_gpt2.py", "reference_gpt2.py", "prepro_pythondocs.py", "prepro_text.py",
    "prepro_tinyshakespeare.py", "prepro_tinystories.py", "tools/driver.py", "tools/plot_log.py",
    "tools/show_step.py", "test_gpt2.py",
]  # fmt: skip
ESCAPE = b"\x1b[31m\x07"
NAME = f"none/{ESCAPE.decode()}"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with a model, whose tokens would make a terminal's letters red, and ring."""
    folder = add_data(make_project(tmp_path_factory.mktemp("console")))
    write_tokenizer(folder / "data" / "letters_tokenizer.bin", [ESCAPE] * 12 + [b"<end>"])
    succeeded(train(folder, *FAST, *DATA, "--out", "w.bin"))
    return folder


# ----------------------------------------------------------------------------
# Ctrl-C and Python's own settings

# The program, with Ctrl-C where it imports a module
AMID = """
import os, runpy, signal, sys
del sys.argv[0]
sys.path[0] = os.path.dirname(sys.argv[0])
class Finder:
    def find_spec(name, *_):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@posix
@pytest.mark.parametrize("module", ["argparse", "train_gpt2", "numpy", "tools.console"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_amid_the_imports(project, program, module):
    """It ends without a word, by the signal, as a shell expects."""
    code = AMID.format(module=module)
    done = run(project, program, "--help", python=["-c", code])
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@posix
def test_ctrl_c_amid_the_imports_of_the_lesson(project):
    code = AMID.format(module="numpy")
    done = run(project, "train_gpt2.py", *FAST, *DATA, python=["-c", code])
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_without_numpy(project):
    code = "import runpy, sys; sys.modules['numpy'] = None; sys.argv = ['train_gpt2.py']"
    code += "; runpy.run_path('train_gpt2.py', run_name='__main__')"
    done = run(project, "train_gpt2.py", python=["-c", code])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "NumPy is missing: pip install numpy\n"


@posix
def test_ctrl_c_amid_the_imports_of_the_driver(project):
    """To which train_gpt2.py hands over."""
    code = AMID.format(module="tools.memory")
    done = run(project, "train_gpt2.py", *FAST, *DATA, *DRIVER, python=["-c", code])
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@posix
def test_ctrl_c_in_a_program_that_has_begun(project):
    """Its own handlers are at work, and not those of its imports."""
    code = "import tools.console, signal"
    code += "; tools.console.Parser.parse_args = lambda *_: signal.raise_signal(signal.SIGINT)"
    done = run(project, "prepro_text.py", "x", python=within(code))
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize(
    "how", [["-I"], ["-P"] if sys.version_info >= (3, 11) else ["-I"]], ids=str
)
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_find_their_modules(project, tmp_path, program, how):
    """Where Python doesn't look into the program's folder (-I, PYTHONSAFEPATH)."""
    done = run(project, program, "--help", python=how, cwd=tmp_path)
    assert succeeded(done).startswith("usage: ")


# ----------------------------------------------------------------------------
# No threads, no processes

NO_THREADS = """
import _thread, threading
def start(*_, **__):
    raise RuntimeError("can't start new thread")
for module, name in (_thread, "start_new_thread"), (threading, "_start_new_thread"), (
    threading, "_start_joinable_thread"):
    if hasattr(module, name):
        setattr(module, name, start)
"""
NO_PROCESSES = """
import errno, os, subprocess
def start(*_, **__):
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
subprocess.Popen.__init__ = start
"""
LIMIT = "ulimit -u"


@pytest.mark.parametrize(
    "program, flags",
    [
        ("train_gpt2.py", [*FAST, *DATA, *DRIVER]),
        ("sample_gpt2.py", "--weights w.bin --tokenizer data/letters_tokenizer.bin".split()),
    ],
)
def test_no_thread_left(project, program, flags):
    """One line; and what it says helps."""
    if gpt2.CORES > 1:
        done = run(project, program, *flags, python=within(NO_THREADS), OMP_NUM_THREADS="2")
        *_, line = done.stderr.splitlines()
        assert done.returncode == 1 and line.startswith(f"{program}: "), done.stderr
        assert "can't start new thread" in line and LIMIT in line and "OMP_NUM_THREADS=1" in line
        assert "Traceback" not in done.stderr
    one = run(project, program, *flags, python=within(NO_THREADS), OMP_NUM_THREADS="1")
    assert one.returncode == 0 and one.stdout, one.stderr


def test_no_process_left(project, tmp_path):
    """Where the default files are to be made."""
    empty = make_project(tmp_path / "empty")
    failed(run(empty, "train_gpt2.py", python=within(NO_PROCESSES)), LIMIT)


# ----------------------------------------------------------------------------
# Terminals


def on_terminal(folder, program, *flags):
    """Run a program with its output and its errors on a terminal -> status, what that showed."""
    pty = pytest.importorskip("pty", reason="needs the terminals of POSIX")
    ours, theirs = pty.openpty()
    with start(folder, program, *flags, streams={"stdout": theirs, "stderr": theirs}) as process:
        os.close(theirs)
        shown = shown_on(ours)
    return process.returncode, shown


SAMPLE = ["--weights", "w.bin", "--tokenizer", "data/letters_tokenizer.bin", "--samples", "9"]
TRAIN = [*FAST, *DATA, *DRIVER, "--sample-every", "1", "--steps", "1", "--no-save"]


@pytest.mark.parametrize(
    "program, flags", [("sample_gpt2.py", SAMPLE), ("train_gpt2.py", TRAIN)], ids=str
)
def test_tokens_steer_no_terminal(project, program, flags):
    """They are spelled out there, and come as they are where a pipe takes them."""
    status, shown = on_terminal(project, program, *flags)
    assert status == 0 and rb"\x1b[31m\x07\x1b[31m\x07" in shown, shown
    assert b"\x07" not in shown and b"\x1b[31m" not in shown
    done = run(project, program, *flags)
    assert done.returncode == 0 and ESCAPE.decode() * 2 in done.stdout


@pytest.mark.parametrize(
    "program, flags",
    [
        ("train_gpt2.py", [*FAST, *DATA, "--init", NAME]),
        ("train_gpt2.py", [*FAST, *DATA, *DRIVER, "--init", NAME]),
        ("train_gpt2.py", [*FAST, *DRIVER, "--data", NAME]),
        ("train_gpt2.py", [*FAST, *DATA, "--save", NAME]),
        ("sample_gpt2.py", ["--weights", NAME]),
        ("sample_gpt2.py", [f"--{NAME}"]),
        ("prepro_text.py", ["--bytes", NAME]),
        ("tools/plot_log.py", ["-o", "x.html", NAME]),
        ("tools/show_step.py", ["--weights", NAME]),
        ("reference_gpt2.py", ["--model", NAME]),
    ],
    ids=ascii,
)
def test_names_of_files_steer_no_terminal(project, program, flags):
    status, shown = on_terminal(project, program, *flags)
    assert status in (1, 2) and rb"\x1b[31m\x07" in shown, shown
    assert not {*shown} & {*ESCAPE[:1], *ESCAPE[-1:]}, shown
    # a terminal that doesn't say its width has 80 columns; the plain loop breaks no lines by itself
    assert program == "train_gpt2.py" or all(len(s) <= 80 for s in shown.splitlines()), shown


def test_letters_stay_as_they_are():
    """Also those that aren't "printable": the space of Chinese, and what joins emoji and Arabic."""
    text = "naïve\t你\u3000好 \U0001f468\u200d\U0001f469\n\u2028"
    assert text.translate(console.STEERING) == text
    assert "a\rb\x9b1mc\x7f".translate(console.STEERING) == r"a\rb\x9b1mc\x7f"
