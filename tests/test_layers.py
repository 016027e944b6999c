"""The mathematics of train_gpt2.py: layers of any size, the model beside PyTorch's, AdamW."""

import contextlib
import inspect
import itertools
import math

import train_gpt2 as gpt2
from test_gpt2 import finite_difference

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

modest = settings(derandomize=True, deadline=None, max_examples=60)


@contextlib.contextmanager
def cut(threads, block, tile):
    """Small numbers here cut even small arrays into pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt2, "THREADS", threads)
        patch.setattr(gpt2, "CHUNK", block)
        patch.setattr(gpt2, "TILE", tile)
        yield


cuts = st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 4))


def arrays_in(tree):
    """All arrays and NumPy numbers in a nest of tuples, lists and dicts."""
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, tuple | list):
        return [array for branch in tree for array in arrays_in(branch)]
    return [tree] if isinstance(tree, np.ndarray | np.generic) else []


def floats_in(tree):
    return [array for array in arrays_in(tree) if array.dtype.kind == "f"]


def assert_close(ours, theirs, allowed, floor=0.0, name=""):
    assert ours.shape == theirs.shape, name
    error, largest = np.abs(ours - theirs).max(), np.abs(theirs).max()
    assert error <= allowed * largest + floor, f"{name}: {error:.1e}, largest {largest:.1e}"


# ----------------------------------------------------------------------------
# Layers. Each maker: random generator, sizes -> forward(*inputs) -> out, cache; backward(dout,
# cache) -> gradients, one for each input; the inputs, float64. A dtype follows from the inputs.


def embedding(rng, B, T, NH, HS, V, repeated):
    C, maxT = NH * HS, T + int(rng.integers(3))
    tokens = np.full((B, T), V - 1) if repeated else rng.integers(V, size=(B, T))

    def backward(dout, cache):
        dwte, dwpe = np.zeros((V, C), dout.dtype), np.full((maxT, C), np.nan, dout.dtype)
        gpt2.embedding_backward(dout, cache, dwte, dwpe)
        return dwte, dwpe

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
    return gpt2.layernorm_forward, gpt2.layernorm_backward, inputs


def linear(rng, B, T, NH, HS, V, repeated):
    C = NH * HS
    inputs = rows(rng, B * T, C, repeated), rng.standard_normal((V, C)), rng.standard_normal(V)
    return gpt2.linear_forward, gpt2.linear_backward, inputs


def attention(rng, B, T, NH, HS, V, repeated):
    def backward(dout, cache):
        return (gpt2.attention_backward(dout, cache),)

    qkv = rows(rng, B * T, 3 * NH * HS, repeated)
    return lambda qkv: gpt2.attention_forward(qkv, B, NH), backward, (qkv,)


def gelu(rng, B, T, NH, HS, V, repeated):
    def backward(dout, cache):
        return (gpt2.gelu_backward(dout, cache),)

    return gpt2.gelu_forward, backward, (2 * rows(rng, B * T, NH * HS, repeated),)


def head(rng, B, T, NH, HS, V, repeated):
    targets = np.full(B * T, V - 1) if repeated else rng.integers(V, size=B * T)
    inputs = rows(rng, B * T, NH * HS, repeated), rng.standard_normal((V, NH * HS))
    return lambda x, wte: gpt2.head_forward(x, wte, targets), gpt2.head_backward, inputs


LAYERS = [embedding, layernorm, linear, attention, gelu, head]
each_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
sizes = st.tuples(
    st.integers(1, 3),  # B
    st.integers(1, 7),  # T
    st.integers(1, 3),  # NH
    st.integers(1, 3),  # HS
    st.integers(1, 9),  # V
    st.booleans(),  # repeated: the same token, or row, throughout
)


def random_dout(rng, out):
    """A random gradient of out; where that is the loss, a Python number."""
    return rng.standard_normal(out.shape) if np.ndim(out) else float(rng.standard_normal())


@each_layer
@modest
@given(sizes, cuts, st.integers(0, 999))
@example((1, 1, 1, 1, 1, False), (2, 1, 1), 0)
@example((2, 7, 2, 3, 5, False), (2, 4, 2), 1)  # T > TILE, and more rows than fit a block
@example((2, 7, 1, 3, 5, True), (2, 4, 3), 2)
def test_gradient(layer, sizes, pieces, seed):
    rng = np.random.default_rng(seed)
    forward, backward, inputs = layer(rng, *sizes)
    with cut(*pieces):
        out, cache = forward(*inputs)
        dout = random_dout(rng, out)
        ours = backward(dout, cache)
    for x, gradient in zip(inputs, ours, strict=True):
        theirs = finite_difference(lambda: np.sum(forward(*inputs)[0] * dout), x)
        # measured: 1e-11; the floor, for gradients near 0 as of a layernorm of 2 channels: 1.4e-12
        assert_close(gradient, theirs, 1e-10, floor=1e-11)


@each_layer
@modest
@given(sizes, cuts, st.integers(0, 999))
def test_backward_is_linear_in_dout(layer, sizes, pieces, seed):
    rng = np.random.default_rng(seed)
    forward, backward, inputs = layer(rng, *sizes)
    with cut(*pieces):
        out, cache = forward(*inputs)
        d1, d2, a, b = random_dout(rng, out), random_dout(rng, out), 1.5, -0.7
        g1, g2 = backward(d1, cache), backward(d2, cache)
        both = backward(a * d1 + b * d2, cache)
    for one, two, together in zip(g1, g2, both, strict=True):
        floor = 1e-12 * (np.abs(one).max() + np.abs(two).max() + 1)
        assert_close(together, a * one + b * two, 0, floor)


@each_layer
@modest
@given(sizes, cuts, st.integers(0, 999), st.sampled_from([np.float32, np.float64]))
def test_purity_and_dtype(layer, sizes, pieces, seed, dtype):
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
    assert all(map(np.array_equal, inputs, given_in))
    assert np.array_equal(out, again)
    after = arrays_in((dout, cache, out))
    assert len(before) >= 2
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))
    assert all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))
    assert {array.dtype for array in floats_in((out, cache, first, second))} == {np.dtype(dtype)}


@each_layer
@modest
@given(sizes, cuts, st.integers(0, 999))
def test_pieces_change_nothing(layer, sizes, pieces, seed):
    results = []
    for setting in (1, 2**17, 128), pieces:
        rng = np.random.default_rng(seed)
        forward, backward, inputs = layer(rng, *sizes)
        with cut(*setting):
            out, cache = forward(*inputs)
            results.append((np.asarray(out), *backward(random_dout(rng, out), cache)))
    for whole, cut_up in zip(*results, strict=True):
        assert_close(cut_up, whole, 1e-13, floor=1e-13)  # BLAS may add in another order


def test_masked_and_shifted_scores_stay_finite():
    qkv = 30 * np.random.default_rng(0).standard_normal((6, 12), np.float32)
    out, cache = gpt2.attention_forward(1e3 * qkv, 2, 2)
    assert np.isfinite(out).all()
    assert np.isfinite(gpt2.attention_backward(np.ones_like(out), cache)).all()
    loss, cache = gpt2.head_forward(1e3 * qkv, 1e3 * qkv[:5], np.array([0, 1, 2, 3, 4, 0]))
    assert np.isfinite(loss) and all(map(np.isfinite, map(np.sum, gpt2.head_backward(1.0, cache))))


def test_head_agrees_with_logits():
    rng = np.random.default_rng(0)
    x, wte, targets = rng.standard_normal((6, 4)), rng.standard_normal((7, 4)), [0, 6, 3, 3, 1, 2]
    p = np.exp(x @ wte.T)
    p /= p.sum(1, keepdims=True)
    loss, _ = gpt2.head_forward(x, wte, np.array(targets))
    assert abs(loss + np.mean([np.log(p[i, t]) for i, t in enumerate(targets)])) < 1e-14


def test_embedding_backward_adds_to_one_table_and_fills_the_other():
    tokens, dout = np.array([[1, 1], [1, 0]]), np.arange(8.0).reshape(4, 2)
    _, cache = gpt2.embedding_forward(tokens, np.zeros((3, 2)), np.zeros((3, 2)))
    dwte, dwpe = np.full((3, 2), 10.0), np.full((3, 2), np.nan)
    gpt2.embedding_backward(dout, cache, dwte, dwpe)
    assert dwte.tolist() == [[16, 17], [16, 19], [10, 10]]
    assert dwpe.tolist() == [[4, 6], [8, 10], [0, 0]]


def test_positions_from_start_on():
    wte, wpe = np.zeros((1, 1)), np.arange(5.0)[:, None]
    out, _ = gpt2.embedding_forward(np.zeros((2, 2), int), wte, wpe, start=2)
    assert out.ravel().tolist() == [2, 3, 2, 3]


@modest
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 6),
    cuts,
    st.booleans(),
    st.sampled_from([np.float32, np.float64]),
)
def test_matmul(M, K, N, pieces, into, dtype):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
    out = np.full((M, N), np.nan, dtype) if into else None
    with cut(*pieces):
        result = gpt2.matmul(a, b, out=out)
    assert result.dtype == dtype and (not into or result is out)
    expected = [
        [math.fsum(a[i, k] * b[k, j] for k in range(K)) for j in range(N)] for i in range(M)
    ]
    assert_close(result, np.array(expected), 0, floor=1e-5 if dtype == np.float32 else 1e-13)


def test_blocks_raise_what_was_raised_in_a_thread():
    def fail(x):
        if x[0, 0] == 3:
            raise FloatingPointError("here")

    with cut(2, 1, 1), pytest.raises(FloatingPointError, match="here"):
        gpt2.in_chunks(fail, np.arange(4.0)[:, None])


# ----------------------------------------------------------------------------
# The model


def random_params(config, seed=0, dtype=np.float32):
    """Flat and named parameters without zeros and ones, which can hide a wrong gradient."""
    rng = np.random.default_rng(seed)
    flat = rng.standard_normal(gpt2.num_parameters(config)).astype(dtype)
    params = gpt2.tensors(flat, config)
    for name, view in params.items():
        view *= 0.3 if name in gpt2.MATRICES else 0.5
        view += 1 if name in ("ln1w", "ln2w", "lnfw") else 0
    return flat, params


def run_model(params, config, x, y):
    """logits, loss, grads (named) of our model; grads start as nan, each is to be filled."""
    dtype = params["wte"].dtype
    grads = gpt2.tensors(np.full(gpt2.num_parameters(config), np.nan, dtype), config)
    loss, cache = gpt2.gpt2_forward(params, config, x, y)
    gpt2.gpt2_backward(1.0, cache, grads)
    return gpt2.gpt2_forward(params, config, x), loss, grads


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
}


@pytest.mark.parametrize("pieces", [(2, 2**17, 128), (3, 32, 2)], ids=["whole", "cut up"])
@pytest.mark.parametrize("case", MODELS)
def test_parity_with_pytorch(case, pieces):
    torch = pytest.importorskip("torch")
    import reference_gpt2 as reference

    sizes, B, T = MODELS[case]
    config = gpt2.GPT2Config(*sizes)
    flat, params = random_params(config)
    x, y = np.random.default_rng(1).integers(config.V, size=(2, B, T))
    if case == "one token":
        x[:], y[:] = 7, 7
    with cut(*pieces):
        logits, loss, grads = run_model(params, config, x, y)
    model = reference.model_from_flat(flat, config)
    their_logits, their_loss = model(torch.from_numpy(x), torch.from_numpy(y))
    their_loss.backward()
    theirs = gpt2.tensors(reference.flat_from_model(model, gradients=True), config)
    # measured: 1.3e-6 at most
    assert_close(logits, their_logits.detach().flatten(0, 1).numpy(), 1e-5, name="logits")
    assert abs(loss - their_loss.item()) <= 1e-5 * their_loss.item()
    assert len(grads) == 16
    for name, gradient in theirs.items():
        assert np.abs(gradient).max() > 0, name
        assert_close(grads[name], gradient, 1e-5, name=name)


def kv_for(config, B, dtype):
    """Where nothing is known: nan, which would show in everything computed from it."""
    shape = config.L, 2, config.NH, B, config.maxT, config.C // config.NH
    return np.full(shape, np.nan, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_model_keeps_dtype_and_inputs(dtype):
    config = gpt2.GPT2Config(9, 12, 2, 2, 8)
    flat, params = random_params(config, dtype=dtype)
    x, y = np.random.default_rng(1).integers(config.V, size=(2, 3, 5))
    before = flat.copy(), x.copy(), y.copy()
    loss, cache = gpt2.gpt2_forward(params, config, x, y)
    kept = [array.copy() for array in arrays_in(cache)]
    results = []
    for garbage in 0, np.nan:
        grads = np.full(flat.size, garbage, dtype)
        gpt2.gpt2_backward(1.0, cache, gpt2.tensors(grads, config))
        results.append(grads)
    assert np.array_equal(*results)  # pure, and nothing is left of what the gradients were
    assert all(np.array_equal(a, b) for a, b in zip(kept, arrays_in(cache), strict=True))
    assert all(map(np.array_equal, before, (flat, x, y)))
    logits = gpt2.gpt2_forward(params, config, x)
    with_kv = gpt2.gpt2_forward(params, config, x, kv=kv_for(config, 3, dtype))
    found = {array.dtype for array in floats_in((loss, cache, logits, with_kv))}
    assert found == {np.dtype(dtype)}


def test_tensors_are_views_in_order():
    config = gpt2.GPT2Config(5, 7, 3, 2, 4)
    flat = np.arange(gpt2.num_parameters(config), dtype=np.float32)
    views = gpt2.tensors(flat, config)
    names = "wte wpe ln1w ln1b qkvw qkvb attprojw attprojb ln2w ln2b fcw fcb fcprojw fcprojb"
    assert list(views) == f"{names} lnfw lnfb".split()
    assert np.array_equal(np.concatenate([view.ravel() for view in views.values()]), flat)
    assert all(np.shares_memory(view, flat) for view in views.values())
    assert views["qkvw"].shape == (3, 12, 4) and views["fcprojw"].shape == (3, 4, 16)


# ----------------------------------------------------------------------------
# Sampling


@modest
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=9),
    st.integers(1, 3),
    st.sampled_from([np.float32, np.float64]),
    cuts,
)
@example([1] * 12, 1, np.float32, (2, 2**17, 128))
@example([4, 4, 4], 2, np.float32, (2, 8, 2))
def test_key_value_cache(pieces, B, dtype, setting):
    config = gpt2.GPT2Config(maxT=sum(pieces), V=13, L=2, NH=2, C=8)
    _, params = random_params(config, dtype=dtype)
    x = np.random.default_rng(2).integers(config.V, size=(B, config.maxT))
    full = gpt2.gpt2_forward(params, config, x).reshape(B, config.maxT, config.V)
    kv, start = kv_for(config, B, dtype), 0
    with cut(*setting):
        for n in pieces:
            part = gpt2.gpt2_forward(params, config, x[:, start : start + n], kv=kv, start=start)
            for i, logits in enumerate(part.reshape(B, n, -1).swapaxes(0, 1)):
                # measured: 1e-6 in float32
                assert_close(logits, full[:, start + i], 1e-5, name=f"position {start + i}")
            start += n
    assert np.isfinite(kv).all()


def generate_slowly(params, config, tokens, rng):
    """What generate() is to yield: all that is remembered goes through the model each time."""
    tokens = list(tokens)
    while True:
        if len(tokens) > config.maxT:
            tokens = tokens[-(config.maxT // 2) :]
        scores = gpt2.gpt2_forward(params, config, np.array([tokens]))[-1]
        p = np.exp(scores - np.logaddexp.reduce(scores))
        tokens.append(int(rng.choice(config.V, p=p / p.sum())))
        yield tokens[-1]


@pytest.mark.parametrize("prompt", [[3], [1, 2, 3, 4, 5, 6], list(range(7)), list(range(12)) * 2])
@pytest.mark.parametrize("maxT", [2, 6, 7])
def test_generate_goes_on_beyond_maxT(prompt, maxT):
    config = gpt2.GPT2Config(maxT, V=13, L=2, NH=2, C=8)
    _, params = random_params(config, dtype=np.float64)  # so that rounding changes no draw
    several = [
        list(itertools.islice(f(params, config, prompt, np.random.default_rng(5)), 4 * maxT + 3))
        for f in (gpt2.generate, generate_slowly)
    ]
    assert several[0] == several[1]
    assert all(type(token) is int and 0 <= token < config.V for token in several[0])
    assert len(set(several[0])) > 1


def test_generate_with_room_for_one_token():
    config = gpt2.GPT2Config(maxT=1, V=13, L=1, NH=1, C=4)
    _, params = random_params(config)
    sample = gpt2.generate(params, config, [0], np.random.default_rng(0))
    assert len(list(itertools.islice(sample, 5))) == 5


def test_generate_leaves_the_prompt_alone():
    config = gpt2.GPT2Config(maxT=4, V=13, L=1, NH=1, C=4)
    prompt = [1, 2]
    _, params = random_params(config)
    assert 0 <= next(gpt2.generate(params, config, prompt, np.random.default_rng(0))) < 13
    assert prompt == [1, 2]


def test_generate_draws_by_the_probabilities():
    config = gpt2.GPT2Config(maxT=1, V=3, L=1, NH=1, C=4)
    _, params = random_params(config, dtype=np.float64)
    logits = gpt2.gpt2_forward(params, config, np.array([[0]]))[0]
    p = np.exp(logits) / np.exp(logits).sum()
    rng = np.random.default_rng(0)
    draws = [next(gpt2.generate(params, config, [0], rng)) for _ in range(2000)]
    found = np.bincount(draws, minlength=3) / len(draws)
    assert np.abs(found - p).max() < 0.05  # more than four standard deviations


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
    draws = [gpt2.next_token(SCORES, rng, **settings) for _ in range(n)]
    found = np.bincount(draws, minlength=len(p)) / n
    assert {type(token) for token in draws} == {int}
    assert (found[p == 0] == 0).all()
    # within five standard deviations
    assert (np.abs(found - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()


def drawn(scores, temperature=1.0, top_k=0, top_p=1.0):
    """The set of tokens that 200 draws give."""
    rng, scores = np.random.default_rng(0), np.array(scores, np.float32)
    before = scores.copy()
    found = {gpt2.next_token(scores, rng, temperature, top_k, top_p) for _ in range(200)}
    assert np.array_equal(scores, before)
    return found


@pytest.mark.parametrize(
    "how", [{"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-4}], ids=str
)
def test_next_token_takes_the_likeliest(how):
    assert drawn([0, 1, 1.01, -5], **how) == {2}


def test_next_token_among_equals():
    assert drawn([1, 3, 3, 3], temperature=0) == {1}  # the first
    assert drawn([1, 3, 3, 3], top_k=1) == {1, 2, 3}  # no reason to prefer one
    assert len(drawn([0, 0, 0, 0], top_p=0.5)) == 2  # the fewest that have half of it
    assert drawn([0, 0, 0, 0]) == drawn([0, 0, 0, 0], top_k=9) == {0, 1, 2, 3}


def test_next_token_of_logits_far_apart():
    assert drawn([3e38, -3e38, 0]) == {0}
    assert drawn([-np.inf, 0, -np.inf], top_p=0.9) == {1}


@pytest.mark.parametrize("n, setting", [(4, (2, 2**17, 128)), (9, (3, 8, 2))])
def test_logits_of_generate(monkeypatch, n, setting):
    """At every position, and after the older half was forgotten, those of the whole forward."""
    config = gpt2.GPT2Config(maxT=9, V=13, L=2, NH=2, C=8)
    _, params = random_params(config)
    text, seen = np.random.default_rng(3).integers(config.V, size=40).tolist(), []

    def next_token(logits, *_):
        seen.append(logits)
        return text[n + len(seen) - 1]

    monkeypatch.setattr(gpt2, "next_token", next_token)
    with cut(*setting):
        sample = gpt2.generate(params, config, text[:n], None)
        assert list(itertools.islice(sample, 25)) == text[n : n + 25]
    known = list(text[:n])
    for i, logits in enumerate(seen):
        if len(known) > config.maxT:
            known = known[-4:]
        full = gpt2.gpt2_forward(params, config, np.array([known]))[-1]
        assert_close(logits, full, 4e-6, name=f"token {i}")  # measured: 3.3e-7
        known.append(text[n + i])


# ----------------------------------------------------------------------------
# Accumulation and clipping


@pytest.mark.parametrize("count", [2, 3])
def test_accumulated_batches_are_one_large_batch(count):
    config, B, T = gpt2.GPT2Config(9, 12, 2, 2, 8), 2, 7
    flat, params = random_params(config)
    x, y = np.random.default_rng(1).integers(config.V, size=(2, count * B, T))
    batches = [(x[i : i + B], y[i : i + B]) for i in range(0, count * B, B)]
    results = []
    for parts in batches, [(x, y)]:
        grads, more = (np.full(flat.size, np.nan, np.float32) for _ in range(2))
        named = (gpt2.tensors(array, config) for array in (grads, more))
        results.append((gpt2.loss_and_gradient(params, config, parts, *named), grads))
    (loss, grads), (whole_loss, whole) = results
    assert loss == pytest.approx(whole_loss, rel=1e-6)  # measured: 6e-8, one rounding
    views, whole_views = (gpt2.tensors(array, config) for array in (grads, whole))
    for name, view in views.items():
        assert_close(view, whole_views[name], 1e-5, name=name)  # measured: 1.2e-6
    assert type(loss) is float and grads.dtype == np.float32


def test_gradient_of_a_multiple_of_the_loss():
    config = gpt2.GPT2Config(9, 12, 2, 2, 8)
    flat, params = random_params(config, dtype=np.float64)
    x, y = np.random.default_rng(1).integers(config.V, size=(2, 2, 7))
    _, cache = gpt2.gpt2_forward(params, config, x, y)
    once, twice = np.empty((2, flat.size))
    gpt2.gpt2_backward(1.0, cache, gpt2.tensors(once, config))
    gpt2.gpt2_backward(-2.5, cache, gpt2.tensors(twice, config))
    assert_close(twice, -2.5 * once, 1e-13)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("setting", [(1, 2**17, 128), (3, 7, 2)])
def test_clipping(setting, size):
    config = gpt2.GPT2Config(9, 12, 2, 2, 8)
    flat, _ = random_params(config)
    flat *= np.float32(size)
    given, exact = flat.copy(), np.linalg.norm(flat.astype(np.float64))
    grads = gpt2.tensors(flat, config)
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
    sizes = rng.choice([0, 1e-200, 1e-30, 1e-12, 1e-6, 1e-3, 1, 1e3], flat.size)
    history = [sizes * rng.standard_normal(flat.size) for _ in range(10)]
    decayed = np.concatenate(
        [
            np.full(view.size, name in "wte wpe qkvw attprojw fcw fcprojw".split())
            for name, view in params.items()
        ]
    )
    expected = flat.copy()
    moments = np.zeros_like(flat), np.zeros_like(flat)
    m, v = (gpt2.tensors(moment, config) for moment in moments)
    for step, g in enumerate(history, 1):
        grads = g.copy()
        settings = {"beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        gpt2.adamw_update(params, gpt2.tensors(grads, config), m, v, step, lr, **settings)
        assert np.array_equal(grads, g)
        # the moments as what they are, weighted sums over all steps so far
        past = list(zip(range(step - 1, -1, -1), history, strict=False))
        mean = (1 - beta1) * sum(beta1**age * old for age, old in past)
        square = (1 - beta2) * sum(beta2**age * np.square(old) for age, old in past)
        m_hat, v_hat = mean / (1 - beta1**step), square / (1 - beta2**step)
        expected = expected * np.where(decayed, 1 - lr * weight_decay, 1)
        expected = expected - lr * m_hat / (np.sqrt(v_hat) + eps)
        # each element by itself: a tiny one would not show beside the largest
        np.testing.assert_allclose(moments[0], mean, rtol=1e-10, atol=1e-300)
        np.testing.assert_allclose(moments[1], square, rtol=1e-10, atol=1e-300)
        np.testing.assert_allclose(flat, expected, rtol=1e-11, atol=1e-14)


def test_adamw_defaults_are_gpt2s():
    parameters = inspect.signature(gpt2.adamw_update).parameters
    found = [parameters[name].default for name in ("beta1", "beta2", "eps", "weight_decay")]
    assert found == [0.9, 0.999, 1e-8, 0.0]
    assert parameters["lr"].default is inspect.Parameter.empty


def test_adamw_keeps_float32_and_the_pieces_do_not_matter():
    config = gpt2.GPT2Config(5, 7, 2, 1, 4)
    results = []
    for setting in (1, 2**17, 128), (3, 5, 2):
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
@given(
    st.integers(1, 60),
    st.integers(0, 60),
    st.floats(1e-6, 1.0),
    st.floats(0.0, 1.0),
)
@example(40, 0, 1e-4, 1.0)
def test_learning_rate(steps, warmup, lr, min_lr_frac):
    rates = [gpt2.learning_rate(step, steps, lr, warmup, min_lr_frac) for step in range(steps + 1)]
    assert all(rate > 0 for rate in rates[: min(warmup, steps)])
    assert all(rate <= lr * (1 + 1e-12) for rate in rates)
    rising = rates[: min(warmup, steps)]
    assert rising == pytest.approx([lr * (k + 1) / warmup for k in range(len(rising))])
    if warmup < steps:
        falling = rates[warmup:]
        assert falling[0] == pytest.approx(lr)
        assert falling[-1] == pytest.approx(min_lr_frac * lr, abs=1e-15)
        assert all(a >= b - 1e-15 for a, b in itertools.pairwise(falling))
        middle = [(a + b) / 2 for a, b in zip(falling, reversed(falling), strict=True)]
        assert middle == pytest.approx([lr * (1 + min_lr_frac) / 2] * len(middle))  # of a cosine
        if len(falling) > 4:  # it is flat at both ends, as a straight line is not
            drop, even = falling[0] - falling[1], (falling[0] - falling[-1]) / (len(falling) - 1)
            assert drop < even or min_lr_frac > 0.999


def test_initial_weights():
    config = gpt2.GPT2Config(maxT=64, V=301, L=3, NH=2, C=48)
    flat = gpt2.init_weights(config, seed=1)
    assert flat.dtype == np.float32
    for name, view in gpt2.tensors(flat, config).items():
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
    assert np.array_equal(flat, gpt2.init_weights(config, seed=1))
    assert not np.array_equal(flat, gpt2.init_weights(config, seed=2))
    loss, _ = gpt2.gpt2_forward(
        gpt2.tensors(flat, config), config, *np.arange(40).reshape(2, 2, 10)
    )
    assert abs(loss - math.log(config.V)) < 0.1  # it knows nothing yet


def test_named_sizes():
    assert gpt2.named_config("d12", 50257) == (1024, 50257, 12, 12, 768)
    assert gpt2.num_parameters(gpt2.named_config("d12", 50257)) == 124_439_808
    published = {"d24": 354_823_168, "d36": 774_030_080, "d48": 1_557_611_200}
    for name, count in published.items():
        assert gpt2.num_parameters(gpt2.named_config(name, 50257)) == count
