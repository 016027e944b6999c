"""
The writers, when something goes wrong: each operation of each writer fails in turn, the disk is
full, the target is no plain file, or may not be written. What was there before is there after it,
and nothing else is.

    pytest -s tests/test_faults.py        # prints how many faults were injected
"""

import contextlib
import errno
import io
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import train_gpt2 as gpt2
from tools import checkpoints, console, formats, log, token_files
from tools.console import UserError

import numpy as np
import pytest
from helpers import NOBODY, PROJECT

resource = pytest.importorskip("resource", reason="needs the limits of POSIX")
CONFIG = gpt2.GPT2Config(maxT=3, V=131, L=2, NH=2, C=4)


# ----------------------------------------------------------------------------
# Writers: write(path, version), where version 0 is the file that is there, 1 the one to take its
# place


def write_weights(path, version):
    rng = np.random.default_rng(version)
    flat, *moments = rng.standard_normal((3, gpt2.num_parameters(CONFIG)), np.float32)
    moments[1] **= 2
    checkpoints.save(path, flat, CONFIG, {"step": version, "data": "x", "settings": {}}, moments)


def write_splits(path, version, more=()):
    """path, and PREFIX_train.bin and PREFIX_tokenizer.bin beside it."""
    prefix = str(path).removesuffix("_val.bin")
    vocabulary = [b"a", b"b" * (9 + version), b"end"]
    splits = {"train": [[version] * 100, [2] * 100], "val": itertools.chain([[1, version]], more)}
    token_files.write_splits(prefix, vocabulary, 2, splits)


def write_log(path, version):
    """Version 1 is the start of version 0, for a run that is resumed."""
    with log.open_log(path, 2 * version) as f:
        if version == 0:
            f.writelines(f"{step},,,,,,\n" for step in range(4))


def write_rows(path, version):
    """Of the log of a run that goes on and on."""
    with log.Progress(10**9, 0, 1, path) as progress:
        for step in itertools.count():
            progress.write_row(step, val_loss=float(version))


@pytest.fixture(params=[write_weights, write_splits, write_log])
def writer(request):
    return request.param


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def both_versions(writer, folder, there_before):
    """Write version 0, or nothing -> path; contents of the folder now, and once 1 is written."""
    path = folder / "x_val.bin"
    found = []
    for version in 0, 1:
        if version or there_before:
            writer(path, version)
        found.append(contents(folder))
    for name in found[1]:
        (folder / name).unlink()
    for name, data in found[0].items():
        (folder / name).write_bytes(data)
    assert found[0] != found[1]
    return path, *found


# ----------------------------------------------------------------------------
# Each operation fails in turn


def inject(patch, nth, error):
    """Have operation nth on a file that is written raise error -> names of files replaced."""
    numbers, replaced = itertools.count(), []

    def step():
        if next(numbers) == nth:
            raise error

    class FaultyFile(io.BufferedWriter):
        def write(self, data):
            data = memoryview(data).cast("B") if len(data) else b""
            try:
                step()
            except BaseException:
                super().write(data[: len(data) // 2])
                raise
            return super().write(data)

        def flush(self):
            step()
            super().flush()

    def faulty_open(path, mode="r", **kwargs):
        if mode != "xb":
            return open(path, mode, **kwargs)
        step()
        return FaultyFile(io.FileIO(path, mode))

    def fsync(fd, fsync=os.fsync):
        step()
        fsync(fd)

    def replace(a, b, replace=os.replace):
        step()
        replace(a, b)
        replaced.append(Path(b).name)

    patch.setattr(formats, "open", faulty_open, raising=False)
    patch.setattr(os, "fsync", fsync)
    patch.setattr(os, "replace", replace)
    return replaced


FAULTS = {
    "full disk": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "broken disk": lambda: OSError(errno.EIO, "Input/output error"),
    "Ctrl-C": KeyboardInterrupt,
    "no memory": MemoryError,
}


@pytest.mark.parametrize("there_before", [True, False], ids=["over an old file", "a new file"])
def test_each_operation_fails(tmp_path, writer, there_before):
    path, old, new = both_versions(writer, tmp_path, there_before)
    injected = 0
    for nth, fault in itertools.product(range(100), FAULTS):
        error = FAULTS[fault]()
        with pytest.MonkeyPatch.context() as patch:
            replaced = inject(patch, nth, error)
            try:
                writer(path, 1)
                break  # there are no more than nth operations
            except BaseException as raised:
                if isinstance(error, OSError):
                    assert type(raised) is UserError, (nth, fault, raised)
                    assert str(tmp_path) in str(raised) and "\n" not in str(raised)
                else:
                    assert raised is error
        injected += 1
        expected = {name: (new if name in replaced else old).get(name) for name in old | new}
        found = contents(tmp_path)
        assert found == {name: data for name, data in expected.items() if data}, (nth, fault)
        for name in found:
            (tmp_path / name).unlink()
        for name, data in old.items():
            (tmp_path / name).write_bytes(data)
    assert contents(tmp_path) == new
    assert injected >= 6 * len(FAULTS)  # open, write, flush, fsync, close, replace
    print(f"\n{writer.__name__}: {injected} faults injected")


# ----------------------------------------------------------------------------
# In a process of its own: a limit on the size of files, as a full disk; signals


def child(path, number):
    """Write version 1, which this signal interrupts; for 0 rows, until there is no room."""

    def chunks():
        yield [1] * 10**5
        os.kill(os.getpid(), number)
        yield [2]

    def main():
        if number:
            write_splits(path, 1, chunks())
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        write_rows(path, 1)

    console.run_program(main)


def run_child(path, number=0):
    code = f"import test_faults; test_faults.child({str(path)!r}, {int(number)})"
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(PROJECT), str(PROJECT / "tests")))}
    how = {"env": env, "capture_output": True, "text": True, "timeout": 60}
    return subprocess.run([sys.executable, "-c", code], **how)


