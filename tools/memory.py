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


def memory_needed(config, num_parameters, B, T, grad_accum=1):
    """Return about how many bytes a run takes, by what they are for."""
    _, V, L, NH, C = config
    keys = min(T, T / 2 + 64)  # that a query sees on average, because attention keeps tiles of 128
    numbers = {
        "parameters": num_parameters,
        "gradients": num_parameters * (1 if grad_accum == 1 else 2),
        "moments": num_parameters * 2,
        "activations": int(B * T * (L * (16 * C + NH * keys) + V)),  # the bulk of the caches
    }
    return {name: 4 * count for name, count in numbers.items()}


def print_memory(sizes):
    """Print what memory_needed returned, and warn if there is less than that."""
    need, have = sum(sizes.values()), machine_memory()
    parts = ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in sizes.items())
    print(f"memory: {need / 1e6:,.0f} MB ({parts})")
    if need > have:
        hint = "lower --batch-size or --seq-len, or take a smaller model"
        warning = f"warning: it needs about {need / 1e9:.1f} GB, and there are {have / 1e9:.1f}"
        print_error(f"{Path(sys.argv[0]).name}: {warning}; {hint}")
