"""variants/lora.py: its gradients are autograd's, what is frozen stays, merging changes nothing."""

import math

import test_gpt2
import train_gpt2 as gpt2
from tools import formats, tensor_file
from variants import lora

import numpy as np
import pytest
from helpers import (
    LETTERS,
    V,
    add_data,
    assert_close,
    failed,
    make_project,
    random_params,
    run,
    succeeded,
    torch_loss,
)  # fmt: skip
from variant_checks import DECAY, LR, assert_same_steps, batches, check_layer, torch_steps

CONFIG = gpt2.GPT2Config(11, 13, 3, 3, 15)
SCALE = 1.7
PROGRAM = "variants/lora.py"


def model(names, dtype=np.float32, rank=4, config=CONFIG):
    """Return random weights, adapters that are not 0, their gradients as nan, and their shapes."""
    flat, params = random_params(config, dtype=dtype)
    shapes = lora.adapter_shapes(config, names, rank)
    rng = np.random.default_rng(4)
    theta = 0.3 * rng.standard_normal(sum(map(math.prod, shapes.values()))).astype(dtype)
    return flat, params, theta, np.full_like(theta, np.nan), shapes


def adapted(params, theta, grad, shapes, config=CONFIG):
    """Return the two nests that the model's forward and backward pass take."""
    views = lora.adapter_views(theta, shapes)
    grads = lora.gradients_of(config, lora.adapter_views(grad, shapes))
    return lora.adapted_params(params, views, SCALE), grads


def test_gradient_of_an_adapted_layer():
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((7, 12)), rng.standard_normal(7)
    inputs = {"x": (6, 12), "A": (3, 12), "B": (7, 3)}
    inputs = {name: rng.standard_normal(shape) for name, shape in inputs.items()}

    def forward(x, A, B):
        frozen = w.astype(x.dtype), b.astype(x.dtype)
        return lora.linear_forward(x, lora.Adapted(frozen[0], A, B, SCALE), frozen[1])

    def backward(dout, cache, dA, dB):
        return lora.linear_backward(dout, cache, (dA, dB), None)

    check_layer("adapted linear", forward, backward, inputs)
    x, A, B = inputs.values()
    assert_close(forward(x, A, B)[0], x @ (w + SCALE * B @ A).T + b, 1e-14)


def test_gradient_of_the_frozen_layers():
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape) for shape in ((6, 12), (7, 12), 7))
    u, c = 1 + rng.standard_normal(12), rng.standard_normal(12)
    fixed = lambda a, x: a.astype(x.dtype)  # noqa: E731
    linear = lambda x: lora.linear_forward(x, fixed(w, x), fixed(b, x))  # noqa: E731
    check_layer(
        "linear", linear, lambda d, cache: lora.linear_backward(d, cache, None, None), {"x": x}
    )
    norm = lambda x: gpt2.layernorm_forward(x, fixed(u, x), fixed(c, x))  # noqa: E731
    check_layer(
        "ln", norm, lambda d, cache: lora.layernorm_backward(d, cache, None, None), {"x": x}
    )
    wte, targets = rng.standard_normal((7, 12)), rng.integers(7, size=6)
    head = lambda x: gpt2.head_forward(x, fixed(wte, x), targets)  # noqa: E731
    back = lambda d, cache: lora.head_backward(d, (cache[0].copy(), *cache[1:]), None)  # noqa: E731
    check_layer("head", head, back, {"x": x})


@pytest.mark.parametrize("names", [["qkvw", "attprojw"], ["fcw", "fcprojw"]])
def test_gradient_of_the_model(names):
    flat, params, theta, grad, shapes = model(names, np.float64, rank=2)
    p, g = adapted(params, theta, grad, shapes)
    before = flat.copy()
    x, y = next(batches(CONFIG, 2, 5))
    _, cache = lora.MODEL.gpt2_forward(p, CONFIG, x, y)
    lora.MODEL.gpt2_backward(1.3, cache, g)
    theirs = test_gpt2.finite_difference(
        lambda: 1.3 * lora.MODEL.gpt2_forward(p, CONFIG, x, y)[0], theta, 4e-4
    )
    views = lora.adapter_views(theirs, shapes)
    assert set(views) == {f"{name}.{letter}" for name in names for letter in "AB"}
    for name, array in lora.adapter_views(grad, shapes).items():
        assert_close(array, views[name], 5e-10, name=name)
    assert np.array_equal(flat, before)


