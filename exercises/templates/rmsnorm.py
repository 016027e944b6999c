"""
RMSNorm: layernorm without its mean and its shift. Here the scale is not w itself.

Source: Zhang and Sennrich 2019.
"""

import numpy as np

EPS = 1e-5  # or 1e-3 or 0.01


def rmsnorm_forward(x, w):
    """x (N, C), w (C,) -> out (N, C)."""
    rms = np.sqrt((x * x).mean(-1, keepdims=True) + EPS)  # (N, 1)
    norm = x / rms
    out = norm * (1 + w)  # or norm * np.exp(w) or norm * w * w
    return out, (norm, rms, w)


def rmsnorm_backward(dout, cache, dw):
    """dout (N, C) -> dx (N, C). Fills dw (C,)."""
    norm, rms, w = cache
    raise NotImplementedError  # your lines take the place of this one
