"""
Mistakes made by rule: what a right answer becomes by one small change, and what that is called.

A learner's mistake is most often one operand, one axis, one factor or one sign away from what is
right. So the grader tries all of these changes of answers.py; mistakes.py has what no rule makes.
"""

import ast
import copy
import functools
import inspect
import itertools
import re
from types import SimpleNamespace

import answers
import cases
import numpy as np

LONG = 16  # letters of a piece of code that a report may show: more would give the answer away
WHOLE = {"cache", "params", "grads", "config", "batches", "part"}  # names of no array
CONSTANTS = {
    "beta1": (0.9,), "beta2": (0.999, 0.99, 0.95), "eps": (1e-6, 1e-5),
    "lr": (0.1, 0.01, 1e-3), "weight_decay": (0.1, 0.01),
}  # fmt: skip
# What may be wrong from the first line on
FIRST = {
    "adamw": [
        (f"{value:g} stands where {setting} belongs", f"{setting} = {value}")
        for setting, values in CONSTANTS.items()
        for value in values
    ],
    "accumulate": [
        ("only the first batch counts", "batches = batches[:1]"),
        ("only the last batch counts", "batches = batches[-1:]"),
    ],
    "rope": [("it is turned on, where it should be turned back", "cache = cache[0], -cache[1]")],
}
LATE = r"[A-Za-z] stands where 1 |1 - \w+ stands| too much$"  # what is said if nothing else fits
WORDS = {
    "row_sum": "the row's sum",
    "onehot": "the 1 at the target",
    "u": "the argument of tanh",
    "du": "the inner derivative",
    "sech2": "1 - tanh^2",
    "by_x": "the term where x itself is derived",
    "by_tanh": "the term through tanh",
    "mean_dnorm": "the mean of dnorm",
    "along_norm": "the mean of dnorm * norm",
    "dscaled": "the gradient of q @ k.T",
    "weights": "the sum of the weights",
    "through_ln1": "what comes from ln1",
    "through_ln2": "what comes from ln2",
    "part": "the gradient of one batch",
    "share": "a piece's share of the rows",
    "seen": "the mask",
    "dadded": "the gradient of what is added",
    "through_A": "what comes through A",
    "through_rms": "the term through the root mean square",
}

