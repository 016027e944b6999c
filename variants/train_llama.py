"""
Llama in NumPy: the lesson with another block, each difference derived by hand.

    python variants/train_llama.py --init d4 --data data/NAME --steps 300 --lr 1e-3 --warmup 20
    python sample_gpt2.py llama.bin --tokenizer data/NAME_tokenizer.bin

Read train_gpt2.py first: the letters, the contract of a layer and all that is imported are there.
Llama (Touvron et al. 2023) differs in its block, and adds no wpe. No layer has a bias, and:

    ln1, ln2   RMSNorm, for layernorm: a row is divided by its root mean square
    rotate     rotary positions, for wpe: query and key are turned by angles that grow with t
    attention  grouped heads: each of NKV heads of keys and values serves NH / NKV of queries
    swiglu     for GELU: two linear layers, gate and up; out is up times a smooth max(gate, 0)

    x ──┬── ln1 ──┬── q ── rotate ──┬── attention ── attproj ── + ── mid
        │         ├── k ── rotate ──┤                           │
        │         └── v ────────────┘                           │
        └───────────────────────────────────────────────────────┘
    mid ──┬── ln2 ──┬── gate ──┬── swiglu ── fcproj ── + ── out
          │         └── up ────┘                       │
          └────────────────────────────────────────────┘

New letters: NKV, heads of keys and values; H, hidden channels, 4C in GPT-2. doc/llama.md derives
what is new. The loop is the lesson's main(). variants/llama_files.py has the table of the tensors
and the files, which are those of llama2.c, Karpathy's Llama in C.
"""

import functools
import math
import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import train_gpt2 as gpt2
from tools.console import Parser, UserError, bounded, file_name, run_program
from train_gpt2 import attend, attend_in_tiles, attend_in_tiles_backward, by_rows, matmul
from variants import llama_files
from variants.llama_files import IN_BLOCKS, RMSNORM_EPS, ROTARY_BASE, LlamaConfig
from variants.model import model_with

import numpy as np


# ----------------------------------------------------------------------------
# RMSNorm: each row divided by its root mean square; times w (Zhang & Sennrich 2019)
@by_rows
def normalize(x):
    """x (N, C) -> each row with a mean square of 1; and 1 / its root mean square, (N, 1)."""
    rrms = 1 / np.sqrt(np.square(x).mean(-1, keepdims=True) + RMSNORM_EPS)  # (N, 1)
    return x * rrms, rrms


@by_rows
def normalize_backward(dnorm, norm, rrms):
    """dnorm and norm (N, C), rrms (N, 1) -> dx (N, C)."""
    # norm_c = x_c * rrms, and d rrms / d x_j = -rrms**3 * x_j / C = -rrms**2 * norm_j / C.
    # So d norm_c / d x_j = rrms * ([c = j] - norm_c * norm_j / C): layernorm's without its -1 / C.
    # dx_j = sum_c dnorm_c * that = rrms * (dnorm_j - norm_j * mean(norm * dnorm)).
    along_norm = (dnorm * norm).mean(-1, keepdims=True)  # (N, 1)
    return (dnorm - norm * along_norm) * rrms


def rmsnorm_forward(x, w):
    """x (N, C), w (C,) -> out (N, C)."""
    norm, rrms = normalize(x)
    return norm * w, (norm, rrms, w)


def rmsnorm_backward(dout, cache, dw):
    """dout (N, C) -> dx (N, C). Fills dw (C,)."""
    norm, rrms, w = cache
    dw[:] = (dout * norm).sum(0)
    return normalize_backward(dout * w, norm, rrms)


# ----------------------------------------------------------------------------
# Embedding and linear: the lesson's, without positions and without bias
def embedding_forward(tokens, wte):
    """tokens (B, T), wte (V, C) -> out (B*T, C)."""
    return wte[tokens].reshape(tokens.size, -1), tokens


def embedding_backward(dout, tokens, dwte):
    """dout (B*T, C). Adds to dwte (V, C): the head's, or zeros if the head has its own matrix."""
    np.add.at(dwte, tokens.reshape(-1), dout)


