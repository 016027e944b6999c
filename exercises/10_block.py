"""
Exercise 10: a block, made of layers (doc/block.md).

The layers' backward passes are the lesson's; call them. What is left is their order, and the two
places where a value goes two ways.

    python exercises/check.py block
"""

from train_gpt2 import (  # noqa: F401, those of the backward pass are for your lines
    attention_backward,
    attention_forward,
    gelu_backward,
    gelu_forward,
    layernorm_backward,
    layernorm_forward,
    linear_backward,
    linear_forward,
)

import numpy as np  # noqa: F401, for your lines


def block_forward(x, p, B, NH):
    """x (B*T, C), p the block's 12 tensors by name -> out (B*T, C)."""
    ln1, ln1_cache = layernorm_forward(x, p["ln1w"], p["ln1b"])
    qkv, qkv_cache = linear_forward(ln1, p["qkvw"], p["qkvb"])
    atty, att_cache = attention_forward(qkv, B, NH)
    attproj, attproj_cache = linear_forward(atty, p["attprojw"], p["attprojb"])
    mid = x + attproj
    ln2, ln2_cache = layernorm_forward(mid, p["ln2w"], p["ln2b"])
    fc, fc_cache = linear_forward(ln2, p["fcw"], p["fcb"])
    gelu, gelu_cache = gelu_forward(fc)
    fcproj, fcproj_cache = linear_forward(gelu, p["fcprojw"], p["fcprojb"])
    out = mid + fcproj
    attention_caches = ln1_cache, qkv_cache, att_cache, attproj_cache
    return out, (*attention_caches, ln2_cache, fc_cache, gelu_cache, fcproj_cache)


def block_backward(dout, cache, g):
    """dout (B*T, C) -> dx (B*T, C). Fills g, the gradients of the 12 tensors, under their names."""
    ln1_cache, qkv_cache, att_cache, attproj_cache = cache[:4]
    ln2_cache, fc_cache, gelu_cache, fcproj_cache = cache[4:]
    raise NotImplementedError  # your lines take the place of this one
