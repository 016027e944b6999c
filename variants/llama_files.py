"""
Llama's sizes and tensors, and its files, which are those of llama2.c.

llama2.c (github.com/karpathy/llama2.c) is Karpathy's Llama 2 in C. Of its weight files, version 0
is what its program runs, and version 1 has a proper header; both are float32 (doc/llama.md).
"""

import itertools
import math
import os
import struct
from collections import namedtuple
from functools import partial
from pathlib import Path

import train_gpt2 as gpt2
from tools import checkpoints, encoding, formats
from tools.console import UserError
from tools.prepare import check_vocabulary
from train_gpt2 import MATRIX, PROJECTION, SCALE
from variants.model import model_with

import numpy as np

RMSNORM_EPS, ROTARY_BASE = 1e-5, 10000.0  # Llama 2's; no file of llama2.c says other ones
# In the order of llama2.c's header; tied: wte is the head's matrix, too
LlamaConfig = namedtuple("LlamaConfig", "C H L NH NKV V maxT tied")
TENSORS = {  # as in the lesson; KC is NKV * HS. In the order of version 1
    "ln1w": ("L C", SCALE), "ln2w": ("L C", SCALE), "lnfw": ("C", SCALE), "wte": ("V C", MATRIX),
    "qw": ("L C C", MATRIX), "kw": ("L KC C", MATRIX), "vw": ("L KC C", MATRIX),
    "attprojw": ("L C C", PROJECTION), "gatew": ("L H C", MATRIX),
    "fcprojw": ("L C H", PROJECTION), "upw": ("L H C", MATRIX),
    "headw": ("V C", MATRIX),  # if not tied
}  # fmt: skip
IN_BLOCKS = [name for name, (axes, _) in TENSORS.items() if axes.startswith("L ")]
DECAYING = [name for name, (_, kind) in TENSORS.items() if kind != SCALE]
VERSION_0 = "wte ln1w qw kw vw attprojw ln2w gatew fcprojw upw lnfw turns headw".split()


def is_possible(config):
    """Return whether there can be a Llama of these sizes."""
    C, _, _, NH, NKV, *_ = config
    return min(config[:7]) > 0 and C % (2 * NH) == 0 and NH % NKV == 0


