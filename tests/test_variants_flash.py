"""variants/flash_attention.py: the lesson's attention to 1e-12, in memory that grows with T."""

import tracemalloc
from types import SimpleNamespace

import train_gpt2 as gpt2
from tools import train as house
from tools.numpy_engine import NumpyEngine
from variants import flash_attention as flash

import numpy as np
import pytest
from helpers import PROJECT, assert_close, failed, random_params, run, succeeded, torch_loss
from variant_checks import assert_same_steps, batches, check_layer, engine_steps, torch_steps

CONFIG = gpt2.GPT2Config(11, 13, 2, 3, 15)


def random_layer(B, T, NH, HS, scale=1.0, dtype=np.float64):
    rng = np.random.default_rng(T)
    qkv = scale * rng.standard_normal((B * T, 3 * NH * HS)).astype(dtype)
    return qkv, rng.standard_normal((B * T, NH * HS)).astype(dtype)


@pytest.mark.parametrize("T", [1, 127, 128, 129, 300])
@pytest.mark.parametrize("scale", [1, 30])  # of 30: scores of some hundreds
def test_it_is_the_lessons_attention(T, scale):
    qkv, dout = random_layer(2, T, 3, 5, scale)
    (ours, our_cache), (theirs, cache) = (a.attention_forward(qkv, 2, 3) for a in (flash, gpt2))
    assert_close(ours, theirs, 1e-12)
    ours, theirs = flash.attention_backward(dout, our_cache), gpt2.attention_backward(dout, cache)
    assert np.abs(theirs).max() > 0.1
    assert_close(ours, theirs, 1e-12)


@pytest.mark.parametrize("B, T, NH, tile", [(2, 7, 3, 3), (1, 5, 1, 2), (3, 4, 2, 4), (1, 1, 3, 2)])
def test_gradient(monkeypatch, B, T, NH, tile):
    monkeypatch.setattr(flash, "TILE", tile)
    monkeypatch.setattr(gpt2, "CHUNK", 32)
    qkv, _ = random_layer(B, T, NH, 5)
    forward = lambda qkv: flash.attention_forward(qkv, B, NH)  # noqa: E731
    check_layer("attention", forward, flash.attention_backward, {"qkv": qkv})


def test_what_is_kept_of_a_row(monkeypatch):
    """The logarithm of the sum, for scores too large for exp()."""
    monkeypatch.setattr(flash, "TILE", 2)
    q = np.full((1, 1, 5, 1), 1000.0)
    k = np.arange(5.0).reshape(1, 1, 5, 1)
    out, logsum = flash.attend(q, k, k)
    largest = 1000 * np.arange(5.0)  # the newest key has all of the weight
    assert np.array_equal(logsum[0, 0, :, 0], largest) and np.array_equal(out, k)


def peak(layer, T):
    """Return the most bytes that arrays take in a forward and backward pass, besides the input."""
    qkv, dout = random_layer(1, T, 2, 8, dtype=np.float32)
    tracemalloc.start()
    _, cache = layer.attention_forward(qkv, 1, 2)
    layer.attention_backward(dout, cache)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_is_linear_in_T():
    """Measured: 2.0 times as much for 2,048 tokens as for 1,024; of the lesson's, 3.6."""
    assert peak(flash, 2048) / peak(flash, 1024) < 2.1
    assert peak(gpt2, 2048) / peak(gpt2, 1024) > 3


def test_ten_steps_are_pytorchs(monkeypatch):
    monkeypatch.setattr(flash, "TILE", 3)
    flat, params = random_params(CONFIG)
    xys = list(batches(CONFIG, 3, 10))
    decaying = "wte wpe qkvw attprojw fcw fcprojw".split()
    theirs = torch_steps(lambda p, x, y: torch_loss(p, CONFIG, x, y)[1], params, decaying, xys)
    args = SimpleNamespace(**house.DEFAULTS | {"flash": True, "weight_decay": 0.1})
    engine = NumpyEngine(args, flat, CONFIG)
    assert_same_steps(engine_steps(engine, xys), theirs)


def test_the_flag_is_that(monkeypatch):
    monkeypatch.setattr(flash, "attend", None)
    flat, _ = random_params(CONFIG)
    xys = list(batches(CONFIG, 1, 4))
    NumpyEngine(SimpleNamespace(**house.DEFAULTS), flat, CONFIG).evaluate(xys)
    with pytest.raises(TypeError):
        args = SimpleNamespace(**house.DEFAULTS | {"flash": True})
        NumpyEngine(args, flat, CONFIG).evaluate(xys)


def test_the_table():
    program = "variants/flash_attention.py"
    flags = "--longest", 300, "--heads", 1, "--rounds", 1
    title, head, *rows = succeeded(run(PROJECT, program, *flags)).splitlines()
    assert "1 heads" in title and head.split()[1:] == ["lesson,", "MB", "ms", "flash,", "MB", "ms"]
    numbers = [list(map(float, row.split())) for row in rows]
    assert [row[0] for row in numbers] == [256, 300] and all(row[2] > 0 for row in numbers)
    for flag in "--longest", "--heads", "--rounds":
        failed(run(PROJECT, program, flag, 0), flag, "0 is not a number from 1", status=2)
