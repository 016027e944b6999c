"""
Generate text from a checkpoint, shown as it comes:

    python sample_gpt2.py                              # of out.bin, or else of GPT-2
    python sample_gpt2.py run.bin --prompt "ROMEO:" --samples 8 --temperature 0.8 --top-p 0.95
    python sample_gpt2.py run.bin --interactive        # asks for prompts, one after the other
    python sample_gpt2.py run.bin --chat You: Bot:     # answers, and keeps what was said
    python sample_gpt2.py llama.bin                    # a Llama, a file or a folder

Standard output is the text alone: the prompt and its continuation, which ends early where the model
draws end-of-text; between samples, a line "---". The model sees maxT tokens at most (GPT-2: 1024):
when there are more, the older half is forgotten. The same seed gives the same text again.
"""

import contextlib
import importlib
import os
import signal
import sys
from pathlib import Path

import train_gpt2 as gpt2
from tools import checkpoints, encoding, formats, huggingface, sampling
from tools.console import (
    Parser,
    UserError,
    bounded,
    catch_interrupt,
    file_name,
    one_line,
    print_error,
    run_program,
    text_decoder,
    with_escapes,
)

import numpy as np

# Samples go through the model together, which reads a weight once for all of them: so many at most,
# and no more than have so many tokens of prompts
TOGETHER, TOGETHER_TOKENS = 16, 4096
OUT = "out.bin"  # what a run leaves, in the folder it was started in


def prompts(args):
    """Yield what is to be continued, the bytes as they were typed."""
    if args.prompt == "-":
        yield sys.stdin.buffer.read()
    elif not args.interactive:
        yield args.prompt.encode("utf-8", "surrogateescape")
    with contextlib.suppress(AttributeError):  # it may be closed
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    while args.interactive:
        try:
            yield input("> ").encode("utf-8", "surrogateescape")
        except (EOFError, RuntimeError):  # Ctrl-D; RuntimeError: there is no standard input
            return print()


def decode(data):
    """Return the text of a prompt, as prepro_text.py reads a file. UserError if not UTF-8."""
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeError as error:
        hint = "save it as UTF-8 (iconv, or an editor, does that)"
        raise UserError(f"--prompt: {encoding.place_of(error)}; {hint}") from error


class Text:
    """One of the texts that are generated together: what of it can be shown."""

    def __init__(self, prompt, vocabulary, end_of_text, stop=""):
        self.vocabulary, self.end_of_text, self.stop = vocabulary, end_of_text, stop
        self.decoder = text_decoder()
        self.shown, self.ended, self.held, self.tokens = prompt, False, "", []

    def add(self, token):
        """Take a token, or None for no more of them; whole characters join what is shown."""
        if self.ended:
            return
        self.ended = token is None or token == self.end_of_text
        self.tokens += [] if self.ended else [token]
        data = b"" if self.ended else self.vocabulary[token]
        text = self.held + self.decoder.decode(data, final=self.ended)
        if self.stop and self.stop in text:
            text, self.ended = text.partition(self.stop)[0], True
        # what could be the beginning of stop is held back, until the next token tells
        ends = range(0 if self.ended else min(len(self.stop) - 1, len(text)), 0, -1)
        size = next((n for n in ends if self.stop.startswith(text[-n:])), 0)
        self.shown += text[: len(text) - size]
        self.held = text[len(text) - size :]


def generate(model, start, texts, pick, count):
    """
    Yield whenever texts, a list of Text, have taken one more token each; start, a list of tokens.

    They go through the model together, count tokens long at most.
    """
    tokens = np.tile(np.array(start), (len(texts), 1))
    steps = sampling.generate(model.params, model.config, tokens, pick, model.new_tokens_forward)
    for _ in range(count):
        if all(text.ended for text in texts):
            return
        for text, token in zip(texts, next(steps), strict=True):
            text.add(token)
        yield
    for text in texts:
        text.add(None)
    yield


