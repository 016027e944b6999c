"""The prepro scripts: token files, wrong input."""

import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import prepro_pythondocs
import prepro_text
import prepro_tinyshakespeare
import prepro_tinystories
import train_gpt2 as gpt2
from tools import encoding as encodings
from tools import formats, token_files
from tools.console import NoNetwork, UserError
from tools.encoding import encode, encode_text, text_pieces
from tools.formats import load_tokenizer, load_tokens
from tools.train import load_data
from train_gpt2 import HERE

import numpy as np
import pytest
from helpers import failed, make_project, run, start, succeeded
from hypothesis import given, settings
from hypothesis import strategies as st
from running import posix, within
from test_download import BODY, closed_port, directly, server  # noqa: F401 (fixtures)

SHAKESPEARE = HERE / "data" / "tiny_shakespeare.txt"
# Each breaks another assumption about where GPT-2's pattern cuts.
ODD_TEXTS = [
    "",
    "it's 2024, and they'll say 'tis  so\n\n\n  here\t\tthere \n",
    "naïve 你好吗 \U0001f600\U0001f468\u200d\U0001f469 e\u0301 \u00a0\u3000x\u2028y\x85z\x1c\x1fq",
    "a\x00b <|endoftext|> <|endoftext|>x " + "=" * 500 + " " * 500 + "\r\n" * 9,
]


@pytest.fixture(autouse=True)
def own_data(tmp_path, tmp_path_factory, monkeypatch):
    """Every test has a data folder of its own, and a place for GPT-2's tokenizer."""
    monkeypatch.setattr(token_files, "DATA", tmp_path / "data")
    path = tmp_path_factory.mktemp("folder") / "gpt2_tokenizer.bin"
    monkeypatch.setattr(gpt2, "TOKENIZER_FILE", path)


def splits_of(name):
    """Return the tokens of a dataset, to train on and for validation."""
    return [load_tokens(token_files.DATA / f"{name}_{split}.bin")[0] for split in ("train", "val")]


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory):
    """A tokenizer file of tiktoken's vocabulary, or a copy of the project's where that lacks."""
    path = tmp_path_factory.mktemp("tokenizer") / "gpt2_tokenizer.bin"
    try:
        encodings.fill_tiktoken_cache()
    except NoNetwork as error:
        if not (HERE / path.name).exists():
            pytest.skip(f"needs GPT-2's vocabulary: {error}")
        return shutil.copy(HERE / path.name, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt2, "TOKENIZER_FILE", path)  # not there yet
        encodings.write_gpt2_tokenizer(path)
    return path


@pytest.fixture(scope="session")
def has_tiktokens(tokenizer_file):
    """Whether tiktoken's own vocabulary can be had; if not, a test gets tokenizer_file."""
    try:
        encodings.fill_tiktoken_cache()
    except NoNetwork:
        return False
    return True


@pytest.fixture
def encoding(tokenizer_file, has_tiktokens):
    """GPT-2's encoding, which the test's programs find, too."""
    if not has_tiktokens:
        shutil.copy(tokenizer_file, gpt2.TOKENIZER_FILE)
    return encoding_of(tokenizer_file)


# ----------------------------------------------------------------------------
# GPT-2's encoding, token and tokenizer files


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.sampled_from(ODD_TEXTS), st.text(), st.text("a' \n\t.7é", max_size=60)))
def test_the_tokenizer_file_encodes_as_tiktoken_does(tokenizer_file, text):
    theirs, ours = tiktoken_encoding(), encoding_of(tokenizer_file)
    tokens = ours.encode_ordinary(text)
    assert tokens == theirs.encode_ordinary(text)
    assert ours.decode(tokens) == text


CACHE = {}


def tiktoken_encoding():
    """tiktoken's own, from its cache or the network, which the fixture tokenizer_file has tried."""
    if "tiktoken" not in CACHE:
        try:
            encodings.fill_tiktoken_cache()
        except NoNetwork as error:
            pytest.skip(f"needs tiktoken's own vocabulary: {error}")
        CACHE["tiktoken"] = encodings.needed("tiktoken").get_encoding("gpt2")
    return CACHE["tiktoken"]


