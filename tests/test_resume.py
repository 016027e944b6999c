"""Runs that end early, and go on: checkpoints, --resume, Ctrl-C, kills, --log, the best weights."""

import json
import os
import random
import re
import shutil
import signal
import time
from types import SimpleNamespace

import train_gpt2 as gpt2
from tools import checkpoints, formats
from tools import train as house
from tools.console import UserError

import numpy as np
import pytest
from helpers import V, add_data, failed, header, make_project, run, start, succeeded, write_tokens
from running import (
    BOTH,
    DATA,
    FAST,
    LESSON,
    LONG,
    STOPPING,
    checkpoint,
    interrupted,
    long_run,
    losses,
    mistake,
    posix,
    read_until,
    small_weights,
    train,
    within,
)

GARBAGE = b"from a run that was killed " * 40_000  # longer than a checkpoint here


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
    return folder


def from_step(out, step):
    """The output from that step on, but for how long it took, and where it was written."""
    out = re.sub(r"\(took .*\)|memory: .*\n|.*bits per byte.*\n", "", out)
    return out[out.index(f"step {step}: ") : out.rindex("wrote ")]


# ----------------------------------------------------------------------------
# A run in two pieces ends as a run in one


RUNS = {
    "plain": [],
    "decay": "--weight-decay 0.1 --warmup 3".split(),
    "accumulated, clipped, shuffled": "--grad-accum 3 --grad-clip 0.5 --shuffle --seed 7".split(),
    "shards": "--data data/parts --shuffle".split(),
    "validation and samples": "--val-every 2 --val-batches 2 --sample-every 3".split(),
    "weights of a file": ["--init", "weights.bin"],
}


@pytest.mark.parametrize("run", RUNS)
def test_two_runs_are_one(project, tmp_path, run):
    small_weights(project / "weights.bin", 16)
    flags = [*FAST, *DATA, "--lr", 1e-2, *RUNS[run]]
    whole, part = tmp_path / "whole.bin", tmp_path / "part.bin"
    in_one = succeeded(long_run(project, *flags, "--steps", 10, "--save", whole))
    succeeded(long_run(project, *flags, "--steps", 5, "--save", part))
    assert (checkpoint(whole), checkpoint(part)) == (10, 5)
    after_five = part.read_bytes()
    others = [f for f in RUNS[run] if "every" in str(f)]  # what a checkpoint doesn't keep
    others = [part for f in others for part in (f, RUNS[run][RUNS[run].index(f) + 1])]
    others += ["--val-batches", 2]
    quiet = ["--val-every", 0, "--sample-every", 0]
    in_two = succeeded(long_run(project, "--resume", part, "--steps", 10, *quiet, *others))
    assert part.read_bytes() == whole.read_bytes() != after_five
    assert from_step(in_two, 5) == from_step(in_one, 5)
    for out in in_one, in_two:  # of all files together
        assert ", 901 tokens, and 451 for validation\n" in out
    assert "step 4: " not in in_two and f"wrote {part}\n" in in_two


@posix
@pytest.mark.parametrize("more", [[], ["--grad-accum", 2, "--grad-clip", 1, "--shuffle"]], ids=str)
def test_an_interrupted_schedule_goes_on(project, tmp_path, more):
    flags = [*FAST, *DATA, *"--lr 1e-2 --warmup 10 --min-lr-frac 0.1 --weight-decay 0.1".split()]
    flags += ["--steps", 200, *more]
    whole, part = tmp_path / "whole.bin", tmp_path / "part.bin"
    in_one = succeeded(long_run(project, *flags, "--save", whole))
    status, _, err = interrupted(project, LONG, *flags, "--save", part, at="step 12: ")
    assert status == 130, err
    step = checkpoint(part)
    assert 12 < step < 200
    quiet = ["--val-every", 0, "--sample-every", 0]
    in_two = succeeded(long_run(project, "--resume", part, *quiet))
    assert part.read_bytes() == whole.read_bytes()
    assert from_step(in_two, step) == from_step(in_one, step)


