"""
How well a validation loss is known: its error by the amount of text, and by the seed of the run.

    python experiments/noise.py                                   # minutes; experiments/yours/
    python experiments/noise.py --show experiments/noise.json     # draws what is on noise.md

Two recipes that differ in the learning rate alone are trained, each with several seeds.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import json
import math

import train_gpt2 as gpt2
from experiments import common
from tools.evaluate import standard_error
from tools.numpy_engine import row_losses

import numpy as np

SETTINGS = {
    "data": "bytes", "L": 2, "NH": 2, "C": 64, "B": 16, "T": 64, "steps": 400, "warmup": 20,
    "lrs": (3e-3, 2.7e-3), "seeds": 8, "drawn": 400,
}  # fmt: skip
FIRST = 10  # batches of a validation in train_gpt2.py
WIDE = 1.96  # standard errors to each side, within which 95 of 100 means are, if they are normal


def window_losses(params, config, tokens, B, T):
    """Return the mean loss of each window of T tokens, side by side, of the whole text."""
    batches = (gpt2.get_batch(tokens, i, B, T) for i in range((len(tokens) - 1) // (B * T)))
    caches = (gpt2.gpt2_forward(params, config, x, y)[1] for x, y in batches)
    return np.concatenate([row_losses(cache)[0].reshape(B, T).mean(1) for cache in caches])


def errors(values, drawn):
    """
    Return how far means of 2, 4, 8, ... of the values scatter, drawn at random or one after the
    other, and what a sample says of it itself: its standard error, the median of all samples.
    """
    rng, found = np.random.default_rng(0), {"n": [], "random": [], "in a row": [], "said": []}
    while (n := 2 ** (len(found["n"]) + 1)) <= len(values) // 8:
        starts = rng.integers(len(values), size=(drawn, 1))
        rows = values[(starts + np.arange(n)) % len(values)]
        samples = values[rng.integers(len(values), size=(drawn, n))]
        found["n"].append(n)
        found["random"].append(samples.mean(1).std())
        found["in a row"].append(rows.mean(1).std())
        found["said"].append(np.median([standard_error(sample) for sample in samples]))
    return found


def measure(data, L, NH, C, B, T, steps, warmup, lrs, seeds, drawn):
    train, val, V = common.load(data)
    config, runs = gpt2.GPT2Config(T, V, L, NH, C), []
    for lr in lrs:
        runs.append([])
        for seed in range(seeds):
            params = gpt2.named_views(gpt2.init_weights(config, seed), config)
            rate = {"lr": lr, "warmup": warmup, "min_lr_frac": 0.1}
            for _ in common.training(params, config, train, steps, B, T, clip=1.0, **rate):
                pass
            runs[-1].append(window_losses(params, config, val, B, T))
            print(f"lr {lr:g}, seed {seed}: {runs[-1][-1].mean():.4f}")
    runs = np.array(runs)  # (recipes, seeds, windows)
    whole, gap = runs.mean(2), runs[0] - runs[1]
    found = {
        "windows": runs.shape[2], "losses": whole, "first": runs[..., : FIRST * B].mean(2),
        "one run": errors(runs[0, 0], drawn), "difference": errors(gap[0], drawn),
        "error": [[standard_error(run) for run in recipe] for recipe in runs],
        "error of difference": [standard_error(each) for each in gap],
    }  # fmt: skip
    report(found)
    return json.loads(json.dumps(found, default=np.ndarray.tolist))


def report(found):
    """Print what the page says."""
    losses, first = np.array(found["losses"]), np.array(found["first"])
    gap = losses[0] - losses[1]
    print(f"whole text, {found['windows']} windows: a loss is known to {found['error'][0][0]:.4f},")
    print(f"the difference of two runs on the same text to {found['error of difference'][0]:.4f}")
    print(f"the first {FIRST} batches less the whole text: {(first - losses).mean():.4f}")
    print(f"which differs between runs by {(first - losses).std(ddof=1):.4f}")
    for name, each in ("recipe 1", losses[0]), ("recipe 2", losses[1]), ("difference", gap):
        print(
            f"{name}, by seed: {each.mean():.4f}, standard deviation {each.std(ddof=1):.4f},",
            end="",
        )
        print(f" so the mean is known to {standard_error(each):.4f}")
    together = math.hypot(*(standard_error(each) for each in losses))
    print(f"the difference if the seeds were not the same pairs: known to {together:.4f}")


def draw(measured, settings):
    titles = "standard error by amount of text", "loss of the whole text, by seed"
    figure, (left, right) = common.panels(titles)
    for i, what in enumerate(("one run", "difference")):
        each = measured[what]
        left.loglog(each["n"], each["random"], f"C{i}o", label=f"{what}: random windows")
        left.loglog(each["n"], each["in a row"], f"C{i}x", label=f"{what}: windows in a row")
        left.loglog(each["n"], each["said"], f"C{i}-", label=f"{what}: as a sample says")
    for i, (lr, losses) in enumerate(zip(settings["lrs"], measured["losses"], strict=True)):
        error = WIDE * np.array(measured["error"][i])
        seeds = np.arange(len(losses)) + i / 5
        right.errorbar(seeds, losses, error, fmt="os"[i], capsize=2, label=f"learning rate {lr:g}")
    left.set_xlabel("windows")
    left.legend(fontsize=7)
    right.set_xlabel("seed; bars: 95 % by the text alone")
    right.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    common.experiment(__doc__, SETTINGS, measure, draw)
