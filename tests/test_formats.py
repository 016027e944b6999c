"""
The four kinds of files. What is read is built here, byte by byte, from the description of llm.c's
formats, and what is written is compared with such bytes: the careful readers and writers of
tools/formats.py first, in the end the plain ones of train_gpt2.py.
"""

import errno
import os
import struct
import tracemalloc

import test_gpt2
import train_gpt2 as gpt2
from tools import checkpoints, formats, token_files
from tools.console import UserError

import numpy as np
import pytest
from helpers import (
    HUGE,
    flat_of,
    folder,
    header,
    modest,
    random_tensors,
    state_bytes,
    token_bytes,
    tokenizer_bytes,
    weight_bytes,
    write,
)
from hypothesis import example, given
from hypothesis import strategies as st


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


CONFIGS = pytest.mark.parametrize("config", [SMALL, FULL_WTE])


@CONFIGS
@pytest.mark.parametrize("version, padding", [(1, b""), (3, NAN), (3, b"\0\0\x80\x3f")])
def test_read_float32_weights(tmp_path, config, version, padding):
    made = random_tensors(config)
    path = write(tmp_path / "w.bin", weight_bytes(config, version, made, padding))
    flat, found = formats.load_weights(path)
    assert found == config and isinstance(found, gpt2.GPT2Config)
    assert flat.dtype == np.float32 and flat.flags.c_contiguous and flat.flags.writeable
    assert flat.tobytes() == flat_of(made, config).tobytes()


@CONFIGS
def test_read_bfloat16_weights(tmp_path, config):
    made = random_tensors(config, kind="<u2")
    path = write(tmp_path / "w.bin", weight_bytes(config, 5, made, BF16_NAN))
    flat, found = formats.load_weights(path)
    assert found == config and flat.dtype == np.float32 and flat.flags.writeable
    halves = flat_of(made, config).tolist()
    assert flat.tobytes() == b"".join(struct.pack("<HH", 0, half) for half in halves)


def test_size_of_gpt2_124M_as_llmc_writes_it(tmp_path):
    """The real sizes, in a file of zeros that takes no room on the disk, and none in memory."""
    path = write(tmp_path / "w.bin", header(20240326, 3, 1024, 50257, 12, 12, 768, 50304))
    size = 1024 + 4 * 124_475_904  # with 47 rows of padding, as llm.c counts them
    os.truncate(path, size - 4 * 768)
    assert f"{size:,}" in refuses(formats.load_weights, path)
    os.truncate(path, size)
    assert formats.open_weights(path)[1] == (1024, 50257, 12, 12, 768)


@modest
@given(configs())
@example(SMALL)
@example(FULL_WTE)
def test_written_weights_byte_by_byte(config):
    made = random_tensors(config)
    with folder() as tmp:
        formats.write_weights(tmp / "w.bin", flat_of(made, config), config)
        assert (tmp / "w.bin").read_bytes() == weight_bytes(config, 3, made, b"\0" * 4)
        assert [path.name for path in tmp.iterdir()] == ["w.bin"]


@CONFIGS
def test_a_checkpoint_byte_by_byte(tmp_path, config):
    """Behind the weights m, then v, neither of them padded; then a text."""
    made, m, v = (random_tensors(config, seed) for seed in (0, 1, 2))
    v = {name: np.square(array) for name, array in v.items()}
    about = b'{"step": 3, "data": "data/x", "digest": "0a", "settings": {}}'
    built = write(tmp_path / "built.bin", weight_bytes(config, 3, made, NAN, (m, v), about))
    assert formats.load_weights(built)[0].tobytes() == flat_of(made, config).tobytes()
    for found, expected in zip(checkpoints.Checkpoint(built).moments(), (m, v), strict=True):
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


# ----------------------------------------------------------------------------
# Nothing that was there before is damaged


