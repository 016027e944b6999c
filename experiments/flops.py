"""
Where the time goes: the operations of a training step by layer, and its seconds.

    python experiments/flops.py                                   # seconds; experiments/yours/
    python experiments/flops.py --show experiments/flops.json     # draws what is on flops.md

The operations of matrix products by formula, and all of them by a count while the lesson runs.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import time

import train_gpt2 as gpt2
from experiments import common
from experiments.meter import LAYERS, LINEAR, Meter, config_of, count

import numpy as np

SETTINGS = {
    "L": 4, "NH": 4, "C": 256, "V": 8192, "sizes": ("4x64", "1x1024"), "rounds": 9,
    "roof": 1024,
}  # fmt: skip


def formula(config, B, T):
    """Return the operations of a step's matrix products, by layer: two forward, four backward."""
    _, V, L, _, C = config
    starts = range(0, T, gpt2.TILE)  # of tiles of queries, each with all keys up to its end
    scores = sum(min(gpt2.TILE, T - start) * min(start + gpt2.TILE, T) for start in starts)
    found = {name: 6 * B * T * L * C * max(r, 1 / r) * C for r, name in LINEAR.items()}
    return found | {"attention": 12 * B * scores * L * C, "head": 6 * B * T * V * C}


def roofs(n):
    """Return operations a second of a large product, and bytes a second of copying, for a core."""
    a, b, c = np.ones((3, n, n), np.float32)
    big, into = (np.array_split(np.ones(32 * n * n, np.float32), gpt2.THREADS) for _ in range(2))
    took = []
    for _ in range(5):
        began = time.process_time()
        gpt2.matmul(a, b, out=c)
        middle = time.process_time()
        list(gpt2.POOL.map(np.copyto, into, big))
        took.append((middle - began, time.process_time() - middle))
    product, copying = np.median(took, 0)
    return {"operations": 2 * n**3 / product, "bytes": 2 * 4 * 32 * n * n / copying}


def step(B, T, config, rounds):
    """Return what the layers of a step take; of seconds the least, the median and the largest."""
    x, y = np.random.default_rng(0).integers(config.V, size=(2, B, T))
    state = [gpt2.init_weights(config), *np.zeros((3, gpt2.num_parameters(config)), np.float32)]
    counted = count(state, config, x, y)
    runs = [Meter().step(state, config, x, y).seconds for _ in range(rounds + 1)][1:]
    found = {"formula": formula(config, B, T), "products": counted.products}
    found |= {"others": counted.others, "bytes": counted.bytes}
    found = {key: {layer: of.get(layer, 0) for layer in LAYERS} for key, of in found.items()}
    for each in (*found.values(), *runs):
        each["step"] = sum(each.values())
    times = {layer: [run[layer] for run in runs] for layer in (*LAYERS, "step")}
    quantiles = {name: np.quantile(each, (0, 0.5, 1)).tolist() for name, each in times.items()}
    return found | {"seconds": quantiles, "parameters": len(state[0]), "tokens": B * T}


def work_of(run, layers=LAYERS):
    """Return all operations of each layer, an array."""
    return np.array([run["products"][layer] + run["others"][layer] for layer in layers])


def table(run):
    """Return a text of a step: operations in 10**9, milliseconds, and what follows from them."""
    lines = ["          formula   count  others      ms (least, largest)   Gop/s  op/byte"]
    for layer, work in zip(run["seconds"], work_of(run, run["seconds"]), strict=True):
        giga = "".join(f"{run[key][layer] / 1e9:8.2f}" for key in ("formula", "products", "others"))
        low, ms, high = (1e3 * each for each in run["seconds"][layer])
        line = f"{layer:9}{giga}{ms:8.1f} ({low:.1f}, {high:.1f})"
        lines.append(f"{line:60}{work / ms / 1e6:8.1f}{work / run['bytes'][layer]:8.2f}")
    return "\n".join(lines)


def measure(L, NH, C, V, sizes, rounds, roof):
    gpt2.keep_freed_memory()
    found = {"roofs": roofs(roof), "sizes": {}}
    for size in sizes:
        B, T, config = config_of(size, L, NH, C, V)
        found["sizes"][size] = step(B, T, config, rounds)
        print(f"B x T = {size}\n{table(found['sizes'][size])}")
    return found


def draw(measured, settings):
    titles = [f"B x T = {size}: share of a step" for size in measured["sizes"]]
    titles += ["10⁹ operations a second of a core", "the same, by operations a byte"]
    figure, (*shares, speed, roofline) = common.panels(titles, rows=2 - len(titles) % 2)
    places = np.arange(len(LAYERS))
    for i, (size, run) in enumerate(measured["sizes"].items()):
        work, took = work_of(run), np.array([run["seconds"][layer][1] for layer in LAYERS])
        shares[i].barh(places - 0.2, 100 * work / work.sum(), 0.4, label="operations, %")
        shares[i].barh(places + 0.2, 100 * took / took.sum(), 0.4, label="seconds, %")
        speed.barh(places + 0.4 * i - 0.2, work / took / 1e9, 0.4, color=f"C{i + 2}", label=size)
        intensity = work / [run["bytes"][layer] for layer in LAYERS]
        roofline.loglog(intensity, work / took / 1e9, "o", color=f"C{i + 2}", label=size)
    for layer, *at in zip(LAYERS, intensity, work / took / 1e9, strict=True):  # of the last size
        roofline.annotate(layer, at, (4, 2), textcoords="offset points", fontsize=7)
    x, roof = np.geomspace(0.05, 200), measured["roofs"]
    roofline.plot(x, np.minimum(x * roof["bytes"], roof["operations"]) / 1e9, "0.5", label="roof")
    for panel in (*shares, speed):
        panel.set_yticks(places, LAYERS, fontsize=8)
        panel.invert_yaxis()
    for panel in shares[0], speed, roofline:
        panel.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    common.experiment(__doc__, SETTINGS, measure, draw)
