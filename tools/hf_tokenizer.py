"""
A vocabulary as Hugging Face keeps it: tokenizer.json, or vocab.json and merges.txt.

Ours keeps the tokens alone: BPE makes them in the order of their ids. So what is read here has to
merge in that order, too, and to cut texts into words as GPT-2 does.
"""

import itertools
import json

from tools import encoding, formats
from tools.console import UserError

FILES = "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"
UNSEEN = (byte for byte in range(256) if byte == ord(" ") or not chr(byte).isprintable())
LETTERS = {byte: 256 + i for i, byte in enumerate(UNSEEN)}  # for bytes that Latin-1 doesn't show
LONGEST = 255  # bytes; a tokenizer file has one byte for the length of a token
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def spelled(token):
    """Return the bytes of a token as letters, one each (bytes_to_unicode in GPT-2's encoder.py)."""
    return token.decode("latin-1").translate(LETTERS)


BYTES = {spelled(bytes([byte])): byte for byte in range(256)}


def unspelled(letters):
    """Return the bytes that spelled() made letters of, or of plain text, as added tokens are."""
    known = BYTES.keys() >= set(letters)
    return bytes(BYTES[letter] for letter in letters) if known else letters.encode()


def is_added(token):
    """Return whether text is always cut within a token, so that nothing is encoded as it."""
    words = encoding.needed("regex").findall(encoding.WORDS, token.decode("utf-8", "replace"))
    return len(words) > 1


def merges(vocabulary, end_of_text):
    """
    Return the pairs of tokens that BPE joins, one for each token of several bytes, in their order.

    The pair is what BPE makes of the token's bytes with the tokens before it. Tokens that were
    added to those of BPE, like "[PAD]", have none. Raises UserError.
    """
    ranks = {token: i for i, token in enumerate(vocabulary) if i != end_of_text}
    found = []
    for token, rank in ranks.items():
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            order = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
            i = order.index(min(order))
            if order[i] >= rank:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2 and ranks.keys() >= set(parts):
            found.append(parts)
        elif len(parts) > 1 and not is_added(token):
            raise UserError(f"its token {token} is none that BPE makes of others")
    return found


# ----------------------------------------------------------------------------
# In


def read_json(path):
    """Return what a JSON file has, a dict. Raises UserError."""
    try:
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON with settings: {error}; get it again") from error
    return found


def read_if_there(path):
    """Return what a JSON file has, a dict; {} if there is no such file. Raises UserError."""
    return read_json(path) if path.exists() else {}


def read_parts(folder):
    """
    Return the ids of a folder's tokens, {letters: id}; those of added ones; the pairs to merge.

    tokenizer.json goes before vocab.json and merges.txt, as in AutoTokenizer.
    """
    if not (found := read_if_there(folder / "tokenizer.json")):
        lines = (folder / "merges.txt").read_text("utf-8").splitlines()
        pairs = [line for line in lines if not line.startswith("#version")]
        return read_json(folder / "vocab.json"), read_if_there(folder / "added_tokens.json"), pairs
    model, cut = found["model"], BYTE_LEVEL | found["pre_tokenizer"]
    like = model.get("type", "BPE") == "BPE" and cut.items() >= BYTE_LEVEL.items()
    if not like or found.get("normalizer"):
        raise ValueError("it cuts texts into words in another way")
    added = {token["content"]: token["id"] for token in found["added_tokens"]}
    return model["vocab"], added, model["merges"]


def read(folder, V):
    """
    Return the vocabulary of a folder, the bytes of each token, V at most; end-of-text's id.

    None if it has no tokenizer. UserError if it has one that encodes texts in another way than
    encoding.encoding_of() what would be returned.
    """
    path = next((folder / name for name in FILES[:2] if (folder / name).exists()), None)
    if path is None:
        return None
    settings = read_if_there(folder / "tokenizer_config.json")
    try:
        ids, added, pairs = read_parts(folder)
        tokens = {i: unspelled(token) for token, i in ids.items()}
        tokens |= {i: token.encode() for token, i in added.items()}
        vocabulary = [tokens[i] for i in range(len(tokens))][:V]
        if len(set(vocabulary)) < len(vocabulary) or len(max(vocabulary, key=len)) > LONGEST:
            raise ValueError(f"two tokens are the same, or one has more than {LONGEST} bytes")
        end = settings.get("eos_token") or encoding.END_OF_TEXT
        end = end["content"] if isinstance(end, dict) else end
        end_of_text = vocabulary.index(end.encode())
        if settings.get("add_prefix_space"):
            raise ValueError("it puts a space before a text")
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in pairs]
        if merges(vocabulary, end_of_text) != [list(map(unspelled, pair)) for pair in pairs]:
            raise ValueError("its merges are not in the order of its tokens")
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not a tokenizer like GPT-2's, {what}") from error
    return vocabulary, end_of_text


# ----------------------------------------------------------------------------
# Out


def files(path, config):
    """Return a tokenizer file as those of a folder, {name: text}; end-of-text's id. UserError."""
    vocabulary, end_of_text = formats.load_tokenizer(path)
    if (have := len(set(vocabulary))) != config.V:
        raise UserError(f"{path}: has {have:,} different tokens, the model {config.V:,}")
    pairs = merges(vocabulary, end_of_text)
    made, ids, added = {a + b for a, b in pairs}, {}, []
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for i, token in enumerate(vocabulary):
        letters = spelled(token)
        if i == end_of_text or len(token) > 1 and token not in made:
            letters = token.decode("utf-8", "replace")
            added.append({"id": i, "content": letters, **plain, "special": True})
        ids[letters] = i
    lines = [f"{spelled(a)} {spelled(b)}" for a, b in pairs]
    cut = BYTE_LEVEL | {"trim_offsets": False}
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    whole |= {"normalizer": None, "pre_tokenizer": cut, "post_processor": cut, "decoder": cut}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "vocab": ids, "merges": lines}
    end = vocabulary[end_of_text].decode("utf-8", "replace")
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": config.maxT}
    settings |= {
        "add_prefix_space": False,
        **{f"{name}_token": end for name in ("bos", "eos", "unk")},
    }
    return {
        "tokenizer.json": json.dumps(whole | {"model": model}),
        "vocab.json": json.dumps(ids),
        "merges.txt": "\n".join(["#version: 0.2", *lines, ""]),
        "tokenizer_config.json": json.dumps(settings, indent=2),
    }, end_of_text
