"""
GPT-2 in NumPy: every layer's forward and backward pass by hand, AdamW, and a training loop.

GPT-2 reads T tokens and gives, at each of them, a probability for every token that could come next.
Training shows it real text and moves the parameters against the gradient of the loss: the mean of
-log(probability given to the token that did come next). This file has all of it, and needs nothing
but NumPy 2: layers, block, model, AdamW; then threads, files, sampling, and the training loop.

Letters for sizes, as in a comment # (N, C), which says that an array has N rows of C numbers:

    B  sequences in a batch             L   blocks (the "12 layers" of GPT-2 124M)
    T  tokens in a sequence, <= maxT    NH  attention heads in a block
    N  rows, one for each token: B*T    HS  channels of a head: C / NH
    C  channels of a row                V   tokens in the vocabulary
    OC output channels of a layer       t, S  queries in a tile; keys that its last query sees

Activations are (N, C), one row for each token. Only attention lets a row see other rows, so after
the embedding only attention has to know that they are B sequences. A layer is a pair of functions,

    out, cache = thing_forward(x, w, b)
    dx = thing_backward(dout, cache, dw, db)

where dx is the gradient of the loss with respect to x, and the cache keeps what the backward pass
needs of the forward pass. A backward pass is the forward pass read upwards, by the chain rule. It
fills dw and db, which it is given, and changes nothing else (embedding_backward adds to dwte). In
float32, everything is float32; in float64, float64. The pages in doc/ derive each layer. A block:

    x ──┬── ln1 ── qkv ── attention ── attproj ── + ──┬── ln2 ── fc ── gelu ── fcproj ── + ── out
        └─────────────────────────────────────────┘   └──────────────────────────────────┘

GPT-2 is an embedding, L blocks, a last layernorm, and the embedding once more, to score tokens.

Two calls are for speed, and can be read as plain NumPy until their section, "Threads and chunks":
in_chunks(rows, x, out) as rows(x, out), where rows fills out; and matmul(a, b) as a @ b.
"""

import argparse
import codecs
import contextlib
import ctypes
import functools
import importlib.util
import math
import os
import re
import runpy
import shlex
import signal
import sys
import time
import warnings
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# BLAS, which computes NumPy's matrix products, is to use one thread, because matmul() below starts
# its own. It reads this when NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in the middle of an import: no traceback
    importlib.util.find_spec("numpy") or sys.exit("NumPy is missing: pip install numpy")
import numpy as np  # noqa: E402

# ----------------------------------------------------------------------------
# Embedding: the vector of the token plus the vector of its position (doc/embedding.md)


def embedding_forward(tokens, wte, wpe):
    """tokens (B, T), wte (V, C), wpe (maxT, C) -> out (B*T, C)."""
    B, T = tokens.shape
    out = wte[tokens] + wpe[:T]  # (B, T, C)
    return out.reshape(B * T, -1), (tokens,)


def embedding_backward(dout, cache, dwte, dwpe):
    """dout (B*T, C). Adds to dwte (V, C), which the head has filled; fills dwpe (maxT, C)."""
    (tokens,) = cache
    B, T = tokens.shape
    dout = dout.reshape(B, T, -1)
    np.add.at(dwte, tokens, dout)  # dwte[tokens] += dout would count a repeated token only once
    dwpe[:T] = dout.sum(0)
    dwpe[T:] = 0  # the positions that this batch did not reach


# ----------------------------------------------------------------------------
# Layernorm: each row brought to mean 0 and variance 1; times w, plus b (Ba et al. 2016, section 3;
# doc/layernorm.md)

LAYERNORM_EPS = 1e-5  # GPT-2's; keeps 1 / sqrt(variance) finite


def layernorm_forward(x, w, b):
    """x (N, C), w and b (C,) -> out (N, C)."""
    out, norm, rstd = np.empty_like(x), np.empty_like(x), np.empty_like(x[:, :1])

    def rows(x, out, norm, rstd):
        centered = x - x.mean(-1, keepdims=True)
        variance = np.square(centered).mean(-1, keepdims=True)  # (N, 1)
        rstd[:] = 1 / np.sqrt(variance + LAYERNORM_EPS)  # 1 / standard deviation, (N, 1)
        norm[:] = centered * rstd
        out[:] = norm * w + b

    in_chunks(rows, x, out, norm, rstd)
    return out, (norm, rstd, w)


def layernorm_backward(dout, cache, dw, db):
    """dout (N, C) -> dx (N, C). Fills dw and db (C,)."""
    norm, rstd, w = cache
    dx = np.empty_like(dout)

    def rows(dout, norm, rstd, dx):
        dnorm = dout * w
        # norm_i = (x_i - mean) * rstd; d mean / d x_j = 1 / C; d (1 / rstd) / d x_j = norm_j / C.
        # So d norm_i / d x_j = ((1 if i = j, else 0) - 1 / C - norm_i * norm_j / C) * rstd. Times
        # dnorm_i, summed over i: (dnorm_j - mean(dnorm) - norm_j * mean(norm * dnorm)) * rstd.
        along_norm = (dnorm * norm).mean(-1, keepdims=True)  # (N, 1)
        dx[:] = (dnorm - dnorm.mean(-1, keepdims=True) - norm * along_norm) * rstd

    in_chunks(rows, dout, norm, rstd, dx)
    # out = norm * w + b, where each row used the same w and b
    np.einsum("nc,nc->c", dout, norm, out=dw)
    dout.sum(0, out=db)
    return dx


