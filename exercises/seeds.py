"""
Exercises whose answers stand on no page: variations of the layers, another set for each seed.

templates/ has their files. A line there that ends with "# or ..." has alternatives, of which a seed
takes one. What is right is a finite difference of the forward pass that is given. The grader has no
list of their mistakes, and nobody has written down their answers (but for the tests).
"""

import random
import re
import types

import cases
from cases import layer, sizes

FOLDER = cases.FOLDER / "templates"
HINTS = {
    "label_smoothing": "Each row's loss is a sum over i of wanted_i * (log sum_m exp(z_m) - z_i). "
    "Derive it with respect to z_j; what do the wanted add up to?",
    "z_loss": "log_z is log sum_i exp(z_i): its slope in z_j is a number that the cache has. The "
    "penalty goes through log_z alone, so that it only adds to the factor of that slope.",
    "masked_mean": "For the logits, the mask takes the place of the 1 in 1 / N. The mask itself is "
    "in a quotient, above and below: the quotient rule gives two terms for each row.",
    "exact_gelu": "A product of x and P(u); the slope of P is the bell curve. u reaches out by P "
    "alone, and both x and a reach u. a was broadcast.",
    "rmsnorm": "There are two ways from x_j to norm_i: directly, and through rms. The slope of rms "
    "in x_j is x_j / (C * rms), which is norm_j / C. It is layernorm with a term less.",
    "swiglu": "Read the forward pass upwards: a product, an element-wise product, a function of "
    "one number, two products. x forks. The slope of the sigmoid s is s * (1 - s).",
    "alibi": "To the scores all is as without the slopes: softmax, then products. A slope is in "
    "T * T scores, each time with the factor -far.",
    "rotary": "A turn is a product with a matrix for each position; its transpose turns back. The "
    "slope of a turned pair (a, b) in its angle is (-b, a): it moves at a right angle to itself.",
    "untied_head": "Read the forward pass upwards. embedding_backward adds to its first gradient; "
    "who has filled that here? And norm is read by the head, and perhaps x as well.",
}
GROUPS = (  # of each, as many are drawn
    (("label_smoothing", "z_loss", "masked_mean"), 2),
    (("exact_gelu", "rmsnorm", "swiglu"), 2),
    (("alibi", "rotary"), 1),
    (("untied_head",), 1),
)


# ----------------------------------------------------------------------------
# Inputs


def masked_mean(rng, N, V):
    mask = rng.random(N)
    mask[0] = 0
    return cases.crossentropy(rng, N, V) | {"mask": mask}


def exact_gelu(rng, N, C):
    return cases.gelu(rng, N, C) | {"a": 1 + rng.random(C)}


def rmsnorm(rng, N, C):
    inputs = cases.layernorm(rng, N, C)
    return {"x": inputs["x"], "w": inputs["w"]}


def swiglu(rng, N, C, H):
    shapes = {"x": (N, C), "wgate": (C, H), "wup": (C, H), "wdown": (H, C)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def alibi(rng, NH, T, HS):
    q, k, v = rng.standard_normal((3, NH, T, HS))
    return {"q": q, "k": k, "v": v, "slopes": rng.random(NH)}


def rotary(rng, NH, T, HS):
    q, k = rng.standard_normal((2, NH, T, HS))
    return {"q": q, "k": k, "speeds": rng.random(HS // 2)}


def untied_head(rng, B, T, C, V, maxT):
    shapes = {"wte": (V, C), "wpe": (maxT, C), "lnfw": C, "lnfb": C, "head": (V, C)}
    params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    tokens, targets = rng.integers(V, size=(2, B, T))
    return {"params": params, "tokens": tokens, "targets": targets}


ROWS = sizes("N V", (4, 4), (6, 5), (3, 7))
CHANNELS = sizes("N C", (4, 4), (3, 5), (1, 7))
HEADS = sizes("NH T HS", (4, 4, 4), (3, 5, 2), (1, 3, 6))
WEIGHTS = "wgate", "wup", "wdown"
VARIANTS = {
    "label_smoothing": layer(
        "head", "label_smoothing", ROWS, cases.crossentropy, returns=("logits",)
    ),
    "z_loss": layer("head", "z_loss", ROWS, cases.crossentropy, returns=("logits",)),
    "masked_mean": layer(
        "head", "masked_mean", ROWS, masked_mean, returns=("logits",), fills=("mask",)
    ),
    "exact_gelu": layer("gelu", "exact_gelu", CHANNELS, exact_gelu, returns=("x",), fills=("a",)),
    "rmsnorm": layer("layernorm", "rmsnorm", CHANNELS, rmsnorm, returns=("x",), fills=("w",)),
    "swiglu": layer(
        "linear", "swiglu", sizes("N C H", (3, 3, 3), (2, 4, 3), (1, 2, 5)), swiglu,
        returns=("x",), fills=WEIGHTS,
    ),
    "alibi": layer("attention", "alibi", HEADS, alibi, returns=("q", "k", "v"), fills=("slopes",)),
    "rotary": layer("attention", "rotary", HEADS, rotary, returns=("q", "k"), fills=("speeds",)),
    "untied_head": layer(
        "model", "untied_head", sizes("B T C V maxT", (2, 3, 4, 5, 3), (3, 2, 2, 4, 5)),
        untied_head, fills=("params",), overwrites=("cache[2][0]",),
    ),
}  # fmt: skip


# ----------------------------------------------------------------------------
# A seed's set


def folder_of(seed):
    return cases.HOME / f"variant_{seed}"


def drawn(seed):
    """Return the names of a seed's set, in the order of GROUPS."""
    rng, found = random.Random(f"variant {seed}"), []
    for names, count in GROUPS:
        some = rng.sample(names, count)
        found += [name for name in names if name in some]
    return found


def text_of(name, seed):
    """Return an exercise's file: the template, with one of each line's alternatives."""
    rng, lines = random.Random(f"{name} {seed}"), []
    for line in (FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"(.*?= )(.*)  # or (.*)", line):
            line = found[1] + rng.choice([found[2], *found[3].split(" or ")])
        lines.append(line)
    text = "\n".join([*lines, ""])
    how = f"    python exercises/check.py {name} --variant {seed}"
    return text.replace('\n"""\n', f'\n\n{how}\n"""\n', 1)


def use(seed, names=None):
    """Let the grader know a seed's exercises (or these), as they are given -> their names."""
    names = names or drawn(seed)
    for name in names:
        module = types.ModuleType(name)
        cases.TEXTS[name] = text_of(name, seed)
        exec(compile(cases.TEXTS[name], name, "exec"), vars(module))
        forward = VARIANTS[name].forward
        setattr(cases.LESSON, forward, getattr(module, forward))
        cases.EXERCISES[name] = VARIANTS[name]
        cases.PATHS[name] = folder_of(seed) / f"{name}.py"
    return names


def make(seed):
    """Write those files of a seed's set that are not there."""
    folder = folder_of(seed)
    folder.mkdir(exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    for name in drawn(seed):
        path = folder / f"{name}.py"
        if not path.exists():
            path.write_text(text_of(name, seed), encoding="utf-8")
