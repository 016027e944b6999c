"""
variants/train_llama.py and the programs beside it: the layers by differences, the model beside the
same in PyTorch, kept keys, files made from the published layouts, and runs. It takes half a minute.
"""

import json
import math
import re
import struct

import train_gpt2 as gpt2
from test_gpt2 import finite_difference
from tools import sampling
from tools.console import UserError
from variants import convert_llama, llama_files, open_llama
from variants import train_llama as llama
from variants.llama_files import LlamaConfig
from variants.model import model_with

import numpy as np
import pytest
from helpers import (
    LETTERS,
    add_data,
    assert_close,
    cut,
    llama2c_bytes,
    make_project,
    run,
    succeeded,
    write,
    write_llama_folder,
)
from variant_checks import DECAY, LR, assert_same_steps, batches, check_layer, torch_steps

NORMS = "ln1w", "ln2w", "lnfw"
SIZES = dict(C=18, H=7, L=2, NH=3, NKV=1, V=11, maxT=7)
CONFIGS = {
    "tied": LlamaConfig(**SIZES, tied=True),
    "untied": LlamaConfig(**SIZES, tied=False),
    "grouped": LlamaConfig(**SIZES | {"C": 16, "NH": 4, "NKV": 2}, tied=False),
    "ungrouped": LlamaConfig(**SIZES | {"NKV": 3}, tied=True),
}


def random_weights(config, dtype=np.float32):
    """Return flat parameters, without zeros and ones, which can hide a mistake; them by name."""
    flat = np.random.default_rng(0).standard_normal(llama_files.num_parameters(config))
    flat = (0.3 * flat).astype(dtype)
    params = llama_files.named_views(flat, config)
    for name in NORMS:
        params[name] += 1
    return flat, params


def nan_like(params):
    return {name: np.full_like(p, np.nan) for name, p in params.items()}


def logits_of(cache, params):
    return cache[-1][2] @ params.get("headw", params["wte"]).T


# ----------------------------------------------------------------------------
# Gradients


