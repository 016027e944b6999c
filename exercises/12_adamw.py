"""
Exercise 12: AdamW (doc/adamw.md).

No gradient to derive: one step of the optimizer, in place. m is a sum of all gradients so far, in
which that of i steps ago weighs beta1**i; v is such a sum of their squares, with beta2. Divided by
the sum of its weights, each is a mean: the step takes these. Weight decay is for the tensors that
DECAYING names, is scaled by lr, and does not go through m and v.

    python exercises/check.py adamw
"""

from train_gpt2 import DECAYING  # noqa: F401

import numpy as np  # noqa: F401, for your lines


def adamw_update(params, grads, m, v, step, lr, beta1, beta2, eps, weight_decay):
    """
    Update params, m and v in place: dicts of arrays, under the same names as grads.

    step is 1 at the first call. Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019. The decay
    is taken from the parameters as they are before the step.
    """
    raise NotImplementedError  # your lines take the place of this one
