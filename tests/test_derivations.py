"""
The derivations in doc/ are true: each formula in a ```text block, evaluated at random numbers.

A gradient (dx) and a derivative (∂y_j/∂x_i) are what differences say, not what the lesson computes:
change one number, compute what follows from it, and look by how much the result moves.

A formula is a chain a = b = c; a line that begins with = goes on with the one before. Three spaces
separate formulas, or a formula from a remark; "if" is a condition, what comes behind "because" is a
formula, too. x_nc is an element, of the last row where its first indices are left out; sum_c is the
sum over c of the product to its right; [c = j] is 1 or 0. A formula in NumPy (it
has @ or .sum) is evaluated as Python.
"""

import itertools
import math
import operator
import re
import sys
import warnings
from collections import namedtuple
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import train_gpt2 as gpt2  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from test_doc import changed, fences, other, read  # noqa: E402

TOKEN = re.compile(r"\s*(sum_[a-z]|[0-9.]+|[A-Za-z]+'?(?:_[a-z]+)?\(?|[-+*/^()\[\]=∂])")
FUNCTIONS = {name: getattr(math, name) for name in ("exp", "log", "sqrt", "cos", "sin")}
FUNCTIONS["f"] = math.tanh
FUNCTIONS["f'"] = lambda x: 1 - math.tanh(x) ** 2
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
OPERATIONS |= {"/": operator.truediv, "^": operator.pow}
H = 1e-6  # of differences

# sizes: index -> how many; inputs: name -> array; steps: what follows from them, name -> function
# of a dict; the loss is the sum of weights * the last step
World = namedtuple("World", "sizes inputs steps weights")


class Values(dict):
    """All values of a world by name, some of them changed; gradients when they are asked for."""

    def __init__(self, world, changed=()):
        super().__init__(
            {"eps": np.array(gpt2.LAYERNORM_EPS), "inf": np.array(math.inf), **world.inputs}
        )
        self.world, self.sizes = world, world.sizes
        self.update(changed)
        for name, step in world.steps.items():
            if name not in changed:
                self[name] = step(self)
        last = list(world.steps)[-1]
        self["loss"] = (world.weights * self[last]).sum()

    def moved(self, name, index, f):
        """Return ∂f(values)/∂(the element of name at index)."""
        results = []
        for sign in 1, -1:
            value = np.array(self[name], float)
            value[index] += sign * H
            results.append(f(Values(self.world, {name: value})))
        return (results[0] - results[1]) / (2 * H)

    def __missing__(self, name):
        if name[0] != "d" or name[1:] not in self:
            raise KeyError(name)
        of = name[1:]
        value = np.zeros(np.shape(self[of]))
        for index in np.ndindex(value.shape):
            value[index] = self.moved(of, index, lambda values: values["loss"])
        self[name] = value
        return value


def both(sign, left, right):
    return lambda values, at: OPERATIONS[sign](left(values, at), right(values, at))