def test_no_gradient_of_a_frozen_weight_is_computed(monkeypatch):
    """Backward, each frozen product takes one matmul, an adapted one five; the head's is one."""
    _, params, theta, grad, shapes = model(["qkvw", "attprojw"])
    p, g = adapted(params, theta, grad, shapes)
    x, y = next(batches(CONFIG, 2, 5))
    _, cache = lora.MODEL.gpt2_forward(p, CONFIG, x, y)
    calls = []
    monkeypatch.setattr(lora, "matmul", lambda *a, **k: calls.append(a) or gpt2.matmul(*a, **k))
    monkeypatch.setattr(gpt2, "linear_backward", None)
    lora.MODEL.gpt2_backward(1.0, cache, g)
    assert len(calls) == CONFIG.L * (2 * 5 + 2 * 1) + 1
    assert all(
        g[name] in (None, [None] * CONFIG.L) for name in g if name not in ("qkvw", "attprojw")
    )


def test_it_begins_at_the_model_as_it_was():
    _, params, _, grad, shapes = model(["qkvw", "fcprojw"])
    theta = lora.init_adapters(shapes, 3)
    views = lora.adapter_views(theta, shapes)
    p, _ = adapted(params, theta, grad, shapes)
    x, y = next(batches(CONFIG, 2, 5))
    loss, cache = lora.MODEL.gpt2_forward(p, CONFIG, x, y)
    expected, plain = gpt2.gpt2_forward(params, CONFIG, x, y)
    assert loss == expected and np.array_equal(cache[-1][0], plain[-1][0])
    A = np.concatenate([views[name].ravel() for name in views if name.endswith(".A")])
    assert A.std() == pytest.approx(0.02, rel=0.1) and not views["qkvw.B"].any()
    assert not np.array_equal(theta, lora.init_adapters(shapes, 4))


def test_ten_steps_are_autograds():
    names = ["qkvw", "attprojw", "fcprojw"]
    _, params, theta, grad, shapes = model(names)
    p, g = adapted(params, theta, grad, shapes)
    xys = list(batches(CONFIG, 3, 10))
    views = lora.adapter_views(theta, shapes)

    def loss_of(tensors, x, y):
        import torch

        whole = {name: torch.from_numpy(array) for name, array in params.items()}
        for name in names:
            whole[name] = whole[name] + SCALE * tensors[f"{name}.B"] @ tensors[f"{name}.A"]
        return torch_loss(whole, CONFIG, x, y)[1]

    theirs = torch_steps(loss_of, views, views, xys)
    m, v, losses = np.zeros_like(theta), np.zeros_like(theta), []
    for step, (x, y) in enumerate(xys, 1):
        loss, cache = lora.MODEL.gpt2_forward(p, CONFIG, x, y)
        lora.MODEL.gpt2_backward(1.0, cache, g)
        gpt2.adamw(theta, grad, m, v, step=step, lr=LR, weight_decay=DECAY, **lora.ADAMW)
        losses.append(float(loss))
    assert_same_steps((losses, views), theirs)


