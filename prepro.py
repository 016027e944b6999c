"""
Text to tokens. By itself, for your own text files (UTF-8):

    python prepro.py FILE... [--name NAME] [--val-fraction 0.1]

tokenizes them with GPT-2's vocabulary, an end-of-text token before each file, into
data/NAME_train.bin and, for the last tenth, data/NAME_val.bin. Then
`python train_gpt2.py --data data/NAME` trains on them. The rest is what the prepro scripts of the
datasets share: GPT-2's encoding, and the writers of token and tokenizer files.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from pathlib import Path

import common
from common import (
    DATA,
    Parser,
    UserError,
    load_tokenizer,
    number,
    replacing,
    run,
    write_header,
)
from tools.download import download, sha256_of

import numpy as np
import tiktoken

CHUNK = 2**20  # bytes, characters or tokens held at a time

# ----------------------------------------------------------------------------
# GPT-2's encoding

END_OF_TEXT = "<|endoftext|>"
# BPE merges inside of these only: contractions, words, numbers, signs, each with the space before
# it, and white space (the pattern of GPT-2's encoder.py)
WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
VOCABULARY_SHA256 = "7db3ecccc3244b0f6caf9087f7d9c8224cbb8bdc6d01888e547329c0e064260f"
# The two files that tiktoken downloads, by itself without any timeout
VOCABULARY_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
VOCABULARY_FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


def fill_tiktoken_cache():
    """Download what tiktoken's cache lacks of GPT-2's vocabulary. Raises NoNetwork, UserError."""
    default = Path(tempfile.gettempdir(), "data-gym-cache")
    folders = (os.environ.get(name) for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"))
    folder = Path(next(filter(None, folders), default))
    for name, sha256 in VOCABULARY_FILES.items():
        url = VOCABULARY_URL + name
        path = folder / hashlib.sha1(url.encode()).hexdigest()
        if not path.exists() or sha256_of(path) != sha256:
            download(url, path, sha256=sha256)


def encoding_of(vocabulary, end_of_text):
    """The tiktoken.Encoding of a vocabulary, the bytes of each token; end_of_text, one's id."""
    # The id of a token is its rank: BPE merges the pair whose token has the lowest.
    ranks = {token: rank for rank, token in enumerate(vocabulary) if rank != end_of_text}
    special = {END_OF_TEXT: end_of_text}
    return tiktoken.Encoding("gpt2", pat_str=WORDS, mergeable_ranks=ranks, special_tokens=special)


def gpt2_encoding():
    """GPT-2's tiktoken.Encoding, from gpt2_tokenizer.bin if that is there. NoNetwork, UserError."""
    path = common.TOKENIZER_FILE
    if not path.exists():
        fill_tiktoken_cache()
        return tiktoken.get_encoding("gpt2")
    vocabulary, end_of_text = load_tokenizer(path)
    if hashlib.sha256(b"\n".join(vocabulary)).hexdigest() != VOCABULARY_SHA256:
        raise UserError(f"{path}: not GPT-2's vocabulary; delete it and run this again")
    return encoding_of(vocabulary, end_of_text)


# ----------------------------------------------------------------------------
# Tokenizer and token files


def write_tokenizer(path, vocabulary, end_of_text):
    """Write a tokenizer file: vocabulary, the bytes of each token; end_of_text, one token's id."""
    with replacing(path) as f:
        write_header(f, common.TOKENIZER, 2, len(vocabulary), end_of_text)
        for token in vocabulary:
            f.write(bytes([len(token)]) + token)


def write_gpt2_tokenizer(path):
    """Write GPT-2's tokenizer file. Raises NoNetwork, UserError."""
    encoding = gpt2_encoding()
    vocabulary = [encoding.decode_single_token_bytes(i) for i in range(encoding.n_vocab)]
    write_tokenizer(path, vocabulary, encoding.eot_token)


