"""
What several tests need: files written by hand, copies of the project, GPT-2 in plain PyTorch.

The bytes of the files follow from the description of the formats in llm.c and on doc/files.md, with
struct alone. The project's own writers and constants are not used, so that a mistake which a reader
and a writer of ours have in common is seen.
"""

import contextlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import train_gpt2 as gpt2

import numpy as np
import pytest
from hypothesis import settings

PROJECT = Path(__file__).parent.parent
SMALL_WEIGHTS = PROJECT / "tests" / "small_weights.bin"
SMALL_STATE = PROJECT / "tests" / "small_state.bin"
CLOSED = "http://127.0.0.1:9"  # nothing listens there
NOBODY = 65534  # root may read and write anything; this user may not
HUGE = 2**31 - 1

# ----------------------------------------------------------------------------
# Files: each of these gives bytes


def header(*numbers):
    """Return 256 int32, little-endian: the numbers, and 0 for the others."""
    return struct.pack("<256i", *numbers, *[0] * (256 - len(numbers)))


def shapes(config):
    """Return the 16 tensors, name and shape, in llm.c's order."""
    maxT, V, L, _, C = config
    return [
        ("wte", (V, C)),
        ("wpe", (maxT, C)),
        ("ln1w", (L, C)),
        ("ln1b", (L, C)),
        ("qkvw", (L, 3 * C, C)),
        ("qkvb", (L, 3 * C)),
        ("attprojw", (L, C, C)),
        ("attprojb", (L, C)),
        ("ln2w", (L, C)),
        ("ln2b", (L, C)),
        ("fcw", (L, 4 * C, C)),
        ("fcb", (L, 4 * C)),
        ("fcprojw", (L, C, 4 * C)),
        ("fcprojb", (L, C)),
        ("lnfw", (C,)),
        ("lnfb", (C,)),
    ]


def padded(V):
    """Return V rounded up to a multiple of 128."""
    while V % 128:
        V += 1
    return V


def random_tensors(config, seed=0, kind="<f4"):
    """Return name -> array. Of kind <u2: bfloat16, as the upper halves of float32 numbers."""
    rng, made = np.random.default_rng(seed), {}
    for name, shape in shapes(config):
        values = rng.standard_normal(shape).astype("<f4")
        if kind == "<u2":
            values = np.frombuffer(values.tobytes(), "<u2")[1::2].reshape(shape)
        made[name] = values
    return made


def flat_of(made, config):
    """Return the 16 tensors as one flat vector."""
    return np.concatenate([made[name].ravel() for name, _ in shapes(config)])


def tensor_bytes(made, config, padding=b""):
    """Return the 16 tensors; behind wte, padding (of one number) until wte has its full size."""
    parts = []
    for name, _ in shapes(config):
        parts.append(made[name].tobytes())
        if name == "wte":
            parts.append(padding * ((padded(config.V) - config.V) * config.C))
    return b"".join(parts)


def weight_bytes(config, version, made, padding=b"", moments=(), about=b""):
    """Return a weight file; of a checkpoint, moments are the dicts of m and of v, in this order."""
    sizes = config.maxT, config.V, config.L, config.NH, config.C
    last = () if version == 1 else (padded(config.V), len(about), len(moments))
    data = header(20240326, version, *sizes, *last) + tensor_bytes(made, config, padding)
    return data + b"".join(tensor_bytes(moment, config) for moment in moments) + about


def state_bytes(config, x, y, logits, losses, grads, settings, after, padding):
    """
    Return a debug state, llm.c's header, x, y, logits, loss, gradients; then what is ours.

    That is lr, beta1, beta2, eps and weight decay; the losses; the parameters after the steps.
    """
    data = header(20240327, 2, *x.shape, len(losses), int(after is not None))
    data += x.tobytes() + y.tobytes() + logits.tobytes() + losses[:1].tobytes()
    data += tensor_bytes(grads, config, padding)
    data += struct.pack("<5d", *settings) + losses.tobytes()
    return data + (b"" if after is None else tensor_bytes(after, config, padding))


