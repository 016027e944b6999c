"""
The four kinds of files. What is read is built here, byte by byte, from the description of llm.c's
formats, and what is written is compared with such bytes: the careful readers and writers of
tools/formats.py first, in the end the plain ones of train_gpt2.py.
"""

import contextlib
import errno
import os
import struct
import tempfile
import tracemalloc
from pathlib import Path

import test_gpt2
import train_gpt2 as gpt2
from tools import checkpoints, formats
from tools.console import UserError

import numpy as np
import pytest
from helpers import (
    HUGE,
    SMALL_STATE,
    SMALL_WEIGHTS,
    flat_of,
    header,
    random_tensors,
    shapes,
    state_bytes,
    token_bytes,
    tokenizer_bytes,
    weight_bytes,
    write,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

modest = settings(derandomize=True, deadline=None, max_examples=40)


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@st.composite
def configs(draw):
    NH, HS = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    maxT, V, L = draw(st.integers(1, 5)), draw(st.integers(1, 300)), draw(st.integers(1, 3))
    return gpt2.GPT2Config(maxT, V, L, NH, NH * HS)


SMALL = gpt2.GPT2Config(maxT=3, V=131, L=2, NH=2, C=4)
FULL_WTE = gpt2.GPT2Config(maxT=3, V=256, L=1, NH=1, C=2)  # a multiple of 128: no padding
BF16_NAN = b"\xc0\x7f"
NAN = b"\0\0\xc0\x7f"


# ----------------------------------------------------------------------------
# Weights


@pytest.mark.parametrize("config", [SMALL, FULL_WTE])
@pytest.mark.parametrize("version, padding", [(1, b""), (3, NAN), (3, b"\0\0\x80\x3f")])
def test_read_float32_weights(tmp_path, config, version, padding):
    made = random_tensors(config)
    path = write(tmp_path / "w.bin", weight_bytes(config, version, made, padding))
    flat, found = formats.load_weights(path)
    assert found == config and isinstance(found, gpt2.GPT2Config)
    assert flat.dtype == np.float32 and flat.flags.c_contiguous and flat.flags.writeable
    assert flat.tobytes() == flat_of(made, config).tobytes()


@pytest.mark.parametrize("config", [SMALL, FULL_WTE])
def test_read_bfloat16_weights(tmp_path, config):
    made = random_tensors(config, kind="<u2")
    path = write(tmp_path / "w.bin", weight_bytes(config, 5, made, BF16_NAN))
    flat, found = formats.load_weights(path)
    assert found == config and flat.dtype == np.float32 and flat.flags.writeable
    halves = flat_of(made, config).tolist()
    expected = [struct.unpack("<f", struct.pack("<HH", 0, half))[0] for half in halves]
    assert flat.tolist() == expected


def test_size_of_gpt2_124M_as_llmc_writes_it(tmp_path):
    """The real sizes, in a file of zeros that takes no room on the disk, and none in memory."""
    path = write(tmp_path / "w.bin", header(20240326, 3, 1024, 50257, 12, 12, 768, 50304))
    size = 1024 + 4 * 124_475_904  # with 47 rows of padding, as llm.c counts them
    os.truncate(path, size - 4 * 768)
    assert f"{size:,}" in refuses(formats.load_weights, path)
    os.truncate(path, size)
    assert formats.read_config(path) == ((1024, 50257, 12, 12, 768), 3)


@modest
@given(configs())
@example(SMALL)
@example(FULL_WTE)
def test_written_weights_byte_by_byte(config):
    made = random_tensors(config)
    flat = flat_of(made, config)
    with folder() as tmp:
        formats.write_weights(tmp / "w.bin", flat, config)
        assert (tmp / "w.bin").read_bytes() == weight_bytes(config, 3, made, b"\0" * 4)
        again, found = formats.load_weights(tmp / "w.bin")
        assert found == config and again.tobytes() == flat.tobytes()
        assert [path.name for path in tmp.iterdir()] == ["w.bin"]


@pytest.mark.parametrize("config", [SMALL, FULL_WTE])
def test_a_checkpoint_byte_by_byte(tmp_path, config):
    """Behind the weights m, then v, neither of them padded; then a text."""
    made, m, v = (random_tensors(config, seed) for seed in (0, 1, 2))
    v = {name: np.square(array) for name, array in v.items()}
    about = b'{"step": 3, "data": "data/x", "digest": "0a", "settings": {}}'
    built = write(tmp_path / "built.bin", weight_bytes(config, 3, made, NAN, (m, v), about))
    assert formats.load_weights(built)[0].tobytes() == flat_of(made, config).tobytes()
    for found, expected in zip(checkpoints.read_moments(built), (m, v), strict=True):
        assert found.tobytes() == flat_of(expected, config).tobytes()
    assert checkpoints.read_about(built)["step"] == 3

    flat, moments = flat_of(made, config), [flat_of(x, config) for x in (m, v)]
    formats.write_weights(tmp_path / "written.bin", flat, config, moments, about)
    expected = weight_bytes(config, 3, made, b"\0" * 4, (m, v), about)
    assert (tmp_path / "written.bin").read_bytes() == expected


def refuses(load, path, *args):
    """It raises UserError, in one line with the file's name, and takes little memory to say so."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            load(path, *args)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    message = caught.value.text
    assert str(path) in message and "\n" not in message
    return message


GOOD_WEIGHTS = weight_bytes(SMALL, 3, random_tensors(SMALL), NAN)
SIZES = 3, 131, 2, 2, 4, 256
DAMAGED_WEIGHTS = {
    "empty": b"",
    "three bytes": b"abc",
    **{f"cut at {n}": GOOD_WEIGHTS[:n] for n in (4, 1023, 1024, 1028, -len(GOOD_WEIGHTS) // 2)},
    **{f"cut by {n}": GOOD_WEIGHTS[:-n] for n in (1, 2, 4)},
    "a byte too many": GOOD_WEIGHTS + b"\0",
    "text": b"<!DOCTYPE html>" * 1000,
    "token file": header(20240520, 1, 2, 11) + b"\0" * 4,
    "state file": header(20240327, 2, *SIZES) + GOOD_WEIGHTS[1024:],
    "big-endian": np.frombuffer(GOOD_WEIGHTS, "<i4").byteswap().tobytes(),
    **{f"version {v}": header(20240326, v, *SIZES) + GOOD_WEIGHTS[1024:] for v in (0, 2, 4, 6, -3)},
    "version 1 with padding": header(20240326, 1, *SIZES) + GOOD_WEIGHTS[1024:],
    "a text of -4 bytes": header(20240326, 3, *SIZES, -4) + GOOD_WEIGHTS[1024:-4],
    "2**31-1 layers": header(20240326, 3, 3, 131, HUGE, 2, 4, 256) + GOOD_WEIGHTS[1024:],
    "2**31-1 of all": header(20240326, 3, *[HUGE] * 6) + GOOD_WEIGHTS[1024:],
    "heads do not divide channels": header(20240326, 3, 3, 131, 2, 3, 4, 256) + GOOD_WEIGHTS[1024:],
    **{
        f"{bad} as size {i}": header(20240326, 3, *SIZES[:i], bad, *SIZES[i + 1 :])
        + GOOD_WEIGHTS[1024:]
        for i in range(5)
        for bad in (0, -1)
    },
}


@pytest.mark.parametrize("damage", DAMAGED_WEIGHTS)
def test_damaged_weights(tmp_path, damage):
    refuses(formats.load_weights, write(tmp_path / "w.bin", DAMAGED_WEIGHTS[damage]))


LOADERS = {
    "weights": (formats.load_weights, ()),
    "state": (test_gpt2.load_state, (SMALL,)),
    "tokens": (formats.load_tokens, ()),
    "tokenizer": (formats.load_tokenizer, ()),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_missing_file_and_folder(tmp_path, kind):
    load, args = LOADERS[kind]
    assert "there is no file" in refuses(load, tmp_path / "none.bin", *args)
    assert "there is no file" in refuses(load, tmp_path, *args)
    if hasattr(os, "mkfifo"):  # not on Windows
        os.mkfifo(tmp_path / "pipe")
        assert "there is no file" in refuses(load, tmp_path / "pipe", *args)  # without waiting


# ----------------------------------------------------------------------------
# Nothing that was there before is damaged


def fails(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupts(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("there_before", [True, False])
@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [fails, interrupts])
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, there_before, call, fault):
    path, new = tmp_path / "w.bin", flat_of(random_tensors(SMALL, seed=1), SMALL)
    if there_before:
        write(path, GOOD_WEIGHTS)
    monkeypatch.setattr(os, call, fault)
    with pytest.raises((UserError, KeyboardInterrupt)) as caught:
        formats.write_weights(path, new, SMALL)
    if fault is fails:
        assert str(path) in str(caught.value) and "No space" in str(caught.value)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["w.bin"] * there_before
    assert not there_before or path.read_bytes() == GOOD_WEIGHTS
    formats.write_weights(path, new, SMALL)
    assert formats.load_weights(path)[0].tobytes() == new.tobytes()


def test_a_link_where_the_part_is_to_be_is_not_followed(tmp_path):
    """Somebody else may have laid it, in a folder where all may write."""
    path, other = tmp_path / "w.bin", write(tmp_path / "other", b"old")
    (tmp_path / f"w.bin.{os.getpid()}.part").symlink_to(other)
    with pytest.raises(UserError, match="w.bin: File exists"):
        formats.write_weights(path, flat_of(random_tensors(SMALL), SMALL), SMALL)
    assert other.read_bytes() == b"old" and not path.exists()


def test_the_file_is_whole_on_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    path, order, sizes = write(tmp_path / "w.bin", b"old"), [], []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(fd):
        order.append("fsync")
        sizes.append(os.fstat(fd).st_size)
        fsync(fd)

    def noted_replace(a, b):
        order.append("replace")
        assert path.read_bytes() == b"old"
        replace(a, b)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    formats.write_weights(path, flat_of(random_tensors(SMALL), SMALL), SMALL)
    assert order == ["fsync", "replace"] and sizes == [len(GOOD_WEIGHTS)]


# ----------------------------------------------------------------------------
# Debug state


def state_parts(config, B, T, steps, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(config.V, size=(2, B, T)).astype("<i4")
    logits = rng.standard_normal((B * T, config.V)).astype("<f4")
    losses = rng.standard_normal(steps).astype("<f4")
    return x, y, logits, losses


SETTINGS = 0.02, 0.9, 0.999, 1e-5, 0.3


@modest
@given(configs(), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.booleans())
@example(SMALL, 2, 3, 10, True)
def test_state_both_ways(config, B, T, steps, with_params):
    pytest.importorskip("torch")
    import reference_gpt2 as reference

    config = config._replace(maxT=max(config.maxT, T))
    x, y, logits, losses = state_parts(config, B, T, steps)
    grads = random_tensors(config, seed=1)
    after = random_tensors(config, seed=2) if with_params else None
    parts = config, x, y, logits, losses, grads, SETTINGS, after
    with folder() as tmp:
        record = logits, flat_of(grads, config), losses
        options = {"lr": 0.02, "weight_decay": 0.3, "eps": 1e-5}
        if with_params:
            options["params"] = flat_of(after, config)
        x64, y64 = x.astype(np.int64), y.astype(np.int64)  # as they are in training
        reference.write_state(tmp / "written.bin", config, x64, y64, record, **options)
        assert (tmp / "written.bin").read_bytes() == state_bytes(*parts, b"\0" * 4)

        path = write(tmp / "built.bin", state_bytes(*parts, NAN))
        state = test_gpt2.load_state(path, config)
    assert np.array_equal(state.x, x) and np.array_equal(state.y, y)
    assert state.logits.tobytes() == logits.tobytes() and state.logits.shape == (B * T, config.V)
    assert state.loss == losses[0]
    assert state.grads.tobytes() == flat_of(grads, config).tobytes()
    names = "lr", "beta1", "beta2", "eps", "weight_decay"
    assert state.settings == dict(zip(names, SETTINGS, strict=True))
    assert state.losses.tobytes() == losses.tobytes()
    if with_params:
        assert state.params.tobytes() == flat_of(after, config).tobytes()
    else:
        assert state.params is None


def test_small_state_begins_as_llmc_reads_it():
    """What llm.c's test_gpt2.c takes from a file: it stops behind the gradients."""
    weights = SMALL_WEIGHTS
    sizes = struct.unpack("<256i", weights.read_bytes()[:1024])
    config, Vp = gpt2.GPT2Config(*sizes[2:7]), sizes[7]
    with open(SMALL_STATE, "rb") as f:
        magic, version, B, T = struct.unpack("<256i", f.read(1024))[:4]
        assert (magic, version) == (20240327, 2)
        x, y = (np.frombuffer(f.read(4 * B * T), "<i4") for _ in range(2))
        logits = np.frombuffer(f.read(4 * B * T * config.V), "<f4").reshape(B * T, -1)
        (loss,) = struct.unpack("<f", f.read(4))
        shifted = logits - logits.max(1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        assert abs(loss + log_p[np.arange(B * T), y].mean()) < 1e-4
        assert np.array_equal(x[1:], y[:-1])
        named = {}
        for name, shape in shapes(config):
            shape = (Vp, config.C) if name == "wte" else shape
            named[name] = np.frombuffer(f.read(4 * int(np.prod(shape))), "<f4").reshape(shape)
    assert not named["wte"][config.V :].any() and named["wte"][: config.V].any(1).all()
    assert not named["wpe"][T:].any() and named["wpe"][:T].any(1).all()
    p = np.exp(log_p)  # the gradient of lnfb by hand: of the loss in the logits, times wte
    p[np.arange(B * T), y] -= 1
    wte = np.frombuffer(weights.read_bytes(), "<f4", config.V * config.C, 1024)
    lnfb = (p / (B * T)).sum(0) @ wte.reshape(config.V, config.C)
    assert np.abs(named["lnfb"] - lnfb).max() < 1e-4 * np.abs(lnfb).max()


GOOD_STATE = state_bytes(
    SMALL, *state_parts(SMALL, 1, 1, 2), random_tensors(SMALL), SETTINGS, None, NAN
)
DAMAGED_STATES = {
    "empty": b"",
    "cut in the header": GOOD_STATE[:1000],
    "header alone": GOOD_STATE[:1024],
    "cut by one byte": GOOD_STATE[:-1],
    "a byte too many": GOOD_STATE + b"\0",
    "llm.c's own, without ours": GOOD_STATE[: -(2 * 4 + 5 * 8)],
    "weight file": GOOD_WEIGHTS,
    "version 1": header(20240327, 1, 1, 1, 2, 0) + GOOD_STATE[1024:],
    "version 3": header(20240327, 3, 1, 1, 2, 0) + GOOD_STATE[1024:],
    "B and T 2**31-1": header(20240327, 2, HUGE, HUGE, 2, 0) + GOOD_STATE[1024:],
    "2**31-1 steps": header(20240327, 2, 1, 1, HUGE, 0) + GOOD_STATE[1024:],
    "B and T -1": header(20240327, 2, -1, -1, 2, 0) + GOOD_STATE[1024:],
    "-8 steps": header(20240327, 2, 1, 1, -8, 0) + GOOD_STATE[1024 : -4 * 10],
    "B 0": header(20240327, 2, 0, 1, 2, 0) + GOOD_STATE[1024 : -4 * (2 + SMALL.V)],
}


@pytest.mark.parametrize("damage", DAMAGED_STATES)
def test_damaged_state(tmp_path, damage):
    refuses(test_gpt2.load_state, write(tmp_path / "s.bin", DAMAGED_STATES[damage]), SMALL)


def test_state_of_another_model(tmp_path):
    path = write(tmp_path / "s.bin", GOOD_STATE)
    assert test_gpt2.load_state(path, SMALL).losses.size == 2
    refuses(test_gpt2.load_state, path, SMALL._replace(L=1))
    refuses(test_gpt2.load_state, path, SMALL._replace(V=130))


# ----------------------------------------------------------------------------
# Token files


@pytest.mark.parametrize("in_header, V", [(0, 50257), (11, 11), (50257, 50257), (65536, 65536)])
def test_read_token_file(tmp_path, in_header, V):
    tokens = [0, 10, 3, 3, V - 1]
    loaded, found = formats.load_tokens(write(tmp_path / "t.bin", token_bytes(tokens, in_header)))
    assert found == V and loaded.tolist() == tokens
    assert isinstance(loaded, np.memmap)  # the largest data sets do not fit in memory


@pytest.mark.parametrize("tokens", [[50256, 0, 7], [198], list(range(1000))])
def test_read_headerless_int32(tmp_path, tokens):
    data = struct.pack(f"<{len(tokens)}i", *tokens)
    loaded, found = formats.load_tokens(write(tmp_path / "t.bin", data))
    assert found == 50257 and loaded.tolist() == tokens
    assert isinstance(loaded, np.memmap)


GOOD_TOKENS = token_bytes([1, 2, 3, 4], 11)
DAMAGED_TOKENS = {
    "empty": b"",
    "one byte": b"a",
    "three bytes": b"abc",
    "cut in the header": GOOD_TOKENS[:1020],
    "cut by one byte": GOOD_TOKENS[:-1],
    "cut by one token": GOOD_TOKENS[:-2],
    "a token too many": GOOD_TOKENS + b"\0\0",
    "version 2": header(20240520, 2, 4, 11) + b"\0" * 8,
    "2**31-1 tokens": header(20240520, 1, HUGE, 11) + b"\0" * 8,
    "-1 tokens": header(20240520, 1, -1, 11) + b"\0" * 8,
    "-1 tokens, but one is there": header(20240520, 1, -1, 11) + b"\0" * 2,
    "no tokens": header(20240520, 1, 0, 11),
    "no tokens, but one is there": header(20240520, 1, 0, 11) + b"\0" * 2,
    "a token too high": token_bytes([1, 2, 11, 4], 11),
    "a vocabulary of -1": header(20240520, 1, 4, -1) + b"\0" * 8,
    "weight file": GOOD_WEIGHTS,
    "tokenizer file": header(20240328, 2, 1, 0) + b"\1a",
    "text": b"First Citizen: Before we proceed any further, hear me speak.\n",
    "headerless, a negative token": struct.pack("<4i", 1, 2, -3, 4),
    "headerless, a token too high": struct.pack("<4i", 1, 2, 50257, 4),
    "headerless, cut": struct.pack("<4i", 1, 2, 3, 4)[:-2],
}


@pytest.mark.parametrize("damage", DAMAGED_TOKENS)
def test_damaged_tokens(tmp_path, damage):
    refuses(formats.load_tokens, write(tmp_path / "t.bin", DAMAGED_TOKENS[damage]))


# ----------------------------------------------------------------------------
# Batches


@modest
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 30), st.data())
def test_batches_in_order(B, T, batches, i, data):
    """After the last that is whole, the first again; what makes no whole one is left out."""
    kind = data.draw(st.sampled_from(["<u2", "<i4"]))
    tokens = np.arange(B * T * batches + 1 + data.draw(st.integers(0, B * T - 1)), dtype=kind)
    tokens += 50000  # too large for int16
    tokens.flags.writeable = False  # as in a file
    x, y = gpt2.get_batch(tokens, i, B, T)
    assert x.ravel().tolist() == [50000 + i % batches * B * T + j for j in range(B * T)]
    assert np.array_equal(y, x + 1) and x.shape == (B, T) and x.dtype == y.dtype == np.int64


