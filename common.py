"""
What the programs share that is no part of the lesson: errors, files, and what the machine has.

Files have llm.c's formats, little-endian, behind a header of 256 int32. A reader compares what a
header says with the length of the file before it takes memory for it; a writer writes beside the
old file, and puts the new one in its place once it is whole on the disk.
"""

import argparse
import contextlib
import ctypes
import glob
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

# BLAS, which computes NumPy's matrix products, is to use one thread, as train_gpt2.py starts its
# own. (With both, a step at T = 1024 takes 1.3 times as long.) It reads this when NumPy is loaded.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np  # noqa: E402

del os.environ["OPENBLAS_NUM_THREADS"]  # not for the programs that we start

HERE = Path(__file__).resolve().parent
WEIGHTS_FILE = HERE / "gpt2_124M.bin"
TOKENIZER_FILE = HERE / "gpt2_tokenizer.bin"
DATA = HERE / "data"  # where the prepro scripts put what they make, wherever they are called from
SHAKESPEARE = DATA / "tiny_shakespeare"

WEIGHTS, STATE, TOKENS, TOKENIZER = 20240326, 20240327, 20240520, 20240328  # header[0], the magic
UNPADDED, FLOAT32, BFLOAT16 = 1, 3, 5  # header[1] of a weight file, the version
HEADER_BYTES = 1024
GPT2_VOCAB_SIZE = 50257

# ----------------------------------------------------------------------------
# Errors, interrupts, flags


class UserError(Exception):
    """A mistake in a file or a flag: the program ends with one line and exit status 1."""

    status = 1


class NoNetwork(UserError):
    """A host that can't be reached: exit status 3, so that prepare() can tell."""

    status = 3


def one_line(text):
    return " ".join(str(text).split())


