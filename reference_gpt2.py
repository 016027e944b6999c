"""
The same GPT-2 in PyTorch: where the weights come from, and what train_gpt2.py is checked against.

    python reference_gpt2.py                    # the real GPT-2 124M, 548 MB from Hugging Face
    python reference_gpt2.py --model d12        # random weights of the same size, no download

It writes gpt2_124M.bin, gpt2_tokenizer.bin, and gpt2_124M_debug_state.bin with what PyTorch makes
of one batch: logits, loss, gradients, and the losses of ten steps of AdamW. PyTorch derives the
gradients by itself, from the forward pass below.
"""

import argparse
import json
import math
import os
import re
import time
from pathlib import Path

import prepro
import train_gpt2 as gpt2
from train_gpt2 import MATRICES, OUTSIDE_BLOCKS, UserError, get_batch, number, tensors

import numpy as np

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:

    def without_torch():
        raise UserError("PyTorch is missing; `pip install -r requirements.txt` installs it")

    gpt2.run(without_torch)

# ----------------------------------------------------------------------------
# Model: each module is named after its tensors; qkvw and qkvb are qkv.weight and qkv.bias


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        C, self.NH = config.C, config.NH
        self.ln1 = nn.LayerNorm(C, gpt2.LAYERNORM_EPS)
        self.qkv = nn.Linear(C, 3 * C)
        self.attproj = nn.Linear(C, C)
        self.ln2 = nn.LayerNorm(C, gpt2.LAYERNORM_EPS)
        self.fc = nn.Linear(C, 4 * C)
        self.fcproj = nn.Linear(4 * C, C)

    def attention(self, qkv, sdpa):
        B, T, _ = qkv.shape
        q, k, v = qkv.view(B, T, 3, self.NH, -1).permute(2, 0, 3, 1, 4)  # (B, NH, T, HS)
        if sdpa:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
            preatt = q @ k.mT / math.sqrt(q.shape[-1])  # (B, NH, T, T)
            out = preatt.masked_fill(future, -math.inf).softmax(-1) @ v
        return out.transpose(1, 2).reshape(B, T, -1)

    def forward(self, x, sdpa):
        x = x + self.attproj(self.attention(self.qkv(self.ln1(x)), sdpa))
        return x + self.fcproj(F.gelu(self.fc(self.ln2(x)), approximate="tanh"))


class GPT2(nn.Module):
    """sdpa: attention by PyTorch's fused kernel, instead of step by step as in train_gpt2.py."""

    def __init__(self, config, sdpa=False):
        super().__init__()
        self.config, self.sdpa = config, sdpa
        self.wte = nn.Embedding(config.V, config.C)
        self.wpe = nn.Embedding(config.maxT, config.C)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.L))
        self.lnf = nn.LayerNorm(config.C, gpt2.LAYERNORM_EPS)

    def forward(self, x, y=None):
        """x and y (B, T) -> logits (B, T, V), loss; without y the loss is None."""
        out = self.wte(x) + self.wpe.weight[: x.shape[1]]  # (B, T, C)
        for block in self.blocks:
            out = block(out, self.sdpa)
        logits = self.lnf(out) @ self.wte.weight.T  # the head is wte itself
        return logits, None if y is None else F.cross_entropy(logits.flatten(0, 1), y.flatten())


def module_name(name):
    """Split one of train_gpt2.py's names as PyTorch does: qkvb -> qkv, bias; wte -> wte, weight."""
    if name in ("wte", "wpe"):
        return name, "weight"
    return name[:-1], {"w": "weight", "b": "bias"}[name[-1]]


def named_parameters(model):
    """{name: its parameters}, train_gpt2.py's names and order: one for each block, or just one."""
    found = {}
    for name in gpt2.tensor_shapes(model.config):
        stem, kind = module_name(name)
        owners = [model] if name in OUTSIDE_BLOCKS else model.blocks
        found[name] = [getattr(getattr(owner, stem), kind) for owner in owners]
    return found


def pairs(model, flat):
    """Each parameter of the model with its part of the flat vector, as a tensor on its memory."""
    views = tensors(flat, model.config)
    for name, parameters in named_parameters(model).items():
        parts = [views[name]] if name in OUTSIDE_BLOCKS else views[name]
        yield from zip(parameters, map(torch.from_numpy, parts), strict=True)


