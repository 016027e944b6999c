"""
The curves of one or more training logs, as a picture, or as a page in which one can zoom.

    python tools/train.py --log log.csv
    python tools/plot_log.py log.csv -o loss.html          # a page; needs no network
    python tools/plot_log.py a.csv b.csv -o loss.png       # or .svg, .pdf; needs matplotlib
    python train_gpt2.py > run.txt                         # what a run prints is a log, too

Above, the loss: of each training batch; if these are many, the median around each step, which a
single outlier doesn't move; and of the validation data. Of several logs, it is in bits per byte of
text where all have it, because losses per token of other tokens can't be compared. Below, the
learning rate and the norm of the gradient. A log may be that of a training which is going on.
"""

import os
import re
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
from pathlib import Path

from tools.console import Parser, UserError, run_program
from tools.formats import PAGE, check_writable, replacing, write_page
from tools.log import COLUMNS

import numpy as np

FORMATS = {".html": PAGE, ".png": b"\x89PNG", ".svg": b"<?xm", ".pdf": b"%PDF"}  # how each begins
TEMPLATE = Path(__file__).with_suffix(".html")
BITS = "train_bpb", "val_bpb"
UNITS = {"loss": "loss (nats per token)", "bpb": "loss (bits per byte)"}


def printed_rows(path):
    """Return the rows of a log, as they can be told from what the lesson's loop has printed."""
    rows = {}
    for line in open(path, encoding="utf-8", errors="replace"):
        if found := re.match(r"step (\d{1,18}): (train|val) loss ([\d.]+)\b", line):
            row = rows.setdefault(int(found[1]), dict.fromkeys(COLUMNS.split(","), np.nan))
            row |= {"step": int(found[1]), f"{found[2]}_loss": float(found[3])}
    return [[*row.values()] for _, row in sorted(rows.items())]


def read_log(path):
    """
    Read a log, or what a run has printed -> column name -> its values, nan where there is none.

    Raises UserError.
    """
    hint = "`python tools/train.py --log FILE` writes a log"
    columns, rows = COLUMNS.split(","), []
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            header = f.readline(len(COLUMNS) + 1)
            if not f"{COLUMNS}\n".startswith(header):
                f, rows = (), printed_rows(path)
                if not rows:
                    raise UserError(f"{path}: not a training log; {hint}")
            for line in f:
                if not line.endswith("\n"):
                    break  # it is being written, or its writer was killed
                cells = line[:-1].split(",")
                if len(cells) != len(columns):
                    raise ValueError(f"{len(cells)} cells, not {len(columns)}")
                rows.append([float(cell or "nan") for cell in cells])
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {hint}") from None
    except ValueError as error:
        raise UserError(f"{path}, line {len(rows) + 2}: {error}; delete that line") from None
    if not rows:
        raise UserError(f"{path}: no rows yet; wait for the training's first step")
    return dict(zip(columns, np.array(rows).T, strict=True))


