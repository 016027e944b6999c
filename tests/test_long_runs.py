"""tools/train.py: what it leaves when something fails, what it says, and as a function."""

import math
import os
import re
import shlex
import signal
from types import SimpleNamespace

import train_gpt2 as gpt2
from tools import formats, numpy_engine
from tools import train as house

import numpy as np
import pytest
from helpers import END, LETTERS, V, add_data, failed, make_project, run, start, succeeded
from running import (
    DATA,
    FAST,
    LESSON,
    LONG,
    STOPPING,
    checkpoint,
    long_run,
    posix,
    read_until,
    within,
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return add_data(make_project(tmp_path_factory.mktemp("long_runs")))


ENDLESS = [*FAST, *DATA, "--steps", 10**6]

# ----------------------------------------------------------------------------
# What is learned is saved, whatever else fails; full disks are also in test_faults.py


@posix
def test_output_that_nobody_reads(project, tmp_path):
    """As by `| head`."""
    saved = tmp_path / "out.bin"
    with start(project, LONG, *ENDLESS, "--save", saved) as process:
        for _ in range(9):
            process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=30) == 141
        assert process.stderr.read() == ""
    assert checkpoint(saved) >= 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_on_a_full_disk(project, tmp_path):
    saved = tmp_path / "out.bin"
    with open("/dev/full", "w") as full:
        done = long_run(project, *ENDLESS, "--save", saved, streams={"stdout": full})
    line = failed(done, "No space left on device")
    assert "Errno" not in line and not saved.exists()  # it has learned nothing


@pytest.mark.parametrize("flag", ["--save", "--out"])
def test_log_on_a_full_disk(project, tmp_path, flag):
    """Where the weights are to go, there is room."""
    saved, log = tmp_path / "out.bin", tmp_path / "log.csv"
    full = "import io, tools.log\nclass Full(io.StringIO):"
    full += "\n    def write(self, text): raise OSError(28, os.strerror(28))"
    full += "\ntools.log.open_log = lambda path, start: Full()"
    done = long_run(project, *ENDLESS, flag, saved, "--log", log, python=within(full))
    failed(done, f"--log {log}", "No space left on device")
    assert f"wrote {saved}\n" in done.stdout
    flat, config = formats.load_weights(saved)
    assert not np.array_equal(flat, gpt2.init_weights(config, 1337))  # it has learned


