"""test_gpt2.py passes, and fails where it has to, naming the tensor. It takes most of a minute."""

import re
import subprocess
import sys

import test_gpt2
import train_gpt2 as gpt2
from tools import formats

import numpy as np
import pytest
from helpers import PROJECT, assert_close, flat_of, random_tensors, state_bytes, weight_bytes, write

WEIGHTS, STATE = test_gpt2.SMALL


def run_parity(*flags):
    """Run test_gpt2.py -> its exit status, the lines of its output."""
    command = [sys.executable, PROJECT / "test_gpt2.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def assert_rows(lines):
    """Each tensor has a row for its gradient, twice, and one for what it is after ten steps."""
    rows = [line for line in lines if re.search(r"\d  ok$", line)]
    for name in gpt2.TENSORS:
        assert sum(line.startswith(f"d{name} ") for line in rows) >= 2
        assert any(line.startswith(f"{name} after 10 steps ") for line in rows)
    for start in (
        "embedding: pure",
        "attention, B=6 T=1 NH=2: float32",
        "head dwte",
        "loss at step 9",
    ):
        assert any(line.startswith(start) for line in rows), start
    assert len({len(line) for line in rows}) == 1  # aligned


def test_parity_with_the_small_state():
    status, lines, errors = run_parity("--quick")
    assert (status, lines[-1], errors) == (0, "overall okay: 1", [])
    assert_rows(lines)


def test_parity_with_gpt2():
    if not all(path.exists() for path in test_gpt2.FULL):
        pytest.skip("gpt2_124M.bin or its debug state is not here")
    status, lines, _ = run_parity()
    assert (status, lines[-1]) == (0, "overall okay: 1")
    assert_rows(lines)
    assert any(line.startswith("losses published with llm.c ") for line in lines)


def test_without_the_weights_of_gpt2_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpt2, "WEIGHTS_FILE", tmp_path / "gpt2_124M.bin")
    monkeypatch.setattr(test_gpt2, "FULL", (tmp_path / "gpt2_124M.bin", tmp_path / "x.bin"))
    with pytest.raises(SystemExit) as stop:
        test_gpt2.main(["--state", str(tmp_path / "x.bin")])
    lines = capsys.readouterr().out.splitlines()
    assert stop.value.code == 0
    assert "skipped: gpt2_124M.bin does not exist; `python reference_gpt2.py` makes it" in lines


@pytest.mark.parametrize("flags", [["--wieghts", "x"], ["--weights"], ["more"]], ids=" ".join)
def test_wrong_flags(flags):
    status, lines, errors = run_parity(*flags)
    assert status == 2 and lines == [] and len(errors) == 1
    assert errors[0].startswith("test_gpt2.py: ") and errors[0].endswith("--help lists the flags")


def test_other_state_and_weights():
    status, lines, _ = run_parity("--weights", WEIGHTS, "--state", STATE)
    assert (status, lines[-1]) == (0, "overall okay: 1")
    assert sum(line.startswith("logits ") for line in lines) == 3  # and once against float64


@pytest.mark.parametrize("wrong_ones", [["fcb"], list(gpt2.TENSORS)], ids=["one", "all"])
def test_a_wrong_gradient_is_named(wrong_ones, capsys, monkeypatch):
    backward = gpt2.gpt2_backward

    def wrong(dloss, cache, grads):
        backward(dloss, cache, grads)
        for name in wrong_ones:
            grads[name].flat[0] += 1e-3 * np.abs(grads[name]).max()

    monkeypatch.setattr(gpt2, "gpt2_backward", wrong)
    with pytest.raises(SystemExit) as stop:
        test_gpt2.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert stop.value.code == 1
    assert lines[-1] == "overall okay: 0"
    checks = "gradient checks of the whole model, float64", "PyTorch: small_state.bin, B=3 T=13"
    for section in checks:
        named = [line for line in lines if line.startswith(f"failed: {section}: d")]
        assert named == [f"failed: {section}: d{name}" for name in wrong_ones]


WRONG = {  # the function of the lesson that is 1.01 times as large from a call on: what differs
    "embedding_forward": (0, "embedding"), "gelu": (1, "block 1 gelu"),
    "attend": (0, "block 0 atty"), "layernorm_forward": (4, "lnf"), "head_forward": (1, None),
}  # fmt: skip