def window_of(logs):
    """Return how many steps of the logs a median is of, an odd number."""
    return max(10, max(len(log["step"]) for log in logs.values()) // 50) // 2 * 2 + 1


def unit_of(logs):
    """Return what the loss is in, "bpb" or "loss", as the log's columns end."""
    known = [any(np.isfinite(log[name]).any() for name in BITS) for log in logs.values()]
    return "bpb" if len(known) > 1 and all(known) else "loss"


def running_median(x, n):
    """
    Return numbers of places in x, and the median around each, of n neighbors, n being odd.

    Near an end it is of fewer, as many on both sides. There are 20 places in n, or all.
    """
    places = np.arange(0, len(x), max(1, n // 20))
    half = np.minimum(n // 2, np.minimum(places, len(x) - 1 - places))
    pairs = zip(places, half, strict=True)
    return places, np.array([np.median(x[i - k : i + k + 1]) for i, k in pairs])


def draw_noisy(panel, steps, values, color, window):
    """Draw the finite values; if they are many, their running median too. Return if they are."""
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    many = len(steps) >= 5 * window
    pale = {"alpha": 0.4} if many else {"alpha": 0.7, "marker": ".", "markersize": 4}
    panel.plot(steps, values, color=color, linewidth=0.8, **pale)
    if many:
        places, medians = running_median(values, window)
        panel.plot(steps[places], medians, color=color, linewidth=1.8)
    return many


def draw(logs):
    """Draw logs (name -> columns, as read_log gives them) -> matplotlib's figure."""
    os.environ.pop("MPLBACKEND", None)  # for windows; with a wrong one, matplotlib does not load
    try:
        from matplotlib.colors import to_rgb
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator
    except ModuleNotFoundError:
        raise UserError("needs matplotlib; `pip install -r requirements-dev.txt`") from None

    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")  # pyplot may open a window
    both = any(np.isfinite(log["lr"]).any() for log in logs.values())  # not of what was printed
    ratios = [3, 1 if both else 0.01]
    panels = figure.subplot_mosaic([["loss", "loss"], ["lr", "norm"]], height_ratios=ratios)
    loss, lr, norm = panels.values()
    norm.set_yscale("log")
    window, unit, smoothed = window_of(logs), unit_of(logs), False
    dots = {"marker": "o", "markersize": 3.5, "linewidth": 1.2, "zorder": 3}
    for i, (name, log) in enumerate(logs.items()):
        color, steps = to_rgb(f"C{i}"), log["step"]
        label = name.replace("$", r"\$")  # or what is between two of them would be a formula
        loss.plot([], [], color=color, linewidth=6, label=label)
        smoothed |= draw_noisy(loss, steps, log[f"train_{unit}"], color, window)
        dark, val = [0.55 * part for part in color], log[f"val_{unit}"]
        known = np.isfinite(val)
        loss.plot(steps[known], val[known], color=dark, **dots)
        lr.plot(steps, log["lr"], color=color)
        draw_noisy(norm, steps, log["grad_norm"], color, window)

    loss.plot([], [], color="0.7", linewidth=0.8, label="training, each batch")
    if smoothed:
        loss.plot([], [], color="0.5", label=f"training, median of {window} steps")
    loss.plot([], [], color="0.3", label="validation", **dots)
    loss.legend()
    loss.set_ylabel(UNITS[unit])
    lr.set_ylabel("learning rate")
    lr.set_ylim(bottom=0)
    norm.set_ylabel("gradient norm")
    norm.yaxis.set_major_formatter("{x:g}")
    low, high = norm.get_ylim()
    norm.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if high < 100 * low else [3]))
    norm.yaxis.set_minor_formatter("{x:g}")
    for panel in panels.values():
        panel.set_xlabel("step")
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        panel.margins(x=0.01)
        panel.grid(which="both", color="0.9")
        panel.spines[["top", "right"]].set_visible(False)
    lr.set_visible(both), norm.set_visible(both)
    return figure


def page_data(logs):
    """Return what the page shows of logs: the columns of each, None where there is no number."""
    runs = []
    for name, log in logs.items():
        columns = {
            column: [value if np.isfinite(value) else None for value in values.tolist()]
            for column, values in log.items()
        }
        runs.append({"name": name, **columns})
    return {"window": window_of(logs), "units": UNITS, "unit": unit_of(logs), "runs": runs}


def main():
    parser = Parser(description="Draw the curves of training logs.")
    parser.add_argument("logs", nargs="+", metavar="log.csv", help="from tools/train.py --log")
    help = f"the page or picture to write; its format is its suffix: {', '.join(FORMATS)}"
    parser.add_argument("-o", dest="output", required=True, metavar="loss.png", help=help)
    args = parser.parse_args()
    suffix = Path(args.output).suffix.lower()
    if suffix not in FORMATS:
        parser.error(f"-o {args.output}: must end in one of {', '.join(FORMATS)}")

    check_writable(args.output, FORMATS[suffix], "-o")
    logs = {path: read_log(path) for path in args.logs}
    for path, log in logs.items():
        print(f"{path}: {len(log['step']):,} rows")
    if suffix == ".html":
        write_page(args.output, TEMPLATE, page_data(logs))
    else:
        figure = draw(logs)
        with replacing(args.output) as f:
            figure.savefig(f, format=suffix[1:])
    print(f"wrote {args.output}")


if __name__ == "__main__":
    run_program(main)
