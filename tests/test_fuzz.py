"""
The readers of the five kinds of binary files, on thousands of damaged ones: a file is refused in
one line that names it, or read as something whole. Nothing else may come of it: no other exception,
no warning, no token outside the vocabulary, no memory out of proportion to the file. It takes half
a minute.

    pytest -s tests/test_fuzz.py        # prints how many files of each kind were tried and refused
"""

import copy
import importlib
import itertools
import json
import math
import os
import random
import struct
import sys
import tracemalloc

import test_gpt2
import train_gpt2 as gpt2
from tools import checkpoints, formats, tensor_file, token_files
from tools.console import UserError

import numpy as np
import pytest
from helpers import (
    SMALL_STATE,
    boundaries,
    header,
    random_tensors,
    safetensors_bytes,
    safetensors_shapes,
    tensor_sizes,
    token_bytes,
    tokenizer_bytes,
    weight_bytes,
    write_tokens,
)

ROUNDS = 2000  # for each reader, besides a cut at each boundary in its files
MEMORY = 2**20  # bytes that reading may take, besides so many times those of the file:
TIMES = 100 if sys.version_info >= (3, 14) else 10  # "[[[[" is 88 bytes each; 3.14 goes deeper
GROWN = 3 * 2**30
ODD_NUMBERS = 0, 1, -1, 2, 3, 4, 5, 127, 128, 255, 2**16 - 1, 2**16, 2**24, 2**31 - 1, -(2**31)
ODD_JSON = (
    *ODD_NUMBERS, 2**31, 2**63, -(2**63), 10**30, 1.5, 1e308, float("nan"), float("inf"), True,
    None, "", "F16", "F32", "BF16", "I64", "\0\n\ud800", "wte.weight", [], {}, [[]], [0, 2**62],
    [0] * 99,
)  # fmt: skip
ODD_TEXT = b"[" * 10**5, b"9" * 5000, b"{}", b"[]", b"null", b'"', b"\xff\xfe", b"", b'{"a":1}' * 2

CONFIG = gpt2.GPT2Config(maxT=3, V=131, L=2, NH=2, C=4)
ABOUT = {
    "step": 7, "data": "x", "digest": "0a1b", "val_loss": 3.5,
    "settings": {"steps": 9, "lr": 1e-3, "shuffle": True, "seed": 3},
}  # fmt: skip
SMALL = gpt2.GPT2Config(maxT=19, V=101, L=2, NH=3, C=24)  # of tests/small_state.bin


# ----------------------------------------------------------------------------
# A kind of file: good(folder) -> good files, each with the boundaries in it; fitted(rng) -> a file
# of the length that its random header means; read(path, data) reads it and looks at what it got


def good_weights(folder):
    made, halves = random_tensors(CONFIG), random_tensors(CONFIG, kind="<u2")
    v = {name: abs(array) for name, array in made.items()}
    about, moments = json.dumps(ABOUT).encode(), [4 * gpt2.num_parameters(CONFIG)] * 2
    return [
        (
            weight_bytes(CONFIG, 3, made, bytes(4), (made, v), about),
            boundaries(*tensor_sizes(CONFIG), *moments),
        ),
        (weight_bytes(CONFIG, 5, halves, bytes(2)), boundaries(*tensor_sizes(CONFIG, True, 2))),
        (weight_bytes(CONFIG, 1, made), boundaries(*tensor_sizes(CONFIG, False))),
    ]


def fitted_weights(rng):
    version, NH = rng.choice((1, 3, 3, 3, 5)), rng.choice((1, 2))
    sizes = [rng.randint(1, 3), rng.randint(1, 140), rng.randint(1, 2), NH, NH * rng.randint(1, 4)]
    if rng.random() < 0.3:
        sizes[rng.randrange(5)] = rng.randint(-3, 3)
    config = gpt2.GPT2Config(*sizes)
    moments, text = rng.choice((0, 2, 2, 1, -1)), json.dumps(ABOUT).encode()
    about = rng.choice((0, len(text), len(text), 2, -8))
    numbers = sum(tensor_sizes(config, version != 1, 1)) + moments * gpt2.num_parameters(config)
    body = bytearray(rng.randbytes(max(0, min(numbers, 10**5)) * (2 if version == 5 else 4)))
    if version == 3:
        body[len(body) + min(about, 0) :] = text[:about] if about > 0 else b""
    return header(20240326, version, *sizes, 256, about, moments) + body


