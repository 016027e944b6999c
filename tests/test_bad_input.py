"""
What users do wrong: a table of bad files, sizes, targets and flags for all programs, and what each
is to say, in one line. The exit status is 1; for flags it is 2, without a network 3. There is no
traceback, nothing is written or changed, and `python -O` does the same.

    pytest tests/test_bad_input.py -k plot_log        # the rows of one program
"""

import contextlib
import functools
import importlib
import itertools
import json
import os
import pickle
import random
import re
import runpy
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import train_gpt2 as gpt2
from tools import checkpoints, formats, log

import numpy as np
import pytest
from helpers import (
    CLOSED,
    LETTERS,
    NOBODY,
    PROJECT,
    V,
    add_data,
    boundaries,
    header,
    make_project,
    tensor_sizes,
    write_tokenizer,
    write_tokens,
)
from test_help import flags_of

SECONDS = 30  # for a row; most take a few hundredths
MODES = {"python": [], "python -O": ["-O"]}

# ----------------------------------------------------------------------------
# A project with good files

CONFIG = gpt2.GPT2Config(maxT=16, V=V, L=1, NH=1, C=4)
SMALL = gpt2.GPT2Config(maxT=19, V=101, L=2, NH=3, C=24)  # of tests/small_state.bin


def safetensors(maxT, V, C):
    """Return a GPT-2 of one block as a .safetensors file; where its tensors begin."""
    shapes = {"wte.weight": (V, C), "wpe.weight": (maxT, C)}
    for name, n in ("ln_1", C), ("attn.c_attn", 3 * C), ("attn.c_proj", C), ("ln_2", C), (
        "mlp.c_fc", 4 * C), ("mlp.c_proj", C):  # fmt: skip
        rows = () if name[:2] == "ln" else (4 * C if name == "mlp.c_proj" else C,)
        shapes |= {f"h.0.{name}.weight": (*rows, n), f"h.0.{name}.bias": (n,)}
    shapes |= {"ln_f.weight": (C,), "ln_f.bias": (C,)}
    places = boundaries(*(4 * int(np.prod(shape)) for shape in shapes.values()), start=0)
    found = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": at}
        for (name, shape), at in zip(shapes.items(), itertools.pairwise(places), strict=True)
    }
    text = json.dumps(found).encode()
    data = np.random.default_rng(0).standard_normal(places[-1] // 4).astype("<f4").tobytes()
    return struct.pack("<Q", len(text)) + text + data, [8 + len(text) + at for at in places]


SAFETENSORS, TENSORS = safetensors(16, V, 64)
BASE = {  # flags that each program gets first, so that a row has only those that matter
    "train_gpt2.py": "--data data/x --seq-len 16 --steps 3 --val-every 0 --sample-every 0",
    "tools/driver.py": "--seq-len 16",
    "sample_gpt2.py": "--weights w.bin --tokenizer data/x_tokenizer.bin --tokens 3",
    "reference_gpt2.py": "--seq-len 16 --batch-size 1 --steps 3",
    "test_gpt2.py": "--weights small.bin --state state.bin",
    "tools/benchmark.py": "--model d1 --batch-size 1 --seq-len 8 --runs 1",
}


def make_good_files(folder):
    """
    Weights: w.bin; half.bin and old.bin, the same in versions 5 and 1; small.bin, with state.bin.
    Checkpoints: saved.bin; flags.bin, as it was written before there were settings; other.bin, of
    other data; outside.bin, of data elsewhere; more.bin, of a larger vocabulary. Data: x; y,
    of a larger vocabulary; few, of few tokens; parts, of two vocabularies. hf is a folder of
    Hugging Face's, and in out there are a weight file, a log and a picture to be overwritten.
    """
    add_data(add_data(make_project(folder), "x"), "y")
    folder.chmod(0o777)
    for split in "train", "val":
        tokens, _ = formats.load_tokens(folder / "data" / f"y_{split}.bin")
        write_tokens(folder / "data" / f"y_{split}.bin", tokens.tolist(), V + 1)
        write_tokens(folder / "data" / f"few_{split}.bin", [1] * 64)
    for i in range(2):
        write_tokens(folder / "data" / f"parts_train_{i}.bin", [1] * 64, V + i)
    write_tokenizer(folder / "data" / "y_tokenizer.bin", [*LETTERS, b"more"])
    shutil.copy(folder / "data" / "y_tokenizer.bin", folder / "gpt2_tokenizer.bin")

    formats.write_weights(folder / "w.bin", gpt2.init_weights(CONFIG), CONFIG)
    data, (wte, padding, *_) = (folder / "w.bin").read_bytes(), tensor_sizes(CONFIG)
    half = np.frombuffer(data[1024:], "<u2")[1::2].tobytes()
    (folder / "half.bin").write_bytes(header(20240326, 5, *CONFIG, 128) + half)
    unpadded = data[1024 : 1024 + wte] + data[1024 + wte + padding :]
    (folder / "old.bin").write_bytes(header(20240326, 1, *CONFIG) + unpadded)
    settings = {name: least for name, least in checkpoints.SETTINGS.items()}
    settings |= {"batch_size": 4, "seq_len": 16, "steps": 2, "lr": 1e-4, "seed": 1337}
    for name, config, data in (
        ("saved.bin", CONFIG, "x"),
        ("other.bin", CONFIG, "few"),
        ("more.bin", CONFIG._replace(V=V + 1), "x"),
        ("outside.bin", CONFIG, "../x"),
    ):
        tokens, flat = (
            formats.load_tokens(folder / "data" / f"{Path(data).name}_train.bin")[0],
            None,
        )
        flat = gpt2.init_weights(config)
        run = {"data": f"data/{data}", "digest": checkpoints.digest([tokens])}
        text = json.dumps({"step": 2, **run, "settings": settings}, separators=(",", ":")).encode()
        formats.write_weights(folder / name, flat, config, (flat, abs(flat)), text)
    old = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if value]
    text = json.dumps({"step": 2, "train_tokens": 901, "flags": ["--data=data/x", *old]}).encode()
    flat = gpt2.init_weights(CONFIG)
    formats.write_weights(folder / "flags.bin", flat, CONFIG, (flat, abs(flat)), text)
    (folder / "tests").mkdir()
    for name, copy in ("small_weights.bin", "small.bin"), ("small_state.bin", "state.bin"):
        shutil.copy(PROJECT / "tests" / name, folder / "tests")
        shutil.copy(PROJECT / "tests" / name, folder / copy)

    (folder / "hf").mkdir()
    for path in folder / "hf.safetensors", folder / "hf" / "model.safetensors":
        path.write_bytes(SAFETENSORS)
    (folder / "hf" / "config.json").write_text('{"n_head": 1}')
    for name in "text.txt", "more.txt", "data/tiny_shakespeare.txt":
        (folder / name).write_text("abc. jihg fed. \n" * 20)
    (folder / "log.csv").write_text(f"{log.COLUMNS}\n0,0,4.5,4.5,0.1,1,1\n1,64,4,,0.1,1,1\n")
    (folder / "out").mkdir()
    (folder / "out").chmod(0o777)
    for name in "w.bin", "log.csv":
        shutil.copy(folder / name, folder / "out")
    (folder / "out" / "loss.png").write_bytes(b"old")


# ----------------------------------------------------------------------------
# What is wrong with a file; a row names one of these functions, and what follows its path


def missing(path):
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def has(path, data):
    """A file of these bytes, in place of what was there."""
    missing(path)
    path.write_bytes(data)


