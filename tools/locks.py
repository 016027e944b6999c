"""
One at a time: a file that a process holds a lock on, and what a killed process has left beside one.

A lock is the system's (flock, or Windows' own), so that it ends with its process, however that
ends; the file that it is on, which may stay then, says nothing by being there.
"""

import contextlib
import glob
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows
    import msvcrt

    fcntl = None

from tools.console import UserError


@contextlib.contextmanager
def locked(path, refusal):
    """Open the file path for one process at a time. Raises UserError(refusal) if another has it."""
    with open(path, "a+b") as f:
        try:
            if fcntl:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                f.seek(0)
                msvcrt.locking(f.fileno(), msvcrt.LK_NBLCK, 1)
        except (BlockingIOError, PermissionError):  # the latter on Windows
            raise UserError(refusal) from None
        except OSError:
            pass  # a folder on another machine, which knows no locks
        # One that has just ended has renamed or removed it: then what we hold is not at path.
        if not path.exists() or not os.path.samestat(os.fstat(f.fileno()), path.stat()):
            raise UserError(refusal)
        yield f


def remove_left_parts(path):
    """Remove what formats.replacing() was writing beside path when its process was killed."""
    target = os.path.realpath(path)
    for part in glob.glob(f"{glob.escape(target)}.*.part") if fcntl else ():  # kill kills elsewhere
        with contextlib.suppress(ValueError, OverflowError, OSError):  # no process, another user's
            try:
                os.kill(int(part[len(target) + 1 : -len(".part")]), 0)  # does it run?
            except ProcessLookupError:
                os.unlink(part)


@contextlib.contextmanager
def alone(flag, path, *others):
    """
    Raise UserError, naming the flag, if another process is in here with the same path.

    What killed ones have left beside path and the others is removed.
    """
    lock = Path(f"{os.path.realpath(path)}.lock.part")
    what, hint = "another run is writing there", "wait until it has ended, or give another name"
    with locked(lock, f"{flag} {path}: {what}; {hint}") as f:
        for name in path, *others:
            remove_left_parts(name)
        try:
            yield
        finally:
            if not fcntl:
                f.close()  # Windows removes no file that is open
            with contextlib.suppress(OSError):  # the folder may be gone
                lock.unlink()
