"""
The edge between a program and its user: flags, errors in one line, Ctrl-C.

What may enter: what every program needs to behave at a prompt and in a pipe, whatever it does.
Files, training and networks have modules of their own.
"""

import argparse
import contextlib
import errno
import math
import os
import signal
import stat
import sys
import threading
import warnings
from pathlib import Path

from train_gpt2 import UserError


class NoNetwork(UserError):
    """A host that can't be reached: exit status 3, so that tools/prepare.py can tell."""


NO_NETWORK = 3  # the exit status


def one_line(text):
    """Return the text without newlines, and with what would steer a terminal spelled out."""
    text = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def run_program(main):
    """
    Call main(), and turn errors that are not ours into one line on standard error.

    Exit status: 1 for a mistake, 2 for a flag, 3 without a network, 130 after Ctrl-C.
    """
    name = Path(sys.argv[0]).name
    for stream in "stdout", "stderr":
        if getattr(sys, stream) is None:  # it was closed, as by >&-
            setattr(sys, stream, open(os.devnull, "w"))
    # a sample may have letters that a terminal lacks
    sys.stdout.reconfigure(errors="replace", line_buffering=True)
    warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of numbers that training stops at
    try:
        main()
    except BrokenPipeError:  # `| head` has read enough
        drop_output()
        sys.exit(141)  # what a shell expects of a program that SIGPIPE ended
    except MemoryError as error:
        sys.exit(f"{name}: out of memory; take smaller sizes ({one_line(error)})")
    except OSError as error:
        if error.filename:
            what = f"{error.filename}: {error.strerror}"
            sys.exit(f"{name}: {one_line(what)}; check that file or folder")
        drop_output()  # because it is what can't be written, most likely
        what = f"{one_line(error.strerror or error)}"
        sys.exit(f"{name}: {what}; check where the output goes, and the space that is left")
    except NoNetwork as error:
        print(error, file=sys.stderr)
        sys.exit(NO_NETWORK)
    except KeyboardInterrupt as stop:
        if stop.args:
            print(f"{name}: {one_line(stop)}", file=sys.stderr)
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

    def parse_known_args(self, args=None, namespace=None):
        """Parse as ArgumentParser does. From --flag=-- some of its versions make an empty list."""
        found, others = super().parse_known_args(args, namespace)
        for name, value in vars(found).items():
            if value == [] != self.get_default(name):
                if not isinstance(self.get_default(name), str):
                    self.error(f"argument --{name.replace('_', '-')}: -- is no value for it")
                setattr(found, name, "--")
        return found, others


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


def check_writable(path, flag=""):
    """Raise UserError, naming the flag, unless path can be written: before the work, not after."""
    target, path_is = Path(os.path.realpath(path)), f"{flag} {path}".strip()
    folder = target.parent  # of what a link leads to
    if not folder.is_dir():
        raise UserError(f"{path_is}: there is no such folder; make it first")
    if target.is_symlink() or target.exists() and not target.is_file():
        what = "a folder, a device, or a link to itself"
        raise UserError(f"{path_is}: this is {what}; give the name of a file")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path_is}: no permission to write there; give another folder")
    if target.exists():
        if not os.access(target, os.W_OK):
            raise UserError(f"{path_is}: is read-only; give another name, or make it writable")
        owners = {0, folder.stat().st_uid, target.stat().st_uid}
        if folder.stat().st_mode & stat.S_ISVTX and os.geteuid() not in owners:
            what = "belongs to another user, in a folder where nobody can replace others' files"
            raise UserError(f"{path_is}: {what}; give another name")
    part = Path(f"{target}.{os.getpid()}.part")  # as train_gpt2.replacing() makes it
    try:
        part.unlink(missing_ok=True)  # of a run that had this number, and was killed
        part.touch(exist_ok=False)
        part.unlink()
    except OSError as error:
        raise UserError(f"{path_is}: {error.strerror}; give another name or folder") from error


@contextlib.contextmanager
def writing_in(folder):
    """Turn an error of the system into a UserError that names the folder."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some space" if full else "give another place"
        raise UserError(f"cannot write in {folder}: {error.strerror}; {hint}") from error
