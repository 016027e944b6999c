"""
Exercise 6: layernorm (doc/layernorm.md).

Each row is brought to mean 0 and variance 1; then come a scale w and a shift b. x reaches out by
three ways: directly, through the mean, and through the variance.

    python exercises/check.py layernorm
"""

import numpy as np

LAYERNORM_EPS = 1e-5


def layernorm_forward(x, w, b):
    """x (N, C), w and b (C,) -> out (N, C)."""
    centered = x - x.mean(-1, keepdims=True)
    variance = (centered * centered).mean(-1, keepdims=True)  # (N, 1)
    rstd = 1 / np.sqrt(variance + LAYERNORM_EPS)  # (N, 1)
    norm = centered * rstd
    return norm * w + b, (norm, rstd, w)


def layernorm_backward(dout, cache, dw, db):
    """dout (N, C) -> dx (N, C). Fills dw and db (C,)."""
    norm, rstd, w = cache
    raise NotImplementedError  # your lines take the place of this one
