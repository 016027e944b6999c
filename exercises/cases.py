"""
What the exercises are tried on: sizes, inputs, how to call an answer, and what is right.

How answers are judged is in grade.py; which mistakes are known, in mistakes.py. There is no answer
here: what is right is a finite difference of the forward pass, and where the lesson's functions are
called for comparison, they are called. Of tokens, it is what answers.py gives.
"""

import operator
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train_gpt2 as gpt2  # noqa: E402
from tools.console import run_program  # noqa: E402, F401, for check.py and hunt.py
from variants import train_llama as llama  # noqa: E402

import answers  # noqa: E402
import numpy as np  # noqa: E402

LESSONS = (
    "product bias softmax crossentropy gelu layernorm embedding attention_head attention block "
    "tied adamw accumulate"
).split()
TOKENS = "pairs encode".split()  # of text, with no gradient: what is right is in answers.py
ORDER = LESSONS + "flash pieces lora".split() + TOKENS + "rms rope grouped".split()
FOLDER = Path(__file__).resolve().parent
MINE = FOLDER.parent / "my_exercises"  # a learner's own, which git ignores: check.py --start
HOME = MINE if MINE.is_dir() else FOLDER  # where answers, variations and hunts are


class Exercise(NamedTuple):
    """
    function: what the learner writes, and forward, what is given. shapes: the sizes of each case.

    inputs(rng, **sizes) -> a dict, in the order of forward's parameters. The backward pass returns
    the gradients of those in returns, and fills or adds to those of the others. overwrites: what in
    the cache the lesson's own layers overwrite, and an answer that calls them.
    """

    page: str
    function: str
    forward: str
    shapes: list
    inputs: object
    returns: tuple = ()
    fills: tuple = ()
    adds: tuple = ()
    overwrites: tuple = ()


GIVEN = {name: FOLDER / f"{number:02}_{name}.py" for number, name in enumerate(ORDER, 1)}
PATHS, TEXTS = {}, {}  # of variations: seeds.py


def path_of(name):
    """Return a learner's file. Its number may be another one, of before an update."""
    if name in PATHS:
        return PATHS[name]
    return next(HOME.glob(f"[0-9][0-9]_{name}.py"), HOME / GIVEN[name].name)


def given_text(name):
    """Return an exercise's file as it is given."""
    return TEXTS[name] if name in TEXTS else GIVEN[name].read_text(encoding="utf-8")


def again(name):
    """Return how to get an exercise's file as it was given."""
    if name in PATHS:
        return "delete it, and --variant makes it again"
    how = "git checkout" if HOME == FOLDER else f"check.py --reset {name}"
    return f"`{how}` brings it back"


# ----------------------------------------------------------------------------
# Inputs. Where a layer allows it, the first case is square, so that a missing transpose gives
# numbers that can be recognised, and not an error; in the other cases no two sizes are the same.


def product(rng, N, C, OC):
    return {"x": rng.standard_normal((N, C)), "w": rng.standard_normal((C, OC))}


