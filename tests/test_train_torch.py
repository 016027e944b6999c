"""
Training by PyTorch, tools/train.py --device: the run that NumPy makes, in one process and in two;
its switches. It takes 60 s, most of them for the start of PyTorch in other processes.
"""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import train_gpt2 as gpt2
from tools import checkpoints, formats
from tools import train as house
from tools.console import UserError

import numpy as np
import pytest
from helpers import (
    PROJECT,
    SMALL_WEIGHTS,
    assert_close,
    failed,
    write_tokenizer,
    write_tokens,
)
from running import LONG, long_run, parts_of, posix, read_until

torch = pytest.importorskip("torch", reason="needs PyTorch")
import reference_gpt2 as reference  # noqa: E402
from tools import torch_engine  # noqa: E402

V = reference.SMALL.V
RUN = "--seq-len 16 --batch-size 2 --steps 8 --lr 2e-3 --val-every 0 --sample-every 0".split()
ALL = "--shuffle --warmup 3 --min-lr-frac 0.1 --weight-decay 0.1 --grad-clip 2".split()


@pytest.fixture(autouse=True)
def precision():
    """Restore PyTorch's own, which --tensorcores changes."""
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Flags for the small model and the tokens to train it on, which are in two files."""
    data = tmp_path_factory.mktemp("data")
    for name, count in ("train_0", 700), ("train_1", 411), ("val", 500):
        tokens = np.random.default_rng(count).integers(0, 4, count).cumsum() % V
        write_tokens(data / f"x_{name}.bin", tokens, V)
    write_tokenizer(data / "x_tokenizer.bin", [bytes([i]) for i in range(V)])
    return ["--init", SMALL_WEIGHTS, "--data", data / "x"]


def in_numpy(*flags):
    return house.main([*map(str, flags)])


def in_pytorch(*flags):
    return in_numpy("--device", "cpu", *flags)


def read_log(path):
    """Rows of numbers: step, tokens, train loss, val loss, learning rate, norm; -1 for none."""
    with open(path) as f:
        _, *rows = csv.reader(f)
    return np.array([[float(cell or -1) for cell in row[:6]] for row in rows])


def losses(text):
    return [float(loss) for loss in re.findall(r"^step \d+: (?:train )?loss (\S+)", text, re.M)]


def read_checkpoint(path):
    """
    Return parameters, m and v (sums) by name, and what is known of the run.

    Without the bias of the keys: its gradient is 0 but for rounding, which AdamW takes for one.
    """
    config, _, flat, (m, v), _ = parts_of(Path(path))
    about = checkpoints.read_about(path)
    if about.pop("means"):  # or else sums
        m, v = m / (1 - 0.9), v / (1 - 0.999)
    trees = [gpt2.named_views(numbers.copy(), config) for numbers in (flat, m, v)]
    for tree in trees:
        tree["qkvb"][:, config.C : 2 * config.C] = 0
    return trees, about


def assert_same_run(a, b):
    """Assert that the logs and checkpoints of two runs agree, which have these names."""
    assert np.allclose(read_log(f"{a}.csv"), read_log(f"{b}.csv"), rtol=2e-6, atol=0)
    (ours, our_run), (theirs, their_run) = (read_checkpoint(f"{name}.bin") for name in (a, b))
    assert our_run == their_run
    # measured: 1.3e-6 for parameters, 9.8e-7 for moments; 2e-7, the last digit, for the logs
    for mine, other in zip(ours, theirs, strict=True):
        for name in mine:
            assert_close(mine[name], other[name], 1e-5, name=name)


# ----------------------------------------------------------------------------
# As in NumPy


def test_same_run_as_in_numpy(given, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = [*given, *RUN, *ALL, "--grad-accum", 3, "--val-every", 3, "--val-batches", 3]
    lines = []
    for train in in_numpy, in_pytorch:
        found = train(*flags, "--save", "run.bin", "--log", f"{train.__name__}.csv")
        # what a caller gets: the last loss, all parameters
        assert found[0] == pytest.approx(read_log(f"{train.__name__}.csv")[-2, 2], abs=1e-6)
        assert np.array_equal(found[1], formats.load_weights("run.bin")[0])
        Path("run.bin").rename(f"{train.__name__}.bin")
        out = re.sub(r"\(took .*\)|loss [\d.]+|[\d.]+ bits", "", capsys.readouterr().out)
        lines.append(out.splitlines())
    assert_same_run("in_pytorch", "in_numpy")
    assert lines[0] == lines[1] and "wrote run.bin" in lines[0]
    log = read_log("in_numpy.csv")
    assert log[-1, 3] < log[0, 3] - 0.3  # it has learned
    assert (log[:-1, 5] > 2).any() and (log[:-1, 5] < 2).any()  # some were clipped
    best = [checkpoints.read_about("run_best.bin")["val_loss"], min(log[1:, 3][log[1:, 3] > 0])]
    assert best[0] == pytest.approx(best[1], rel=1e-5)


@pytest.mark.parametrize("first, then", [(in_numpy, in_pytorch), (in_pytorch, in_numpy)])
def test_each_resumes_what_the_other_saved(given, tmp_path, first, then):
    flags = [*given, *RUN, "--weight-decay", 0.1, "--grad-accum", 2, "--shuffle"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first(*flags, "--save", f"{whole}.bin", "--log", f"{whole}.csv")
    first(*flags, "--steps", 4, "--save", f"{parts}.bin", "--log", f"{parts}.csv")
    then("--resume", f"{parts}.bin", "--steps", 8, "--log", f"{parts}.csv", *RUN[-4:], *given[2:])
    assert_same_run(parts, whole)


# ----------------------------------------------------------------------------
# Processes


distributed = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="PyTorch without torch.distributed"
)


@distributed
def test_mistake_in_the_environment_is_one_line(monkeypatch):
    for name in "RANK", "MASTER_ADDR":
        monkeypatch.delenv(name, raising=False)
    why = "have torchrun start the processes"
    failed(long_run(PROJECT, "--device", "cpu", "--data", "x", WORLD_SIZE="2"), why)


@pytest.mark.parametrize(
    "world, hint", [(1, "leave PyTorch's flags out"), (2, "see what the others say")]
)
def test_an_error_of_pytorch_on_the_cpu(monkeypatch, world, hint):
    """As when another process has died. The CPU is no way out of it."""
    args = SimpleNamespace(device="cpu", compile=False, tensorcores=False)
    with pytest.raises(UserError, match=f"closed by peer; {hint}$"):
        with torch_engine.open_device(args):
            monkeypatch.setattr(torch_engine, "WORLD", world)
            raise RuntimeError("Connection closed by peer. More of it")


@pytest.mark.parametrize("ours, theirs", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_all_stop_if_one_is_to(monkeypatch, ours, theirs):
    monkeypatch.setattr(torch_engine.distributed, "all_reduce", lambda total: total.add_(theirs))
    engine = torch_engine.TorchEngine.__new__(torch_engine.TorchEngine)
    engine.world, engine.device = 2, "cpu"
    assert engine.agree(bool(ours)) is bool(ours or theirs)


def in_two_processes(*flags):
    """Return the command. (Behind the two dashes, a flag is none of torchrun's own.)"""
    command = "-m torch.distributed.run --standalone --nproc-per-node=2 --".split()
    return [*map(str, [sys.executable, *command, PROJECT / LONG, "--device", "cpu", *flags])]


def torchrun(*flags):
    command = in_two_processes(*flags)
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@distributed
def test_two_processes_are_as_good_as_one(given, tmp_path):
    """Also where they can't share evenly, in the three batches for validation."""
    flags = [*given, *RUN, *ALL, "--val-every", 4, "--val-batches", 3]
    one, two = tmp_path / "one", tmp_path / "two"
    done = torchrun(*flags, "--grad-accum", 2, "--save", f"{two}.bin", "--log", f"{two}.csv")
    assert done.returncode == 0, done.stderr
    in_pytorch(*flags, "--grad-accum", 4, "--save", f"{one}.bin", "--log", f"{one}.csv")
    assert_same_run(two, one)
    assert len(losses(done.stdout)) == 8  # the first process alone prints


@distributed
def test_two_processes_end_with_the_first(given):
    done = torchrun(*RUN, *given[:2], "--data", "none")
    assert done.returncode
    mine = [line for line in done.stderr.splitlines() if line.startswith("train.py: ")]
    assert mine[0].startswith("train.py: none_train.bin: there is no file"), done.stderr


def test_processes_that_cannot_share_a_step(given, tmp_path, monkeypatch):
    in_pytorch(*given, *RUN, "--grad-accum", 3, "--save", tmp_path / "w.bin")
    monkeypatch.setattr(house.NumpyEngine, "world", 2)
    with pytest.raises(UserError, match="2 processes can't share the 3 batches"):
        in_numpy("--resume", tmp_path / "w.bin", "--steps", 9, *given[2:])


@distributed
@posix
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_two_processes_that_are_stopped_save(given, tmp_path, signum):
    """The stop is decided by both together: the first saves what it has printed, and says so."""
    saved = tmp_path / "w.bin"
    command = in_two_processes(*given, *RUN, "--steps", 1000000, "--save", saved)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as run:
        lines = read_until(run, "step 3: ")
        os.killpg(run.pid, signum) if signum == signal.SIGINT else run.send_signal(signum)
        out, err = run.communicate(timeout=60)
    steps = len(losses("".join(lines) + out))
    assert run.returncode and checkpoints.read_about(saved)["step"] == steps >= 4
    assert f"stopped after {steps} steps; --resume {saved} goes on" in err
    assert "nothing is saved" not in err and os.listdir(tmp_path) == ["w.bin"]


# ----------------------------------------------------------------------------
# Switches


@pytest.fixture
def plain(given, capsys):
    in_pytorch(*given, *RUN, "--no-save")
    return losses(capsys.readouterr().out)


SWITCHES = {  # how much a loss may differ: ten times what was measured
    "--dtype=bfloat16": 5e-3,  # measured: 4.7e-4
    "--flash": 2e-6,  # measured: 2e-7, the last digit
    "--tensorcores": 5e-3,  # measured: 0, on a CPU without them; TF32 is finer than bfloat16
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_switch(given, plain, switch, capsys):
    in_pytorch(*given, *RUN, switch, "--no-save")
    found = losses(capsys.readouterr().out)
    assert found == pytest.approx(plain, rel=SWITCHES[switch])
    assert (torch.get_float32_matmul_precision() == "high") is (switch == "--tensorcores")
    if switch == "--dtype=bfloat16":
        assert found != pytest.approx(plain, rel=1e-5)


def test_flash_is_that(given, monkeypatch):
    monkeypatch.setattr(reference.F, "scaled_dot_product_attention", None)
    in_pytorch(*given, *RUN, "--no-save")
    with pytest.raises(TypeError):
        in_pytorch(*given, *RUN, "--flash", "--no-save")


def test_inference_only_learns_and_writes_nothing(given, tmp_path, capsys):
    flags = ["--inference-only", "--save", tmp_path / "x.bin", "--log", tmp_path / "x.csv"]
    in_pytorch(*given, *RUN, *flags, "--val-every", 8)
    out = capsys.readouterr().out
    first, last = re.findall(r"val loss (\S+)", out)
    assert first == last and len(losses(out)) == 8
    assert list(tmp_path.iterdir()) == []


HEADERS = Path(sysconfig.get_path("include")) / "Python.h"


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile takes a C++ compiler")
@pytest.mark.skipif(not HEADERS.exists(), reason=f"torch.compile takes {HEADERS}")
def test_compile(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # none to be left behind
    config = gpt2.GPT2Config(16, V, 1, 1, 8)  # one block, as this takes its time
    formats.write_weights(tmp_path / "w.bin", gpt2.init_weights(config), config)
    for switch in [], ["--compile"]:
        in_pytorch(*given, *RUN, "--no-save", "--init", tmp_path / "w.bin", *switch)
    found = losses(capsys.readouterr().out)
    assert found[:8] == pytest.approx(found[8:], rel=2e-6)  # measured: 2.2e-7, the last digit


def test_compile_without_a_compiler(given, tmp_path):
    none = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = long_run(PROJECT, *given, *RUN, "--no-save", "--compile", **none)
    failed(done, "No working C++ compiler", "leave --compile out")


@pytest.mark.parametrize("device", ["nonsense", "meta", "cuda", "cuda:99", "cuda:x"])
def test_device_that_is_not_there(given, tmp_path, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device, so there is nothing to refuse")
    with pytest.raises(UserError, match=f"^--device {device}: .") as caught:
        in_numpy(*given, "--no-save", "--device", device)
    assert "\n" not in str(caught.value)
