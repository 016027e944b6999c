"""
The same GPT-2 in PyTorch: where the weights come from, and what train_gpt2.py is checked against.

    python reference_gpt2.py                    # the real GPT-2 124M, 548 MB from Hugging Face
    python reference_gpt2.py --model d12        # gpt2_d12.bin: random weights of the same size
    python reference_gpt2.py --model FOLDER     # a GPT-2 of Hugging Face, or gpt2-xl and so on
    python reference_gpt2.py --export out.bin FOLDER    # and back, for AutoModelForCausalLM

It writes gpt2_124M.bin, gpt2_tokenizer.bin, and gpt2_124M_debug_state.bin with what PyTorch makes
of one batch: logits, loss, gradients, and the losses of ten steps of AdamW. PyTorch derives the
gradients by itself, from the forward pass below: on the CPU, in float32. To train in PyTorch, on
other devices, there is tools/train.py --device.
"""

import argparse
import math
import time
from pathlib import Path

import train_gpt2 as gpt2
from tools import checkpoints, console, formats, huggingface, memory, token_files
from tools.console import UserError, bounded
from tools.huggingface import HF_MODELS, OPENAI

import numpy as np

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:
    text = "PyTorch is missing; `pip install -r requirements.txt` installs it"
    raise UserError(f"reference_gpt2.py: {text}" if __name__ == "__main__" else text) from None

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


def named_parameters(model):
    """Return {name: its parameters}, by train_gpt2.py's names: one for each block, or just one."""
    found = {}
    for name in gpt2.TENSORS:
        path = f"{name[:-1]}.{'weight' if name[-1] == 'w' else 'bias'}"
        if name in ("wte", "wpe"):
            path = f"{name}.weight"
        owners = model.blocks if name in gpt2.IN_BLOCKS else [model]
        found[name] = [owner.get_parameter(path) for owner in owners]
    return found


def pairs(model, flat):
    """Yield each parameter, and its part of the flat vector, as a tensor on the vector's memory."""
    views = gpt2.named_views(flat, model.config)
    for name, parameters in named_parameters(model).items():
        parts = views[name] if name in gpt2.IN_BLOCKS else [views[name]]
        yield from zip(parameters, map(torch.from_numpy, parts), strict=True)


def model_from_flat(flat, config, device="cpu", sdpa=False):
    """Return a GPT2 on the device, with the parameters of the flat float32 vector."""
    with torch.device("meta"):  # no memory yet, and no time lost on PyTorch's own initial values
        model = GPT2(config, sdpa)
    model.to_empty(device=device)
    with torch.no_grad():
        for parameter, part in pairs(model, flat):
            parameter.copy_(part)
    return model


def flatten(model, get):
    """Return get(parameter), a tensor of its shape, of all parameters as a flat float32 vector."""
    flat = np.empty(gpt2.num_parameters(model.config), np.float32)
    for parameter, part in pairs(model, flat):
        part.copy_(get(parameter))
    return flat


def flat_from_model(model, gradients=False):
    """Return the parameters of a GPT2, or their gradients, as a flat float32 vector."""
    return flatten(model, lambda p: p.grad if gradients else p.detach())


# ----------------------------------------------------------------------------
# Training steps, and the debug state: what they were, for test_gpt2.py to repeat

STATE = 20240327  # header[0] of a debug state
BETAS, EPS = (0.9, 0.999), 1e-8  # PyTorch's defaults, and llm.c's


def adamw(model, lr, weight_decay, eps=EPS, fused=None):
    """Return PyTorch's AdamW, with decay for matrices, none for biases and layernorms."""
    named = named_parameters(model)
    decayed = [p for name in named if name in gpt2.DECAYING for p in named[name]]
    others = [p for name in named if name not in gpt2.DECAYING for p in named[name]]
    groups = {"params": decayed, "weight_decay": weight_decay}, {"params": others}
    return torch.optim.AdamW(groups, lr, BETAS, eps, weight_decay=0.0, fused=fused)