def read_weights(path, data):
    """As tools/train.py does with --resume."""
    about = checkpoints.read_about(path)
    if about:
        assert type(about["step"]) is int and about["step"] >= 0 and type(about["data"]) is str
        for name, value in about["settings"].items():
            assert type(value) in (int, float, bool) and 0 <= value < math.inf, name
    flat, config = formats.load_weights(path)
    assert min(config) > 0 and config.C % config.NH == 0
    assert flat.dtype == np.float32 and flat.shape == (gpt2.num_parameters(config),)
    (version,) = struct.unpack_from("<i", data, 4)
    behind, moments = struct.unpack_from("<2i", data, 32) if version == 3 else (0, 0)
    sizes = tensor_sizes(config, version != 1, 2 if version == 5 else 4)
    end = 1024 + sum(sizes)
    assert behind >= 0 and moments in (0, 2)
    assert len(data) == end + moments * flat.nbytes + behind
    if moments:
        m, v = checkpoints.Checkpoint(path).moments()  # refused if one of them is not finite
        assert m.tobytes() + v.tobytes() == data[end : len(data) - behind]
        assert np.isfinite(m).all() and 0 <= v.min() <= v.max() < np.inf
    else:
        with pytest.raises(UserError):
            checkpoints.Checkpoint(path).moments()


def good_state(folder):
    data = SMALL_STATE.read_bytes()
    B, T, steps, _ = struct.unpack_from("<4i", data, 8)
    batch = 4 * B * T
    sizes = batch, batch, batch * SMALL.V, 4, *tensor_sizes(SMALL), 5 * 8, 4 * steps
    return [(data, boundaries(*sizes, *tensor_sizes(SMALL)))]


def fitted_state(rng):
    numbers = B, T, steps, has_params = rng.choices((-2, -1, 0, 1, 1, 2, 3), k=4)
    padded = sum(tensor_sizes(SMALL, True, 1))
    size = 2 * B * T + B * T * SMALL.V + 1 + padded + 2 * 5 + steps + has_params * padded
    batch = rng.choices((0, 5, SMALL.V - 1, -1, SMALL.V), (50, 50, 50, 1, 1), k=2 * abs(B * T))
    x_y = struct.pack(f"<{len(batch)}i", *batch)
    rest = rng.randbytes(4 * max(0, size - len(batch)))
    return header(20240327, 2, *numbers) + x_y + rest


def read_state(path, data):
    state = test_gpt2.load_state(path, SMALL)
    (B, T), V = state.x.shape, SMALL.V
    assert state.y.shape == (B, T) and state.logits.shape == (B * T, V)
    assert 0 <= min(state.x.min(), state.y.min()) <= max(state.x.max(), state.y.max()) < V
    assert len(state.losses) > 0 and len(state.settings) == 5
    for flat in (state.grads,) if state.params is None else (state.grads, state.params):
        assert flat.dtype == np.float32 and flat.shape == (gpt2.num_parameters(SMALL),)


def good_tokens(folder):
    tokens = np.random.default_rng(0).integers(0, 300, 500)
    write_tokens(folder / "tokens_2.bin", tokens, 50257)  # the second of two shards
    return [
        (token_bytes(tokens[::-1].tolist(), 50257), boundaries(500)),
        (tokens.astype("<i4").tobytes(), [4, 500]),  # headerless
    ]


def fitted_tokens(rng):
    V = rng.choice((*ODD_NUMBERS, 300))
    tokens = [rng.choice((0, 1, 5, 299, 50256, 2**16 - 1)) for _ in range(rng.randint(0, 3))]
    headerless = struct.pack(f"<{len(tokens)}i", *tokens)
    return headerless if rng.random() < 0.3 else token_bytes(tokens, V)


def read_tokens(path, data):
    tokens, V = formats.load_tokens(path)
    assert tokens.ndim == 1 and len(tokens) > 0 and tokens.dtype in ("<u2", "<i4")
    assert 0 <= tokens.min() <= tokens.max() < V
    shards, same_V = token_files.load_shards(path.parent / "tokens")  # with one that is good
    assert V == same_V and len(shards) == 2 and np.array_equal(shards[0][:], tokens)


def good_tokenizer(folder):
    vocabulary = [bytes([i]) * (i % 9) for i in range(60)]
    return [(tokenizer_bytes(vocabulary, 59), boundaries(*(1 + len(t) for t in vocabulary)))]


def fitted_tokenizer(rng):
    vocabulary = [rng.randbytes(rng.choice((0, 1, 2, 255))) for _ in range(rng.randint(0, 4))]
    return tokenizer_bytes(vocabulary, rng.randint(-1, 5))


