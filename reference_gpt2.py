"""
The same GPT-2 in PyTorch: where the weights come from, and what train_gpt2.py is checked against.

    python reference_gpt2.py                    # the real GPT-2 124M, 548 MB from Hugging Face
    python reference_gpt2.py --model d12        # random weights of the same size, no download
    python reference_gpt2.py --model FOLDER     # a GPT-2 of Hugging Face, or gpt2-xl and so on
    python reference_gpt2.py --export out.bin FOLDER    # and back, for AutoModelForCausalLM
    python reference_gpt2.py --train            # trains as train_gpt2.py does, with its flags
    torchrun --nproc-per-node=2 reference_gpt2.py --train                   # in two processes

It writes gpt2_124M.bin, gpt2_tokenizer.bin, and gpt2_124M_debug_state.bin with what PyTorch makes
of one batch: logits, loss, gradients, and the losses of ten steps of AdamW. PyTorch derives the
gradients by itself, from the forward pass below. --device, --dtype, --compile and so on have it
compute in other ways; the debug state is only ever made on the CPU, in float32.
"""

import argparse
import contextlib
import gc
import itertools
import json
import math
import os
import re
import signal
import sys
import time
from pathlib import Path

import common
import prepro
import train_gpt2 as gpt2
from common import Parser, UserError, number
from train_gpt2 import MATRICES, OUTSIDE_BLOCKS, get_batch, tensors

import numpy as np

try:
    import torch
    from torch import distributed, nn
    from torch.nn import functional as F
except ImportError:

    def without_torch():
        raise UserError("PyTorch is missing; `pip install -r requirements.txt` installs it")

    common.run(without_torch)

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


def flatten(model, get):
    """get(parameter), a tensor of its shape, for all parameters as a flat float32 vector."""
    flat = np.empty(gpt2.num_parameters(model.config), np.float32)
    for parameter, part in pairs(model, flat):
        part.copy_(get(parameter))
    return flat


def flat_from_model(model, gradients=False):
    """The parameters of a GPT2, or their gradients, as a flat float32 vector."""
    return flatten(model, lambda p: p.grad if gradients else p.detach())


# ----------------------------------------------------------------------------
# Training steps, and the debug state: what they were, for test_gpt2.py to repeat

BETAS, EPS = (0.9, 0.999), 1e-8  # PyTorch's defaults, and llm.c's


def adamw(model, lr, weight_decay, eps=EPS, fused=None):
    """PyTorch's AdamW, with decay for the matrices and none for biases and layernorms."""
    named = named_parameters(model)
    decayed = [p for name in named if name in MATRICES for p in named[name]]
    others = [p for name in named if name not in MATRICES for p in named[name]]
    groups = {"params": decayed, "weight_decay": weight_decay}, {"params": others}
    return torch.optim.AdamW(groups, lr, BETAS, eps, weight_decay=0.0, fused=fused)


def to_device(model, *arrays):
    return [torch.from_numpy(array).to(model.wte.weight.device) for array in arrays]


def clock(model):
    """Seconds, once the device has done all that it was asked to do."""
    torch.get_device_module(model.wte.weight.device).synchronize()
    return time.perf_counter()


def take_steps(model, x, y, steps, lr, weight_decay, eps=EPS, learn=True):
    """
    Take steps of AdamW on one batch, x and y (B, T), int64 arrays -> logits, grads, losses.

    Logits (B*T, V) and grads, flat, are those of the initial weights; a loss is that before a step.
    Without learn there are forward passes alone, and no grads.
    """
    x, y = to_device(model, x, y)
    fused = x.device.type == "cuda" or None  # on the CPU, PyTorch's default
    optimizer, losses, grads = adamw(model, lr, weight_decay, eps, fused), [], None
    for step in range(steps):
        start = clock(model)
        optimizer.zero_grad()
        with torch.set_grad_enabled(learn):
            logits, loss = model(x, y)
        if learn:
            loss.backward()
        if step == 0:
            first = logits.detach().float().cpu().flatten(0, 1).numpy()
            grads = flat_from_model(model, gradients=True) if learn else None
        optimizer.step()
        losses.append(loss.item())
        seconds = clock(model) - start
        took = f"took {seconds * 1000:.1f} ms, {x.numel() / seconds:.0f} tokens/s"
        print(f"step {step}: loss {losses[-1]:f} ({took})", flush=True)
    return first, grads, np.array(losses, np.float32)


