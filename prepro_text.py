"""
Your own text to tokens: files in UTF-8, each a document, behind an end-of-text token.

    python prepro_text.py FILE... [--name NAME] [--vocab-size 4096 | --bytes] [--val-fraction 0.1]

writes data/NAME_train.bin and, of the last tenth, data/NAME_val.bin; its last line is the command
that trains on them. --separator TEXT or --jsonl FIELD tell documents within a file; a folder means
its .txt files. The tokens are GPT-2's, so that its weights can be trained further; or those of
a vocabulary that is trained on the text itself; or bytes, which takes no download and no package
but NumPy. A vocabulary that isn't GPT-2's goes to data/NAME_tokenizer.bin.
"""

import argparse
import contextlib
import glob
import itertools
import os
import tempfile

import train_gpt2 as gpt2
from tools.console import (
    Parser,
    Unavailable,
    UserError,
    bounded,
    file_name,
    print_error,
    run_program,
    with_escapes,
    writing_in,
)
from tools.encoding import (
    END_OF_TEXT,
    byte_vocabulary,
    documents,
    encoding_of,
    gpt2_encoding,
    needed,
    text_pieces,
    vocabulary_of,
)
from tools.formats import load_tokenizer
from tools.prepare import FROM_SCRATCH
from tools.token_files import (
    add_name_flag,
    is_gpt2,
    natural,
    prefix_of,
    shown,
    typed,
    write_splits,
    writing_to,
)

import numpy as np

DEFAULTS = gpt2.make_parser().parse_args([])
BATCH_SIZE, SEQ_LEN = DEFAULTS.batch_size, DEFAULTS.seq_len  # of training
SMALL_VAL = BATCH_SIZE * SEQ_LEN + 1  # tokens of a batch, where the text has as many
FEWEST = 4  # tokens: in either part one to see, and one to guess
RECIPE = gpt2.make_parser().parse_args(FROM_SCRATCH.split())
RECIPE_VAL = RECIPE.batch_size * RECIPE.seq_len + 1
BLOCK = 2**20  # tokens written at a time
OF_OTHERS = {  # datasets whose documents are cut in another way
    "tiny_shakespeare": "prepro_tinyshakespeare.py",
    "TinyStories": "prepro_tinystories.py",
    "python_docs": "prepro_pythondocs.py",
}
EXAMPLES = """examples:
  python prepro_text.py me.txt                    GPT-2's, in data/me_*.bin
  python prepro_text.py a b --vocab-size 4096     a vocabulary for these texts
  python prepro_text.py me.txt --bytes            needs no network
  python prepro_text.py me.txt --name ../me       in ../me_train.bin, ...
  python prepro_text.py me.txt --separator '\\n\\n'  a document a paragraph
  python prepro_text.py me.jsonl --jsonl text     a document a line
  python prepro_text.py me --val you.txt          a folder; other validation
  python prepro_text.py chat.txt --separator '\\n\\n' --answers Bot:
                                                  the loss is that of answers
"""


def read_once(path, folder):
    """
    Read a text to its end, so that what is wrong with it shows -> where it can be read again.

    What is no plain file (a pipe, say) is kept in a new file in folder. Raises UserError.
    """
    if os.path.isfile(path):
        for _ in text_pieces(path):
            pass
        return path
    # with a byte order mark, because text_pieces drops one
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8-sig", newline="", dir=folder, delete=False
    ) as f:
        f.writelines(text_pieces(path))
    return f.name


def choose_vocabulary(args, paths):
    """Return the vocabulary, end-of-text's id, and a function from text to ids. UserError."""
    found = byte_vocabulary() if args.bytes else None
    if args.tokenizer:
        found = load_tokenizer(args.tokenizer)
        if lacks := {bytes([byte]) for byte in range(256)}.difference(found[0]):
            what = f"lacks {len(lacks)} of the 256 bytes, which a text may have"
            raise UserError(f"{args.tokenizer}: {what}; give another --tokenizer")
        if len(found[0]) > 2**16:
            what = f"{len(found[0]):,} tokens, where token files hold numbers below {2**16:,}"
            raise UserError(f"{args.tokenizer}: has {what}; give another --tokenizer")
    if found == byte_vocabulary():
        return *found, lambda text: np.frombuffer(text.encode(), np.uint8)
    if found:
        encoding = encoding_of(*found)
    elif args.vocab_size:
        texts = (text for path in paths for text in documents(path, args.separator, args.jsonl))
        pieces = itertools.chain.from_iterable(texts)
        vocabulary = needed("tools.bpe").train_bpe(pieces, args.vocab_size)
        encoding = encoding_of(vocabulary, len(vocabulary) - 1)
    else:
        try:
            encoding = gpt2_encoding()
        except Unavailable as error:
            raise Unavailable(f"{error.text}; or give --bytes, which needs none") from error
    return *vocabulary_of(encoding), encoding.encode_ordinary