# ----------------------------------------------------------------------------
# The program


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with data, weights w.bin, and adapters a.safetensors of four steps on them."""
    folder = add_data(make_project(tmp_path_factory.mktemp("lora") / "p"))
    config = gpt2.GPT2Config(16, V, 2, 2, 8)
    formats.write_weights(folder / "w.bin", random_params(config)[0], config)
    flags = "--steps 4 --lr 0.02 --rank 3 --val-every 4 --sample-every 0"
    succeeded(run(folder, PROGRAM, *FLAGS, *flags.split()))
    return folder


FLAGS = "--init w.bin --data data/letters --seq-len 16 --batch-size 4 --out a.safetensors".split()
MERGE = "--init w.bin --adapters a.safetensors --merge m.bin".split()


def test_merged_logits_are_the_adapted_models(project):
    succeeded(run(project, PROGRAM, *MERGE))
    flat, config = formats.load_weights(project / "w.bin")
    theta, shapes, scale = lora.load_adapters(project / "a.safetensors", config, flat)
    assert scale == pytest.approx(16 / 3) and shapes["qkvw.A"] == (2, 3, 8) and theta.any()
    merged, _ = formats.load_weights(project / "m.bin")
    params = gpt2.named_views(flat, config)
    p = lora.adapted_params(params, lora.adapter_views(theta, shapes), scale)
    x, y = np.random.default_rng(0).integers(V, size=(2, 4, 16))
    ours = test_gpt2.logits_of(lora.MODEL.gpt2_forward(p, config, x, y)[1])
    plain, theirs = (
        test_gpt2.logits_of(gpt2.gpt2_forward(params_of, config, x, y)[1])
        for params_of in (params, gpt2.named_views(merged, config))
    )
    assert_close(theirs, ours, 1e-5)
    assert np.abs(plain - ours).max() > 1e-3
    changed = [name for name, a in gpt2.named_views(merged, config).items()
               if not np.array_equal(a, params[name])]  # fmt: skip
    assert changed == ["qkvw", "attprojw"]


def test_a_run(project, tmp_path):
    """It learns, samples, and goes on with its adapters from where it was; the weights stay."""
    before = (project / "w.bin").read_bytes()
    out = ["--out", tmp_path / "b.safetensors"]
    more = "--adapters a.safetensors --steps 30 --lr 0.02 --val-every 30 --sample-every 30".split()
    said = succeeded(run(project, PROGRAM, *FLAGS, *out, *more))
    losses = [float(line.split()[-1]) for line in said.splitlines() if "val loss" in line]
    flat, config = formats.load_weights(project / "w.bin")
    assert len(losses) == 2 and losses[1] < losses[0] - 0.3
    merged = succeeded(run(project, PROGRAM, *MERGE[:-1], tmp_path / "m.bin"))
    assert "wrote" in merged
    again = succeeded(
        run(project, PROGRAM, *FLAGS, "--init", tmp_path / "m.bin", "--steps", 0, "--no-save")
    )
    first = [float(line.split()[-1]) for line in again.splitlines() if "val loss" in line]
    assert first[0] == pytest.approx(losses[0], abs=2e-5)
    sample = said.split("sample\n---\n")[1].split("\n---")[0]
    assert set(sample) <= {c for token in LETTERS for c in token.decode()}
    assert (project / "w.bin").read_bytes() == before
    numbers = sum(math.prod(t.shape) for t in tensor_file.read_header(out[1], "").values())
    assert out[1].stat().st_size < 4 * numbers + 2000


def changed_file(path, name, array):
    """Write a file of adapters in which a tensor is another one, or missing."""
    arrays = {n: tensor_file.read_tensor(t) for n, t in tensor_file.read_header(path, "").items()}
    arrays |= {name: array}
    target = path.with_name("x.safetensors")
    tensor_file.write(target, [(n, a) for n, a in arrays.items() if a is not None])
    return target


@pytest.mark.parametrize(
    "name, array, words",
    [
        ("qkvw.A", None, "no adapters"),
        ("qkvw.A", np.zeros((2, 2, 8), "<f4"), "no adapters"),
        ("qkvw.A", np.zeros((2,), "<f4"), "no adapters"),
        ("wte.A", np.zeros((2, 3, 8), "<f4"), "no adapters"),
        ("scale", np.zeros((2,), "<f4"), "no adapters"),
        ("scale", np.array([np.inf], "<f4"), "not all finite"),
        ("qkvw.B", np.full((2, 24, 3), np.nan, "<f4"), "not all finite"),
        ("model", np.zeros(64, "<f4"), "other weights"),
    ],
)
def test_adapters_that_do_not_fit(project, name, array, words):
    path = changed_file(project / "a.safetensors", name, array)
    if name == "model":
        have = tensor_file.read_header(project / "a.safetensors", "")["model"].shape
        path = changed_file(project / "a.safetensors", name, np.zeros(have, "<f4"))
    failed(run(project, PROGRAM, *MERGE, "--adapters", path), "x.safetensors", words)


@pytest.mark.parametrize(
    "flags, status, words",
    [
        ("--merge m.bin", 1, "--adapters FILE"),
        ("--merge w.bin --adapters a.safetensors", 1, "--merge w.bin: is --init"),
        ("--merge no/m.bin --adapters a.safetensors", 1, "no such folder"),
        ("--adapters w.bin", 1, "not a safetensors file"),
        ("--adapters none", 1, "none: there is no file"),
        ("--out w.bin", 1, "--out w.bin: is --init"),
        ("--out no/a.safetensors", 1, "no such folder"),
        ("--out data/letters_val.bin", 1, "--out data/letters_val.bin: there is a file of another"),
        ("--adapters a.safetensors --rank 4", 1, "--adapters has its own; leave them out"),
        ("--init none", 1, "none: there is no file"),
        ("--seq-len 17", 1, "--seq-len 17"),
        ("--lr 1e30", 1, "try a lower --lr"),
        ("--rank 0", 2, "argument --rank: 0 is not"),
        ("--alpha nan", 2, "argument --alpha: nan is not"),
        ("--adapt lnfw", 2, "argument --adapt"),
        ("--batch-size 0", 2, "argument --batch-size"),
        ("--save x", 2, "--save x"),
    ],
)
def test_mistakes(project, flags, status, words):
    before = (project / "a.safetensors").read_bytes()
    failed(run(project, PROGRAM, *FLAGS, "--steps", 3, *flags.split()), words, status=status)
    assert (project / "a.safetensors").read_bytes() == before
    assert gpt2.load_weights(project / "w.bin")
