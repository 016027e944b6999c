"""What a terminal of 80 columns shows: messages broken between words, a bar that agrees."""

import os
import re
import struct
import subprocess
import sys

from tools import console

import helpers
import pytest
from helpers import add_data, make_project, without_network
from running import DATA, DRIVER, FAST, shown_on, small_weights

pty = pytest.importorskip("pty", reason="needs the terminals of POSIX")
COLUMNS = 80


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = add_data(make_project(tmp_path_factory.mktemp("terminal")))
    small_weights(folder / "w.bin")
    (folder / "text.txt").write_text("abc. jihg fed. \n" * 20)
    return folder


def on_terminal(project, program, *flags, columns=COLUMNS, only_stderr=False, **environment):
    """Run a program on a terminal so wide -> what that shows, the exit status."""
    import fcntl
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    env = {k: v for k, v in without_network(project, **environment).items() if k != "COLUMNS"}
    command = [sys.executable, project / program, *map(str, flags)]
    stdout = subprocess.DEVNULL if only_stderr else theirs
    with subprocess.Popen(
        command, cwd=project, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = shown_on(ours)
    return shown.decode().replace("\r\n", "\n"), process.returncode


# ----------------------------------------------------------------------------
# Messages

MISTAKES = [  # one for each way in which a program says something on standard error
    "train_gpt2.py --init none.bin --data data/letters --grad-accum 1",  # UserError
    "train_gpt2.py --no-such-flag-is-known --nor-that-one --nor-this-one-here",
    "train_gpt2.py --resume none.bin",
    "sample_gpt2.py --weights none_of_this_name.bin --tokenizer data/letters_tokenizer.bin",
    "sample_gpt2.py --temperature -1",
    "sample_gpt2.py --weights w.bin",  # of another vocabulary
    "prepro_text.py text.txt",  # no network
    "prepro_text.py none_of_this_name.txt --bytes --name a_dataset_of_my_own",
    "tools/plot_log.py none_of_this_name_is_here.csv -o loss.png",
    "tools/show_step.py --weights w.bin --data data/letters --seq-len 99",
    "tools/driver.py --wrong --flags --that --nobody --knows --but --that --are --long --enough",
]


@pytest.mark.parametrize("command", MISTAKES)
def test_messages_break_between_words(project, command):
    """On a terminal; in a pipe they are one line. No flag, file or number is cut in two."""
    program, *flags = command.split()
    line = helpers.run(project, program, *flags).stderr
    assert line.count("\n") == 1 and len(line) > COLUMNS, line  # or it would show nothing
    for only_stderr in False, True:
        shown, status = on_terminal(project, program, *flags, only_stderr=only_stderr)
        message = shown[shown.index(line.split(":")[0]) :]
        assert status in (1, 2, 3)
        lines = message.removesuffix("\n").split("\n")
        assert len(lines) > 1 and " ".join(lines) == line.removesuffix("\n")
        assert all(len(part) <= COLUMNS or " " not in part for part in lines), lines


def test_command_in_a_message_stays_whole(project):
    """It can be copied: what stands between backticks is not broken where a line can take it."""
    shown, _ = on_terminal(project, "train_gpt2.py", "--resume", "n" * 30 + ".bin", columns=70)
    assert re.search(r"^.*`python train_gpt2\.py --save FILE`", shown, re.MULTILINE), shown


def test_warning_of_memory_breaks_between_words(project):
    before = "import sys; sys.path.insert(0, '.'); import tools.memory"
    before += "; tools.memory.machine_memory = lambda: 10**6"
    before += "; tools.memory.print_memory({'parameters': 10**10})"
    (project / "warn.py").write_text(before)
    shown, _ = on_terminal(project, "warn.py", only_stderr=True)
    lines = shown.splitlines()
    assert len(lines) == 2 and "--batch-size" in shown and max(map(len, lines)) <= COLUMNS


def test_commands_to_type_are_left_whole(project):
    """A command that is longer than the terminal has no line break that copying would take."""
    name = "a_name_that_is_long_enough_to_go_beyond_the_end_of_a_line_with_the_command.bin"
    shown, status = on_terminal(project, "train_gpt2.py", *FAST, *DATA, *DRIVER, "--out", name)
    assert status == 0, shown
    for start in "text from it: python", "to go on: python":
        assert re.search(rf"{start} .*{name}(?= |$)", shown, re.MULTILINE), shown


# ----------------------------------------------------------------------------
# The bar, and samples

SLOW = ["--steps", 60, "--batch-size", 8, "--seq-len", 32]


def test_steps_and_tokens_per_second_agree(project):
    """Whatever the bar shows, one is the other times the tokens of a step."""
    shown, status = on_terminal(project, "train_gpt2.py", *FAST, *DATA, *DRIVER, *SLOW)
    assert status == 0, shown
    found = re.findall(r"([\d.]+)(step/s|s/step), loss [\d.]+, (\d+) tokens/s", shown)
    assert len(found) >= 2  # and the last, when all is done
    for rate, unit, tokens in found:
        steps = float(rate) if unit == "step/s" else 1 / float(rate)
        # two digits of the rate behind the point are shown, none of the tokens
        rounding = 0.005 / float(rate) * float(tokens) + 1
        assert float(tokens) == pytest.approx(steps * 8 * 32, abs=rounding)
    for line in re.split(r"[\r\n]", shown):
        assert len(line) <= COLUMNS or not line.strip().startswith(("0%", "100%")), line


def test_sample_of_training_comes_as_it_is_made(project):
    """On a terminal its tokens arrive one after the other, and no bar is amid them."""
    before = """
import runpy, sys
sys.path.insert(0, ".")
import train_gpt2 as gpt2
from tools.console import UserError

def marked(*args, made=gpt2.generate):
    for token in made(*args):
        print("[1]", end="", flush=True)
        yield token

gpt2.generate = marked
sys.argv[0] = "tools/driver.py"
runpy.run_path("tools/driver.py", run_name="__main__")
"""
    (project / "marked.py").write_text(before)
    flags = [*FAST, *DATA, "--no-save", "--sample-every", 2, "--seq-len", 8]
    shown, status = on_terminal(project, "marked.py", *flags)
    assert status == 0, shown
    text = shown.split(": sample\n---\n")[1].split("\n---")[0]
    _, *pieces, _ = text.split("[1]")  # before and behind them there is the bar
    assert len(pieces) == 255
    assert all(len(piece) <= len("<end>") for piece in pieces)  # a token, and then the next


def test_a_terminal_that_does_not_say_its_width(monkeypatch):
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(console.shutil, "get_terminal_size", lambda: os.terminal_size((0, 0)))
    lines = console.fitted("word " * 40).splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 80