def read_tokenizer(path, data):
    vocabulary, end_of_text = formats.load_tokenizer(path)
    assert 0 <= end_of_text < len(vocabulary) == struct.unpack_from("<i", data, 8)[0]
    assert tokenizer_bytes(vocabulary, end_of_text)[1024:] == data[1024:]


def good_safetensors(folder):
    shapes, bytes_of = safetensors_shapes(3, 5, 64), random.Random(0).randbytes
    return [
        safetensors_bytes(shapes, [dtype] * len(shapes), bytes_of)
        for dtype in ("F16", "BF16", "F32")
    ]


def fitted_safetensors(rng):
    shapes = safetensors_shapes(rng.randint(0, 3), rng.randint(0, 5), rng.choice((0, 32, 64)))
    if rng.random() < 0.3:
        shapes[rng.choice(list(shapes))] = rng.choice(((), (0, 2**62), (1, 64), (64,), (1, 1, 64)))
    if rng.random() < 0.3:
        shapes[rng.choice(("lm_head.weight", "h.1.ln_1.weight", "h.0.attn.bias", "x"))] = (5, 64)
    dtypes = rng.choice((["F16", "BF16", "F32"], ["F32"] * 20 + ["I64"]))
    return safetensors_bytes(shapes, rng.choices(dtypes, k=len(shapes)), rng.randbytes)[0]


def read_safetensors(path, data):
    from tools import huggingface  # here, because its encodings may take a while to import

    flat, config = huggingface.load(path)
    assert min(config) > 0 and config.C % config.NH == 0
    assert flat.dtype == np.float32 and flat.shape == (gpt2.num_parameters(config),)
    (length,) = struct.unpack_from("<Q", data)
    entries = json.loads(data[8 : 8 + length])
    spans = sorted(e["data_offsets"] for name, e in entries.items() if name != "__metadata__")
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    assert spans[0][0] >= 0 and spans[-1][1] <= len(data) - 8 - length
    assert set(tensor_file.read_header(path, "hint")) == entries.keys() - {"__metadata__"}


KINDS = {
    "weights": (good_weights, fitted_weights, read_weights),
    "state": (good_state, fitted_state, read_state),
    "tokens": (good_tokens, fitted_tokens, read_tokens),
    "tokenizer": (good_tokenizer, fitted_tokenizer, read_tokenizer),
    "safetensors": (good_safetensors, fitted_safetensors, read_safetensors),
}

# ----------------------------------------------------------------------------
# Damage: functions of a random generator and a bytearray, which they change


def position(rng, data):
    """Half of them in the used part of the header, where a byte means most."""
    return rng.randrange(min(len(data), 48) if rng.random() < 0.5 else len(data))


def flip_bits(rng, data):
    for _ in range(rng.randint(1, 8)):
        data[position(rng, data)] ^= 1 << rng.randrange(8)


def set_bytes(rng, data):
    at, n = position(rng, data), rng.randint(1, 16)
    data[at : at + n] = rng.choice((b"\0" * n, b"\xff" * n, rng.randbytes(n)))


def set_number(rng, data):
    """An odd number, or one off by a little."""
    at = position(rng, data) // 4 * 4
    if at + 4 <= len(data):
        near = struct.unpack_from("<i", data, at)[0] + rng.randint(-3, 3)
        number = rng.choice((rng.choice(ODD_NUMBERS), near)) % 2**32
        data[at : at + 4] = struct.pack("<I", number)


def truncate(rng, data):
    del data[rng.randrange(len(data)) :]


def append(rng, data):
    data += rng.randbytes(rng.choice((1, 2, 4, 8, 1000)))


def repeat_slice(rng, data):
    """Twice, or not at all."""
    at, n = position(rng, data), rng.choice((1, 2, 4, 100))
    data[at : at + n] = data[at : at + n] * rng.choice((0, 2))


def byteswap_header(rng, data):
    if len(data) >= 1024:
        data[:1024] = np.frombuffer(data[:1024], "<i4").byteswap().tobytes()


BYTES = flip_bits, set_bytes, set_number, truncate, append, repeat_slice, byteswap_header