def test_resumed_run_leaves_its_start_alone(project, tmp_path):
    first, second = tmp_path / "first.bin", tmp_path / "second.bin"
    succeeded(long_run(project, *FAST, *DATA, "--save", first))
    before = first.read_bytes()
    quiet = ["--val-every", 0, "--sample-every", 0]
    succeeded(long_run(project, "--resume", first, "--steps", 4, "--save", second, *quiet))
    assert first.read_bytes() == before and checkpoint(second) == 4


def test_saved_weights_are_what_llmc_reads(project, tmp_path):
    """The first part of a checkpoint is a weight file, but for two numbers in its header."""
    saved, plain = tmp_path / "saved.bin", tmp_path / "plain.bin"
    succeeded(long_run(project, *FAST, *DATA, "--save", saved))
    formats.write_weights(plain, *formats.load_weights(saved))
    data, weights = saved.read_bytes(), plain.read_bytes()
    assert data[32:40] != weights[32:40] == bytes(8)
    assert data[:32] + bytes(8) + data[40 : len(weights)] == weights
    about = int.from_bytes(data[32:36], "little")
    count = gpt2.num_parameters(formats.load_weights(saved)[1])
    assert len(data) == len(weights) + 8 * count + about
    assert json.loads(data[-about:])["step"] == 2


# ----------------------------------------------------------------------------
# Kills


def test_killed_at_any_moment(project, tmp_path):
    """After 30 kills, each run resumed from what the one before left, it is as if nothing was."""
    saved, best, rng = tmp_path / "out.bin", tmp_path / "out_best.bin", random.Random(0)
    more = ["--save", saved, "--save-every", 1, "--val-every", 1, "--val-batches", 1]
    more += ["--sample-every", 0]
    flags, step = [*FAST, *DATA, "--lr", 1e-2, "--steps", 10**6, *more], 0
    (tmp_path / "out.bin.1.part").write_bytes(GARBAGE)
    for _ in range(30):
        with start(project, LONG, *flags) as process:
            lines = read_until(process, "wrote ")
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
        assert lines[-2].startswith(f"step {step}: ")  # it went on from the checkpoint
        reached = checkpoint(saved)
        assert reached > step
        if best.exists():
            assert np.isfinite(formats.load_weights(best)[0]).all()
            assert checkpoints.read_about(best)["step"] <= reached
        flags, step = ["--resume", saved, *more], reached
    written = {"out.bin", "out_best.bin"}
    left = {re.sub(r"\.(\d+|lock)\.part$", "", name) for name in os.listdir(tmp_path)}
    assert left == written

    steps, whole, every = step + 3, tmp_path / "whole.bin", ["--save-every", 1]
    succeeded(long_run(project, *flags, "--steps", steps))
    succeeded(
        long_run(project, *FAST, *DATA, "--lr", 1e-2, "--steps", steps, *every, "--save", whole)
    )
    assert saved.read_bytes() == whole.read_bytes()
    left = {name for name in os.listdir(tmp_path) if not name.endswith(".part")}
    assert left == {*written, "whole.bin"}


def test_left_over_part_is_no_checkpoint(project, tmp_path):
    part = tmp_path / "out.bin.1.part"
    part.write_bytes(GARBAGE)
    for flag in "--resume", "--init":
        failed(long_run(project, *FAST, *DATA, flag, tmp_path / "out.bin"), "no file of this name")
    failed(long_run(project, *FAST, *DATA, "--init", part), str(part))
    assert part.read_bytes() == GARBAGE
    succeeded(long_run(project, *FAST, *DATA, "--save", tmp_path / "out.bin"))
    assert sorted(os.listdir(tmp_path)) == ["out.bin", "out.bin.1.part"]
    assert checkpoint(tmp_path / "out.bin") == 2 and part.read_bytes() == GARBAGE


