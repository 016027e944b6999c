"""tools/sampling.py: from logits to a token, by temperature, top-k and top-p."""

import math

import train_gpt2 as gpt2
from tools import sampling
from tools.console import UserError
from tools.sampling import next_token, picker

import numpy as np
import pytest

SCORES = np.array([1.0, 3.0, -2.0, 0.5, 3.0, 2.0, 0.0, -9.0], np.float32)


def chances(temperature=1.0, top_k=0, top_p=1.0):
    """The probabilities by which next_token() is to draw from SCORES, one by one."""
    p = {i: math.exp(float(score) / temperature) for i, score in enumerate(SCORES)}
    p = {i: x / sum(p.values()) for i, x in p.items()}
    likely = sorted(p, key=lambda i: -p[i])
    if top_k:
        likely = [i for i in likely if p[i] >= p[likely[top_k - 1]]]  # equals stay together
    total, kept = sum(p[i] for i in likely), []
    for i in likely:
        if sum(p[j] for j in kept) < top_p * total:
            kept.append(i)
    return np.array([p[i] if i in kept else 0 for i in p]) / sum(p[i] for i in kept)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 4},
        {"top_p": 0.9},
        {"temperature": 1.5, "top_k": 5, "top_p": 0.8},
    ],
    ids=str,
)
def test_next_token_draws_by_the_probabilities(how):
    settings, n = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | how, 20_000
    rng, p = np.random.default_rng(0), chances(**how)
    draws = [next_token(SCORES, rng, **settings) for _ in range(n)]
    found = np.bincount(draws, minlength=len(p)) / n
    assert {type(token) for token in draws} == {int}
    assert (found[p == 0] == 0).all()
    # within five standard deviations
    assert (np.abs(found - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()


def drawn(scores, temperature=1.0, top_k=0, top_p=1.0):
    """The set of tokens that 200 draws give."""
    rng, scores = np.random.default_rng(0), np.array(scores, np.float32)
    before = scores.copy()
    found = {next_token(scores, rng, temperature, top_k, top_p) for _ in range(200)}
    assert np.array_equal(scores, before)
    return found


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 0},
        {"temperature": 1e-4},
        {"temperature": 5e-324},
        {"top_k": 1},
        {"top_p": 1e-9},
    ],
    ids=str,
)
def test_next_token_takes_the_likeliest(how):
    assert drawn([0, 1, 1.01, -5], **how) == {2}


def test_next_token_among_equals():
    assert drawn([1, 3, 3, 3], temperature=0) == {1}  # the first
    assert drawn([1, 3, 3, 3], top_k=1) == {1, 2, 3}  # no reason to prefer one
    assert len(drawn([0, 0, 0, 0], top_p=0.5)) == 2  # the fewest that have half of it
    assert len(drawn([1, 1, 0, 0], top_k=2, top_p=0.5)) == 1  # half of what top-k has left
    assert drawn([0, 0, 0, 0]) == drawn([0, 0, 0, 0], top_k=9) == {0, 1, 2, 3}


def test_next_token_of_logits_far_apart():
    assert drawn([3e38, -3e38, 0]) == {0}
    assert drawn([-np.inf, 0, -np.inf], top_p=0.9) == {1}


def test_top_k_of_a_large_vocabulary():
    scores = np.linspace(0, 1e-3, 5000, dtype=np.float32)  # all about as likely
    rng = np.random.default_rng(0)
    found = {next_token(scores, rng, top_k=3000) for _ in range(20_000)}
    assert min(found) >= 2000 and len(found) > 2900  # each is missed with a chance of exp(-6.7)


@pytest.mark.parametrize("bad", [[np.nan, 0], [np.inf, 0], [-np.inf, -np.inf]], ids=str)
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_no_numbers(bad, temperature):
    with pytest.raises(UserError, match="not finite"):
        next_token(np.array(bad, np.float32), np.random.default_rng(0), temperature)


def test_each_text_draws_from_its_own_generator():
    logits = np.array([SCORES, SCORES, SCORES[::-1]])
    how = {"temperature": 1.5, "top_k": 5, "top_p": 0.9}
    pick = picker([np.random.default_rng(seed) for seed in (1, 2, 1)], **how)
    ours = [pick(logits) for _ in range(50)]
    for text, seed in enumerate((1, 2, 1)):
        rng = np.random.default_rng(seed)
        alone = [next_token(logits[text], rng, **how) for _ in range(50)]
        assert [drawn[text] for drawn in ours] == alone


@pytest.mark.parametrize("m", [1, 2, 3, 8, sampling.FEW, sampling.FEW + 1])
@pytest.mark.parametrize("k, n", [(1, 1), (5, 7), (64, 3 * 64), (300, 50257), (3072, 768)])
def test_products_of_a_few_rows(m, k, n):
    rng = np.random.default_rng(m * k)
    a, w = rng.standard_normal((m, k), np.float32), rng.standard_normal((n, k), np.float32)
    found, right = sampling.matmul(a, w.T), a.astype(np.float64) @ w.T.astype(np.float64)
    assert found.dtype == np.float32 and found.shape == right.shape
    assert np.abs(found - right).max() <= 2e-6 * np.abs(a).max() * np.abs(w).max() * k
    out = np.full((m, n), np.nan, np.float32)
    assert sampling.matmul(a, w.T, out=out) is out and np.allclose(out, right, atol=1e-3)


def test_draws_are_those_of_choice():
    logits = np.random.default_rng(0).standard_normal(997)
    ours, theirs = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(500):
        token = theirs.choice(len(logits), p=gpt2.softmax(logits))
        assert sampling.next_token(logits, ours) == token
