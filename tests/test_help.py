"""--help of every program: each flag has its sentence and its default, in 80 columns."""

import functools
import os
import re
import subprocess
import sys

import pytest
from helpers import PROJECT

PROGRAMS = sorted(
    str(path.relative_to(PROJECT))
    for folder in (PROJECT, PROJECT / "tools", PROJECT / "variants")
    for path in folder.glob("*.py")
    if "argparse" in path.read_text() or "Parser(" in path.read_text()
    if 'if __name__ == "__main__":' in path.read_text()
)


@functools.cache
def help_of(program):
    """Return what a program says to --help."""
    command = [sys.executable, PROJECT / program, "--help"]
    done = subprocess.run(
        command, cwd=PROJECT, env=os.environ | {"COLUMNS": "80"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def flags_of(program):
    """Return the text of each flag of a program: name -> whether it takes a value, its text."""
    entries = re.findall(
        r"^  (?:-\w(?: \S+)?, )?(--[\w-]+)([ =].*\n(?:    .*\n)*|\n(?:    .*\n)+)",
        help_of(program),
        re.M,
    )
    found = {}
    for name, rest in entries:
        value, _, text = re.sub(r"\n\s+", "  ", rest.rstrip()).partition("  ")
        found[name] = bool(value.strip()), " ".join(text.split())
    return found


def test_programs_are_found():
    assert {"train_gpt2.py", "sample_gpt2.py", "tools/train.py"} <= set(PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_flag_has_a_sentence_and_its_default(program):
    flags = flags_of(program)
    shown = set(re.findall(r"(?<![\w-])--[\w-]+", help_of(program).partition("\n\n")[0]))
    assert shown <= flags.keys() | {"--help"}
    for flag, (takes_value, text) in flags.items():
        assert len(text.split()) >= 2, flag
        if takes_value and flag != "--help":
            needed = f"[{flag}" not in help_of(program)  # brackets: it may be left out
            assert needed or re.search(r"default|\(\S+\)", text), f"{flag}: {text}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_80_columns_break_no_flag_in_two(program):
    for line in help_of(program).splitlines():
        assert len(line) <= 80, line
        assert not re.search(r"(^|\s)--[\w-]*-$", line), line