# ----------------------------------------------------------------------------
# Ctrl-C


@posix
def test_interrupt_saves(project, tmp_path):
    saved = tmp_path / "out.bin"
    flags = [*FAST, *DATA, "--steps", 10**6, "--save", saved]
    status, out, err = interrupted(project, LONG, *flags, at="step 3: ")
    step = checkpoint(saved)
    assert status == 130
    assert err == f"{STOPPING}train.py: stopped after {step} steps; --resume {saved} goes on\n"
    assert out.splitlines()[-1] == f"wrote {saved}"
    assert out.splitlines()[-2].startswith(f"step {step - 1}: ")  # the last one is a whole step
    assert os.listdir(tmp_path) == ["out.bin"]


@posix
@pytest.mark.parametrize("more", [["--no-save"], ["--out", "stopped.bin"]], ids=str)
def test_interrupt_without_save(project, more):
    flags = [*FAST, *DATA, "--steps", 10**6, *more]
    status, out, err = interrupted(project, LONG, *flags, at="step 3: ")
    saved = "--init stopped.bin starts from there" if "--out" in more else "nothing is saved"
    pattern = rf"{STOPPING}train\.py: stopped after (\d+) steps; {re.escape(saved)}\n"
    step = int(re.fullmatch(pattern, err)[1])
    steps = [line for line in out.splitlines() if line.startswith("step ")]
    assert status == 130 and steps[-1].startswith(f"step {step - 1}: ")
    if "--out" in more:
        again = project / "again.bin"
        succeeded(long_run(project, *FAST, *DATA, "--steps", step, "--out", again))
        assert again.read_bytes() == (project / "stopped.bin").read_bytes()


@posix
def test_interrupt_of_the_lesson_saves(project, tmp_path):
    """It has learned, and its weights can be trained on."""
    flags, out = [*FAST, *DATA, "--lr", 1e-2, "--val-every", 10**7], tmp_path / "stopped.bin"
    status, text, err = interrupted(
        project, LESSON, *flags, "--steps", 10**6, "--out", out, at="step 30: train"
    )
    assert (status, err) == (0, "")
    assert text.splitlines()[-2].startswith(f"wrote {out}; to go on: ")
    assert os.listdir(tmp_path) == ["stopped.bin"]
    done = succeeded(train(project, *flags, "--init", out, "--steps", 0, "--no-save"))
    assert losses(done, "val")[0] < losses(text, "val")[0] - 0.5


@posix
def test_interrupt_before_the_first_step(project, tmp_path):
    """There is nothing yet that --resume could go on with."""
    saved = tmp_path / "out.bin"
    pressed = "import signal, tools.memory as memory; from signal import SIGINT"
    pressed += "; memory.print_memory = lambda _: signal.raise_signal(SIGINT)"
    done = long_run(project, *FAST, *DATA, "--save", saved, python=within(pressed))
    assert done.returncode == 130
    assert done.stderr == f"{STOPPING}train.py: stopped before the first step\n"
    assert os.listdir(tmp_path) == []


@posix
def test_second_interrupt_ends_at_once(project, tmp_path):
    """In the middle of a step that takes half a minute. It says what is lost."""
    saved = tmp_path / "out.bin"
    flags = [*FAST, *DATA, "--val-every", 1, "--val-batches", 1, "--grad-accum", 10_000]
    succeeded(long_run(project, *FAST, *DATA, "--save", saved))
    before = saved.read_bytes()
    with start(project, LONG, *flags, "--save", saved) as process:
        read_until(process, "val loss ")
        clock = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "\n"
        assert process.stderr.readline() == STOPPING[1:]
        assert time.monotonic() - clock < 1
        time.sleep(0.3)
        assert process.poll() is None  # it is finishing the step
        clock = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - clock < 1
    assert (process.returncode, out) == (130, "")
    assert err == "train.py: stopped at once; no step is lost\n"
    assert saved.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["out.bin", "out_best.bin"]