def write_state(path, config, x, y, record, lr, weight_decay, eps=EPS, params=None):
    """
    Write a debug state, record being what take_steps returned. llm.c reads it as far as the
    gradients.

    Header: STATE, version 2, B, T, the number of steps, 1 if the parameters after them are there.
    x, y (int32); logits (B*T, V), loss, gradients with wte padded (float32); lr, beta1, beta2, eps,
    weight decay (float64); the loss before each step, parameters with wte padded (float32).
    """
    logits, grads, losses = record
    with common.replacing(path) as f:
        common.write_header(f, common.STATE, 2, *x.shape, len(losses), int(params is not None))
        for array in x.astype("<i4"), y.astype("<i4"), logits, losses[:1]:
            f.write(array)
        common.write_tensors(f, grads, config)
        f.write(np.array([lr, *BETAS, eps, weight_decay], "<f8"))
        f.write(losses)
        if params is not None:
            common.write_tensors(f, params, config)


def random_batch(config, B, T):
    return get_batch([np.random.default_rng(1337).integers(config.V, size=B * T + 1)], 0, B, T)


def first_batch(config, B, T, path):
    """The first batch of a token file, x and y (B, T); random if that is not of this vocabulary."""
    if Path(path).exists():
        tokens, V = common.load_tokens(path)
        if V == config.V and len(tokens) > B * T:
            return get_batch([tokens], 0, B, T)
    return random_batch(config, B, T)


SMALL, SMALL_B, SMALL_T = gpt2.GPT2Config(maxT=19, V=101, L=2, NH=3, C=24), 3, 13
# Enough for each term of AdamW to show. This eps also keeps rounding noise from being taken for a
# gradient: that of the keys' bias is 0 in exact arithmetic, and AdamW looks at its sign.
SMALL_ADAMW = {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-4}


def write_small(folder):
    """Write small_weights.bin and small_state.bin, which are kept under tests/."""
    folder.mkdir(parents=True, exist_ok=True)
    common.check_writable(folder / "small_weights.bin")
    flat = np.random.default_rng(1337).standard_normal(gpt2.num_parameters(SMALL), np.float32)
    for name, view in tensors(flat, SMALL).items():  # no 0 and 1, which can hide a wrong gradient
        view *= 0.2 if name in MATRICES else 0.5
        view += 1 if name in ("ln1w", "ln2w", "lnfw") else 0
    model = model_from_flat(flat, SMALL)
    x, y = random_batch(SMALL, SMALL_B, SMALL_T)
    record = take_steps(model, x, y, 10, **SMALL_ADAMW)
    common.write_weights(folder / "small_weights.bin", flat, SMALL)
    after = flat_from_model(model)
    write_state(folder / "small_state.bin", SMALL, x, y, record, **SMALL_ADAMW, params=after)


def make_state(
    path, flat, config, B=4, T=64, steps=10, lr=1e-4, weight_decay=0.01, model=None, learn=True
):
    """Take steps with these weights, or a model that has them; write the debug state to a path."""
    x, y = first_batch(config, B, T, f"{common.SHAKESPEARE}_val.bin")
    model = model_from_flat(flat, config) if model is None else model
    record = take_steps(model, x, y, steps, lr, weight_decay, learn=learn)
    if path:
        write_state(path, config, x, y, record, lr, weight_decay)
        print(f"wrote {path}")


# ----------------------------------------------------------------------------
# Training: train() of train_gpt2.py once more, on any device, and in as many processes as torchrun
# starts. Each takes batches of its own; DistributedDataParallel averages their gradients

RANK, LOCAL_RANK, WORLD = (  # torchrun says: which process, which of this host, of how many
    int(os.environ.get(name, default))
    for name, default in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1))
)


