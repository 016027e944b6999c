"""
Exercise 1: the matrix product (doc/rules.md).

Most of GPT-2's work is products of matrices, and so is most of its backward pass.

The house's convention, for this exercise and all others: a backward pass gets the gradient of the
loss with respect to out, called dout, and what its forward pass kept, the cache. It returns the
gradient of the activation x, called dx. The gradients of parameters it writes into arrays that it
is given, here dw: `dw[:] = ...`, because `dw = ...` would only give the name to another array.
These arrays hold nan before. It changes nothing else: not dout, not the cache.

    python exercises/check.py product
"""

import numpy as np  # noqa: F401, for your lines


def product_forward(x, w):
    """x (N, C), w (C, OC) -> out (N, OC)."""
    return x @ w, (x, w)


def product_backward(dout, cache, dw):
    """dout (N, OC) -> dx (N, C). Fills dw (C, OC)."""
    x, w = cache
    raise NotImplementedError  # your lines take the place of this one