def linear_forward(x, w):
    """x (N, C), w (OC, C) -> out (N, OC)."""
    return matmul(x, w.T), (x, w)


def linear_backward(dout, cache, dw):
    """dout (N, OC) -> dx (N, C). Fills dw (OC, C)."""
    x, w = cache
    matmul(dout.T, x, out=dw)
    return matmul(dout, w)


# ----------------------------------------------------------------------------
# Rotary positions: channels 2i and 2i + 1 of a head are a point in the plane, which is turned about
# 0 by t * ROTARY_BASE**(-2i / HS) for token t. Turning a query's and key's point back by the key's
# angle keeps their dot product: so only the tokens' distance counts (Su et al. 2021, 3.2.2)
def turns_of(start, end, HS, dtype):
    """Return cos and sin of each pair's angle, for tokens start to end, (2, T, HS / 2)."""
    steps = ROTARY_BASE ** (-np.arange(0, HS, 2) / HS)  # (HS / 2,): a pair's angle at token 1
    angles = np.outer(np.arange(start, end), steps)  # (T, HS / 2)
    return np.stack([np.cos(angles), np.sin(angles)]).astype(dtype)


@by_rows
def rotate(x, *, turns, back=False):
    """x (heads, B, T, HS), turns (2, T, HS / 2), by name, so not cut by by_rows -> x, turned."""
    cos, sin = turns[0], -turns[1] if back else turns[1]
    a, b = x[..., 0::2], x[..., 1::2]  # (heads, B, T, HS / 2) each
    pairs = np.stack([a * cos - b * sin, a * sin + b * cos], -1)  # (heads, B, T, HS / 2, 2)
    return pairs.reshape(x.shape)  # the two of a pair are neighbors again


def rotate_backward(dout, turns):
    """dout (heads, B, T, HS), turns (2, T, HS / 2) -> dx (heads, B, T, HS)."""
    # out = (y, z) = (a * cos - b * sin, a * sin + b * cos). So da = dy * cos + dz * sin, and
    # db = -dy * sin + dz * cos: (dy, dz) turned back, as cos(-angle) = cos, sin(-angle) = -sin.
    return rotate(dout, turns=turns, back=True)


