"""tools/sampling.py: a token by temperature, top-k and top-p; keys and values that are kept."""

import itertools
import math

import train_gpt2 as gpt2
from test_gpt2 import logits_of
from tools import sampling
from tools.console import UserError
from tools.sampling import generate, next_token, picker, product

import numpy as np
import pytest
from helpers import assert_close, cut, random_params

SCORES = np.array([1.0, 3.0, -2.0, 0.5, 3.0, 2.0, 0.0, -9.0], np.float32)


def chances(temperature=1.0, top_k=0, top_p=1.0):
    """The probabilities by which next_token() must draw from SCORES, one by one."""
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


WAYS = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0, "top_k": 4},
    {"top_p": 0.9},
    {"temperature": 1.5, "top_k": 5, "top_p": 0.8},
]


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_next_token_draws_by_the_probabilities(how):
    rng, p, n = np.random.default_rng(0), chances(**how), 20_000
    draws = [next_token(SCORES, rng, **how) for _ in range(n)]
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


def test_next_token_takes_the_likeliest():
    for temperature in 0, 5e-324, 1e-4:
        assert drawn([0, 1, 1.01, -5], temperature) == {2}
    assert drawn([0, 1, 1.01, -5], top_k=1) == drawn([0, 1, 1.01, -5], top_p=1e-9) == {2}


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
    rng = np.random.default_rng(0)
    scores = rng.permutation(np.linspace(0, 1e-3, 5000, dtype=np.float32))  # all about as likely
    found = {next_token(scores, rng, top_k=3000) for _ in range(20_000)}
    assert found <= {*np.argsort(scores)[2000:].tolist()}
    assert len(found) > 2900  # each is missed with a chance of exp(-6.7)


@pytest.mark.parametrize("bad", [[np.nan, 0], [np.inf, 0], [-np.inf, -np.inf]], ids=str)
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_not_finite(bad, temperature):
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
    found, right = product(a, w), a.astype(np.float64) @ w.T.astype(np.float64)
    assert found.dtype == np.float32 and found.shape == right.shape
    assert np.abs(found - right).max() <= 2e-6 * np.abs(a).max() * np.abs(w).max() * k
    assert found.flags.c_contiguous


def test_draws_are_those_of_choice():
    logits = np.random.default_rng(0).standard_normal(997)
    ours, theirs = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(500):
        token = theirs.choice(len(logits), p=gpt2.softmax(logits))
        assert sampling.next_token(logits, ours) == token


# ----------------------------------------------------------------------------
# The model, for new tokens alone


def logits_after(params, config, tokens):
    """Return the logits (B, V) that follow tokens (B, T), by the lesson's forward pass of all."""
    _, cache = gpt2.gpt2_forward(params, config, tokens, tokens)
    return logits_of(cache).reshape(*tokens.shape, -1)[:, -1]


WHOLE, CUT_UP = (2, 2**18, 128), (3, 8, 2)
LENGTHS = [(1, WHOLE), (4, WHOLE), (9, CUT_UP), (12, WHOLE)]  # of a prompt; maxT is 9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n, setting", LENGTHS)
@pytest.mark.parametrize("B, L", [(1, 2), (3, 2), (1, 10), (17, 1)])
def test_logits_are_those_of_the_whole_forward_pass(B, L, n, setting, dtype):
    """At every position, and after the older half was forgotten."""
    config = gpt2.GPT2Config(maxT=9, V=13, L=L, NH=2, C=8)
    _, params = random_params(config, dtype=dtype)
    text, seen = np.random.default_rng(3).integers(config.V, size=(B, 40)), []

    def pick(logits):
        seen.append(logits)
        return text[:, n + len(seen) - 1]

    with cut(*setting):
        tokens = generate(params, config, text[:, :n], pick)
        found = np.stack(list(itertools.islice(tokens, 25)), 1)
    assert np.array_equal(found, text[:, n : n + 25])
    known = text[:, :n]
    for i, logits in enumerate(seen):
        assert logits.dtype == dtype  # keys and values of float64 would show here
        if known.shape[1] > config.maxT:
            known = known[:, -4:]
        allowed = 4e-6 if dtype == np.float32 else 1e-14  # measured: 4.1e-7
        assert_close(logits, logits_after(params, config, known), allowed, name=f"token {i}")
        known = np.append(known, text[:, n + i, None], 1)


@pytest.mark.parametrize("maxT", [1, 2, 7])
def test_what_is_forgotten_leaves_at_least_one_token(maxT):
    config = gpt2.GPT2Config(maxT, V=13, L=1, NH=1, C=4)
    _, params = random_params(config, dtype=np.float64)
    seen, known = [], [*range(9)]
    tokens = generate(params, config, [known], lambda logits: seen.append(logits) or [5])
    list(itertools.islice(tokens, 3 * maxT))
    for logits in seen:
        known = known if len(known) <= maxT else known[-max(1, maxT // 2) :]
        assert_close(logits, logits_after(params, config, np.array([known])), 1e-14)
        known = [*known, 5]


def test_only_new_tokens_are_computed(monkeypatch):
    """After the prompt a row for each text, but once where the older half is forgotten."""
    config = gpt2.GPT2Config(maxT=6, V=13, L=1, NH=1, C=4)
    _, params = random_params(config)
    rows, embed = [], sampling.embedding_forward
    monkeypatch.setattr(
        sampling, "embedding_forward", lambda x, *args: rows.append(x.size) or embed(x, *args)
    )
    prompt = np.ones((2, 4), int)
    list(itertools.islice(generate(params, config, prompt, lambda logits: [1, 2]), 9))
    assert rows == [8, 2, 2, 6, 2, 2, 2, 6, 2]
    assert prompt.tolist() == [[1] * 4] * 2
