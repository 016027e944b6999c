"""
What is said of an exercise that is solved: how the lesson does the same, and the time of both.

check.py starts this in a process of its own, because an answer may take for ever.
"""

import math
import statistics
import sys
import textwrap
import time
from pathlib import Path

import cases
import grade
import numpy as np
import training
from cases import gpt2

SECONDS = 0.6  # of calls, at least one of each
MODEL = {"B": 4, "T": 64, "NH": 2, "HS": 32, "L": 2, "V": 1000, "maxT": 64}
BLOCK = {name: MODEL[name] for name in ("B", "T", "NH", "HS")}

# exercise: sizes at which both are timed; how the lesson differs
INSIGHTS = {
    "product": (
        {"N": 256, "C": 64, "OC": 256},
        "linear_backward keeps w the other way around, (OC, C); so there dx is dout @ w, and dw is "
        "dout.T @ x. A training step has four such layers in each block.",
    ),
    "bias": (
        {"B": 4, "T": 64, "C": 256},
        "linear_backward has all tokens in one axis, (N, OC), so that db is one dout.sum(0). dx "
        "needs no line at all: it is dout.",
    ),
    "softmax": (
        {"N": 512, "S": 64},
        "attend_backward has one line for it, for all heads at once. Where the mask has made a "
        "weight 0, the gradient is 0, too: the mask needs no line of its own.",
    ),
    "crossentropy": (
        {"N": 256, "V": 1000},
        "head_backward subtracts the ones in place, in the memory of the probabilities: with "
        "GPT-2's 50,257 tokens they are the largest array of all.",
    ),
    "gelu": (
        {"N": 256, "C": 256},
        "gelu_backward computes tanh once more rather than keep it, and has @by_rows, which lets "
        "all cores share the rows. And x * x * x is far faster than x**3.",
    ),
    "layernorm": (
        {"N": 256, "C": 64},
        "normalize_backward has the three ways from x in one line. Two means for each row do the "
        "work of a matrix of C by C slopes, which nobody ever makes.",
    ),
    "embedding": (
        {"B": 4, "T": 64, "C": 64, "V": 1000, "maxT": 64},
        "embedding_backward has np.add.at for the tokens, and for the positions a sum over the "
        "sequences. The product with a one-hot matrix would be the same, and nearly all zeros.",
    ),
    "attention_head": (
        {"T": 64, "S": 64, "HS": 32},
        "attend_backward is the same lines with two axes in front; it divides by sqrt(HS) once, "
        "before both products.",
    ),
    "attention": (
        BLOCK,
        "attend_in_tiles_backward takes 128 queries at a time, and for each tile no key that comes "
        "later: of long sequences it computes little more than half of the matrix.",
    ),
    "block": (
        BLOCK,
        "block_backward has a line for each layer, the forward pass read upwards; dfcproj and "
        "dattproj have no names, because they are dout and dmid.",
    ),
    "tied": (
        MODEL,
        "gpt2_backward never sets a gradient to 0: the head fills dwte, and the embedding adds. "
        "This is all of the backward pass: check.py --train runs it with your functions.",
    ),
    "adamw": (
        MODEL,
        "adamw takes a tensor as one flat vector, a chunk at a time on each core: it reads every "
        "parameter of the model, so memory decides its speed.",
    ),
    "accumulate": (
        MODEL | {"parts": 2},
        "its loop does without, and takes the batch at once; tools/train.py has it, as "
        "--grad-accum. Yours needs the memory of one part.",
    ),
    "flash": (
        {"T": 64, "HS": 32},
        "attend keeps att, which takes memory, and saves the product that you compute once more. "
        "variants/flash_attention.py has your lines, for a tile of queries and keys at a time.",
    ),
    "pieces": (
        {"N": 256, "C": 64, "V": 1000, "rows": 64},
        "head_forward keeps the probabilities of all rows, the largest array of a step. "
        "variants/recompute.py has your loop: tools/train.py --head-rows.",
    ),
    "lora": (
        {"N": 256, "C": 64, "OC": 256, "R": 8},
        "linear_backward computes dw as well, a third of a layer's work, which a frozen weight "
        "does not need. variants/lora.py has your lines, for a whole GPT-2.",
    ),
    "pairs": (
        {"words": [b"banana", b"bandana", b"aaab"] * 500, "times": [2, 1, 3] * 500},
        "it reads tokens that are there already. tools/bpe.py, which makes them, counts only once; "
        "a merge then changes the counts around its places, and a heap knows the largest.",
    ),
    "encode": (
        {"word": b"ananabandana" * 40, "merges": cases.MERGES[0]["merges"]},
        "it reads tokens that are there already. tiktoken, which makes them of a text, does not go "
        "through all merges: it does the oldest that the word has a pair of, until there is none.",
    ),
    "rms": (
        {"N": 256, "C": 64},
        "layernorm takes two means for each row. variants/train_llama.py has your lines: the other "
        "mean is left out, and a model learns as well.",
    ),
    "rope": (
        {"NH": 8, "T": 64, "HS": 32},
        "it has no turn, but adds wpe. In variants/train_llama.py, rotate_backward is rotate once "
        "more, with -sin for sin; cosines and sines are computed once for all blocks.",
    ),
    "grouped": (
        {"NH": 8, "NKV": 2, "T": 64, "HS": 32},
        "attend_backward knows nothing of copies. attention_backward of variants/train_llama.py "
        "adds them up behind it, in one line.",
    ),
}


