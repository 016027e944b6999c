"""
What check.py --train does: a small GPT-2 is trained with the exercises' backward passes.

Where an exercise is solved, its function takes the lesson's place in a copy of the lesson. Both
train the same model on the same batches, in float64, so that the losses agree in every digit shown.
"""

import contextlib
import importlib.util
import io
import math
import os
import re
import sys
import time
import traceback
from collections import Counter
from types import SimpleNamespace

import cases
import grade
import numpy as np
from cases import gpt2

L, NH, C, B, T = 2, 2, 64, 16, 32
STEPS, LR, WARMUP, LOW = 400, 3e-3, 40, 0.1
SECONDS = 180  # a run whose backward pass is one of loops ends earlier
PIECES = 500  # of text that are one token; the others are spelled
SAMPLE = 80  # tokens
SAME = 1e-6  # of a loss: rounding grows from step to step, and gave 1e-13 in the end
WITHIN = {"softmax": "attention_head", "attention_head": "attention"}  # what has it within


def load_text():
    """Return a text to train on, and what it is: Shakespeare if it is here, or Python's manual."""
    plays = cases.FOLDER.parent / "data" / "tiny_shakespeare.txt"
    if plays.exists() and plays.stat().st_size > 100_000:
        return plays.read_text(encoding="utf-8"), "Shakespeare's plays"
    try:
        from pydoc_data.topics import topics  # what help() shows
    except ImportError:
        sys.exit(f"this Python comes without its documentation; put a text at {plays}")
    return "\n\n".join(topics[name] for name in sorted(topics)), "Python's documentation"


def tokenize(text):
    """Return tokens, an array; and the text of each of the V. Common words are one token."""
    pieces = re.findall(r" ?\w+|\W", text)
    common = {piece for piece, _ in Counter(pieces).most_common(PIECES)}
    spelled = [t for piece in pieces for t in ([piece] if piece in common else piece)]
    vocabulary = sorted(set(spelled))
    number = {piece: i for i, piece in enumerate(vocabulary)}
    return np.array([number[piece] for piece in spelled]), vocabulary


# ----------------------------------------------------------------------------
# The pieces of the lesson that are exercises, in the shape that they have there


def product_backward(dout, cache, dw):
    x, w = cache
    dw[:] = x.T @ dout
    return dout @ w.T


def bias_backward(dout, cache, dp, db):
    dp[:], db[:] = dout.sum(0), dout.sum((0, 1))
    return dout


def softmax_backward(dout, cache):
    (probs,) = cache
    return probs * (dout - (dout * probs).sum(-1, keepdims=True))


def crossentropy_backward(dloss, cache):
    probs, targets = cache
    dlogits = probs.copy()
    dlogits[np.arange(len(targets)), targets] -= 1
    return dlogits * (dloss / len(targets))


PARTS = (product_backward, bias_backward, softmax_backward, crossentropy_backward)


