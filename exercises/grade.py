"""
Grades one exercise: is an answer right, and if not, which mistake is it?

check.py starts this in a process of its own, `grade.py NAME FILE`, because an answer may never end.
The report is on standard output. Exit status: 0 right, 1 wrong, 2 not begun.
"""

import ast
import faulthandler
import functools
import io
import itertools
import math
import os
import re
import sys
import threading
import time
import types
import warnings
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -I leaves it out
import cases
import mistakes
import mistakes_by_rule
import numpy as np
import seeds
from cases import EXERCISES
from child import one_line, where

RIGHT, WRONG, EMPTY = range(3)
END = "end of report"  # its last line: an answer may end Python itself
SECONDS = 8  # of processor time that an answer may take
TOLERANCE = 1e-5  # of the largest element: above float32's rounding, below any mistake's effect


class Stop(Exception):
    """What ends a grading: a line for the learner, and the exit status."""

    def __init__(self, line, status=WRONG):
        super().__init__(line)
        self.status = status


RUNNING = []  # when an answer began, in seconds of the processor and of the clock; or nothing
COMPUTES, WAITS = "it computes", "it waits"


def watch(seconds):
    """End Python, with a traceback, when an answer has taken this much, or four times as long."""
    while True:
        time.sleep(0.1)
        for computed, began in RUNNING[:]:
            computed, took = time.process_time() - computed, time.monotonic() - began
            if computed > seconds or took > 4 * seconds:
                sys.stderr.write(COMPUTES if computed > took / 10 else WAITS)
                faulthandler.dump_traceback(all_threads=True)
                os._exit(WRONG)


class Case(NamedTuple):
    """One set of sizes: what is right, and what came (None if it raised an error)."""

    inputs: dict
    letters: dict
    want: dict
    got: dict | None
    dout: object = None


# ----------------------------------------------------------------------------
# Running an answer


class Prints(io.TextIOBase):
    """Takes the place of standard output while an answer runs; keeps ten lines, and whence."""

    def __init__(self, path):
        self.path, self.lines, self.partial = path, [], ""

    def write(self, text):
        if len(self.lines) < 10 and len(self.partial) < 2000:
            frame = sys._getframe(1)
            while frame and frame.f_code.co_filename != str(self.path):
                frame = frame.f_back
            whence = f"{self.path.name}, line {frame.f_lineno if frame else '?'}, prints: "
            *whole, self.partial = (self.partial + text).split("\n")
            self.lines += [whence + line[:200] for line in whole]
        return len(text)


def guarded(path, f, *args):
    """Return f(*args); Stop, with one line, for anything that an answer may raise."""
    RUNNING.append((time.process_time(), time.monotonic()))
    try:
        return f(*args)
    except (Stop, UnicodeDecodeError):
        raise
    except NotImplementedError as error:
        if begun(path):
            what = "raise NotImplementedError still stands below your lines: take it away"
            raise Stop(f"{where(error, path)}: {what}") from None
        raise Stop(f"{where(error, path)}: not begun", EMPTY) from None
    except SyntaxError as error:
        raise Stop(f"{where(error, path)}: {type(error).__name__}: {error.msg}") from None
    except BaseException as error:  # sys.exit(), too
        raise Stop(f"{where(error, path)}: {one_line(error)}") from None
    finally:
        RUNNING.clear()


def begun(path):
    """Whether there is more above a function's last line than what the exercise gives."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    last = [f for f in tree.body if isinstance(f, ast.FunctionDef)][-1]
    lines = [line for line in last.body[:-1] if not isinstance(line, ast.Expr)]
    return not all(isinstance(a, ast.Assign) and isinstance(a.targets[0], ast.Tuple) for a in lines)


def load(path, name):
    """Run a learner's file -> a module."""
    function = EXERCISES[name].function

    def run():
        module = types.ModuleType(path.stem)
        module.__file__ = str(path)
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
        return module

    if not path.is_file():
        raise Stop(f"{path.name}: there is no such file; {cases.again(name)}")
    try:
        module = guarded(path, run)
    except UnicodeDecodeError:
        raise Stop(f"{path.name}: is not a text in UTF-8") from None
    if not callable(getattr(module, function, None)):
        raise Stop(f"{path.name}: has no function {function}")
    return module


def filled_like(tree, value):
    if isinstance(tree, dict):
        return {name: filled_like(branch, value) for name, branch in tree.items()}
    return np.full_like(tree, value)


def what_was_there(array):
    """Return what an array holds that is to be added to."""
    return np.cos(np.arange(array.size)).reshape(array.shape).astype(array.dtype)


