"""
Strings and their reverse, a task for attention alone; and how often a model gets it right:

    python prepro_reverse.py                   # data/reverse_train.bin, and so on
    python prepro_reverse.py --check out.bin   # how many strings held out a GPT-2, or Llama, knows

A document is a string of 8 to 16 letters, "=", the string from its end on, and end-of-text. More of
these stand before it, so that "=" is token 16, and after it, up to 34 tokens: with --seq-len 34, a
sequence is a document, and the letter to be copied to token t is token 32 - t. For --check a model
gets all up to "=", and its likeliest token is taken again and again: all has to be right, up to the
first end-of-text.
"""

import os
import string

import sample_gpt2
from tools import formats, sampling, token_files
from tools.console import Parser, UserError, file_name, run_program

import numpy as np

VOCABULARY = [*(letter.encode() for letter in string.ascii_lowercase), b"=", b"<|endoftext|>"]
LETTERS, EQUALS, END = 26, 26, 27
LEAST, MOST = 8, 16  # letters of a string
SIZE = 2 * MOST + 2  # tokens of a document
TRAIN, VAL = 200_000, 1000  # documents
FLAGS = "--init d2 --steps 800 --batch-size 64 --seq-len 34 --lr 2e-3 --warmup 100"
FLAGS += " --min-lr-frac 0.02 --grad-clip 1 --val-every 200 --sample-every 0"


def documents(count, rng):
    """Return random documents, (count, SIZE), each another; or fewer, where one came twice."""
    letters = rng.integers(LETTERS, size=(count, SIZE))
    n = rng.integers(LEAST, MOST + 1, (count, 1))
    found = np.where(abs(np.arange(SIZE) - MOST) <= n, letters, END)
    found[:, MOST] = EQUALS
    found[:, MOST + 1 : -1] = found[:, MOST - 1 :: -1]
    return rng.permutation(np.unique(found, axis=0))


def count_right(model, held_out):
    """Return how many of the documents held_out, (count, SIZE), a sampling.Model gets right."""
    start, rest = np.split(held_out, [MOST + 1], 1)
    pick = lambda logits: logits.argmax(-1)  # noqa: E731
    texts = sampling.generate(model.params, model.config, start, pick, model.new_tokens_forward)
    said = np.stack([next(texts) for _ in range(MOST + 1)], 1)
    ended = np.cumsum(rest == END, 1) > 1  # behind the first end-of-text
    return int((ended | (said == rest)).all(1).sum())


def check(path, prefix):
    """Print how many of the strings held out the model in a file gets right. Raises UserError."""
    val = f"{prefix}_val.bin"
    tokens = formats.load_tokens(val)[0] if os.path.exists(val) else []
    if not len(tokens) or len(tokens) % SIZE or (tokens[MOST::SIZE] != EQUALS).any():
        raise UserError(f"{val}: has no strings held out; `python prepro_reverse.py` makes them")
    tokenizer = f"{prefix}_tokenizer.bin"
    model = sample_gpt2.open_model(sample_gpt2.parse_args([path, "--tokenizer", tokenizer]))
    if model.config.maxT < SIZE:
        hint = f"train it with --seq-len {SIZE}"
        raise UserError(f"{path}: takes {model.config.maxT} tokens, a document has {SIZE}; {hint}")
    count = len(tokens) // SIZE
    right = count_right(model, np.array(tokens).reshape(count, SIZE))
    print(f"{path}: {right:,} of {count:,} strings right, {right / count:.1%}")


def main(argv=None):
    parser = Parser(description="Make strings and their reverse, a task for a small model.")
    token_files.add_name_flag(parser, "reverse")
    text = "count how many of the strings held out this model gets right (default: make them)"
    parser.add_argument("--check", type=file_name, metavar="FILE", help=text)
    args = parser.parse_args(argv)
    prefix = token_files.prefix_of(args.name)
    if args.check:
        return check(args.check, prefix)
    found = documents(TRAIN + VAL, np.random.default_rng(0))
    with token_files.writing_to(prefix):
        splits = {"train": [found[VAL:].reshape(-1)], "val": [found[:VAL].reshape(-1)]}
        token_files.write_splits(prefix, VOCABULARY, END, splits)
    print(f"to train on it: python train_gpt2.py --data {token_files.shown(prefix)} {FLAGS}")


if __name__ == "__main__":
    run_program(main)