@pytest.mark.parametrize("function", WRONG)
def test_the_first_output_that_differs_is_named(function, tmp_path, monkeypatch):
    """Of those behind a debug state, which is else the same, and ends with that of lnf."""
    reference = pytest.importorskip("reference_gpt2", reason="needs PyTorch")
    flat, config = formats.load_weights(WEIGHTS)
    files = [tmp_path / "plain.bin", tmp_path / "s.bin"]
    for path, layers in zip(files, (False, True), strict=True):
        reference.make_state(path, flat, config, 2, 5, steps=1, layers=layers)
    plain, data = (path.read_bytes() for path in files)
    assert len(data) - len(plain) == 4 * 10 * config.C * (1 + 18 * config.L + 1)
    assert data[:24] == plain[:24] and data[24:28] == b"\1\0\0\0"
    assert data[28 : len(plain) - 4] == plain[28:-4]  # but for the loss, by a rounding
    params, state = gpt2.named_views(flat, config), test_gpt2.load_state(files[1], config)
    _, cache = gpt2.gpt2_forward(params, config, state.x, state.y)
    assert_close(np.frombuffer(data[-40 * config.C :], "<f4"), cache[-1][2].ravel(), 1e-5)

    right, (calls, where) = getattr(gpt2, function), WRONG[function]

    def wrong(*args):
        nonlocal calls
        calls -= 1
        found = right(*args)
        if calls >= 0:
            return found
        return (1.01 * found[0], *found[1:]) if isinstance(found, tuple) else 1.01 * found

    report = test_gpt2.Report()
    monkeypatch.setattr(gpt2, function, wrong)
    report.section("x")
    test_gpt2.check_outputs(report, params, config, state)
    named = f"x: the first output that differs: {where}"
    assert report.failed[:1] == ([named] if where else [])


@pytest.mark.parametrize("difference, status", [(0, 0), (1e-2, 1)])
def test_published_losses(difference, status, capsys, monkeypatch):
    _, config = formats.load_weights(WEIGHTS)
    published = test_gpt2.load_state(STATE, config).losses.copy()
    published[9] += difference
    monkeypatch.setattr(test_gpt2, "PUBLISHED", published)
    with pytest.raises(SystemExit) as stop:
        test_gpt2.main(["--quick"])
    failed = "failed: PyTorch: small_state.bin, B=3 T=13: losses published with llm.c"
    assert stop.value.code == status
    assert (failed in capsys.readouterr().out.splitlines()) == bool(status)


@pytest.mark.parametrize("state", [STATE.name, "none.bin"])
def test_a_state_of_another_model_and_no_state(tmp_path, state):
    config = gpt2.GPT2Config(5, 7, 1, 1, 8)
    formats.write_weights(tmp_path / "w.bin", gpt2.init_weights(config), config)
    flags = "--weights", tmp_path / "w.bin", "--state", STATE.with_name(state)
    status, _, errors = run_parity(*flags)
    assert status == 1 and len(errors) == 1 and state in errors[0]


def test_files_written_by_hand(tmp_path, capsys):
    """Gradients from the description of the formats, not from our own writer, are compared."""
    config = gpt2.GPT2Config(maxT=5, V=131, L=2, NH=2, C=8)
    made = {name: 0.3 * array for name, array in random_tensors(config).items()}
    params = gpt2.named_views(flat_of(made, config), config)
    grads, m, v = (gpt2.named_views(np.zeros_like(flat_of(made, config)), config) for _ in range(3))
    x, y = np.random.default_rng(1).integers(config.V, size=(2, 2, 5)).astype("<i4")
    loss, cache = gpt2.gpt2_forward(params, config, x, y)
    gpt2.gpt2_backward(1.0, cache, grads)
    logits = test_gpt2.logits_of(cache).copy()
    first = {name: grad.copy() for name, grad in grads.items()}
    settings = 0.02, 0.9, 0.999, 1e-5, 0.3
    write(tmp_path / "w.bin", weight_bytes(config, 3, made, b"\0\0\xc0\x7f"))
    gpt2.adamw_update(params, grads, m, v, 1, *settings)
    losses = np.array([loss], "<f4")

    def compare(grads, after):
        parts = config, x, y, logits, losses, grads, settings, after, b"\0\0\xc0\x7f"
        write(tmp_path / "s.bin", state_bytes(*parts))
        report = test_gpt2.Report()
        test_gpt2.check_state(report, tmp_path / "w.bin", tmp_path / "s.bin")
        return [name.split(": ")[-1] for name in report.failed]

    assert compare(first, params) == []
    swapped = first | {"fcb": first["fcb"][::-1].copy()}
    assert compare(swapped, params) == ["dfcb"]
    assert compare(first, params | {"lnfb": params["lnfw"]}) == ["lnfb after 1 steps"]