def model_from_flat(flat, config, device="cpu", sdpa=False):
    """A GPT2 on the device, with the parameters of the flat float32 vector."""
    with torch.device("meta"):  # no memory yet, and no time lost on PyTorch's own initial values
        model = GPT2(config, sdpa)
    model.to_empty(device=device)
    with torch.no_grad():
        for parameter, part in pairs(model, flat):
            parameter.copy_(part)
    return model


def flat_from_model(model, gradients=False):
    """The parameters of a GPT2, or their gradients, as a flat float32 vector."""
    flat = np.empty(gpt2.num_parameters(model.config), np.float32)
    for parameter, part in pairs(model, flat):
        part.copy_(parameter.grad if gradients else parameter.detach())
    return flat


# ----------------------------------------------------------------------------
# Training steps, and the debug state: what they were, for test_gpt2.py to repeat

BETAS, EPS = (0.9, 0.999), 1e-8  # PyTorch's defaults, and llm.c's


def adamw(model, lr, weight_decay, eps=EPS):
    """PyTorch's AdamW, with decay for the matrices and none for biases and layernorms."""
    named = named_parameters(model)
    decayed = [p for name in named if name in MATRICES for p in named[name]]
    others = [p for name in named if name not in MATRICES for p in named[name]]
    groups = {"params": decayed, "weight_decay": weight_decay}, {"params": others}
    return torch.optim.AdamW(groups, lr, BETAS, eps, weight_decay=0.0)


def take_steps(model, x, y, steps, lr, weight_decay, eps=EPS):
    """
    Take steps of AdamW on one batch, x and y (B, T), int64 arrays -> logits, grads, losses.

    Logits (B*T, V) and grads, flat, are those of the initial weights; a loss is that before a step.
    """
    device = model.wte.weight.device
    x, y = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    optimizer, losses = adamw(model, lr, weight_decay, eps), []
    for step in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        logits, loss = model(x, y)
        loss.backward()
        if step == 0:
            first = logits.detach().cpu().flatten(0, 1).numpy(), flat_from_model(model, True)
        optimizer.step()
        losses.append(loss.item())
        milliseconds = (time.perf_counter() - start) * 1000
        print(f"step {step}: loss {losses[-1]:f} (took {milliseconds:.1f} ms)", flush=True)
    return *first, np.array(losses, np.float32)


def write_state(path, config, x, y, record, lr, weight_decay, eps=EPS, params=None):
    """
    Write a debug state, record being what take_steps returned. llm.c reads it as far as the
    gradients.

    Header: STATE, version 2, B, T, the number of steps, 1 if the parameters after them are there.
    x, y (int32); logits (B*T, V), loss, gradients with wte padded (float32); lr, beta1, beta2, eps,
    weight decay (float64); the loss before each step, parameters with wte padded (float32).
    """
    logits, grads, losses = record
    with gpt2.replacing(path) as f:
        gpt2.write_header(f, gpt2.STATE, 2, *x.shape, len(losses), int(params is not None))
        for array in x.astype("<i4"), y.astype("<i4"), logits, losses[:1]:
            f.write(array)
        gpt2.write_tensors(f, grads, config)
        f.write(np.array([lr, *BETAS, eps, weight_decay], "<f8"))
        f.write(losses)
        if params is not None:
            gpt2.write_tensors(f, params, config)


def random_batch(config, B, T):
    return get_batch(np.random.default_rng(1337).integers(config.V, size=B * T + 1), 0, B, T)


def first_batch(config, B, T, path):
    """The first batch of a token file, x and y (B, T); random if that is not of this vocabulary."""
    if Path(path).exists():
        tokens, V = gpt2.load_tokens(path)
        if V == config.V and len(tokens) > B * T:
            return get_batch(tokens, 0, B, T)
    return random_batch(config, B, T)


SMALL, SMALL_B, SMALL_T = gpt2.GPT2Config(maxT=19, V=101, L=2, NH=3, C=24), 3, 13
# Enough for each term of AdamW to show. This eps also keeps rounding noise from being taken for a
# gradient: that of the keys' bias is 0 in exact arithmetic, and AdamW looks at its sign.
SMALL_ADAMW = {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-4}


def write_small(folder):
    """Write small_weights.bin and small_state.bin, which are kept under tests/."""
    flat = np.random.default_rng(1337).standard_normal(gpt2.num_parameters(SMALL), np.float32)
    for name, view in tensors(flat, SMALL).items():  # no 0 and 1, which can hide a wrong gradient
        view *= 0.2 if name in MATRICES else 0.5
        view += 1 if name in ("ln1w", "ln2w", "lnfw") else 0
    model = model_from_flat(flat, SMALL)
    x, y = random_batch(SMALL, SMALL_B, SMALL_T)
    record = take_steps(model, x, y, 10, **SMALL_ADAMW)
    folder.mkdir(parents=True, exist_ok=True)
    gpt2.save_weights(folder / "small_weights.bin", flat, SMALL)
    after = flat_from_model(model)
    write_state(folder / "small_state.bin", SMALL, x, y, record, **SMALL_ADAMW, params=after)


