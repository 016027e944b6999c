"""
The parity test: is train_gpt2.py right? A row for each tensor, the error measured and allowed.

1. Gradient checks, float64: every backward pass against finite differences of its forward pass,
   with a random dout; that it is pure; and that float32 stays float32.
2. The small state under tests/: what PyTorch computes for a small GPT-2 with odd sizes and random
   weights, biases and layernorms: logits, loss, 16 gradients, ten AdamW steps and their result.
3. The same for gpt2_124M.bin and its debug state where they exist, or those of --weights.

    python test_gpt2.py          # exit status 0 and a last line "overall okay: 1", if all is well

The error of a tensor is max|ours - theirs| / max|theirs|: relative to its largest element, because
some elements, such as the gradient of a key's bias, are 0 but for rounding. What is allowed is
about ten times what was measured on x86-64 with NumPy 2.4 and PyTorch 2.13.
"""

import itertools
import math
from pathlib import Path
from typing import NamedTuple

import train_gpt2 as gpt2
from tools import console, formats
from tools.console import UserError
from tools.tracing import watch

import numpy as np

TESTS = gpt2.HERE / "tests"
SMALL = TESTS / "small_weights.bin", TESTS / "small_state.bin"
STATE = 20240327  # header[0] of a debug state
# The ten losses in llm.c's test_gpt2.c: GPT-2 124M, the first 4 * 64 tokens of tinyshakespeare
PUBLISHED = (
    5.270007, 4.059707, 3.375123, 2.800783, 2.315382,
    1.849029, 1.394656, 0.999147, 0.624080, 0.376511,
)  # fmt: skip


def state_of(weights):
    """Return where reference_gpt2.py puts the debug state of a weight file."""
    return weights.with_name(f"{weights.stem}_debug_state.bin")


FULL = gpt2.WEIGHTS_FILE, state_of(gpt2.WEIGHTS_FILE)


class Report:
    """Prints a row for each comparison and remembers the names of those that failed."""

    def __init__(self):
        self.failed = []

    def section(self, title):
        self.title = title
        print(f"\n{title:<44}{'error':>10}{'allowed':>10}")

    def row(self, name, error, allowed):
        okay = bool(error <= allowed)  # false for nan
        if not okay:
            self.failed.append(f"{self.title}: {name}")
        print(f"{name:<44}{error:>10.1e}{allowed:>10.1e}  {'ok' if okay else 'FAILED'}")

    def compare(self, name, ours, theirs, allowed):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        if ours.shape != theirs.shape:
            self.row(f"{name}: {ours.shape} is not {theirs.shape}", math.inf, allowed)
        else:
            largest = np.abs(theirs).max() or 1.0
            self.row(name, np.abs(ours - theirs).max() / largest, allowed)


# ----------------------------------------------------------------------------
# Gradient checks


def finite_difference(f, x, h=1e-3):
    """
    The gradient of f(), a number, with respect to the array x, which f reads and which we nudge.

    Of four points, not two, so that the error is O(h**4) (Abramowitz & Stegun, 25.3.6).
    """
    gradient, flat = np.empty_like(x), x.reshape(-1)
    for i in range(flat.size):
        value, at = flat[i], {}
        for nudge in (-2, -1, 1, 2):
            flat[i] = value + nudge * h
            at[nudge] = f()
        flat[i] = value
        gradient.flat[i] = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
    return gradient


def leaves(tree):
    """All arrays in a nest of tuples."""
    if isinstance(tree, tuple):
        return [leaf for branch in tree for leaf in leaves(branch)]
    return [tree] if isinstance(tree, np.ndarray) else []


