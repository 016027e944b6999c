"""
How long does a training step take, here and in PyTorch? And a token of a sample?

    python tools/benchmark.py                      # GPT-2 124M, 4 sequences of 64 tokens
    python tools/benchmark.py --model d6 --batch-size 1 --seq-len 1024 --compile
    python tools/benchmark.py --command "../llm.c/train_gpt2"
    python tools/benchmark.py --sample             # instead of training, a text of 64 tokens

Each contender is a process of its own, and all start from the same random weights and tokens; for
GPT-2 124M they need 10 GB of memory together. They take turns, A B C A B C, because no machine is
equally fast all the time, and the others sleep meanwhile. (PyTorch's and OpenBLAS's threads spin
for a moment after their work, so there is a pause before each turn.) Times are medians over the
rounds; ratios are those of each round, and then their median.

PyTorch's model is that of reference_gpt2.py, with fused attention. Its AdamW is shown fused and by
default, which on a CPU is tensor after tensor. --torch-malloc adds a PyTorch that keeps freed
memory as train_gpt2.py does: the strictest comparison, for it can be faster than as it comes.
The products are a step's matrix products with weights and nothing else, not even attention's: by
NumPy, whose BLAS has all threads, and by train_gpt2.py's matmul(). Cores are those kept busy in a
step, processor time / time; GB are the peak of resident memory.

--sample has generate() of tools/sampling.py take turns with the one of Hugging Face's
transformers, if that is installed: both keep keys and values, and draw from all tokens.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import multiprocessing
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

try:
    import resource
except ImportError:  # on Windows: then no memory is shown
    resource = None

# NumPy and train_gpt2.py are imported where they are used: which of them comes first decides how
# many threads BLAS has, and every process begins by importing this file.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

PAUSE = 0.25  # seconds
WARM_UP = 2  # rounds not counted: memory is mapped, AdamW's state made, a model compiled
COMMAND_STEPS = 4  # of a program in a turn: it is stopped then; the first doesn't count
LR = 1e-4
OURS, BLAS_PRODUCTS, OUR_PRODUCTS = "train_gpt2.py", "products by NumPy", "products by matmul()"
HUGGING_FACE = "transformers"

# ----------------------------------------------------------------------------
# Contenders: each prepares a model -> what there is to say about it, a function for one turn. That
# calls lap(phase) at the end of each phase, and returns the loss, the same for all of them.


def random_batch(gpt2, config, B, T):
    tokens = gpt2.np.random.default_rng(1337).integers(config[1], size=B * T + 1)
    return gpt2.get_batch(tokens, 0, B, T)


def ours(config, B, T):
    import train_gpt2 as gpt2

    gpt2.keep_freed_memory()
    config = gpt2.GPT2Config(*config)
    flat = gpt2.init_weights(config)
    params = gpt2.named_views(flat, config)
    grads, m, v = (gpt2.named_views(gpt2.np.zeros_like(flat), config) for _ in range(3))
    x, y = random_batch(gpt2, config, B, T)
    steps = itertools.count(1)

    def turn(lap):
        loss, cache = gpt2.gpt2_forward(params, config, x, y)
        lap("forward")
        gpt2.gpt2_backward(1.0, cache, grads)
        lap("backward")
        gpt2.adamw_update(params, grads, m, v, next(steps), LR)
        del cache
        lap("optimizer")
        gpt2.gpt2_forward(params, config, x, y)
        lap("eval")
        return float(loss)

    return "", turn


def pytorch(config, B, T, fused=True, compiled=False, our_malloc=False):
    import reference_gpt2 as reference
    import train_gpt2 as gpt2

    import torch

    if our_malloc:
        gpt2.keep_freed_memory()
    torch.set_num_threads(gpt2.THREADS)
    config = gpt2.GPT2Config(*config)
    model = reference.model_from_flat(gpt2.init_weights(config), config, sdpa=True)
    groups = reference.adamw(model, LR, weight_decay=0.0).param_groups
    groups = [{key: group[key] for key in ("params", "weight_decay")} for group in groups]
    optimizer = torch.optim.AdamW(groups, LR, fused=fused or None)
    forward = torch.compile(model) if compiled else model
    x, y = map(torch.from_numpy, random_batch(gpt2, config, B, T))

    def turn(lap):
        loss = forward(x, y)[1]
        lap("forward")
        loss.backward()
        lap("backward")
        optimizer.step()
        optimizer.zero_grad()
        lap("optimizer")
        with torch.no_grad():
            forward(x, y)
        lap("eval")
        return loss.item()

    return f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads", turn


def products(config, B, T, threads, by_numpy):
    if by_numpy:
        os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
        from numpy import matmul
    else:
        from train_gpt2 import matmul
    import numpy as np

    _, V, L, _, C = config
    normal = partial(np.random.default_rng(1337).standard_normal, dtype=np.float32)
    weights = [normal(s) for s in [(3 * C, C), (C, C), (4 * C, C), (C, 4 * C)] * L + [(V, C)]]
    grads = [np.zeros_like(w) for w in weights]
    inputs, outputs = ({n: normal((B * T, n)) for n in (C, 3 * C, 4 * C, V)} for _ in range(2))

    def turn(lap):
        for w in weights:
            matmul(inputs[w.shape[1]], w.T, out=outputs[w.shape[0]])
        lap("forward")
        for w, dw in zip(weights[::-1], grads[::-1], strict=True):
            matmul(inputs[w.shape[0]], w, out=outputs[w.shape[1]])
            matmul(inputs[w.shape[0]].T, inputs[w.shape[1]], out=dw)
        lap("backward")

    return "", turn


def our_sample(config, tokens, samples=1):
    import train_gpt2 as gpt2
    from tools import sampling

    import numpy as np

    gpt2.keep_freed_memory()
    config = gpt2.GPT2Config(*config)
    params = gpt2.named_views(gpt2.init_weights(config), config)
    pick = sampling.picker([np.random.default_rng((1337, i)) for i in range(samples)])

    def turn(lap):
        texts = sampling.generate(params, config, np.zeros((samples, 1), int), pick)
        for _ in itertools.islice(texts, tokens):
            pass
        lap("forward")

    return "", turn


def their_sample(config, tokens):
    import train_gpt2 as gpt2
    from tools import huggingface

    import torch
    import transformers

    torch.set_num_threads(gpt2.THREADS)
    config = gpt2.GPT2Config(*config)
    sizes = zip(huggingface.HF_SIZES, config, strict=True)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**dict(sizes))).eval()
    views = huggingface.hf_views(gpt2.init_weights(config), config)
    model.transformer.load_state_dict({name: torch.from_numpy(view) for name, view in views})
    start = torch.zeros(1, 1, dtype=torch.int64)
    model.generation_config.eos_token_id = None  # no token ends it early
    how = {"do_sample": True, "top_k": 0, "use_cache": True, "pad_token_id": 0}
    how |= {"attention_mask": torch.ones_like(start), "max_new_tokens": tokens}

    def turn(lap):
        text = model.generate(start, **how)
        assert text.shape == (1, 1 + tokens)  # noqa: S101
        lap("forward")

    threads = torch.get_num_threads()
    versions = f"PyTorch {torch.__version__}, {threads} threads"
    return f"transformers {transformers.__version__}, {versions}", turn


# ----------------------------------------------------------------------------
# Turns


def peak_memory(usage):
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9  # GB


def measure(turn):
    """Take a turn -> its laps: ms of each phase, and what else there is in a row of the table."""
    laps, marks = {}, [(time.perf_counter(), time.process_time())]

    def lap(phase):
        marks.append((time.perf_counter(), time.process_time()))
        laps[phase] = (marks[-1][0] - marks[-2][0]) * 1000

    laps["loss"] = turn(lap)
    phases = [phase for phase in ("forward", "backward", "optimizer") if phase in laps]
    laps["step"] = sum(laps[phase] for phase in phases)
    laps["cores"] = (marks[len(phases)][1] - marks[0][1]) / laps["step"] * 1000
    if resource:
        laps["GB"] = peak_memory(resource.getrusage(resource.RUSAGE_SELF))
    return laps


def serve(pipe, prepare):
    """A contender's process: prepare, then take a turn whenever asked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    about, turn = prepare()
    pipe.send(about)
    with contextlib.suppress(EOFError):  # the parent closed the pipe, or has ended
        while pipe.recv():
            pipe.send(measure(turn))


