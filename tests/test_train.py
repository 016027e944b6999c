"""
Both programs of training as their users run them: output, files, what they say to a mistake.

This takes about a minute.
"""

import io
import math
import re
import shutil
import time
from pathlib import Path

import train_gpt2 as gpt2
from tools import formats, log, memory, prepare
from tools.console import UserError

import numpy as np
import pytest
from helpers import (
    LETTERS,
    V,
    add_data,
    make_project,
    run,
    succeeded,
    write_tokenizer,
    write_tokens,
)
from running import (
    BOTH,
    DATA,
    FAST,
    LESSON,
    LONG,
    long_run,
    losses,
    mistake,
    on_terminal,
    small_weights,
    train,
    within,
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """For tests that only read it, or write under names of their own."""
    return add_data(make_project(tmp_path_factory.mktemp("project")))


@pytest.fixture
def bare(tmp_path):
    return make_project(tmp_path / "project")


# ----------------------------------------------------------------------------
# Output

NUMBER = r"\d+\.\d{6}"


@BOTH
def test_output_layout(project, program):
    flags = "--init d1 --seq-len 16 --batch-size 4 --steps 4 --val-every 2 --sample-every 3".split()
    out = succeeded(run(project, program, *flags, *DATA, "--val-batches", 3))
    val = [rf"step {i}: val loss {NUMBER}\n" for i in range(5)]
    steps = [
        rf"step {i}: train loss {NUMBER} \(took {NUMBER} ms, \d+ tokens/s\)\n" for i in range(4)
    ]
    count = 256 if program == LONG else 64
    letters = rf"---\n(?:[abcdefghij. ]|<end>){{{count}}}\n---\n"
    parameters = (16 + V) * 64 + 12 * 64 * 64 + 13 * 64 + 2 * 64
    size = rf"GPT2Config\(maxT=16, V={V}, L=1, NH=1, C=64\)"
    sizes = r"program \d+, parameters \d+, gradients \d+, moments \d+, activations \d+"
    memory = rf"memory: \d+ MB \({sizes}\)\n"
    assert re.fullmatch(
        rf"weights: d1, {parameters:,} parameters, {size}\n"
        r"data: data/letters, 901 tokens, and 451 for validation\n"
        rf"{memory if program == LONG else ''}"
        rf"{val[0]}{steps[0]}{steps[1]}{val[2]}{steps[2]}step 3: sample\n{letters}{steps[3]}"
        rf"{val[4]}step 4: sample\n{letters}wrote out.bin[;\n](.*\n){{2,3}}",
        out,
    ), out


def without_times(out):
    """Return the output without what differs between equal runs, and between the two programs."""
    out = re.sub(r" \(took .*\)|memory: .*\n", "", out)
    return out[: out.index("wrote ")] if "wrote " in out else out


STEPS = "--lr 0.01 --warmup 2 --min-lr-frac 0.2 --weight-decay 0.3 --grad-clip 0.5 --seed 5"


@pytest.mark.parametrize(
    "flags",
    [
        f"{STEPS} --val-batches 0",
        "--batch-size 14 --steps 9 --val-batches 5",  # more batches than there are
        "--init w.bin",
    ],
)
def test_a_long_run_does_what_the_lesson_does(project, flags):
    """The same lines but for samples, and the same out.bin but for the vocabulary's digest."""
    small_weights(project / "w.bin", 16)
    flags = [*FAST, *DATA, "--steps", 5, "--val-every", 2, "--sample-every", 3, *flags.split()]
    found = []
    for program in LESSON, LONG:
        out = succeeded(run(project, program, *flags))
        out = re.sub(r"(?s)---\n.*?\n---", "---", without_times(out))  # a long run draws others
        header, numbers = np.split(np.fromfile(project / "out.bin", "<i4"), [256])
        header[formats.DIGEST] = 0  # the lesson knows none
        found.append((out, header.tobytes(), numbers.tobytes()))
        (project / "out.bin").unlink()
    assert found[0] == found[1]
    assert found[0][0].count("train loss") >= 5 and ": sample" in found[0][0]


@BOTH
def test_nothing_but_steps(bare, program):
    add_data(bare)
    before = sorted(bare.rglob("*.bin"))
    lines = succeeded(run(bare, program, *FAST, *DATA, "--no-save")).splitlines()
    assert [line.split(":")[0] for line in lines[-2:]] == ["step 0", "step 1"]
    assert not [line for line in lines if re.search("val loss|sample|wrote|python", line)]
    assert sorted(bare.rglob("*.bin")) == before


@BOTH
@pytest.mark.parametrize("flags", ["--seq-len 1 --batch-size 64", "--seq-len 16 --batch-size 28"])
def test_odd_sizes_of_batches(project, program, flags):
    """One token at a time; and as large a batch as the tokens for validation make."""
    flags = [*FAST, *DATA, *flags.split(), "--val-every", 1, "--sample-every", 2]
    assert succeeded(run(project, program, *flags)).count(": sample") == 1


@pytest.mark.parametrize("program, more, words", [(LESSON, [], 5), (LONG, ["--shuffle"], 20)])
def test_loss_falls(project, program, more, words):
    flags = "--init d1 --seq-len 16 --batch-size 4 --steps 80 --lr 3e-3 --warmup 5".split()
    flags += "--min-lr-frac 0.1 --val-every 80 --sample-every 80".split()
    out = succeeded(run(project, program, *flags, *DATA, *more))
    first, last = losses(out, "val")
    assert abs(first - math.log(V)) < 0.3 and last < 0.1, (first, last)
    assert losses(out, "train")[0] == pytest.approx(first, abs=0.3)
    assert losses(out, "train")[-1] < 0.15
    sample = re.search(r"---\n(.*)\n---", out, re.DOTALL)[1]
    # it looks like the text, of which 5 tokens have a word; at random there would be none
    assert sum(sample.count(word) for word in ("abc. ", "jihg ", "fed. ")) >= words


def test_samples_differ_from_step_to_step(project):
    out = succeeded(long_run(project, *FAST, *DATA, "--lr", 0, "--sample-every", 1))
    one, other = re.findall(r"---\n(.*?)\n---", out, re.DOTALL)
    assert one != other


def test_batches_of_accumulated_steps(project):
    """One after the other: the loss of a step is the mean of as many, and none is taken twice."""
    flags = [*FAST, *DATA, "--lr", 0, "--no-save"]
    each = losses(succeeded(long_run(project, *flags, "--steps", 6)), "train")
    means = losses(succeeded(long_run(project, *flags, "--steps", 2, "--grad-accum", 3)), "train")
    assert len(set(each)) == 6
    assert means == pytest.approx([sum(each[:3]) / 3, sum(each[3:]) / 3], abs=2e-6)


def test_one_seed_gives_the_same_bytes(project, tmp_path):
    """B * T = 2048 rows, so that every layer is cut into blocks for all threads."""
    add_data(project, "longer", 5 * 2048)
    config, weights = gpt2.named_config("d2", V, 128), tmp_path / "w.bin"
    formats.write_weights(weights, gpt2.init_weights(config), config)
    flags = "--data data/longer --batch-size 16 --seq-len 128 --lr 1e-3 --weight-decay 0.1"
    flags += " --steps 4 --shuffle --val-every 2 --val-batches 1 --sample-every 2 --seed"
    found = []
    for seed in 5, 5, 6:  # of the order of the batches, and of samples
        more = ["--init", weights, "--save", "s.bin"]
        out = succeeded(long_run(project, *flags.split(), seed, *more))
        found.append((without_times(out), (project / "s.bin").read_bytes()))
    assert found[0] == found[1]
    assert losses(found[0][0], "train") != losses(found[2][0], "train")


@BOTH
def test_default_files_are_the_projects(bare, tmp_path, program):
    """Without --init and --data, wherever one stands; what is there is not made anew."""
    add_data(bare, "tiny_shakespeare")
    if program == LONG:  # the lesson takes GPT-2's for as many tokens as that has
        shutil.move(bare / "data" / "tiny_shakespeare_tokenizer.bin", bare / "gpt2_tokenizer.bin")
    config = gpt2.GPT2Config(16, V, 1, 2, 8)
    formats.write_weights(bare / "gpt2_124M.bin", gpt2.init_weights(config), config)
    before = sorted(path.name for path in bare.rglob("*.bin"))
    flags = "--steps 2 --seq-len 16 --sample-every 2".split()
    out = succeeded(run(bare, program, *flags, cwd=tmp_path))
    weights, data = (re.search(rf"{name}: (.*?), ", out)[1] for name in ("weights", "data"))
    assert tmp_path / weights == bare / "gpt2_124M.bin" and "(maxT=16, " in out
    assert tmp_path / data == bare / "data" / "tiny_shakespeare"
    assert len(losses(out, "val")) == 2 and out.count(": sample") == 1
    assert sorted(path.name for path in bare.rglob("*.bin")) == before
    assert formats.load_weights(tmp_path / "out.bin")[1] == config


@BOTH
def test_odd_folders(tmp_path, program):
    name = "Öl und 数据"
    folder = add_data(make_project(tmp_path / name))
    (tmp_path / "elsewhere").mkdir()
    data, saved = f"../{name}/data/letters", tmp_path / name / "säve d.bin"
    flags = [*FAST, "--sample-every", 1, "--data", data, "--out", saved]
    out = succeeded(run(folder, program, *flags, cwd=tmp_path / "elsewhere"))
    assert f"\nwrote {saved}" in out and out.count(": sample") == 2
    assert formats.load_weights(saved)[1].V == V
    assert not list((tmp_path / "elsewhere").iterdir())


def test_lines_come_at_once(project):
    """Also in a pipe, where Python by itself would keep them until there are some thousand."""
    before = "import atexit; atexit.register(lambda: print(sys.stdout.line_buffering))"
    out = succeeded(long_run(project, *FAST, *DATA, python=within(before)))
    assert out.splitlines()[-1] == "True"


def test_output_that_cannot_show_every_character(project):
    """As on Windows: a sample's odd bytes are no reason to stop, and a pipe gets UTF-8."""
    tokens = np.arange(900) % 4
    for split in "train", "val":
        write_tokens(project / "data" / f"odd_{split}.bin", tokens, 4)
    write_tokenizer(project / "data" / "odd_tokenizer.bin", [b"\xff", "é".encode(), b"x", b"<end>"])
    flags = [*FAST, "--sample-every", 1, "--data", "data/odd"]
    out = succeeded(long_run(project, *flags, PYTHONIOENCODING="ascii"))
    assert out.count(": sample") == 2 and "é" in out and "\ufffd" in out


def test_a_long_run_needs_numpy_alone(project, tmp_path):
    saved = tmp_path / "w.bin"
    blocked = dict.fromkeys(("torch", "tiktoken", "requests", "urllib3", "tqdm"))
    how = {"python": within(f"sys.modules |= {blocked}")}
    flags = [*FAST, *DATA, "--val-every", 1, "--sample-every", 2, "--save", saved]
    assert "step 1: " in succeeded(long_run(project, *flags, **how))
    goes_on = ["--resume", saved, "--steps", 3, "--val-every", 0]
    assert "step 2: " in succeeded(long_run(project, *goes_on, **how))


# ----------------------------------------------------------------------------
# Memory


def test_memory_is_what_it_takes(project):
    """The memory line beside what the system saw taken, beyond what a tiny model takes."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc, which says how much memory a process took")
    peak = "import re; print(re.search(r'VmHWM:.*', open('/proc/self/status').read())[0])"

    def measured(*flags):
        few = "--steps 1 --val-batches 1 --sample-every 0 --data data/long".split()
        out = succeeded(long_run(project, *flags, *few, python=within("", peak)))
        line = re.search(r"memory: (.*) MB \((.*)\)", out)
        parts = [int(part.split()[1]) for part in line[2].split(", ")]
        assert int(line[1]) == pytest.approx(sum(parts), abs=2)  # each is rounded
        taken = int(re.search(r"VmHWM:\s+(\d+) kB", out)[1]) * 1024 / 1e6
        return taken - int(line[1]), taken, parts

    add_data(project, "long", 3000)
    python, _, _ = measured("--init", "d1", "--seq-len", 4, "--batch-size", 1)
    d6 = ["--init", "d6", "--batch-size", 4]  # 10.7 million parameters
    for T, accum, gradients in (64, 1, 43), (64, 2, 85), (224, 1, 43):
        beyond, taken, parts = measured(*d6, "--seq-len", T, "--grad-accum", accum)
        assert parts[1:4] == pytest.approx([43, gradients, 85], abs=1)
        # measured: 0.03
        assert abs(beyond - python) <= 0.25 * (taken - python)


@pytest.mark.parametrize("T", [64, 128, 1024])
def test_memory_of_attention_in_tiles(T):
    """With no channels and no tokens all activations are attention's weights."""
    q = np.zeros((3, 2, T, 1), np.float32)
    _, *atts = gpt2.attend_in_tiles(q, q, q)
    found = memory.memory_needed(gpt2.GPT2Config(T, 0, 1, 3, 0), 0, 2, T)["activations"]
    assert found == 4 * sum(att.size for att in atts)


@pytest.mark.parametrize("have, warned", [(10**6, True), (10**9, False)])
def test_warning_where_memory_is_short(project, have, warned):
    patch = within(f"import tools.memory; tools.memory.machine_memory = lambda: {have}")
    done = long_run(project, *FAST, *DATA, "--no-save", python=patch)
    assert done.returncode == 0 and "step 1: " in done.stdout  # it may know better
    assert done.stderr.count("\n") == warned
    assert not warned or re.match(r"train\.py: warning: .*--batch-size.*\n", done.stderr)


def test_bar_of_a_resumed_run():
    """It begins at the steps that are done, and its speed is of those that it takes itself."""
    with log.Progress(9, 5, 10) as progress:
        assert (progress.bar.n, progress.bar.total) == (5, 9)
    with log.bar_of(10)(total=9, initial=5, file=io.StringIO()) as bar:
        bar.n, bar.start_t = 7, time.time() - 4
        assert bar.format_dict["postfix"] == "5 tokens/s"  # two steps of ten tokens, in 4 seconds
    assert log.Progress(9, 5, 10, quiet=True).shown["disable"] is True  # on a terminal, too


# ----------------------------------------------------------------------------
# The bar on a terminal


BAR = r"100%\|█+\| 30/30 \[.*, loss \d\.\d{4}, \d+ tokens/s\]"
BAR_FLAGS = [LONG, *FAST, *DATA, "--steps", 30, "--val-every", 10]


def test_bar_and_lines(project):
    """stderr a terminal, stdout a file or a pipe: one has the bar, the other all the lines."""
    shown, status, out = on_terminal(project, *BAR_FLAGS, columns=120, only_stderr=True)
    steps = [line.split(":")[0] for line in out.splitlines() if "train loss" in line]
    assert status == 0 and steps == [f"step {i}" for i in range(30)]
    assert len(losses(out, "val")) == 4 and "tokens/s" in out and "█" not in out
    assert re.search(BAR, shown), shown
    assert not re.search("step 1:|train loss|val loss", shown)


def test_bar_alone(project):
    """Both a terminal: no line for each step, but those that are rare."""
    shown, status, _ = on_terminal(project, *BAR_FLAGS, columns=120)
    assert status == 0 and re.search(BAR, shown), shown
    assert "train loss" not in shown and len(losses(shown, "val")) == 4
    assert re.match(r"(to replace: .*\n)?weights: d1, ", shown.replace("\r", ""))


# ----------------------------------------------------------------------------
# Mistakes; those that take one bad file or flag are in test_bad_input.py


def test_a_flag_of_long_runs(project):
    done = train(project, *FAST, *DATA, "--resume", "x")
    mistake(done, "train_gpt2.py", "tools/train.py", "--resume x", status=2)


@BOTH
def test_a_learners_own_error_keeps_its_traceback(bare, program):
    add_data(bare)
    path = bare / "train_gpt2.py"
    text, line = path.read_text(encoding="utf-8"), "    return matmul(x, w.T) + b, (x, w)\n"
    assert text.count(line) == 1
    path.write_text(text.replace(line, line.replace("w.T", "w")), encoding="utf-8")
    done = run(bare, program, *FAST, *DATA)
    assert done.returncode == 1 and done.stderr.startswith("Traceback (most recent call last)")
    assert "in linear_forward\n    return matmul(x, w) + b" in done.stderr
    assert re.search(r"\nValueError: matmul: .*mismatch", done.stderr)


def test_tokenizers(project, tmp_path):
    """One is only needed for samples; it is to have the vocabulary of the data."""
    for split in "train", "val":
        shutil.copy(project / "data" / f"letters_{split}.bin", tmp_path / f"x_{split}.bin")
    flags = [*FAST, "--no-save", "--data", tmp_path / "x", "--sample-every"]
    mistake(long_run(project, *flags, 1), "tokenizer.bin", "no file of this name")
    assert "step 1: " in succeeded(long_run(project, *flags, 0))
    for vocabulary in LETTERS[:-3], [*LETTERS, b"more"]:
        write_tokenizer(tmp_path / "x_tokenizer.bin", vocabulary)
        for program in LESSON, LONG:
            done = run(project, program, *flags, 1)
            mistake(done, str(tmp_path / "x"), f" {len(vocabulary)}", f" {V}")


# ----------------------------------------------------------------------------
# Without a network


@pytest.mark.parametrize("online", [True, False])
def test_what_is_missing_is_made_and_nothing_else(tmp_path, monkeypatch, online):
    def made(there, *given):
        for name in "SHAKESPEARE", "WEIGHTS_FILE", "PYTHON_DOCS", "PLAYS":
            monkeypatch.setattr(prepare, name, tmp_path / ("there" if name in there else "none"))
        calls.clear()
        flags = prepare.missing_flags(*given)
        assert bool(flags) is (not online and bool(calls))
        data = flags[flags.index("--data") + 1 :] if "--data" in flags else []
        return [call[0] for call in calls], data

    calls, shakespeare, weights = [], "prepro_tinyshakespeare.py", "reference_gpt2.py"
    docs = "prepro_pythondocs.py"
    monkeypatch.setattr(prepare, "run_script", lambda *call: calls.append(call) or online)
    monkeypatch.setattr(prepare, "shown", str)
    for name in "there", "there_train.bin":
        (tmp_path / name).touch()
    assert made(["SHAKESPEARE", "WEIGHTS_FILE"], None, None) == ([], [])
    assert made([], "x", "y") == ([], [])
    if online:
        assert made([], None, None) == ([shakespeare, weights], [])
        assert made([], None, "y") == ([shakespeare], [])
        assert made([], "x", None) == ([weights], [])
        return
    # without a network for the data, no weights are asked for, which would take another while
    assert made([], None, None) == ([shakespeare, docs], [str(tmp_path / "none")])
    assert made(["PYTHON_DOCS"], None, None) == ([shakespeare], [str(tmp_path / "there")])
    assert made(["SHAKESPEARE"], None, None) == ([weights, docs], [str(tmp_path / "none")])
    (tmp_path / "there.txt").touch()  # the plays, of which tokens can be made
    plays = [weights, "prepro_text.py"]
    assert made(["SHAKESPEARE"], None, None) == (plays, [str(tmp_path / "none")])
    assert made(["SHAKESPEARE", "PLAYS"], None, None) == ([weights], [str(tmp_path / "there")])
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: None)
    assert made(["SHAKESPEARE"], None, None) == (plays, [str(tmp_path / "none")])
    assert "--bytes" in calls[-1]  # which take no package
    for given in ("x", None), (None, "y"):
        with pytest.raises(UserError, match="give both --data and --init"):
            made([], *given)


