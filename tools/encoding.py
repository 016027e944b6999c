"""
From text to tokens and back: GPT-2's vocabulary, any other of its kind, and plain bytes.

How tokens lie in files is in tools/token_files.py, how a vocabulary is trained in tools/bpe.py.
Packages other than NumPy are loaded where they are used, because bytes need none of them.
"""

import functools
import hashlib
import importlib
import json
import os
import re
import tempfile
from pathlib import Path

import train_gpt2 as gpt2
from tools.console import Unavailable, UserError
from tools.formats import load_tokenizer
from tools.token_files import is_gpt2, write_tokenizer

CHUNK = 2**20  # bytes or characters of a text held at a time
END_OF_TEXT = "<|endoftext|>"
# BPE merges inside of these only: contractions, words, numbers, signs, each with the space before
# it, and white space (the pattern of GPT-2's encoder.py)
WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
# The two files that tiktoken downloads, by itself without any timeout
VOCABULARY_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
VOCABULARY_FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


def needed(module):
    """Return a module that needs a package of requirements.txt. Unavailable if that is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = "`python -m pip install -r requirements.txt` installs what is missing"
        raise Unavailable(f"{error}; {hint}") from error


# ----------------------------------------------------------------------------
# Encodings


def byte_vocabulary():
    """Return the vocabulary whose tokens are bytes, the 257th being end-of-text; its id."""
    return [*(bytes([byte]) for byte in range(256)), END_OF_TEXT.encode()], 256


def encoding_of(vocabulary, end_of_text):
    """Return the tiktoken.Encoding of a vocabulary, the bytes of each token; end_of_text, an id."""
    # The id of a token is its rank: BPE merges the pair whose token has the lowest.
    ranks = {token: rank for rank, token in enumerate(vocabulary) if rank != end_of_text}
    special = {END_OF_TEXT: end_of_text}
    encoding = needed("tiktoken").Encoding
    return encoding("gpt2", pat_str=WORDS, mergeable_ranks=ranks, special_tokens=special)


def vocabulary_of(encoding):
    """Return the vocabulary of an encoding, the bytes of each token; the id of end-of-text."""
    vocabulary = [encoding.decode_single_token_bytes(i) for i in range(encoding.n_vocab)]
    return vocabulary, encoding.eot_token


def fill_tiktoken_cache():
    """Download what tiktoken's cache lacks of GPT-2's vocabulary. Raises Unavailable, UserError."""
    downloads = needed("tools.download")
    default = Path(tempfile.gettempdir(), "data-gym-cache")
    folders = (os.environ.get(name) for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"))
    folder = Path(next(filter(None, folders), default))
    for name, sha256 in VOCABULARY_FILES.items():
        url = VOCABULARY_URL + name
        path = folder / hashlib.sha1(url.encode()).hexdigest()
        if not path.exists() or downloads.sha256_of(path) != sha256:
            downloads.download(url, path, sha256=sha256)


def gpt2_encoding():
    """
    Return GPT-2's tiktoken.Encoding, from gpt2_tokenizer.bin if that is there.

    Raises Unavailable, UserError.
    """
    path = gpt2.TOKENIZER_FILE
    if not path.exists():
        tiktoken = needed("tiktoken")
        fill_tiktoken_cache()
        return tiktoken.get_encoding("gpt2")
    vocabulary, end_of_text = load_tokenizer(path)
    if not is_gpt2(vocabulary):
        raise UserError(f"{path}: not GPT-2's vocabulary; delete it and run this again")
    return encoding_of(vocabulary, end_of_text)


def write_gpt2_tokenizer(path):
    """Write GPT-2's tokenizer file. Raises Unavailable, UserError."""
    write_tokenizer(path, *vocabulary_of(gpt2_encoding()))


# ----------------------------------------------------------------------------
# Text to tokens


