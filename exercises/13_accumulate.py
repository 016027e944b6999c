"""
Exercise 13: two batches, one gradient (doc/accumulation.md).

A batch too large for memory is taken in parts. After all parts the gradient must be what the whole
batch would have given. All parts have the same number of tokens. gpt2_backward *fills* grads.

    python exercises/check.py accumulate
"""

from train_gpt2 import gpt2_backward, gpt2_forward  # noqa: F401, for your lines

import numpy as np  # noqa: F401, for your lines


def accumulate(params, config, batches, grads):
    """
    Fill grads with the gradient of the mean of the batches' losses, and return that mean.

    params and grads: 16 tensors by name, grads with nan in them. batches: a list of (tokens,
    targets), each (B, T). gpt2_forward(params, config, tokens, targets) -> loss, cache.
    gpt2_backward(dloss, cache, some_grads) fills some_grads.
    """
    raise NotImplementedError  # your lines take the place of this one