@posix
def test_second_interrupt_amid_a_lock_of_the_threads(project):
    """It may come when a lock is taken and not yet in a with statement: one waits for it always."""
    stuck = "import threading; train_gpt2.POOL.submit(threading.Event().wait)"
    flags = [*FAST, *DATA, "--grad-accum", 10_000, "--no-save"]
    with start(project, LONG, *flags, python=within(stuck)) as process:
        read_until(process, "memory: ")
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "\n"
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=10) == 130
        finally:
            process.kill()


# ----------------------------------------------------------------------------
# The best weights


def rows_of(log):
    """The rows of a log, as dicts; its header is what it is to be."""
    columns, *rows = log.read_text().splitlines()
    assert columns == "step,tokens,train_loss,val_loss,lr,grad_norm,ms"
    return [dict(zip(columns.split(","), row.split(","), strict=True)) for row in rows]


def test_best_weights(project, tmp_path):
    """With validation on the letters of the text in any order: its loss falls, and then rises."""
    saved, best, log = (tmp_path / name for name in ("out.bin", "out_best.bin", "log.csv"))
    flags = [*FAST, "--data", "data/mixed", "--lr", 3e-3, "--val-every", 1]
    out = succeeded(long_run(project, *flags, "--steps", 25, "--save", saved, "--log", log))
    found = [float(row["val_loss"]) for row in rows_of(log)]
    assert found == losses(out, "val") and len(found) == 26
    step = found.index(min(found))
    assert 0 < step < 25 and found[-1] > found[step] + 0.1
    about = checkpoints.read_about(best)
    assert about["step"] == step and about["val_loss"] == pytest.approx(found[step], abs=1e-6)

    again, there = tmp_path / "again.bin", formats.load_weights(best)[0]
    out = succeeded(long_run(project, *flags, "--steps", step, "--save", again))
    assert np.array_equal(there, formats.load_weights(again)[0])
    out = succeeded(long_run(project, *flags, "--init", best, "--steps", 0))
    assert losses(out, "val") == [found[step]]

    before = best.read_bytes()
    resume = ["--resume", saved, "--steps", 30, "--val-every", 1, "--sample-every", 0]
    out = succeeded(long_run(project, *resume))
    assert min(losses(out, "val")) > found[step] and checkpoint(saved) == 30
    assert best.read_bytes() == before
    failed(long_run(project, "--resume", best, "--steps", 30), str(best), "--init")


def test_best_weights_of_a_new_run(project, tmp_path):
    """They are its own, whatever an earlier run of this name has left."""
    saved, best = tmp_path / "out.bin", tmp_path / "out_best.bin"
    flags = [*FAST, *DATA, "--val-every", 1, "--val-batches", 1, "--save", saved]
    succeeded(long_run(project, *flags, "--lr", 1e-2, "--steps", 5))
    before = checkpoints.read_about(best)
    succeeded(long_run(project, *flags, "--lr", 1e-5, "--steps", 1))
    about = checkpoints.read_about(best)
    assert (before["step"], about["step"]) == (5, 1) and about["val_loss"] > before["val_loss"]


# ----------------------------------------------------------------------------
# What is not finite


def with_nan(path):
    config = gpt2.GPT2Config(16, V, 1, 1, 4)
    flat = gpt2.init_weights(config)
    flat[-1] = np.nan
    formats.write_weights(path, flat, config)
    return path


