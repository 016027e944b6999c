"""
Exercise 11: the model, whose first and last layer have the same weights (doc/model.md).

wte embeds the tokens, and in the head it scores them. The lesson's backward passes do the work, and
one of them adds where the others fill. Block l's gradients are views, as its tensors are below. The
head's overwrites the probabilities in its cache: that is as it should be.

    python exercises/check.py tied
"""

from train_gpt2 import (  # noqa: F401, those of the backward pass are for your lines
    IN_BLOCKS,
    block_backward,
    block_forward,
    embedding_backward,
    embedding_forward,
    head_backward,
    head_forward,
    layernorm_backward,
    layernorm_forward,
)

import numpy as np  # noqa: F401, for your lines


def gpt2_forward(params, config, tokens, targets):
    """params 16 tensors by name, tokens and targets (B, T) -> loss, a number."""
    x, embedding_cache = embedding_forward(tokens, params["wte"], params["wpe"])
    block_caches = []
    for l in range(config.L):
        p = {name: params[name][l] for name in IN_BLOCKS}
        x, block_cache = block_forward(x, p, len(tokens), config.NH)
        block_caches.append(block_cache)
    x, lnf_cache = layernorm_forward(x, params["lnfw"], params["lnfb"])
    loss, head_cache = head_forward(x, params["wte"], targets.reshape(-1))
    return loss, (embedding_cache, block_caches, lnf_cache, head_cache)


def gpt2_backward(dloss, cache, grads):
    """dloss, a number. Fills grads, 16 tensors by name. Returns nothing."""
    embedding_cache, block_caches, lnf_cache, head_cache = cache
    raise NotImplementedError  # your lines take the place of this one