def returned(name, result):
    """Return the gradients that a backward pass returned, by name."""
    names = EXERCISES[name].returns
    function = EXERCISES[name].function
    if not names:
        return {}
    wanted = " and ".join(filter(None, [", ".join(f"d{n}" for n in names[:-1]), f"d{names[-1]}"]))
    if result is None:
        raise Stop(f"{function} returns nothing: a line `return {wanted}` is missing")
    results = result if len(names) > 1 else [result]
    if len(names) > 1 and not (isinstance(result, tuple | list) and len(result) == len(names)):
        raise Stop(f"{function} should return {wanted}: {len(names)} arrays")
    if len(names) == 1 and isinstance(result, tuple | list):
        fills = " and ".join(f"d{n}" for n in EXERCISES[name].fills)
        also = f"; {fills} it should fill, with {fills.split()[0]}[:] = ..." if fills else ""
        raise Stop(f"{function} returns a {type(result).__name__}; it should return {wanted}{also}")
    for which, array in zip(names, results, strict=True):
        if not isinstance(array, np.ndarray):
            raise Stop(f"d{which} is a {type(array).__name__}, not an array")
        if array.dtype.kind != "f":
            raise Stop(f"d{which} is an array of {array.dtype}, not of floating-point numbers")
    return {f"d{which}": array for which, array in zip(names, results, strict=True)}


def dout_of(out, rng=None):
    """Return a gradient of out: always the same one, or drawn from rng."""
    if np.ndim(out) == 0:
        return 1.7 if rng is None else 1.2 + rng.random()  # not 1, or a dloss left out is not seen
    rng = rng or np.random.default_rng(2)
    return rng.standard_normal(np.shape(out)).astype(out.dtype)


def call(name, functions, inputs, begin=math.nan, strict=False, scale=1, dout=None):
    """
    Run a pair of functions -> gradients by name, arrays to be filled holding begin before.

    dout: dout_of(out) if None. scale: its factor. strict: Stop if the forward pass is not the one
    that was given, or the backward pass is not pure.
    """
    exercise = EXERCISES[name]
    before, inputs = inputs, cases.cast(inputs, None)
    if name in cases.TOKENS:
        result = getattr(functions, exercise.function)(*inputs.values())
        if strict and (changed := [n for n in before if before[n] != inputs[n]]):
            raise Stop(f"{exercise.function} changes {changed[0]}, which it is only lent")
        try:
            return cases.token_arrays(name, result)
        except (TypeError, ValueError, AttributeError):
            wanted = "a list of tokens" if name == "encode" else "counts, a dict; and a pair (a, b)"
            what = "returns nothing: it " if result is None else ""
            raise Stop(f"{exercise.function} {what}should return {wanted}") from None
    if name == "adamw":
        return cases.adamw_changes(functions, inputs, strict and unchanged)
    if name == "accumulate":
        before, grads = leaves_copy(inputs), filled_like(inputs["params"], begin)
        original = getattr(functions, "gpt2_forward", None)

        def one_batch(params, config, tokens, targets):
            if strict and len(tokens) > len(inputs["batches"][0][0]):
                raise Stop("accumulate puts batches into one, for which there is no memory")
            return original(params, config, tokens, targets)

        functions.gpt2_forward = one_batch
        try:
            loss = functions.accumulate(*inputs.values(), dict(grads))
        finally:
            functions.gpt2_forward = original
        if strict:
            unchanged(before, inputs, exercise.function)
            if loss is None or np.ndim(loss):
                raise Stop(f"accumulate returns {type(loss).__name__}, not the mean of the losses")
        return {"the returned loss": np.array(loss)} | {f"d{n}": g for n, g in grads.items()}
    forward = getattr(functions, exercise.forward)
    out, cache = forward(*inputs.values())
    if strict and not close(np.asarray(out), np.asarray(cases.loss_of(name, inputs))):
        raise Stop(f"{exercise.forward} is not as it was given; {cases.again(name)}")
    dout = scale * (dout_of(out) if dout is None else cases.cast(dout, out.dtype))
    everything = {"cache": cache, **inputs}
    kept = cases.cast(cache, None)

    def was_there(array):
        return what_was_there(array) * (2 if begin == 1 else 1)

    def refuse(*args, **kwargs):
        raise Stop(f"{exercise.function} calls {exercise.forward}: it should do with the cache")

    def few_rows(x, *others):
        if len(x) > inputs["rows"]:
            raise Stop(f"{exercise.function}: gives head_forward more than `rows` rows at a time")
        return gpt2_head(x, *others)

    gpt2_head = getattr(functions, "head_forward", None)
    healthy = {exercise.forward: forward, "head_forward": gpt2_head}
    watched = {
        exercise.forward: refuse,
        "head_forward": few_rows if name == "pieces" else gpt2_head,
    }

    def backward(cache):
        grads = {}
        for which in inputs:
            if which in exercise.fills:
                grads[which] = filled_like(inputs[which], begin)
            elif which in exercise.adds:
                grads[which] = was_there(inputs[which])
        # copies of the dicts, because g[name] = ... fills nothing either
        lent = [dict(g) if isinstance(g, dict) else g for g in grads.values()]
        if strict:
            vars(functions).update(watched)
        try:
            result = getattr(functions, exercise.function)(dout, cache, *lent)
        finally:
            vars(functions).update(healthy)
        found = returned(name, result)
        if name == "attention" and found["dqkv"].shape != inputs["qkv"].shape:
            shapes = f"{found['dqkv'].shape}, it should be {inputs['qkv'].shape}"
            raise Stop(f"dqkv has the shape {shapes}")
        for which in exercise.adds:
            grads[which] -= was_there(inputs[which])
        found |= {f"d{leaf}": a for g, tree in grads.items() for leaf, a in flat(tree, g)}
        return cases.parts(name, found, inputs)

    before = leaves_copy({"dout": dout, **everything})
    gradients = {which: np.array(gradient) for which, gradient in backward(cache).items()}
    if strict:
        before = {leaf: a for leaf, a in before.items() if leaf not in exercise.overwrites}
        unchanged(before, {"dout": dout, **everything}, exercise.function)
        again = backward(kept)
        if any(not np.array_equal(again[g], gradients[g], equal_nan=True) for g in gradients):
            raise Stop(f"{exercise.function}: a second call gives another result than the first")
    return gradients


