"""tools/tensor_file.py: files of tensors, read and written, and damaged; and a GPT-2 in one."""

import json
import re
import struct

import train_gpt2 as gpt2
from tools import huggingface, tensor_file
from tools.console import UserError

import numpy as np
import pytest
from helpers import write_safetensors

TINY = gpt2.GPT2Config(maxT=7, V=11, L=2, NH=1, C=64)


def random_flat(config, seed=0):
    return np.random.default_rng(seed).standard_normal(gpt2.num_parameters(config), np.float32)


def hf_tensors(flat, config):
    """Name -> array of Hugging Face's GPT-2, each of them written out."""
    p, out = gpt2.named_views(flat, config), {}
    out["wte.weight"], out["wpe.weight"] = p["wte"], p["wpe"]
    for l in range(config.L):
        for hf, ours in ("ln_1", "ln1"), ("ln_2", "ln2"):
            out[f"h.{l}.{hf}.weight"], out[f"h.{l}.{hf}.bias"] = p[ours + "w"][l], p[ours + "b"][l]
        names = ("c_attn", "qkv"), ("c_proj", "attproj"), ("c_fc", "fc"), ("c_proj", "fcproj")
        for i, (hf, ours) in enumerate(names):
            hf = f"{'attn' if i < 2 else 'mlp'}.{hf}"
            out[f"h.{l}.{hf}.weight"] = p[ours + "w"][l].T
            out[f"h.{l}.{hf}.bias"] = p[ours + "b"][l]
    out["ln_f.weight"], out["ln_f.bias"] = p["lnfw"], p["lnfb"]
    return {name: np.ascontiguousarray(a) for name, a in out.items()}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("prefix", ["", "transformer.", "module.", "_orig_mod.module.transformer."])
def test_safetensors(tmp_path, dtype, prefix):
    flat = random_flat(TINY)
    if dtype == "F16":
        flat = flat.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        flat = (flat.view(np.uint32) & 0xFFFF0000).view(np.float32)
    named = {prefix + name: a for name, a in hf_tensors(flat, TINY).items()}
    named["lm_head.weight"] = named[prefix + "wte.weight"]
    for l in range(TINY.L):
        named[f"{prefix}h.{l}.attn.bias"] = np.ones((1, 1, 7, 7), np.float32)
        named[f"{prefix}h.{l}.attn.masked_bias"] = np.array(-1e4, np.float32)
    named = dict(reversed(named.items()))  # their order in the file means nothing
    read, config = huggingface.load(write_safetensors(tmp_path / "m", named, dtype))
    assert config == TINY and read.dtype == np.float32
    assert np.array_equal(read, flat)


def test_masks_of_a_dtype_of_their_own(tmp_path):
    def change(header):
        for name in "h.0.attn.bias", "h.1.attn.masked_bias":
            header[name] = {"dtype": "BOOL", "shape": [0], "data_offsets": [0, 0]}

    flat = random_flat(TINY)
    path = write_safetensors(tmp_path / "m", hf_tensors(flat, TINY), change=change)
    assert np.array_equal(huggingface.load(path)[0], flat)


def with_entry(name, **values):
    return lambda header: header[name].update(values)