# A piece of an answer; what it becomes; what is wrong. _a and so on stand for any expression.
# Where the last ends with "is missing", it is a term of a sum, as in mistakes.py.
RULES = """
_a * _b              | _b                   | the factor _a is left out
_a * _b              | _a                   | the factor _b is left out
_a * _b              | _a * _b * _a         | the factor _a comes twice
_a * _b              | _a * _b * _b         | the factor _b comes twice
_a * _b              | _a / _b              | it is divided by _b, where it should be multiplied
_a * _b              | _b / _a              | it is divided by _a, where it should be multiplied
_a * _b              | _a + _b              | _b is added, where it should be a factor
_a * _b              | np.sqrt(_a * _b)     | a root is taken of _a * _b
_a / _b              | _a                   | the division by _b is left out
_a / _b              | _a / _b / _b         | it is divided by _b twice
_a / _b              | _a * _b              | it is multiplied with _b, where it should be divided
_a / _b              | _b / _a              | the quotient is upside down
_a @ _b              | _b @ _a              | the two are multiplied in the wrong order
_a @ _b              | _a * _b              | it is multiplied by elements, not as matrices
_a @ _b              | _a.mT @ _b           | _a is transposed, which it should not be
_a @ _b              | _a @ _b.mT           | _b is transposed, which it should not be
_a @ _b              | _a                   | the product with _b is left out
_a @ _b              | _b                   | the product with _a is left out
_a + _b              | _a                   | the term _b is missing
_a + _b              | _b                   | the term _a is missing
_a + _b              | _a - _b              | the sign of _b is wrong
_a + _b              | _a * _b              | _b is a factor, where it should be added
_a - _b              | _a                   | the term _b is missing
_a - _b              | -_b                  | the term _a is missing
_a - _b              | _a + _b              | the sign of _b is wrong
(_a + _b) * _c       | _a + _b * _c         | the parentheses around _a + _b are missing
(_a - _b) * _c       | _a - _b * _c         | the parentheses around _a - _b are missing
_c * (_a + _b)       | _c * _a + _b         | the parentheses around _a + _b are missing
_c * (_a - _b)       | _c * _a - _b         | the parentheses around _a - _b are missing
(_a - _b) / _c       | _a - _b / _c         | the parentheses around _a - _b are missing
_a / (_b + _c)       | _a / _b + _c         | the parentheses around _b + _c are missing
_a / (_b / _c)       | _a / _b / _c         | the parentheses around _b / _c are missing
_a - _b ** 2         | (_a - _b) ** 2       | _a - _b is squared, where only _b should be
_a ** _b             | _a                   | _a is used, where _a ** _b belongs
_a ** _b             | abs(_a)              | the size of _a is used, where _a ** _b belongs
_a ** _b             | _a ** (_b + 1)       | the power of _a is one too high
_a ** _b             | _a ** (_b - 1)       | the power of _a is one too low
_a.mT                | _a                   | _a is not transposed
_a.T                 | _a                   | _a is not transposed
_a.mT                | _a.T                 | .T reverses all axes of _a, .mT swaps the last two
np.exp(_a - _b)      | np.exp(_a) / _b      | it is divided by _b, which is a logarithm
min(_a, _b)          | _a                   | _a is used for the last, shorter one as well
1 - _a ** 2          | np.sqrt(1 - _a ** 2) | sech is used, where sech^2 = 1 - _a^2 belongs
math.sqrt(_a)        | _a                   | the root of _a is left out
np.sqrt(_a)          | _a                   | the root of _a is left out
np.tanh(_a)          | _a                   | the tanh of _a is left out
_a.sum(_b)           | _a.mean(_b)          | a mean, where a sum belongs
_a.sum(0)            | _a.sum(-1)           | the sum is over the last axis, not over the first
_a.sum(0)            | _a.sum(1)            | the sum is over the second axis, not over the first
_a.sum(0)            | _a.sum()             | the sum is over all axes, not only the first
_a.sum(0)            | _a.sum((0, -1))[:, None] | the sum is over the last axis, too
_a.sum(0)            | _a.sum((0, 1))       | the sum is over the second axis, too
_a.sum((0, 1))       | _a.sum()             | the sum is over all axes, not only two
_a.sum((0, 1))       | _a.sum(0)[0]         | the sum is over the first axis only
_a.sum((0, 1))       | _a.sum(0)[-1]        | the sum is over the first axis only
_a.sum((0, 1))       | _a.sum(1)[0]         | the sum is over the second axis only
_a.sum((0, 1))       | _a.sum(1)[-1]        | the sum is over the second axis only
_a.sum(-1, keepdims=True) | _a.sum(-1, keepdims=True).sum() | the sum is over all rows, not over one
_a.sum(-1, keepdims=True) | _a.sum(0, keepdims=True) | the sum is over the wrong axis
_a.sum(-1, keepdims=True) | _a.sum(-2, keepdims=True) | the sum is over the wrong axis
_a.sum(-1, keepdims=True) | _a.max(-1, keepdims=True) | the maximum is taken, where the sum belongs
_a.mean(-1, keepdims=True) | _a.mean()           | the mean is over all rows, not over one
_a.mean(-1, keepdims=True) | _a.mean(0, keepdims=True) | the mean is over the wrong axis
_a.mean(-1, keepdims=True) | _a.mean(-1)         | keepdims=True is forgotten
_a.sum(-1, keepdims=True) | _a.sum(-1)          | keepdims=True is forgotten
_a.sum(1)            | _a[:, 0]             | only the first copy of a head counts
_a.sum(1)            | _a[:, -1]            | only the last copy of a head counts
_a.reshape(_b, _c, _d, _e).sum(1) | _a.reshape(_c, _b, _d, _e).sum(0) | a head's copies are adjacent
_a - through_rms | _a - _a.mean(-1, keepdims=True) - through_rms | the mean of _a is subtracted, too
np.stack(_a, -1).reshape(_b) | np.concatenate(_a, -1) | channels of a pair are adjacent
_a in _b             | True                 | the condition `_a in _b` is left out
_a in _b             | False                | the condition `_a in _b` never holds
_a in _b             | _a not in _b         | the condition `_a in _b` is the wrong way round
_a in _b             | p.ndim > 1           | the number of axes decides, where `_a in _b` should
"""


def parse(code):
    """Return the tree of an expression or a statement."""
    (statement,) = ast.parse(code).body
    return statement.value if isinstance(statement, ast.Expr) else statement


def is_blank(node):
    return isinstance(node, ast.Name) and node.id.startswith("_") and len(node.id) == 2


def match(pattern, node, found):
    """Whether a piece of code fits a pattern; found gets what stands for its blanks."""
    if is_blank(pattern):
        found[pattern.id] = node
        return True
    if isinstance(pattern, ast.AST):
        if type(pattern) is not type(node):
            return False
        fields = (f for f in pattern._fields if f not in ("ctx", "kind"))
        return all(match(getattr(pattern, f), getattr(node, f), found) for f in fields)
    if isinstance(pattern, list):
        return len(pattern) == len(node) and all(map(match, pattern, node, [found] * len(node)))
    return pattern == node