def test_batches_keep_large_ids():
    x, y = gpt2.get_batch(np.array([65535, 32768, 40000, 50256, 7], "<u2"), 0, 2, 2)
    assert x.tolist() == [[65535, 32768], [40000, 50256]]
    assert y.tolist() == [[32768, 40000], [50256, 7]]


# ----------------------------------------------------------------------------
# Tokenizer


@modest
@given(st.lists(st.binary(max_size=255), min_size=1, max_size=20), st.data())
@example([b"\0", b"", b"x" * 255, "é".encode()], None)
def test_read_tokenizer(vocabulary, data):
    end = data.draw(st.integers(0, len(vocabulary) - 1)) if data else 3
    built = tokenizer_bytes(vocabulary, end)
    with folder() as tmp:
        assert formats.load_tokenizer(write(tmp / "built.bin", built)) == (vocabulary, end)


GOOD_TOKENIZER = tokenizer_bytes([b"ab", b"c", b"<end>"], 2)
DAMAGED_TOKENIZERS = {
    "empty": b"",
    "header alone": GOOD_TOKENIZER[:1024],
    "cut by one byte": GOOD_TOKENIZER[:-1],
    "cut by one token": GOOD_TOKENIZER[:-6],
    "a byte too many": GOOD_TOKENIZER + b"\0",
    "end of text is no token": tokenizer_bytes([b"ab", b"c"], 2),
    "end of text is -1": tokenizer_bytes([b"ab", b"c"], -1),
    "version 1": header(20240328, 1, 3, 2) + GOOD_TOKENIZER[1024:],
    "version 3": header(20240328, 3, 3, 2) + GOOD_TOKENIZER[1024:],
    "2**31-1 tokens": header(20240328, 2, HUGE, 2) + GOOD_TOKENIZER[1024:],
    "-3 tokens": header(20240328, 2, -3, 2) + GOOD_TOKENIZER[1024:],
    "no tokens": header(20240328, 2, 0, 0),
    "token file": GOOD_TOKENS,
    "weight file": GOOD_WEIGHTS,
}


