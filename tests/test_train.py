"""train_gpt2.py as its users run it: its output, its files, and what it says to a mistake."""

import math
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import train_gpt2 as gpt2

import common
import numpy as np
import pytest

PROJECT = Path(__file__).parent.parent
CLOSED = "http://127.0.0.1:9"  # nothing listens there
LETTERS = [bytes([c]) for c in b"abcdefghij. "] + [b"<end>"]
V, END = len(LETTERS), len(LETTERS) - 1
TEXT = "abc. jihg fed. "  # so regular that a small model soon knows it
FAST = "--init d1 --seq-len 16 --batch-size 4 --sample-every 0 --val-every 0 --steps 2".split()
DATA = ["--data", "data/letters"]


def header(*numbers):
    return struct.pack("<256i", *numbers, *[0] * (256 - len(numbers)))


def write_tokens(path, tokens, vocab_size=V):
    tokens = np.asarray(tokens, "<u2")
    path.write_bytes(header(20240520, 1, len(tokens), vocab_size) + tokens.tobytes())


def write_tokenizer(path, vocabulary=LETTERS):
    data = b"".join(bytes([len(token)]) + token for token in vocabulary)
    path.write_bytes(header(20240328, 2, len(vocabulary), len(vocabulary) - 1) + data)


def make_project(folder):
    """A copy of the program, with nothing prepared."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in PROJECT.glob("*.py"):
        shutil.copy(path, folder)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "tools", folder / "tools", ignore=ignore)
    return folder


def add_data(folder, name="letters", count=900):
    """data/NAME_*.bin of a small text, and its tokenizer."""
    (folder / "data").mkdir(exist_ok=True)
    tokens = [LETTERS.index(c.encode()) for c in (TEXT * count)[:count]]
    write_tokens(folder / "data" / f"{name}_train.bin", [END, *tokens])
    write_tokens(folder / "data" / f"{name}_val.bin", [END, *tokens[7 : 7 + count // 2]])
    write_tokenizer(folder / "data" / f"{name}_tokenizer.bin")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """For tests that only read it, or write under names of their own."""
    return add_data(make_project(tmp_path_factory.mktemp("project")))


@pytest.fixture
def bare(tmp_path):
    return make_project(tmp_path / "project")


def start(folder, *flags, cwd=None, python=(), streams=(), **environment):
    """Start it. There is no network, and no file of tiktoken's to be found."""
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    for name in (
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "ALL_PROXY",
        "https_proxy",
        "http_proxy",
        "HF_ENDPOINT",
    ):
        env[name] = CLOSED
    env |= {"TIKTOKEN_CACHE_DIR": str(folder / "no_cache"), "PYTHONIOENCODING": "utf-8"}
    env |= environment
    command = [sys.executable, *python, str(folder / "train_gpt2.py"), *map(str, flags)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **dict(streams)}
    text = {"encoding": "utf-8", "errors": "replace"}
    return subprocess.Popen(command, cwd=cwd or folder, env=env, **text, **pipes)


def train(folder, *flags, timeout=60, **how):
    """Run it to its end."""
    with start(folder, *flags, **how) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def within(before, after=""):
    """For python=: run the program with a line of Python before it, and one after it."""
    start = f"import common, runpy, sys; del sys.argv[0]; {before}"
    return "-c", f"{start}\nrunpy.run_path(sys.argv[0], run_name='__main__')\n{after}"


def succeeded(done):
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def failed(done, *words):
    """Exit status 1, one line on stderr with these words in it, and no training."""
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("train_gpt2.py: "), done.stderr
    assert all(word in lines[0] for word in words), lines[0]
    assert "step 0" not in done.stdout
    return lines[0]


# ----------------------------------------------------------------------------
# Output