class Fill(ast.NodeTransformer):
    """Puts expressions where the blanks of a pattern are."""

    def __init__(self, found):
        self.found = found

    def visit_Name(self, node):
        return self.found.get(node.id, node)


def described(words, found):
    """Return what is wrong, with pieces of code in it; None if one is too long."""
    for blank, node in found.items():
        piece = ast.unparse(node)
        if blank in words and len(piece) > LONG:
            return None
        words = words.replace(blank, piece)
    return words


RULES = [[cell.strip() for cell in line.split(" | ")] for line in RULES.strip().splitlines()]
RULES = [(parse(a), b, words) for a, b, words in RULES]


def changes(node, names):
    """Yield what may be wrong in place of a piece of code, and what stands there then."""
    for pattern, becomes, words in RULES:
        found = {}
        words = match(pattern, node, found) and described(words, found)
        if words and "T is transposed, which" not in words:  # that is "is not transposed"
            yield words, Fill(found).visit(parse(becomes))
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names:
        kind = node.id.isupper(), "cache" in node.id
        for other in names:
            if other != node.id and (other.isupper(), "cache" in other) == kind:
                yield f"{other} stands where {node.id} belongs", ast.Name(other, ast.Load())
        if node.id.islower() and node.id not in WHOLE:
            yield f"1 - {node.id} stands where {node.id} belongs", parse(f"1 - {node.id}")
        if node.id in ("tokens", "targets", "step"):
            for sign, where in ("-", "small"), ("+", "large"):
                yield f"{node.id} are one too {where}", parse(f"{node.id} {sign} 1")
        if node.id in ("tokens", "targets"):
            yield f"the {node.id} of another row are used", parse(f"np.roll({node.id}, 1)")
            yield f"the {node.id} of another row are used", parse(f"np.roll({node.id}, -1)")
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        for other in {0, 1, 2, 3, node.value / 2, node.value * 2} - {node.value}:
            yield f"{other:g} stands where {node.value:g} belongs", ast.Constant(other)
        for name in names if node.value == 1 else ():
            yield f"{name} stands where 1 belongs", ast.Name(name, ast.Load())
    sums = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub)
    passes = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("_backward")
    if sums or passes:
        for name in names:
            yield f"{name} is added as well", ast.BinOp(node, ast.Add(), ast.Name(name, ast.Load()))
    if passes:
        skipped = parse(f"({ast.unparse(node)}, {ast.unparse(node.args[0])})[1]")
        yield f"what {node.func.id} returns is not used", skipped
    if isinstance(node, ast.Call):
        for i, (a, b) in enumerate(itertools.pairwise(node.args)):
            swapped = [*node.args[:i], b, a, *node.args[i + 2 :]]
            words = f"{ast.unparse(a)} and {ast.unparse(b)} are exchanged"
            yield words, ast.Call(node.func, swapped, node.keywords)
    if isinstance(node, ast.Name) and node.id in CONSTANTS:
        for value in CONSTANTS[node.id]:
            yield f"{value:g} stands where {node.id} belongs", ast.Constant(value)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "reversed":
        yield "the loop is in the order of the forward pass", node.args[0]
    if isinstance(node, ast.AugAssign):
        what = ast.unparse(node.target).partition("[")[0]
        back = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield f"{what} moves the wrong way", ast.AugAssign(node.target, back, node.value)
        yield f"{what} moves twice as far", ast.If(ast.Constant(1), [node, node], [])
        yield f"{what} stays as it was", ast.Pass()
        filled = "" if isinstance(node.target, ast.Name) else "[...]"
        code = f"{ast.unparse(node.target)}{filled} = {ast.unparse(node.value)}"
        yield f"{what} is not added to: = for +=, so that only the last counts", parse(code)
    if isinstance(node, ast.Name) and node.id == "batches":
        yield "the first batch is left out", parse("batches[1:]")
        yield "the last batch is left out", parse("batches[:-1]")
    if isinstance(node, ast.Return) and not isinstance(node.value, ast.Tuple):
        for name in names:
            more = ast.BinOp(node.value, ast.Mult(), ast.Name(name, ast.Load()))
            yield f"{name} is a factor too much", ast.Return(more)
    if isinstance(node, ast.For):
        stopped = [*node.body, ast.Break()]
        yield "the loop ends after its first turn", ast.For(node.target, node.iter, stopped, [])
        short = ast.For(node.target, node.iter, node.body[:-1] or [ast.Pass()], [])
        late = "the end of the loop stands behind it, so that only the last turn counts"
        yield late, ast.If(ast.Constant(1), [short, node.body[-1]], [])


