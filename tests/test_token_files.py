"""tools/token_files.py: token files, datasets that are whole or not at all, batches of many."""

import argparse
import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import train_gpt2 as gpt2
from tools import formats, token_files
from tools.console import UserError
from tools.encoding import byte_vocabulary
from tools.formats import load_tokenizer, load_tokens
from tools.token_files import get_batch, load_shards, num_batches, write_splits

import numpy as np
import pytest
from helpers import folder, modest, token_bytes, write, write_tokens
from hypothesis import given
from hypothesis import strategies as st


def refusal(call, *args):
    """Return the line that a call ends with."""
    with pytest.raises(UserError) as error:
        call(*args)
    assert ";" in error.value.text or "can't hold" in error.value.text
    return error.value.text


# ----------------------------------------------------------------------------
# Names


def test_where_a_dataset_lies(tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "DATA", tmp_path / "project" / "data")
    assert token_files.prefix_of("x") == tmp_path / "project" / "data" / "x"
    assert token_files.prefix_of("./x") == Path("x")
    assert token_files.prefix_of("a/x") == Path("a/x")
    for name in "", ".", "..", "folder/", "folder/..", "/":
        with pytest.raises(argparse.ArgumentTypeError, match="no name that files can begin with"):
            token_files.dataset_name(name)


def test_shown_paths_work_from_where_the_user_stands(tmp_path, monkeypatch):
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    (tmp_path / "inner").mkdir()
    for here in ".", "in", "in/deeper", "inner":
        monkeypatch.chdir(tmp_path / here)
        path = token_files.shown(tmp_path / "in" / "x")
        assert os.path.abspath(path) == str(tmp_path / "in" / "x")
        assert path == {".": "in/x", "in": "x"}.get(here, str(tmp_path / "in" / "x"))


# ----------------------------------------------------------------------------
# One file


def write_one(path, V, chunks):
    with formats.replacing(path) as f:
        return token_files.fill_tokens(f, path, V, chunks)


@modest
@given(st.lists(st.integers(0, 300), min_size=1, max_size=50), st.integers(301, 2**16))
def test_written_tokens_byte_by_byte(tokens, V):
    with folder() as tmp:
        half = len(tokens) // 2
        chunks = iter([tokens[:half], np.array(tokens[half:])])
        assert write_one(tmp / "t.bin", V, chunks) == len(tokens)
        assert (tmp / "t.bin").read_bytes() == token_bytes(tokens, V)


@pytest.mark.parametrize(
    "V, chunks", [(7, [[1, 7]]), (7, [[1], [-1]]), (7, [np.array([2**16 + 1])]), (10**6, [[2**16]])]
)
def test_ids_outside_the_vocabulary(tmp_path, V, chunks):
    (tmp_path / "x.bin").write_bytes(b"old")
    with pytest.raises(ValueError, match=f"not below {V}, or not in 16 bits"):
        write_one(tmp_path / "x.bin", V, chunks)
    assert (tmp_path / "x.bin").read_bytes() == b"old" and os.listdir(tmp_path) == ["x.bin"]


def test_counts_that_a_header_cannot_say(tmp_path):
    assert "0 tokens" in refusal(write_one, tmp_path / "x.bin", 7, [[], []])
    assert os.listdir(tmp_path) == []
    nowhere = SimpleNamespace(write=lambda data: None, seek=lambda at: None)
    many = itertools.repeat(np.zeros(2**24, np.uint8), 2**7)
    assert "2,147,483,648 tokens" in refusal(token_files.fill_tokens, nowhere, "x.bin", 7, many)


# ----------------------------------------------------------------------------
# A dataset: both parts and the tokenizer, or what was there before


FILES = ["x_tokenizer.bin", "x_train.bin", "x_val.bin"]


@pytest.fixture(autouse=True)
def own_tokenizer(tmp_path_factory, monkeypatch):
    """Every test has another place for GPT-2's tokenizer."""
    path = tmp_path_factory.mktemp("project") / "gpt2_tokenizer.bin"
    monkeypatch.setattr(gpt2, "TOKENIZER_FILE", path)


def make(tmp_path, token, vocabulary=None):
    splits = {"val": [[token] * 3], "train": [[token] * 5, [token]]}
    write_splits(tmp_path / "x", *(vocabulary or byte_vocabulary()), splits)


