"""tools/torch_engine.py: the steps that PyTorch takes for tools/train.py, beside those of NumPy."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import train_gpt2 as gpt2
from tools import formats
from tools.console import UserError
from tools.numpy_engine import NumpyEngine

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from tools import torch_engine  # noqa: E402
from tools import train as house  # noqa: E402
from tools.torch_engine import TorchEngine  # noqa: E402

PROJECT = Path(__file__).parent.parent
WEIGHTS = PROJECT / "tests" / "small_weights.bin"
distributed = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="PyTorch without torch.distributed"
)


def flags(**given):
    return SimpleNamespace(**house.DEFAULTS | {"lr": 1e-2, "weight_decay": 0.1} | given)


def batches(count, config, seed=0):
    pairs = np.random.default_rng(seed).integers(config.V, size=(count, 2, 3, 13))
    return [(x, y) for x, y in pairs]


def error(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def without_keys_bias(flat, config):
    """Its gradient is 0 but for rounding, which AdamW takes for one."""
    flat = flat.copy()
    gpt2.named_views(flat, config)["qkvb"][:, config.C : 2 * config.C] = 0
    return flat


def in_pytorch(args, *more):
    return TorchEngine(args, *more, device=torch.device("cpu"))


@pytest.mark.parametrize("grad_clip", [0.0, 0.5, 1e9])
def test_steps_of_both_engines(grad_clip):
    flat, config = formats.load_weights(WEIGHTS)
    args = flags(grad_clip=grad_clip)
    engines = [make(args, flat.copy(), config) for make in (NumpyEngine, in_pytorch)]
    for step in range(4):
        own = batches(1 + step % 3, config, step)
        (loss, norm), (their_loss, their_norm) = (
            e.step(own, 1e-2 / (1 + step), step) for e in engines
        )
        assert their_loss == pytest.approx(loss, rel=1e-6)  # measured: 9.9e-8
        assert their_norm == pytest.approx(norm, rel=1e-6)  # measured: 9.2e-8
    ours, theirs = ([e.parameters(), *e.moments()] for e in engines)
    for a, b in zip(ours, theirs, strict=True):
        assert b.dtype == np.float32 and b.shape == flat.shape
        a, b = without_keys_bias(a, config), without_keys_bias(b, config)
        assert error(b, a) < 2e-5  # measured: 1.5e-6
    found = [e.evaluate(iter(batches(3, config, 9))) for e in engines]
    assert found[1] == pytest.approx(found[0], rel=1e-6)  # measured: 3.2e-8


def test_going_on():
    """An engine that begins with the vectors of another goes on as that one does."""
    flat, config = formats.load_weights(WEIGHTS)
    first = in_pytorch(flags(), flat, config)
    for step in range(3):
        first.step(batches(1, config, step), 1e-2, step)
    given = first.parameters(), *first.moments()
    copies = [vector.copy() for vector in given]
    second = in_pytorch(flags(), given[0], config, *given[1:], 3)
    for engine in first, second:
        engine.step(batches(1, config, 3), 1e-2, 3)
    ours, theirs = ([engine.parameters(), *engine.moments()] for engine in (first, second))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(given, copies, strict=True))  # copied


def test_a_step_that_is_not_finite_changes_nothing():
    flat, config = formats.load_weights(WEIGHTS)
    flat[-1] = np.nan
    engine = in_pytorch(flags(), flat, config)
    loss, norm = engine.step(batches(2, config), 1e-2, 0)
    assert np.isnan(loss) and np.isnan(norm)
    assert np.array_equal(engine.parameters(), flat, equal_nan=True)
    assert not any(moment.any() for moment in engine.moments())


def test_inference_only():
    flat, config = formats.load_weights(WEIGHTS)
    engine = in_pytorch(flags(inference_only=True), flat, config)
    (batch,) = batches(1, config)
    loss, norm = engine.step([batch], 1e-2, 0)
    assert norm == 0 and engine.evaluate([batch]) == pytest.approx(loss, rel=1e-6)
    assert np.array_equal(engine.parameters(), flat)


def test_one_process_agrees_with_itself():
    flat, config = formats.load_weights(WEIGHTS)
    engine = in_pytorch(flags(), flat, config)
    assert (engine.rank, engine.world) == (0, 1)
    assert engine.agree(True) is True and engine.agree(False) is False
    del engine


# ----------------------------------------------------------------------------
# Processes


@pytest.mark.parametrize(
    "given",
    [
        {"RANK": "abc"}, {"RANK": ""}, {"RANK": "-1"}, {"RANK": "1"}, {"WORLD_SIZE": "0"},
        {"WORLD_SIZE": "two"}, {"LOCAL_RANK": "0.5"}, {"RANK": "2", "WORLD_SIZE": "2"},
    ],
)  # fmt: skip
def test_environment_of_no_process(monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        torch_engine.processes()
    for name, value in given.items():
        assert f"{name}={value!r}" in caught.value.text
    assert caught.value.text.endswith("; unset them, or have torchrun set them")


def test_environment_of_a_process(monkeypatch):
    for name in "RANK", "LOCAL_RANK", "WORLD_SIZE":
        monkeypatch.delenv(name, raising=False)
    assert torch_engine.processes() == (0, 0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert torch_engine.processes() == (3, 1, 4)


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0': no process has these; "),
        pytest.param({"WORLD_SIZE": "2"}, "have torchrun start the processes", marks=distributed),
    ],
)
def test_mistake_in_the_environment_is_one_line(environment, why):
    command = [sys.executable, PROJECT / "tools" / "train.py", "--device", "cpu", "--data", "x"]
    known = {k: v for k, v in os.environ.items() if k not in ("RANK", "MASTER_ADDR")}
    done = subprocess.run(
        command, env=known | environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and why in done.stderr
    assert len(done.stderr.splitlines()) == 1


IN_TWO = """
import sys
sys.path.insert(0, {project!r})
import train_gpt2 as gpt2
from tools import formats
import numpy as np
from tools import formats, torch_engine
from test_torch_engine import WEIGHTS, batches, flags

