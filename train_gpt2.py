"""
GPT-2 in NumPy: every layer's forward and backward pass by hand, AdamW, and a training loop.

GPT-2 reads T tokens and gives, at each of them, a probability for every token that could come next.
Training shows it real text and moves the parameters against the gradient of the loss: the mean of
-log(probability given to the token that did come next). This file has all of it, in this order:
threads, layers, block, model, AdamW, files, sampling, training loop. The names of the tensors and
the file formats are those of llm.c, Karpathy's GPT-2 in C.

Letters for sizes, as in the comment (N, C):

    B  sequences in a batch             L   blocks (the "12 layers" of GPT-2 124M)
    T  tokens in a sequence, <= maxT    NH  attention heads in a block
    N  rows, one for each token: B*T    HS  channels of a head: C / NH
    C  channels of a row                V   tokens in the vocabulary
    OC output channels of a layer       S   keys that a query sees

Activations are (N, C), one row for each token. Only attention lets a row see other rows, so after
the embedding only attention has to know that they are B sequences. A layer is a pair of functions,

    out, cache = thing_forward(x, w, b)
    dx, dw, db = thing_backward(dout, cache)

where dx is the gradient of the loss with respect to x, and the cache keeps what the backward pass
needs of the forward pass. A backward pass is the forward pass read upwards, by the chain rule; it
changes neither cache nor inputs. (Where it is handed an array for the gradient of a parameter, it
writes there.) float32 in gives float32 out; float64, float64. doc/ derives each layer. A block:

    x ──┬── ln1 ── qkv ── attention ── attproj ── + ──┬── ln2 ── fc ── gelu ── fcproj ── + ── out
        └─────────────────────────────────────────┘   └──────────────────────────────────┘

GPT-2 is an embedding, L blocks, a last layernorm, and the embedding once more, to score tokens.

    python train_gpt2.py        # finetunes GPT-2 124M on tinyshakespeare; --help lists the flags
"""

import argparse
import contextlib
import ctypes
import functools
import itertools
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

# BLAS, which computes NumPy's matrix products, is to use one thread, as we start our own. (With
# both, a step at T = 1024 takes 1.3 times as long.) It reads this variable when NumPy is loaded.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np  # noqa: E402

del os.environ["OPENBLAS_NUM_THREADS"]  # not for the programs that we start

HERE = Path(__file__).resolve().parent

# ----------------------------------------------------------------------------
# Chunks of arrays, on threads

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
OMP_NUM_THREADS = os.environ.get("OMP_NUM_THREADS", "")  # PyTorch goes by it, too
THREADS = max(1, int(OMP_NUM_THREADS)) if OMP_NUM_THREADS.isdigit() else CORES
POOL = ThreadPoolExecutor(THREADS)
CHUNK = 2**17  # numbers of the first array in a chunk, at most


