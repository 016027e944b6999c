"""
tools/huggingface.py: what reference_gpt2.py --model reads and --export writes, names and folders.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import train_gpt2 as gpt2
from tools import (
    checkpoints,
    encoding,
    formats,
    hf_tokenizer,
    huggingface,
    memory,
    tensor_file,
    token_files,
)
from tools.console import Unavailable, UserError
from tools.download import sha256_of

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch")
import reference_gpt2 as reference  # noqa: E402

from helpers import SMALL_WEIGHTS  # noqa: E402
from test_safetensors import TINY, hf_tensors, random_flat, write_safetensors  # noqa: E402

SMALL = reference.SMALL
BYTES = [bytes([i]) for i in range(256)]
END = b"<|endoftext|>"


def command(*args):
    """Run reference_gpt2.py."""
    reference.main([*map(str, args)])


@pytest.fixture
def folder(tmp_path):
    """The small model's folder."""
    command("--export", SMALL_WEIGHTS, tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A project without files in tmp_path, and without a network."""

    def no_network(path):
        raise Unavailable("no.where can't be reached")

    monkeypatch.setattr(encoding, "write_gpt2_tokenizer", no_network)
    monkeypatch.setattr(gpt2, "TOKENIZER_FILE", tmp_path / "gpt2_tokenizer.bin")
    monkeypatch.setattr(gpt2, "HERE", tmp_path)


def read_json(path):
    return json.loads(path.read_text("utf-8"))


def read_tensors(folder):
    found = tensor_file.read_header(folder / "model.safetensors", "")
    return {name: tensor_file.read_tensor(tensor) for name, tensor in found.items()}


def set_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(read_json(path) | changes))


def write_model(path, V, data=None):
    """Write random weights; if they are to know their data, as a checkpoint."""
    config = gpt2.GPT2Config(4, V, 1, 1, 2)
    if data:
        about = {"step": 1, "data": data, "digest": "0a", "settings": {}}
        checkpoints.save(path, random_flat(config), config, about)
    else:
        formats.write_weights(path, random_flat(config), config)
    return path


# ----------------------------------------------------------------------------
# What is written


def test_exported_tensors(folder):
    expected, found = hf_tensors(*formats.load_weights(SMALL_WEIGHTS)), read_tensors(folder)
    assert set(found) == {f"transformer.{name}" for name in expected}
    for name, array in expected.items():
        assert np.array_equal(found[f"transformer.{name}"], array), name


def test_exported_settings(folder):
    ids = {"bos_token_id": None, "eos_token_id": None}
    assert read_json(folder / "config.json") == {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": 19, "n_ctx": 19,
        "vocab_size": 101, "n_layer": 2, "n_head": 3, "n_embd": 24, "n_inner": None,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False, "tie_word_embeddings": True,
        "torch_dtype": "float32", **ids,
    }  # fmt: skip
    assert read_json(folder / "generation_config.json") == {"_from_model_config": True, **ids}


def test_there_and_back(folder, tmp_path):
    assert set(os.listdir(folder)) == {"config.json", "generation_config.json", "model.safetensors"}
    out = tmp_path / "back.bin"
    for model in folder, folder / "model.safetensors":  # config.json is beside it
        command("--model", model, "--weights-only", "--seq-len", 19, "--out", out)
        assert out.read_bytes() == SMALL_WEIGHTS.read_bytes()
        out.unlink()


# ----------------------------------------------------------------------------
# Tokenizers


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a function that exports a model with a vocabulary of its own -> the folder."""
    monkeypatch.setattr(checkpoints, "HERE", tmp_path)
    (tmp_path / "data").mkdir()

    def export(vocabulary, end_of_text):
        path = tmp_path / "data" / "own_tokenizer.bin"
        token_files.write_tokenizer(path, vocabulary, end_of_text)
        model = write_model(tmp_path / "m.bin", len(vocabulary), "data/own")
        command("--export", model, tmp_path / "hf")
        return tmp_path / "hf"

    return export


def test_tokenizer_of_bytes(own, capsys):
    folder = own([*BYTES, END], 256)
    assert "wrote" in capsys.readouterr().out
    vocab = read_json(folder / "vocab.json")
    assert sorted(vocab.values()) == list(range(257))
    known = {"Ā": 0, "Ċ": 10, "Ġ": 32, "!": 33, "~": 126, "ġ": 127, "ł": 160, "¡": 161, "Ń": 173}
    for letter, byte in (known | {"®": 174, "ÿ": 255, "<|endoftext|>": 256}).items():
        assert vocab[letter] == byte, letter
    assert (folder / "merges.txt").read_text() == "#version: 0.2\n"
    whole = read_json(folder / "tokenizer.json")
    assert whole["model"]["vocab"] == vocab and whole["model"]["merges"] == []
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    assert whole["added_tokens"] == [
        {"id": 256, "content": "<|endoftext|>", "special": True, **flags}
    ]
    settings = read_json(folder / "tokenizer_config.json")
    assert settings["tokenizer_class"] == "GPT2Tokenizer" and settings["model_max_length"] == 4
    assert settings["eos_token"] == settings["bos_token"] == "<|endoftext|>"
    for name in "config.json", "generation_config.json":
        ids = read_json(folder / name)
        assert ids["bos_token_id"] == ids["eos_token_id"] == 256


def test_merges_of_a_small_vocabulary(own):
    # "abab" is (ab, ab), as "ab" comes first; "bab" could be (b, ab) alone, "ba" being later
    vocabulary = [*BYTES, b"ab", END, b"abab", b" b", b"bab", b"ba"]
    folder = own(vocabulary, 257)
    lines = (folder / "merges.txt").read_text().splitlines()
    assert lines == ["#version: 0.2", "a b", "ab ab", "Ġ b", "b ab", "b a"]
    assert read_json(folder / "tokenizer.json")["model"]["merges"] == lines[1:]
    vocab = read_json(folder / "vocab.json")
    assert [vocab[token] for token in ("ab", "<|endoftext|>", "Ġb", "ba")] == [256, 257, 259, 261]


@pytest.mark.parametrize("lacks", ["", "tokenizer.json", "vocab.json"])
def test_tokenizer_there_and_back(own, tmp_path, capsys, lacks):
    """Of one kind of files or the other; "[PAD]" is no token of BPE's, 5 rows have none at all."""
    vocabulary = [END, *BYTES, b"ab", b" ab", b"\xc3\xa9", b"[PAD]"]
    folder, out = own(vocabulary, 0), tmp_path / "back.bin"
    if lacks:
        (folder / lacks).unlink()
    tensors, name = read_tensors(folder), "transformer.wte.weight"
    tensors[name] = np.pad(wte := tensors[name], ((0, 5), (0, 0)), constant_values=9)
    write_safetensors(folder / "model.safetensors", tensors)
    set_config(folder, vocab_size=len(vocabulary) + 5)
    for _ in range(2):  # the tokenizer may be there
        command("--model", folder, "--weights-only", "--out", out)
    assert "left out: rows 261 to 265 of wte" in capsys.readouterr().out
    assert formats.load_tokenizer(tmp_path / "back_tokenizer.bin") == (vocabulary, 0)
    its = checkpoints.Checkpoint(out)
    assert checkpoints.tokenizer_of(its) == tmp_path / "back_tokenizer.bin"
    assert formats.digest_in(out) == formats.digest_of(vocabulary)
    flat, config = formats.load_weights(out)
    assert config.V == 261 and np.array_equal(gpt2.named_views(flat, config)["wte"], wte)
    command("--export", out, tmp_path / "again")
    for file in hf_tokenizer.FILES[0], hf_tokenizer.FILES[2]:
        if file != lacks:
            assert (tmp_path / "again" / file).read_text() == (folder / file).read_text()

    out.unlink()
    token_files.write_tokenizer(tmp_path / "back_tokenizer.bin", [*BYTES, END], 256)
    for name, match in (
        ("back.bin", "back_tokenizer.bin: is"),
        ("gpt2.bin", "gpt2_tokenizer.bin: is"),
    ):
        with pytest.raises(UserError, match=f"{match} another model's tokenizer"):
            command("--model", folder, "--weights-only", "--out", tmp_path / name)
        assert not (tmp_path / name).exists()


def swapped(folder):
    path = folder / "merges.txt"
    first, *lines = path.read_text().splitlines()
    path.write_text("\n".join([first, *reversed(lines)]))


def changed(name, change):
    """Return a function that changes the JSON of a file in a folder."""

    def write(folder):
        found = read_json(folder / name)
        change(found)
        (folder / name).write_text(json.dumps(found))

    return write


OTHER_TOKENIZERS = {
    "merges in another order": (swapped, "order of its tokens"),
    "another pattern": (
        changed("tokenizer.json", lambda t: t["pre_tokenizer"].update(use_regex=False)),
        "another way",
    ),
    "a normalizer": (
        changed("tokenizer.json", lambda t: t.update(normalizer={"type": "NFC"})), "another way",
    ),
    "a space before": (
        changed("tokenizer_config.json", lambda t: t.update(add_prefix_space=True)), "puts a space",
    ),
    "a gap": (changed("vocab.json", lambda t: t.update(ab=300)), "KeyError: 256"),
    "no end": (changed("tokenizer_config.json", lambda t: t.update(eos_token="</s>")), "is not in"),
    "no text": (lambda folder: (folder / "vocab.json").write_text("["), "not JSON"),
    "no merges": (lambda folder: (folder / "merges.txt").unlink(), "No such file"),
    "a token twice": (
        changed("tokenizer.json", lambda t: t["added_tokens"].append({"id": 256, "content": "a"})),
        "two tokens are the same",
    ),
    "a long token": (
        changed("tokenizer.json", lambda t: t["added_tokens"][0].update(id=256, content="[" * 256)),
        "more than 255 bytes",
    ),
    "no vocabulary": (changed("tokenizer.json", lambda t: t.pop("model")), "KeyError: 'model'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER_TOKENIZERS)
def test_other_tokenizers(own, capsys, kind):
    """They are not taken, because our BPE would make other tokens; nothing else comes for them."""
    folder = own([*BYTES, b"ab", b"cd", END], 258)
    change, why = OTHER_TOKENIZERS[kind]
    before = (folder / "tokenizer.json").read_bytes()
    change(folder)
    if (folder / "tokenizer.json").read_bytes() == before:
        (folder / "tokenizer.json").unlink()
    assert huggingface.import_model(folder)[2] == ()
    out = capsys.readouterr().out
    assert "without its tokenizer: " in out and why in out


def test_added_tokens(own):
    """They have ids of their own; those without a row of wte are left out."""
    folder, added = own([*BYTES, END, b"[PAD]"], 256), {"[PAD]": 257, "[\u00e9]": 258}
    entries = [{"id": i, "content": token} for token, i in added.items()]
    (folder / "added_tokens.json").write_text(json.dumps(added))
    changed("vocab.json", lambda t: t.pop("[PAD]"))(folder)
    changed("tokenizer.json", lambda t: t["model"]["vocab"].pop("[PAD]"))(folder)
    changed("tokenizer.json", lambda t: t.update(added_tokens=entries))(folder)
    for _ in range(2):
        for V, tokens in (258, [b"[PAD]"]), (259, [b"[PAD]", b"[\xc3\xa9]"]):
            assert hf_tokenizer.read(folder, V) == ([*BYTES, END, *tokens], 256)
        (folder / "tokenizer.json").unlink(missing_ok=True)


@pytest.mark.parametrize("V, kept, says", [
    (50304, 50257, "left out: rows 50,257 to 50,303 of wte"),
    (50258, 50258, "there is no tokenizer.json, .* for its 50,258 tokens"),
    (50304, 50304, "without its tokenizer: .*tokenizer.json"),
])  # fmt: skip
def test_rows_of_a_model_without_a_tokenizer(tmp_path, capsys, V, kept, says):
    """50,304 is GPT-2's number of tokens, padded; of 50,258 rows the last may have a token."""
    config = gpt2.GPT2Config(4, V, 1, 1, 64)
    flat = random_flat(config)
    write_safetensors(tmp_path / "m.safetensors", hf_tensors(flat, config))
    if "its tokenizer" in says:
        (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    read, new, tokenizer = huggingface.import_model(tmp_path / "m.safetensors")
    assert new == config._replace(V=kept) and not tokenizer
    wpe = gpt2.named_views(flat, config)["wpe"]
    assert np.array_equal(gpt2.named_views(read, new)["wpe"], wpe)
    assert re.search(says, capsys.readouterr().out)


@pytest.mark.parametrize(
    ("vocabulary", "why"),
    [
        ([*BYTES, b"abc", END], "b'abc' is none that BPE"),
        ([b"b", b"ab", END], "b'ab' is none that BPE"),
        ([*BYTES, b"a", END], "257 different tokens, the model 258"),
    ],
)
def test_vocabulary_that_is_no_bpe(own, capsys, vocabulary, why):
    folder = own(vocabulary, len(vocabulary) - 1)
    assert why in capsys.readouterr().out
    assert not (folder / "vocab.json").exists()
    assert read_json(folder / "config.json")["eos_token_id"] is None


def test_tokenizer_of_another_vocabulary_is_not_exported(own, tmp_path, capsys, monkeypatch):
    own([*BYTES, END], 256)
    path, other = tmp_path / "m.bin", tmp_path / "data" / "own_tokenizer.bin"
    formats.write_weights(path, *formats.load_weights(path), digest=1)
    monkeypatch.setattr(checkpoints, "tokenizer_of", lambda path: other)
    command("--export", path, tmp_path / "hf")
    assert "without a tokenizer: " in capsys.readouterr().out
    assert not (tmp_path / "hf" / "vocab.json").exists()


def test_another_model_takes_the_place_of_an_export(own, capsys):
    folder = own([*BYTES, END], 256)
    command("--export", SMALL_WEIGHTS, folder)
    assert "without a tokenizer: " in capsys.readouterr().out
    assert np.array_equal(huggingface.load(folder)[0], formats.load_weights(SMALL_WEIGHTS)[0])
    assert not (folder / "vocab.json").exists()  # it was of the first

    (folder / "diary.txt").write_text("mine")
    (folder / "config.json").write_text("mine, too")
    with pytest.raises(UserError, match="diary.txt"):
        command("--export", SMALL_WEIGHTS, folder)
    assert (folder / "config.json").read_text() == "mine, too"


def test_gpt2_tokenizer_is_the_published_one(tmp_path, monkeypatch):
    default = Path(tempfile.gettempdir(), "data-gym-cache")
    cache = Path(os.environ.get("TIKTOKEN_CACHE_DIR") or default)
    published = []
    for name, sha256 in encoding.VOCABULARY_FILES.items():
        path = cache / hashlib.sha1((encoding.VOCABULARY_URL + name).encode()).hexdigest()
        if not path.exists() or sha256_of(path) != sha256:
            pytest.skip(f"needs GPT-2's {name}, which tiktoken downloads to {cache}")
        published.append(path.read_text("utf-8"))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    monkeypatch.setattr(gpt2, "TOKENIZER_FILE", tmp_path / "gpt2_tokenizer.bin")
    command("--export", write_model(tmp_path / "m.bin", 50257), tmp_path / "hf")
    assert (tmp_path / "hf" / "merges.txt").read_text("utf-8") == published[0]
    assert read_json(tmp_path / "hf" / "vocab.json") == json.loads(published[1])


def test_export_without_a_network(tmp_path, offline, capsys):
    command("--export", write_model(tmp_path / "m.bin", 50257), tmp_path / "hf")
    out = capsys.readouterr().out
    assert "no.where" in out and "without a tokenizer" in out and "model.safetensors" in out


# ----------------------------------------------------------------------------
# What is read


def write_shards(folder, **changes):
    """Write the small model again, in two files and their index; changes are those of the index."""
    named = read_tensors(folder)
    (folder / "model.safetensors").unlink()
    index = {}
    for i, names in enumerate((sorted(named)[:9], sorted(named)[9:]), 1):
        path = folder / f"model-0000{i}-of-00002.safetensors"
        write_safetensors(path, {name: named[name] for name in names})
        index |= dict.fromkeys(names, path.name)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": index | changes})
    )


def test_shards(folder):
    write_shards(folder)
    # of another save, and none that the index names
    write_safetensors(folder / "model-00001-of-00003.safetensors", {"wte.weight": np.ones((9, 9))})
    flat, config = huggingface.load(folder)
    assert config == SMALL and np.array_equal(flat, formats.load_weights(SMALL_WEIGHTS)[0])
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00002.safetensors: there is no file"):
        huggingface.load(folder)


SECOND = "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"transformer.h.9.ln_1.bias": SECOND},
            f"has 'transformer.h.9.ln_1.bias' in {SECOND}, but",
        ),
        (
            {"transformer.h.0.ln_1.bias": SECOND},
            f"has 'transformer.h.0.ln_1.bias' in {SECOND}, but",
        ),
        (
            {"transformer.wte.weight": f"../small/{SECOND}"},
            "its weight_map is none of files beside",
        ),
        ({"transformer.wte.weight": 2}, "its weight_map is none of files beside"),
    ],
)
def test_index_of_another_save(folder, changes, why):
    write_shards(folder, **changes)
    with pytest.raises(UserError, match=why):
        huggingface.load(folder)


