"""Vocabularies trained on texts, against plain BPE that counts everything anew in each round."""

import itertools
import random
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path

from tools import bpe, encoding
from tools.bpe import Pairs, train_bpe
from tools.console import UserError
from tools.formats import load_tokenizer
from tools.hf_tokenizer import merges
from tools.token_files import write_tokenizer

import pytest
import regex
from helpers import PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(PROJECT / "exercises"))

import answers  # noqa: E402

THIS_FILE = Path(__file__).read_text(encoding="utf-8")
BYTES = [bytes([byte]) for byte in range(256)]
END = b"<|endoftext|>"
PARTS = "a aa aaa ab ba b 's 11 = == é 日本 本日 \U0001f600 e\u0301".split()
PARTS += ["ab ab", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\u3000", "\0", "<|endoftext|>"]
# few parts, so that pairs come again, tie and overlap
TEXTS = st.lists(st.sampled_from(PARTS), max_size=40).map("".join)
# tiktoken and the regex package may know letters of different versions of Unicode
KNOWN = st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=30)


def joined(tokens, pair, new):
    """A list of tokens with new in place of each pair, from the left."""
    out = []
    for token in tokens:
        out.append(token)
        if tuple(out[-2:]) == pair:
            out[-2:] = [new]
    return out


def counted(words, times):
    """How often each pair of tokens stands side by side in words, word -> its tokens."""
    counts = Counter()
    for word, tokens in words.items():
        for pair in itertools.pairwise(tokens):
            counts[pair] += times[word]
    return counts


def plain_bpe(text, vocab_size=2**16):
    """Textbook BPE -> tokens without end of text, merged pairs of ids, word -> its tokens."""
    times = Counter(regex.findall(encoding.WORDS, text))
    words = {word: list(word.encode()) for word in times}
    vocabulary, pairs = list(BYTES), []
    while len(vocabulary) < vocab_size - 1:
        counts = counted(words, times)
        made = [vocabulary[a] + vocabulary[b] for a, b in counts]
        # what train_bpe's docstring claims: no bytes become a token twice
        assert len(set(made)) == len(made) and not set(made) & set(vocabulary)
        fit = {pair for token, pair in zip(made, counts, strict=True) if len(token) <= 255}
        if not fit:
            break
        pair = min(fit, key=lambda pair: (-counts[pair], pair))
        words = {word: joined(tokens, pair, len(vocabulary)) for word, tokens in words.items()}
        vocabulary.append(vocabulary[pair[0]] + vocabulary[pair[1]])
        pairs.append(pair)
    return vocabulary, pairs, words


def plain_encode(text, pairs):
    """The ids of a text: each merge in its order, wherever its pair stands."""
    ids = []
    for word in regex.findall(encoding.WORDS, text):
        tokens = list(word.encode())
        for new, pair in enumerate(pairs, 256):
            tokens = joined(tokens, pair, new)
        ids += tokens
    return ids


def encoding_of(vocabulary):
    return encoding.encoding_of(vocabulary, len(vocabulary) - 1)


def new_tokens(text, count):
    """The first count tokens that are made for a text."""
    vocabulary = train_bpe([text], 257 + count)
    assert vocabulary[:256] == BYTES and vocabulary[-1] == END and len(vocabulary) == 257 + count
    return vocabulary[256:-1]


# ----------------------------------------------------------------------------
# The vocabulary


@settings(deadline=None)
@given(TEXTS | KNOWN, st.data())
def test_is_that_of_plain_bpe(text, data):
    plain, pairs, words = plain_bpe(text)
    most = len(plain) + 1
    vocab_size = data.draw(st.integers(257, most))
    assert train_bpe([text], vocab_size) == [*plain[: vocab_size - 1], END]
    vocabulary = train_bpe([text], most)
    assert vocabulary == [*plain, END]
    with pytest.raises(UserError, match=f"enough for {most} only; ask for no more"):
        train_bpe([text], most + 1)
    # and what training has made of each word, tiktoken makes of it
    encoding = encoding_of(vocabulary)
    for word, tokens in words.items():
        assert encoding.encode_ordinary(word) == tokens
        assert answers.encode([*word.encode()], pairs) == tokens  # as the exercise has it
    # and the export finds the merges again
    assert merges(vocabulary, most - 1) == [[plain[a], plain[b]] for a, b in pairs]


