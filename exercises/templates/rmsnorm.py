"""
RMSNorm: layernorm without its mean and its shift. Llama and most models after it have this one.

Source: Zhang and Sennrich 2019.
"""

import numpy as np

EPS = 1e-5  # or 1e-3 or 0.01


def rmsnorm_forward(x, w):
    """x (N, C), w (C,) -> out (N, C)."""
    rms = np.sqrt((x * x).mean(-1, keepdims=True) + EPS)  # (N, 1)
    norm = x / rms
    out = norm * w  # or norm * (1 + w) or norm * np.exp(w)
    return out, (norm, rms, w)


def rmsnorm_backward(dout, cache, dw):
    """dout (N, C) -> dx (N, C). Fills dw (C,)."""
    norm, rms, w = cache
    raise NotImplementedError  # your lines take the place of this one
