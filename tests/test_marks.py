"""
check.py --json, --start and --reset: what a lecturer marks with, and a learner's own folder.

Right answers get all points; what is no answer, but makes a grader say so, gets none for it.
"""

import json
import sys

import numpy as np
import pytest
from helpers import PROJECT, run
from test_exercises import EMPTY, LEARNERS, answers, copied, write_answer

sys.path.insert(0, str(PROJECT / "exercises"))

import cases  # noqa: E402
import grade  # noqa: E402
import marks  # noqa: E402

EXERCISES = PROJECT / "exercises"
PACKAGES = np.__path__[0].rpartition("numpy")[0]
# Bodies of layernorm_backward, each below a name; and a piece of what is then said, if anything
CHEATS = f"""
== the lesson: No module named 'train_gpt2'
    from train_gpt2 import layernorm_backward
    return layernorm_backward(dout, cache, dw, db)
== the lesson, by its path: train_gpt2.py can't be opened
    import sys
    sys.path.insert(0, {str(PROJECT)!r})
    from train_gpt2 import layernorm_backward
    return layernorm_backward(dout, cache, dw, db)
== the grader's answers: answers.py can't be opened
    import sys
    sys.path += [{str(EXERCISES)!r}, {str(PROJECT)!r}]
    import answers
    return answers.layernorm(dout, cache, dw, db)
== its file: answers.py can't be opened
    open({str(EXERCISES / "answers.py")!r}).read()
== its file, by a link: os.symlink is refused
    __import__("os").symlink({str(EXERCISES / "answers.py")!r}, "mine.py")
== another program: subprocess.Popen is refused
    __import__("subprocess").check_output(["cat", {str(EXERCISES / "answers.py")!r}])
== autograd: No module named 'torch'
    import torch
== autograd, by its path: __init__.py can't be opened
    import sys
    sys.path.append({PACKAGES!r})
    import torch
== a report of its own: Python itself ended
    print('{{"points": 4, "of": 4}}', flush=True)
    __import__("os")._exit(0)
== a status: SystemExit: 0
    raise SystemExit(0)
== pickles where arrays belong: what it sends can't be read: ValueError: Object arrays
    import contextlib, io, os
    body = io.BytesIO()
    body.write(b'[{{"result": 0}}, 1]\\n')
    np.save(body, np.array([print]), allow_pickle=True)
    for place in range(3, 20):
        with contextlib.suppress(OSError):
            os.write(place, len(body.getvalue()).to_bytes(8, "little") + body.getvalue())
== a loop: no end after 3 seconds
    while True:
        pass
== a grader that always agrees
    import sys
    for module in [np, np.testing, *sys.modules.values()]:
        for name in "allclose", "array_equal", "close", "isclose", "assert_allclose":
            setattr(module, name, lambda *args, **options: True)
    dw[:], db[:] = 0, 0
    return dout
== what it is tried on changed to what is easy: changes
    norm[:] = dout[:] = dw[:] = db[:] = 0
    return dout
== an object with an opinion
    class Right(np.ndarray):
        __eq__ = __le__ = lambda *others: np.True_
    return dout.view(Right)
== infinity
    dw[:] = db[:] = np.inf
    return dout * np.inf
== objects: Object arrays cannot be saved
    return np.full(dout.shape, object(), object)
"""
# Pieces of what check.py says of a wrong answer in LEARNERS
WRONG = (
    "changes dout",
    "best_pair changes times",
    "encode should return a list",
    "(b, a) is merged",
    "calls gelu_forward",
    "more than `rows` rows",
    "puts batches into one",
    "float32 becomes float64",
    "right in float64, but not in float32",
    "dw: left unfilled",
    "dwte: it is added to what was there",
)
CHEATS = [entry.partition("\n")[::2] for entry in CHEATS.split("== ")[1:]]


def judged(tmp_path, name, body, seed=0):
    path = tmp_path / cases.GIVEN[name].name
    write_answer(path, name, body)
    return marks.judged(name, path, np.random.default_rng(seed))


@pytest.mark.parametrize("how, body", CHEATS, ids=[how.partition(":")[0] for how, _ in CHEATS])
def test_no_cheat_gets_a_point(how, body, tmp_path, monkeypatch):
    if how.startswith("a loop"):
        monkeypatch.setattr(marks, "SECONDS", 3)
    passed, why = judged(tmp_path, "layernorm", body)
    assert list(passed) == ["dx", "dw", "db", "contract"] and not any(passed.values())
    assert how.partition(": ")[2] in (why or "")