def flat(tree, name):
    return cases.leaves(tree, name).items()


def leaves_copy(tree):
    return {name: array.copy() for name, array in cases.leaves(tree).items()}


def unchanged(before, tree, function):
    """Stop unless the arrays of a nest are what they were."""
    after = cases.leaves(tree)
    there = [n for n in before if n in after]  # pop() takes away
    changed = [n for n in before if n not in after]
    changed += [n for n in there if not np.array_equal(before[n], after[n], equal_nan=True)]
    inputs = [name for name in changed if not name.startswith("cache")]
    if changed:
        what = inputs[0] if inputs else f"its cache ({changed[0]})"
        raise Stop(
            f"{function} changes {what}, which it is only lent: look for -=, *=, [...] = or pop on "
            "it, and take a copy"
        )


# ----------------------------------------------------------------------------
# Naming mistakes


def close(a, b, tolerance=TOLERANCE):
    if np.shape(a) != np.shape(b):
        return False
    return bool(np.all(np.abs(a - b) <= tolerance * np.abs(b).max(initial=1e-3)))


def ratio(a, b):
    """Return the number r with a = r * b, or None."""
    if np.shape(a) != np.shape(b) or not (square := float(np.sum(b * b))):
        return None
    r = float(np.sum(a * b)) / square
    return r if close(a, r * b) and abs(r) > TOLERANCE else None


SIZE_NAMES = {"parts": "the number of batches", "rows": "rows"}


def factors(letters):
    """Return values of what a factor may be, by name, the simple ones first: 2, N, 1/sqrt(HS)."""
    letters = {SIZE_NAMES.get(letter, letter): size for letter, size in letters.items()}
    found = {"2": 2, "1/2": 0.5, "4": 4, "1/4": 0.25, "3": 3, "1/3": 1 / 3}
    found |= {a: size for a, size in letters.items()}
    found |= {f"1/{a}": 1 / size for a, size in letters.items()}
    found |= {f"sqrt({a})": size**0.5 for a, size in letters.items()}
    found |= {f"1/sqrt({a})": size**-0.5 for a, size in letters.items()}
    pairs = [(a, b) for a in letters for b in letters if a != b]
    found |= {f"{a}/{b}": letters[a] / letters[b] for a, b in pairs}
    found |= {f"sqrt({a}/{b})": (letters[a] / letters[b]) ** 0.5 for a, b in pairs}
    found |= {f"({a}-1)/{a}": (size - 1) / size for a, size in letters.items()}
    found |= {f"{a}/({a}-1)": size / (size - 1) for a, size in letters.items() if size != 1}
    found |= {f"sqrt({a})/{b}": letters[a] ** 0.5 / letters[b] for a, b in pairs}
    found |= {f"{a}/sqrt({b})": letters[a] / letters[b] ** 0.5 for a, b in pairs}
    found |= {f"2/{a}": 2 / size for a, size in letters.items()}
    found |= {f"1/{a}^2": size**-2.0 for a, size in letters.items()}
    unbiased = {a: (size - 1) / size for a, size in letters.items() if size > 1}
    found |= {f"sqrt(({a}-1)/{a})": r**0.5 for a, r in unbiased.items()}
    found |= {f"sqrt({a}/({a}-1))": r**-0.5 for a, r in unbiased.items()}
    return found


