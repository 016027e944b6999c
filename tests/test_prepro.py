"""The prepro scripts: token files, wrong input."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import common
import prepro
import prepro_pythondocs
import prepro_tinyshakespeare
import prepro_tinystories
from common import HERE, NoNetwork, UserError, load_tokenizer, load_tokens

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
def own_data(tmp_path, monkeypatch):
    """Every test has a data folder of its own."""
    monkeypatch.setattr(prepro, "DATA", tmp_path / "data")


@pytest.fixture(scope="session")
def encoding():
    try:
        return prepro.gpt2_encoding()
    except NoNetwork as error:
        pytest.skip(f"needs GPT-2's vocabulary: {error}")


@pytest.fixture(scope="session")
def tokenizer_file(encoding, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "gpt2_tokenizer.bin"
    prepro.write_gpt2_tokenizer(path)
    return path


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
    """tiktoken's own, from its cache or the network, which the fixture `encoding` has tried."""
    if "tiktoken" not in CACHE:
        try:
            prepro.fill_tiktoken_cache()
        except NoNetwork as error:
            pytest.skip(f"needs tiktoken's own vocabulary: {error}")
        CACHE["tiktoken"] = prepro.tiktoken.get_encoding("gpt2")
    return CACHE["tiktoken"]


def encoding_of(path):
    """The encoding that prepro builds from a tokenizer file."""
    if path not in CACHE:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(common, "TOKENIZER_FILE", path)
            CACHE[path] = prepro.gpt2_encoding()
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
    monkeypatch.setattr(prepro, "VOCABULARY_URL", f"https://127.0.0.1:{closed_port()}/")
    monkeypatch.setattr(common, "TOKENIZER_FILE", tmp_path / "none.bin")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(NoNetwork, match=r"cannot reach 127\.0\.0\.1: "):
        prepro.gpt2_encoding()
    assert time.perf_counter() - start < 5
    assert os.listdir(tmp_path) == []


def test_a_tokenizer_file_of_another_vocabulary_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "gpt2_tokenizer.bin"
    prepro.write_tokenizer(path, [bytes([i]) for i in range(256)], 0)
    monkeypatch.setattr(common, "TOKENIZER_FILE", path)
    with pytest.raises(UserError, match=r"not GPT-2's vocabulary; delete it"):
        prepro.gpt2_encoding()


def test_write_tokens_streams_and_counts(tmp_path, capsys):
    path = tmp_path / "data" / "x_train.bin"
    prepro.write_tokens(path, 2**16, ([i, 2**16 - 1] for i in range(1000)))
    tokens, vocab_size = load_tokens(path)
    assert vocab_size == 2**16
    assert tokens.tolist() == [t for i in range(1000) for t in (i, 2**16 - 1)]
    assert capsys.readouterr().out == "wrote 2,000 tokens to data/x_train.bin\n"


@pytest.mark.parametrize("chunks", [[[1, 7]], [[1], [-1]], [np.array([2**16 + 1])]])
def test_write_tokens_refuses_ids_outside_the_vocabulary(tmp_path, chunks):
    (tmp_path / "x.bin").write_bytes(b"old")
    with pytest.raises(ValueError, match="not below 7"):
        prepro.write_tokens(tmp_path / "x.bin", 7, chunks)
    assert (tmp_path / "x.bin").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_write_tokens_refuses_what_a_header_cannot_say(tmp_path):
    with pytest.raises(UserError, match="0 tokens"):
        prepro.write_tokens(tmp_path / "x.bin", 7, [[], []])
    with pytest.raises(ValueError, match="16 bits"):
        prepro.write_tokens(tmp_path / "x.bin", 10**6, [[2**16]])
    assert os.listdir(tmp_path) == []


# ----------------------------------------------------------------------------
# prepro.py


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
        patch.setattr(prepro, "CHUNK", 5)
        pieces = list(prepro.text_pieces(path))
    assert "".join(pieces) == whole
    tokens = [token for piece in pieces for token in encoding.encode_ordinary(piece)]
    assert tokens == encoding.encode_ordinary(whole)