@BOTH
def test_explicit_files_never_fall_back(bare, program):
    """One of the two is left to the default, which takes a network."""
    pytest.importorskip(
        "torch", reason="needs PyTorch"
    )  # or that is what reference_gpt2.py misses first
    add_data(bare)
    for flags in ["--init", "d1"], DATA, ["--data", "data/none"]:
        done = run(bare, program, *flags, "--steps", 1, timeout=30)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "cannot reach" in done.stderr and "weights: " not in done.stdout
    assert not list((bare / "data").glob("python_docs*"))


@BOTH
def test_offline_fallback(bare, tmp_path, program):
    pytest.importorskip("pydoc_data.topics", reason="this Python comes without its documentation")
    (tmp_path / "elsewhere").mkdir()
    few = ["--steps", 2, "--val-batches", 1]
    done = run(bare, program, *few, cwd=tmp_path / "elsewhere", timeout=30)
    assert done.returncode == 0, done.stderr
    assert "cannot reach https://raw.githubusercontent.com" in done.stderr
    (shown,) = re.findall(r"in a minute: python \S*train_gpt2\.py (--.*)", done.stderr)
    assert "weights: d2, " in done.stdout and "V=257, L=2, " in done.stdout
    first, last = losses(done.stdout, "val")
    assert abs(first - math.log(257)) < 0.2 and last < first
    assert len(losses(done.stdout, "train")) == 2 and done.stdout.count(": sample") == 1
    assert formats.load_weights(tmp_path / "elsewhere" / "out.bin")[1].V == 257
    made = sorted(path.name for path in bare.rglob("*.bin"))
    assert made == [f"python_docs_{kind}.bin" for kind in ("tokenizer", "train", "val")]

    # what it showed is the equivalent command: with the same flags behind it, the same losses
    explicit = succeeded(run(bare, program, *shown.split(), *few))
    assert losses(explicit, "val") == [first, last]
    assert losses(explicit, "train") == losses(done.stdout, "train")

    # the second time, the data are there
    again = run(bare, program, "--steps", 0, "--val-every", 0)
    assert again.returncode == 0 and "prepro_pythondocs.py" not in again.stderr
    assert "prepro_pythondocs.py" in done.stderr
