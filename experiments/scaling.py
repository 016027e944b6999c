"""
Four small models: their loss against the number of parameters, and against the number of tokens.

    python experiments/scaling.py     # minutes; writes to experiments/yours/

A straight line in a plot with two logarithmic axes is a power law (Kaplan et al. 2020).
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import train_gpt2 as gpt2
from experiments import common
from tools.console import UserError

import numpy as np

SETTINGS = {
    "L": (2, 2, 3, 4), "C": (32, 64, 80, 96), "HS": 16, "B": 8, "T": 64, "steps": 800,
    "warmup": 40, "lr": 3e-3, "val_batches": 32, "seed": 1337, "data": "bytes",
}  # fmt: skip
POINTS = 5  # of a run: after its last step, half of its steps, a quarter, ...


def in_blocks(config):
    """Return how many parameters the blocks have: embeddings do no more than look up and score."""
    shapes = gpt2.tensor_shapes(config)
    return int(sum(np.prod(shapes[name]) for name in gpt2.IN_BLOCKS))


def fit(x, loss, floor=0.0):
    """Return a and b of log(loss - floor) = b - a * log(x), by least squares."""
    slope, b = np.polyfit(np.log(x), np.log(np.subtract(loss, floor)), 1)
    return float(-slope), float(b)


def line(x, loss, at, floor=0.0):
    """Return the fitted loss at these values of x."""
    a, b = fit(x, loss, floor)
    return floor + np.exp(b - a * np.log(at))


def measure(L, C, HS, B, T, steps, warmup, lr, val_batches, seed, data):
    if len(L) != len(C):
        raise UserError("--L and --C must have as many numbers, one of each for a model")
    train, val, V = common.load(data)
    at, runs = {steps >> i for i in range(POINTS)}, []
    for layers, channels in zip(L, C, strict=True):
        config = common.config_of(train, B, T, V, layers, channels // HS, channels)
        params = common.fresh(config, seed)
        rate = {"lr": lr, "warmup": warmup, "clip": 1.0}
        tokens, losses = [], []
        for step, _ in enumerate(common.training(params, config, train, steps + 1, B, T, **rate)):
            if step in at:  # the parameters have made so many steps
                tokens.append(step * B * T)
                losses.append(gpt2.evaluate(params, config, val, B, T, val_batches))
        runs.append({"L": layers, "C": channels, "parameters": in_blocks(config)})
        runs[-1] |= {"tokens": tokens, "losses": losses}
        print(f"L={layers} C={channels}: {in_blocks(config):,} parameters, loss", *(
            f"{loss:.3f}" for loss in losses), flush=True)  # fmt: skip
    sizes, ends = [run["parameters"] for run in runs], [run["losses"][-1] for run in runs]
    return {"runs": runs, "alpha": fit(sizes, ends)[0]}


def draw(measured, settings):
    figure, (left, right) = common.panels(
        ["after all tokens: loss by parameters in blocks", "each model: loss by tokens"]
    )
    runs = measured["runs"]
    sizes, ends = [run["parameters"] for run in runs], [run["losses"][-1] for run in runs]
    for i, (run, end) in enumerate(zip(runs, ends, strict=True)):
        left.plot(run["parameters"], end, "o", color=f"C{i}")
        right.plot(run["tokens"], run["losses"], "o-", color=f"C{i}",
                   label=f"{run['parameters']:,}")  # fmt: skip
    wide = np.geomspace(sizes[0] / 2, sizes[-1] * 20)
    for floor, style in (0.0, "-"), (1.0, "--"):
        a = fit(sizes, ends, floor)[0]
        left.plot(wide, line(sizes, ends, wide, floor), color="0.5", linestyle=style,
                  label=f"{floor:g} + (c/N)^{a:.3f}", zorder=0)  # fmt: skip
    for panel, label in (left, "parameters in blocks, N"), (right, "tokens"):
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel(label)
        panel.yaxis.set_minor_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
        panel.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    common.experiment(__doc__, SETTINGS, measure, draw)