def name_factor(values, letters):
    """Return what these factors, one for each case, are called, or None."""
    table = [factors(each) for each in letters]
    for name in table[0]:
        named = [each.get(name, 0) for each in table]
        if all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(values, named, strict=True)):
            return name
    same = all(math.isclose(value, values[0], rel_tol=1e-4) for value in values)
    return f"{values[0]:.4g}" if same else None


def factor_phrase(ratios, letters):
    """Say what is wrong with a result that is the right one times these ratios; None: can't."""
    if any(r is None for r in ratios):
        return None
    sign = "the sign is wrong" if all(r < 0 for r in ratios) else ""
    if not sign and any(r < 0 for r in ratios):
        return None
    if all(math.isclose(abs(r), 1, rel_tol=1e-4) for r in ratios):
        return sign or None
    missing = name_factor([abs(1 / r) for r in ratios], letters)
    if not missing:
        return None
    phrase = f"a factor of {missing} is missing"
    letter = missing in letters[0] or missing in SIZE_NAMES.values()
    if letter:  # the result is too small by N
        phrase += " (a mean, where a sum belongs?)"
    return f"{phrase}, and {sign}" if sign else phrase


def sizes_phrase(ratios, letters):
    """Say that a result is wrong by a factor that has no name; or None."""
    if None in ratios or np.allclose(ratios, 1, 1e-4) or np.ptp(np.sign(ratios)):
        return None
    table = [factors(each) for each in letters]
    for name in table[0]:
        sizes = [each.get(name, 0) for each in table]
        if np.ptp(sizes) and np.allclose(np.divide(ratios, sizes), ratios[0] / sizes[0], 1e-4):
            belongs = name_factor([1 / size for size in sizes], letters)
            return f"a factor of {ratios[0] / sizes[0]:.4g} stands where {belongs} belongs"
    each = (f"{r:.4g} with {named_sizes(sizes)}" for r, sizes in zip(ratios, letters, strict=True))
    return f"right but for a factor: {'; '.join(each)}"


def almost(g, tried):
    """Say that a result is nearly right, if it is; or None."""
    off = [np.abs(c.got[g] - c.want[g]).max() / np.abs(c.want[g]).max(initial=1e-3) for c in tried]
    if max(off) < 3e-3:
        return f"nearly right, off by {max(off):.1e} of the largest element: a rounded constant?"
    return None


def term_phrase(term, lambdas, letters):
    """Say what is wrong with a term, if the result is off by -lambda times it; None: can't."""
    if all(math.isclose(x, 1, rel_tol=1e-4) for x in lambdas):
        return f"{term} is missing"
    if all(math.isclose(x, 2, rel_tol=1e-4) for x in lambdas):
        return f"{term} has the wrong sign"
    for times, word in (2, "twice"), (3, "three times"):
        if all(math.isclose(1 - x, times, rel_tol=1e-4) for x in lambdas):
            return f"{term} counts {word}"
    phrase = factor_phrase([1 - x for x in lambdas], letters)
    return f"in {term}, {phrase}" if phrase else None


def explained_by_terms(g, tried, terms):
    """Name one or two terms that are missing, or have a wrong sign or factor; or None."""
    for count in 1, 2:
        for some in itertools.combinations(terms, count):
            lambdas = []
            for i, case in enumerate(tried):
                off = [terms[t][i] for t in some]
                if any(o is None or g not in o for o in off):
                    break
                columns = np.stack([(o[g] - case.want[g]).ravel() for o in off], 1)
                difference = (case.got[g] - case.want[g]).ravel()
                if np.linalg.matrix_rank(columns, 1e-6) < count:
                    continue  # too small a case to tell
                x = np.linalg.lstsq(columns, difference, None)[0]
                scale = TOLERANCE * np.abs(case.want[g]).max()
                if np.abs(columns @ x - difference).max() > scale:
                    break
                lambdas.append((x, case.letters))
            else:
                letters = [each for _, each in lambdas]
                each = zip(some, zip(*(x for x, _ in lambdas), strict=True), strict=True)
                if lambdas and np.abs([x for x, _ in lambdas]).max(0).min() > 1e-4:
                    phrases = [term_phrase(t, x, letters) for t, x in each]
                    if all(phrases):
                        return "; and ".join(phrases)
    return None