def tensor_shapes(config):
    """Return the shape of each tensor by name, in the order of TENSORS."""
    size = config._asdict() | {"KC": config.NKV * config.C // config.NH}
    names = [name for name in TENSORS if name != "headw" or not config.tied]
    return {name: tuple(size[axis] for axis in TENSORS[name][0].split()) for name in names}


LESSON = model_with(TENSORS=TENSORS, DECAYING=DECAYING, tensor_shapes=tensor_shapes)
num_parameters, named_views = LESSON.num_parameters, LESSON.named_views

# ----------------------------------------------------------------------------
# llama2.c's weights
MAGIC, HEADER_BYTES, OLD_HEADER_BYTES = 0x616B3432, 256, 28  # "ak42"; version 0 has seven int32
HINT = "`python variants/train_llama.py --out FILE` writes one"


def read_header(path):
    """Return a file's version, 0 or 1; where its header ends; its config, None if impossible."""
    with open(path, "rb") as f:
        data = f.read(HEADER_BYTES)
    version, sizes, start = 0, data[:OLD_HEADER_BYTES], OLD_HEADER_BYTES
    if data[:4] == MAGIC.to_bytes(4, "little") and len(data) == HEADER_BYTES:
        version, sizes, start = int.from_bytes(data[4:8], "little"), data[8:36], HEADER_BYTES
        if version != 1:
            what = f"version {version} of llama2.c's weights, and only 0 and 1 are read, in float32"
            raise UserError(f"{path}: {what}; export it again")
    if len(sizes) < OLD_HEADER_BYTES:
        return version, start, None
    *sizes, V, maxT = struct.unpack("<7i", sizes)
    config = LlamaConfig(*sizes, abs(V), maxT, bool(data[36]) if version else V > 0)
    return version, start, config if is_possible(config) else None


def check_files(args):
    """Raise UserError if data or --out of a run are wrong; print what weights will be replaced."""
    check_vocabulary(args.data, args.init)
    if not args.no_save:
        formats.check_writable(args.out, MAGIC, "--out")
        if os.path.exists(args.out):
            print("to replace:", args.out, read_header(args.out)[2])


def is_weights(path):
    """Return whether a file begins as one of llama2.c's weights. UserError for other versions."""
    return os.path.isfile(path) and read_header(path)[2] is not None


def load_weights(path):
    """Read a file, version 0 or 1 -> all parameters, a flat float32 vector; config. UserError."""
    if os.path.isdir(path):
        hint = f"`python variants/convert_llama.py {path} llama.bin` makes a file of Hugging Face's"
        raise UserError(f"{path}: there is no file of this name, but a folder; {hint}")
    if not os.path.isfile(path):  # a pipe would keep us waiting
        raise UserError(f"{path}: there is no file of this name; {HINT}")
    version, start, config = read_header(path)
    size = os.path.getsize(path)
    if not config:
        raise UserError(f"{path}: not a weight file of llama2.c; {HINT}")
    turns = 0 if version else config.maxT * (config.C // config.NH)
    if size != (means := start + 4 * (num_parameters(config) + turns)):
        what = f"has {size:,} bytes, its header means {means:,}"
        raise UserError(f"{path}: {what}; not a weight file of llama2.c, or damaged; {HINT}")
    flat = np.fromfile(path, "<f4", offset=start)
    if version:
        return flat, config
    sizes = {name: math.prod(shape) for name, shape in tensor_shapes(config).items()}
    order = [name for name in VERSION_0 if name in sizes or name == "turns"]
    ends = np.cumsum([(sizes | {"turns": turns})[name] for name in order])
    parts = dict(zip(order, np.split(flat, ends[:-1]), strict=True))
    return np.concatenate([parts[name] for name in sizes]), config


def write_weights(path, flat, config, digest=0, turns=None):
    """
    Write all parameters, a flat float32 vector, as a weight file of version 1. Raises UserError.

    With turns (2, maxT, HS / 2), the cosines and sines of the positions: of version 0, which has
    them, too. There is no place for a digest of the vocabulary.
    """
    *sizes, V, maxT, tied = config
    with formats.replacing(path) as f:
        if turns is None:
            f.write(struct.pack("<Ii7iB219x", MAGIC, 1, *config))
            f.write(flat)
            return
        f.write(struct.pack("<7i", *sizes, V if tied else -V, maxT))
        parts = named_views(flat, config) | {"turns": turns}
        f.writelines(parts[name] for name in VERSION_0 if name in parts)


# ----------------------------------------------------------------------------
# llama2.c's tokenizer: a score and a text for each token. Token 1 begins a text and ends it; 3 to
# 258 are the 256 bytes, for what no other token has
BEGIN, FIRST_BYTE = 1, 3


def load_tokenizer(path, V):
    """Read the tokenizer of a model of V tokens -> the bytes of each, their scores. UserError."""
    data, at, tokens, scores = Path(path).read_bytes(), 4, [], []
    while at + 8 <= len(data) and len(tokens) < V:
        score, size = struct.unpack_from("<fI", data, at)
        tokens.append(data[at + 8 : at + 8 + size])
        scores.append(score)
        at += 8 + size
    longest = int.from_bytes(data[:4], "little")
    if at != len(data) or len(tokens) != V or max(map(len, tokens)) != longest:
        what = f"not a tokenizer file, ours or llama2.c's, of {V:,} tokens"
        raise UserError(f"{path}: {what}; give the one that was made with the weights")
    for token in range(FIRST_BYTE, min(FIRST_BYTE + 256, V)):
        if tokens[token] == b"<0x%02X>" % (token - FIRST_BYTE):
            tokens[token] = bytes([token - FIRST_BYTE])
    return tokens, scores


def encode(text, tokens, scores, whose="--prompt"):
    """
    Return the ids of a text as llama2.c finds them, behind the token that begins one, and a space.

    Each letter is a token, or else its bytes are; then the pair whose joint token has the highest
    score is joined, again and again (Sennrich et al. 2016, 3.2, with scores). UserError, which says
    whose text it is, if the tokens lack a letter.
    """
    ids = {token: i for i, token in enumerate(tokens)}  # of a byte's two, the one that has a score
    found = []
    for letter in f" {text}" if text else "":
        data = letter.encode()
        found += [ids[data]] if data in ids else [byte + FIRST_BYTE for byte in data]
        if found[-1] >= len(tokens) or data not in ids and tokens[found[-1]] != data[-1:]:
            raise UserError(f"{whose}: this model's tokens lack {letter!r}; leave it out")
    while True:
        joint = [ids.get(tokens[a] + tokens[b], -1) for a, b in itertools.pairwise(found)]
        best = max(range(len(joint)), key=lambda i: (joint[i] >= 0, scores[joint[i]]), default=None)
        if best is None or joint[best] < 0:
            return [BEGIN, *found]
        found[best : best + 2] = [joint[best]]


def open_tokenizer(path, weights, V, whose):
    """
    Read a tokenizer, ours or llama2.c's -> vocabulary, end-of-text, text -> ids. UserError, also if
    it is not for the V tokens of the file of weights.

    The function from a text to its ids says whose text it is that has a letter which no token has.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no file of this name; give another --tokenizer")
    if np.fromfile(path, "<i4", 1).tolist() != [gpt2.TOKENIZER_MAGIC]:
        vocabulary, scores = load_tokenizer(path, V)
        how = {"tokens": vocabulary, "scores": scores, "whose": whose}
        return vocabulary, BEGIN, partial(encode, **how)
    vocabulary, end = formats.load_tokenizer(path)
    checkpoints.check_tokenizer(path, vocabulary, weights, V)
    return vocabulary, end, encoding.encoder(vocabulary, end, whose)


def exchanged(ids, end_of_text):
    """Return an array (or a list) with the places of end-of-text and of llama2.c's exchanged."""
    order = np.arange(len(ids))
    order[[BEGIN, end_of_text]] = end_of_text, BEGIN
    return ids[order] if isinstance(ids, np.ndarray) else [ids[i] for i in order]


def write_tokenizer(path, vocabulary, end_of_text):
    """
    Write a vocabulary, the bytes of each token, as llama2.c's tokenizer. Raises UserError.

    Our BPE joins the pair whose token has the lowest id, so a score is minus the id. Llama2.c takes
    token 1 for the end of a text, so the two exchange their ids, and have to in wte and headw.
    """
    tokens = exchanged(vocabulary, end_of_text)
    scores = exchanged([float(-i) for i in range(len(vocabulary))], end_of_text)
    with formats.replacing(path) as f:
        f.write(struct.pack("<I", max(map(len, tokens))))
        for token, score in zip(tokens, scores, strict=True):
            f.write(struct.pack("<fI", score, len(token)) + token)