class Formula:
    """A recursive descent over the tokens of an expression: each method returns f(values, at)."""

    def __init__(self, text):
        self.tokens = TOKEN.findall(text)
        if TOKEN.sub("", text).strip():
            raise SyntaxError(text)
        self.f = self.sum()
        if self.tokens:
            raise SyntaxError(text)

    def accept(self, *wanted):
        """Take the next token if it is one of these -> the token; None if it is not."""
        return self.tokens.pop(0) if self.tokens and self.tokens[0] in wanted else None

    def expect(self, wanted):
        if not self.accept(wanted):
            raise SyntaxError(f"{wanted!r} was expected before {self.tokens}")

    def sum(self):
        f = self.product()
        while sign := self.accept("+", "-"):
            f = both(sign, f, self.product())
        return f

    def product(self):
        if self.accept("-"):
            negated = self.product()
            return lambda v, at: -negated(v, at)
        f = self.power()
        while sign := self.accept("*", "/"):
            f = both(sign, f, self.power())
        return f

    def power(self):
        f = self.atom()
        return both("^", f, self.atom()) if self.accept("^") else f

    def atom(self):
        token = self.tokens.pop(0)
        name, _, indices = token.partition("_")
        if name == "sum":
            f = self.product()
            return lambda v, at: sum(f(v, at | {indices: i}) for i in range(v.sizes[indices]))
        if token == "[":
            left = self.sum()
            self.expect("=")
            right = self.sum()
            self.expect("]")
            return lambda v, at: float(left(v, at) == right(v, at))
        if token == "∂":
            f = self.atom()
            self.expect("/")
            self.expect("∂")
            x, _, indices = self.tokens.pop(0).partition("_")
            return lambda v, at: v.moved(x, place(v, x, indices, at), lambda moved: f(moved, at))
        if token.endswith("("):
            f, name = self.sum(), token[:-1]
            self.expect(")")
            if name in FUNCTIONS:
                return lambda v, at: FUNCTIONS[name](f(v, at))
            return lambda v, at: v[name][f(v, at)] if name else f(v, at)
        if token[0].isdigit():
            return lambda v, at: float(token)
        if token[0].isalpha():
            return lambda v, at: at[name] if name in at else v[name][place(v, name, indices, at)]
        raise SyntaxError(token)


def place(values, name, indices, at):
    """Return where an element is in its array; indices left out in front mean the last row."""
    missing = np.ndim(values[name]) - len(indices)
    return (-1,) * missing + tuple(at[index] for index in indices)


def statements(text):
    """
    Yield the page's formulas in text blocks: the block's number, [(expression, condition)].

    The condition of the first expression may be a "where", which says what an index stands for.
    """
    blocks = [block for block in fences(text) if block.kind == "other"]
    for number, block in enumerate(blocks):
        chains = []
        for line in block.lines:
            for chunk in re.split(r"\s{3,}(?![\s=])", line.strip()):
                chunk = chunk.strip().removesuffix(", likewise").removeprefix("because ")
                if chunk.startswith("where "):
                    chains[-1][0] = chains[-1][0][0], chunk
                    continue
                if chunk.startswith("if "):
                    expression, _ = chains[-1][-1]
                    chains[-1][-1] = expression, chunk[3:]
                elif chunk.startswith("="):
                    chains[-1] += [(part, None) for part in parts(chunk)[1:]]
                elif len(parts(chunk)) > 1:
                    chains.append([(part, None) for part in parts(chunk)])
        yield from ((number, chain) for chain in chains)


def parts(chunk):
    """Cut a chain at its = signs, but not within [c = j]."""
    return [part.strip() for part in re.split(r"(?<![<>])=(?![^\[]*\])", chunk)]


def wrong(chain, world):
    """Return the part of a chain that does not equal its first one; None if all do."""
    values = Values(world)
    (first, where), *others = chain
    letter, _, token = (where or "").removeprefix("where ").partition(" = ")
    indices = "".join(dict.fromkeys("".join(re.findall(r"_([a-z]+)", first))))
    places = itertools.product(*(range(world.sizes[index]) for index in indices))
    places = [dict(zip(indices, place, strict=True)) for place in places]
    if where:
        places = [at | {letter: int(Formula(token).f(values, at))} for at in places]
    letters = {"B": 2, "T": 3, "sqrt": math.sqrt, **values}
    if "@" in str(chain) or ".sum" in str(chain):

        def evaluate(text, condition):
            for name in re.findall(r"\bd[a-z]+", text):
                letters[name] = values[name]
            return [eval(text, {"__builtins__": {}}, letters)]
    else:

        def evaluate(text, condition):
            f, (condition, _, other) = Formula(text).f, (condition or "True").partition(", else ")
            g = Formula(other).f if other else lambda values, at: None
            return [(f if eval(condition, {}, letters | at) else g)(values, at) for at in places]

    wanted = evaluate(first, None)
    for text, condition in others:
        for a, b in zip(wanted, evaluate(text, condition), strict=True):
            if b is not None and not (np.shape(a) == np.shape(b) and close(a, b)):
                return f"{first} = {text}"
    return None