def add_switches(add):
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of products, autocast")
    add("--flash", action="store_true", help="attention by PyTorch's fused kernel")
    add("--compile", action="store_true", help="run what torch.compile makes of the model")
    add("--tensorcores", action="store_true", help="allow TF32 in products of float32")
    add("--inference-only", action="store_true", help="only forward passes; writes no file")
    add("--no-write", action="store_true", help="write no file")


@contextlib.contextmanager
def open_device(args):
    """
    Yield the device of the flags, under torchrun this process's own, the processes being connected.

    UserError for PyTorch's own: no such device, no compiler, no memory, a process that has ended.
    """
    try:
        device = torch.device(args.device)
        if not torch.get_device_module(device).is_available():
            raise RuntimeError("PyTorch finds none on this machine")
        if device.type == "cuda":
            device = torch.device("cuda", LOCAL_RANK if WORLD > 1 else device.index or 0)
            torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high" if args.tensorcores else "highest")
        if WORLD > 1:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        yield device
        if device.type == "cuda":
            print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB")
        if WORLD > 1:
            gc.collect()  # what DistributedDataParallel left, or threads outlive the group
            distributed.destroy_process_group()
    except RuntimeError as error:
        rank = f" (rank {RANK})" if WORLD > 1 else ""
        why = str(error).strip().splitlines()[0].split(". ")[0]
        compiler = args.compile and "ompiler" in why
        hint = "get one, or leave --compile out" if compiler else "try --device cpu"
        raise UserError(f"--device {args.device}{rank}: {why}; {hint}") from error


def prepared_model(flat, config, device, args):
    """model_from_flat, to run as the flags say."""
    model = model_from_flat(flat, config, device, sdpa=args.flash)
    if args.dtype == "bfloat16":  # in products; parameters, layernorms and the loss stay float32
        model.forward = torch.autocast(device.type, torch.bfloat16)(model.forward)
    if args.compile:
        model.compile()
    return model


def load_moments(model, optimizer, m, v, step):
    """Have AdamW go on after that many steps, with its moments m and v, flat."""
    for (p, m_part), (_, v_part) in zip(pairs(model, m), pairs(model, v), strict=True):
        moments = {"exp_avg": m_part.to(p.device), "exp_avg_sq": v_part.to(p.device)}
        optimizer.state[p] = {"step": torch.tensor(float(step), device=p.device), **moments}


def mean(value, device):
    """The mean of a number over all processes."""
    if WORLD == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return total.item() / WORLD


@torch.no_grad()
def evaluate(model, shards, B, T, batches):
    """The mean loss of that many batches, which the processes share."""
    own = (get_batch(shards, i, B, T) for i in range(RANK, batches, WORLD))
    total = sum(model(*to_device(model, *xy))[1].item() for xy in own)
    return mean(float(total), model.wte.weight.device) * WORLD / batches