flat, config = formats.load_weights(WEIGHTS)
args = flags(grad_clip=0.5)
with torch_engine.open_device(args) as device:
    torch_engine.barrier()
    engine = torch_engine.TorchEngine(args, flat, config, device=device)
    found = []
    for step in range(2):
        found += engine.step(batches(4, config, step)[engine.rank :: 2], 1e-2, step)
    found.append(engine.evaluate(batches(3, config, 9)))  # which two can't share evenly
    found += [engine.agree(engine.rank == 1), engine.agree(False)]
    np.save(f"{{sys.argv[1]}}{{engine.rank}}.npy", np.append(engine.parameters(), found))
    del engine
"""


@distributed
def test_two_processes(tmp_path):
    script = tmp_path / "in_two.py"
    script.write_text(IN_TWO.format(project=str(PROJECT)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    path = os.pathsep.join([str(PROJECT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, script, tmp_path / "r"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    results = [np.load(tmp_path / f"r{rank}.npy") for rank in (0, 1)]
    assert np.array_equal(*results)  # they stay the same
    flat, config = formats.load_weights(WEIGHTS)
    one = in_pytorch(flags(grad_clip=0.5), flat, config)
    expected = [x for step in (0, 1) for x in one.step(batches(4, config, step), 1e-2, step)]
    expected.append(one.evaluate(batches(3, config, 9)))
    *found, agreed, disagreed = results[0][len(flat) :]
    assert found == pytest.approx(expected, rel=1e-6)
    assert (agreed, disagreed) == (1, 0)
    parameters = results[0][: len(flat)].astype(np.float32)
    ours, theirs = (without_keys_bias(p, config) for p in (parameters, one.parameters()))
    assert error(ours, theirs) < 2e-5
