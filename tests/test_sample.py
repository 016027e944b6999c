"""
sample_gpt2.py: its text is that of generate().

What it says to a mistake is in test_bad_input.py, and test_hints.py.
"""

import io
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import sample_gpt2 as sample
import train_gpt2 as gpt2
from tools import checkpoints, console, encoding, formats, huggingface, sampling
from tools.console import UserError
from tools.sampling import picker

import numpy as np
import pytest
from helpers import LETTERS, PROJECT, write_tokenizer
from running import posix

BYTES = [bytes([i]) for i in range(256)] + [b"<|endoftext|>"]
MAX_T = 12
ABOUT = {"step": 3, "data": "data/x", "digest": "0" * 32, "settings": {"shuffle": True}}


def model(vocabulary):
    """Random weights, for which tokens differ more than for init_weights; never end-of-text."""
    config = gpt2.GPT2Config(MAX_T, len(vocabulary), L=2, NH=2, C=8)
    flat = np.random.default_rng(1).standard_normal(gpt2.num_parameters(config), np.float32) / 2
    params = gpt2.named_views(flat, config)
    params["lnfb"][0], params["wte"][:, 0], params["wte"][-1, 0] = 10, 0, -50
    return flat, config


def write(folder, vocabulary=BYTES, flat=None, about=None):
    """A weight file, and its tokenizer beside it -> the path of the former."""
    random, config = model(vocabulary)
    text = b"" if about is None else json.dumps(about).encode()
    formats.write_weights(folder / "out.bin", random if flat is None else flat, config, (), text)
    write_tokenizer(folder / "own_tokenizer.bin", vocabulary)
    return folder / "out.bin"


@pytest.fixture(autouse=True)
def gpt2_tokenizer(tmp_path, monkeypatch):
    """What stands for gpt2_tokenizer.bin is not of this checkout."""
    monkeypatch.setattr(gpt2, "TOKENIZER_FILE", tmp_path / "gpt2_tokenizer.bin")
    before = signal.getsignal(signal.SIGINT)  # which main() changes
    yield gpt2.TOKENIZER_FILE
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run(tmp_path, capsys):
    """Run it with byte-level tokens, or those given -> standard output."""

    def run(*flags, vocabulary=BYTES, flat=None):
        path = write(tmp_path, vocabulary, flat)
        files = "--weights", path, "--tokenizer", tmp_path / "own_tokenizer.bin"
        sample.main([*map(str, files), *map(str, flags)])
        return capsys.readouterr().out

    return run


def expected(start, count, seed=1337, i=0, vocabulary=BYTES, **how):
    """The text that generate() goes on with, alone."""
    flat, config = model(vocabulary)
    pick = picker([np.random.default_rng((seed, i))], **how)
    tokens = sampling.generate(gpt2.named_views(flat, config), config, np.array([start]), pick)
    tokens = [token for [token] in itertools.islice(tokens, count)]
    assert len(vocabulary) - 1 not in tokens
    return b"".join(vocabulary[token] for token in tokens).decode("utf-8", "replace")


# ----------------------------------------------------------------------------
# Text


def test_a_pipe_gets_the_bytes_as_they_are(tmp_path):
    """Also where Python would write in an encoding that lacks letters, and what is not UTF-8."""
    flat, config = model(BYTES)
    pick = picker([np.random.default_rng((1337, 0))])
    start = np.array([[*"ȧ".encode()]])
    tokens = sampling.generate(gpt2.named_views(flat, config), config, start, pick)
    text = "ȧ".encode() + bytes(token for [token] in itertools.islice(tokens, 20))
    assert b"\xef\xbf\xbd" in text.decode("utf-8", "replace").encode()
    files = [write(tmp_path), "--tokenizer", tmp_path / "own_tokenizer.bin"]
    command = [sys.executable, PROJECT / "sample_gpt2.py", *files, "--prompt", "-", "--tokens=20"]
    env = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, input="ȧ".encode(), capture_output=True, env=env)
    assert done.stdout == text + b"\n"


@pytest.mark.parametrize("count", [0, 1, 8, 3 * MAX_T])  # the last: past what the model sees
def test_a_prompt_goes_on_as_generate_does(run, count):
    assert run("--prompt", "abc", "--tokens", count) == f"abc{expected(list(b'abc'), count)}\n"