def check_layer(report, name, forward, backward, inputs, adds=()):
    """
    Check one pair: forward(*inputs) -> out, cache, and backward(dout, cache, *grads) -> dx.

    The inputs are float64 arrays by name: x first, which has no gradient if it is of integers; then
    the parameters, whose gradients backward fills, or adds to, if they are named in adds.
    """
    rng = np.random.default_rng(1)
    out, cache = forward(*inputs.values())
    dout = rng.standard_normal(np.shape(out))[()]  # of ones, layernorm's dx would be 0
    given = leaves((dout, cache, *inputs.values()))
    before = [array.copy() for array in given]
    x, *parameters = inputs

    def gradients(dout, cache, dtype=np.float64):
        begin = {p: 1.0 if p in adds else np.nan for p in parameters}  # nan: what is left unfilled
        grads = [np.full_like(inputs[p], begin[p], dtype) for p in parameters]
        dx = backward(dout, cache, *grads)
        found = {} if dx is None else {x: dx}
        return found | {
            p: g - 1 if p in adds else g for p, g in zip(parameters, grads, strict=True)
        }

    ours, again = gradients(dout, cache), gradients(dout, cache)
    for which, gradient in ours.items():
        theirs = finite_difference(
            lambda: np.sum(forward(*inputs.values())[0] * dout), inputs[which]
        )
        report.compare(f"{name} d{which}", gradient, theirs, 5e-11)
    pairs = zip((*given, *ours.values()), (*before, *again.values()), strict=True)
    unchanged = all(np.array_equal(a, b) for a, b in pairs)
    report.row(f"{name}: pure and repeatable", float(not unchanged), 0)

    out32, cache32 = forward(
        *(a if a.dtype.kind == "i" else a.astype("f4") for a in inputs.values())
    )
    dout32 = dout.astype(np.float32)[()] if np.ndim(dout) else float(dout)
    arrays = leaves((out32, cache32, *gradients(dout32, cache32, np.float32).values()))
    drifted = [a.dtype for a in arrays if a.dtype.kind == "f" and a.dtype != np.float32]
    report.row(f"{name}: float32 all the way", len(drifted), 0)


def check_gradients(report):
    report.section("gradient checks, float64")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 12)), rng.standard_normal((6, 24))
    w, b = 1 + rng.standard_normal(12), rng.standard_normal(12)

    tokens = np.array([[3, 1, 3], [3, 4, 0]])  # one of them three times
    tables = {"wte": rng.standard_normal((5, 12)), "wpe": rng.standard_normal((4, 12))}
    embedding = gpt2.embedding_forward, gpt2.embedding_backward
    check_layer(report, "embedding", *embedding, {"tokens": tokens, **tables}, adds=["wte"])
    layernorm = gpt2.layernorm_forward, gpt2.layernorm_backward
    check_layer(report, "layernorm", *layernorm, {"x": x, "w": w, "b": b})
    linear = gpt2.linear_forward, gpt2.linear_backward
    weights = {"w": rng.standard_normal((7, 12)), "b": rng.standard_normal(7)}
    check_layer(report, "linear", *linear, {"x": x, **weights})
    for B, NH in (2, 3), (1, 1), (6, 2):
        check_layer(
            report,
            f"attention, B={B} T={6 // B} NH={NH}",
            lambda qkv, B=B, NH=NH: gpt2.attention_forward(qkv, B, NH),
            gpt2.attention_backward,
            {"qkv": np.concatenate([x, y], -1)},
        )
    check_layer(report, "gelu", gpt2.gelu_forward, gpt2.gelu_backward, {"x": 2 * x})
    targets = rng.integers(0, 7, 6)
    check_layer(
        report,
        "head",
        lambda x, wte: gpt2.head_forward(x, wte, targets),
        # a copy of probs, because they are overwritten
        lambda dloss, cache, dwte: gpt2.head_backward(dloss, (cache[0].copy(), *cache[1:]), dwte),
        {"x": x, "wte": rng.standard_normal((7, 12))},
    )


def check_model_gradients(report):
    report.section("gradient checks of the whole model, float64")
    config = gpt2.GPT2Config(maxT=6, V=7, L=2, NH=2, C=4)
    rng = np.random.default_rng(2)
    flat = 0.7 * rng.standard_normal(gpt2.num_parameters(config))
    x, y = rng.integers(0, config.V, (2, 2, 5))  # x has repeated tokens
    params = gpt2.named_views(flat, config)
    grads = gpt2.named_views(np.full_like(flat, np.nan), config)  # nan: what is left unfilled
    _, cache = gpt2.gpt2_forward(params, config, x, y)
    gpt2.gpt2_backward(1.0, cache, grads)
    theirs = finite_difference(lambda: gpt2.gpt2_forward(params, config, x, y)[0], flat)
    for name, gradient in gpt2.named_views(theirs, config).items():
        report.compare(f"d{name}", grads[name], gradient, 5e-10)


def check_in_pieces(report):
    """All gradient checks, with arrays cut into many pieces, small as they are."""
    whole = gpt2.CHUNK, gpt2.TILE, gpt2.THREADS
    gpt2.CHUNK, gpt2.TILE = 32, 2
    check_gradients(report)
    gpt2.CHUNK, gpt2.THREADS = whole[0], 1  # thousands of forward passes, faster so
    check_model_gradients(report)
    gpt2.CHUNK, gpt2.TILE, gpt2.THREADS = whole


# ----------------------------------------------------------------------------
# PyTorch


