"""
Long runs: training as train_gpt2.py does it, with what they need besides.

    python tools/train.py --save run.bin --log run.csv --save-every 100
    python tools/train.py --resume run.bin                                # goes on
    python tools/train.py --device cuda --dtype bfloat16                  # the same in PyTorch
    torchrun --nproc-per-node=2 tools/train.py --device cuda              # in two processes

It takes the flags of train_gpt2.py, prints the same lines (its samples, from kept keys and values,
are longer) and writes the same files. A step is taken by an engine, NumPy's or PyTorch's. All else
about a run (data in several files, shuffling, accumulation, checkpoints, log, bar, Ctrl-C) is here
once, in the order in which the parts of a run are called. The parts are modules of tools/.
"""

import argparse
import contextlib
import itertools
import math
import os
import signal
import sys
import time
from codecs import getincrementaldecoder
from functools import partial
from pathlib import Path
from threading import Event
from types import SimpleNamespace

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import train_gpt2 as gpt2
from tools import checkpoints, formats, locks, memory, numpy_engine, prepare, token_files
from tools.console import NotFinite, Parser, UserError, file_name, print_error, run_program
from tools.log import KIND as LOG_KIND
from tools.log import Progress, bars, print_line
from tools.numpy_engine import NumpyEngine, blas_warning
from tools.sampling import generate, picker

import numpy as np

SWITCHES = {  # PyTorch's: each has its engine take the steps
    "device": "cpu, cuda, cuda:1, mps; torchrun gives each process a GPU of its own",
    "dtype": "float32, or bfloat16 for products (autocast)",
    "compile": "run what torch.compile makes of the model",
    "tensorcores": "allow TF32 in products of float32",
    "inference_only": "only forward passes; writes no file",
}
FAR = 10  # times the loss of guessing, from where a run is taken to have diverged
# ----------------------------------------------------------------------------
# Flags


def add_switches(add):
    """Add the flags of PyTorch's engine; add is a parser's add_argument."""
    add("--device", type=file_name, metavar="NAME", default="cpu", help=SWITCHES["device"])
    kinds = ("float32", "bfloat16")
    add("--dtype", choices=kinds, default="float32", help=SWITCHES["dtype"])
    for name in list(SWITCHES)[2:]:
        add(f"--{name.replace('_', '-')}", action="store_true", help=SWITCHES[name])


def make_parser():
    """Return the parser of all flags of training."""
    lesson = gpt2.make_parser()
    parser = Parser(
        description="Train GPT-2, in NumPy or in PyTorch.",
        allow_abbrev=False,
        parents=[lesson],
        conflict_handler="resolve",  # for --help, which both have
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="The flags of PyTorch (--device, --dtype, --compile, --tensorcores, "
        "--inference-only) have it take the steps; all others mean the same in both, "
        "but --recompute and --head-rows, which only NumPy's engine takes.",
    )
    add = parser.add_argument
    file, count = {"type": file_name, "metavar": "FILE"}, {"type": int, "metavar": "N"}
    add("--save", **file, help="write checkpoints there, instead of --out")
    add("--save-every", **count, default=0, help="steps between checkpoints; 0: at the end")
    add("--resume", **file, help="go on with the run that saved FILE")
    add("--log", **file, help="write a CSV file, a row for each step")
    text = "batches whose mean gradient a step takes, in each process"
    add("--grad-accum", **count, default=1, help=text)
    text = "attention that keeps no (T, T) weights; in PyTorch, its fused kernel"
    add("--flash", action="store_true", help=text)
    text = "keep of a block only its input, and compute it again backward: less memory, more time"
    add("--recompute", action="store_true", help=text)
    text = "rows of a batch that have logits at a time, backward once more; 0: all"
    add("--head-rows", **count, default=0, help=text)
    text = "take the batches of training in random order, another one in each epoch"
    add("--shuffle", action="store_true", help=text)
    add_switches(add)
    return parser


DEFAULTS = vars(make_parser().parse_args([]))