def places(parent, context=""):
    """Yield each piece of a function's code: its list or node, index or field, what it is for."""
    for field, value in ast.iter_fields(parent):
        pairs = enumerate(value) if isinstance(value, list) else [(field, value)]
        for key, node in pairs:
            if isinstance(node, ast.AST):
                inner = context
                if isinstance(node, ast.Assign | ast.AugAssign):
                    target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
                    if isinstance(target, ast.Tuple) and not isinstance(node.value, ast.Call):
                        continue  # what the exercise gives
                    inner = ast.unparse(target).partition("[")[0]
                yield (value if isinstance(value, list) else vars(parent)), key, inner
                yield from places(node, inner)


def in_words(words, context):
    """Return what is wrong, with where it is, and with WORDS for the names of answers.py."""
    if context and words.endswith(" is missing"):
        words = words.removesuffix("is missing") + f"of {context} is missing"
    elif context and context not in words.split():
        words = f"in {context}, {words}"
    words = re.sub(r"\w+", lambda name: WORDS.get(name[0], name[0]), words)
    return re.sub(r"the (factor|term) (the|what) ", r"\2 ", words)


@functools.cache
def by_rule(name):
    """Return what is wrong, and the function, for every change of an exercise's answer."""
    tree = ast.parse(inspect.getsource(getattr(answers, name)))
    nodes = list(ast.walk(tree))
    names = [node.arg for node in nodes if isinstance(node, ast.arg)]
    names += [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    exercise = cases.EXERCISES[name]
    filled = {f"d{leaf}" for leaf in exercise.fills + exercise.adds}
    fine = filled | {f"d{leaf}" for leaf in exercise.returns}
    found = []
    for holder, key, context in list(places(tree.body[0])):
        node = holder[key]
        for words, new in changes(node, sorted(set(names) - WHOLE - filled)):
            holder[key] = copy.deepcopy(new)
            space = dict(vars(answers))
            exec(compile(ast.fix_missing_locations(tree), name, "exec"), space)
            holder[key] = node
            found.append((in_words(words, context if context not in fine else ""), space[name]))
    for words, line in FIRST.get(name, ()):
        tree.body[0].body.insert(0, parse(line))
        space = dict(vars(answers))
        exec(compile(ast.fix_missing_locations(tree), name, "exec"), space)
        found.append((words, space[name]))
        del tree.body[0].body[0]
    return sorted(found, key=lambda pair: bool(re.search(r"\d stands where \d", pair[0])))


# The axes that dout has, or can be cut into, and what an index of an axis is called
AXES = {
    "product": "N OC", "bias": "B T C", "softmax": "N S", "gelu": "N C", "layernorm": "N C",
    "embedding": "B T C | N C", "attention_head": "T HS", "attention": "B T NH HS",
    "block": "B T C", "flash": "T HS", "lora": "N OC", "rms": "N C", "rope": "NH T HS",
    "grouped": "NH T HS",
}  # fmt: skip
NOUNS = {"B": "sequence", "T": "position", "N": "row", "NH": "head", "C": "channel"}
NOUNS |= {"OC": "channel", "S": "element", "HS": "channel"}
PARTS = {
    "only the first {} counts": lambda dout: [dout[0], *0 * dout[1:]],
    "only the last {} counts": lambda dout: [*0 * dout[:-1], dout[-1]],
    "only the first half of the {}s counts": lambda dout: [
        *dout[: len(dout) // 2],
        *0 * dout[len(dout) // 2 :],
    ],
    "the first {} is left out": lambda dout: [0 * dout[0], *dout[1:]],
    "the last {} is left out": lambda dout: [*dout[:-1], 0 * dout[-1]],
    "{}s are taken in reverse order": lambda dout: dout[::-1].copy(),
    "each {} is taken for the next": lambda dout: np.roll(dout, 1, 0),
    "each {} is taken for the one before": lambda dout: np.roll(dout, -1, 0),
}


def by_part(name, letters):
    """Yield what is wrong, and the function, where only a part of dout is used."""

    def backward(change, shape, axis, dout, *others):
        changed = np.moveaxis(dout.reshape(shape).copy(), axis, 0)
        changed[:] = change(changed)
        changed = np.moveaxis(changed, 0, axis).reshape(dout.shape)
        return getattr(cases.LESSON, cases.EXERCISES[name].function)(changed, *others)

    for axes in AXES.get(name, "").split("|"):
        shape = [letters[axis] for axis in axes.split()]
        for (i, axis), words in itertools.product(enumerate(axes.split()), PARTS):
            yield words.format(NOUNS[axis]), functools.partial(backward, PARTS[words], shape, i)


def variations(name, letters):
    """Yield what is wrong, and functions that are wrong in this way."""
    for words, function in (*by_part(name, letters), *by_rule(name)):
        yield (
            words,
            SimpleNamespace(**(vars(cases.LESSON) | {cases.EXERCISES[name].function: function})),
        )