def test_flags_of_next_token(run):
    how = {"temperature": 0.5, "top_k": 40, "top_p": 0.9}
    flags = [x for key, value in how.items() for x in (f"--{key.replace('_', '-')}", value)]
    text = expected(list(b"abc"), 30, **how)
    assert run("--prompt", "abc", "--tokens", 30, *flags) == f"abc{text}\n"
    others = [expected(list(b"abc"), 30, **{**how, key: 1.0}) for key in ("temperature", "top_p")]
    assert text not in [*others, expected(list(b"abc"), 30, **{**how, "top_k": 0})]


def test_greedy_is_the_argmax_of_the_whole_forward_pass(run):
    flat, config = model(BYTES)
    tokens = list(b"abc")
    while len(tokens) < MAX_T:
        x, y = np.array([tokens]), np.zeros((1, len(tokens)), int)
        _, (*_, (probs, *_)) = gpt2.gpt2_forward(gpt2.named_views(flat, config), config, x, y)
        tokens.append(int(probs[-1].argmax()))
    text = bytes(tokens).decode("utf-8", "replace")
    for flags in ("--temperature", 0), ("--top-k", 1), ("--top-p", 1e-9):
        assert run("--prompt", "abc", "--tokens", MAX_T - 3, *flags) == f"{text}\n"


def test_samples_and_seeds(run):
    flags = "--prompt", "ab", "--tokens", 9, "--samples", 3
    for seed, given in (1337, ()), (7, ("--seed", 7)):
        texts = [f"ab{expected(list(b'ab'), 9, seed=seed, i=i)}" for i in range(3)]
        assert len(set(texts)) == 3
        assert run(*flags, *given) == "\n---\n".join(texts) + "\n"


@pytest.mark.parametrize("flags", [(), ("--prompt", "")])
def test_without_a_prompt_from_end_of_text(run, flags):
    assert run(*flags, "--tokens", 9) == expected([256], 9) + "\n"


def certain(token, vocabulary=BYTES):
    """Weights of a model that gives one token the probability 1."""
    _, config = model(vocabulary)
    flat = np.zeros(gpt2.num_parameters(config), np.float32)
    params = gpt2.named_views(flat, config)
    params["lnfb"][0], params["wte"][token, 0] = 1, 1000
    return flat


def test_ends_at_end_of_text(run):
    assert run("--prompt", "abc", flat=certain(256)) == "abc\n"
    assert run("--samples", 2, flat=certain(256)) == "\n---\n\n"
    assert run("--prompt", "abc", "--tokens", 4, flat=certain(ord("x"))) == "abcxxxx\n"


def test_ends_before_a_stop_text(run):
    text = expected(list(b"abc"), 30)
    for stop in text[9:12], text[0]:
        whole = f"abc{text.partition(stop)[0]}\n"
        assert run("--prompt", "abc", "--tokens", 30, "--stop", stop) == whole
    assert run("--prompt", "abc", "--tokens", 9, "--stop", "xxx", flat=certain(ord("x"))) == "abc\n"
    held = run("--prompt", "abc", "--tokens", 9, "--stop", "xy", flat=certain(ord("x")))
    assert held == f"abc{9 * 'x'}\n"  # what was held back is shown in the end


def test_interactive(run, monkeypatch):
    """A line that is no text is said to be none, and the next one asked for."""
    typed = io.TextIOWrapper(io.BytesIO(b"abc\n\n\xff\n-\n"), "ascii")
    monkeypatch.setattr(sys, "stdin", typed)
    texts = expected(list(b"abc"), 9), expected([256], 9, i=1), expected(list(b"-"), 9, i=2)
    out = run("--interactive", "--tokens", 9)
    assert out == f"> abc{texts[0]}\n> {texts[1]}\n> > -{texts[2]}\n> \n"
    monkeypatch.setattr(sys, "stdin", None)
    assert run("--interactive") == "\n"


def test_chat_keeps_the_turns(run, monkeypatch):
    """Each turn stands behind end-of-text and its beginning; an empty line begins anew."""
    typed = io.TextIOWrapper(io.BytesIO(b"ab\nc\n\nab\n"), "ascii")
    monkeypatch.setattr(sys, "stdin", typed)
    out = run("--chat", "Y:", "N\\n", "--tokens", 3, "--seed", 1342)  # depends on what it sees
    texts, turns, (flat, config) = [], [], model(BYTES)
    params = gpt2.named_views(flat, config)
    for i, line in enumerate((b"ab", b"c", b"ab")):
        turns = [*(turns if i == 1 else []), 256, *b"Y:", *line, 256, *b"N\n"]
        pick = picker([np.random.default_rng((1342, i))])
        tokens = sampling.generate(params, config, np.array([turns[-MAX_T:]]), pick)
        turns += [token for [token] in itertools.islice(tokens, 3)]
        texts.append(bytes(turns[-3:]).decode("utf-8", "replace"))
    assert len(turns) < MAX_T and texts[2] != texts[0]
    assert out == f"> {texts[0]}\n> {texts[1]}\n> > {texts[2]}\n> \n"