def test_full_disk_in_the_middle_of_a_log(tmp_path):
    done = run_child(tmp_path / "log.csv")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and str(tmp_path / "log.csv") in done.stderr
    columns, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert columns == log.COLUMNS and len(rows) > 100
    assert rows[:-1] == [f"{step},{step},,1.000000,,,,," for step in range(len(rows) - 1)]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_signal_in_the_middle(tmp_path, name):
    path, old, new = both_versions(write_splits, tmp_path, True)
    number = getattr(signal, name)
    done = run_child(path, number)
    assert done.stderr == "" and done.returncode == (130 if name == "SIGINT" else -number)
    found = contents(tmp_path)
    if name != "SIGINT":  # these end it there and then
        parts = found.keys() - old.keys()
        assert len(parts) == 2 and found[max(parts)]  # of val, which was being written
        for part in parts:
            assert part.endswith(".part")
            (tmp_path / part).unlink()
            del found[part]
    assert found == old
    write_splits(path, 1)
    assert contents(tmp_path) == new


# ----------------------------------------------------------------------------
# Targets that are no plain files, or may not be written


def refuses(writer, path):
    with pytest.raises(UserError) as caught:
        writer(path, 1)
    message = caught.value.text
    assert str(path.parent) in message and "\n" not in message
    assert re.search(r"; \w+", message)  # what to do about it


@pytest.mark.parametrize("there_before", [True, False])
def test_a_link_stays_a_link(tmp_path, writer, there_before):
    path, _, new = both_versions(writer, tmp_path, there_before)
    (tmp_path / "elsewhere").mkdir()
    if there_before:
        path.rename(tmp_path / "elsewhere" / "target")
    path.symlink_to(Path("elsewhere", "target"))
    writer(path, 1)
    assert path.is_symlink()
    assert contents(tmp_path / "elsewhere") == {"target": new[path.name]}


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to no folder", "link to itself"])
def test_what_is_no_file_stays(tmp_path, writer, kind):
    path = tmp_path / "x_val.bin"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":  # in place of /dev/null
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "link to itself" else Path("none", "target"))
    before = path.lstat()
    refuses(writer, path)
    assert list(tmp_path.iterdir()) == [path]
    after = path.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_no_folder(tmp_path):
    for write in write_weights, write_log:
        refuses(write, tmp_path / "none" / "x_val.bin")
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def as_nobody():
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def public_folder():
    """One that NOBODY gets to: pytest's own lie in a folder that is closed to others."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        folder = Path(name).resolve()
        with as_nobody():
            if not os.access(folder, os.W_OK):
                pytest.skip(f"another user than root can't write in {folder}")
        yield folder


@pytest.mark.parametrize("closed", ["file", "folder", "both"])
def test_read_only(public_folder, writer, closed):
    folder = public_folder
    with as_nobody():
        path, old, _ = both_versions(writer, folder, True)
    if closed != "folder":
        path.chmod(0o444)
    if closed != "file":
        folder.chmod(0o555)
    try:
        with as_nobody():
            with pytest.raises(UserError, match="no permission|read-only"):
                formats.check_writable(path, b"")  # before the work
            refuses(writer, path)
            assert contents(folder) == old
    finally:
        folder.chmod(0o777)