def train(args, device):
    """
    Train, as the flags say: the batches, lines, log and checkpoints of train() in train_gpt2.py.

    A step has --grad-accum batches from each process. Raises what that one raises.
    """
    B, T, learn = args.batch_size, args.seq_len, not args.inference_only
    if RANK or args.no_write or not learn:
        args.save = args.log = None
    if RANK:  # only the first process has something to say
        sys.stdout, args.sample_every = open(os.devnull, "w"), 0
        distributed.barrier()  # until the first has made what is missing, and found no mistake
    elif not common.prepare_defaults(args.data, args.init or args.resume):
        raise UserError("without a network, give both --data and --init or --resume")
    if not args.resume:
        args.grad_accum *= WORLD  # for a checkpoint: the batches of a step, whoever takes them
    elif args.grad_accum % WORLD:
        share = f"{WORLD} processes can't share the {args.grad_accum} batches of a step"
        raise UserError(f"--resume {args.resume}: {share}; start another number of them")
    accum, data = args.grad_accum, args.data or common.SHAKESPEARE
    train_shards, val_shards, V = common.load_data(data, B, T)
    config, weight_file = gpt2.open_model(args, V)
    vocabulary, end_of_text = common.load_vocabulary(data, V) if args.sample_every else ([], None)
    interrupted = common.catch_interrupt()
    if WORLD > 1:
        signal.signal(signal.SIGTERM, lambda *_: interrupted.set())  # what torchrun sends
    start, due, save, save_best = common.checkpoints(args, train_shards, interrupted)
    if WORLD > 1 and not RANK:
        distributed.barrier()
    common.print_sizes(config, gpt2.num_parameters(config), args, train_shards, val_shards)

    common.keep_freed_memory()
    random = weight_file is None
    flat = gpt2.init_weights(config, args.seed) if random else gpt2.load_weights(weight_file)[0]
    model = prepared_model(flat, config, device, args)
    optimizer = adamw(model, args.lr, args.weight_decay, fused=True)
    m, v = np.zeros_like(flat), np.zeros_like(flat)
    if args.resume:
        common.read_moments(args.resume, m, v)
    load_moments(model, optimizer, m, v, start)
    del flat, m, v
    parallel = nn.parallel.DistributedDataParallel(model) if WORLD > 1 else model

    progress = common.progress(args.steps, start, accum * B * T, args.log)
    with contextlib.nullcontext(lambda *_: None) if RANK else progress as record:
        for step in range(start, args.steps + 1):
            last, val_loss = step == args.steps, None
            if mean(float(interrupted.is_set()), device):  # all processes stop at the same step
                interrupted.set()
                if RANK and not last:
                    raise SystemExit(1)
            if due(step):
                keys = "exp_avg", "exp_avg_sq"
                moments = (flatten(model, lambda p, k=k: optimizer.state[p][k]) for k in keys)
                save(step, config, flat_from_model(model), *moments)
            if args.val_every and (last or step % args.val_every == 0):
                val_loss = evaluate(model, val_shards, B, T, args.val_batches)
                common.say(f"val loss {val_loss:.6f}")
                if args.save:
                    save_best(step, config, flat_from_model(model), val_loss)
            if args.sample_every and step and (last or step % args.sample_every == 0):
                params = tensors(flat_from_model(model), config)
                rng = np.random.default_rng((args.seed, step))
                sample = gpt2.generate(params, config, [end_of_text], rng)
                text = b"".join(vocabulary[i] for i in itertools.islice(sample, gpt2.SAMPLE_TOKENS))
                common.say(f"generating:\n---\n{text.decode('utf-8', 'replace')}\n---")
            if last:
                record(step, val_loss)
                break

            begin = clock(model)
            seed = args.seed if args.shuffle else None
            numbers = range(step * accum + RANK, step * accum + accum, WORLD)
            optimizer.zero_grad()
            losses, norm = [], 0.0
            for i in numbers:
                x, y = to_device(model, *get_batch(train_shards, i, B, T, seed))
                parallel.require_backward_grad_sync = i == numbers[-1]  # averages them only then
                with torch.set_grad_enabled(learn):
                    loss = parallel(x, y)[1] / len(numbers)
                if learn:
                    loss.backward()
                losses.append(loss.detach())
            loss = mean(sum(loss.item() for loss in losses), device)
            if learn:  # PyTorch divides by norm + 1e-6; AdamW hardly sees a factor common to all
                norm = nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip or math.inf)
                norm = norm.item()
            if not math.isfinite(loss + norm):
                what = f"loss {loss}, gradient norm {norm} in batch {step * accum} of {data}_train"
                hint = "this step is not saved; try a lower --lr, --warmup 100, or --grad-clip 1"
                raise SystemExit(1) if RANK else UserError(f"step {step}: {what}; {hint}")
            lr = gpt2.learning_rate(step, args.steps, args.lr, args.warmup, args.min_lr_frac)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()  # nothing without gradients
            record(step, val_loss, loss, lr, norm, (clock(model) - begin) * 1000)


# ----------------------------------------------------------------------------
# Hugging Face's weights, in the safetensors format, and folders for its transformers library

