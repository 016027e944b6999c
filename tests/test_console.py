"""
What every program does around its work: Ctrl-C, python -I, no threads left, and terminals, on
which messages are broken between words, and nothing that would steer them is shown.
"""

import os
import re

import train_gpt2 as gpt2
from tools import console

import pytest
from helpers import add_data, make_project, run, succeeded, write_tokenizer
from running import DATA, FAST, LONG, on_terminal, posix, small_weights, train, within
from test_help import PROGRAMS

ESCAPE = b"\x1b[31m\x07"
NAME = f"none/{ESCAPE.decode()}"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with a model, whose tokens would make a terminal's letters red, and ring."""
    folder = add_data(make_project(tmp_path_factory.mktemp("console")))
    write_tokenizer(folder / "data" / "letters_tokenizer.bin", [ESCAPE] * 12 + [b"<end>"])
    succeeded(train(folder, *FAST, *DATA, "--out", "w.bin"))
    small_weights(folder / "small.bin")
    (folder / "text.txt").write_text("abc. jihg fed. \n" * 20)
    return folder


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
# No threads, no processes

ONE_THREAD = """
import _thread, threading
started = []
def limited(start):
    def start_one(*args, **kwargs):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(1)
        return start(*args, **kwargs)
    return start_one
for module, name in (_thread, "start_new_thread"), (threading, "_start_new_thread"), (
    threading, "_start_joinable_thread"):
    if hasattr(module, name):
        setattr(module, name, limited(getattr(module, name)))
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
        (LONG, [*FAST, *DATA]),
        ("sample_gpt2.py", "--weights w.bin --tokenizer data/letters_tokenizer.bin".split()),
    ],
)
def test_no_thread_left(project, program, flags):
    """One line; and what it says helps."""
    if gpt2.CORES > 1:
        done = run(project, program, *flags, python=within(ONE_THREAD), OMP_NUM_THREADS="2")
        *_, line = done.stderr.splitlines()
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert line.startswith(f"{os.path.basename(program)}: can't start new thread"), line
        assert LIMIT in line and "OMP_NUM_THREADS=1" in line
    one = run(project, program, *flags, python=within(ONE_THREAD), OMP_NUM_THREADS="1")
    assert one.returncode == 0 and one.stdout, one.stderr


def test_no_process_left(project, tmp_path):
    """Where the default files are to be made."""
    empty = make_project(tmp_path / "empty")
    done = run(empty, LONG, python=within(NO_PROCESSES))
    *before, line = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("train.py: ") and LIMIT in line
    assert all(text.startswith("preparing: ") for text in before)


# ----------------------------------------------------------------------------
# Terminals


SAMPLE = ["--weights", "w.bin", "--tokenizer", "data/letters_tokenizer.bin", "--samples", "9"]
TRAIN = [*FAST, *DATA, "--sample-every", "1", "--steps", "1", "--no-save"]


@pytest.mark.parametrize("program, flags", [("sample_gpt2.py", SAMPLE), (LONG, TRAIN)], ids=str)
def test_tokens_steer_no_terminal(project, program, flags):
    """They are spelled out there, and come as they are where a pipe takes them."""
    shown, status, _ = on_terminal(project, program, *flags)
    assert status == 0 and r"\x1b[31m\x07\x1b[31m\x07" in shown, shown
    assert "\x07" not in shown and "\x1b[31m" not in shown
    done = run(project, program, *flags)
    assert done.returncode == 0 and ESCAPE.decode() * 2 in done.stdout


NAMED = [
    (LONG, [*FAST, *DATA, "--init", NAME]),
    (LONG, [*FAST, "--data", NAME]),
    (LONG, [*FAST, *DATA, "--save", NAME]),
    ("sample_gpt2.py", ["--weights", NAME]),
    ("sample_gpt2.py", [f"--{NAME}"]),
    ("prepro_text.py", ["--bytes", NAME]),
    ("tools/plot_log.py", ["-o", "x.html", NAME]),
    ("tools/show_step.py", ["--weights", NAME]),
    ("reference_gpt2.py", ["--model", NAME]),
]


@pytest.mark.parametrize("program, flags", NAMED, ids=ascii)
def test_names_of_files_steer_no_terminal(project, program, flags):
    shown, status, _ = on_terminal(project, program, *flags)
    assert status in (1, 2) and r"\x1b[31m\x07" in shown, shown
    assert not {*shown} & {"\x1b", "\x07"}, shown
    assert all(len(s) <= 80 for s in shown.splitlines()), shown


def test_letters_stay_as_they_are():
    """Also those that aren't "printable": the space of Chinese, and what joins emoji and Arabic."""
    text = "naïve\t你\u3000好 \U0001f468\u200d\U0001f469\n\u2028"
    assert text.translate(console.STEERING) == text
    assert "a\rb\x9b1mc\x7f".translate(console.STEERING) == r"a\rb\x9b1mc\x7f"