@pytest.mark.parametrize("damage", DAMAGED_TOKENIZERS)
def test_damaged_tokenizer(tmp_path, damage):
    refuses(formats.load_tokenizer, write(tmp_path / "v.bin", DAMAGED_TOKENIZERS[damage]))


# ----------------------------------------------------------------------------
# The lesson's own readers and its writer


@pytest.mark.parametrize("config", [SMALL, FULL_WTE])
def test_lesson_reads_and_writes_the_same(tmp_path, config):
    flat = flat_of(random_tensors(config), config)
    gpt2.write_weights(tmp_path / "w.bin", flat, config)
    built = weight_bytes(config, 3, random_tensors(config), b"\0" * 4)
    assert (tmp_path / "w.bin").read_bytes() == built and len(list(tmp_path.iterdir())) == 1
    write(tmp_path / "c.bin", built + b"moments, and text")  # of a checkpoint: it takes the weights
    for path in tmp_path / "w.bin", tmp_path / "c.bin":
        read, found = gpt2.load_weights(path)
        assert found == config and read.tobytes() == flat.tobytes() and read.dtype == np.float32
    for in_header, V in (0, 50257), (11, 11), (65536, 65536):
        path = write(tmp_path / "t.bin", token_bytes([0, 10, 3, V - 1], in_header))
        tokens, found = gpt2.load_tokens(path)
        assert (tokens.tolist(), found) == ([0, 10, 3, V - 1], V)
    vocabulary = [b"\0", b"", b"x" * 255, "é".encode()]
    path = write(tmp_path / "v.bin", tokenizer_bytes(vocabulary, 3))
    assert gpt2.load_tokenizer(path) == (vocabulary, 3)


