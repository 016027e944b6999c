"""A step of training by the lesson's functions: one of the two engines of tools/train.py."""

import math
import os

import train_gpt2 as gpt2
from variants import flash_attention, recompute
from variants.model import model_with

import numpy as np

BLAS_VARIABLES = {"openblas": "OPENBLAS_NUM_THREADS", "mkl": "MKL_NUM_THREADS"}
BLAS_VARIABLES |= {"accelerate": "VECLIB_MAXIMUM_THREADS"}


def blas_warning():
    """Return a line if NumPy's BLAS would start threads within those of matmul, else ""."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"].get("name", "").lower()
    for kind, name in BLAS_VARIABLES.items():
        if kind in blas and os.environ.get(name) != "1" and gpt2.THREADS > 1:
            return f"NumPy's BLAS, {blas}, has threads of its own within ours; set {name}=1"
    return ""


def row_losses(cache):
    """
    Return the loss of each row (N,), float64, and whether its target is the likeliest token.

    cache is that of a gpt2_forward, whose loss is the mean of these.
    """
    probs, targets, _, _ = cache[-1]
    found = probs[np.arange(len(targets)), targets].astype(np.float64)
    with np.errstate(divide="ignore"):  # a loss beyond 103 is infinite: float32 has no such number
        return -np.log(found), found == probs.max(-1)


def counted(batches):
    """Return how many targets count of batches with masks: x, y, and 1 where one counts, else 0."""
    return sum(int(mask.sum()) for _, _, mask in batches)


def masked_loss(cache, mask, total):
    """
    Return a batch's part in the mean loss of total targets, all that count; and the dloss for it.

    cache is that of a gpt2_forward. dloss has a number for each row (N, 1), 0 where a target does
    not count: gpt2_backward divides it by N, as any, and multiplies a row's dlogits by it
    (doc/answers.md).
    """
    counts = mask.reshape(-1) != 0
    losses, _ = row_losses(cache)
    dloss = counts * np.array(len(counts) / total, cache[-1][0].dtype)
    return float(losses[counts].sum() / total), dloss[:, None]


@gpt2.by_rows
def add(total, more):
    total += more


LAYERS = "flash", "recompute", "head_rows"  # flags that decide which layers a model has


def model_of(args):
    """Return the lesson's functions, but with the layers that these flags ask for."""
    layers = dict(flash_attention.LAYERS) if args.flash else {}
    if args.recompute:
        model = model_with(**layers)
        layers |= recompute.recomputing(model.block_forward, model.block_backward)
        layers |= recompute.head_used_up()
    if args.head_rows:
        layers |= recompute.head_in_pieces(args.head_rows)
    return model_with(**layers)


class NumpyEngine:
    """
    The state of a run: parameters, gradients, AdamW's moments.

    flat, m and v are flat float32 vectors, which it changes in place; args has grad_clip,
    weight_decay, and the flags of LAYERS.
    """

    rank, world = 0, 1  # which process, of how many
    means = False  # m and v are sums

    def __init__(self, args, flat, config, m=None, v=None, step=0):
        self.args, self.config, self.flat = args, config, flat
        self.m, self.v = (np.zeros_like(flat) if x is None else x for x in (m, v))
        self.params = gpt2.named_views(flat, config)
        self.grads = gpt2.named_views(np.zeros_like(flat), config)
        self.more_grads = None
        self.model = model_of(args)

    def gradient(self, batches):
        """
        Return the mean loss of the batches, a list of x, y; fill self.grads with its gradient.

        With masks behind x and y, it is the mean over all targets that count. Because a backward
        pass overwrites what it fills, all but the first fill more_grads, which is added.
        """
        loss, dloss = 0.0, 1 / len(batches)
        if len(batches) > 1 and self.more_grads is None:
            self.more_grads = gpt2.named_views(np.empty_like(self.flat), self.config)
        for i, (x, y, *mask) in enumerate(batches):
            batch_loss, cache = self.model.gpt2_forward(self.params, self.config, x, y)
            part = float(batch_loss) / len(batches)
            if mask:
                part, dloss = masked_loss(cache, *mask, max(1, counted(batches)))
            self.model.gpt2_backward(dloss, cache, self.more_grads if i else self.grads)
            del cache  # the activations, before the next ones are allocated
            for name in self.grads if i else ():
                add(self.grads[name].reshape(-1), self.more_grads[name].reshape(-1))
            loss += part
        return loss

    def step(self, batches, lr, step):
        """
        Take step number step, from 0 on -> loss, norm of the gradient before clipping.

        If one of them is not finite, nothing is updated.
        """
        loss = self.gradient(batches)
        norm = gpt2.clip_gradients(self.grads, self.args.grad_clip or math.inf)
        if math.isfinite(loss + norm):
            m, v = (gpt2.named_views(x, self.config) for x in (self.m, self.v))
            decay = self.args.weight_decay
            gpt2.adamw_update(self.params, self.grads, m, v, step + 1, lr, weight_decay=decay)
        return loss, norm

    def evaluate(self, batches):
        """Return the mean loss of the batches, an iterable of x, y; of targets that count."""
        losses, total = [], 0
        for x, y, *mask in batches:
            loss, cache = self.model.gpt2_forward(self.params, self.config, x, y)
            losses.append(masked_loss(cache, *mask, 1)[0] if mask else float(loss))
            del cache
            total += int(mask[0].sum()) if mask else 1
        return sum(losses) / max(1, total)

    def parameters(self):
        """Return all parameters, a flat float32 vector."""
        return self.flat

    def moments(self):
        """Return AdamW's m and v, flat float32 vectors."""
        return self.m, self.v

    def agree(self, flag):
        """Return whether any process says so; this one is alone."""
        return flag