def parse_args(argv):
    parser = Parser(
        description="Generate text: --tokens of them, or up to end-of-text.",
        epilog='Example: python sample_gpt2.py --weights out.bin --prompt "ROMEO:" --top-p 0.95',
        allow_abbrev=False,
    )
    add, count, top = parser.add_argument, bounded(int, 0, 10**9), "draw from the likeliest tokens"
    text = f"{OUT} where there is one, or else {gpt2.WEIGHTS_FILE.name}"
    add("file", nargs="?", type=file_name, metavar="FILE", help=f"weights (default: {text})")
    add("--weights", type=file_name, metavar="FILE", help="the same (default: FILE)")
    text = "text to continue; -: all of standard input (default: none, a new text)"
    add("--prompt", default="", metavar="TEXT", help=text)
    text = "ask for prompts, one after the other; an empty line begins a new text, Ctrl-D ends"
    add("--interactive", action="store_true", help=text)
    text = (
        "ask for turns, and answer: what a turn of yours begins with, and what an answer does, as"
    )
    text += " in prepro_text.py --answers; an empty line begins anew (default: no turns)"
    add("--chat", nargs=2, type=with_escapes, metavar=("YOU", "NAME"), help=text)
    add("--stop", default="", metavar="TEXT", help="end before this text (default: none)")
    text = "what ends a text in the prompt, as for prepro_text.py (default: nothing does)"
    add("--separator", type=with_escapes, metavar="TEXT", help=text)
    add("--tokens", type=count, default=100, metavar="N", help="to add, at most (default: 100)")
    text = "below 1, likely tokens become likelier; 0: always the likeliest (default: 1)"
    add("--temperature", type=bounded(float, 0), default=1.0, metavar="X", help=text)
    add("--top-k", type=count, default=0, metavar="N", help=f"{top}, so many (default: 0, all)")
    text = f"{top}, of this sum (default: 1, all)"
    add("--top-p", type=bounded(float, 0, 1), default=1.0, metavar="X", help=text)
    text = "of what is drawn (default: 1337)"
    add("--seed", type=bounded(int, 0), default=1337, metavar="N", help=text)
    text = "how many texts (default: 1)"
    add("--samples", type=bounded(int, 1, 10**9), default=1, metavar="N", help=text)
    text = "default: that of the training data, the only one in data/ that fits, or GPT-2's"
    add("--tokenizer", type=file_name, metavar="FILE", help=text)
    args = parser.parse_args(argv)
    if args.file and args.weights:
        parser.error(f"--weights {args.weights}: and {args.file}, too; give one of them")
    default = OUT if os.path.exists(OUT) else gpt2.WEIGHTS_FILE
    args.weights = args.weights or args.file or default
    if args.chat and (args.samples > 1 or args.separator):
        parser.error("--chat: has one answer to a turn; leave --samples and --separator out")
    args.interactive = args.interactive or bool(args.chat)
    if args.interactive and args.prompt:
        flag = "--chat" if args.chat else "--interactive"
        parser.error(f"{flag}: asks for prompts; leave --prompt out")
    if args.top_p == 0:
        parser.error("--top-p 0: leaves no token; give more, 1 leaves all")
    return args


