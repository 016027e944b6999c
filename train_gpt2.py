"""
GPT-2 in NumPy: every layer's forward and backward pass by hand, AdamW, and a training loop.

GPT-2 reads T tokens and gives, at each of them, a probability for every token that could come next.
Training shows it real text and moves the parameters against the gradient of the loss: the mean of
-log(probability given to the token that did come next). This file has all of it, in this order:
threads, layers, block, model, AdamW, batches, sampling, training loop. What is not part of the
lesson, flags and files, is in common.py. The names of the tensors and the file formats are those of
llm.c, Karpathy's GPT-2 in C.

Letters for sizes, as in the comment (N, C):

    B  sequences in a batch             L   blocks (the "12 layers" of GPT-2 124M)
    T  tokens in a sequence, <= maxT    NH  attention heads in a block
    N  rows, one for each token: B*T    HS  channels of a head: C / NH
    C  channels of a row                V   tokens in the vocabulary
    OC output channels of a layer       t, S  queries of a tile, and the keys that they see

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

import functools
import itertools
import math
import operator
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import common  # before NumPy, as it has BLAS use one thread
from common import UserError

import numpy as np

# ----------------------------------------------------------------------------
# Chunks of arrays, on threads

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
OMP_NUM_THREADS = os.environ.get("OMP_NUM_THREADS", "")  # PyTorch obeys it, too
THREADS = max(1, int(OMP_NUM_THREADS)) if OMP_NUM_THREADS.isdigit() else CORES
POOL = ThreadPoolExecutor(THREADS)
CHUNK = 2**17  # numbers of the first array in a chunk, about


def in_chunks(f, *arrays, chunks=None):
    """
    Call f(*arrays) for a part of the arrays at a time; f writes into some of them.

    NumPy computes a * b + c in two passes over memory, on one core. Here the arrays, all of one
    length, are cut into chunks that fit the cache of a core, so that the second pass finds there
    what the first one left, and each core gets its share of the chunks. A chunk is a view, so what
    f writes into it is in the array. NumPy releases Python's lock while it computes, which is why
    threads help.
    """
    n = len(arrays[0])
    if chunks is None:
        chunks = math.ceil(arrays[0].size / CHUNK)
        if chunks > 1:
            chunks += -chunks % THREADS  # as many for each thread, so that none has to wait
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
    if len(a) == 1:  # np.matmul keeps Python's lock where out is short; so sampling takes 0.87
        in_chunks(lambda bT, out: np.dot(bT, a[0], out=out), b.T, out[0], chunks=THREADS)
    elif len(a) > b.shape[1]:
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
        # norm = (x - mean) * rstd, where mean and rstd depend on x, too. A change of x that only
        # shifts or stretches the row does not show in norm, eps aside: dnorm's part along either
        # drops out
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
    """x (..., S) -> weights of the same shape, >= 0, and each row sums to 1."""
    weights = np.exp(x - x.max(-1, keepdims=True))  # less the maximum: same result, no overflow
    return weights / weights.sum(-1, keepdims=True)


def split_heads(x, B, n, NH):
    """x (B*T, n*C), n = 3 for q, k and v side by side -> a view of it, (n, NH, B, T, HS)."""
    return x.reshape(B, len(x) // B, n, NH, -1).transpose(2, 3, 0, 1, 4)


def attention_forward(qkv, B, NH, kv=None, start=0):
    """qkv (B*T, 3C) -> out (B*T, C). kv and start are for sampling: see gpt2_forward."""
    q, k, v = split_heads(qkv, B, 3, NH)  # each (NH, B, T, HS)
    T, HS = q.shape[2:]
    if kv is not None:
        kv[:, :, :, start : start + T] = k, v
        k, v = kv[:, :, :, : start + T]
    out = np.empty((len(qkv), NH * HS), q.dtype)
    future = np.triu(np.full((TILE, TILE), -np.inf, q.dtype), 1)  # -inf above the diagonal
    # the t queries of a tile see no key after the first S
    sizes = [(min(TILE, T - i), start + min(T, i + TILE)) for i in range(0, T, TILE)]
    atts = [np.empty((NH, B, t, S), q.dtype) for t, S in sizes]

    def some_heads(q, k, v, out, *atts):  # the same arrays, but of some of the NH heads
        for att in atts:
            t, S = att.shape[2:]
            tile = slice(S - start - t, S - start)
            preatt = q[:, :, tile] @ k[:, :, :S].mT / math.sqrt(HS)  # (heads, B, t, S)
            preatt[..., S - t :] += future[:t, :t]  # the last t keys are of the queries' own tokens
            att[:] = softmax(preatt)
            out[:, :, tile] = att @ v[:, :, :S]  # (heads, B, t, HS)

    in_chunks(some_heads, q, k, v, split_heads(out, B, 1, NH)[0], *atts)
    return out, (q, k, v, tuple(atts))


def attention_backward(dout, cache):
    """dout (B*T, C) -> dqkv (B*T, 3C)."""
    q, k, v, atts = cache  # each (NH, B, T, HS), and tiles, each (NH, B, t, S)
    NH, B, T, HS = q.shape
    dqkv = np.zeros((B * T, 3 * NH * HS), dout.dtype)  # 0, as each tile adds to dk, dv
    dq, dk, dv = split_heads(dqkv, B, 3, NH)

    def some_heads(q, k, v, dout, dq, dk, dv, *atts):
        for att in atts:
            t, S = att.shape[2:]
            tile = slice(S - t, S)  # in training, start is 0
            # out = att @ v
            datt = dout[:, :, tile] @ v[:, :, :S].mT  # (heads, B, t, S)
            dv[:, :, :S] += att.mT @ dout[:, :, tile]
            # att_j = exp(preatt_j) / sum_m exp(preatt_m), so d att_m / d preatt_j is
            # att_m * ((1 if m = j) - att_j). Then dpreatt_j = sum_m datt_m * d att_m / d preatt_j
            # = att_j * (datt_j - sum_m datt_m * att_m). Where masked, att_j is 0, and so is this.
            dpreatt = att * (datt - (datt * att).sum(-1, keepdims=True))
            # preatt = q @ k.mT / sqrt(HS)
            dpreatt /= math.sqrt(HS)
            dq[:, :, tile] = dpreatt @ k[:, :, :S]
            dk[:, :, :S] += dpreatt.mT @ q[:, :, tile]

    in_chunks(some_heads, q, k, v, split_heads(dout, B, 1, NH)[0], dq, dk, dv, *atts)
    return dqkv


# ----------------------------------------------------------------------------
# GELU: x times the normal distribution's probability of a value below x (Hendrycks & Gimpel 2016),
# by the approximation with tanh from its section 2, which GPT-2 was trained with

GELU_SCALE = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715


def gelu_tanh(x):
    return np.tanh(GELU_SCALE * (x + GELU_CUBIC * (x * x * x)))  # x**3 is over 100 times slower


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
        # Of all this the backward pass needs only d(loss)/d(logits) = (probability - (1 at the
        # target)) / N. It takes the place of the logits, the largest of all activations.
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

    For sampling, kv (L, 2, NH, B, maxT, HS) keeps the keys and values of all tokens; those before
    start are there already, and tokens come after them. (In training, start is 0.)
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


def gpt2_backward(dloss, cache, grads):
    """dloss, a number. Fills grads, every element of it, with the gradient of dloss * loss."""
    embedding_cache, block_caches, lnf_cache, head_cache = cache
    dx, grads["wte"][:] = head_backward(dloss, head_cache, grads["wte"])
    dx, grads["lnfw"][:], grads["lnfb"][:] = layernorm_backward(dx, lnf_cache)
    for l in reversed(range(len(block_caches))):
        dx = block_backward(dx, block_caches[l], block_tensors(grads, l))
    # wte was used twice, in the head and in the embedding: its two gradients add up
    embedding_backward(dx, embedding_cache, grads["wte"], grads["wpe"])


def load_weights(path):
    """Read a weight file -> all parameters as a flat float32 vector, config. Raises UserError."""
    flat, sizes = common.read_weights(path, num_parameters)
    return flat, GPT2Config(*sizes)


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
    the running mean of the gradient's square. Of the tensors only the matrices decay.
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

        in_chunks(numbers, *(views[name].reshape(-1) for views in (params, grads, m, v)))


def learning_rate(step, steps, lr, warmup, min_lr_frac):
    """
    Linear warm-up, then half a cosine down to min_lr_frac * lr (Brown et al. 2020, appendix B).

    Step counts from 0.
    """
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return lr * (min_lr_frac + (1 - min_lr_frac) * 0.5 * (1 + math.cos(math.pi * progress)))


def clip_gradients(grads, max_norm):
    """Scale grads so that their norm is max_norm at most (Pascanu et al. 2013) -> what it was."""
    squares = []
    for grad in grads.values():
        in_chunks(lambda g: squares.append(float(g @ g)), grad.reshape(-1))
    norm = math.sqrt(math.fsum(squares))  # fsum is exact, in whatever order the threads append
    if max_norm < norm < math.inf:
        for grad in grads.values():
            grad *= max_norm / norm
    return norm


# ----------------------------------------------------------------------------
# Batches, and samples


@functools.lru_cache(1)  # an epoch's order is made once
def shuffled(n, epoch, seed):
    return np.random.default_rng((seed, epoch)).permutation(n)


def get_batch(shards, i, B, T, seed=None):
    """
    Batch i of the tokens, one array or several -> x, y (B, T), where y is x one token later.

    It has B windows of T tokens, which follow each other in an array, then in the next one, and
    after the last in the first again; what makes no whole window, or batch, is skipped. With a
    seed, the windows are shuffled, in another order for each epoch.
    """
    counts = np.array([(len(tokens) - 1) // T for tokens in shards])  # windows in each array
    ends = counts.cumsum()
    epoch, k = divmod(i, int(ends[-1]) // B)
    windows = np.arange(k * B, k * B + B)
    if seed is not None:
        windows = shuffled(int(ends[-1]), epoch, seed)[windows]
    batch = np.empty((B, T + 1), np.int64)
    for row, window in zip(batch, windows, strict=True):
        shard = np.searchsorted(ends, window, "right")
        at = (window - ends[shard] + counts[shard]) * T
        row[:] = shards[shard][at : at + T + 1]
    return batch[:, :-1], batch[:, 1:]


def next_token(logits, rng, temperature, top_k, top_p):
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


def generate(params, config, tokens, rng, temperature=1.0, top_k=0, top_p=1.0):
    """
    Yield tokens that continue the list of tokens, without end.

    The keys and values of all tokens are kept, so that only the newest goes through the model.
    Beyond maxT tokens, the older half is forgotten and the rest goes through once more.
    """
    maxT, _, L, NH, C = config
    kv = np.empty((L, 2, NH, 1, maxT, C // NH), params["wte"].dtype)
    tokens, known = list(tokens), 0
    while True:
        if len(tokens) > maxT:
            tokens, known = tokens[-max(1, maxT // 2) :], 0
        logits = gpt2_forward(params, config, np.array([tokens[known:]]), kv=kv, start=known)[-1]
        known = len(tokens)
        tokens.append(next_token(logits, rng, temperature, top_k, top_p))
        yield tokens[-1]


# ----------------------------------------------------------------------------
# Training loop

SAMPLE_TOKENS = 256


def named_config(name, V, maxT=1024):
    """The config of a random model dN: N layers, 64*N channels; d24, d36, d48 are GPT-2's."""
    L = int(name[1:])
    NH, C = {24: (16, 1024), 36: (20, 1280), 48: (25, 1600)}.get(L, (L, 64 * L))
    return GPT2Config(maxT, V, L, NH, C)


