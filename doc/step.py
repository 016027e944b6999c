"""
One whole training step of a model so small that every number can be printed: doc/step.md.

    python doc/step.py      # all arrays, in the order in which the step computes them

The lesson itself takes the step. What is printed are the local variables of its functions at the
moment when they return, so that each array has the name that it has in train_gpt2.py.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import train_gpt2 as gpt2  # noqa: E402
from tools.tracing import watch  # noqa: E402

import numpy as np  # noqa: E402

CONFIG = gpt2.GPT2Config(maxT=2, V=3, L=1, NH=1, C=2)
TOKENS, TARGETS = np.array([[0, 2]]), np.array([[2, 1]])
# With two channels and GPT-2's 1e-5, a layernorm gives (1, -1) or (-1, 1) for any row, and its
# gradient is 0 but for rounding. With 1 it bends softly.
EPS = 1.0
EMBEDDINGS = {"wte": [[1, -1], [0, 1], [1, 0]], "wpe": [[2, 0], [-1, 2]]}
ADAMW = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.1}
# The calls of a step, in the order in which they return: the part of the model, the function
FORWARD = """embedding embedding, ln1 layernorm, qkv linear, attention attention, attproj linear,
    ln2 layernorm, fc linear, gelu gelu, fcproj linear, block block, lnf layernorm, head head,
    model gpt2"""
BACKWARD = """head head, lnf layernorm, fcproj linear, gelu gelu, fc linear, ln2 layernorm,
    attproj linear, attention attention, qkv linear, ln1 layernorm, block block,
    embedding embedding, model gpt2"""


def parameters():
    """Return all parameters, flat: matrices of short random numbers, scales 1, biases 0."""
    flat = np.zeros(gpt2.num_parameters(CONFIG))
    rng = np.random.default_rng(6)
    for name, view in gpt2.named_views(flat, CONFIG).items():
        if name in gpt2.DECAYING:
            view[:] = rng.integers(-9, 10, view.shape) / 10
        elif name.endswith("w"):
            view[:] = 1
        if name in EMBEDDINGS:
            view[:] = EMBEDDINGS[name]
    return flat


def watched(function, *args):
    """
    Call the function -> what it returns, and a list of calls of the lesson's forward and backward
    passes: name, and its arrays by name, as they were when it returned.

    What a function inside of a pass computes, such as normalize, counts as the pass's own. What a
    pass returns has the name that its docstring gives it, behind "->".
    """
    calls, inner, layers = [], {}, {label.split()[1] for label in FORWARD.split(",")}

    def note(name, variables, returned):
        if name == "matmul":
            return  # its a, b and out are not those of a layer
        layer, _, ending = name.rpartition("_")
        is_pass = layer in layers and ending in ("forward", "backward")
        if is_pass and (arrow := re.search(r"-> (\w+)", getattr(gpt2, name).__doc__)):
            variables[arrow[1]] = returned[0] if isinstance(returned, tuple) else returned
        inner.update({k: v.copy() for k, v in variables.items() if isinstance(v, np.ndarray)})
        if is_pass:
            calls.append((name, dict(inner)))
            inner.clear()

    return watch(note, function, *args), calls


def whole_step():
    """Take the step -> the arrays of each call by its name; and loss, params, grads, m and v."""
    flat = parameters()
    params = gpt2.named_views(flat, CONFIG)
    grads, m, v = (gpt2.named_views(np.zeros_like(flat), CONFIG) for _ in range(3))
    before, gpt2.LAYERNORM_EPS = gpt2.LAYERNORM_EPS, EPS
    try:
        (loss, cache), forward = watched(gpt2.gpt2_forward, params, CONFIG, TOKENS, TARGETS)
        _, backward = watched(gpt2.gpt2_backward, 1.0, cache, grads)
    finally:
        gpt2.LAYERNORM_EPS = before
    found = {}
    for ending, labels, calls in ("forward", FORWARD, forward), ("backward", BACKWARD, backward):
        for label, (name, arrays) in zip(labels.split(","), calls, strict=True):
            part, layer = label.split()
            assert name == f"{layer}_{ending}", f"{name} where {layer}_{ending} was expected"
            found[f"{part} {ending}"] = arrays
    found["params"] = {name: view.copy() for name, view in params.items()}
    gpt2.adamw_update(params, grads, m, v, 1, **ADAMW)
    found |= {"grads": grads, "m": m, "v": v, "after": params}
    return float(loss), found


LOSS, ARRAYS = whole_step()
SHOWN = []


def show(call, names):
    """Print arrays of a call, given as in "wte wpe", with four decimals."""
    for name in names.split():
        array = ARRAYS[call][name]
        SHOWN.append(array)
        if array.ndim > 2 and array.size == array.shape[-1] * array.shape[-2]:
            array = array.reshape(array.shape[-2:])  # one head, one sequence: leave these axes out
        elif array.ndim == 1:
            array = array[None]
        array = np.round(array, 4) + 0 * array.dtype.type(1)  # + 0 makes 0 of -0
        with np.printoptions(precision=4, suppress=True, floatmode="maxprec", linewidth=90):
            text = str(array)
        text = " ".join(text.split()) if array.shape[0] == 1 else text
        print(f"{name:10} " + text.replace("\n", "\n" + " " * 11))


def unseen():
    """Return the arrays of the step that show() has not printed, under any name."""
    values = {array.tobytes() for array in SHOWN}
    return [
        f"{call}: {name}"
        for call, arrays in ARRAYS.items()
        for name, array in arrays.items()
        if array.dtype.kind == "f" and array.size and array.any() and array.tobytes() not in values
    ]


if __name__ == "__main__":
    for call in ARRAYS:
        print(f"\n{call}")
        show(call, " ".join(ARRAYS[call]))
    print(f"\nloss {LOSS:.6f}")