def encoder(vocabulary, end_of_text, whose):
    """
    Return a function from a text to its tokens, a list.

    It raises a UserError for a character that the vocabulary lacks; whose text it is, is said.
    """
    known = {token for i, token in enumerate(vocabulary) if i != end_of_text}
    make = functools.cache(lambda: encoding_of(vocabulary, end_of_text))  # once there is a text

    def encode(text):
        for character in sorted(set(text)):  # first, for tiktoken would panic
            if not known.issuperset(bytes([byte]) for byte in character.encode()):
                raise UserError(f"{whose}: this model's tokens lack {character!r}; leave it out")
        return make().encode_ordinary(text) if text else []

    return encode


# ----------------------------------------------------------------------------
# Text files


def place_of(error, line=1):
    """Return in words what a UnicodeDecodeError met, and where: the line, and the byte in it."""
    data, start = error.object, error.start
    line += data.count(b"\n", 0, start)
    at = start - data.rfind(b"\n", 0, start)
    return f"not UTF-8 text (line {line}, byte {at}: 0x{data[start]:02x}, {error.reason})"


def place_in(path, error):
    """Return place_of() an error that reading a file's text met, in a part of it."""
    if os.path.isfile(path):  # a pipe can't be read once more
        with open(path, "rb") as f:
            for number, line in enumerate(f, 1):
                try:
                    line.decode()
                except UnicodeDecodeError as found:
                    return place_of(found, number)
    return f"not UTF-8 text ({error.reason})"


# Before a single space or newline between two words, GPT-2's encoding cuts text anyway.
CUT = re.compile(r".*\S(?=[ \n]\S)", re.DOTALL)


def documents(path, separator="", field=""):
    """
    Yield the documents of a text file, each an iterable of pieces: its whole text, by default.

    Else what stands between separators, without the newlines around it; or, with a field, this
    field's text of each line of JSON. Those without text are left out. Raises UserError.
    """
    if not (separator or field):
        yield text_pieces(path)
        return
    rest = ""
    for piece in json_texts(path, field) if field else text_pieces(path):
        *whole, rest = [piece, ""] if field else (rest + piece).split(separator)
        yield from ([text.strip("\n")] for text in whole if text.strip())
    if rest.strip():
        yield [rest.strip("\n")]


def json_lines(path, get, fields, example):
    """Yield get() of each line of a file, JSON with these fields. UserError, with the example."""
    hint, lines = f"it takes {example}", "".join(text_pieces(path)).split("\n")
    if not any(map(str.strip, lines)):
        raise UserError(f"{path}: has empty lines only; {hint}")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = get(json.loads(line))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            what = f"line {number} is not JSON with {fields} ({type(error).__name__})"
            raise UserError(f"{path}: {what}; {hint}") from error
        yield found


def json_texts(path, field):
    """Yield a field of each line of a file, JSON objects. UserError."""

    def get(line):
        text = line[field]
        text.encode()  # ValueError: half of a letter, as in "\\ud800"
        if "\0" in text:
            raise ValueError("a NUL, as no text has")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    yield from json_lines(path, get, f"a text {field!r}", f'{{"{field}": "a text"}}')


def text_pieces(path, hint=None):
    """Yield the text of a UTF-8 file in pieces whose tokens are those of the whole. UserError."""
    rest, empty = "", True
    try:
        with open(path, encoding="utf-8-sig") as f:  # newlines as "\n", a byte order mark dropped
            while new := f.read(max(CHUNK, len(rest))):
                rest, empty = rest + new, False
                if "\0" in new:
                    what = "has a NUL, as no text has"
                    raise UserError(f"{path}: {what}; {hint or 'save it as UTF-8'}")
                if cut := CUT.match(rest):
                    yield cut[0]
                    rest = rest[cut.end() :]
    except UnicodeDecodeError as error:
        hint = hint or "save it as UTF-8 (iconv, or an editor, does that)"
        raise UserError(f"{path}: {place_in(path, error)}; {hint}") from error
    except OSError as error:
        hint = hint or "give the names of text files"
        raise UserError(f"{path}: {error.strerror}; {hint}") from error
    if empty:
        raise UserError(f"{path}: empty; {hint or 'give the names of files with text in them'}")
    yield rest