def explained_by_zeros(g, name, source, everything):
    """Say that this is 0, or was left alone. everything: all that is asked for is 0."""
    if name == "adamw":
        stored = everything and re.search(ASSIGNED.format("p"), source)
        how = ": m[name] = ... stores another array, m[name][:] = ... changes it"
        return f"not changed{how if stored else ': does the loop end too early?'}"
    if g[1:] in EXERCISES[name].adds:
        stored = re.search(ASSIGNED.format(g), source)
        return f"nothing is added to it{': = alone names another array' if stored else ''}"
    return "it is 0 everywhere"


def explained_by_place(g, tried):
    """Say that this is another gradient, or None."""
    got, want = [case.got for case in tried], [case.want for case in tried]
    for other in want[0]:
        if other != g and all(close(a[g], b[other]) for a, b in zip(got, want, strict=True)):
            both = all(close(a[other], b[g]) for a, b in zip(got, want, strict=True))
            one, two = (name for name in want[0] if name in (g, other))
            return f"{one} and {two} are swapped" if both else f"this is what {other} should be"
    return None


def explained_by_layout(g, tried):
    """Say that the right numbers stand elsewhere: in another gradient, or transposed; or None."""
    got, want = [case.got for case in tried], [case.want for case in tried]
    for other in want[0]:
        ratios = [ratio(a[g], b[other]) for a, b in zip(got, want, strict=True)]
        phrase = factor_phrase(ratios, [case.letters for case in tried]) if other != g else None
        if phrase:
            return f"this is what {other} should be; and {phrase}"
    shapes = [(a[g].shape, b[g].shape) for a, b in zip(got, want, strict=True)]
    if any(a != b for a, b in shapes):
        a, b = next((a, b) for a, b in shapes if a != b)
        turned = all(close(a[g].T, b[g]) for a, b in zip(got, want, strict=True))
        return f"has the shape {a}, it should be {b}" + (": a transpose is missing" * turned)
    for a, b in zip(got, want, strict=True):
        turned = b[g].swapaxes(-1, -2) if b[g].ndim > 1 else b[g]
        if b[g].ndim < 2 or not close(a[g], turned.reshape(a[g].shape)):
            break
    else:
        return "right shape, transposed contents"
    if not all(np.ptp(b[g]) == 0 for b in want):
        backwards = [b[g][::-1] for b in want]
        if all(close(a[g], b) for a, b in zip(got, backwards, strict=True)):
            return "the right rows, in reverse order"
    if all(close(np.sort(a[g], None), np.sort(b[g], None)) for a, b in zip(got, want, strict=True)):
        return "the right numbers, at the wrong places (a reshape without its transpose?)"
    return None


ASSIGNED = r"\b{}\s*=[^=]|\w\[\w+\]\s*=[^=]|\w\[[\"']\w+[\"']\]\s*=[^=]"  # dw = ..., g[name] = ...


def explained_by_filling(g, tried, zeros, ones, source):
    """Tell what isn't filled; or None. zeros, ones: what came of arrays with these in them."""
    unset = [~np.isfinite(case.got[g]) for case in tried]
    if g == "the returned loss" or not zeros or not any(u.any() for u in unset):
        return None
    if all(close(z[g], case.want[g]) for z, case in zip(zeros, tried, strict=True)):
        if all(u.all() for u in unset):
            return "it is added to what was there, where it should fill it: = for +="
        return "right, but where it is 0 it is left unfilled: what was there before stays"
    left = [u & (z[g] == 0) & (o[g] == 1) for u, z, o in zip(unset, zeros, ones, strict=True)]
    if all(a.all() for a in left):
        if re.search(ASSIGNED.format(g), source):
            return "left unfilled: = alone names another array, [:] = fills the one that is lent"
        return "left unfilled: nothing is stored in it"
    if any(np.array_equal(a, u) and u.any() for a, u in zip(left, unset, strict=True)):
        at = next(np.argwhere(a)[0][0] for a in left if a.any())
        return f"left unfilled in part: from [{at}] on"
    if not all(np.array_equal(z[g], o[g], True) for z, o in zip(zeros, ones, strict=True)):
        return "it is made of an array that is not filled yet"
    return None


