"""
What users do wrong: a table of bad files, sizes, targets and flags for all programs, and what each
is to say, in one line. The exit status is 1; for flags it is 2, without a network or a
package 3. There is no traceback, and nothing is written or changed. (`python -O` does the same,
because ruff lets no program have an assert that a mistake could meet.)

    pytest tests/test_bad_input.py -k plot_log        # the rows of one program
"""

import contextlib
import functools
import importlib
import json
import os
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import train_gpt2 as gpt2
from tools import checkpoints, formats, huggingface, log, tensor_file
from variants import llama_files

import numpy as np
import pytest
from helpers import (
    CLOSED,
    LETTERS,
    NOBODY,
    PROJECT,
    V,
    add_data,
    llama2c_bytes,
    make_project,
    random_tensors,
    weight_bytes,
    write_llama_folder,
    write_tokenizer,
    write_tokens,
)
from test_help import flags_of

SECONDS = 30  # for a row; most take a few hundredths

# ----------------------------------------------------------------------------
# A project with good files

CONFIG = gpt2.GPT2Config(maxT=16, V=V, L=1, NH=1, C=4)
HF_CONFIG = CONFIG._replace(C=64)
BASE = {  # flags that each program gets first, so that a row has only those that matter
    "train_gpt2.py": "--data data/x --seq-len 16 --steps 3 --val-every 0 --sample-every 0",
    "tools/train.py": "--seq-len 16 --steps 3 --val-every 0 --sample-every 0",
    "sample_gpt2.py": "--weights w.bin --tokenizer data/x_tokenizer.bin --tokens 3",
    "reference_gpt2.py": "--seq-len 16 --batch-size 1 --steps 3",
    "test_gpt2.py": "--weights small.bin --state state.bin",
    "tools/evaluate.py": "--weights w.bin",
    "tools/benchmark.py": "--model d1 --batch-size 1 --seq-len 8 --runs 1",
    "variants/train_llama.py": "--init llama.bin --data data/x --seq-len 16 --steps 3 --out l.bin",
}


def make_good_files(folder):
    """
    Weights: w.bin; half.bin and old.bin, in versions 5 and 1; small.bin, with state.bin.
    Checkpoints: saved.bin; other.bin, of other data; outside.bin, of data elsewhere; more.bin, of a
    larger vocabulary. A Llama: llama.bin, and llama, a folder of Hugging Face's. Data: x; y, of a
    larger vocabulary; few, of few tokens; parts, of two vocabularies. hf is a folder of Hugging
    Face's, and in out there are a weight file, a log and a picture to be overwritten.
    """
    add_data(add_data(make_project(folder), "x"), "y")
    for split in "train", "val":
        tokens, _ = formats.load_tokens(folder / "data" / f"y_{split}.bin")
        write_tokens(folder / "data" / f"y_{split}.bin", tokens.tolist(), V + 1)
        write_tokens(folder / "data" / f"few_{split}.bin", [1] * 64)
    for i in range(2):
        write_tokens(folder / "data" / f"parts_train_{i}.bin", [1] * 64, V + i)
    for name in "data/y_tokenizer.bin", "gpt2_tokenizer.bin":
        write_tokenizer(folder / name, [*LETTERS, b"more"])

    for name, version, kind in ("w", 3, "<f4"), ("old", 1, "<f4"), ("half", 5, "<u2"):
        made = random_tensors(CONFIG, kind=kind)
        padding = b"" if version == 1 else made["wte"].itemsize * b"\0"
        (folder / f"{name}.bin").write_bytes(weight_bytes(CONFIG, version, made, padding))
    settings = {"batch_size": 4, "seq_len": 16, "steps": 2, "lr": 1e-4, "seed": 1337}
    settings = checkpoints.SETTINGS | settings
    more = CONFIG._replace(V=V + 1)
    for name, config, data in (
        ("saved.bin", CONFIG, "x"), ("other.bin", CONFIG, "few"), ("more.bin", more, "x"),
        ("outside.bin", CONFIG, "../x"),
    ):  # fmt: skip
        tokens, _ = formats.load_tokens(folder / "data" / f"{Path(data).name}_train.bin")
        run = {"data": f"data/{data}", "digest": checkpoints.digest([tokens])}
        text = json.dumps({"step": 2, **run, "settings": settings}, separators=(",", ":")).encode()
        m = random_tensors(config)
        v = {name: abs(array) for name, array in m.items()}
        (folder / name).write_bytes(weight_bytes(config, 3, m, bytes(4), (m, v), text))
    config = llama_files.LlamaConfig(8, 4, 1, 2, 1, V, 16, False)
    shapes = llama_files.tensor_shapes(config)
    llama = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    (folder / "llama.bin").write_bytes(llama2c_bytes(llama, config, 1))
    write_llama_folder(folder / "llama", llama, config)
    (folder / "tests").mkdir()
    for name, copy in ("small_weights.bin", "small.bin"), ("small_state.bin", "state.bin"):
        shutil.copy(PROJECT / "tests" / name, folder / "tests")
        shutil.copy(PROJECT / "tests" / name, folder / copy)

    (folder / "hf").mkdir()
    views = [*huggingface.hf_views(gpt2.init_weights(HF_CONFIG), HF_CONFIG)]
    for path in folder / "hf.safetensors", folder / "hf" / "model.safetensors":
        tensor_file.write(path, views)
    (folder / "hf" / "config.json").write_text('{"n_head": 1}')
    for name in "text.txt", "more.txt", "data/tiny_shakespeare.txt":
        (folder / name).write_text("abc. jihg fed. \n" * 20)
    (folder / "log.csv").write_text(f"{log.COLUMNS}\n0,0,4.5,4.5,0.1,1,1,,\n1,64,4,,0.1,1,1,,\n")
    (folder / "out").mkdir()
    for name, copy in ("w.bin", "w.bin"), ("w.bin", "w_best.bin"), ("log.csv", "log.csv"):
        shutil.copy(folder / name, folder / "out" / copy)
    (folder / "out" / "loss.png").write_bytes(CONTENTS["png"])
    for path in folder, folder / "out":
        path.chmod(0o777)


# ----------------------------------------------------------------------------
# What is wrong with a file; a row names it, and what it needs to know besides

