"""
Exercise 5: GELU, by the approximation with tanh (doc/gelu.md).

A function of one number, applied to each. d tanh(u) / du is 1 - tanh(u)**2.

    python exercises/check.py gelu
"""

import math

import numpy as np

GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


def gelu_forward(x):
    """x (N, C) -> out (N, C)."""
    tanh = np.tanh(GELU_SCALE * (x + GELU_CUBIC * (x * x * x)))
    return 0.5 * x * (1 + tanh), x


def gelu_backward(dout, x):
    """dout (N, C) -> dx (N, C)."""
    raise NotImplementedError  # your lines take the place of this one