def layers():
    """Yield each layer: name, forward, backward, inputs, as check_layer() takes them."""
    rng = np.random.default_rng(0)
    x, w = 0.1 + rng.standard_normal((2, 6, 10))[0], 1 + rng.standard_normal(10)
    yield "rmsnorm", llama.rmsnorm_forward, llama.rmsnorm_backward, {"x": x, "w": w}
    weights = {"x": x, "w": rng.standard_normal((7, 10))}
    yield "linear", llama.linear_forward, llama.linear_backward, weights
    tables = {"tokens": np.array([[3, 1, 3], [3, 4, 0]]), "wte": rng.standard_normal((5, 10))}
    yield "embedding", llama.embedding_forward, llama.embedding_backward, tables
    gate, up = 2 * rng.standard_normal((2, 6, 5))
    both = {"both": np.stack([gate, up], 1)}

    def swiglu_backward(dout, cache):
        return np.stack(llama.swiglu_backward(dout, *cache), 1)

    yield (
        "swiglu",
        lambda x: (llama.swiglu(*x.swapaxes(0, 1)), (x[:, 0], x[:, 1])),
        swiglu_backward,
        both,
    )
    for B, NH, NKV, HS in (2, 4, 2, 2), (1, 3, 1, 4), (3, 2, 2, 6), (6, 1, 1, 2):
        config = LlamaConfig(C=NH * HS, H=1, L=1, NH=NH, NKV=NKV, V=1, maxT=9, tied=True)
        turns = llama.turns_of(2, 2 + 6 // B, HS, float)
        ends = np.cumsum([NH * HS, NKV * HS])

        def forward(qkv, turns=turns, config=config, ends=ends):
            return llama.attention_forward(*np.split(qkv, ends, 1), turns.astype(qkv.dtype), config)

        def backward(dout, cache):
            return np.concatenate(llama.attention_backward(dout, cache), 1)

        qkv = rng.standard_normal((6, (NH + 2 * NKV) * HS))
        yield f"attention, B={B} NH={NH} NKV={NKV} HS={HS}", forward, backward, {"qkv": qkv}


@pytest.mark.parametrize("pieces", [(1, 2**18, 128), (2, 8, 2)], ids=["whole", "pieces"])
def test_gradient_of_each_layer(pieces, capsys):
    """By differences, with a random dout; pure; and float32 stays float32."""
    with cut(*pieces):
        for name, *pair in layers():
            check_layer(name, *pair, adds=["wte"])
    assert capsys.readouterr().out.count("  ok") >= 26  # measured: 1e-11


@pytest.mark.parametrize("which", CONFIGS)
def test_gradient_of_the_model(which, monkeypatch):
    config = CONFIGS[which]._replace(C=2 * CONFIGS[which].NH, H=5, V=5)
    monkeypatch.setattr(gpt2, "THREADS", 1)
    (_, params), rng = random_weights(config, np.float64), np.random.default_rng(1)
    grads, (x, y) = nan_like(params), rng.integers(config.V, size=(2, 2, 5))
    with cut(1, 2**18, 2):
        _, cache = llama.llama_forward(params, config, x, y)
        llama.llama_backward(1.0, cache, grads)
    for name, p in params.items():
        loss = lambda: llama.llama_forward(params, config, x, y)[0]  # noqa: E731
        theirs = finite_difference(loss, p, h=2e-4)
        assert_close(grads[name], theirs, 5e-9, name=name)  # measured: 4e-10


# ----------------------------------------------------------------------------
# The same model in plain PyTorch


def torch_llama(p, config, x, y):
    """Tensors by name -> logits (B*T, V), loss. It turns pairs as complex numbers do."""
    import torch
    from torch.nn import functional as F

    C, _, L, NH, NKV, V, _, _ = config
    (B, T), HS = x.shape, C // NH
    dtype = p["wte"].dtype
    frequencies = 10000.0 ** (-torch.arange(0, HS, 2, dtype=torch.float64) / HS)
    angles = torch.outer(torch.arange(T, dtype=torch.float64), frequencies)
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]

    def heads(a, turned):
        a = a.reshape(B, T, -1, HS)
        if turned:
            pairs = torch.view_as_complex(a.double().reshape(B, T, -1, HS // 2, 2))
            a = torch.view_as_real(pairs * turns).reshape(B, T, -1, HS).to(dtype)
        return a.transpose(1, 2)

    h = p["wte"][torch.tensor(x)]
    for l in range(L):
        ln1 = F.rms_norm(h, (C,), p["ln1w"][l], 1e-5)
        q, k, v = (heads(ln1 @ p[f"{n}w"][l].T, n != "v") for n in "qkv")
        atty = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=NH != NKV)
        h = h + atty.transpose(1, 2).reshape(B, T, C) @ p["attprojw"][l].T
        ln2 = F.rms_norm(h, (C,), p["ln2w"][l], 1e-5)
        h = h + (F.silu(ln2 @ p["gatew"][l].T) * (ln2 @ p["upw"][l].T)) @ p["fcprojw"][l].T
    h = F.rms_norm(h, (C,), p["lnfw"], 1e-5)
    logits = (h @ p.get("headw", p["wte"]).T).reshape(-1, V)
    return logits, F.cross_entropy(logits, torch.tensor(y).reshape(-1))


@pytest.mark.parametrize("which", CONFIGS)
def test_ten_steps_beside_pytorch(which):
    """Logits, gradients, and losses and parameters of ten steps of AdamW, with weight decay."""
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    config, lesson = CONFIGS[which], model_with(**llama.LLAMA)
    flat, params = random_weights(config)
    first = {name: p.copy() for name, p in params.items()}
    decaying = [name for name in params if name not in NORMS]
    theirs = torch_steps(
        lambda p, x, y: torch_llama(p, config, x, y)[1], first, decaying, batches(config, 3, 6)
    )
    grads, losses = nan_like(params), []
    m, v = (llama_files.named_views(np.zeros_like(flat), config) for _ in "mv")
    for step, (x, y) in enumerate(batches(config, 3, 6)):
        loss, cache = lesson.gpt2_forward(params, config, x, y)
        ours = logits_of(cache, params)
        lesson.gpt2_backward(1.0, cache, grads)
        if step == 0:
            p = {name: torch.tensor(a).requires_grad_() for name, a in first.items()}
            logits, their_loss = torch_llama(p, config, x, y)
            their_loss.backward()
            assert_close(ours, logits.detach().numpy(), 1e-5)
            for name in params:
                assert_close(grads[name], p[name].grad.numpy(), 1e-5, name=f"d{name}")
        lesson.adamw_update(params, grads, m, v, step + 1, LR, weight_decay=DECAY)
        losses.append(loss)
    assert_same_steps((losses, params), theirs)


def test_products_of_turned_queries_and_keys_depend_on_their_distance():
    """The property that rotary positions are made for; and a turn keeps lengths."""
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 1, 6))
    q, k = np.tile(q, (1, 1, 9, 1)), np.tile(k, (1, 1, 9, 1))
    q, k = (llama.rotate(x, turns=llama.turns_of(0, 9, 6, float)) for x in (q, k))
    products = (q @ k.mT)[0, 0]
    for distance in range(-8, 9):
        along = np.diagonal(products, distance)
        assert np.ptp(along) < 1e-13 and (distance == 0 or abs(along[0] - products[0, 0]) > 1e-3)
    assert_close(np.linalg.norm(q, axis=-1), np.full((1, 1, 9), np.linalg.norm(q[0, 0, 0])), 1e-14)


