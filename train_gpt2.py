"""
GPT-2 in NumPy: every layer's forward and backward pass by hand, AdamW, and a training loop.

GPT-2 reads T tokens, numbered pieces of text, and gives at each a probability for every token that
could come next. Training moves the parameters against the gradient of the loss, the mean of -log(
probability of the token that did come next). A comment # (N, C) says that an array has this shape:

    B  sequences in a batch             L   blocks (the "12 layers" of GPT-2 124M)
    T  tokens in a sequence, <= maxT    NH  attention heads in a block
    N  rows, one for each token: B*T    HS  channels of a head: C / NH
    C  channels, numbers in a row       V   tokens in the vocabulary

A layer is a pair of functions; w and b are its parameters, and x and out have a row for each token.

    out, cache = thing_forward(x, w, b)
    dx = thing_backward(dout, cache, dw, db)

dx is the gradient of the loss with respect to x. A backward pass is the forward pass read upwards,
by the chain rule; the cache holds what it needs from there. It fills dw and db, which it is given,
and changes nothing else (where it does, it says so). Pages in doc/ derive them all. A block, where
ln is a layernorm, and qkv, attproj, fc and fcproj are linear layers:

    x ──┬── ln1 ── qkv ── attention ── attproj ── + ──┬── ln2 ── fc ── gelu ── fcproj ── + ── out
        └─────────────────────────────────────────┘   └──────────────────────────────────┘

GPT-2 is an embedding, L blocks, a last layernorm, and a head: the embedding again, to score tokens.
For speed, matmul(a, b) stands for a @ b, and @by_rows can be ignored until "Threads and chunks".
"""

import argparse
import contextlib
import ctypes
import functools
import math
import os
import sys
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE, run

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's BLAS gets one: ours are in matmul
import numpy as np  # noqa: E402


def by_rows(f):
    """Decorate f, which treats each row (of the first axis) alone: it gets some rows at a time."""
    return functools.wraps(f)(lambda *arrays, **options: in_chunks(f, arrays, options))


# ----------------------------------------------------------------------------
# Embedding: the token's row of wte, plus its position's row of wpe (doc/embedding.md)
def embedding_forward(tokens, wte, wpe):
    """tokens (B, T), wte (V, C), wpe (maxT, C) -> out (B*T, C)."""
    B, T = tokens.shape
    out = wte[tokens] + wpe[:T]  # (B, T, C)
    return out.reshape(B * T, -1), tokens


def embedding_backward(dout, tokens, dwte, dwpe):
    """dout (B*T, C). Adds to dwte (V, C), which head_backward has filled; fills dwpe (maxT, C)."""
    B, T = tokens.shape
    dout = dout.reshape(B, T, -1)
    np.add.at(dwte, tokens, dout)  # dwte[tokens] += dout would count a repeated token only once
    dwpe[:T] = dout.sum(0)
    dwpe[T:] = 0  # the positions that this batch did not reach


# ----------------------------------------------------------------------------
# Layernorm: each row to mean 0 and variance 1; times w, plus b (Ba et al. 2016; doc/layernorm.md)
LAYERNORM_EPS = 1e-5  # GPT-2's; keeps 1 / sqrt(variance) finite


@by_rows
def normalize(x):
    """x (N, C) -> each row with mean 0 and variance 1; and 1 / its standard deviation, (N, 1)."""
    centered = x - x.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt(np.square(centered).mean(-1, keepdims=True) + LAYERNORM_EPS)  # (N, 1)
    return centered * rstd, rstd


@by_rows
def normalize_backward(dnorm, norm, rstd):
    """dnorm and norm (N, C), rstd (N, 1) -> dx (N, C)."""
    # With [c = j] 1 or 0: d centered_c / d x_j = [c = j] - 1 / C; d variance / d x_j = 2 centered_j
    # / C, so d rstd / d x_j = -rstd**3 * centered_j / C. Both: d norm_c / d x_j = rstd * ([c = j] -
    # 1 / C - norm_c * norm_j / C). Times norm_c's gradient, dnorm_c, and summed over c:
    along_norm = (dnorm * norm).mean(-1, keepdims=True)  # (N, 1)
    return (dnorm - dnorm.mean(-1, keepdims=True) - norm * along_norm) * rstd


