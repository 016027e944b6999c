"""
What a long run shows of itself: lines, a bar on a terminal, and a CSV log.
"""

import contextlib
import sys
import threading
from pathlib import Path

from tools.console import UserError, check_writable
from tools.formats import replacing

COLUMNS = "step,tokens,train_loss,val_loss,lr,grad_norm,ms"
LOCK = threading.RLock()


def bars():
    """Return the class of tqdm's bars. Raises UserError where tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        raise UserError("tqdm is missing; `pip install -r requirements.txt` installs it") from None
    except ValueError as error:  # it reads variables called TQDM_...
        raise UserError(f"tqdm: {error}; unset that variable, TQDM_...") from None
    # Its own is for several processes, too: Python 3.14 warns of it when Ctrl-C ends us at once
    tqdm.set_lock(LOCK)
    tqdm.monitor_interval = 0  # no thread that looks whether a bar moves
    return tqdm


def bar_of(tokens_per_step):
    """Return a class of bars that show tokens/s, too: so many times their own steps/s."""

    class Bar(bars()):
        @property
        def format_dict(self):
            """What tqdm's display is made of."""
            found = super().format_dict
            steps = found["n"] - (found["initial"] or 0)
            rate = found["rate"] or (steps / found["elapsed"] if found["elapsed"] else 0)
            parts = found["postfix"], f"{rate * tokens_per_step:.0f} tokens/s"
            return found | {"postfix": ", ".join(filter(None, parts))}

    return Bar


def print_line(text):
    """Print, above the bar if there is one."""
    bars().write(text)


def open_log(path, start):
    """
    Open a log for appending, with the rows of the resumed run before step start. UserError.

    A new run (start 0) does not take the log of another one.
    """
    check_writable(path, "--log")
    lines = []
    if Path(path).exists():
        with open(path, encoding="utf-8", errors="replace") as f:
            if f.readline().rstrip("\n") != COLUMNS:
                raise UserError(f"--log {path}: exists, and is no log; give another name")
            for line in f:
                step = line.split(",")[0]
                if len(step) < 20 and step.isdecimal() and line.endswith("\n"):
                    lines.append((int(step), line))
        if lines and not start:
            raise UserError(f"--log {path}: is the log of another run; give another name")
    with replacing(path) as f:
        f.write("".join([f"{COLUMNS}\n", *(line for step, line in lines if step < start)]).encode())
    return open(path, "a", encoding="utf-8", newline="\n", buffering=1)  # each line at once


class Progress:
    """
    The bar and the log of a run from step start to steps; a context manager.

    On a terminal there is a bar on standard error; if the output isn't there too, a line is printed
    for each step.
    """

    def __init__(self, steps, start, tokens_per_step, log_path=None, quiet=False):
        self.tokens_per_step, self.log_path = tokens_per_step, log_path
        # disable: None has the bar on terminals alone
        self.shown = {"total": steps, "initial": start, "disable": quiet or None}
        self.log = open_log(log_path, start) if log_path else None

    def __enter__(self):
        self.bar = bar_of(self.tokens_per_step)(**self.shown, unit="step")
        self.lines = self.bar.disable or not sys.stdout.isatty()
        return self

    def __exit__(self, *_):
        self.bar.close()
        if self.log:
            with contextlib.suppress(OSError):  # what it has not written, record() has reported
                self.log.close()

    def write_row(self, step, loss, val_loss, lr, norm, ms):
        """Write a row of the log, None for what there is not. Raises UserError."""
        if not self.log:
            return
        cells = (loss, ".6f"), (val_loss, ".6f"), (lr, "g"), (norm, "g"), (ms, ".1f")
        cells = ("" if x is None else format(x, form) for x, form in cells)
        try:
            self.log.write(",".join((str(step), str(step * self.tokens_per_step), *cells)) + "\n")
        except OSError as error:
            raise UserError(f"--log {self.log_path}: can't be written: {error.strerror}") from error

    def record(self, step, loss, val_loss, lr, norm, seconds):
        """Show and log a step: val_loss is the loss before it, None if that was not computed."""
        if self.lines:
            took = f"took {seconds * 1000:f} ms, {self.tokens_per_step / seconds:.0f} tokens/s"
            print_line(f"step {step}: train loss {loss:f} ({took})")
        self.bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        self.bar.update()
        self.write_row(step, loss, val_loss, lr, norm, seconds * 1000)