def test_a_dataset_has_its_tokenizer(tmp_path, capsys):
    make(tmp_path, 65)
    assert sorted(os.listdir(tmp_path)) == FILES
    assert load_tokens(tmp_path / "x_train.bin")[0].tolist() == [65] * 6
    assert load_tokens(tmp_path / "x_val.bin")[0].tolist() == [65] * 3
    assert load_tokenizer(tmp_path / "x_tokenizer.bin") == byte_vocabulary()
    assert formats.load_vocabulary(tmp_path / "x", 257) == byte_vocabulary()
    assert [line.split(" to ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "wrote 3 tokens",
        "wrote 6 tokens",
        "wrote the vocabulary, 257 tokens,",
    ]


@pytest.fixture
def as_gpt2(monkeypatch):
    """A small vocabulary that counts as GPT-2's."""
    vocabulary = [b"a", b"b", b"<end>"], 2
    monkeypatch.setattr(token_files, "is_gpt2", lambda tokens: tokens == vocabulary[0])
    return vocabulary


def test_gpt2s_tokenizer_is_written_once(tmp_path, as_gpt2):
    make(tmp_path, 65)  # of other tokens: that tokenizer goes
    make(tmp_path, 1, as_gpt2)
    assert sorted(os.listdir(tmp_path)) == FILES[1:]
    assert load_tokenizer(gpt2.TOKENIZER_FILE) == as_gpt2
    before = gpt2.TOKENIZER_FILE.stat().st_mtime_ns
    make(tmp_path, 0, as_gpt2)
    assert gpt2.TOKENIZER_FILE.stat().st_mtime_ns == before
    assert sorted(os.listdir(tmp_path)) == FILES[1:]


# ----------------------------------------------------------------------------
# Batches


@modest
@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 90), st.integers(0, 200))
def test_batches_of_one_array_are_those_of_the_lesson(B, T, count, i):
    tokens = np.random.default_rng(count).integers(0, 9, max(count, B * T + 1)).astype("<u2")
    theirs = gpt2.get_batch(tokens, i, B, T)
    for ours, expected in zip(get_batch([tokens], i, B, T), theirs, strict=True):
        assert np.array_equal(ours, expected) and ours.dtype == expected.dtype


def test_order_of_shuffled_batches():
    shards = [np.arange(1000 * i, 1000 * i + 3 * 20 + 1) for i in range(2)]

    def order(epoch, seed):
        return [get_batch(shards, 20 * epoch + i, 2, 3, seed)[0][:, 0].tolist() for i in range(20)]

    which = [(epoch, seed) for epoch in (0, 1, 2) for seed in (1337, 1, 0)]
    orders = [order(*one) for one in which]
    assert len({str(found) for found in [*orders, order(0, None)]}) == 10
    assert [order(*one) for one in which] == orders
    mixed = {tuple(window // 1000 for window in batch) for batch in orders[1]}
    assert mixed == {(0, 0), (0, 1), (1, 0), (1, 1)}


@modest
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from([None, 0, 7]),
)
def test_batches_of_several_arrays(lengths, B, T, seed):
    """No window crosses an array's end, and each is seen once in a round, amid a batch or not."""
    starts = [1000 * i for i in range(len(lengths))]
    shards = [np.arange(a, a + n) for a, n in zip(starts, lengths, strict=True)]
    windows = [a + T * k for a, n in zip(starts, lengths, strict=True) for k in range((n - 1) // T)]
    batches = num_batches(shards, B, T)
    assert batches == len(windows) // B
    seen = []
    for i in range(3 * (batches + 1)) if batches else ():
        x, y = get_batch(shards, i, B, T, seed)
        assert np.array_equal(x, x[:, :1] + np.arange(T)) and np.array_equal(y, x + 1)
        assert x.shape == (B, T)
        seen += x[:, 0].tolist()
    for epoch in range(3) if batches else ():
        found = seen[epoch * len(windows) : (epoch + 1) * len(windows)]
        assert (sorted(found) if seed is not None else found) == windows


# ----------------------------------------------------------------------------
# Shards


def test_shards_in_their_order(tmp_path):
    tmp_path = tmp_path / "a[b]*?"  # which glob is not to take for a pattern
    tmp_path.mkdir()
    for i in 2, 10, 0, 1:  # not in their order on the disk, nor is 10 before 2
        write_tokens(tmp_path / f"x_train_{i}.bin", [i % 11, 0, 0], 11)
    write_tokens(tmp_path / "y_train_000000.bin", [9], 11)
    write(tmp_path / "x_train_000003.bin.part", b"cut off")
    shards, V = load_shards(tmp_path / "x_train")
    assert V == 11 and [int(tokens[:1][0]) for tokens in shards] == [0, 1, 2, 10]
    write_tokens(tmp_path / "x_train.bin", [5, 6], 11)
    assert "x_train.bin: is there, and " in refusal(load_shards, tmp_path / "x_train")


def test_shards_that_do_not_belong_together(tmp_path):
    assert f"{tmp_path / 'x.bin'}: there is no file" in refusal(load_shards, tmp_path / "x")
    write_tokens(tmp_path / "x_0.bin", [1, 2], 11)
    write_tokens(tmp_path / "x_1.bin", [1, 2], 12)
    message = refusal(load_shards, tmp_path / "x")
    assert "11" in message and "12" in message
    write(tmp_path / "x_1.bin", b"x")
    assert "x_1.bin" in refusal(load_shards, tmp_path / "x")