def test_an_exported_folder(tmp_path, capsys):
    path = write(tmp_path)
    tokenizer = (tmp_path / "own_tokenizer.bin").rename(tmp_path / "out_tokenizer.bin")
    huggingface.export(path, tmp_path / "hf")
    capsys.readouterr()
    for weights in [path], [tmp_path / "hf"], [tmp_path / "hf", "--tokenizer", tokenizer]:
        sample.main([*map(str, weights), "--prompt", "ab"])
    one, *others = capsys.readouterr().out.split("ab")[1:]
    assert others == [one, one] and len(one) > 9


def test_the_model_that_comes_with_the_project(capsys):
    path = PROJECT / "models" / "shakespeare.bin"
    sample.main([str(path), "--prompt", "ROMEO:", "--tokens", "150", "--temperature", "0.7"])
    out = capsys.readouterr().out
    assert out.startswith("ROMEO:\n") and len(re.findall(r"\n\n[A-Z ]+:\n", out)) >= 2
    flat, config = gpt2.load_weights(path)  # the lesson reads it, too
    assert path.stat().st_size == 1024 + 4 * gpt2.num_parameters(config) < 5e6
    vocabulary, end = gpt2.load_tokenizer(path.with_name("shakespeare_tokenizer.bin"))
    text = "KING HENRY:\nWhat say you, my good lord? Is this the man that kill'd my father?\n"
    x = np.array([[end, *encoding.encoder(vocabulary, end, "--prompt")(text)]])
    loss, _ = gpt2.gpt2_forward(gpt2.named_views(flat, config), config, x[:, :-1], x[:, 1:])
    assert loss < 5 < math.log(config.V) - 2


def test_characters_are_never_cut():
    vocabulary = [b"\xe2", b"\x82", b"\xac", b"a\xc3", b"\xa9b", b"<end>"]

    def pieces(*tokens):
        """Return what can be shown after each of the tokens, None being the end."""
        text, shown = sample.Text("", vocabulary, 5), [""]
        for token in tokens:
            text.add(token)
            shown.append(text.shown)
        return [after.removeprefix(before) for before, after in itertools.pairwise(shown)]

    assert pieces(0, 1, 2, None) == ["", "", "€", ""]
    assert pieces(3, 4, None) == ["a", "éb", ""]
    assert pieces(3, 3, 0, 1, None) == ["a", "\ufffda", "\ufffd", "", "\ufffd"]
    assert pieces(3, 5, 4) == ["a", "\ufffd", ""]  # nothing is shown after end-of-text


def test_a_character_that_is_not_at_its_end(monkeypatch):
    """Half of it was drawn last: it is shown as what it is, no letter."""
    monkeypatch.setattr(sampling, "generate", lambda *_: iter([[0], [1]]))
    names = sampling.Model(*sampling.Model._fields)
    text = sample.Text("a", [b"b", "é".encode()[:1], b"<end>"], 2)
    shown = [text.shown for _ in sample.generate(names, [2], [text], None, 2)]
    assert shown == ["ab", "ab", "ab\ufffd"]


def test_a_token_is_out_before_the_next_is_drawn(run, monkeypatch):
    file = io.BytesIO()

    def generate(*_):
        for i in range(1000):
            assert file.getvalue() == b"ab" + b"x" * i
            yield [ord("x")]

    monkeypatch.setattr(sampling, "generate", generate)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, "utf-8", line_buffering=True))
    run("--prompt", "ab", "--tokens", 5)
    assert file.getvalue() == b"abxxxxx\n"


def test_tokens_of_several_letters():
    vocabulary = [*BYTES[:-1], b"ab", b"abc", b"<end>"]
    encode = encoding.encoder(vocabulary, 258, "--prompt")
    assert encode("abcab abd") == [257, 256, 32, 256, ord("d")]
    assert encode("<end>") == list(b"<end>")  # text, as any other


