"""
Choosing tokens for a text: temperature, top-k, top-p.

What may enter: ways of choosing the next token from logits. The lesson's generate() does the rest.
"""

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
    return int(rng.choice(len(p), p=p / p.sum()))


def picker(rngs, temperature=1.0, top_k=0, top_p=1.0):
    """Return a pick for generate(): logits (B, V) -> B tokens, each text with an rng of its own."""

    def pick(logits):
        pairs = zip(logits, rngs, strict=True)
        return [next_token(row, rng, temperature, top_k, top_p) for row, rng in pairs]

    return pick
