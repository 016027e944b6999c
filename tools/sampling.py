"""
Text from a model, fast: keys and values that are kept, several texts at a time, ways to choose.

No token sees later ones, so the keys and values of a text stay the same when tokens follow. They
are kept, and only new tokens go through the model: this is train_gpt2.generate() without the work
that repeats (doc/sampling.md). Temperature, top-k and top-p change which token is drawn.
"""

from collections import namedtuple

import train_gpt2 as gpt2
from tools.console import NotFinite
from train_gpt2 import IN_BLOCKS, attend, embedding_forward, gelu, layernorm_forward, softmax

import numpy as np

# What programs take that sample from a model, or evaluate it. encode: text -> ids; forward: as the
# lesson's gpt2_forward; new_tokens_forward: as below; about: a line that says what it is
Model = namedtuple(
    "Model", "params config vocabulary end_of_text encode forward new_tokens_forward about"
)

# ----------------------------------------------------------------------------
# Choosing


def next_token(logits, rng, temperature=1.0, top_k=0, top_p=1.0):
    """
    Draw a token by its logit, logits (V,), in float64. Raises NotFinite if one is not finite.

    A temperature below 1 makes likely tokens likelier, 0 takes the likeliest. Only the top_k most
    likely tokens remain (Fan et al. 2018, 5.4; 0: all), and of these the fewest that have top_p of
    the probability (Holtzman et al. 2020, 3.1).
    """
    if not np.isfinite(logits.max()):
        raise NotFinite("the model's logits are not finite; train it again, with a lower --lr")
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
# The model, for new tokens alone

FEW = 16  # rows; of more, gpt2.matmul() is as fast
BLOCK = 2**19  # multiplications; OpenBLAS's bound is about 10**6


def product(x, w):
    """
    x (n, C), w (OC, C) -> x @ w.T (n, OC), which gpt2.matmul() computes, too; faster for few rows.

    OpenBLAS copies a matrix into another order before it multiplies, which takes longer than the
    product itself if the other matrix has few rows; but not if the product is small. So w is cut
    into blocks that are, and NumPy is given the stack of them: for 8 rows of GPT-2 124M, all
    products of a token take half the time. A single row is np.dot's, which releases the GIL.
    """
    if len(x) > FEW:
        return gpt2.matmul(x, w.T)
    outT, size = np.empty((len(w), len(x)), x.dtype), max(1, BLOCK // x.size)

    def part(w, outT):
        if len(x) == 1:
            np.dot(w, x[0], out=outT[:, 0])
            return
        whole = len(w) - len(w) % size
        outT[:whole] = (w[:whole].reshape(-1, size, w.shape[1]) @ x.T).reshape(whole, len(x))
        outT[whole:] = w[whole:] @ x.T

    list(gpt2.POOL.map(part, *(np.array_split(a, gpt2.THREADS) for a in (w, outT))))
    return np.ascontiguousarray(outT.T)


def new_tokens_forward(params, config, tokens, past, start):
    """
    Compute the logits (B, V) that follow the last of tokens (B, T), which come after start others.

    past (L, 2, NH, B, maxT, HS) has the keys and values of these; those of the new ones join it.
    """
    maxT, V, L, NH, C = config
    B, T = tokens.shape
    x, _ = embedding_forward(tokens, params["wte"], params["wpe"][start:])  # (B*T, C)
    for l in range(L):
        p = {name: params[name][l] for name in IN_BLOCKS}
        ln1, _ = layernorm_forward(x, p["ln1w"], p["ln1b"])
        qkv = product(ln1, p["qkvw"]) + p["qkvb"]
        q, k, v = qkv.reshape(B, T, 3, NH, -1).transpose(2, 3, 0, 1, 4)  # (NH, B, T, HS)
        past[l][:, :, :, start : start + T] = k, v
        atty, _ = attend(q, *past[l][:, :, :, : start + T])
        atty = atty.transpose(1, 2, 0, 3).reshape(B * T, C)
        x = x + product(atty, p["attprojw"]) + p["attprojb"]
        ln2, _ = layernorm_forward(x, p["ln2w"], p["ln2b"])
        x = x + product(gelu(product(ln2, p["fcw"]) + p["fcb"]), p["fcprojw"]) + p["fcprojb"]
    newest, _ = layernorm_forward(x.reshape(B, T, C)[:, -1], params["lnfw"], params["lnfb"])
    return product(newest, params["wte"])


def generate(params, config, tokens, pick, new_tokens_forward=new_tokens_forward):
    """
    Yield the next token of each of B texts, tokens (B, T), again and again, by pick(logits).

    Another model than GPT-2 brings its own new_tokens_forward (Model).
    """
    tokens, start, maxT = np.asarray(tokens), 0, config.maxT
    heads, HS = getattr(config, "NKV", config.NH), config.C // config.NH  # NKV: Llama's
    past = np.empty((config.L, 2, heads, len(tokens), maxT, HS), params["wte"].dtype)
    while True:
        if tokens.shape[1] > maxT:  # forget the older half; the rest goes through once more
            tokens, start = tokens[:, -max(1, maxT // 2) :], 0
        logits = new_tokens_forward(params, config, tokens[:, start:], past, start)
        start, new = tokens.shape[1], pick(logits)
        tokens = np.append(tokens, np.reshape(new, (-1, 1)), 1)
        yield new
