"""
Checkpoints: a weight file with AdamW's moments behind the weights, and a text about the run.

The text is JSON, a dict of known keys whose types and ranges are checked: it is data from whoever
made the file, and never command-line text. It names no file to write. The one name that it has is
that of the data; unless this is in the project's data folder, the user has to confirm it by --data.
"""

import hashlib
import json
import math
import os
import shlex
from pathlib import Path

import train_gpt2 as gpt2
from tools import formats
from tools.console import UserError, one_line
from tools.formats import FLOAT32
from train_gpt2 import HERE

import numpy as np

HINT = "give a checkpoint that `python tools/train.py --save FILE` made"
MAX_BYTES = 2**20  # of the text
DIGEST_TOKENS = 10**6  # at the beginning of the training data, and at its end
# What decides the result of a run, and how often it saves: the flags' names, and their least values
SETTINGS = {"steps": 0, "batch_size": 1, "seq_len": 1, "lr": 0.0, "warmup": 0, "min_lr_frac": 0.0}
SETTINGS |= {"weight_decay": 0.0, "grad_clip": 0.0, "seed": 0}
SETTINGS |= {"grad_accum": 1, "save_every": 0, "shuffle": False}
MOST_BATCHES = 10**6  # of a step, which can't be stopped between them
MOST = {name: 2**63 for name, least in SETTINGS.items() if type(least) is int}
MOST["grad_accum"] = MOST_BATCHES
BETAS = 0.9, 0.999  # of the lesson's adamw_update(), and PyTorch's


def digest(shards):
    """Return a hexadecimal digest of the training data: its lengths, its first and last tokens."""
    found = hashlib.sha256(json.dumps([len(tokens) for tokens in shards]).encode())
    for part in shards[0][:DIGEST_TOKENS], shards[-1][-DIGEST_TOKENS:]:
        found.update(np.asarray(part, "<i4"))
    return found.hexdigest()


def name_in_project(data):
    """Return the name of data, None if its files are not in the project's data folder."""
    folder, name = os.path.split(os.path.abspath(data))
    ours, its = (os.path.normcase(os.path.splitdrive(path)[0]) for path in (HERE, folder))
    if its != ours:
        return None  # unseen: on Windows it may be another machine, which would learn who asks
    return name if os.path.realpath(folder) == os.path.realpath(HERE / "data") else None


def describe(args, shards):
    """
    Return what a checkpoint says about a run with these flags, but for its step, a dict.

    The name of its data is one that means the same in any folder, and where the project was moved.
    """
    settings = {name: getattr(args, name) for name in SETTINGS}
    name = name_in_project(args.data)
    data = f"data/{name}" if name else os.path.abspath(args.data)
    return {"data": data, "digest": digest(shards), "settings": settings}


def checked_settings(found):
    """Return settings with every type and range checked. Raises ValueError."""
    if not found.keys() <= SETTINGS.keys():
        raise ValueError(f"unknown settings {sorted(found.keys() - SETTINGS.keys())}")
    for name, value in found.items():
        least = SETTINGS[name]
        if type(value) is not type(least) and (type(least), type(value)) != (float, int):
            raise ValueError(f"{name} is {value!r}")
        if not least <= value <= MOST.get(name, math.inf) or value == math.inf:
            raise ValueError(f"{name} is {value!r}")
    return found


def read_about(path):
    """Return what a weight file says about its run, a dict; {} if nothing. Raises UserError."""
    try:
        formats.read_config(path)
    except UserError as error:  # whose hint is for weights
        raise UserError(f"{error.text.rpartition('; ')[0]}; {HINT}") from None
    header = np.fromfile(path, "<i4", 256)
    size = int(header[8]) if header[1] == FLOAT32 else 0
    if not size:
        return {}
    try:
        if size > MAX_BYTES:
            raise ValueError("too long a text")
        with open(path, "rb") as f:
            f.seek(-size, os.SEEK_END)
            about = json.loads(f.read())
        known = {"step": int, "data": str, "settings": dict, "digest": str, "means": bool}
        for key, value in about.items():
            if type(value) is not (known | {"val_loss": float})[key]:
                raise ValueError(f"{key} is {value!r}")
        checked_settings(about["settings"])
        if not 0 <= about["step"] < 2**63 or not {"data", "digest"} <= about.keys():
            raise ValueError("no step, no data, or no digest")
        if b"\0" in os.fsencode(about["data"]):
            raise ValueError("its data can't be the name of a file")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"damaged, at its end ({type(error).__name__}: {error})"
        raise UserError(f"{path}: {what}; {HINT}") from error
    return about