def test_output_layout(project):
    flags = "--init d1 --seq-len 16 --batch-size 4 --steps 4 --val-every 2 --sample-every 3".split()
    out = succeeded(train(project, *flags, *DATA, "--val-batches", 3))
    number, batches = r"\d+\.\d{6}", 900 // (4 * 16)
    val = rf"val loss {number}\n"
    steps = [
        rf"step {i}: train loss {number} \(took {number} ms, \d+ tokens/s\)\n" for i in range(4)
    ]
    sample = r"generating:\n---\n(?:[abcdefghij. ]|<end>){256,1280}\n---\n"
    maxT = int(re.search(r"max_seq_len: (\d+)", out)[1])
    assert maxT >= 16
    parameters = (maxT + V) * 64 + 12 * 64 * 64 + 13 * 64 + 2 * 64
    assert re.fullmatch(
        r"\[GPT-2\]\n"
        rf"max_seq_len: {maxT}\n"
        rf"vocab_size: {V}\n"
        r"num_layers: 1\n"
        r"num_heads: 1\n"
        r"channels: 64\n"
        rf"num_parameters: {parameters}\n"
        rf"train dataset num_batches: {batches}\n"
        rf"val dataset num_batches: {batches // 2}\n"
        r"memory: \d+ MB \(parameters \d+, gradients \d+, moments \d+, activations \d+\)\n"
        rf"{val}{steps[0]}{steps[1]}{val}{steps[2]}{sample}{steps[3]}{val}{sample}",
        out,
    ), out


def test_nothing_but_steps(project):
    lines = succeeded(train(project, *FAST, *DATA)).splitlines()
    assert [line.split(":")[0] for line in lines[-2:]] == ["step 0", "step 1"]
    assert not [line for line in lines if line.startswith(("val loss", "generating", "wrote"))]


def losses(out, kind):
    return [float(loss) for loss in re.findall(rf"{kind} loss ([\d.]+)", out)]


def mean_loss(path, weights, batches, B=4, T=16):
    """The loss of a weight file's model on the first batches of a token file."""
    flat, config = gpt2.load_weights(weights)
    tokens = np.frombuffer(path.read_bytes(), "<u2", offset=1024).astype(int)
    x, y = tokens[: batches * B * T], tokens[1 : batches * B * T + 1]
    params = gpt2.tensors(flat, config)
    return gpt2.gpt2_forward(params, config, x.reshape(-1, T), y.reshape(-1, T))[0]


