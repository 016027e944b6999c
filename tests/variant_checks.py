"""What the tests of variants/ have in common: gradient checks, and ten steps beside PyTorch's."""

import test_gpt2
import train_gpt2 as gpt2

import numpy as np
import pytest
from helpers import assert_close

LR, DECAY, STEPS = 1e-2, 0.1, 10


def check_layer(name, forward, backward, inputs, adds=()):
    """Assert what test_gpt2.check_layer() checks: gradients in float64, purity, dtypes."""
    report = test_gpt2.Report()
    report.section("variants")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt2, "THREADS", 1)  # thousands of forward passes, faster so
        test_gpt2.check_layer(report, name, forward, backward, inputs, adds)
    assert not report.failed


def batches(config, B, T):
    """Yield x and y of STEPS steps, random tokens."""
    rng = np.random.default_rng(5)
    for _ in range(STEPS):
        yield rng.integers(config.V, size=(2, B, T))


def torch_steps(loss_of, arrays, decaying, xys):
    """
    Return the losses and the parameters of ten steps of AdamW in PyTorch.

    loss_of(tensors by name, x, y) -> loss; arrays: NumPy's, by name; decaying: names with decay.
    """
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    p = {name: torch.from_numpy(a.copy()).requires_grad_() for name, a in arrays.items()}
    groups = [{"params": [p[name]], "weight_decay": DECAY * (name in decaying)} for name in p]
    optimizer, losses = torch.optim.AdamW(groups, LR), []
    for x, y in xys:
        optimizer.zero_grad()
        loss = loss_of(p, x, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: tensor.detach().numpy() for name, tensor in p.items()}


def assert_same_steps(ours, theirs):
    """Assert that losses and parameters are theirs to 1e-5; both are pairs of these."""
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert theirs[0][0] - theirs[0][-1] != 0 and len(theirs[0]) == STEPS
    for name, array in theirs[1].items():
        assert array.dtype == ours[1][name].dtype == np.float32
        # the bias of the keys has a gradient of 0, of whose rounding AdamW makes steps of lr
        if name == "qkvb":
            kept = np.arange(array.shape[1]) // (array.shape[1] // 3) != 1
            assert_close(ours[1][name][:, kept], array[:, kept], 1e-5, name=name)
        else:
            assert_close(ours[1][name], array, 1e-5, name=name)


def engine_steps(engine, xys):
    """Return the losses and the parameters of an engine of tools/train.py after its steps."""
    losses = [engine.step([xy], LR, step)[0] for step, xy in enumerate(xys)]
    return losses, gpt2.named_views(engine.parameters(), engine.config)