def encoding_of(path):
    """The encoding that prepro builds from a tokenizer file."""
    if path not in CACHE:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gpt2, "TOKENIZER_FILE", path)
            CACHE[path] = encodings.gpt2_encoding()
    return CACHE[path]


def test_gpt2_tokenizer_file(tokenizer_file, encoding):
    vocabulary, end_of_text = load_tokenizer(tokenizer_file)
    assert (len(vocabulary), end_of_text) == (50257, 50256)
    assert vocabulary[end_of_text] == b"<|endoftext|>"
    assert b"".join(vocabulary[i] for i in encoding.encode("Hello é")) == "Hello é".encode()
    ours = encoding_of(tokenizer_file)
    assert (ours.n_vocab, ours.eot_token) == (encoding.n_vocab, encoding.eot_token)
    assert "<|endoftext|>" in ours.special_tokens_set


def test_an_unreachable_host_of_the_vocabulary_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "VOCABULARY_URL", f"https://127.0.0.1:{closed_port()}/")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    began = time.perf_counter()
    with pytest.raises(NoNetwork, match=r"cannot reach 127\.0\.0\.1: "):
        encodings.gpt2_encoding()
    assert time.perf_counter() - began < 5
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------
# prepro_text.py


@settings(max_examples=200, deadline=None)
@given(
    text=st.one_of(
        st.sampled_from([text.replace("\0", "") for text in ODD_TEXTS]),  # NUL is refused
        st.text("a' \n\t.é\x1c\x85"),
        st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    )
)
def test_pieces_of_a_text_have_the_tokens_of_the_whole(tokenizer_file, tmp_path_factory, text):
    encoding = encoding_of(tokenizer_file)
    path = tmp_path_factory.getbasetemp() / "pieces.txt"
    path.write_text("x" + text, encoding="utf-8", newline="")
    whole = "x" + text.replace("\r\n", "\n").replace("\r", "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "CHUNK", 5)
        pieces = list(text_pieces(path))
    assert "".join(pieces) == whole
    tokens = [token for piece in pieces for token in encoding.encode_ordinary(piece)]
    assert tokens == encoding.encode_ordinary(whole)


def test_defaults(tmp_path):
    (tmp_path / "some.txt").touch()
    args, prefix = prepro_text.parse_args([str(tmp_path / "some.txt")])
    assert prefix == token_files.DATA / "some"
    assert (args.val_fraction, args.vocab_size, args.bytes) == (0.1, None, False)


def test_text_of_two_files(tmp_path, encoding, monkeypatch):
    monkeypatch.setattr(encodings, "CHUNK", 1000)
    texts = ["To be, or not to be.\n\n" * 300, "<|endoftext|> Ein Fuß, Zoë\r\n" * 300]
    for name, text in zip(("one.txt", "two.md"), texts, strict=True):
        (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8", newline="")
    files = [str(tmp_path / "one.txt"), str(tmp_path / "two.md")]
    prepro_text.main([*files, "--val-fraction", "0.25"])
    train, val = splits_of("one")
    expected = []
    for text in texts:
        expected += [50256, *encoding.encode_ordinary(text.replace("\r\n", "\n"))]
    assert np.concatenate([train, val]).tolist() == expected
    assert load_tokens(token_files.DATA / "one_val.bin")[1] == 50257
    assert abs(len(val) - 0.25 * len(expected)) <= 1
    assert sorted(os.listdir(token_files.DATA)) == ["one_train.bin", "one_val.bin"]


@pytest.mark.parametrize(("words", "val"), [(3, 2), (100, 50), (600, 257), (20_000, 2000)])
def test_a_small_file_has_validation_for_a_batch(tmp_path, encoding, words, val):
    path = tmp_path / "small"
    path.write_text("no" + " no" * (words - 1), encoding="utf-8")
    prepro_text.main([str(path), "--name", "other"])
    assert [len(tokens) for tokens in splits_of("other")] == [words + 1 - val, val]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """A copy of the scripts, in a folder with a space and a letter beyond ASCII in its name."""
    return make_project(tmp_path_factory.mktemp("a project é"))


@pytest.fixture
def project(scripts):
    """The same without what other tests have made there."""
    there = set(scripts.iterdir())
    yield scripts
    for path in set(scripts.iterdir()) - there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("script", sorted(path.name for path in HERE.glob("prepro*.py")))
def test_help(project, script):
    out = succeeded(run(project, script, "--help", COLUMNS="80"))
    assert out.startswith(f"usage: {script}")
    flags, examples = out.split("\nexamples:\n")
    assert examples.startswith(f"  python {script}") and max(map(len, out.splitlines())) <= 80
    flags = flags.split("show this help message and exit\n")[1]
    for flag in re.split(r"\n  (?=--)", f"\n{flags}")[1:]:
        assert "(default: " in " ".join(flag.split()), flag


# ----------------------------------------------------------------------------
# Datasets


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_tinyshakespeare(encoding, newline):
    if not SHAKESPEARE.exists():
        pytest.skip("needs data/tiny_shakespeare.txt, which prepro_tinyshakespeare.py downloads")
    token_files.DATA.mkdir()
    text = SHAKESPEARE.read_text(encoding="utf-8")
    copy = token_files.DATA / "tiny_shakespeare.txt"
    copy.write_text(text, encoding="utf-8", newline=newline)
    prepro_tinyshakespeare.main([])
    train, val = splits_of("tiny_shakespeare")
    assert (len(train), len(val)) == (305260, 32768)
    # llm.c's recipe, which lets the marker in the text be the special token
    marked = "<|endoftext|>" + text.replace("\n\n", "\n\n<|endoftext|>")
    expected = encoding.encode(marked, allowed_special={"<|endoftext|>"})
    assert np.concatenate([val, train]).tolist() == expected
    assert len(load_tokenizer(gpt2.TOKENIZER_FILE)[0]) == 50257


def test_tinyshakespeare_too_short(encoding, monkeypatch):
    token_files.DATA.mkdir()
    text = "First Citizen:\nBefore we proceed\n\n<|endoftext|>\n\n"
    (token_files.DATA / "tiny_shakespeare.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="validation alone takes 32,768; delete it"):
        prepro_tinyshakespeare.main([])
    assert os.listdir(token_files.DATA) == ["tiny_shakespeare.txt"]
    tokens = prepro_tinyshakespeare.tokenize(text, encoding)
    assert encoding.decode(tokens) == "<|endoftext|>" + text.replace("\n\n", "\n\n<|endoftext|>")
    assert tokens.count(50256) == 3  # and not a fourth where the text says so
    monkeypatch.setattr(prepro_tinyshakespeare, "VAL_TOKENS", len(tokens))  # none would be left
    with pytest.raises(UserError, match=f"has {len(tokens)} tokens"):
        prepro_tinyshakespeare.main([])
    monkeypatch.setattr(prepro_tinyshakespeare, "VAL_TOKENS", len(tokens) - 1)
    prepro_tinyshakespeare.main([])
    assert [len(split) for split in splits_of("tiny_shakespeare")] == [1, len(tokens) - 1]


def archive(files):
    """A .tar.gz in memory of files, name -> bytes, or a tarfile.TarInfo to be added as it is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = content
            if isinstance(content, bytes):
                member = tarfile.TarInfo(name)
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content) if member is not content else None)
    return buffer.getvalue()


def shards(count):
    """The files of an archive of stories, name -> bytes."""
    return {
        f"data{i:02}.json": json.dumps(
            [{"story": f" \nStory {j} of {i}: é <|endoftext|>\n", "n": j} for j in range(7)]
        ).encode()
        for i in range(count)
    }


def test_tinystories(server, encoding, capsys):  # noqa: F811
    server.files["stories.tar.gz"] = archive(shards(4))
    results = {}
    for workers in "1", "2":
        prepro_tinystories.main(["--url", server.url + "stories.tar.gz", "--workers", workers])
        for split in "val", "train":
            path = token_files.DATA / f"TinyStories_{split}.bin"
            results[workers, split] = path.read_bytes()
    assert len(server.asked) == 1  # nothing is downloaded twice
    assert results["1", "val"] == results["2", "val"]
    assert results["1", "train"] == results["2", "train"]
    expected = []
    for i in range(4):
        stories = [f"Story {j} of {i}: é <|endoftext|>" for j in range(7)]
        random.Random(1337 + i).shuffle(stories)
        expected.append([t for s in stories for t in (50256, *encoding.encode_ordinary(s))])
    train, val = splits_of("TinyStories")
    assert val.tolist() == expected[0]
    assert train.tolist() == sum(expected[1:], [])
    out = capsys.readouterr().out
    assert f"tokens to {token_files.shown(token_files.DATA / 'TinyStories_train.bin')}\n" in out
    assert load_tokenizer(gpt2.TOKENIZER_FILE)[1] == 50256


def tar_info(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "files",
    [
        {"../escape.json": b"[]"},
        {"a/../../escape.json": b"[]"},
        {"link": tar_info("link", tarfile.SYMTYPE, "/etc/passwd")},
        {"link": tar_info("link", tarfile.SYMTYPE, "data00.json")},
        {"link": tar_info("link", tarfile.LNKTYPE, "data00.json")},
        {"pipe": tar_info("pipe", tarfile.FIFOTYPE)},
        {"device": tar_info("device", tarfile.CHRTYPE)},
    ],
    ids=lambda files: next(iter(files)),
)
def test_a_hostile_archive_leaves_nothing(tmp_path, files):
    path = tmp_path / "inner" / "stories.tar.gz"
    path.parent.mkdir()
    path.write_bytes(archive(shards(2) | files))
    with pytest.raises(UserError, match="can't be unpacked .*; delete it"):
        prepro_tinystories.unpack(path, path.parent / "stories")
    assert [p.name for p in tmp_path.rglob("*")] == ["inner", "stories.tar.gz"]


def test_an_absolute_path_lands_in_the_folder(tmp_path):
    outside = tmp_path / "outside.json"
    path = tmp_path / "stories.tar.gz"
    path.write_bytes(archive({str(outside): b"[]"}))
    prepro_tinystories.unpack(path, tmp_path / "stories")
    assert not outside.exists()
    assert (tmp_path / "stories" / outside.relative_to("/")).read_bytes() == b"[]"


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_archive(tmp_path, damage):
    good = bytearray(archive({"data00.json": BODY, "data01.json": BODY}))
    flipped = good.copy()
    flipped[len(good) // 2] ^= 0xFF
    content = {"truncated": good[: len(good) // 2], "flipped": flipped}
    path = tmp_path / "stories.tar.gz"
    path.write_bytes(content[damage])
    (tmp_path / "stories.part").mkdir()  # an earlier run's, killed while it unpacked
    with pytest.raises(UserError, match="can't be unpacked"):
        prepro_tinystories.unpack(path, tmp_path / "stories")
    assert os.listdir(tmp_path) == ["stories.tar.gz"]
    path.write_bytes(good)
    prepro_tinystories.unpack(path, tmp_path / "stories")
    assert (tmp_path / "stories" / "data01.json").read_bytes() == BODY


@pytest.mark.parametrize(
    "bad",
    [b"[{]", b"{}", b"[]", b'[{"text": ""}]', b'[{"story": 1}]', b"\xff", b"[" * 200_000],
    ids=lambda bad: repr(bad[:20]),
)
def test_a_damaged_shard(encoding, bad):
    folder = token_files.DATA / "TinyStories_all_data"
    folder.mkdir(parents=True)
    for name, content in (shards(2) | {"data01.json": bad}).items():
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=r"data01\.json: not a JSON list of stories .*; delete"):
        prepro_tinystories.main(["--workers", "1"])
    assert not (token_files.DATA / "TinyStories_train.bin").exists()


def test_python_docs():
    prepro_pythondocs.main([])
    vocabulary, end_of_text = load_tokenizer(token_files.DATA / "python_docs_tokenizer.bin")
    assert (len(vocabulary), end_of_text) == (257, 256)
    texts = {}
    for split in "train", "val":
        tokens, V = load_tokens(token_files.DATA / f"python_docs_{split}.bin")
        assert V == 257 and tokens[0] == end_of_text
        text = b"".join(vocabulary[token] for token in tokens).decode()
        texts[split] = text.split("<|endoftext|>")[1:]
    topics = prepro_pythondocs.load_topics()
    names = sorted(topics)
    assert texts["val"] == [topics[name] for name in names[::10]]
    train_words = {words for text in texts["train"] for _, words in paragraphs(text)}
    val_words = {words for text in texts["val"] for _, words in paragraphs(text)}
    assert not train_words & val_words
    all_words = {words for text in topics.values() for _, words in paragraphs(text)}
    assert train_words | val_words == all_words


paragraphs = prepro_pythondocs.paragraphs


def test_python_without_its_documentation(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match="comes without its documentation"):
        prepro_pythondocs.main([])


def test_prepro_writes_beside_the_scripts(project, tokenizer_file, tmp_path):
    shutil.copy(tokenizer_file, project)
    (tmp_path / "my text.txt").write_text("a b c", encoding="utf-8")
    out = succeeded(run(project, "prepro_text.py", tmp_path / "my text.txt", cwd=project.parent))
    data = project / "data"
    assert f"wrote 2 tokens to {project.name}/data/my text_train.bin\n" in out
    assert sorted(os.listdir(data)) == ["my text_train.bin", "my text_val.bin"]


# ----------------------------------------------------------------------------
# Vocabularies of one's own


def text_of(prefix):
    """Return what the tokens of a dataset stand for, both parts, by its own tokenizer."""
    vocabulary, _ = load_tokenizer(f"{prefix}_tokenizer.bin")
    parts = [load_tokens(f"{prefix}_{split}.bin") for split in ("train", "val")]
    assert {V for _, V in parts} == {len(vocabulary)}
    return b"".join(vocabulary[token] for tokens, _ in parts for token in tokens).decode()


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "some text.txt"
    text = "\ufeff" + "To be, or not to bé.\r\n" * 200
    path.write_text(text, encoding="utf-8", newline="")
    return path


TEXT = "<|endoftext|>" + "To be, or not to bé.\n" * 200


@pytest.fixture
def bare_python(tmp_path):
    """Return the environment of a Python that has NumPy and no other package of ours."""
    folder = tmp_path / "without"
    folder.mkdir()
    for name in "tiktoken", "regex", "requests", "urllib3", "tqdm":
        what = f"No module named {name!r}"
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError({what!r})")
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("flags", ["--bytes", "--vocab-size 265"])
def test_own_text_trains_by_the_command_that_is_printed(project, tmp_path, text_file, flags):
    done = run(project, "prepro_text.py", text_file, *flags.split(), cwd=tmp_path)
    *wrote, last = succeeded(done).splitlines()
    prefix = project / "data" / "some text"
    assert text_of(prefix) == TEXT
    assert [line.split(" to ")[1] for line in wrote] == [
        f"{prefix}_{what}.bin" for what in ("val", "train", "tokenizer")
    ]
    python, *command = shlex.split(last.removeprefix("to train on it: "))
    assert python == "python" and "--init d4" in last
    short = "--steps 1 --no-save --sample-every 1 --val-batches 1".split()
    done = subprocess.run(
        [sys.executable, *command, *short], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert "step 0: train loss" in done.stdout


def test_bytes_take_no_network_and_no_package(project, tmp_path, text_file, bare_python):
    name = tmp_path / "new" / "folder" / "x"
    flags = "--bytes", "--name", name
    succeeded(run(project, "prepro_text.py", text_file, *flags, **bare_python))
    assert text_of(name) == TEXT
    vocabulary, end_of_text = load_tokenizer(f"{name}_tokenizer.bin")
    assert vocabulary[:256] == [bytes([i]) for i in range(256)] and end_of_text == 256
    succeeded(run(project, "prepro_pythondocs.py", "--name", name, **bare_python))
    assert text_of(name).count("<|endoftext|>") > 50  # a topic of Python's documentation each


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("prepro_text.py TEXT", "tiktoken"),
        ("prepro_text.py TEXT --vocab-size 265", "regex"),
        ("prepro_tinyshakespeare.py", "requests"),
        ("prepro_tinystories.py", "requests"),
    ],
)
def test_a_missing_package_is_one_line(project, text_file, bare_python, command, missing):
    program, *flags = (str(text_file) if word == "TEXT" else word for word in command.split())
    line = failed(run(project, program, *flags, **bare_python), f"No module named '{missing}'; ")
    assert "python -m pip install -r requirements.txt" in line


def test_a_vocabulary_is_trained_on_all_files(tmp_path):
    for name, text in ("a", "ababab " * 20), ("b", "cdcdcd " * 20):
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / name) for name in "ab"]
    prepro_text.main([*files, "--vocab-size", "259"])
    vocabulary, _ = load_tokenizer(token_files.DATA / "a_tokenizer.bin")
    assert vocabulary[256:] == [b"ab", b"cd", b"<|endoftext|>"]
    expected = "".join(f"<|endoftext|>{text}" for text in ("ababab " * 20, "cdcdcd " * 20))
    assert text_of(token_files.DATA / "a") == expected


def test_a_text_too_small_for_its_vocabulary(project, text_file):
    failed(
        run(project, "prepro_text.py", text_file, "--vocab-size", 4096),
        "4,096 tokens: the text is enough for 2",
        "; ask for no more",
    )


def test_tokens_of_gpt2_replace_those_of_a_vocabulary(encoding, text_file):
    prepro_text.main([str(text_file), "--name", "x", "--bytes"])
    assert formats.load_vocabulary(token_files.DATA / "x", 257)[1] == 256
    prepro_text.main([str(text_file), "--name", "x"])
    assert sorted(os.listdir(token_files.DATA)) == ["x_train.bin", "x_val.bin"]
    assert formats.load_vocabulary(token_files.DATA / "x", 50257)[1] == 50256


# ----------------------------------------------------------------------------
# Texts of all kinds


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_a_pipe_is_read_once(tmp_path, text_file):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(text_file.read_bytes()))
    writer.start()
    prepro_text.main([str(pipe), "--vocab-size", "260"])
    writer.join()
    assert text_of(token_files.DATA / "text") == TEXT  # a pipe's own name says nothing


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
@pytest.mark.parametrize(
    ("content", "message"), [(b"", "pipe: empty; give"), (b"\xff", "pipe: not UTF-8 text")]
)
def test_a_pipe_without_text(tmp_path, content, message):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(content))
    writer.start()
    with pytest.raises(UserError, match=message):
        prepro_text.main([str(pipe), "--bytes"])
    writer.join()
    assert not token_files.DATA.exists()


def test_a_text_of_too_few_tokens(tmp_path):
    (tmp_path / "x").write_text("ab")
    with pytest.raises(UserError, match="has 3 tokens, .*; it takes 4,"):
        prepro_text.main([str(tmp_path / "x"), "--bytes"])
    assert os.listdir(token_files.DATA) == []
    (tmp_path / "x").write_text("abc")
    prepro_text.main([str(tmp_path / "x"), "--bytes"])
    assert [len(tokens) for tokens in splits_of("x")] == [2, 2]
    load_data(token_files.DATA / "x", 1, 1)


@pytest.mark.parametrize("letters, fraction", [(3, 0.1), (6, 0.5), (20, 0.1), (300, 0.1)])
def test_a_small_text_trains_by_the_command_that_is_printed(tmp_path, capsys, letters, fraction):
    """Its batch fits into either part; a --seq-len of one token more would not."""
    (tmp_path / "x").write_text("abcdef"[:letters] * (letters // 6 or 1))
    prepro_text.main([str(tmp_path / "x"), "--bytes", "--val-fraction", str(fraction)])
    command = shlex.split(capsys.readouterr().out.splitlines()[-1].partition(": ")[2])
    B, T = (int(command[command.index(flag) + 1]) for flag in ("--batch-size", "--seq-len"))
    assert B == 1 and T == min(64, min(map(len, splits_of("x"))) - 1)
    load_data(command[command.index("--data") + 1], B, T)


@pytest.mark.parametrize("script", ["tinyshakespeare", "tinystories", "pythondocs"])
def test_names_that_other_scripts_have(tmp_path, capsys, script):
    command = [sys.executable, HERE / f"prepro_{script}.py", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (name,) = re.findall(r"\(default:\s+(\w+)\)", said[said.index("--name NAME ") :])
    (tmp_path / "x.txt").write_text("abc")
    with pytest.raises(SystemExit):
        prepro_text.main([str(tmp_path / "x.txt"), "--bytes", "--name", name])
    assert f"is what prepro_{script}.py makes; " in capsys.readouterr().err


def test_the_default_dataset_is_not_replaced(project, tmp_path, monkeypatch):
    text = tmp_path / "tiny_shakespeare.txt"
    text.write_text("To be, or not to be.\n" * 50)
    for flags in [], ["--name", "tiny_shakespeare"], ["--name", project / "data/tiny_shakespeare"]:
        done = run(project, "prepro_text.py", text, "--bytes", *flags)
        line = failed(done, "is what prepro_tinyshakespeare.py makes; ", status=2)
        assert not (project / "data").exists()
    hint = re.search(r"--name \w+", line)[0]
    succeeded(run(project, "prepro_text.py", text, "--bytes", *hint.split()))
    assert "my_tiny_shakespeare_train.bin" in os.listdir(project / "data")
    succeeded(run(project, "prepro_text.py", text, "--bytes", "--name", "./tiny_shakespeare"))
    assert (project / "tiny_shakespeare_train.bin").exists()  # in another folder any name will do


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")
def test_a_disk_that_fills_up_leaves_the_data_that_were_there(project, tmp_path):
    import resource

    name, flags = tmp_path / "x", ["--bytes", "--name", str(tmp_path / "x")]
    for content, size in ("old", 3000), ("new", 300_000):
        (tmp_path / content).write_text(content * size)
    succeeded(run(project, "prepro_text.py", tmp_path / "old", *flags))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("x_*")}
    done = subprocess.run(
        [sys.executable, project / "prepro_text.py", tmp_path / "new", *flags],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6)),
        capture_output=True,
        encoding="utf-8",
    )
    failed(done, f"cannot write in {tmp_path}: File too large; --name FOLDER/NAME")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("x_*")} == before
    assert text_of(name) == "<|endoftext|>" + "old" * 3000


def test_several_at_once_do_not_disturb_each_other(project):
    running = [start(project, "prepro_pythondocs.py") for _ in range(6)]
    for process in running:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, ""), err
    names = [f"python_docs_{what}.bin" for what in ("tokenizer", "train", "val")]
    assert sorted(os.listdir(project / "data")) == names
    assert text_of(project / "data" / "python_docs").count("<|endoftext|>") > 50


# ----------------------------------------------------------------------------
# White space without end


@settings(max_examples=200, deadline=None)
@given(
    text=st.text("a1.' \n\t\u3000\x85\x1c\u2028é", max_size=40) | st.text(max_size=30),
    run=st.integers(1, 6),
)
def test_white_space_has_the_same_tokens_however_it_is_cut(tokenizer_file, text, run):
    encoding = encoding_of(tokenizer_file)
    with pytest.MonkeyPatch.context() as patch:
        pattern = encodings.LONG_SPACE.pattern.replace(str(encodings.LONG_RUN), str(run))
        patch.setattr(encodings, "LONG_RUN", 0)
        patch.setattr(encodings, "LONG_SPACE", re.compile(pattern))
        assert encode_text(text, encoding) == encoding.encode_ordinary(text)


@pytest.mark.parametrize("space", [" ", "\n", "\u3000", " \n"])
@pytest.mark.parametrize("behind", ["", "x"])
def test_a_million_spaces(space, behind):
    vocabulary = [*(bytes([i]) for i in range(256)), b"  ", b"\n\n", b"<end>"]
    text = "a" + space * (2**20 // len(space)) + behind
    ids = encode(text, vocabulary, 258)
    assert b"".join(vocabulary[i] for i in ids).decode() == text
    if space == " ":  # in pairs, but for one before the x
        assert ids == [97, *[256] * (2**19 - bool(behind)), *[32, 32, 120][: 3 * len(behind)]]


def test_a_file_of_a_million_spaces(tmp_path, encoding):
    (tmp_path / "x").write_text(" " * 10**6 + "x" + "\n" * 10**6)
    prepro_text.main([str(tmp_path / "x")])
    expected = [50256, *[220] * (10**6 - 1), *encoding.encode_ordinary(" x"), *[628] * (5 * 10**5)]
    assert np.concatenate(splits_of("x")).tolist() == expected


# ----------------------------------------------------------------------------
# TinyStories: what ends badly


def test_a_date_that_no_clock_has(tmp_path):
    member = tarfile.TarInfo("data00.json")
    member.mtime = 1e19
    path = tmp_path / "stories.tar.gz"
    path.write_bytes(archive({"data00.json": member}))
    with pytest.raises(UserError, match="can't be unpacked .*; delete it"):
        prepro_tinystories.unpack(path, tmp_path / "stories")
    assert os.listdir(tmp_path) == ["stories.tar.gz"]


def test_a_message_of_a_worker_names_the_program_once(project, tokenizer_file):
    shutil.copy(tokenizer_file, project)
    folder = project / "data" / "TinyStories_all_data"
    folder.mkdir(parents=True)
    for name, content in (shards(2) | {"data01.json": b"{}"}).items():
        (folder / name).write_bytes(content)
    line = failed(run(project, "prepro_tinystories.py"), "data01.json: not a JSON list")
    assert line.count("prepro_tinystories.py: ") == 1


def children_of(pid):
    """Return the processes that a process has started."""
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if (fields := read_stat(path)) and fields[1] == str(pid) and fields[0] != "Z"
    ]


def read_stat(path):
    """Return the state of a process, its parent's number, ...; "" if it has ended."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return ""


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def with_shards(project, tokenizer_file):
    """The project, with shards of stories to tokenize."""
    shutil.copy(tokenizer_file, project)
    folder = project / "data" / "TinyStories_all_data"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in shards(3).items():
        (folder / name).write_bytes(content)
    yield project
    shutil.rmtree(folder)


@posix
def test_ctrl_c_while_a_worker_starts(with_shards, tmp_path):
    """It waits until the worker can end without a word."""
    code = "import os, signal, sys\nif 'spawn_main' in ' '.join(sys.orig_argv):\n"
    code += "    os.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    done = run(with_shards, "prepro_tinystories.py", PYTHONPATH=str(tmp_path))
    failed(done, "a worker died")


@pytest.mark.parametrize(
    "code",
    [
        "threading.Thread.start",
        "multiprocessing.queues.Queue._start_thread",
        "multiprocessing.popen_spawn_posix.Popen._launch",
    ],
)
def test_no_thread_or_process_left_for_workers(with_shards, code):
    """Whichever it is that can't be started, nobody waits for it."""
    error = 'RuntimeError("can\'t start new thread")'
    if "Popen" in code:
        pytest.importorskip("multiprocessing.popen_spawn_posix", reason="needs POSIX")
        error = "BlockingIOError(11, os.strerror(11))"
    patch = f"import os, threading, multiprocessing.queues; import {code.rsplit('.', 2)[0]}"
    patch += f"\ndef start(*_):\n    raise {error}\n{code} = start"
    done = run(with_shards, "prepro_tinystories.py", python=within(patch))
    # from Python 3.14 on the pool tells of the second of the three in another way
    what = "a worker died" if "a worker died" in done.stderr else "no worker can be started"
    failed(done, what, "ulimit -u", "--workers")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_workers_end_with_their_parent(project, tokenizer_file, name):
    shutil.copy(tokenizer_file, project)
    folder = project / "data" / "TinyStories_all_data"
    folder.mkdir(parents=True, exist_ok=True)
    story = json.dumps([{"story": "Once upon a time there was a cat. " * 20_000}] * 20)
    for i in range(6):  # more than enough for the seconds of this test
        (folder / f"data{i:02}.json").write_text(story)
    process = start(project, "prepro_tinystories.py", "--workers", "2")
    workers = []

    def are_busy():
        workers[:] = [
            pid
            for pid in children_of(process.pid)
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
        ]
        return len(workers) == 2

    wait_until(are_busy)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=30)
    wait_until(lambda: not any(read_stat(Path(f"/proc/{pid}/stat")) for pid in workers), 10)
