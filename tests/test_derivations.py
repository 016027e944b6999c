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
from test_doc import OTHER, fences, read  # noqa: E402

TOKEN = re.compile(r"\s*(sum_[a-z]|[0-9.]+|[A-Za-z]+'?(?:_[a-z]+)?\(?|[-+*/^()\[\]=∂])")
FUNCTIONS = {"exp": math.exp, "sqrt": math.sqrt, "f": math.tanh}
FUNCTIONS["f'"] = lambda x: 1 - math.tanh(x) ** 2
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


def both(operation, left, right):
    return lambda values, at: operation(left(values, at), right(values, at))


class Formula:
    """A recursive descent over the tokens of an expression: each method returns f(values, at)."""

    def __init__(self, text):
        self.tokens, end = [], 0
        while text[end:].strip():
            found = TOKEN.match(text, end)
            if not found:
                raise SyntaxError(text[end:])
            self.tokens.append(found[1])
            end = found.end()
        self.i = 0
        self.f = self.sum()
        if self.i < len(self.tokens):
            raise SyntaxError(text)

    def peek(self):
        return self.tokens[self.i] if self.i < len(self.tokens) else ""

    def take(self, *wanted):
        token = self.peek()
        if wanted and token not in wanted:
            raise SyntaxError(f"{token!r} where one of {wanted} was expected")
        self.i += 1
        return token

    def sum(self):
        f = self.product()
        while self.peek() in ("+", "-"):
            f = both(operator.add if self.take() == "+" else operator.sub, f, self.product())
        return f

    def product(self):
        if self.peek() == "-":
            self.take()
            negated = self.product()
            return lambda v, at: -negated(v, at)
        f = self.power()
        while self.peek() in ("*", "/"):
            divided = self.take("*", "/") == "/"
            f = both(operator.truediv if divided else operator.mul, f, self.power())
        return f

    def power(self):
        base = self.atom()
        if self.peek() != "^":
            return base
        self.take("^")
        return both(operator.pow, base, self.atom())

    def atom(self):
        token = self.take()
        if token.startswith("sum_"):
            index, f = token[-1], self.product()
            return lambda v, at: sum(f(v, at | {index: i}) for i in range(v.sizes[index]))
        if token == "(":
            f = self.sum()
            self.take(")")
            return f
        if token == "[":
            left = self.sum()
            self.take("=")
            right = self.sum()
            self.take("]")
            return lambda v, at: float(left(v, at) == right(v, at))
        if token == "∂":
            f = self.atom()
            self.take("/")
            self.take("∂")
            name, _, indices = self.take().partition("_")
            return lambda v, at: v.moved(
                name, place(v, name, indices, at), lambda moved: f(moved, at)
            )
        if token.endswith("("):
            f, name = self.sum(), token[:-1]
            self.take(")")
            return lambda v, at: (
                FUNCTIONS[name](f(v, at)) if name in FUNCTIONS else v[name][f(v, at)]
            )
        if token[0].isdigit():
            return lambda v, at: float(token)
        if token[0].isalpha():
            name, _, indices = token.partition("_")
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
    letters = {"B": 2, "T": 3, "sqrt": math.sqrt} | {k: v for k, v in values.items()}
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


def rules():
    """Return a world for each block of rules.md with formulas."""
    rng = np.random.default_rng(0)
    normal, i = rng.standard_normal, np.array([2, 0, 2])
    vector, sizes = {"x": normal(3)}, {"i": 3, "j": 3}
    matrices = {"a": normal((2, 4)), "u": normal((4, 3))}
    chain = World(sizes, vector, {"y": lambda v: np.tanh(v["x"]) * v["x"].sum()}, normal(3))
    product = World(
        {"i": 2, "p": 2, "k": 4, "j": 3, "q": 3}, matrices, {"y": lambda v: v["a"] @ v["u"]},
        normal((2, 3)),
    )  # fmt: skip
    stack = {"y": lambda v: v["x"] * 1, "z": lambda v: v["x"] * 1}
    fork = World(
        sizes, vector, stack | {"yz": lambda v: np.stack([v["y"], v["z"]])}, normal((2, 3))
    )
    return [
        chain, chain,
        World(sizes, {"a": normal(3), "b": normal(3)}, {"y": lambda v: v["a"] + v["b"]}, normal(3)),
        fork,
        World({"n": 3, "c": 2}, {"x": normal((3, 2)), "b": normal(2)},
              {"y": lambda v: v["x"] + v["b"]}, normal((3, 2))),
        World({"n": 3, "r": 4}, {"table": normal(4), "i": i}, {"y": lambda v: v["table"][i]},
              normal(3)),
        product, product, product,
        World(sizes, vector, {"y": lambda v: np.tanh(v["x"])}, normal(3)),
    ]  # fmt: skip


def embedding():
    rng = np.random.default_rng(0)
    tokens = np.array([[3, 0, 3], [1, 3, 0]])
    inputs = {"wte": rng.standard_normal((4, 2)), "wpe": rng.standard_normal((5, 2))}
    steps = {"out": lambda v: v["wte"][tokens] + v["wpe"][:3]}
    sizes, weights = {"b": 2, "t": 3, "c": 2, "u": 4, "r": 5}, rng.standard_normal((2, 3, 2))
    return World(sizes, inputs | {"tokens": tokens}, steps, weights)