def tokenize_files(paths, args, end_of_text, encode):
    """
    Yield the tokens of text files, in pieces, end-of-text before each document; and if they count.

    With --answers only an answer counts, without its beginning, and the end-of-text behind it: with
    that a model learns to stop. Raises UserError.
    """
    counts = not args.answers
    for path in paths:
        for pieces in documents(path, args.separator, args.jsonl):
            yield [end_of_text], counts
            counts = not args.answers
            for piece in pieces:
                beginning = next(filter(piece.startswith, args.answers), "")
                if beginning:
                    yield encode(beginning), False
                    counts = True
                yield encode(piece[len(beginning) :]), counts


def files_of(name):
    """Return the files that an argument means: itself, a folder's, or a pattern's. UserError."""
    found, hint = [name], ""
    if os.path.isdir(name):
        found = glob.glob(os.path.join(glob.escape(name), "**", "*.txt"), recursive=True)
        hint = f"*.txt; give a pattern, such as '{os.path.join(name, '**', '*.md')}'"
    elif glob.has_magic(name) and not os.path.exists(name):
        found, hint = glob.glob(name, recursive=True), "of it; give another"
    if found != [name]:  # what has no text is skipped
        found = [file for file in found if os.path.isfile(file) and os.path.getsize(file)]
    if not (found := sorted(found, key=natural)):
        raise UserError(f"{name}: there is no file {hint}")
    return found


def tell_documents(names, paths, args):
    """Print what may be meant otherwise than it is taken: marks of end-of-text, lines of JSON."""
    count = 0
    for name, path in zip(names, paths, strict=True):
        if name.endswith(".jsonl") and not args.jsonl:
            print_error(f"{name}: is taken as a text; --jsonl FIELD takes a field of each line")
        for pieces in documents(path, args.separator, args.jsonl):
            count += 1
            marks = sum(piece.count(END_OF_TEXT) for piece in pieces)
            if marks:
                what = f"has {END_OF_TEXT} {marks:,} times, as letters that a model will learn"
                hint = f"--separator '{END_OF_TEXT}' makes documents of what it stands between"
                print_error(f"{name}: {what}; {hint}")
                break
    if args.separator and count <= len(paths):
        print_error(f"--separator {args.separator!r}: stands nowhere between two texts")


