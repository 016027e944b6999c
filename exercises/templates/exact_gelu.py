"""
The exact GELU, by erf; and each channel has a number of its own, which is learned.

out = x * P(u), where P is the normal distribution's cumulative function: its slope is the bell
curve exp(-u^2 / 2) / sqrt(2 pi).
"""

import math

import numpy as np

ERF = np.vectorize(math.erf, otypes=[float])


def exact_gelu_forward(x, a):
    """x (N, C), a (C,) -> out (N, C)."""
    u = a * x  # or x / a or x + a
    below = 0.5 * (1 + ERF(u / math.sqrt(2)).astype(x.dtype))  # P(u)
    return x * below, (x, a, u, below)


def exact_gelu_backward(dout, cache, da):
    """dout (N, C) -> dx (N, C). Fills da (C,)."""
    x, a, u, below = cache
    raise NotImplementedError  # your lines take the place of this one
