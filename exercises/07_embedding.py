"""
Exercise 7: embedding (doc/embedding.md).

A token's row of wte plus a position's row of wpe. The same token may come many times. The one
exception of the house: dwte holds the gradient of the model's last layer already, which used wte as
well, so this backward pass *adds* to dwte. It fills dwpe, as usual, with all of its maxT rows.

    python exercises/check.py embedding
"""

import numpy as np  # noqa: F401, for your lines


def embedding_forward(tokens, wte, wpe):
    """tokens (B, T), whole numbers below V; wte (V, C), wpe (maxT, C) -> out (B*T, C)."""
    B, T = tokens.shape
    out = wte[tokens] + wpe[:T]  # (B, T, C)
    return out.reshape(B * T, -1), tokens


def embedding_backward(dout, tokens, dwte, dwpe):
    """dout (B*T, C). Adds to dwte (V, C); fills dwpe (maxT, C). Returns nothing."""
    raise NotImplementedError  # your lines take the place of this one