# ----------------------------------------------------------------------------
# Linear: an output channel is a weighted sum of the input channels (llm.c: matmul; doc/linear.md)


def linear_forward(x, w, b):
    """x (N, C), w (OC, C), b (OC,) -> out (N, OC)."""
    out = matmul(x, w.T)
    out += b
    return out, (x, w)


def linear_backward(dout, cache, dw, db):
    """dout (N, OC) -> dx (N, C). Fills dw (OC, C) and db (OC,)."""
    x, w = cache
    # y = a @ u: y_ij = sum_k a_ik * u_kj, so da = dy @ u.T, du = a.T @ dy. Here u = w.T: dw = du.T
    matmul(dout.T, x, out=dw)
    dout.sum(0, out=db)
    return matmul(dout, w)


# ----------------------------------------------------------------------------
# Attention: a token's row qkv has, for each head, a query, a key and a value, of HS numbers each.
# Its out has, for each head, a mean of the values of the tokens up to it: the better its query
# matches a key, the more that value weighs (Vaswani et al. 2017, section 3.2; doc/attention.md)

# Queries are taken TILE at a time, so that the keys after a tile can be skipped: a step at T = 1024
# takes 0.7 times as long, and less memory. Up to T = TILE there is one tile, and S = t = T.
TILE = 128


def softmax(x):
    """x (..., S) -> weights of the same shape, >= 0, and each row sums to 1."""
    weights = np.exp(x - x.max(-1, keepdims=True))  # less the maximum: same result, no overflow
    return weights / weights.sum(-1, keepdims=True)


