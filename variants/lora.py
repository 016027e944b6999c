"""
LoRA: finetuning a large model by small matrices (Hu et al. 2021; doc/lora.md).

AdamW takes four numbers for each parameter: itself, its gradient, m and v. Here the model's weights
are frozen, so that they take one. Beside a linear layer's w, an adapter is learned: the product of
B (OC, R) and A (R, C), which for a small rank R have far fewer numbers than w (OC, C):

    out = x @ w.T + b + scale * (x @ A.T) @ B.T,     as if w were w + scale * B @ A

B begins as 0: training begins at the model as it was. (In train(), B is sequences in a batch.)

    python variants/lora.py --init gpt2_124M.bin --data data/tiny_shakespeare --out mine.safetensors
    python variants/lora.py --init gpt2_124M.bin --adapters mine.safetensors --merge merged.bin

Letters and contract are those of train_gpt2.py. Its block and its model call these layers here.
"""

import contextlib
import math
import os
import sys
import time
from argparse import ArgumentDefaultsHelpFormatter
from collections import namedtuple
from types import SimpleNamespace

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import train_gpt2 as gpt2
from tools import checkpoints, formats, memory, tensor_file, token_files
from tools.console import Parser, UserError, bounded, file_name, run_program
from tools.token_files import get_batch
from tools.train import given_flags, load_data, open_model, set_defaults
from train_gpt2 import matmul
from variants.model import model_with

import numpy as np

LINEAR = {"qkvw": 1, "attprojw": 1, "fcw": 1, "fcprojw": 4}  # adaptable; channels of their x, / C
ADAMW = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}  # the lesson's

# In the place of a weight: w (OC, C), frozen; A (R, C) and B (OC, R), learned; scale, a number
Adapted = namedtuple("Adapted", "w A B scale")


# ----------------------------------------------------------------------------
# Linear: where there is an adapter, two small weights whose product is added to the frozen one
def adapted_linear_forward(x, adapted, b):
    """x (N, C), adapted: w (OC, C), A (R, C) and B (OC, R); b (OC,) -> out (N, OC)."""
    w, A, B, scale = adapted
    low = matmul(x, A.T)  # (N, R)
    return matmul(x, w.T) + b + scale * matmul(low, B.T), (x, low, adapted)


def adapted_linear_backward(dout, cache, dA, dB):
    """dout (N, OC) -> dx (N, C). Fills dA (R, C) and dB (OC, R)."""
    x, low, (w, A, B, scale) = cache
    dadded = scale * dout  # the gradient of low @ B.T, a product as in linear_backward
    matmul(dadded.T, low, out=dB)
    dlow = matmul(dadded, B)  # (N, R)
    matmul(dlow.T, x, out=dA)
    return matmul(dout, w) + matmul(dlow, A)  # x was used twice, by w and by A


def linear_forward(x, w, b):
    """x (N, C), w (OC, C) or an Adapted, b (OC,) -> out (N, OC)."""
    if isinstance(w, Adapted):
        return adapted_linear_forward(x, w, b)
    return matmul(x, w.T) + b, w  # x is not kept: dw would need it, and w is frozen


def linear_backward(dout, cache, dw, db):
    """dout (N, OC) -> dx (N, C). Fills dw, which is dA and dB of an adapter, else None."""
    if dw is not None:
        return adapted_linear_backward(dout, cache, *dw)
    w = cache
    return matmul(dout, w)


# ----------------------------------------------------------------------------
# The other layers, all of whose tensors are frozen: the lesson's without dw, db, dwte, dwpe
def layernorm_backward(dout, cache, dw, db):
    """dout (N, C) -> dx (N, C)."""
    norm, rstd, w = cache
    return gpt2.normalize_backward(dout * w, norm, rstd)


def head_backward(dloss, cache, dwte):
    """dloss, a number -> dx (N, C). Overwrites probs, in the cache."""
    probs, targets, x, wte = cache
    dlogits = probs  # as in the lesson
    dlogits[np.arange(len(x)), targets] -= 1
    dlogits *= dloss / len(x)
    return matmul(dlogits, wte)


def embedding_backward(dout, tokens, dwte, dwpe):
    """Nothing: there is no adapter before the embedding."""


LAYERS = linear_forward, linear_backward, layernorm_backward, head_backward, embedding_backward
MODEL = model_with(**{layer.__name__: layer for layer in LAYERS})


# ----------------------------------------------------------------------------
# Adapters: one vector of all numbers, and views of it by name, as the lesson has its parameters
def adapter_shapes(config, names, rank):
    """Return the shapes of the adapters of these tensors, "qkvw.A": (L, R, C) and so on."""
    shapes = {}
    for name in names:
        L, OC, C = gpt2.tensor_shapes(config)[name]
        shapes |= {f"{name}.A": (L, rank, C), f"{name}.B": (L, OC, rank)}
    return shapes