def empty(path):
    has(path, b"")


def folder(path):
    missing(path)
    path.mkdir()


def pipe(path):
    missing(path)
    os.mkfifo(path)


def png(path):
    chunk = struct.pack(">I4s2I5B", 13, b"IHDR", 640, 480, 8, 2, 0, 0, 0)
    has(path, b"\x89PNG\r\n\x1a\n" + chunk + random.Random(0).randbytes(3000))


def pickled(path):
    has(path, pickle.dumps({"wte.weight": [0.5] * 500}))


def html(path):
    has(path, b"<!DOCTYPE html>\n<html>" + b"<p>404 Not Found</p>\n" * 100 + b"</html>\n")


def latin(path):
    has(path, "Zoë. ".encode("latin-1") * 9)


def utf16(path):
    has(path, ("\ufeff" + "abc. " * 9).encode("utf-16-le"))


def nul(path):
    has(path, ("abc. " * 9).encode("utf-16-le"))  # valid UTF-8, too


def mark(path):
    has(path, b"\xef\xbb\xbf")


def says(path, *words):
    has(path, " ".join(words).encode())


def cut(path, n):
    """After n bytes; n may count from the end."""
    has(path, path.read_bytes()[: int(n)])


def longer(path):
    has(path, path.read_bytes() + b"x")


def field(path, i, value):
    """Number i of the header is another one."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<i", data, 4 * int(i), int(value))
    has(path, data)


def big_endian(path):
    data = path.read_bytes()
    has(path, np.frombuffer(data, "<u4", 256).byteswap().tobytes() + data[1024:])


def not_numbers(path):
    has(path, path.read_bytes()[:-4] + struct.pack("<f", np.nan))


def last_token(path, token):
    has(path, path.read_bytes()[:-2] + struct.pack("<H", int(token)))


def few_tokens(path, count):
    write_tokens(path, [1] * int(count))


def about(path, old, new):
    """Other words in what a checkpoint says about its run."""
    data = path.read_bytes()
    at = len(data) - struct.unpack_from("<i", data, 32)[0]
    text = data[at:].replace(old.encode(), new.encode())
    has(path, data[:32] + struct.pack("<i", len(text)) + data[36:at] + text)


def nested(path):
    """Lists in lists, more than Python's recursion takes."""
    about(path, '"step":2', f'"step":{"[" * 99999}')


def long_number(path):
    about(path, '"step":2', f'"step":{"9" * 5000}')


def word(path, old, new):
    has(path, path.read_bytes().replace(old.encode(), new.encode()))


def unreadable(path):
    path.chmod(0)


def read_only(path):
    path.chmod(0o444)


def closed(path):
    """A folder that can be read, and not written to."""
    path.chmod(0o555)


def sticky(path):
    """A folder as /tmp is, with a file in it that anybody may write, and its owner replace."""
    path.chmod(0o1777)
    (path / "w.bin").chmod(0o666)


PERMISSIONS = "unreadable", "read_only", "closed", "sticky"
NEED_POSIX = (*PERMISSIONS, "pipe")

# ----------------------------------------------------------------------------
# Rows: the program with its flags; the file that is wrong, and how; a pattern for the line

WEIGHTS = "`python reference_gpt2.py` makes gpt2_124M.bin"
STATE = "`python reference_gpt2.py` makes gpt2_124M_debug_state.bin"
TOKENS = "prepro_tinyshakespeare.py makes the default one, prepro_text.py one of your own text"
TOKENIZER = "the script that made the token files makes it, too; for GPT-2's, reference_gpt2.py"
CHECKPOINT = "give a checkpoint that `python train_gpt2.py --save FILE` made"
LOG = "`python train_gpt2.py --log FILE` writes a log"
KIND = "not a file of the kind or version expected here; "
DAMAGED = "not a safetensors file, or damaged: .*; get it again"

# Whatever reads a file, given what is no such file: program, file, what it says of it, what helps
READERS = [
    ("train_gpt2.py --init w.bin", "w.bin", KIND, WEIGHTS),
    ("train_gpt2.py --resume saved.bin", "saved.bin", KIND, CHECKPOINT),
    ("train_gpt2.py --init w.bin --grad-accum 1", "w.bin", KIND, WEIGHTS),
    *(
        (f"train_gpt2.py --init w.bin {loop}", file, f"({KIND}|not a token file, )", TOKENS)
        for loop in ("--lr 1", "--grad-accum 1")  # the plain loop, and the driver's
        for file in ("data/x_train.bin", "data/x_val.bin")
    ),
    ("train_gpt2.py --init w.bin --sample-every 1", "data/x_tokenizer.bin", KIND, TOKENIZER),
    ("sample_gpt2.py", "w.bin", KIND, WEIGHTS),
    ("sample_gpt2.py", "data/x_tokenizer.bin", KIND, TOKENIZER),
    ("reference_gpt2.py --model hf.safetensors", "hf.safetensors", DAMAGED, ""),
    ("reference_gpt2.py --model hf", "hf/model.safetensors", DAMAGED, ""),
    ("reference_gpt2.py --model hf", "hf/config.json", "not JSON with settings: .*; get it", ""),
    ("reference_gpt2.py --export w.bin new", "w.bin", KIND, WEIGHTS),
    ("reference_gpt2.py --train --data data/x --init w.bin", "w.bin", KIND, WEIGHTS),
    ("test_gpt2.py", "small.bin", KIND, WEIGHTS),
    ("test_gpt2.py", "state.bin", KIND, STATE),
    ("tools/plot_log.py log.csv -o loss.png", "log.csv", "not a training log; ", LOG),
]
FOREIGN = [
    (program, f"{file}: {damage}", f"{file}: {wrong}.*{helps}")
    for program, file, wrong, helps in READERS
    for damage in ("png", "pickled", "html")
]
MAY_BE_MISSING = "data/x_tokenizer.bin", "hf/config.json", "hf/model.safetensors"
UNREAD = [
    (program, f"{file}: {damage}", f"(?=.*{file}).*{wrong}.*; ")
    for program, file, _, _ in READERS
    for damage, wrong in (
        ("missing", "([Nn]o such file|there is no file of this name)"),
        ("folder", "(there is no file of this name|Is a directory|has no model.safetensors)"),
        ("unreadable", "Permission denied"),
    )
    if damage != "missing" or file not in MAY_BE_MISSING
]

