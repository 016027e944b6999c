"""
tools/huggingface.py: what reference_gpt2.py --model reads and --export writes, names and folders.
"""

import hashlib
import json
import os
import shutil
import struct
import tempfile
from pathlib import Path

import train_gpt2 as gpt2
from test_gpt2 import logits_of
from tools import checkpoints, encoding, formats, huggingface, memory, token_files
from tools.console import NoNetwork, UserError
from tools.download import sha256_of

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import reference_gpt2 as reference  # noqa: E402

from test_reference import error  # noqa: E402
from test_safetensors import TINY, hf_tensors, random_flat, write_safetensors  # noqa: E402
from torch.nn import functional as F  # noqa: E402

SMALL, SMALL_FILE = reference.SMALL, Path(__file__).parent / "small_weights.bin"
BYTES = [bytes([i]) for i in range(256)]
END = b"<|endoftext|>"


@pytest.fixture
def folder(tmp_path):
    """The small model's folder."""
    reference.main(["--export", str(SMALL_FILE), str(tmp_path / "small")])
    return tmp_path / "small"


def read_safetensors(path):
    """Read what --export wrote, from the format's description alone -> header, name -> array."""
    data, named = path.read_bytes(), {}
    (size,) = struct.unpack("<Q", data[:8])
    header, at = json.loads(data[8 : 8 + size]), 8 + size
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            values = np.frombuffer(data[at + begin : at + end], "<f4")
            named[name] = values.reshape(entry["shape"])
    return header, named


def read_json(path):
    return json.loads(path.read_text("utf-8"))


def set_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(read_json(path) | changes))


# What is written


def test_exported_tensors(folder):
    header, named = read_safetensors(folder / "model.safetensors")
    expected = hf_tensors(*formats.load_weights(SMALL_FILE))
    assert header.pop("__metadata__") == {"format": "pt"}
    assert set(named) == {f"transformer.{name}" for name in expected}
    for name, array in expected.items():
        assert np.array_equal(named[f"transformer.{name}"], array), name
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    offsets = sorted(entry["data_offsets"] for entry in header.values())
    assert all(a[1] == b[0] for a, b in zip(offsets, offsets[1:], strict=False))
    size = (folder / "model.safetensors").stat().st_size
    assert offsets[0][0] == 0 and (size - offsets[-1][1]) % 8 == 0  # aligned


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