def given(name, sizes):
    """Return an exercise's inputs at these sizes, in float32."""
    inputs = cases.tied if name == "adamw" else cases.EXERCISES[name].inputs
    return cases.cast(inputs(np.random.default_rng(0), **sizes), np.float32)


def calls(name, function, forward, inputs):
    """Yield calls of a function, ready to be timed, each with arrays of its own."""
    exercise = cases.EXERCISES[name]
    trees = [inputs[n] for n in inputs if n in (*exercise.fills, *exercise.adds)]
    while True:
        lent = [grade.filled_like(tree, 0) for tree in trees]
        if name == "adamw":
            p = cases.cast(inputs["params"], None)
            g, m, v = p, grade.filled_like(p, 0), grade.filled_like(p, 0)
            yield lambda: function(p, g, m, v, 1, 1e-3, 0.9, 0.999, 1e-8, 0.1)  # noqa: B023
        elif not exercise.forward:
            yield lambda: function(*inputs.values(), *lent)  # noqa: B023
        else:
            out, cache = forward(*inputs.values())
            dout = grade.dout_of(out)
            yield lambda: function(dout, cache, *lent)  # noqa: B023


def milliseconds(*ready):
    """Return the median time of some calls of each, by turns."""
    took, end = [], time.perf_counter() + SECONDS
    while not took or time.perf_counter() < end:
        for call in map(next, ready):
            start = time.perf_counter()
            call()
            took.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(took[i :: len(ready)]) for i in range(len(ready))]


def shown(ms):
    """Return a time in milliseconds, with two digits."""
    digits = max(0, 1 - math.floor(math.log10(ms)))
    return f"{ms:.{digits}f} ms"


def main(name, path):
    sizes, difference = INSIGHTS[name]
    gpt2.THREADS, gpt2.POOL = 1, cases.NO_POOL
    exercise, inputs = cases.EXERCISES[name], given(name, sizes)
    answer = grade.load(Path(path), name)
    ours = getattr(training, exercise.function, None) or getattr(cases.LESSON, exercise.function)
    out, sys.stdout = sys.stdout, grade.Prints(Path(path))
    forward, both = (
        getattr(answer, exercise.forward, None),
        (getattr(answer, exercise.function), ours),
    )
    times = map(shown, milliseconds(*(calls(name, f, forward, inputs) for f in both)))
    sys.stdout = out
    print(textwrap.fill(f"the lesson: {difference}", 96))
    sizes = {n: size if isinstance(size, int) else len(size) for n, size in sizes.items()}
    sizes = ", ".join(f"{letter}={size}" for letter, size in sizes.items())
    whose = "a plain answer's" if name in cases.TOKENS else "the lesson's"
    print(f"yours takes {next(times)}, {whose} {next(times)} ({sizes})")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("insight.py: only check.py starts this; python exercises/check.py --help")
    main(*sys.argv[1:])
