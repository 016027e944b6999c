"""
The curves of one or more training logs, as a picture, or as a page in which one can zoom.

    python tools/train.py --log log.csv
    python tools/plot_log.py log.csv -o loss.html          # a page; needs no network
    python tools/plot_log.py a.csv b.csv -o loss.png       # or .svg, .pdf; needs matplotlib

Above, the loss: of each training batch; if these are many, their running mean, drawn at the middle
of its steps; and of the validation data. Below, the learning rate and the norm of the gradient. A
log may be that of a training which is still going on.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
from pathlib import Path

from tools.console import Parser, UserError, check_writable, run_program
from tools.formats import replacing, write_page
from tools.log import COLUMNS as LOG_COLUMNS

import numpy as np

FORMATS = (".html", ".png", ".svg", ".pdf")
TEMPLATE = Path(__file__).with_suffix(".html")


def read_log(path):
    """Read a log -> column name -> its values, nan where a cell is empty. Raises UserError."""
    hint = "`python tools/train.py --log FILE` writes a log"
    header, columns, rows = LOG_COLUMNS + "\n", LOG_COLUMNS.split(","), []
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            if not header.startswith(f.readline(len(header))):
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
    """Return how many steps of the logs a running mean is of."""
    return max(10, max(len(log["step"]) for log in logs.values()) // 50)


def running_mean(x, n):
    """Return the mean of each n neighbours: len(x) - n + 1 of them."""
    total = np.insert(x, 0, 0.0).cumsum()
    return (total[n:] - total[:-n]) / n


def draw_noisy(panel, steps, values, color, window):
    """Draw the finite values; if they are many, their running mean too. Return if they are."""
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    many = len(steps) >= 5 * window
    pale = {"alpha": 0.3} if many else {"alpha": 0.7, "marker": ".", "markersize": 4}
    panel.plot(steps, values, color=color, linewidth=0.8, **pale)
    if many:
        panel.plot(running_mean(steps, window), running_mean(values, window), color=color)
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
    panels = figure.subplot_mosaic([["loss", "loss"], ["lr", "norm"]], height_ratios=[3, 1])
    loss, lr, norm = panels.values()
    norm.set_yscale("log")
    window, smoothed = window_of(logs), False
    dots = {"marker": "o", "markersize": 3.5, "linewidth": 1.2, "zorder": 3}
    for i, (name, log) in enumerate(logs.items()):
        color, steps = to_rgb(f"C{i}"), log["step"]
        label = name.replace("$", r"\$")  # or what is between two of them would be a formula
        loss.plot([], [], color=color, linewidth=6, label=label)
        smoothed |= draw_noisy(loss, steps, log["train_loss"], color, window)
        dark, known = [0.55 * part for part in color], np.isfinite(log["val_loss"])
        loss.plot(steps[known], log["val_loss"][known], color=dark, **dots)
        lr.plot(steps, log["lr"], color=color)
        draw_noisy(norm, steps, log["grad_norm"], color, window)

    loss.plot([], [], color="0.7", linewidth=0.8, label="training, each batch")
    if smoothed:
        loss.plot([], [], color="0.5", label=f"training, mean of {window} steps")
    loss.plot([], [], color="0.3", label="validation", **dots)
    loss.legend()
    loss.set_ylabel("loss (nats per token)")
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
    return {"window": window_of(logs), "runs": runs}


def main():
    parser = Parser(description="Draw the curves of training logs.")
    parser.add_argument("logs", nargs="+", metavar="log.csv", help="from tools/train.py --log")
    help = f"the page or picture to write; its format is its suffix: {', '.join(FORMATS)}"
    parser.add_argument("-o", dest="output", required=True, metavar="loss.png", help=help)
    args = parser.parse_args()
    suffix = Path(args.output).suffix.lower()
    if suffix not in FORMATS:
        parser.error(f"-o {args.output}: must end in one of {', '.join(FORMATS)}")

    check_writable(args.output, "-o")
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
