"""
What a long run shows of itself: lines, a bar on a terminal, and a CSV log.
"""

import contextlib
import sys
import threading
from pathlib import Path

from tools.console import UserError
from tools.formats import check_writable, replacing

COLUMNS = "step,tokens,train_loss,val_loss,lr,grad_norm,ms,train_bpb,val_bpb"  # bits per byte
FORMATS = {"lr": "g", "grad_norm": "g", "ms": ".1f"}  # of the others: ".6f"
KIND = COLUMNS.encode()  # how any log begins
LOCK = threading.RLock()


class NoBar:
    """What takes the place of tqdm's bar where tqdm can't be loaded: it shows nothing."""

    disable, write, external_write_mode = True, staticmethod(print), contextlib.nullcontext
    close = set_postfix_str = update = lambda *_, **__: None

    def __init__(self, among=(), **_):
        self.among = among

    def __iter__(self):
        return iter(self.among)


def bars():
    """Return the class of tqdm's bars, or NoBar."""
    try:
        from tqdm import tqdm
    except ImportError:
        return NoBar
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
    check_writable(path, KIND, "--log")
    lines = []
    if Path(path).exists():
        with open(path, encoding="utf-8", errors="replace") as f:
            for line in f:
                step = line.split(",")[0]
                if step.isdecimal() and line.endswith("\n"):
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

    def write_row(self, step, **values):
        """Write a row of the log: values by their column, None for what there is not. UserError."""
        if not self.log:
            return
        cells = [str(step), str(step * self.tokens_per_step)]
        for name in COLUMNS.split(",")[2:]:
            value = values.get(name)
            cells.append("" if value is None else format(value, FORMATS.get(name, ".6f")))
        try:
            self.log.write(",".join(cells) + "\n")
        except OSError as error:
            raise UserError(f"--log {self.log_path}: can't be written: {error.strerror}") from error

    def record(self, step, seconds, train_loss, **values):
        """Show and log a step; values as in write_row, val_loss being that before it."""
        if self.lines:
            took = f"took {seconds * 1000:f} ms, {self.tokens_per_step / seconds:.0f} tokens/s"
            print_line(f"step {step}: train loss {train_loss:f} ({took})")
        self.bar.set_postfix_str(f"loss {train_loss:.4f}", refresh=False)
        self.bar.update()
        self.write_row(step, train_loss=train_loss, ms=seconds * 1000, **values)
