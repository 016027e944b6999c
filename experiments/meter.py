"""
What each layer of the lesson takes of a training step: seconds, operations, bytes.

Seconds are those of the processor, of all cores together, so that other programs disturb little.
An operation is a sum, a product, a root, an exponential and so on, of floating point numbers.
"""

import re
import sys
import time
from collections import Counter
from unittest import mock

import train_gpt2 as gpt2
from tools.console import UserError

import numpy as np

LINEAR = {3: "qkv", 1: "attproj", 4: "fc", 0.25: "fcproj"}  # by OC / C
LAYERS = "qkv attention attproj fc gelu fcproj layernorm sums embedding head adamw".split()
PARTS = "embedding layernorm linear attention gelu block head gpt2".split()
WATCHED = ["adamw_update", *(f"{p}_{way}" for p in PARTS for way in ("forward", "backward"))]


def config_of(size, L, NH, C, V):
    """Return B and T of a size like "4x64", and the config for it. Raises UserError."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size):
        raise UserError(f"--sizes {size}: give sequences and tokens, as in 4x64")
    if min(L, NH, C, V) < 1 or C % NH:
        raise UserError(f"--L {L} --NH {NH} --C {C} --V {V}: give sizes from 1, C a multiple of NH")
    B, T = map(int, size.split("x"))
    return B, T, gpt2.GPT2Config(T, V, L, NH, C)


class Meter:
    """Counters by layer, of each without the layers that it calls."""

    def __init__(self):
        self.stack, self.seconds = [], Counter()
        self.products, self.others, self.bytes = Counter(), Counter(), Counter()

    def watched(self, name):
        """Return a function of the lesson that notes its time."""
        function, layer = getattr(gpt2, name), name.split("_")[0]
        layer = (
            "sums" if layer in ("block", "gpt2") else layer
        )  # the residuals, and their gradients

        def watched(*args, **options):
            own = layer
            if own == "linear":
                w = args[1] if name == "linear_forward" else args[1][1]
                own = LINEAR[w.shape[0] / w.shape[1]]
            self.stack.append([own, 0.0])
            began = time.process_time()
            result = function(*args, **options)
            took = time.process_time() - began
            self.seconds[own] += took - self.stack.pop()[1]
            if self.stack:
                self.stack[-1][1] += took
            return result

        return watched

    def step(self, state, config, x, y):
        """Do a step with state, flat vectors of parameters, gradients, m and v -> self."""
        params, grads, m, v = (gpt2.named_views(flat, config) for flat in state)
        with mock.patch.multiple(gpt2, **{name: self.watched(name) for name in WATCHED}):
            _, cache = gpt2.gpt2_forward(params, config, x, y)
            gpt2.gpt2_backward(1.0, cache, grads)
            gpt2.adamw_update(params, grads, m, v, 1, 1e-4, weight_decay=0.1)
        return self


class Counted(np.ndarray):
    """An array that tells Counted.meter of each operation that it is in."""

    __array_priority__, meter = 1, None  # what is stacked of such arrays is one, too

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        plain = [a.view(np.ndarray) if isinstance(a, Counted) else a for a in (*inputs, *out)]
        inputs, into = plain[: len(inputs)], tuple(plain[len(inputs) :])
        result = getattr(ufunc, method)(*inputs, **options | ({"out": into} if into else {}))
        meter, layer = Counted.meter, Counted.meter.stack[-1][0]
        if ufunc is np.matmul:
            meter.products[layer] += 2 * result.size * inputs[0].shape[-1]
        else:  # a number for each of out; of a sum, for each that is added up; so with np.add.at
            numbers = {"__call__": result, "reduce": inputs[0], "at": inputs[-1]}[method]
            meter.others[layer] += np.size(numbers)
        moved = inputs[1:] if method == "at" else (*inputs, result)
        meter.bytes[layer] += sum(a.nbytes for a in moved if isinstance(a, np.ndarray))
        return out[0] if out else result.view(Counted) if isinstance(result, np.ndarray) else result


def count(state, config, x, y):
    """Return the Meter of a step whose arrays are Counted, done without threads and chunks."""
    Counted.meter = Meter()
    with mock.patch.multiple(gpt2, CHUNK=sys.maxsize, matmul=np.matmul):
        return Counted.meter.step([flat.view(Counted) for flat in state], config, x, y)
