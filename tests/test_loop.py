"""
The loop of train_gpt2.py: each line that it prints and the file that it writes, recomputed.

Batches, schedule, clipping and AdamW are written down once more here, from their definitions, so
that a mistake in what main() hands to whom is seen, and in what it prints.
"""

import itertools
import math
import re
import signal
import sys
from types import SimpleNamespace

import train_gpt2 as gpt2
from tools import formats

import numpy as np
import pytest
from helpers import LETTERS, V, write_tokenizer, write_tokens

B, T = 3, 5
FLAGS = f"--init d1 --batch-size {B} --seq-len {T} --lr 1e-2 --sample-every 0"


@pytest.fixture
def data(tmp_path):
    """
    Token files: for training six batches of 3 * 5 and one window more; for validation three, and
    but for a target four.
    """
    tokens = np.random.default_rng(0).integers(V, size=160)
    write_tokens(tmp_path / "x_train.bin", tokens[:100])
    write_tokens(tmp_path / "x_val.bin", tokens[100:])
    write_tokenizer(tmp_path / "x_tokenizer.bin")
    return SimpleNamespace(name=tmp_path / "x", train=tokens[:100], val=tokens[100:])


@pytest.fixture
def train(data, tmp_path, monkeypatch, capsys):
    """Run main() with such flags -> its lines, the parameters that it has written."""

    def train(flags, seconds=(0.25,) * 9):
        argv = f"{FLAGS} --data {data.name} --out {tmp_path / 'out.bin'} {flags}".split()
        monkeypatch.setattr(sys, "argv", ["train_gpt2.py", *argv])
        times = itertools.accumulate(x for took in seconds for x in (100, took))  # began, ended
        monkeypatch.setattr(gpt2, "time", SimpleNamespace(perf_counter=lambda: next(times)))
        gpt2.main(gpt2.make_parser().parse_args(argv))
        return capsys.readouterr().out.splitlines(), formats.load_weights(tmp_path / "out.bin")[0]

    return train


def batch(tokens, i):
    """Batch i in reading order; after the last window that has a target, the first again."""
    starts = [a for a in range(0, len(tokens), T) if a + T < len(tokens)]
    rows = [tokens[a : a + T + 1] for a in (starts * (i + 2))[i * B : i * B + B]]
    return np.array(rows)[:, :-1], np.array(rows)[:, 1:]


def loss_and_gradient(flat, config, x, y):
    grad = np.full_like(flat, np.nan)
    loss, cache = gpt2.gpt2_forward(gpt2.named_views(flat, config), config, x, y)
    gpt2.gpt2_backward(1.0, cache, gpt2.named_views(grad, config))
    return float(loss), grad


def mean_loss(flat, config, tokens, count):
    params = gpt2.named_views(flat, config)
    batches = [batch(tokens, i) for i in range(count)]
    return sum(float(gpt2.gpt2_forward(params, config, x, y)[0]) for x, y in batches) / count


def expected_run(
    data, steps, warmup=0, min_lr_frac=1.0, weight_decay=0.0, grad_clip=math.inf, seed=1337
):
    """Return for each step the loss and the parameters before it, and after the last one."""
    config = gpt2.named_config("d1", V, T)
    flat = gpt2.init_weights(config, seed)
    decays = np.concatenate(
        [
            np.full(view.size, name in "wte wpe qkvw attprojw fcw fcprojw".split())
            for name, view in gpt2.named_views(flat, config).items()
        ]
    )
    m, v, found = np.zeros_like(flat), np.zeros_like(flat), []
    for step in range(steps + 1):
        loss, g = loss_and_gradient(flat, config, *batch(data.train, step))
        found.append((loss, flat))
        norm = np.linalg.norm(g)
        g = g * min(1, grad_clip / norm)
        wave = 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))
        floor = min_lr_frac
        rate = 1e-2 * ((step + 1) / warmup if step < warmup else floor + (1 - floor) * wave)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        flat = (flat * (1 - rate * weight_decay * decays)).astype("f4")
        flat = flat - np.float32(rate) * m_hat / (np.sqrt(v_hat) + np.float32(1e-8))
    return config, found