HF_MODELS = {  # whose it is; its L, NH and C; the file to make, by llm.c's name
    "gpt2": ("openai-community", (12, 12, 768), "gpt2_124M.bin"),
    "gpt2-medium": ("openai-community", (24, 16, 1024), "gpt2_355M.bin"),
    "gpt2-large": ("openai-community", (36, 20, 1280), "gpt2_774M.bin"),
    "gpt2-xl": ("openai-community", (48, 25, 1600), "gpt2_1558M.bin"),
    "distilgpt2": ("distilbert", (6, 12, 768), "distilgpt2.bin"),
}
HF_GPT2_SIZE = 548_105_171
HF_GPT2_SHA256 = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"
HF_STEMS = {
    "wte": "wte", "wpe": "wpe", "ln1": "h.{}.ln_1", "qkv": "h.{}.attn.c_attn",
    "attproj": "h.{}.attn.c_proj", "ln2": "h.{}.ln_2", "fc": "h.{}.mlp.c_fc",
    "fcproj": "h.{}.mlp.c_proj", "lnf": "ln_f",
}  # fmt: skip
HF_MASK = r"h\.\d+\.attn\.(masked_)?bias"  # attention's, kept in older files
HF_SETTINGS = {  # of config.json, what any GPT-2 has, and what is meant where it is left out
    "model_type": "gpt2", "activation_function": "gelu_new", "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False, "layer_norm_epsilon": gpt2.LAYERNORM_EPS,
}  # fmt: skip
HF_SIZES = "n_positions", "vocab_size", "n_layer", "n_head", "n_embd"  # as in GPT2Config
HS = 64  # channels of a head, in every GPT-2 of OpenAI
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
HF_HINT = "give another --model"
HF_HEADER_BYTES = 2**22  # far more than the 580 tensors of GPT-2 XL take


def safetensors_header(path):
    """
    The tensors of a safetensors file, {name: (dtype, shape, position in it)}. Raises UserError.

    The format: the length of a JSON text (8 bytes); the text, with dtype, shape, begin and end of
    each tensor, counted from the text's end; the tensors (github.com/huggingface/safetensors).
    """
    found, ranges, size = {}, [], common.file_size(path, HF_HINT)
    try:
        with open(path, "rb") as f:
            data = 8 + int.from_bytes(f.read(8), "little")
            if data > min(size, HF_HEADER_BYTES):
                raise ValueError("its header is longer than the file, or than any GPT-2's")
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


def hf_views(flat, config):
    """Yield Hugging Face's name of each tensor, and the tensor, a view of the flat vector."""
    for name, view in tensors(flat, config).items():
        stem, kind = module_name(name)
        # Hugging Face has Conv1D in blocks, x @ w with w (in, out): the transpose of our (out, in)
        conv1d = name in MATRICES - OUTSIDE_BLOCKS
        for l, part in enumerate([view] if name in OUTSIDE_BLOCKS else view):
            yield f"{HF_STEMS[stem].format(l)}.{kind}", part.T if conv1d else part


def hf_files(folder):
    """The safetensors files of a folder, which may share a model among them. Raises UserError."""
    whole = folder / "model.safetensors"
    files = [whole] if whole.exists() else sorted(folder.glob("model-*-of-*.safetensors"))
    if not files:
        hint = "save_pretrained(FOLDER, safe_serialization=True) of transformers writes it"
        raise UserError(f"{folder}: has no model.safetensors, and only that is read; {hint}")
    return files


def hf_settings(path):
    """What a config.json says, with what it leaves out; {} if there is none. Raises UserError."""
    try:
        return HF_SETTINGS | json.loads(path.read_text("utf-8")) if path.exists() else {}
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not JSON with settings: {error}; get it again") from error