# Files that end too early: at each boundary of two sections, and before the last byte
SHORT = "has [0-9,]+ bytes, its header means [0-9,]+; "
TRAIN, RESUME = "train_gpt2.py --init w.bin", "train_gpt2.py --resume saved.bin --data data/x"
# of a checkpoint's own data, with nothing else
RESUMES = "tools/driver.py --val-every 0 --sample-every 0 --steps 3 --resume"
DRIVEN = f"{TRAIN} --grad-accum 1"  # by tools/driver.py, which has readers of its own for some
FLAT = 4 * gpt2.num_parameters(CONFIG)
IN_W, IN_SAVED = (
    boundaries(*tensor_sizes(CONFIG)),
    boundaries(sum(tensor_sizes(CONFIG)), FLAT, FLAT),
)
IN_HALF, IN_OLD = (
    sorted({*boundaries(*tensor_sizes(CONFIG, *how))}) for how in ((True, 2), (False,))
)
IN_STATE = boundaries(
    4 * 39, 4 * 39, 4 * 39 * SMALL.V, 4, sum(tensor_sizes(SMALL)), 8 * 5, 4 * 10
)  # x, y, logits, loss, gradients, settings, losses; after them the parameters
CUTS = [
    (program, f"{file}: cut {n}", f"{file}: {says}")
    for program, file, places, says in [
        (TRAIN, "w.bin", [0, 4, 1023], KIND + WEIGHTS),
        (TRAIN, "w.bin", [*IN_W[:-1], -1], SHORT + WEIGHTS),
        ("train_gpt2.py --init half.bin", "half.bin", [*IN_HALF[:-1], -1], SHORT + WEIGHTS),
        ("train_gpt2.py --init old.bin", "old.bin", [*IN_OLD[:-1], -1], SHORT + WEIGHTS),
        (RESUME, "saved.bin", [0, 1023], KIND + CHECKPOINT),
        (RESUME, "saved.bin", [*IN_SAVED, -1], "(damaged|has [0-9,]+ bytes|says nothing)"),
        (TRAIN, "data/x_train.bin", [0, 2, 1023], KIND + TOKENS),
        (TRAIN, "data/x_train.bin", [1024, 1026, -1], SHORT + TOKENS),
        (TRAIN, "data/x_val.bin", [1024, -2], SHORT + TOKENS),
        ("sample_gpt2.py", "data/x_tokenizer.bin", [0, 1023], KIND + TOKENIZER),
        ("sample_gpt2.py", "data/x_tokenizer.bin", [1024, 1025, -6, -1], f"damaged.*{TOKENIZER}"),
        ("test_gpt2.py", "state.bin", [1023], KIND + STATE),
        (
            "test_gpt2.py",
            "state.bin",
            [*IN_STATE, -1],
            f"has [0-9,]+ bytes, its header means.*{STATE}",
        ),
        (
            "reference_gpt2.py --model hf",
            "hf/model.safetensors",
            [0, 7, 8, *TENSORS[:-1], -1],
            DAMAGED,
        ),
        ("tools/plot_log.py log.csv -o loss.png", "log.csv", [0, 7, 50], "no.*; "),
    ]
    for n in places
]