def close(a, b):
    return np.array_equal(a, b) or np.abs(a - b).max() < 1e-5 * max(1e-3, np.abs(a).max())


normal = np.random.default_rng(0).standard_normal


def world(sizes, inputs, steps, shape):
    """Return a World: the last step has this shape; inputs are shapes, or arrays as they are."""
    arrays = {n: a if isinstance(a, np.ndarray) else normal(a) for n, a in inputs.items()}
    return World(sizes, arrays, steps, normal(shape))


THREE, I = {"i": 3, "j": 3}, np.array([2, 0, 2])
TOKENS = np.array([[3, 0, 3], [1, 3, 0]])
FUTURE = np.triu(np.full((3, 3), -np.inf), 1)

VECTOR = world(THREE, {"x": 3}, {"y": lambda v: np.tanh(v["x"]) * v["x"].sum()}, 3)
COPIES = {"y": lambda v: v["x"] * 1, "z": lambda v: v["x"] * 1}
STACK = {"yz": lambda v: np.stack([v["y"], v["z"]])}
MATRICES = {"a": (2, 4), "u": (4, 3)}, {"y": lambda v: v["a"] @ v["u"]}, (2, 3)
PRODUCT = world({"i": 2, "p": 2, "k": 4, "j": 3, "q": 3}, *MATRICES)

RMSNORM = world(
    {"n": 3, "c": 4, "j": 4},
    {"x": 0.1 * normal((3, 4)), "w": 4, "C": np.array(4.0)},
    {
        "rrms": lambda v: (np.square(v["x"]).mean(1) + gpt2.LAYERNORM_EPS) ** -0.5,
        "norm": lambda v: v["x"] * v["rrms"][:, None],
        "out": lambda v: v["norm"] * v["w"],
    },
    (3, 4),
)
STEP = 10000.0 ** (-np.arange(0, 6, 2) / 6)
TURN = {
    "a'": lambda v: v["a"] * np.cos(v["angle"]) - v["b"] * np.sin(v["angle"]),
    "b'": lambda v: v["a"] * np.sin(v["angle"]) + v["b"] * np.cos(v["angle"]),
    "out": lambda v: np.stack([v["a'"], v["b'"]]),
}
ROTARY = world(
    {"t": 4, "i": 3},
    {"a": (4, 3), "b": (4, 3), "HS": np.array(6.0), "angle": np.outer(np.arange(4), STEP)},
    TURN,
    (2, 4, 3),
)
SCORE = world(
    {},
    {name: () for name in "abcdpq"},
    {
        "a'": lambda v: v["a"] * np.cos(v["p"]) - v["b"] * np.sin(v["p"]),
        "b'": lambda v: v["a"] * np.sin(v["p"]) + v["b"] * np.cos(v["p"]),
        "c'": lambda v: v["c"] * np.cos(v["q"]) - v["d"] * np.sin(v["q"]),
        "d'": lambda v: v["c"] * np.sin(v["q"]) + v["d"] * np.cos(v["q"]),
        "along": lambda v: v["a"] * v["c"] + v["b"] * v["d"],
        "cross": lambda v: v["a"] * v["d"] - v["b"] * v["c"],
        "score": lambda v: v["a'"] * v["c'"] + v["b'"] * v["d'"],
    },
    (),
)
SWIGLU = world(
    {"n": 2, "h": 3},
    {"gate": (2, 3), "up": (2, 3)},
    {
        "s": lambda v: 1 / (1 + np.exp(-v["gate"])),
        "out": lambda v: v["gate"] * v["s"] * v["up"],
    },
    (2, 3),
)