@posix
@pytest.mark.parametrize(
    "change, split",
    [("overwritten", "train"), ("longer", "val"), ("truncated", "train"), ("replaced", "train")],
)
def test_tokens_that_change_meanwhile(project, tmp_path, change, split):
    """A file that is changed ends the run; it goes on with one in whose place there is another."""
    add_data(project, "changing")
    path, saved = project / "data" / f"changing_{split}.bin", tmp_path / "w.bin"
    flags = [*FAST, *DATA, "--data", "data/changing", "--val-every", 5, "--val-batches", 3]
    flags += ["--save", saved, "--steps", 300 if change == "replaced" else 10**6]
    with start(project, LONG, *flags) as process:
        read_until(process, "step 3: ")
        data = path.read_bytes()
        ones = data[:1024] + b"\1\0" * ((len(data) - 1024) // 2)
        if change == "replaced":  # as the prepro scripts do it
            (tmp_path / "new").write_bytes(ones)
            os.replace(tmp_path / "new", path)
        elif change == "truncated":
            os.truncate(path, 0)
        else:
            with open(path, "ab" if change == "longer" else "r+b") as f:
                f.write(ones)
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    if change == "replaced":
        assert process.returncode == 0, err
        succeeded(long_run(project, *flags, *DATA, "--save", tmp_path / "again.bin"))
        found = [formats.load_weights(path)[0] for path in (saved, tmp_path / "again.bin")]
        assert np.array_equal(*found)
    else:
        assert process.returncode == 1 and err.count("\n") == 1, (process.returncode, err)
        assert f"changing_{split}.bin: was changed during the run" in err
        assert checkpoint(saved) >= 4


@pytest.mark.parametrize("flag", ["--out", "--save"])
def test_weights_that_are_not_finite_are_not_saved(project, tmp_path, flag):
    """The loss of the step is finite, what comes of the weights that it makes is not."""
    flags = ["--lr", 1e38, "--weight-decay", 1e5, "--steps", 1, flag, tmp_path / "w.bin"]
    done = long_run(project, *FAST, *DATA, *flags)
    failed(done, "the loss is nan on data/letters_val", "nothing is saved")
    assert not list(tmp_path.iterdir())


@posix
def test_files_keep_their_modes(project, tmp_path):
    out = tmp_path / "w.bin"
    out.touch()
    out.chmod(0o600)
    succeeded(long_run(project, *FAST, *DATA, "--out", out))
    assert out.stat().st_mode & 0o777 == 0o600 and formats.load_weights(out)[1].V == V


# ----------------------------------------------------------------------------
# Two runs with one --save


@posix
def test_a_second_run_leaves_the_files_of_the_first_alone(project, tmp_path):
    saved = tmp_path / "w.bin"
    (tmp_path / "link.bin").symlink_to(saved)
    with start(project, LONG, *ENDLESS, "--save", saved, "--save-every", 5) as first:
        read_until(first, "wrote ")
        for name in "w.bin", "link.bin":
            done = long_run(project, *FAST, *DATA, "--save", tmp_path / name)
            failed(done, f"--save {tmp_path / name}: another run is writing there; ")
        succeeded(long_run(project, *FAST, *DATA, "--save", tmp_path / "other.bin"))
        first.send_signal(signal.SIGINT)
        out, _ = first.communicate(timeout=30)
    last = out.splitlines()[-2]
    assert first.returncode == 130 and last.startswith(f"step {checkpoint(saved) - 1}: ")
    assert sorted(os.listdir(tmp_path)) == ["link.bin", "other.bin", "w.bin"]
    assert checkpoint(tmp_path / "other.bin") == 2


@posix
def test_what_a_killed_run_leaves_keeps_no_other_out(project, tmp_path):
    """Its lock ended with it."""
    saved = tmp_path / "w.bin"
    with start(project, LONG, *ENDLESS, "--save", saved, "--save-every", 1) as killed:
        read_until(killed, "wrote ")
        killed.kill()
    succeeded(long_run(project, *FAST, *DATA, "--save", saved))
    assert checkpoint(saved) == 2


# ----------------------------------------------------------------------------
# Odd surroundings


def test_threads_of_blas_within_ours(project, monkeypatch):
    done = long_run(project, *FAST, *DATA, OPENBLAS_NUM_THREADS="2", OMP_NUM_THREADS="2")
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    assert "openblas" not in blas or "set OPENBLAS_NUM_THREADS=1" in done.stderr
    names = {"Build Dependencies": {"blas": {"name": "mkl-sdl"}}}
    monkeypatch.setattr(np, "show_config", lambda mode: names)
    monkeypatch.setattr(gpt2, "THREADS", 2)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert "set MKL_NUM_THREADS=1" in numpy_engine.blas_warning()
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    assert numpy_engine.blas_warning() == ""


def test_no_memory(project):
    """What an array that is too large raises."""
    full = "def full(*_): raise MemoryError('Unable to allocate 9 GiB')"
    full = within(f"{full}\nsys.modules['numpy'].zeros_like = full")
    failed(long_run(project, *FAST, *DATA, python=full), "Unable to allocate 9 GiB", "; ")


# ----------------------------------------------------------------------------
# What the user reads


@pytest.mark.parametrize(
    "program, flag, name",
    [
        (LESSON, "--out", "out.bin"),
        (LONG, "--out", "out.bin"),
        (LONG, "--out", "an out.bin"),
        (LONG, "--save", "an out.bin"),
    ],
)
def test_last_lines_can_be_typed(project, tmp_path, program, flag, name):
    """In the folder where the run was started; after a long run, with names that have a space."""
    where = tmp_path if name == "out.bin" and program == LONG else project
    data = ["--data", project / "data" / "letters"]
    out = succeeded(run(project, program, *FAST, *data, flag, name, cwd=where))
    commands = [shlex.split(c) for c in re.findall(r"python (\S*\w+\.py .*)", out)]
    commands = {os.path.basename(script): (where / script, *more) for script, *more in commands}
    assert commands.keys() == {"sample_gpt2.py", os.path.basename(program)}
    assert run(project, *commands["sample_gpt2.py"], cwd=where).returncode == 0
    again = succeeded(run(project, *commands[os.path.basename(program)], cwd=where))
    assert f"weights: {name}, " in again  # FAST has an --init, too
    assert ("step 3: " if flag == "--save" else "step 1: train loss") in again


def test_resumed_run_takes_over_how_often_it_saves(project, tmp_path):
    """No step is saved twice: neither that with which it begins, nor the last."""
    saved = tmp_path / "w.bin"
    flags = ["--save", saved, "--save-every", 2, "--steps", 4]
    before = r"(?m)^(\w+(?: \d+)?).*\n(?=wrote )"  # how the line before it begins
    out = succeeded(long_run(project, *FAST, *DATA, *flags))
    assert re.findall(before, out) == ["step 1", "step 3"]
    assert f"sample_gpt2.py --weights {saved} " in out  # though the end saved nothing anew
    quiet = ["--resume", saved, "--val-every", 0, "--sample-every", 0]
    out = succeeded(long_run(project, *quiet, "--steps", 9))
    assert re.findall(before, out) == ["step 5", "step 7", "step 8"]
    out = succeeded(long_run(project, *quiet, "--steps", 12, "--save-every", 0))
    assert re.findall(before, out) == ["step 11"]


@pytest.mark.parametrize("batches", [1, 0])
def test_whole_validation(project, tmp_path, batches):
    """At the end of a run that saves: per token, and in bits per byte, of all whole windows."""
    saved = tmp_path / "w.bin"
    flags = [*FAST, *DATA, "--val-every", 1, "--val-batches", batches, "--save", saved]
    out = succeeded(long_run(project, *flags))
    found = re.search(r"step 2: val loss (\S+), (\S+) bits per byte, on all of (\S+) tokens", out)
    flat, config = formats.load_weights(saved)
    tokens = np.fromfile(project / "data" / "letters_val.bin", "<u2", offset=1024).astype(int)
    windows = (len(tokens) - 1) // 16 // 4 * 4  # that make whole batches
    x, y = tokens[: windows * 16].reshape(-1, 16), tokens[1 : windows * 16 + 1].reshape(-1, 16)
    loss = float(gpt2.gpt2_forward(gpt2.named_views(flat, config), config, x, y)[0])
    size = sum(len(LETTERS[token]) for token in y.ravel() if token != END)
    assert int(found[3]) == y.size == 448
    assert float(found[1]) == pytest.approx(loss, abs=2e-6)
    assert float(found[2]) == pytest.approx(loss * y.size / size / math.log(2), abs=1e-4)
    (last,) = re.findall(r"step 2: val loss ([\d.]+)\n", out)
    assert (float(last) == pytest.approx(loss, abs=2e-6)) is (batches == 0)


def test_bits_per_byte():
    """An end-of-text has no bytes, so of it alone there is no such figure."""
    sizes = house.text_sizes([b"a", b"bcd", b"efghij", b"<end>"], 3)
    targets = [np.array([[3, 1], [0, 2]]), np.array([[2, 0], [3, 3]])]  # 10 bytes, and 7
    assert house.bits_per_byte(2.0, iter(targets), sizes) == pytest.approx(16 / 17 / math.log(2))
    assert house.bits_per_byte(2.0, [targets[1][1:]], sizes) is None
    assert house.bits_per_byte(2.0, targets, None) is None


def test_a_sample_has_all_of_its_bytes(capsys, monkeypatch):
    """A character of several tokens, one that never was, and one that is not at its end."""
    vocabulary = ["é".encode()[:1], "é".encode()[1:], b"\xff", b"x"]
    monkeypatch.setattr(house, "generate", lambda *_: iter([[0], [1], [2], [3], [0]]))
    config = gpt2.GPT2Config(16, len(vocabulary), 1, 1, 4)
    args = SimpleNamespace(**house.DEFAULTS)
    engine = house.NumpyEngine(args, gpt2.init_weights(config), config)
    house.sample(engine, config, vocabulary, 3, np.random.default_rng(0), 5)
    assert capsys.readouterr().out == "é\ufffdx\ufffd\n"


@posix
def test_signals_that_are_waited_with(capfd):
    """Ctrl-C, `kill`, the end of a terminal; but not what nohup has ignored."""
    nohup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with house.interruptions() as pressed:
        signal.raise_signal(signal.SIGHUP)
        assert not pressed.is_set()
    signal.signal(signal.SIGHUP, nohup)
    before = [signal.getsignal(signum) for signum in house.STOPS]
    for signum in signal.SIGHUP, signal.SIGTERM:
        with house.interruptions() as pressed:
            for _ in range(2):  # torchrun may send it again
                try:
                    signal.raise_signal(signum)
                except KeyboardInterrupt:  # which would end pytest
                    pytest.fail("it ends at once")
                assert pressed.is_set()
            with pytest.raises(KeyboardInterrupt):  # but who presses Ctrl-C now has had enough
                signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err == 2 * STOPPING
    assert before == [signal.getsignal(signum) for signum in house.STOPS]