def check_finite(what, flat=None, moments=()):
    """Raise UserError unless all numbers are finite, and the second moment's none below 0."""
    for name, numbers in zip(("weights", "m", "v"), (flat, *moments), strict=False):
        if numbers is None:
            continue
        low, high = numbers.min(), numbers.max()  # nan if there is a nan
        if not (math.isfinite(low) and math.isfinite(high)) or name == "v" and low < 0:
            raise UserError(f"{what}: its {name} are not all finite; go back to an earlier one")


def save(path, flat, config, about, moments=(), vocabulary=0):
    """
    Write a checkpoint: flat weights; about, a dict; AdamW's flat m and v. Raises UserError.

    vocabulary is the digest of its tokens' (formats.digest_of); 0: unknown.
    """
    check_finite(f"{path} is not written", flat, moments)
    formats.write_weights(path, flat, config, moments, json.dumps(about).encode(), vocabulary)


def convert(moments, means):
    """Make means of m and v that are sums, in place, as PyTorch's AdamW has them; or sums again."""
    for moment, beta in zip(moments, BETAS, strict=True):
        moment *= 1 - beta if means else 1 / (1 - beta)


def read_moments(path, means=False):
    """Return AdamW's m and v of a checkpoint, flat: sums, or means. UserError if it has none."""
    config, _ = formats.read_config(path)
    header = np.fromfile(path, "<i4", 256)
    if header[1] != FLOAT32 or header[9] != 2:
        what = "has weights only, of no use to --resume"
        raise UserError(f"{path}: {what}; `--init {path}` starts a run from them")
    count = gpt2.num_parameters(config)
    start = os.path.getsize(path) - int(header[8]) - 2 * 4 * count
    moments = np.fromfile(path, "<f4", 2 * count, offset=start).reshape(2, count)
    check_finite(path, moments=moments)
    if read_about(path).get("means", False) != means:
        convert(moments, means)
    return moments


def data_of(about, path):
    """Return the name of a checkpoint's data, if it is in the project's data folder. UserError."""
    if name := name_in_project(HERE / about["data"]):
        return str(HERE / "data" / name)
    data = shlex.quote(one_line(about["data"]))
    hint = f"if these are the files, confirm it by --data {data}"
    raise UserError(f"{path}: its data, {data}, are outside of this project; {hint}")


def start_of(path, about, shards, steps):
    """Return the step to go on from. UserError if other data are given, or if it is at its end."""
    if about["digest"] != digest(shards):
        raise UserError(f"{path}: was trained on other tokens than those of --data; give the same")
    if about["step"] >= steps:
        raise UserError(f"{path}: has its {about['step']} steps; a larger --steps goes on")
    return about["step"]


def own_tokenizer(path):
    """Return where the tokenizer of weights lies that came with one, as from Hugging Face."""
    return Path(path).with_name(f"{Path(path).stem}_tokenizer.bin")


def tokenizer_of(path):
    """
    Return the tokenizer file of the data that a checkpoint was trained on, or else one that fits.

    Where these have another vocabulary by now, one beside it or in data/ that has the model's. For
    weights that don't say what they were trained on, that beside them, if there is one.

    Raises UserError if it takes its own, and that is not here, as where the checkpoint was moved.
    """
    about, own, digest = read_about(path), "NAME_tokenizer.bin", formats.digest_in(path)
    if about:
        own = Path(f"{HERE / about['data']}_tokenizer.bin")
        if name_in_project(own) and own.exists() and digest in (0, formats.digest_in(own)):
            return own
    return tokenizer_that_fits(path, formats.read_config(path)[0].V, digest, own, not about)


def tokenizer_that_fits(path, V, digest=0, own="NAME_tokenizer.bin", guess=True):
    """
    Return a tokenizer file for weights that know V tokens: the only one in data/, or GPT-2's.

    digest is that of their vocabulary, own the name of the file that they were trained with. Raises
    UserError if there is none.
    """
    beside = own_tokenizer(path)
    there = [*filter(Path.exists, [beside]), *sorted((HERE / "data").glob("*_tokenizer.bin"))]
    fit = [file for file in there if np.fromfile(file, "<i4", 3)[2:].tolist() == [V]]
    if digest:
        fit = [file for file in fit if formats.digest_in(file) == digest]
    if fit and (digest or guess and (beside in fit or len(fit) == 1)):
        return fit[0]
    ours = gpt2.TOKENIZER_FILE
    if V != gpt2.GPT2_VOCAB_SIZE and not (ours.exists() and digest in (0, formats.digest_in(ours))):
        own = one_line(Path(own).name)
        what = f"knows {V:,} tokens, not GPT-2's, and their {own} is not here"
        hint = f"copy it from where {Path(path).name} was trained; sample_gpt2.py --tokenizer FILE"
        raise UserError(f"{path}: {what}; {hint} takes it")
    return gpt2.TOKENIZER_FILE
