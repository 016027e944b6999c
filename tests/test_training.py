"""
check.py --train: each solved exercise takes the lesson's place, and the losses are the same.

The answers are the lesson's functions, called or copied.
"""

import inspect
import re
import sys

import train_gpt2 as gpt2

import numpy as np
import pytest
from helpers import PROJECT

sys.path.insert(0, str(PROJECT / "exercises"))

import cases  # noqa: E402
import check  # noqa: E402
import grade  # noqa: E402
import insight  # noqa: E402
import training  # noqa: E402

cases.HOME = cases.FOLDER  # not a folder of one's own, made by --start

EMPTY = "    raise NotImplementedError  # your lines take the place of this one\n"


ACCUMULATE = """\
    total, result = {name: 0 for name in grads}, 0
    for x, y in batches:
        loss, cache = gpt2_forward(params, config, x, y)
        gpt2_backward(1 / len(batches), cache, grads)
        total = {name: total[name] + grads[name] for name in grads}
        result += loss / len(batches)
    for name in grads:
        grads[name][:] = total[name]
"""


def body_of(name):
    """Return lines that solve an exercise."""
    if name == "accumulate":
        return ACCUMULATE
    function = cases.EXERCISES[name].function
    if name in ("block", "tied"):  # these call the layers that their file imports
        source = inspect.getsource(getattr(gpt2, function))
        return source.split('"""\n')[1].replace("return dmid", "result = dmid")
    where = "training" if hasattr(training, function) else "cases.LESSON"
    words = re.search(rf"def {function}\((.*?)\):", cases.path_of(name).read_text())[1]
    return f"    import cases, training\n    result = {where}.{function}({words})\n"


def solve(folder, name, more=""):
    """Write the file of an exercise that is solved -> its path. more: a line behind the answer."""
    path = folder / cases.path_of(name).name
    body = body_of(name) + more + ("" if name == "tied" else "    return result\n")
    text = cases.path_of(name).read_text(encoding="utf-8").replace(EMPTY, body)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def answers(tmp_path):
    return {name: solve(tmp_path, name) for name in cases.ORDER}


def batch():
    return np.random.default_rng(0).integers(30, size=(2, training.B, training.T))


CONFIG = gpt2.GPT2Config(training.T, 30, training.L, training.NH, training.C)


def test_a_run_with_all_of_them(answers, capsys, monkeypatch):
    monkeypatch.setattr(training, "STEPS", 3)
    monkeypatch.setattr(training.train, "__defaults__", (3,))
    assert training.main(answers) == grade.RIGHT
    text = capsys.readouterr().out
    assert "every gradient in this run was yours, and every step" in text
    rows = re.findall(r"^ +\d+ +([\d.]+) +([\d.]+)$", text, re.M)
    assert len(rows) == 3 and all(a == b for a, b in rows) and rows[0] != rows[2]
    some = {name: answers[name] for name in ("gelu", "attention")}
    assert training.main(some) == grade.RIGHT
    text = capsys.readouterr().out
    theirs = "product, bias, crossentropy, layernorm, embedding, block, tied"  # no softmax
    assert f"the gradients of {theirs} were the lesson's, the others yours" in text
    assert training.main({}) == grade.RIGHT  # as the first page says: it can be run at once
    assert "every gradient in this run was the lesson's" in capsys.readouterr().out


def test_each_answer_is_what_trains(answers, tmp_path):
    """One that is off by a hundredth makes another step, and is found."""
    off = {"embedding": "dwpe", "tied": "grads['lnfw']", "adamw": "params['wte']"}
    off |= {"accumulate": "grads['lnfw']", "attention_head": "result[1]"}
    (tmp_path / "wrong").mkdir()
    wrong = {
        name: solve(tmp_path / "wrong", name, f"    x = {off.get(name, 'result')}; x *= 1.01\n")
        for name in cases.LESSONS
    }
    assert training.odd_ones(answers, CONFIG, *batch()) == []
    assert training.odd_ones(wrong, CONFIG, *batch()) == cases.LESSONS


def test_what_goes_wrong_is_a_line(answers, tmp_path, capsys):
    assert (
        training.train(answers | {"gelu": solve(tmp_path, "gelu", "    result -= 0.1\n")}) is False
    )
    assert "alone, these make another step: gelu\n" in capsys.readouterr().out
    line = "    if len(dout) > 99: raise ValueError('large')\n"
    status = training.main(answers | {"gelu": solve(tmp_path, "gelu", line)})
    out = capsys.readouterr().out
    assert status == grade.WRONG and re.search(
        r"^05_gelu.py, line \d+: ValueError: large", out, re.M
    )


def test_without_shakespeare_it_is_pythons_documentation(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "FOLDER", tmp_path / "exercises")
    text, what = training.load_text()
    assert what == "Python's documentation" and len(text) > 100_000
    tokens, vocabulary = training.tokenize(text)
    assert "".join(vocabulary[token] for token in tokens) == text and len(vocabulary) < 1000


@pytest.mark.parametrize("name", cases.ORDER)
def test_insight(name, answers, capsys, monkeypatch):
    monkeypatch.setattr(insight, "SECONDS", 0)
    monkeypatch.setattr(gpt2, "THREADS", 1)
    monkeypatch.setattr(gpt2, "POOL", gpt2.POOL)
    insight.main(name, answers[name])
    out = capsys.readouterr().out
    assert out.startswith("the lesson: ") and re.search(
        r"takes [\d.]+ ms, (the lesson|a plain answer)'s [\d.]+ ms", out
    )
    assert len(out.splitlines()) >= 2 and max(map(len, out.splitlines())) <= 100


def test_progress():
    assert list(check.MINUTES) == list(cases.ORDER)
    text = (PROJECT / "doc" / "README.md").read_text(encoding="utf-8")
    pages, passed = 0, False
    rows = re.findall(r"\]\((\w+)\.md\) \|.*\| ([a-z_, ]*) \| (\d+) \|$", text, re.M)
    for page, asked, minutes in rows:
        exercises = [name for name in asked.split(", ") if name in check.MINUTES]
        if exercises or not passed:  # no exercise needs what stands without one behind AdamW's page
            pages += int(minutes)
        passed = passed or "adamw" in exercises
        if exercises:
            left = sum(check.MINUTES[name] for name in exercises) - pages
            assert 10 * len(exercises) <= left <= 30 * len(exercises), (page, left)
            pages = 0
    assert all(70 <= sum(evening.values()) <= 150 for evening in check.EVENINGS)
    assert check.progress({"product"}).startswith(
        "1 of 21, about 10 minutes to the next; 10 to the end of evening 1 of 11"
    )
    assert "check.py --train" in check.progress(cases.ORDER)