@pytest.mark.parametrize("x", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_sigmoid_does_not_overflow(x):
    with np.errstate(all="raise"):
        found = llama.sigmoid(np.float32([x]))
    assert found.dtype == np.float32 and found == [0.5 if x == 0 else float(x > 0)]


def test_initial_weights():
    config = LlamaConfig(C=48, H=64, L=3, NH=4, NKV=2, V=301, maxT=8, tied=False)
    flat = llama_files.LESSON.init_weights(config, 1)
    assert flat.dtype == np.float32
    for name, p in llama_files.named_views(flat, config).items():
        if name in NORMS:
            assert (p == 1).all()
        else:
            std = 0.02 / math.sqrt(6) if name in ("attprojw", "fcprojw") else 0.02
            assert abs(p.std() / std - 1) < 5 / math.sqrt(2 * p.size), name
            assert abs(p.mean()) < 5 * std / math.sqrt(p.size), name


@pytest.mark.parametrize("x, y", [(-1, 0), (11, 0), (0, -100), (0, 11)])
@pytest.mark.parametrize("T", [1, 7, 8])
def test_tokens_that_a_model_does_not_know_are_refused(x, y, T):
    """-1 would be taken for the last token; V is 11, maxT 7."""
    config = CONFIGS["tied"]
    _, params = random_weights(config)
    llama.llama_forward(params, config, *np.array([[[10] * 7], [[0] * 7]]))
    x, y = (np.array([[0] * (T - 1) + [last if T < 8 else 0]]) for last in (x, y))
    with pytest.raises(ValueError, match="tokens from 0 to V - 1, and maxT of them at most"):
        llama.llama_forward(params, config, x, y)


# ----------------------------------------------------------------------------
# Kept keys


@pytest.mark.parametrize("which", CONFIGS)
def test_kept_keys_give_what_the_whole_forward_gives(which):
    """Token by token, of two texts at a time, also where the older half is forgotten."""
    config, seen = CONFIGS[which], []
    _, params = random_weights(config, np.float64)

    def pick(logits):
        seen.append(logits)
        return logits.argmax(-1)

    tokens = np.array([[3, 1], [0, 6]])
    texts = sampling.generate(params, config, tokens, pick, open_llama.new_tokens_forward)
    for _ in range(9):
        new = next(texts)
        if tokens.shape[1] > config.maxT:
            tokens = tokens[:, -(config.maxT // 2) :]
        _, cache = llama.llama_forward(params, config, tokens, tokens)
        whole = logits_of(cache, params).reshape(*tokens.shape, -1)[:, -1]
        assert_close(seen[-1], whole, 1e-12)
        tokens = np.append(tokens, np.array(new)[:, None], 1)


def test_only_new_tokens_go_through_the_model(monkeypatch):
    config, rows, layer = CONFIGS["grouped"], [], llama.embedding_forward
    count = lambda tokens, wte: rows.append(tokens.size) or layer(tokens, wte)  # noqa: E731
    monkeypatch.setattr(open_llama, "embedding_forward", count)
    flat, params = random_weights(config)
    pick = lambda logits: logits.argmax(-1)  # noqa: E731
    texts = sampling.generate(params, config, [[1, 2, 3]], pick, open_llama.new_tokens_forward)
    for _ in range(6):
        next(texts)
    assert rows == [3, 1, 1, 1, 1, 3]


# ----------------------------------------------------------------------------
# Files, made here from the layouts in llama2.c's export.py, tokenizer.py, and transformers


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("which", CONFIGS)
def test_llama2c_weights_byte_by_byte(tmp_path, which, version):
    config = CONFIGS[which]
    flat, params = random_weights(config)
    data = llama2c_bytes(params, config, version)
    found, found_config = llama_files.load_weights(write(tmp_path / "w.bin", data))
    assert found_config == config and np.array_equal(found, flat)
    turns = llama.turns_of(0, config.maxT, config.C // config.NH, np.float32)
    llama_files.write_weights(tmp_path / "again.bin", found, config, 0, None if version else turns)
    assert (tmp_path / "again.bin").read_bytes() == data


@pytest.mark.parametrize("which", CONFIGS)
def test_hugging_face_in_and_out(tmp_path, which):
    config = CONFIGS[which]
    flat, params = random_weights(config)
    folder = write_llama_folder(tmp_path / "theirs", params, config)
    found, found_config = convert_llama.load_folder(folder)
    assert found_config == config and np.array_equal(found, flat)
    convert_llama.write_folder(tmp_path / "ours", flat, config)
    ours, theirs = (tmp_path / name / "model.safetensors" for name in ("ours", "theirs"))
    entries = []
    for path in ours, theirs:
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        header.pop("__metadata__")
        at = {n: [end + i for i in e["data_offsets"]] for n, e in header.items()}
        entries.append({n: (header[n]["shape"], data[slice(*at[n])]) for n in header})
    assert entries[0] == entries[1]
    settings = json.loads((tmp_path / "ours" / "config.json").read_text())
    need = {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "rope_theta": 10000.0}
    assert need | json.loads((folder / "config.json").read_text()) | settings == settings


def test_hugging_face_in_float16_and_in_other_words(tmp_path):
    """Sizes that are left out mean what transformers means; newer files name the base elsewhere."""
    config = CONFIGS["ungrouped"]._replace(tied=False)
    flat, params = random_weights(config)
    rope = {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "head_dim": 6}
    out = dict.fromkeys(("num_key_value_heads", "tie_word_embeddings"), "left out")
    folder = write_llama_folder(tmp_path / "hf", params, config, "F16", **rope, **out)
    found, found_config = convert_llama.load_folder(folder)
    assert found_config == config
    assert np.array_equal(found, flat.astype("<f2").astype("<f4"))


OTHER_LLAMAS = {
    "rms_norm_eps": 1e-6, "rms_norm_eps ": "left out", "attention_bias": True,
    "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3"}, "hidden_act": "gelu",
    "head_dim": 8, "model_type": "mistral", "rope_parameters": {"rope_type": "yarn"},
    "hidden_size": 19, "num_key_value_heads": 2, "vocab_size": "11", "num_hidden_layers": 0,
}  # fmt: skip


@pytest.mark.parametrize("key", OTHER_LLAMAS)
def test_other_llamas_are_refused(tmp_path, key):
    config = CONFIGS["untied"]
    settings = {key.strip(): OTHER_LLAMAS[key]}
    folder = write_llama_folder(tmp_path / "hf", random_weights(config)[1], config, **settings)
    with pytest.raises(UserError, match="config.json: .*; give another folder$"):
        convert_llama.load_folder(folder)


def test_a_tensor_too_few_or_too_many(tmp_path):
    config = CONFIGS["untied"]
    flat, params = random_weights(config)
    folder = write_llama_folder(tmp_path / "few", params, config, drop=["lm_head.weight"])
    with pytest.raises(UserError, match="tensor lm_head.weight is not there"):
        convert_llama.load_folder(folder)
    folder = write_llama_folder(tmp_path / "many", params, config, num_hidden_layers=1)
    with pytest.raises(UserError, match="layers.1.* is none of a Llama's"):
        convert_llama.load_folder(folder)


# Sentencepiece's, as llama2.c's tokenizer.py writes it: unknown, begin, end, the bytes, the others
PIECES = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256))]
PIECES += [b"bc", b"ab", b" ab", b" ", b"a", b"b", b"c", "é".encode()]
SCORES = [0.0] * 259 + [0.5, -1.0, -2.0, *[-9.0] * 5]


