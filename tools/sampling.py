"""
Choosing tokens for a text: temperature, top-k, top-p. And products for several texts at a time.

What may enter: ways of choosing the next token from logits, and what makes the lesson's generate()
faster, which does the rest.
"""

import train_gpt2 as gpt2
from train_gpt2 import UserError, softmax

import numpy as np


def next_token(logits, rng, temperature=1.0, top_k=0, top_p=1.0):
    """
    Draw a token by its logit, logits (V,), in float64. Raises UserError if one is not finite.

    A temperature below 1 makes likely tokens likelier, 0 takes the likeliest. Only the top_k most
    likely tokens remain (Fan et al. 2018, 5.4; 0: all), and of these the fewest that have top_p of
    the probability (Holtzman et al. 2020, 3.1).
    """
    if not np.isfinite(logits.max()):
        raise UserError("the model's logits are not finite; train it again, with a lower --lr")
    if temperature < 1e-6:  # for smaller ones the division may overflow
        return int(logits.argmax())
    p = softmax(logits.astype(np.float64) / temperature)
    if 0 < top_k < len(p):
        p[p < np.partition(p, -top_k)[-top_k]] = 0
    if top_p < 1:
        order = np.argsort(-p)
        before = p[order].cumsum() - p[order]  # the probability of all that are likelier
        p[order[before >= top_p * p.sum()]] = 0
    below = p.cumsum()  # rng.choice(len(p), p=p) does this, too, after checks that take longer
    return int(below.searchsorted(rng.random() * below[-1], side="right"))


def picker(rngs, temperature=1.0, top_k=0, top_p=1.0):
    """Return a pick for generate(): logits (B, V) -> B tokens, each text with an rng of its own."""

    def draw(logits, rng):
        return next_token(logits, rng, temperature, top_k, top_p)

    def pick(logits):
        if len(rngs) == 1:
            return [draw(logits[0], rngs[0])]
        return list(gpt2.POOL.map(draw, logits, rngs))

    return pick


# ----------------------------------------------------------------------------
# A few rows

FEW = 16  # rows; of more, matmul() is as fast
BLOCK = 2**19  # multiplications; OpenBLAS's bound is about 10**6
lesson_matmul = gpt2.matmul


def matmul(a, b, out=None):
    """
    Compute what the lesson's matmul() does, a (m, k) @ b (k, n), faster for m from 2 to 16.

    OpenBLAS copies a matrix into another order before it multiplies, which takes longer than the
    product itself if the other matrix has few rows; but not if the product is small. So b is cut
    into blocks that are, and NumPy is given the stack of them: for 8 rows of GPT-2 124M, all
    products of a token take half the time.
    """
    if out is not None or not 1 < len(a) <= FEW:
        return lesson_matmul(a, b, out)
    outT, size = np.empty((b.shape[1], len(a)), a.dtype), max(1, BLOCK // a.size)

    def columns(bT, outT):  # of b and of the result, as rows of the transposed
        whole = len(bT) - len(bT) % size
        blocks = bT[:whole].reshape(-1, size, bT.shape[1])
        outT[:whole] = (blocks @ a.T).reshape(whole, len(a))
        outT[whole:] = bT[whole:] @ a.T

    gpt2.in_chunks(columns, b.T, outT, chunks=gpt2.THREADS)
    return np.ascontiguousarray(outT.T)
