"""
Attention without its matrix of weights, (T, T) for each head (Dao et al. 2022, FlashAttention).

The lesson keeps att for its backward pass, about T * T / 2 numbers for each head, so that a text
twice as long takes four times the memory. Here a tile of queries meets a tile of keys at a time.
What a row of att divides by, the sum over all of its keys, is not known before the last tile; so
numerator and denominator both grow tile by tile, and are divided in the end. Of each row one number
is kept, from which the backward pass computes its weights again (doc/flash_attention.md).

    python variants/flash_attention.py             # time and memory beside the lesson's attention
    python variants/flash_attention.py --torch     # and beside PyTorch's fused kernel
    python tools/train.py --flash --seq-len 4096 --init d4     # long runs that use it

The contract of the layers is that of train_gpt2.py, and so are the letters.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from statistics import median

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import train_gpt2 as gpt2
from tools.console import Parser, UserError, bounded, run_program
from train_gpt2 import by_rows

import numpy as np

TILE = 128  # queries, and keys, that meet at a time


# ----------------------------------------------------------------------------
# Attention: out_i = sum_j exp(preatt_ij) * v_j / sum_j exp(preatt_ij), j <= i, a tile at a time
def tiles(T):
    """Return where each tile of T tokens is, slices of the axis before the last."""
    return [np.s_[:, :, start : start + TILE] for start in range(0, T, TILE)]


def scores(q, k, same_tokens):
    """q (NH, B, t, HS), k (NH, B, s, HS) -> preatt (NH, B, t, s), -inf where a key is later."""
    preatt = q @ k.mT / math.sqrt(q.shape[-1])
    if same_tokens:  # as in attend; the keys of an earlier tile all come before its queries
        preatt += np.triu(np.full(preatt.shape[-2:], -np.inf, q.dtype), 1)
    return preatt


@by_rows
def attend(q, k, v):
    """q, k, v (NH, B, T, HS) -> out like q, and logsum (NH, B, T, 1): log(sum_j exp(preatt_j))."""
    every, outs, logsums = tiles(q.shape[2]), [], []
    for i, tile in enumerate(every):
        # of the keys so far: their maximum and sum, (NH, B, t, 1), and the numerator, like q[tile]
        most, total, mixed = -math.inf, 0.0, 0.0
        for j, seen in enumerate(every[: i + 1]):
            preatt = scores(q[tile], k[seen], j == i)
            more = np.maximum(most, preatt.max(-1, keepdims=True))  # (NH, B, t, 1)
            weights = np.exp(preatt - more)  # (NH, B, t, s), s being the keys of this tile
            # The sums so far are of exp(preatt - most); times shrink, of exp(preatt - more)
            shrink = np.exp(most - more)
            total = total * shrink + weights.sum(-1, keepdims=True)
            mixed = mixed * shrink + weights @ v[seen]
            most = more
        outs.append(mixed / total)
        logsums.append(most + np.log(total))
    return np.concatenate(outs, 2), np.concatenate(logsums, 2)


@by_rows
def attend_backward(dout, q, k, v, out, logsum):
    """dout, q, k, v, out (NH, B, T, HS), logsum (NH, B, T, 1) -> dq, dk, dv."""
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    # The lesson's mean of datt over a row, sum_m datt_m * att_m, would need all of its tiles. But
    # datt_m = dout · v_m, so it is dout · (sum_m att_m * v_m), which is dout · out.
    mean = (dout * out).sum(-1, keepdims=True)  # (NH, B, T, 1)
    every = tiles(q.shape[2])
    for i, tile in enumerate(every):
        for j, seen in enumerate(every[: i + 1]):
            # exp(preatt) / sum = exp(preatt - log(sum)): att once more, of this tile
            att = np.exp(scores(q[tile], k[seen], j == i) - logsum[tile])
            datt = dout[tile] @ v[seen].mT  # (NH, B, t, s), like att and dpreatt
            dpreatt = att * (datt - mean[tile]) / math.sqrt(q.shape[-1])
            dq[tile] += dpreatt @ k[seen]
            dk[seen] += dpreatt.mT @ q[tile]
            dv[seen] += att.mT @ dout[tile]
    return dq, dk, dv


def attention_forward(qkv, B, NH):
    """qkv (B*T, 3C) -> out (B*T, C)."""
    qkv = qkv.reshape(B, -1, 3, NH, qkv.shape[1] // (3 * NH))  # (B, T, 3, NH, HS)
    q, k, v = qkv.transpose(2, 3, 0, 1, 4)  # each (NH, B, T, HS)
    out, logsum = attend(q, k, v)
    return out.transpose(1, 2, 0, 3).reshape(-1, NH * q.shape[-1]), (q, k, v, out, logsum)


def attention_backward(dout, cache):
    """dout (B*T, C) -> dqkv (B*T, 3C)."""
    q, k, v, out, logsum = cache
    NH, B, T, HS = q.shape
    dout = dout.reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
    dqkv = np.stack(attend_backward(dout, q, k, v, out, logsum))  # (3, NH, B, T, HS)
    return dqkv.transpose(2, 3, 0, 1, 4).reshape(B * T, -1)


LAYERS = {"attention_forward": attention_forward, "attention_backward": attention_backward}


# ----------------------------------------------------------------------------
# Time and memory beside others
def lesson_layer(qkv, dout, NH):
    """Return a function that runs the lesson's attention, forward and backward, for B = 1."""

    def turn():
        _, cache = gpt2.attention_forward(qkv, 1, NH)
        gpt2.attention_backward(dout, cache)

    return turn


