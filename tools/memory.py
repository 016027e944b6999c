"""
How much memory a run takes, and how much there is.

What may enter: estimates from a model's sizes, and what the machine says of itself. Nothing here
allocates or measures.
"""

import contextlib
import math
import os
from pathlib import Path


def machine_memory():
    """Return the bytes of memory of this machine, or container; infinity if it doesn't say."""
    have = math.inf
    with contextlib.suppress(AttributeError, ValueError, OSError):  # no sysconf on Windows
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(ValueError, OSError):  # "max", or no container of Linux
        have = min(have, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return have


def memory_needed(config, num_parameters, B, T, grad_accum=1):
    """Return about how many bytes a run takes, by what they are for."""
    _, V, L, NH, C = config
    keys = min(T, T / 2 + 64)  # that a query sees on average, because attention keeps them in tiles
    numbers = {
        "parameters": num_parameters,
        "gradients": num_parameters * (1 if grad_accum == 1 else 2),
        "moments": num_parameters * 2,
        "activations": int(B * T * (L * (16 * C + NH * keys) + V)),  # the bulk of the caches
    }
    return {name: 4 * count for name, count in numbers.items()}