@pytest.mark.parametrize("more", [[], ["--grad-accum", 3], ["--grad-clip", 1]], ids=str)
def test_a_loss_that_is_not_finite_ends_the_run(project, tmp_path, more):
    saved = tmp_path / "out.bin"
    succeeded(long_run(project, *FAST, *DATA, "--save", saved))
    before = saved.read_bytes()
    step = 1
    flags = [*FAST, *DATA, "--lr", "1e20", *more, "--steps", 9, "--save", saved, "--val-every", 1]
    done = long_run(project, *flags)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    batch = step * 3 if "--grad-accum" in more else step
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"train.py: step {step}: ") and f"batch {batch} of data/le" in line
    assert "--lr" in line and "--grad-clip" in line
    assert f"step {step}: train loss" not in done.stdout
    assert saved.read_bytes() == before
    assert not [name for name in os.listdir(tmp_path) if "part" in name]
    best = checkpoints.read_about(tmp_path / "out_best.bin")  # of step 0, the only one with a loss
    assert best["step"] == 0 and np.isfinite(best["val_loss"])


@BOTH
def test_weights_that_are_not_finite_are_not_started_from(project, tmp_path, program):
    nan, saved = with_nan(tmp_path / "nan.bin"), tmp_path / "w.bin"
    flags = [*FAST, *DATA, "--init", nan, "--out", saved]
    mistake(run(project, program, *flags), "nan", "; ")
    assert not saved.exists()


# ----------------------------------------------------------------------------
# Log


def test_log_agrees_with_the_output(project, tmp_path):
    log = tmp_path / "log.csv"
    flags = "--steps 5 --val-every 2 --grad-accum 2 --lr 1e-2 --warmup 2 --min-lr-frac 0.5".split()
    out = succeeded(long_run(project, *FAST, *DATA, *flags, "--log", log))
    rows = rows_of(log)
    assert [row["step"] for row in rows] == list("012345")
    assert [int(row["tokens"]) for row in rows] == [step * 2 * 4 * 16 for step in range(6)]
    printed = re.findall(r"step \d+: train loss (\S+) \(took (\S+) ms", out)
    assert [row["train_loss"] for row in rows[:5]] == [loss for loss, _ in printed]
    assert [float(row["ms"]) for row in rows[:5]] == pytest.approx(
        [float(ms) for _, ms in printed], abs=0.051
    )
    assert [row["val_loss"] for row in rows if row["val_loss"]] == re.findall(
        r"val loss (\S+)", out
    )
    assert [bool(row["val_loss"]) for row in rows] == [True, False, True, False, True, True]
    rates = [gpt2.learning_rate(step, 5, 1e-2, 2, 0.5) for step in range(5)]
    assert [float(row["lr"]) for row in rows[:5]] == pytest.approx(rates, rel=1e-5)
    assert {rows[5][name] for name in ("train_loss", "lr", "grad_norm", "ms")} == {""}

    config = gpt2.GPT2Config(16, V, 1, 1, 64)
    params = gpt2.named_views(gpt2.init_weights(config, 1337), config)
    grads = np.empty(gpt2.num_parameters(config), np.float32)
    tokens, _ = formats.load_tokens(project / "data" / "letters_train.bin")
    _, cache = gpt2.gpt2_forward(params, config, *gpt2.get_batch(tokens, 0, 8, 16))
    gpt2.gpt2_backward(1.0, cache, gpt2.named_views(grads, config))
    assert float(rows[0]["grad_norm"]) == pytest.approx(np.linalg.norm(grads), rel=1e-5)


def test_resumed_log(project, tmp_path):
    """Also where the first run went on past its checkpoint, and died in the middle of a row."""
    log, saved, early = (tmp_path / name for name in ("log.csv", "out.bin", "early.bin"))
    flags = ["--log", log, "--val-every", 2, "--sample-every", 0]
    succeeded(long_run(project, *FAST, *DATA, *flags, "--steps", 3, "--save", saved))
    shutil.copy(saved, early)
    three = log.read_text().splitlines()[1:4]
    succeeded(long_run(project, "--resume", saved, *flags, "--steps", 6))
    assert [row["step"] for row in rows_of(log)] == list("0123456")
    assert log.read_text().splitlines()[1:4] == three
    six = [row["train_loss"] for row in rows_of(log)]
    with open(log, "a") as f:
        f.write("1")  # of 11
    succeeded(long_run(project, "--resume", early, *flags, "--steps", 6))
    assert [row["step"] for row in rows_of(log)] == list("0123456")
    assert log.read_text().splitlines()[1:4] == three
    assert [row["train_loss"] for row in rows_of(log)] == six

    before = log.read_bytes()  # a new run does not take the log of another
    for more in [], ["--init", saved]:
        failed(long_run(project, *FAST, *DATA, *more, *flags), f"--log {log}", "of another run")
        assert log.read_bytes() == before