def tokenizer_bytes(pieces=PIECES, scores=SCORES):
    parts = [struct.pack("<I", max(map(len, pieces)))]
    for piece, score in zip(pieces, scores, strict=True):
        parts.append(struct.pack("<fI", score, len(piece)) + piece)
    return b"".join(parts)


def test_llama2c_tokenizer(tmp_path):
    path = write(tmp_path / "t.bin", tokenizer_bytes())
    tokens, scores = llama_files.load_tokenizer(path, len(PIECES))
    assert tokens[3:259] == [bytes([byte]) for byte in range(256)]
    assert tokens[259:] == PIECES[259:] and scores == SCORES
    ids = {piece: i for i, piece in enumerate(PIECES)}

    def encode(text):
        return llama_files.encode(text, tokens, scores)

    assert encode("") == [1]
    assert encode("ab") == [1, ids[b" ab"]]  # " a" is none: "ab" first, with " " then
    assert encode("abc") == [1, ids[b" "], ids[b"a"], ids[b"bc"]]  # bc has the highest score
    assert encode("é€") == [1, ids[b" "], ids["é".encode()], *(3 + byte for byte in "€".encode())]
    for wrong in tokenizer_bytes()[:-1], tokenizer_bytes() + b"x", b"", tokenizer_bytes()[4:]:
        with pytest.raises(UserError, match="not a tokenizer file"):
            llama_files.load_tokenizer(write(tmp_path / "wrong.bin", wrong), len(PIECES))
    with pytest.raises(UserError, match="lack '€'"):
        llama_files.encode("€", [b" ", *"abc"], [0.0] * 4)