# ----------------------------------------------------------------------------
# Prompts


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("é€".encode(), "é€"),
        (b"a\0b", "a\0b"),
        (b"\xef\xbb\xbfa\r\nb\r", "a\nb\n"),  # as prepro_text.py reads a file
        (b"a ", "a "),
        (b"", ""),  # no prompt
    ],
)
def test_prompt_from_standard_input(run, monkeypatch, data, text):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "ascii", newline="\n"))
    more = expected(list(text.encode()) or [256], 5)
    assert run("--prompt", "-", "--tokens", 5) == f"{text}{more}\n"


def test_end_of_text_in_a_prompt(run):
    for prompt, separator, tokens in ("ab%c", "%", b"ab\0c"), ("ab\n", r"\n", b"ab\0"):
        more = expected([token or 256 for token in tokens], 5)
        flags = "--prompt", prompt, "--separator", separator, "--tokens", 5
        assert run(*flags) == f"{prompt}{more}\n"


@pytest.mark.parametrize("longer", ["", "m", "xyz" * 99])
def test_longest_prompt(run, longer):
    """The model sees its newest tokens, the text has all of it."""
    newest = "abcdefghijkl"
    assert len(newest) == MAX_T
    text = expected(list(newest.encode()), 20)
    assert run("--prompt", longer + newest, "--tokens", 20) == f"{longer}{newest}{text}\n"


@pytest.mark.parametrize("prompt", ["-- ", "---", "-x", "--tokens", "é"])
def test_prompt_that_looks_like_a_flag(run, prompt):
    """Or is in the bytes of another locale."""
    typed = prompt.encode().decode("ascii", "surrogateescape")
    assert run(f"--prompt={typed}", "--tokens", 0) == f"{prompt}\n"


def test_vocabulary_that_lacks_letters(run):
    text = expected([LETTERS.index(c.encode()) for c in "cab"], 6, vocabulary=LETTERS)
    assert run("--prompt", "cab", "--tokens", 6, vocabulary=LETTERS) == f"cab{text}\n"
    for prompt, letter in ("aé", "é"), ("a<end>", "<"):
        with pytest.raises(UserError, match=f"--prompt: this model's tokens lack '{letter}'"):
            encoding.encoder(LETTERS, len(LETTERS) - 1, "--prompt")(prompt)
    with pytest.raises(UserError, match="lack 'b'"):  # it is the name of the end of text
        encoding.encoder([b"a", b"b"], 1, "--prompt")("ab")


# ----------------------------------------------------------------------------
# Files


def test_says_what_it_loaded(tmp_path, capsys):
    flags = ["--tokens", "0", "--prompt", "a", "--tokenizer", str(tmp_path / "own_tokenizer.bin")]
    count = f"{gpt2.num_parameters(model(BYTES)[1]):,}"
    for about, step in (None, ""), (ABOUT | {"step": 40}, ", step 40"):
        sample.main(["--weights", str(write(tmp_path, about=about)), *flags])
        assert capsys.readouterr() == ("a\n", f"out.bin: {count} parameters{step}\n")


def test_tokenizer_of_the_training_data(tmp_path, gpt2_tokenizer, capsys, monkeypatch):
    """Wherever these are; without it, GPT-2's."""
    monkeypatch.setattr(checkpoints, "HERE", tmp_path)
    (tmp_path / "data").mkdir()
    own = tmp_path / "data" / "own"
    write_tokenizer(gpt2_tokenizer, [c.upper() for c in LETTERS])
    write_tokenizer(f"{own}_tokenizer.bin", LETTERS)
    text = expected([12], 9, vocabulary=LETTERS)

    def sampled(data, *flags):
        path = write(tmp_path, LETTERS, about=ABOUT | {"data": str(data)})
        sample.main(["--weights", str(path), "--tokens", "9", *flags])
        return capsys.readouterr().out.removesuffix("\n")

    assert text != text.upper() == sampled(tmp_path / "none")
    for data in "data/own", own:
        assert sampled(data) == text
        assert sampled(data, "--tokenizer", str(gpt2_tokenizer)) == text.upper()
    Path(f"{own}_tokenizer.bin").unlink()
    assert sampled("data/own") == text.upper()