def test_losses_are_those_of_the_right_tokens(project, tmp_path):
    saved = tmp_path / "w.bin"
    flags = [*FAST, *DATA, "--val-every", 1, "--val-batches", 3, "--lr", 1e-2]
    succeeded(train(project, *flags, "--save", saved))
    out = succeeded(train(project, *flags, "--init", saved))
    data = project / "data"
    val = mean_loss(data / "letters_val.bin", saved, 3)
    first = mean_loss(data / "letters_train.bin", saved, 1)
    assert abs(val - first) > 1e-3  # they can be told apart
    assert losses(out, "val")[0] == pytest.approx(val, abs=2e-6)
    assert losses(out, "train")[0] == pytest.approx(first, abs=2e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_learning_rate_of_0_changes_nothing(project, tmp_path, steps):
    """Nor does the seed, unless weights are made or tokens drawn with it."""
    weights, saved = small_weights(tmp_path / "w.bin", 16), tmp_path / "saved.bin"
    flags = [*FAST, *DATA, "--init", weights, "--lr", 0, "--steps", steps, "--seed", steps]
    succeeded(train(project, *flags, "--weight-decay", 0.1, "--save", saved))
    assert np.array_equal(gpt2.load_weights(saved)[0], gpt2.load_weights(weights)[0])


def test_flags_reach_adamw(project, tmp_path):
    """What it saves is what three steps made here come to."""
    weights, saved = small_weights(tmp_path / "w.bin", 16), tmp_path / "saved.bin"
    flags = "--lr 0.02 --weight-decay 0.3 --warmup 1 --min-lr-frac 0.5 --steps 3".split()
    succeeded(train(project, *FAST, *DATA, "--init", weights, *flags, "--save", saved))
    flat, config = gpt2.load_weights(weights)
    tokens, _ = common.load_tokens(project / "data" / "letters_train.bin")
    params, grads, m, v = (
        gpt2.tensors(array, config) for array in (flat, *np.zeros((3, flat.size), np.float32))
    )
    for step, lr in enumerate([0.02, 0.02, 0.015]):  # half a cosine, from 0.02 down to 0.01
        _, cache = gpt2.gpt2_forward(params, config, *gpt2.get_batch([tokens], step, 4, 16))
        gpt2.gpt2_backward(1.0, cache, grads)
        gpt2.adamw_update(params, grads, m, v, step + 1, lr, weight_decay=0.3)
    assert np.abs(gpt2.load_weights(saved)[0] - flat).max() < 1e-6


def test_one_token_at_a_time(project):
    flags = "--seq-len 1 --batch-size 64 --sample-every 2".split()
    assert succeeded(train(project, *FAST, *DATA, *flags)).count("generating:") == 1


@pytest.mark.parametrize("shuffle", [[], ["--shuffle"]])
def test_loss_falls(project, shuffle):
    flags = "--init d1 --seq-len 16 --batch-size 4 --steps 80 --lr 3e-3 --warmup 5".split()
    flags += "--min-lr-frac 0.1 --val-every 80 --sample-every 80".split()
    out = succeeded(train(project, *flags, *DATA, *shuffle))
    first, last = losses(out, "val")
    assert abs(first - math.log(V)) < 0.3 and last < 0.1, (first, last)
    assert losses(out, "train")[0] == pytest.approx(first, abs=0.3)
    assert losses(out, "train")[-1] < 0.15
    sample = re.search(r"---\n(.*)\n---", out, re.DOTALL)[1]
    # it looks like the text, of which 256 tokens have 51 words; at random there would be none
    assert sum(sample.count(word) for word in ("abc. ", "jihg ", "fed. ")) >= 20


def test_samples_differ_from_step_to_step(project):
    out = succeeded(train(project, *FAST, *DATA, "--lr", 0, "--sample-every", 1))
    one, other = re.findall(r"---\n(.*?)\n---", out, re.DOTALL)
    assert one != other


def test_save_and_start_from_it(project, tmp_path):
    saved = tmp_path / "saved.bin"
    first = FAST + "--val-every 2 --lr 3e-3".split()
    out = succeeded(train(project, *first, *DATA, "--save", saved))
    lines = out.splitlines()
    assert lines[-2] == f"wrote {saved}" and lines[-1].startswith("val loss ")
    flat, config = gpt2.load_weights(saved)
    assert config[1:] == (V, 1, 1, 64) and config.maxT >= 16
    assert not np.array_equal(flat, gpt2.init_weights(config, 1337))
    again = succeeded(train(project, *first, *DATA, "--init", saved))
    # the last loss of the one is the first of the other, to the digit
    assert losses(again, "val")[0] == losses(out, "val")[-1] < losses(out, "val")[0]


def test_one_seed_gives_the_same_bytes(project, tmp_path):
    """B * T = 2048 rows, so that every layer is cut into blocks for all threads."""
    flags = "--init d2 --batch-size 16 --seq-len 128 --lr 1e-3 --weight-decay 0.1 --warmup 2"
    flags += " --steps 4 --shuffle --val-every 2 --val-batches 1 --sample-every 2 --seed"
    add_data(project, "longer", 3 * 2048)
    files, texts = [tmp_path / name for name in ("1.bin", "2.bin", "3.bin")], []
    for path, seed in zip(files, (5, 5, 6), strict=True):
        done = train(project, *flags.split(), seed, "--data", "data/longer", "--save", path)
        texts.append(re.sub(r"\(took .*\)|wrote .*", "", succeeded(done)))
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    assert texts[0] == texts[1] != texts[2]


def test_default_files_are_the_projects(bare, tmp_path):
    """Without --init and --data, wherever one stands; what is there is not made anew."""
    add_data(bare, "tiny_shakespeare")
    shutil.move(bare / "data" / "tiny_shakespeare_tokenizer.bin", bare / "gpt2_tokenizer.bin")
    config = gpt2.GPT2Config(16, V, 1, 2, 8)
    common.write_weights(bare / "gpt2_124M.bin", gpt2.init_weights(config), config)
    before = sorted(path.name for path in bare.rglob("*.bin"))
    flags = "--steps 2 --seq-len 16 --sample-every 2".split()
    out = succeeded(train(bare, *flags, cwd=tmp_path))
    assert out.startswith("[GPT-2]\nmax_seq_len: 16\n")
    assert len(losses(out, "val")) == 2 and out.count("generating:") == 1
    assert sorted(path.name for path in bare.rglob("*.bin")) == before


@pytest.mark.parametrize("name", ["a folder with spaces", "Öl und 数据"])
def test_odd_folders(tmp_path, name):
    folder = add_data(make_project(tmp_path / name))
    (tmp_path / "elsewhere").mkdir()
    data, saved = f"../{name}/data/letters", tmp_path / name / "säve d.bin"
    flags = [*FAST, "--sample-every", 1, "--data", data, "--save", saved]
    out = succeeded(train(folder, *flags, cwd=tmp_path / "elsewhere"))
    assert f"\nwrote {saved}\n" in out and out.count("generating:") == 2
    assert gpt2.load_weights(saved)[1].V == V
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs a system with user numbers")
def test_read_only_project():
    """As where somebody else has installed it: data and checkpoint are elsewhere."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder, elsewhere = add_data(make_project(Path(name, "project"))), Path(name, "elsewhere")
        shutil.move(folder / "data", elsewhere)
        elsewhere.chmod(0o777)
        folder.chmod(0o555)
        before = sorted(folder.iterdir())
        # root may write anywhere, so it becomes nobody, who can't read what is not imported by then
        modules = "os, mmap, pkgutil, numpy.random, tqdm, train_gpt2"
        nobody = f"import {modules}; os.geteuid() or os.setresuid(*[65534] * 3)"
        how = {"python": within(nobody), "PYTHONDONTWRITEBYTECODE": "1"}
        files = ["--data", elsewhere / "letters", "--save", elsewhere / "out.bin"]
        succeeded(train(folder, *FAST, *files, **how))
        assert gpt2.load_weights(elsewhere / "out.bin")[1].V == V
        assert sorted(folder.iterdir()) == before
        failed(train(folder, *FAST, *files[:2], "--save", "out.bin", **how))
        folder.chmod(0o755)


def test_output_that_cannot_show_every_character(project):
    """As on Windows, or in a terminal of 1990: a sample's odd bytes are no reason to stop."""
    tokens = np.arange(900) % 4
    for split in "train", "val":
        write_tokens(project / "data" / f"odd_{split}.bin", tokens, 4)
    write_tokenizer(project / "data" / "odd_tokenizer.bin", [b"\xff", "é".encode(), b"x", b"<end>"])
    flags = [*FAST, "--sample-every", 1, "--data", "data/odd"]
    out = succeeded(train(project, *flags, PYTHONIOENCODING="ascii"))
    assert out.count("generating:") == 2


BLOCKER = """
import importlib.abc, sys

BLOCKED = {}

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
"""


def block(folder, *names):
    """With this as its PYTHONPATH, a Python can't import those names."""
    (folder / "sitecustomize.py").write_text(BLOCKER.replace("{}", repr(names)))
    for name in names:  # does it block?
        command, env = [sys.executable, "-c", f"import {name}"], os.environ | {"PYTHONPATH": folder}
        blocked = subprocess.run(command, env=env, capture_output=True, text=True)
        assert f"{name} is blocked" in blocked.stderr
    return str(folder)


def test_training_needs_numpy_and_tqdm_alone(project, tmp_path):
    path, saved = block(tmp_path, "torch", "tiktoken", "requests", "urllib3"), tmp_path / "w.bin"
    flags = [*FAST, *DATA, "--val-every", 1, "--sample-every", 2, "--save", saved]
    assert "step 1: " in succeeded(train(project, *flags, PYTHONPATH=path))
    assert "step 1: " in succeeded(train(project, *FAST, *DATA, "--init", saved, PYTHONPATH=path))


def test_lesson_needs_numpy_alone(project, tmp_path):
    path = block(tmp_path, "torch", "tiktoken", "requests", "urllib3", "tqdm")
    command = [sys.executable, "-c", "import train_gpt2; print(train_gpt2.CHUNK)"]
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{gpt2.CHUNK}\n", "")


def test_without_tqdm(project, tmp_path):
    done = train(project, *FAST, *DATA, PYTHONPATH=block(tmp_path, "tqdm"))
    failed(done, "tqdm", "pip install")


def test_import_does_nothing(project, tmp_path):
    code = "import train_gpt2, sys; print(sorted(sys.modules.keys() & {'torch', 'requests'}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------
# Memory


def test_memory_is_what_it_takes(project):
    """The memory line beside what the system saw taken, beyond what a tiny model takes."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc, which says how much memory a process took")
    peak = "import re; print(re.search(r'VmHWM:.*', open('/proc/self/status').read())[0])"

    def run(*flags):
        flags = *flags, "--steps", 1, "--val-batches", 1, "--sample-every", 0, "--data", "data/long"
        out = succeeded(train(project, *flags, python=within("", peak)))
        line = re.search(r"memory: (.*) MB \((.*)\)", out)
        parts = [int(part.split()[1]) for part in line[2].split(", ")]
        assert int(line[1]) == pytest.approx(sum(parts), abs=2)  # each is rounded
        taken = int(re.search(r"VmHWM:\s+(\d+) kB", out)[1]) * 1024 / 1e6
        return taken - int(line[1]), taken, parts

    add_data(project, "long", 3000)
    python, _, _ = run("--init", "d1", "--seq-len", 4, "--batch-size", 1)
    d6 = ["--init", "d6", "--batch-size", 4]  # 10.7 million parameters
    for T, accum, gradients in (64, 1, 43), (64, 2, 85), (224, 1, 43):
        beyond, taken, parts = run(*d6, "--seq-len", T, "--grad-accum", accum)
        assert parts[:3] == pytest.approx([43, gradients, 85], abs=1)
        # measured: 0.03
        assert abs(beyond - python) <= 0.25 * (taken - python)


@pytest.mark.parametrize("have, warned", [(10**6, True), (10**9, False)])
def test_warning_where_memory_is_short(project, have, warned):
    patch = within(f"common.machine_memory = lambda: {have}")
    done = train(project, *FAST, *DATA, python=patch)
    assert done.returncode == 0 and "step 1: " in done.stdout  # it may know better
    assert done.stderr.count("\n") == warned
    assert not warned or re.match(r"train_gpt2\.py: warning: .*--batch-size.*\n", done.stderr)


def test_machine_memory():
    assert 2**26 < common.machine_memory() < 2**50  # 64 MB, in bytes, or more


# ----------------------------------------------------------------------------
# The bar on a terminal


def on_terminal(project, *flags, stdout_too):
    """Run it with its stderr, and maybe stdout, a terminal -> what that showed, what came else."""
    pty = pytest.importorskip("pty", reason="needs the terminals of POSIX")
    import fcntl
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    streams = {"stderr": theirs} | ({"stdout": theirs} if stdout_too else {})
    with start(project, *flags, streams=streams) as process:
        os.close(theirs)
        shown = b""
        try:
            while more := os.read(ours, 4096):
                shown += more
        except OSError:  # how Linux says that the other end was closed
            pass
        os.close(ours)
        out = "" if stdout_too else process.stdout.read()
    assert process.returncode == 0, shown
    return shown.decode(), out


BAR = r"100%\|█+\| 30/30 \[.*, loss \d\.\d{4}, \d+ tokens/s\]"
BAR_FLAGS = [*FAST, *DATA, "--steps", 30, "--val-every", 10]


def test_bar_and_lines(project):
    """stderr a terminal, stdout a file or a pipe: one has the bar, the other all the lines."""
    shown, out = on_terminal(project, *BAR_FLAGS, stdout_too=False)
    steps = [line.split(":")[0] for line in out.splitlines() if line.startswith("step ")]
    assert steps == [f"step {i}" for i in range(30)]
    assert len(losses(out, "val")) == 4 and "tokens/s" in out and "█" not in out
    assert re.search(BAR, shown), shown
    assert "step 1:" not in shown and "train loss" not in shown and "val loss" not in shown


def test_bar_alone(project):
    """Both a terminal: no line for each step, but those that are rare."""
    shown, _ = on_terminal(project, *BAR_FLAGS, stdout_too=True)
    assert re.search(BAR, shown), shown
    assert "train loss" not in shown and len(losses(shown, "val")) == 4
    assert shown.startswith("[GPT-2]")


# ----------------------------------------------------------------------------
# Mistakes


def small_weights(path, maxT=8, vocab_size=V):
    config = gpt2.GPT2Config(maxT, vocab_size, 1, 1, 4)
    common.write_weights(path, gpt2.init_weights(config), config)
    return path


@pytest.mark.parametrize("python", [(), ("-O",)], ids=["python", "python -O"])
def test_mistakes(project, tmp_path, python):
    def fails(flags, *words):
        return failed(train(project, *FAST, *DATA, *flags, python=python), *words)

    missing = tmp_path / "none.bin"
    fails(["--init", missing], str(missing), "no such file")
    fails(["--data", tmp_path / "none"], f"{tmp_path / 'none'}_train.bin", "no such file", "prepro")
    wrong_vocabulary = small_weights(tmp_path / "v.bin", 16, V + 1)
    fails(["--init", wrong_vocabulary], "--data", str(wrong_vocabulary), f"{V + 1}", f"{V}")
    short = small_weights(tmp_path / "short.bin", 8)
    fails(["--init", short, "--seq-len", 9], "--seq-len 9", "8", str(short))
    fails(["--batch-size", 29], "451", "465")  # 29 * 16 and one more
    fails(["--init", project / "data" / "letters_train.bin"], "letters_train.bin")
    fails(["--data", tmp_path / "v.bin"], "v.bin")
    cut = tmp_path / "cut.bin"
    cut.write_bytes(wrong_vocabulary.read_bytes()[:-1])
    fails(["--init", cut], str(cut))
    fails(["--init", tmp_path], str(tmp_path), "this is a folder")


def test_just_enough_tokens(project):
    assert "step 1: " in succeeded(train(project, *FAST, *DATA, "--batch-size", 28))


DAMAGES = {
    "too few": (lambda path: write_tokens(path, [1] * 64), ["64", "65"]),
    "another vocabulary": (lambda path: write_tokens(path, [1] * 200, V + 1), []),
    "a token that is none": (lambda path: write_tokens(path, [V] * 200), []),
    "no tokens at all": (lambda path: write_tokens(path, []), []),
    "one byte": (lambda path: path.write_bytes(b"x"), []),
    "missing": (Path.unlink, ["no such file"]),
}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_each_split_is_looked_at(project, tmp_path, split, damage):
    for suffix in "train.bin", "val.bin", "tokenizer.bin":
        shutil.copy(project / "data" / f"letters_{suffix}", tmp_path / f"x_{suffix}")
    change, words = DAMAGES[damage]
    change(tmp_path / f"x_{split}.bin")
    flags = [*FAST, "--data", tmp_path / "x", "--val-every", 1]
    failed(train(project, *flags), "x_", *words)


@pytest.fixture
def letters(project, tmp_path):
    """Flags for a copy of the tokens, and where their tokenizer is to be."""
    for split in "train", "val":
        shutil.copy(project / "data" / f"letters_{split}.bin", tmp_path / f"x_{split}.bin")
    return [*FAST, "--data", tmp_path / "x", "--sample-every", 1], tmp_path / "x_tokenizer.bin"


def test_missing_tokenizer(project, letters):
    flags, _ = letters
    failed(train(project, *flags), "tokenizer.bin", "no such file")
    assert "step 1: " in succeeded(train(project, *flags, "--sample-every", 0))  # not asked for


@pytest.mark.parametrize("vocabulary", [LETTERS[:-3], [*LETTERS, b"more"]], ids=["less", "more"])
def test_tokenizer_of_another_vocabulary(project, letters, vocabulary):
    flags, own = letters
    write_tokenizer(own, vocabulary)
    failed(train(project, *flags), "x_tokenizer.bin")


def test_damaged_tokenizer(project, letters):
    flags, own = letters
    own.write_bytes(b"x" * 2000)
    failed(train(project, *flags), str(own))


def test_save_where_nothing_can_be_written(project, tmp_path):
    """Said before the training, not after it."""
    failed(train(project, *FAST, *DATA, "--save", tmp_path / "none" / "w.bin"), "none")


@pytest.mark.parametrize(
    "flags",
    [
        ["--batch-size", "0"],
        ["--batch-size", "-1"],
        ["--batch-size", "x"],
        ["--seq-len", "0"],
        ["--steps", "-1"],
        ["--steps", "1.5"],
        ["--lr", "nan"],
        ["--lr", "inf"],
        ["--lr", "-1"],
        ["--min-lr-frac", "1.1"],
        ["--weight-decay", "nan"],
        ["--val-batches", "0"],
        ["--val-every", "-1"],
        ["--sample-every", "x"],
        ["--save-every", "-1"],
        ["--save-every", "1"],  # and no --save
        ["--grad-accum", "0"],
        ["--grad-clip", "-1"],
        ["--grad-clip", "nan"],
        ["--seed", "-1"],
        ["--no-such-flag"],
        ["--lr"],
        ["word"],
    ],
    ids=" ".join,
)
def test_bad_flag(flags, capsys):
    with pytest.raises(SystemExit) as caught:
        common.training_flags(flags)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == ""
    assert err.count("\n") == 1 and flags[0] in err and err.endswith("; --help lists the flags\n")


@pytest.mark.parametrize("python", [(), ("-O",)], ids=["python", "python -O"])
@pytest.mark.parametrize("flags", [["--batch-size", 0], ["--lr", "nan"], ["--wrong"]], ids=str)
def test_bad_flag_is_exit_status_2(bare, flags, python):
    done = train(bare, *flags, python=python)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("train_gpt2.py: ") and done.stderr.count("\n") == 1
    assert str(flags[0]) in done.stderr
    assert not list(bare.rglob("*.bin"))  # nor was anything prepared


# ----------------------------------------------------------------------------
# Without a network


def test_explicit_files_never_fall_back(bare):
    add_data(bare)
    for flags in ["--init", "none.bin", *DATA], ["--init", "d1", "--data", "data/none"]:
        done = train(bare, *flags)
        failed(done, "none", "no such file")
        assert done.stdout == ""
    # one of the two is left to the default, which takes a network
    for flags in ["--init", "d1"], ["--init", "none.bin"], DATA, ["--data", "data/none"]:
        start = time.monotonic()
        done = train(bare, *flags, "--steps", 1)
        assert time.monotonic() - start < 10
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "cannot reach" in done.stderr and "[GPT-2]" not in done.stdout
    assert not list((bare / "data").glob("python_docs*"))


def test_offline_fallback(bare, tmp_path):
    pytest.importorskip("pydoc_data.topics", reason="this Python comes without its documentation")
    (tmp_path / "elsewhere").mkdir()
    start = time.monotonic()
    done = train(bare, "--steps", 2, "--val-batches", 1, cwd=tmp_path / "elsewhere")
    assert time.monotonic() - start < 30
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert "cannot reach raw.githubusercontent.com" in line
    (shown,) = re.findall(r"python train_gpt2\.py (--.*)", done.stdout)
    assert "num_layers: 2\n" in done.stdout and "vocab_size: 257\n" in done.stdout
    first, last = losses(done.stdout, "val")
    assert abs(first - math.log(257)) < 0.2 and last < first
    assert done.stdout.count("step 0: ") == done.stdout.count("step 1: ") == 1
    assert done.stdout.count("generating:") == 1
    made = sorted(path.name for path in bare.rglob("*.bin"))
    assert made == [f"python_docs_{kind}.bin" for kind in ("tokenizer", "train", "val")]

    # what it showed is the equivalent command: with the same flags behind it, the same losses
    flags = [*shown.split(), "--steps", 2, "--val-batches", 1]
    explicit = succeeded(train(bare, *flags))
    assert losses(explicit, "val") == [first, last]
    assert losses(explicit, "train") == losses(done.stdout, "train")
    assert "preparing" not in explicit

    # the second time, the data are there
    again = train(bare, "--steps", 0, "--val-every", 0)
    assert again.returncode == 0 and "prepro_pythondocs.py" not in again.stdout
    assert "prepro_pythondocs.py" in done.stdout