def load_safetensors(path):
    """
    Read a GPT-2 of Hugging Face, a file or a folder -> a flat float32 vector, config. UserError.

    The config.json beside the tensors says how many heads there are; without one, C / 64.
    """
    path = Path(path)
    folder, files = (path, hf_files(path)) if path.is_dir() else (path.parent, [path])
    found = {
        name.removeprefix("transformer."): (file, *entry)
        for file in files
        for name, entry in safetensors_header(file).items()
    }
    found = {k: v for k, v in found.items() if not re.fullmatch(HF_MASK, k)}

    def take(name, shape):
        if name not in found:
            raise UserError(f"{path}: not a GPT-2, or it has no tensor {name}; {HF_HINT}")
        file, dtype, has, position = found.pop(name)
        if dtype not in DTYPES or has != shape:
            expected = f"F32, F16 or BF16 {shape}"
            what = f"its tensor {name} is {dtype!r} {has}, not {expected}"
            raise UserError(f"{file}: {what}; {HF_HINT}")
        values = np.fromfile(file, DTYPES[dtype], math.prod(shape), offset=position)
        if dtype == "BF16":  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(shape)

    if "lm_head.weight" in found:  # wte once more, or instead
        found.setdefault("wte.weight", found["lm_head.weight"])
    L = sum(bool(re.fullmatch(r"h\.\d+\.ln_1\.weight", name)) for name in found)
    wte, wpe = (found.get(f"{name}.weight", (0, 0, (), 0))[2] for name in ("wte", "wpe"))
    (V, C), maxT = (0, 0, *wte)[-2:], (0, *wpe)[min(1, len(wpe))]
    settings = hf_settings(folder / "config.json")
    NH = settings.get("n_head", 0 if C % HS else C // HS)
    config = gpt2.GPT2Config(maxT, V, L, NH, C)
    if type(NH) is not int or min(config) < 1 or C % NH:
        hint = "NH is the n_head of config.json, or else C / 64"
        raise UserError(f"{path}: not a GPT-2, to judge by its tensors, {config}; {hint}")
    for key, value in (HF_SETTINGS | dict(zip(HF_SIZES, config, strict=True))).items():
        if (has := settings.get(key, value)) != value:
            of = "the tensors" if key in HF_SIZES else "any GPT-2"
            what = f"config.json has {key} {has!r}, but it is {value!r} in {of}"
            raise UserError(f"{folder}: {what}; {HF_HINT}")

    flat = np.empty(gpt2.num_parameters(config), np.float32)
    for name, view in hf_views(flat, config):
        view[...] = take(name, view.shape)
    if "lm_head.weight" in found:
        if not np.array_equal(take("lm_head.weight", (V, C)), tensors(flat, config)["wte"]):
            why = "its lm_head.weight differs from wte.weight, and GPT-2 has one matrix for both"
            raise UserError(f"{path}: {why}; {HF_HINT}")
    if found:
        raise UserError(f"{path}: its tensor {min(found)!r} is none of a GPT-2's; {HF_HINT}")
    return flat, config


def load_named(name):
    """A model of HF_MODELS, downloaded unless it is there -> a flat float32 vector, config."""
    owner, sizes, _ = HF_MODELS[name]
    path, size, sha256 = common.HERE / f"model_{name}.safetensors", None, None
    if name == "gpt2":
        path, size, sha256 = common.HERE / "model.safetensors", HF_GPT2_SIZE, HF_GPT2_SHA256
    if not path.exists():
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        url = f"{endpoint.rstrip('/')}/{owner}/{name}/resolve/main/model.safetensors"
        prepro.download(url, path, size, sha256)
    elif size not in (None, path.stat().st_size):
        raise UserError(f"{path}: does not have GPT-2's {size:,} bytes; delete it")
    flat, config = load_safetensors(path)
    if config != (1024, common.GPT2_VOCAB_SIZE, *sizes):
        raise UserError(f"{path}: is {config}, not {name}; delete it")
    return flat, config


UNSEEN = (byte for byte in range(256) if byte == ord(" ") or not chr(byte).isprintable())
LETTERS = {byte: 256 + i for i, byte in enumerate(UNSEEN)}  # for bytes that Latin-1 doesn't show


def spelled(token):
    """The bytes of a token as letters, one for each (bytes_to_unicode in GPT-2's encoder.py)."""
    return token.decode("latin-1").translate(LETTERS)


def merges(vocabulary, end_of_text):
    """
    The pairs of tokens that BPE joins, one for each token of several bytes, in their order.

    The pair is what BPE makes of the token's bytes with the tokens before it. Raises UserError.
    """
    ranks = {token: i for i, token in enumerate(vocabulary) if i != end_of_text}
    found = []
    for token, rank in ranks.items():
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            order = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
            i = order.index(min(order))
            if order[i] >= rank:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) > 2 or not ranks.keys() >= set(parts):
            raise UserError(f"its token {token} is none that BPE makes of others")
        if len(parts) == 2:
            found.append(parts)
    return found