def bias(rng, B, T, C):
    shapes = {"x": (B, T, C), "p": (T, C), "b": (C,)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def softmax(rng, N, S):
    return {"x": rng.standard_normal((N, S))}


def crossentropy(rng, N, V):
    targets = rng.integers(V, size=N)
    targets[-1] = targets[0]  # at least one comes twice
    logits = rng.standard_normal((N, V))
    if N == 3:
        logits[1, targets[1] - 1] = 120  # the target's probability is 0 in float32
    return {"logits": logits, "targets": targets}


def gelu(rng, N, C):
    x = 2 * rng.standard_normal((N, C))
    if N == 1:
        x[0, :5] = 0, 15, -15, 40, -40  # where out / x is nan, or a power of e infinite
    return {"x": x}


def layernorm(rng, N, C):
    x = rng.standard_normal((N, C)) + 3
    x[0] *= 0.05  # a row in which eps matters
    return {"x": x, "w": 1 + rng.standard_normal(C), "b": rng.standard_normal(C)}


def embedding(rng, B, T, C, V, maxT):
    tokens = rng.integers(V, size=(B, T))
    tokens[-1, -1] = tokens[0, 0]
    tokens[tokens == V - 1] = 0  # the last one never comes
    shapes = {"wte": (V, C), "wpe": (maxT, C)}
    return {"tokens": tokens} | {name: rng.standard_normal(s) for name, s in shapes.items()}


def attention_head(rng, T, S, HS):
    shapes = {"q": (T, HS), "k": (S, HS), "v": (S, HS)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def attention(rng, B, T, NH, HS):
    return {"qkv": rng.standard_normal((B * T, 3 * NH * HS)), "B": B, "NH": NH}


def random_tensors(rng, config):
    params = gpt2.named_views(np.empty(gpt2.num_parameters(config)), config)
    for name, array in params.items():
        array[:] = 0.4 * rng.standard_normal(array.shape)
        if gpt2.TENSORS[name][1] == gpt2.SCALE:
            array += 1
    return params


def block(rng, B, T, NH, HS):
    config = gpt2.GPT2Config(1, 1, 1, NH, NH * HS)
    params = random_tensors(rng, config)
    p = {name: params[name][0] for name in gpt2.IN_BLOCKS}
    return {"x": 2 * rng.standard_normal((B * T, NH * HS)), "p": p, "B": B, "NH": NH}


def tied(rng, B, T, NH, HS, L, V, maxT):
    config = gpt2.GPT2Config(maxT, V, L, NH, NH * HS)
    tokens, targets = rng.integers(V, size=(2, B, T))
    params = random_tensors(rng, config)
    return {"params": params, "config": config, "tokens": tokens, "targets": targets}


def accumulate(rng, parts, **sizes):
    inputs = tied(rng, **sizes)
    pairs = [tied(rng, **sizes) for _ in range(parts)]
    batches = [(pair["tokens"], pair["targets"]) for pair in pairs]
    return {"params": inputs["params"], "config": inputs["config"], "batches": batches}


def flash(rng, T, HS):
    return {name: rng.standard_normal((T, HS)) for name in "qkv"}


def pieces(rng, N, C, V, rows):
    inputs = {"x": rng.standard_normal((N, C)), "wte": rng.standard_normal((V, C))}
    return inputs | {"targets": rng.integers(V, size=N), "rows": rows}


def lora(rng, N, C, OC, R):
    shapes = {"x": (N, C), "w": (OC, C), "b": (OC,), "A": (R, C), "B": (OC, R)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()} | {"scale": 1.3}


def pairs(rng, words, times):
    return {"words": [list(word) for word in words], "times": times}


def encode(rng, word, merges):
    return {"word": list(word), "merges": merges}


def rms(rng, N, C):
    inputs = layernorm(rng, N, C)
    return {"x": inputs["x"], "w": inputs["w"]}


def rope(rng, NH, T, HS):
    return {"x": rng.standard_normal((NH, T, HS))}


def grouped(rng, NH, NKV, T, HS):
    shapes = {"q": (NH, T, HS), "k": (NKV, T, HS), "v": (NKV, T, HS)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def adamw(rng, C, **settings):
    config = gpt2.GPT2Config(3, 5, 2, 1, C)
    params, *steps = (random_tensors(rng, config) for _ in range(4))
    return {"params": params, "steps": steps, "settings": settings}


def layer(page, name, shapes, inputs, **gradients):
    return Exercise(page, f"{name}_backward", f"{name}_forward", shapes, inputs, **gradients)


def sizes(names, *rows):
    return [dict(zip(names.split(), row, strict=True)) for row in rows]


# No two letters have the same ratio in all cases, or a factor would have two names
MODEL = sizes("B T NH HS L V maxT", (2, 3, 3, 1, 2, 5, 4), (4, 2, 2, 2, 1, 7, 5))
PARTS = sizes("B T NH HS L V maxT parts", (3, 2, 1, 3, 1, 5, 4, 2), (1, 4, 3, 1, 1, 4, 4, 3))
BLOCK = sizes("B T NH HS", (2, 3, 2, 2), (4, 2, 1, 5))
ADAMW = sizes(
    "C lr beta1 beta2 eps weight_decay",
    (3, 0.1, 0.9, 0.99, 1e-8, 0.1),
    (2, 0.03, 0.8, 0.95, 0.05, 0.3),
)
# Runs of a letter, where places overlap; pairs that are equally frequent; tokens of two and more
WORDS = sizes(
    "words times",
    ([b"banana", b"bandana"], [2, 1]),
    ([b"aaab", b"bbaa", b"aaaaa"], [2, 1, 3]),
    ([b"mn", b"ab", b"yz", b"op", b"qr", b"s"], [2, 2, 2, 2, 1, 5]),
    ([[98, 256, 256, 97], [98, 256, 100, 256, 97]], [2, 1]),
)
MERGES = sizes(
    "word merges",
    (b"ananabandana", [(97, 110), (98, 256), (256, 97), (257, 258)]),
    (b"aaabaaaaab", [(97, 97), (97, 98), (256, 257), (256, 258)]),
    (b"abcabcc", [(98, 99), (97, 98), (97, 256), (258, 258)]),
    (b"abcbcbc", [(98, 99), (97, 98), (256, 256)]),
    (b"x", [(120, 121)]),
)
EXERCISES = {
    "product": layer(
        "rules", "product", sizes("N C OC", (3, 3, 3), (4, 3, 5), (1, 2, 3)), product,
        returns=("x",), fills=("w",),
    ),
    "bias": layer(
        "rules", "bias", sizes("B T C", (3, 3, 3), (2, 5, 3), (1, 4, 2)), bias,
        returns=("x",), fills=("p", "b"),
    ),
    "softmax": layer(
        "softmax", "softmax", sizes("N S", (4, 4), (3, 5), (1, 6)), softmax, returns=("x",)
    ),
    "crossentropy": layer(
        "head", "crossentropy", sizes("N V", (4, 4), (6, 5), (3, 7)), crossentropy,
        returns=("logits",),
    ),
    "gelu": layer("gelu", "gelu", sizes("N C", (4, 4), (3, 5), (1, 7)), gelu, returns=("x",)),
    "layernorm": layer(
        "layernorm", "layernorm", sizes("N C", (4, 4), (3, 5), (1, 6)), layernorm,
        returns=("x",), fills=("w", "b"),
    ),
    "embedding": layer(
        "embedding", "embedding",
        sizes("B T C V maxT", (3, 3, 3, 6, 5), (2, 5, 3, 4, 7), (1, 2, 4, 3, 2)), embedding,
        fills=("wpe",), adds=("wte",),
    ),
    "attention_head": layer(
        "attention", "attention_head", sizes("T S HS", (4, 4, 4), (3, 5, 2), (1, 4, 3)),
        attention_head, returns=("q", "k", "v"),
    ),
    "attention": layer(
        "attention", "attention",
        sizes("B T NH HS", (2, 2, 2, 2), (3, 4, 2, 5), (1, 5, 3, 2)), attention, returns=("qkv",),
    ),
    "block": layer("block", "block", BLOCK, block, returns=("x",), fills=("p",)),
    "tied": layer(
        "model", "gpt2", MODEL, tied, fills=("params",), overwrites=("cache[3][0]",)  # probs
    ),
    "adamw": Exercise(
        "adamw", "adamw_update", "",
        ADAMW, adamw,
    ),
    "accumulate": Exercise("accumulation", "accumulate", "", PARTS, accumulate, fills=("params",)),
    "flash": layer(
        "flash_attention", "flash", sizes("T HS", (4, 4), (5, 2), (2, 3)), flash,
        returns=("q", "k", "v"),
    ),
    "pieces": layer(
        "recompute", "pieces", sizes("N C V rows", (5, 3, 4, 2), (7, 2, 5, 3), (3, 4, 2, 4)),
        pieces, returns=("x",), fills=("wte",),
    ),
    "lora": layer(
        "lora", "lora", sizes("N C OC R", (3, 3, 3, 3), (5, 4, 3, 2), (2, 3, 5, 1)), lora,
        returns=("x",), fills=("A", "B"),
    ),
    "pairs": Exercise("bpe", "best_pair", "", WORDS, pairs),
    "encode": Exercise("bpe", "encode", "", MERGES, encode),
    "rms": layer(
        "llama", "rms", sizes("N C", (4, 4), (3, 5), (1, 6)), rms, returns=("x",), fills=("w",)
    ),
    "rope": layer("llama", "rope", sizes("NH T HS", (4, 4, 4), (3, 5, 2), (1, 3, 6)), rope,
        returns=("x",)),
    "grouped": layer(
        "llama", "grouped", sizes("NH NKV T HS", (4, 2, 3, 3), (6, 2, 4, 2), (3, 1, 5, 2)), grouped,
        returns=("q", "k", "v"),
    ),
}  # fmt: skip


# ----------------------------------------------------------------------------
# Calls


def leaves(tree, name=""):
    """Return the arrays in a nest of dicts and sequences, by name."""
    if isinstance(tree, np.ndarray):
        return {name: tree}
    if isinstance(tree, dict):
        branches = tree.items()
    elif isinstance(tree, tuple | list):
        branches = [(name, branch) for branch in tree]
        if not all(isinstance(branch, np.ndarray) for branch in tree) or len(tree) > 1:
            branches = [(f"{name}[{i}]", branch) for i, branch in enumerate(tree)]
    else:
        branches = []
    return {leaf: a for key, branch in branches for leaf, a in leaves(branch, key).items()}


def cast(tree, dtype):
    """Return a copy of a nest, with its arrays of floating-point numbers in this dtype, if any."""
    if isinstance(tree, np.ndarray):
        return tree.astype(dtype if dtype and tree.dtype.kind == "f" else tree.dtype)
    if isinstance(tree, dict):
        return {name: cast(branch, dtype) for name, branch in tree.items()}
    if isinstance(tree, tuple | list) and not hasattr(tree, "_fields"):
        return type(tree)(cast(branch, dtype) for branch in tree)
    return tree


def letters(name, case):
    """Return the sizes of a case by their letters, those that follow from others as well."""
    found = {} if name in TOKENS else dict(case)
    if name in ("tied", "accumulate"):  # whose layers are the lesson's
        found = {a: size for a, size in case.items() if a in ("parts", "B", "T", "V")}
    if "NH" in found:
        found["C"] = found["NH"] * found["HS"]
    if "B" in found:
        found["N"] = found["B"] * found["T"]
    return found


def parts(name, gradients, inputs):
    """Return gradients by the names that a report uses: dqkv is dq, dk and dv."""
    if name == "attention":
        dqkv, B, NH = gradients["dqkv"], inputs["B"], inputs["NH"]
        split = dqkv.reshape(B, len(dqkv) // B, 3, NH, -1).transpose(2, 3, 0, 1, 4)
        return dict(zip(("dq", "dk", "dv"), split, strict=True))
    return gradients


def token_arrays(name, result):
    """Return what a function of TOKENS returned, as arrays by name. Raises TypeError and others."""
    if name == "encode":
        return {"tokens": np.array([operator.index(token) for token in result], int)}
    counts, pair = result
    rows = sorted([operator.index(i) for i in (*ab, n)] for ab, n in counts.items() if n)
    pair = np.array([operator.index(token) for token in pair], int)
    return {"counts": np.array(rows, int).reshape(-1, 3), "pair": pair}


def whole(batches):
    """Return tokens and targets of one batch that has all of these batches."""
    return [np.concatenate(arrays) for arrays in zip(*batches, strict=True)]


def lesson_functions(lesson=gpt2):
    """
    Return the lesson's functions under the names that they have in the exercises.

    Softmax alone is attention whose keys and values pick one number each; a bias is a linear
    layer's, or an embedding of positions; and so on. So an error in the lesson's function shows in
    the exercise. lesson: the module, or what some of its functions are replaced by.
    """

    def product_backward(dout, cache, dw):
        x, w = cache
        return lesson.linear_backward(dout, (x, w.T), dw.T, np.empty_like(w[0]))

    def bias_backward(dout, cache, dp, db):
        B, T, C = dout.shape
        dx, flat = np.zeros((B * T, C), dout.dtype), dout.reshape(-1, C)
        lesson.embedding_backward(flat, np.arange(B * T).reshape(B, T), dx, dp)
        lesson.linear_backward(flat, (flat, np.eye(C, dtype=dout.dtype)), np.empty((C, C)), db)
        return dx.reshape(B, T, C)

    def attention_head_forward(q, k, v):
        att = lesson.softmax(q @ k.T / np.sqrt(q.shape[1], dtype=q.dtype))
        return att @ v, (q, k, v, att)

    def attention_head_backward(dout, cache):
        gradients = lesson.attend_backward(*(array[None, None] for array in (dout, *cache)))
        return tuple(gradient[0, 0] for gradient in gradients)

    def softmax_backward(dout, cache):
        (probs,) = cache
        pick = np.eye(probs.shape[1], dtype=probs.dtype)
        scaled = pick * np.sqrt(probs.shape[1], dtype=probs.dtype)
        return attention_head_backward(dout, (probs, scaled, pick, probs))[0]

    def crossentropy_forward(logits, targets):
        pick = np.eye(logits.shape[1], dtype=logits.dtype)
        return lesson.head_forward(logits, pick, targets)

    def crossentropy_backward(dloss, cache):
        probs, *others = cache
        cache = probs.copy(), *others  # because the lesson overwrites it
        return lesson.head_backward(dloss, cache, np.empty_like(cache[-1]))

    def softmax_forward(x):
        probs = lesson.softmax(x)
        return probs, (probs,)

    def accumulate(params, config, batches, grads):
        loss, cache = gpt2.gpt2_forward(params, config, *whole(batches))
        lesson.gpt2_backward(1.0, cache, grads)
        return loss

    def flash_forward(q, k, v):
        preatt = q @ k.T / np.sqrt(q.shape[1], dtype=q.dtype)
        exp = np.exp(preatt) * np.tri(len(q), dtype=q.dtype)
        total = exp.sum(1, keepdims=True)
        return exp / total @ v, (q, k, v, exp @ v / total, np.log(total))

    def flash_backward(dout, cache):
        q, k, v, _, logsum = cache
        att = np.exp(q @ k.T / np.sqrt(q.shape[1], dtype=q.dtype) - logsum)
        return attention_head_backward(dout, (q, k, v, att * np.tri(len(q), dtype=q.dtype)))

    def pieces_forward(x, wte, targets, rows):
        return lesson.head_forward(x, wte, targets)[0], (x, wte, targets, rows)

    def pieces_backward(dloss, cache, dwte):
        return lesson.head_backward(dloss, lesson.head_forward(*cache[:3])[1], dwte)

    def lora_forward(x, w, b, A, B, scale):
        low = x @ A.T
        return x @ w.T + b + scale * (low @ B.T), (x, low, w, A, B, scale)

    def lora_backward(dout, cache, dA, dB):
        x, low, w, A, B, scale = cache
        nowhere = np.empty_like(w[0]), np.empty_like(w), np.empty_like(w[:, 0])
        dlow = lesson.linear_backward(scale * dout, (low, B), dB, nowhere[2])
        dx = lesson.linear_backward(dlow, (x, A), dA, np.empty_like(A[:, 0]))
        return dx + lesson.linear_backward(dout, (x, w), *nowhere[1:])

    def rope_forward(x):
        turns = llama.turns_of(0, *x.shape[1:], x.dtype)
        return llama.rotate(x[:, None], turns=turns)[:, 0], tuple(turns)

    def rope_backward(dout, cache):
        return llama.rotate_backward(dout[:, None], np.stack(cache))[:, 0]

    def grouped_forward(q, k, v):
        group = len(q) // len(k)
        k, v = k.repeat(group, 0), v.repeat(group, 0)
        att = lesson.softmax(q @ k.mT / np.sqrt(q.shape[-1], dtype=q.dtype))
        return att @ v, (q, k, v, att, group)

    def grouped_backward(dout, cache):
        group = cache[-1]
        dq, *copies = (d[0] for d in lesson.attend_backward(*(a[None] for a in (dout, *cache[:4]))))
        return dq, *(d.reshape(-1, group, *d.shape[1:]).sum(1) for d in copies)

    own = (product_backward, bias_backward, attention_head_forward, attention_head_backward)
    own += (rope_forward, rope_backward, grouped_forward, grouped_backward)
    own += (flash_forward, flash_backward, pieces_forward, pieces_backward)
    own += (lora_forward, lora_backward)
    own += (softmax_forward, softmax_backward, crossentropy_forward, crossentropy_backward)
    own = {function.__name__: function for function in (*own, accumulate)}
    own["rms_forward"], own["rms_backward"] = llama.rmsnorm_forward, llama.rmsnorm_backward
    own["product_forward"] = lambda x, w: (gpt2.matmul(x, w), (x, w))
    own["best_pair"] = getattr(lesson, "pairs", answers.pairs)  # as mistakes.py changes them
    own["encode"] = getattr(lesson, "encode", answers.encode)
    own["bias_forward"] = lambda x, p, b: (x + p + b, ())
    return SimpleNamespace(**(vars(lesson) | own))


LESSON = lesson_functions()
NO_POOL = SimpleNamespace(map=map)  # takes the place of the lesson's POOL: no other thread


def loss_of(name, inputs):
    """Return out, or the loss, of the forward pass as it is given: the lesson's."""
    if name == "accumulate":
        params, config, batches = inputs.values()
        return gpt2.gpt2_forward(params, config, *whole(batches))[0]
    return getattr(LESSON, EXERCISES[name].forward)(*inputs.values())[0]


def finite_difference(f, x, h=1e-4):
    """
    The gradient of f(), a number, with respect to the array x, which f reads and which we nudge.

    Of four points, so that the error is O(h**4) (Abramowitz & Stegun, 25.3.6).
    """
    gradient, flat = np.empty(x.shape), x.reshape(-1)
    for i in range(flat.size):
        value, at = flat[i], {}
        for nudge in (-2, -1, 1, 2):
            flat[i] = value + nudge * h
            at[nudge] = f()
        flat[i] = value
        gradient.flat[i] = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
    return gradient


def truth(name, inputs, dout):
    """Return the right gradients by name: by finite differences, but for AdamW, the lesson's."""
    exercise = EXERCISES[name]
    if name in TOKENS:
        return token_arrays(name, getattr(LESSON, exercise.function)(*inputs.values()))
    if name == "adamw":
        return adamw_changes(gpt2, inputs)
    gradients = {}
    for which in (*exercise.returns, *exercise.fills, *exercise.adds):
        for leaf, array in leaves(inputs[which], which).items():
            gradients[f"d{leaf}"] = finite_difference(
                lambda: float(np.sum(loss_of(name, inputs) * dout)), array
            )
    return parts(name, gradients, inputs)


def adamw_changes(module, inputs, unchanged=None):
    """
    Return how much three steps change params, m and v. module has adamw_update.

    unchanged(before, after, function) is called, if given, with the gradients of each step.
    """
    params = cast(inputs["params"], None)
    m, v = ({name: np.zeros_like(p) for name, p in params.items()} for _ in "mv")
    for step, grads in enumerate(inputs["steps"], 1):
        given, settings = cast(grads, None), inputs["settings"].values()
        module.adamw_update(dict(params), given, dict(m), dict(v), step, *settings)
        if unchanged:
            unchanged(grads, given, "adamw_update")
    changes = {name: p - inputs["params"][name] for name, p in params.items()}
    kinds = {"params": changes, "m": m, "v": v}
    return {f"{kind} of {n}": a for kind, tree in kinds.items() for n, a in tree.items()}