def given_flags(parser, argv):
    """Return those flags that are given, by name. SystemExit if a number is out of its bounds."""
    unset = argparse.Namespace(**dict.fromkeys(DEFAULTS))
    given = {name: x for name, x in vars(parser.parse_args(argv, unset)).items() if x is not None}
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if value == "":
            parser.error(f"argument {flag}: has no name behind it")
        if isinstance(value, int | float):
            greatest = checkpoints.MOST if isinstance(value, int) else sys.float_info.max
            least = checkpoints.SETTINGS.get(name, 0)
            if not least <= value <= greatest:
                text = f"{value} is not a number from {least} to {greatest}"
                parser.error(f"argument {flag}: {text}")
    return given


def parse(argv):
    """
    Return the flags of a run as a namespace, complete; for --resume, with those of its checkpoint.

    Its checkpoint is an open one, its argv what was given. Raises UserError; SystemExit for a flag.
    """
    parser = make_parser()
    given = given_flags(parser, argv)
    checkpoint = None
    if given.get("resume"):
        checkpoint = checkpoints.Checkpoint(given["resume"])
        about = checkpoint.about
        if not about:
            hint = f"to start from its weights, --init {given['resume']}"
            raise UserError(f"{given['resume']}: says nothing of a run; {hint}")
        for name, had in about["settings"].items():
            if name not in ("steps", "save_every") and given.get(name, had) != had:
                hint = f"was made with {had}; leave it out, or start anew, --init {given['resume']}"
                parser.error(f"--{name.replace('_', '-')}: {given['resume']} {hint}")
        if "init" in given:
            parser.error("--init: goes without --resume, which has weights; leave one of them out")
        data = given.get("data") or token_files.shown(gpt2.HERE / about["data"])
        save = None if given.get("no_save") else given["resume"]
        given = about["settings"] | {"save": save} | given | {"data": data}
    if given.get("save_every") and not (given.get("save") or given.get("no_save")):
        parser.error("--save-every: says how often, but not where; add --save FILE")
    if given.get("save") and given.get("no_save"):
        parser.error("--no-save: goes without --save; leave one of them out")
    args = SimpleNamespace(**DEFAULTS | given, checkpoint=checkpoint, argv=argv)
    return args, SWITCHES.keys() & given.keys()


def check_outputs(args):
    """
    Return the files of weights that a run is to write, {flag: path}. UserError unless it may.

    What it starts from is replaced only where --save or --out itself names it.
    """
    files, seen = {}, {}
    if args.save:
        files = {"--save": args.save, "--save's best": best_file(args.save)}
        seen = {os.path.realpath(args.resume or args.init): "what the run starts from"}
        seen.pop(os.path.realpath(args.save), None)
    elif not args.no_save:
        files = {"--out": args.out}
    for flag, path in {**files, "--log": args.log}.items():
        if path:
            kind = LOG_KIND if flag == "--log" else gpt2.WEIGHTS_MAGIC
            formats.check_writable(path, kind, flag)
            if other := seen.get(os.path.realpath(path)):
                raise UserError(f"{flag} {path}: is {other}, too; give another name")
            seen[os.path.realpath(path)] = f"the file of {flag}"
    return files


# ----------------------------------------------------------------------------
# Interrupts


STOPS = [getattr(signal, x) for x in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, x)]


@contextlib.contextmanager
def interruptions():
    """
    Yield an event that Ctrl-C sets, or `kill`, or the end of a terminal.

    The first one is acknowledged at once, a second Ctrl-C raises KeyboardInterrupt. What was before
    stands afterwards.
    """
    pressed = Event()

    def handler(signum, frame):
        if signum == signal.SIGINT and pressed.is_set():
            raise KeyboardInterrupt
        if not pressed.is_set():
            text = "stopping after this step; again: stop now, without saving\n"
            with contextlib.suppress(OSError):
                os.write(2, f"\n{text}".encode())
        pressed.set()

    before = {}
    for signum in STOPS:
        if signal.getsignal(signum) != signal.SIG_IGN:  # which nohup sets
            before[signum] = signal.signal(signum, handler)
    try:
        yield pressed
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


# ----------------------------------------------------------------------------
# Saving


def best_file(path):
    """Return where the weights of the best validation loss go: run.bin -> run_best.bin."""
    return "_best".join(os.path.splitext(path))