def test_files_of_two_saves(folder):
    whole = (folder / "model.safetensors").read_bytes()
    write_shards(folder)
    (folder / "model.safetensors.index.json").rename(folder / "elsewhere")
    with pytest.raises(UserError, match="no model.safetensors.index.json, which lists"):
        huggingface.load(folder)
    (folder / "model.safetensors").write_bytes(whole)
    with pytest.raises(UserError, match="has model.safetensors and model-.*, of two saves"):
        huggingface.load(folder)
    assert huggingface.load(folder / "model.safetensors")[1] == SMALL


WRONG = {
    "model_type": ("gpt_neo", "config.json has model_type 'gpt_neo', but it is 'gpt2'"),
    "activation_function": ("relu", "relu"),
    "layer_norm_epsilon": (1e-6, "1e-06"),
    "scale_attn_weights": (False, "False"),
    "scale_attn_by_inverse_layer_idx": (True, "True"),
    "n_layer": (3, "n_layer 3, but it is 2 in the tensors"),
    "n_embd": (48, "48"),
    "n_positions": (1024, "1024"),
    "vocab_size": (50257, "50257"),
    "hidden_size": (48, "n_embd 24 and hidden_size 48, which are one"),
    "num_attention_heads": (6, "n_head 3 and num_attention_heads 6, which are one"),
    "tie_word_embeddings": (
        False,
        "tie_word_embeddings false, and of .* one is missing",
    ),
}
IMPOSSIBLE = [
    ("n_head", heads, "not a GPT-2, .*n_head") for heads in (5, 0, -3, 3.0, "3", None, True)
]


