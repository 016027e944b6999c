"""
Exercise 21: attention with grouped heads (doc/llama.md).

There are fewer heads of keys and values than of queries: the forward pass copies each of them for
the queries that share it. The gradients of keys and values have a head for each that was copied.

    python exercises/check.py grouped
"""

import math

from train_gpt2 import softmax

import numpy as np  # noqa: F401, for your lines


def grouped_forward(q, k, v):
    """q (NH, T, HS), k and v (NKV, T, HS) -> out (NH, T, HS)."""
    group = len(q) // len(k)  # queries that share a head: NH / NKV
    k, v = k.repeat(group, 0), v.repeat(group, 0)  # (NH, T, HS): head h is copied from h // group
    preatt = q @ k.mT / math.sqrt(q.shape[-1])  # (NH, T, T)
    att = softmax(preatt)
    return att @ v, (q, k, v, att, group)


def grouped_backward(dout, cache):
    """dout (NH, T, HS) -> dq (NH, T, HS), dk and dv (NKV, T, HS)."""
    q, k, v, att, group = cache  # k and v (NH, T, HS), as they were copied
    raise NotImplementedError  # your lines take the place of this one
