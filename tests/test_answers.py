"""The loss of answers alone: the masks that prepro_text.py writes, and what tools/train.py does."""

import math
import re

import prepro_text
import train_gpt2 as gpt2
from tools import evaluate, formats, token_files, train
from tools.console import UserError

import numpy as np
import pytest
from helpers import END, V, add_data, random_params, write_tokens

torch = pytest.importorskip("torch", reason="needs PyTorch")

EOT = 256
FLAGS = ["--bytes", "--separator", r"\n\n", "--answers", r"B:\n", "C:"]


def prepare(folder, text, *flags):
    """Prepare a text -> its tokens, and what of them counts, both splits together."""
    (folder / "x.txt").write_text(text)
    prepro_text.main([str(folder / "x.txt"), "--name", str(folder / "x"), *flags])
    return [
        np.concatenate([gpt2.load_tokens(folder / f"x{mask}_{split}.bin")[0] for split in parts])
        for mask, parts in (("", ("train", "val")), ("_mask", ("train", "val")))
    ]


def test_what_counts_of_a_text(tmp_path):
    """An answer behind its beginning, and the end-of-text behind it."""
    text = "A:\nB:\nno\n\nB:\nyes\n\nC: é B:\n\nB: no\n\nA:\n\nC:\n\nB:\n" + "o" * 9
    tokens, mask = prepare(tmp_path, text, *FLAGS)
    marked = "".join("#" if i == EOT else chr(i) for i in tokens[mask != 0])
    assert marked == "yes# \xc3\xa9 B:##" + "o" * 9 and len(mask) == len(tokens)
    assert gpt2.load_tokens(tmp_path / "x_mask_val.bin")[1] == 2
    prepro_text.main([str(tmp_path / "x.txt"), "--name", str(tmp_path / "x"), "--bytes"])
    assert not list(tmp_path.glob("*mask*"))  # all tokens count again
    with pytest.raises(UserError, match="no document for .*x_val.bin begins so; give what"):
        prepare(tmp_path, text + "\n\nA: no" * 99, *FLAGS)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with data and masks of it, in which a part of the windows has no answer."""
    monkeypatch.chdir(add_data(tmp_path))
    rng = np.random.default_rng(4)
    for split in "train", "val":
        tokens, _ = formats.load_tokens(f"data/letters_{split}.bin")
        mask = (rng.random(len(tokens)) < 0.3) & (np.arange(len(tokens)) % 200 < 130)
        write_tokens(f"data/letters_mask_{split}.bin", mask, 2)
        ends = mask & (np.arange(len(tokens)) % 3 == 0)  # a byte less for each, in answers alone
        write_tokens(f"data/letters_{split}.bin", np.where(ends, END, tokens))
    config = gpt2.GPT2Config(16, V, 1, 2, 8)
    formats.write_weights("w.bin", random_params(config)[0], config)
    return tmp_path


RUN = "--init w.bin --data data/letters --seq-len 16 --batch-size 3 --sample-every 0".split()


@pytest.mark.parametrize("engine", [[], ["--device", "cpu"]], ids=["NumPy", "PyTorch"])
def test_losses_of_a_run_are_those_of_answers(data, capsys, engine):
    """The mean over all of them, whatever batch they are in; bits by the bytes that they have."""
    more = "--steps 3 --val-every 1 --val-batches 0 --grad-accum 2 --save run.bin --log log.csv"
    train.main([*RUN, *more.split(), *engine])
    out = capsys.readouterr().out
    _, params = random_params(gpt2.GPT2Config(16, V, 1, 2, 8))

    def losses(split, numbers):
        shards, mask = (
            [gpt2.load_tokens(f"data/letters{x}_{split}.bin")[0]] for x in ("", "_mask")
        )
        found, size = [], 0
        for i in numbers:
            x, y = token_files.get_batch(shards, i, 3, 16)
            counts = token_files.get_batch(mask, i, 3, 16)[1].reshape(-1) != 0
            _, cache = gpt2.gpt2_forward(params, gpt2.GPT2Config(16, V, 1, 2, 8), x, y)
            found += (-np.log(cache[-1][0][np.arange(48), y.reshape(-1)]))[counts].tolist()
            size += int((y.reshape(-1)[counts] != END).sum())
        return np.mean(found), np.sum(found) / size / math.log(2), len(found)

    for split, numbers in ("train", range(2)), ("val", range(9)):
        (loss,) = re.findall(rf"step 0: {split} loss ([\d.]+)", out)
        assert float(loss) == pytest.approx(losses(split, numbers)[0], abs=2e-6), split
    row = (data / "log.csv").read_text().splitlines()[1].split(",")
    bits = losses("train", range(2))[1], losses("val", range(9))[1]
    assert [float(x) for x in row[-2:]] == pytest.approx(bits, abs=1e-4)
    counts = [
        int(gpt2.load_tokens(f"data/letters_mask_{x}.bin")[0].sum()) for x in ("train", "val")
    ]
    assert "the loss is that of answers, {:,} of them, and {:,} for".format(*counts) in out

    assert "step 3: val loss" in out and f"on all of {losses('val', range(9))[2]} tokens" in out
    evaluate.main(["w.bin", "--data", "data/letters"])
    (loss,) = re.findall(r"loss per token +([\d.]+)", capsys.readouterr().out)
    assert float(loss) == pytest.approx(losses("val", range(9))[0], abs=0.05)  # 18 tokens more

    mask = gpt2.load_tokens("data/letters_mask_train.bin")[0].copy()
    mask[5] ^= 1
    write_tokens("data/letters_mask_train.bin", mask, 2)
    with pytest.raises(UserError, match="was trained on other tokens"):
        train.main(["--resume", "run.bin", "--data", "data/letters", "--steps", "4", *engine])


@pytest.mark.parametrize(
    "split, mask, says",
    [
        ("train", [1] * 900, "mask_train.bin: is not of the tokens in .*; prepare"),
        ("val", [0] * 451, "mask_val.bin: says that no token counts; prepare"),
        ("val", None, "letters: only one part has a mask of answers; prepare both"),
    ],
)
def test_masks_that_do_not_fit(data, split, mask, says):
    path = data / "data" / f"letters_mask_{split}.bin"
    with pytest.raises(UserError, match="--head-rows: not for data/letters, of which"):
        train.main([*RUN, "--steps", "1", "--head-rows", "5"])
    path.unlink() if mask is None else write_tokens(path, mask, 2)
    with pytest.raises(UserError, match=says):
        train.main([*RUN, "--steps", "1"])