def token_bytes(tokens, V):
    """Return a token file."""
    return header(20240520, 1, len(tokens), V) + struct.pack(f"<{len(tokens)}H", *tokens)


def tokenizer_bytes(vocabulary, end_of_text):
    """Return a tokenizer file."""
    parts = [struct.pack(f"<B{len(token)}s", len(token), token) for token in vocabulary]
    return header(20240328, 2, len(vocabulary), end_of_text) + b"".join(parts)


def tensor_sizes(config, padding=True, itemsize=4):
    """Return the bytes of the 16 tensors in a file, the padding behind wte as one more."""
    wte, *others = (int(np.prod(shape)) for _, shape in shapes(config))
    rows = padded(config.V) - config.V if padding else 0
    return [itemsize * n for n in (wte, rows * config.C, *others)]


def write(path, data):
    """Write the bytes -> the path."""
    Path(path).write_bytes(data)
    return path


# ----------------------------------------------------------------------------
# A project to run programs in

LETTERS = [bytes([c]) for c in b"abcdefghij. "] + [b"<end>"]
V, END = len(LETTERS), len(LETTERS) - 1
TEXT = "abc. jihg fed. "  # so regular that a small model soon knows it


def write_tokens(path, tokens, vocab_size=V):
    """Write a token file of any iterable of tokens."""
    return write(path, token_bytes(list(map(int, tokens)), vocab_size))


def write_tokenizer(path, vocabulary=LETTERS, end_of_text=None):
    """Write a tokenizer file, whose last token is the end of text unless another is named."""
    end_of_text = len(vocabulary) - 1 if end_of_text is None else end_of_text
    return write(path, tokenizer_bytes(vocabulary, end_of_text))


def make_project(folder):
    """Copy the programs, without what they make: the lesson, what is beside it, tools, variants."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in PROJECT.glob("*.py"):
        shutil.copy(path, folder)
    ignore = shutil.ignore_patterns("__pycache__")
    for name in "tools", "variants":
        shutil.copytree(PROJECT / name, folder / name, ignore=ignore)
    return folder


def add_data(folder, name="letters", count=900):
    """Write data/NAME_train.bin, NAME_val.bin of a small text, and NAME_tokenizer.bin."""
    (folder / "data").mkdir(exist_ok=True)
    tokens = [LETTERS.index(c.encode()) for c in (TEXT * count)[:count]]
    write_tokens(folder / "data" / f"{name}_train.bin", [END, *tokens])
    write_tokens(folder / "data" / f"{name}_val.bin", [END, *tokens[7 : 7 + count // 2]])
    write_tokenizer(folder / "data" / f"{name}_tokenizer.bin")
    return folder


def without_network(folder, **more):
    """Return an environment with proxies that lead nowhere, and an empty cache of tiktoken's."""
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    for name in "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy":
        env[name] = CLOSED
    env |= {"HF_ENDPOINT": CLOSED, "TIKTOKEN_CACHE_DIR": str(folder / "no_cache")}
    return env | {"PYTHONIOENCODING": "utf-8"} | more


def start(folder, program, *flags, cwd=None, python=(), streams=(), **environment):
    """Start a program of a project without a network -> the process, its output in pipes."""
    command = [sys.executable, *python, str(folder / program), *map(str, flags)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **dict(streams)}
    text = {"encoding": "utf-8", "errors": "replace"}
    env = without_network(folder, **environment)
    return subprocess.Popen(command, cwd=cwd or folder, env=env, **text, **pipes)


def run(folder, program, *flags, timeout=60, **how):
    """Run a program of a project to its end -> what subprocess.run() returns."""
    with start(folder, program, *flags, **how) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def succeeded(done):
    """Assert that a program had nothing to complain of -> its output."""
    assert done.returncode == 0, done.stderr
    assert re.sub(r"to replace: .*\n", "", done.stderr) == ""  # what a run says of an old out.bin
    return done.stdout