def open_model(args, V):
    """-> config, the weight file to read; instead of it None for random weights. UserError."""
    source = str(args.resume or args.init or common.WEIGHTS_FILE)
    if not args.resume and common.is_random_model(source):
        return named_config(source, V, args.seq_len), None  # so that no position stays untrained
    config = GPT2Config(*common.read_sizes(source, num_parameters)[1])
    if config.V != V:
        what = f"--data has {V:,} different tokens, {source} knows {config.V:,}"
        raise UserError(f"{what}; give weights that go with it, or --init d4 for new ones")
    if args.seq_len > config.maxT:
        raise UserError(f"--seq-len {args.seq_len}: {source} takes {config.maxT} at most; lower it")
    return config, source


def evaluate(params, config, shards, B, T, batches):
    """The mean loss of that many batches."""
    pairs = (get_batch(shards, i, B, T) for i in range(batches))
    return sum(float(gpt2_forward(params, config, x, y)[0]) for x, y in pairs) / batches


def loss_and_gradient(params, config, batches, grads, more_grads):
    """
    The mean loss of the batches, a list of x, y; fills grads with its gradient.

    As a backward pass overwrites what it fills, all but the first fill more_grads, to be added.
    """
    loss = 0.0
    for i, (x, y) in enumerate(batches):
        batch_loss, cache = gpt2_forward(params, config, x, y)
        gpt2_backward(1 / len(batches), cache, more_grads if i else grads)
        if i:
            for name in grads:
                in_chunks(operator.iadd, grads[name].reshape(-1), more_grads[name].reshape(-1))
        del cache  # the activations, before the next ones are allocated
        loss += float(batch_loss) / len(batches)
    return loss