RUNS = [
    {"steps": 9},  # into the second round of the data
    {"steps": 8, "warmup": 3, "min_lr_frac": 0.1},
    {"steps": 5, "weight_decay": 0.5, "grad_clip": 0.3},
    {"steps": 2, "seed": 7},
]


@pytest.mark.parametrize("how", RUNS, ids=str)
def test_each_loss_and_the_weights(data, train, how):
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in how.items())
    lines, out = train(f"{flags} --val-every 0")
    _, expected = expected_run(data, **how)
    found = [re.match(r"step (\d+): train loss ([\d.]+) \(", line) for line in lines]
    found = [(int(match[1]), float(match[2])) for match in found if match]
    assert [step for step, _ in found] == list(range(how["steps"]))
    # printed with six digits; measured: 5.9e-7
    for (_, loss), (true, _) in zip(found, expected[:-1], strict=True):
        assert loss == pytest.approx(true, abs=5e-6)
    # Root mean squares, because the gradient of a key's bias is noise, and so is its
    # step; measured: 3.1e-4 of what the parameters moved
    error = np.linalg.norm(out - expected[-1][1])
    assert error < 3e-3 * np.linalg.norm(expected[-1][1] - expected[0][1])


@pytest.mark.parametrize(
    "flags, count",
    [("", 2), ("--val-batches 0", 3), ("--val-batches 3", 3), ("--val-batches 9", 3)],
)
def test_validation_losses(data, train, flags, count):
    lines, _ = train(f"--steps 7 --val-every 3 --val-batches 2 {flags}")
    config, expected = expected_run(data, steps=7)
    found = [re.fullmatch(r"step (\d+): val loss ([\d.]+)", line) for line in lines]
    found = [(int(match[1]), float(match[2])) for match in found if match]
    assert [step for step, _ in found] == [0, 3, 6, 7]  # and once more after the last step
    for step, loss in found:
        true = mean_loss(expected[step][1], config, data.val, count)
        assert loss == pytest.approx(true, abs=5e-6)  # measured: 5.9e-7


def test_time_and_speed(train):
    lines, _ = train("--steps 3 --val-every 0", seconds=[0.25, 2.0, 0.0015])
    found = [re.search(r"\(took (\S+) ms, (\d+) tokens/s\)", line) for line in lines]
    found = [(float(match[1]), int(match[2])) for match in found if match]
    assert found == [(250, 60), (2000, 8), (1.5, 10000)]  # of B * T = 15 tokens each


def test_samples(data, train, monkeypatch):
    starts, generate = [], gpt2.generate
    monkeypatch.setattr(gpt2, "generate", lambda *a: starts.append(a[2]) or generate(*a))
    lines, out = train("--steps 5 --val-every 0 --sample-every 2 --seed 3")
    at = [i for i, line in enumerate(lines) if line.endswith(": sample")]
    assert [lines[i].split(":")[0] for i in at] == ["step 2", "step 4", "step 5"]
    config = gpt2.named_config("d1", V, T)
    rng = np.random.default_rng((3, 5))
    tokens = generate(gpt2.named_views(out, config), config, [V - 1], rng)
    text = b"".join(LETTERS[next(tokens)] for _ in range(64)).decode()
    assert lines[at[-1] + 1 : at[-1] + 4] == ["---", text, "---"]
    assert starts == [[V - 1]] * 3


def test_last_lines(train, tmp_path, monkeypatch):
    """Commands that can be typed: the first goes on with the flags of this run."""
    lines, _ = train("--steps 1 --val-every 0")
    out, own = tmp_path / "out.bin", tmp_path / "x_tokenizer.bin"
    assert lines[-3] == f"wrote {out}; to go on from it, with a new AdamW:"
    assert lines[-2] == f"    python {' '.join(sys.argv)} --init {out}"
    text = f"text from it: python sample_gpt2.py --weights {out} --tokenizer"
    assert lines[-1] == f"{text} {own}"

    own.rename(tmp_path / "gpt2_tokenizer.bin")  # data in GPT-2's tokens have none of their own
    monkeypatch.setattr(gpt2, "GPT2_VOCAB_SIZE", V)
    monkeypatch.setattr(gpt2, "TOKENIZER_FILE", tmp_path / "gpt2_tokenizer.bin")
    assert train("--steps 1 --val-every 0")[0][-1] == f"{text} {gpt2.TOKENIZER_FILE}"


