"""
Exercise 20: rotary positions (doc/llama.md).

Channels 2i and 2i + 1 of a head are a point (a, b) in the plane. It is turned about 0, by an angle
that grows with the token's position. Nothing here is learned.

    python exercises/check.py rope
"""

import numpy as np

ROTARY_BASE = 10000.0


def rope_forward(x):
    """x (NH, T, HS) -> out (NH, T, HS): each pair of channels turned."""
    NH, T, HS = x.shape
    steps = ROTARY_BASE ** (-np.arange(0, HS, 2) / HS)  # (HS / 2,): a pair's angle at token 1
    angles = np.outer(np.arange(T), steps)  # (T, HS / 2)
    cos, sin = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]  # (NH, T, HS / 2) each
    out = np.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)
    return out, (cos, sin)


def rope_backward(dout, cache):
    """dout (NH, T, HS) -> dx (NH, T, HS)."""
    cos, sin = cache
    raise NotImplementedError  # your lines take the place of this one