PNG = struct.pack(">8sI4s2I5B", b"\x89PNG\r\n\x1a\n", 13, b"IHDR", 640, 480, 8, 2, 0, 0, 0)
CONTENTS = {
    "empty": b"",
    "png": PNG + random.Random(0).randbytes(3000),
    "html": b"<!DOCTYPE html>\n<html>" + b"<p>404 Not Found</p>\n" * 100 + b"</html>\n",
    "latin": "Zoë. ".encode("latin-1") * 9,
    "utf16": ("\ufeff" + "abc. " * 9).encode("utf-16-le"),
    "nul": ("abc. " * 9).encode("utf-16-le"),  # valid UTF-8, too
    "mark": b"\xef\xbb\xbf",
}
PERMISSIONS = {"unreadable": 0, "read_only": 0o444, "closed": 0o555}
NEED_POSIX = (*PERMISSIONS, "pipe")


def damage(path, how, *words):
    """Put other bytes at a path, or none, or change its mode, or call one of the functions."""
    if how in PERMISSIONS:
        path.chmod(PERMISSIONS[how])
    elif how in CONTENTS:
        has(path, CONTENTS[how])
    else:
        globals()[how](path, *words)


def missing(path):
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def has(path, data):
    missing(path)
    path.write_bytes(data)


def folder(path):
    missing(path)
    path.mkdir()


def pipe(path):
    missing(path)
    os.mkfifo(path)


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


def few_tokens(path, count):
    write_tokens(path, [1] * int(count))


def many_tokens(path):
    """All of one letter and of two, and end-of-text: more than 16 bits can tell."""
    letters = [bytes([i]) for i in range(256)]
    write_tokenizer(path, [*letters, *(a + b for a in letters for b in letters), b"<end>"])


def about(path, old, new):
    """Other words in what a checkpoint says about its run."""
    data = path.read_bytes()
    at = len(data) - struct.unpack_from("<i", data, 32)[0]
    text = data[at:].replace(old.encode(), new.encode())
    has(path, data[:32] + struct.pack("<i", len(text)) + data[36:at] + text)


def word(path, old, new):
    has(path, path.read_bytes().replace(old.encode(), new.encode()))


# ----------------------------------------------------------------------------
# Rows: the program with its flags; the file that is wrong, and how; a pattern for the line

WEIGHTS = "`python reference_gpt2.py` makes gpt2_124M.bin"
STATE = "`python reference_gpt2.py` makes gpt2_124M_debug_state.bin"
TOKENS = "prepro_tinyshakespeare.py makes the default one, prepro_text.py one of your own text"
TOKENIZER = "the script that made the token files makes it, too; for GPT-2's, reference_gpt2.py"
CHECKPOINT = "give a checkpoint that `python tools/train.py --save FILE` made"
LOG = "`python tools/train.py --log FILE` writes a log"
KIND = "not a file of the kind or version expected here; "
NAN = "field 256 2143289344"  # its bits, behind the header
NAN_OF_LLAMA = "field 70 2143289344"  # in version 1, whose header is shorter
OTHER_KIND = r"not a file of the kind and version expected here \(doc/files.md\)"  # the lesson's
NOTHING = "there is no file of this name; "
DAMAGED = "not a safetensors file, or damaged: .*; get it again"

LESSON, TRAIN = "train_gpt2.py --init w.bin", "tools/train.py --data data/x --init w.bin"
RESUMES = "tools/train.py --resume"  # of a checkpoint's own data
RESUME = f"{RESUMES} saved.bin --data data/x"
LLAMA, NO_LLAMA = "variants/train_llama.py", "not a weight file of llama2.c; "
SAMPLE, CONVERT = "sample_gpt2.py --weights llama.bin", "variants/convert_llama.py"
LLAMA_FILE = "`python variants/train_llama.py --out FILE` writes one"
EVALUATE = "tools/evaluate.py"
HF, PLOT = "reference_gpt2.py --model hf", "tools/plot_log.py log.csv -o"
X_TRAIN, X_VAL, X_TOKENIZER = (f"data/x_{what}.bin" for what in ("train", "val", "tokenizer"))

# Whatever reads a file, given what is no such file: program, file, what it says of it, what helps
READERS = [
    *((LESSON, file, OTHER_KIND, "") for file in ("w.bin", X_TRAIN, X_VAL, X_TOKENIZER)),
    (TRAIN, "w.bin", KIND, WEIGHTS),
    (RESUME, "saved.bin", KIND, CHECKPOINT),
    *((TRAIN, file, f"({KIND}|not a token file, )", TOKENS) for file in (X_TRAIN, X_VAL)),
    (f"{TRAIN} --sample-every 1", X_TOKENIZER, KIND, TOKENIZER),
    ("sample_gpt2.py", "w.bin", KIND, WEIGHTS),
    ("sample_gpt2.py", X_TOKENIZER, KIND, TOKENIZER),
    ("reference_gpt2.py --model hf.safetensors", "hf.safetensors", DAMAGED, ""),
    (HF, "hf/model.safetensors", DAMAGED, ""),
    (HF, "hf/config.json", "not JSON with settings: .*; get it", ""),
    ("reference_gpt2.py --export w.bin new", "w.bin", KIND, WEIGHTS),
    ("test_gpt2.py", "small.bin", KIND, WEIGHTS),
    ("test_gpt2.py", "state.bin", KIND, STATE),
    (f"{PLOT} loss.png", "log.csv", "not a training log; ", LOG),
    *((p, "llama.bin", NO_LLAMA, LLAMA_FILE) for p in (LLAMA, f"{CONVERT} llama.bin x")),
    (SAMPLE, X_TOKENIZER, "not a tokenizer file, ours or llama2.c's, of 13 tokens; ", ""),
    *((x, "llama/model.safetensors", DAMAGED, "") for x in (SAMPLE[:-4], f"{CONVERT} llama x.bin")),
    (f"{CONVERT} llama x.bin", "llama/config.json", "not JSON with settings: .*; get it again", ""),
]
FOREIGN = [
    (program, f"{file}: {how}", f"{file}: {wrong}.*{helps}")
    for program, file, wrong, helps in READERS
    for how in ("png", "html")
]
MODELS = "hf/model.safetensors", "llama/model.safetensors"
MAY_BE_MISSING = X_TOKENIZER, "hf/config.json", *MODELS
UNREAD = [
    (program, f"{file}: {how}", f"(?=.*{file}).*{wrong}")
    for program, file, _, _ in READERS
    for how, wrong in (
        ("missing", "([Nn]o such file|there is no file of this name)"),
        (
            "folder",
            "(there is no file of this name|Is a directory|[Nn]o such file|has no |no file; give)",
        ),
        ("unreadable", "Permission denied"),
    )
    if how != "missing" or file not in MAY_BE_MISSING
]