SAVE, LOGGED = f"{TRAIN} --save out/w.bin", f"{TRAIN} --log out/log.csv"
PLOT, STORIES = "tools/plot_log.py log.csv -o loss.png", "data/TinyStories_all_data"
HF = "reference_gpt2.py --model hf"
NOTHING = "there is no file of this name; "
NO_FOLDER, CLOSED_FOLDER = "there is no such folder; make it", "no permission to write there; give"
NO_TARGET, READ_ONLY = "this is a folder, a device, .*; give the name", "is read-only; give another"
FILES = [
    # Weights
    (TRAIN, "w.bin: longer", f"w.bin: {SHORT}{WEIGHTS}"),
    (TRAIN, "w.bin: big_endian", f"w.bin: {KIND}{WEIGHTS}"),
    (TRAIN, "w.bin: field 1 2", f"w.bin: {KIND}{WEIGHTS}"),  # a version that there is not
    (TRAIN, "w.bin: field 3 0", f"w.bin: {SHORT}{WEIGHTS}"),
    (TRAIN, "w.bin: field 4 -1", f"w.bin: {SHORT}{WEIGHTS}"),
    (TRAIN, "w.bin: field 5 3", f"w.bin: {SHORT}{WEIGHTS}"),
    (TRAIN, "w.bin: field 4 2147483647", f"w.bin: {SHORT}{WEIGHTS}"),
    (TRAIN, "w.bin: field 9 2", f"w.bin: {SHORT}{WEIGHTS}"),  # moments that are not there
    (TRAIN, "w.bin: pipe", f"w.bin: {NOTHING}{WEIGHTS}"),
    (TRAIN, "w.bin: not_numbers", "step 0: loss nan.*; .*--lr"),
    ("train_gpt2.py --init data/x_train.bin", "", f"x_train.bin: {KIND}{WEIGHTS}"),
    ("train_gpt2.py --init d0", "", "d0: there is no file of this name; "),
    ("sample_gpt2.py", "w.bin: longer", f"w.bin: {SHORT}{WEIGHTS}"),
    ("sample_gpt2.py", "w.bin: big_endian", f"w.bin: {KIND}{WEIGHTS}"),
    (
        "sample_gpt2.py",
        "w.bin: not_numbers",
        "w.bin: its weights are not all numbers; go back",
    ),
    ("reference_gpt2.py --export w.bin new", "w.bin: longer", f"w.bin: {SHORT}{WEIGHTS}"),
    ("test_gpt2.py", "small.bin: longer", f"small.bin: {SHORT}{WEIGHTS}"),
    # Checkpoints
    (RESUME, "saved.bin: big_endian", f"saved.bin: {KIND}{CHECKPOINT}"),
    (RESUME, "saved.bin: longer", f"saved.bin: {SHORT}{CHECKPOINT}"),
    (RESUME, "saved.bin: field 9 0", f"saved.bin: {SHORT}"),
    (RESUME, "saved.bin: pipe", f"saved.bin: {NOTHING}{CHECKPOINT}"),
    (RESUME, "saved.bin: about step stop", rf"saved.bin: damaged, at its end \(.*\); {CHECKPOINT}"),
    (RESUME, "saved.bin: about 2, -2,", rf"saved.bin: damaged, at its end \(.*\); {CHECKPOINT}"),
    (RESUME, "saved.bin: about 2, two,", rf"saved.bin: damaged, at its end \(.*\); {CHECKPOINT}"),
    ("train_gpt2.py --resume w.bin", "", "w.bin: says nothing of a run; .*--init w.bin"),
    ("train_gpt2.py --resume half.bin", "", "half.bin: says nothing of a run; .*--init half.bin"),
    (
        "train_gpt2.py --resume other.bin",
        "",
        "other.bin: was trained on other tokens than those of --data; give",
    ),
    ("train_gpt2.py --resume more.bin", "", "--data has 13 .* tokens, more.bin 14; "),
    (f"{RESUME} --data data/y", "", "--data has 14 different tokens, saved.bin 13; "),
    (f"{RESUME} --data data/few", "", "data/few_train has 64 tokens where .* 65; lower --batch"),
    (f"{RESUME} --steps 2", "", "saved.bin: has its 2 steps; a larger --steps goes on"),
    ("reference_gpt2.py --train --resume w.bin", "", "w.bin: says nothing of a run; .*--init w"),
    # What a stranger may have written into a checkpoint
    *[
        (
            RESUME,
            f"saved.bin: about {what}",
            rf"saved.bin: damaged, at its end \(.*\); {CHECKPOINT}",
        )
        for what in [
            '"lr" "--save":1,"lr"',  # keys that are not known
            '"lr" "no_save":true,"lr"',
            '"lr" "log":"new.csv","lr"',
            '"lr" "val_batches":99999999,"lr"',
            '"step" "save":"train_gpt2.py","step"',
            "0.0001 true",  # other types than those of the flags
            "0.0001 [1]",
            "0.0001 null",
            "0.0001 NaN",
            "0.0001 Infinity",
            "0.0001 1e999",
            "0.0001 -1",
            '"grad_accum":1 "grad_accum":99999999',  # a step that would never end
            '"grad_accum":1 "grad_accum":1.0',
            '"batch_size":4 "batch_size":0',
            '"batch_size":4 "batch_size":99999999999999999999',
            '"batch_size":4 "batch_size":"4"',
            '"step":2 "step":99999999999999999999',
            '"step":2 "step":true',
            '"step":2 "steps":2',
            '"settings" "set"',
            '"settings" "settings":7,"set"',
            '"data/x" ["data/x"]',
            r'"data/x" "data/x\u0000"',
            r'"data/x" "data/\ud800"',
            '"data" "val_loss":1,"data"',
        ]
    ],
    (RESUME, "saved.bin: nested", f"saved.bin: damaged, at its end .*; {CHECKPOINT}"),
    (RESUME, "saved.bin: long_number", f"saved.bin: damaged, at its end .*; {CHECKPOINT}"),
    *[
        (f"{RESUMES} flags.bin", f"flags.bin: about --seed=1337 {what}", "flags.bin: damaged, .*; ")
        for what in [
            "--save=train_gpt2.py",
            "--log=new.csv",
            "--val-batches=99999999",
            "--help",
            "--seed=x",
            "--shuffle=1",
            "--no-save",
        ]
    ],
    (
        f"{RESUMES} flags.bin",
        "flags.bin: about --grad-accum=1 --grad-accum=99999999",
        "flags.bin: damaged, at its end .*grad_accum is 99999999",
    ),
    (f"{RESUMES} flags.bin", "flags.bin: about 901 902", "flags.bin: was trained on other tokens"),
    (f"{RESUMES} outside.bin", "", "outside.bin: its data, data/../x, are outside of .*; .*--data"),
    (
        f"{RESUMES} saved.bin",
        r'saved.bin: about "data/x" "data/\u001b[2J/x"',
        r"its data, 'data/\\x1b\[2J/x', are outside of .*; .*--data",
    ),
    # Tokens, and their vocabularies
    (TRAIN, "data/x_train.bin: longer", f"x_train.bin: {SHORT}{TOKENS}"),
    (TRAIN, "data/x_train.bin: big_endian", f"x_train.bin: {KIND}{TOKENS}"),
    (TRAIN, "data/x_train.bin: field 1 2", f"x_train.bin: {KIND}{TOKENS}"),
    (
        TRAIN,
        "data/x_train.bin: field 3 14",
        "data/x: has 14 and 13 different tokens; prepare both again",
    ),
    (TRAIN, "data/x_val.bin: field 3 99999", "data/x: has 13 and 99,999 different tokens; prepare"),
    (TRAIN, "data/x_val.bin: pipe", f"x_val.bin: {NOTHING}{TOKENS}"),
    *(
        (program, f"data/x_{split}.bin: {damage}", wrong)
        for program in (TRAIN, DRIVEN)
        for split in ("train", "val")
        for damage, wrong in (
            ("few_tokens 64", f"x_{split} has 64 tokens where .* 65; lower --batch-size"),
            ("field 2 0", SHORT + TOKENS),
            ("field 3 14", "data/x: has 1[34] and 1[34] different tokens"),
            ("last_token 13", f"x_{split}.bin: .* tokens outside 0 to 12"),
            ("cut 1", KIND + TOKENS),
        )
    ),
    (f"{TRAIN} --data data/none", "", f"data/none_train.bin: {NOTHING}{TOKENS}"),
    (f"{TRAIN} --data data/y", "", "--data has 14 different tokens, w.bin 13; "),
    (f"{DRIVEN} --data data/parts", "", "parts_train: its files have 13 and 14 different tokens; "),
    (f"{TRAIN} --data data/parts", "", "parts_train: its files have 13 and 14 different tokens; "),
    (
        f"{TRAIN} --data data/few",
        "",
        "data/few_train has 64 tokens where .* 65; lower --batch-size",
    ),
    (f"{TRAIN} --batch-size 29", "", "data/x_val has 451 tokens where .* 465; lower --batch-size"),
    (f"{TRAIN} --seq-len 17", "", "--seq-len 17: w.bin takes 16 at most; "),
    ("train_gpt2.py --init d1 --seq-len 902", "", "x_train has 901 .* 3,609; .*--seq-len"),
    ("train_gpt2.py --init d1 --lr 1e20", "", "step [12]: loss .*; .*--lr"),
    (
        "reference_gpt2.py --train --init d1 --data data/x --lr 1e20 --sample-every 0",
        "",
        "step [12]: loss .*; .*--lr",
    ),
    # Tokenizers
    ("sample_gpt2.py", "data/x_tokenizer.bin: longer", f"x_tokenizer.bin: damaged.*{TOKENIZER}"),
    ("sample_gpt2.py", "data/x_tokenizer.bin: big_endian", f"bin: {KIND}{TOKENIZER}"),
    ("sample_gpt2.py", "data/x_tokenizer.bin: field 1 1", f"x_tokenizer.bin: {KIND}.*{TOKENIZER}"),
    ("sample_gpt2.py", "data/x_tokenizer.bin: field 2 12", f"bin: damaged, .*{TOKENIZER}"),
    ("sample_gpt2.py", "data/x_tokenizer.bin: field 2 -1", f"bin: damaged, .*{TOKENIZER}"),
    ("sample_gpt2.py", "data/x_tokenizer.bin: field 3 13", f"bin: damaged, .*{TOKENIZER}"),
    ("sample_gpt2.py --weights more.bin", "", "x_tokenizer.bin: has 13 .* knows 14; .*--tokenizer"),
    (f"{TRAIN} --sample-every 1", "data/x_tokenizer.bin: missing", "gpt2_tokenizer.* 14 .* 13; "),
    (f"{TRAIN} --sample-every 1", "data/x_tokenizer.bin: field 2 12", f"damaged, .*{TOKENIZER}"),
    (
        "prepro_text.py text.txt",
        "",
        "gpt2_tokenizer.bin: not GPT-2's vocabulary; delete it and run this",
    ),
    (
        "prepro_text.py text.txt",
        "gpt2_tokenizer.bin: png",
        f"gpt2_tokenizer.bin: {KIND}{TOKENIZER}",
    ),
    (
        "prepro_text.py text.txt",
        "gpt2_tokenizer.bin: cut 1030",
        f"gpt2_tokenizer.bin: .*; {TOKENIZER}",
    ),
    # Prompts; "-" is standard input, and that is text.txt
    ("sample_gpt2.py --prompt abz", "", "--prompt: this model's tokens lack 'z'; leave it out"),
    ("sample_gpt2.py --prompt ab\udcff", "", "--prompt: not UTF-8 text .*; save it as UTF-8"),
    ("sample_gpt2.py --prompt -", "text.txt: cut 17", "--prompt: .*'\\\\n'; leave it out"),
    (
        "sample_gpt2.py --prompt -",
        "text.txt: latin",
        "--prompt: not UTF-8 text .*; save it as UTF-8",
    ),
    ("sample_gpt2.py --prompt -", "text.txt: png", "--prompt: not UTF-8 text .*; save it as UTF-8"),
    # Texts
    (
        "prepro_text.py text.txt",
        "text.txt: missing",
        "text.txt: No such file .*; give the names of text",
    ),
    (
        "prepro_text.py text.txt",
        "text.txt: folder",
        "text.txt: Is a directory; give the names of text",
    ),
    (
        "prepro_text.py text.txt",
        "text.txt: unreadable",
        "text.txt: Permission denied; give the names of",
    ),
    (
        "prepro_text.py text.txt",
        "text.txt: empty",
        "text.txt: empty; give the names of files with text",
    ),
    (
        "prepro_text.py text.txt",
        "text.txt: mark",
        "text.txt: empty; give the names of files with text",
    ),
    ("prepro_text.py text.txt", "text.txt: latin", "text.txt: not UTF-8 text .*; save it as UTF-8"),
    ("prepro_text.py text.txt", "text.txt: utf16", "text.txt: not UTF-8 text .*; save it as UTF-8"),
    ("prepro_text.py text.txt", "text.txt: nul", "text.txt: .*NUL.*; .*UTF-8"),
    ("prepro_text.py text.txt", "text.txt: png", "text.txt: not UTF-8 text .*; save it as UTF-8"),
    (
        "prepro_text.py text.txt",
        "text.txt: pickled",
        "text.txt: not UTF-8 text .*; save it as UTF-8",
    ),
    (
        "prepro_text.py text.txt more.txt",
        "more.txt: empty",
        "more.txt: empty; give the names of files",
    ),
    (
        "prepro_text.py text.txt more.txt",
        "more.txt: latin",
        "more.txt: not UTF-8 text .*; save it as",
    ),
    ("prepro_tinyshakespeare.py", "data/tiny_shakespeare.txt: empty", "speare.txt: empty; delete"),
    ("prepro_tinyshakespeare.py", "data/tiny_shakespeare.txt: latin", "not UTF-8 .*; delete it"),
    ("prepro_tinyshakespeare.py", "data/tiny_shakespeare.txt: folder", "Is a directory; delete it"),
    ("prepro_tinystories.py", f"{STORIES}.tar.gz: empty", "gz: can't be unpacked .*; delete it"),
    ("prepro_tinystories.py", f"{STORIES}.tar.gz: html", "gz: can't be unpacked .*; delete it"),
    ("prepro_tinystories.py", f"{STORIES}.tar.gz: png", "gz: can't be unpacked .*; delete it"),
    ("prepro_tinystories.py", f"{STORIES}.tar.gz: folder", ": Is a directory; "),
    ("prepro_tinystories.py", f"{STORIES}: folder", "all_data: has 0 shards, .*; delete it"),
    ("prepro_tinystories.py --url none", "", "cannot download none: .*; check the address"),
    # Hugging Face's folders
    (HF, "hf/model.safetensors: missing", "hf: has no model.safetensors, .*; save_pretrained"),
    (HF, "hf/model.safetensors: pipe", "hf/model.safetensors: .*; "),
    (
        HF,
        'hf/config.json: says {"n_head":',
        "config.json: not JSON with settings: .*; get it again",
    ),
    (HF, "hf/config.json: says [1]", "config.json: not JSON with settings: .*; get it again"),
    (
        HF,
        'hf/config.json: says {"n_head":5}',
        "hf: not a GPT-2, .*; NH is the n_head of config.json",
    ),
    (HF, 'hf/config.json: says {"model_type":"bert"}', "config.json has model_type 'bert', .*; "),
    (HF, 'hf/config.json: says {"vocab_size":14}', "config.json has vocab_size 14, .*; "),
    (HF, "hf/model.safetensors: word ln_f.bias ln_g.bias", "has no tensor ln_f.bias; "),
    (HF, "hf/model.safetensors: word h.0.ln_1 x.0.ln_1", "hf: not a GPT-2, .*; "),
    (HF, 'hf/model.safetensors: word "F32" "I32"', "its tensor .* is 'I32' .*; "),
    (f"{HF} --seq-len 17", "", "--seq-len 17: hf takes 16 at most; "),
    (f"{HF} --device none", "", "--device none: .*; "),
    (
        "reference_gpt2.py",
        "model.safetensors: png",
        "model.safetensors: does not have .*; delete it",
    ),
    # Debug states
    (
        "test_gpt2.py --weights w.bin",
        "",
        f"state.bin: has [0-9,]+ bytes, its header means .*{STATE}",
    ),
    ("test_gpt2.py", "state.bin: big_endian", f"state.bin: {KIND}{STATE}"),
    ("test_gpt2.py", "state.bin: field 1 1", f"state.bin: {KIND}.*{STATE}"),
    ("test_gpt2.py", "state.bin: field 3 20", f"state.bin: .*; .*{STATE}"),
    ("test_gpt2.py", "state.bin: field 256 101", "state.bin: has tokens outside the vocabulary; "),
    # Logs
    (PLOT, "log.csv: says step,loss", f"log.csv: not a training log; {LOG}"),
    (PLOT, "log.csv: word 4.5 four", "log.csv, line 2: .*'four'; delete that line"),
    (PLOT, "log.csv: word 64, 64,,", "log.csv, line 3: 8 cells, not 7; delete that line"),
    (PLOT, "log.csv: empty", "log.csv: no rows yet; wait for"),
    ("tools/plot_log.py log.csv none.csv -o loss.png", "", f"none.csv: No such file .*; {LOG}"),
    # What is to be written
    (SAVE, "out: missing", f"--save out/w.bin: {NO_FOLDER}"),
    (SAVE, "out: closed", f"--save out/w.bin: {CLOSED_FOLDER}"),
    (SAVE, "out/w.bin: read_only", f"--save out/w.bin: {READ_ONLY}"),
    (SAVE, "out/w.bin: folder", f"--save out/w.bin: {NO_TARGET}"),
    (SAVE, "out/w.bin: pipe", f"--save out/w.bin: {NO_TARGET}"),
    (RESUME, "saved.bin: read_only", f"--save saved.bin: {READ_ONLY}"),
    (f"{TRAIN} --save x.bin --log x.bin", "", "--log x.bin: is the file of --save, too; give"),
    (f"{TRAIN} --save x.bin --log x_best.bin", "", "--log .*: is the file of --save's best, too; "),
    (f"{TRAIN} --save data/x_train.bin", "", "--save .*: is the data, .*, too; give another"),
    (f"{TRAIN} --save data/x_val.bin", "", "--save .*: is the data, .*, too; give another"),
    (f"{TRAIN} --save data/x_tokenizer.bin", "", "--save .*: is the data, .*, too; give another"),
    (f"{TRAIN} --log x.csv --out x.csv", "", ": is the file of --log, too; give another"),
    (f"{TRAIN} --log out/log.csv", "", "--log out/log.csv: is the log of another run; give"),
    (f"{TRAIN} --save {'x' * 247}.bin", "", "--save xxx.*: File name too long; give another"),
    (
        f"{TRAIN} --save {'x' * 240}.bin",
        "",
        "--save's best xxx.*: File name too long; give another",
    ),
    (f"{DRIVEN} --out {'x' * 300}.bin", "", ": File name too long; "),
    (f"{DRIVEN} --out out/w.bin", "out/w.bin: read_only", f"--out out/w.bin: {READ_ONLY}"),
    (f"{DRIVEN} --out out/w.bin", "out: missing", f"--out out/w.bin: {NO_FOLDER}"),
    (f"{DRIVEN} --out out/w.bin", "out/w.bin: folder", f"--out out/w.bin: {NO_TARGET}"),
    (f"{TRAIN} --out out/w.bin", "out: closed", "--out out/w.bin: can't be written; give"),
    (f"{TRAIN} --out out/w.bin", "out: missing", "--out out/w.bin: can't be written; give"),
    (SAVE, "out: sticky", "--save out/w.bin: belongs to another user, .*; give another name"),
    (LOGGED, "out: missing", f"--log out/log.csv: {NO_FOLDER}"),
    (LOGGED, "out: closed", f"--log out/log.csv: {CLOSED_FOLDER}"),
    (LOGGED, "out/log.csv: read_only", f"--log out/log.csv: {READ_ONLY}"),
    (LOGGED, "out/log.csv: folder", f"--log out/log.csv: {NO_TARGET}"),
    (LOGGED, "out/log.csv: png", "--log out/log.csv: exists, and is no log; give another name"),
    (LOGGED, "out/log.csv: empty", "--log out/log.csv: exists, and is no log; give another name"),
    (f"{TRAIN} --log w.bin", "", "--log w.bin: exists, and is no log; give another name"),
    ("tools/plot_log.py log.csv -o out/loss.png", "out: missing", f"out/loss.png: {NO_FOLDER}"),
    ("tools/plot_log.py log.csv -o out/loss.png", "out: closed", f"out/loss.png: {CLOSED_FOLDER}"),
    ("tools/plot_log.py log.csv -o out/loss.png", "out/loss.png: folder", f"loss.png: {NO_TARGET}"),
    (f"{HF} --out out/w.bin", "out: closed", f"--out out/w.bin: {CLOSED_FOLDER}"),
    (f"{HF} --out out/w.bin", "out/w.bin: read_only", f"--out out/w.bin: {READ_ONLY}"),
    (f"{HF} --out out/w.bin", "out/w.bin: folder", f"--out out/w.bin: {NO_TARGET}"),
    (f"{HF} --out out/new/w.bin", "out: closed", f"--out out/new: {CLOSED_FOLDER}"),
    (f"{HF} --out w.bin/new.bin", "", f"--out w.bin/new.bin: {NO_FOLDER}"),
    ("reference_gpt2.py --export w.bin out", "", "out: has .*, which is of no export; give a new"),
    ("reference_gpt2.py --export w.bin out", "out: empty", "out: Not a directory; "),
    ("reference_gpt2.py --export w.bin out/new", "out: closed", "out/new: Permission denied; "),
    ("reference_gpt2.py --small out", "out: empty", "out: File exists; "),
    ("reference_gpt2.py --small out", "out: closed", f"out/small_weights.bin: {CLOSED_FOLDER}"),
    ("prepro_pythondocs.py", "data: closed", "in data: Permission denied; --name FOLDER/NAME"),
    ("prepro_text.py text.txt --bytes", "data: closed", "in data: Permission denied; --name FOLD"),
    ("prepro_pythondocs.py", "data: empty", "data: File exists; "),
]