def make_state(path, flat, config, B=4, T=64, steps=10, lr=1e-4, weight_decay=0.01, device="cpu"):
    """Take steps with these weights, and write the debug state if that was done on the CPU."""
    x, y = first_batch(config, B, T, f"{gpt2.SHAKESPEARE}_val.bin")
    try:
        model = model_from_flat(flat, config, device)
    except (RuntimeError, AssertionError) as error:  # how PyTorch says that there is no such device
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from error
    record = take_steps(model, x, y, steps, lr, weight_decay)
    if model.wte.weight.device.type == "cpu":
        write_state(path, config, x, y, record, lr, weight_decay)
        print(f"wrote {path}")


# ----------------------------------------------------------------------------
# Hugging Face's weights, in the safetensors format

HF_GPT2 = "openai-community/gpt2/resolve/main/model.safetensors"
HF_GPT2_SIZE = 548_105_171
HF_GPT2_SHA256 = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"
HF_STEMS = {
    "wte": "wte", "wpe": "wpe", "ln1": "h.{}.ln_1", "qkv": "h.{}.attn.c_attn",
    "attproj": "h.{}.attn.c_proj", "ln2": "h.{}.ln_2", "fc": "h.{}.mlp.c_fc",
    "fcproj": "h.{}.mlp.c_proj", "lnf": "ln_f",
}  # fmt: skip
HF_IGNORED = r"lm_head\.weight|h\.\d+\.attn\.(masked_)?bias"  # wte once more; attention's mask
HS = 64  # channels of a head, in every GPT-2
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def safetensors_header(path):
    """
    The tensors of a safetensors file, {name: (dtype, shape, position in it)}. Raises UserError.

    The format: the length of a JSON text (8 bytes); the text, with dtype, shape, begin and end of
    each tensor, counted from the text's end; the tensors (github.com/huggingface/safetensors).
    """
    found, ranges, size = {}, [], os.path.getsize(path)
    try:
        with open(path, "rb") as f:
            data = 8 + int.from_bytes(f.read(8), "little")
            if data > size:
                raise ValueError("its header is longer than the file")
            header = json.loads(f.read(data - 8))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
                raise ValueError(f"{name!r} has no proper shape or position")
            itemsize = np.dtype(DTYPES[dtype]).itemsize if dtype in DTYPES else None
            if itemsize and end - begin != itemsize * math.prod(shape):
                raise ValueError(f"{name!r} has a size other than its shape's")
            ranges.append((begin, end))
            found[name] = dtype, tuple(shape), data + begin
        free = 0
        for begin, end in sorted(ranges):
            if not free <= begin <= end <= size - data:
                raise ValueError("its tensors overlap, or lie outside the file")
            free = end
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"{path}: not a safetensors file, or damaged: {error}; get it again"
        raise UserError(why) from error
    return found


