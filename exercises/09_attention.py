"""
Exercise 9: attention with heads and a mask (doc/attention.md).

A token's row of qkv has its query, key and value for every head, side by side. attend, which is the
lesson's, is exercise 8's forward pass with two more axes in front, and a mask: no token may see a
later one. Derive all of it, attend and the lines around it. `.mT` swaps the last two axes.

    python exercises/check.py attention
"""

import math  # noqa: F401, for your lines

from train_gpt2 import attend

import numpy as np  # noqa: F401, for your lines


def attention_forward(qkv, B, NH):
    """qkv (B*T, 3C) -> out (B*T, C)."""
    q, k, v = qkv.reshape(B, len(qkv) // B, 3, NH, -1).transpose(2, 3, 0, 1, 4)  # (NH, B, T, HS)
    out, att = attend(q, k, v)  # att (NH, B, T, T)
    return out.transpose(1, 2, 0, 3).reshape(len(qkv), -1), (q, k, v, att)


def attention_backward(dout, cache):
    """dout (B*T, C) -> dqkv (B*T, 3C)."""
    q, k, v, att = cache
    NH, B, T, HS = q.shape
    raise NotImplementedError  # your lines take the place of this one