# What else may be wrong with a file of a kind is in test_formats.py, of which these are examples
SHORT = "has [0-9,]+ bytes, its header means [0-9,]+; "
CUTS = [
    (program, f"{file}: cut -1", f"{file}: {says}")
    for program, file, says in [
        (LESSON, "w.bin", "damaged or cut short, its header says "),
        (LESSON, X_TRAIN, "damaged, its header says 901 tokens, all below 13"),
        (TRAIN, "w.bin", SHORT + WEIGHTS), (RESUME, "saved.bin", SHORT + CHECKPOINT),
        *((TRAIN, file, SHORT + TOKENS) for file in (X_TRAIN, X_VAL)),
        ("sample_gpt2.py", X_TOKENIZER, f"damaged.*{TOKENIZER}"),
        ("test_gpt2.py", "state.bin", SHORT + STATE), (HF, "hf/model.safetensors", DAMAGED),
        (LLAMA, "llama.bin", "has [0-9,]+ bytes, .*"),
    ]
]  # fmt: skip

SAVE, LOGGED, OUT = (
    f"{TRAIN} --{x}" for x in ("save out/w.bin", "log out/log.csv", "out out/w.bin")
)
STORIES, TEXT = "data/TinyStories_all_data", "prepro_text.py text.txt"
PROMPT = "sample_gpt2.py --prompt"
SHAKESPEARE, DOCS = "prepro_tinyshakespeare.py", "prepro_pythondocs.py"
REVERSE = "prepro_reverse.py"
NO_FOLDER, CLOSED_FOLDER = "there is no such folder; make it", "no permission to write there; give"
NO_TARGET, READ_ONLY = "this is a folder, a device, .*; give the name", "is read-only; give another"
NO_CHECKPOINT = rf"saved.bin: damaged, at its end \(.*\); {CHECKPOINT}"
DIFFER, NOT_FOR = (
    "V=13, data/[xy]: .*14.*; try --init d4",
    "--seq-len .* or --batch-size .* is too large, or",
)
NOT_TEXT, REPLACED = "not UTF-8 text .*; ", "there is a file of another kind, .*; give another"
TOO_LONG = "File name too long; "
FILES = [
    # The lesson
    (LESSON, f"w.bin: {NAN}", "step 0: loss nan, .*; try a lower --lr"),
    ("train_gpt2.py --init d0", "", "No such file or directory: 'd0'"),
    (LESSON, f"{X_VAL}: field 3 14", f"w.bin: {DIFFER}"),
    (LESSON, f"{X_TOKENIZER}: missing", f"No such file or directory: .{X_TOKENIZER}"),
    (f"{LESSON} --data data/y", "", f"w.bin: {DIFFER}"),
    *((f"{LESSON} --batch-size {n}", "", NOT_FOR) for n in (29, 0)),
    *((f"{LESSON} --seq-len {n}", "", NOT_FOR) for n in (17, -1)),
    (f"{LESSON} --init d1 --lr 1e20", "", "step [12]: loss .*; try a lower --lr"),
    (f"{TRAIN} --init d1 --lr 300", "", r"step [12]: loss \d.*, where guessing has 2.56; .* --lr"),
    *(
        (f"{LESSON} --init d1 --lr 1e20 {x}", "", "val loss nan, .* not saved; .* --lr")
        for x in ("--steps 1", "--sample-every 1")
    ),
    (f"{LESSON} --out out/w.bin", "out: closed", "Permission denied: .out/w.bin.part"),
    *((f"{LESSON} --{x} -1", "", f"--{x} -1.*: below 0; give") for x in ("steps", "seed")),
    (f"{LESSON} --out out/w.bin", "out: missing", "--out out/w.bin: there is no such folder; make"),
    # Strings and their reverse
    (f"{REVERSE} --check w.bin", "", "reverse_val.bin: has no strings held out; `python pr"),
    (f"{REVERSE} --check w.bin --name x", "", "x_val.bin: has no strings held out; `pyth"),
    # Llama
    (f"{LLAMA} --init llama", "", "llama: .*, but a folder; .*convert_llama.py llama llama.bin"),
    (LLAMA, "llama.bin: field 1 2", "llama.bin: version 2 of llama2.c's weights, and only 0 and"),
    *(
        (LLAMA, f"llama.bin: {how}", "llama.bin: (has [0-9,]+ bytes, )?.*not a weight file of lla")
        for how in ("longer", "field 3 0", "field 4 5", "field 5 3", "field 6 0", "field 7 -1")
    ),
    (LLAMA, f"llama.bin: {NAN_OF_LLAMA}", "val loss nan, .* not saved; try a lower --lr"),
    (SAMPLE, f"llama.bin: {NAN_OF_LLAMA}", "llama.bin: its weights are not all finite; go back"),
    (SAMPLE, "llama.bin: longer", "llama.bin: has [0-9,]+ bytes, its header means"),
    (f"{LLAMA} --init d2 --kv-heads 3", "", "--kv-heads 3: does not divide the 2"),
    (f"{LLAMA} --init d1 --lr 1e20", "", "step [12]: loss .*; try a lower --lr"),
    (f"{LLAMA} --seq-len 17", "", f"llama.bin, data/x: {NOT_FOR}"),
    (f"{LLAMA} --init d1 --seq-len 0", "", f"d1, data/x: {NOT_FOR}"),
    (f"{LLAMA} --data data/y", "", f"llama.bin: {DIFFER}"),
    *((f"{LLAMA} --out {x}", "", f"--out {x}: there is a file of another kind, which is not repl")
      for x in ("w.bin", X_TRAIN)),
    (f"{LLAMA} --out none/x.bin", "", "--out none/x.bin: there is no such folder; make it"),
    (f"{SAMPLE} --prompt x", "", "--prompt: this model's tokens lack 'x'; leave it out"),
    (f"{EVALUATE} --weights llama.bin --text text.txt --tokenizer data/x_tokenizer.bin",
     "text.txt: says x", "text.txt: this model's tokens lack 'x'; leave it out"),
    (f"{SAMPLE} --tokenizer none", "", f"none: {NOTHING}give another --tokenizer"),
    (f"{SAMPLE} --tokenizer data/y_tokenizer.bin", "", "has 14 tokens, llama.bin knows 13; give"),
    (f"{CONVERT} llama.bin data", "", "data: has .*, which is of no export; give a new folder"),
    (f"{CONVERT} none x.bin", "", f"none: {NOTHING}{LLAMA_FILE}"),
    (f"{CONVERT} llama.bin none/x.bin", "", "none/x.bin: there is no such folder; make it first"),
    (f"{CONVERT} llama.bin x.bin --tokenizer data/y_tokenizer.bin", "", "14 tokens, .* 13; give"),
    # Weights
    (TRAIN, "w.bin: pipe", f"w.bin: {NOTHING}{WEIGHTS}"),
    *(
        (program, f"w.bin: {NAN}", "w.bin: its weights are not all finite; go back")
        for program in (TRAIN, "sample_gpt2.py")
    ),
    (f"{TRAIN} --init {X_TRAIN}", "", f"x_train.bin: {KIND}{WEIGHTS}"),
    (f"{TRAIN} --init d0", "", f"d0: {NOTHING}"),
    # Checkpoints
    *(
        (f"{RESUMES} {x}.bin", "", f"{x}.bin: says nothing of a run; .*--init {x}.bin")
        for x in ("w", "half")
    ),
    (f"{RESUMES} other.bin --data data/x", "", "other.bin: was trained on other tokens .*; give"),
    (f"{RESUMES} more.bin", "", "--data has 13 .* tokens, more.bin 14; "),
    (f"{RESUME} --data data/y", "", "--data has 14 different tokens, saved.bin 13; "),
    (f"{RESUME} --data data/few", "", "data/few_train has 64 tokens where .* 65; lower --batch"),
    (f"{RESUME} --steps 2", "", "saved.bin: has its 2 steps; a larger --steps goes on"),
    # What a stranger may have written into a checkpoint
    *(
        (RESUME, f"saved.bin: {what}", NO_CHECKPOINT)
        for what in [
            'about "lr" "log":"new.csv","lr"',  # keys that are not known
            'about "step" "save":"train_gpt2.py","step"',
            *(f"about 0.0001 {x}" for x in ("true", "NaN", "-1", "9" * 400)),
            *(f'about "step":2 {x}' for x in ('"step":stop', '"step":-2', '"steps":2')),
            'about "settings" "settings":7,"set"',
        ]
    ),
    # Tokens, and their vocabularies
    (TRAIN, f"{X_VAL}: pipe", f"x_val.bin: {NOTHING}{TOKENS}"),
    *(
        (TRAIN, f"data/x_{split}.bin: {how}", wrong)
        for split in ("train", "val")
        for how, wrong in (
            ("few_tokens 64", f"x_{split} has 64 tokens where .* 65; lower --batch-size"),
            ("field 3 14", "data/x: has 1[34] and 1[34] different tokens; prepare both again"),
        )
    ),
    (f"{TRAIN} --data data/none", "", f"data/none_train.bin: {NOTHING}{TOKENS}"),
    (f"{TRAIN} --data data/y", "", "--data has 14 different tokens, w.bin 13; "),
    (f"{TRAIN} --data data/parts", "", "parts_train: its files have 13 and 14 different tokens; "),
    (f"{TRAIN} --batch-size 29", "", "data/x_val has 451 tokens where .* 465; lower --batch-size"),
    (f"{TRAIN} --seq-len 17", "", "--seq-len 17: w.bin takes 16 at most; "),
    (f"{TRAIN} --init d1 --seq-len 902", "", "x_train has 901 .* 3,609; .*--seq-len"),
    (f"{TRAIN} --init d1 --lr 1e18", "", "step [12]: loss .*; .*--lr"),
    *(
        (f"{TRAIN} --init d1 --lr 1e20 {x}", "", "the loss is nan on .*x_val, and .*; .*--lr")
        for x in ("--steps 1", "--val-every 1", "--save new.bin --save-every 1")
    ),
    (f"{TRAIN} --init d1 --lr 1e20 --sample-every 1", "", "logits are not finite; .*--lr"),
    # Tokenizers
    ("sample_gpt2.py --weights more.bin", "", "x_tokenizer.bin: has 13 .* knows 14; .*--tokenizer"),
    (f"{TRAIN} --sample-every 1", f"{X_TOKENIZER}: missing", "gpt2_tokenizer.* 14 .* 13; "),
    (TEXT, "", "gpt2_tokenizer.bin: not GPT-2's vocabulary; delete it and run this"),
    (TEXT, "gpt2_tokenizer.bin: png", f"gpt2_tokenizer.bin: {KIND}{TOKENIZER}"),
    (f"{TEXT} --tokenizer {X_TOKENIZER}", "", "lacks 244 of the 256 bytes, .*; give another"),
    (f"{TEXT} --tokenizer {X_TOKENIZER}", f"{X_TOKENIZER}: many_tokens", "has 65,793 .*; give"),
    # Prompts; "-" is standard input, and that is text.txt
    (f"{PROMPT} abz", "", "--prompt: this model's tokens lack 'z'; leave it out"),
    (f"{PROMPT} ab\udcff", "", "--prompt: not UTF-8 text .*; save it as UTF-8"),
    (f"{PROMPT} -", "text.txt: cut 17", "--prompt: .*'\\\\n'; leave it out"),
    (f"{PROMPT} -", "text.txt: latin", f"--prompt: {NOT_TEXT}save it as UTF-8"),
    # Texts
    *(
        (TEXT, f"text.txt: {how}", f"text.txt: {says}")
        for how, says in (
            ("missing", "No such file .*; give the names of text"),
            ("folder", "there is no file"),
            ("unreadable", "Permission denied; give the names of"),
            ("empty", "empty; give the names"), ("mark", "empty; give the names"),
            ("latin", f"{NOT_TEXT}save it as UTF-8"), ("utf16", f"{NOT_TEXT}save it as UTF-8"),
            ("nul", ".*NUL.*; .*UTF-8"),
        )
    ),
    (f"{TEXT} more.txt", "more.txt: latin", f"more.txt: {NOT_TEXT}save it as"),
    *(
        (SHAKESPEARE, f"data/tiny_shakespeare.txt: {how}", f"{says}delete it")
        for how, says in (("empty", "empty; "), ("latin", NOT_TEXT), ("folder", "a directory; "))
    ),
    *(
        ("prepro_tinystories.py", f"{STORIES}.tar.gz: {how}", "gz: can't be unpacked .*; delete it")
        for how in ("empty", "html")
    ),
    ("prepro_tinystories.py", f"{STORIES}.tar.gz: folder", ": Is a directory; "),
    ("prepro_tinystories.py", f"{STORIES}: folder", "all_data: has 0 shards, .*; delete it"),
    ("prepro_tinystories.py --url none", "", "cannot download none: .*; check the address"),
    # Hugging Face's folders
    (HF, "hf/model.safetensors: missing", "hf: has no model.safetensors, .*; save_pretrained"),
    (HF, "hf/model.safetensors: pipe", "hf/model.safetensors: .*; "),
    (HF, 'hf/config.json: says {"model_type":"bert"}', "config.json has model_type 'bert', .*; "),
    (f"{HF} --seq-len 17", "", "--seq-len 17: hf takes 16 at most; "),
    (f"{TRAIN} --device none", "", "--device none: .*; "),
    ("reference_gpt2.py", "model.safetensors: png", "model.safetensors: does not .*; delete it"),
    # Debug states
    ("test_gpt2.py --weights w.bin", "", f"state.bin: {SHORT}{STATE}"),
    # What is to be evaluated
    (f"{EVALUATE} --data data/y", "", "y_tokenizer.bin: has 14 tokens, w.bin knows 13; "),
    (f"{EVALUATE} --data data/y --tokenizer {X_TOKENIZER}", "", "data/y_val: has 14 .* 13; give"),
    (f"{EVALUATE} --data data/x --stride 17", "", "--stride 17: the model sees 16 tokens; give"),
    (f"{EVALUATE} --text text.txt", "", "text.txt: this model's tokens lack '.n'; leave it out"),
    (f"{EVALUATE} --text text.txt", "text.txt: says a", "text.txt: has 1 tokens; give two, "),
    *(
        (f"{EVALUATE} --{kind} more.txt", f"more.txt: {how}", f"more.txt: {says}")
        for kind, how, says in (
            ("lambada", 'says {"txt":"a"}', "line 1 is not JSON with a text 'text'"),
            ("lambada", 'says {"text":"abc"}', "text 1 has no word before its last; give"),
            *(
                ("hellaswag", f"says {x}", 'line 1 is not JSON .*; it takes {"ctx": .*')
                for x in (
                    '{"ctx":"a","endings":["b"],"label":1}', '{"ctx":"a","endings":[]}',
                    '{"ctx":"a","endings":["b",1],"label":0}',
                )
            ),
        )
    ),
    # Logs
    (f"{PLOT} loss.png", "log.csv: says step,loss", f"log.csv: not a training log; {LOG}"),
    (f"{PLOT} loss.png", "log.csv: word 4.5 four", "log.csv, line 2: .*'four'; delete that line"),
    (f"{PLOT} loss.png", "log.csv: word 64, 64,,", "line 3: 10 cells, not 9; delete that line"),
    *((f"{PLOT} loss.png", f"log.csv: cut {n}", "log.csv: no.*; ") for n in (7, 50)),
    (f"{PLOT} loss.png", "log.csv: empty", "log.csv: no rows yet; wait for"),
    ("tools/plot_log.py log.csv none.csv -o loss.png", "", f"none.csv: No such file .*; {LOG}"),
    # What is to be written
    *(
        (program, f"{file}: {how}", f"{flag}{file}: {says}")
        for program, flag, file in (
            (SAVE, "--save ", "out/w.bin"), (LOGGED, "--log ", "out/log.csv"),
            (OUT, "--out ", "out/w.bin"), (f"{HF} --out out/w.bin", "--out ", "out/w.bin"),
            (f"{PLOT} out/loss.png", "", "out/loss.png"),
        )
        for how, says in (("read_only", READ_ONLY), ("folder", NO_TARGET), ("pipe", NO_TARGET))
    ),
    *(
        (program, f"out: {how}", f"{flag}: {says}")
        for program, flag in (
            (SAVE, "--save out/w.bin"), (LOGGED, "--log out/log.csv"), (OUT, "--out out/w.bin"),
            (f"{PLOT} out/loss.png", "out/loss.png"),
        )
        for how, says in (("missing", NO_FOLDER), ("closed", CLOSED_FOLDER))
    ),
    (RESUME, "saved.bin: read_only", f"--save saved.bin: {READ_ONLY}"),
    (f"{TRAIN} --save x.bin --log x.bin", "", "--log x.bin: is the file of --save, too; give"),
    (f"{TRAIN} --save x.bin --log x_best.bin", "", "--log .*: is the file of --save's best, too; "),
    # and is a file of another kind, maybe one that is read
    *((f"{LESSON} --out {x}", "", f"{x}: there is a file of another kind, which is not repl")
      for x in (X_TRAIN, X_TOKENIZER, "log.csv")),
    *(
        (f"{program} {file}", "", f"{flag} {file}: {REPLACED}")
        for program, flag, files in (
            (f"{TRAIN} --save", "--save", (X_TRAIN, X_VAL, X_TOKENIZER, "gpt2_tokenizer.bin")),
            (f"{TRAIN} --out", "--out", ("text.txt", "state.bin")),
            (f"{TRAIN} --log", "--log", ("w.bin", "text.txt")),
            (f"{HF} --out", "--out", ("hf/model.safetensors", X_VAL)),
            ("tools/show_step.py --data data/x --weights w.bin -o", "-o", ("w.bin", "text.txt")),
        )
        for file in files
    ),
    *((f"{PLOT} out/loss.{x}", f"out/loss.{x}: says step", REPLACED) for x in ("html", "svg")),
    (f"{HF} --out out/w.bin", "out/w_debug_state.bin: png", f"w_debug_state.bin: {REPLACED}"),
    *(
        (program, f"data/{name}: html", f"{name}: {REPLACED}")
        for program, dataset in ((DOCS, "python_docs"), (f"{TEXT} --bytes", "text"))
        for name in (f"{dataset}_{split}.bin" for split in ("train", "val", "tokenizer"))
    ),
    (f"{TRAIN} --init out/w_best.bin --save out/w.bin", "", "best .*: is what the run starts from"),
    (f"{TRAIN} --log x.csv --out x.csv", "", ": is the file of --out, too; give another"),
    (LOGGED, "", "--log out/log.csv: is the log of another run; give"),
    (f"{TRAIN} --save {'x' * 247}.bin", "", f"--save xxx.*: {TOO_LONG}give another"),
    (f"{TRAIN} --save {'x' * 240}.bin", "", f"--save's best xxx.*: {TOO_LONG}give"),
    (f"{TRAIN} --out {'x' * 300}.bin", "", TOO_LONG),
    (f"{HF} --out out/w.bin", "out: closed", f"--out out/w.bin: {CLOSED_FOLDER}"),
    (f"{HF} --out out/new/w.bin", "out: closed", f"--out out/new: {CLOSED_FOLDER}"),
    (f"{HF} --out w.bin/new.bin", "", f"--out w.bin/new.bin: {NO_FOLDER}"),
    ("reference_gpt2.py --export w.bin out", "", "out: has .*, which is of no export; give a new"),
    ("reference_gpt2.py --export w.bin out", "out: empty", "out: Not a directory; "),
    ("reference_gpt2.py --export w.bin out/new", "out: closed", "out/new: Permission denied; "),
    ("reference_gpt2.py --small out", "out: empty", "out: File exists; "),
    ("reference_gpt2.py --small out", "out/small_state.bin: html", f"small_state.bin: {REPLACED}"),
    ("reference_gpt2.py --small out", "out: closed", f"out/small_weights.bin: {CLOSED_FOLDER}"),
    *(
        (program, "data: closed", "in data: Permission denied; --name FOLDER/NAME")
        for program in ("prepro_pythondocs.py", f"{TEXT} --bytes")
    ),
    ("prepro_pythondocs.py", "data: empty", "data: File exists; "),
]  # fmt: skip