def layernorm_forward(x, w, b):
    """x (N, C), w and b (C,) -> out (N, C)."""
    norm, rstd = normalize(x)
    return norm * w + b, (norm, rstd, w)


def layernorm_backward(dout, cache, dw, db):
    """dout (N, C) -> dx (N, C). Fills dw and db (C,)."""
    norm, rstd, w = cache
    dw[:] = (dout * norm).sum(0)  # a sum, because each row used the same w
    db[:] = dout.sum(0)
    return normalize_backward(dout * w, norm, rstd)


# ----------------------------------------------------------------------------
# Linear: an output channel is a weighted sum of the input channels (doc/linear.md)
def linear_forward(x, w, b):
    """x (N, C), w (OC, C), b (OC,) -> out (N, OC), OC being the number of output channels."""
    return matmul(x, w.T) + b, (x, w)


def linear_backward(dout, cache, dw, db):
    """dout (N, OC) -> dx (N, C). Fills dw (OC, C) and db (OC,)."""
    x, w = cache
    # A product y = a @ u, y_ij = sum_k a_ik * u_kj, has da_ik = sum_j dy_ij * u_kj: da = dy @ u.T.
    # And du_kj = sum_i a_ik * dy_ij: du = a.T @ dy. Here a = x, u = w.T, dw = du.T.
    matmul(dout.T, x, out=dw)
    db[:] = dout.sum(0)
    return matmul(dout, w)


# ----------------------------------------------------------------------------
# Attention: a token's row qkv has a query for each head, then the keys, then the values, of HS
# numbers each. Its out has for each head a mean of the values of all tokens up to it: the better
# its query matches a key, the more that value weighs (Vaswani et al. 2017, 3.2; doc/attention.md)
TILE = 128  # queries at a time, with no key after the last: 0.7 times as long at T = 1024


def softmax(x):
    """x (..., S) -> weights of the same shape; none is below 0, and a row sums to 1."""
    weights = np.exp(x - x.max(-1, keepdims=True))  # less the maximum: same result, no overflow
    return weights / weights.sum(-1, keepdims=True)


def attend(q, k, v):
    """q (NH, B, t, HS), the last t of S tokens; k and v (NH, B, S, HS) -> out like q, and att."""
    t, HS = q.shape[2:]
    preatt = q @ k.mT / math.sqrt(HS)  # (NH, B, t, S): how well each query matches each key
    # the last t keys are those of the same tokens as the queries: -inf where a key is later
    preatt[..., -t:] += np.triu(np.full((t, t), -np.inf, q.dtype), 1)
    att = softmax(preatt)  # (NH, B, t, S)
    return att @ v, att


def attend_backward(dout, q, k, v, att):
    """dout and q (NH, B, t, HS), k and v (NH, B, S, HS), att (NH, B, t, S) -> dq, dk, dv."""
    # out = att @ v. As in linear_backward, y = a @ u has da = dy @ u.mT and du = a.mT @ dy.
    datt = dout @ v.mT  # (NH, B, t, S)
    dv = att.mT @ dout
    # A row has att_m = exp(preatt_m) / sum_i exp(preatt_i): one preatt_j changes every att_m, by
    # d att_m / d preatt_j = att_m * ([m = j] - att_j), [m = j] 1 or 0. Times datt_m, summed over m:
    # dpreatt_j = att_j * (datt_j - sum_m datt_m * att_m). Where masked, att_j = 0 makes it 0.
    dpreatt = att * (datt - (datt * att).sum(-1, keepdims=True))
    dpreatt /= math.sqrt(q.shape[-1])  # now dy of y = q @ k.mT, as preatt = y / sqrt(HS)
    # With a = q and u = k.mT: dq = dy @ k, dk = du.mT = dy.mT @ q.
    return dpreatt @ k, dpreatt.mT @ q, dv


@by_rows
def attend_in_tiles(q, k, v):
    """q, k, v (NH, B, T, HS) -> out, then each tile's att. For by_rows, a head is a row."""
    ends = range(TILE, q.shape[2] + TILE, TILE)  # the last may be beyond T: slices stop there
    tiles = [attend(q[:, :, end - TILE : end], k[:, :, :end], v[:, :, :end]) for end in ends]
    return np.concatenate([out for out, _ in tiles], 2), *(att for _, att in tiles)