def failed(done, *words, status=1):
    """Assert that a program ended with a line on standard error, with these words -> the line."""
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == status, done.stderr
    (line,) = done.stderr.splitlines()
    program = next(Path(arg).name for arg in done.args[1:] if str(arg).endswith(".py"))
    assert line.startswith(f"{program}: "), line
    assert all(word in line for word in words), line
    return line


# ----------------------------------------------------------------------------
# Arrays


@contextlib.contextmanager
def cut(threads, chunk, tile):
    """Have in_chunks and attention cut arrays into such pieces, which small numbers make many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt2, "THREADS", threads)
        patch.setattr(gpt2, "CHUNK", chunk)
        patch.setattr(gpt2, "TILE", tile)
        yield


def arrays_in(tree):
    """Return all arrays and NumPy numbers in a nest of tuples, lists and dicts."""
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, tuple | list):
        return [array for branch in tree for array in arrays_in(branch)]
    return [tree] if isinstance(tree, np.ndarray | np.generic) else []


def floats_in(tree):
    """Return those of arrays_in() that are not of integers."""
    return [array for array in arrays_in(tree) if array.dtype.kind == "f"]


def assert_close(ours, theirs, allowed, floor=0.0, name=""):
    """Assert that no element is off by more than allowed * the largest of theirs + floor."""
    assert ours.shape == theirs.shape, name
    error, largest = np.abs(ours - theirs).max(), np.abs(theirs).max()
    assert error <= allowed * largest + floor, f"{name}: {error:.1e}, largest {largest:.1e}"


def random_params(config, seed=0, dtype=np.float32):
    """Return parameters, flat and named: without zeros and ones, which can hide a mistake."""
    rng = np.random.default_rng(seed)
    flat = rng.standard_normal(gpt2.num_parameters(config)).astype(dtype)
    params = gpt2.named_views(flat, config)
    for name, view in params.items():
        # at 1 / sqrt(C), scores in attention vary by about 1, however many channels there are
        view *= min(0.3, config.C**-0.5) if name in gpt2.DECAYING else 0.5
        view += 1 if name in ("ln1w", "ln2w", "lnfw") else 0
    return flat, params


def torch_loss(p, config, x, y):
    """
    GPT-2 in plain PyTorch: tensors p by name, arrays x and y (B, T) -> logits (B*T, V), loss.

    It shares no line with reference_gpt2.py, which makes the state that test_gpt2.py compares with.
    """
    import torch
    from torch.nn import functional as F

    maxT, V, L, NH, C = config
    B, T = x.shape
    h = p["wte"][torch.tensor(x)] + p["wpe"][:T]
    for l in range(L):
        q, k, v = F.linear(
            F.layer_norm(h, (C,), p["ln1w"][l], p["ln1b"][l]), p["qkvw"][l], p["qkvb"][l]
        ).split(C, -1)
        q, k, v = (a.reshape(B, T, NH, C // NH).transpose(1, 2) for a in (q, k, v))
        atty = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        atty = atty.transpose(1, 2).reshape(B, T, C)
        h = h + F.linear(atty, p["attprojw"][l], p["attprojb"][l])
        fc = F.layer_norm(h, (C,), p["ln2w"][l], p["ln2b"][l])
        fc = F.gelu(F.linear(fc, p["fcw"][l], p["fcb"][l]), approximate="tanh")
        h = h + F.linear(fc, p["fcprojw"][l], p["fcprojb"][l])
    logits = F.layer_norm(h, (C,), p["lnfw"], p["lnfb"]).reshape(B * T, C) @ p["wte"].T
    return logits, F.cross_entropy(logits, torch.tensor(y).reshape(-1))


def torch_gpt2(params, config, x, y):
    """Return the logits and the loss of torch_loss(), and 16 gradients; all NumPy."""
    import torch

    p = {name: torch.from_numpy(array).requires_grad_() for name, array in params.items()}
    logits, loss = torch_loss(p, config, x, y)
    loss.backward()
    grads = {name: array.grad.numpy() for name, array in p.items()}
    return logits.detach().numpy(), loss.item(), grads


# ----------------------------------------------------------------------------
# Files of Hugging Face


def encode(values, dtype):
    """Return the bytes of a float32 array in a dtype of safetensors."""
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[dtype]).tobytes()


def write_safetensors(path, named, dtype="F32", change=None):
    """Write a file; change(header) may damage the header, a dict, or replace it with bytes."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in named.items():
        encoded = encode(array, dtype)
        offsets = [len(data), len(data) + len(encoded)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += encoded
    header = (change and change(header)) or header
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


# ----------------------------------------------------------------------------
# Files of Llamas: config is (C, H, L, NH, NKV, V, maxT, tied), params has the tensors by name

LLAMA2C_0 = "wte ln1w qw kw vw attprojw ln2w gatew fcprojw upw lnfw turns headw".split()
LLAMA2C_1 = "ln1w ln2w lnfw wte qw kw vw attprojw gatew fcprojw upw headw".split()


def llama2c_bytes(params, config, version):
    """Return a weight file of llama2.c, as its export.py lays it out."""
    C, H, L, NH, NKV, V, maxT, tied = config
    sizes = struct.pack("<7i", C, H, L, NH, NKV, V if version or tied else -V, maxT)
    if version:
        sizes = (b"24ka" + struct.pack("<i", version) + sizes + bytes([tied])).ljust(256, b"\0")
    HS = C // NH
    turns = [[t / 10000 ** (2 * i / HS) for i in range(HS // 2)] for t in range(maxT)]
    turns = np.array([np.cos(turns), np.sin(turns)], "<f4")
    order = LLAMA2C_1 if version else LLAMA2C_0
    parts = [(params | {"turns": turns}).get(name) for name in order]
    return sizes + b"".join(part.tobytes() for part in parts if part is not None)


def write_llama_folder(folder, params, config, dtype="F32", drop=(), **settings):
    """Write a folder as LlamaForCausalLM's, by loops over its elements."""
    C, H, L, NH, NKV, V, maxT, tied = config
    names = {
        "ln1w": "input_layernorm", "ln2w": "post_attention_layernorm", "qw": "self_attn.q_proj",
        "kw": "self_attn.k_proj", "vw": "self_attn.v_proj", "attprojw": "self_attn.o_proj",
        "gatew": "mlp.gate_proj", "upw": "mlp.up_proj", "fcprojw": "mlp.down_proj",
    }  # fmt: skip
    named = {"model.embed_tokens.weight": params["wte"], "model.norm.weight": params["lnfw"]}
    named |= {"lm_head.weight": params["headw"]} if "headw" in params else {}
    for name, theirs in names.items():
        for l, w in enumerate(params[name]):
            if name in ("qw", "kw"):  # its rows i and i + HS / 2 are our 2i and 2i + 1
                HS, ours, w = C // NH, w, np.empty_like(w)
                for row in range(len(w)):
                    i = row % HS
                    w[row] = ours[row - i + (2 * i if i < HS // 2 else 2 * (i - HS // 2) + 1)]
            named[f"model.layers.{l}.{theirs}.weight"] = w
    named = {name: w for name, w in named.items() if name not in drop}
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", named, dtype)
    given = {
        "model_type": "llama", "hidden_size": C, "intermediate_size": H, "num_hidden_layers": L,
        "num_attention_heads": NH, "num_key_value_heads": NKV, "vocab_size": V,
        "max_position_embeddings": maxT, "tie_word_embeddings": tied, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    given = {name: value for name, value in (given | settings).items() if value != "left out"}
    (folder / "config.json").write_text(json.dumps(given))
    return folder


# ----------------------------------------------------------------------------
# Hypothesis

modest = settings(derandomize=True, deadline=None, max_examples=40)


@contextlib.contextmanager
def folder():
    """Yield a new folder, which each example of Hypothesis needs: tmp_path is one for all."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
