"""
Generate text from a checkpoint, shown as it comes:

    python sample_gpt2.py [--weights gpt2_124M.bin] [--prompt "..."] [--tokens 100]
        [--temperature 1.0] [--top-k 0] [--top-p 1.0] [--seed 1337] [--samples 1]
        [--tokenizer FILE]

Standard output is the text alone: the prompt and its continuation, which ends early where the model
draws end-of-text; between samples, a line "---". The model sees maxT tokens at most (GPT-2: 1024):
when there are more, the older half is forgotten. The same seed gives the same text again.
"""

import codecs
import itertools
import signal
import sys
from pathlib import Path

import common
import prepro
from common import Parser, UserError, file_name, number
from train_gpt2 import generate, load_weights, tensors

import numpy as np


def read_prompt(flag):
    """The text of --prompt, of standard input if that is "-". UserError unless it is UTF-8."""
    try:
        if flag == "-":
            sys.stdin.reconfigure(encoding="utf-8-sig")  # as prepro.py reads a file
            return sys.stdin.read()
        return flag.encode("utf-8", "surrogateescape").decode()  # the bytes as they were typed
    except UnicodeDecodeError as error:
        hint = "save it as UTF-8 (iconv, or an editor, does that)"
        raise UserError(f"--prompt: not UTF-8 text ({error.reason}); {hint}") from error


def encode(text, vocabulary, end_of_text):
    """The tokens of a text, a list. UserError for a character that the vocabulary lacks."""
    known = {token for i, token in enumerate(vocabulary) if i != end_of_text}
    for character in sorted(set(text)):  # first, for tiktoken would panic
        if not known.issuperset(bytes([byte]) for byte in character.encode()):
            raise UserError(f"--prompt: this model's tokens lack {character!r}; leave it out")
    return prepro.encoding_of(vocabulary, end_of_text).encode_ordinary(text) if text else []


def pieces(tokens, vocabulary, end_of_text):
    """Yield the text of tokens up to end-of-text, in pieces that never end within a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in itertools.takewhile(lambda token: token != end_of_text, tokens):
        yield decoder.decode(vocabulary[token])
    yield decoder.decode(b"", final=True)


def parse_args(argv):
    about = (
        "Generate text: --tokens of them, or up to end-of-text. The model sees maxT tokens at most"
        " (GPT-2: 1024): when there are more, the older half is forgotten."
    )
    parser = Parser(description=about)
    add, count, top = parser.add_argument, number(int, 0), "draw from the likeliest tokens"
    default = common.WEIGHTS_FILE
    add(
        "--weights",
        type=file_name,
        default=default,
        metavar="FILE",
        help=f"default: {default.name}",
    )
    add("--prompt", default="", metavar="TEXT", help="text to continue; -: all of standard input")
    add("--tokens", type=count, default=100, help="to add, at most (default: 100)")
    add("--temperature", type=number(float, 0), default=1.0, help="0: always the likeliest token")
    add("--top-k", type=count, default=0, help=f"{top}, so many; 0: all (default)")
    add("--top-p", type=number(float, 0, 1), default=1.0, help=f"{top}, of this sum; 1: all")
    add("--seed", type=count, default=1337)
    add("--samples", type=number(int, 1), default=1, help="how many texts (default: 1)")
    hint = "default: that of the training data, or else GPT-2's"
    add("--tokenizer", type=file_name, metavar="FILE", help=hint)
    args = parser.parse_args(argv)
    if args.top_p == 0:
        parser.error("--top-p 0: leaves no token; give more, 1 leaves all")
    return args


def main(argv=None):
    args = parse_args(argv)
    flat, config = load_weights(args.weights)
    name, step = Path(args.weights).name, common.read_about(args.weights).get("step")
    if not np.isfinite(flat).all():
        raise UserError(f"{args.weights}: has weights that are not numbers; give another --weights")
    tokenizer = args.tokenizer or common.tokenizer_of(args.weights)
    vocabulary, end_of_text = common.load_tokenizer(tokenizer)
    if len(vocabulary) != config.V:
        what = f"{tokenizer}: has {len(vocabulary):,} tokens, {name} knows {config.V:,}"
        raise UserError(f"{what}; give the one it was trained with, --tokenizer FILE")
    prompt = read_prompt(args.prompt)
    start = encode(prompt, vocabulary, end_of_text) or [end_of_text]
    if len(start) > config.maxT:
        what = f"{len(start):,} tokens, {name} takes {config.maxT:,} at most"
        raise UserError(f"--prompt: has {what}; shorten it")
    trained = "" if step is None else f", step {step}"
    print(f"{name}: {len(flat):,} parameters{trained}", file=sys.stderr)

    params, how = tensors(flat, config), (args.temperature, args.top_k, args.top_p)
    interrupted = common.catch_interrupt()  # amid a token it could hit a lock of the threads
    for i in range(args.samples):
        tokens = generate(params, config, start, np.random.default_rng((args.seed, i)), *how)
        text = pieces(itertools.islice(tokens, args.tokens), vocabulary, end_of_text)
        for piece in itertools.chain(["---\n"] if i else [], [prompt], text):
            print(piece, end="", flush=True)
            if interrupted.is_set():
                raise KeyboardInterrupt
        print()


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that it ends, quietly, when `| head` has
    common.run(main)