class State(NamedTuple):
    """What PyTorch computed, as reference_gpt2.py wrote it."""

    x: np.ndarray  # (B, T)
    y: np.ndarray  # (B, T)
    logits: np.ndarray  # (B*T, V)
    loss: float
    grads: np.ndarray  # flat
    settings: dict  # of AdamW
    losses: np.ndarray  # of each AdamW step
    params: np.ndarray | None  # flat, after those steps
    outputs: dict  # of each layer (B*T, channels), in the order of the forward pass, if it has them


def output_widths(config):
    """Return the layers whose outputs a debug state may have, in order, with their channels."""
    widths = {"ln1": 1, "qkv": 3, "atty": 1, "attproj": 1, "mid": 1}
    widths |= {"ln2": 1, "fc": 4, "gelu": 4, "fcproj": 1, "out": 1}
    found = {f"block {l} {name}": n for l in range(config.L) for name, n in widths.items()}
    return {name: n * config.C for name, n in {"embedding": 1, **found, "lnf": 1}.items()}


def load_state(path, config):
    """Read a debug state of a model with these sizes. Raises UserError."""
    hint = "`python reference_gpt2.py` makes gpt2_124M_debug_state.bin"
    wte, padding = config.V * config.C, formats.wte_padding(config)
    padded, widths = gpt2.num_parameters(config) + padding, output_widths(config)

    def size_of(header):
        B, T, steps, has_params, has_outputs = header[2:7]
        if min(B, T, steps) < 1 or T > config.maxT or not {has_params, has_outputs} <= {0, 1}:
            return 0
        numbers = 2 * B * T + B * T * config.V + 1 + padded + 2 * 5 + steps + has_params * padded
        numbers += has_outputs * B * T * sum(widths.values())
        return gpt2.HEADER_BYTES + 4 * numbers

    def read_tensors(f):
        return np.delete(np.fromfile(f, "<f4", padded), slice(wte, wte + padding))

    hint += f"; this one is compared with {config}"
    header = formats.read_header(path, STATE, (2,), hint, size_of)
    B, T, steps, has_params, has_outputs = header[2:7]
    with open(path, "rb") as f:
        f.seek(gpt2.HEADER_BYTES)
        x, y = tokens = np.fromfile(f, "<i4", 2 * B * T).reshape(2, B, T)
        if not 0 <= tokens.min() <= tokens.max() < config.V:
            raise UserError(f"{path}: has tokens outside the vocabulary; {hint}")
        logits = np.fromfile(f, "<f4", B * T * config.V).reshape(B * T, config.V)
        loss = np.fromfile(f, "<f4", 1)[0]
        grads = read_tensors(f)
        names = ("lr", "beta1", "beta2", "eps", "weight_decay")
        settings = dict(zip(names, np.fromfile(f, "<f8", 5).tolist(), strict=True))
        losses = np.fromfile(f, "<f4", steps)
        params = read_tensors(f) if has_params else None
        outputs = {
            name: np.fromfile(f, "<f4", B * T * width).reshape(B * T, width)
            for name, width in widths.items()
            if has_outputs
        }
    return State(x, y, logits, loss, grads, settings, losses, params, outputs)


def logits_of(cache):
    """The logits (B*T, V) of a gpt2_forward; its head keeps only their softmax, in their place."""
    probs, targets, x, wte = cache[-1]
    return x @ wte.T


def outputs_of(params, config, x, y):
    """Return what each layer of the lesson makes of x, by the names of output_widths()."""
    found, blocks = {}, itertools.count()

    def note(name, local, returned):
        if name == "block_forward":
            l = next(blocks)
            found.setdefault("embedding", local["x"])
            found.update({f"block {l} {each}": array for each, array in local.items()})
        elif name == "gpt2_forward":
            found["lnf"] = local["x"]

    watch(note, gpt2.gpt2_forward, params, config, x, y)
    return found


def check_outputs(report, params, config, state, allowed=1e-5):
    """Compare each layer's output, in a row for each block, and name the first that differs."""
    found, errors = outputs_of(params, config, state.x, state.y), {}
    for name, theirs in state.outputs.items():
        same = found[name].shape == theirs.shape
        error = np.abs(found[name] - theirs).max() / np.abs(theirs).max() if same else math.inf
        if not error <= allowed and not any(error > allowed for error in errors.values()):
            report.failed.append(f"{report.title}: the first output that differs: {name}")
        part = " ".join(name.split()[:2])
        errors[part] = max(errors.get(part, 0.0), math.inf if math.isnan(error) else error)
    for part, error in errors.items():
        report.row(f"outputs: {part}", error, allowed)