def open_model(args, whose="--prompt"):
    """
    Return what the flags name, a sampling.Model; whose the text is that it encodes. UserError.

    What else than GPT-2 can be opened, this program does not know: each open_*.py of variants/ has
    an open_model(args, whose), which returns None for what it does not take.
    """
    for path in sorted((gpt2.HERE / "variants").glob("open_*.py")):
        other = importlib.import_module(f"variants.{path.stem}")
        if model := other.open_model(args, whose):
            return model
    step, digest, own, tokenizer = None, 0, None, args.tokenizer
    if os.path.isdir(args.weights):  # as reference_gpt2.py --export writes it
        with contextlib.redirect_stdout(sys.stderr):
            flat, config, own = huggingface.import_model(args.weights)
        checkpoints.check_finite(args.weights, flat)
        if not tokenizer and not own:
            tokenizer = checkpoints.tokenizer_that_fits(args.weights, config.V)
    else:
        its = checkpoints.Checkpoint(args.weights, formats.WEIGHTS_HINT)
        flat, config, step = its.weights(), its.config, its.about.get("step")
        digest = formats.digest_in(args.weights)
        tokenizer = tokenizer or checkpoints.tokenizer_of(its)
    vocabulary, end_of_text = formats.load_tokenizer(tokenizer) if tokenizer else own
    checkpoints.check_tokenizer(tokenizer, vocabulary, args.weights, config.V, digest)
    trained = "" if step is None else f", step {step}"
    about = f"{one_line(Path(args.weights).name)}: {len(flat):,} parameters{trained}"
    encode = encoding.encoder(vocabulary, end_of_text, whose)
    forwards = gpt2.gpt2_forward, sampling.new_tokens_forward
    params = gpt2.named_views(flat, config)
    return sampling.Model(params, config, vocabulary, end_of_text, encode, *forwards, about)


def start_of(args, model, prompt, turns):
    """Return the tokens to continue: of a prompt, or of turns, to which it adds the prompt."""
    if args.chat:
        you, name = args.chat
        both = model.encode(you + prompt), model.encode(name)
        for turn in both:
            turns += [model.end_of_text, *turn]
        return turns
    start = []
    for document in prompt.split(args.separator) if args.separator else [prompt]:
        start += [model.end_of_text, *model.encode(document)]
    if encoding.END_OF_TEXT in prompt and not args.separator:
        hint = f"--separator '{encoding.END_OF_TEXT}' has it end a text"
        print_error(f"--prompt: has {encoding.END_OF_TEXT}, taken as letters; {hint}")
    return start[1:] or start


def write_texts(args, model, start, prompt, numbers):
    """Write a text for each number, as they come -> the last one's tokens; if Ctrl-C ended it."""
    vocabulary, end_of_text = model.vocabulary, model.end_of_text
    if numbers[0] == 0:
        print_error(model.about)
    if len(start) > (maxT := model.config.maxT):
        start = start[-maxT:]
        if not args.chat:
            what = f"--prompt: the model sees only its newest {maxT:,} tokens"
            print_error(f"{Path(sys.argv[0]).name}: {what}")
    interrupted = catch_interrupt()  # amid a token it could hit a lock of the threads
    together = max(1, min(TOGETHER, TOGETHER_TOKENS // len(start)))
    for first in range(0, len(numbers), together):
        part = numbers[first : first + together]
        draws = [np.random.default_rng((args.seed, i)) for i in part]
        pick = sampling.picker(draws, args.temperature, args.top_k, args.top_p)
        texts = [Text(prompt, vocabulary, end_of_text, args.stop) for _ in part]
        steps = generate(model, start, texts, pick, args.tokens)
        for i, text in zip(part, texts, strict=True):  # the first as it comes, then the others
            print("" if i == numbers[0] else "---\n", end="")
            more = True
            while more:
                print(text.shown, end="", flush=True)
                text.shown = ""
                if interrupted.is_set():
                    return text.tokens, True
                more = not text.ended and next(steps, steps) is not steps
            print()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return text.tokens, False


def main(argv=None):
    args = parse_args(argv)
    model, done, turns = open_model(args), 0, []
    for data in prompts(args):
        if args.chat and not data:
            turns = []
            continue
        try:
            prompt = decode(data)
            start = start_of(args, model, prompt, turns)
            prompt, numbers = "" if args.chat else prompt, range(done, done + args.samples)
            tokens, interrupted = write_texts(args, model, start, prompt, numbers)
        except UserError as error:
            if not args.interactive:
                raise
            print_error(one_line(error.text))
            continue
        turns += tokens
        if interrupted and not args.interactive:
            raise KeyboardInterrupt
        print("\n" if interrupted else "", end="")
        done += args.samples


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that it ends, quietly, when `| head` has
    run_program(main)
