"""tools/numpy_engine.py: a step of several batches is the step of one large batch."""

import copy
import math
from types import SimpleNamespace

import train_gpt2 as gpt2
from tools.numpy_engine import NumpyEngine

import numpy as np
import pytest
from helpers import assert_close, random_params

CONFIG = gpt2.GPT2Config(9, 12, 2, 2, 8)
B, T = 2, 7
EVEN = {"grad_clip": 0.0, "weight_decay": 0.1}


def batches_of(count, seed=1):
    """Return count batches of B texts, and the one batch that they are together."""
    x, y = np.random.default_rng(seed).integers(CONFIG.V, size=(2, count * B, T))
    return [(x[i : i + B], y[i : i + B]) for i in range(0, count * B, B)], [(x, y)]


def engine(flags=EVEN, m=None, v=None):
    flat, _ = random_params(CONFIG)
    return NumpyEngine(SimpleNamespace(**flags), flat, CONFIG, m, v), flat


def by_the_lesson(x, y, lr, step, flags, m, v):
    """Take a step on one batch with the lesson's functions -> loss, norm, flat parameters."""
    flat, params = random_params(CONFIG)
    grads, m, v = (gpt2.named_views(array, CONFIG) for array in (np.zeros_like(flat), m, v))
    loss, cache = gpt2.gpt2_forward(params, CONFIG, x, y)
    gpt2.gpt2_backward(1.0, cache, grads)
    norm = gpt2.clip_gradients(grads, flags["grad_clip"] or math.inf)
    decay = flags["weight_decay"]
    gpt2.adamw_update(params, grads, m, v, step + 1, lr, weight_decay=decay)
    return float(loss), norm, flat


def some_moments(seed):
    """Return m and v of some steps: v is a square, and there is none without it."""
    m, v = np.random.default_rng(seed).standard_normal((2, gpt2.num_parameters(CONFIG)))
    return (0.01 * m).astype("f4"), (1e-3 * np.square(v) + 1e-4).astype("f4")


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("clip", [0.0, 0.05])  # the norm is 1.1 to 2.4
def test_accumulated_batches_are_one_large_batch(count, clip):
    flags, lr, step = EVEN | {"grad_clip": clip}, 1e-2, 6
    parts, ((x, y),) = batches_of(count)
    m, v = some_moments(3)
    ours, _ = engine(flags, m.copy(), v.copy())
    loss, norm = ours.step(parts, lr, step)
    true_loss, true_norm, expected = by_the_lesson(x, y, lr, step, flags, m, v)
    assert type(loss) is float and loss == pytest.approx(true_loss, rel=1e-6)  # measured: 1e-7
    assert norm == pytest.approx(true_norm, rel=1e-6) and norm > 1  # measured: 1e-7
    # measured: 6.7e-9 for parameters, which the step moves by 1.7e-3; 1.1e-7 for moments
    assert_close(ours.parameters(), expected, 1e-7)
    for found, true in zip(ours.moments(), (m, v), strict=True):
        assert found.dtype == np.float32
        assert_close(found, true, 1e-6)


def test_mean_of_batches_whose_losses_differ():
    parts, _ = batches_of(3)
    ours, _ = engine()
    each = [engine()[0].evaluate([part]) for part in parts]
    assert len(set(each)) == 3
    assert ours.evaluate(iter(parts)) == pytest.approx(sum(each) / 3, rel=1e-12)
    assert ours.evaluate(parts[1:2]) == each[1]
    assert ours.evaluate(parts * 9) == pytest.approx(sum(each) / 3, rel=1e-12)  # of many, too
    assert ours.step(parts, 1e-3, 0)[0] == pytest.approx(sum(each) / 3, rel=1e-6)


def test_a_gradient_is_not_added_to_the_step_before():
    (first, second), _ = batches_of(2)
    one, _ = engine()
    one.step([first, second], 0.0, 0)  # at a learning rate of 0 nothing moves
    again = copy.deepcopy(one.moments())
    one.step([first, second], 0.0, 1)
    # the same gradient twice: m is its mean, (1 - beta1) * (beta1 + 1) of it
    assert_close(one.moments()[0], 1.9 * again[0], 1e-5)
    assert_close(one.moments()[1], 1.999 * again[1], 1e-5)


def test_steps_begin_where_the_moments_are_empty():
    parts, _ = batches_of(1)
    ours, flat = engine(EVEN | {"weight_decay": 0.0})
    m, v = ours.moments()
    assert not m.any() and not v.any() and m.shape == v.shape == flat.shape
    assert np.array_equal(ours.parameters(), flat)
    before = ours.parameters().copy()
    ours.step(parts, 1e-2, 0)
    moved = np.abs(ours.parameters() - before)
    # with its bias corrected, the first step is lr for each number whose gradient is above eps
    large = np.abs(ours.moments()[0]) > 1e-6
    assert large.mean() > 0.5 and moved[large] == pytest.approx(1e-2, rel=2e-2)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_is_updated_by_a_loss_that_is_not_finite(bad):
    parts, _ = batches_of(2)
    ours, _ = engine()
    ours.parameters()[-1] = bad
    before = [array.copy() for array in (ours.parameters(), *ours.moments())]
    loss, norm = ours.step(parts, 1e-2, 0)
    assert not math.isfinite(loss + norm)
    for old, new in zip(before, (ours.parameters(), *ours.moments()), strict=True):
        assert np.array_equal(old, new, equal_nan=True)