def load_safetensors(path):
    """Read a GPT-2 of Hugging Face -> a flat float32 vector, config. Raises UserError."""
    found = {k.removeprefix("transformer."): v for k, v in safetensors_header(path).items()}
    found = {k: v for k, v in found.items() if not re.fullmatch(HF_IGNORED, k)}

    def take(name, shape):
        if name not in found:
            raise UserError(f"{path}: not a GPT-2, or not all of it: it has no tensor {name}")
        dtype, has, position = found.pop(name)
        if dtype not in DTYPES or has != shape:
            expected = f"F32, F16 or BF16 {shape}"
            raise UserError(f"{path}: its tensor {name} is {dtype!r} {has}, not {expected}")
        values = np.fromfile(path, DTYPES[dtype], math.prod(shape), offset=position)
        if dtype == "BF16":  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(shape).astype(np.float32, copy=False)

    L = sum(bool(re.fullmatch(r"h\.\d+\.ln_1\.weight", name)) for name in found)
    wte, wpe = (found.get(f"{name}.weight", (0, (), 0))[1] for name in ("wte", "wpe"))
    (V, C), maxT = (0, 0, *wte)[-2:], (0, *wpe)[min(1, len(wpe))]
    config = gpt2.GPT2Config(maxT, V, L, C // HS, C)
    if min(config) < 1 or C % HS:
        raise UserError(f"{path}: not a GPT-2, to judge by its tensors")
    flat = []
    for name, shape in gpt2.tensor_shapes(config).items():
        stem, kind = module_name(name)
        for l in range(1 if name in OUTSIDE_BLOCKS else L):
            hf_name = f"{HF_STEMS[stem].format(l)}.{kind}"
            if name in OUTSIDE_BLOCKS:
                flat.append(take(hf_name, shape).ravel())
            elif name in MATRICES:
                # Hugging Face has Conv1D here, x @ w with w (in, out): transposed, it is (out, in)
                flat.append(take(hf_name, shape[:0:-1]).T.ravel())
            else:
                flat.append(take(hf_name, shape[1:]))
    if found:
        raise UserError(f"{path}: its tensor {min(found)!r} is none of a GPT-2's")
    return np.concatenate(flat), config


def load_gpt2():
    """GPT-2 124M, downloaded unless it is there -> a flat float32 vector, config."""
    path = gpt2.HERE / "model.safetensors"
    if not path.exists():
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        url = f"{endpoint.rstrip('/')}/{HF_GPT2}"
        prepro.download(url, path, size=HF_GPT2_SIZE, sha256=HF_GPT2_SHA256)
    elif path.stat().st_size != HF_GPT2_SIZE:
        raise UserError(f"{path}: does not have GPT-2's {HF_GPT2_SIZE:,} bytes; delete it")
    return load_safetensors(path)


# ----------------------------------------------------------------------------
# Command line


def model_name(text):
    if text == "gpt2" or re.fullmatch(r"d[1-9][0-9]*", text) or text.endswith(".safetensors"):
        return text
    raise argparse.ArgumentTypeError(f"{text} is not gpt2, dN, or a file named *.safetensors")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description="GPT-2 in PyTorch: weights, and a reference.")
    add, positive = parser.add_argument, number(int, 1)
    models = "gpt2 (default); dN: N layers at random; or a .safetensors file"
    add("--model", type=model_name, default="gpt2", help=models)
    add("--out", type=Path, default=gpt2.WEIGHTS_FILE, help="default: gpt2_124M.bin")
    add("--weights-only", action="store_true", help="stop after the weights and the tokenizer")
    add("--batch-size", type=positive, default=4)
    add("--seq-len", type=positive, default=64)
    add("--steps", type=positive, default=10)
    add("--lr", type=number(float, 0), default=1e-4, help="learning rate")
    add("--weight-decay", type=number(float, 0), default=0.01)
    add("--device", default="cpu", help="of the steps; the debug state is only made on the cpu")
    add("--seed", type=number(int, 0), default=1337, help="of random weights")
    add("--small", type=Path, metavar="FOLDER", help="write what tests/ has, and nothing else")
    return parser.parse_args(argv)


def write_tokenizer(path, required):
    """Write the tokenizer unless a good one is there. Without a network: go on if not required."""
    try:
        gpt2.load_tokenizer(path)
        return
    except UserError:
        pass
    try:
        prepro.write_gpt2_tokenizer(path)
        print(f"wrote {path}")
    except gpt2.NoNetwork as error:
        if required:
            raise
        print(f"{path.name} is missing: {error}")  # it says what to run


def main(argv=None):
    args = parse_args(argv)
    if args.small:
        return write_small(args.small)
    B, T, out = args.batch_size, args.seq_len, args.out
    if args.model == "gpt2":
        flat, config = load_gpt2()
    elif args.model.endswith(".safetensors"):
        flat, config = load_safetensors(args.model)
    else:
        config = gpt2.named_config(args.model, gpt2.GPT2_VOCAB_SIZE)
        flat = gpt2.init_weights(config, args.seed)
    if T > config.maxT:
        raise UserError(f"--seq-len {T}: {args.model} takes {config.maxT} at most")
    print(f"{config}, {gpt2.num_parameters(config):,} parameters", flush=True)

    out.parent.mkdir(parents=True, exist_ok=True)
    if config.V == gpt2.GPT2_VOCAB_SIZE:
        write_tokenizer(out.parent / "gpt2_tokenizer.bin", required=args.model == "gpt2")
    gpt2.save_weights(out, flat, config)
    print(f"wrote {out}", flush=True)
    if args.weights_only:
        return

    state = out.with_name(f"{out.stem}_debug_state.bin")
    make_state(state, flat, config, B, T, args.steps, args.lr, args.weight_decay, args.device)


if __name__ == "__main__":
    gpt2.run(main)
