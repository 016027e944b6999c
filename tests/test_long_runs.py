"""tools/train.py: what it leaves when something fails, what it says, and as a function."""

import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import train_gpt2 as gpt2
from tools import formats, numpy_engine
from tools import train as house
from tools.console import UserError

import numpy as np
import pytest
from helpers import END, LETTERS, V, add_data, failed, make_project, run, start, succeeded
from running import (
    BOTH,
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
@pytest.mark.parametrize("lines", [1, 9])
def test_output_that_nobody_reads(project, tmp_path, lines):
    """As by `| head`."""
    saved = tmp_path / "out.bin"
    with start(project, LONG, *ENDLESS, "--save", saved) as process:
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=30) == 141
        assert process.stderr.read() == ""
    assert checkpoint(saved) >= (lines > 1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_on_a_full_disk(project, tmp_path):
    saved = tmp_path / "out.bin"
    with open("/dev/full", "w") as full:
        done = long_run(project, *ENDLESS, "--save", saved, streams={"stdout": full})
    line = failed(done, "No space left on device")
    assert "Errno" not in line and checkpoint(saved) == 0


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


def test_folder_that_is_removed(project, tmp_path):
    saved = tmp_path / "folder" / "w.bin"
    saved.parent.mkdir()
    with start(project, LONG, *ENDLESS, "--save", saved, "--save-every", 50) as process:
        read_until(process, "step 3: ")
        shutil.rmtree(saved.parent)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and err.count("\n") == 1
    assert f"{saved}: No such file or directory" in err


@posix
@pytest.mark.parametrize("change", ["overwritten", "truncated"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_tokens_that_change_meanwhile(project, tmp_path, change, split):
    add_data(project, "changing")
    path, saved = project / "data" / f"changing_{split}.bin", tmp_path / "w.bin"
    flags = [*ENDLESS, "--val-every", 5, "--val-batches", 3, "--save", saved]
    with start(project, LONG, *flags, "--data", "data/changing") as process:
        read_until(process, "step 3: ")
        if change == "truncated":
            os.truncate(path, 0)
        else:
            with open(path, "r+b") as f:
                f.seek(1024)
                f.write(b"\xff" * (path.stat().st_size - 1024))
        try:
            _, err = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 1 and err.count("\n") == 1, (process.returncode, err)
    assert "data/changing" in err and checkpoint(saved) >= 4


@pytest.mark.parametrize("flag", ["--out", "--save"])
def test_weights_that_are_not_finite_are_not_saved(project, tmp_path, flag):
    """The loss of the step is finite, what it makes of the weights is not."""
    flags = ["--lr", 1e38, "--weight-decay", 1e5, "--steps", 1, flag, tmp_path / "w.bin"]
    done = long_run(project, *FAST, *DATA, *flags)
    failed(done, str(tmp_path / "w.bin"), ": its weights are not all ")
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
    """Its lock ended with it; what it was writing is removed, and nothing else."""
    saved = tmp_path / "w.bin"
    with start(project, LONG, *ENDLESS, "--save", saved, "--save-every", 1) as killed:
        read_until(killed, "wrote ")
        killed.kill()
    dead, alive = killed.pid, os.getpid()
    others = ["w.bin.part", "w.bin.x.part", f"w.bin.{alive}.part", f"v.bin.{dead}.part"]
    for name in *others, f"w.bin.{dead}.part", f"w_best.bin.{dead}.part":
        (tmp_path / name).write_bytes(b"x")
    succeeded(long_run(project, *FAST, *DATA, "--save", saved))
    assert sorted(os.listdir(tmp_path)) == sorted(["w.bin", *others])
    assert checkpoint(saved) == 2


# ----------------------------------------------------------------------------
# Odd surroundings


@pytest.mark.parametrize("flag", ["--steps", "--val-batches"])
def test_number_of_401_digits(project, flag):
    done = long_run(project, *FAST, *DATA, flag, "9" * 401)
    failed(done, f"argument {flag}", "is not a number from 0 to", status=2)


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


def test_odd_variable_of_tqdm(project):
    failed(long_run(project, *FAST, *DATA, TQDM_MININTERVAL="abc"), "TQDM_")


def test_no_memory(project):
    """What an array that is too large raises."""
    full = "def full(*_): raise MemoryError('Unable to allocate 9 GiB')"
    full = within(f"{full}\nsys.modules['numpy'].zeros_like = full")
    failed(long_run(project, *FAST, *DATA, python=full), "Unable to allocate 9 GiB", "; ")


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
@BOTH
def test_closed_streams(project, tmp_path, closed, program):
    out = tmp_path / "w.bin"
    command = [sys.executable, project / program, *FAST, *DATA, "--out", out]
    command = f"{shlex.join(map(str, command))} {closed}"
    done = subprocess.run(command, shell=True, cwd=project, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert formats.load_weights(out)[1].V == V


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


def test_targets_beyond_the_vocabulary():
    """Also where none of the inputs is: the last token of a batch is only ever a target."""
    args = SimpleNamespace(batch_size=1, seq_len=3, data="x")
    config = gpt2.GPT2Config(16, V, 1, 1, 4)
    assert house.get_batch([np.array([0, 1, 2, V - 1])], 0, args, config)[1].max() == V - 1
    with pytest.raises(UserError, match=f"tokens beyond {V - 1} now"):
        house.get_batch([np.array([0, 1, 2, V])], 0, args, config)


def test_a_sample_has_all_of_its_bytes(capsys, monkeypatch):
    """A character of several tokens, one that never was, and one that is not at its end."""
    vocabulary = ["é".encode()[:1], "é".encode()[1:], b"\xff", b"x"]
    monkeypatch.setattr(house, "generate", lambda *_: iter([[0], [1], [2], [3], [0]]))
    config = gpt2.GPT2Config(16, len(vocabulary), 1, 1, 4)
    engine = house.NumpyEngine(None, gpt2.init_weights(config), config)
    house.sample(engine, config, vocabulary, 3, np.random.default_rng(0), 5)
    assert capsys.readouterr().out == "é\ufffdx\ufffd\n"


@pytest.mark.parametrize("saved, lost", [(None, "2 to 7"), (5, "5 to 7"), (8, None)])
def test_steps_that_are_lost(saved, lost):
    """A run that began at step 2 and has done all before step 8."""
    saver = SimpleNamespace(start=2, saved=saved)
    text = f"what it learned in steps {lost} is lost" if lost else "no step is lost"
    assert house.Saver.lost(saver, 8) == text


@posix
def test_signals_that_are_waited_with(capfd):
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with house.interruptions(False) as pressed:
        assert signal.getsignal(signal.SIGTERM) is before[1]  # ends a single process at once
        signal.raise_signal(signal.SIGINT)
        assert pressed.is_set()
    with house.interruptions(True) as pressed:
        for _ in range(2):  # torchrun may send it again
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:  # which would end pytest
                pytest.fail("SIGTERM ends it at once")
            assert pressed.is_set()
        with pytest.raises(KeyboardInterrupt):  # but who presses Ctrl-C now has had enough
            signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err == 2 * STOPPING
    assert before == [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]


def test_from_python_in_a_thread(project, tmp_path):
    """Where no signal can be caught."""
    flags, found = [*FAST, "--data", project / "data" / "letters", "--no-save"], []
    thread = threading.Thread(target=lambda: found.extend(house.main([*map(str, flags)])))
    thread.start()
    thread.join()
    loss, flat = found
    assert 0 < loss < math.inf and flat.dtype == np.float32