DAMAGES = {
    "begins inside another": (with_entry("ln_f.bias", data_offsets=[0, 256]), "overlap"),
    "ends behind the file": (with_entry("ln_f.bias", data_offsets=[10**9, 10**9 + 256]), "outside"),
    "backwards": (with_entry("ln_f.bias", data_offsets=[256, 0]), "size"),
    "size is not the shape's": (with_entry("ln_f.bias", shape=[63]), "size"),
    "integers": (with_entry("ln_f.bias", dtype="I32"), "I32"),
    "wrong shape": (with_entry("h.1.mlp.c_fc.weight", shape=[256, 64]), r"\(64, 256\)"),
    "flat wte": (with_entry("wte.weight", shape=[704]), "not a GPT-2"),
    "not a multiple of 64": (with_entry("wte.weight", shape=[22, 32]), "not a GPT-2"),
    "no offsets": (lambda h: h["ln_f.bias"].pop("data_offsets") and None, "damaged"),
    "missing bias": (lambda h: h.pop("h.1.attn.c_attn.bias") and None, "h.1.attn.c_attn.bias"),
    "missing wte": (lambda h: h.pop("wte.weight") and None, "not a GPT-2"),
    "block 0 missing": (
        lambda h: {k: v for k, v in h.items() if not k.startswith("h.0.")},
        "no tensor h.0.ln_1.weight",
    ),
    "a tensor too many": (lambda h: h.update({"a\nb": h.pop("ln_f.bias")}), r"'a\\nb' is none"),
    "another's": (
        lambda h: {f"x.{k}": h[k] for k in h if "_" not in k},
        "'x.wte.weight' is none",
    ),
    "two names": (
        lambda h: h.update({"transformer.ln_f.bias": h.pop("h.1.ln_1.bias")}),
        "'transformer.ln_f.bias' is one more ln_f.bias",
    ),
    "nanoGPT's layout": (  # which may have no biases
        lambda h: h["h.0.attn.c_attn.weight"].update(shape=[192, 64], bias=h.pop("ln_f.bias")),
        "as nanoGPT's are",
    ),
    "of no block": (
        lambda h: h.update({"h.9.ln_2.bias": dict(h["ln_f.bias"], shape=[0], data_offsets=[0, 0])}),
        "'h.9.ln_2.bias' is of no block",
    ),
    "one more": (
        lambda h: h.update(more={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
        "'more' is none of a GPT-2's",
    ),
    "a list": (lambda h: b"[]", "damaged"),
    "no JSON": (lambda h: b"{", "damaged"),
    "no text": (lambda h: b"\xff\xfe", "damaged"),
    "empty": (lambda h: b"{}", "not a GPT-2"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_safetensors(tmp_path, damage):
    change, why = DAMAGES[damage]
    named = hf_tensors(random_flat(TINY), TINY)
    path = write_safetensors(tmp_path / "m", named, change=change)
    with pytest.raises(UserError) as caught:
        huggingface.load(path)
    assert "\n" not in caught.value.text and caught.value.text.startswith(str(path))
    assert re.search(why, caught.value.text.removeprefix(str(path)))  # which has the damage's name


@pytest.mark.parametrize(
    "data", [b"", b"\x01", b"<!DOCTYPE html><title>Sign in</title>", struct.pack("<Q", 2**63) * 9]
)
def test_not_safetensors(tmp_path, data):
    path = write_safetensors(tmp_path / "m", hf_tensors(random_flat(TINY), TINY))
    for content, why in (data, "not a safetensors file"), (path.read_bytes()[:-1], "outside"):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(UserError, match=why):
            huggingface.load(tmp_path / "x")


def test_written_tensors(tmp_path):
    named = [("b", np.arange(6, dtype="<f4").reshape(2, 3).T), ("a\u00e9", np.ones((), "<f4"))]
    named.append(("empty", np.empty((0, 3), "<f4")))
    tensor_file.write(tmp_path / "m", named)
    data = (tmp_path / "m").read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    assert size % 8 == 0
    assert json.loads(data[8 : 8 + size]) == {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]},
        "a\u00e9": {"dtype": "F32", "shape": [], "data_offsets": [24, 28]},
        "empty": {"dtype": "F32", "shape": [0, 3], "data_offsets": [28, 28]},
    }
    assert data[8 + size :] == struct.pack("<7f", 0, 3, 1, 4, 2, 5, 1)
    read = tensor_file.read_header(tmp_path / "m", "hint")
    assert list(read) == ["b", "a\u00e9", "empty"]
    for name, array in named:
        assert np.array_equal(tensor_file.read_tensor(read[name]), array), name


def test_no_file(tmp_path):
    for path in tmp_path, tmp_path / "none":
        with pytest.raises(UserError, match=f"{path.name}: there is no file of this name; take"):
            tensor_file.read_header(path, "take another")