NUMBER, UNKNOWN = "is not a number from", "unrecognized arguments: "
DECIDE = "min-lr-frac", "weight-decay", "grad-clip"  # and others, of the result of a run
FLAGS = {  # program: flags, and what is said of them
    "train_gpt2.py": {
        "--batch-size x": "--batch-size: invalid int value: 'x'",
        "--lr": "--lr: expected one argument", "--ste 3": f"{UNKNOWN}--ste 3",
        "--save w.bin": f"{UNKNOWN}--save w.bin",
    },
    "tools/train.py": {
        **{f"--{name} 0": f"--{name}: 0 {NUMBER} 1 to"
           for name in ("batch-size", "seq-len", "grad-accum")},
        **{f"--{name} -1": f"--{name}: -1 {NUMBER} 0 to"
           for name in ("steps", "warmup", "val-every", "val-batches", "sample-every", "seed")},
        **{f"--{name} -1": f"--{name}: -1.0 {NUMBER} 0.0 to"
           for name in ("lr", "min-lr-frac", "weight-decay", "grad-clip")},
        **{f"--lr {x}": f"--lr: {float(x)} {NUMBER} 0.0 to" for x in ("nan", "1e999")},
        **{f"--{name} ''": f"--{name}: .*; "
           for name in ("out", "init", "data", "save", "log", "resume", "device")},
        "--steps 1.5": "--steps: invalid int value: '1.5'", "--lr": "--lr: expected one argument",
        "--save-every 1": "--save-every: .*; add --save FILE",
        "--save x.bin --no-save": "--no-save: goes without --save; leave",
        "--save-every -1 --save w.bin": f"--save-every: -1 {NUMBER} 0 to",
        "--ste 3": f"{UNKNOWN}--ste 3",
        "w.bin": f"{UNKNOWN}w.bin", "--dtype float8": "--dtype: invalid choice: 'float8'",
    },
    RESUME: {
        "--init w.bin": "--init: goes without --resume, .*; leave one of them out",
        **{f"--{name} {x}": f"--{name}: saved.bin was made with {had}; leave it out"
           for name, x, had in (("lr", 1, 0.0001), ("batch-size", 5, 4), ("seq-len", 8, 16),
                                ("grad-accum", 2, 1), ("seed", 7, 1337), ("shuffle", "", False),
                                ("warmup", 1, 0), *((name, 1, 0.0) for name in DECIDE))},
    },
    "sample_gpt2.py": {
        **{f"--{name} -1": f"--{name}: -1 {NUMBER} 0 to"
           for name in ("tokens", "temperature", "top-k")},
        "--temperature nan": f"--temperature: nan {NUMBER} 0 to",
        "--top-p 0": "--top-p 0: leaves no token; give more",
        "--chat a": "--chat: expected 2 arguments",
        "--chat a b --prompt c": "--chat: asks for .*; ",
        "--chat a b --samples 2": "--chat: has one answer to a turn; leave --samples",
        "--top-p 1.1": f"--top-p: 1.1 {NUMBER} 0 to 1", "--samples 0": f"--samples: 0 {NUMBER} 1",
        "--seed x": "--seed: invalid whole number value: 'x'",
        "abc": "--weights w.bin: and abc, too; ",
        "--weights ''": "--weights: .*; ", "--tokenizer ''": "--toke.*; ",
    },
    "prepro_text.py": {"": "arguments are required: FILE"},
    TEXT: {
        **{f"--name {x or repr(x)}": f"--name: '{x}' is no name that files can begin with"
           for x in ("..", "", "folder/")},
        "--bytes --vocab-size 300": "not allowed with argument",
        "--bytes --answers A:": "--answers: takes documents; say .* --separator TEXT",
        **{f"--vocab-size {n}": f"--vocab-size: {n} {NUMBER} 257 to 65536" for n in (256, 65537)},
        **{f"--val-fraction {x}": f"--val-fraction: {x} {NUMBER} 0 to 0.5" for x in ("1", "nan")},
    },
    SHAKESPEARE: {"text.txt": f"{UNKNOWN}text.txt"},
    "prepro_tinystories.py": {
        **{f"--workers {n}": f"--workers: .*{n} {NUMBER} 1 to" for n in (0, 61, 10**20)},
        "--workers ²": "--workers: ",
    },
    "reference_gpt2.py": {
        **{f"--model {x}": f"--model: {x} is none of gpt2, " for x in ("gpt3", "d0", "none.bin")},
        "--model ''": "--model: .*; ", "--lr nan": f"--lr: nan {NUMBER} 0 to",
        **{f"--{name} 0": f"--{name}: 0 {NUMBER} 1 to" for name in ("batch-size", "steps")},
        "--export w.bin": "--export: expected 2 arguments",
    },
    EVALUATE: {
        **dict.fromkeys(("", "--data x --text y"), "give one of --data, --text, .*, --hellaswag"),
        "--lambada x --stride 3": "--stride: is for --data and --text; leave it out",
        "--data x a.bin": "--weights w.bin: and a.bin, too; give one",
    },
    "test_gpt2.py": {
        "small.bin": f"{UNKNOWN}small.bin", "--state": "--state: expected one argument",
    },
    "tools/plot_log.py": {
        "-o loss.png": "arguments are required: log.csv", "log.csv": "arguments are required: -o",
        "log.csv -o loss.jpg": "-o loss.jpg: must end in one of .html, .png, .svg, .pdf",
    },
    "tools/benchmark.py": {
        "--model gpt2": "--model: gpt2 is not dN",
        "--seq-len 1025": f"--seq-len: 1025 {NUMBER} 1 to 1024",
        **{f"--{x} 0": f"--{x}: 0 {NUMBER} 1 to" for x in ("batch-size", "runs", "tokens")},
        "--command ''": "--command: .*; ",
    },
    LLAMA: {
        "--init d1 --kv-heads -1": "--kv-heads: -1", "--init d1 --lr x": "--lr: .*x",
        "--init": "--init: expected one argument", "--data ''": "--data: has no name behind it",
    },
    CONVERT: {
        "llama.bin": "arguments are required: TO", "llama.bin x.bin --version 2": "--version: .*2",
        f"llama.bin x --tokenizer {X_TOKENIZER}": "--tokenizer: is for a file of llama2.c",
    },
}  # fmt: skip
FLAGS = [(f"{p} {flags}", "", says) for p, rows in FLAGS.items() for flags, says in rows.items()]
FLAGS += [
    (f"{program} --wrong", "", f"{UNKNOWN}--wrong")
    for program in (
        *BASE,
        TEXT,
        SHAKESPEARE,
        "prepro_tinystories.py",
        "prepro_pythondocs.py",
        REVERSE,
    )
]