def test_log_is_written_as_it_goes(project, tmp_path):
    log = tmp_path / "log.csv"
    with start(project, LONG, *FAST, *DATA, "--steps", 10**6, "--log", log) as process:
        read_until(process, "step 5: ")
        process.kill()
    assert [row["step"] for row in rows_of(log)][:5] == list("01234")


@pytest.mark.parametrize("content", [b"", b"my notes\n1,2,3\n", header(20240326), b"step,loss\n"])
def test_what_is_no_log_is_left_alone(project, tmp_path, content):
    log = tmp_path / "notes"
    log.write_bytes(content)
    failed(long_run(project, *FAST, *DATA, "--log", log), f"--log {log}")
    assert log.read_bytes() == content and os.listdir(tmp_path) == ["notes"]


def test_log_where_nothing_can_be_written(project, tmp_path):
    failed(long_run(project, *FAST, *DATA, "--log", tmp_path / "none" / "log.csv"), "--log")
    failed(long_run(project, *FAST, *DATA, "--log", tmp_path), "--log", "this is a folder")


# ----------------------------------------------------------------------------
# Mistakes


@pytest.fixture(scope="module")
def saved(project):
    succeeded(long_run(project, *FAST, *DATA, "--save", "saved.bin"))
    return project / "saved.bin"


def one_flag(err, *words):
    """One line, for exit status 2."""
    assert err.startswith("train.py: ") and err.count("\n") == 1, err
    assert all(word in err for word in words), err


OTHERS = {
    "--batch-size": 5,
    "--seq-len": 8,
    "--lr": 0.5,
    "--warmup": 9,
    "--min-lr-frac": 0.5,
    "--weight-decay": 0.1,
    "--grad-accum": 2,
    "--grad-clip": 3,
    "--seed": 1,
    "--shuffle": None,
}


def test_every_flag_that_matters_is_kept():
    names = {flag[2:].replace("-", "_") for flag in OTHERS}
    assert names | {"steps", "save_every"} == checkpoints.SETTINGS.keys()


@pytest.mark.parametrize("flag", OTHERS)
def test_resume_with_another_flag(saved, capsys, monkeypatch, flag):
    monkeypatch.setattr("sys.argv", ["train.py"])
    value = [] if OTHERS[flag] is None else [str(OTHERS[flag])]
    with pytest.raises(SystemExit) as caught:
        house.parse(["--resume", str(saved), flag, *value])
    assert caught.value.code == 2
    one_flag(capsys.readouterr().err, f"{flag}: ", str(saved))


def test_resume_with_the_same_flags(project, saved, tmp_path):
    more = ["--resume", saved, "--steps", 3, "--save", tmp_path / "w.bin"]
    flags = [flag for flag in FAST if flag not in ("--init", "d1")]
    assert "step 2: " in succeeded(long_run(project, *flags, *DATA, *more))


def test_resume_with_init_or_another_flag_is_exit_status_2(project, saved):
    for flags, word in (["--init", "d1"], "--init"), (["--lr", 1], "--lr"):
        done = long_run(project, "--resume", saved, "--steps", 3, *flags)
        assert (done.returncode, done.stdout) == (2, "")
        one_flag(done.stderr, word)


