"""
The mathematics of train_gpt2.py: layers of any size, the model beside PyTorch's, AdamW.

It takes half a minute.
"""

import inspect
import itertools
import math

import train_gpt2 as gpt2
from test_gpt2 import finite_difference, logits_of

import numpy as np
import pytest
from helpers import arrays_in, assert_close, cut, floats_in, random_params, torch_gpt2
from hypothesis import example, given, settings
from hypothesis import strategies as st

modest = settings(derandomize=True, deadline=None, max_examples=60)


cuts = st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 4))


# ----------------------------------------------------------------------------
# Layers. Each maker: random generator, sizes -> forward(*inputs) -> out, cache; backward(dout,
# cache) -> gradients, one for each input; the inputs, float64. A dtype follows from the inputs.


def filling(backward, *shapes):
    """Return a backward pass that gives what the lesson's one returns, and what it fills."""

    def gradients(dout, cache):
        dtype = floats_in((dout, cache))[-1].dtype
        grads = [np.full(shape, np.nan, dtype) for shape in shapes]  # nan: what is left unfilled
        dx = backward(dout, cache, *grads)
        return dx, *grads

    return gradients


def embedding(rng, B, T, NH, HS, V, repeated):
    C, maxT = NH * HS, T + int(rng.integers(3))
    tokens = np.full((B, T), V - 1) if repeated else rng.integers(V, size=(B, T))

    def backward(dout, cache):  # it adds to the one table, and fills the other
        dwte, dwpe = np.ones((V, C), dout.dtype), np.full((maxT, C), np.nan, dout.dtype)
        gpt2.embedding_backward(dout, cache, dwte, dwpe)
        return dwte - 1, dwpe

    inputs = rng.standard_normal((V, C)), rng.standard_normal((maxT, C))
    return lambda wte, wpe: gpt2.embedding_forward(tokens, wte, wpe), backward, inputs


def rows(rng, N, C, repeated):
    x = rng.standard_normal((N, C))
    return np.tile(x[:1], (N, 1)) if repeated else x


def layernorm(rng, B, T, NH, HS, V, repeated):
    C = NH * HS
    # channels apart, so that no row has a variance near 0, where the layer bends too sharply for
    # finite differences
    x = 0.2 * rows(rng, B * T, C, repeated) + 2 * rng.permutation(C)
    inputs = x, 1 + rng.standard_normal(C), rng.standard_normal(C)
    return gpt2.layernorm_forward, filling(gpt2.layernorm_backward, C, C), inputs


def linear(rng, B, T, NH, HS, V, repeated):
    C = NH * HS
    inputs = rows(rng, B * T, C, repeated), rng.standard_normal((V, C)), rng.standard_normal(V)
    return gpt2.linear_forward, filling(gpt2.linear_backward, (V, C), V), inputs


def attention(rng, B, T, NH, HS, V, repeated):
    qkv = rows(rng, B * T, 3 * NH * HS, repeated)
    backward = filling(gpt2.attention_backward)
    return lambda qkv: gpt2.attention_forward(qkv, B, NH), backward, (qkv,)


def gelu(rng, B, T, NH, HS, V, repeated):
    inputs = (2 * rows(rng, B * T, NH * HS, repeated),)
    return gpt2.gelu_forward, filling(gpt2.gelu_backward), inputs


def head(rng, B, T, NH, HS, V, repeated):
    C, N = NH * HS, B * T
    targets = np.full(N, V - 1) if repeated else rng.integers(V, size=N)
    inputs = rows(rng, N, C, repeated), rng.standard_normal((V, C))

    def backward(dloss, cache, dwte):  # of a copy of probs, because they are overwritten
        return gpt2.head_backward(dloss, (cache[0].copy(), *cache[1:]), dwte)

    return lambda x, wte: gpt2.head_forward(x, wte, targets), filling(backward, (V, C)), inputs


