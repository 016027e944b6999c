"""
check.py --variant: every alternative of every template can be solved, and what is wrong is seen.
"""

import itertools
import re
import sys

import train_gpt2 as gpt2

import pytest
from helpers import PROJECT, run
from test_exercises import EMPTY, copied

sys.path.insert(0, str(PROJECT / "exercises"))

import cases  # noqa: E402
import grade  # noqa: E402
import seeds  # noqa: E402

# Answers; of [[a || b]], a template's first alternative needs a, its second b
ANSWERS = r"""
== label_smoothing
    N = len(wanted)
    return (np.exp(log_probs) * wanted.sum(-1, keepdims=True) - wanted) * dloss / N
== z_loss
    ones = np.zeros_like(probs)
    np.put_along_axis(ones, targets[:, None], 1, -1)
    slope = 2 * WEIGHT * log_z [[ || / (1 + log_z * log_z)]]
    return (probs * (1 + slope) - ones) * dloss / len(probs)
== masked_mean
    dmask[:] = dloss * (losses - loss * [[1 || 2 * mask]]) / total
    d = np.exp(log_probs)
    d[np.arange(len(d)), targets] -= 1
    return d * mask[:, None] * dloss / total
== exact_gelu
    du = dout * x * np.exp(-u * u / 2) / math.sqrt(2 * math.pi)
    da[:] = [[(du * x).sum(0) || -(du * x / a**2).sum(0) || du.sum(0)]]
    return dout * below + du [[* a || / a || ]]
== rmsnorm
    dw[:] = (dout * norm).sum(0) * [[1 || np.exp(w) || 2 * w]]
    dnorm = dout * [[(1 + w) || np.exp(w) || w * w]]
    return (dnorm - norm * (dnorm * norm).mean(-1, keepdims=True)) / rms
== swiglu
    dwdown[:] = hidden.T @ dout
    dhidden = dout @ wdown.T
    ds = sigmoid * (1 - sigmoid)
    tanh, square = np.tanh(gate), sigmoid * sigmoid
    of_tanh = (1 - tanh * tanh) * sigmoid + tanh * ds
    slope = [[2 * gate * sigmoid + gate**2 * ds || of_tanh || square + gate * 2 * sigmoid * ds]]
    dgate, dup = dhidden * up * slope, dhidden * opened
    dwgate[:], dwup[:] = x.T @ dgate, x.T @ dup
    return dgate @ wgate.T + dup @ wup.T
== alibi
    datt = dout @ v.mT
    d = att * (datt - (datt * att).sum(-1, keepdims=True))
    dslopes[:] = -(d * far).sum((1, 2))
    d /= q.shape[-1] ** 0.5
    return d @ k, d.mT @ q, att.mT @ dout
== rotary
    d, dangles = dout / turned_q.shape[-1] ** 0.5, 0
    dq, dk = d @ turned_k, d.mT @ turned_q
    for turned, dturned in (turned_q, dq), (turned_k, dk):
        (a, b), (da, db) = pairs(turned), pairs(dturned)
        dangles = dangles + (a * db - b * da).sum(0)
    dspeeds[:] = (dangles * [[times || np.sqrt(times) || times * np.exp(speeds)]]).sum(0)
    return turn(dq, -angles), turn(dk, -angles)
== untied_head
    d = head_backward(dloss, head_cache, grads["head"])
    dx = layernorm_backward(d, lnf_cache, grads["lnfw"], grads["lnfb"]) [[ || + d || - d]]
    grads["wte"][:] = 0
    embedding_backward(dx, embedding_cache, grads["wte"], grads["wpe"])
"""
ANSWERS = dict(entry.split("\n", 1) for entry in ANSWERS.split("== ")[1:])
# What is wrong in an answer, and what the grader says, without a list, of its mistakes
WRONG = (
    ("label_smoothing", " / N", "", "a factor of 1/N is missing"),
    ("z_loss", " * dloss", "", "a factor of dloss is missing"),
    ("masked_mean", " * mask[:, None]", "", "right: dmask"),
    ("exact_gelu", "da[:] =", "da =", "da: left unfilled: = alone"),
    ("rmsnorm", "- norm", "+ norm", "right: dw"),
    ("swiglu", " + dup @ wup.T", "", "right: dwgate, dwup, dwdown"),
    ("alibi", "= -(d", "= (d", "dslopes: the sign is wrong"),
    ("rotary", "turn(dq, -", "turn(dq, ", "right: dk, dspeeds"),
    ("untied_head", 'grads["wte"][:] = 0', "pass", "dwte: it is added to what was there"),
)


