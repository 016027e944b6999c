"""
A sweep of the learning rate up to the edge of divergence, and beyond.

    python experiments/rates.py     # minutes; writes to experiments/yours/

A small GPT-2 trains for so many steps, once at each rate: with nothing else, with a warm-up, with
clipping, and with both.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import math

from experiments import common

import numpy as np

SETTINGS = {
    "rates": (1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 0.1, 0.5), "warmup": 30,
    "clip": 1.0, "L": 2, "NH": 4, "C": 64, "B": 8, "T": 64, "steps": 150, "seed": 1337,
    "data": "bytes",
}  # fmt: skip
LAST = 20  # steps that the loss of a run is the mean of


def end_of(losses, steps):
    """Return the mean of the last losses; inf if the run has stopped before its end."""
    return float(np.mean(losses[-LAST:])) if len(losses) == steps else math.inf


def measure(data, L, NH, C, B, T, steps, warmup, clip, seed, rates):
    tokens, _, V = common.load(data)
    counts = np.bincount(tokens)
    p = counts[counts > 0] / len(tokens)
    config, runs = common.config_of(tokens, B, T, V, L, NH, C), []
    ways = {"nothing": {}, "warm-up": {"warmup": warmup}, "clipping": {"clip": clip}}
    ways["both"] = ways["warm-up"] | ways["clipping"]
    print("rate    ", *(f"{way:>9}" for way in ways))
    for rate in rates:
        print(f"{rate:<8g}", end="", flush=True)
        for way, how in ways.items():
            params = common.fresh(config, seed)
            run = common.training(params, config, tokens, steps, B, T, lr=rate, **how)
            losses, norms = np.array(list(run)).T.round(4).tolist()
            runs.append({"way": way, "rate": rate, "losses": losses, "norms": norms})
            print(f"{end_of(losses, steps):10.3f}", end="", flush=True)
        print()
    return {"ways": list(ways), "V": V, "frequencies": float(-(p * np.log(p)).sum()), "runs": runs}


def draw(measured, settings):
    figure, (left, right) = common.panels(
        [f"loss, mean of the last {LAST} steps", "loss with nothing else, by step"]
    )
    steps, known = settings["steps"], measured["frequencies"]
    for way in measured["ways"]:
        runs = [run for run in measured["runs"] if run["way"] == way]
        ends = [end_of(run["losses"], steps) for run in runs]
        left.plot([run["rate"] for run in runs], ends, "o-", markersize=4, label=way)
    left.axhline(known, color="0.5", linestyle=":", label="frequencies of bytes")
    left.set_xscale("log")
    left.set_xlabel("learning rate")
    low = 0.9 * min(min(run["losses"]) for run in measured["runs"])
    left.set_ylim(low, 1.05 * math.log(measured["V"]))  # above it is worse than guessing
    left.legend(fontsize=8)
    plain = [run for run in measured["runs"] if run["way"] == "nothing"]
    for i, run in enumerate(plain):
        right.plot(run["losses"], label=f"{run['rate']:g}", linewidth=1, color=f"C{i}")
    right.axhline(known, color="0.5", linestyle=":")
    right.set_xlabel("step")
    right.set_ylim(low, 1.5 * math.log(measured["V"]))
    right.legend(fontsize=8, ncols=2, title="rate")
    return figure


if __name__ == "__main__":
    common.experiment(__doc__, SETTINGS, measure, draw)