def train(args):
    """Train, as the flags say. Raises UserError, and KeyboardInterrupt at the end of a step."""
    B, T, accum = args.batch_size, args.seq_len, args.grad_accum
    data, seed = args.data or common.SHAKESPEARE, args.seed if args.shuffle else None
    train_shards, val_shards, V = common.load_data(data, B, T)
    config, weight_file = open_model(args, V)
    vocabulary, end_of_text = common.load_vocabulary(data, V) if args.sample_every else ([], None)
    start, due, save, save_best = common.checkpoints(args, train_shards)
    common.print_sizes(config, num_parameters(config), args, train_shards, val_shards)

    common.keep_freed_memory()
    # Files have flat vectors, the lesson has named views of them.
    flat_params = load_weights(weight_file)[0] if weight_file else init_weights(config, args.seed)
    flat_grads, flat_m, flat_v = (np.zeros(len(flat_params), np.float32) for _ in range(3))
    if args.resume:
        common.read_moments(args.resume, flat_m, flat_v)
    flats = flat_params, flat_grads, flat_m, flat_v
    params, grads, m, v = (tensors(flat, config) for flat in flats)
    more_grads = tensors(np.empty_like(flat_params), config) if accum > 1 else None
    with common.progress(args.steps, start, accum * B * T, args.log) as record:
        for step in range(start, args.steps + 1):  # the last one does not train
            last, val_loss = step == args.steps, None
            if due(step):
                save(step, config, flat_params, flat_m, flat_v)
            if args.val_every and (last or step % args.val_every == 0):
                val_loss = evaluate(params, config, val_shards, B, T, args.val_batches)
                common.say(f"val loss {val_loss:.6f}")
                save_best(step, config, flat_params, val_loss)
            if args.sample_every and step and (last or step % args.sample_every == 0):
                rng = np.random.default_rng((args.seed, step))
                sample = generate(params, config, [end_of_text], rng)
                text = b"".join(vocabulary[i] for i in itertools.islice(sample, SAMPLE_TOKENS))
                common.say(f"generating:\n---\n{text.decode('utf-8', 'replace')}\n---")
            if last:
                record(step, val_loss)
                break

            began, first = time.perf_counter(), step * accum
            batches = [get_batch(train_shards, first + i, B, T, seed) for i in range(accum)]
            loss = loss_and_gradient(params, config, batches, grads, more_grads)
            norm = clip_gradients(grads, args.grad_clip or math.inf)
            if not math.isfinite(loss + norm):
                what = f"loss {loss}, gradient norm {norm} in batch {first} of {data}_train"
                hint = "this step is not saved; try a lower --lr, --warmup 100, or --grad-clip 1"
                raise UserError(f"step {step}: {what}; {hint}")
            lr = learning_rate(step, args.steps, args.lr, args.warmup, args.min_lr_frac)
            adamw_update(params, grads, m, v, step + 1, lr, weight_decay=args.weight_decay)
            record(step, val_loss, loss, lr, norm, (time.perf_counter() - began) * 1000)


if __name__ == "__main__":
    common.run(lambda: train(common.training_flags(sys.argv[1:])))
