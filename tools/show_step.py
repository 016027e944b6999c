"""
A training step to look at: one page with what went forward, what flowed back, and the next step.

    python tools/show_step.py -o step.html                       # GPT-2, and validation data
    python tools/show_step.py --weights out.bin --text "To be, or not to be" -o step.html
    python tools/show_step.py --weights out.bin --batch 3 --batch-size 4 --seq-len 64

The page needs no network and no other file. The numbers are those of train_gpt2.py: its functions
run one forward and one backward pass, and we write down what they had (doc/see.md).
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import base64
import inspect
import math
import re
from datetime import datetime, timezone
from pathlib import Path

import train_gpt2 as gpt2
from tools import checkpoints, formats
from tools.console import Parser, UserError, bounded, file_name, run_program
from tools.encoding import encoder
from tools.memory import memory_needed, print_memory
from tools.tracing import watch

import numpy as np

TEMPLATE = Path(__file__).with_suffix(".html")
MOST_TOKENS = 64  # in a sequence: more are too small to see, and more than a browser likes to open
LIKELIEST = 5

# ----------------------------------------------------------------------------
# One step, watched

# The places of a block where we look, by the names of block_forward: the gradient's name in
# block_backward, what is computed there, and its cache. The gradient of a sum is that of its terms.
PLACES = {
    "ln1": ("dln1", "layernorm", "ln1_cache"),
    "qkv": ("dqkv", "linear", "qkv_cache"),
    "atty": ("datty", "attention", "att_cache"),
    "attproj": ("dmid", "linear", "attproj_cache"),
    "mid": ("dmid", None, None),
    "ln2": ("dln2", "layernorm", "ln2_cache"),
    "fc": ("dfc", "linear", "fc_cache"),
    "gelu": ("dgelu", "gelu", "gelu_cache"),
    "fcproj": ("dout", "linear", "fcproj_cache"),
}
# The rest by the names of gpt2_forward; "out" is the x that a block hands on
OTHERS = {
    "x": ("dx", "embedding", "embedding_cache"),
    "out": ("dx", None, None),
    "lnf": ("dx", "layernorm", "lnf_cache"),
    "logits": (None, "head", "head_cache"),
}
# The functions whose variables we keep
WATCHED = ("block_forward", "head_forward", "head_backward", "layernorm_backward")
WATCHED += ("attend_backward", "block_backward", "gpt2_backward")
LINKS = r"!?\[([^]]*)\]\([^)]*\)|https?://"  # in Markdown; what we show of them is the text
SUMS = {"mid": r"mid = x|mid was|dmid =", "out": r"out = mid|return dmid"}  # their lines


def norm(x):
    """Return the norm of all of an array's numbers, added in float64."""
    x = x.reshape(-1)
    return math.sqrt(np.einsum("i,i->", x, x, dtype=np.float64))


def place(name, layer, x, dx):
    """Return what the page says of a place in a layer: x is what went through, dx came back."""
    return {"name": name, "layer": layer, "shape": x.shape, "x": norm(x), "dx": norm(dx)}