def test_resume_what_cannot_be_resumed(project, saved, tmp_path):
    before = saved.read_bytes()

    def fails(path, *words, flags=("--steps", 3)):
        line = failed(long_run(project, "--resume", path, *DATA, *flags), *words)
        assert os.listdir(tmp_path) == ["x.bin"] and saved.read_bytes() == before
        return line

    x = tmp_path / "x.bin"
    for more in [], ["--batch-size", 5]:  # only weights; and no --batch-size that they had
        fails(small_weights(x, 64), str(x), f"--init {x}", flags=["--steps", 3, *more])
    fails(saved, str(saved), "--steps", flags=["--steps", 2])  # nothing left to do
    add_data(project, "other", 800)
    fails(saved, str(saved), "other tokens", flags=["--steps", 3, "--data", "data/other"])
    for split in "train", "val":
        write_tokens(project / "data" / f"wider_{split}.bin", [1] * 901, V + 1)
    fails(saved, "--data", f"{V + 1}", f"{V}", flags=["--steps", 3, "--data", "data/wider"])
    shutil.copy(project / "data" / "letters_train.bin", x)
    fails(x, str(x))
    x.write_bytes(before[:-1])
    fails(x, str(x))
    x.write_bytes(before[:-2] + b"}]")
    fails(x, str(x), "damaged")
    x.write_bytes(before[:-9] + b"\xff" * 9)
    fails(x, str(x), "damaged")
    fails(tmp_path / "none.bin", "none.bin", "no file of this name")
    fails(tmp_path, str(tmp_path), "no file of this name")


def test_digest_of_the_data(monkeypatch):
    """Of the first million of tokens, the last million, and how many each file has."""
    first = (np.arange(3 * 10**6) % 50_000).astype("<u2")
    last = first[: 2 * 10**6].astype("<i4")

    def changed(tokens, i):
        tokens = tokens.copy()
        tokens[i] += 1
        return tokens

    found = checkpoints.digest([first, last])
    assert re.fullmatch("[0-9a-f]{64}", found)
    for i in 0, 10**6 - 1:
        assert checkpoints.digest([changed(first, i), last]) != found
    for i in -1, -(10**6):
        assert checkpoints.digest([first, changed(last, i)]) != found
    assert checkpoints.digest([first[:-1], last]) != found
    # as nobody reads all of a large text for this
    same = changed(first, 10**6), changed(last, 10**6 - 1)
    assert checkpoints.digest(same) == checkpoints.digest([first, last.astype("<u2")]) == found


@pytest.mark.parametrize("which, value", [(0, np.nan), (0, -np.inf), (1, np.nan), (1, -1e-9)])
def test_moments_that_none_can_be(tmp_path, which, value):
    """m may be below 0, v, a mean of squares, not: they are neither saved nor gone on from."""
    config, path = gpt2.GPT2Config(8, V, 1, 1, 4), tmp_path / "w.bin"
    flat = gpt2.init_weights(config)
    moments = [-np.abs(flat), np.abs(flat)]
    checkpoints.save(path, flat, config, {}, moments)
    assert np.array_equal(checkpoints.read_moments(path), moments)
    before = path.read_bytes()
    moments[which][-1] = value
    with pytest.raises(UserError, match=f"w.bin is not written: its {'mv'[which]} are not"):
        checkpoints.save(path, flat, config, {}, moments)
    assert path.read_bytes() == before
    formats.write_weights(path, flat, config, moments)
    with pytest.raises(UserError, match=f"w.bin: its {'mv'[which]} are not all numbers"):
        checkpoints.read_moments(path)


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


def test_an_interrupt_that_comes_as_another_error():
    """As NumPy's np.fromfile makes a SystemError of a Ctrl-C: it is told as what it was."""

    class Saver:
        start = 0

        def lost(self, step):
            return f"{step} steps are lost"

    def interrupted():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise SystemError("returned a result with an exception set") from stop

    with pytest.raises(KeyboardInterrupt, match="stopped at once; 3 steps are lost"):
        with house.saving(Saver()) as state:
            state.step = 3
            interrupted()