@pytest.mark.parametrize("where", ["generate", "gpt2_backward", "clip_gradients", "adamw_update"])
def test_ctrl_c_ends_the_loop_and_saves(data, train, monkeypatch, where):
    """In the third step (a sample is drawn after the second): the weights of two steps."""
    before, calls = getattr(gpt2, where), []

    def pressed(*args, **options):
        calls.append(1)
        if where == "generate" or len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return before(*args, **options)

    monkeypatch.setattr(gpt2, where, pressed)
    lines, out = train("--steps 9 --val-every 0 --sample-every 2")
    _, expected = expected_run(data, steps=2)
    error = np.linalg.norm(out - expected[2][1])
    assert error < 3e-3 * np.linalg.norm(expected[2][1] - expected[0][1])
    assert lines[-4].startswith("step 1: train" if where == "generate" else "---")
    assert lines[-3].startswith("wrote ")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("lr, loss", [(1e30, "nan|inf"), (30, r"\d{2}")])  # guessing: 2.6
def test_a_loss_that_is_far_too_high_ends_the_run(train, tmp_path, lr, loss):
    with pytest.raises(SystemExit, match=rf"step \d: loss ({loss}).*--lr"):
        train(f"--steps 9 --lr {lr} --val-every 0")
    assert not (tmp_path / "out.bin").exists()


@pytest.mark.parametrize("norm", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_ends_the_run(train, monkeypatch, norm):
    """Though the loss still is one: after this step, the weights would not be."""
    monkeypatch.setattr(gpt2, "clip_gradients", lambda *_: norm)
    with pytest.raises(SystemExit, match=rf"step 0: loss \d.*, gradient norm {norm}; .*--lr"):
        train("--steps 1 --val-every 0")


@pytest.mark.parametrize("name, i", [("wte", 0), ("lnfb", -1)])
def test_a_weight_that_is_not_finite_is_not_saved(train, tmp_path, monkeypatch, name, i):
    def adamw_update(params, *_, **__):
        params[name].reshape(-1)[i] = np.nan

    monkeypatch.setattr(gpt2, "adamw_update", adamw_update)
    with pytest.raises(SystemExit, match="val loss (nan|inf), so the weights are not saved"):
        train("--steps 1 --val-every 0")
    assert not (tmp_path / "out.bin").exists()


def test_a_validation_that_is_not_finite_ends_the_run(train, tmp_path, monkeypatch):
    """In whichever batch: here, not in the first."""
    monkeypatch.setattr(gpt2, "evaluate", lambda *args: 1.0 if args[-1] == 1 else math.inf)
    with pytest.raises(SystemExit, match="val loss inf, so the weights are not saved"):
        train("--steps 1 --val-every 1")
    assert not (tmp_path / "out.bin").exists()


def test_no_save(train, tmp_path):
    there = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit, match="no file of this name"):  # the fixture looks for it
        train("--steps 1 --no-save --val-every 0")
    assert sorted(tmp_path.iterdir()) == there


def test_defaults():
    files = {"init": None, "data": None, "out": "out.bin", "no_save": False}
    sizes = {"steps": 40, "batch_size": 4, "seq_len": 64, "seed": 1337}
    rates = {"lr": 1e-4, "warmup": 0, "min_lr_frac": 1.0, "weight_decay": 0.0, "grad_clip": 0.0}
    shown = {"val_every": 10, "val_batches": 10, "sample_every": 20}
    assert vars(gpt2.make_parser().parse_args([])) == files | sizes | rates | shown
    assert gpt2.WEIGHTS_FILE.name == "gpt2_124M.bin"
    assert gpt2.SHAKESPEARE == gpt2.HERE / "data" / "tiny_shakespeare"