def places(tree):
    """Each place in a nest of dicts and lists, as the dict or list and its key or index."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from places(tree[key])


def damage_json(rng, text):
    if rng.random() < 0.1:
        return rng.choice(ODD_TEXT)
    tree = json.loads(text)
    for _ in range(rng.randint(1, 2)):
        found = list(places(tree))
        if not found:
            break
        (a, key), (b, other) = rng.choice(found), rng.choice(found)
        match rng.randrange(5):
            case 0:
                del a[key]
            case 1 if isinstance(a, dict) and isinstance(b, dict):
                a[str(other)] = a.pop(key)  # another name
            case 2:
                same = rng.choice([c[k] for c, k in found if k == key])  # that of another entry
                a[key] = copy.deepcopy(same)
            case _:
                a[key] = copy.deepcopy(rng.choice((*ODD_JSON, b[other])))
    return json.dumps(tree).encode()


def damage_text(rng, kind, data):
    """Damage the JSON text of a file that has one, and have the file say how long it is now."""
    if kind == "safetensors":
        start, end = 8, 8 + struct.unpack_from("<Q", data)[0]
        text = damage_json(rng, data[start:end])
        return struct.pack("<Q", len(text)) + text + data[end:]
    if kind == "weights" and (size := struct.unpack_from("<i", data, 4 * 8)[0]):
        text = damage_json(rng, data[-size:])
        return data[: 4 * 8] + struct.pack("<i", len(text)) + data[4 * 9 : -size] + text
    return data


def damaged_files(kind, good, fitted):
    """Yield the files to try: bytes."""
    for data, cuts in good:
        for cut in 0, 4, 8, *cuts:
            yield from (data[: max(0, cut + more)] for more in (-4, -1, 0, 1, 4))
    rng = random.Random(kind)
    for _ in range(ROUNDS):
        (data, _), way = rng.choice(good), rng.random()
        if way < 0.15:
            yield fitted(rng)
            continue
        if way < 0.5:
            data = damage_text(rng, kind, data)
        if way > 0.35:
            data = bytearray(data)
            for change in rng.choices(BYTES, k=rng.choice((1, 1, 2, 3))):
                if data:
                    change(rng, data)
        yield bytes(data)


# ----------------------------------------------------------------------------


def outcome(read, path, data):
    """Read a file -> what it was refused for, or None; bytes of memory that this took."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    try:
        read(path, data)
        refused = None
    except UserError as error:
        refused = error.text
        assert str(path.parent) in refused and "\n" not in str(error), refused
    return refused, tracemalloc.get_traced_memory()[1] - before


@pytest.fixture(params=KINDS)
def kind(request):
    if request.param == "safetensors":
        importlib.import_module("tools.huggingface")  # before memory is traced, which takes time
    tracemalloc.start()
    yield request.param
    tracemalloc.stop()


@pytest.mark.filterwarnings("error")
def test_damaged_files(tmp_path, kind):
    make, fitted, read = KINDS[kind]
    good, path = make(tmp_path), tmp_path / f"{kind}_1.bin"
    for data, _ in good:
        path.write_bytes(data)
        assert outcome(read, path, data)[0] is None
    tried, refused, most = 0, 0, 0
    for data in damaged_files(kind, good, fitted):
        path.unlink()  # ext4 would go to the disk for a file that is cut to nothing and written
        path.write_bytes(data)
        try:
            why, memory = outcome(read, path, data)
            if memory >= MEMORY:  # maybe Python's, whose table of names grew by 1.3 MB, in 3.10
                why, memory = outcome(read, path, data)
            assert memory < MEMORY + TIMES * len(data), f"it took {memory:,} bytes"
        except Exception as error:
            raise AssertionError(f"file {tried}, which begins {data[:56]!r}") from error
        tried, refused, most = tried + 1, refused + (why is not None), max(most, memory)
    assert tried > ROUNDS and 50 < refused < tried - 50
    print(f"\n{kind}: {tried:,} files, {refused:,} refused, {most / 1e6:.1f} MB at most")


def test_long_files(tmp_path, kind):
    """Gigabytes of zeros, which take no room on the disk, are refused without being read."""
    make, _, read = KINDS[kind]
    (data, _), *_ = make(tmp_path)
    files = [(data, GROWN)]
    if kind == "weights":  # they could be the JSON text
        at, most = 4 * 8, 2**31 - 1
        size = len(data) - struct.unpack_from("<i", data, at)[0] + most
        files.append((data[:at] + struct.pack("<i", most) + data[at + 4 :], size))
    if kind == "safetensors":
        files = [(struct.pack("<Q", GROWN - 8) + data[8:], GROWN)]
    path = tmp_path / f"{kind}_1.bin"
    for start, size in files:
        path.write_bytes(start)
        os.truncate(path, size)
        why, memory = outcome(read, path, start)
        assert why is not None and memory < MEMORY