def layernorm():
    rng = np.random.default_rng(0)
    inputs = {"x": 0.01 * rng.standard_normal((3, 4)), "C": np.array(4.0)}  # so that eps shows
    inputs |= {"w": rng.standard_normal(4), "b": rng.standard_normal(4)}
    steps = {
        "mean": lambda v: v["x"].mean(1),
        "variance": lambda v: v["x"].var(1),
        "rstd": lambda v: (v["variance"] + gpt2.LAYERNORM_EPS) ** -0.5,
        "norm": lambda v: (v["x"] - v["mean"][:, None]) * v["rstd"][:, None],
        "out": lambda v: v["norm"] * v["w"] + v["b"],
    }
    return World({"n": 3, "c": 4, "j": 4}, inputs, steps, rng.standard_normal((3, 4)))


def linear():
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((2, 3)), "w": rng.standard_normal((4, 3))}
    inputs["b"] = rng.standard_normal(4)
    steps = {"out": lambda v: v["x"] @ v["w"].T + v["b"]}
    return World({"n": 2, "c": 3, "o": 4}, inputs, steps, rng.standard_normal((2, 4)))


def attention():
    rng = np.random.default_rng(0)
    T, HS = 3, 2
    inputs = {name: rng.standard_normal((T, HS)) for name in "qkv"} | {"HS": np.array(HS)}
    future = np.triu(np.full((T, T), -np.inf), 1)
    steps = {
        "preatt": lambda v: v["q"] @ v["k"].T / math.sqrt(HS) + future,
        "total": lambda v: np.exp(v["preatt"]).sum(1),
        "att": lambda v: np.exp(v["preatt"]) / v["total"][:, None],
        "out": lambda v: v["att"] @ v["v"],
    }
    return World({"i": T, "j": T, "m": T, "h": HS}, inputs, steps, rng.standard_normal((T, HS)))


WORLDS = {"rules": rules(), "embedding": embedding(), "layernorm": layernorm()}
WORLDS |= {"linear": linear(), "attention": attention()}


def first_wrong(page, text):
    """Return the first formula of a page that is not true, or cannot be read; None if all are."""
    for number, chain in statements(text):
        world = WORLDS[page][number] if page == "rules" else WORLDS[page]
        try:
            if found := wrong(chain, world):
                return found
        except (
            SyntaxError,
            KeyError,
            IndexError,
            ValueError,
            TypeError,
            ZeroDivisionError,
        ) as error:
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
    lines = text.splitlines()
    for block in fences(text):
        for row in range(block.line, block.line + len(block.lines) * (block.kind == "other")):
            line = lines[row]
            if "=" not in line:
                continue
            for found in re.finditer(r"[-+*/]|[0-9](?!\.)|(?<=_)[a-z]{2,}\b", line):
                old, new = found[0], OTHER.get(found[0], found[0][::-1])
                if old.isdigit():
                    new = str((int(old) + 1) % 10)
                changed = line[: found.start()] + new + line[found.end() :]
                if changed not in AS_TRUE and old != new:
                    yield changed, "\n".join([*lines[:row], changed, *lines[row + 1 :]])


def survivors(page):
    text = read(page)
    assert not first_wrong(page, text)
    mutants = list(formula_mutants(text))
    return len(mutants), [line for line, mutant in mutants if not first_wrong(page, mutant)]


@pytest.mark.parametrize("page", WORLDS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_formulas_are_true_and_mutants_are_not(page):
    count, alive = survivors(page)
    assert not alive and count >= 5


def counts(page):
    """Return how many formulas a page has, and how many mutants of them."""
    text = read(page)
    return len(list(statements(text))), len(list(formula_mutants(text)))


def test_figures_of_the_start_page():
    formulas, mutants = map(sum, zip(*map(counts, WORLDS), strict=True))
    assert f"{formulas} formulas, {mutants} mutants of them, 0 not seen" in read("README")


def test_reader_of_formulas():
    world = World({"i": 2, "j": 2}, {"x": np.array([2.0, 3.0])}, {"y": lambda v: v["x"] ** 2}, 1.0)

    def true(formula):
        return not wrong(next(statements(f"```text\n{formula}\n```"))[1], world)

    assert true("y_i = x_i^2 = x_i * x_i") and not true("y_i = x_i^3") and not true("y_i = -x_i^2")
    assert true("∂y_j/∂x_i = 2 * [i = j] * x_i") and not true("∂y_j/∂x_i = 2 * x_i")
    assert true("dx_i = 2 * x_i     because sum_j x_j = 5") and true(
        "dx_i = sum_j dy_j * ∂y_j/∂x_i"
    )
    assert true("sum_i x_i - 1 = 4") and true("x_i / sum_j x_j = x_i / (2 + 3)")
    assert true("x_i = 2   if i < 1, else 3") and not true("x_i = 2   if i < 1, else 4")
    assert true("sum_i sum_j x_i * x_j = 5^2") and true("exp(-x_i) = 1/exp(x_i)")
    with pytest.raises(SyntaxError):
        true("y_i = x_i ? 2")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    totals = [0, 0, 0]
    for page in WORLDS:
        figures = *counts(page), len(alive := survivors(page)[1])
        print("\n".join([page + ": {} formulas, {} mutants, {} not seen".format(*figures), *alive]))
        totals = [a + b for a, b in zip(totals, figures, strict=True)]
    print("{} formulas, {} mutants of them, {} not seen".format(*totals))
    sys.exit(bool(totals[2]))
