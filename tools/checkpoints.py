"""
Checkpoints: a weight file with AdamW's moments behind the weights, and a text about the run.

The text is JSON, a dict of known keys whose types and ranges are checked: it is data from whoever
made the file, and never command-line text. It names no file to write; the one name that it has is
that of the data.
"""

import hashlib
import json
import math
import os
import sys
from pathlib import Path

import train_gpt2 as gpt2
from tools import formats
from tools.console import NotFinite, UserError, one_line
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
MOST = 2**63  # of whole numbers
BETAS = 0.9, 0.999  # of the lesson's adamw_update(), and PyTorch's


def digest(shards):
    """Return a hexadecimal digest of the training data: its lengths, its first and last tokens."""
    found = hashlib.sha256(json.dumps([len(tokens) for tokens in shards]).encode())
    for part in shards[0][:DIGEST_TOKENS], shards[-1][-DIGEST_TOKENS:]:
        found.update(np.asarray(part, "<i4"))
    return found.hexdigest()


def describe(args, shards):
    """
    Return what a checkpoint says about a run with these flags, but for its step, a dict.

    The name of its data, HERE / "data", is the same in any folder, and where the project was moved.
    """
    settings = {name: getattr(args, name) for name in SETTINGS}
    data = Path(args.data).resolve()
    data = data.relative_to(HERE) if data.is_relative_to(HERE) else data
    return {"data": data.as_posix(), "digest": digest(shards), "settings": settings}


def checked_settings(found):
    """Return settings with every type and range checked. Raises ValueError."""
    if not found.keys() <= SETTINGS.keys():
        raise ValueError(f"unknown settings {sorted(found.keys() - SETTINGS.keys())}")
    for name, value in found.items():
        least = SETTINGS[name]
        most = MOST if type(least) is int else sys.float_info.max
        if type(value) is not type(least) or not least <= value <= most:
            raise ValueError(f"{name} is {value!r}")
    return found


def check_finite(what, flat=None, moments=()):
    """Raise NotFinite unless all numbers are finite, and the second moment's none below 0."""
    for name, numbers in zip(("weights", "m", "v"), (flat, *moments), strict=False):
        if numbers is None:
            continue
        low, high = numbers.min(), numbers.max()  # nan if there is a nan
        if not (math.isfinite(low) and math.isfinite(high)) or name == "v" and low < 0:
            raise NotFinite(f"{what}: its {name} are not all finite; go back to an earlier one")


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


class Checkpoint:
    """
    A weight file, opened once: all that is read from it is of one save, whatever takes its place.

    It has a config, and about, a dict of what it says about its run; {} if nothing. UserError.
    """

    def __init__(self, path, hint=HINT):
        self.path = path
        self.f, self.config, self.header = formats.open_weights(path, hint)
        self.about = self.read_about() if self.header[1] == FLOAT32 and self.header[8] else {}

    def read_about(self):
        """Return the text at its end, a dict, with every type and range checked. UserError."""
        try:
            if self.header[8] > MAX_BYTES:
                raise ValueError("too long a text")
            self.f.seek(-self.header[8], os.SEEK_END)
            about = json.loads(self.f.read())
            known = {"step": int, "data": str, "settings": dict, "digest": str, "means": bool}
            for key, value in about.items():
                if type(value) is not (known | {"val_loss": float})[key]:
                    raise ValueError(f"{key} is {value!r}")
            checked_settings(about["settings"])
            if not 0 <= about["step"] < 2**63 or not {"data", "digest"} <= about.keys():
                raise ValueError("no step, no data, or no digest")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = f"damaged, at its end ({type(error).__name__}: {error})"
            raise UserError(f"{self.path}: {what}; {HINT}") from error
        return about

    def weights(self):
        """Return all parameters, a flat float32 vector. UserError if one is not finite."""
        flat = formats.read_weights(self.f, self.config, self.header[1])
        check_finite(self.path, flat)
        return flat

    def moments(self, means=False):
        """Return AdamW's m and v, flat: sums, or means. UserError if it has none."""
        if self.header[1] != FLOAT32 or self.header[9] != 2:
            what = "has weights only, of no use to --resume"
            raise UserError(f"{self.path}: {what}; `--init {self.path}` starts a run from them")
        count = gpt2.num_parameters(self.config)
        self.f.seek(gpt2.HEADER_BYTES + 4 * (count + formats.wte_padding(self.config)))
        moments = np.fromfile(self.f, "<f4", 2 * count).reshape(2, count)
        check_finite(self.path, moments=moments)
        if self.about.get("means", False) != means:
            convert(moments, means)
        return moments


def read_about(path):
    """Return what a weight file says about its run, a dict; {} if nothing. Raises UserError."""
    return Checkpoint(path).about


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


def tokenizer_of(its):
    """
    Return the tokenizer file of the data that a Checkpoint was trained on, or else one that fits.

    Where these have another vocabulary by now, one beside it or in data/ that has the model's. For
    weights that don't say what they were trained on, that beside them, if there is one.

    Raises UserError if it takes its own, and that is not here, as where the checkpoint was moved.
    """
    about, own = its.about, "NAME_tokenizer.bin"
    digest = formats.digest_in(its.path)
    if about:
        own = Path(f"{HERE / about['data']}_tokenizer.bin")
        if own.exists() and digest in (0, formats.digest_in(own)):
            return own
    return tokenizer_that_fits(its.path, its.config.V, digest, own, not about)


def check_tokenizer(tokenizer, vocabulary, path, V, digest=0):
    """Raise UserError unless a tokenizer file's vocabulary is that of weights: V tokens, digest."""
    hint, name = "give the one it was trained with, --tokenizer FILE", Path(path).name
    if len(vocabulary) != V:
        what = f"has {len(vocabulary):,} tokens, {name} knows {V:,}"
        raise UserError(f"{tokenizer}: {what}; {hint}")
    formats.check_one_vocabulary({tokenizer: formats.digest_of(vocabulary), name: digest}, hint)


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
        hint = f"copy it from where {Path(path).name} was trained"
        raise UserError(f"{path}: {what}; {hint}; sample_gpt2.py --tokenizer FILE takes it")
    return gpt2.TOKENIZER_FILE