def test_our_tokenizer_for_llama2c(tmp_path):
    """End-of-text and token 1 exchange numbers; what is joined earlier has a higher score."""
    llama_files.write_tokenizer(tmp_path / "t.bin", LETTERS, len(LETTERS) - 1)
    pieces = [LETTERS[0], LETTERS[-1], *LETTERS[2:-1], LETTERS[1]]
    scores = [0.0, 1.0 - len(pieces), *(-float(i) for i in range(2, len(pieces) - 1)), -1.0]
    assert (tmp_path / "t.bin").read_bytes() == tokenizer_bytes(pieces, scores)
    wte = np.arange(len(LETTERS))[:, None]
    moved = llama_files.exchanged(wte, len(LETTERS) - 1)
    assert [LETTERS[i] for i in moved[:, 0]] == pieces


# ----------------------------------------------------------------------------
# Runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A project in which a Llama has been trained, and what its run said."""
    folder = add_data(make_project(tmp_path_factory.mktemp("llama")))
    flags = "--init d1 --data data/letters --seq-len 16 --steps 40 --lr 3e-3 --warmup 3 --untied"
    more = "--val-every 20 --grad-clip 1 --weight-decay 0.1 --min-lr-frac 0.1"
    done = run(folder, "variants/train_llama.py", *f"{flags} {more}".split())
    return folder, done


def test_it_learns_samples_and_writes(trained):
    folder, done = trained
    out = succeeded(done)
    losses = [float(loss) for loss in re.findall(r": val loss ([\d.]+)", out)]
    assert losses[0] == pytest.approx(math.log(len(LETTERS)), abs=0.1) and losses[2] < 1
    assert out.count(": train loss ") == 40 and out.count(": sample\n") == 2
    _, config = llama_files.load_weights(folder / "llama.bin")
    assert config == LlamaConfig(64, 192, 1, 1, 1, len(LETTERS), 16, False)
    command = re.search(r"text from it: python (\S+) (.*)\n", out)
    text = run(folder, command[1], *command[2].split(), "--temperature", 0, "--tokens", 60)
    assert text.returncode == 0 and "fed. abc. jihg" in text.stdout
    again = ["--init", "llama.bin", "--data", "data/letters", "--seq-len", 16, "--steps", 0]
    out = succeeded(run(folder, "variants/train_llama.py", *again, "--no-save"))
    assert f"val loss {losses[2]:.6f}" in out


def test_the_same_seed_gives_the_same_bytes(trained, tmp_path):
    folder, _ = trained
    names = "x.bin", "y.bin", "z.bin"
    for name, seed in zip(names, (5, 5, 6), strict=True):
        flags = f"--init d1 --data data/letters --seq-len 8 --steps 3 --kv-heads 1 --seed {seed}"
        flags = [*flags.split(), "--out", tmp_path / name, "--sample-every", 0]
        succeeded(run(folder, "variants/train_llama.py", *flags))
    x, y, z = ((tmp_path / name).read_bytes() for name in names)
    assert x == y != z


def test_conversions_keep_every_number(trained):
    folder, _ = trained
    steps = ("llama.bin", "hf"), ("hf", "zero.bin", "--version", 0), ("zero.bin", "one.bin")
    for step in steps:
        succeeded(run(folder, "variants/convert_llama.py", *step))
    assert (folder / "one.bin").read_bytes() == (folder / "llama.bin").read_bytes()
    flags = "--version", 0, "--tokenizer", "data/letters_tokenizer.bin"
    succeeded(run(folder, "variants/convert_llama.py", "llama.bin", "c.bin", *flags))
    texts, ours = [], "data/letters_tokenizer.bin"
    for weights, own in ("llama.bin", ours), ("hf", ours), ("c.bin", "c_tokenizer.bin"):
        flags = "--tokenizer", own, "--temperature", 0, "--tokens", 40
        texts.append(run(folder, "sample_gpt2.py", weights, *flags).stdout)
    assert texts[0] == texts[1] == texts[2] and len(texts[0]) > 20
