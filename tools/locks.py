"""
One at a time: a file that a process holds a lock on.

A lock is the system's (flock) and ends with its process; the file that it is on may stay, and says
nothing by being there. On Windows, and in folders of another machine, there may be no locks.
"""

import contextlib
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

from tools.console import UserError


@contextlib.contextmanager
def locked(path, refusal):
    """Open the file path for one process at a time. Raises UserError(refusal) if another has it."""
    with open(path, "a+b") as f:
        try:
            if fcntl:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(refusal) from None
        except OSError:
            pass  # a folder on another machine, which knows no locks
        yield f


@contextlib.contextmanager
def alone(outputs):
    """Raise UserError if another process is in here with one of the outputs, {flag: path}."""
    with contextlib.ExitStack() as stack:
        for flag, path in outputs.items() if fcntl else ():
            lock = Path(f"{os.path.realpath(path)}.lock.part")
            what = f"{flag} {path}: another run is writing there"
            stack.enter_context(locked(lock, f"{what}; wait for its end, or give another name"))
            stack.callback(lock.unlink, missing_ok=True)
        yield