def lesson_with(answers):
    """Return a copy of the lesson in which answers, {exercise: path}, do what they can do."""
    spec = importlib.util.spec_from_file_location("train_gpt2", gpt2.__file__)
    lesson = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lesson)
    lesson.THREADS, lesson.POOL = 1, cases.NO_POOL  # the arrays are small
    own = SimpleNamespace(**{part.__name__: part for part in PARTS})

    def linear_backward(dout, cache, dw, db):
        (x, w), (N, OC) = cache, dout.shape
        dw_t = np.full_like(w.T, np.nan)  # the exercise's w is (C, OC)
        dout = own.bias_backward(dout.reshape(1, N, OC), (), np.empty_like(dout), db)
        dx = own.product_backward(dout.reshape(N, OC), (x, w.T), dw_t)
        dw[:] = dw_t.T
        return dx

    def head_backward(dloss, cache, dwte):
        probs, targets, x, wte = cache
        dlogits = own.crossentropy_backward(dloss, (probs, targets))
        dwte_t = np.full_like(wte.T, np.nan)
        dx = own.product_backward(dlogits, (x, wte.T), dwte_t)
        dwte[:] = dwte_t.T
        return dx

    def attend_backward(dout, q, k, v, att):
        if hasattr(own, "attention_head_backward"):
            heads = np.ndindex(att.shape[:2])  # one head of one sequence at a time
            each = [own.attention_head_backward(dout[i], (q[i], k[i], v[i], att[i])) for i in heads]
            return tuple(np.stack(g).reshape(q.shape) for g in zip(*each, strict=True))
        S = att.shape[-1]
        dpreatt = own.softmax_backward((dout @ v.mT).reshape(-1, S), (att.reshape(-1, S),))
        dpreatt = dpreatt.reshape(att.shape) / math.sqrt(q.shape[-1])
        return dpreatt @ k, dpreatt.mT @ q, att.mT @ dout

    def adamw_update(params, grads, m, v, step, lr, *, weight_decay):
        own.adamw_update(params, grads, m, v, step, lr, 0.9, 0.999, 1e-8, weight_decay)

    if {"product", "bias"} & answers.keys():
        lesson.linear_backward = linear_backward
    if {"product", "crossentropy"} & answers.keys():
        lesson.head_backward = head_backward
    if {"softmax", "attention_head"} & answers.keys():
        lesson.attend_backward = attend_backward
    sys.modules["train_gpt2"] = lesson  # so that block and model call the layers that are solved
    try:
        for name, path in answers.items():
            function = cases.EXERCISES[name].function
            answer = getattr(grade.load(path, name), function)
            setattr(own, function, answer)
            setattr(lesson, function, adamw_update if name == "adamw" else answer)
    finally:
        sys.modules["train_gpt2"] = gpt2
    return lesson


class Run:
    """A model that is being trained with a lesson's functions."""

    def __init__(self, lesson, config):
        self.lesson, self.config = lesson, config
        flat = gpt2.init_weights(config).astype(np.float64)
        moments = np.zeros((3, len(flat)))
        views = [gpt2.named_views(each, config) for each in (flat, *moments)]
        self.params, self.grads, self.m, self.v = views

    def gradient(self, x, y):
        """Return the loss; fill grads. By accumulation in two parts, if that is solved."""
        if hasattr(self.lesson, "accumulate"):
            parts = list(zip(np.split(x, 2), np.split(y, 2), strict=True))
            return float(self.lesson.accumulate(self.params, self.config, parts, self.grads))
        loss, cache = self.lesson.gpt2_forward(self.params, self.config, x, y)
        self.lesson.gpt2_backward(1.0, cache, self.grads)
        return float(loss)

    def step(self, i, steps, x, y):
        loss = self.gradient(x, y)
        gpt2.clip_gradients(self.grads, 1.0)
        lr = gpt2.learning_rate(i, steps, LR, WARMUP, LOW)
        tensors = self.params, self.grads, self.m, self.v
        self.lesson.adamw_update(*tensors, i + 1, lr, weight_decay=0.1)
        return loss


def first_step(answers, config, x, y):
    """Return the gradients of a first step, before they are clipped, and wte behind it."""
    run = Run(lesson_with(answers), config)
    run.gradient(x, y)
    gradients = [gradient.copy() for gradient in run.grads.values()]
    run.step(0, STEPS, x, y)
    return [*gradients, run.params["wte"]]


def odd_ones(answers, config, x, y):
    """Return which of the answers, each alone among the lesson's, make another first step."""
    right = first_step({}, config, x, y)
    return [
        name
        for name, path in answers.items()
        if not all(map(grade.close, first_step({name: path}, config, x, y), right))
    ]