def bodies(name):
    """Yield an exercise's answers, for one alternative after the other."""
    count = max(len(found.split("||")) for found in re.findall(r"\[\[.*?\]\]|$", ANSWERS[name]))
    for i in range(count):
        choose = lambda found: found[1].split("||")[i].strip()  # noqa: B023, E731
        yield re.sub(r"\[\[(.*?)\]\]", choose, ANSWERS[name])


@pytest.fixture
def report(tmp_path, monkeypatch):
    """A function that returns the grader's report of a template, with this body."""
    for what in "EXERCISES", "PATHS":
        monkeypatch.setattr(cases, what, dict(getattr(cases, what)))
    monkeypatch.setattr(grade, "EXERCISES", cases.EXERCISES)
    monkeypatch.setattr(gpt2, "THREADS", 1)
    monkeypatch.setattr(gpt2, "POOL", cases.NO_POOL)

    def report_of(name, seed, body):
        grade.prepared.cache_clear()
        seeds.use(seed, [name])
        path = tmp_path / f"{name}.py"
        path.write_text(seeds.text_of(name, seed).replace(EMPTY, body), encoding="utf-8")
        try:
            return "\n".join(grade.grade(name, path))
        except grade.Stop as stop:
            return str(stop)

    yield report_of
    grade.prepared.cache_clear()


@pytest.mark.parametrize("name", seeds.VARIANTS)
def test_all_alternatives_can_be_solved(name, report):
    """By one of the answers, and no other: what one student writes is no help to another."""
    texts = {seeds.text_of(name, i).replace(f"variant {i}", ""): i for i in range(60)}
    choices = re.findall(r"  # or (.*)", (seeds.FOLDER / f"{name}.py").read_text())
    assert len(texts) == len(list(itertools.product(*(c.split(" or ") + [c] for c in choices))))
    passed = []
    for seed in texts.values():
        reports = [report(name, seed, body) for body in bodies(name)]
        assert reports.count("") == 1, reports
        passed.append(reports.index(""))
    assert set(passed) == set(range(len(reports)))


@pytest.mark.parametrize("name, old, new, words", WRONG)
def test_wrong_answers(name, old, new, words, report):
    seed = next(i for i in range(60) if report(name, i, next(bodies(name))) == "")
    body = next(bodies(name))
    assert body.count(old) == 1 and words in report(name, seed, body.replace(old, new))


def test_each_student_gets_another_set():
    names = seeds.drawn(7)
    assert names == "label_smoothing z_loss exact_gelu rmsnorm alibi untied_head".split()
    sets = [tuple(seeds.text_of(n, i) for n in seeds.drawn(i)) for i in range(200)]
    sets = {tuple(re.sub(r"--variant \d+", "", text) for text in texts) for texts in sets}
    assert len(sets) >= 190
    assert {name for i in range(20) for name in seeds.drawn(i)} == set(seeds.VARIANTS)
    assert set(seeds.HINTS) == set(ANSWERS) == set(seeds.VARIANTS)


def test_a_seed_at_the_prompt(tmp_path):
    copied(tmp_path)

    def check(*words):
        done = run(tmp_path, "exercises/check.py", *words, "--variant", 7)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    status, text = check()
    assert status == 1 and text.count(" empty ") == 6 and "0 of 6 of variant 7" in text
    assert "then check.py label_smoothing --variant 7" in text
    path = tmp_path / "exercises" / "variant_7" / "label_smoothing.py"
    given = path.read_text()
    path.write_text(given.replace(EMPTY, next(bodies("label_smoothing"))))
    assert check("label_smoothing") == (
        0,
        "label_smoothing: done (exercises/variant_7/label_smoothing.py, doc/head.md)\n"
        "next: check.py z_loss --variant 7\n",
    )
    assert "1 of 6 of variant 7" in check()[1]
    path.write_text(given.replace("-(wanted", "(wanted").replace(EMPTY, "    return 0\n"))
    assert "is not as it was given; delete it, and --variant makes it again" in check(path.stem)[1]
    path.unlink()
    assert "not begun" in check(path.stem)[1] and path.read_text() == given
    assert "step 1 of 1" in check("z_loss", "--hint")[1]
    assert check("swiglu")[0] == 2