def adapter_views(flat, shapes):
    """Return the adapters by name, as views of a flat vector of all of them, or of gradients."""
    parts = np.split(flat, np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1])
    return {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def init_adapters(shapes, seed):
    """Return a flat float32 vector: A random, as a MATRIX of the lesson's, and B zero."""
    flat = np.zeros(sum(map(math.prod, shapes.values())), np.float32)
    rng = np.random.default_rng(seed)
    for name, view in adapter_views(flat, shapes).items():
        if name.endswith(".A"):
            rng.standard_normal(out=view, dtype=np.float32)
            view *= 0.02
    return flat


def adapted_params(params, adapters, scale):
    """Return the model's tensors by name; of those with adapters, a list of L Adapted."""
    found = dict(params)
    for name in {key.partition(".")[0] for key in adapters}:
        stacks = params[name], adapters[f"{name}.A"], adapters[f"{name}.B"]
        found[name] = [Adapted(w, A, B, scale) for w, A, B in zip(*stacks, strict=True)]
    return found


def gradients_of(config, grads):
    """Return what gpt2_backward fills, by name: views of grads, (dA, dB); None where frozen."""
    found = {name: [None] * config.L for name in gpt2.TENSORS}
    for name in {key.partition(".")[0] for key in grads}:
        found[name] = list(zip(grads[f"{name}.A"], grads[f"{name}.B"], strict=True))
    return found


def merge(params):
    """Add scale * B @ A to the weights of adapted_params, in place: the same model without them."""
    for adapted in params.values():
        for w, A, B, scale in adapted if isinstance(adapted, list) else ():
            w += scale * (B @ A)


# ----------------------------------------------------------------------------
# Files: adapters alone, as safetensors, with alpha and some weights of the model that they are for
def sampled(flat, count=64):
    """Return some weights, which tell one model from another."""
    return flat[:: -(-len(flat) // count)].copy()


def save_adapters(path, theta, shapes, scale, model):
    """Write adapters; model is the flat vector that they are for. Raises UserError."""
    checkpoints.check_finite(f"{path} is not written", theta)
    extra = {"scale": np.array([scale], np.float32), "model": sampled(model)}
    tensor_file.write(path, [*(adapter_views(theta, shapes) | extra).items()])


def load_adapters(path, config, model):
    """Read adapters for a model, a flat vector -> flat, shapes, scale. Raises UserError."""
    hint = "give a file that `python variants/lora.py --out FILE` wrote"
    found = tensor_file.read_header(path, hint)
    names = [name for name in LINEAR if f"{name}.A" in found]
    rank = [n for name in names for n in found[f"{name}.A"].shape[1:2]]
    shapes = adapter_shapes(config, names, rank[0]) if rank else {}
    wanted = shapes | {"scale": (1,), "model": sampled(model).shape}
    if {name: (t.dtype, t.shape) for name, t in found.items()} != {
        name: ("F32", shape) for name, shape in wanted.items()
    }:
        raise UserError(f"{path}: has no adapters, or not for {config}; {hint}")
    arrays = {name: tensor_file.read_tensor(tensor) for name, tensor in found.items()}
    if not np.array_equal(arrays["model"], sampled(model)):
        raise UserError(f"{path}: its adapters are for other weights; give the --init they had")
    theta = np.concatenate([arrays[name].reshape(-1) for name in shapes])
    checkpoints.check_finite(path, np.append(theta, arrays["scale"]))
    return theta, shapes, float(arrays["scale"][0])


# ----------------------------------------------------------------------------
# The program
def make_parser():
    kinds = {"conflict_handler": "resolve", "formatter_class": ArgumentDefaultsHelpFormatter}
    kinds |= {"parents": [gpt2.make_parser()], "allow_abbrev": False}
    parser = Parser(description=__doc__.splitlines()[1], **kinds)
    add, file = parser.add_argument, {"type": file_name, "metavar": "FILE"}
    add("--out", **file, default="adapters.safetensors", help="file for the adapters in the end")
    add("--adapters", **file, help="adapters to go on with, or to --merge")
    add("--merge", **file, help="write the weights with --adapters in them there; no training")
    add("--adapt", nargs="+", choices=LINEAR, metavar="W", help="some of qkvw attprojw fcw fcprojw")
    add("--rank", type=bounded(int, 1, 4096), help="of new adapters, R (8)")
    add("--alpha", type=bounded(float, 1e-6), help="scale of new adapters, times R (16)")
    parser.set_defaults(lr=1e-3)
    return parser


def check_other(args, flag, path):
    """Raise UserError if a file to be written is one of those that are read."""
    if os.path.realpath(path) in [os.path.realpath(x) for x in (args.init, args.adapters) if x]:
        raise UserError(f"{flag} {path}: is --init or --adapters, too; give another name")


def merge_file(args):
    """Write --init with --adapters in it to --merge. Raises UserError."""
    if not args.adapters or not args.init:
        raise UserError("--merge: takes weights and adapters; give --init FILE --adapters FILE")
    formats.check_writable(args.merge, gpt2.WEIGHTS_MAGIC, "--merge")
    check_other(args, "--merge", args.merge)
    flat, config = formats.load_weights(args.init)
    theta, shapes, scale = load_adapters(args.adapters, config, flat)
    merge(adapted_params(gpt2.named_views(flat, config), adapter_views(theta, shapes), scale))
    checkpoints.check_finite(f"{args.merge} is not written", flat)
    formats.write_weights(args.merge, flat, config, digest=formats.digest_in(args.init))
    print(f"wrote {args.merge}; text from it: python sample_gpt2.py --weights {args.merge}")


def train(args):
    """Train adapters, by the lesson's loop, and write them to --out. Raises UserError."""
    B, T = args.batch_size, args.seq_len
    text, val, V = load_data(args.data, B, T)
    flat, config = open_model(args, V)
    digest, hint = text[0].digest, "prepare the text with the model's, prepro_text.py --tokenizer"
    known = formats.digest_in(args.init) if os.path.isfile(args.init) else 0
    formats.check_one_vocabulary({f"--data {args.data}": digest, args.init: known}, hint)
    shapes = adapter_shapes(config, args.adapt or ["qkvw", "attprojw"], args.rank or 8)
    scale = (args.alpha or 16) / (args.rank or 8)
    theta = init_adapters(shapes, args.seed)
    if args.adapters and (args.adapt or args.rank or args.alpha):
        raise UserError("--adapt, --rank, --alpha: --adapters has its own; leave them out")
    if args.adapters:
        theta, shapes, scale = load_adapters(args.adapters, config, flat)
    vocabulary, end = formats.load_vocabulary(args.data, V) if args.sample_every else ([], 0)
    if not args.no_save:
        check_other(args, "--out", args.out)
        tensor_file.check_writable(args.out, "--out")
    grad, m, v = np.zeros((3, len(theta)), np.float32)
    params = adapted_params(gpt2.named_views(flat, config), adapter_views(theta, shapes), scale)
    grads = gradients_of(config, adapter_views(grad, shapes))
    print(f"weights: {args.init}, {len(flat):,} parameters, {config}")
    print(f"adapters: {len(theta):,} numbers, {', '.join(shapes)}")
    sizes = memory.memory_needed(config, len(flat), B, T) | {"gradients": 0, "moments": 0}
    frozen = sum(n for name, n in LINEAR.items() if f"{name}.A" not in shapes)
    sizes["activations"] -= 4 * B * T * config.L * frozen * config.C  # whose x is not kept
    memory.print_memory(sizes | {"adapters": 4 * theta.nbytes})
    gpt2.keep_freed_memory()
    batches = min(args.val_batches or math.inf, token_files.num_batches(val, B, T))
    with contextlib.suppress(KeyboardInterrupt):  # after Ctrl-C, what it has learned is saved
        for step in range(args.steps + 1):
            last = step == args.steps
            if args.val_every and (last or step % args.val_every == 0):
                pairs = (get_batch(val, i, B, T) for i in range(batches))
                losses = (MODEL.gpt2_forward(params, config, *xy)[0] for xy in pairs)
                print(f"step {step}: val loss {sum(map(float, losses)) / batches:.6f}")
            if args.sample_every and step and (last or step % args.sample_every == 0):
                tokens = MODEL.generate(params, config, [end], np.random.default_rng(args.seed))
                said = b"".join(vocabulary[next(tokens)] for _ in range(gpt2.SAMPLE_TOKENS))
                print(f"step {step}: sample\n---\n{said.decode('utf-8', 'replace')}\n---")
            if last:
                break
            began = time.perf_counter()
            loss, cache = MODEL.gpt2_forward(params, config, *get_batch(text, step, B, T))
            MODEL.gpt2_backward(1.0, cache, grads)
            del cache  # the activations, before the next ones are allocated
            norm = gpt2.clip_gradients({"all": grad[None]}, args.grad_clip or math.inf)
            if not math.isfinite(loss + norm):
                what = f"loss {loss}, gradient norm {norm}"
                raise UserError(f"step {step}: {what}; not saved, try a lower --lr")
            lr = gpt2.learning_rate(step, args.steps, args.lr, args.warmup, args.min_lr_frac)
            how = ADAMW | {"step": step + 1, "lr": lr}
            gpt2.adamw(theta, grad, m, v, weight_decay=args.weight_decay, **how)
            ms = (time.perf_counter() - began) * 1000
            print(f"step {step}: train loss {loss:f} (took {ms:f} ms)", flush=True)
    if not args.no_save:
        save_adapters(args.out, theta, shapes, scale, flat)
        print(f"wrote {args.out}; to merge: --init {args.init} --adapters {args.out} --merge FILE")


def main(argv=None):
    parser = make_parser()
    given = given_flags(parser, sys.argv[1:] if argv is None else argv)
    args = SimpleNamespace(**vars(parser.parse_args([])) | given, resume=None, checkpoint=None)
    if args.merge:
        return merge_file(args)
    set_defaults(args)
    train(args)


if __name__ == "__main__":
    run_program(main)
