"""
The engines of tools/train.py, NumPy's and PyTorch's: each takes the steps that the lesson's
functions take, where a step of several batches is that of one large batch.
"""

import math
from types import SimpleNamespace

import train_gpt2 as gpt2
from tools import train as house
from tools.numpy_engine import NumpyEngine, counted

import numpy as np
import pytest
from helpers import assert_close, random_params, torch_gpt2

CONFIG = gpt2.GPT2Config(9, 12, 2, 2, 8)
B, T = 2, 7
BETAS = 0.9, 0.999


def batches_of(count, seed=1):
    """Return count batches of B texts, and the one batch that they are together."""
    x, y = np.random.default_rng(seed).integers(CONFIG.V, size=(2, count * B, T))
    return [(x[i : i + B], y[i : i + B]) for i in range(0, count * B, B)], (x, y)


@pytest.fixture(params=["NumPy", "PyTorch"])
def make_engine(request):
    """Return a function: parameters, the lesson's m and v, step, flags -> an engine."""

    def make(flat, m=None, v=None, step=0, **flags):
        args = SimpleNamespace(**house.DEFAULTS | {"weight_decay": 0.1} | flags)
        if request.param == "NumPy":
            return NumpyEngine(args, flat, CONFIG, m, v, step)
        if m is not None:
            m, v = m * (1 - BETAS[0]), v * (1 - BETAS[1])
        return torch_engine.TorchEngine(args, flat, CONFIG, m, v, step, device=torch.device("cpu"))

    if request.param == "PyTorch":
        torch = pytest.importorskip("torch", reason="needs PyTorch")
        from tools import torch_engine
    return make


def state_of(engine):
    """Return copies of the parameters, and m and v as the lesson has them: sums. Each is flat."""
    factors = [1 / (1 - beta) if engine.means else 1 for beta in BETAS]
    moments = [moment * factor for moment, factor in zip(engine.moments(), factors, strict=True)]
    return [engine.parameters().copy(), *moments]


def some_moments():
    """Return m and v of some steps: v is a square, and there is none without it."""
    m, v = np.random.default_rng(3).standard_normal((2, gpt2.num_parameters(CONFIG)))
    return (0.01 * m).astype("f4"), (1e-3 * np.square(v) + 1e-4).astype("f4")


@pytest.mark.parametrize("clip", [0.0, 0.05, 1e9])  # the norm is 0.7 to 1.6
def test_steps_of_several_batches(make_engine, clip):
    """A run that goes on at step 6, with another number of batches and learning rate each time."""
    flat, params = random_params(CONFIG)
    m, v = some_moments()
    ours = make_engine(flat.copy(), m.copy(), v.copy(), 6, grad_clip=clip)
    grads, *moments = (gpt2.named_views(a, CONFIG) for a in (np.zeros_like(flat), m, v))
    for step, count in enumerate((1, 3, 2, 1), 6):
        parts, (x, y) = batches_of(count, step)
        loss, norm = ours.step(parts, 0.1 / step, step)

        true_loss, cache = gpt2.gpt2_forward(params, CONFIG, x, y)
        gpt2.gpt2_backward(1.0, cache, grads)
        true_norm = gpt2.clip_gradients(grads, clip or math.inf)
        gpt2.adamw_update(params, grads, *moments, step + 1, 0.1 / step, weight_decay=0.1)
        assert type(loss) is float and loss == pytest.approx(float(true_loss), rel=1e-6)
        assert norm == pytest.approx(true_norm, rel=1e-6) and norm > 0.5
    # measured: 5.4e-8 for parameters, 8.7e-7 for moments; the loss and the norm above, 1e-7
    for found, true, allowed in zip(state_of(ours), (flat, m, v), (5e-7, 8e-6, 8e-6), strict=True):
        assert found.dtype == np.float32
        assert_close(found, true, allowed)


def test_steps_begin_where_the_moments_are_empty(make_engine):
    flat, _ = random_params(CONFIG)
    engine, (parts, _) = make_engine(flat.copy(), weight_decay=0.0), batches_of(1)
    before, m, v = state_of(engine)
    assert not m.any() and not v.any() and m.shape == v.shape == before.shape
    assert np.array_equal(before, flat)
    engine.step(parts, 1e-2, 0)
    after, m, _ = state_of(engine)
    # with its bias corrected, the first step is lr for each number whose gradient is above eps
    large = np.abs(m) > 1e-5
    assert large.mean() > 0.5 and np.abs(after - before)[large] == pytest.approx(1e-2, rel=2e-2)


def test_mean_of_batches_whose_losses_differ(make_engine):
    flat, params = random_params(CONFIG)
    engine, (parts, _) = make_engine(flat), batches_of(3)
    each = [float(gpt2.gpt2_forward(params, CONFIG, *part)[0]) for part in parts]
    assert len(set(each)) == 3
    assert engine.evaluate(iter(parts)) == pytest.approx(np.mean(each), rel=1e-6)
    assert engine.evaluate(parts[1:2]) == pytest.approx(each[1], rel=1e-6)
    assert np.array_equal(engine.parameters(), random_params(CONFIG)[0])


def test_mean_over_the_targets_that_count(make_engine):
    """Over all batches at once, as in PyTorch, whose cross-entropy leaves out targets of -100."""
    pytest.importorskip("torch", reason="needs PyTorch")
    flat, params = random_params(CONFIG)
    parts, (x, y) = batches_of(3)
    mask = (np.random.default_rng(5).random(y.shape) < 0.4).astype(int)
    mask[2:4], mask[4] = 0, 1  # one batch without any, one with many
    batches = [(*part, mask[i : i + B]) for part, i in zip(parts, (0, 2, 4), strict=True)]
    _, true_loss, true_grads = torch_gpt2(params, CONFIG, x, np.where(mask, y, -100))
    engine = make_engine(flat.copy(), weight_decay=0.0)
    assert engine.evaluate(iter(batches)) == pytest.approx(true_loss, rel=1e-6)
    loss, norm = engine.step(batches, 1e-3, 0)
    assert loss == pytest.approx(true_loss, rel=1e-6)
    true = np.concatenate([true_grads[name].ravel() for name in params])
    assert norm == pytest.approx(np.linalg.norm(true), rel=1e-5)
    m = state_of(engine)[1]  # after one step it is the gradient
    assert m.dtype == np.float32
    assert_close(m, true, 1e-5)
    assert engine.step([batches[1]], 1e-3, 1) == (0.0, 0.0)  # nothing counts
    assert counted([batches[1]]) == 0  # which another process adds to its own


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_is_updated_by_a_loss_that_is_not_finite(make_engine, bad):
    flat, _ = random_params(CONFIG)
    flat[-1] = bad
    engine, (parts, _) = make_engine(flat, *some_moments(), 6), batches_of(2)
    before = state_of(engine)
    loss, norm = engine.step(parts, 1e-2, 6)
    assert not math.isfinite(loss + norm)
    for old, new in zip(before, state_of(engine), strict=True):
        assert np.array_equal(old, new, equal_nan=True)


def test_a_single_process_agrees_with_itself(make_engine):
    engine = make_engine(random_params(CONFIG)[0])
    assert (engine.rank, engine.world) == (0, 1)
    assert engine.agree(True) is True and engine.agree(False) is False