LESSON = {
    "weights": gpt2.load_weights,
    "tokens": gpt2.load_tokens,
    "tokenizer": gpt2.load_tokenizer,
}
GOOD = {"weights": GOOD_WEIGHTS, "tokens": GOOD_TOKENS, "tokenizer": GOOD_TOKENIZER}
SHORT = [0, 3, 1023]
LESSON_REFUSES = [
    *((kind, other) for kind in LESSON for what, other in GOOD.items() if what != kind),
    *((kind, GOOD[kind][:4] + b"\x09" + GOOD[kind][5:]) for kind in LESSON),  # another version
    *((kind, GOOD[kind][:n]) for kind in LESSON for n in SHORT),
    *(("weights", GOOD_WEIGHTS[:n]) for n in (1024, -4, -1)),
    *(("weights", DAMAGED_WEIGHTS[f"{bad} as size {i}"]) for bad in (0, -1) for i in range(5)),
    ("weights", DAMAGED_WEIGHTS["heads do not divide channels"]),
    *(("tokens", GOOD_TOKENS[:n]) for n in (1024, -2, -1)),
    *(("tokens", DAMAGED_TOKENS[what]) for what in ("a token too high", "a token too many")),
    ("tokens", DAMAGED_TOKENS["no tokens"]),
]


@pytest.mark.parametrize("kind, data", LESSON_REFUSES)
def test_lesson_refuses_in_one_line(tmp_path, kind, data):
    path = write(tmp_path / "x.bin", data)
    with pytest.raises(SystemExit) as caught:
        LESSON[kind](path)
    assert str(caught.value.code).startswith(f"{path}: ") and "\n" not in caught.value.code


@pytest.mark.parametrize("kind", LESSON)
def test_lesson_has_no_file(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match=r"none\.bin"):  # the program makes it one line
        LESSON[kind](tmp_path / "none.bin")


def test_lesson_leaves_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = write(tmp_path / "w.bin", GOOD_WEIGHTS)
    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="No space"):
        gpt2.write_weights(path, flat_of(random_tensors(SMALL, seed=1), SMALL), SMALL)
    assert path.read_bytes() == GOOD_WEIGHTS
