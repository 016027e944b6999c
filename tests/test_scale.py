"""
A model of GPT-2's own size, d12, with V = 50,257, beside PyTorch's: what small sizes can't show.

Token ids above 2**15, blocks above the eighth, more than one tile of attention, arrays that are cut
into chunks for the threads: all at once, with random parameters that are neither 0 nor 1.
"""

import math

import train_gpt2 as gpt2
from test_gpt2 import logits_of

import numpy as np
import pytest
from helpers import assert_close, random_params, torch_gpt2

B, T = 1, 256
LR, BETA1, BETA2, EPS, DECAY = 1e-3, 0.9, 0.999, 1e-8, 0.1


def norm_of(grads):
    return math.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in grads.values()))


def test_a_step_of_a_d12():
    pytest.importorskip("torch", reason="needs PyTorch")
    config = gpt2.named_config("d12", gpt2.GPT2_VOCAB_SIZE, T)
    flat, params = random_params(config)
    x, y = np.random.default_rng(1).integers(config.V, size=(2, B, T))
    x[0, 10:14], y[0, 10:14] = config.V - 1, [config.V - 1, 0, 2**15, 2**15]
    assert T > gpt2.TILE and x.max() == config.V - 1 and (x > 2**15).mean() > 0.2
    assert sum(view.size > gpt2.CHUNK for view in params.values()) >= 5

    grad, m, v = (np.full_like(flat, start) for start in (np.nan, 0, 0))
    grads = gpt2.named_views(grad, config)
    loss, cache = gpt2.gpt2_forward(params, config, x, y)
    gpt2.gpt2_backward(1.0, cache, grads)
    logits = logits_of(cache)
    del cache
    their_logits, their_loss, theirs = torch_gpt2(params, config, x, y)
    # measured: 1.6e-6 at most
    assert_close(logits, their_logits, 2e-5, name="logits")
    assert abs(loss - their_loss) <= 2e-6 * their_loss
    for name, gradient in theirs.items():
        assert np.abs(gradient).max() > 0, name
        assert_close(grads[name], gradient, 2e-5, name=name)

    exact = norm_of(theirs)
    del theirs
    norm = gpt2.clip_gradients(grads, exact / 2)
    assert norm == pytest.approx(exact, rel=1e-5)
    assert norm_of(grads) == pytest.approx(exact / 2, rel=1e-5)

    before = flat.copy()
    moments = gpt2.named_views(m, config), gpt2.named_views(v, config)
    gpt2.adamw_update(params, grads, *moments, 1, LR, BETA1, BETA2, EPS, DECAY)
    old = gpt2.named_views(before, config)
    for name in params:  # the first step, from the definition; measured: 1.2e-7 at most
        g, decay = grads[name], LR * DECAY * (name in "wte wpe qkvw attprojw fcw fcprojw".split())
        expected = old[name] * (1 - decay) - LR * g / (np.abs(g) + EPS)
        assert_close(params[name], expected, 1e-6, name=name)
        assert_close(moments[0][name], g, 1e-6, name=f"m of {name}")
        assert_close(moments[1][name], g * g, 1e-6, name=f"v of {name}")