def train(answers, steps=STEPS):
    """
    Train with these answers, {exercise: path}, and with the lesson; print losses and a sample.

    Return whether the losses are the same.
    """
    text, what = load_text()
    tokens, vocabulary = tokenize(text)
    config = gpt2.GPT2Config(T, len(vocabulary), L, NH, C)
    yours, lessons = Run(lesson_with(answers), config), Run(lesson_with({}), config)
    size = gpt2.num_parameters(config)
    print(
        f"{size:,} parameters, from scratch, on {what}: {steps} steps of {B * T} tokens", end="; "
    )
    print("Ctrl-C ends it earlier\n\n step   loss: yours    the lesson's", flush=True)
    rng, worst, began = np.random.default_rng(1337), 0.0, time.perf_counter()
    took, i, x, y, late = np.zeros(2), 0, None, None, False
    with contextlib.suppress(KeyboardInterrupt):
        for i in range(steps):
            starts = rng.integers(len(tokens) - T, size=(B, 1))
            x, y = (tokens[starts + shift + np.arange(T)] for shift in (0, 1))
            losses = []
            for which, run in enumerate((yours, lessons)):
                start = time.perf_counter()
                with contextlib.redirect_stdout(io.StringIO()):  # an answer may print
                    losses.append(run.step(i, steps, x, y))
                took[which] += time.perf_counter() - start
            worst = max(worst, abs(losses[0] - losses[1]))
            late = time.perf_counter() - began > SECONDS
            if i % (steps // 10 or 1) == 0 or i == steps - 1 or late or not worst < SAME:
                print(f"{i:5}   {losses[0]:11.6f}    {losses[1]:12.6f}", flush=True)
            if late or not worst < SAME:
                break
    if not worst < SAME:
        names = odd_ones(answers, config, x, y)
        print(f"\nthe losses differ; alone, these make another step: {', '.join(names) or 'none'}")
        return False
    if late and i < steps - 1:
        print(f"ended after {SECONDS} seconds, before the last step")
    print(f"\nthe same losses: they differ by {worst:.0e} at most. ", end="")
    print(
        "A step with yours takes {:.0f} ms, with the lesson's {:.0f}".format(*took / (i + 1) * 1e3)
    )
    drawn = gpt2.generate(yours.params, config, [int(tokens[0])], np.random.default_rng(1337))
    print("---\n" + "".join(vocabulary[next(drawn)] for _ in range(SAMPLE)) + "\n---")
    return True


def where_it_failed(error):
    """Return the line of an exercise that raised an error, or None: it is ours."""
    frames = traceback.extract_tb(error.__traceback__)
    found = [f for f in frames if re.fullmatch(r"\d\d_\w+\.py", f.filename.rpartition(os.sep)[2])]
    return f"{os.path.basename(found[-1].filename)}, line {found[-1].lineno}" if found else None


def lessons_part(solved):
    """Return which gradients (and steps) are still the lesson's, as exercises, in their order."""
    covered = set(solved)
    for name in reversed(cases.LESSONS):  # attention has the head within, and that the softmax
        covered |= {name} if WITHIN.get(name) in covered else set()
    return [name for name in cases.LESSONS if name not in covered]


def main(answers):
    """Train with the answers that are right, {exercise: path} -> exit status."""
    answers = {name: path for name, path in answers.items() if name in cases.LESSONS}
    others = lessons_part(answers)
    print(f"yours: {' '.join(answers) or 'none yet'}")
    if others:
        print(f"the lesson's, because these are not done: {' '.join(others)}")
    for part, whole in WITHIN.items():
        if {part, whole} <= answers.keys():
            print(f"({whole} does the work of {part})")
    try:
        same = train(answers)
    except Exception as error:
        place = where_it_failed(error)
        if not place:
            raise
        print(f"\n{place}: {grade.one_line(error)}; the grader's arrays are smaller than these")
        return grade.WRONG
    if not same:
        return grade.WRONG
    gradients = [name for name in others if name not in ("adamw", "accumulate")]
    if not answers:
        print("every gradient in this run was the lesson's; to make them yours: check.py")
    elif gradients:
        print(f"the gradients of {', '.join(gradients)} were the lesson's, the others yours")
    else:
        print("every gradient in this run was yours", end="")
        print(", and every step" if "adamw" in answers else "; the steps were the lesson's AdamW")
    return grade.RIGHT