WORLDS = {  # by page; or one for each block with formulas
    "rules": [
        *[VECTOR] * 2,
        world(THREE, {"a": 3, "b": 3}, {"y": lambda v: v["a"] + v["b"]}, 3),
        world(THREE, {"x": 3}, COPIES | STACK, (2, 3)),
        world({"n": 3, "c": 2}, {"x": (3, 2), "b": 2}, {"y": lambda v: v["x"] + v["b"]}, (3, 2)),
        world({"n": 3, "r": 4}, {"table": 4, "i": I}, {"y": lambda v: v["table"][I]}, 3),
        *[PRODUCT] * 3,
        world(THREE, {"x": 3}, {"y": lambda v: np.tanh(v["x"])}, 3),
    ],
    "embedding": world(
        {"b": 2, "t": 3, "c": 2, "u": 4, "r": 5},
        {"wte": (4, 2), "wpe": (5, 2), "tokens": TOKENS},
        {"out": lambda v: v["wte"][TOKENS] + v["wpe"][:3]},
        (2, 3, 2),
    ),
    "layernorm": world(
        {"n": 3, "c": 4, "j": 4},
        {"x": 0.1 * normal((3, 4)), "w": 4, "b": 4, "C": np.array(4.0)},  # so that eps shows
        {
            "mean": lambda v: v["x"].mean(1),
            "centered": lambda v: v["x"] - v["mean"][:, None],
            "variance": lambda v: np.square(v["centered"]).mean(1),
            "rstd": lambda v: (v["variance"] + gpt2.LAYERNORM_EPS) ** -0.5,
            "norm": lambda v: v["centered"] * v["rstd"][:, None],
            "out": lambda v: v["norm"] * v["w"] + v["b"],
        },
        (3, 4),
    ),
    "softmax": world(
        {"n": 3, "i": 4, "j": 4},
        {"x": (3, 4)},
        {
            "e": lambda v: np.exp(v["x"]),
            "total": lambda v: v["e"].sum(1),
            "inv": lambda v: 1 / v["total"],
            "p": lambda v: v["e"] * v["inv"][:, None],
        },
        (3, 4),
    ),
    "linear": world(
        {"n": 2, "c": 3, "o": 4},
        {"x": (2, 3), "w": (4, 3), "b": 4},
        {"out": lambda v: v["x"] @ v["w"].T + v["b"]},
        (2, 4),
    ),
    "attention": world(
        {"i": 3, "j": 3, "m": 3, "h": 2},
        {"q": (3, 2), "k": (3, 2), "v": (3, 2), "HS": np.array(2)},
        {
            "preatt": lambda v: v["q"] @ v["k"].T / math.sqrt(2) + FUTURE,
            "total": lambda v: np.exp(v["preatt"]).sum(1),
            "att": lambda v: np.exp(v["preatt"]) / v["total"][:, None],
            "out": lambda v: v["att"] @ v["v"],
        },
        (3, 2),
    ),
    "flash_attention": world(
        {"i": 3, "j": 3, "m": 3, "h": 2},
        {name: (3, 2) for name in "qkv"} | {"most": np.array(0.3), "more": np.array(0.7)},
        {
            "preatt": lambda v: v["q"] @ v["k"].T / math.sqrt(2) + FUTURE,
            "logsum": lambda v: np.log(np.exp(v["preatt"]).sum(1)),
            "att": lambda v: np.exp(v["preatt"] - v["logsum"][:, None]),
            "out": lambda v: v["att"] @ v["v"],
        },
        (3, 2),
    ),
    "lora": world(
        {"n": 2, "c": 3, "o": 4, "r": 2},
        {"x": (2, 3), "w": (4, 3), "b": 4, "A": (2, 3), "B": (4, 2), "scale": np.array(1.7)},
        {
            "low": lambda v: v["x"] @ v["A"].T,
            "out": lambda v: v["x"] @ v["w"].T + v["b"] + v["scale"] * v["low"] @ v["B"].T,
        },
        (2, 4),
    ),
    "llama": [RMSNORM, ROTARY, SWIGLU, RMSNORM, ROTARY, SCORE, SWIGLU],
}


def first_wrong(page, text):
    """Return the first formula of a page that is not true, or cannot be read; None if all are."""
    worlds = WORLDS[page]
    for number, chain in statements(text):
        try:
            if found := wrong(chain, worlds[number] if isinstance(worlds, list) else worlds):
                return found
        except (SyntaxError, LookupError, ValueError, TypeError, ZeroDivisionError) as error:
            return f"{chain}: {error!r}"
    return None