def shortly(which, every):
    """Return names of gradients, in fewer words if they are many."""
    if 3 < len(which) == len(every):
        return "every gradient"
    if len(which) > 3 and len(every) - len(which) < 3:
        return f"all but {' and '.join(g for g in every if g not in which)}"
    if not any(g.startswith("m of ") for g in every):
        return ", ".join(which)
    kinds, tensors, decaying = {}, list(cases.gpt2.TENSORS), set(cases.gpt2.DECAYING)
    for kind in "params", "m", "v":
        names = [g.split()[-1] for g in which if g.split()[0] == kind]
        others = [name for name in tensors if name not in names]
        if set(names) == decaying or set(others) == decaying:
            of = " in DECAYING" if set(names) == decaying else " not in DECAYING"
        elif len(names) > len(others):
            of = f" but for {', '.join(others)}" if others else ""
        else:
            of = f" of {', '.join(names)}"
        if names:
            kinds.setdefault(of, []).append(kind)
    return "; ".join(" and ".join(some) + of for of, some in kinds.items())


def named_sizes(letters):
    return ", ".join(f"{letter}={size:g}" for letter, size in letters.items())


def given(letters, inputs):
    """Return what a case is made of: its sizes, or its tokens."""
    return named_sizes(letters) or ", ".join(f"{name}={what}" for name, what in inputs.items())


def worst(g, tried):
    """Return a line about the element that is furthest off."""
    for case in tried:
        got, want = case.got[g], case.want[g]
        if want.dtype.kind == "i" and not close(got, want):  # tokens
            of, got, want = g, got.tolist(), want.tolist()
            if g == "counts":
                got, want = ({(a, b): n for a, b, n in rows} for rows in (got, want))
                pair = min(p for p in got | want if got.get(p) != want.get(p))
                of, got, want = f"counts[{pair}]", got.get(pair, 0), want.get(pair, 0)
            if g != "counts" and len(got) > 20:
                got = f"{got[:20]} and so on, {len(got)} tokens"
            return f"{of} is {got}, it should be {want} ({given(case.letters, case.inputs)})"
        if got.shape == want.shape and not close(got, want):
            off = np.nan_to_num(np.abs(got - want), nan=math.inf)
            at = np.unravel_index(off.argmax(), off.shape)
            bad = off > TOLERANCE * np.abs(want).max(initial=1e-3)
            index = f"[{', '.join(str(int(i)) for i in at)}]" if at else ""
            sizes = named_sizes(case.letters)
            rows = sorted({int(i) for i in np.argwhere(bad)[:, 0]}) if at else []
            few = f", all with first index {rows}" if 0 < len(rows) <= len(want) / 2 else ""
            return (
                f"{g}{index} is {got[at]:.5g}, it should be {want[at]:.5g}; "
                f"{int(np.sum(bad))} of {bad.size} elements are wrong{few} ({sizes})"
            )
    return ""


def explained_by_dout(g, tried, doubled):
    """Tell a gradient that is not proportional to dout; or None. doubled: what came of 2 * dout."""
    pairs = [(c.got[g], twice[g]) for c, twice in zip(tried, doubled, strict=True)]
    if all(close(twice, once) for once, twice in pairs):
        return "it does not depend on dout"
    if all(close(twice, 2 * once) for once, twice in pairs):
        return None
    return "it is not proportional to dout: there is a term without dout, or with it twice"


