"""
Files in llm.c's formats, read and written with care: all versions, checkpoints, damaged files.

train_gpt2.py has the same in its plainest form, for float32 weights and whole files. Here are the
readers that programs share (weights without padding and in bfloat16, headerless tokens, AdamW's
moments behind the weights), which check every size, and the one way to write a file: beside its
target, which it replaces once it is whole on the disk (doc/files.md).
"""

import contextlib
import hashlib
import itertools
import json
import os
from pathlib import Path

import train_gpt2 as gpt2
from tools.console import UserError
from train_gpt2 import (
    GPT2_VOCAB_SIZE,
    HEADER_BYTES,
    TOKENIZER_MAGIC,
    TOKENS_MAGIC,
    WEIGHTS_MAGIC,
    GPT2Config,
    num_parameters,
)

import numpy as np

DIGEST = slice(10, 12)  # of the header of weights and tokens: that of their vocabulary, an int64
UNPADDED, FLOAT32, BFLOAT16 = 1, 3, 5  # header[1] of a weight file, its version


def open_file(path, magic, versions, hint, size_of=None):
    """
    Open a file for reading -> it, behind its header; the header, 256 ints.

    It stays what it was, whatever takes its place. UserError if it is of another kind or length.
    """
    if not os.path.isfile(path):  # a pipe would keep us waiting
        raise UserError(f"{path}: there is no file of this name; {hint}")
    f = open(path, "rb")
    header, found = np.fromfile(f, "<i4", 256).tolist(), os.fstat(f.fileno()).st_size
    if len(header) < 256 or header[0] != magic or header[1] not in versions:
        raise UserError(f"{path}: not a file of the kind or version expected here; {hint}")
    if size_of and found != (size := size_of(header)):
        raise UserError(f"{path}: has {found:,} bytes, its header means {size:,}; {hint}")
    return f, header


def read_header(*args):
    """Return a file's header, 256 ints. UserError, with the arguments of open_file."""
    f, header = open_file(*args)
    f.close()
    return header


def digest_of(vocabulary):
    """Return what tells a vocabulary, the bytes of each token, from others: an int64, never 0."""
    return digest_of_entries(b"".join(bytes([len(token)]) + token for token in vocabulary))


def digest_of_entries(entries):
    """Return the digest of a vocabulary as it lies in a tokenizer file, behind the header."""
    return int.from_bytes(hashlib.sha256(entries).digest()[:8], "little", signed=True) or 1


def digest_in(path):
    """Return the digest of the vocabulary of a file, of any kind; 0 if it doesn't say."""
    header = np.fromfile(path, "<i4", 256)
    if len(header) == 256 and header[0] == TOKENIZER_MAGIC:
        return digest_of_entries(Path(path).read_bytes()[HEADER_BYTES:])
    if len(header) < 256 or header[0] not in (WEIGHTS_MAGIC, TOKENS_MAGIC):
        return 0
    return int(header[DIGEST].view("<i8")[0])


def check_one_vocabulary(digests, hint):
    """Raise UserError unless all digests, by the names of what they are of, agree; 0 is unknown."""
    known = [(name, digest) for name, digest in digests.items() if digest]
    for (name, digest), (other, another) in itertools.pairwise(known):
        if digest != another:
            raise UserError(f"{name}: its vocabulary is not that of {other}; {hint}")


KIND = 4  # bytes at a file's beginning that tell what it is: llm.c's magic, "%PDF", and so on
PAGE = b"<!do"  # of HTML


def check_kind(path, kind, path_is=None):
    """
    Raise UserError if a file of another kind is there: what is not empty, and begins otherwise.

    kind is what such files begin with: bytes, or llm.c's magic, a number.
    """
    kind = kind if isinstance(kind, bytes) else kind.to_bytes(KIND, "little")
    if os.path.isfile(path):
        with open(path, "rb") as f:
            if f.read(len(kind)) not in (b"", kind):
                what = "there is a file of another kind, which is not replaced"
                raise UserError(f"{path_is or path}: {what}; give another name, or move it")


def check_writable(path, kind, flag=""):
    """
    Raise UserError, naming the flag, unless path can be written: before the work, not after.

    kind is that of check_kind(): what is no earlier version of it, replacing() does not replace.
    """
    target, path_is = Path(os.path.realpath(path)), f"{flag} {path}".strip()
    folder = target.parent  # of what a link leads to
    if not folder.is_dir():
        raise UserError(f"{path_is}: there is no such folder; make it first")
    if target.is_symlink() or target.exists() and not target.is_file():
        what = "a folder, a device, or a link to itself"
        raise UserError(f"{path_is}: this is {what}; give the name of a file")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path_is}: no permission to write there; give another folder")
    if target.exists() and not os.access(target, os.W_OK):
        raise UserError(f"{path_is}: is read-only; give another name, or make it writable")
    try:
        check_kind(path, kind, path_is)
        part = Path(f"{target}.{os.getpid()}.part")  # as replacing() makes it
        part.touch()
        part.unlink()
    except OSError as error:
        raise UserError(f"{path_is}: {error.strerror}; give another name or folder") from error