NO_NETWORK = [
    (
        TEXT,
        "gpt2_tokenizer.bin: missing",
        "cannot reach http.*openaipublic.*; or give --bytes, which",
    ),
    (SHAKESPEARE, "gpt2_tokenizer.bin: missing", "cannot reach http.*openaipublic"),
    (SHAKESPEARE, "data/tiny_shakespeare.txt: missing", "cannot reach http.*raw.github"),
    ("prepro_tinystories.py", "", "cannot reach http.*huggingface.co"),
    ("reference_gpt2.py", "", "cannot reach http.*127.0.0.1"),
]

# The same commands with good files do their work: it is for what is wrong that the others fail
NEWEST = "sample_gpt2.py: --prompt: the model sees only its newest 16 tokens\n"
LEGAL = [
    *((LESSON + flags, "", "") for flags in ("", " --sample-every 1", " --init saved.bin")),
    *((TRAIN + flags, "", "") for flags in ("", " --sample-every 1", " --device cpu")),
    *((f"{TRAIN} --init {name}.bin", "", "") for name in ("half", "old", "saved")),
    *((f"{RESUMES} {x}", "", "") for x in ("saved.bin --lr 1e-4", "outside.bin --data data/x")),
    *((program, "", "") for program in (RESUME, SAVE, f"{TRAIN} --log out/new.csv")),
    (f"{PROMPT} 'abc. jihg fed. a'", "", "w.bin: 368 parameters\n"),
    (f"{PROMPT} 'abc. jihg fed. ab'", "", f"w.bin: .*\n{NEWEST}"),
    ("reference_gpt2.py --model hf.safetensors --weights-only --seq-len 17", "", ""),
    *((HF + flags, "", "") for flags in ("", " --out new/more/w.bin --weights-only")),
    ("reference_gpt2.py --export w.bin new", "", ""),
    *((program, "", "") for program in ("test_gpt2.py", f"{PLOT} loss.png")),
    *((f"{EVALUATE} --data data/x {x}", "", "") for x in ("--stride 16", "--weights llama.bin")),
    ("sample_gpt2.py --weights llama", "", "llama: [0-9]+ parameters\n"),
    *((program, "", "") for program in (f"{TEXT} --bytes", "prepro_pythondocs.py")),
    *((f"{LLAMA} {flags}", "", "") for flags in ("", "--sample-every 1", "--out llama.bin")),
    (f"{LLAMA} --init d1 --untied --kv-heads 1", "", ""),
    (SAMPLE, "", "llama.bin: [0-9]+ parameters\n"),
    *((f"{CONVERT} {x}", "", "") for x in ("llama.bin x.bin --version 0", "llama x.bin")),
]
CASES = [
    (status, *row)
    for status, rows in enumerate((LEGAL, FOREIGN + UNREAD + CUTS + FILES, FLAGS, NO_NETWORK))
    for row in rows
]

