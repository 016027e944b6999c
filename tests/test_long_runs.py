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
from tools import formats
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
# What is learned is saved, whatever else fails


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
    succeeded(long_run(project, "--resume", saved, "--steps", 10**6, "--help"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_on_a_full_disk(project, tmp_path):
    saved = tmp_path / "out.bin"
    with open("/dev/full", "w") as full:
        done = long_run(project, *ENDLESS, "--save", saved, streams={"stdout": full})
    line = failed(done, "No space left on device")
    assert "Errno" not in line and checkpoint(saved) == 0


def test_log_on_a_full_disk(project, tmp_path):
    """Where the weights are to go, there is room."""
    saved, log = tmp_path / "out.bin", tmp_path / "log.csv"
    limit = "import os, tools.log as log; made = log.open_log"
    limit += "\nclass Full:\n    def write(self, text): raise OSError(28, os.strerror(28))"
    limit += "\n    def close(self): pass"
    limit += "\nlog.open_log = lambda path, start: made(path, start) and Full()"
    for flag in "--save", "--out":
        done = long_run(project, *ENDLESS, flag, saved, "--log", log, python=within(limit))
        failed(done, f"--log {log}", "No space left on device")
        assert f"wrote {saved}\n" in done.stdout
        flat, config = formats.load_weights(saved)
        assert not np.array_equal(flat, gpt2.init_weights(config, 1337))  # it has learned
        log.unlink()


def test_folder_that_is_removed(project, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with start(project, LONG, *ENDLESS, "--save", folder / "w.bin", "--save-every", 50) as process:
        read_until(process, "step 3: ")
        shutil.rmtree(folder)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "Traceback" not in err
    (line,) = err.splitlines()
    assert f"{folder / 'w.bin'}: No such file or directory" in line


@posix
@pytest.mark.parametrize("change", ["overwritten", "truncated"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_tokens_that_change_meanwhile(tmp_path, change, split):
    folder, saved = add_data(make_project(tmp_path / "project")), tmp_path / "w.bin"
    path = folder / "data" / f"letters_{split}.bin"
    flags = [*ENDLESS, "--val-every", 5, "--val-batches", 3, "--save", saved]
    with start(folder, LONG, *flags) as process:
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
    assert process.returncode == 1 and "Traceback" not in err, (process.returncode, err)
    (line,) = err.splitlines()
    assert "data/letters" in line and checkpoint(saved) >= 4


@posix
def test_file_that_grows_too_large(project, tmp_path):
    """An earlier checkpoint stays as it was, and nothing half written is left beside it."""
    saved = tmp_path / "w.bin"
    succeeded(long_run(project, *FAST, *DATA, "--save", saved))
    before = saved.read_bytes()
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    limit += f"; resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2},) * 2)"
    done = long_run(project, *FAST, *DATA, "--save", saved, python=within(limit))
    failed(done, str(saved), "File too large")
    assert saved.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["w.bin"]


@pytest.mark.parametrize("program, flag", [(LESSON, "--out"), (LONG, "--out"), (LONG, "--save")])
def test_weights_that_are_not_finite_are_not_saved(project, tmp_path, program, flag):
    """The loss of the step is finite, what it makes of the weights is not."""
    flags = ["--lr", 1e38, "--weight-decay", 1e5, "--steps", 1, flag, tmp_path / "w.bin"]
    done = run(project, program, *FAST, *DATA, *flags)
    if program == LONG:
        failed(done, str(tmp_path / "w.bin"), ": its weights are not all ")
    else:  # NumPy warns, and the lesson has no program's name before its line
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert done.stderr.endswith(
            "\nthe weights are not finite, and not saved; try a lower --lr\n"
        )
    assert not list(tmp_path.iterdir())


@posix
@pytest.mark.parametrize("flag", ["--save", "--out"])
def test_files_keep_their_modes(project, tmp_path, flag):
    out = tmp_path / "w.bin"
    out.touch(0o600)
    out.chmod(0o600)
    succeeded(long_run(project, *FAST, *DATA, flag, out))
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
    running, dead = subprocess.Popen(["sleep", "60"]), killed.pid
    others = ["w.bin.part", "w.bin.x.part", f"w.bin.{running.pid}.part", f"v.bin.{dead}.part"]
    for name in *others, f"w.bin.{dead}.part", f"w_best.bin.{dead}.part":
        (tmp_path / name).write_bytes(b"x")
    try:
        succeeded(long_run(project, *FAST, *DATA, "--save", saved))
    finally:
        running.kill()
        running.wait()
    assert sorted(os.listdir(tmp_path)) == sorted(["w.bin", *others])
    assert checkpoint(saved) == 2


# ----------------------------------------------------------------------------
# Odd surroundings


@pytest.mark.parametrize("name, value", [("PYTHONSAFEPATH", "1"), ("RANK", "abc")])
@BOTH
def test_odd_variables(project, name, value, program):
    assert "step 1: " in succeeded(run(project, program, *FAST, *DATA, **{name: value}))


@pytest.mark.parametrize("flag", ["--warmup", "--steps", "--val-batches"])
def test_number_of_401_digits(project, flag):
    done = long_run(project, *FAST, *DATA, flag, "9" * 401)
    failed(done, f"argument {flag}", "is not a number from 0 to", status=2)


def test_odd_variable_of_tqdm(project):
    failed(long_run(project, *FAST, *DATA, TQDM_MININTERVAL="abc"), "TQDM_")


def test_no_memory(project):
    """What an array that is too large raises."""
    full = "def full(*_): raise MemoryError('Unable to allocate 9 GiB')"
    full = within(f"{full}\nsys.modules['numpy'].zeros_like = full")
    failed(long_run(project, *FAST, *DATA, python=full), "Unable to allocate 9 GiB", "; ")


@BOTH
def test_isolated_python(project, program):
    assert "step 1: " in succeeded(run(project, program, *FAST, *DATA, python=["-I"]))


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
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
    programs = sorted(os.path.basename(script) for script, *_ in commands)
    assert programs == ["sample_gpt2.py", os.path.basename(program)]
    for script, *more in commands:
        done = run(project, where / script, *more, cwd=where)
        assert done.returncode == 0, done.stderr
        assert "sample" in script or f"weights: {name}, " in done.stdout  # FAST has an --init, too
        assert "sample" in script or "step 1: train loss" in done.stdout or flag == "--save"


def test_resumed_run_takes_over_how_often_it_saves(project, tmp_path):
    saved = tmp_path / "w.bin"
    succeeded(long_run(project, *FAST, *DATA, "--save", saved, "--save-every", 2, "--steps", 3))
    quiet = ["--val-every", 0, "--sample-every", 0, "--steps", 9]
    out = succeeded(long_run(project, "--resume", saved, *quiet))
    wrote = re.findall(r"step (\d+): train loss .*\nwrote", out)
    assert wrote == ["3", "5", "7", "8"]  # before steps 4, 6 and 8, and at the end
    out = succeeded(long_run(project, "--resume", saved, *quiet, "--steps", 12, "--save-every", 0))
    assert out.count("wrote") == 1


def test_no_step_is_saved_twice(project, tmp_path):
    """Neither the one that a run begins with, nor the last, where --save-every falls on them."""
    flags = [*FAST, *DATA, "--steps", 4, "--save", tmp_path / "w.bin", "--save-every", 2]
    out = succeeded(long_run(project, *flags))
    assert re.findall(r"(memory|step \d+): .*\nwrote", out) == ["step 1", "step 3"]
    assert out.count("wrote") == 2


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


def test_bytes_of_the_targets():
    """In several files, the first of which has windows for some, and without end-of-text."""
    vocabulary, end = [b"a", b"bcd", b"efghij", b"<end>"], 3
    shards = [np.array(text) for text in ([3, 1, 3, 0, 2], [0, 2, 2, 3, 0, 1, 1])]
    sizes = [house.bytes_of(shards, 2, windows, vocabulary, end) for windows in range(6)]
    assert sizes == [0, 3, 10, 22, 23, 29]  # one window more each time: bcd, <end>; a, efghij; ...


def test_targets_beyond_the_vocabulary():
    """Also where none of the inputs is: the last token of a batch is only ever a target."""
    args = SimpleNamespace(batch_size=1, seq_len=3, data="x")
    config = gpt2.GPT2Config(16, V, 1, 1, 4)
    assert house.get_batch([np.array([0, 1, 2, V - 1])], 0, args, config)[1].max() == V - 1
    with pytest.raises(UserError, match=f"tokens beyond {V - 1} now"):
        house.get_batch([np.array([0, 1, 2, V])], 0, args, config)


def printed_sample(monkeypatch, generate, vocabulary, count):
    monkeypatch.setattr(house, "generate", generate)
    config = gpt2.GPT2Config(16, len(vocabulary), 1, 1, 4)
    engine = house.NumpyEngine(None, gpt2.init_weights(config), config)
    end = len(vocabulary) - 1
    house.sample(engine, config, vocabulary, end, np.random.default_rng(0), count)


def test_a_sample_has_all_of_its_bytes(capsys, monkeypatch):
    """A character of several tokens, one that never was, and one that is not at its end."""
    drawn = [0, 1, 2, 3, 0]
    vocabulary = ["é".encode()[:1], "é".encode()[1:], b"\xff", b"x"]
    printed_sample(monkeypatch, lambda *_: iter([[token] for token in drawn]), vocabulary, 5)
    assert capsys.readouterr().out == "é\ufffdx\ufffd\n"


def test_sample_comes_token_by_token(capsys, monkeypatch):
    def generate(*_):
        for i in range(1000):
            assert capsys.readouterr().out == ("x" if i else "")
            yield [1]

    printed_sample(monkeypatch, generate, [b"x"] * 2, 9)


@pytest.mark.parametrize("saved, lost", [(None, "2 to 7"), (5, "5 to 7"), (8, None)])
def test_steps_that_are_lost(saved, lost):
    """A run that began at step 2 and has done all before step 8."""
    saver = SimpleNamespace(start=2, saved=saved)
    text = f"what it learned in steps {lost} is lost" if lost else "no step is lost"
    assert house.Saver.lost(saver, 8) == text


@posix
def test_signals_that_are_waited_with(capfd):
    before = signal.getsignal(signal.SIGTERM)
    with house.interruptions(False) as pressed:
        assert signal.getsignal(signal.SIGTERM) is before  # ends a single process at once
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


# ----------------------------------------------------------------------------
# From Python


@pytest.mark.parametrize("in_thread", [False, True])
def test_from_python(project, tmp_path, in_thread):
    """It gives the last loss and all parameters, and leaves signal handlers as they were."""
    data = ["--data", project / "data" / "letters"]
    flags = [*map(str, [*FAST, *data, "--save", tmp_path / "w.bin"])]
    found, handlers = [], [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    def call():
        found.append(house.main(flags))

    if in_thread:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    else:
        call()
    ((loss, flat),) = found
    assert 0 < loss < math.inf and np.array_equal(flat, formats.load_weights(tmp_path / "w.bin")[0])
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