@settings(deadline=None)
@given(TEXTS, st.randoms())
def test_counts_after_merges_are_those_counted_anew(text, draw):
    times = Counter(regex.findall(encoding.WORDS, text))
    words, pairs = {word: list(word.encode()) for word in times}, Pairs(times)
    for new in itertools.count(256):
        counts = counted(words, times)
        assert +pairs.counts == counts  # without those that aren't positive
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        assert answers.pairs([*words.values()], [times[w] for w in words]) == (counts, best)
        pair = draw.choice(sorted(counts))
        words = {word: joined(tokens, pair, new) for word, tokens in words.items()}
        fresh = pairs.merge(*pair, new)
        assert sorted(fresh) == sorted(pair for pair in +pairs.counts if new in pair)


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("zy\nzy\nzx\nab\nzy", "zy|ab"),  # the most frequent pair first
        ("ab cd\nac", " c|ab|ac| cd"),  # of equal counts the smaller ids first
        ("dc\nba\nbc\nac", "ac|ba|bc|dc"),
        ("abz\nab\nyz", "ab|yz|abz"),  # of new tokens too: "ab" is 256, behind every byte
        ("abc\nxbc\nab\nab", "ab|bc"),  # of two b and c, one goes into ab, the other comes first
        ("aaa\nbc\nbc", "aa|bc|aaa"),  # pairs that overlap count each: "aa" twice, so it ties
        ("aaa\nbc\nbc\nbc", "bc|aa|aaa"),
        ("a b a b a b", " b"),  # within words, so never "a "
    ],
)
def test_order_of_merges(text, tokens):
    expected = tokens.encode().split(b"|")
    assert new_tokens(text, len(expected)) == expected


def test_pieces_of_a_file_are_as_its_whole(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text(THIS_FILE, encoding="utf-8")
    monkeypatch.setattr(encoding, "CHUNK", 100)
    pieces = list(encoding.text_pieces(tmp_path / "a.txt"))
    assert len(pieces) > 20
    assert train_bpe(iter(pieces), 700) == train_bpe([THIS_FILE], 700)


def test_no_token_is_too_long_for_a_tokenizer_file(tmp_path):
    assert max(map(len, new_tokens("=" * 255, 14))) == 255
    text = "=" * 3000 + "\n" + "na" * 400
    plain, _, words = plain_bpe(text)
    vocabulary = train_bpe([text], len(plain) + 1)
    assert vocabulary == [*plain, END] and max(map(len, vocabulary)) <= 255
    for word, tokens in words.items():  # long ones, for which tiktoken has another way
        assert encoding_of(vocabulary).encode_ordinary(word) == tokens
    write_tokenizer(tmp_path / "a.bin", vocabulary, len(plain))
    assert load_tokenizer(tmp_path / "a.bin") == (vocabulary, len(plain))


def test_sizes_at_the_bounds():
    for vocab_size in -1, 0, 256, 65537:
        with pytest.raises(UserError, match="257 to 65,536"):
            train_bpe(["some text"], vocab_size)
    assert train_bpe([], 257) == [*BYTES, END]
    with pytest.raises(UserError, match="65,536 tokens: the text is enough for 257 only"):
        train_bpe([""], 65536)


# ----------------------------------------------------------------------------
# Its encoding


@pytest.fixture(scope="module")
def trained():
    """A vocabulary of this file, and its merges."""
    text = THIS_FILE + "日本語のテキスト、日本の本 naïve " * 5
    vocabulary, pairs, _ = plain_bpe(text, 600)
    assert train_bpe([text], 600) == [*vocabulary, END]
    return [*vocabulary, END], pairs


@settings(deadline=None)
@given(text=st.text() | TEXTS)
def test_encoding_decodes_to_the_text(trained, text):
    encoding = encoding_of(trained[0])
    ids = encoding.encode_ordinary(text)
    assert encoding.decode(ids) == text
    assert all(i < 599 for i in ids)  # never the end of text
    assert b"".join(trained[0][i] for i in ids) == text.encode()


@settings(deadline=None)
@given(text=KNOWN | TEXTS | st.lists(st.sampled_from(THIS_FILE.split())).map(" ".join))
def test_encoding_is_that_of_the_merges(trained, text):
    assert encoding_of(trained[0]).encode_ordinary(text) == plain_encode(text, trained[1])


# ----------------------------------------------------------------------------
# Time and memory


def some_text(count):
    """Some text of about count distinct words."""
    draw = random.Random(0)
    return " ".join("".join(draw.choices("abcdefgh", k=8)) for _ in range(count))


def test_the_rarest_of_too_many_words_are_left_out(monkeypatch):
    monkeypatch.setattr(bpe, "MOST_BYTES", 8)
    texts = [" b b", " aaa", " a a", " c", " a"]
    assert bpe.count_words(texts) == {" a": 3, " b": 2, " aaa": 1}
    monkeypatch.setattr(bpe, "MOST_BYTES", 7)
    assert bpe.count_words(texts) == {" a": 3, " b": 2}


def test_repeated_text_takes_no_more_memory():
    text, peaks, vocabularies = some_text(3000), [], []
    for copies in 1, 300:
        tracemalloc.start()
        vocabularies.append(train_bpe(itertools.repeat("\n" + text, copies), 1000))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert vocabularies[0] == vocabularies[1]
    assert peaks[1] < 1.1 * peaks[0]  # 1.04 times, because small ints take no memory


def seconds(text, vocab_size):
    times = []
    for _ in range(2):
        start = time.process_time()
        train_bpe([text], vocab_size)
        times.append(time.process_time() - start)
    return min(times)


def test_time_grows_with_the_distinct_words():
    # 5.5 times; about 16 times if each merge looked at all words or all pairs
    assert seconds(some_text(16000), 8000) < 10 * seconds(some_text(4000), 2000)
    words = some_text(6000)  # a long word takes no longer than short ones: 1.6 times
    assert seconds(words.replace(" ", ""), 4000) < 5 * seconds(words, 4000)