def keep_freed_memory():
    """
    Have malloc keep what is freed, up to 32 MiB a piece, if it is glibc's, which can be told so.

    A step takes 0.92 times as long if it needn't get memory anew from the operating system.
    """
    with contextlib.suppress(AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(-3, 2**25)  # M_MMAP_THRESHOLD of malloc.h
        ctypes.CDLL(None).mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def in_chunks(f, *arrays, chunks=None):
    """
    Call f(*arrays) for a part of the arrays at a time; f writes into some of them.

    NumPy computes a * b + c in two passes over memory, on one core. Here the arrays, all of one
    length, are cut into chunks that fit the cache of a core, so that the second pass finds there
    what the first one left, and each core gets its share of the chunks. A chunk is a view, so what
    f writes into it is in the array. NumPy lets go of Python's lock while it computes, which is why
    threads help.
    """
    n = len(arrays[0])
    if chunks is None:
        chunks = math.ceil(arrays[0].size / CHUNK)
        if chunks > 1:
            chunks += -chunks % THREADS  # as many for each thread, so that none waits
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
    if len(a) > b.shape[1]:
        in_chunks(lambda a, out: np.matmul(a, b, out=out), a, out, chunks=THREADS)
    else:  # the columns, as rows of the transposed
        in_chunks(lambda bT, outT: np.matmul(a, bT.T, out=outT.T), b.T, out.T, chunks=THREADS)
    return out


# ----------------------------------------------------------------------------
# Embedding: the vector of the token plus the vector of its position (llm.c: encoder)


def embedding_forward(tokens, wte, wpe, start=0):
    """tokens (B, T), at positions from start on, wte (V, C), wpe (maxT, C) -> out (B*T, C)."""
    B, T = tokens.shape
    out = wte[tokens] + wpe[start : start + T]  # (B, T, C)
    return out.reshape(B * T, -1), (tokens,)


def embedding_backward(dout, cache, dwte, dwpe):
    """dout (B*T, C). Fills dwpe (maxT, C); adds to dwte (V, C), where the head's gradient is."""
    (tokens,) = cache
    B, T = tokens.shape
    dout = dout.reshape(B, T, -1)
    np.add.at(dwte, tokens, dout)  # dwte[tokens] += dout would count a repeated token only once
    dwpe[:T] = dout.sum(0)
    dwpe[T:] = 0  # the positions that this batch did not reach


# ----------------------------------------------------------------------------
# Layernorm: each row brought to mean 0 and variance 1; times w, plus b (Ba et al. 2016, section 3)

LAYERNORM_EPS = 1e-5  # GPT-2's; keeps 1 / sqrt(variance) finite


def layernorm_forward(x, w, b):
    """x (N, C), w and b (C,) -> out (N, C)."""
    out, norm, rstd = np.empty_like(x), np.empty_like(x), np.empty_like(x[:, :1])

    def rows(x, out, norm, rstd):
        centered = x - x.mean(-1, keepdims=True)
        variance = np.square(centered).mean(-1, keepdims=True)  # (N, 1)
        rstd[:] = 1 / np.sqrt(variance + LAYERNORM_EPS)
        norm[:] = centered * rstd
        out[:] = norm * w + b

    in_chunks(rows, x, out, norm, rstd)
    return out, (norm, rstd, w)


def layernorm_backward(dout, cache):
    """dout (N, C) -> dx (N, C), dw and db (C,)."""
    norm, rstd, w = cache
    dx = np.empty_like(dout)

    def rows(dout, norm, rstd, dx):
        dnorm = dout * w
        # norm = (x - mean) * rstd, where mean and rstd depend on x too: a change of x that only
        # shifts or only stretches the row changes nothing (but for eps), so dnorm's part along
        # either drops out
        along_norm = (dnorm * norm).mean(-1, keepdims=True)  # (N, 1)
        dx[:] = (dnorm - dnorm.mean(-1, keepdims=True) - norm * along_norm) * rstd

    in_chunks(rows, dout, norm, rstd, dx)
    return dx, np.einsum("nc,nc->c", dout, norm), dout.sum(0)


# ----------------------------------------------------------------------------
# Linear: every output channel is a weighted sum of the input channels (llm.c: matmul)


def linear_forward(x, w, b):
    """x (N, C), w (OC, C), b (OC,) -> out (N, OC)."""
    out = matmul(x, w.T)
    out += b
    return out, (x, w)


def linear_backward(dout, cache, dw=None):
    """dout (N, OC) -> dx (N, C), dw (OC, C), db (OC,). An array given as dw is filled with it."""
    x, w = cache
    # y = a @ b has da = dy @ b.T and db = a.T @ dy; here a is x, and b is w.T
    return matmul(dout, w), matmul(dout.T, x, out=dw), dout.sum(0)


# ----------------------------------------------------------------------------
# Attention: the row qkv of a token has a query, a key and a value for each head. The token takes a
# weighted mean of the values of the tokens up to it, where a weight depends on how well its query
# matches the other token's key (Vaswani et al. 2017, section 3.2)

# Queries are taken TILE at a time, so that the keys after a tile can be skipped: a step at T = 1024
# takes 0.7 times as long, and less memory.
TILE = 128


def softmax(x):
    """x (..., S) -> weights of the same shape, >= 0, with the sum 1 in each row."""
    weights = np.exp(x - x.max(-1, keepdims=True))  # less the maximum: same result, no overflow
    return weights / weights.sum(-1, keepdims=True)


def split_heads(x, B, n, NH):
    """x (B*T, n*C), n = 3 for q, k and v side by side -> a view of it, (n, NH, B, T, HS)."""
    return x.reshape(B, len(x) // B, n, NH, -1).transpose(2, 3, 0, 1, 4)


def attention_forward(qkv, B, NH, kv=None, start=0):
    """
    qkv (B*T, 3C) -> out (B*T, C).

    For sampling, kv (2, NH, B, maxT, HS) keeps the keys and values of all tokens; those before
    start are there already. (In training, start is 0.)
    """
    q, k, v = split_heads(qkv, B, 3, NH)  # each (NH, B, T, HS)
    T, HS = q.shape[2:]
    if kv is not None:
        kv[:, :, :, start : start + T] = k, v
        k, v = kv[:, :, :, : start + T]
    out = np.empty((len(qkv), NH * HS), q.dtype)
    future = np.triu(np.full((TILE, TILE), -np.inf, q.dtype), 1)  # -inf above the diagonal
    atts = []
    for i in range(0, T, TILE):  # queries i : i + t see the first S = start + i + t keys
        t = min(TILE, T - i)
        atts.append(np.empty((NH, B, t, start + i + t), q.dtype))

    def some_heads(q, k, v, out, *atts):  # of the NH, the first axis
        for i, att in zip(range(0, T, TILE), atts, strict=True):
            t, S = att.shape[2:]
            preatt = q[:, :, i : i + t] @ k[:, :, :S].mT / math.sqrt(HS)  # (heads, B, t, S)
            preatt[..., S - t :] += future[:t, :t]  # the last t keys are the queries' own tokens
            att[:] = softmax(preatt)
            out[:, :, i : i + t] = att @ v[:, :, :S]  # (heads, B, t, HS)

    in_chunks(some_heads, q, k, v, split_heads(out, B, 1, NH)[0], *atts)
    return out, (q, k, v, tuple(atts))


def attention_backward(dout, cache):
    """dout (B*T, C) -> dqkv (B*T, 3C)."""
    q, k, v, atts = cache  # (NH, B, T, HS), and tiles (NH, B, t, S)
    NH, B, T, HS = q.shape
    dqkv = np.zeros((B * T, 3 * NH * HS), dout.dtype)  # 0, as dk and dv are sums over the tiles
    dq, dk, dv = split_heads(dqkv, B, 3, NH)

    def some_heads(q, k, v, dout, dq, dk, dv, *atts):
        for i, att in zip(range(0, T, TILE), atts, strict=True):
            t, S = att.shape[2:]
            dout_t = dout[:, :, i : i + t]  # (heads, B, t, HS)
            # out = att @ v
            datt = dout_t @ v[:, :, :S].mT  # (heads, B, t, S)
            dv[:, :, :S] += att.mT @ dout_t
            # att_j = exp(preatt_j) / sum_l exp(preatt_l), so d att_l / d preatt_j is
            # att_l * ((1 if l = j) - att_j). Then dpreatt_j = sum_l datt_l * d att_l / d preatt_j
            # = att_j * (datt_j - sum_l datt_l * att_l), which is 0 where masked, as att_j is:
            dpreatt = att * (datt - (datt * att).sum(-1, keepdims=True))
            dpreatt /= math.sqrt(HS)
            # preatt = q @ k.mT, the division by sqrt(HS) being done
            dq[:, :, i : i + t] = dpreatt @ k[:, :, :S]
            dk[:, :, :S] += dpreatt.mT @ q[:, :, i : i + t]

    in_chunks(some_heads, q, k, v, split_heads(dout, B, 1, NH)[0], dq, dk, dv, *atts)
    return dqkv


# ----------------------------------------------------------------------------
# GELU: x times the normal distribution's probability of a value below x (Hendrycks & Gimpel 2016),
# by the approximation with tanh from its section 2, which GPT-2 was trained with

GELU_SCALE = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715


def gelu_tanh(x):
    return np.tanh(GELU_SCALE * (x + GELU_CUBIC * (x * x * x)))  # x**3 is 100 times slower and more


def gelu_forward(x):
    """x (N, C) -> out (N, C)."""
    out = np.empty_like(x)

    def rows(x, out):
        out[:] = 0.5 * x * (1 + gelu_tanh(x))

    in_chunks(rows, x, out)
    return out, (x,)


def gelu_backward(dout, cache):
    """dout (N, C) -> dx (N, C)."""
    (x,) = cache
    dx = np.empty_like(x)

    def rows(dout, x, dx):
        tanh = gelu_tanh(x)  # once more, rather than keep (N, 4C) more numbers
        # out = 0.5 * x * (1 + tanh), a product of x and a function of x
        slope = (1 - tanh * tanh) * (GELU_SCALE * (1 + 3 * GELU_CUBIC * (x * x)))  # of tanh
        dx[:] = dout * (0.5 * (1 + tanh) + 0.5 * x * slope)

    in_chunks(rows, dout, x, dx)
    return dx


# ----------------------------------------------------------------------------
# Head: a score for every token of the vocabulary, their softmax, and the cross-entropy loss


def head_forward(x, wte, targets):
    """x (N, C), wte (V, C), targets (N,) -> loss, the mean of -log(probability of the target)."""
    N = len(x)
    logits = matmul(x, wte.T)  # (N, V): how well x matches the embedding of each token
    losses = np.empty_like(x[:, 0])

    def rows(logits, targets, losses):
        target = np.arange(len(targets)), targets
        logits -= logits.max(-1, keepdims=True)  # the same softmax, and exp can't overflow
        # -log(exp(z_target) / sum exp(z)) = -z_target + log(sum exp(z)), z being the logits
        losses[:] = -logits[target]
        np.exp(logits, out=logits)
        total = logits.sum(-1, keepdims=True)  # (N, 1)
        losses += np.log(total[:, 0])
        # Of all this the backward pass needs only d(loss)/d(logits): the probability, less 1 at the
        # target, over N. It takes the place of the logits, the largest of all activations.
        dlogits = np.multiply(logits, 1 / (N * total), out=logits)
        dlogits[target] -= 1 / N

    in_chunks(rows, logits, targets, losses)
    return losses.mean(), (logits, x, wte)  # by now the gradient of the logits


def head_backward(dloss, cache, dwte=None):
    """dloss, a number -> dx (N, C), dwte (V, C). An array given as dwte is filled with it."""
    dlogits, x, wte = cache
    return matmul(dlogits, wte) * dloss, matmul(dlogits.T, x * dloss, out=dwte)


# ----------------------------------------------------------------------------
# Block: attention, then a two-layer network on each row; each adds its result to the row


def block_forward(x, p, B, NH, kv=None, start=0):
    """x (N, C), p the 12 tensors of this block by name -> out (N, C)."""
    ln1, ln1_cache = layernorm_forward(x, p["ln1w"], p["ln1b"])
    qkv, qkv_cache = linear_forward(ln1, p["qkvw"], p["qkvb"])  # (N, 3C)
    atty, att_cache = attention_forward(qkv, B, NH, kv, start)
    attproj, attproj_cache = linear_forward(atty, p["attprojw"], p["attprojb"])
    mid = x + attproj
    ln2, ln2_cache = layernorm_forward(mid, p["ln2w"], p["ln2b"])
    fc, fc_cache = linear_forward(ln2, p["fcw"], p["fcb"])  # (N, 4C)
    gelu, gelu_cache = gelu_forward(fc)
    fcproj, fcproj_cache = linear_forward(gelu, p["fcprojw"], p["fcprojb"])
    out = mid + fcproj
    caches = ln1_cache, qkv_cache, att_cache, attproj_cache
    return out, (*caches, ln2_cache, fc_cache, gelu_cache, fcproj_cache)


def block_backward(dout, cache, g):
    """dout (N, C) -> dx (N, C). Fills g, the gradients of the block's 12 tensors by name."""
    ln1_cache, qkv_cache, att_cache, attproj_cache, *rest = cache
    ln2_cache, fc_cache, gelu_cache, fcproj_cache = rest
    # out = mid + fcproj: dout is the gradient of both terms; here of fcproj. (The linear layers
    # write dw into g themselves, so assigning it to g again changes nothing.)
    dgelu, g["fcprojw"][:], g["fcprojb"][:] = linear_backward(dout, fcproj_cache, g["fcprojw"])
    dfc = gelu_backward(dgelu, gelu_cache)
    dln2, g["fcw"][:], g["fcb"][:] = linear_backward(dfc, fc_cache, g["fcw"])
    dmid, g["ln2w"][:], g["ln2b"][:] = layernorm_backward(dln2, ln2_cache)
    dmid += dout  # and here of mid
    # mid = x + attproj: likewise
    datty, g["attprojw"][:], g["attprojb"][:] = linear_backward(dmid, attproj_cache, g["attprojw"])
    dqkv = attention_backward(datty, att_cache)
    dln1, g["qkvw"][:], g["qkvb"][:] = linear_backward(dqkv, qkv_cache, g["qkvw"])
    dx, g["ln1w"][:], g["ln1b"][:] = layernorm_backward(dln1, ln1_cache)
    dx += dmid
    return dx


# ----------------------------------------------------------------------------
# Model


class GPT2Config(NamedTuple):
    """The sizes of a GPT-2, in the order of the weight file's header."""

    maxT: int
    V: int
    L: int
    NH: int
    C: int


def tensor_shapes(config):
    """The 16 tensors of a GPT-2, name -> shape, in the order of the weight file."""
    maxT, V, L, _, C = config
    return {
        "wte": (V, C), "wpe": (maxT, C),
        "ln1w": (L, C), "ln1b": (L, C),
        "qkvw": (L, 3 * C, C), "qkvb": (L, 3 * C),
        "attprojw": (L, C, C), "attprojb": (L, C),
        "ln2w": (L, C), "ln2b": (L, C),
        "fcw": (L, 4 * C, C), "fcb": (L, 4 * C),
        "fcprojw": (L, C, 4 * C), "fcprojb": (L, C),
        "lnfw": (C,), "lnfb": (C,),
    }  # fmt: skip


OUTSIDE_BLOCKS = {"wte", "wpe", "lnfw", "lnfb"}
MATRICES = {"wte", "wpe", "qkvw", "attprojw", "fcw", "fcprojw"}


def num_parameters(config):
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())


def tensors(flat, config):
    """Cut a flat vector of all parameters (or gradients, or moments) into 16 named views of it."""
    views, start = {}, 0
    for name, shape in tensor_shapes(config).items():
        size = math.prod(shape)
        views[name] = flat[start : start + size].reshape(shape)
        start += size
    return views


def block_tensors(views, l):
    """The 12 tensors of block l, as views."""
    return {name: view[l] for name, view in views.items() if name not in OUTSIDE_BLOCKS}


def gpt2_forward(params, config, tokens, targets=None, kv=None, start=0):
    """
    tokens and targets (B, T) -> loss, cache; without targets -> logits (B*T, V).

    kv (L, 2, NH, B, maxT, HS) and start: see attention_forward.
    """
    B = len(tokens)
    x, embedding_cache = embedding_forward(tokens, params["wte"], params["wpe"], start)
    block_caches = []
    for l in range(config.L):
        p = block_tensors(params, l)
        x, block_cache = block_forward(x, p, B, config.NH, None if kv is None else kv[l], start)
        block_caches.append(block_cache)
    x, lnf_cache = layernorm_forward(x, params["lnfw"], params["lnfb"])
    if targets is None:
        return matmul(x, params["wte"].T)
    loss, head_cache = head_forward(x, params["wte"], targets.reshape(-1))
    return loss, (embedding_cache, block_caches, lnf_cache, head_cache)


def gpt2_backward(params, config, cache, grads):
    """Fill grads, every element of it, with the gradient of the loss."""
    embedding_cache, block_caches, lnf_cache, head_cache = cache
    dx, grads["wte"][:] = head_backward(1.0, head_cache, grads["wte"])
    dx, grads["lnfw"][:], grads["lnfb"][:] = layernorm_backward(dx, lnf_cache)
    for l in reversed(range(config.L)):
        dx = block_backward(dx, block_caches[l], block_tensors(grads, l))
    # wte was used twice, in the head and in the embedding: its two gradients add up
    embedding_backward(dx, embedding_cache, grads["wte"], grads["wpe"])


def init_weights(config, seed=1337):
    """Random weights (Radford et al. 2018, 4.1, and 2019, 2.3) in a flat float32 vector."""
    rng = np.random.default_rng(seed)
    flat = np.zeros(num_parameters(config), np.float32)
    for name, view in tensors(flat, config).items():
        if name in MATRICES:
            # x gathers 2L projections; so scaled, their sum has the variance of a single one
            std = 0.02 / math.sqrt(2 * config.L) if "proj" in name else 0.02
            rng.standard_normal(out=view, dtype=np.float32)
            view *= std
        elif name.endswith("w"):  # layernorm
            view[:] = 1
    return flat


# ----------------------------------------------------------------------------
# AdamW (Kingma & Ba 2015, algorithm 1; decoupled weight decay by Loshchilov & Hutter 2019)


def adamw_update(params, grads, m, v, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    """
    Update params, m and v in place: four dicts of tensors. Step counts from 1.

    Each parameter moves against m, the running mean of its gradient, in units of sqrt(v), v being
    the running mean of its square. Only the matrices decay; biases and layernorms do not.
    """
    m_scale = 1 / (1 - beta1**step)  # m and v start at 0: this undoes their bias towards it
    v_scale = 1 / (1 - beta2**step)
    for name in params:
        decay = lr * weight_decay if name in MATRICES else 0.0

        def numbers(p, g, m, v, decay=decay):
            m *= beta1
            m += (1 - beta1) * g
            v *= beta2
            v += (1 - beta2) * (g * g)
            if decay:
                p *= 1 - decay
            p -= (lr * m_scale) * m / (np.sqrt(v_scale * v) + eps)

        in_chunks(numbers, *(tree[name].reshape(-1) for tree in (params, grads, m, v)))


def learning_rate(step, steps, lr, warmup, min_lr_frac):
    """
    Linear warm-up, then half a cosine down to min_lr_frac * lr (Brown et al. 2020, appendix B).

    Step counts from 0.
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return lr * (min_lr_frac + (1 - min_lr_frac) * 0.5 * (1 + math.cos(math.pi * progress)))


# ----------------------------------------------------------------------------
# Files: llm.c's formats, little-endian, behind a header of 256 int32

WEIGHTS, STATE, TOKENS, TOKENIZER = 20240326, 20240327, 20240520, 20240328  # header[0], the magic
UNPADDED, FLOAT32, BFLOAT16 = 1, 3, 5  # header[1] of a weight file, the version
HEADER_BYTES = 1024
GPT2_VOCAB_SIZE = 50257


class UserError(Exception):
    """A mistake in a file or a flag: the program ends with one line and exit status 1."""

    status = 1


class NoNetwork(UserError):
    """A host that can't be reached: exit status 3, so that prepare() can tell."""

    status = 3


def run(main):
    """Call main(), and turn errors that are not ours into one line on standard error."""
    sys.stdout.reconfigure(errors="replace")  # a sample may have letters that a terminal lacks
    try:
        main()
    except (UserError, OSError, MemoryError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(getattr(error, "status", 1))
    except KeyboardInterrupt:
        sys.exit(130)  # what a shell expects of a program that was interrupted


@contextlib.contextmanager
def replacing(path):
    """Open a file beside path for writing; it takes the place of path once it is whole on disk."""
    part = Path(f"{path}.part")
    try:
        with open(part, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_header(path, magic, versions, hint):
    """The header of a file as 256 ints; UserError with the hint if the file is of another kind."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; {hint}")
    header = np.fromfile(path, "<i4", 256)
    if len(header) < 256 or header[0] != magic or header[1] not in versions:
        raise UserError(f"{path}: not a file of the kind or version expected here; {hint}")
    return header.tolist()


def write_header(f, *numbers):
    f.write(np.array(numbers + (0,) * (256 - len(numbers)), "<i4"))


def vocab_padding(config):
    """Rows of zeros that files have behind wte, up to the next multiple of 128."""
    return -config.V % 128


def write_tensors(f, flat, config):
    """Write the 16 tensors of a flat float32 vector, wte padded."""
    wte_size = config.V * config.C
    f.write(flat[:wte_size])
    f.write(np.zeros(vocab_padding(config) * config.C, np.float32))
    f.write(flat[wte_size:])


def read_tensors(f, config, version=FLOAT32):
    """Read what write_tensors wrote, or an older version of it -> a flat float32 vector."""
    flat = np.empty(num_parameters(config), np.float32)
    wte_size = config.V * config.C
    padding = 0 if version == UNPADDED else vocab_padding(config) * config.C
    for part, behind in (flat[:wte_size], padding), (flat[wte_size:], 0):
        if version == BFLOAT16:  # the upper half of a float32
            part.view(np.uint32)[:] = np.fromfile(f, "<u2", part.size).astype(np.uint32) << 16
        else:
            f.readinto(part)
        f.seek(behind * (2 if version == BFLOAT16 else 4), os.SEEK_CUR)
    return flat


def save_weights(path, flat, config):
    """Write a weight file, which llm.c can read too."""
    with replacing(path) as f:
        write_header(f, WEIGHTS, FLOAT32, *config, config.V + vocab_padding(config))
        write_tensors(f, flat, config)


def load_weights(path):
    """Read a weight file -> all parameters as a flat float32 vector, config. Raises UserError."""
    hint = "`python reference_gpt2.py` makes gpt2_124M.bin"
    header = read_header(path, WEIGHTS, (UNPADDED, FLOAT32, BFLOAT16), hint)
    version, config = header[1], GPT2Config(*header[2:7])
    if min(config) < 1 or config.C % config.NH:
        raise UserError(f"{path}: its header has impossible sizes, {config}; {hint}")
    count = num_parameters(config)
    if version != UNPADDED:
        count += vocab_padding(config) * config.C
    size = HEADER_BYTES + count * (2 if version == BFLOAT16 else 4)
    if os.path.getsize(path) != size:
        found = os.path.getsize(path)
        raise UserError(f"{path}: has {found:,} bytes, its header means {size:,}; {hint}")
    with open(path, "rb") as f:
        f.seek(HEADER_BYTES)
        return read_tensors(f, config, version), config


def load_tokens(path):
    """Read a token file -> its tokens, an array that stays on disk; V. Raises UserError."""
    hint = "prepro_tinyshakespeare.py makes the default one, prepro.py one of your own text"
    size = os.path.getsize(path) if Path(path).is_file() else 0
    if size and size % 4 == 0 and np.fromfile(path, "<i4", 1) != TOKENS:
        # llm.c's first format, without a header
        tokens, V = np.memmap(path, "<i4", "r"), GPT2_VOCAB_SIZE
    else:
        _, _, count, V, *_ = read_header(path, TOKENS, (1,), hint)
        if size != HEADER_BYTES + 2 * count or count == 0:
            raise UserError(f"{path}: has {size:,} bytes, not the {count:,} tokens it says; {hint}")
        tokens, V = np.memmap(path, "<u2", "r", HEADER_BYTES), V or GPT2_VOCAB_SIZE
    if not 0 <= tokens.min() <= tokens.max() < V:
        raise UserError(f"{path}: no token file, or not with tokens from 0 to {V - 1:,}; {hint}")
    return tokens, V


@functools.lru_cache(1)
def shuffled(n, epoch, seed):
    return np.random.default_rng((seed, epoch)).permutation(n)


def get_batch(tokens, i, B, T, seed=None):
    """
    Batch i of the tokens -> x, y (B, T), where y is x one token later.

    It has B windows of T tokens, which follow each other in the text, at its end from the start
    again. With a seed, the windows are shuffled, in another order for each round.
    """
    windows = (len(tokens) - 1) // T
    epoch, k = divmod(i, windows // B)
    rows = np.arange(k * B, k * B + B)
    if seed is not None:
        rows = shuffled(windows, epoch, seed)[rows]
    batch = tokens[rows[:, None] * T + np.arange(T + 1)].astype(np.int64)
    return batch[:, :-1], batch[:, 1:]


def load_tokenizer(path):
    """Read a tokenizer file -> the bytes of each token, the end-of-text token. Raises UserError."""
    hint = "`python reference_gpt2.py` makes gpt2_tokenizer.bin"
    count, end_of_text = read_header(path, TOKENIZER, (2,), hint)[2:4]
    data, at, vocabulary = Path(path).read_bytes(), HEADER_BYTES, []
    while at < len(data):  # a length byte, then as many bytes
        vocabulary.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    if at != len(data) or len(vocabulary) != count or not 0 <= end_of_text < count:
        raise UserError(f"{path}: damaged, its tokens are not what its header says; {hint}")
    return vocabulary, end_of_text


# ----------------------------------------------------------------------------
# Sampling: draw the next token from the probabilities, append it, and so on


def generate(params, config, tokens, rng):
    """
    Yield tokens that continue the list of tokens, without end.

    The keys and values of all tokens are kept, so that only the newest goes through the model.
    Beyond maxT tokens, the older half is forgotten and the rest goes through once more.
    """
    maxT, V, L, NH, C = config
    kv = np.empty((L, 2, NH, 1, maxT, C // NH), params["wte"].dtype)
    tokens, known = list(tokens), 0
    while True:
        if len(tokens) > maxT:
            tokens, known = tokens[-max(1, maxT // 2) :], 0
        logits = gpt2_forward(params, config, np.array([tokens[known:]]), kv=kv, start=known)[-1]
        known = len(tokens)
        tokens.append(int(rng.choice(V, p=softmax(logits.astype(np.float64)))))
        yield tokens[-1]


# ----------------------------------------------------------------------------
# Training loop

WEIGHTS_FILE = HERE / "gpt2_124M.bin"
TOKENIZER_FILE = HERE / "gpt2_tokenizer.bin"
SHAKESPEARE = HERE / "data" / "tiny_shakespeare"
PYTHON_DOCS = HERE / "data" / "python_docs"
SAMPLE_TOKENS = 256
OFFLINE_FLAGS = (
    "--init d2 --data data/python_docs --shuffle --steps 1500 --batch-size 16 --lr 1.5e-3"
    " --warmup 20 --min-lr-frac 0.1 --val-every 300 --sample-every 500"
)


def number(kind, low, high=math.inf):
    """A type for argparse: a finite int or float from low to high."""

    def parse(text):
        value = kind(text)
        if not low <= value <= high or value == math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {low} to {high}")
        return value

    return parse


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="Train GPT-2 in NumPy.")
    add, count = parser.add_argument, number(int, 0)
    add("--init", help="weights to start from, or dN: N layers at random (default: gpt2_124M.bin)")
    add("--data", help="token files, up to _train.bin (default: data/tiny_shakespeare)")
    add("--steps", type=count, default=40)
    add("--batch-size", type=number(int, 1), default=4)
    add("--seq-len", type=number(int, 1), default=64)
    add("--lr", type=number(float, 0), default=1e-4, help="learning rate")
    add("--warmup", type=count, default=0, help="steps until the learning rate is reached")
    add("--min-lr-frac", type=number(float, 0, 1), default=1.0, help="part of it left at the end")
    add("--weight-decay", type=number(float, 0), default=0.0)
    add("--val-every", type=count, default=10, help="steps between validation losses; 0: none")
    add("--val-batches", type=number(int, 1), default=10)
    add("--sample-every", type=count, default=20, help="steps between samples; 0: none")
    add("--save", help="write the trained weights to this file")
    add("--shuffle", action="store_true", help="take training batches in random order")
    add("--seed", type=count, default=1337)
    return parser.parse_args(argv)


def prepare(script, *flags):
    """Run another script. False if it had no network; UserError if it failed for other reasons."""
    print(f"preparing: python {' '.join((script, *flags))}", flush=True)
    status = subprocess.run([sys.executable, HERE / script, *flags]).returncode
    if status not in (0, NoNetwork.status):
        raise UserError(f"`python {script}` failed, as it says above")
    return status == 0


def prepare_defaults(args):
    """Make the default files that are missing. False if that takes a network and there is none."""
    okay = True
    if args.data is None and not Path(f"{SHAKESPEARE}_train.bin").exists():
        okay = prepare("prepro_tinyshakespeare.py")
    if args.init is None and not WEIGHTS_FILE.exists():
        okay = okay and prepare("reference_gpt2.py", "--weights-only")
    return okay


def named_config(name, V):
    """The config of a random model dN: N layers, 64*N channels; of d24, d36, d48: GPT-2's."""
    L = int(name[1:])
    NH, C = {24: (16, 1024), 36: (20, 1280), 48: (25, 1600)}.get(L, (L, 64 * L))
    return GPT2Config(1024, V, L, NH, C)


def main():
    args = parse_args()
    if not prepare_defaults(args):
        if args.init or args.data:
            raise UserError("without a network, give both --init and --data")
        print(f"training on Python's documentation instead: python train_gpt2.py {OFFLINE_FLAGS}")
        if not Path(f"{PYTHON_DOCS}_train.bin").exists():
            prepare("prepro_pythondocs.py")
        args = parse_args([*OFFLINE_FLAGS.split(), *sys.argv[1:]])
        args.data = PYTHON_DOCS  # in any working directory
    train(args)


def train(args):
    keep_freed_memory()
    B, T = args.batch_size, args.seq_len
    data = args.data or SHAKESPEARE
    train_tokens, V = load_tokens(f"{data}_train.bin")
    val_tokens, val_V = load_tokens(f"{data}_val.bin")
    init = str(args.init or WEIGHTS_FILE)
    if init[0] == "d" and init[1:].isdigit() and int(init[1:]):
        config = named_config(init, V)._replace(maxT=T)  # no positions that training won't reach
        flat_params = init_weights(config, args.seed)
    else:
        flat_params, config = load_weights(init)
    if val_V != V:
        raise UserError(f"{data}_train.bin has {V:,} different tokens, {data}_val.bin {val_V:,}")
    if config.V != V:
        raise UserError(f"{data}_train.bin has {V:,} different tokens, {init} knows {config.V:,}")
    if T > config.maxT:
        raise UserError(f"--seq-len {T}: {init} takes {config.maxT} at most")
    for tokens, split in (train_tokens, "train"), (val_tokens, "val"):
        if len(tokens) <= B * T:
            have = f"{len(tokens):,} tokens where a batch takes {B * T + 1:,}"
            raise UserError(f"{data}_{split}.bin has {have}; lower --batch-size or --seq-len")
    if args.sample_every:
        own = Path(f"{data}_tokenizer.bin")
        tokenizer = own if own.exists() else TOKENIZER_FILE
        vocabulary, end_of_text = load_tokenizer(tokenizer)
        if len(vocabulary) != V:
            raise UserError(f"{tokenizer} has {len(vocabulary):,} tokens, {init} knows {V:,}")
    if args.save and not Path(args.save).absolute().parent.is_dir():
        raise UserError(f"--save {args.save}: there is no such folder; make it first")

    print("[GPT-2]")
    names = "max_seq_len", "vocab_size", "num_layers", "num_heads", "channels", "num_parameters"
    for name, size in zip(names, (*config, num_parameters(config)), strict=True):
        print(f"{name}: {size}")
    print(f"train dataset num_batches: {(len(train_tokens) - 1) // (B * T)}")
    print(f"val dataset num_batches: {(len(val_tokens) - 1) // (B * T)}")

    params = tensors(flat_params, config)
    grads, m, v = (tensors(np.zeros(len(flat_params), np.float32), config) for _ in range(3))
    rng = np.random.default_rng(args.seed)
    for step in range(args.steps + 1):
        last = step == args.steps
        if args.val_every and (last or step % args.val_every == 0):
            batches = (get_batch(val_tokens, i, B, T) for i in range(args.val_batches))
            losses = [gpt2_forward(params, config, x, y)[0] for x, y in batches]
            print(f"val loss {sum(losses) / len(losses):.6f}")
        if args.sample_every and step and (last or step % args.sample_every == 0):
            sample = itertools.islice(generate(params, config, [end_of_text], rng), SAMPLE_TOKENS)
            text = b"".join(vocabulary[token] for token in sample).decode("utf-8", "replace")
            print(f"generating:\n---\n{text}\n---")
        if last:
            break
        start = time.perf_counter()
        x, y = get_batch(train_tokens, step, B, T, args.seed if args.shuffle else None)
        loss, cache = gpt2_forward(params, config, x, y)
        gpt2_backward(params, config, cache, grads)
        lr = learning_rate(step, args.steps, args.lr, args.warmup, args.min_lr_frac)
        adamw_update(params, grads, m, v, step + 1, lr, weight_decay=args.weight_decay)
        del cache  # the activations, before the next ones are allocated
        seconds = time.perf_counter() - start
        took = f"took {seconds * 1000:f} ms, {B * T / seconds:.0f} tokens/s"
        print(f"step {step}: train loss {loss:f} ({took})", flush=True)
    if args.save:
        save_weights(args.save, flat_params, config)
        print(f"wrote {args.save}")


if __name__ == "__main__":
    run(main)