def tokenizer_files(path, config):
    """A tokenizer file as files of Hugging Face's, name -> text; its end of text. UserError."""
    vocabulary, end_of_text = common.load_tokenizer(path)
    letters = [spelled(token) for token in vocabulary]
    letters[end_of_text] = vocabulary[end_of_text].decode("utf-8", "replace")
    ids = {token: i for i, token in enumerate(letters)}
    if len(ids) != config.V:
        raise UserError(f"{path}: has {len(ids):,} different tokens, the model {config.V:,}")
    lines = (f"{spelled(a)} {spelled(b)}\n" for a, b in merges(vocabulary, end_of_text))
    special = {f"{name}_token": letters[end_of_text] for name in ("bos", "eos", "unk")}
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": config.maxT}
    return {
        "vocab.json": json.dumps(ids),
        "merges.txt": "#version: 0.2\n" + "".join(lines),
        "tokenizer_config.json": json.dumps(settings | special, indent=2),
    }, end_of_text


EXPORTED = "model.safetensors", "config.json", "generation_config.json"
EXPORTED_TOKENIZER = "vocab.json", "merges.txt", "tokenizer_config.json"


def export(path, folder):
    """Write a weight file as a folder that transformers' from_pretrained reads. UserError."""
    flat, config = gpt2.load_weights(path)
    there = {file.name for file in folder.iterdir()} if folder.exists() else set()
    if others := there.difference(EXPORTED, EXPORTED_TOKENIZER):
        raise UserError(f"{folder}: has {min(others)}, which is of no export; give a new folder")
    tokenizer, files, end_of_text = common.tokenizer_of(path), {}, None
    try:
        if tokenizer == common.TOKENIZER_FILE and config.V == common.GPT2_VOCAB_SIZE:
            write_tokenizer(tokenizer, required=False)
        files, end_of_text = tokenizer_files(tokenizer, config)
    except UserError as error:
        print(f"without a tokenizer: {error}")
    ids = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    settings = HF_SETTINGS | dict(zip(HF_SIZES, config, strict=True)) | ids
    settings |= {"architectures": ["GPT2LMHeadModel"], "n_ctx": config.maxT, "n_inner": None}
    settings |= {"tie_word_embeddings": True, "torch_dtype": "float32"}
    files["config.json"] = json.dumps(settings, indent=2)
    files["generation_config.json"] = json.dumps({"_from_model_config": True} | ids, indent=2)

    header, views, end = {"__metadata__": {"format": "pt"}}, list(hf_views(flat, config)), 0
    for name, view in views:
        begin, end = end, end + view.nbytes
        entry = {"dtype": "F32", "shape": view.shape, "data_offsets": (begin, end)}
        header[f"transformer.{name}"] = entry
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    folder.mkdir(parents=True, exist_ok=True)
    with common.replacing(folder / "model.safetensors") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, view in views:
            f.write(np.ascontiguousarray(view))
    for name in there.intersection(EXPORTED_TOKENIZER).difference(files):
        (folder / name).unlink()  # of an earlier model
    for name, text in files.items():
        with common.replacing(folder / name) as f:
            f.write(text.encode())
    print(f"wrote {folder}: model.safetensors, {', '.join(files)}")


# ----------------------------------------------------------------------------
# Command line


def model_name(text):
    known = text in HF_MODELS or common.is_random_model(text)
    if known or text.endswith(".safetensors") or text and Path(text).is_dir():
        return text
    what = f"none of {', '.join(HF_MODELS)}, dN, nor a folder, nor a file named *.safetensors"
    raise argparse.ArgumentTypeError(f"{text} is {what}")


def default_out(model):
    """The file to make of a model; dN takes the place of GPT-2 124M. UserError."""
    if model in HF_MODELS:
        return common.HERE / HF_MODELS[model][2]
    if common.is_random_model(model):
        return common.WEIGHTS_FILE
    out = common.HERE / (Path(model).resolve().name.removesuffix(".safetensors") + ".bin")
    if out.exists() and common.read_about(out):
        raise UserError(f"{out}: is a checkpoint, made by training; give another name with --out")
    return out