def hf_logits(folder, x):
    """The logits of GPT2LMHeadModel, by what its documentation says of a folder."""
    config = read_json(folder / "config.json")
    _, named = read_safetensors(folder / "model.safetensors")
    p = {name.removeprefix("transformer."): torch.tensor(a) for name, a in named.items()}
    C, NH, eps = config["n_embd"], config["n_head"], config["layer_norm_epsilon"]
    assert config["activation_function"] == "gelu_new"

    def norm(name, x):
        return F.layer_norm(x, (C,), p[f"{name}.weight"], p[f"{name}.bias"], eps)

    def conv1d(name, x):
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    out = p["wte.weight"][x] + p["wpe.weight"][: x.shape[1]]
    for l in range(config["n_layer"]):
        qkv = conv1d(f"h.{l}.attn.c_attn", norm(f"h.{l}.ln_1", out)).split(C, 2)
        q, k, v = (t.unflatten(2, (NH, C // NH)).transpose(1, 2) for t in qkv)
        att = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out = out + conv1d(f"h.{l}.attn.c_proj", att.transpose(1, 2).flatten(2))
        fc = F.gelu(conv1d(f"h.{l}.mlp.c_fc", norm(f"h.{l}.ln_2", out)), approximate="tanh")
        out = out + conv1d(f"h.{l}.mlp.c_proj", fc)
    return (norm("ln_f", out) @ p["wte.weight"].T).flatten(0, 1).numpy()


def test_exported_model_has_the_same_logits(folder):
    flat, config = formats.load_weights(SMALL_FILE)
    x, y = reference.random_batch(config, 3, 13)
    _, cache = gpt2.gpt2_forward(gpt2.named_views(flat, config), config, x, y)
    assert error(hf_logits(folder, torch.from_numpy(x)), logits_of(cache)) < 3e-6  # measured: 3e-7


def test_there_and_back(folder, tmp_path):
    assert set(os.listdir(folder)) == {"config.json", "generation_config.json", "model.safetensors"}
    out = tmp_path / "back.bin"
    flags = ["--weights-only", "--seq-len", "19", "--out", str(out)]
    reference.main(["--model", str(folder), *flags])
    assert out.read_bytes() == SMALL_FILE.read_bytes()
    out.unlink()
    reference.main(["--model", str(folder / "model.safetensors"), *flags])  # config.json beside it
    assert out.read_bytes() == SMALL_FILE.read_bytes()


# Tokenizers


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A project in tmp_path -> a model of data with a vocabulary of its own, exported."""
    monkeypatch.setattr(checkpoints, "HERE", tmp_path)
    (tmp_path / "data").mkdir()

    def export(vocabulary, end_of_text):
        path = tmp_path / "data" / "own_tokenizer.bin"
        token_files.write_tokenizer(path, vocabulary, end_of_text)
        write_model(tmp_path / "m.bin", len(vocabulary), "data/own")
        reference.main(["--export", str(tmp_path / "m.bin"), str(tmp_path / "hf")])
        return tmp_path / "hf"

    return export


def write_model(path, V, data=None):
    config = gpt2.GPT2Config(4, V, 1, 1, 2)
    if data:
        about = {"step": 1, "data": data, "digest": "0a", "settings": {}}
        checkpoints.save(path, random_flat(config), config, about)
    else:
        formats.write_weights(path, random_flat(config), config)


def test_tokenizer_of_bytes(own, capsys):
    folder = own([*BYTES, END], 256)
    assert "wrote" in capsys.readouterr().out
    vocab = read_json(folder / "vocab.json")
    assert sorted(vocab.values()) == list(range(257))
    known = {"Ā": 0, "Ċ": 10, "Ġ": 32, "!": 33, "~": 126, "ġ": 127, "ł": 160, "¡": 161, "Ń": 173}
    for letter, byte in (known | {"®": 174, "ÿ": 255, "<|endoftext|>": 256}).items():
        assert vocab[letter] == byte, letter
    assert (folder / "merges.txt").read_text() == "#version: 0.2\n"
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
    vocab = read_json(folder / "vocab.json")
    assert [vocab[token] for token in ("ab", "<|endoftext|>", "Ġb", "ba")] == [256, 257, 259, 261]


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


def test_another_model_takes_the_place_of_an_export(own, capsys):
    folder = own([*BYTES, END], 256)
    reference.main(["--export", str(SMALL_FILE), str(folder)])
    assert "without a tokenizer: " in capsys.readouterr().out
    assert np.array_equal(huggingface.load(folder)[0], formats.load_weights(SMALL_FILE)[0])
    assert not (folder / "vocab.json").exists()  # it was of the first


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
    write_model(tmp_path / "m.bin", 50257)
    reference.main(["--export", str(tmp_path / "m.bin"), str(tmp_path / "hf")])
    assert (tmp_path / "hf" / "merges.txt").read_text("utf-8") == published[0]
    assert read_json(tmp_path / "hf" / "vocab.json") == json.loads(published[1])


def test_export_without_a_network(tmp_path, monkeypatch, capsys):
    def no_network(path):
        raise NoNetwork("no.where can't be reached")

    monkeypatch.setattr(encoding, "write_gpt2_tokenizer", no_network)
    monkeypatch.setattr(gpt2, "TOKENIZER_FILE", tmp_path / "gpt2_tokenizer.bin")
    write_model(tmp_path / "m.bin", 50257)
    reference.main(["--export", str(tmp_path / "m.bin"), str(tmp_path / "hf")])
    out = capsys.readouterr().out
    assert "no.where" in out and "without a tokenizer" in out and "model.safetensors" in out


# Folders that --export keeps its hands off


def test_export_to_a_folder_of_something_else(tmp_path):
    (tmp_path / "diary.txt").write_text("mine")
    (tmp_path / "config.json").write_text("mine, too")
    with pytest.raises(UserError, match="diary.txt"):
        reference.main(["--export", str(SMALL_FILE), str(tmp_path)])
    assert (tmp_path / "config.json").read_text() == "mine, too"
    assert len(os.listdir(tmp_path)) == 2


def test_export_of_nothing(tmp_path):
    with pytest.raises(UserError, match="none.bin: there is no file"):
        reference.main(["--export", str(tmp_path / "none.bin"), str(tmp_path / "hf")])
    (tmp_path / "cut.bin").write_bytes(SMALL_FILE.read_bytes()[:-1])
    with pytest.raises(UserError, match="cut.bin"):
        reference.main(["--export", str(tmp_path / "cut.bin"), str(tmp_path / "hf")])
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(tmp_path, bad):
    flat = random_flat(TINY)
    flat[-1] = bad
    formats.write_weights(tmp_path / "w.bin", flat, TINY)
    with pytest.raises(UserError, match="w.bin: its weights are not all numbers"):
        reference.main(["--export", str(tmp_path / "w.bin"), str(tmp_path / "hf")])
    assert not (tmp_path / "hf").exists()
    path = write_safetensors(tmp_path / "m.safetensors", hf_tensors(flat, TINY))
    with pytest.raises(UserError, match="m.safetensors: its weights are not all numbers"):
        reference.main(["--model", str(path), "--seq-len", "4", "--out", str(tmp_path / "out.bin")])
    assert not (tmp_path / "out.bin").exists()


# What is read


@pytest.fixture
def shards(folder):
    """The small model in two files."""
    _, named = read_safetensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(named)
    for i, part in enumerate((names[:9], names[9:]), 1):
        path = folder / f"model-0000{i}-of-00002.safetensors"
        write_safetensors(path, {name: named[name] for name in part})
    return folder


def test_shards(shards):
    flat, config = huggingface.load(shards)
    assert config == SMALL and np.array_equal(flat, formats.load_weights(SMALL_FILE)[0])
    for missing in 1, 2:
        path = shards / f"model-0000{missing}-of-00002.safetensors"
        path.rename(shards / "elsewhere")
        with pytest.raises(UserError, match="not a GPT-2|n_layer 2, but it is 1"):
            huggingface.load(shards)
        (shards / "elsewhere").rename(path)


def test_only_pickles(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="no model.safetensors.*safe_serialization"):
        huggingface.load(folder)


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


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 10**5, "3", '"n_head"'])
def test_damaged_settings(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json: not JSON with settings"):
        huggingface.load(folder)


def test_number_of_heads(folder):
    set_config(folder, n_head=6, reorder_and_upcast_attn=True, summary_type="cls_index")
    assert huggingface.load(folder)[1] == SMALL._replace(NH=6)
    (folder / "config.json").write_text('{"n_head": 3}')  # others left out are the usual
    assert huggingface.load(folder)[1] == SMALL
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="C / 64"):
        huggingface.load(folder)


def test_head_and_wte(tmp_path):
    """One is enough; where there are both, they are one matrix."""
    flat = random_flat(TINY)
    named = hf_tensors(flat, TINY)
    named["lm_head.weight"] = wte = named.pop("wte.weight")
    read, config = huggingface.load(write_safetensors(tmp_path / "m", named))
    assert config == TINY and np.array_equal(read, flat)
    other = wte.copy()
    other[-1, -1] += 1
    for head, why in (other, "differs from wte"), (wte[1:], r"is 'F32' \(10, 64\)"):
        path = write_safetensors(
            tmp_path / "m", named | {"wte.weight": wte, "lm_head.weight": head}
        )
        with pytest.raises(UserError, match=f"lm_head.weight {why}"):
            huggingface.load(path)


# Models by name, and what the file is called


@pytest.mark.parametrize("name", huggingface.HF_MODELS)
def test_named_model(tmp_path, monkeypatch, name):
    owner, (L, NH, C), out = huggingface.HF_MODELS[name]
    assert C == 64 * NH  # so that no config.json is needed
    asked = []

    def download(url, path, size, sha256):
        asked.append((url, size))
        write_safetensors(path, hf_tensors(random_flat(TINY), TINY))

    monkeypatch.setattr("tools.download.download", download)
    monkeypatch.setattr(gpt2, "HERE", tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    with pytest.raises(UserError, match=f"maxT=7, .*not {name}; delete it"):
        reference.main(["--model", name, "--weights-only"])
    url = f"https://mirror.example/{owner}/{name}/resolve/main/model.safetensors"
    assert asked == [(url, 548_105_171 if name == "gpt2" else None)]
    kept = "model.safetensors" if name == "gpt2" else f"model_{name}.safetensors"
    assert os.listdir(tmp_path) == [kept]
    assert reference.file_of(name) == tmp_path / out


def test_named_model_where_the_project_is_read_only(tmp_path, monkeypatch):
    """What is downloaded goes beside --out; what the project has is taken from there."""
    asked, access = [], os.access
    project, out = tmp_path / "project", tmp_path / "mine" / "new" / "w.bin"
    project.mkdir()
    (tmp_path / "mine").mkdir()

    def download(url, path, size, sha256):
        asked.append(path)
        write_safetensors(path, hf_tensors(random_flat(TINY), TINY))

    monkeypatch.setattr("tools.download.download", download)
    monkeypatch.setattr(gpt2, "HERE", project)
    monkeypatch.setattr(os, "access", lambda path, how: path != project and access(path, how))
    with pytest.raises(UserError, match=r"--out .*: no permission to write there; give another"):
        reference.main(["--weights-only"])
    for _ in range(2):  # what is there is not asked for again
        with pytest.raises(UserError, match="not gpt2-xl; delete it"):
            reference.main(["--model", "gpt2-xl", "--weights-only", "--out", str(out)])
    assert asked == [tmp_path / "mine" / "model_gpt2-xl.safetensors"]
    os.rename(asked[0], project / asked[0].name)
    with pytest.raises(UserError, match=f"{project}.*not gpt2-xl; delete it"):
        reference.main(["--model", "gpt2-xl", "--weights-only", "--out", str(out)])
    assert len(asked) == 1


def test_named_model_that_is_there(tmp_path, monkeypatch, capsys):
    config = gpt2.GPT2Config(1024, 50257, 1, 1, 64)
    entry = "openai-community", config[2:], "gpt2_355M.bin"
    monkeypatch.setitem(huggingface.HF_MODELS, "gpt2-medium", entry)
    monkeypatch.setattr(gpt2, "HERE", tmp_path)
    monkeypatch.setattr(huggingface, "write_tokenizer", lambda path, required: None)
    flat = random_flat(config)
    write_safetensors(tmp_path / "model_gpt2-medium.safetensors", hf_tensors(flat, config))
    reference.main(["--model", "gpt2-medium", "--weights-only"])
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
        shutil.copy(SMALL_FILE, tmp_path / name)
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
        shutil.copy(SMALL_FILE, path)
    for flags in (
        ["--model", "d1", "--out", str(real[0])],
        ["--model", "d48", "--out", str(real[1])],
        ["--model", "d48", "--out", str(real[2])],
        ["--model", "gpt2-medium", "--out", str(real[0])],
        ["--model", str(tmp_path / "gpt2_124M")],
    ):
        with pytest.raises(UserError, match="is not OpenAI's gpt2.*; give another --out"):
            reference.main([*flags, "--weights-only", "--seq-len", "4"])
    assert {path.read_bytes() for path in real} == {SMALL_FILE.read_bytes()}
    reference.check_name(real[0], "gpt2")
    reference.check_name(tmp_path / "distilgpt2.bin", "models/distilgpt2")


def test_random_model_goes_to_its_own_files(tmp_path, monkeypatch):
    monkeypatch.setattr(gpt2, "HERE", tmp_path)
    monkeypatch.setattr(huggingface, "write_tokenizer", lambda path, required: None)
    flags = ["--model", "d1", "--batch-size", "1", "--seq-len", "4", "--steps", "1"]
    reference.main(flags)
    assert sorted(os.listdir(tmp_path)) == ["gpt2_d1.bin", "gpt2_d1_debug_state.bin"]


def test_too_large_for_steps(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "machine_memory", lambda: 10**5)
    out = tmp_path / "large.bin"
    reference.main(["--model", str(folder), "--out", str(out), "--seq-len", "4"])
    assert "not writing a debug state" in capsys.readouterr().out
    assert out.exists() and not (tmp_path / "large_debug_state.bin").exists()
