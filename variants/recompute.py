"""
Memory for time: what a backward pass needs is computed once more, and not kept (Chen et al. 2016).

The caches of a block are about 16 arrays (N, C), and the weights of attention; the head's are the
logits, (N, V). A block's caches follow from its input. So here a block keeps that alone, and its
backward pass begins with another forward pass: L inputs and the caches of one block are in memory,
not those of L blocks. The head's logits are gone by then; in pieces, all of them never exist at
once (doc/recompute.md).

    python tools/train.py --recompute --head-rows 256    # long runs that use it

The contract of the layers is that of train_gpt2.py, and so are the letters.
"""

import train_gpt2 as gpt2
from train_gpt2 import matmul

import numpy as np

VOCABULARY_ROWS = 4096  # of dwte, that are added to at a time


def recomputing(block_forward, block_backward):
    """Return a pair of functions that do what these do for a block, and keep only its input."""

    def forward(x, p, B, NH):
        """x (B*T, C), p a block's tensors by name -> out (B*T, C)."""
        out, _ = block_forward(x, p, B, NH)
        return out, (x, p, B, NH)

    def backward(dout, cache, g):
        """dout (B*T, C) -> dx (B*T, C). Fills g, the gradients of the block's tensors."""
        _, block_cache = block_forward(*cache)  # the same numbers as the first time
        return block_backward(dout, block_cache, g)

    return {"block_forward": forward, "block_backward": backward}


def head_used_up():
    """Return the lesson's head, whose logits are gone when the blocks' backward passes begin."""

    def forward(x, wte, targets):
        """x (N, C), wte (V, C), targets (N,) -> loss, the mean of -log(probability of target)."""
        loss, cache = gpt2.head_forward(x, wte, targets)
        return loss, [*cache]

    def backward(dloss, cache, dwte):
        """dloss, a number -> dx (N, C). Fills dwte (V, C). Empties the cache, which others keep."""
        own = tuple(cache)
        cache.clear()
        return gpt2.head_backward(dloss, own, dwte)

    return {"head_forward": forward, "head_backward": backward}


def head_in_pieces(rows):
    """Return the head's pair of functions, in which no more than so many rows have logits."""

    def pieces(N):
        return [slice(start, start + rows) for start in range(0, N, rows)]

    def forward(x, wte, targets):
        """x (N, C), wte (V, C), targets (N,) -> loss, the mean of -log(probability of target)."""
        losses = [
            gpt2.softmax_in_place(matmul(x[piece], wte.T), targets[piece])
            for piece in pieces(len(x))
        ]
        return np.concatenate(losses).mean(), (targets, x, wte)

    def backward(dloss, cache, dwte):
        """dloss, a number -> dx (N, C). Fills dwte (V, C)."""
        targets, x, wte = cache
        dwte[:] = 0
        dx = np.empty_like(x)
        for piece in pieces(len(x)):
            _, (probs, *_) = gpt2.head_forward(x[piece], wte, targets[piece])  # once more
            dlogits = probs  # in their place, as in the lesson
            dlogits[np.arange(len(probs)), targets[piece]] -= 1
            dlogits *= dloss / len(x)  # the loss is the mean over the rows of all pieces
            for start in range(0, len(wte), VOCABULARY_ROWS):
                some = slice(start, start + VOCABULARY_ROWS)
                dwte[some] += matmul(dlogits[:, some].T, x[piece])  # each piece used wte
            dx[piece] = matmul(dlogits, wte)
            del probs, dlogits  # before those of the next piece are allocated
        return dx

    return {"head_forward": forward, "head_backward": backward}
