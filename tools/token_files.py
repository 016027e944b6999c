"""
Token files and the tokenizers that go with them: where they lie, writing them, and batches of many.

The readers of a single file are in tools/formats.py; text becomes tokens in tools/encoding.py.
"""

import argparse
import contextlib
import errno
import functools
import glob
import os
import re
import shlex
import subprocess
from pathlib import Path

import train_gpt2 as gpt2
from tools.console import UserError, writing_in
from tools.formats import (
    DIGEST,
    check_kind,
    check_one_vocabulary,
    digest_in,
    digest_of,
    open_tokens,
    replacing,
)

import numpy as np

DATA = gpt2.HERE / "data"  # where the prepro scripts put what they make, wherever they are called
GPT2_DIGEST = int.from_bytes(bytes.fromhex("a622700e3255b4a6"), "little", signed=True)

# ----------------------------------------------------------------------------
# Names


def prefix_of(name):
    """Return what the files of a dataset begin with: name if it has a folder, else data/name."""
    return Path(name) if os.path.dirname(name) else DATA / name


@contextlib.contextmanager
def writing_to(prefix):
    """
    Make the folder that a prefix is in, where files of a dataset can be written, or UserError.

    In there an error of the system becomes one, too.
    """
    folder = Path(prefix).parent
    with writing_in(shown(folder), "--name FOLDER/NAME writes to another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # now, and not after a download
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        for name in "train", "val", "tokenizer":
            magic = gpt2.TOKENIZER_MAGIC if name == "tokenizer" else gpt2.TOKENS_MAGIC
            check_kind(f"{prefix}_{name}.bin", magic)
        yield


def shown(path):
    """Return a path as it can be typed, short if it is below the current folder."""
    path, here = os.path.abspath(path), os.path.join(os.getcwd(), "")
    return path.removeprefix(here)


def data_of(data):
    """Return what --data is meant to be, where it names one of its token files."""
    return re.sub(r"_(train|val)\.bin$", "", data) if data and os.path.isfile(data) else data


def typed(words):
    """Return words as a line to type: on Windows as cmd.exe and PowerShell take it, else as sh."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def add_name_flag(parser, default, which=None):
    """Add the flag --name; which tells the default where that isn't a name."""
    what = "what the names of the files begin with; without a folder, they go to the project's data"
    text = f"{what} (default: {which or default})"
    parser.add_argument("--name", type=dataset_name, default=default, metavar="NAME", help=text)


def dataset_name(text):
    """Return text if files' names can begin with it: a type for a flag."""
    if os.path.basename(text) in ("", ".", ".."):
        raise argparse.ArgumentTypeError(f"{text!r} is no name that files can begin with")
    return text


# ----------------------------------------------------------------------------
# Tokenizers


def is_gpt2(vocabulary):
    """Return whether a vocabulary, the bytes of each token, is GPT-2's."""
    return digest_of(vocabulary) == GPT2_DIGEST


def header(*numbers):
    """Return the 256 int32 that a file begins with."""
    return np.array(numbers + (0,) * (256 - len(numbers)), "<i4")


def fill_tokenizer(f, vocabulary, end_of_text):
    """Write a tokenizer to an open file: the length and the bytes of each token."""
    f.write(header(gpt2.TOKENIZER_MAGIC, 2, len(vocabulary), end_of_text))
    for token in vocabulary:
        f.write(bytes([len(token)]) + token)


def write_tokenizer(path, vocabulary, end_of_text):
    """Write a tokenizer file: vocabulary, the bytes of each token; end_of_text, one token's id."""
    with replacing(path) as f:
        fill_tokenizer(f, vocabulary, end_of_text)


def tokenizer_to_write(prefix, vocabulary):
    """
    Return the tokenizer file that the tokens of a dataset lack, None if none.

    Its own for a vocabulary of its own, or else GPT-2's, which is one for all datasets.
    """
    if not is_gpt2(vocabulary):
        return f"{prefix}_tokenizer.bin"
    return None if gpt2.TOKENIZER_FILE.exists() else str(gpt2.TOKENIZER_FILE)


# ----------------------------------------------------------------------------
# Token files


def fill_tokens(f, path, V, chunks, digest=0):
    """
    Write tokens, an iterable of arrays or lists, to an open file -> how many. UserError.

    digest is that of the vocabulary of V tokens; 0: unknown.
    """
    count = 0
    f.write(header())  # its place; the count is known at the end
    for chunk in chunks:
        tokens = np.asarray(chunk)
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < min(V, 2**16):
            raise ValueError(f"a token of {path} is not below {V}, or not in 16 bits")
        f.write(tokens.astype("<u2"))
        count += len(tokens)
    if not 0 < count < 2**31:
        raise UserError(f"{path}: can't hold {count:,} tokens, only 1 to 2**31 - 1 of them")
    f.seek(0)
    first = header(gpt2.TOKENS_MAGIC, 1, count, V)
    first[DIGEST].view("<i8")[0] = digest
    f.write(first)
    return count


def mask_of(prefix, name):
    """Return the file that says which tokens of PREFIX_NAME.bin count in the loss: 1, or else 0."""
    return f"{prefix}_mask_{name}.bin"


def write_splits(prefix, vocabulary, end_of_text, splits, masks=None):
    """
    Write a dataset: PREFIX_NAME.bin for each name in splits, and the tokenizer that it lacks.

    splits has an iterable of arrays (or lists) of ids for each name; masks, where not all of them
    count in the loss, 0 or 1 for each of the ids. Files of an earlier dataset of this name are
    replaced once all of the new ones are on the disk; a tokenizer that was theirs alone goes, and
    so do masks. Raises UserError.
    """
    V, digest, said, masks = len(vocabulary), digest_of(vocabulary), [], masks or {}
    parts = [(f"{prefix}_{name}.bin", V, chunks, digest) for name, chunks in splits.items()]
    parts += [(mask_of(prefix, name), 2, chunks) for name, chunks in masks.items()]
    tokenizer, own = tokenizer_to_write(prefix, vocabulary), Path(f"{prefix}_tokenizer.bin")
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(replacing(path)) for path, *_ in parts]
        for f, (path, *more) in zip(files, parts, strict=True):
            count = fill_tokens(f, path, *more)
            what = "tokens" if more[0] == V else "marks of those that count"
            said.append(f"wrote {count:,} {what} to {shown(path)}")
        if tokenizer:
            files.append(stack.enter_context(replacing(tokenizer)))
            fill_tokenizer(files[-1], vocabulary, end_of_text)
            said.append(f"wrote the vocabulary, {len(vocabulary):,} tokens, to {shown(tokenizer)}")
        for f in files:  # now, because a full disk may only tell here, and after this files change
            f.flush()
            os.fsync(f.fileno())
    if tokenizer != str(own):
        own.unlink(missing_ok=True)
    for name in splits.keys() - masks.keys():
        Path(mask_of(prefix, name)).unlink(missing_ok=True)
    print("\n".join(said), flush=True)