@pytest.mark.parametrize("key, value, why", [*((key, *WRONG[key]) for key in WRONG), *IMPOSSIBLE])
def test_wrong_setting(folder, key, value, why):
    set_config(folder, **{key: value})
    with pytest.raises(UserError, match=why) as caught:
        huggingface.load(folder)
    assert str(folder) in str(caught.value) and key in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{"])
def test_damaged_settings(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json: not JSON with settings"):
        huggingface.load(folder)


def test_number_of_heads(folder):
    others = {"reorder_and_upcast_attn": True, "activation_function": "gelu_pytorch_tanh"}
    set_config(folder, n_head=6, num_attention_heads=6, **others)
    assert huggingface.load(folder)[1] == SMALL._replace(NH=6)
    (folder / "config.json").write_text('{"n_head": 3}')  # others left out are the usual
    assert huggingface.load(folder)[1] == SMALL
    (folder / "config.json").write_text('{"num_attention_heads": 4}')
    assert huggingface.load(folder)[1] == SMALL._replace(NH=4)
    (folder / "config.json").write_text("{}")  # GPT2Config's own
    assert huggingface.load(folder)[1] == SMALL._replace(NH=12)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="C / 64"):
        huggingface.load(folder)


def test_head_and_wte(tmp_path):
    """One is enough, if they are one matrix; where there are both, they have to be."""
    flat = random_flat(TINY)
    named = hf_tensors(flat, TINY)
    named["lm_head.weight"] = wte = named.pop("wte.weight")
    read, config = huggingface.load(write_safetensors(tmp_path / "m", named))
    assert config == TINY and np.array_equal(read, flat)
    (tmp_path / "config.json").write_text('{"n_head": 1, "tie_word_embeddings": false}')
    with pytest.raises(UserError, match="of wte and lm_head one is missing; set it to true"):
        huggingface.load(tmp_path / "m")
    write_safetensors(tmp_path / "m", named | {"wte.weight": wte})
    assert np.array_equal(huggingface.load(tmp_path / "m")[0], flat)
    other = wte.copy()
    other[-1, -1] += 1
    named["wte.weight"] = wte
    for head, why in (other, "differs from wte"), (wte[1:], r"is 'F32' \(10, 64\)"):
        path = write_safetensors(tmp_path / "m", named | {"lm_head.weight": head})
        with pytest.raises(UserError, match=f"lm_head.weight {why}"):
            huggingface.load(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(tmp_path, bad):
    flat = random_flat(TINY)
    flat[-1] = bad
    formats.write_weights(tmp_path / "w.bin", flat, TINY)
    write_safetensors(tmp_path / "m.safetensors", hf_tensors(flat, TINY))
    for name, flags in (
        ("w.bin", ["--export", tmp_path / "w.bin", tmp_path / "out"]),
        ("m.safetensors", ["--model", tmp_path / "m.safetensors", "--out", tmp_path / "out"]),
    ):
        with pytest.raises(UserError, match=f"{name}: its weights are not all finite"):
            command(*flags, "--seq-len", 4)
        assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------
# Models by name, and what the file is called


@pytest.fixture
def asked(monkeypatch):
    """What is asked to be downloaded; what comes is another model."""
    calls = []

    def download(url, path, size, sha256):
        calls.append((url, path, size, sha256))
        write_safetensors(path, hf_tensors(random_flat(TINY), TINY))

    monkeypatch.setattr("tools.download.download", download)
    return calls


@pytest.mark.parametrize("name", huggingface.HF_MODELS)
def test_named_model(tmp_path, monkeypatch, asked, name):
    owner, (L, NH, C), out = huggingface.HF_MODELS[name]
    assert C == 64 * NH  # so that no config.json is needed
    monkeypatch.setattr(gpt2, "HERE", tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    with pytest.raises(UserError, match=f"maxT=7, .*not {name}; delete it"):
        command("--model", name, "--weights-only")
    file, size, sha256 = f"model_{name}.safetensors", None, None
    if name == "gpt2":
        file, size, sha256 = "model.safetensors", 548_105_171, huggingface.HF_GPT2_SHA256
    url = f"https://mirror.example/{owner}/{name}/resolve/main/model.safetensors"
    assert asked == [(url, tmp_path / file, size, sha256)]
    assert os.listdir(tmp_path) == [file] and reference.file_of(name) == tmp_path / out
    if name == "gpt2":
        with pytest.raises(UserError, match="does not have GPT-2's 548,105,171 bytes; delete it"):
            command("--weights-only")


def test_named_model_that_is_there(tmp_path, monkeypatch, capsys):
    config = gpt2.GPT2Config(1024, 50257, 1, 1, 64)
    entry = "openai-community", config[2:], "gpt2_355M.bin"
    monkeypatch.setitem(huggingface.HF_MODELS, "gpt2-medium", entry)
    monkeypatch.setattr(gpt2, "HERE", tmp_path)
    monkeypatch.setattr(huggingface, "write_gpt2_tokenizer", lambda path, required: None)
    flat = random_flat(config)
    write_safetensors(tmp_path / "model_gpt2-medium.safetensors", hf_tensors(flat, config))
    command("--model", "gpt2-medium", "--weights-only")
    assert formats.digest_in(tmp_path / "gpt2_355M.bin") == token_files.GPT2_DIGEST
    assert f"wrote {tmp_path / 'gpt2_355M.bin'}" in capsys.readouterr().out
    read, read_config = formats.load_weights(tmp_path / "gpt2_355M.bin")
    assert read_config == config and np.array_equal(read, flat)


def test_file_of_a_model(tmp_path, monkeypatch):
    monkeypatch.setattr(gpt2, "HERE", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert reference.file_of("d48") == tmp_path / "gpt2_d48.bin"
    for model, name in ("a/b.c.safetensors", "b.c.bin"), ("some/gpt2.v1/", "gpt2.v1.bin"):
        assert reference.file_of(model) == tmp_path / name
    assert reference.file_of(".") == tmp_path / f"{tmp_path.name}.bin"

    for model, name in ("hf/out", "out.bin"), ("d7", "gpt2_d7.bin"):
        shutil.copy(SMALL_WEIGHTS, tmp_path / name)
        assert reference.file_of(model) == tmp_path / name  # can be made again
        write_model(tmp_path / name, 5, "data/x")
        with pytest.raises(UserError, match=f"{name}: is a checkpoint.*--out"):
            reference.file_of(model)
        (tmp_path / name).write_bytes(b"something else")
        with pytest.raises(UserError, match=f"{name}: not a file of the kind"):
            reference.file_of(model)


def test_names_of_openai_are_for_its_models(folder, tmp_path, monkeypatch):
    """gpt2_124M.bin and so on are never written for another model, by default or by --out."""
    monkeypatch.setattr(gpt2, "HERE", tmp_path)
    folder.rename(tmp_path / "gpt2_124M")
    real = [tmp_path / name for name in ("gpt2_124M.bin", "gpt2_1558M.bin", "gpt2_1558m.bin")]
    for path in real:
        shutil.copy(SMALL_WEIGHTS, path)
    for model, *out in (
        ("d1", "--out", real[0]),
        ("d48", "--out", real[1]),
        ("d48", "--out", real[2]),
        ("gpt2-medium", "--out", real[0]),
        (tmp_path / "gpt2_124M",),
    ):
        with pytest.raises(UserError, match="is not OpenAI's gpt2.*; give another --out"):
            command("--model", model, *out, "--weights-only", "--seq-len", 4)
    assert {path.read_bytes() for path in real} == {SMALL_WEIGHTS.read_bytes()}
    reference.check_name(real[0], "gpt2")
    reference.check_name(tmp_path / "distilgpt2.bin", "models/distilgpt2")


def test_random_model_without_a_network(tmp_path, offline, capsys):
    """It goes to files of its own, and does without the tokenizer."""
    command("--model", "d1", "--batch-size", 1, "--seq-len", 4, "--steps", 1)
    assert sorted(os.listdir(tmp_path)) == ["gpt2_d1.bin", "gpt2_d1_debug_state.bin"]
    config = gpt2.named_config("d1", 50257)
    assert formats.load_weights(tmp_path / "gpt2_d1.bin")[1] == config
    lines = [line for line in capsys.readouterr().out.splitlines() if "gpt2_tokenizer.bin" in line]
    assert len(lines) == 1 and "no.where" in lines[0]


def test_too_large_for_steps(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "machine_memory", lambda: 10**5)
    out = tmp_path / "large.bin"
    command("--model", folder, "--out", out, "--seq-len", 4)
    assert "not writing a debug state" in capsys.readouterr().out
    assert out.exists() and not (tmp_path / "large_debug_state.bin").exists()