NUMBER, UNKNOWN = "is not a number from", "unrecognized arguments: "
LEAST = ".* is empty, infinite, or less than"  # train_gpt2.py's own words, for its own flags
FLAGS = [
    ("train_gpt2.py --batch-size 0", f"--batch-size: {LEAST} 1"),
    ("train_gpt2.py --batch-size -1", f"--batch-size: {LEAST} 1"),
    ("train_gpt2.py --batch-size x", "--batch-size: invalid int value: 'x'"),
    ("train_gpt2.py --seq-len 0", f"--seq-len: {LEAST} 1"),
    ("train_gpt2.py --steps -1", f"--steps: {LEAST} 0"),
    ("train_gpt2.py --steps 1.5", "--steps: invalid int value: '1.5'"),
    ("train_gpt2.py --lr nan", f"--lr: {LEAST} 0"),
    ("train_gpt2.py --lr inf", f"--lr: {LEAST} 0"),
    ("train_gpt2.py --lr 1e999", f"--lr: {LEAST} 0"),
    ("train_gpt2.py --lr -1", f"--lr: {LEAST} 0"),
    ("train_gpt2.py --lr", "--lr: expected one argument"),
    ("train_gpt2.py --warmup -1", f"--warmup: {LEAST} 0"),
    ("train_gpt2.py --min-lr-frac nan", f"--min-lr-frac: {LEAST} 0"),
    ("train_gpt2.py --weight-decay nan", f"--weight-decay: {LEAST} 0"),
    ("train_gpt2.py --grad-clip -1", f"--grad-clip: {LEAST} 0"),
    ("train_gpt2.py --grad-clip nan", f"--grad-clip: {LEAST} 0"),
    ("train_gpt2.py --val-every -1", f"--val-every: {LEAST} 0"),
    ("train_gpt2.py --val-batches -1", f"--val-batches: {LEAST} 0"),
    ("train_gpt2.py --sample-every x", "--sample-every: invalid int value: 'x'"),
    ("train_gpt2.py --seed -1", f"--seed: {LEAST} 0"),
    ("train_gpt2.py --out ''", f"--out: {LEAST}"),
    ("tools/driver.py --lr nan", f"--lr: nan {NUMBER} 0"),
    ("tools/driver.py --batch-size 0", f"--batch-size: 0 {NUMBER} 1 to"),
    ("tools/driver.py --steps 1.5", "--steps: invalid whole number value: '1.5'"),
    ("train_gpt2.py --grad-accum 0", f"--grad-accum: 0 {NUMBER} 1 to"),
    ("train_gpt2.py --grad-accum 9999999", f"--grad-accum: 9999999 {NUMBER} 1 to"),
    ("train_gpt2.py --save-every 1", "--save-every: .*; add --save FILE"),
    ("train_gpt2.py --save-every -1 --save w.bin", f"--save-every: -1 {NUMBER} 0 to"),
    ("train_gpt2.py --log=--", "--log: -- is no value for it"),
    ("train_gpt2.py --data=--", "--data: "),
    ("train_gpt2.py --no-such-flag", f"{UNKNOWN}--no-such-flag"),
    ("train_gpt2.py --ste 3", f"{UNKNOWN}--ste 3"),
    (f"{TRAIN} --ste 3", f"{UNKNOWN}--ste 3"),
    ("train_gpt2.py w.bin", f"{UNKNOWN}w.bin"),
    ("train_gpt2.py --init ''", "--init: .*; "),
    ("train_gpt2.py --init w.bin --data ''", "--data: .*; "),
    ("train_gpt2.py --init w.bin --save ''", "--save: .*; "),
    ("train_gpt2.py --init w.bin --log ''", "--log: .*; "),
    ("train_gpt2.py --init w.bin --resume ''", "--resume: .*; "),
    (f"{RESUME} --init w.bin", "--init: goes without --resume, .*; leave one of them out"),
    (f"{RESUME} --lr 1", "--lr: saved.bin was made with 0.0001; leave the flag out"),
    (f"{RESUME} --batch-size 5", "--batch-size: saved.bin was made with 4; leave the flag out"),
    (f"{RESUME} --seq-len 8", "--seq-len: saved.bin was made with 16; leave the flag out"),
    (f"{RESUME} --grad-accum 2", "--grad-accum: saved.bin was made with 1; leave the flag out"),
    (f"{RESUME} --shuffle", "--shuffle: saved.bin was made with False; leave the flag out"),
    (f"{RESUME} --seed 7", "--seed: saved.bin was made with 1337; leave the flag out"),
    ("sample_gpt2.py --tokens -1", f"--tokens: -1 {NUMBER} 0 to"),
    ("sample_gpt2.py --temperature -1", f"--temperature: -1 {NUMBER} 0 to"),
    ("sample_gpt2.py --temperature nan", f"--temperature: nan {NUMBER} 0 to"),
    ("sample_gpt2.py --top-k -1", f"--top-k: -1 {NUMBER} 0 to"),
    ("sample_gpt2.py --top-p 0", "--top-p 0: leaves no token; give more"),
    ("sample_gpt2.py --top-p 1.1", f"--top-p: 1.1 {NUMBER} 0 to 1"),
    ("sample_gpt2.py --samples 0", f"--samples: 0 {NUMBER} 1 to"),
    ("sample_gpt2.py --seed x", "--seed: invalid whole number value: 'x'"),
    ("sample_gpt2.py --wrong", f"{UNKNOWN}--wrong"),
    ("sample_gpt2.py abc", f"{UNKNOWN}abc"),
    ("sample_gpt2.py --weights ''", "--weights: .*; "),
    ("sample_gpt2.py --tokenizer ''", "--tokenizer: .*; "),
    ("prepro_text.py", "arguments are required: FILE"),
    ("prepro_text.py text.txt --name ..", "--name: '..' is no name that files can begin with"),
    ("prepro_text.py text.txt --name ''", "--name: '' is no name that files can begin with"),
    ("prepro_text.py text.txt --bytes --vocab-size 300", "not allowed with argument"),
    ("prepro_text.py text.txt --vocab-size 256", f"--vocab-size: 256 {NUMBER} 257 to 65536"),
    ("prepro_text.py text.txt --val-fraction 1", f"--val-fraction: 1 {NUMBER} 0 to 0.5"),
    ("prepro_text.py text.txt --val-fraction nan", f"--val-fraction: nan {NUMBER} 0 to 0.5"),
    ("prepro_text.py text.txt --wrong", f"{UNKNOWN}--wrong"),
    ("prepro_tinyshakespeare.py --wrong", f"{UNKNOWN}--wrong"),
    ("prepro_tinyshakespeare.py text.txt", f"{UNKNOWN}text.txt"),
    ("prepro_tinystories.py --workers 0", f"--workers: 0 {NUMBER} 1 to"),
    ("prepro_tinystories.py --wrong", f"{UNKNOWN}--wrong"),
    ("prepro_pythondocs.py --wrong", f"{UNKNOWN}--wrong"),
    ("reference_gpt2.py --model gpt3", "--model: gpt3 is none of gpt2, "),
    ("reference_gpt2.py --model d0", "--model: d0 is none of gpt2, "),
    ("reference_gpt2.py --model none.bin", "--model: none.bin is none of gpt2, "),
    ("reference_gpt2.py --model ''", "--model: .*; "),
    ("reference_gpt2.py --batch-size 0", f"--batch-size: 0 {NUMBER} 1 to"),
    ("reference_gpt2.py --steps 0", f"--steps: 0 {NUMBER} 1 to"),
    ("reference_gpt2.py --lr nan", f"--lr: nan {NUMBER} 0 to"),
    ("reference_gpt2.py --dtype float8", "--dtype: invalid choice: 'float8'"),
    ("reference_gpt2.py --export w.bin", "--export: expected 2 arguments"),
    ("reference_gpt2.py --wrong", f"{UNKNOWN}--wrong"),
    ("reference_gpt2.py --train --steps -1", f"--steps: -1 {NUMBER} 0 to"),
    ("reference_gpt2.py --train --model d2", f"{UNKNOWN}--model d2"),
    ("test_gpt2.py --wrong", f"{UNKNOWN}--wrong"),
    ("test_gpt2.py small.bin", f"{UNKNOWN}small.bin"),
    ("test_gpt2.py --state", "--state: expected one argument"),
    ("tools/plot_log.py -o loss.png", "arguments are required: log.csv"),
    ("tools/plot_log.py log.csv", "arguments are required: -o"),
    (
        "tools/plot_log.py log.csv -o loss.jpg",
        "-o loss.jpg: must end in one of .html, .png, .svg, .pdf",
    ),
    ("tools/benchmark.py --model gpt2", "--model: gpt2 is not dN"),
    ("tools/benchmark.py --batch-size 0", f"--batch-size: 0 {NUMBER} 1 to"),
    ("tools/benchmark.py --seq-len 1025", f"--seq-len: 1025 {NUMBER} 1 to 1024"),
    ("tools/benchmark.py --runs 0", f"--runs: 0 {NUMBER} 1 to"),
    ("tools/benchmark.py --tokens 0", f"--tokens: 0 {NUMBER} 1 to 1024"),
    ("tools/benchmark.py --command ''", "--command: .*; "),
    ("tools/benchmark.py --command none.exe", "--command: .*none.exe.*; "),
    ('tools/benchmark.py --command "\'"', "--command: .*; "),
    ("tools/benchmark.py --wrong", f"{UNKNOWN}--wrong"),
]