def to_device(model, *arrays):
    """Return the arrays as tensors on the model's device."""
    return [torch.from_numpy(array).to(model.wte.weight.device) for array in arrays]


def take_steps(model, x, y, steps, lr, weight_decay, eps=EPS):
    """
    Take steps of AdamW on one batch, x and y (B, T), int64 arrays -> logits, grads, losses.

    Logits (B*T, V) and grads, flat, are those of the initial weights; a loss is that before a step.
    """
    x, y = to_device(model, x, y)
    optimizer, losses = adamw(model, lr, weight_decay, eps), []
    for step in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        logits, loss = model(x, y)
        loss.backward()
        if step == 0:
            first = logits.detach().flatten(0, 1).numpy()
            grads = flat_from_model(model, gradients=True)
        optimizer.step()
        losses.append(loss.item())
        seconds = time.perf_counter() - start
        took = f"took {seconds * 1000:.1f} ms, {x.numel() / seconds:.0f} tokens/s"
        print(f"step {step}: loss {losses[-1]:f} ({took})", flush=True)
    return first, grads, np.array(losses, np.float32)


@torch.no_grad()
def activations(model, x):
    """
    Return what each layer makes of x (B, T), a list of (B*T, channels), first to last.

    That is embedding; ln1, qkv, atty, attproj, mid, ln2, fc, gelu, fcproj, out of each block, by
    the names of the lesson's block_forward; lnf.
    """
    found = []

    def note(array):
        found.append(array.detach().flatten(0, 1).cpu().numpy())

    before = model.blocks[0].register_forward_pre_hook(lambda module, args: note(args[0]))
    hooks = [before]
    for block in model.blocks:
        for layer in block.ln1, block.qkv, block.attproj, block.ln2, block.fc, block.fcproj, block:
            if layer in (block.attproj, block.ln2, block.fcproj):  # atty, mid and gelu go into them
                hooks.append(layer.register_forward_pre_hook(lambda module, args: note(args[0])))
            hooks.append(layer.register_forward_hook(lambda module, args, out: note(out)))
    hooks.append(model.lnf.register_forward_hook(lambda module, args, out: note(out)))
    model(*to_device(model, x))
    for hook in hooks:
        hook.remove()
    return found


def write_state(path, config, x, y, record, lr, weight_decay, eps=EPS, params=None, outputs=()):
    """
    Write a debug state; record is what take_steps returned. llm.c reads it as far as the gradients.

    Header: STATE, version 2, B, T, the number of steps, 1 if the parameters after them are there, 1
    if the outputs of the layers are. x, y (int32); logits (B*T, V), loss, gradients with wte padded
    (float32); lr, beta1, beta2, eps, weight decay (float64); the loss before each step, parameters
    with wte padded; outputs, as activations() returned them (float32).
    """
    logits, grads, losses = record
    header, wte = np.zeros(256, "<i4"), config.V * config.C
    header[:7] = STATE, 2, *x.shape, len(losses), params is not None, len(outputs) > 0
    padding = np.zeros(formats.wte_padding(config), "<f4")
    settings = np.array([lr, *BETAS, eps, weight_decay], "<f8")
    parts = [header, x.astype("<i4"), y.astype("<i4"), logits, losses[:1]]
    parts += [grads[:wte], padding, grads[wte:], settings, losses]
    if params is not None:
        parts += [params[:wte], padding, params[wte:]]
    parts += outputs
    with formats.replacing(path) as f:
        for part in parts:
            f.write(part)


def random_batch(config, B, T):
    """Return a batch of random tokens, the same at each call: x and y (B, T), int64."""
    return gpt2.get_batch(np.random.default_rng(1337).integers(config.V, size=B * T + 1), 0, B, T)


def first_batch(config, B, T, path):
    """Return the first batch of a token file, or a random one if that is of another vocabulary."""
    if Path(path).exists():
        tokens, V = formats.load_tokens(path)
        if V == config.V and len(tokens) > B * T:
            return gpt2.get_batch(tokens, 0, B, T)
    return random_batch(config, B, T)


