"""tools/evaluate.py: its figures beside those of PyTorch's cross-entropy, of one text at a time."""

import json
import math
import re

import test_gpt2
import train_gpt2 as gpt2
from tools import evaluate, formats, train

import numpy as np
import pytest
from helpers import END, LETTERS, TEXT, V, add_data, random_params, write_tokens

torch = pytest.importorskip("torch", reason="needs PyTorch")
from torch.nn.functional import cross_entropy  # noqa: E402

CONFIG = gpt2.GPT2Config(maxT=16, V=V, L=2, NH=2, C=8)


@pytest.fixture
def figures(tmp_path, capsys, monkeypatch):
    """A function: flags -> the figures that tools/evaluate.py prints, by name, each with its ±."""
    monkeypatch.chdir(add_data(tmp_path))
    flat, _ = random_params(CONFIG)
    formats.write_weights("w.bin", 2 * flat, CONFIG)  # so that some tokens are likely

    def run(*flags):
        evaluate.main(["w.bin", "--tokenizer", "data/letters_tokenizer.bin", *map(str, flags)])
        rows = re.findall(r"^(\D+?) +([\d.,]+)(?:  ± ([\d.,]+))?$", capsys.readouterr().out, re.M)
        return {name: [float(x.replace(",", "")) for x in found if x] for name, *found in rows}

    return run


def logits_of(tokens):
    """Return the logits (n, V) of one text."""
    params = gpt2.named_views(2 * random_params(CONFIG)[0], CONFIG)
    x = np.array([tokens])
    return torch.from_numpy(test_gpt2.logits_of(gpt2.gpt2_forward(params, CONFIG, x, x)[1]))


def losses_of(text, count):
    """Return the losses of the last count tokens of a text, and whether each is the likeliest."""
    logits, targets = logits_of(text[:-1])[-count:], torch.tensor(text[-count:])
    return cross_entropy(logits, targets, reduction="none").numpy(), logits.argmax(-1) == targets


def ids(text):
    return [LETTERS.index(letter.encode()) for letter in text]


@pytest.mark.parametrize("stride", [1, 5, 12, 16])
def test_sliding_windows_are_those_of_the_recipe(figures, stride):
    """The loop of transformers' page on perplexity, where a target of -100 is not counted."""
    text = (TEXT * 7)[:97]
    with open("text.txt", "w", encoding="utf-8") as f:
        f.write(text)
    tokens, losses, previous = ids(text), [], 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + 16, len(tokens))
        targets = torch.tensor(tokens[begin:end])
        targets[: previous - end] = -100
        each = cross_entropy(logits_of(tokens[begin:end])[:-1], targets[1:], reduction="none")
        losses += each[targets[1:] != -100].tolist()
        previous = end
        if end == len(tokens):
            break
    assert len(losses) == 96 if stride < 16 else len(losses) < 96
    found, mean = figures("--text", "text.txt", "--stride", stride), np.mean(losses)
    assert found["loss per token"][0] == pytest.approx(mean, abs=6e-5)
    assert found["perplexity per token"][0] == pytest.approx(math.exp(mean), rel=1e-4)


def test_windows_side_by_side_are_those_of_training(figures, capsys):
    """And figures by bytes and words are those of the text, without its end-of-text."""
    tokens = formats.load_tokens("data/letters_val.bin")[0].copy()
    tokens[[9, 40, 41]] = END
    write_tokens("data/letters_val.bin", tokens)
    found = figures("--data", "data/letters")
    texts = [tokens[i : i + 17].astype(int) for i in range(0, 450, 16)]
    losses = np.concatenate([losses_of(text, len(text) - 1)[0] for text in texts])
    text = b"".join(b"" if i == END else LETTERS[i] for i in tokens)
    words = b"".join(b" " if i == END else LETTERS[i] for i in tokens).split()
    assert len(losses) == len(text) + 3 == 450
    bits = losses.sum() / math.log(2)
    for name, true in (
        ("loss per token", losses.mean()),
        ("bits per byte", bits / len(text)),
        ("bits per word", bits / len(words)),
    ):
        assert found[name][0] == pytest.approx(true, abs=6e-5), name
    blocks = [losses[i : i + 16].sum() - 16 * losses.mean() for i in range(0, 448, 16)]
    blocks.append(losses[448:].sum() - 2 * losses.mean())
    error = np.std(blocks, ddof=1) * math.sqrt(29) / 450  # their mean is 0
    assert found["loss per token"][1] == pytest.approx(error, abs=6e-5)
    flags = "--init w.bin --data data/letters --seq-len 16 --batch-size 1 --val-batches 0"
    train.main(f"{flags} --steps 0 --sample-every 0 --no-save".split())
    (loss,) = re.findall(r"val loss ([\d.]+)", capsys.readouterr().out)
    assert float(loss) == pytest.approx(losses[:448].mean(), abs=2e-6)  # of whole windows alone


def test_standard_error_of_independent_values():
    values = np.random.default_rng(0).standard_normal(50)
    assert evaluate.standard_error(values) == pytest.approx(values.std(ddof=1) / math.sqrt(50))
    assert math.isnan(evaluate.standard_error(values, 50))


def test_last_words(figures):
    """Long texts lose their beginning; a word counts if each of its tokens is the likeliest."""
    rng, texts = np.random.default_rng(2), []
    for n in range(3, 300):
        context = "".join(rng.choice([*"abcdefghij."], n % 23 + 1))
        space = logits_of(ids(context)[-15:])[-1].argmax() == ids(" ")[0]
        if space or n % 20 == 0:  # or no word is ever guessed; of some only the letter is
            guess = int(logits_of(ids(f"{context} ")[-16:])[-1].argmax())
            texts.append(f"{context} {LETTERS[guess if guess < 10 else n % 10].decode()}")
    texts += [text + "a" for text in texts[:9]]
    with open("q.jsonl", "w", encoding="utf-8") as f:
        f.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    right, losses = [], []
    for text in texts:
        each, likeliest = losses_of(ids(text)[-17:], len(text) - text.rindex(" "))
        losses.append(each.sum())
        right.append(bool(likeliest.all()))
    assert 0 < sum(right) < len(right)
    found = figures("--lambada", "q.jsonl")
    p, n = np.mean(right), len(right)
    assert found["accuracy"] == pytest.approx([p, math.sqrt(p * (1 - p) / (n - 1))], abs=6e-5)
    assert found["perplexity of the word"][0] == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)


def test_endings(figures):
    """The likeliest of all, and by the token, which prefers longer ones."""
    rng, right = np.random.default_rng(3), []
    with open("q.jsonl", "w", encoding="utf-8") as f:
        for i in range(60):
            context, *endings = (
                "".join(rng.choice([*"abcdefghij."], n)) for n in (9, 1, 5, 3, 2)[: 4 + i % 2]
            )
            f.write(json.dumps({"ctx": context, "endings": endings, "label": i % 3}) + "\n")
            each = [losses_of(ids(f"{context} {end}")[-17:], len(end) + 1)[0] for end in endings]
            right.append([np.argmin([m(x) for x in each]) == i % 3 for m in (np.sum, np.mean)])
    summed, mean = np.mean(right, 0)
    assert summed != mean and 0 < min(summed, mean)
    found = figures("--hellaswag", "q.jsonl")
    assert found["accuracy"][0] == pytest.approx(summed, abs=6e-5)
    assert found["accuracy, by the token"][0] == pytest.approx(mean, abs=6e-5)