NO_NETWORK = [
    ("prepro_text.py text.txt", "gpt2_tokenizer.bin: missing", "cannot reach openaipublic"),
    ("prepro_tinyshakespeare.py", "gpt2_tokenizer.bin: missing", "cannot reach openaipublic"),
    ("prepro_tinyshakespeare.py", "data/tiny_shakespeare.txt: missing", "cannot reach raw.github"),
    ("prepro_tinystories.py", "", "cannot reach huggingface.co"),
    ("reference_gpt2.py", "", "cannot reach 127.0.0.1"),
    ("reference_gpt2.py --model gpt2-xl", "", "cannot reach 127.0.0.1"),
]

# The same commands with good files do their work: it is for what is wrong that the others fail
LEGAL = [
    (TRAIN, "", ""),
    (f"{TRAIN} --sample-every 1", "", ""),
    (DRIVEN, "", ""),
    ("train_gpt2.py --init half.bin", "", ""),
    ("train_gpt2.py --init old.bin", "", ""),
    (RESUME, "", ""),
    (f"{RESUMES} saved.bin", "", ""),
    (f"{RESUMES} flags.bin", "", ""),
    (f"{RESUMES} outside.bin --data data/x", "", ""),
    (SAVE, "", ""),
    (f"{TRAIN} --log out/new.csv", "", ""),
    ("sample_gpt2.py --prompt 'abc. jihg fed. a'", "", "w.bin: 368 parameters\n"),
    (
        "sample_gpt2.py --prompt 'abc. jihg fed. ab'",
        "",
        "w.bin: .*\nsample_gpt2.py: --prompt: the model sees only its newest 16 tokens\n",
    ),
    ("reference_gpt2.py --model hf.safetensors --weights-only", "", ""),
    (HF, "", ""),
    (f"{HF} --out new/more/w.bin --weights-only", "", ""),
    ("reference_gpt2.py --export w.bin new", "", ""),
    ("reference_gpt2.py --train --data data/x --init w.bin --sample-every 1", "", ""),
    ("test_gpt2.py", "", ""),
    (PLOT, "", ""),
    ("prepro_text.py text.txt --bytes", "", ""),
    ("prepro_pythondocs.py", "", ""),
]
CASES = [
    (status, *row)
    for status, rows in (
        (0, LEGAL),
        (1, FOREIGN + UNREAD + CUTS + FILES),
        (2, [(command, "", says) for command, says in FLAGS]),
        (3, NO_NETWORK),
    )
    for row in rows
]