SMALL, SMALL_B, SMALL_T = gpt2.GPT2Config(maxT=19, V=101, L=2, NH=3, C=24), 3, 13
# Enough for each term of AdamW to show. This eps also keeps rounding noise from being taken for a
# gradient: that of the keys' bias is 0 in exact arithmetic, and AdamW looks at its sign.
SMALL_ADAMW = {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-4}


def write_small(folder):
    """Write small_weights.bin and small_state.bin, which are kept under tests/."""
    folder.mkdir(parents=True, exist_ok=True)
    formats.check_writable(folder / "small_weights.bin", gpt2.WEIGHTS_MAGIC)
    formats.check_writable(folder / "small_state.bin", STATE)
    flat = np.random.default_rng(1337).standard_normal(gpt2.num_parameters(SMALL), np.float32)
    # no 0 and 1, which can hide a wrong gradient
    for name, view in gpt2.named_views(flat, SMALL).items():
        view *= 0.2 if name in gpt2.DECAYING else 0.5
        view += 1 if gpt2.TENSORS[name][1] == gpt2.SCALE else 0
    model = model_from_flat(flat, SMALL)
    x, y = random_batch(SMALL, SMALL_B, SMALL_T)
    record = take_steps(model, x, y, 10, **SMALL_ADAMW)
    formats.write_weights(folder / "small_weights.bin", flat, SMALL)
    after = flat_from_model(model)
    write_state(folder / "small_state.bin", SMALL, x, y, record, **SMALL_ADAMW, params=after)


def make_state(path, flat, config, B=4, T=64, steps=10, lr=1e-4, weight_decay=0.01, layers=False):
    """Take steps with these weights on a batch, and write the debug state to a path."""
    x, y = first_batch(config, B, T, f"{gpt2.SHAKESPEARE}_val.bin")
    model = model_from_flat(flat, config)
    outputs = activations(model, x) if layers else ()
    record = take_steps(model, x, y, steps, lr, weight_decay)
    write_state(path, config, x, y, record, lr, weight_decay, outputs=outputs)
    print(f"wrote {path}")


# ----------------------------------------------------------------------------
# Command line


def model_name(text):
    known = text in HF_MODELS or gpt2.named_config(text, gpt2.GPT2_VOCAB_SIZE)
    if known or text.endswith(".safetensors") or text and Path(text).is_dir():
        return text
    what = f"none of {', '.join(HF_MODELS)}, dN, nor a folder, nor a file named *.safetensors"
    raise argparse.ArgumentTypeError(f"{text} is {what}")


def file_of(model):
    """Return the weight file to make of a model. Raises UserError if that is a checkpoint."""
    if model in HF_MODELS:
        return gpt2.HERE / HF_MODELS[model][2]
    random = gpt2.named_config(model, gpt2.GPT2_VOCAB_SIZE)
    stem = f"gpt2_{model}" if random else Path(model).resolve().name
    out = gpt2.HERE / f"{stem.removesuffix('.safetensors')}.bin"
    if out.exists() and checkpoints.read_about(out):
        raise UserError(f"{out}: is a checkpoint, made by training; give another --out")
    return out


def check_name(out, model):
    """Raise UserError if a file is to have the name of a model of OpenAI's, and is another."""
    for name, (owner, _, file) in HF_MODELS.items():
        if owner == OPENAI and model != name and out.name.lower() == file.lower():
            raise UserError(f"{out}: {model} is not OpenAI's {name}; give another --out")