@by_rows
def attend_in_tiles_backward(dout, q, k, v, *atts):
    """dout, q, k, v (NH, B, T, HS), and att of each tile -> dq, dk, dv."""
    dq, dk, dv = np.empty_like(q), np.zeros_like(k), np.zeros_like(v)
    for end, att in zip(range(TILE, q.shape[2] + TILE, TILE), atts, strict=True):
        tile, seen = np.s_[:, :, end - TILE : end], np.s_[:, :, :end]
        dq[tile], dk_tile, dv_tile = attend_backward(dout[tile], q[tile], k[seen], v[seen], att)
        dk[seen] += dk_tile  # each tile that saw a key adds to its gradient
        dv[seen] += dv_tile
    return dq, dk, dv


def attention_forward(qkv, B, NH):
    """qkv (B*T, 3C) -> out (B*T, C)."""
    qkv = qkv.reshape(B, -1, 3, NH, qkv.shape[1] // (3 * NH))  # (B, T, 3, NH, HS)
    q, k, v = qkv.transpose(2, 3, 0, 1, 4)  # each (NH, B, T, HS)
    out, *atts = attend_in_tiles(q, k, v)
    return out.transpose(1, 2, 0, 3).reshape(-1, NH * q.shape[-1]), (q, k, v, *atts)


def attention_backward(dout, cache):
    """dout (B*T, C) -> dqkv (B*T, 3C)."""
    q, k, v, *atts = cache
    NH, B, T, HS = q.shape
    dout = dout.reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
    dqkv = np.stack(attend_in_tiles_backward(dout, q, k, v, *atts))  # (3, NH, B, T, HS)
    return dqkv.transpose(2, 3, 0, 1, 4).reshape(B * T, -1)


# ----------------------------------------------------------------------------
# GELU: x times the standard normal distribution's probability of a value below x (Hendrycks &
# Gimpel 2016), by the approximation with tanh of its section 2, as in GPT-2 (doc/gelu.md)
GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


def gelu_tanh(x):
    return np.tanh(GELU_SCALE * (x + GELU_CUBIC * (x * x * x)))  # x**3 is far slower


@by_rows
def gelu(x):
    return 0.5 * x * (1 + gelu_tanh(x))


def gelu_forward(x):
    """x (N, 4C) -> out (N, 4C)."""
    return gelu(x), x


@by_rows
def gelu_backward(dout, x):
    """dout (N, 4C) -> dx (N, 4C)."""
    tanh = gelu_tanh(x)  # once more, rather than keep (N, 4C) more numbers
    slope = (1 - tanh * tanh) * (GELU_SCALE * (1 + 3 * GELU_CUBIC * (x * x)))  # d tanh / dx
    # out = 0.5 * x * (1 + tanh), a product of x and a function of x
    return dout * (0.5 * (1 + tanh) + 0.5 * x * slope)


# ----------------------------------------------------------------------------
# Head: a score (a logit) for each token that could come next, softmax, cross-entropy (doc/head.md)
@by_rows
def softmax_in_place(logits, targets):
    """Turn logits (N, V) into probabilities; -> losses (N,), -log(probability of the target)."""
    logits -= logits.max(-1, keepdims=True)  # same probabilities, no overflow
    target_logits = logits[np.arange(len(targets)), targets]  # (N,), a copy
    np.exp(logits, out=logits)
    total = logits.sum(-1, keepdims=True)  # (N, 1)
    logits /= total
    return np.log(total[:, 0]) - target_logits  # -log(exp(target_logit) / total)


def head_forward(x, wte, targets):
    """x (N, C), wte (V, C), targets (N,) -> loss, the mean of -log(probability of the target)."""
    logits = matmul(x, wte.T)  # (N, V): how well x matches the embedding of each token
    losses = softmax_in_place(logits, targets)
    probs = logits  # the same array, overwritten, because it is the largest of all
    return losses.mean(), (probs, targets, x, wte)


def head_backward(dloss, cache, dwte):
    """dloss, a number -> dx (N, C). Fills dwte (V, C). Overwrites probs, in the cache."""
    probs, targets, x, wte = cache
    N = len(x)
    # The loss of a row is log(sum_i exp(z_i)) - z_target, z being its logits. So its gradient with
    # respect to z_j is exp(z_j) / sum, a probability, less 1 if j is the target.
    dlogits = probs  # in their place
    dlogits[np.arange(N), targets] -= 1
    dlogits *= dloss / N  # the loss is the mean over the rows
    matmul(dlogits.T, x, out=dwte)  # logits = x @ wte.T, as in linear_backward
    return matmul(dlogits, wte)


# ----------------------------------------------------------------------------
# Block: attention adds to each row, then two linear layers with a GELU do (doc/block.md)
def block_forward(x, p, B, NH):
    """x (B*T, C), p a block's tensors by name -> out (B*T, C)."""
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
    """dout (B*T, C) -> dx (B*T, C). Fills g, the gradients of the block's 12 tensors."""
    ln1_cache, qkv_cache, att_cache, attproj_cache = cache[:4]
    ln2_cache, fc_cache, gelu_cache, fcproj_cache = cache[4:]
    # out = mid + fcproj: so dout is the gradient of fcproj, and one of the two of mid
    dgelu = linear_backward(dout, fcproj_cache, g["fcprojw"], g["fcprojb"])
    dfc = gelu_backward(dgelu, gelu_cache)
    dln2 = linear_backward(dfc, fc_cache, g["fcw"], g["fcb"])
    # mid was used twice, by ln2 and in out: its two gradients add up (as do those of x, below)
    dmid = dout + layernorm_backward(dln2, ln2_cache, g["ln2w"], g["ln2b"])
    datty = linear_backward(dmid, attproj_cache, g["attprojw"], g["attprojb"])
    dqkv = attention_backward(datty, att_cache)
    dln1 = linear_backward(dqkv, qkv_cache, g["qkvw"], g["qkvb"])
    return dmid + layernorm_backward(dln1, ln1_cache, g["ln1w"], g["ln1b"])


# ----------------------------------------------------------------------------
# Model: embedding, blocks, a last layernorm, head; and their parameters (doc/model.md)
GPT2Config = namedtuple("GPT2Config", "maxT V L NH C")  # in the order of the weight file's header

# Random values have a standard deviation of 0.02 in a MATRIX, and of 0.02 /
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


def named_views(flat, config):
    """Return the 16 tensors by name, as views of a flat vector of all parameters (or gradients)."""
    shapes = tensor_shapes(config)
    parts = np.split(flat, np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1])
    return {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def gpt2_forward(params, config, tokens, targets):
    """tokens and targets (B, T) -> loss. In between, x is (B*T, C). Raises ValueError."""
    ids = np.stack((tokens, targets))  # NumPy would take -1 for the last token of all
    if not 0 <= ids.min() <= ids.max() < config.V or tokens.shape[1] > config.maxT:
        raise ValueError(f"{config} takes tokens from 0 to V - 1, and maxT of them at most")
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
    """dloss, a number. Fills grads with dloss * loss's gradient. Overwrites the cache's probs."""
    embedding_cache, block_caches, lnf_cache, head_cache = cache
    dx = head_backward(dloss, head_cache, grads["wte"])
    dx = layernorm_backward(dx, lnf_cache, grads["lnfw"], grads["lnfb"])
    for l in reversed(range(len(block_caches))):
        g = {name: grads[name][l] for name in IN_BLOCKS}
        dx = block_backward(dx, block_caches[l], g)
    # wte was used twice, in the head and in the embedding: its two gradients add up
    embedding_backward(dx, embedding_cache, grads["wte"], grads["wpe"])


def init_weights(config, seed=1337):
    """Return random weights, as TENSORS says, in a flat float32 vector."""
    rng = np.random.default_rng(seed)
    flat = np.zeros(num_parameters(config), np.float32)
    for name, view in named_views(flat, config).items():
        if name in DECAYING:
            rng.standard_normal(out=view, dtype=np.float32)
            view *= 0.02 if TENSORS[name][1] == MATRIX else 0.02 / math.sqrt(2 * config.L)
        elif TENSORS[name][1] == SCALE:
            view[:] = 1
    return flat


# ----------------------------------------------------------------------------
# AdamW: a parameter moves by -lr * m_hat / sqrt(v_hat). m_hat is a weighted mean of its gradients,
# v_hat of their squares: the root is a gradient's usual size (Kingma & Ba 2015). Weight decay makes
# p smaller (Loshchilov & Hutter 2019; doc/adamw.md). Then: rate and clipping (doc/schedule.md)
@by_rows
def adamw(p, g, m, v, *, step, lr, beta1, beta2, eps, weight_decay):
    """Update p, with its gradient g, and its m and v (0 before step 1) in place. All are 1-D."""
    m *= beta1
    m += g  # so the gradient of i steps ago weighs beta1**i
    v *= beta2
    v += g * g
    m_hat = m / ((1 - beta1**step) / (1 - beta1))  # the sum 1 + beta1 + ... + beta1**(step - 1)
    v_hat = v / ((1 - beta2**step) / (1 - beta2))
    if weight_decay:
        p *= 1 - lr * weight_decay
    p -= lr * m_hat / (np.sqrt(v_hat) + eps)  # eps: a gradient that was always 0 gives v_hat = 0


def adamw_update(params, grads, m, v, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    """Update params, m and v in place, all dicts of tensors. Step counts from 1 (main's from 0)."""
    for name in params:
        flat = (tensors[name].reshape(-1) for tensors in (params, grads, m, v))
        decay = weight_decay if name in DECAYING else 0.0
        adamw(*flat, step=step, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=decay)


def learning_rate(step, steps, lr, warmup, min_lr_frac):
    """Warm-up to lr, then half a cosine down to min_lr_frac * lr (Brown et al. 2020, app. B)."""
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return lr * (min_lr_frac + (1 - min_lr_frac) * 0.5 * (1 + math.cos(math.pi * progress)))


def clip_gradients(grads, max_norm):
    """Scale grads to a norm of at most max_norm; return the norm before (Pascanu et al. 2013)."""
    rows = [grad.reshape(-1, grad.shape[-1]) for grad in grads.values()]  # vecdot: sums of squares
    norm = math.sqrt(sum(by_rows(np.vecdot)(x, x).sum(dtype=np.float64) for x in rows))
    if max_norm < norm < math.inf:  # scaling can't mend inf or nan
        for grad in grads.values():
            grad *= max_norm / norm
    return norm


# ----------------------------------------------------------------------------
# Threads and chunks: NumPy computes a * b + c on one core, in two passes over memory. Here all
# cores compute (NumPy releases the GIL), each a chunk of rows that fits its cache (doc/threads.md)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
with contextlib.suppress(OSError, ValueError), open("/sys/fs/cgroup/cpu.max", "rb") as f:
    CORES = min(CORES, math.ceil(np.divide(*map(int, f.read().split()))))  # a container's quota
THREADS = int(os.environ.get("OMP_NUM_THREADS", CORES))  # PyTorch obeys it, too
POOL, CHUNK = ThreadPoolExecutor(THREADS), 2**17  # CHUNK: numbers of its largest array


def in_chunks(f, arrays, options):
    """Return f(*arrays, **options), some rows at a time; f on no rows first, for the shapes."""
    n, chunks = len(arrays[0]), math.ceil(max(a.size for a in arrays) / CHUNK)
    if n < 2 or chunks < 2:
        return f(*arrays, **options)
    size = math.ceil(n / (chunks + -chunks % THREADS))  # chunks rounded up to a multiple of THREADS

    def results(rows):
        found = f(*(a[rows] for a in arrays), **options)
        return found if isinstance(found, tuple) else () if found is None else (found,)

    outs = [np.empty((n, *out.shape[1:]), out.dtype) for out in results(slice(0))]

    def work(thread):
        for start in range(thread * size, n, THREADS * size):
            rows = slice(start, start + size)
            for out, part in zip(outs, results(rows), strict=True):
                out[rows] = part

    others = POOL.map(work, range(1, THREADS))  # starts them
    work(0)  # this thread, awake already, works, too: waking the others takes time
    list(others)  # waits for them, and raises what they raise
    return outs[0] if len(outs) == 1 else tuple(outs)


def matmul(a, b, out=None):
    """a (m, k) @ b (k, n) -> out (m, n), cut along out's longer side, a part for each thread."""
    out = np.empty((len(a), b.shape[1]), a.dtype) if out is None else out
    if len(a) < b.shape[1]:
        return matmul(b.T, a.T, out.T).T  # out.T = b.T @ a.T: cuts the columns of out
    (a_part, *a_parts), (part, *parts) = np.array_split(a, THREADS), np.array_split(out, THREADS)
    others = POOL.map(np.matmul, a_parts, [b] * len(parts), parts)
    np.matmul(a_part, b, part)
    list(others)
    return out


def keep_freed_memory():
    """Keep freed memory, since the system zeroes new pages: a step takes 0.94 times as long."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # mallopt is of glibc alone
        ctypes.CDLL(None).mallopt(-4, 0)  # M_MMAP_MAX of malloc.h: no array is mapped apart
        ctypes.CDLL(None).mallopt(-1, -1)  # M_TRIM_THRESHOLD: no page is given back


# ----------------------------------------------------------------------------
# Files, in the formats of llm.c, Karpathy's GPT-2 in C: 256 int32, then the data (doc/files.md)
HERE = Path(__file__).resolve().parent
WEIGHTS_FILE, TOKENIZER_FILE = HERE / "gpt2_124M.bin", HERE / "gpt2_tokenizer.bin"
SHAKESPEARE, SAMPLE_TOKENS, GPT2_VOCAB_SIZE = HERE / "data" / "tiny_shakespeare", 64, 50257
WEIGHTS_MAGIC, TOKENS_MAGIC, TOKENIZER_MAGIC, HEADER_BYTES = 20240326, 20240520, 20240328, 1024


def read_header(path, magic, version):
    """Return the 256 ints that a file begins with. SystemExit if it is of another kind."""
    header = np.fromfile(path, "<i4", 256).tolist()
    if len(header) < 256 or header[:2] != [magic, version]:
        sys.exit(f"{path}: not a file of the kind and version expected here (doc/files.md)")
    return header


def write_weights(path, flat, config, digest=0):
    """Write a weight file: all parameters, a flat float32 vector. In it, V is a multiple of 128."""
    header, wte, padding = np.zeros(256, "<i4"), config.V * config.C, -config.V % 128 * config.C
    header[:8] = WEIGHTS_MAGIC, 3, *config, config.V + -config.V % 128
    header.view("<i8")[5] = digest  # of the vocabulary, as token files have it; 0: unknown
    with open(f"{path}.part", "wb") as f:
        f.writelines((header, flat[:wte], np.zeros(padding, "<f4"), flat[wte:]))
    os.replace(f"{path}.part", path)  # so that an older file stays until the new one is whole


def load_weights(path):
    """Read a weight file -> all parameters, a flat float32 vector; config. Raises SystemExit."""
    config = GPT2Config(*read_header(path, WEIGHTS_MAGIC, 3)[2:7])
    wte, padding = config.V * config.C, -config.V % 128 * config.C
    count, have = num_parameters(config) + padding, os.path.getsize(path) - HEADER_BYTES
    if min(config) < 1 or config.C % config.NH or have < 4 * count:  # a checkpoint is longer
        sys.exit(f"{path}: damaged or cut short, its header says {config}")
    flat = np.fromfile(path, "<f4", count, offset=HEADER_BYTES)
    return np.delete(flat, slice(wte, wte + padding)), config


def load_tokens(path):
    """Read a token file -> its tokens, an array; V. Raises SystemExit."""
    _, _, count, V, *_ = read_header(path, TOKENS_MAGIC, 1)
    tokens, V = np.fromfile(path, "<u2", offset=HEADER_BYTES), V or GPT2_VOCAB_SIZE  # 0: llm.c's
    if not 0 < len(tokens) == count or tokens.max() >= V:
        sys.exit(f"{path}: damaged, its header says {count:,} tokens, all below {V:,}")
    return tokens, V


def load_tokenizer(path):
    """Read a tokenizer file, each token's length and bytes -> the bytes; end-of-text's number."""
    end_of_text = read_header(path, TOKENIZER_MAGIC, 2)[3]
    data, at, vocabulary = Path(path).read_bytes(), HEADER_BYTES, []
    while at < len(data):
        vocabulary.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return vocabulary, end_of_text


# ----------------------------------------------------------------------------
# Batches, validation, sampling, and the training loop (doc/guide.md)
def make_parser():
    """Return the parser of the flags, to which tools/train.py adds its own."""
    parser = argparse.ArgumentParser("train_gpt2.py (more: tools/train.py)", argparse.SUPPRESS)
    parser.allow_abbrev, parser.formatter_class = False, argparse.ArgumentDefaultsHelpFormatter
    add = parser.add_argument
    add("--init", metavar="FILE", help="weights (gpt2_124M.bin), or dN: N layers, random")
    add("--data", metavar="NAME", help="of NAME_train.bin, NAME_val.bin (data/tiny_shakespeare)")
    add("--out", metavar="FILE", default="out.bin", help="file for the weights in the end")
    add("--no-save", action="store_true", help="write no --out")
    add("--steps", type=int, default=40, help="steps of AdamW")
    add("--batch-size", type=int, default=4, help="sequences in a batch, B")
    add("--seq-len", type=int, default=64, help="tokens in a sequence, T")
    add("--lr", type=float, default=1e-4, help="learning rate")
    add("--warmup", type=int, default=0, help="steps in which the learning rate rises to --lr")
    add("--min-lr-frac", type=float, default=1.0, help="part of --lr that is left in the end")
    add("--weight-decay", type=float, default=0.0, help="AdamW's, of matrices")
    add("--grad-clip", type=float, default=0.0, help="greatest norm of the gradient; 0: any")
    add("--val-every", type=int, default=10, help="steps between validation losses; 0: none")
    add("--val-batches", type=int, default=10, help="batches of a validation; 0: all")
    add("--sample-every", type=int, default=20, help="steps between samples; 0: none")
    add("--seed", type=int, default=1337, help="of random weights and of samples")
    return parser


def get_batch(tokens, i, B, T):
    """Return batch i, B windows of T tokens, wrapping around: x and y (B, T), y one token later."""
    windows = np.arange(i * B, i * B + B) % ((len(tokens) - 1) // T)  # of T tokens and a target
    places = windows[:, None] * T + np.arange(T)  # (B, T)
    return tokens[places].astype(np.int64), tokens[places + 1].astype(np.int64)


def evaluate(params, config, tokens, B, T, batches):
    """Return the mean loss of the first batches; of all, if batches is 0 or there are fewer."""
    batches = min(batches if batches > 0 else math.inf, (len(tokens) - 1) // (B * T))
    pairs = (get_batch(tokens, i, B, T) for i in range(batches))
    return sum(float(gpt2_forward(params, config, x, y)[0]) for x, y in pairs) / batches


def generate(params, config, tokens, rng):
    """Yield tokens that go on after tokens, a list, each drawn by its probability."""
    while True:
        x = np.array([tokens[-config.maxT :]])  # (1, T)
        _, cache = gpt2_forward(params, config, x, x)  # x as targets: they change no probs
        probs = cache[-1][0][-1].astype(np.float64)  # (V,): the head's probs, of its last row
        tokens = [*tokens, int(rng.choice(len(probs), p=probs / probs.sum()))]
        yield tokens[-1]


def named_config(name, V, maxT=1024):
    """Return the config of dN, N layers of 64*N channels (d24, d36, d48: GPT-2's), or else None."""
    L = int(name[1:]) if name[:1] == "d" and name[1:].isdecimal() and len(name) < 5 else 0
    NH, C = {24: (16, 1024), 36: (20, 1280), 48: (25, 1600)}.get(L, (L, 64 * L))
    return GPT2Config(maxT, V, L, NH, C) if L else None


def main(args):
    B, T, init, data = args.batch_size, args.seq_len, args.init, args.data
    (train, V), (val, val_V) = (load_tokens(f"{data}_{part}.bin") for part in ("train", "val"))
    tokenizer = TOKENIZER_FILE if V == GPT2_VOCAB_SIZE else f"{data}_tokenizer.bin"
    vocabulary, end = load_tokenizer(tokenizer)
    config = named_config(init, V, T)  # maxT is T, so that no position stays untrained
    flat, config = (init_weights(config, args.seed), config) if config else load_weights(init)
    if not config.V == V == val_V == len(vocabulary):
        sys.exit(f"{init}: V={config.V}, {data}: {V}, {val_V}, {len(vocabulary)}; try --init d4")
    if not 1 <= T <= config.maxT or not 1 <= B < min(len(train), len(val)) / T:
        sys.exit(f"{init}, {data}: --seq-len {T} or --batch-size {B} is too large, or below 1")
    print(f"weights: {init}, {len(flat):,} parameters, {config}")
    print(f"data: {data}, {len(train):,} tokens, and {len(val):,} for validation")
    keep_freed_memory()
    params = named_views(flat, config)
    grads, m, v = (named_views(np.zeros_like(flat), config) for _ in range(3))
    with contextlib.suppress(KeyboardInterrupt):  # after Ctrl-C, what it has learned is saved
        for step in range(args.steps + 1):
            last = step == args.steps  # it trains no more: validation, a sample
            validate = args.val_every and (last or step % args.val_every == 0)
            sample = args.sample_every and step and (last or step % args.sample_every == 0)
            if last or validate or sample:  # a model that diverged is neither sampled nor saved
                val_loss = evaluate(params, config, val, B, T, args.val_batches if validate else 1)
                if not math.isfinite(val_loss):
                    sys.exit(f"val loss {val_loss}, so the weights are not saved; try a lower --lr")
            if validate:
                print(f"step {step}: val loss {val_loss:.6f}")
            if sample:
                tokens = generate(params, config, [end], np.random.default_rng((args.seed, step)))
                text = b"".join(vocabulary[next(tokens)] for _ in range(SAMPLE_TOKENS))
                print(f"step {step}: sample\n---\n{text.decode('utf-8', 'replace')}\n---")
            if last:
                break
            began = time.perf_counter()  # the step: forward, backward, clip, AdamW
            loss, cache = gpt2_forward(params, config, *get_batch(train, step, B, T))
            gpt2_backward(1.0, cache, grads)
            del cache  # the activations, before the next ones are allocated
            norm = clip_gradients(grads, args.grad_clip if args.grad_clip > 0 else math.inf)
            if not (loss < 10 * math.log(V) and norm < math.inf):  # ln(V): by guessing; nan fails
                sys.exit(f"step {step}: loss {loss}, gradient norm {norm}; try a lower --lr")
            lr = learning_rate(step, args.steps, args.lr, args.warmup, args.min_lr_frac)
            adamw_update(params, grads, m, v, step + 1, lr, weight_decay=args.weight_decay)
            ms = (time.perf_counter() - began) * 1000
            speed = f"took {ms:f} ms, {B * T / ms * 1000:.0f} tokens/s"
            print(f"step {step}: train loss {loss:f} ({speed})", flush=True)
    if not args.no_save:
        write_weights(args.out, flat, config, np.fromfile(f"{data}_train.bin", "<i8", 6)[5])
        print(f"wrote {args.out}; to go on from it, with a new AdamW:")
        print(f"    python {' '.join(sys.argv)} --init {args.out}")
        print(f"text from it: python sample_gpt2.py --weights {args.out} --tokenizer {tokenizer}")


if __name__ == "__main__":
    try:
        tool = HERE / "tools" / "prepare.py"  # makes what is missing, tells what else is wrong
        if tool.exists():
            made = run([sys.executable, tool, *sys.argv[1:]], stdout=PIPE, text=True)
            if made.returncode:
                sys.exit(made.returncode)
            sys.argv += made.stdout.splitlines()  # flags, a word a line
        args = make_parser().parse_args()
        args.init, args.data = args.init or str(WEIGHTS_FILE), args.data or str(SHAKESPEARE)
        main(args)
    except OSError as error:
        sys.exit(f"train_gpt2.py: {error}")