# ----------------------------------------------------------------------------
# Messages

MISTAKES = [  # with the exit statuses 1, 2 and 3
    "tools/train.py --init none_of_this_name.bin --data data/letters --steps 2",
    "tools/show_step.py --weights small.bin --data data/letters --seq-len 99",
    "sample_gpt2.py --temperature -1",
    "tools/train.py --wrong --flags --that --nobody --knows --but --that --are --long --enough",
    "prepro_text.py text.txt",  # no network
]


@pytest.mark.parametrize("command", MISTAKES)
def test_messages_break_between_words(project, command):
    """On a terminal; in a pipe they are one line. No flag, file or number is cut in two."""
    program, *flags = command.split()
    line = run(project, program, *flags).stderr
    assert line.count("\n") == 1 and len(line) > 80, line  # or it would show nothing
    for only_stderr in False, True:
        shown, status, _ = on_terminal(project, program, *flags, only_stderr=only_stderr)
        message = shown[shown.index(line.split(":")[0]) :]
        assert status in (1, 2, 3)
        lines = message.removesuffix("\n").split("\n")
        assert len(lines) > 1 and " ".join(lines) == line.removesuffix("\n")
        assert all(len(part) <= 80 or " " not in part for part in lines), lines


def test_command_in_a_message_stays_whole(project):
    """It can be copied: what stands between backticks is not broken where a line can take it."""
    shown, *_ = on_terminal(project, LONG, "--resume", "n" * 30 + ".bin", columns=70)
    assert re.search(r"^.*`python tools/train\.py --save FILE`", shown, re.MULTILINE), shown


def test_warning_of_memory_breaks_between_words(project):
    before = "import sys; sys.path.insert(0, '.'); import tools.memory"
    before += "; tools.memory.machine_memory = lambda: 10**6"
    before += "; tools.memory.print_memory({'parameters': 10**10})"
    (project / "warn.py").write_text(before)
    shown, *_ = on_terminal(project, "warn.py", only_stderr=True)
    lines = shown.splitlines()
    assert len(lines) == 2 and "--batch-size" in shown and max(map(len, lines)) <= 80


def test_commands_to_type_are_left_whole(project):
    """A command that is longer than the terminal has no line break that copying would take."""
    name = "a_name_that_is_long_enough_to_go_beyond_the_end_of_a_line_with_the_command.bin"
    shown, status, _ = on_terminal(project, LONG, *FAST, *DATA, "--out", name)
    assert status == 0, shown
    for start in "text from it: python", "to go on: python":
        assert re.search(rf"{start} .*{name}(?= |$)", shown, re.MULTILINE), shown


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
    assert set(pieces) <= {r"\x1b[31m\x07", "<end>"}  # a token, and then the next


def test_a_terminal_that_does_not_say_its_width(monkeypatch):
    """Newer versions of Python take 80 columns for 0 by themselves."""
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(console.shutil, "get_terminal_size", lambda: os.terminal_size((0, 0)))
    lines = console.fitted("word " * 40).splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 80