def write_tokens(path, vocab_size, chunks):
    """Write a token file from an iterable of arrays (or lists) of ids, one in memory at a time."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(path) as f:
        write_header(f)  # its place; the count is known at the end
        for chunk in chunks:
            tokens = np.asarray(chunk)
            if len(tokens) and not 0 <= tokens.min() <= tokens.max() < min(vocab_size, 2**16):
                raise ValueError(f"a token of {path} is not below {vocab_size}, or not in 16 bits")
            f.write(tokens.astype("<u2"))
            count += len(tokens)
        if not 0 < count < 2**31:
            raise UserError(f"{path}: can't hold {count:,} tokens, only 1 to 2**31 - 1 of them")
        f.seek(0)
        write_header(f, common.TOKENS, 1, count, vocab_size)
    print(f"wrote {count:,} tokens to {path.parent.name}/{path.name}", flush=True)


# ----------------------------------------------------------------------------
# Text files

SMALL_VAL = 257  # tokens of a batch of train_gpt2.py's default, 4 * 64 + 1
# Before a single space or newline between two words, GPT-2's encoding cuts text anyway.
CUT = re.compile(r".*\S(?=[ \n]\S)", re.DOTALL)


def text_pieces(path, hint=None):
    """Yield the text of a UTF-8 file in pieces whose tokens are those of the whole. UserError."""
    rest, empty = "", True
    try:
        with open(path, encoding="utf-8-sig") as f:  # newlines as "\n", a byte order mark dropped
            while new := f.read(max(CHUNK, len(rest))):
                rest, empty = rest + new, False
                if "\0" in new:
                    raise UserError(
                        f"{path}: has a NUL, as no text has; {hint or 'save it as UTF-8'}"
                    )
                if cut := CUT.match(rest):
                    yield cut[0]
                    rest = rest[cut.end() :]
    except UnicodeDecodeError as error:
        hint = hint or "save it as UTF-8 (iconv, or an editor, does that)"
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); {hint}") from error
    except OSError as error:
        hint = hint or "give the names of text files"
        raise UserError(f"{path}: {error.strerror}; {hint}") from error
    if empty:
        raise UserError(f"{path}: empty; {hint or 'give the names of files with text in them'}")
    yield rest


def tokenize_files(paths, encoding):
    """Yield the tokens of text files, piece by piece, end-of-text before each file. UserError."""
    for path in paths:
        yield [encoding.eot_token]
        for piece in text_pieces(path):
            yield encoding.encode_ordinary(piece)


@contextlib.contextmanager
def writing_in(folder):
    """Turn an error of the system into a UserError that names the folder."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}; free some space") from error


def write_splits(name, vocab_size, chunks, val_fraction):
    """Write data/NAME_train.bin and, for the last val_fraction of the tokens, data/NAME_val.bin."""
    DATA.mkdir(exist_ok=True)
    with writing_in(DATA), tempfile.TemporaryFile(dir=DATA) as spool:
        for chunk in chunks:
            spool.write(np.array(chunk, "<u2"))
        spool.flush()
        tokens = np.memmap(spool, "<u2", "r")
        # of a small file more than the fraction, so that there is a batch, but never more than half
        enough = min(SMALL_VAL, len(tokens) // 2)
        cut = len(tokens) - max(round(val_fraction * len(tokens)), enough)
        for split, start, stop in ("val", cut, len(tokens)), ("train", 0, cut):
            blocks = (tokens[i : min(i + CHUNK, stop)] for i in range(start, stop, CHUNK))
            write_tokens(DATA / f"{name}_{split}.bin", vocab_size, blocks)


def main(argv=None):
    parser = Parser(description="Tokenize text files with GPT-2's vocabulary.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a text file, in UTF-8")
    parser.add_argument("--name", help="writes data/NAME_*.bin (default: the first file's name)")
    parser.add_argument(
        "--val-fraction", type=number(float, 0, 0.5), default=0.1, help="default: 0.1, the end"
    )
    args = parser.parse_args(argv)
    name = Path(args.files[0]).stem if args.name is None else args.name
    if not name or name != Path(name).name:
        parser.error(f"--name {name}: not the name of a file, without a folder")
    for path in args.files:  # a mistake in the last one shows before the first is tokenized
        for _ in text_pieces(path):
            pass
    encoding = gpt2_encoding()
    write_splits(name, encoding.n_vocab, tokenize_files(args.files, encoding), args.val_fraction)


if __name__ == "__main__":
    run(main)
