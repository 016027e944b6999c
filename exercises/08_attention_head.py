"""
Exercise 8: attention, one head without a mask (doc/attention.md).

Each of T queries takes a weighted mean of the S values; the weight is the larger, the better the
query matches the value's key. You have the product and the softmax from exercises 1 and 3.

    python exercises/check.py attention_head
"""

import math

from train_gpt2 import softmax

import numpy as np  # noqa: F401, for your lines


def attention_head_forward(q, k, v):
    """q (T, HS), k and v (S, HS) -> out (T, HS)."""
    preatt = q @ k.T / math.sqrt(q.shape[1])  # (T, S)
    att = softmax(preatt)
    return att @ v, (q, k, v, att)


def attention_head_backward(dout, cache):
    """dout (T, HS) -> dq (T, HS), dk and dv (S, HS)."""
    q, k, v, att = cache
    raise NotImplementedError  # your lines take the place of this one
