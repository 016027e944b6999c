"""
One at a time: a file that a process holds a lock on, and what a killed process has left beside one.

A lock is the system's (flock, or Windows' own), so that it ends with its process, however that
ends; the file that it is on, which may stay then, says nothing by being there.
"""

import contextlib
import glob
import os
import re
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows
    import msvcrt

    fcntl = None

from tools.console import UserError


def never_follow(path, flags):
    """Open as open() does, but not what a link leads to (Windows can't tell)."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


@contextlib.contextmanager
def locked(path):
    """
    Open the file path for one process at a time. Raises BlockingIOError if another has it.

    Whoever has it may remove it.
    """
    with open(path, "a+b", opener=never_follow) as f:
        try:
            if fcntl:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                f.seek(0)
                msvcrt.locking(f.fileno(), msvcrt.LK_NBLCK, 1)
        except (BlockingIOError, PermissionError) as error:
            raise BlockingIOError from error
        except OSError:
            pass  # a folder on another machine, which knows no locks
        # One that has just ended has removed it: then what we hold has no name any more.
        if not path.exists() or not os.path.samestat(os.fstat(f.fileno()), path.stat()):
            raise BlockingIOError
        yield f


def remove(f, path):
    """Remove the file path, which f is."""
    if os.name == "nt":
        f.close()  # Windows removes no file that is open
    path.unlink()


def runs(pid):
    """Return whether a process of this number runs on this machine, as far as one can tell."""
    try:
        os.kill(pid, 0)  # no signal, but the check that comes before one
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def remove_left_parts(path):
    """Remove what formats.replacing() was writing beside path when its process was killed."""
    if os.name == "nt":
        return  # where os.kill() kills
    target = os.path.realpath(path)
    for part in glob.glob(f"{glob.escape(target)}.*.part"):
        pid = re.fullmatch(r"\.([0-9]+)\.part", part.removeprefix(target))
        if pid and not runs(int(pid[1])):
            with contextlib.suppress(OSError):  # another user's
                os.unlink(part)


@contextlib.contextmanager
def alone(flag, path, *others):
    """
    Raise UserError, naming the flag, if another process is in here with the same path.

    What killed ones have left beside path and the others is removed.
    """
    lock = Path(f"{os.path.realpath(path)}.lock.part")
    with contextlib.ExitStack() as stack:
        try:
            f = stack.enter_context(locked(lock))
        except BlockingIOError:
            what = "another run is writing there"
            hint = "wait until it has ended, or give another name"
            raise UserError(f"{flag} {path}: {what}; {hint}") from None
        for name in path, *others:
            remove_left_parts(name)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the folder may be gone
                remove(f, lock)