def split_heads(x, B, n, NH):
    """x (B*T, n*C), n = 3 for q, k and v side by side -> a view of it, (n, NH, B, T, HS)."""
    return x.reshape(B, len(x) // B, n, NH, -1).transpose(2, 3, 0, 1, 4)  # was (B, T, n, NH, HS)


def attention_forward(qkv, B, NH):
    """qkv (B*T, 3C) -> out (B*T, C)."""
    q, k, v = split_heads(qkv, B, 3, NH)  # each (NH, B, T, HS)
    T, HS = q.shape[2:]
    out = np.empty((B * T, NH * HS), q.dtype)
    future = np.triu(np.full((TILE, TILE), -np.inf, q.dtype), 1)  # -inf: the key is in the future
    # a tile is queries S - t to S - 1, counted from 0; together they see the keys 0 to S - 1
    tiles = [(min(TILE, T - start), min(start + TILE, T)) for start in range(0, T, TILE)]
    atts = [np.empty((NH, B, t, S), q.dtype) for t, S in tiles]

    def some_heads(q, k, v, out, *atts):  # the same arrays, but of some of the NH heads
        for att in atts:
            t, S = att.shape[2:]
            tile = slice(S - t, S)
            preatt = q[:, :, tile] @ k[:, :, :S].mT / math.sqrt(HS)  # (heads, B, t, S)
            preatt[..., tile] += future[:t, :t]  # only the tile's own keys can be in the future
            att[:] = softmax(preatt)
            out[:, :, tile] = att @ v[:, :, :S]  # (heads, B, t, HS)

    in_chunks(some_heads, q, k, v, split_heads(out, B, 1, NH)[0], *atts)
    return out, (q, k, v, tuple(atts))


def attention_backward(dout, cache):
    """dout (B*T, C) -> dqkv (B*T, 3C)."""
    q, k, v, atts = cache  # each (NH, B, T, HS), and a tuple of tiles, each (NH, B, t, S)
    NH, B, T, HS = q.shape
    dqkv = np.zeros((B * T, 3 * NH * HS), dout.dtype)  # 0, because each tile adds to dk and dv
    dq, dk, dv = split_heads(dqkv, B, 3, NH)

    def some_heads(q, k, v, dout, dq, dk, dv, *atts):
        for att in atts:
            t, S = att.shape[2:]
            tile = slice(S - t, S)
            # out = att @ v. As in linear_backward, y = a @ u has da = dy @ u.mT and du = a.mT @ dy
            datt = dout[:, :, tile] @ v[:, :, :S].mT  # (heads, B, t, S)
            dv[:, :, :S] += att.mT @ dout[:, :, tile]
            # One preatt_j changes every att_m = exp(preatt_m) / sum_i exp(preatt_i) of its query:
            # d att_m / d preatt_j = att_m * ((1 if m = j, else 0) - att_j). Times datt_m, summed
            # over m: att_j * (datt_j - sum_m datt_m * att_m). Where masked, att_j = 0 makes it 0.
            dpreatt = att * (datt - (datt * att).sum(-1, keepdims=True))
            # preatt = q @ k.mT / sqrt(HS). With a = q, u = k.mT: dk = du.mT = dy.mT @ q
            dpreatt /= math.sqrt(HS)  # from here on the gradient of q @ k.mT
            dq[:, :, tile] = dpreatt @ k[:, :, :S]
            dk[:, :, :S] += dpreatt.mT @ q[:, :, tile]

    in_chunks(some_heads, q, k, v, split_heads(dout, B, 1, NH)[0], dq, dk, dv, *atts)
    return dqkv


# ----------------------------------------------------------------------------
# GELU: x times the normal distribution's probability of a value below x (Hendrycks & Gimpel 2016),
# by the approximation with tanh from its section 2, which GPT-2 was trained with (doc/gelu.md)

GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


def gelu_tanh(x):
    return np.tanh(x * (GELU_SCALE + GELU_SCALE * GELU_CUBIC * (x * x)))  # x**3 is far slower


def gelu_forward(x):
    """x (N, 4C) -> out (N, 4C)."""
    out = np.empty_like(x)

    def rows(x, out):
        out[:] = 0.5 * x * (1 + gelu_tanh(x))

    in_chunks(rows, x, out)
    return out, (x,)


def gelu_backward(dout, cache):
    """dout (N, 4C) -> dx (N, 4C)."""
    (x,) = cache
    dx = np.empty_like(x)

    def rows(dout, x, dx):
        tanh = gelu_tanh(x)  # once more, rather than keep (N, 4C) more numbers
        # out = 0.5 * x * (1 + tanh), a product of x and a function of x
        slope = (1 - tanh * tanh) * (GELU_SCALE * (1 + 3 * GELU_CUBIC * (x * x)))  # d tanh / dx
        dx[:] = dout * (0.5 * (1 + tanh) + 0.5 * x * slope)

    in_chunks(rows, dout, x, dx)
    return dx


# ----------------------------------------------------------------------------
# Head: a score for every token of the vocabulary, softmax, and the cross-entropy (doc/head.md)


def head_forward(x, wte, targets):
    """x (N, C), wte (V, C), targets (N,) -> loss, the mean of -log(probability of the target)."""
    probs = matmul(x, wte.T)  # (N, V): so far the logits, how well x matches each token's embedding
    losses = np.empty_like(x[:, 0])

    def rows(probs, targets, losses):  # softmax in place: this is the largest of all activations
        probs -= probs.max(-1, keepdims=True)
        losses[:] = -probs[np.arange(len(targets)), targets]
        np.exp(probs, out=probs)
        total = probs.sum(-1, keepdims=True)  # (N, 1)
        losses += np.log(total[:, 0])  # -log(exp(z_target) / total) = -z_target + log(total)
        probs /= total

    in_chunks(rows, probs, targets, losses)
    return losses.mean(), (probs, targets, x, wte)


def head_backward(dloss, cache, dwte):
    """dloss, a number -> dx (N, C). Fills dwte (V, C)."""
    probs, targets, x, wte = cache
    # The loss of a row is -z_target + log(sum_j exp(z_j)), z being its logits. So its gradient with
    # respect to z_j is exp(z_j) / sum, a probability, less 1 if j is the target. z = x @ wte.T, so
    # dx = (probs - ones at the targets) @ wte, and dwte = (probs - ones at the targets).T @ x.
    x = x * (dloss / len(x))  # the loss is a mean; to scale x is less work than to scale probs
    matmul(probs.T, x, out=dwte)
    np.subtract.at(dwte, targets, x)  # the ones: row i of x goes off row targets[i] of dwte
    return (matmul(probs, wte) - wte[targets]) * (dloss / len(x))


# ----------------------------------------------------------------------------
# Block: attention, then a two-layer network on each row; each adds its result to the row
# (doc/block.md)


def block_forward(x, p, B, NH, attention=attention_forward):
    """x (B*T, C), p a block's tensors by name -> out (B*T, C). (Sampling has its own attention.)"""
    ln1, ln1_cache = layernorm_forward(x, p["ln1w"], p["ln1b"])
    qkv, qkv_cache = linear_forward(ln1, p["qkvw"], p["qkvb"])
    atty, att_cache = attention(qkv, B, NH)
    attproj, attproj_cache = linear_forward(atty, p["attprojw"], p["attprojb"])
    mid = x + attproj
    ln2, ln2_cache = layernorm_forward(mid, p["ln2w"], p["ln2b"])
    fc, fc_cache = linear_forward(ln2, p["fcw"], p["fcb"])
    gelu, gelu_cache = gelu_forward(fc)
    fcproj, fcproj_cache = linear_forward(gelu, p["fcprojw"], p["fcprojb"])
    out = mid + fcproj
    caches = ln1_cache, qkv_cache, att_cache, attproj_cache, ln2_cache, fc_cache, gelu_cache
    return out, (*caches, fcproj_cache)


def block_backward(dout, cache, g):
    """dout (B*T, C) -> dx (B*T, C). Fills g, the gradients of the block's 12 tensors."""
    ln1_cache, qkv_cache, att_cache, attproj_cache, ln2_cache, fc_cache, *rest = cache
    gelu_cache, fcproj_cache = rest
    # out = mid + fcproj: so dout is the gradient of fcproj, and a part of that of mid
    dgelu = linear_backward(dout, fcproj_cache, g["fcprojw"], g["fcprojb"])
    dfc = gelu_backward(dgelu, gelu_cache)
    dln2 = linear_backward(dfc, fc_cache, g["fcw"], g["fcb"])
    # mid was used twice, by ln2 and in out: its two gradients add up
    dmid = dout + layernorm_backward(dln2, ln2_cache, g["ln2w"], g["ln2b"])
    # mid = x + attproj: likewise
    datty = linear_backward(dmid, attproj_cache, g["attprojw"], g["attprojb"])
    dqkv = attention_backward(datty, att_cache)
    dln1 = linear_backward(dqkv, qkv_cache, g["qkvw"], g["qkvb"])
    return dmid + layernorm_backward(dln1, ln1_cache, g["ln1w"], g["ln1b"])


# ----------------------------------------------------------------------------
# Model: embedding, blocks, a last layernorm, head; and their parameters (doc/model.md)

GPT2Config = namedtuple("GPT2Config", "maxT V L NH C")  # in the order of the weight file's header

# What a tensor is. Random values begin with a standard deviation of 0.02 in a MATRIX, and of 0.02 /
# sqrt(2L) in a PROJECTION, because x adds up the outputs of 2L of these (Radford et al. 2018, 4.1,
# and 2019, 2.3). A SCALE begins as 1, a SHIFT as 0. Weight decay is for matrices and projections.
MATRIX, PROJECTION, SCALE, SHIFT = "matrix", "projection", "scale", "shift"
TENSORS = {  # name: its axes, what it is; in the order of the weight file. L: one for each block
    "wte": ("V C", MATRIX), "wpe": ("maxT C", MATRIX),
    "ln1w": ("L C", SCALE), "ln1b": ("L C", SHIFT),
    "qkvw": ("L 3C C", MATRIX), "qkvb": ("L 3C", SHIFT),
    "attprojw": ("L C C", PROJECTION), "attprojb": ("L C", SHIFT),
    "ln2w": ("L C", SCALE), "ln2b": ("L C", SHIFT),
    "fcw": ("L 4C C", MATRIX), "fcb": ("L 4C", SHIFT),
    "fcprojw": ("L C 4C", PROJECTION), "fcprojb": ("L C", SHIFT),
    "lnfw": ("C", SCALE), "lnfb": ("C", SHIFT),
}  # fmt: skip
IN_BLOCKS = [name for name, (axes, _) in TENSORS.items() if axes.startswith("L ")]
DECAYING = [name for name, (_, kind) in TENSORS.items() if kind in (MATRIX, PROJECTION)]


def tensor_shapes(config):
    """Return the shape of each of the 16 tensors by name, in the order of the weight file."""
    size = config._asdict() | {"3C": 3 * config.C, "4C": 4 * config.C}
    return {name: tuple(size[axis] for axis in axes.split()) for name, (axes, _) in TENSORS.items()}


def num_parameters(config):
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())