def diagnose(name, module, tried, zeros, ones, stopped, source):
    """
    Return {gradient: what is wrong with it, or None where it can't be named}.

    zeros, ones: what came of arrays with these in them, if any gradient is not finite. stopped: the
    next case was an error. source: the learner's file.
    """
    wrong = [g for g in tried[0].want if not all(close(c.got[g], c.want[g]) for c in tried)]
    found = {g: explained_by_filling(g, tried, zeros, ones, source) for g in wrong}
    if zeros:  # go on with what came of the zeros, or all would be nan
        tried = [c._replace(got=z) for c, z in zip(tried, zeros, strict=True)]
    for g in wrong:
        if not found[g] and not all(np.isfinite(c.got[g]).all() for c in tried):
            found[g] = (
                "it is nan or infinite: a division by 0, or the root or logarithm of too little?"
            )
    empty = [g for g in wrong if not any(c.got[g].any() or not c.got[g].size for c in tried)]
    for g in wrong:
        if not found[g] and g in empty:
            found[g] = explained_by_zeros(g, name, source, len(empty) == len(tried[0].want))
        found[g] = found[g] or explained_by_place(g, tried)
    open_ = [g for g in wrong if not found[g]]
    if not open_:
        return found
    known = [known_results(name, i) for i in range(len(tried) + stopped)]
    if stopped:  # those first that are an error there, too
        raised = [result is None for _, result in known.pop()]
        order = sorted(range(len(raised)), key=lambda i: not raised[i])
        known = [[results[i] for i in order] for results in known]
    known = [(results[0][0], [r for _, r in results]) for results in zip(*known, strict=True)]

    def explains(results, g):
        pairs = list(zip(results, tried, strict=True))
        if any(r is None or g not in r or not close(r[g], c.got[g]) for r, c in pairs):
            return False
        return any(not close(r[g], c.want[g]) for r, c in pairs)

    def compare(known):
        while open_ := [g for g in wrong if not found[g]]:  # the mistake that explains most, first
            counts = [sum(explains(results, g) for g in open_) for _, results in known]
            if not counts or not max(counts):
                return
            mistake, results = known[counts.index(max(counts))]
            found.update({g: mistake for g in open_ if explains(results, g)})

    late = [pair for pair in known if re.search(mistakes_by_rule.LATE, pair[0])]
    known = [pair for pair in known if not re.search(mistakes_by_rule.LATE, pair[0])]
    compare(known)
    if name in cases.TOKENS:
        return found  # no factors or signs
    open_ = [g for g in wrong if not found[g]]
    terms = {m.removesuffix(" is missing"): r for m, r in known if m.endswith(" is missing")}
    terms = {} if name == "adamw" else terms  # which is not linear in them
    letters = [c.letters for c in tried]
    for g in open_:
        layout = explained_by_layout(g, tried)
        if layout or any(c.got[g].shape != c.want[g].shape for c in tried):
            found[g] = layout
            continue
        found[g] = factor_phrase([ratio(c.got[g], c.want[g]) for c in tried], letters)
        found[g] = found[g] or explained_by_terms(g, tried, terms)
        ratios = [ratio(c.got[g], c.want[g]) for c in tried]
        if tried[0].want[g].size > 1:  # of a single number all this would say nothing
            found[g] = found[g] or sizes_phrase(ratios, letters)
        for mistake, results in known:
            pairs = list(zip(results, tried, strict=True))
            if " stands where " in mistake or "starts again" in mistake:
                continue  # with a factor, that would be a chance
            single = tried[0].want[g].size == 1  # which is a number times any other
            others = all(r and g in r and not close(r[g], c.want[g]) for r, c in pairs)
            if not found[g] and not single and others:
                phrase = factor_phrase([ratio(c.got[g], r[g]) for r, c in pairs], letters)
                found[g] = f"{mistake}; and {phrase}" if phrase else None
    compare(late)
    for g in open_:
        if not found[g] and g[1:] in EXERCISES[name].adds:
            twice = [call(name, module, c.inputs, 1.0)[g] for c in tried]
            if not all(close(a, c.got[g]) for a, c in zip(twice, tried, strict=True)):
                found[g] = "what was there before is changed, too"
        if not found[g] and name == "adamw" and g.startswith("params") and len(open_) < len(wrong):
            if any(w.replace(w.split()[0], "params") == g for w in wrong if w != g):
                found[g] = "mend m and v first, which it is made of"
        if not found[g] and name not in ("adamw", "accumulate"):
            doubled = [call(name, module, c.inputs, 0.0, scale=2) for c in tried]
            found[g] = explained_by_dout(g, tried, doubled)
        if not found[g] and name != "adamw" and tried[0].want[g].size > 1:
            found[g] = almost(g, tried)
    return found


@functools.cache
def known_results(name, i):
    """Return (name of a known mistake, what it gives in case i; None if it raises an error)."""
    found, case = [], prepared(name, i)
    if name not in mistakes.WHERE:  # a variant
        return found
    by_rule = mistakes_by_rule.variations(name, case.letters)
    for mistake, functions in itertools.chain(mistakes.known_mistakes(name), by_rule):
        try:
            with np.errstate(all="ignore"):
                result = call(name, functions, case.inputs, 0.0)
            finite = {g: a for g, a in result.items() if np.isfinite(a.astype(float)).all()}
        except Exception:
            finite = None
        found.append((mistake, finite))
    return found


# ----------------------------------------------------------------------------
# The whole


@functools.cache
def prepared(name, i):
    """Return case i of an exercise, with what is right in it."""
    return prepare(name, EXERCISES[name].shapes[i], np.random.default_rng(i + 1))