def where_to_cut(count, val_fraction):
    """Return how many of so many tokens are to train on, the others being for validation."""
    if count < FEWEST:
        have = f"the text has {count} tokens, the one for its beginning included"
        raise UserError(f"{have}; it takes {FEWEST}, and some thousands to learn anything")
    # of a small text more than the fraction, so that there is a batch, but never more than half
    enough = min(SMALL_VAL, count // 2)
    return count - max(round(val_fraction * count), enough)


def blocks(tokens):
    """Yield tokens, an array, in parts that fit in memory."""
    for start in range(0, len(tokens), BLOCK):
        yield tokens[start : start + BLOCK]


def training_command(prefix, vocabulary, fewest, answers):
    """Return the command that trains on a dataset whose smaller part has fewest tokens."""
    script = os.path.join("tools", "train.py") if answers else "train_gpt2.py"
    command = ["python", shown(gpt2.HERE / script), "--data", shown(prefix)]
    if not is_gpt2(vocabulary):  # no weights know these tokens
        command += FROM_SCRATCH.split() if fewest >= RECIPE_VAL else ["--init", "d2"]
    if fewest < SMALL_VAL:
        command += ["--batch-size", "1", "--seq-len", str(min(SEQ_LEN, fewest - 1))]
    return typed(command)


def parse_args(argv):
    parser = Parser(
        description="Turn text files into the tokens that train_gpt2.py takes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "a text file, in UTF-8; a folder, of which the *.txt are taken; or a pattern"
    parser.add_argument("files", nargs="+", metavar="FILE", help=text)
    text = "text for validation (default: the end of the others, see --val-fraction)"
    parser.add_argument("--val", nargs="+", default=[], metavar="FILE", help=text)
    parts = parser.add_mutually_exclusive_group()
    text = r"what stands between documents; '\n\n' is an empty line (default: a file is one)"
    parts.add_argument("--separator", metavar="TEXT", type=with_escapes, help=text)
    text = "take this field of each line, files being JSON lines (default: plain text)"
    parts.add_argument("--jsonl", metavar="FIELD", type=file_name, help=text)
    text = "what a document begins with whose other tokens alone count (default: all tokens count)"
    parser.add_argument(
        "--answers", metavar="TEXT", nargs="+", default=[], type=with_escapes, help=text
    )
    add_name_flag(parser, None, "the first file's name")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--vocab-size",
        type=bounded(int, 257, 2**16),
        metavar="N",
        help="train a vocabulary of N tokens on the text (default: take GPT-2's)",
    )
    text = "encode with this vocabulary, that of a model, say (default: take GPT-2's)"
    kind.add_argument("--tokenizer", metavar="FILE", type=file_name, help=text)
    kind.add_argument(
        "--bytes",
        action="store_true",
        help="take bytes for tokens, and one for end-of-text (default: take GPT-2's)",
    )
    parser.add_argument(
        "--val-fraction",
        type=bounded(float, 0, 0.5),
        default=0.1,
        metavar="X",
        help="the part at the end of the text that is for validation (default: 0.1)",
    )
    args = parser.parse_args(argv)
    if args.answers and not (args.separator or args.jsonl):
        parser.error("--answers: takes documents; say what is between them, --separator TEXT")
    if args.name is None:  # a pipe has no name that says anything
        first = args.files[0] if os.path.isfile(args.files[0]) else "text"
        args.name = os.path.splitext(os.path.basename(first))[0]
    prefix = prefix_of(args.name)
    other = OF_OTHERS.get(prefix.name)
    if other and prefix.resolve() == prefix_of(prefix.name).resolve():
        what = f"{shown(prefix)} is what {other} makes"
        parser.error(f"{what}; give another name, as in --name my_{prefix.name}")
    return args, prefix


def main(argv=None):
    args, prefix = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        names, val_names = (
            [file for name in some for file in files_of(name)] for some in (args.files, args.val)
        )
        with writing_in(folder):
            paths, val_paths = (
                [read_once(path, folder) for path in some] for some in (names, val_names)
            )
        tell_documents(names + val_names, paths + val_paths, args)
        vocabulary, end_of_text, encode = choose_vocabulary(args, paths)
        with writing_to(prefix), contextlib.ExitStack() as stack:
            spool, marks = (
                stack.enter_context(tempfile.TemporaryFile(dir=prefix.parent)) for _ in range(2)
            )
            cut = 0  # where the tokens for validation begin
            for some in paths, val_paths:
                if some is val_paths:
                    cut = marks.tell()
                for chunk, counts in tokenize_files(some, args, end_of_text, encode):
                    spool.write(np.asarray(chunk, "<u2"))
                    marks.write(np.full(len(chunk), counts, np.uint8))
            spool.flush()
            marks.flush()
            tokens, mask = np.memmap(spool, "<u2", "r"), np.memmap(marks, np.uint8, "r")
            if not val_paths:
                cut = where_to_cut(len(tokens), args.val_fraction)
            parts = {"val": slice(cut, None), "train": slice(cut)}
            splits = {name: blocks(tokens[part]) for name, part in parts.items()}
            masks = {name: blocks(mask[part]) for name, part in parts.items() if args.answers}
            for name in masks:
                if not mask[parts[name]].any():
                    what = f"no document for {shown(prefix)}_{name}.bin begins so"
                    hint = "give what an answer begins with, or another --val"
                    raise UserError(f"--answers {args.answers}: {what}; {hint}")
            write_splits(prefix, vocabulary, end_of_text, splits, masks)
            fewest = min(cut, len(tokens) - cut)
    command = training_command(prefix, vocabulary, fewest, args.answers)
    print(f"to train on it: {command}")


if __name__ == "__main__":
    run_program(main)