# ----------------------------------------------------------------------------
# The driver: a process that imports once what takes long, and forks for each row


IMPORTS = {  # here, and not only in its forks, where NOBODY may not be allowed to read them
    "train_gpt2.py": ["pkgutil", "tqdm", "tools.driver"],
    "prepro_text.py": ["pkgutil", "encodings.utf_8_sig"],
    "prepro_pythondocs.py": ["pydoc_data.topics"],
    "tools/plot_log.py": ["matplotlib.backends.backend_agg", "matplotlib.figure"],
    "reference_gpt2.py": ["torch._dynamo", "reference_gpt2"],
}


def contents(folder):
    """What is there, but for Python's own files: path -> mode, bytes, and when it was written."""
    found = {}
    for path in folder.rglob("*"):
        if "__pycache__" not in path.parts:
            stat, data = path.lstat(), None
            if path.is_file() and os.access(path, os.R_OK):
                data = path.read_bytes()
            found[str(path.relative_to(folder))] = (
                stat.st_mode, data, None if path.is_dir() else stat.st_mtime_ns
            )  # fmt: skip
    return found


def remove(path):
    if not path.is_dir():
        return path.unlink()
    for folder in path, *filter(Path.is_dir, path.rglob("*")):
        folder.chmod(0o777)
    shutil.rmtree(path)