def run(main):
    """Call main(), and turn errors that are not ours into one line on standard error."""
    name = Path(sys.argv[0]).name
    # a sample may have letters that a terminal lacks
    sys.stdout.reconfigure(errors="replace", line_buffering=True)
    warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of numbers that train() stops at
    try:
        main()
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except MemoryError as error:
        print(f"{name}: out of memory; take smaller sizes ({one_line(error)})", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error
        print(f"{name}: {one_line(what)}; check that file or folder", file=sys.stderr)
        sys.exit(1)
    except UserError as error:
        print(f"{name}: {one_line(error)}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt as stop:
        if stop.args:
            print(f"{name}: {one_line(stop)}", file=sys.stderr)
        sys.exit(130)  # what a shell expects of a program that was interrupted


def catch_interrupt():
    """-> an event that Ctrl-C sets, instead of ending the program; a second Ctrl-C ends it."""
    pressed = threading.Event()

    def handler(signum, frame):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pressed.set()

    signal.signal(signal.SIGINT, handler)
    return pressed


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that says what is wrong in one line; exit status 2."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {one_line(message)}; --help lists the flags\n")


def number(kind, low, high=math.inf):
    """A type for a flag: a finite int or float from low to high."""

    def parse(text):
        value = kind(text)
        if not low <= value <= high or value == math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {low} to {high}")
        return value

    parse.__name__ = {int: "whole number", float: "number"}[kind]  # argparse: "invalid number"
    return parse


def file_name(text):
    """A type for a flag: a name of something, which can't be empty."""
    if not text:
        raise argparse.ArgumentTypeError("has no name behind it")
    return text


def is_random_model(name):
    """Is it dN, a GPT-2 of N layers with random weights?"""
    return re.fullmatch("d[1-9][0-9]{0,2}", name) is not None


def prepare(script, *flags):
    """Run another script. False if it had no network; UserError if it failed for other reasons."""
    print(f"preparing: python {' '.join((script, *flags))}", flush=True)
    status = subprocess.run([sys.executable, HERE / script, *flags]).returncode
    if status not in (0, NoNetwork.status):
        raise UserError(f"`python {script}` failed, as it says above")
    return status == 0


def prepare_defaults(data, weights):
    """
    Make what is missing of the default files, unless others are given.

    False if that takes a network and there is none.
    """
    okay = True
    if data is None and not Path(f"{SHAKESPEARE}_train.bin").exists():
        okay = prepare("prepro_tinyshakespeare.py")
    if weights is None and not WEIGHTS_FILE.exists():
        okay = okay and prepare("reference_gpt2.py", "--weights-only")
    return okay


def keep_freed_memory():
    """
    Have malloc keep what is freed, up to 32 MiB a piece, if it is glibc's, which can be told so.

    A step takes 0.92 times as long if it needn't get memory anew from the operating system.
    """
    with contextlib.suppress(AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(-3, 2**25)  # M_MMAP_THRESHOLD of malloc.h
        ctypes.CDLL(None).mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def machine_memory():
    """Bytes of memory that this machine, or this container, has; infinity if it doesn't say."""
    have = math.inf
    with contextlib.suppress(AttributeError, ValueError, OSError):  # no sysconf on Windows
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(ValueError, OSError):  # "max", or no container of Linux
        have = min(have, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return have


def memory_needed(config, num_parameters, B, T, grad_accum=1):
    """About how many bytes a run takes, by what they are for."""
    _, V, L, NH, C = config
    keys = min(T, T / 2 + 64)  # that a query sees on average, for attention keeps them in tiles
    numbers = {
        "parameters": num_parameters,
        "gradients": num_parameters * (1 if grad_accum == 1 else 2),
        "moments": num_parameters * 2,
        "activations": int(B * T * (L * (16 * C + NH * keys) + V)),  # the bulk of the caches
    }
    return {name: 4 * count for name, count in numbers.items()}


def print_sizes(config, num_parameters, args, train_shards, val_shards):
    """Say what a run is like, and warn if it needs more memory than there is."""
    B, T = args.batch_size, args.seq_len
    print("[GPT-2]")
    names = "max_seq_len", "vocab_size", "num_layers", "num_heads", "channels", "num_parameters"
    for name, size in zip(names, (*config, num_parameters), strict=True):
        print(f"{name}: {size}")
    print(f"train dataset num_batches: {num_batches(train_shards, B, T)}")
    print(f"val dataset num_batches: {num_batches(val_shards, B, T)}")

    sizes = memory_needed(config, num_parameters, B, T, args.grad_accum)
    need, have = sum(sizes.values()), machine_memory()
    parts = ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in sizes.items())
    print(f"memory: {need / 1e6:,.0f} MB ({parts})")
    if need > have:
        hint = "lower --batch-size or --seq-len, or take a smaller model"
        warning = f"warning: it needs about {need / 1e9:.1f} GB, and there are {have / 1e9:.1f}"
        print(f"{Path(sys.argv[0]).name}: {warning}; {hint}", file=sys.stderr)


# ----------------------------------------------------------------------------
# What all files have


def check_writable(path, flag=""):
    """UserError, naming the flag, unless path can be written: better now than after the work."""
    target, path_is = Path(os.path.realpath(path)), f"{flag} {path}".strip()
    folder = target.parent  # of what a link leads to
    if not folder.is_dir():
        raise UserError(f"{path_is}: there is no such folder; make it first")
    if target.is_symlink() or target.exists() and not target.is_file():
        what = "a folder, a device, or a link to itself"
        raise UserError(f"{path_is}: this is {what}; give the name of a file")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path_is}: no permission to write there; give another folder")
    if Path(path).exists() and not os.access(path, os.W_OK):
        raise UserError(f"{path_is}: is read-only; give another name, or make it writable")


@contextlib.contextmanager
def replacing(path):
    """
    Open a file beside path for writing; it takes the place of path once it is whole on disk.

    UserError if it can't be written; then what was there before is still there.
    """
    check_writable(path)
    path = Path(os.path.realpath(path))  # what a link leads to
    part = Path(f"{path}.part")
    try:
        with open(part, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.filename not in (None, str(part)):
            raise  # it is about a file that was read meanwhile
        why = f"cannot write {path}: {error.strerror}; free some space, or write to another place"
        raise UserError(why) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def file_size(path, hint):
    """The bytes of a file. UserError with the hint if there is none."""
    if not Path(path).exists():
        raise UserError(f"{path}: no such file; {hint}")
    if not Path(path).is_file():  # a pipe would keep us waiting
        raise UserError(f"{path}: this is a folder or a device, not a file; {hint}")
    return os.path.getsize(path)


def read_header(path, magic, versions, hint):
    """The header of a file as 256 ints; UserError with the hint if the file is of another kind."""
    file_size(path, hint)
    header = np.fromfile(path, "<i4", 256)
    if len(header) and header[0] == np.int32(magic).byteswap():
        raise UserError(f"{path}: big-endian, from another kind of computer; {hint}")
    if len(header) < 256 or header[0] != magic or header[1] not in versions:
        raise UserError(f"{path}: not a file of the kind or version expected here; {hint}")
    return header.tolist()


def write_header(f, *numbers):
    f.write(np.array(numbers + (0,) * (256 - len(numbers)), "<i4"))


# ----------------------------------------------------------------------------
# Weights: header[2..7] = maxT, V, L, NH, C, V with padding. In a checkpoint of ours there is more
# behind them, which llm.c does not look at: AdamW's m and v (header[9] = 2, else 0), and a JSON
# text about the run (header[8] = its bytes)

ABOUT_BYTES = 2**20  # of that text, at most


def vocab_padding(V):
    """Rows of zeros that files have behind wte, up to the next multiple of 128."""
    return -V % 128


def write_tensors(f, flat, config):
    """Write the 16 tensors of a flat float32 vector, wte padded."""
    _, V, _, _, C = config
    f.write(flat[: V * C])
    f.write(np.zeros(vocab_padding(V) * C, np.float32))
    f.write(flat[V * C :])


def read_tensors(f, config, count, version=FLOAT32):
    """Read what write_tensors wrote, or an older version of it -> count numbers, float32."""
    _, V, _, _, C = config
    flat = np.empty(count, np.float32)
    padding = 0 if version == UNPADDED else vocab_padding(V) * C
    for part, behind in (flat[: V * C], padding), (flat[V * C :], 0):
        if version == BFLOAT16:  # the upper half of a float32
            part.view(np.uint32)[:] = np.fromfile(f, "<u2", part.size).astype(np.uint32) << 16
        else:
            f.readinto(part)
        f.seek(behind * (2 if version == BFLOAT16 else 4), os.SEEK_CUR)
    return flat


def write_weights(path, flat, config, about=None, moments=()):
    """
    Write a weight file: all parameters, flat; config, its five sizes.

    A checkpoint also has: about, a dict; moments, AdamW's flat m and v, without which nothing can
    resume from it.
    """
    text = b"" if about is None else json.dumps(about).encode()
    padded = config[1] + vocab_padding(config[1])
    with replacing(path) as f:
        write_header(f, WEIGHTS, FLOAT32, *config, padded, len(text), len(moments))
        write_tensors(f, flat, config)
        for moment in moments:
            f.write(moment)
        f.write(text)


def read_sizes(path, num_parameters):
    """
    What the header of a weight file says -> version, the five sizes. UserError if it isn't whole.

    num_parameters(sizes) says how many there are.
    """
    hint = "`python reference_gpt2.py` makes gpt2_124M.bin"
    header = read_header(path, WEIGHTS, (UNPADDED, FLOAT32, BFLOAT16), hint)
    version, config, (about, moments) = header[1], header[2:7], header[8:10]
    if min(config) < 1 or config[4] % config[3]:
        raise UserError(f"{path}: its header has impossible sizes, {config}; {hint}")
    if version != FLOAT32:
        about = moments = 0
    padding = 0 if version == UNPADDED else vocab_padding(config[1]) * config[4]
    itemsize = 2 if version == BFLOAT16 else 4
    size = HEADER_BYTES + (num_parameters(config) * (1 + moments) + padding) * itemsize + about
    found = os.path.getsize(path)
    if found != size or moments not in (0, 2) or not 0 <= about <= ABOUT_BYTES:
        raise UserError(f"{path}: has {found:,} bytes, its header means {size:,}; {hint}")
    return version, config


def read_weights(path, num_parameters):
    """Read a weight file -> all parameters, flat float32; its five sizes. See read_sizes."""
    version, config = read_sizes(path, num_parameters)
    with open(path, "rb") as f:
        f.seek(HEADER_BYTES)
        return read_tensors(f, config, num_parameters(config), version), config


def read_about(path):
    """What a weight file says about the run that made it, a dict; {} if nothing. UserError."""
    hint = "give a checkpoint that `train_gpt2.py --save` made"
    header = read_header(path, WEIGHTS, (UNPADDED, FLOAT32, BFLOAT16), hint)
    version, size = header[1], header[8]
    room = os.path.getsize(path) - HEADER_BYTES
    if version != FLOAT32 or not 0 < size <= min(ABOUT_BYTES, room):
        return {}
    try:
        with open(path, "rb") as f:
            f.seek(-size, os.SEEK_END)
            about = json.loads(f.read())
        step, flags = about["step"], about["flags"]
        okay = type(step) is int and step >= 0 and type(flags) is list
        if okay and all(type(flag) is str for flag in flags):
            return about
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise UserError(f"{path}: damaged, at its end; {hint}")


def read_moments(path, *moments):
    """Fill AdamW's m and v from a file that read_weights has read. Raises UserError."""
    with open(path, "rb") as f:
        header = np.fromfile(f, "<i4", 256)
        if header[1] != FLOAT32 or header[9] != len(moments):
            raise UserError(
                f"{path}: only weights, of no use to --resume; start with --init {path}"
            )
        f.seek(-sum(moment.nbytes for moment in moments) - int(header[8]), os.SEEK_END)
        for moment in moments:
            f.readinto(moment)


def resume(path, run, steps):
    """The step to go on from, 0 without a path. UserError if it is of another run, or the end."""
    if not path:
        return 0
    about = read_about(path)
    had, has = about.get("train_tokens"), run["train_tokens"]
    if had != has:
        raise UserError(f"{path}: was trained on {had} tokens, --data has {has}; give the same")
    if about["step"] >= steps:
        raise UserError(f"{path}: has its {about['step']} steps; a larger --steps goes on")
    return about["step"]


def checkpoints(args, train_shards, interrupted=None):
    """
    For a run with these flags: the step to start from, and three functions for its loop.

    due(step): is a checkpoint due before this step, or was Ctrl-C pressed?
    save(step, config, flat_params, flat_m, flat_v): writes it; after Ctrl-C, KeyboardInterrupt.
    save_best(step, config, flat_params, val_loss): writes the weights if they are the best so far.

    Without --save nothing is written. Raises UserError if the flags don't fit what is there.
    """
    run = describe_run(args, train_shards)
    start, best = resume(args.resume, run, args.steps), math.inf
    interrupted = interrupted or catch_interrupt()
    if args.save:
        check_writable(args.save, "--save")
        best_file = Path(args.save).with_stem(f"{Path(args.save).stem}_best")
        if start and best_file.exists():
            loss = read_about(best_file).get("val_loss")
            best = loss if type(loss) is float and math.isfinite(loss) else best

    def due(step):
        regular = step > start and args.save_every and step % args.save_every == 0
        return interrupted.is_set() or args.save and (regular or step == args.steps)

    def save(step, config, flat_params, flat_m, flat_v):
        if args.save and (step > start or step == args.steps):
            about = {"step": step, **run}
            write_weights(args.save, flat_params, config, about, (flat_m, flat_v))
            say(f"wrote {args.save}")
        if interrupted.is_set() and step < args.steps:
            saved = f"--resume {args.save} goes on" if args.save else "there was no --save"
            what = f"stopped after {step} steps; {saved}" if step > start else "stopped at once"
            raise KeyboardInterrupt(what)

    def save_best(step, config, flat_params, val_loss):
        nonlocal best
        if args.save and val_loss < best:
            best = val_loss
            about = {"step": step, "val_loss": val_loss, **run}
            write_weights(best_file, flat_params, config, about)

    return start, due, save, save_best


# ----------------------------------------------------------------------------
# Tokens: header[2] = how many, header[3] = size of the vocabulary (0 means GPT-2's); uint16


def load_tokens(path):
    """Read a token file -> its tokens, an array that stays on disk; V. Raises UserError."""
    hint = "prepro_tinyshakespeare.py makes the default one, prepro.py one of your own text"
    size = file_size(path, hint)
    if size and size % 4 == 0 and np.fromfile(path, "<i4", 1) != TOKENS:
        # llm.c's first format, without a header
        tokens, V = np.memmap(path, "<i4", "r"), GPT2_VOCAB_SIZE
    else:
        _, _, count, V, *_ = read_header(path, TOKENS, (1,), hint)
        if size != HEADER_BYTES + 2 * count or count == 0:
            raise UserError(f"{path}: has {size:,} bytes, not the {count:,} tokens it says; {hint}")
        if not 0 <= V <= 2**16:
            raise UserError(f"{path}: says that it has {V:,} different tokens, in 16 bits; {hint}")
        tokens, V = np.memmap(path, "<u2", "r", HEADER_BYTES), V or GPT2_VOCAB_SIZE
    if not 0 <= tokens.min() <= tokens.max() < V:
        raise UserError(f"{path}: no token file, or not with tokens from 0 to {V - 1:,}; {hint}")
    return tokens, V


def load_shards(prefix):
    """Read PREFIX.bin, or else all PREFIX_*.bin in their order -> list of tokens, V. UserError."""
    paths = [f"{prefix}.bin"]
    if not Path(paths[0]).exists():
        paths = sorted(glob.glob(f"{glob.escape(str(prefix))}_*.bin")) or paths
    shards, sizes = zip(*map(load_tokens, paths), strict=True)
    if len(set(sizes)) > 1:
        what = f"{prefix}_*.bin: have vocabularies of {sorted(set(sizes))} tokens"
        raise UserError(f"{what}; move those of other data away")
    return shards, sizes[0]


def num_batches(shards, B, T):
    """How many batches get_batch() makes of the tokens in a round."""
    return sum((len(tokens) - 1) // T for tokens in shards) // B


def load_data(data, B, T):
    """Read the token files named data -> those to train on, those for validation, V. UserError."""
    (train, V), (val, val_V) = (load_shards(f"{data}_{split}") for split in ("train", "val"))
    if val_V != V:
        what = f"{data}_train has {V:,} different tokens, {data}_val {val_V:,}"
        raise UserError(f"{what}; prepare both again")
    for split, shards in ("train", train), ("val", val):
        if not num_batches(shards, B, T):
            have = f"{sum(map(len, shards)):,} tokens where a batch takes {B * T + 1:,}"
            raise UserError(f"{data}_{split} has {have}; lower --batch-size or --seq-len")
    return train, val, V


# ----------------------------------------------------------------------------
# Tokenizer: header[2] = how many tokens, header[3] = the one for end of text; a length byte for
# each token, and as many bytes


def load_tokenizer(path):
    """Read a tokenizer file -> the bytes of each token, the end-of-text token. Raises UserError."""
    hint = "`python reference_gpt2.py` makes gpt2_tokenizer.bin"
    count, end_of_text = read_header(path, TOKENIZER, (2,), hint)[2:4]
    if os.path.getsize(path) > HEADER_BYTES + 256 * max(0, count):
        raise UserError(f"{path}: is too long for the {count:,} tokens it says; {hint}")
    data, at, vocabulary = Path(path).read_bytes(), HEADER_BYTES, []
    while at < len(data) and len(vocabulary) <= count:
        vocabulary.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    if at != len(data) or len(vocabulary) != count or not 0 <= end_of_text < count:
        raise UserError(f"{path}: damaged, its tokens are not what its header says; {hint}")
    return vocabulary, end_of_text


def load_vocabulary(data, V):
    """load_tokenizer, for the token files named data, of V tokens: theirs, or else GPT-2's."""
    own = Path(f"{data}_tokenizer.bin")
    path = own if own.exists() else TOKENIZER_FILE
    vocabulary, end_of_text = load_tokenizer(path)
    if len(vocabulary) != V:
        what = f"{path} has {len(vocabulary):,} tokens, {data}_train {V:,}"
        raise UserError(f"{what}; tokens of another kind need a {own} of their own")
    return vocabulary, end_of_text


def tokenizer_of(weights):
    """The tokenizer file of the data that a checkpoint was trained on, or else GPT-2's."""
    for flag in read_about(weights).get("flags", []):
        own = Path(flag.removeprefix("--data=") + "_tokenizer.bin")
        for path in own, HERE / own:  # where the training was probably started
            if flag.startswith("--data=") and path.exists():
                return path
    return TOKENIZER_FILE


# ----------------------------------------------------------------------------
# Progress of a run: a bar, lines, and a log

LOG_COLUMNS = "step,tokens,train_loss,val_loss,lr,grad_norm,ms"


def open_log(path, start):
    """
    Open a log for appending, with the rows of an earlier run before step start. UserError.

    Without a path, what is written to it goes nowhere.
    """
    if not path:
        return open(os.devnull, "w")
    check_writable(path, "--log")
    lines = []
    if Path(path).exists():
        with open(path, encoding="utf-8", errors="replace") as f:
            if f.readline().rstrip("\n") != LOG_COLUMNS:
                raise UserError(f"--log {path}: exists, and is no log; give another name")
            for line in f:
                step = line.split(",")[0]
                if line.endswith("\n") and step.isdecimal() and int(step) < start:
                    lines.append(line)
    with replacing(path) as f:
        f.write("".join([LOG_COLUMNS + "\n", *lines]).encode())
    return open(path, "a", encoding="utf-8", buffering=1)  # each line at once


def tqdm():
    """The class of tqdm's bars. Imported here, so that NumPy is enough to import the lesson."""
    try:
        from tqdm import tqdm
    except ImportError:
        raise UserError("tqdm is missing; `pip install -r requirements.txt` installs it") from None
    return tqdm


def say(text):
    """Print, above the bar if there is one."""
    tqdm().write(text)


@contextlib.contextmanager
def progress(steps, start, tokens_per_step, log_path=None):
    """
    For a run from step start to steps: yields record(step, ...), for each step and after the last.

    On a terminal record() moves a bar on standard error; if the output isn't there too, it prints a
    line for each step. It writes a row of the log; of the last step there is just the val loss.
    """
    log = open_log(log_path, start)
    with log, tqdm()(total=steps, initial=start, unit="step", disable=None) as bar:
        lines = bar.disable or not sys.stdout.isatty()

        def record(step, val_loss, loss=None, lr=None, norm=None, ms=None):
            cells = (loss, ".6f"), (val_loss, ".6f"), (lr, "g"), (norm, "g"), (ms, ".1f")
            cells = ("" if x is None else format(x, form) for x, form in cells)
            try:
                log.write(",".join((str(step), str(step * tokens_per_step), *cells)) + "\n")
            except OSError as error:
                with contextlib.suppress(OSError):
                    log.close()  # now, as it would fail once more
                raise UserError(f"--log {log_path}: {error.strerror}; free some space") from error
            if loss is not None:
                per_second = f"{tokens_per_step / ms * 1000:.0f} tokens/s"
                if lines:
                    say(f"step {step}: train loss {loss:f} (took {ms:f} ms, {per_second})")
                bar.set_postfix_str(f"loss {loss:.4f}, {per_second}", refresh=False)
                bar.update()

        yield record


# ----------------------------------------------------------------------------
# Flags of training

PYTHON_DOCS = DATA / "python_docs"
OFFLINE_FLAGS = (
    "--init d2 --data data/python_docs --shuffle --steps 1500 --batch-size 16 --lr 1.5e-3"
    " --warmup 20 --min-lr-frac 0.1 --val-every 300 --sample-every 500"
)
# What the result of a run depends on, so that its checkpoints keep it
RUN_FLAGS = (
    "data steps batch_size seq_len lr warmup min_lr_frac weight_decay grad_accum grad_clip shuffle"
    " seed"
).split()


def add_training_flags(parser):
    add, count, positive = parser.add_argument, number(int, 0), number(int, 1)
    real = number(float, 0)
    hint = "default: gpt2_124M.bin; dN: N layers at random"
    add("--init", type=file_name, metavar="FILE|dN", help=hint)
    add("--resume", type=file_name, metavar="FILE", help="go on with the run that saved FILE")
    hint = "of NAME_train.bin (default: data/tiny_shakespeare)"
    add("--data", type=file_name, metavar="NAME", help=hint)
    add("--steps", type=count, default=40, help="from the start of the run (default: 40)")
    add("--batch-size", type=positive, default=4)
    add("--seq-len", type=positive, default=64)
    add("--lr", type=real, default=1e-4, help="learning rate")
    add("--warmup", type=count, default=0, help="steps until the learning rate is reached")
    add("--min-lr-frac", type=number(float, 0, 1), default=1.0, help="part of it left at the end")
    add("--weight-decay", type=real, default=0.0)
    add("--grad-accum", type=positive, default=1, help="batches that a step takes the mean of")
    add("--grad-clip", type=real, default=0.0, help="greatest norm of the gradient; 0: any")
    add("--val-every", type=count, default=10, help="steps between validation losses; 0: none")
    add("--val-batches", type=positive, default=10)
    add("--sample-every", type=count, default=20, help="steps between samples; 0: none")
    add(
        "--save", type=file_name, metavar="FILE", help="write the last weights; the best: FILE_best"
    )
    add("--save-every", type=count, default=0, help="steps between checkpoints; 0: just the last")
    add("--log", type=file_name, metavar="FILE", help="write a CSV file with a row for each step")
    add("--shuffle", action="store_true", help="take training batches in random order")
    add("--seed", type=count, default=1337)


def parse_training_flags(parser, argv):
    """Parse the flags of a run, or of the one to resume."""
    args = parser.parse_args(argv)
    if args.resume:
        about = read_about(args.resume)
        if not about:
            hint = f"to start from its weights, --init {args.resume}"
            raise UserError(f"{args.resume}: says nothing of a run; {hint}")
        flags, prog = about["flags"], parser.prog
        parser.prog = f"{prog}: {args.resume}"  # where flags that are wrong come from
        saved = parser.parse_args(flags)
        parser.prog, args = prog, parser.parse_args([*flags, *argv])
        for name in set(RUN_FLAGS) - {"data", "steps"}:
            if getattr(args, name) != getattr(saved, name):
                had = f"{args.resume} was made with {getattr(saved, name)}"
                parser.error(f"--{name.replace('_', '-')}: {had}; leave the flag out")
        args.save = args.save or args.resume
        if args.init:
            parser.error("--init: goes without --resume, which has weights; leave one of them out")
    if args.save_every and not args.save:
        parser.error("--save-every: says how often, but not where; add --save FILE")
    return args


def describe_run(args, train_shards):
    """For a checkpoint: the flags that repeat this run, and how many tokens its data has."""
    values = {f"--{name.replace('_', '-')}": getattr(args, name) for name in RUN_FLAGS}
    given = {flag: v for flag, v in values.items() if v is not None and v is not False}
    flags = [flag if value is True else f"{flag}={value}" for flag, value in given.items()]
    return {"train_tokens": sum(map(len, train_shards)), "flags": flags}


def training_flags(argv):
    """The flags for train(), once what they need by default is made; another run if it can't be."""
    parser = Parser(description="Train GPT-2 in NumPy.")
    add_training_flags(parser)
    args = parse_training_flags(parser, argv)
    if not prepare_defaults(args.data, args.init or args.resume):
        if args.data or args.init or args.resume:
            raise UserError("without a network, give both --data and --init or --resume")
        print(f"training on Python's documentation instead: python train_gpt2.py {OFFLINE_FLAGS}")
        if not Path(f"{PYTHON_DOCS}_train.bin").exists():
            prepare("prepro_pythondocs.py")
        args = parser.parse_args([*OFFLINE_FLAGS.split(), *argv])
        args.data = str(PYTHON_DOCS)  # in any working directory
    return args
