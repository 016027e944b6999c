"""
Exercise 16: a linear layer with an adapter beside its frozen weight (doc/lora.md).

Only A and B are learned. w and b are frozen, so that their gradients are not computed.

    python exercises/check.py lora
"""

import numpy as np  # noqa: F401, for your lines


def lora_forward(x, w, b, A, B, scale):
    """x (N, C), w (OC, C), b (OC,), A (R, C), B (OC, R), scale a number -> out (N, OC)."""
    low = x @ A.T  # (N, R)
    return x @ w.T + b + scale * (low @ B.T), (x, low, w, A, B, scale)


def lora_backward(dout, cache, dA, dB):
    """dout (N, OC) -> dx (N, C). Fills dA (R, C) and dB (OC, R)."""
    x, low, w, A, B, scale = cache
    raise NotImplementedError  # your lines take the place of this one