@contextlib.contextmanager
def replacing(path, kind=KIND):
    """
    Open a file beside path for writing; it takes the place of path once it is whole on disk.

    UserError if what it would replace does not begin with the same bytes, so many as kind says.
    """
    target = Path(os.path.realpath(path))  # what a link leads to
    if os.path.lexists(target) and not (target.is_file() and os.access(target, os.W_OK)):
        raise UserError(f"cannot write {path}: no plain file, or read-only; give another place")
    part = Path(f"{target}.{os.getpid()}.part")
    try:
        with open(part, "xb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        with open(part, "rb") as f:
            check_kind(path, f.read(kind))
        if target.exists():
            os.chmod(part, target.stat().st_mode)
        os.replace(part, target)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give another place") from error
    finally:
        part.unlink(missing_ok=True)


def write_page(path, template, data):
    """Write a page: a template, HTML with "{{data}}" in a script, and finite data. UserError."""
    # All that could end the script is "</" or "<!--", so no "<" of the data stays one: a text of
    # the user's can't become markup (HTML Living Standard, 4.12.1.3).
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")
    before, after = template.read_text(encoding="utf-8").split("{{data}}")
    with replacing(path) as f:
        f.write((before + text + after).encode())


def wte_padding(config, version=FLOAT32):
    """Return how many numbers a file has behind wte: rows of 0, up to a multiple of 128 rows."""
    return 0 if version == UNPADDED else (-config.V % 128) * config.C


def write_weights(path, flat, config, moments=(), about=b"", digest=0):
    """
    Write a weight file: parameters, float32; AdamW's moments and text, which llm.c skips.

    digest is that of the vocabulary; 0: unknown.
    """
    header, wte, padding = np.zeros(256, "<i4"), config.V * config.C, wte_padding(config)
    header[:8] = WEIGHTS_MAGIC, FLOAT32, *config, config.V + -config.V % 128
    header[8:10] = len(about), len(moments)
    header[DIGEST].view("<i8")[0] = digest
    with replacing(path) as f:
        f.writelines((header, flat[:wte], np.zeros(padding, "<f4"), flat[wte:], *moments, about))


def weights_size(header):
    """Return the bytes of a weight file with this header; 0 if its sizes are impossible."""
    version, config = header[1], GPT2Config(*header[2:7])
    about, moments = header[8:10] if version == FLOAT32 else (0, 0)
    if min(config) < 1 or config.C % config.NH or about < 0 or moments not in (0, 2):
        return 0
    numbers = num_parameters(config) * (1 + moments) + wte_padding(config, version)
    return HEADER_BYTES + numbers * (2 if version == BFLOAT16 else 4) + about


WEIGHTS_HINT = "`python reference_gpt2.py` makes gpt2_124M.bin"


def open_weights(path, hint=WEIGHTS_HINT):
    """Open a weight file -> it, behind its header; config; the header. UserError unless whole."""
    versions = UNPADDED, FLOAT32, BFLOAT16
    f, header = open_file(path, WEIGHTS_MAGIC, versions, hint, weights_size)
    return f, GPT2Config(*header[2:7]), header


def read_weights(f, config, version):
    """Return all parameters of a file that open_weights() has opened, a flat float32 vector."""
    wte, padding = config.V * config.C, wte_padding(config, version)
    flat = np.empty(num_parameters(config), "<u2" if version == BFLOAT16 else "<f4")
    f.seek(HEADER_BYTES)
    f.readinto(flat[:wte])  # into their place, because two copies may be too much
    f.seek(padding * flat.itemsize, os.SEEK_CUR)
    f.readinto(flat[wte:])
    if version == BFLOAT16:  # the upper half of a float32
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return flat


def load_weights(path):
    """Read a weight file -> all parameters as a flat float32 vector, config. Raises UserError."""
    f, config, header = open_weights(path)
    with f:
        return read_weights(f, config, header[1]), config


def open_tokens(path):
    """Open a token file -> it; its tokens, an array that stays on disk; V. Raises UserError."""
    hint = "prepro_tinyshakespeare.py makes the default one, prepro_text.py one of your own text"
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    if size and size % 4 == 0 and np.fromfile(path, "<i4", 1) != TOKENS_MAGIC:
        f, V = open(path, "rb"), GPT2_VOCAB_SIZE  # llm.c's first format: no header
        tokens = np.memmap(f, "<i4", "r")
    else:
        size_of = lambda header: HEADER_BYTES + 2 * (header[2] or -1)  # noqa: E731
        f, header = open_file(path, TOKENS_MAGIC, (1,), hint, size_of)
        tokens, V = np.memmap(f, "<u2", "r", HEADER_BYTES), header[3] or GPT2_VOCAB_SIZE
    if not 0 <= tokens.min() <= tokens.max() < V:
        raise UserError(f"{path}: not a token file, or has tokens outside 0 to {V - 1:,}; {hint}")
    return f, tokens, V


def load_tokens(path):
    """Read a token file -> its tokens, an array that stays on disk, and V. Raises UserError."""
    f, tokens, V = open_tokens(path)
    f.close()
    return tokens, V


def load_tokenizer(path):
    """Read a tokenizer file, each token's length and bytes -> the bytes; end-of-text's number."""
    hint = "the script that made the token files makes it, too; for GPT-2's, reference_gpt2.py"
    _, _, count, end_of_text, *_ = read_header(path, TOKENIZER_MAGIC, (2,), hint)
    data = Path(path).read_bytes()
    at, vocabulary = HEADER_BYTES, []
    while at < len(data):
        vocabulary.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    if at != len(data) or len(vocabulary) != count or not 0 <= end_of_text < count:
        raise UserError(f"{path}: damaged, its tokens are not what its header says; {hint}")
    return vocabulary, end_of_text


def load_vocabulary(data, V):
    """Read the tokenizer of the token files named data: theirs, or else GPT-2's. UserError."""
    own = Path(f"{data}_tokenizer.bin")
    path = own if own.exists() else gpt2.TOKENIZER_FILE
    vocabulary, end_of_text = load_tokenizer(path)
    if len(vocabulary) != V:
        hint = f"tokens of another kind need a {own} of their own"
        raise UserError(f"{path}: has {len(vocabulary):,} tokens, {data}_train {V:,}; {hint}")
    return vocabulary, end_of_text