def start(prepare):
    """Start a contender's process -> the pipe to it."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    context.Process(target=serve, args=(theirs, prepare), daemon=True).start()
    theirs.close()
    return pipe


def receive(name, pipe):
    from tools.console import UserError

    try:
        return pipe.recv()
    except EOFError:
        raise UserError(f"{name}: its process ended; is there enough memory?") from None


def take_turn(name, pipe):
    pipe.send(True)
    return receive(name, pipe)


def run_command(command):
    """Run a program that prints (took N ms) for each step, for some: the median but the first."""
    from tools.console import UserError

    line_by_line = ["stdbuf", "-oL"] if shutil.which("stdbuf") else []  # a C program's lines
    words, took, stopped = line_by_line + shlex.split(command), [], False
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            took += [float(ms) for ms in re.findall(r"took ([\d.]+) ?ms", line)]
            if stopped := len(took) >= COMMAND_STEPS:
                process.kill()
                break
        if resource:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and not stopped or len(took) < 2:
        why = f"exit status {process.returncode}, {len(took)} lines with (took N ms)"
        raise UserError(f"--command {command!r}: {why}; that takes 0, and two lines or more")
    return {"step": median(took[1:])} | ({"GB": peak_memory(usage)} if resource else {})


# ----------------------------------------------------------------------------
# Tables


def processor():
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text("utf-8")
        keys = "model name", "cpu family", "model"  # a name can be that of several kinds
        found = [re.search(rf"^{key}\s*: (.*)", text, re.MULTILINE) for key in keys]
        if all(found):
            return "{}, family {}, model {}".format(*(match[1] for match in found))
    return platform.processor() or platform.machine()


def number_text(x):
    return "" if x is None else f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def print_table(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        print("  ".join((first.ljust(widths[0]), *cells)).rstrip())


def print_results(rounds, tokens, parameters):
    """rounds: name -> the laps of each round, ours among them."""
    phases = ["step", "forward", "backward", "optimizer", "eval"]
    rows = [["ms", *phases, "tokens/s", "GFLOP/s", "cores", "GB"]]
    for name, turns in rounds.items():
        middle = {key: median(laps[key] for laps in turns) for key in turns[0] if key != "loss"}
        per_second = tokens / middle["step"] * 1000
        cells = [middle.get(phase) for phase in phases]
        cells += [per_second, 6 * parameters * per_second / 1e9]
        cells += [middle.get("cores"), middle.get("GB")]
        rows.append([name, *map(number_text, cells)])
    print_table(rows)

    rows = [[f"{OURS} / other", *phases, "(lowest to highest step)"]]
    for name, turns in rounds.items():
        if name != OURS:
            ratios = {
                phase: sorted(a[phase] / b[phase] for a, b in zip(rounds[OURS], turns, strict=True))
                for phase in phases
                if phase in turns[0]
            }
            cells = [f"{median(ratios[p]):.2f}" if p in ratios else "" for p in phases]
            span = f"{ratios['step'][0]:.2f} to {ratios['step'][-1]:.2f}"
            rows.append([name, *cells, span])
    print()
    print_table(rows)
    print()
    for name in [name for name in (BLAS_PRODUCTS, OUR_PRODUCTS) if name in rounds]:
        pairs = zip(rounds[OURS], rounds[name], strict=True)
        share = median(b["step"] / a["step"] for a, b in pairs)
        print(f"{name}: {share:.0%} of a step of {OURS}")
    losses = [turns[-1].get("loss") for turns in rounds.values()]
    print("losses in the last round:", *(f"{loss:.4f}" for loss in losses if loss is not None))


def print_sampling(rounds, tokens, samples):
    rows = [["", "ms a token", "tokens/s", "cores", "GB"]]
    for name, turns in rounds.items():
        ms, cores = (median(laps[key] for laps in turns) for key in ("step", "cores"))
        GB = median(laps["GB"] for laps in turns) if resource else None
        texts = samples if name == f"{samples} texts" else 1
        figures = ms / tokens / texts, tokens * texts / ms * 1000, cores, GB
        rows.append([name, *map(number_text, figures)])
    print_table(rows)
    print()
    for name in [name for name in rounds if name != OURS]:
        texts = samples if name == f"{samples} texts" else 1
        pairs = zip(rounds[OURS], rounds[name], strict=True)
        ratios = sorted(theirs["step"] / texts / ours["step"] for ours, theirs in pairs)
        span = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(f"{OURS}: {median(ratios):.2f} times the tokens/s of {name} ({span})")
    if HUGGING_FACE not in rounds:
        print(f"to compare with Hugging Face's generate(): pip install {HUGGING_FACE}")


def print_report(measured):
    """Print what a run has measured, as --json writes it."""
    import train_gpt2 as gpt2

    flags, rounds = measured["flags"], measured["rounds"]
    parameters = gpt2.num_parameters(gpt2.named_config(flags["model"], gpt2.GPT2_VOCAB_SIZE))
    print(f"{measured['machine']}\n{measured['versions']}")
    print(f"{flags['model']}, {parameters:,} parameters", end="")
    if flags["sample"]:
        print(f"; a text of {flags['tokens']} tokens")
        print(f"medians of {flags['runs']} rounds\n")
        print_sampling(rounds, flags["tokens"], flags["samples"])
    else:
        B, T = flags["batch_size"], flags["seq_len"]
        print(f"; batch size {B}, {T} tokens each")
        what = "GFLOP/s from 6 * parameters * tokens"
        print(f"medians of {flags['runs']} rounds; {what}\n")
        print_results(rounds, B * T, parameters)


def model_name(text):
    from train_gpt2 import named_config

    if not named_config(text, 1):
        raise argparse.ArgumentTypeError(f"{text} is not dN, N layers")
    return text


def main():
    import train_gpt2 as gpt2
    from tools.console import Parser, bounded, file_name
    from tools.formats import check_writable, replacing
    from tools.log import bars

    parser = Parser(description="Time a training step, or a sample, here and in PyTorch.")
    add, positive = parser.add_argument, bounded(int, 1)
    add("--model", type=model_name, default="d12", help="dN, N layers (default: d12, GPT-2 124M)")
    add("--batch-size", type=positive, default=4, help="sequences of a step (default: 4)")
    length = bounded(int, 1, 1024)  # to GPT-2's maxT
    add("--seq-len", type=length, default=64, help="tokens of a sequence (default: 64)")
    add("--runs", type=positive, default=5, help="rounds that count (default: 5)")
    add("--ours", action="store_true", help="no PyTorch: train_gpt2.py and its products alone")
    add("--compile", action="store_true", help="also PyTorch with torch.compile")
    add(
        "--torch-malloc", action="store_true", help="also PyTorch, malloc tuned as in train_gpt2.py"
    )
    add("--sample", action="store_true", help="time generate() and Hugging Face's, no training")
    tokens = bounded(int, 1, 1024)  # from one token on, so that none is forgotten
    add("--tokens", type=tokens, default=64, help="tokens of --sample (default: 64)")
    add("--samples", type=bounded(int, 1, 64), default=1, help="texts together (default: 1)")
    help = "also write what was measured (default: none)"
    add("--json", type=file_name, metavar="FILE", help=help)
    help = "also a program that prints (took N ms) for each step, four in a round (default: none)"
    add("--command", type=file_name, action="append", default=[], help=help)
    args = parser.parse_args()
    if args.json:
        check_writable(args.json, b'{\n "', "--json")

    config = tuple(gpt2.named_config(args.model, gpt2.GPT2_VOCAB_SIZE))
    sizes = config, args.batch_size, args.seq_len
    contenders = {
        OURS: partial(ours, *sizes),
        "PyTorch, fused AdamW": partial(pytorch, *sizes),
        "PyTorch, default AdamW": partial(pytorch, *sizes, fused=False),
        "PyTorch, our malloc": partial(pytorch, *sizes, our_malloc=True),
        "PyTorch, compiled": partial(pytorch, *sizes, compiled=True),
        BLAS_PRODUCTS: partial(products, *sizes, gpt2.THREADS, by_numpy=True),
        OUR_PRODUCTS: partial(products, *sizes, gpt2.THREADS, by_numpy=False),
    }
    if not args.torch_malloc:
        del contenders["PyTorch, our malloc"]
    if not args.compile:
        del contenders["PyTorch, compiled"]
    if args.ours:
        contenders = {name: contenders[name] for name in (OURS, OUR_PRODUCTS)}
    if args.sample:
        contenders = {OURS: partial(our_sample, config, args.tokens)}
        if args.samples > 1:
            contenders[f"{args.samples} texts"] = partial(
                our_sample, config, args.tokens, args.samples
            )
        if importlib.util.find_spec(HUGGING_FACE):
            contenders[HUGGING_FACE] = partial(their_sample, config, args.tokens)
    parameters = gpt2.num_parameters(gpt2.GPT2Config(*config))
    # each has parameters, gradients and two moments, or for sampling parameters alone
    need = len(contenders) * 4 * parameters * (1 if args.sample else 4) / 1e9
    print(f"{', '.join(contenders)}: together they take {need:.1f} GB or more", flush=True)
    pipes = {name: start(prepare) for name, prepare in contenders.items()}
    abouts = {receive(name, pipe) for name, pipe in pipes.items()} - {""}
    turns = {name: partial(take_turn, name, pipe) for name, pipe in pipes.items()}
    commands = {f"[{i}]": partial(run_command, c) for i, c in enumerate(args.command, 1)}

    rounds = {name: [] for name in turns | commands}
    for i in bars()(range(-WARM_UP, args.runs), unit="round", disable=None):
        for name, turn in (turns if i < 0 else turns | commands).items():
            time.sleep(PAUSE)
            laps = turn()
            if i >= 0:
                rounds[name].append(laps)

    for pipe in pipes.values():
        pipe.close()  # ends its process
    for process in multiprocessing.active_children():
        process.join()
    blas = gpt2.np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    blas = f"{blas['name']} {blas.get('version', '')}".strip()
    machine = f"{processor()}, {gpt2.CORES} cores, {gpt2.THREADS} threads; {platform.platform()}"
    versions = platform.python_version(), gpt2.np.__version__, blas
    versions = "; ".join(["Python {}; NumPy {} with {}".format(*versions), *sorted(abouts)])
    flags = {k: v for k, v in vars(args).items() if k not in ("json", "command")}
    measured = {"machine": machine, "versions": versions, "flags": flags, "rounds": rounds}
    if args.json:
        with replacing(args.json) as f:
            f.write(json.dumps(measured, indent=1).encode())
    print_report(measured)
    for i, command in enumerate(args.command, 1):
        print(f"[{i}]: {command}")


if __name__ == "__main__":
    from tools.console import run_program

    run_program(main)