class Saver:
    """Writes what a run leaves: checkpoints at --save and its best, or else weights at --out."""

    def __init__(self, args, engine, config, shards, start):
        self.args, self.engine, self.config = args, engine, config
        self.start, self.saved, self.best = start, None, math.inf
        self.vocabulary = 0  # its digest, if it is known
        self.about = checkpoints.describe(args, shards)
        if args.save and start:
            with contextlib.suppress(UserError):  # of no use if it is not a checkpoint
                self.best = checkpoints.read_about(best_file(args.save)).get("val_loss", math.inf)

    def due(self, step):
        """Return whether --save-every has a checkpoint written before this step."""
        every = self.args.save_every
        return bool(self.args.save and every and step > self.start and step % every == 0)

    def save(self, step):
        """Write the checkpoint or the weights after that many steps -> the file; None for none."""
        if self.engine.rank or self.saved == step:
            return self.args.save or self.args.out
        if self.args.save:
            about = {"step": step, "means": self.engine.means, **self.about}
            flat = self.engine.parameters()
            moments = self.engine.moments()
            checkpoints.save(self.args.save, flat, self.config, about, moments, self.vocabulary)
        elif self.args.no_save:
            return None
        else:
            checkpoints.check_finite(f"{self.args.out} is not written", self.engine.parameters())
            flat = self.engine.parameters()
            formats.write_weights(self.args.out, flat, self.config, digest=self.vocabulary)
        self.saved = step
        print_line(f"wrote {self.args.save or self.args.out}")
        return self.args.save or self.args.out

    def save_best(self, step, val_loss):
        """Write the weights, if there is a --save and they are the best so far."""
        if self.args.save and not self.engine.rank and val_loss < self.best:
            self.best = val_loss
            about = {"step": step, "val_loss": val_loss, **self.about}
            flat = self.engine.parameters()
            best, digest = best_file(self.args.save), self.vocabulary
            checkpoints.save(best, flat, self.config, about, vocabulary=digest)


# ----------------------------------------------------------------------------
# The run


def text_sizes(vocabulary, end_of_text):
    """Return how many bytes of text each token is; none for end-of-text, which is between texts."""
    sizes = np.array([len(token) for token in vocabulary], int)
    sizes[end_of_text] = 0
    return sizes


def bits_per_byte(loss, targets, sizes):
    """Return the mean loss of targets, arrays of tokens, per byte of text. None if unknown."""
    if sizes is None:
        return None
    tokens, size = np.sum([(y.size, sizes[y].sum()) for y in targets], 0)
    return float(loss * tokens / size / math.log(2)) if size else None


def get_batches(its, split, args, numbers, seed=None):
    """Yield batches of a split, train or val: x and y (B, T); with answers, which targets count."""
    shards, mask, B, T = getattr(its, split), its.masks[split], args.batch_size, args.seq_len
    for i in numbers:
        batch = token_files.get_batch(shards, i, B, T, seed)
        yield (*batch, token_files.get_batch(mask, i, B, T, seed)[1]) if mask else batch


def targets_of(batches):
    """Yield the targets of each batch, or those that count, an array of tokens."""
    for _, y, *mask in batches:
        yield y[mask[0] != 0] if mask else y


def evaluate(its, args, batches):
    """
    Return the mean loss of the first so many batches for validation, 0: of all; the same in bits
    per byte, None if unknown; and how many batches these are. Raises NotFinite.
    """
    B, T = args.batch_size, args.seq_len
    there = token_files.num_batches(its.val, B, T)
    count = min(batches or there, there)
    loss = its.engine.evaluate(get_batches(its, "val", args, range(count)))
    if not math.isfinite(loss):
        what = f"the loss is {loss} on {args.data}_val, and nothing is saved that led to it"
        raise NotFinite(f"{what}; try a lower --lr, --warmup 100, or --grad-clip 1")
    targets = targets_of(get_batches(its, "val", args, range(count)))
    return loss, bits_per_byte(loss, targets, its.sizes), count


def print_whole_validation(its, args):
    """Print the loss on the whole validation text, which runs of other sizes can be compared by."""
    loss, bits, count = evaluate(its, args, 0)
    targets = targets_of(get_batches(its, "val", args, range(count)))
    text = f"on all of {sum(y.size for y in targets):,} tokens"
    if bits:
        text = f"{bits:.4f} bits per byte, {text}"
    print_line(f"step {args.steps}: val loss {loss:.6f}, {text}")


def command(script, *flags):
    """Return what to type for a script of the project, as a shell takes it."""
    return token_files.typed(["python", token_files.shown(gpt2.HERE / script), *map(str, flags)])