def test_prepro_of_two_files(tmp_path, encoding, monkeypatch):
    monkeypatch.setattr(prepro, "CHUNK", 1000)
    texts = ["To be, or not to be.\n\n" * 300, "<|endoftext|> Ein Fuß, Zoë\r\n" * 300]
    for name, text in zip(("one.txt", "two.md"), texts, strict=True):
        (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8", newline="")
    prepro.main([str(tmp_path / "one.txt"), str(tmp_path / "two.md"), "--val-fraction", "0.25"])
    (train, V), (val, _) = (load_tokens(prepro.DATA / f"one_{s}.bin") for s in ("train", "val"))
    expected = []
    for text in texts:
        expected += [50256, *encoding.encode_ordinary(text.replace("\r\n", "\n"))]
    assert np.concatenate([train, val]).tolist() == expected
    assert V == 50257 and abs(len(val) - 0.25 * len(expected)) <= 1
    assert sorted(os.listdir(prepro.DATA)) == ["one_train.bin", "one_val.bin"]


@pytest.mark.parametrize(("words", "val"), [(1, 1), (100, 50), (600, 257), (20_000, 2000)])
def test_a_small_file_has_validation_for_a_batch(tmp_path, encoding, words, val):
    path = tmp_path / "small"
    path.write_text("no" + " no" * (words - 1), encoding="utf-8")
    prepro.main([str(path), "--name", "other"])
    assert len(load_tokens(prepro.DATA / "other_val.bin")[0]) == val
    assert len(load_tokens(prepro.DATA / "other_train.bin")[0]) == words + 1 - val


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the scripts, in a folder with a space and a letter beyond ASCII in its name."""
    folder = tmp_path_factory.mktemp("a project é")
    for script in (HERE / "common.py", *HERE.glob("prepro*.py")):
        shutil.copy(script, folder)
    shutil.copytree(HERE / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def run_script(project, *args, **env):
    """Run a script from another folder -> exit status, standard output, standard error."""
    command = [sys.executable, project / args[0], *args[1:]]
    done = subprocess.run(
        command,
        cwd=project.parent,
        env={**os.environ, **env},
        capture_output=True,
        encoding="utf-8",
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "missing.txt: No such file or directory; give"),
        ("folder", "folder", "folder: "),
        ("empty.txt", b"", "empty.txt: empty; give"),
        ("bom.txt", b"\xef\xbb\xbf", "bom.txt: empty; give"),
        ("latin.txt", "Zoë\n".encode("latin-1"), "latin.txt: not UTF-8 text"),
        ("cut.txt", "Zoë".encode()[:-1], "cut.txt: not UTF-8 text"),
        ("photo.png", b"\x89PNG\r\n\x1a\n", "photo.png: not UTF-8 text"),
        ("utf16.txt", "text".encode("utf-16"), "utf16.txt: not UTF-8 text"),
    ],
)
def test_wrong_files_end_with_one_line(project, tmp_path, name, content, message):
    good, bad = tmp_path / "good.txt", tmp_path / name
    good.write_text("good", encoding="utf-8")
    if content == "folder":
        bad.mkdir()
    elif content is not None:
        bad.write_bytes(content)
    status, out, err = run_script(project, "prepro.py", str(good), str(bad))
    assert (status, out) == (1, "")
    assert err.startswith("prepro.py: ") and err.count("\n") == 1
    assert message in err and ";" in err
    assert not (project / "data").exists()


@pytest.mark.parametrize(
    "flags", [[], ["x", "--name", "../x"], ["x", "--name", ""], ["x", "--val-fraction", "1"]]
)
def test_wrong_flags(project, flags):
    status, out, err = run_script(project, "prepro.py", *flags)
    assert (status, out) == (2, "")
    assert err.startswith("prepro.py: ") and err.count("\n") == 1
    assert "--help" in err


@pytest.mark.parametrize("script", sorted(path.name for path in HERE.glob("prepro*.py")))
def test_help(project, script):
    status, out, _ = run_script(project, script, "--help")
    assert status == 0 and out.startswith(f"usage: {script}")


def test_no_network_is_exit_status_3(project):
    proxy = f"http://127.0.0.1:{closed_port()}"
    env = {"HTTPS_PROXY": proxy, "https_proxy": proxy}
    status, _, err = run_script(project, "prepro_tinyshakespeare.py", **env)
    assert status == 3 and err.count("\n") == 1
    assert err.startswith("prepro_tinyshakespeare.py: cannot reach raw.githubusercontent.com: ")


# ----------------------------------------------------------------------------
# Datasets


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_tinyshakespeare(encoding, newline):
    if not SHAKESPEARE.exists():
        pytest.skip("needs data/tiny_shakespeare.txt, which prepro_tinyshakespeare.py downloads")
    prepro.DATA.mkdir()
    text = SHAKESPEARE.read_text(encoding="utf-8")
    copy = prepro.DATA / "tiny_shakespeare.txt"
    copy.write_text(text, encoding="utf-8", newline=newline)
    prepro_tinyshakespeare.main([])
    splits = [load_tokens(prepro.DATA / f"tiny_shakespeare_{s}.bin")[0] for s in ("val", "train")]
    assert [len(tokens) for tokens in splits] == [32768, 305260]
    # llm.c's recipe, which lets the marker in the text be the special token
    marked = "<|endoftext|>" + text.replace("\n\n", "\n\n<|endoftext|>")
    expected = encoding.encode(marked, allowed_special={"<|endoftext|>"})
    assert np.concatenate(splits).tolist() == expected


def test_tinyshakespeare_too_short(encoding):
    prepro.DATA.mkdir()
    text = "First Citizen:\nBefore we proceed\n\n<|endoftext|>\n\n"
    (prepro.DATA / "tiny_shakespeare.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="validation alone takes 32,768; delete it"):
        prepro_tinyshakespeare.main([])
    assert os.listdir(prepro.DATA) == ["tiny_shakespeare.txt"]
    tokens = prepro_tinyshakespeare.tokenize(text, encoding)
    assert encoding.decode(tokens) == "<|endoftext|>" + text.replace("\n\n", "\n\n<|endoftext|>")
    assert tokens.count(50256) == 3  # and not a fourth where the text says so


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
            path = prepro.DATA / f"TinyStories_{split}.bin"
            results[workers, split] = path.read_bytes()
    assert len(server.asked) == 1  # nothing is downloaded twice
    assert results["1", "val"] == results["2", "val"]
    assert results["1", "train"] == results["2", "train"]
    expected = []
    for i in range(4):
        stories = [f"Story {j} of {i}: é <|endoftext|>" for j in range(7)]
        random.Random(1337 + i).shuffle(stories)
        expected.append([t for s in stories for t in (50256, *encoding.encode_ordinary(s))])
    val, train = (load_tokens(prepro.DATA / f"TinyStories_{s}.bin")[0] for s in ("val", "train"))
    assert val.tolist() == expected[0]
    assert train.tolist() == sum(expected[1:], [])
    assert "tokens to data/TinyStories_train.bin" in capsys.readouterr().out


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


@pytest.mark.parametrize("damage", ["truncated", "flipped", "html", "empty"])
def test_a_damaged_archive(tmp_path, damage):
    good = bytearray(archive({"data00.json": BODY, "data01.json": BODY}))
    flipped = good.copy()
    flipped[len(good) // 2] ^= 0xFF
    content = {
        "truncated": good[: len(good) // 2],
        "flipped": flipped,
        "html": b"<html>not found</html>",
        "empty": b"",
    }
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
    "bad", [b"[{]", b"{}", b"[]", b'[{"text": ""}]', b'[{"story": 1}]', b"\xff"]
)
def test_a_damaged_shard(encoding, bad):
    folder = prepro.DATA / "TinyStories_all_data"
    folder.mkdir(parents=True)
    for name, content in (shards(2) | {"data01.json": bad}).items():
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=r"data01\.json: not a JSON list of stories .*; delete"):
        prepro_tinystories.main(["--workers", "1"])
    assert not (prepro.DATA / "TinyStories_train.bin").exists()


def test_too_few_shards():
    (prepro.DATA / "TinyStories_all_data").mkdir(parents=True)
    with pytest.raises(UserError, match="has 0 shards"):
        prepro_tinystories.main([])


def test_python_docs():
    prepro_pythondocs.main([])
    vocabulary, end_of_text = load_tokenizer(prepro.DATA / "python_docs_tokenizer.bin")
    assert (len(vocabulary), end_of_text) == (257, 256)
    texts = {}
    for split in "train", "val":
        tokens, V = load_tokens(prepro.DATA / f"python_docs_{split}.bin")
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
    status, out, err = run_script(project, "prepro.py", str(tmp_path / "my text.txt"))
    assert (status, err) == (0, "")
    assert out.endswith("wrote 2 tokens to data/my text_train.bin\n")
    data = project / "data"
    assert sorted(os.listdir(data)) == ["my text_train.bin", "my text_val.bin"]
    shutil.rmtree(data)
    Path(project / tokenizer_file.name).unlink()