# Mutants that are as true, because ∂out_nc/∂b_c is 1, and the sum of x_c - mean is 0
AS_TRUE = """
db_c     = sum_n dout_nc / ∂out_nc/∂b_c = sum_n dout_nc
∂variance/∂x_j = (1/C) * sum_c 2 * (x_c + mean) * ([c = j] - 1/C)
∂variance/∂x_j = (1/C) * sum_c 2 * (x_c - mean) * ([c = j] + 1/C)
∂variance/∂x_j = (1/C) * sum_c 2 * (x_c - mean) * ([c = j] - 2/C)
∂variance/∂x_j = (1/C) * sum_c 2 * (x_c - mean) * ([c = j] - 1*C)
               = (2/C) * (x_j - mean) + (2/C^2) * sum_c (x_c - mean)
               = (2/C) * (x_j - mean) - (3/C^2) * sum_c (x_c - mean)
               = (2/C) * (x_j - mean) - (2*C^2) * sum_c (x_c - mean)
               = (2/C) * (x_j - mean) - (2/C^3) * sum_c (x_c - mean)
""".splitlines()


def formula_mutants(text):
    """Yield (line, changed page): a sign, operator or digit changed, or two indices swapped."""
    for block in fences(text):
        for row, line in enumerate(block.lines, block.line):
            if block.kind != "other" or "=" not in line:
                continue
            formula = re.split(r"\s{3,}rule \d", line)[0]  # what is behind it says by which rule
            for found in re.finditer(r"[-+*/]|[0-9](?!\.)|(?<=_)[a-z]{2,}\b", formula):
                old = found[0]
                new = old[::-1] if old.isalpha() else other(old)
                mutant = changed(text, row, found.start(), old, new)
                if mutant[0] not in AS_TRUE and old != new:
                    yield mutant


def survivors(page):
    """Return how many formulas a page has, how many mutants of them, and which are not seen."""
    text = read(page)
    assert not first_wrong(page, text)
    mutants = list(formula_mutants(text))
    alive = [line for line, mutant in mutants if not first_wrong(page, mutant)]
    return len(list(statements(text))), len(mutants), alive


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_formulas_are_true_and_mutants_are_not():
    formulas, mutants, alive = zip(*map(survivors, WORLDS), strict=True)
    assert not sum(alive, [])
    assert min(mutants) >= 5
    counts = f"{sum(formulas)} formulas, {sum(mutants)} mutants of them, 0 not seen"
    assert counts in read("README")


def test_reader_of_formulas():
    squares = World({"i": 2, "j": 2}, {"x": np.array([2.0, 3.0])}, {"y": lambda v: v["x"] ** 2}, 1)

    def true(formula):
        return not wrong(next(statements(f"```text\n{formula}\n```"))[1], squares)

    assert true("y_i = x_i^2 = x_i * x_i") and not true("y_i = x_i^3") and not true("y_i = -x_i^2")
    assert true("∂y_j/∂x_i = 2 * [i = j] * x_i") and not true("∂y_j/∂x_i = 2 * x_i")
    assert true("dx_i = 2 * x_i     because sum_j x_j = 5")
    assert true("dx_i = sum_j dy_j * ∂y_j/∂x_i")
    assert true("sum_i x_i - 1 = 4") and true("x_i / sum_j x_j = x_i / (2 + 3)")
    assert true("x_i = 2   if i < 1, else 3") and not true("x_i = 2   if i < 1, else 4")
    assert true("sum_i sum_j x_i * x_j = 5^2") and true("exp(-x_i) = 1/exp(x_i)")
    with pytest.raises(SyntaxError):
        true("y_i = x_i ? 2")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    totals = [0, 0, 0]
    for page in WORLDS:
        *figures, alive = survivors(page)
        figures.append(len(alive))
        print("\n".join([page + ": {} formulas, {} mutants, {} not seen".format(*figures), *alive]))
        totals = [a + b for a, b in zip(totals, figures, strict=True)]
    print("{} formulas, {} mutants of them, {} not seen".format(*totals))
    sys.exit(bool(totals[2]))