# ----------------------------------------------------------------------------
# Reading several token files as one text


class TokenFile:
    """
    The tokens of a file, which are read when they are asked for: len(), and slices.

    They are those of the file as it was opened: another one in its place is not read, and if it is
    changed itself, slices raise a UserError.
    """

    def __init__(self, path):
        self.f, tokens, self.V = open_tokens(path)
        self.path, self.dtype, self.offset = path, tokens.dtype, tokens.offset
        self.digest, self.count, self.state = digest_in(path), len(tokens), self.state_now()

    def state_now(self):
        """Return what changes with the file."""
        state = os.fstat(self.f.fileno())
        return state.st_size, state.st_mtime_ns

    def __len__(self):
        return self.count

    def __getitem__(self, part):
        start, stop, _ = part.indices(self.count)
        self.f.seek(self.offset + start * self.dtype.itemsize)
        tokens = np.fromfile(self.f, self.dtype, stop - start)
        if self.state_now() != self.state:
            raise UserError(f"{self.path}: was changed during the run; prepare it again")
        return tokens


def natural(path):
    """Return a key that sorts names as people count: x_2 before x_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def load_shards(prefix):
    """Read PREFIX.bin, or all PREFIX_*.bin in their order -> list of tokens, V. UserError."""
    whole, parts = f"{prefix}.bin", glob.glob(f"{glob.escape(str(prefix))}_*.bin")
    paths = sorted(parts, key=natural) or [whole]
    if parts and os.path.exists(whole):
        what = f"is there, and {paths[0]}, too, of another preparation"
        raise UserError(f"{whole}: {what}; delete the older of the two")
    shards = [TokenFile(path) for path in paths]
    sizes = [shard.V for shard in shards]
    if len(set(sizes)) > 1:
        found = " and ".join(f"{V:,}" for V in sorted(set(sizes)))
        raise UserError(f"{prefix}: its files have {found} different tokens; prepare them again")
    digests = {shard.path: shard.digest for shard in shards}
    check_one_vocabulary(digests, "prepare them again, all together")
    return shards, sizes[0]


def load_mask(prefix, name, shards):
    """Read which tokens of PREFIX_NAME.bin, shards, count in the loss; [] if all do. UserError."""
    path = mask_of(prefix, name)
    if not os.path.exists(path):
        return []
    mask, hint = TokenFile(path), "prepare the text again"
    if mask.V != 2 or [len(mask)] != [len(tokens) for tokens in shards]:
        raise UserError(f"{path}: is not of the tokens in {prefix}_{name}.bin; {hint}")
    if not mask[:].any():
        raise UserError(f"{path}: says that no token counts; {hint}, with other --answers")
    return [mask]


def num_windows(shards, T):
    """Return how many windows of T tokens, each with a target, every array has: int64."""
    return np.array([(len(tokens) - 1) // T for tokens in shards])


def num_batches(shards, B, T):
    """Return how many batches of B windows of T tokens the arrays have together."""
    return int(num_windows(shards, T).sum()) // B


@functools.lru_cache(1)  # an epoch's order is made once
def shuffled(n, epoch, seed):
    """Return the numbers below n in an order that depends on epoch and seed."""
    return np.random.default_rng((seed, epoch)).permutation(n)


def get_batch(shards, i, B, T, seed=None):
    """
    Return batch i of the tokens in one array or several: x and y (B, T), y being x one token later.

    It has B windows of T tokens, which follow each other in an array, then in the next one, and
    after the last in the first again, amid a batch if need be; what makes no whole window at the
    end of an array is skipped. With a seed, the windows are shuffled, in another order for each
    epoch, and each comes once in an epoch.
    """
    counts = num_windows(shards, T)
    ends = counts.cumsum()
    batch = np.empty((B, T + 1), np.int64)
    for row, place in zip(batch, range(i * B, i * B + B), strict=True):
        epoch, window = divmod(place, int(ends[-1]))
        if seed is not None:
            window = shuffled(int(ends[-1]), epoch, seed)[window]
        shard = np.searchsorted(ends, window, "right")
        at = (window - ends[shard] + counts[shard]) * T
        row[:] = shards[shard][at : at + T + 1]
    return batch[:, :-1], batch[:, 1:]