LAYERS = [embedding, layernorm, linear, attention, gelu, head]
sizes = st.tuples(
    st.integers(1, 3),  # B
    st.integers(1, 7),  # T
    st.integers(1, 3),  # NH
    st.integers(1, 3),  # HS
    st.integers(1, 9),  # V
    st.booleans(),  # repeated: the same token, or row, throughout
)


def each_layer(test):
    """Run a test with each layer, of any sizes, cut into any pieces."""
    test = modest(given(sizes, cuts, st.integers(0, 999))(test))
    return pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)(test)


def random_dout(rng, out):
    """A random gradient of out; where that is the loss, a Python number."""
    return rng.standard_normal(out.shape) if np.ndim(out) else float(rng.standard_normal())


@each_layer
@example((1, 1, 1, 1, 1, False), (2, 1, 1), 0)
@example((2, 7, 2, 3, 5, False), (2, 4, 2), 1)  # T > TILE, and more rows than fit a block
@example((2, 7, 1, 3, 5, True), (2, 4, 3), 2)
def test_gradient(layer, sizes, pieces, seed):
    """Of a forward pass in pieces, which gives what it gives as a whole."""
    rng = np.random.default_rng(seed)
    forward, backward, inputs = layer(rng, *sizes)
    with cut(*pieces):
        out, cache = forward(*inputs)
        dout = random_dout(rng, out)
        ours = backward(dout, cache)
    whole, _ = forward(*inputs)
    assert_close(np.asarray(out), np.asarray(whole), 1e-13, floor=1e-13)  # BLAS may add otherwise
    for x, gradient in zip(inputs, ours, strict=True):
        theirs = finite_difference(lambda: np.sum(forward(*inputs)[0] * dout), x)
        # measured: 1e-11; the floor, for gradients near 0 as of a layernorm of 2 channels: 1.4e-12
        assert_close(gradient, theirs, 1e-10, floor=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_layer
def test_purity_and_dtype(layer, dtype, sizes, pieces, seed):
    rng = np.random.default_rng(seed)
    forward, backward, inputs = layer(rng, *sizes)
    inputs = tuple(x.astype(dtype) for x in inputs)
    given_in = [x.copy() for x in inputs]
    with cut(*pieces):
        out, cache = forward(*inputs)
        again, _ = forward(*inputs)
        dout = random_dout(rng, out)
        dout = dout.astype(dtype) if isinstance(dout, np.ndarray) else dout
        before = [array.copy() for array in arrays_in((dout, cache, out))]
        first = [gradient.copy() for gradient in backward(dout, cache)]
        second = backward(dout, cache)
    after = arrays_in((dout, cache, out))
    assert len(before) >= 2
    pairs = zip((*inputs, out, *after, *first), (*given_in, again, *before, *second), strict=True)
    assert all(np.array_equal(x, y) for x, y in pairs)
    assert {array.dtype for array in floats_in((out, cache, first, second))} == {np.dtype(dtype)}


def test_scores_are_float32(monkeypatch):
    """A NumPy number of float64 on the way would make arrays of float64, twice as slow."""
    dtypes, softmax = [], gpt2.softmax
    monkeypatch.setattr(gpt2, "softmax", lambda x: dtypes.append(x.dtype) or softmax(x))
    gpt2.attention_forward(np.ones((4, 6), np.float32), 1, 1)
    assert dtypes == [np.float32]


# ----------------------------------------------------------------------------
# Extreme values, where a formula that is nearly right goes wrong


@pytest.mark.parametrize("dtype, far, allowed", [(np.float64, 1e6, 1e-8), (np.float32, 1e3, 1e-3)])
def test_layernorm_far_from_0(dtype, far, allowed):
    """The mean of the squares less the square of the mean would be off by far**2 roundings."""
    x = (far + np.random.default_rng(0).standard_normal((3, 50))).astype(dtype)
    ones, zeros = np.ones(50, dtype), np.zeros(50, dtype)
    out, (norm, rstd, _) = gpt2.layernorm_forward(x, ones, zeros)
    for row, found in zip(x.tolist(), out, strict=True):
        mean = math.fsum(row) / len(row)
        variance = math.fsum((value - mean) ** 2 for value in row) / len(row)
        expected = [(value - mean) / math.sqrt(variance + 1e-5) for value in row]
        # measured: 5.3e-11, and 1.5e-5
        assert_close(found.astype(np.float64), np.array(expected), allowed)


def test_layernorm_of_equal_values():
    out, cache = gpt2.layernorm_forward(np.full((2, 5), 7.0), np.full(5, 3.0), np.arange(5.0))
    assert out.tolist() == [[0, 1, 2, 3, 4]] * 2  # the shift alone
    dw, db = np.full((2, 5), np.nan)
    dx = gpt2.layernorm_backward(np.eye(2, 5), cache, dw, db)
    # its slope there is 1 / sqrt(eps), less the mean of dnorm = 3 at one of 5 channels
    assert_close(dx[0], np.array([3 - 0.6, *[-0.6] * 4]) / math.sqrt(1e-5), 1e-14)
    assert not dw.any() and db.tolist() == [1, 1, 0, 0, 0]


def test_gelu_is_the_published_formula():
    x = np.linspace(-12, 12, 4801)[:, None]
    out, _ = gpt2.gelu_forward(x)
    inner = [math.sqrt(2 / math.pi) * (z + 0.044715 * z**3) for z in x[:, 0].tolist()]
    expected = [0.5 * z * (1 + math.tanh(t)) for z, t in zip(x[:, 0].tolist(), inner, strict=True)]
    # measured: 2.4e-15; with 0.044716 it would be 9e-7
    assert_close(out[:, 0], np.array(expected), 0, floor=3e-14)


@pytest.mark.parametrize("size", [1e2, 1e6])
def test_a_key_of_the_future_has_no_weight(size):
    """Not even if a mask of -50 or -1e9, added to its score or in place of it, let it through."""
    T = 5
    qkv = np.zeros((T, 6), np.float32)
    qkv[:, 0], qkv[:, 2] = size, size * np.arange(-T, 0)  # below 0; each later key matches better
    qkv[:, 4] = np.arange(T)  # the values
    out, cache = gpt2.attention_forward(qkv, 1, 1)
    assert out[:, 0].tolist() == [0, 1, 2, 3, 4]  # each takes the last that it may see, its own
    q, k, v, att = cache
    assert not np.triu(att[0, 0], 1).any()
    dqkv = gpt2.attention_backward(np.ones_like(out), cache)
    assert dqkv[:, 4].tolist() == [1] * T and np.isfinite(dqkv).all()
    newest, _ = gpt2.attend(q[:, :, -2:], k, v)  # as in sampling
    assert newest[0, 0, :, 0].tolist() == [3, 4]


@pytest.mark.parametrize("dtype, allowed", [(np.float32, 1e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("shift", [0, 80, -80, 1e4, -1e4])
def test_loss_of_large_logits(shift, dtype, allowed):
    """exp(89) is above all float32 numbers, and exp(-104) is 0 among them."""
    scores, targets = [[0.0, 1, 2, 3], [3, 0, -2, 50], [1, 1, 1, 1]], [3, 0, 2]
    wte = np.eye(4, 5, dtype=dtype)  # its last column is of 0: x[:, 4] changes no score
    wte[:, 4] = 1  # ... now it shifts all of them
    x = np.array([[*row, shift] for row in scores], dtype)
    loss, cache = gpt2.head_forward(x, wte, np.array(targets))
    losses = [
        math.log(math.fsum(math.exp(z - row[t]) for z in row))
        for row, t in zip(scores, targets, strict=True)
    ]
    assert loss == pytest.approx(math.fsum(losses) / 3, rel=max(allowed, 3e-4 * (shift**2 > 1e7)))
    dwte = np.full_like(wte, np.nan)
    dx = gpt2.head_backward(1.0, cache, dwte)
    p = np.exp(np.array(scores) - np.max(scores, 1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[range(3), targets] -= 1
    assert_close(dx[:, :4], (p / 3).astype(dtype), 3e-4 if abs(shift) > 1e3 else 10 * allowed)


def test_loss_of_a_target_that_has_no_chance():
    x, wte = np.array([[200.0]], np.float32), np.array([[1.0], [-1.0]], np.float32)
    loss, cache = gpt2.head_forward(x, wte, np.array([1]))
    assert loss == 400  # -log(exp(-400)), though exp(-400) is 0 in float32
    dwte = np.full_like(wte, np.nan)
    assert gpt2.head_backward(1.0, cache, dwte).tolist() == [[2]]
    assert cache[0].tolist() == [[1, -1]]  # its gradient, in place of the probabilities
    assert dwte.tolist() == [[200], [-200]]


# ----------------------------------------------------------------------------
# matmul, attention of the newest tokens, chunks


sides = st.tuples(*[st.integers(1, 6)] * 3)


@modest
@given(sides, cuts, st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_matmul(sides, pieces, into, dtype):
    rng, (M, K, N) = np.random.default_rng(0), sides
    a, b = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
    out = np.full((M, N), np.nan, dtype) if into else None
    with cut(*pieces):
        result = gpt2.matmul(a, b, out=out)
    assert result.dtype == dtype
    assert not into or (np.shares_memory(result, out) and np.array_equal(result, out))
    expected = [
        [math.fsum(a[i, k] * b[k, j] for k in range(K)) for j in range(N)] for i in range(M)
    ]
    assert_close(result, np.array(expected), 0, floor=1e-5 if dtype == np.float32 else 1e-13)


@modest
@given(st.integers(1, 4), st.integers(0, 5))
def test_attend_of_the_newest_tokens(t, more):
    """As in sampling: what attention of all t + more tokens gives for the last t."""
    q, k, v, dout = np.random.default_rng(0).standard_normal((4, 2, 3, t + more, 3))
    newest = np.s_[:, :, more:]
    dout[:, :, :more] = 0
    out, att = gpt2.attend(q, k, v)
    dq, dk, dv = gpt2.attend_backward(dout, q, k, v, att)
    ours = gpt2.attend(q[newest], k, v)
    ours += gpt2.attend_backward(dout[newest], q[newest], k, v, ours[1])
    for one, whole in zip(ours, (out[newest], att[newest], dq[newest], dk, dv), strict=True):
        assert_close(one, whole, 1e-13, floor=1e-14)


@gpt2.by_rows
def pair_of(x, y, *, scale=1.0):
    """Return two arrays of different shapes and dtypes."""
    return x * scale + y[:, None], (x.sum(-1) > y).astype(np.int32)


@gpt2.by_rows
def add_to(x, y):
    """Change x in place, and return one array."""
    x += y[:, None]
    return x[:, :1] * 2


@gpt2.by_rows
def only_change(x, y):
    """Change both in place, and return nothing."""
    x -= y[:, None]
    y *= 2


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n, chunk", [(1, 1), (2, 1), (7, 8), (8, 8), (12, 6), (13, 6), (9, 999)])
def test_by_rows_in_chunks_is_the_whole(n, chunk, threads):
    """Whatever n leaves over: several outputs or one or none, in place, options."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, 3)).astype(np.float32), rng.standard_normal(n)
    scale = {"scale": np.arange(3.0)}  # whole for each chunk, whatever its length
    for f, options in (pair_of, {}), (pair_of, scale), (add_to, {}), (only_change, {}):
        given, expected = (x.copy(), y.copy()), (x.copy(), y.copy())
        with cut(threads, chunk, 1):
            found = f(*given, **options)
        right = f.__wrapped__(*expected, **options)
        assert type(found) is type(right) or found == () and right is None
        pairs = list(zip(arrays_in((found, given)), arrays_in((right, expected)), strict=True))
        assert len(pairs) == 2 + {pair_of: 2, add_to: 1, only_change: 0}[f]
        assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bad", [0, 3])
def test_by_rows_raises_what_was_raised_in_a_chunk(bad, threads):
    @gpt2.by_rows
    def fail(x):
        """Return nothing."""
        if bad in x:
            raise FloatingPointError(f"{len(x)} row")

    with cut(threads, 1, 1), pytest.raises(FloatingPointError, match="^1 row$"):
        fail(np.arange(4.0)[:, None])
    assert fail.__name__ == "fail" and fail.__doc__ == "Return nothing."  # for help()


# ----------------------------------------------------------------------------
# The model


MODELS = {
    "B=1 T=1": ((9, 12, 2, 2, 8), 1, 1),
    "B=2 T=7": ((9, 12, 2, 2, 8), 2, 7),
    "T=maxT": ((9, 12, 2, 2, 8), 2, 9),
    "T=maxT, above TILE": ((150, 12, 2, 2, 8), 2, 150),
    "L=1": ((9, 12, 1, 2, 8), 2, 7),
    "NH=1": ((9, 12, 2, 1, 8), 2, 7),
    "NH=C": ((9, 12, 2, 8, 8), 2, 7),
    "odd V": ((9, 131, 3, 3, 21), 3, 5),
    "one token": ((9, 12, 2, 2, 8), 3, 9),
    "ids above 2**15": ((9, 50257, 1, 1, 4), 2, 7),
    "12 blocks": ((9, 12, 12, 2, 8), 2, 7),
    "arrays above a chunk": ((150, 12, 1, 2, 496), 2, 150),
}
LARGE = [*MODELS][-3:]  # in one way each


@pytest.mark.parametrize("case", MODELS)
def test_parity_with_pytorch(case):
    """Logits, loss and gradients, in the lesson's own chunks and tiles, and in small ones."""
    pytest.importorskip("torch", reason="needs PyTorch")
    sizes, B, T = MODELS[case]
    config = gpt2.GPT2Config(*sizes)
    flat, params = random_params(config)
    x, y = np.random.default_rng(1).integers(config.V, size=(2, B, T))
    if case == "one token":
        x[:], y[:] = 7, 7
    if case == "ids above 2**15":
        x[:, :5], y[:, :3] = [50256, 40000, 40000, 32768, 32767], [50256, 32768, 40001]
    their_logits, their_loss, theirs = torch_gpt2(params, config, x, y)
    cuttings = (2, 2**18, 128), (3, 32, 2)
    for pieces in cuttings[:1] if case in LARGE else cuttings:
        grads = gpt2.named_views(np.full_like(flat, np.nan), config)  # each is to be filled
        with cut(*pieces):
            loss, cache = gpt2.gpt2_forward(params, config, x, y)
            gpt2.gpt2_backward(1.0, cache, grads)
        # measured: 1.5e-6 at most
        assert_close(logits_of(cache), their_logits, 1e-5, name="logits")
        assert abs(loss - their_loss) <= 1e-5 * their_loss
        assert list(grads) == list(theirs)
        for name, gradient in theirs.items():
            assert np.abs(gradient).max() > 0, name
            assert_close(grads[name], gradient, 1e-5, name=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_model_keeps_dtype_and_inputs(dtype):
    config = gpt2.GPT2Config(9, 12, 2, 2, 8)
    flat, params = random_params(config, dtype=dtype)
    x, y = np.random.default_rng(1).integers(config.V, size=(2, 3, 5))
    before = flat.copy(), x.copy(), y.copy()
    once, twice = np.zeros_like(flat), np.full_like(flat, np.nan)
    for dloss, grads in (1.0, once), (-2.0, twice):
        loss, cache = gpt2.gpt2_forward(params, config, x, y)
        kept = [array.copy() for array in arrays_in(cache)]
        gpt2.gpt2_backward(dloss, cache, gpt2.named_views(grads, config))
        pairs = zip(kept, arrays_in(cache), strict=True)
        (changed,) = [b for a, b in pairs if not np.array_equal(a, b)]
        assert changed is cache[-1][0]  # probs alone
    assert np.array_equal(twice, -2 * once)  # nothing is left of what the gradients were
    assert all(map(np.array_equal, before, (flat, x, y)))
    assert {array.dtype for array in floats_in((loss, cache))} == {np.dtype(dtype)}


def test_tensors_are_views_in_order():
    config = gpt2.GPT2Config(5, 7, 3, 2, 4)
    flat = np.arange(gpt2.num_parameters(config), dtype=np.float32)
    views = gpt2.named_views(flat, config)
    names = "wte wpe ln1w ln1b qkvw qkvb attprojw attprojb ln2w ln2b fcw fcb fcprojw fcprojb"
    assert list(views) == f"{names} lnfw lnfb".split()
    assert np.array_equal(np.concatenate([view.ravel() for view in views.values()]), flat)
    assert all(np.shares_memory(view, flat) for view in views.values())
    assert views["qkvw"].shape == (3, 12, 4) and views["fcprojw"].shape == (3, 4, 16)


# ----------------------------------------------------------------------------
# Sampling


@pytest.mark.parametrize("maxT", [1, 5])
def test_generate(maxT):
    """Each draw is choice's, by the last row of a forward pass of the maxT newest tokens."""
    config = gpt2.GPT2Config(maxT, V=11, L=2, NH=1, C=4)
    _, params = random_params(config, dtype=np.float64)
    for prompt in [3], [*range(9)]:
        found, given = [], [*prompt]
        for seed in 1, 1, 2:
            tokens = gpt2.generate(params, config, given, np.random.default_rng(seed))
            found.append(list(itertools.islice(tokens, 20)))
        assert found[0] == found[1] != found[2] and given == prompt
        rng, known = np.random.default_rng(1), [*prompt]
        for token in found[0]:
            x = np.array([known[-maxT:]])
            logits = logits_of(gpt2.gpt2_forward(params, config, x, x)[1])[-1]
            assert type(token) is int and token == rng.choice(11, p=gpt2.softmax(logits))
            known.append(token)


@pytest.mark.parametrize(
    "x, y",
    [([-1, 0], [0, 0]), ([0, 0], [0, -100]), ([9, 0], [0, 0]), ([0, 0], [9, 0]), ([0] * 5,) * 2],
)
def test_tokens_that_a_model_does_not_know_are_refused(x, y):
    """-1 would be taken for the last token, end-of-text; maxT is 4."""
    config = gpt2.GPT2Config(maxT=4, V=9, L=1, NH=1, C=4)
    params = random_params(config)[1]
    gpt2.gpt2_forward(params, config, np.array([[0, 8, 0, 8]]), np.array([[8, 0, 8, 0]]))
    with pytest.raises(ValueError, match="tokens from 0 to V - 1, and maxT of them at most"):
        gpt2.gpt2_forward(params, config, np.array([x]), np.array([y]))


def test_a_config_of_other_sizes_is_refused():
    config = gpt2.GPT2Config(maxT=4, V=9, L=2, NH=2, C=8)
    flat = np.zeros(gpt2.num_parameters(config), np.float32)
    for change in {"L": 1}, {"L": 3}, {"V": 8}, {"maxT": 5}, {"C": 4}:
        with pytest.raises(ValueError, match="reshape"):
            gpt2.named_views(flat, config._replace(**change))


# ----------------------------------------------------------------------------
# Clipping


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("setting", [(1, 2**18, 128), (3, 7, 2)])
def test_clipping(setting, size):
    config = gpt2.GPT2Config(9, 12, 2, 2, 8)
    flat, _ = random_params(config)
    flat *= np.float32(size)
    given, exact = flat.copy(), np.linalg.norm(flat.astype(np.float64))
    grads = gpt2.named_views(flat, config)
    with cut(*setting):
        norms = [gpt2.clip_gradients(grads, limit) for limit in (np.inf, 2 * exact)]
        assert np.array_equal(flat, given)
        norms.append(gpt2.clip_gradients(grads, exact / 3))
    after = np.linalg.norm(flat.astype(np.float64))
    # measured: 8e-9; and 7e-10
    assert norms == pytest.approx([exact] * 3, rel=1e-7, abs=0)
    assert after == pytest.approx(exact / 3, rel=1e-7, abs=0)
    assert_close(flat, given / 3, 1e-6)  # the direction is the same


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_clipping_hides_no_infinity(value):
    grads = {"a": np.ones(3, np.float32), "b": np.array([1, value], np.float32)}
    assert not math.isfinite(gpt2.clip_gradients(grads, 1.0))
    assert grads["a"].tolist() == [1, 1, 1]


# ----------------------------------------------------------------------------
# AdamW, learning rate, initial weights


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_against_the_formula(weight_decay):
    config = gpt2.GPT2Config(5, 7, 2, 1, 4)
    flat, params = random_params(config, dtype=np.float64)
    rng = np.random.default_rng(3)
    lr, beta1, beta2, eps = 1e-2, 0.8, 0.95, 1e-6
    # of all sizes: some exactly 0, some so small that their square is 0
    sizes = rng.choice([0, 1e-200, 1e-30, 1e-12, 1e-6, 1e-3, 1, 1e3, 1e6, 1e12], flat.size)
    history = [sizes * rng.standard_normal(flat.size) for _ in range(10)]
    decayed = np.zeros_like(flat)
    for name, view in gpt2.named_views(decayed, config).items():
        view[:] = name in "wte wpe qkvw attprojw fcw fcprojw".split()
    expected = flat.copy()
    moments = np.zeros_like(flat), np.zeros_like(flat)
    m, v = (gpt2.named_views(moment, config) for moment in moments)
    for step, g in enumerate(history, 1):
        grads = g.copy()
        settings = {"beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        gpt2.adamw_update(params, gpt2.named_views(grads, config), m, v, step, lr, **settings)
        assert np.array_equal(grads, g)
        # the moments as what they are, weighted sums over all steps so far
        ages = range(step - 1, -1, -1)
        total = sum(beta1**age * old for age, old in zip(ages, history, strict=False))
        square = sum(beta2**age * np.square(old) for age, old in zip(ages, history, strict=False))
        m_hat = total / sum(beta1**age for age in ages)
        v_hat = square / sum(beta2**age for age in ages)
        expected *= 1 - lr * weight_decay * decayed
        expected -= lr * m_hat / (np.sqrt(v_hat) + eps)
        # each element by itself: a tiny one would not show beside the largest
        np.testing.assert_allclose(moments[0], total, rtol=1e-10, atol=1e-300)
        np.testing.assert_allclose(moments[1], square, rtol=1e-10, atol=1e-300)
        np.testing.assert_allclose(flat, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-12, 1e-9, 1e-3, 1, 1e6, 1e12])
def test_adamw_of_a_constant_gradient(size, dtype):
    """Each step is lr * g / (abs(g) + eps), whatever the size of g, and however late it comes."""
    config = gpt2.GPT2Config(5, 7, 2, 1, 4)
    g = np.random.default_rng(0).choice([-1, 1, -2, 3], gpt2.num_parameters(config)) * size
    for step in 1, 2, 150, 1500, 10**6:
        flat, grads, m, v = np.zeros((4, g.size), dtype)
        grads[:] = g
        views = [gpt2.named_views(array, config) for array in (flat, grads, m, v)]
        gpt2.adamw_update(*views, 1, 0.0)  # at a learning rate of 0; of the steps before:
        m *= (1 - 0.9 ** (step - 1)) / (1 - 0.9)
        v *= (1 - 0.999 ** (step - 1)) / (1 - 0.999)
        gpt2.adamw_update(*views, step, 0.01)
        rounding = 3e-6 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(flat, -0.01 * g / (np.abs(g) + 1e-8), rtol=rounding)


def test_adamw_defaults_are_gpt2s():
    parameters = inspect.signature(gpt2.adamw_update).parameters
    found = [parameters[name].default for name in ("beta1", "beta2", "eps", "weight_decay")]
    assert found == [0.9, 0.999, 1e-8, 0.0]
    assert parameters["lr"].default is inspect.Parameter.empty


def test_adamw_keeps_float32_and_the_pieces_do_not_matter():
    config = gpt2.GPT2Config(5, 7, 2, 1, 4)
    results = []
    for setting in (1, 2**18, 128), (3, 5, 2):
        flat, params = random_params(config)
        memory = flat.ctypes.data
        grads, m, v = (random_params(config, seed)[1] for seed in (1, 2, 3))
        v = {name: np.square(view) for name, view in v.items()}
        with cut(*setting):
            gpt2.adamw_update(params, grads, m, v, 3, 1e-2, weight_decay=0.1)
        found = {array.dtype for array in arrays_in((params, grads, m, v))}
        assert found == {np.dtype(np.float32)} and flat.ctypes.data == memory
        results.append(np.concatenate([a.ravel() for a in arrays_in((params, m, v))]))
    assert np.array_equal(*results)


@modest
@given(st.integers(1, 60), st.integers(0, 60), st.floats(1e-6, 1.0), st.floats(0.0, 1.0))
@example(40, 0, 1e-4, 1.0)
def test_learning_rate(steps, warmup, lr, min_lr_frac):
    rates = [gpt2.learning_rate(step, steps, lr, warmup, min_lr_frac) for step in range(steps + 1)]
    expected = [lr * (k + 1) / warmup for k in range(min(warmup, steps + 1))]
    falling = np.linspace(0, math.pi / 2, steps - warmup + 1) if warmup <= steps else []
    expected += [lr * (min_lr_frac + (1 - min_lr_frac) * math.cos(x) ** 2) for x in falling]
    assert rates == pytest.approx(expected, rel=1e-12, abs=1e-16)


def test_initial_weights():
    config = gpt2.GPT2Config(maxT=64, V=301, L=3, NH=2, C=48)
    flat = gpt2.init_weights(config, seed=1)
    assert flat.dtype == np.float32
    for name, view in gpt2.named_views(flat, config).items():
        if name in ("ln1w", "ln2w", "lnfw"):
            assert (view == 1).all(), name
        elif name.endswith("b"):
            assert not view.any(), name
        else:
            std = 0.02 / math.sqrt(6) if name in ("attprojw", "fcprojw") else 0.02
            # of 3072 numbers or more: within five standard deviations of these estimates
            assert abs(view.std() / std - 1) < 5 / math.sqrt(2 * view.size), name
            assert abs(view.mean()) < 5 * std / math.sqrt(view.size), name
            assert np.unique(view).size > 0.99 * view.size, name
            # the fourth moment of a normal distribution is 3, that of a uniform one 1.8
            fourth = np.mean((view / std) ** 4, dtype=np.float64)
            assert abs(fourth - 3) < 5 * math.sqrt(96 / view.size), name
    assert np.array_equal(flat, gpt2.init_weights(config, seed=1))
    assert not np.array_equal(flat, gpt2.init_weights(config, seed=2))
    loss, _ = gpt2.gpt2_forward(
        gpt2.named_views(flat, config), config, *np.arange(40).reshape(2, 2, 10)
    )
    assert abs(loss - math.log(config.V)) < 0.1  # it knows nothing yet


def test_named_sizes():
    published = {  # Radford et al. 2019, table 2; heads of 64 channels, as in all of them
        "d12": (12, 12, 768, 124_439_808),
        "d24": (24, 16, 1024, 354_823_168),
        "d36": (36, 20, 1280, 774_030_080),
        "d48": (48, 25, 1600, 1_557_611_200),
    }
    for name, (*sizes, count) in published.items():
        config = gpt2.named_config(name, 50257)
        assert config == (1024, 50257, *sizes)
        assert gpt2.num_parameters(config) == count
    assert gpt2.named_config("d3", 11, 5) == (5, 11, 3, 3, 192)
    assert gpt2.named_config("d100", 11, 5) == (5, 11, 100, 100, 6400)
    for other in "d0", "d", "d00", "d1000", "d2.bin", "D2", "d²", "gpt2_d2.bin", "xd2":
        assert gpt2.named_config(other, 50257) is None