def check_state(report, weights_path, state_path):
    """Compare with PyTorch: one forward and backward pass, then AdamW steps on the same batch."""
    flat, config = formats.load_weights(weights_path)
    state = load_state(state_path, config)
    report.section(f"PyTorch: {Path(state_path).name}, B={len(state.x)} T={state.x.shape[1]}")
    params = gpt2.named_views(flat, config)
    grads, m, v = (gpt2.named_views(np.zeros_like(flat), config) for _ in range(3))
    losses = []
    if state.outputs:
        check_outputs(report, params, config, state)
    for step, expected in enumerate(state.losses):
        loss, cache = gpt2.gpt2_forward(params, config, state.x, state.y)
        if step == 0:
            report.compare("logits", logits_of(cache), state.logits, 1e-5)
            report.compare("loss", loss, state.loss, 2e-6)
        gpt2.gpt2_backward(1.0, cache, grads)
        del cache
        if step == 0:
            for name, gradient in gpt2.named_views(state.grads, config).items():
                report.compare(f"d{name}", grads[name], gradient, 1e-5)
        report.compare(f"loss at step {step}", loss, expected, 1e-5)
        losses.append(loss)
        gpt2.adamw_update(params, grads, m, v, step + 1, **state.settings)
    if abs(state.loss - PUBLISHED[0]) < 1e-4:  # these are those weights and tokens
        # llm.c lets everything decay by 0.01, not the matrices only: with random weights of this
        # size that moved the losses by up to 2.5e-6 in this measure
        report.compare("losses published with llm.c", losses, PUBLISHED, 1e-4)
    if state.params is not None:
        for name, after in gpt2.named_views(state.params, config).items():
            report.compare(f"{name} after {len(state.losses)} steps", params[name], after, 2e-5)


def check_truth(report, weights_path, state_path):
    """
    Compare float32 with float64: our error, allowed to be twice that of PyTorch.

    Both are rounding errors, so they are taken as root mean squares, |x - true| / |true|: their
    ratio is less a matter of chance than that of two largest ones.
    """
    flat, config = formats.load_weights(weights_path)
    state = load_state(state_path, config)
    report.section("float64: our error, and twice PyTorch's")

    def results(dtype):
        params = gpt2.named_views(flat.astype(dtype, copy=False), config)
        grads = gpt2.named_views(np.zeros_like(flat, dtype), config)
        loss, cache = gpt2.gpt2_forward(params, config, state.x, state.y)
        gpt2.gpt2_backward(1.0, cache, grads)
        logits = logits_of(cache)
        return {"logits": logits, "loss": loss, **{f"d{name}": g for name, g in grads.items()}}

    theirs = {f"d{name}": g for name, g in gpt2.named_views(state.grads, config).items()}
    theirs |= {"logits": state.logits, "loss": state.loss}
    ours, truth = results(np.float32), results(np.float64)
    for name, true in truth.items():
        our, their = (np.linalg.norm(x[name] - true) / np.linalg.norm(true) for x in (ours, theirs))
        report.row(name, our, 2 * max(their, np.finfo(np.float32).eps))


def main(argv=None):
    parser = console.Parser(description="Compare train_gpt2.py with PyTorch.")
    hint = "weights to compare (default: gpt2_124M.bin)"
    parser.add_argument("--weights", type=Path, default=gpt2.WEIGHTS_FILE, help=hint)
    hint = "default: beside the weights, gpt2_d12_debug_state.bin for gpt2_d12.bin"
    parser.add_argument("--state", type=Path, help=hint)
    parser.add_argument("--quick", action="store_true", help="gradient checks and small state only")
    args = parser.parse_args(argv)

    args.state = args.state or state_of(args.weights)
    given = (args.weights, args.state) != FULL and not args.quick
    if given:  # a mistake in them must show at once
        load_state(args.state, formats.load_weights(args.weights)[1])
    report = Report()
    check_in_pieces(report)
    check_state(report, *SMALL)
    if args.quick:
        pass
    elif given or args.weights.exists():
        if not given and not args.state.exists():
            import reference_gpt2  # only now: it takes PyTorch

            print(f"\n{FULL[1].name} is missing; PyTorch makes it:")
            reference_gpt2.make_state(args.state, *formats.load_weights(args.weights))
        check_state(report, args.weights, args.state)
        check_truth(report, args.weights, args.state)
    else:
        print(f"\nskipped: {FULL[0].name} does not exist; `python reference_gpt2.py` makes it")
    for name in report.failed:
        print(f"failed: {name}")
    print(f"overall okay: {int(not report.failed)}")
    raise SystemExit(bool(report.failed))


if __name__ == "__main__":
    console.run_program(main)
