"""
Exercise 2: bias and broadcasting (doc/rules.md).

NumPy repeats the smaller array: p for each of the B sequences, b for each of the B*T tokens. That
is how GPT-2 adds its positions, and its biases.

    python exercises/check.py bias
"""

import numpy as np  # noqa: F401, for your lines


def bias_forward(x, p, b):
    """x (B, T, C), p (T, C), b (C,) -> out (B, T, C)."""
    return x + p + b, ()


def bias_backward(dout, cache, dp, db):
    """dout (B, T, C) -> dx (B, T, C). Fills dp (T, C) and db (C,)."""
    raise NotImplementedError  # your lines take the place of this one