# ----------------------------------------------------------------------------
# The driver: a process that imports once what takes long, and forks for each row


IMPORTS = {  # here, and not only in its forks, where NOBODY may not be allowed to read them
    "tools/train.py": ["tqdm", "tools.train"],
    "prepro_text.py": ["encodings.utf_8_sig"],
    "prepro_pythondocs.py": ["pydoc_data.topics"],
    "tools/plot_log.py": ["matplotlib.backends.backend_agg", "matplotlib.figure"],
    "reference_gpt2.py": ["torch._dynamo", "reference_gpt2"],
}


def contents(folder):
    """What is there, but for Python's own files: path -> mode, bytes, and when it was written."""
    found = {}
    for path in folder.rglob("*"):
        if "__pycache__" not in path.parts:
            stat, plain = path.lstat(), path.is_file() and os.access(path, os.R_OK)
            when = None if path.is_dir() else stat.st_mtime_ns
            data = path.read_bytes() if plain else None
            found[str(path.relative_to(folder))] = stat.st_mode, data, when
    return found


def run_here(command, as_nobody):
    """In a forked process: run the program as Python does. Doesn't return."""
    status = 1
    try:
        signal.alarm(SECONDS)
        if as_nobody and os.geteuid() == 0:
            # who may not be allowed to start this Python: so without tools/prepare.py
            subprocess.run = lambda *_, **__: subprocess.CompletedProcess([], 0, "")
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        sys.argv, sys.path[0] = command, str(Path(command[0]).resolve().parent)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        runpy.run_path(command[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code or 0
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
    """Run a program in the folder -> exit status, standard error."""
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
            how = {"stdin": stdin, "stdout": out, "stderr": err, "timeout": SECONDS}
            status = subprocess.run([sys.executable, *command], cwd=folder, **how).returncode
        err.seek(0)
        return status, err.read().decode("utf-8", "replace")


def restore(good, work):
    """Put back what a row has changed, or made."""
    if work.is_dir():
        for folder in work, *filter(Path.is_dir, work.rglob("*")):
            folder.chmod(0o777)
    missing(work)
    if good.exists():
        (shutil.copytree if good.is_dir() else shutil.copy2)(good, work)


def drive(good, work, rows):
    """
    Run rows on good files but for one, rows being their numbers -> for each of these the status,
    standard error, and what was changed; or what it needs that is not there.
    """
    make_good_files(good)
    restore(good, work)
    results = {}
    # Those that need PyTorch come last: with it, a fork takes three times as long
    for i in sorted(rows, key=lambda i: re.search("reference|--device", CASES[i][1]) is not None):
        _, command, what, _ = CASES[i]
        program, *flags = shlex.split(command)
        file, how, *words = what.replace(": ", " ").split() if what else ("", "")
        if how in NEED_POSIX and os.name != "posix":
            results[i] = "needs the files of POSIX"
            continue
        try:
            torch = ["torch._dynamo"] * ("--device" in flags)
            for name in ["pkgutil", *IMPORTS.get(program, ()), *torch]:
                importlib.import_module(name)
        except ImportError:
            results[i] = f"needs {name}"
            continue
        if what:
            damage(work / file, how, *words)
        before = contents(work)
        command = [program, *BASE.get(program, "").split(), *flags]
        done = run(work, command, how in PERMISSIONS)
        after = contents(work)
        changed = [path for path in before | after if before.get(path) != after.get(path)]
        results[i] = *done, sorted(changed)
        for name in {Path(path).parts[0] for path in [*changed, file] if path}:
            restore(good / name, work / name)
    return results


if __name__ == "__main__":
    print(json.dumps(drive(*map(Path, sys.argv[1:3]), map(int, sys.argv[3:]))))

# ----------------------------------------------------------------------------
# Tests


@pytest.fixture(scope="module")
def results(request):
    """What two drivers say of the rows; not in pytest's folders, which NOBODY may not open."""
    items = request.session.items
    tests = [i for i in items if i.module is request.module and "row" in i.fixturenames]
    rows = [str(item.callspec.params["row"]) for item in tests]  # what -k leaves of them
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env |= dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HF_ENDPOINT"), CLOSED)
    env |= {"PYTHONIOENCODING": "utf-8", "TIKTOKEN_CACHE_DIR": "no_cache", "OMP_NUM_THREADS": "1"}

    def share(i):
        good, work = (Path(name).resolve() / str(i) / which for which in ("good", "work"))
        where = {"PYTHONPATH": str(make_project(work))}  # its modules are to be from there
        how = {"capture_output": True, "encoding": "utf-8", "timeout": 600}
        command = [sys.executable, __file__, good, work, *rows[i::2]]
        done = subprocess.run(command, env=env | where, cwd=name, **how)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        os.chmod(name, 0o755)
        one, other = pool.map(share, range(2))
    return one | other


@functools.cache
def status_of_help(command):
    """Return the exit status of a command with --help behind it, which does and loads nothing."""
    words = [sys.executable, *shlex.split(command), "--help"]
    return subprocess.run(words, cwd=PROJECT, capture_output=True).returncode


def check_hint(program, hint):
    """Programs that a line names exist, and know the flags that it names; its commands run."""
    programs = set(re.findall(r"\w+\.py", hint))
    paths = {
        path.name: path
        for path in [p for at in ("", "tools/", "variants/") for p in PROJECT.glob(f"{at}*.py")]
    }
    assert programs <= paths.keys(), hint
    known = {program, *(str(paths[name].relative_to(PROJECT)) for name in programs)}
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", hint)) - {"--help"}
    assert flags <= {flag for program in known for flag in flags_of(program)}, hint
    for named in re.findall("`python ([^`]*)`", hint):
        assert status_of_help(named) == 0, named


@pytest.mark.parametrize("row", range(len(CASES)), ids=lambda i: ascii("  ".join(CASES[i][1:3])))
def test_row(results, row):
    (status, command, _, says), result = CASES[row], results[str(row)]
    if isinstance(result, str):
        pytest.skip(result)
    ended, err, changed = result
    assert "Traceback" not in err, err
    assert ended == status, err
    if status == 0:
        assert re.fullmatch(says, err), err
        return
    program = command.split()[0]
    name = Path(program).name
    if name == "train_gpt2.py":  # NumPy's warnings of numbers that training stops at
        err = re.sub(r".*RuntimeWarning: .*\n.*\n", "", err)
    assert err.count("\n") == 1 and err.endswith("\n"), err
    if status == 1 and name == "train_gpt2.py":  # the lesson's own, plain lines
        assert re.search(says, err), err
    else:
        assert re.match(rf"{name}( \(more: tools/train.py\))?: .*{says}", err), err
        # behind it is what helps; NOT_FOR is the lesson's line, which Llama's run says, too
        assert status == 2 or "; " in err or re.search(NOT_FOR, err)
    check_hint(program, err.partition("; ")[2])
    assert not changed
