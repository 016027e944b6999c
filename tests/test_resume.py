"""
Runs that end early, and go on: checkpoints, --resume, Ctrl-C, kills, --log, the best weights.

Files that cannot be resumed, and logs that cannot be written, are rows of test_bad_input.py. This
takes half a minute, a third of it for the kills.
"""

import math
import random
import re
import signal
import time
from types import SimpleNamespace

import train_gpt2 as gpt2
from tools import checkpoints, formats
from tools import train as house
from tools.console import UserError

import numpy as np
import pytest
from helpers import END, V, add_data, failed, make_project, start, succeeded, write_tokens
from running import (
    DATA,
    FAST,
    LESSON,
    LONG,
    STOPPING,
    checkpoint,
    interrupted,
    long_run,
    losses,
    posix,
    read_until,
    small_weights,
    within,
)

ENDLESS = [*FAST, *DATA, "--steps", 10**6]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The program, and data: `letters`; `parts`, the same in two files; `mixed`, out of order."""
    folder = add_data(make_project(tmp_path_factory.mktemp("resume")))
    for name in "parts", "mixed":
        add_data(folder, name)
    whole = folder / "data" / "parts_train.bin"
    tokens = formats.load_tokens(whole)[0].tolist()
    for i, part in enumerate((tokens[:300], tokens[300:])):
        write_tokens(folder / "data" / f"parts_train_{i:03}.bin", part)
    whole.unlink()
    random.Random(0).shuffle(tokens)  # what a model learns of the text is no help with this
    write_tokens(folder / "data" / "mixed_val.bin", tokens)
    small_weights(folder / "weights.bin", 16)
    return folder


def from_step(out, step):
    """The output from that step on, but for how long it took, and where it was written."""
    out = re.sub(r"\(took .*\)|memory: .*\n|.*bits per byte.*\n", "", out)
    return out[out.index(f"step {step}: ") : out.rindex("wrote ")]


def weights_of(path):
    return formats.load_weights(path)[0]


# ----------------------------------------------------------------------------
# A run in two pieces ends as a run in one


QUIET = "--val-every 0 --sample-every 0"
SCHEDULE = "--steps 200 --warmup 10 --min-lr-frac 0.1 --weight-decay 0.1 --grad-accum 2 --shuffle"


@pytest.mark.parametrize(
    "kept, shown, stop",  # flags that the checkpoint keeps; others; where Ctrl-C is pressed
    [
        ("", QUIET, None),
        ("--weight-decay 0.1 --warmup 3", QUIET, None),
        ("--grad-accum 3 --grad-clip 0.5 --shuffle --seed 7", QUIET, None),
        ("--data data/parts --shuffle", QUIET, None),
        ("", "--val-every 2 --val-batches 2 --sample-every 3", None),
        ("--init weights.bin", QUIET, None),
        pytest.param(SCHEDULE, QUIET, "step 12: ", marks=posix),
    ],
)
def test_two_runs_are_one(project, tmp_path, kept, shown, stop):
    flags = [*FAST, *DATA, "--lr", 1e-2, "--steps", 10, *kept.split(), *shown.split()]
    whole, part, more = tmp_path / "whole.bin", tmp_path / "part.bin", []
    in_one = succeeded(long_run(project, *flags, "--save", whole))
    if stop:
        interrupted(project, LONG, *flags, "--save", part, at=stop)
    else:
        succeeded(long_run(project, *flags, "--save", part, "--steps", 5))
        more = ["--steps", 10]
    step, steps = checkpoint(part), checkpoint(whole)
    assert 12 < step < steps == 200 if stop else (step, steps) == (5, 10)
    in_two = succeeded(long_run(project, "--resume", part, *shown.split(), *more))
    assert part.read_bytes() == whole.read_bytes()
    assert from_step(in_two, step) == from_step(in_one, step)
    for out in in_one, in_two:  # of all files together
        assert ", 901 tokens, and 451 for validation\n" in out
    assert f"step {step - 1}: " not in in_two and f"wrote {part}\n" in in_two


def test_a_resumed_run_may_save_elsewhere(project, tmp_path):
    first, second = tmp_path / "first.bin", tmp_path / "second.bin"
    succeeded(long_run(project, *FAST, *DATA, "--save", first))
    before = first.read_bytes()
    resume = ["--resume", first, "--steps", 4, "--save", second]
    succeeded(long_run(project, *resume, *QUIET.split()))
    assert first.read_bytes() == before and checkpoint(second) == 4


def test_a_checkpoint_is_of_one_save(tmp_path):
    """Though another one takes its place while it is read."""
    config, path = gpt2.GPT2Config(8, V, 1, 1, 4), tmp_path / "w.bin"
    ones = np.ones(gpt2.num_parameters(config), np.float32)
    about = {"data": "", "digest": "", "settings": {}}
    for step in 1, 2:
        moments = 3 * step * ones, 5 * step * ones
        checkpoints.save(path, step * ones, config, {"step": step, **about}, moments)
        if step == 1:
            its = checkpoints.Checkpoint(path)
    found = its.about["step"], its.weights().max(), *its.moments().max(1)
    assert found == (1, 1, 3, 5) and checkpoints.read_about(path)["step"] == 2


def test_digest_of_the_data():
    """Of the first million of tokens, the last million, and how many each file has."""
    million = 10**6
    first = (np.arange(3 * million) % 50_000).astype("<u2")
    last = first[: 2 * million].astype("<i4")

    def changed(tokens, i):
        tokens = tokens.copy()
        tokens[i] += 1
        return tokens

    found = checkpoints.digest([first, last])
    assert re.fullmatch("[0-9a-f]{64}", found)
    others = [[changed(first, i), last] for i in (0, million - 1)]
    others += [[first, changed(last, i)] for i in (-1, -million)]
    for other in [*others, [first[:-1], last]]:
        assert checkpoints.digest(other) != found
    # because nobody reads all of a large text for this
    same = changed(first, million), changed(last, million - 1)
    assert checkpoints.digest(same) == checkpoints.digest([first, last.astype("<u2")]) == found


@pytest.mark.parametrize("which, value", [(0, np.nan), (0, -np.inf), (1, np.nan), (1, -1e-9)])
def test_moments_that_none_can_be(tmp_path, which, value):
    """m may be below 0, v, a mean of squares, not: they are neither saved nor gone on from."""
    config, path = gpt2.GPT2Config(8, V, 1, 1, 4), tmp_path / "w.bin"
    flat = gpt2.init_weights(config)
    moments = [-np.abs(flat), np.abs(flat)]
    about = {"step": 0, "data": "data/x", "digest": "", "settings": {}}
    checkpoints.save(path, flat, config, about, moments)
    assert np.array_equal(checkpoints.Checkpoint(path).moments(), moments)
    before = path.read_bytes()
    moments[which][-1] = value
    with pytest.raises(UserError, match=f"w.bin is not written: its {'mv'[which]} are not"):
        checkpoints.save(path, flat, config, about, moments)
    assert path.read_bytes() == before
    formats.write_weights(path, flat, config, moments)
    with pytest.raises(UserError, match=f"w.bin: its {'mv'[which]} are not all finite"):
        checkpoints.Checkpoint(path).moments()


# ----------------------------------------------------------------------------
# Kills


def rows_of(log):
    """The rows of a log, as dicts; its header is what it is to be."""
    columns, *rows = log.read_text().splitlines()
    assert columns == "step,tokens,train_loss,val_loss,lr,grad_norm,ms,train_bpb,val_bpb"
    return [dict(zip(columns.split(","), row.split(","), strict=True)) for row in rows]


def test_killed_at_any_moment(project, tmp_path):
    """After 12 kills, each run resumed from what the one before left, it is as if nothing was."""
    names = ["out.bin", "out_best.bin", "log.csv", "whole.bin"]
    (saved, best, log, whole), rng = (tmp_path / name for name in names), random.Random(0)
    every = "--save-every 1 --val-every 1 --val-batches 1 --sample-every 0".split()
    new, step = [*ENDLESS, "--lr", 1e-2], 0
    flags = [*new, *every, "--save", saved, "--log", log]
    for _ in range(12):
        with start(project, LONG, *flags) as process:
            lines = read_until(process, "wrote ")
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
        assert lines[-2].startswith(f"step {step}: ")  # it went on from the checkpoint
        reached = checkpoint(saved)
        assert reached > step
        assert [int(row["step"]) for row in rows_of(log)][:reached] == list(range(reached))
        if best.exists():
            assert np.isfinite(weights_of(best)).all()
            assert checkpoints.read_about(best)["step"] <= reached
        with open(log, "a") as f:
            f.write("0,6")  # as if it died in the middle of a row
        flags, step = ["--resume", saved, *every, "--log", log], reached
    left = {re.sub(r"\.(\d+|lock)\.part$", "", path.name) for path in tmp_path.iterdir()}
    assert left == set(names[:3])

    every += ["--steps", step + 3]
    succeeded(long_run(project, *flags, *every))
    out = succeeded(long_run(project, *new, *every, "--save", whole))
    assert saved.read_bytes() == whole.read_bytes()
    *rows, last = rows_of(log)
    assert [float(row["train_loss"]) for row in rows] == losses(out, "train")
    assert [float(row["val_loss"]) for row in (*rows, last)] == losses(out, "val")
    assert [int(row["step"]) for row in (*rows, last)] == list(range(step + 4))
    left = {path.name for path in tmp_path.iterdir() if path.suffix != ".part"}
    assert left == {*names, "whole_best.bin"}


# ----------------------------------------------------------------------------
# Ctrl-C


@posix
@pytest.mark.parametrize(
    "flag, hint",
    [
        ("--save", "--resume {} goes on"),
        ("--out", "--init {} starts from there"),
        ("--no-save", "nothing is saved"),
    ],
)
def test_ctrl_c_ends_a_run_after_a_step(project, tmp_path, flag, hint):
    """It saves what a run of so many steps saves, and says what to do with it."""
    out = [] if flag == "--no-save" else [tmp_path / "w.bin"]
    how = {"signum": signal.SIGTERM} if flag == "--save" else {}  # which a container is sent
    status, text, err = interrupted(project, LONG, *ENDLESS, flag, *out, at="step 3: ", **how)
    lines = text.splitlines()[3:]
    steps = len(lines) - len(out)
    assert status == 130 and lines[steps - 1].startswith(f"step {steps - 1}: ")
    assert err == f"{STOPPING}train.py: stopped after {steps} steps; {hint.format(*out)}\n"
    assert lines[steps:] == [f"wrote {path}" for path in out]
    assert list(tmp_path.iterdir()) == out
    for path in out:
        again = tmp_path / "again.bin"
        succeeded(long_run(project, *FAST, *DATA, "--steps", steps, "--out", again))
        assert np.array_equal(weights_of(again), weights_of(path))
        assert flag == "--out" or checkpoint(path) == steps


@posix
def test_ctrl_c_ends_the_lesson(project, tmp_path):
    """Its weights are saved, and have learned."""
    out = tmp_path / "w.bin"
    flags = [*ENDLESS, "--lr", 1e-2, "--val-every", 10**7, "--out", out]
    status, text, err = interrupted(project, LESSON, *flags, at="step 30: train")
    assert (status, err) == (0, "") and f"\nwrote {out}; to go on " in text
    again = succeeded(long_run(project, *flags, "--init", out, "--steps", 0, "--no-save"))
    assert losses(again, "val")[0] < losses(text, "val")[0] - 0.5


@posix
def test_ctrl_c_before_the_first_step(project, tmp_path):
    """There is nothing yet that --resume could go on with."""
    pressed = "import signal, tools.memory as memory; from signal import SIGINT"
    pressed += "; memory.print_memory = lambda _: signal.raise_signal(SIGINT)"
    flags = [*FAST, *DATA, "--save", tmp_path / "w.bin"]
    done = long_run(project, *flags, python=within(pressed))
    assert done.returncode == 130
    assert done.stderr == f"{STOPPING}train.py: stopped before the first step\n"
    assert not list(tmp_path.iterdir())


LONG_STEPS = [*FAST, *DATA, "--grad-accum", 10_000]  # of half a minute each


@posix
def test_second_ctrl_c_ends_at_once(project, tmp_path):
    """In the middle of a step."""
    saved = tmp_path / "w.bin"
    succeeded(long_run(project, *FAST, *DATA, "--save", saved))
    before = saved.read_bytes()
    flags = ["--val-every", 1, "--val-batches", 1, "--save", saved]
    with start(project, LONG, *LONG_STEPS, *flags) as process:
        read_until(process, "val loss ")
        while not (tmp_path / "w_best.bin").exists():  # which is written after that line
            time.sleep(0.01)
        clock = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert [process.stderr.readline() for _ in "12"] == STOPPING.splitlines(keepends=True)
        time.sleep(0.3)
        assert process.poll() is None  # it is finishing the step
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - clock < 2.3
    assert (process.returncode, out) == (130, "")
    assert err == "train.py: stopped at once, without saving\n"
    assert saved.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"w.bin", "w_best.bin"}


@posix
def test_second_ctrl_c_amid_a_lock_of_the_threads(project):
    """It may come when a lock is taken and not yet in a with statement: one waits for it always."""
    stuck = within("import threading; train_gpt2.POOL.submit(threading.Event().wait)")
    with start(project, LONG, *LONG_STEPS, "--no-save", python=stuck) as process:
        read_until(process, "memory: ")
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "\n"
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=30) == 130
        finally:
            process.kill()


@pytest.mark.parametrize("whole", [True, False])
def test_a_step_that_is_half_done_is_not_saved(whole):
    """As where memory runs out in the middle of AdamW: some parameters have moved, others not."""
    saved = []
    saver = SimpleNamespace(start=0, args=SimpleNamespace(save="x"), save=saved.append)
    with pytest.raises(MemoryError):
        with house.saving(saver) as state:
            state.step, state.whole = 3, whole
            raise MemoryError
    assert saved == [3] * whole


# ----------------------------------------------------------------------------
# The best weights, and what is not finite


def test_best_weights(project, tmp_path):
    """With validation on the letters of the text in any order: its loss falls, and then rises."""
    saved, best = tmp_path / "out.bin", tmp_path / "out_best.bin"
    flags = [*FAST, "--data", "data/mixed", "--lr", 3e-3, "--val-every", 1]
    found = losses(succeeded(long_run(project, *flags, "--steps", 25, "--save", saved)), "val")
    step = found.index(min(found))
    assert len(found) == 26 and 0 < step < 25 and found[-1] > found[step] + 0.1
    about = checkpoints.read_about(best)
    assert about["step"] == step and about["val_loss"] == pytest.approx(found[step], abs=1e-6)

    again, there = tmp_path / "again.bin", weights_of(best)
    succeeded(long_run(project, *flags, "--steps", step, "--save", again))
    assert np.array_equal(there, weights_of(again))
    out = succeeded(long_run(project, *flags, "--init", best, "--steps", 0))
    assert losses(out, "val") == [found[step]]

    before = best.read_bytes()
    more = ["--steps", 30, "--val-every", 1, "--sample-every", 0]
    out = succeeded(long_run(project, "--resume", saved, *more))
    assert min(losses(out, "val")) > found[step] and checkpoint(saved) == 30
    assert best.read_bytes() == before

    # those of a new run are its own, whatever an earlier one of this name has left
    out = succeeded(long_run(project, *flags, "--lr", 1e-5, "--save", saved))
    about = checkpoints.read_about(best)
    assert about["val_loss"] == pytest.approx(min(losses(out, "val")), abs=1e-6)
    assert about["val_loss"] > found[step] + 1e-3


@pytest.mark.parametrize("more", [[], ["--grad-accum", 3], ["--grad-clip", 1]], ids=str)
def test_a_loss_that_is_not_finite_ends_the_run(project, tmp_path, more):
    saved = tmp_path / "out.bin"
    succeeded(long_run(project, *FAST, *DATA, "--save", saved))
    before = saved.read_bytes()
    flags = ["--lr", "1e20", *more, "--steps", 9, "--save", saved, "--val-every", 5]
    done = long_run(project, *FAST, *DATA, *flags)
    batch = 3 if "--grad-accum" in more else 1
    failed(done, "step 1: ", f"batch {batch} of data/letters", "--lr", "--grad-clip")
    assert "step 1: train loss" not in done.stdout
    assert saved.read_bytes() == before
    best = checkpoints.read_about(tmp_path / "out_best.bin")  # of step 0, the only one with a loss
    assert best["step"] == 0 and np.isfinite(best["val_loss"])
    assert len(list(tmp_path.iterdir())) == 2


# ----------------------------------------------------------------------------
# Log


def test_log_agrees_with_the_output(project, tmp_path):
    log = tmp_path / "log.csv"
    flags = "--steps 5 --val-every 2 --grad-accum 2 --lr 1e-2 --warmup 2 --min-lr-frac 0.5".split()
    out = succeeded(long_run(project, *FAST, *DATA, *flags, "--log", log))
    *rows, last = rows_of(log)
    assert [row["step"] for row in (*rows, last)] == list("012345")
    assert [int(row["tokens"]) for row in (*rows, last)] == [i * 2 * 4 * 16 for i in range(6)]
    printed = re.findall(r"step \d+: train loss (\S+) \(took (\S+) ms", out)
    assert [row["train_loss"] for row in rows] == [loss for loss, _ in printed]
    times = [float(ms) for _, ms in printed]
    assert [float(row["ms"]) for row in rows] == pytest.approx(times, abs=0.051)
    found = [row["val_loss"] for row in (*rows, last)]
    assert [bool(loss) for loss in found] == [True, False, True, False, True, True]
    assert [loss for loss in found if loss] == re.findall(r"val loss (\S+)", out)
    rates = [gpt2.learning_rate(step, 5, 1e-2, 2, 0.5) for step in range(5)]
    assert [float(row["lr"]) for row in rows] == pytest.approx(rates, rel=1e-5)
    assert {last[name] for name in ("train_loss", "lr", "grad_norm", "ms", "train_bpb")} == {""}

    tokens, _ = formats.load_tokens(project / "data" / "letters_train.bin")
    for i, row in enumerate(rows):  # of the step's two batches; a letter is a byte
        texts = np.array([gpt2.get_batch(tokens, j, 4, 16)[1] for j in (2 * i, 2 * i + 1)])
        expected = float(row["train_loss"]) * texts.size / (texts != END).sum() / math.log(2)
        assert float(row["train_bpb"]) == pytest.approx(expected, abs=1e-5)
    assert [bool(row["val_bpb"]) for row in (*rows, last)] == [bool(loss) for loss in found]

    config = gpt2.GPT2Config(16, V, 1, 1, 64)
    params = gpt2.named_views(gpt2.init_weights(config, 1337), config)
    grads = np.empty(gpt2.num_parameters(config), np.float32)
    tokens, _ = formats.load_tokens(project / "data" / "letters_train.bin")
    _, cache = gpt2.gpt2_forward(params, config, *gpt2.get_batch(tokens, 0, 8, 16))
    gpt2.gpt2_backward(1.0, cache, gpt2.named_views(grads, config))
    assert float(rows[0]["grad_norm"]) == pytest.approx(np.linalg.norm(grads), rel=1e-5)


def test_another_table_is_no_log(project, tmp_path):
    log = tmp_path / "notes.csv"
    log.write_text("step,loss\n0,4.5\n")
    failed(long_run(project, *FAST, *DATA, "--log", log), f"--log {log}: there is a file of an")
    assert log.read_text() == "step,loss\n0,4.5\n" and list(tmp_path.iterdir()) == [log]
