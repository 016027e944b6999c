"""
The edge between a program and its user: flags, errors in one line, Ctrl-C.
"""

import argparse
import codecs
import contextlib
import errno
import io
import math
import os
import signal
import sys
import threading
import warnings
from pathlib import Path


class UserError(SystemExit):
    """A user's mistake: ends the program with one line on standard error and exit status 1."""

    @property
    def text(self):
        """The line, without the name of the program, which run_program() puts before it."""
        return self.code


class NotFinite(UserError):
    """Numbers that are not finite, where nothing is to be saved that led to them."""


class Unavailable(UserError):
    """A host or a package that is not there: exit status 3, so that tools/prepare.py can tell."""


UNAVAILABLE = 3  # the exit status


def one_line(text):
    """Return the text without newlines."""
    return " ".join(str(text).split())


def text_decoder():
    """Return a decoder for the bytes of tokens: what is not UTF-8 is shown, or kept in a pipe."""
    kept = sys.stdout.errors == "surrogateescape"  # as run_program() sets it
    return codecs.getincrementaldecoder("utf-8")("surrogateescape" if kept else "replace")


def print_error(text):
    """Print a message on standard error."""
    print(text, file=sys.stderr)


def end(status, text):
    """Print what ends the program, and end it with this exit status."""
    print_error(text)
    sys.exit(status)


def run_program(main):
    """
    Call main(), and turn errors into a message on standard error.

    Exit status: 1 for a mistake, 2 for a flag, 3 without a network or a package, 130 after Ctrl-C.
    """
    name = Path(sys.argv[0]).name
    streams = sys.stdout, sys.stderr  # either may be closed
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in streams)
    if isinstance(sys.stdout, io.TextIOWrapper):  # not so in a notebook
        sys.stdout.reconfigure(errors="replace", line_buffering=True)  # a terminal may lack letters
        if not sys.stdout.isatty():  # a pipe or a file gets a sample's bytes as they are
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of numbers that training stops at
    numpy = sys.modules.get("numpy")  # only if it is there: which import comes first matters
    if numpy and numpy.__version__.startswith("1."):
        end(1, f"{name}: NumPy 2 or later is needed; `python -m pip install -U numpy` installs it")
    try:
        main()
    except BrokenPipeError:  # `| head` has read enough
        drop_output()
        sys.exit(141)  # what a shell expects of a program that SIGPIPE ended
    except MemoryError as error:
        end(1, f"{name}: out of memory; take smaller sizes ({one_line(error)})")
    except OSError as error:
        if error.filename:
            what = f"{error.filename}: {error.strerror}"
            end(1, f"{name}: {one_line(what)}; check that file or folder")
        drop_output()  # because it is what can't be written, most likely
        what = f"{one_line(error.strerror or error)}"
        end(1, f"{name}: {what}; check where the output goes, and the space that is left")
    except SystemExit as stop:
        if isinstance(stop.code, str):  # a line, which may have the name of a file
            status = UNAVAILABLE if isinstance(stop, Unavailable) else 1
            end(status, f"{name}: {one_line(stop.code)}")
        raise
    except KeyboardInterrupt as stop:
        if stop.args:
            print_error(f"{name}: {one_line(stop)}")
        # sys.exit() waits for threads, and Ctrl-C may have come amid a lock that they wait for
        os._exit(130)  # what a shell expects of a program that was interrupted


def drop_output():
    """Have what is still to be written to standard output go nowhere, so that it can't fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def catch_interrupt():
    """Return an event that Ctrl-C sets, instead of ending the program; a second Ctrl-C ends it."""
    pressed = threading.Event()

    def handler(signum, frame):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pressed.set()

    signal.signal(signal.SIGINT, handler)
    return pressed


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that says what is wrong in one line; exit status 2."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {one_line(message)}; --help lists the flags\n")


def bounded(kind, low, high=math.inf):
    """Return a type for a flag: a finite int or float from low to high."""

    def parse(text):
        value = kind(text)
        if not low <= value <= high or value == math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {low} to {high}")
        return value

    parse.__name__ = {int: "whole number", float: "number"}[kind]  # argparse: "invalid number"
    return parse


def file_name(text):
    """A type for a flag: a name of something, which can't be empty."""
    if not text:
        raise argparse.ArgumentTypeError("has no name behind it")
    return text


def with_escapes(text):
    """Return a separator, in which \\n is a newline: a type for a flag."""
    return file_name(text).replace(r"\n", "\n").replace(r"\t", "\t")


@contextlib.contextmanager
def writing_in(folder, hint="give another place"):
    """Turn an error of the system into a UserError that names the folder."""
    try:
        yield
    except OSError as error:
        hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else hint
        raise UserError(f"cannot write in {folder}: {error.strerror}; {hint}") from error