def parse_args(argv):
    parser = Parser(description="GPT-2 in PyTorch: weights, and a reference.")
    add, positive = parser.add_argument, number(int, 1)
    add("--train", action="store_true", help="as train_gpt2.py does; with --help, how")
    if "--train" in argv:
        common.add_training_flags(parser)
        add_switches(add)
        return common.parse_training_flags(parser, argv)
    models = ", ".join(HF_MODELS) + "; dN: N layers at random; or a folder or .safetensors file"
    add("--model", type=model_name, default="gpt2", help=f"{models} (default: gpt2)")
    add("--out", type=Path, help="default: gpt2_124M.bin, for gpt2 and dN; others by their name")
    add("--weights-only", action="store_true", help="stop after the weights and the tokenizer")
    add("--batch-size", type=positive, default=4)
    add("--seq-len", type=positive, default=64)
    add("--steps", type=positive, default=10)
    add("--lr", type=number(float, 0), default=1e-4, help="learning rate")
    add("--weight-decay", type=number(float, 0), default=0.01)
    add("--seed", type=number(int, 0), default=1337, help="of random weights")
    add("--small", type=Path, metavar="FOLDER", help="write what tests/ has, and nothing else")
    exported = {"nargs": 2, "type": Path, "metavar": ("FILE", "FOLDER")}
    add("--export", **exported, help="write a weight file as a folder for transformers, no more")
    add_switches(add)
    return parser.parse_args(argv)


def write_tokenizer(path, required):
    """Write the tokenizer unless a good one is there. Without a network: go on if not required."""
    try:
        common.load_tokenizer(path)
        return
    except UserError:
        pass
    try:
        prepro.write_gpt2_tokenizer(path)
        print(f"wrote {path}")
    except common.NoNetwork as error:
        if required:
            raise
        print(f"{path.name} is missing: {error}")  # it says what to run


def main(argv=None):
    args = parse_args(sys.argv[1:] if argv is None else argv)
    if WORLD > 1 and not args.train:
        raise UserError("torchrun has several processes train; add --train")
    if not args.train and args.small:
        return write_small(args.small)
    if not args.train and args.export:
        return export(*args.export)
    with open_device(args) as device:
        train(args, device) if args.train else make_files(args, device)


def make_files(args, device):
    B, T, out = args.batch_size, args.seq_len, args.out or default_out(args.model)
    write = not (args.no_write or args.inference_only)
    if args.model in HF_MODELS:
        flat, config = load_named(args.model)
    elif args.model.endswith(".safetensors") or Path(args.model).is_dir():
        flat, config = load_safetensors(args.model)
    else:
        config = gpt2.named_config(args.model, common.GPT2_VOCAB_SIZE)
        flat = gpt2.init_weights(config, args.seed)
    if T > config.maxT:
        raise UserError(f"--seq-len {T}: {args.model} takes {config.maxT} at most; lower it")
    print(f"{config}, {gpt2.num_parameters(config):,} parameters", flush=True)

    if write:
        out.parent.mkdir(parents=True, exist_ok=True)
        if config.V == common.GPT2_VOCAB_SIZE:
            write_tokenizer(out.parent / "gpt2_tokenizer.bin", required=args.model in HF_MODELS)
        common.write_weights(out, flat, config)
        print(f"wrote {out}", flush=True)
    if args.weights_only:
        return

    need = flat.nbytes + sum(common.memory_needed(config, len(flat), B, T).values())
    if device.type == "cpu" and need > (have := common.machine_memory()):
        size = f"take {need / 1e9:.1f} GB of memory, and there are {have / 1e9:.1f}"
        return print(f"not writing a debug state: the steps of AdamW for it {size}")
    state = out.with_name(f"{out.stem}_debug_state.bin")
    switches = args.compile or args.flash or args.tensorcores or args.dtype != "float32"
    if write and (switches or device.type != "cpu"):
        print(f"not writing {state.name}: it is made on the CPU, in float32, by plain operations")
        write = False
    model = prepared_model(flat, config, device, args)
    numbers = B, T, args.steps, args.lr, args.weight_decay
    make_state(state if write else None, flat, config, *numbers, model, not args.inference_only)


if __name__ == "__main__":
    common.run(main)
