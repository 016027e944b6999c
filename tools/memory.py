"""How much memory a training run takes, and how much this machine has."""

import math
import os
import sys
from pathlib import Path

from tools.console import print_error


def machine_memory():
    """Return the bytes of memory that this machine has; infinity if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no sysconf on Windows
        return math.inf


PROGRAM = 64 * 10**6  # bytes of Python, NumPy and its BLAS, before there is a model


def memory_needed(config, num_parameters, B, T, grad_accum=1, **how):
    """Return about how many bytes a run takes, by what they are for; how: numpy_engine.LAYERS."""
    flash, recompute, head_rows = (how.get(name) for name in ("flash", "recompute", "head_rows"))
    _, V, L, NH, C = config
    N, keys = B * T, min(T, T / 2 + 64)  # keys of a query, on average, because of tiles of 128
    block = 16 * C + (C + NH if flash else NH * keys)  # numbers of a block's caches, a row
    working = 24 * C  # of a block's backward pass: gradients, and what their layers compute
    logits = V * min(N, head_rows or N)
    kept, newest = (L * C, block + working) if recompute else (L * block, working)
    gone = recompute or head_rows  # the logits, before the blocks' backward passes
    most = max(N * newest, logits) if gone else N * newest + logits
    numbers = {
        "parameters": num_parameters,
        "gradients": num_parameters * (1 if grad_accum == 1 else 2),
        "moments": num_parameters * 2,
        "activations": int(N * kept + most),
    }
    return {"program": PROGRAM} | {name: 4 * count for name, count in numbers.items()}


def print_memory(sizes):
    """Print what memory_needed returned, and warn if there is less than that."""
    need, have = sum(sizes.values()), machine_memory()
    parts = ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in sizes.items() if size)
    print(f"memory: {need / 1e6:,.0f} MB ({parts})")
    if need > have:
        hint = "lower --batch-size or --seq-len, or take a smaller model"
        warning = f"warning: it needs about {need / 1e9:.1f} GB, and there are {have / 1e9:.1f}"
        print_error(f"{Path(sys.argv[0]).name}: {warning}; {hint}")