def test_arrays_are_drawn_anew(tmp_path):
    """A table of the right results of the other check, whose arrays are always the same."""
    table = [grade.prepared("gelu", i) for i in range(3)]
    table = {case.inputs["x"].shape: case.want["dx"].tolist() for case in table}
    body = f"    return np.array({table}[x.shape]).astype(x.dtype)\n"
    path = tmp_path / "05_gelu.py"
    given = cases.given_text("gelu")
    path.write_text(given.replace(EMPTY, body), encoding="utf-8")
    assert grade.grade("gelu", path) == []
    assert not any(marks.judged("gelu", path, np.random.default_rng(0))[0].values())


@pytest.mark.parametrize("name", cases.ORDER)
def test_right_answers_get_all_points(name, tmp_path):
    (right,) = (lines for n, what, lines in answers(LEARNERS) if n == name and not what)
    passed, why = judged(tmp_path, name, "\n".join(f" {line[1:]}" for line in right))
    assert all(passed.values()) and why is None


@pytest.mark.parametrize("words", WRONG)
def test_wrong_answers_lose_points(words, tmp_path):
    """As check.py says of the same files; where it is no matter of numbers, in the same words."""
    wrong = [(name, lines) for name, said, lines in answers(LEARNERS) if words in said]
    assert wrong
    for name, lines in wrong:
        passed, why = judged(tmp_path, name, "\n".join(f" {line[1:]}" for line in lines))
        assert not passed["contract"] and (why is None or words in why)
        assert (why is None) == (": " in words or " is merged" in words or "float64" in words)


def test_at_the_prompt(tmp_path):
    copied(tmp_path)
    mine = tmp_path / "my_exercises"

    def check(*words, status=0):
        done = run(tmp_path, "exercises/check.py", *words)
        assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    before = sorted(path.name for path in (tmp_path / "exercises").iterdir())
    assert "--start makes them" in check("--json", status=2)
    assert f"{len(cases.ORDER)} exercises copied, 0 were there" in check("--start")
    product = mine / "01_product.py"
    product.write_text(cases.given_text("product").replace(EMPTY, "    return dout @ w.T\n"))
    (mine / "06_layernorm.py").unlink()
    product = product.rename(mine / "02_product.py")  # its number before an update
    assert f"1 exercises copied, {len(cases.ORDER) - 1} were there" in check("--start")
    assert "dw: left unfilled" in check("product", status=1)
    found = json.loads(check("product", "--json", "--seed", 5, status=1))
    assert found == json.loads(check("product", "--json", "--seed", 5, status=1))
    assert (found["seed"], found["points"], found["of"]) == (5, 1, 3)
    (marked,) = found["exercises"]
    assert [result["points"] for result in marked["results"]] == [1, 0, 0]
    more = "return dout", "dw[:] = x.T @ dout\n    return dout"
    product.write_text(product.read_text().replace(*more))
    assert json.loads(check("product", "--json"))["points"] == 3
    assert "product: done" in check("product")

    assert "yours is my_exercises/02_product.py.old\n" in check("--reset", "product")
    assert "as it was given\n" in check("--reset", "product")
    assert "raise NotImplementedError" in product.read_text()
    product.write_text("again")
    assert "yours is my_exercises/02_product.py.old2\n" in check("--reset", "product")
    assert "dw[:] = x.T @ dout" in (mine / "02_product.py.old").read_text()

    check("--variant", 7, status=1)
    assert (mine / "variant_7").is_dir() and check("--hint", "--variant", 7, "z_loss")
    found = json.loads(check("--json", "--variant", 7, "--folder", mine, status=1))
    assert found["of"] == sum(len(e["results"]) for e in found["exercises"]) > 10
    assert all(exercise["why"] == "not begun" for exercise in found["exercises"])
    (mine / "variant_7" / "z_loss.py").unlink()
    assert "there is no such file" in check("z_loss", "--json", "--variant", 7, status=1)
    assert before == sorted(path.name for path in (tmp_path / "exercises").iterdir())
    given = "--reset", "bias", "--folder", "exercises"
    assert "no copy of yours; git checkout" in check(*given, status=1)
    for words in ("--start", "bias"), ("--seed", 1), ("--json", "--start"), ("--folder", "none"):
        check(*words, status=2)
    for name in "grade.py", "insight.py", "curve.py":
        done = run(tmp_path, f"exercises/{name}", "--help")
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "--help" in done.stderr