def fails(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_file_is_whole_on_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    old = GOOD["weights"][:9]  # of the same kind
    path, order = write(tmp_path / "w.bin", old), []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(fd):
        order.append(("fsync", os.fstat(fd).st_size))
        fsync(fd)

    def noted_replace(a, b):
        order.append(("replace", path.read_bytes()))
        replace(a, b)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    formats.write_weights(path, flat_of(random_tensors(SMALL), SMALL), SMALL)
    assert order == [("fsync", len(GOOD["weights"])), ("replace", old)]


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
    pytest.importorskip("torch", reason="needs PyTorch")
    import reference_gpt2 as reference

    config = config._replace(maxT=max(config.maxT, T))
    x, y, logits, losses = state_parts(config, B, T, steps)
    grads = random_tensors(config, seed=1)
    after = random_tensors(config, seed=2) if with_params else None
    parts = config, x, y, logits, losses, grads, SETTINGS, after
    with folder() as tmp:
        record = logits, flat_of(grads, config), losses
        options = {"lr": 0.02, "weight_decay": 0.3, "eps": 1e-5}
        options["params"] = flat_of(after, config) if with_params else None
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
    assert (state.params is not None) == with_params
    assert not with_params or state.params.tobytes() == flat_of(after, config).tobytes()


# ----------------------------------------------------------------------------
# Token files


@pytest.mark.parametrize("V", [0, 11, 50257, 65536, None])
def test_read_token_file(tmp_path, V):
    """With V in the header, where 0 means GPT-2's; None: without a header, in int32."""
    most = (V or 50257) - 1
    tokens = [0, 10, 3, 3, most]
    data = struct.pack("<5i", *tokens) if V is None else token_bytes(tokens, V)
    loaded, found = formats.load_tokens(write(tmp_path / "t.bin", data))
    assert found == most + 1 and loaded.tolist() == tokens
    assert isinstance(loaded, np.memmap)  # the largest data sets do not fit in memory


# ----------------------------------------------------------------------------
# Batches


@modest
@given(st.integers(1, 4), st.integers(1, 5), st.integers(4, 9), st.integers(0, 30), st.data())
def test_batches_in_order(B, T, windows, i, data):
    """After the last window the first again, amid a batch; each comes once in a round."""
    kind = data.draw(st.sampled_from(["<u2", "<i4"]))
    tokens = np.arange(T * windows + 1 + data.draw(st.integers(0, T - 1)), dtype=kind)
    tokens += 50000  # too large for int16
    tokens.flags.writeable = False  # as in a file
    x, y = gpt2.get_batch(tokens, i, B, T)
    first = [50000 + (i * B + b) % windows * T for b in range(B)]
    assert x.tolist() == [[token + j for j in range(T)] for token in first]
    assert np.array_equal(y, x + 1) and x.shape == (B, T) and x.dtype == y.dtype == np.int64


# ----------------------------------------------------------------------------
# Tokenizer


@modest
@given(st.lists(st.binary(max_size=255), min_size=1, max_size=20), st.data())
@example([b"\0", b"", b"x" * 255, "é".encode()], None)
def test_tokenizer_both_ways(vocabulary, data):
    end = data.draw(st.integers(0, len(vocabulary) - 1)) if data else 3
    with folder() as tmp:
        token_files.write_tokenizer(tmp / "v.bin", vocabulary, end)
        assert (tmp / "v.bin").read_bytes() == tokenizer_bytes(vocabulary, end)
        assert formats.load_tokenizer(tmp / "v.bin") == (vocabulary, end)


# ----------------------------------------------------------------------------
# Damaged files

LOADERS = {
    "weights": (formats.load_weights, ()),
    "state": (test_gpt2.load_state, (SMALL,)),
    "tokens": (formats.load_tokens, ()),
    "tokenizer": (formats.load_tokenizer, ()),
}
GOOD = {
    "weights": weight_bytes(SMALL, 3, random_tensors(SMALL), NAN),
    "state": state_bytes(
        SMALL, *state_parts(SMALL, 1, 1, 2), random_tensors(SMALL), SETTINGS, None, NAN
    ),
    "tokens": token_bytes([1, 2, 3, 4], 11),
    "tokenizer": tokenizer_bytes([b"ab", b"c", b"<end>"], 2),
}


def with_header(kind, more=None, **fields):
    """Return a good file whose header has these numbers (v1=0: its version is 0), and then more."""
    numbers = list(struct.unpack_from("<256i", GOOD[kind]))
    for field, number in fields.items():
        numbers[int(field[1:])] = number
    return header(*numbers) + (GOOD[kind][1024:] if more is None else more)


def damaged_in_any_way(kind):
    """Return what can happen to a file of any kind: what -> bytes."""
    good = GOOD[kind]
    swapped = np.frombuffer(good[:1024], "<i4").byteswap().tobytes()
    return {
        **{f"cut at {n}": good[:n] for n in (0, 1, 3, 4, 1023, 1024, 1028, len(good) // 2)},
        **{f"cut by {n}": good[:-n] for n in (1, 2, 4, 6)},
        **{f"{n} bytes too many": good + bytes(n) for n in (1, 2, 4)},
        **{f"a {other} file": data for other, data in GOOD.items() if other != kind},
        **{f"version {v}": with_header(kind, v1=v) for v in range(-1, 7) if v != good[4]},
        "big-endian": swapped + good[1024:],
        "text": b"First Citizen: Before we proceed any further, hear me speak.\n" * 99,
    }


DAMAGED = {kind: damaged_in_any_way(kind) for kind in GOOD}
DAMAGED["weights"] |= {
    **{f"{bad} as size {i}": with_header("weights", **{f"v{i + 2}": bad})
       for i in range(5) for bad in (0, -1)},
    "heads do not divide channels": with_header("weights", v5=3),
    "a text of -4 bytes": with_header("weights", GOOD["weights"][1024:-4], v8=-4),
    "m, but no v": with_header("weights", v9=1) + bytes(4 * gpt2.num_parameters(SMALL)),
    "2**31-1 layers": with_header("weights", v4=HUGE),
    "2**31-1 of all": header(20240326, 3, *[HUGE] * 6) + GOOD["weights"][1024:],
}  # fmt: skip
DAMAGED["state"] |= {
    "llm.c's own, without ours": GOOD["state"][: -(2 * 4 + 5 * 8)],
    "B and T 2**31-1": with_header("state", v2=HUGE, v3=HUGE),
    "2**31-1 steps": with_header("state", v4=HUGE),
    "B and T -1": with_header("state", v2=-1, v3=-1),
    "-8 steps": with_header("state", GOOD["state"][1024 : -4 * 10], v4=-8),
    "outputs that are not there": with_header("state", v6=1),
    "B 0": with_header("state", GOOD["state"][1024 : -4 * (2 + SMALL.V)], v2=0),
    "a token too high": with_header("state", struct.pack("<i", 131) + GOOD["state"][1028:]),
}
DAMAGED["tokens"] |= {
    "2**31-1 tokens": with_header("tokens", v2=HUGE),
    "-1 tokens": with_header("tokens", v2=-1),
    "-1 tokens, but one is there": with_header("tokens", b"\0\0", v2=-1),
    "no tokens": with_header("tokens", b"", v2=0),
    "no tokens, but one is there": with_header("tokens", b"\0\0", v2=0),
    "a token too high": token_bytes([1, 2, 11, 4], 11),
    "a vocabulary of -1": with_header("tokens", v3=-1),
    "headerless, a negative token": struct.pack("<4i", 1, 2, -3, 4),
    "headerless, a token too high": struct.pack("<4i", 1, 2, 50257, 4),
    "headerless, cut": struct.pack("<4i", 1, 2, 3, 4)[:-2],
}
DAMAGED["tokenizer"] |= {
    "end of text is no token": tokenizer_bytes([b"ab", b"c"], 2),
    "end of text is -1": tokenizer_bytes([b"ab", b"c"], -1),
    "2**31-1 tokens": with_header("tokenizer", v2=HUGE),
    "-3 tokens": with_header("tokenizer", v2=-3),
    "no tokens": header(20240328, 2, 0, 0),
}


@pytest.mark.parametrize(
    "kind, data",
    [
        pytest.param(kind, data, id=f"damaged_{kind}: {what}")
        for kind, found in DAMAGED.items()
        for what, data in found.items()
    ],
)
def test_refuses(tmp_path, kind, data):
    load, args = LOADERS[kind]
    refuses(load, write(tmp_path / "x.bin", data), *args)


def test_state_of_another_model(tmp_path):
    path = write(tmp_path / "s.bin", GOOD["state"])
    assert test_gpt2.load_state(path, SMALL).losses.size == 2
    refuses(test_gpt2.load_state, path, SMALL._replace(L=1))
    refuses(test_gpt2.load_state, path, SMALL._replace(V=130))


# ----------------------------------------------------------------------------
# The lesson's own readers and its writer


@CONFIGS
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
OFTEN = ["cut at 0", "cut at 3", "cut at 1023", "big-endian", "text", "version 4"]
SHORT = ["cut at 1024", "cut by 4", "cut by 2", "cut by 1"]
LESSON_REFUSES = [
    *((kind, what) for kind in LESSON for what in OFTEN),
    *((kind, f"a {other} file") for kind in LESSON for other in GOOD if other != kind),
    *((kind, what) for kind in ("weights", "tokens") for what in SHORT),
    *(("weights", f"{bad} as size {i}") for bad in (0, -1) for i in range(5)),
    ("weights", "heads do not divide channels"),
    *(("tokens", what) for what in ("a token too high", "2 bytes too many", "no tokens")),
]


@pytest.mark.parametrize("kind, what", LESSON_REFUSES)
def test_lesson_refuses_in_one_line(tmp_path, kind, what):
    path = write(tmp_path / "x.bin", DAMAGED[kind][what])
    with pytest.raises(SystemExit) as caught:
        LESSON[kind](path)
    assert str(caught.value.code).startswith(f"{path}: ") and "\n" not in caught.value.code


def test_lesson_leaves_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = write(tmp_path / "w.bin", GOOD["weights"])
    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="No space"):
        gpt2.write_weights(path, flat_of(random_tensors(SMALL, seed=1), SMALL), SMALL)
    assert path.read_bytes() == GOOD["weights"]