def test_what_the_lesson_has_just_written_needs_no_flag(tmp_path, capsys, monkeypatch):
    """Its out.bin, and the only tokens in data/ that are as many."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "HERE", tmp_path)
    (tmp_path / "data").mkdir()
    path, text = write(tmp_path, LETTERS), expected([12], 9, vocabulary=LETTERS)
    write_tokenizer(tmp_path / "data" / "longer_tokenizer.bin", [b"a", *LETTERS])
    with pytest.raises(UserError, match="sample_gpt2.py --tokenizer FILE"):
        sample.main([])
    write_tokenizer(tmp_path / "data" / "own_tokenizer.bin", LETTERS)
    for flags in [], ["out.bin"], ["--weights", "out.bin"]:
        sample.main([*flags, "--tokens", "9"])
        assert capsys.readouterr().out == f"{text}\n"
    write_tokenizer(tmp_path / "data" / "other_tokenizer.bin", [c.upper() for c in LETTERS])
    with pytest.raises(UserError, match="sample_gpt2.py --tokenizer FILE"):
        sample.main([str(path)])  # either may be its own
    with pytest.raises(SystemExit):
        sample.main(["out.bin", "--weights", "out.bin"])


def test_defaults(tmp_path, monkeypatch):
    """As --help says them."""
    monkeypatch.chdir(tmp_path)
    assert vars(sample.parse_args([])) == {
        "file": None,
        "weights": PROJECT / "gpt2_124M.bin",
        "prompt": "",
        "interactive": False,
        "chat": None,
        "stop": "",
        "separator": None,
        "tokens": 100,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "seed": 1337,
        "samples": 1,
        "tokenizer": None,
    }


# ----------------------------------------------------------------------------
# Many texts


def test_samples_together_are_those_one_by_one(run, monkeypatch):
    """Also where there are more than go through the model together, and some end early."""
    count = 2 * sample.TOGETHER + 1
    flags = ["--prompt", "ab", "--tokens", 30, "--samples", count]
    flat, config = model(BYTES)
    wte = gpt2.named_views(flat, config)["wte"]
    wte[-1, 0] = 0.1  # so that it draws end-of-text now and then
    together = run(*flags, flat=flat)
    monkeypatch.setattr(sample, "TOGETHER", 1)
    assert run(*flags, flat=flat) == together
    texts = together[:-1].split("\n---\n")
    assert len(texts) == count and all(text.startswith("ab") for text in texts)
    assert min(map(len, texts)) < 12 < max(map(len, texts))  # of 32, or less in UTF-8
    monkeypatch.setattr(sample, "TOGETHER_TOKENS", 1)  # never none
    assert run(*flags, flat=flat) == together


def test_samples_go_through_the_model_together(run, monkeypatch):
    shapes, generate = [], sampling.generate

    def seen(params, config, tokens, *others):
        shapes.append(tokens.shape)
        return generate(params, config, tokens, *others)

    assert sample.TOGETHER == 16
    monkeypatch.setattr(sampling, "generate", seen)
    run("--prompt", "abc", "--tokens", 2, "--samples", 20)
    assert shapes == [(16, 3), (4, 3)]
    monkeypatch.setattr(sample, "TOGETHER_TOKENS", 7)  # of prompts, at a time
    run("--prompt", "abc", "--tokens", 2, "--samples", 5)
    assert shapes[2:] == [(2, 3), (2, 3), (1, 3)]


# ----------------------------------------------------------------------------
# The program


@pytest.fixture
def start(tmp_path):
    """Start it on a model that says "x" without end."""
    processes = []

    def start(*flags, python=()):
        path = write(tmp_path, flat=certain(ord("x")))
        command = [sys.executable, *python, PROJECT / "sample_gpt2.py", "--weights", path]
        command += ["--tokenizer", tmp_path / "own_tokenizer.bin", "--tokens", "1000000000"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen([*command, *flags], cwd=tmp_path, **pipes))
        return processes[-1]

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # if it was to be ignored
    yield start
    signal.signal(signal.SIGINT, handler)
    for process in processes:
        process.kill()
        process.communicate()


@posix
def test_text_comes_at_once_and_ctrl_c_ends_it(start):
    process = start("--prompt", "é")
    assert process.stdout.read(20) == "é".encode() + b"x" * 18
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.fullmatch(rb"x*", out) and re.fullmatch(rb"out\.bin: [\d,]+ parameters\n", err)


def test_a_second_ctrl_c_ends_it_amid_a_token():
    before = signal.getsignal(signal.SIGINT)
    try:
        pressed = console.catch_interrupt()
        signal.raise_signal(signal.SIGINT)
        assert pressed.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@posix
def test_a_reader_that_has_enough(start):
    process = start()
    assert process.stdout.read(10) == b"x" * 10
    process.stdout.close()
    assert re.fullmatch(rb"out\.bin: [\d,]+ parameters\n", process.stderr.read())
    assert process.wait(timeout=30) == -signal.SIGPIPE