def step_data(flat, config, x, y, vocabulary):
    """Return what a step on tokens x, with targets y, both (B, T), has for the page. UserError."""
    params = gpt2.named_views(flat, config)
    grads = gpt2.named_views(np.zeros_like(flat), config)
    seen = {name: [] for name in WATCHED}

    def note(name, variables, _):
        if name in seen:
            seen[name].append(variables)

    loss, cache = watch(note, gpt2.gpt2_forward, params, config, x, y)
    (head,), tokens = seen["head_forward"], []
    # what it predicts, before the backward pass, which overwrites probs
    rows = zip(x.reshape(-1), y.reshape(-1), head["losses"], head["probs"], strict=True)
    for token, target, row_loss, probs in rows:
        likeliest = np.argsort(-probs, kind="stable")[:LIKELIEST]
        tokens.append(
            {
                "token": token_text(vocabulary[token]),
                "target": token_text(vocabulary[target]),
                "loss": float(row_loss),
                "prob": float(probs[target]),
                "likeliest": [(token_text(vocabulary[i]), float(probs[i])) for i in likeliest],
            }
        )
    watch(note, gpt2.gpt2_backward, 1.0, cache, grads)
    if not math.isfinite(loss + sum(map(norm, grads.values()))):
        raise UserError(f"the loss is {loss}, or its gradient not finite; take other weights")

    dembedded = seen["gpt2_backward"][0]["dx"]
    for token, row in zip(tokens, dembedded, strict=True):
        token["gradient"] = norm(row)
    places, matrices = [place("x", 0, seen["block_forward"][0]["x"], dembedded)], []
    for l in range(config.L):
        there, back = seen["block_forward"][l], seen["block_backward"][-1 - l]
        places += [place(name, l, there[name], back[d]) for name, (d, *_) in PLACES.items()]
        places.append(place("out", l, there["out"], back["dout"]))
        attend = seen["attend_backward"][-1 - l]  # once a block: T is at most TILE
        # of the first sequence, (NH, T, T); there dpreatt has become the gradient of q @ k.mT
        att, datt, dpreatt = (attend[name][:, 0] for name in ("att", "datt", "dpreatt"))
        matrices.append((att, datt, dpreatt * math.sqrt(config.C // config.NH)))
    places.append(place("lnf", config.L, head["x"], seen["layernorm_backward"][0]["dout"]))
    logits = gpt2.matmul(head["x"], params["wte"].T)
    places.append(place("logits", config.L, logits, seen["head_backward"][0]["dlogits"]))
    # (L, 3, NH, T, T); of each matrix the part that is not masked
    matrices = np.array(matrices, "<f4")[(..., *np.tril_indices(x.shape[1]))]
    data = {
        "loss": float(loss),
        "sum": math.fsum(head["losses"].tolist()),
        "tokens": tokens,
        "places": places,
        "attention": base64.b64encode(matrices.tobytes()).decode(),
    }
    return data, params, grads


def token_text(token):
    """Return a token's bytes as a text; what is not UTF-8, or can't be seen, spelled out."""
    text = token.decode("utf-8", "backslashreplace")
    seen = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    return "".join(seen)


# ----------------------------------------------------------------------------
# AdamW's next step


def load_moments(its, flat):
    """
    Read a Checkpoint -> AdamW's m and v, flat; of how many steps they are. Raises UserError.

    A file without moments gives zeros, and 0: AdamW would begin with it.
    """
    if "step" not in its.about or not its.header[9]:
        return np.zeros_like(flat), np.zeros_like(flat), 0
    return *its.moments(), its.about["step"]


def next_step(about, lr, weight_decay):
    """
    Return the settings of the step that a run takes next, by what its checkpoint says of it.

    Where that says nothing, they are training's defaults; lr and weight_decay, if not None, stand.
    source is, in words, where the rate is from.
    """
    run = vars(gpt2.make_parser().parse_args([])) | about.get("settings", {})
    steps, step = run["steps"], about.get("step", 0)
    schedule = steps, run["lr"], run["warmup"], run["min_lr_frac"]
    own = gpt2.learning_rate(min(step, max(steps - 1, 0)), *schedule)  # of a run that is at its end
    source = "training's default, because the file doesn't say; --lr gives another"
    if "settings" in about:
        source = f"the run's, after {step:,} of {steps:,} steps; at most {run['lr']:g}"
    return {
        "lr": own if lr is None else lr,
        "source": source if lr is None else "--lr",
        "decay": run["weight_decay"] if weight_decay is None else weight_decay,
        "clip": run["grad_clip"],
    }


def parameter_rows(params, grads, m, v, step, settings):
    """
    Return, for each tensor of each layer, the norms of weight, gradient and AdamW's step.

    The settings are those of next_step. The gradient is shown as it is, and clipped for the step.
    """
    whole = math.hypot(*map(norm, grads.values()))
    lr, decay = settings["lr"], settings["decay"]
    part = settings["clip"] / whole if 0 < settings["clip"] < whole else 1
    rows = []
    for name in params:
        # AdamW adds to weights of float64, because the difference to those before shall be exact
        after = params[name].astype(np.float64)
        clipped = grads[name] * np.float32(part)
        own = ({name: array} for array in (clipped, m[name].copy(), v[name].copy()))
        gpt2.adamw_update({name: after}, *own, step + 1, lr, weight_decay=decay)
        after -= params[name]
        decays = name in gpt2.DECAYING
        for l in range(len(after)) if name in gpt2.IN_BLOCKS else [None]:
            w, g, u = (a if l is None else a[l] for a in (params[name], grads[name], after))
            norms = {"weight": norm(w), "gradient": norm(g), "step": norm(u)}
            rows.append({"name": name, "layer": l, "shape": w.shape, "matrix": decays, **norms})
    return rows


# ----------------------------------------------------------------------------
# What the lesson says


def source_of(name):
    """Return the source of a function of the lesson, behind that of the functions that it calls."""
    source = inspect.getsource(getattr(gpt2, name))
    found = dict.fromkeys(re.findall(r"(?<!def )\b(\w+)\(", source))  # each once
    called = [f for f in found if f != "matmul" and inspect.isfunction(getattr(gpt2, f, None))]
    return "\n\n\n".join([*map(source_of, called), source.rstrip()])


def lesson():
    """Return for each place its lines, functions and page of doc/, as train_gpt2.py has them."""
    source = Path(gpt2.__file__).read_text(encoding="utf-8")
    passes = [
        inspect.getsource(gpt2.block_forward) + inspect.getsource(gpt2.gpt2_forward),
        inspect.getsource(gpt2.block_backward) + inspect.getsource(gpt2.gpt2_backward),
    ]
    said = {}
    for name, (_, layer, cache) in (PLACES | OTHERS).items():
        begin = source.index(f"def {layer or 'block'}_forward")
        page = gpt2.HERE / re.findall(r"doc/\w+\.md", source[:begin])[-1]  # its section names it
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        said[name] = {"page": page.name, "text": re.sub(LINKS, r"\1", text)}
        calls = rf"\b{cache} = ", rf"_backward\(.*\b{cache}\b"
        for way, code, call in zip(("forward", "backward"), passes, calls, strict=True):
            wanted = SUMS.get(name, call)
            lines = [line.strip() for line in code.splitlines() if re.search(wanted, line)]
            whole = source_of(f"{layer}_{way}") if layer else ""
            said[name][way] = {"lines": lines, "function": whole}
    return said


# ----------------------------------------------------------------------------
# The flags


def names_of(args, its):
    """Return what the names of the data begin with; the tokenizer file. Raises UserError."""
    if args.data:
        own = Path(f"{args.data}_tokenizer.bin")
        return args.data, args.tokenizer or (own if own.exists() else gpt2.TOKENIZER_FILE)
    tokenizer = args.tokenizer or checkpoints.tokenizer_of(its)
    name = str(tokenizer).removesuffix("_tokenizer.bin")  # of the data, unless it is GPT-2's
    has_data = any(Path(f"{name}_{part}.bin").exists() for part in ("train", "val"))
    return name if has_data else gpt2.SHAKESPEARE, tokenizer


def load_step_tokens(args, config, vocabulary, end_of_text):
    """Return tokens and targets, both (B, T), and what they are. Raises UserError."""
    if args.text is not None:
        text = os.fsencode(args.text).decode("utf-8", "replace")
        encode = encoder(vocabulary, end_of_text, "--text")
        tokens = np.array([[end_of_text, *encode(text)]])  # as training has them
        x, y, what = tokens[:, :-1], tokens[:, 1:], "a text of one's own"
        if not y.size:
            raise UserError("--text: is empty; give a few words")
    else:
        B, T = args.batch_size, args.seq_len
        path = f"{args.data}_{'val' if args.batch is None else 'train'}.bin"
        tokens, V = formats.load_tokens(path)
        if V != config.V:
            raise UserError(f"{path}: has {V:,} different tokens, the weights {config.V:,}")
        if len(tokens) <= B * T:
            raise UserError(f"{path}: has {len(tokens):,} tokens; lower --batch-size or --seq-len")
        x, y = gpt2.get_batch(tokens, args.batch or 0, B, T)
        what = f"batch {args.batch or 0} of {Path(path).name}"
    if x.shape[1] > min(MOST_TOKENS, config.maxT):
        what, most = f"{x.shape[1]:,} tokens in a sequence", min(MOST_TOKENS, config.maxT)
        raise UserError(f"{what}, and a page shows {most} of these weights at most; take fewer")
    return x, y, what


def main():
    parser = Parser(description="Write a page that shows one training step.")
    help = "weights or checkpoint (default: gpt2_124M.bin)"
    parser.add_argument("--weights", type=file_name, default=gpt2.WEIGHTS_FILE, help=help)
    help = "NAME of NAME_train.bin and NAME_val.bin (default: what it was trained on)"
    parser.add_argument("--data", type=file_name, help=help)
    help = "default: that of the data, or GPT-2's"
    parser.add_argument("--tokenizer", type=file_name, metavar="FILE", help=help)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--text", help="a text of your own (default: validation data)")
    help = "batch number I of the training data (default: validation data)"
    which.add_argument("--batch", type=bounded(int, 0), metavar="I", help=help)
    for flag, default, what in ("--batch-size", 1, "sequences"), ("--seq-len", 24, "tokens of one"):
        help = f"{what} (default: {default})"
        parser.add_argument(flag, type=bounded(int, 1), default=default, metavar="N", help=help)
    for flag in "--lr", "--weight-decay":
        help = "AdamW's, for its next step (default: the run's, if the file says it)"
        parser.add_argument(flag, type=bounded(float, 0), metavar="X", help=help)
    help = "the page to write (default: step.html)"
    parser.add_argument("-o", dest="output", type=file_name, default="step.html", help=help)
    args = parser.parse_args()

    formats.check_writable(args.output, formats.PAGE, "-o")
    its = checkpoints.Checkpoint(args.weights, formats.WEIGHTS_HINT)
    config = its.config
    args.data, tokenizer = names_of(args, its)
    vocabulary, end_of_text = formats.load_tokenizer(tokenizer)
    digest = formats.digest_in(args.weights)
    checkpoints.check_tokenizer(tokenizer, vocabulary, args.weights, config.V, digest)
    x, y, what = load_step_tokens(args, config, vocabulary, end_of_text)
    sizes = memory_needed(config, gpt2.num_parameters(config), *x.shape)
    largest = max(map(math.prod, gpt2.tensor_shapes(config).values()))
    # one tensor at a time, in float64, and copies of its gradient and moments
    print_memory(sizes | {"weights after the step": (8 + 3 * 4) * largest})
    flat = its.weights()
    *moments, step = load_moments(its, flat)
    settings = next_step(its.about, args.lr, args.weight_decay)
    shown, params, grads = step_data(flat, config, x, y, vocabulary)
    m, v = (gpt2.named_views(moment, config) for moment in moments)
    about = {
        "model": Path(args.weights).name,
        "steps": its.about.get("step"),
        "adamw": step,
        "what": what,
        "made": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "numbers": len(flat),
        "shape": x.shape,
        "config": config._asdict(),
        **settings,
    }
    rows = parameter_rows(params, grads, m, v, step, settings)
    if not math.isfinite(sum(row["step"] for row in rows)):
        what = (
            f"with rate {settings['lr']:g} and decay {settings['decay']:g} the step is not finite"
        )
        raise UserError(f"{what}; lower --lr or --weight-decay")
    data = {**about, **shown, "parameters": rows, "lesson": lesson()}
    formats.write_page(args.output, TEMPLATE, data)
    size = os.path.getsize(args.output) / 1e6
    print(f"loss {data['loss']:f}; wrote {args.output} ({size:.1f} MB); open it in a browser")


if __name__ == "__main__":
    run_program(main)