def print_next(args, file):
    """Print what the user can do with the file that a run has written."""
    tokenizer = Path(f"{args.data}_tokenizer.bin")
    tokenizer = ("--tokenizer", tokenizer) if tokenizer.exists() else ()
    print_line(f"text from it: {command('sample_gpt2.py', '--weights', file, *tokenizer)}")
    if args.save:
        more = "--resume", file, "--steps", 2 * args.steps or DEFAULTS["steps"]
        print_line(f"to go on: {command('tools/train.py', *more)}")
        return
    pairs = itertools.pairwise(["", *args.argv])
    more = [word for last, word in pairs if "--init" not in (last, word.split("=")[0])]
    more = command("tools/train.py", *more, "--init", file)
    print_line(f"to go on, AdamW and the rate from their beginning: {more}")


def sample(engine, config, vocabulary, end_of_text, rng, count=256):
    """Print a text of count tokens, as they come."""
    params = gpt2.named_views(engine.parameters(), config)
    decoder = getincrementaldecoder("utf-8")("replace")
    tokens = generate(params, config, np.array([[end_of_text]]), picker([rng]))
    with bars().external_write_mode():  # no bar amid the text
        for [token] in itertools.islice(tokens, count):
            print(decoder.decode(vocabulary[token]), end="", flush=True)
        print(decoder.decode(b"", final=True))


def load_data(data, B, T):
    """Read the token files named data -> those to train on, those for validation, V. UserError."""
    splits = ("train", "val")
    (train, V), (val, val_V) = (token_files.load_shards(f"{data}_{split}") for split in splits)
    if val_V != V:
        raise UserError(f"{data}: has {V:,} and {val_V:,} different tokens; prepare both again")
    for split, shards in zip(splits, (train, val), strict=True):
        if not token_files.num_batches(shards, B, T):
            have = f"{sum(map(len, shards)):,} tokens where a batch takes {B * T + 1:,}"
            raise UserError(f"{data}_{split} has {have}; lower --batch-size or --seq-len")
    return train, val, V


def open_model(args, V):
    """Read the weights of a run, or make those of a dN -> as load_weights. Raises UserError."""
    T = args.seq_len  # how long a dN is, so that no position is untrained
    if not args.resume and (config := gpt2.named_config(args.init, V, T)):
        return gpt2.init_weights(config, args.seed), config
    its = args.checkpoint or checkpoints.Checkpoint(args.init, formats.WEIGHTS_HINT)
    if its.config.V != V:
        has = f"--data has {V:,} different tokens, {its.path} {its.config.V:,}"
        raise UserError(f"{has}; try --init d4")
    if T > its.config.maxT:
        raise UserError(f"--seq-len {T}: {its.path} takes {its.config.maxT} at most; lower it")
    return its.weights(), its.config


def open_run(args, open_engine):
    """Read what a run needs -> a namespace of its parts. Raises UserError."""
    B, T = args.batch_size, args.seq_len
    train_shards, val_shards, V = load_data(args.data, B, T)
    parts = {"train": train_shards, "val": val_shards}
    masks = {name: token_files.load_mask(args.data, name, shards) for name, shards in parts.items()}
    if len({bool(mask) for mask in masks.values()}) > 1:
        raise UserError(f"{args.data}: only one part has a mask of answers; prepare both again")
    if masks["train"] and args.head_rows:
        raise UserError(f"--head-rows: not for {args.data}, of which answers count; leave it out")
    start, m, v = 0, None, None
    flat, config = open_model(args, V)
    if args.resume:
        # first, because it may have none
        m, v = args.checkpoint.moments(means=open_engine is not NumpyEngine)
        args.checkpoint.f.close()
        about = args.checkpoint.about
        start = checkpoints.start_of(args.resume, about, train_shards + masks["train"], args.steps)
    vocabulary, end_of_text = [], None
    with contextlib.nullcontext() if args.sample_every else contextlib.suppress(UserError):
        vocabulary, end_of_text = formats.load_vocabulary(args.data, V)
    digests = {
        f"--data {args.data}": train_shards[0].digest,
        f"{args.data}_val": val_shards[0].digest,
    }
    if vocabulary:
        digests[f"the tokenizer of {args.data}"] = formats.digest_of(vocabulary)
    if os.path.isfile(args.resume or args.init):
        digests[args.resume or args.init] = formats.digest_in(args.resume or args.init)
    formats.check_one_vocabulary(digests, prepare.PREPARE_AGAIN)
    outputs = check_outputs(args)

    gpt2.keep_freed_memory()
    engine = open_engine(args, flat, config, m, v, start)
    if args.resume and args.grad_accum % engine.world:
        share = f"{engine.world} processes can't share the {args.grad_accum} batches of a step"
        raise UserError(f"--resume {args.resume}: {share}; start another number of them")
    if not args.resume:  # for a checkpoint: the batches of a step, whichever process takes them
        args.grad_accum *= engine.world
    parts = {"engine": engine, "config": config, "vocabulary": vocabulary, "end": end_of_text}
    parts["sizes"] = text_sizes(vocabulary, end_of_text) if vocabulary else None
    saver = Saver(args, engine, config, train_shards + masks["train"], start)
    saver.vocabulary = next(filter(None, digests.values()), 0)
    parts |= {"saver": saver, "outputs": outputs, "start": start, "masks": masks}
    return SimpleNamespace(**parts, train=train_shards, val=val_shards)


