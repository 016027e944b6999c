"""
Systems that are not here: our programs, run without what Windows, or what macOS, lacks (20 s).

The names are taken from this Python before a program begins, once the standard library has what it
needs of them itself. What a system does otherwise, rather than not at all, is beyond this.
"""

import os
import shlex
import subprocess
import sys

from tools import token_files

import pytest
from helpers import PROJECT, add_data, make_project, succeeded, without_network
from running import LESSON, LONG

PROGRAMS = [*PROJECT.glob("*.py"), *PROJECT.glob("tools/*.py")]

TAKE = """
import ctypes, multiprocessing.spawn, os, runpy, select, shutil, signal, subprocess, sys, tempfile
import types
def take(module, names):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""
# What is in Python's documentation with "Availability: Unix", or "not Windows", or "Linux"; of what
# the standard library calls behind our backs (fork, waitpid) only what it has no copy of
WINDOWS = """
modules = "fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"
sys.modules |= dict.fromkeys(modules)  # so that their import is an ImportError
msvcrt = sys.modules["msvcrt"] = types.ModuleType("msvcrt")
msvcrt.LK_NBLCK, msvcrt.locking = 2, lambda *_: None  # a lock that nobody else wants
take(os, "chown fchown geteuid getegid getgid getgroups getloadavg getpgid getuid initgroups"
    " killpg lchown mkfifo mknod nice O_NOFOLLOW sched_getaffinity setpgid setresuid setsid setuid"
    " statvfs sync sysconf ttyname wait3 wait4")
take(signal, "SIGALRM SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 SIGXFSZ alarm pause")
load = ctypes.CDLL.__init__
def init(self, name, *args, **kwargs):
    "/" in name  # as ctypes has there: a TypeError for None
    load(self, name, *args, **kwargs)
ctypes.CDLL.__init__ = init
import numpy.random, tqdm, concurrent.futures.process, multiprocessing.pool
sys.platform = "win32"
"""
MACOS = """
take(os, "sched_getaffinity O_DIRECT sched_setaffinity memfd_create eventfd")
find = ctypes.CDLL.__getattr__
def getattr(self, name):
    if name == "mallopt":  # which is of Linux's C library
        raise AttributeError(name)
    return find(self, name)
ctypes.CDLL.__getattr__ = getattr
import numpy.random, tqdm
sys.platform = "darwin"
"""
SYSTEMS = {"Windows": WINDOWS, "macOS": MACOS}
RUN = """
del sys.argv[0]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
RUN_ALL = """
for path in sys.argv[1:]:
    sys.argv = [path, "--help"]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as stop:
        print(f"{path} ended with {stop.code}")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with data, in which a model has been trained."""
    return add_data(make_project(tmp_path_factory.mktemp("systems")))


def run_without(system, project, program, *flags, first="", how=RUN):
    """Run a program of a project on a Python from which is taken what the system lacks."""
    code = f"{first}{TAKE}{SYSTEMS[system]}{how}"
    command = [sys.executable, "-c", code, project / program, *map(str, flags)]
    kinds = {"capture_output": True, "encoding": "utf-8", "timeout": 120}
    return subprocess.run(command, cwd=project, env=without_network(project), **kinds)


@pytest.mark.parametrize("system", SYSTEMS)
def test_training_resuming_and_sampling(project, system):
    data = "--data", "data/letters"
    flags = "--init", "d1", "--seq-len", 16, "--steps", 2, "--val-batches", 1
    saved = "--save", f"{system}.bin", "--log", f"{system}.csv"
    for program, *more in (LESSON, "--out", "plain.bin"), (LONG, *saved):
        out = succeeded(run_without(system, project, program, *data, *flags, *more))
        assert "step 1: train loss" in out and f"wrote {more[1]}" in out
    resume = "--resume", f"{system}.bin", "--steps", 3
    out = succeeded(run_without(system, project, LONG, *data, *resume))
    assert "step 2: train loss" in out
    sample = "--weights", f"{system}.bin", "--tokenizer", "data/letters_tokenizer.bin"
    done = run_without(system, project, "sample_gpt2.py", *sample, "--tokens", 5)
    assert done.returncode == 0 and len(done.stdout) > 1, done.stderr


@pytest.mark.parametrize("system", SYSTEMS)
def test_preparing_data(project, system):
    (project / "my.txt").write_text("To be, or not to be.\n" * 99, encoding="utf-8")
    flags = "my.txt", "--bytes", "--name", f"data/{system}"
    out = succeeded(run_without(system, project, "prepro_text.py", *flags))
    assert f"to train on it: python train_gpt2.py --data data{os.sep}{system} " in out
    out = succeeded(run_without(system, project, "prepro_pythondocs.py"))
    assert out.count("wrote ") == 3


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_program_begins(project, system):
    """None of them takes, to begin with, what is not there."""
    programs = [path for path in PROGRAMS if "__main__" in path.read_text(encoding="utf-8")]
    programs = [str(project / path.relative_to(PROJECT)) for path in programs]
    assert len(programs) > 10
    # PyTorch may have what is taken from us
    first = "try:\n    import torch\nexcept ImportError:\n    pass\n"
    done = run_without(system, project, *programs, first=first, how=RUN_ALL)
    failed = [path for path in programs if f"{path} ended with 0" not in done.stdout.splitlines()]
    if "PyTorch is missing" in done.stderr:
        failed.remove(str(project / "reference_gpt2.py"))
    assert not failed, done.stderr


# ----------------------------------------------------------------------------
# What Windows has otherwise


def test_what_is_to_be_typed(monkeypatch):
    """cmd.exe knows no single quotes; in sh, a backslash has to stand in them."""
    words = ["python", r"C:\my files\train_gpt2.py", "--data", r"D:\x"]
    assert shlex.split(token_files.typed(words)) == words
    monkeypatch.setattr(os, "name", "nt")
    assert token_files.typed(words) == r'python "C:\my files\train_gpt2.py" --data D:\x'
