"""
How well a model guesses a text, or answers: figures to compare with others' (doc/evaluate.md).

    python tools/evaluate.py run.bin --data data/words           # of data/words_val.bin
    python tools/evaluate.py words_hf --text wiki.txt --stride 512
    python tools/evaluate.py run.bin --lambada lambada_test.jsonl
    python tools/evaluate.py run.bin --hellaswag hellaswag_val.jsonl
"""

import math
import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import sample_gpt2
import train_gpt2 as gpt2
from tools import encoding, formats, token_files
from tools.console import Parser, UserError, bounded, file_name, run_program
from tools.log import bars
from tools.numpy_engine import row_losses

import numpy as np

TOGETHER = 1024  # tokens that go through the model at a time, but at least one row

# ----------------------------------------------------------------------------
# Losses


def score(model, texts):
    """
    Return for each text, an array of n tokens, n - 1 losses, and as many times if it was likeliest.

    Texts that follow each other go through the model together. Behind a shorter one there is
    padding, which no token sees, because it comes later.
    """
    size, scores = max(1, TOGETHER // max(map(len, texts))), []
    bar = bars()(total=len(texts), unit=" texts", disable=None, leave=False)
    for first in range(0, len(texts), size):
        some = texts[first : first + size]
        batch = np.zeros((len(some), max(map(len, some))), np.int64)
        for row, text in zip(batch, some, strict=True):
            row[: len(text)] = text
        _, cache = model.forward(model.params, model.config, batch[:, :-1], batch[:, 1:])
        losses, likeliest = (a.reshape(len(some), -1) for a in row_losses(cache))
        for i, text in enumerate(some):
            scores.append((losses[i, : len(text) - 1], likeliest[i, : len(text) - 1]))
        bar.update(len(some))
    bar.close()
    return scores


def windows(tokens, T, stride):
    """
    Cut a text into windows for a model of T tokens -> the windows, and how many to score of each.

    They begin stride tokens after each other and have T tokens, of which those are scored, the last
    ones, that no earlier window has: so each is seen with at least T - stride tokens before it, but
    for the first ones of the text. With a stride of 0 the windows lie side by side, as in training,
    T tokens and the target of the last.
    """
    size, step = (T, stride) if stride else (T + 1, T)
    found, counts, end = [], [], 1
    for begin in range(0, len(tokens) - 1, step):
        window = tokens[begin : begin + size]
        found.append(window)
        counts.append(min(begin + len(window) - end, len(window) - 1))
        end = begin + len(window)
        if end == len(tokens):
            break
    return found, counts


def standard_error(values, block=1):
    """
    Return the standard error of the mean of values, in blocks that depend on each other; or nan.

    Tokens that stand near each other are easy together, or hard; so their sums count as one each
    (Miller 2024, "Adding Error Bars to Evals", 2.2). A single block says nothing.
    """
    sums = np.add.reduceat(values - np.mean(values), np.arange(0, len(values), block))
    count = len(sums)
    variance = np.square(sums).sum() * count / (count - 1) if count > 1 else math.nan
    return math.sqrt(variance) / len(values)


# ----------------------------------------------------------------------------
# Texts and questions


def read_tokens(args, model):
    """Return the tokens of --data or --text, where they are from, and which count. UserError."""
    if args.text:
        tokens = [i for piece in encoding.text_pieces(args.text) for i in model.encode(piece)]
        return np.array(tokens), args.text, np.ones(len(tokens), bool)
    shards, V = token_files.load_shards(f"{args.data}_val")
    if V != len(model.vocabulary):
        what = f"has {V:,} different tokens, the model {len(model.vocabulary):,}"
        raise UserError(f"{args.data}_val: {what}; give another --data")
    hint = "prepare the text with the model's, prepro_text.py --tokenizer FILE"
    digest = formats.digest_of(model.vocabulary)
    digests = {f"{args.data}_val": shards[0].digest, "the model": digest}
    formats.check_one_vocabulary(digests, hint)
    tokens = np.concatenate([shard[:] for shard in shards])
    mask = token_files.load_mask(args.data, "val", shards)
    mask = mask[0][:] != 0 if mask else np.ones(len(tokens), bool)
    return tokens, f"{args.data}_val", mask


def print_row(name, value, error, digits=4):
    print(f"{name:<28}{value:>12,.{digits}f}" + f"  ± {error:,.{digits}f}" * math.isfinite(error))


def evaluate_text(model, tokens, name, mask, stride):
    """Print what the tokens cost, each, and by bytes and words of their text. Raises UserError."""
    T, end_of_text = model.config.maxT, model.end_of_text
    if stride > T:
        raise UserError(f"--stride {stride}: the model sees {T} tokens; give no more than these")
    if len(tokens) < 2:
        raise UserError(f"{name}: has {len(tokens)} tokens; give two, one to see and one to guess")
    places, counts = windows(np.arange(len(tokens)), T, stride)
    scores = score(model, [tokens[some] for some in places])
    losses = np.concatenate([row[-n:] for (row, _), n in zip(scores, counts, strict=True)])
    scored = np.concatenate([some[-n:] for some, n in zip(places, counts, strict=True)])
    losses, scored = losses[mask[scored]], tokens[scored[mask[scored]]]
    if not mask.all():
        print(f"{name}: of these tokens only answers count")
    text = b"".join(b"\n" if i == end_of_text else model.vocabulary[i] for i in scored.tolist())
    ends, words = int((scored == end_of_text).sum()), len(text.split())
    how = f"{stride} apart" if stride else "side by side"
    print(f"{name}: {len(scored):,} tokens, {len(text) - ends:,} bytes, {words:,} words")
    print(f"{len(places):,} windows of {T:,} tokens, {how}")
    loss, error = losses.mean(), standard_error(losses, T)
    print_row("loss per token", loss, error)
    print_row("perplexity per token", math.exp(loss), math.exp(loss) * error)
    for unit, count in ("byte", len(text) - ends), ("word", words):
        if count:
            bits = len(scored) / count / math.log(2)
            print_row(f"bits per {unit}", loss * bits, error * bits)
    if words and loss * len(scored) / words < 700:  # e**709 is the largest float64
        per_word = loss * len(scored) / words
        print_row("perplexity per word", math.exp(per_word), math.nan, 2)


def with_end(model, start, end):
    """Return the newest tokens of two lists that a model takes, and how many are of the second."""
    return np.array(start + end)[-model.config.maxT - 1 :], min(len(end), model.config.maxT)


def last_words(model, path):
    """Return the tokens of each line's text, and how many of them are its last word. UserError."""
    found = []
    for number, text in enumerate(encoding.json_texts(path, "text"), 1):
        context, space, word = text.rstrip().rpartition(" ")
        if not context.strip():
            raise UserError(f"{path}: text {number} has no word before its last; give a longer one")
        found.append(with_end(model, model.encode(context), model.encode(space + word)))
    return zip(*found, strict=True)


def evaluate_lambada(model, path):
    """Print how often all tokens of a last word are the likeliest, and what it costs. UserError."""
    texts, counts = last_words(model, path)
    scores = score(model, texts)
    right = np.array([row[-n:].all() for (_, row), n in zip(scores, counts, strict=True)], float)
    losses = np.array([row[-n:].sum() for (row, _), n in zip(scores, counts, strict=True)])
    print(f"{path}: the last word of {len(texts):,} texts")
    print_row("accuracy", right.mean(), standard_error(right))
    perplexity = np.exp(losses.mean())
    print_row("perplexity of the word", perplexity, perplexity * standard_error(losses), 2)


def read_question(line):
    """Return a context, its endings, and which is right. Raises ValueError and others."""
    context, endings, label = line["ctx"], list(line["endings"]), int(line["label"])
    " ".join((context, *endings)).encode()  # ValueError: half of a letter, as in "\\ud800"
    if not (0 <= label < len(endings) and context.strip() and all(map(str.strip, endings))):
        raise ValueError("an empty text, or a label of no ending")
    return context, endings, label


def evaluate_hellaswag(model, path):
    """Print how often the right ending is the likeliest: all of it, and by the token. UserError."""
    kind = "ctx, endings and label", '{"ctx": "a text", "endings": ["one", "two"], "label": 0}'
    found, labels, first = [], [], []
    for context, endings, label in encoding.json_lines(path, read_question, *kind):
        first.append(len(found))
        labels.append(label)
        start = model.encode(context)
        found += [with_end(model, start, model.encode(f" {ending}")) for ending in endings]
    texts, counts = zip(*found, strict=True)
    scores = score(model, texts)
    losses = [row[-n:] for (row, _), n in zip(scores, counts, strict=True)]
    print(f"{path}: the ending of {len(labels):,} texts")
    for name, measure in ("accuracy", np.sum), ("accuracy, by the token", np.mean):
        each = np.split(np.array([measure(row) for row in losses]), first[1:])
        right = np.array([m.argmin() == label for m, label in zip(each, labels, strict=True)])
        print_row(name, right.mean(), standard_error(right.astype(float)))


# ----------------------------------------------------------------------------
# Command line


def parse_args(argv):
    parser = Parser(description="Evaluate a model on a text, or on questions.", allow_abbrev=False)
    add, default = parser.add_argument, gpt2.WEIGHTS_FILE
    text = f"weights, or a folder of Hugging Face's (default: {default.name})"
    add("file", nargs="?", type=file_name, metavar="FILE", help=text)
    add("--weights", type=file_name, metavar="FILE", help="the same (default: FILE)")
    kinds = {
        "data": "NAME, of NAME_val.bin: tokens",
        "text": "a text in UTF-8",
        "lambada": 'lines of {"text": ...}, of which the last word is to be guessed',
        "hellaswag": 'lines of {"ctx": ..., "endings": [...], "label": 0}',
    }
    for name, text in kinds.items():
        metavar = "NAME" if name == "data" else "FILE"
        add(f"--{name}", type=file_name, metavar=metavar, help=f"{text} (default: none)")
    text = "of --data and --text: tokens from one window to the next, at most as many as the model"
    text += " sees; each is scored once, with all before it in its window; 0: windows side by side"
    add("--stride", type=bounded(int, 0), default=0, metavar="N", help=f"{text} (default: 0)")
    text = "default: that of the training data, the only one in data/ that fits, or GPT-2's"
    add("--tokenizer", type=file_name, metavar="FILE", help=text)
    args = parser.parse_args(argv)
    if args.file and args.weights:
        parser.error(f"--weights {args.weights}: and {args.file}, too; give one of them")
    if len([name for name in kinds if getattr(args, name)]) != 1:
        parser.error(f"give one of {', '.join(f'--{name}' for name in kinds)}")
    if args.stride and not (args.data or args.text):
        parser.error("--stride: is for --data and --text; leave it out")
    args.weights = args.weights or args.file or default
    own = f"{args.data}_tokenizer.bin"
    if args.data and not args.tokenizer and os.path.exists(own):
        args.tokenizer = own
    return args


def main(argv=None):
    args = parse_args(argv)
    model = sample_gpt2.open_model(args, args.text or args.lambada or args.hellaswag)
    gpt2.keep_freed_memory()
    print(model.about)
    if args.lambada or args.hellaswag:
        evaluate = evaluate_lambada if args.lambada else evaluate_hellaswag
        return evaluate(model, args.lambada or args.hellaswag)
    evaluate_text(model, *read_tokens(args, model), args.stride)


if __name__ == "__main__":
    run_program(main)