@contextlib.contextmanager
def showing(args, its, progress):
    """Print what the run has, then show the Progress of its steps."""
    count, world = gpt2.num_parameters(its.config), its.engine.world
    weights = f"{args.resume}, after {its.start:,} steps" if args.resume else args.init
    if not (args.save or args.no_save):
        prepare.tell_what_is_replaced(args.out)
    print(f"weights: {weights}, {count:,} parameters, {its.config}")
    tokens, val_tokens = (sum(map(len, shards)) for shards in (its.train, its.val))
    print(f"data: {args.data}, {tokens:,} tokens, and {val_tokens:,} for validation")
    if its.masks["train"]:
        answers, val = (sum(int(part[:].sum()) for part in mask) for mask in its.masks.values())
        print(f"the loss is that of answers, {answers:,} of them, and {val:,} for validation")
    B, T, accum = args.batch_size, args.seq_len, args.grad_accum // world
    how = {name: getattr(args, name) for name in numpy_engine.LAYERS}
    memory.print_memory(memory.memory_needed(its.config, count, B, T, accum, **how))
    with progress:
        yield


@contextlib.contextmanager
def saving(saver):
    """
    Yield a namespace: its step is to say how many steps are done, whole that none is half done.

    An error has these steps saved: the training is worth more than, say, a log. But not what led to
    numbers that are not finite. A second Ctrl-C saves nothing.
    """
    state = SimpleNamespace(step=saver.start, whole=True)
    try:
        yield state
    except NotFinite:
        raise
    except KeyboardInterrupt as error:
        if error.args:
            raise
        raise KeyboardInterrupt("stopped at once, without saving") from None
    except (Exception, UserError):
        if state.whole and state.step > saver.start:
            with contextlib.suppress(Exception, UserError):  # of the two, the first is reported
                saver.save(state.step)
        raise


def stop(saver, step):
    """Save, and raise KeyboardInterrupt with what is said after Ctrl-C."""
    if step == saver.start:
        raise KeyboardInterrupt("stopped before the first step")
    file = saver.save(step)
    hint = f"--resume {file} goes on" if saver.args.save else f"--init {file} starts from there"
    raise KeyboardInterrupt(f"stopped after {step} steps; {hint if file else 'nothing is saved'}")