def run_here(command, as_nobody):
    """In a forked process: run the program as Python does. Doesn't return."""
    status = 1
    try:
        signal.alarm(SECONDS)
        if as_nobody and os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        sys.argv, sys.path[0] = command, str(Path(command[0]).resolve().parent)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        runpy.run_path(command[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = 0 if end.code is None else end.code
        if isinstance(status, str):  # as Python does with what is no number
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def run(folder, command, as_nobody):
    """Run a program in the folder -> exit status, standard output, standard error."""
    name = folder / "text.txt" if command[-1] == "-" else os.devnull
    with open(name) as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if hasattr(os, "fork"):
            child = os.fork()
            if not child:
                os.chdir(folder)
                for i, file in enumerate((stdin, out, err)):
                    os.dup2(file.fileno(), i)
                run_here(command, as_nobody)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            optimize = ["-O"] * sys.flags.optimize
            status = subprocess.run(
                [sys.executable, *optimize, *command],
                cwd=folder, stdin=stdin, stdout=out, stderr=err, timeout=SECONDS,
            ).returncode  # fmt: skip
        texts = []
        for file in out, err:
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return status, *texts


def drive(good, work, rows):
    """
    Run rows on good files but for one, rows being their numbers -> for each of these the status,
    stdout, stderr, and what was changed; or what it needs that is not there.
    """
    make_good_files(good)
    remove(work)
    shutil.copytree(good, work)
    results = {}
    # Those that need PyTorch come last: with it, a fork takes three times as long
    for i in sorted(rows, key=lambda i: "reference" in CASES[i][1]):
        _, command, what, _ = CASES[i]
        program, *flags = shlex.split(command)
        file, damage, *how = what.replace(": ", " ").split() if what else ("", "")
        try:
            for name in IMPORTS.get(program, ()):
                importlib.import_module(name)
        except ImportError:
            results[i] = f"needs {name}"
            continue
        if damage in NEED_POSIX and os.name != "posix":
            results[i] = "needs the files of POSIX"
            continue
        if what:
            globals()[damage](work / file, *how)
        before = contents(work)
        flags = [*BASE.get(program, "").split(), *flags]
        done = run(work, [program, *flags], damage in PERMISSIONS)
        after = contents(work)
        changed = [path for path in before | after if before.get(path) != after.get(path)]
        results[i] = *done, sorted(changed)
        for path in {Path(path).parts[0] for path in [*changed, file] if path}:
            if (work / path).exists():
                remove(work / path)
            if (good / path).exists():
                copy = shutil.copytree if (good / path).is_dir() else shutil.copy2
                copy(good / path, work / path)
    return results


if __name__ == "__main__":
    print(json.dumps(drive(*map(Path, sys.argv[1:3]), map(int, sys.argv[3:]))))

# ----------------------------------------------------------------------------
# Tests


@pytest.fixture(scope="module")
def drivers(request):
    """A driver for each way to start Python; not in pytest's folders, which NOBODY may open."""
    items = request.session.items
    tests = [i for i in items if i.module is request.module and "row" in i.fixturenames]
    rows = {str(item.callspec.params["row"]) for item in tests}  # what -k leaves of them
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env |= dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HF_ENDPOINT"), CLOSED)
    env |= {"PYTHONIOENCODING": "utf-8", "TIKTOKEN_CACHE_DIR": "no_cache", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        os.chmod(name, 0o755)
        processes = {}
        for mode, flags in MODES.items():
            good, work = (Path(name).resolve() / mode / which for which in ("good", "work"))
            env["PYTHONPATH"] = str(make_project(work))  # where its modules are to be from
            command = [sys.executable, *flags, __file__, good, work, *rows]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            process = subprocess.Popen(command, env=env, cwd=name, encoding="utf-8", **pipes)
            processes[mode] = stack.enter_context(process)
            stack.callback(process.kill)
        yield processes


@pytest.fixture(scope="module", params=MODES)
def results(drivers, request):
    out, err = drivers[request.param].communicate(timeout=600)
    assert drivers[request.param].returncode == 0, err
    return json.loads(out)


@pytest.mark.parametrize("row", range(len(CASES)), ids=lambda i: ascii("  ".join(CASES[i][1:3])))
def test_row(results, row):
    (status, command, _, says), result = CASES[row], results[str(row)]
    if isinstance(result, str):
        pytest.skip(result)
    ended, _, err, changed = result
    assert "Traceback" not in err, err
    assert ended == status, err
    if status == 0:
        assert re.fullmatch(says, err), err
        return
    name = Path(command.split()[0]).name.replace("driver", "train_gpt2")
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert re.match(f"{name}: .*{says}", err), err
    assert status == 2 or "; " in err  # behind which is what helps
    assert not changed


MISTAKES = [i for i, (status, *_) in enumerate(CASES) if status]  # the rows that say something


@functools.cache
def status_of_help(command):
    """Return the exit status of a command with --help behind it, which does and loads nothing."""
    words = [sys.executable, *shlex.split(command), "--help"]
    return subprocess.run(words, cwd=PROJECT, capture_output=True).returncode


@pytest.mark.parametrize("row", MISTAKES, ids=lambda i: ascii("  ".join(CASES[i][1:3])))
def test_hint_names_what_there_is(results, row):
    """Programs that a line names exist, and know the flags that it names; its commands run."""
    command = CASES[row][1]
    if isinstance(results[str(row)], str):
        pytest.skip(results[str(row)])
    hint = results[str(row)][2].partition("; ")[2]
    programs = set(re.findall(r"\w+\.py", hint))
    paths = {
        path.name: path for folder in (PROJECT, PROJECT / "tools") for path in folder.glob("*.py")
    }
    assert programs <= paths.keys(), hint
    known = {command.split()[0], *(str(paths[name].relative_to(PROJECT)) for name in programs)}
    if "train_gpt2.py" in known or "--train" in command:
        known.add("tools/driver.py")
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", hint)) - {"--help"}
    assert flags <= {flag for program in known for flag in flags_of(program)}, hint
    for named in re.findall("`python ([^`]*)`", hint):
        assert status_of_help(named) == 0, named


@pytest.mark.parametrize("text", ["abc " * 500, "abc", "\n" * 9, "a\u2028b\x0c", "\ufeffabc\r\n"])
def test_odd_texts_that_are_legal(tmp_path, text):
    """Without newlines, for one."""
    import prepro_text

    (tmp_path / "x.txt").write_text(text, encoding="utf-8", newline="")
    prepro_text.main([str(tmp_path / "x.txt"), "--bytes", "--name", str(tmp_path / "x")])
    train, val = (formats.load_tokens(tmp_path / f"x_{s}.bin")[0] for s in ("train", "val"))
    tokens = [*train.tolist(), *val.tolist()]
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    assert tokens[0] == 256 and bytes(tokens[1:]) == text.encode()