def parse_args(argv):
    parser = console.Parser(description="GPT-2 in PyTorch: weights, and a reference.")
    add = parser.add_argument
    models = ", ".join(HF_MODELS) + "; dN: N layers at random; or a folder or .safetensors file"
    add("--model", type=model_name, default="gpt2", help=f"{models} (default: gpt2)")
    add("--out", type=Path, help="default: by the model's name; gpt2_124M.bin for gpt2")
    add("--weights-only", action="store_true", help="stop after the weights and the tokenizer")
    text = "write each layer's output behind the debug state, of which test_gpt2.py names the first"
    add("--activations", action="store_true", help=f"{text} that differs")
    for flag, default, what in (
        ("--batch-size", 4, "sequences of the debug state"),
        ("--seq-len", 64, "tokens of one"),
        ("--steps", 10, "steps of AdamW in it"),
        ("--seed", 1337, "seed of random weights"),
    ):
        least = 0 if flag == "--seed" else 1
        add(flag, type=bounded(int, least), default=default, help=f"{what} (default: {default})")
    for flag, default, what in ("--lr", 1e-4, "learning rate"), ("--weight-decay", 0.01, "decay"):
        help = f"AdamW's {what} (default: {default})"
        add(flag, type=bounded(float, 0), default=default, help=help)
    add("--small", type=Path, metavar="FOLDER", help="write what tests/ has (default: --model)")
    exported = {"nargs": 2, "type": Path, "metavar": ("FILE", "FOLDER")}
    add("--export", **exported, help="a weight file as a folder for transformers (default: no)")
    return parser.parse_args(argv)


def make_files(args):
    """Write the weights, the tokenizer and the debug state of --model. Raises UserError."""
    B, T, out, tokenizer = args.batch_size, args.seq_len, args.out or file_of(args.model), None
    check_name(out, args.model)
    # before the work, not after; a folder that is to be made, too
    new = next((folder for folder in reversed(out.parents) if not folder.exists()), out)
    formats.check_writable(new, gpt2.WEIGHTS_MAGIC, "--out")
    state = out.with_name(f"{out.stem}_debug_state.bin")
    formats.check_kind(out.with_name(gpt2.TOKENIZER_FILE.name), gpt2.TOKENIZER_MAGIC)
    if not args.weights_only:
        formats.check_kind(state, STATE)
    if config := gpt2.named_config(args.model, gpt2.GPT2_VOCAB_SIZE):
        flat = gpt2.init_weights(config, args.seed)
    elif args.model in HF_MODELS:
        flat, config = huggingface.load_named(args.model)
    else:
        flat, config, tokenizer = huggingface.import_model(args.model)
    checkpoints.check_finite(args.model, flat)
    if T > config.maxT and not args.weights_only:
        raise UserError(f"--seq-len {T}: {args.model} takes {config.maxT} at most; lower it")
    print(f"{config}, {gpt2.num_parameters(config):,} parameters", flush=True)

    out.parent.mkdir(parents=True, exist_ok=True)
    if tokenizer:
        huggingface.write_tokenizer(out, *tokenizer)
    elif tokenizer is None and config.V == gpt2.GPT2_VOCAB_SIZE:
        path = out.with_name(gpt2.TOKENIZER_FILE.name)
        huggingface.write_gpt2_tokenizer(path, required=args.model in HF_MODELS)
    digest = token_files.GPT2_DIGEST if args.model in HF_MODELS else 0
    digest = formats.digest_of(tokenizer[0]) if tokenizer else digest
    formats.write_weights(out, flat, config, digest=digest)
    print(f"wrote {out}", flush=True)
    if args.weights_only:
        return

    need = flat.nbytes + sum(memory.memory_needed(config, len(flat), B, T).values())
    if need > (have := memory.machine_memory()):
        size = f"take {need / 1e9:.1f} GB of memory, and there are {have / 1e9:.1f}"
        return print(f"not writing a debug state: the steps of AdamW for it {size}")
    make_state(state, flat, config, B, T, args.steps, args.lr, args.weight_decay, args.activations)


def main(argv=None):
    args = parse_args(argv)
    if args.small:
        return write_small(args.small)
    if args.export:
        return huggingface.export(*args.export)
    make_files(args)


if __name__ == "__main__":
    console.run_program(main)