def train(args, open_engine):
    """
    Train, as the flags say -> the last loss, all parameters as a flat vector.

    open_engine(args, flat, config, m, v, step) makes what takes the steps. Raises UserError, and
    KeyboardInterrupt after Ctrl-C. With --save, a checkpoint is written on every way out.
    """
    its = open_run(args, open_engine)
    B, T, engine, accum, loss = args.batch_size, args.seq_len, its.engine, args.grad_accum, math.nan
    seed = args.seed if args.shuffle else None
    log = None if engine.rank else args.log
    progress = Progress(args.steps, its.start, accum * B * T, log, quiet=engine.rank > 0)
    with contextlib.ExitStack() as stack:
        if not engine.rank:
            stack.enter_context(locks.alone(its.outputs))
        interrupted = stack.enter_context(interruptions())
        state = stack.enter_context(saving(its.saver))
        stack.enter_context(showing(args, its, progress))
        for step in range(its.start, args.steps + 1):  # the last one does not train
            last, val_loss, val_bits = step == args.steps, None, None
            stopping = not last and engine.agree(interrupted.is_set())
            if last or stopping or its.saver.due(step):
                evaluate(its, args, 1)  # what gives no loss is not saved
            if stopping:
                stop(its.saver, step)
            if its.saver.due(step):
                its.saver.save(step)
            if args.val_every and (last or step % args.val_every == 0):
                val_loss, val_bits, _ = evaluate(its, args, args.val_batches)
                print_line(f"step {step}: val loss {val_loss:.6f}")
                its.saver.save_best(step, val_loss)
            if args.sample_every and step and (last or step % args.sample_every == 0):
                if not engine.rank:
                    print_line(f"step {step}: sample\n---")
                    rng = np.random.default_rng((args.seed, step))
                    sample(engine, its.config, its.vocabulary, its.end, rng)
                    print_line("---")
            if last:
                progress.write_row(step, val_loss=val_loss, val_bpb=val_bits)
                break

            began, first = time.perf_counter(), step * accum
            own = range(first + engine.rank, first + accum, engine.world)
            batches = list(get_batches(its, "train", args, own, seed))
            lr = gpt2.learning_rate(step, args.steps, args.lr, args.warmup, args.min_lr_frac)
            state.whole = False
            loss, norm = engine.step(batches, lr, step)
            guess = math.log(its.config.V)  # the loss of a model that knows nothing
            if not (loss < FAR * guess and norm < math.inf):
                what = f"loss {loss}, gradient norm {norm} in batch {first} of {args.data}_train"
                what += f", where guessing has {guess:.2f}"
                hint = "this step is not saved; try a lower --lr, --warmup 100, or --grad-clip 1"
                raise NotFinite(f"step {step}: {what}; {hint}")
            state.step, state.whole = step + 1, True
            seconds = time.perf_counter() - began
            bits = None
            if progress.log:  # of the batches of all processes
                numbers = range(first, first + accum)
                targets = targets_of(get_batches(its, "train", args, numbers, seed))
                bits = bits_per_byte(loss, targets, its.sizes)
            row = {"train_loss": loss, "val_loss": val_loss, "lr": lr, "grad_norm": norm}
            progress.record(step, seconds, **row, train_bpb=bits, val_bpb=val_bits)
        file = its.saver.save(args.steps)
        if args.save and args.val_every:
            print_whole_validation(its, args)
        if file:
            print_next(args, file)
    return loss, engine.parameters()


def main(argv=None):
    """Train as the command line says, by NumPy's engine or, if a flag asks for it, PyTorch's."""
    argv = sys.argv[1:] if argv is None else argv
    args, switches = parse(argv)
    args.data = token_files.data_of(args.data)
    prepare.check_names(args.data, args.init)
    if args.inference_only:
        args.save, args.log, args.no_save = None, None, True
    if not switches and os.environ.get("WORLD_SIZE", "1") == "1":  # torchrun sets it
        more = prepare.missing_flags(args.data, args.init or args.resume)
        if more:
            args, _ = parse([*more, *argv])
        set_defaults(args)
        if line := blas_warning():
            print_error(line)
        return train(args, NumpyEngine)
    if args.recompute or args.head_rows:
        what = "--recompute, --head-rows: are of NumPy's engine"
        raise UserError(f"{what}; leave them out, or PyTorch's flags and torchrun")
    from tools import torch_engine  # only now, because it takes PyTorch

    with torch_engine.open_device(args) as device:
        if torch_engine.RANK:  # only the first process has something to say
            sys.stdout = open(os.devnull, "w")
            torch_engine.barrier()  # until the first has made what is missing
        else:
            if prepare.missing_flags(args.data, args.init or args.resume):
                raise UserError("without these files, give both --data and --init or --resume")
            torch_engine.barrier()
        set_defaults(args)
        return train(args, partial(torch_engine.TorchEngine, device=device))


def set_defaults(args):
    """Name the default files where none is named."""
    args.data = args.data or token_files.shown(gpt2.SHAKESPEARE)
    args.init = args.init or token_files.shown(gpt2.WEIGHTS_FILE)


if __name__ == "__main__":
    run_program(main)
