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
import re
import shutil
import signal
import stat
import sys
import textwrap
import threading
import warnings
from pathlib import Path


class UserError(SystemExit):
    """A user's mistake: ends the program with one line on standard error and exit status 1."""

    @property
    def text(self):
        """The line, without the name of the program, which run_program() puts before it."""
        return self.code


class NoNetwork(UserError):
    """A host that can't be reached: exit status 3, so that tools/prepare.py can tell."""


NO_NETWORK = 3  # the exit status


def one_line(text):
    """Return the text without newlines, and with what would steer a terminal spelled out."""
    text = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# The control characters, but for tab and newline
STEERING = {c: ascii(chr(c))[1:-1] for c in (*range(32), *range(127, 160)) if chr(c) not in "\t\n"}


def text_decoder():
    """Return a decoder for the bytes of tokens: what is not UTF-8 is shown, or kept in a pipe."""
    kept = sys.stdout.errors == "surrogateescape"  # as run_program() sets it
    return codecs.getincrementaldecoder("utf-8")("surrogateescape" if kept else "replace")


class Terminal(io.TextIOWrapper):
    """Standard output on a terminal: what would steer that, in a token say, is spelled out."""

    def write(self, text):
        return super().write(text.translate(STEERING))


def fitted(text):
    """
    Return a message as standard error takes it: on a terminal, broken between words.

    A terminal by itself breaks lines anywhere, and so flags in two. `A command`, which is to be
    copied, stays whole if a line can take it.
    """
    if not sys.stderr.isatty():
        return text
    whole = re.sub("`[^`]*`", lambda found: found[0].replace(" ", "\0"), text)
    columns = shutil.get_terminal_size().columns or 80  # 0: it does not say
    lines = textwrap.wrap(whole, columns, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


def print_error(text):
    """Print a message on standard error, if that takes it."""
    with contextlib.suppress(OSError):
        print(fitted(str(text)), file=sys.stderr)


def end(status, text):
    """Print what ends the program, and end it with this exit status."""
    print_error(text)
    sys.exit(status)


def run_program(main):
    """
    Call main(), and turn errors into a message on standard error.

    Exit status: 1 for a mistake, 2 for a flag, 3 without a network, 130 after Ctrl-C.
    """
    name = Path(sys.argv[0]).name
    for stream in "stdout", "stderr":
        if getattr(sys, stream) is None:  # it was closed, as by >&-
            setattr(sys, stream, open(os.devnull, "w"))
    sys.stdout.reconfigure(errors="replace", line_buffering=True)  # a terminal may lack letters
    if not sys.stdout.isatty():  # a pipe or a file gets a sample's bytes as they are
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    else:
        how = sys.stdout.encoding, sys.stdout.errors
        sys.stdout = Terminal(sys.stdout.buffer, *how, line_buffering=True)
    warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of numbers that training stops at
    try:
        main()
    except BrokenPipeError:  # `| head` has read enough
        drop_output()
        sys.exit(141)  # what a shell expects of a program that SIGPIPE ended
    except MemoryError as error:
        end(1, f"{name}: out of memory; take smaller sizes ({one_line(error)})")
    except (OSError, RuntimeError) as error:
        if is_want_of_threads(error):
            what = "can't start new thread, or process"
            hint = "end other programs, raise the limit (ulimit -u), or set OMP_NUM_THREADS=1"
            end(1, f"{name}: {what}; {hint}")
        if isinstance(error, RuntimeError):
            raise
        if error.filename:
            what = f"{error.filename}: {error.strerror}"
            end(1, f"{name}: {one_line(what)}; check that file or folder")
        drop_output()  # because it is what can't be written, most likely
        what = f"{one_line(error.strerror or error)}"
        end(1, f"{name}: {what}; check where the output goes, and the space that is left")
    except SystemExit as stop:
        if isinstance(stop.code, str):  # a line, which may have the name of a file
            status = NO_NETWORK if isinstance(stop, NoNetwork) else 1
            end(status, f"{name}: {one_line(stop.code)}")
        raise
    except KeyboardInterrupt as stop:
        if stop.args:
            print_error(f"{name}: {one_line(stop)}")
        # sys.exit() waits for threads, and Ctrl-C may have come amid a lock that they wait for
        os._exit(130)  # what a shell expects of a program that was interrupted


def is_want_of_threads(error):
    """Return whether an error says that no thread, or no process, can be started."""
    if isinstance(error, OSError):
        return error.strerror == os.strerror(errno.EAGAIN)
    return "start new thread" in str(error)


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
        self.exit(2, fitted(f"{self.prog}: {one_line(message)}; --help lists the flags") + "\n")

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


def with_escapes(text):
    """Return a separator, in which \\n is a newline: a type for a flag."""
    return file_name(text).replace(r"\n", "\n").replace(r"\t", "\t")


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
    part = Path(f"{target}.{os.getpid()}.part")  # as formats.replacing() makes it
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
