"""
experiments/: each program runs, at a small size; what its page claims holds for the stored figures.
"""

import json

import train_gpt2 as gpt2
from experiments import flops, meter, norms, rates, scaling

import numpy as np
import pytest
from helpers import PROJECT, add_data, failed, run, succeeded
from test_doc import failure, fences
from variant_checks import check_layer

FOLDER = PROJECT / "experiments"
NAMES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "README")
TINY = {  # flags; {data} is a text of helpers.py
    "flops": "--L 1 --NH 2 --C 16 --V 50 --rounds 1 --roof 64",
    "noise": "--data {data} --L 1 --NH 1 --C 16 --B 2 --T 8 --steps 3 --seeds 2 --drawn 20",
    "norms": "--data {data} --L 2 --C 16 --B 2 --T 8 --steps 30",
    "rates": "--data {data} --L 1 --C 16 --B 2 --T 8 --steps 25 --rates 1e-3 1e-1",
    "scaling": "--data {data} --L 1 2 --C 32 64 --B 2 --T 8 --steps 32 --val-batches 2",
}


def stored(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def shape_of(value):
    """Return the keys of nested dicts, and of a list those of its first element."""
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    return {k: shape_of(v) for k, v in value.items()} if isinstance(value, dict) else None


@pytest.mark.parametrize("name", NAMES)
def test_a_small_run(name, tmp_path):
    data = add_data(tmp_path) / "data" / "letters"
    flags = ["--out", tmp_path, *TINY[name].format(data=data).split()]
    out = succeeded(run(PROJECT, f"experiments/{name}.py", *flags, timeout=300))
    assert out.splitlines()[-1].startswith(f"wrote {tmp_path / name}.png ")
    written = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert shape_of(written) == shape_of(stored(name))
    picture = (tmp_path / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    (tmp_path / f"{name}.png").unlink()
    flags = "--out", tmp_path, "--show", tmp_path / f"{name}.json"
    succeeded(run(PROJECT, f"experiments/{name}.py", *flags, timeout=300))
    assert (tmp_path / f"{name}.png").read_bytes() == picture


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_an_experiment(name, monkeypatch):
    """Short programs; a page with its command, its picture, and what was measured on; it runs."""
    monkeypatch.chdir(PROJECT)
    assert (FOLDER / f"{name}.py").read_text(encoding="utf-8").count("\n") <= 120
    text, record = (FOLDER / f"{name}.md").read_text(encoding="utf-8"), stored(name)
    assert f"\n    python experiments/{name}.py\n" in text and f"]({name}.png)" in text
    assert "## Your prediction" in text and "<details><summary>Answers</summary>" in text
    assert not [line for line in text.splitlines() if len(line) > 100 and line[0] not in "|!"]
    assert record["date"] in text and f"`{record['commit']}`" in text and "Zen 4" in text
    assert not record["commit"].endswith("+")  # a file that differed from its commit
    assert f"| [`{name}.py`]({name}.py) |" in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert failure(text) is None and len(fences(text)) > 0


def test_mistakes(tmp_path):
    letters = add_data(tmp_path) / "data" / "letters"
    for size, words in ("4y64", "as in 4x64"), ("2x8 --NH 3", "C a multiple of NH"):
        flags = f"--roof 8 --out {tmp_path} --sizes {size}".split()
        failed(run(PROJECT, "experiments/flops.py", *flags, timeout=300), words)
    for flags, words, status in (
        (["--data", tmp_path / "none", "--out", tmp_path], ["none_train.bin", "prepro_text.py"], 1),
        (["--show", tmp_path / "none.json", "--out", tmp_path], ["none.json"], 1),
        (["--show", FOLDER / "rates.json", "--out", tmp_path], ["rates.json"], 1),
        (["--NH", "5", "--data", letters, "--out", tmp_path], ["64 channels", "5 heads"], 1),
        (["--T", "5000", "--data", letters, "--out", tmp_path], ["8 times 5000"], 1),
        (["--scales", "wide", "--data", letters, "--out", tmp_path], ["'wide'"], 1),
        (["--steps", "few"], ["--steps"], 2),
        (["--steps", "0"], ["0 is not a number from 1"], 2),
    ):
        done = run(PROJECT, "experiments/norms.py", *flags, timeout=300)
        failed(done, *words, status=status)


# ----------------------------------------------------------------------------
# Where the time goes


def test_operations_are_counted_as_the_formula_says():
    config, (x, y) = (
        gpt2.GPT2Config(300, 11, 2, 2, 8),
        np.random.default_rng(0).integers(11, size=(2, 2, 300)),
    )
    state = [gpt2.init_weights(config), *np.zeros((3, gpt2.num_parameters(config)), np.float32)]
    counted = meter.count(state, config, x, y)
    assert counted.products == flops.formula(config, 2, 300)
    numbers = 2 * 300 * 8
    assert counted.others["sums"] == config.L * 4 * numbers  # x + attproj, mid + fcproj; backward
    assert counted.others["embedding"] == 3 * numbers
    assert set(counted.others) == set(meter.LAYERS) == set(counted.bytes)
    assert not np.array_equal(state[0], gpt2.init_weights(config))  # AdamW has moved them


# ----------------------------------------------------------------------------
# Norms


def test_gradient_of_the_post_norm_block():
    config, rng = gpt2.GPT2Config(5, 7, 1, 2, 6), np.random.default_rng(0)
    shapes = {name: gpt2.tensor_shapes(config)[name][1:] for name in gpt2.IN_BLOCKS}
    inputs = {"x": rng.standard_normal((10, 6))}
    inputs |= {name: rng.standard_normal(shape) / 2 for name, shape in shapes.items()}

    def named(arrays):
        return dict(zip(gpt2.IN_BLOCKS, arrays, strict=True))

    check_layer(
        "post-norm block",
        lambda x, *arrays: norms.post_forward(x, named(arrays), 2, config.NH),
        lambda dout, cache, *grads: norms.post_backward(dout, cache, named(grads)),
        inputs,
    )


def test_size_times_gradient_is_the_same_at_every_depth():
    """But where post-norm's branches are large. Its rows become alike, and it learns no more."""
    runs = {(each["norm"], each["scale"]): each for each in stored("norms")["measured"]["runs"]}
    assert len(runs) == 6
    for key, each in runs.items():
        products = np.multiply(each["start"]["size of x"], each["start"]["norm of dx"])[1:]
        assert (products.max() / products.min() < 1.095) == (key != ("post", "0.125"))
        loss, alike = np.mean(each["losses"][-20:]), each["end"]["rows alike"][-1]
        assert (loss > 3.3, alike > 0.98) == (key[0] == "post",) * 2
    first, *_, last = runs["pre", "0.02"]["start"]["norm of the parameters' gradient"]
    assert first / last == pytest.approx(3.4, abs=0.05)


# ----------------------------------------------------------------------------
# Rates, scaling


def test_the_edge_is_near_the_best_rate_and_clipping_moves_it():
    measured = stored("rates")["measured"]
    ends = {
        way: {
            each["rate"]: rates.end_of(each["losses"], 150)
            for each in measured["runs"]
            if each["way"] == way
        }
        for way in measured["ways"]
    }
    plain, clipped = ends["nothing"], ends["clipping"]
    assert min(plain, key=plain.get) == 1e-3 and min(clipped, key=clipped.get) == 2e-3
    assert all(
        abs(plain[rate] - measured["frequencies"]) < 0.25 for rate in plain if 4e-3 <= rate <= 0.1
    )
    assert all(clipped[rate] < plain[rate] for rate in plain if rate <= 8e-3)
    assert all(5.55 < end[0.5] < 100 for end in ends.values())


def test_a_fitted_line_and_what_it_was_fitted_to():
    sizes = np.array([1e4, 1e5, 1e6])
    assert scaling.fit(sizes, 2 + (50 / sizes) ** 0.3, 2.0)[0] == pytest.approx(0.3)
    assert scaling.line(sizes, 1.5 * sizes**-0.1, 1e9) == pytest.approx(1.5 * 1e9**-0.1)
    measured = stored("scaling")["measured"]
    runs, tokens = measured["runs"], np.array([each["tokens"] for each in measured["runs"]])
    assert runs[-1]["parameters"] == 4 * (12 * 96 * 96 + 13 * 96) and tokens[0, -1] == 800 * 512
    losses = np.array([each["losses"] for each in runs])
    assert (np.diff(losses) < 0).all() and (np.diff(losses[:, -1]) < 0).all()
    assert losses[0, -1] - losses[-1, -1] < (losses[:, -2] - losses[:, -1]).min()
    assert measured["alpha"] == pytest.approx(0.015, abs=5e-4)
