"""test_gpt2.py passes, and fails where it has to, naming the tensor."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import test_gpt2
import train_gpt2 as gpt2

import common
import numpy as np
import pytest

PROJECT = Path(__file__).parent.parent
WEIGHTS, STATE = test_gpt2.SMALL


def run_parity(*flags):
    """Run test_gpt2.py -> its exit status, the lines of its output."""
    command = [sys.executable, PROJECT / "test_gpt2.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_parity():
    if not common.WEIGHTS_FILE.exists():
        print("gpt2_124M.bin is not here: gradient checks and small state only")
    status, lines, _ = run_parity()
    assert (status, lines[-1]) == (0, "overall okay: 1")
    rows = [line for line in lines if re.search(r"\d  ok$", line)]
    for name in gpt2.tensor_shapes(gpt2.GPT2Config(1, 1, 1, 1, 1)):
        assert sum(line.startswith(f"d{name} ") for line in rows) >= 2
        assert any(line.startswith(f"{name} after 10 steps ") for line in rows)


def test_other_state_and_weights():
    status, lines, _ = run_parity("--weights", WEIGHTS, "--state", STATE)
    assert (status, lines[-1]) == (0, "overall okay: 1")
    assert sum(line.startswith("logits ") for line in lines) == 3  # and once against float64


@pytest.mark.parametrize("name", gpt2.tensor_shapes(gpt2.GPT2Config(1, 1, 1, 1, 1)))
def test_a_wrong_gradient_is_named(name, capsys, monkeypatch):
    backward = gpt2.gpt2_backward

    def wrong(dloss, cache, grads):
        backward(dloss, cache, grads)
        grads[name].flat[0] += 1e-3 * np.abs(grads[name]).max()

    monkeypatch.setattr(gpt2, "gpt2_backward", wrong)
    with pytest.raises(SystemExit) as stop:
        test_gpt2.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert stop.value.code == 1
    assert lines[-1] == "overall okay: 0"
    assert "failed: gradient checks of the whole model, float64: d" + name in lines
    assert f"failed: PyTorch: small_state.bin, B=3 T=13: d{name}" in lines


@pytest.mark.parametrize("difference, status", [(0, 0), (1e-2, 1)])
def test_published_losses(difference, status, capsys, monkeypatch):
    _, config = gpt2.load_weights(WEIGHTS)
    published = test_gpt2.load_state(STATE, config).losses.copy()
    published[9] += difference
    monkeypatch.setattr(test_gpt2, "PUBLISHED", published)
    with pytest.raises(SystemExit) as stop:
        test_gpt2.main(["--quick"])
    failed = "failed: PyTorch: small_state.bin, B=3 T=13: losses published with llm.c"
    assert stop.value.code == status
    assert (failed in capsys.readouterr().out.splitlines()) == bool(status)


def test_a_state_of_another_model(tmp_path):
    config = gpt2.GPT2Config(5, 7, 1, 1, 8)
    common.write_weights(tmp_path / "w.bin", gpt2.init_weights(config), config)
    status, _, errors = run_parity("--weights", tmp_path / "w.bin", "--state", STATE)
    assert status == 1
    assert len(errors) == 1
    assert str(STATE) in errors[0]


def test_a_missing_state_of_other_weights(tmp_path):
    shutil.copy(WEIGHTS, tmp_path)
    flags = "--weights", tmp_path / WEIGHTS.name, "--state", tmp_path / "none.bin"
    status, _, errors = run_parity(*flags)
    assert status == 1
    assert len(errors) == 1
    assert "none.bin" in errors[0]