def prepare(name, sizes, rng, rng_of_dout=None):
    """Return a case of an exercise, with what is right in it."""
    inputs = EXERCISES[name].inputs(rng, **sizes)
    letters, dout = cases.letters(name, sizes), 1.0
    if EXERCISES[name].forward:
        dout = dout_of(cases.loss_of(name, inputs), rng_of_dout)
        letters |= {"dloss": dout} if np.ndim(dout) == 0 else {}
    want = cases.truth(name, inputs, dout)
    if name == "accumulate":
        want = {"the returned loss": np.array(cases.loss_of(name, inputs))} | want
    return Case(inputs, letters, want, None, dout)


def check_dtypes(name, module, path, case):
    """Stop unless float32 gives float32, and float64 float64."""
    for dtype in np.float64, np.float32:
        gradients = guarded(path, call, name, module, cases.cast(case.inputs, dtype))
        for g, array in gradients.items():
            if array.dtype.kind == "f" and array.dtype != dtype and g != "the returned loss":
                if dtype == np.float64:
                    raise Stop(f"{g}: float64 becomes {array.dtype}")
                hint = "a NumPy number of float64, or an array without dtype=, does that"
                raise Stop(f"{g}: right in float64, but float32 becomes {array.dtype}; {hint}")
            if not np.isfinite(array).all():
                hint = "a division by 0 there, or a large exp, which would cancel on paper?"
                raise Stop(f"{g}: right in float64, but nan or infinite in float32: {hint}")
            if not close(array, case.want[g], 1e-3):
                raise Stop(f"{g}: right in float64, but not in float32; {worst_of(g, array, case)}")


def worst_of(g, array, case):
    return worst(g, [case._replace(got={g: array})])


def grade(name, path):
    """Return the lines of the report. Stop if something other than a gradient is wrong."""
    module = load(path, name)
    tried, stopped = [], None
    for i, sizes in enumerate(EXERCISES[name].shapes):
        inputs = EXERCISES[name].inputs(np.random.default_rng(i + 1), **sizes)
        try:
            got = guarded(path, call, name, module, inputs, math.nan, True)
        except Stop as stop:
            stopped = stop
            if "Error: " in str(stop):
                stopped = Stop(f"{stop} (with {given(cases.letters(name, sizes), inputs)})")
            break
        tried.append(prepared(name, i)._replace(got=got))
    right = [all(close(c.got[g], c.want[g]) for g in c.want) for c in tried]
    if stopped and all(right):
        raise stopped
    if all(right):
        check_dtypes(name, module, path, tried[-1])
        return []
    zeros = ones = None
    if any(not np.isfinite(array).all() for c in tried for array in c.got.values()):
        zeros, ones = (
            [guarded(path, call, name, module, c.inputs, begin) for c in tried]
            for begin in (0.0, 1.0)
        )
    groups, source = {}, path.read_text(encoding="utf-8")
    findings = diagnose(name, module, tried, zeros, ones, bool(stopped), source)
    for g, text in findings.items():
        groups.setdefault(text or "wrong", []).append(g)
    if zeros:
        tried = [c._replace(got=z) for c, z in zip(tried, zeros, strict=True)]
    lines, every = [], list(tried[0].want)
    for text, which in groups.items():
        names = shortly(which, every)
        lines.append(text if " are swapped" in text else f"{names}: {text}")
        if line := worst(which[0], tried):
            lines.append("    " + line)
    fine = [g for g in every if g not in findings]
    if fine:
        lines.append(f"right: {shortly(fine, every)}")
    if stopped:
        lines.append(str(stopped))
    return lines


def main(name, path, seconds=SECONDS):
    threading.Thread(target=watch, args=[float(seconds)], daemon=True).start()
    faulthandler.dump_traceback_later(6 * float(seconds), exit=True)
    warnings.simplefilter("ignore")
    if variant := re.fullmatch(r"variant_(\d+)", path.parent.name):
        seeds.use(int(variant[1]))
    cases.gpt2.THREADS, cases.gpt2.POOL = 1, cases.NO_POOL  # the arrays are small
    out, sys.stdout = sys.stdout, Prints(path)
    try:
        lines = grade(name, path)
        status = WRONG if lines else RIGHT
    except Stop as stop:
        lines, status = [str(stop)], stop.status
    except Exception as error:  # arrays of texts, and what else nobody thought of
        lines, status = [f"{path.name}: what it gives can't be judged: {one_line(error)}"], WRONG
    prints, sys.stdout = sys.stdout.lines, out
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    print("\n".join([*prints, *lines, END]), flush=True)
    os._exit(status)  # whatever threads the answer started


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("grade.py: only check.py starts this; python exercises/check.py --help")
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
