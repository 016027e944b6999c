"""
Exercise 19: RMSNorm, Llama's layernorm (doc/llama.md).

Each row is divided by its root mean square; then comes a scale w. There is no mean to subtract, and
no shift. x reaches out by two ways.

    python exercises/check.py rms
"""

import numpy as np

RMSNORM_EPS = 1e-5


def rms_forward(x, w):
    """x (N, C), w (C,) -> out (N, C)."""
    rrms = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + RMSNORM_EPS)  # (N, 1)
    norm = x * rrms
    return norm * w, (norm, rrms, w)


def rms_backward(dout, cache, dw):
    """dout (N, C) -> dx (N, C). Fills dw (C,)."""
    norm, rrms, w = cache
    raise NotImplementedError  # your lines take the place of this one
