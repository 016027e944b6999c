"""What several tests of training need: runs of both programs, Ctrl-C, checkpoints, terminals."""

import os
import re
import signal
import struct

import train_gpt2 as gpt2
from tools import checkpoints, formats

import helpers
import numpy as np
import pytest
from helpers import V, start

FAST = "--init d1 --seq-len 16 --batch-size 4 --sample-every 0 --val-every 0 --steps 2".split()
DATA = ["--data", "data/letters"]
LESSON, LONG = "train_gpt2.py", "tools/train.py"
BOTH = pytest.mark.parametrize("program", [LESSON, LONG])
GPT2Config = gpt2.GPT2Config

posix = pytest.mark.skipif(os.name != "posix", reason="needs the signals of POSIX")


def train(folder, *flags, **how):
    """Run a project's train_gpt2.py -> what subprocess.run() returns."""
    return helpers.run(folder, LESSON, *flags, **how)


def long_run(folder, *flags, **how):
    """Run a project's tools/train.py -> what subprocess.run() returns."""
    return helpers.run(folder, LONG, *flags, **how)


def mistake(done, *words, status=1):
    """Assert, as helpers.failed() does, that a program ended with a line -> the line."""
    if not any(str(arg).endswith(LESSON) for arg in done.args):
        return helpers.failed(done, *words, status=status)
    assert "Traceback" not in done.stderr and done.returncode == status, done.stderr
    (line,) = done.stderr.splitlines()  # without the program's name, unless argparse has said it
    assert all(word in line for word in words), line
    return line


def within(before, after=""):
    """Return what to give as python=: the program between two lines of Python."""
    first = "import os, runpy, sys; del sys.argv[0]"
    first += "; folder = os.path.dirname(sys.argv[0])"
    first += "; sys.path[0] = folder.removesuffix('tools').removesuffix('variants')"
    last = "runpy.run_path(sys.argv[0], run_name='__main__')"
    return "-c", f"{first}\nimport train_gpt2\n{before}\n{last}\n{after}"


def losses(out, kind):
    """Return the losses of a kind, val or train, but for that on the whole validation text."""
    return [float(loss) for loss in re.findall(rf"{kind} loss ([\d.]+)(?![\d.,])", out)]


def small_weights(path, maxT=8, vocab_size=V):
    """Write random weights of 500 parameters or so -> the path."""
    config = GPT2Config(maxT, vocab_size, 1, 1, 4)
    formats.write_weights(path, gpt2.init_weights(config), config)
    return path


def parts_of(path):
    """Return a checkpoint's config, header, parameters, m and v, each flat; its text, bytes."""
    data = path.read_bytes()
    header = struct.unpack_from("<256i", data)
    config = GPT2Config(*header[2:7])
    sizes, count = helpers.tensor_sizes(config), gpt2.num_parameters(config)
    numbers = np.frombuffer(data, "<f4", (sum(sizes) // 4) + header[9] * count, 1024)
    flat = np.delete(numbers[: sum(sizes) // 4], slice(sizes[0] // 4, sum(sizes[:2]) // 4))
    moments = numbers[sum(sizes) // 4 :].reshape(header[9], count)
    text = data[len(data) - header[8] :]
    assert len(data) == 1024 + numbers.nbytes + header[8]
    return config, header, flat, moments, text


def checkpoint(path):
    """Return the step of a checkpoint, having seen that it is whole."""
    _, header, flat, moments, _ = parts_of(path)
    assert header[1] == 3 and len(moments) == 2
    assert np.isfinite(flat).all() and np.isfinite(moments).all() and (moments[1] >= 0).all()
    return checkpoints.read_about(path)["step"]


def read_until(process, words):
    """Return a process's output up to the line that has these words."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return lines
    pytest.fail(f"no {words} in {''.join(lines)}, but {process.stderr.read()}")


def on_terminal(folder, program, *flags, columns=80, only_stderr=False, **how):
    """Run a program on a terminal so wide -> what that shows, the status, what else it printed."""
    pty = pytest.importorskip("pty", reason="needs the terminals of POSIX")
    import fcntl
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    streams = {"stderr": theirs} if only_stderr else {"stdout": theirs, "stderr": theirs}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        process = start(folder, program, *flags, streams=streams, **how)
    os.close(theirs)
    shown = b""
    with process:
        try:
            while more := os.read(ours, 4096):
                shown += more
        except OSError:  # how Linux says that the other end was closed
            pass
        os.close(ours)
        out = process.stdout.read() if only_stderr else ""
    return shown.decode().replace("\r\n", "\n"), process.returncode, out


STOPPING = "\nstopping after this step; again: stop now, without saving\n"


def interrupted(folder, program, *flags, at, signum=signal.SIGINT):
    """Run, and press Ctrl-C when the output says so -> status, output, what came on stderr."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # if it was to be ignored
    with start(folder, program, *flags) as process:
        signal.signal(signal.SIGINT, before)
        lines = read_until(process, at)
        process.send_signal(signum)
        out, err = process.communicate(timeout=30)
    return process.returncode, "".join(lines) + out, err