# ----------------------------------------------------------------------------
# Attention: the lesson's, of turned queries and keys, with grouped heads (Ainslie et al. 2023)
def to_heads(x, B, HS):
    """x (B*T, heads * HS) -> (heads, B, T, HS)."""
    return x.reshape(B, len(x) // B, -1, HS).transpose(2, 0, 1, 3)


def to_rows(x):
    """x (heads, B, T, HS) -> (B*T, heads * HS)."""
    heads, B, T, HS = x.shape
    return x.transpose(1, 2, 0, 3).reshape(B * T, heads * HS)


def attention_forward(q, k, v, turns, config, past=None):
    """
    q (B*T, C), k and v (B*T, NKV * HS), turns (2, T, HS / 2) -> out (B*T, C).

    To train, past is None. To sample, past (2, NKV, B, S, HS) holds the keys, turned, and values of
    all S tokens so far, once this has filled in the last T, those of q: then there is no cache.
    """
    B, group = len(q) // turns.shape[1], config.NH // config.NKV
    q, k, v = (to_heads(x, B, config.C // config.NH) for x in (q, k, v))
    q, k = rotate(q, turns=turns), rotate(k, turns=turns)
    if past is not None:
        past[..., -turns.shape[1] :, :] = k, v
        out, _ = attend(q, *past.repeat(group, 1))
        return to_rows(out), None
    k, v = k.repeat(group, 0), v.repeat(group, 0)  # (NH, B, T, HS): head h copies h // group
    out, *atts = attend_in_tiles(q, k, v)
    return to_rows(out), (q, k, v, atts, turns, group)


def attention_backward(dout, cache):
    """dout (B*T, C) -> dq (B*T, C), dk and dv (B*T, NKV * HS)."""
    q, k, v, atts, turns, group = cache
    _, B, T, HS = q.shape
    dout = to_heads(dout, B, HS)
    dq, dk, dv = attend_in_tiles_backward(dout, q, k, v, *atts)
    # the copies of a head lie side by side: its gradient is the sum of theirs
    dk, dv = (d.reshape(-1, group, B, T, HS).sum(1) for d in (dk, dv))
    dq, dk = rotate_backward(dq, turns), rotate_backward(dk, turns)
    return to_rows(dq), to_rows(dk), to_rows(dv)


# ----------------------------------------------------------------------------
# SwiGLU: gate * sigmoid(gate), a smooth max(gate, 0), times up: gate decides how much of up goes on
# (Shazeer 2020). The linear layers that make gate and up, and the one after, are in the block
def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))  # the same as 1 / (1 + exp(-x)), whose exp may overflow


@by_rows
def swiglu(gate, up):
    """gate and up (N, H) -> out (N, H). The block keeps both for the backward pass."""
    return gate * sigmoid(gate) * up


@by_rows
def swiglu_backward(dout, gate, up):
    """dout, gate and up (N, H) -> dgate and dup (N, H)."""
    s = sigmoid(gate)
    slope = s + gate * s * (1 - s)  # d (gate * s) / d gate, because d s / d gate = s * (1 - s)
    return dout * up * slope, dout * gate * s


# ----------------------------------------------------------------------------
# Block: as drawn above. qw is (C, C), kw and vw (NKV * HS, C), gatew and upw (H, C), fcprojw (C, H)
def block_forward(x, p, turns, config, past=None):
    """x (B*T, C), p a block's tensors by name, turns and past as in attention -> out (B*T, C)."""
    ln1, ln1_cache = rmsnorm_forward(x, p["ln1w"])
    q, q_cache = linear_forward(ln1, p["qw"])
    k, k_cache = linear_forward(ln1, p["kw"])
    v, v_cache = linear_forward(ln1, p["vw"])
    atty, att_cache = attention_forward(q, k, v, turns, config, past)
    attproj, attproj_cache = linear_forward(atty, p["attprojw"])
    mid = x + attproj
    ln2, ln2_cache = rmsnorm_forward(mid, p["ln2w"])
    gate, gate_cache = linear_forward(ln2, p["gatew"])
    up, up_cache = linear_forward(ln2, p["upw"])
    fcproj, fcproj_cache = linear_forward(swiglu(gate, up), p["fcprojw"])
    attention_caches = ln1_cache, q_cache, k_cache, v_cache, att_cache, attproj_cache
    return mid + fcproj, (attention_caches, ln2_cache, gate_cache, up_cache, gate, up, fcproj_cache)


def block_backward(dout, cache, g):
    """dout (B*T, C) -> dx (B*T, C). Fills g, the gradients of the block's 9 tensors."""
    attention_caches, ln2_cache, gate_cache, up_cache, gate, up, fcproj_cache = cache
    ln1_cache, q_cache, k_cache, v_cache, att_cache, attproj_cache = attention_caches
    dswiglu = linear_backward(dout, fcproj_cache, g["fcprojw"])
    dgate, dup = swiglu_backward(dswiglu, gate, up)
    # ln2 was used twice, ln1 three times, x and mid twice: a gradient is the sum over the uses
    dln2 = linear_backward(dup, up_cache, g["upw"])
    dln2 += linear_backward(dgate, gate_cache, g["gatew"])
    dmid = dout + rmsnorm_backward(dln2, ln2_cache, g["ln2w"])
    datty = linear_backward(dmid, attproj_cache, g["attprojw"])
    dq, dk, dv = attention_backward(datty, att_cache)
    dln1 = linear_backward(dv, v_cache, g["vw"])
    dln1 += linear_backward(dk, k_cache, g["kw"])
    dln1 += linear_backward(dq, q_cache, g["qw"])
    return dmid + rmsnorm_backward(dln1, ln1_cache, g["ln1w"])


# ----------------------------------------------------------------------------
# Model: embedding, blocks, a last RMSNorm, head
def llama_forward(params, config, tokens, targets):
    """tokens and targets (B, T) -> loss. In between, x is (B*T, C). Raises ValueError."""
    ids = np.stack((tokens, targets))  # as in gpt2_forward
    if not 0 <= ids.min() <= ids.max() < config.V or tokens.shape[1] > config.maxT:
        raise ValueError(f"{config} takes tokens from 0 to V - 1, and maxT of them at most")
    x, embedding_cache = embedding_forward(tokens, params["wte"])
    turns, block_caches = turns_of(0, tokens.shape[1], config.C // config.NH, x.dtype), []
    for l in range(config.L):
        x, block_cache = block_forward(x, {n: params[n][l] for n in IN_BLOCKS}, turns, config)
        block_caches.append(block_cache)
    x, lnf_cache = rmsnorm_forward(x, params["lnfw"])
    head = params.get("headw", params["wte"])  # a matrix of its own if untied, else wte again
    loss, head_cache = gpt2.head_forward(x, head, targets.reshape(-1))
    return loss, (embedding_cache, block_caches, lnf_cache, head_cache)


def llama_backward(dloss, cache, grads):
    """dloss, a number. Fills grads with dloss * loss's gradient. Overwrites the cache's probs."""
    embedding_cache, block_caches, lnf_cache, head_cache = cache
    grads["wte"][:] = 0  # untied, the head fills headw, and the embedding adds to these zeros
    dx = gpt2.head_backward(dloss, head_cache, grads.get("headw", grads["wte"]))
    dx = rmsnorm_backward(dx, lnf_cache, grads["lnfw"])
    for l in reversed(range(len(block_caches))):
        dx = block_backward(dx, block_caches[l], {n: grads[n][l] for n in IN_BLOCKS})
    embedding_backward(dx, embedding_cache, grads["wte"])


# ----------------------------------------------------------------------------
# The loop is the lesson's main(): in model_with's copy of it, and of all it calls, these names hold
def named_config(name, V, maxT, kv_heads=0, tied=True):
    """Return the config of dN, as large as GPT-2's dN, or else None. Raises UserError."""
    if not (gpt2_config := gpt2.named_config(name, V, maxT)):
        return None
    _, _, L, NH, C = gpt2_config
    H = math.ceil(8 * C / 3 / 32) * 32  # 3 * C * H is 2 * C * 4C, GPT-2's; up to a multiple of 32
    if NH % (kv_heads or NH):
        raise UserError(f"--kv-heads {kv_heads}: does not divide the {NH} of queries; lower it")
    return LlamaConfig(C, H, L, NH, kv_heads or NH, V, maxT, tied)


LLAMA = {"gpt2_forward": llama_forward, "gpt2_backward": llama_backward}
LLAMA |= {name: getattr(llama_files, name) for name in ("TENSORS", "DECAYING", "tensor_shapes")}
LLAMA |= {"load_weights": llama_files.load_weights, "write_weights": llama_files.write_weights}


def main(argv=None):
    lesson = gpt2.make_parser()
    how = {"formatter_class": lesson.formatter_class, "conflict_handler": "resolve"}
    parser = Parser(description="Train a Llama.", parents=[lesson], allow_abbrev=False, **how)
    add, file = parser.add_argument, {"type": file_name, "required": True}
    add("--init", **file, metavar="FILE", help="weights, or dN: N layers, random")
    add("--data", **file, metavar="NAME", help="of NAME_train.bin and NAME_val.bin")
    parser.set_defaults(out="llama.bin")
    text = "heads of keys and values, NKV; 0: as many as of queries"
    add("--kv-heads", type=bounded(int, 0, 10**6), metavar="N", default=0, help=text)
    add("--untied", action="store_true", help="give the head a matrix of its own, as Llama 2 has")
    args = parser.parse_args(argv)
    llama_files.check_files(args)
    config_of = functools.partial(named_config, kv_heads=args.kv_heads, tied=not args.untied)
    model_with(**LLAMA, named_config=config_of).main(args)


if __name__ == "__main__":
    run_program(main)