def flash_layer(qkv, dout, NH):
    """Return the same of this file's."""

    def turn():
        _, cache = attention_forward(qkv, 1, NH)
        attention_backward(dout, cache)

    return turn


def torch_layer(qkv, dout, NH):
    """Return the same of PyTorch's fused kernel."""
    import torch

    torch.set_num_threads(gpt2.THREADS)
    T, C = dout.shape
    qkv = torch.from_numpy(qkv).requires_grad_()
    dout = torch.from_numpy(dout).reshape(1, T, NH, C // NH).transpose(1, 2)

    def turn():
        q, k, v = qkv.reshape(1, T, 3, NH, C // NH).permute(2, 0, 3, 1, 4)
        fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        fused.backward(dout)
        qkv.grad = None

    return turn


LAYERS_OF = {"lesson": lesson_layer, "flash": flash_layer, "PyTorch": torch_layer}


def prepared(name, T, NH, HS=64):
    """Return a turn of a layer on random numbers, for T tokens."""
    rng = np.random.default_rng(T)
    qkv = rng.standard_normal((T, 3 * NH * HS), np.float32)
    return LAYERS_OF[name](qkv, rng.standard_normal((T, NH * HS), np.float32), NH)


def megabytes(name, T, NH):
    """Return by how much a turn raises the peak of a new process's resident memory."""
    command = [sys.executable, __file__, "--peak-of", name, "--longest", str(T), "--heads", str(NH)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"{name}, {T} tokens: ended by itself; was there enough memory?")
    return float(done.stdout)


def print_peak(name, T, NH):
    """Print what megabytes() returns; nan where the system does not say."""
    try:
        import resource
    except ImportError:  # on Windows
        return print("nan")
    gpt2.keep_freed_memory()
    turn, unit = prepared(name, T, NH), 2**20 if sys.platform == "darwin" else 2**10
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    turn()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit)


def seconds(names, T, NH, rounds):
    """Return each layer's median time; they take turns, because no machine is always as fast."""
    turns, taken = {name: prepared(name, T, NH) for name in names}, {name: [] for name in names}
    for _ in range(rounds + 1):
        for name, turn in turns.items():
            began = time.perf_counter()
            turn()
            taken[name].append(time.perf_counter() - began)
    return {name: median(times[1:]) for name, times in taken.items()}  # the first one warms up


def main(argv=None):
    parser = Parser(
        description="Time and memory of attention's forward and backward pass, for one sequence.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, count = parser.add_argument, bounded(int, 1, 2**20)
    add("--longest", type=count, default=4096, metavar="T", help="tokens; also 256, 512, ...")
    add("--heads", type=count, default=12, metavar="NH", help="heads of 64 channels")
    add("--rounds", type=count, default=5, metavar="N", help="turns of each; the median is shown")
    add("--torch", action="store_true", help="PyTorch's fused kernel takes turns, too")
    add("--peak-of", choices=LAYERS_OF, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.peak_of:
        return print_peak(args.peak_of, args.longest, args.heads)
    names = list(LAYERS_OF)[: 3 if args.torch else 2]
    lengths = sorted({256 * 2**i for i in range(12) if 256 * 2**i < args.longest} | {args.longest})
    print(f"B=1, {args.heads} heads of 64 channels, {gpt2.THREADS} threads: forward and backward")
    print(f"{'T':>7}" + "".join(f"{f'{name}, MB':>13}{'ms':>9}" for name in names))
    # before PyTorch is here, whose memory a process that is started would have as its peak
    peaks = {(name, T): megabytes(name, T, args.heads) for T in lengths for name in names}
    gpt2.keep_freed_memory()
    for T in lengths:
        took = seconds(names, T, args.heads, args.rounds)
        row = (f"{peaks[name, T]:>13.1f}{1000 * took[name]:>9.1f}" for name in names)
        print(f"{T:>7}" + "".join(row), flush=True)


if __name__ == "__main__":
    run_program(main)