def tensors(flat, config):
    """Cut a flat vector of all parameters (or gradients, or moments) into 16 named views of it."""
    if len(flat) != num_parameters(config):
        raise ValueError(f"{len(flat):,} numbers, where {config} has {num_parameters(config):,}")
    shapes = tensor_shapes(config)
    parts = np.split(flat, np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1])
    return {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def block_tensors(views, l):
    """Return the 12 tensors of block l, as views."""
    return {name: views[name][l] for name in IN_BLOCKS}


def gpt2_forward(params, config, tokens, targets):
    """tokens and targets (B, T) -> loss."""
    tokens, targets = np.asarray(tokens), np.asarray(targets)
    x, embedding_cache = embedding_forward(tokens, params["wte"], params["wpe"])
    block_caches = []
    for l in range(config.L):
        x, block_cache = block_forward(x, block_tensors(params, l), len(tokens), config.NH)
        block_caches.append(block_cache)
    x, lnf_cache = layernorm_forward(x, params["lnfw"], params["lnfb"])
    loss, head_cache = head_forward(x, params["wte"], targets.reshape(-1))
    return loss, (embedding_cache, block_caches, lnf_cache, head_cache)


def gpt2_backward(dloss, cache, grads):
    """dloss, a number. Fills grads, every element of it, with the gradient of dloss * loss."""
    embedding_cache, block_caches, lnf_cache, head_cache = cache
    dx = head_backward(dloss, head_cache, grads["wte"])
    dx = layernorm_backward(dx, lnf_cache, grads["lnfw"], grads["lnfb"])
    for l in reversed(range(len(block_caches))):
        dx = block_backward(dx, block_caches[l], block_tensors(grads, l))
    # wte was used twice, in the head and in the embedding: its two gradients add up
    embedding_backward(dx, embedding_cache, grads["wte"], grads["wpe"])


def init_weights(config, seed=1337):
    """Return random weights, as TENSORS says, in a flat float32 vector."""
    rng = np.random.default_rng(seed)
    flat = np.zeros(num_parameters(config), np.float32)
    for (_, kind), view in zip(TENSORS.values(), tensors(flat, config).values(), strict=True):
        if kind in (MATRIX, PROJECTION):
            rng.standard_normal(out=view, dtype=np.float32)
            view *= 0.02 if kind == MATRIX else 0.02 / math.sqrt(2 * config.L)
        elif kind == SCALE:
            view[:] = 1
    return flat


# ----------------------------------------------------------------------------
# AdamW: a parameter moves by -lr * m / sqrt(v), m being the running mean of its gradient and v that
# of its square (Kingma & Ba 2015, algorithm 1; decoupled weight decay by Loshchilov & Hutter 2019;
# doc/adamw.md). Also the learning rate of a step, and the norm of the gradient (doc/schedule.md)


def adamw_update(params, grads, m, v, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    """Update params, m and v in place, all dicts of tensors. Step counts from 1 (main's from 0)."""
    m_scale = 1 / (1 - beta1**step)  # m and v start at 0: this undoes their bias towards it
    v_scale = 1 / (1 - beta2**step)
    for name in params:
        decay = lr * weight_decay if name in DECAYING else 0.0

        def numbers(p, g, m, v, decay=decay):
            m *= beta1
            m += (1 - beta1) * g
            v *= beta2
            v += (1 - beta2) * (g * g)
            if decay:
                p *= 1 - decay
            p -= (lr * m_scale) * m / (np.sqrt(v_scale * v) + eps)

        in_chunks(numbers, *(views[name].reshape(-1) for views in (params, grads, m, v)))


def learning_rate(step, steps, lr, warmup, min_lr_frac):
    """Linear warm-up, then half a cosine down to min_lr_frac * lr (Brown et al. 2020, app. B)."""
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return lr * (min_lr_frac + (1 - min_lr_frac) * 0.5 * (1 + math.cos(math.pi * progress)))


def clip_gradients(grads, max_norm):
    """Scale grads to a norm of at most max_norm; return the norm before (Pascanu et al. 2013)."""
    squares = []
    for grad in grads.values():
        in_chunks(lambda g: squares.append(float(g @ g)), grad.reshape(-1))
    norm = math.sqrt(math.fsum(squares))  # fsum is exact, in whatever order the threads append
    if max_norm < norm < math.inf:
        for grad in grads.values():
            grad *= max_norm / norm
    return norm


# ----------------------------------------------------------------------------
# Threads and chunks: what in_chunks and matmul do (doc/threads.md)

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
OMP_NUM_THREADS = os.environ.get("OMP_NUM_THREADS", "")  # PyTorch obeys it, too
THREADS = min(max(1, int(OMP_NUM_THREADS)), CORES) if OMP_NUM_THREADS.isdecimal() else CORES
POOL = ThreadPoolExecutor(THREADS)
CHUNK = 2**18  # numbers of the first array in a chunk (doc/speed.md has times of other sizes)


def in_chunks(f, *arrays, chunks=None):
    """
    Call f(*arrays) for a part of the arrays at a time; f writes into some of them.

    NumPy computes a * b + c in two passes over memory, on one core. Here the arrays, of one length,
    are cut into chunks (views) that fit a core's cache, so that the second pass finds there what
    the first one left; and each core gets a share, because NumPy lets go of Python's lock.
    """
    n = len(arrays[0])
    if chunks is None:
        chunks = math.ceil(arrays[0].size / CHUNK)
        chunks += -chunks % THREADS if chunks > 1 else 0  # a multiple, so that no thread waits
    size = math.ceil(n / chunks)

    def work(thread):
        for i in range(thread * size, n, THREADS * size):
            f(*(a[i : i + size] for a in arrays))

    others = [POOL.submit(work, thread) for thread in range(1, min(THREADS, chunks))]
    work(0)
    for other in others:
        other.result()  # waits, and raises if f did


def matmul(a, b, out=None):
    """a (m, k) @ b (k, n) -> out (m, n), cut along out's longer side, one part for each thread."""
    if out is None:
        out = np.empty((len(a), b.shape[1]), a.dtype)
    if len(a) == 1:  # np.dot lets go of Python's lock here: sampling takes 0.87 times as long
        in_chunks(lambda bT, out: np.dot(bT, a[0], out=out), b.T, out[0], chunks=THREADS)
    elif len(a) > b.shape[1]:
        in_chunks(lambda a, out: np.matmul(a, b, out=out), a, out, chunks=THREADS)
    else:  # the columns, as rows of the transposed
        in_chunks(lambda bT, outT: np.matmul(a, bT.T, out=outT.T), b.T, out.T, chunks=THREADS)
    return out


def keep_freed_memory():
    """Have glibc's malloc keep pieces of up to 32 MiB: a step takes 0.92 times as long."""
    with contextlib.suppress(AttributeError, TypeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(-3, 2**25)  # M_MMAP_THRESHOLD of malloc.h
        ctypes.CDLL(None).mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


# ----------------------------------------------------------------------------
# Files, in llm.c's formats: little-endian, behind a header of 256 int32 (doc/files.md)

HERE = Path(__file__).resolve().parent
WEIGHTS_FILE, TOKENIZER_FILE = HERE / "gpt2_124M.bin", HERE / "gpt2_tokenizer.bin"
SHAKESPEARE = HERE / "data" / "tiny_shakespeare"
WEIGHTS, TOKENS, TOKENIZER = 20240326, 20240520, 20240328  # header[0], the magic number
UNPADDED, FLOAT32, BFLOAT16 = 1, 3, 5  # header[1] of a weight file, its version
HEADER_BYTES, GPT2_VOCAB_SIZE = 1024, 50257


class UserError(SystemExit):
    """A user's mistake: ends the program with one line on standard error and exit status 1."""

    def __init__(self, text):
        self.text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))
        super().__init__(f"{Path(sys.argv[0]).name}: {self.text}")


def read_header(path, magic, versions, hint, size_of=None):
    """Return a file's header, 256 ints. UserError if the file is of another kind or length."""
    if not os.path.isfile(path):  # a pipe would keep us waiting
        raise UserError(f"{path}: there is no file of this name; {hint}")
    header, found = np.fromfile(path, "<i4", 256).tolist(), os.path.getsize(path)
    if len(header) < 256 or header[0] != magic or header[1] not in versions:
        raise UserError(f"{path}: not a file of the kind or version expected here; {hint}")
    if size_of and found != (size := size_of(header)):
        raise UserError(f"{path}: has {found:,} bytes, its header means {size:,}; {hint}")
    return header


@contextlib.contextmanager
def replacing(path):
    """Open a file beside path for writing; it takes the place of path once it is whole on disk."""
    target = Path(os.path.realpath(path))  # what a link leads to
    if os.path.lexists(target) and not (target.is_file() and os.access(target, os.W_OK)):
        raise UserError(f"cannot write {path}: no plain file, or read-only; give another place")
    part = Path(f"{target}.{os.getpid()}.part")
    try:
        with open(part, "xb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        if target.exists():
            os.chmod(part, target.stat().st_mode)
        os.replace(part, target)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give another place") from error
    finally:
        part.unlink(missing_ok=True)


def wte_padding(config, version=FLOAT32):
    """Return how many numbers a file has behind wte: rows of 0, up to a multiple of 128 rows."""
    return 0 if version == UNPADDED else (-config.V % 128) * config.C


def write_weights(path, flat, config, moments=(), about=b""):
    """Write a weight file: parameters, float32; AdamW's moments and text, which llm.c skips."""
    header, wte, padding = np.zeros(256, "<i4"), config.V * config.C, wte_padding(config)
    header[:10] = WEIGHTS, FLOAT32, *config, config.V + -config.V % 128, len(about), len(moments)
    with replacing(path) as f:
        f.writelines((header, flat[:wte], np.zeros(padding, "<f4"), flat[wte:], *moments, about))


def weights_size(header):
    """Return the bytes of a weight file with this header; 0 if its sizes are impossible."""
    version, config = header[1], GPT2Config(*header[2:7])
    about, moments = header[8:10] if version == FLOAT32 else (0, 0)
    if min(config) < 1 or config.C % config.NH or about < 0 or moments not in (0, 2):
        return 0
    numbers = num_parameters(config) * (1 + moments) + wte_padding(config, version)
    return HEADER_BYTES + numbers * (2 if version == BFLOAT16 else 4) + about


def read_config(path):
    """Read a weight file's header -> config, version. UserError unless the file is whole."""
    hint = "`python reference_gpt2.py` makes gpt2_124M.bin"
    header = read_header(path, WEIGHTS, (UNPADDED, FLOAT32, BFLOAT16), hint, weights_size)
    return GPT2Config(*header[2:7]), header[1]


def load_weights(path):
    """Read a weight file -> all parameters as a flat float32 vector, config. Raises UserError."""
    config, version = read_config(path)
    wte, padding = config.V * config.C, wte_padding(config, version)
    dtype = "<u2" if version == BFLOAT16 else "<f4"
    flat = np.fromfile(path, dtype, num_parameters(config) + padding, offset=HEADER_BYTES)
    if version == BFLOAT16:  # the upper half of a float32
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return np.delete(flat, slice(wte, wte + padding)), config


def load_tokens(path):
    """Read a token file -> its tokens, an array that stays on disk, and V. Raises UserError."""
    hint = "prepro_tinyshakespeare.py makes the default one, prepro_text.py one of your own text"
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    if size and size % 4 == 0 and np.fromfile(path, "<i4", 1) != TOKENS:
        tokens, V = np.memmap(path, "<i4", "r"), GPT2_VOCAB_SIZE  # llm.c's first format: no header
    else:
        header = read_header(path, TOKENS, (1,), hint, lambda h: HEADER_BYTES + 2 * (h[2] or -1))
        tokens, V = np.memmap(path, "<u2", "r", HEADER_BYTES), header[3] or GPT2_VOCAB_SIZE
    if not 0 <= tokens.min() <= tokens.max() < V:
        raise UserError(f"{path}: not a token file, or has tokens outside 0 to {V - 1:,}; {hint}")
    return tokens, V


def load_tokenizer(path):
    """Read a tokenizer file, each token's length and bytes -> the bytes; end-of-text's number."""
    hint = "the script that made the token files makes it, too; for GPT-2's, reference_gpt2.py"
    _, _, count, end_of_text, *_ = read_header(path, TOKENIZER, (2,), hint)
    data = Path(path).read_bytes() if os.path.getsize(path) <= HEADER_BYTES + 256 * count else b""
    at, vocabulary = HEADER_BYTES, []
    while at < len(data) and len(vocabulary) <= count:
        vocabulary.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    if at != len(data) or len(vocabulary) != count or not 0 <= end_of_text < count:
        raise UserError(f"{path}: damaged, its tokens are not what its header says; {hint}")
    return vocabulary, end_of_text


def load_vocabulary(data, V):
    """Read the tokenizer of the token files named data: theirs, or else GPT-2's. UserError."""
    own = Path(f"{data}_tokenizer.bin")
    path = own if own.exists() else TOKENIZER_FILE
    vocabulary, end_of_text = load_tokenizer(path)
    if len(vocabulary) != V:
        hint = f"tokens of another kind need a {own} of their own"
        raise UserError(f"{path}: has {len(vocabulary):,} tokens, {data}_train {V:,}; {hint}")
    return vocabulary, end_of_text


# ----------------------------------------------------------------------------
# Sampling. No token sees later ones, so a text's keys and values stay the same when tokens follow.
# They are kept, and just the newest token goes through the model (doc/sampling.md)


def attention_with_past(qkv, B, NH, kv, start):
    """qkv (B*T, 3C) of T tokens after start others -> out (B*T, C). Their k and v join kv."""
    q, k, v = split_heads(qkv, B, 3, NH)  # each (NH, B, T, HS)
    T, HS = q.shape[2:]
    kv[:, :, :, start : start + T] = k, v  # kv is (2, NH, B, maxT, HS)
    k, v = kv[:, :, :, : start + T]  # each (NH, B, start + T, HS)
    future = np.triu(np.full((T, start + T), -np.inf, q.dtype), start + 1)  # query 0 is at start
    att = softmax(q @ k.mT / math.sqrt(HS) + future)  # (NH, B, T, start + T)
    return (att @ v).transpose(1, 2, 0, 3).reshape(B * T, -1), None


def generate(params, config, tokens, pick):
    """Yield the next token of each of B texts, tokens (B, T), again and again, by pick(logits)."""
    maxT, _, L, NH, C = config
    tokens, B, start = np.asarray(tokens), len(tokens), 0
    kv = np.empty((L, 2, NH, B, maxT, C // NH), params["wte"].dtype)
    while True:
        if tokens.shape[1] > maxT:  # forget the older half; the rest goes through once more
            tokens, start = tokens[:, -max(1, maxT // 2) :], 0
        x, _ = embedding_forward(tokens[:, start:], params["wte"], params["wpe"][start:])
        for l in range(L):
            attention = functools.partial(attention_with_past, kv=kv[l], start=start)
            x, _ = block_forward(x, block_tensors(params, l), B, NH, attention)
        newest = x.reshape(B, -1, C)[:, -1]  # the row of each text's last token
        x, _ = layernorm_forward(newest, params["lnfw"], params["lnfb"])
        start, new = tokens.shape[1], pick(matmul(x, params["wte"].T))  # (B, V) -> B tokens
        tokens = np.append(tokens, np.reshape(new, (B, 1)), 1)
        yield new


def sample_text(params, config, vocabulary, end_of_text, rng, count=256):
    """Yield a text of count tokens, piece by piece; the first follows an end-of-text. UserError."""

    def draw(logits):  # (1, V)
        if not np.isfinite(logits.max()):
            raise UserError("the model's logits are not finite; train it again, with a lower --lr")
        return [rng.choice(logits.size, p=softmax(logits[0].astype(np.float64)))]

    tokens = generate(params, config, np.array([[end_of_text]]), draw)
    pieces = (vocabulary[next(tokens)[0]] for _ in range(count))
    text = codecs.iterdecode(pieces, "utf-8", "replace")  # next, what would steer a terminal:
    return (re.sub("[\0-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", piece) for piece in text)


# ----------------------------------------------------------------------------
# Training, as short as it can be; further flags are tools/driver.py's (doc/guide.md)

FLAGS = {  # name: its default, the least value (also the flag's type), what --help says
    "init": (None, "", "weights to start from (gpt2_124M.bin), or dN: N random layers"),
    "data": (None, "", "NAME of NAME_train.bin and NAME_val.bin (data/tiny_shakespeare)"),
    "out": ("out.bin", "", "file for the weights after the last step"),
    "steps": (40, 0, "steps of AdamW"),
    "batch-size": (4, 1, "sequences in a batch, B"),
    "seq-len": (64, 1, "tokens in a sequence, T"),
    "lr": (1e-4, 0.0, "learning rate"),
    "warmup": (0, 0, "steps in which the learning rate rises to --lr"),
    "min-lr-frac": (1.0, 0.0, "part of --lr that is left in the end"),
    "weight-decay": (0.0, 0.0, "AdamW's, of matrices"),
    "grad-clip": (0.0, 0.0, "greatest norm of the gradient; 0: any"),
    "val-every": (10, 0, "steps between validation losses; 0: none"),
    "val-batches": (10, 0, "batches of a validation; 0: all"),
    "sample-every": (20, 0, "steps between samples; 0: none"),
    "seed": (1337, 0, "of random weights and of samples"),
}
DRIVER = HERE / "tools" / "driver.py"


def parse_flags():
    """Return the flags of the command line; those that are not in FLAGS. SystemExit with a line."""
    parser = argparse.ArgumentParser(allow_abbrev=False, epilog="More: tools/driver.py --help")
    parser.error = lambda why: parser.exit(2, f"{parser.prog}: {why}; --help lists the flags\n")
    for name, (default, least, text) in FLAGS.items():
        text += f" (default: {default})" if default is not None else ""
        parser.add_argument(f"--{name}", type=type(least), default=default, metavar="X", help=text)
    parser.add_argument("--no-save", action="store_true", help="write no --out")
    args, others = parser.parse_known_args()
    for name, (default, least, _) in FLAGS.items():
        value = vars(args)[name.replace("-", "_")]
        if value != default and (value in ("", math.inf, []) or not value >= least):
            parser.error(f"argument --{name}: {value!r} is empty, infinite, or less than {least}")
    return args, others


def named_config(name, V, maxT=1024):
    """Return the config of dN: N layers, 64*N channels (d24, d36, d48: GPT-2's). None: not a dN."""
    if not re.fullmatch("d[1-9][0-9]{0,2}", name):
        return None
    L = int(name[1:])
    NH, C = {24: (16, 1024), 36: (20, 1280), 48: (25, 1600)}.get(L, (L, 64 * L))
    return GPT2Config(maxT, V, L, NH, C)


def load_data(data, B, T):
    """Read NAME_train.bin and NAME_val.bin -> their tokens, V. Raises UserError."""
    (train, V), (val, val_V) = (load_tokens(f"{data}_{split}.bin") for split in ("train", "val"))
    if val_V != V:
        raise UserError(f"{data}: has {V:,} and {val_V:,} different tokens; prepare both again")
    for split, tokens in ("train", train), ("val", val):
        if len(tokens) <= B * T:
            have = f"{len(tokens):,} tokens where a batch takes {B * T + 1:,}"
            raise UserError(f"{data}_{split} has {have}; lower --batch-size or --seq-len")
    return train, val, V


def open_model(init, V, T, seed):
    """Read the weights named init, or make those of a dN -> as load_weights. Raises UserError."""
    if config := named_config(init, V, T):  # as long as T, so that no position stays untrained
        return init_weights(config, seed), config
    flat, config = load_weights(init)
    if config.V != V:
        raise UserError(f"--data has {V:,} different tokens, {init} {config.V:,}; try --init d4")
    if T > config.maxT:
        raise UserError(f"--seq-len {T}: {init} takes {config.maxT} at most; lower it")
    return flat, config


def get_batch(tokens, i, B, T):
    """Return batch i of the tokens, round and round: x and y (B, T), y being x one token later."""
    start = i % ((len(tokens) - 1) // (B * T)) * (B * T)
    window = tokens[start : start + B * T + 1].astype(np.int64)
    return window[:-1].reshape(B, T), window[1:].reshape(B, T)


def evaluate(params, config, tokens, B, T, batches):
    """Return the mean loss of the first batches, so many of them; of all if batches is 0."""
    batches = batches or (len(tokens) - 1) // (B * T)
    pairs = (get_batch(tokens, i, B, T) for i in range(batches))
    return sum(float(gpt2_forward(params, config, x, y)[0]) for x, y in pairs) / batches


def main(args, interrupted=()):
    """Train as the flags say, until interrupted has something in it. Raises UserError."""
    B, T, data = args.batch_size, args.seq_len, args.data or SHAKESPEARE
    out = Path(os.path.realpath(args.out))
    if not args.no_save and (not os.access(out.parent, os.W_OK) or out.exists() != out.is_file()):
        raise UserError(f"--out {args.out}: can't be written; give another place, or --no-save")
    train_tokens, val_tokens, V = load_data(data, B, T)
    flat, config = open_model(str(args.init or WEIGHTS_FILE), V, T, args.seed)
    vocabulary, end_of_text = load_vocabulary(data, V) if args.sample_every else ([], None)
    print(f"weights: {args.init or WEIGHTS_FILE}, {len(flat):,} parameters, {config}")
    print(f"data: {data}, {len(train_tokens):,} tokens, and {len(val_tokens):,} for validation")
    keep_freed_memory()
    params = tensors(flat, config)
    grads, m, v = (tensors(np.zeros_like(flat), config) for _ in range(3))
    for step in range(args.steps + 1):
        last = step == args.steps
        if args.val_every and (last or step % args.val_every == 0):
            val_loss = evaluate(params, config, val_tokens, B, T, args.val_batches)
            print(f"step {step}: val loss {val_loss:.6f}")
        if args.sample_every and step and (last or step % args.sample_every == 0):
            rng = np.random.default_rng((args.seed, step))
            print(f"step {step}: sample\n---")
            for text in sample_text(params, config, vocabulary, end_of_text, rng):
                print(text, end="", flush=True)
            print("\n---")
        if last:
            break
        began = time.perf_counter()
        x, y = get_batch(train_tokens, step, B, T)
        loss, cache = gpt2_forward(params, config, x, y)
        gpt2_backward(1.0, cache, grads)
        del cache  # the activations, before the next ones are allocated
        norm = clip_gradients(grads, args.grad_clip or math.inf)
        if not math.isfinite(loss + norm):
            raise UserError(f"step {step}: loss {loss}, gradient norm {norm}; try a lower --lr")
        lr = learning_rate(step, args.steps, args.lr, args.warmup, args.min_lr_frac)
        adamw_update(params, grads, m, v, step + 1, lr, 0.9, 0.999, 1e-8, args.weight_decay)
        ms = (time.perf_counter() - began) * 1000
        if interrupted:
            break  # before a line that could fail: in `| tee log` Ctrl-C has ended tee, too
        print(f"step {step}: train loss {loss:f} (took {ms:f} ms, {B * T / ms * 1e3:.0f} tokens/s)")
    if not np.isfinite(flat).all():
        raise UserError("the weights are no numbers any more, and not saved; try a lower --lr")
    if not args.no_save:
        write_weights(args.out, flat, config)
        sample = [str(Path(sys.argv[0]).with_name("sample_gpt2.py")), "--weights", args.out]
        sample += ["--tokenizer", f"{data}_tokenizer.bin"] if V != GPT2_VOCAB_SIZE else []
        print(f"wrote {args.out}; to go on: python {shlex.join([*sys.argv, '--init', args.out])}")
        print(f"text from it: python {shlex.join(sample)}")


if __name__ == "__main__":
    interrupted = []

    def interrupt(signum, frame):
        interrupted.append(signum)
        signal.signal(signum, signal.SIG_DFL)  # so that the next one ends the process
        print("\nstopping after this step; again: stop now, without saving", file=sys.stderr)

    sys.stdout = sys.stdout or open(os.devnull, "w")  # where it was closed
    sys.stdout.reconfigure(errors="replace", line_buffering=True)  # for letters a terminal lacks
    warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of numbers that main() stops at
    try:
        flags, others = parse_flags()
        ready = os.path.exists(f"{flags.data or SHAKESPEARE}_train.bin")
        if DRIVER.exists() and (others or not ready or not (flags.init or WEIGHTS_FILE.exists())):
            runpy.run_path(str(DRIVER), run_name="__main__")  # it makes what is missing
        elif others:
            raise UserError(f"{' '.join(others)}: there is no such flag; --help lists the flags")
        else:
            signal.signal(signal.SIGINT, interrupt)
            main(flags, interrupted)
            sys.exit(130 if interrupted else 0)  # as a shell expects of what Ctrl-C ended
    except (OSError, MemoryError, RuntimeError, OverflowError) as error:
        raise UserError(f"{error or 'no memory'}; check that, or lower --batch-size") from error
