"""
The page of a training step: are its numbers PyTorch's, does it work in a browser, what it refuses.

It takes 30 s or so. Where there is no Chromium, the tests in a browser are skipped.
"""

import base64
import json
import math
import re
import sys
from functools import partial
from pathlib import Path

import train_gpt2 as gpt2
from tools import encoding, formats, show_step, tracing

import numpy as np
import pytest
from browser import chromium, data_of, needs_chromium, with_page, without_errors  # noqa: F401
from helpers import (
    PROJECT,
    add_data,
    failed,
    make_project,
    run,
    succeeded,
    write_tokenizer,
    write_tokens,
)
from running import LESSON, parts_of, small_weights

torch = pytest.importorskip("torch", reason="needs PyTorch")
F = torch.nn.functional
# Pairs of letters that are tokens, the space before a word among them, after the 256 bytes
VOCABULARY = [*(bytes([i]) for i in range(256)), b"to", b" be", b" or", b" not", b"<|endoftext|>"]
CONFIG = gpt2.GPT2Config(maxT=20, V=len(VOCABULARY), L=3, NH=2, C=12)
BATCH = "--batch", "1", "--batch-size", "2", "--seq-len", "8"
HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>\u2028'\"&lt;"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with w.bin, and saved.bin, a checkpoint; token files and the tokenizer of x."""
    folder, rng = tmp_path_factory.mktemp("step"), np.random.default_rng(0)
    flat = (0.3 * rng.standard_normal(gpt2.num_parameters(CONFIG))).astype("f4")
    formats.write_weights(folder / "w.bin", flat, CONFIG)
    m, v = rng.standard_normal((2, len(flat))).astype("f4") * 1e-2
    settings = {"steps": 10, "lr": 6e-3, "warmup": 14, "weight_decay": 0.2, "grad_clip": 0.1}
    about = {"step": 7, "data": "data/x", "digest": "0", "settings": settings, "means": True}
    write = partial(formats.write_weights, flat=flat, config=CONFIG)
    text = json.dumps(about).encode()
    write(folder / "saved.bin", moments=(m, v * v), about=text)  # as PyTorch's AdamW has them
    write(folder / "best.bin", about=text)
    sums = (m / 0.1).astype("f4"), (v * v / 0.001).astype("f4")
    about |= {"means": False}
    write(folder / "sums.bin", moments=sums, about=json.dumps(about).encode())
    formats.write_weights(folder / "nan.bin", flat * np.float32("nan"), CONFIG)
    other = CONFIG._replace(V=260)
    formats.write_weights(folder / "other.bin", gpt2.init_weights(other), other)
    for name, count in ("x_train", 200), ("x_val", 100), ("few_val", 9):
        write_tokens(folder / f"{name}.bin", rng.integers(0, CONFIG.V, count), CONFIG.V)
    for name in "x", "few":
        write_tokenizer(folder / f"{name}_tokenizer.bin", VOCABULARY)
    letters = [*VOCABULARY[97:123], *VOCABULARY[:97], *VOCABULARY[124:], b"zz"]  # no "{"
    write_tokenizer(folder / "letters_tokenizer.bin", letters, len(letters) - 2)
    return folder


def show_step_in(folder, *flags, weights="w.bin", data="x"):
    """Run tools/show_step.py in the folder -> what subprocess.run() returns."""
    flags = "--weights", weights, "--data", data, *flags
    return run(PROJECT, "tools/show_step.py", *flags, cwd=folder, timeout=120)


def page_of(folder, *flags, output="step.html", **files):
    """Write a page; what memory it takes is said first -> its path."""
    done = show_step_in(folder, *flags, "-o", output, **files)
    assert (done.returncode, done.stderr) == (0, "")
    parts = r"\(program \d+, parameters \d+, .*, weights after the step \d+\)"
    assert re.match(rf"memory: \d+ MB {parts}\n", done.stdout)
    return folder / output


def matrices_of(data):
    """att, datt, dpreatt, (L, 3, NH, T, T), nan above the diagonal."""
    T, L, NH = data["shape"][1], data["config"]["L"], data["config"]["NH"]
    matrices = np.full((L, 3, NH, T, T), np.nan)
    numbers = np.frombuffer(base64.b64decode(data["attention"]), "<f4")
    matrices[(..., *np.tril_indices(T))] = numbers.reshape(L, 3, NH, -1)
    return matrices


def torch_step(flat, config, x, y):
    """The same step in PyTorch, float64 -> parameters, loss of each token, (place, layer) -> it."""
    params = {name: torch.tensor(view) for name, view in gpt2.named_views(flat, config).items()}
    params = {name: view.double().requires_grad_() for name, view in params.items()}
    kept, (B, T), (_, _, L, NH, C) = {}, x.shape, config

    def keep(name, layer, value):
        value.retain_grad()
        kept[name, layer] = value
        return value

    rows = F.embedding(torch.tensor(x), params["wte"]) + params["wpe"][:T]
    out = keep("x", 0, rows)
    for l in range(L):
        p = {name: params[name][l] for name in gpt2.IN_BLOCKS}
        ln1 = keep("ln1", l, F.layer_norm(out, (C,), p["ln1w"], p["ln1b"]))
        qkv = keep("qkv", l, F.linear(ln1, p["qkvw"], p["qkvb"]))
        q, k, v = qkv.view(B, T, 3, NH, C // NH).permute(2, 0, 3, 1, 4)
        preatt = keep("preatt", l, q @ k.mT / math.sqrt(C // NH))
        future = torch.full((T, T), -math.inf).triu(1)
        att = keep("att", l, F.softmax(preatt + future, -1))
        atty = keep("atty", l, (att @ v).transpose(1, 2).reshape(B, T, C))
        attproj = keep("attproj", l, F.linear(atty, p["attprojw"], p["attprojb"]))
        mid = keep("mid", l, out + attproj)
        ln2 = keep("ln2", l, F.layer_norm(mid, (C,), p["ln2w"], p["ln2b"]))
        fc = keep("fc", l, F.linear(ln2, p["fcw"], p["fcb"]))
        gelu = keep("gelu", l, F.gelu(fc, approximate="tanh"))
        fcproj = keep("fcproj", l, F.linear(gelu, p["fcprojw"], p["fcprojb"]))
        out = keep("out", l, mid + fcproj)
    lnf = keep("lnf", L, F.layer_norm(out, (C,), params["lnfw"], params["lnfb"]))
    logits = keep("logits", L, lnf @ params["wte"].T)
    losses = F.cross_entropy(logits.view(B * T, -1), torch.tensor(y).view(-1), reduction="none")
    losses.mean().backward()
    return params, losses, kept


def close(ours, theirs):
    """Measured: 1.1e-6 at most, float32 against float64."""
    assert ours == pytest.approx(theirs.item(), rel=1e-5)


# ----------------------------------------------------------------------------
# The numbers


def check_step(data, flat, x, y):
    """Compare all that is in the page of a step with PyTorch's; return PyTorch's parameters."""
    params, losses, kept = torch_step(flat, CONFIG, x, y)
    close(data["loss"], losses.mean())
    close(data["sum"], losses.sum())
    assert data["shape"] == list(x.shape)

    places = {(place["name"], place["layer"]): place for place in data["places"]}
    assert len(places) == len(data["places"]) == 10 * CONFIG.L + 3
    assert places.keys() == {key for key in kept if key[0] not in ("att", "preatt")}
    for key, place in places.items():
        close(place["x"], kept[key].norm())
        close(place["dx"], kept[key].grad.norm())
        assert place["shape"] == [x.size, kept[key].shape[-1]]

    probs = F.softmax(kept["logits", CONFIG.L], -1).view(x.size, -1)
    dembedded = kept["x", 0].grad.view(x.size, -1)
    for i, token in enumerate(data["tokens"]):
        assert token["token"] == show_step.token_text(VOCABULARY[x.flat[i]])
        assert token["target"] == show_step.token_text(VOCABULARY[y.flat[i]])
        close(token["loss"], losses[i])
        close(token["prob"], probs[i, y.flat[i]])
        close(token["gradient"], dembedded[i].norm())
        best = probs[i].topk(5)
        for (ours, prob), j, theirs in zip(token["likeliest"], *reversed(best), strict=True):
            assert ours == show_step.token_text(VOCABULARY[j])
            close(prob, theirs)

    matrices = matrices_of(data)
    lower = np.tril(np.ones((x.shape[1], x.shape[1]), bool))
    for l in range(CONFIG.L):
        att, preatt = kept["att", l], kept["preatt", l]
        for ours, theirs in zip(matrices[l], (att, att.grad, preatt.grad), strict=True):
            theirs = theirs[0].detach().numpy()
            error = np.abs(ours - theirs)[:, lower].max()
            assert error <= 1e-5 * np.abs(theirs).max()  # measured: 7e-7
    return params


@pytest.mark.parametrize("weights", ["w.bin", "saved.bin", "sums.bin"])
def test_numbers_are_pytorchs(folder, weights):
    """The checkpoints say rate, decay and clipping: 6e-3 * 8 / 14."""
    checkpoint, decay = weights != "w.bin", 0.2
    lr = 6e-3 * 8 / 14 if checkpoint else 3e-3
    flags = (*BATCH,) if checkpoint else (*BATCH, "--lr", str(lr), "--weight-decay", str(decay))
    data = data_of(page_of(folder, *flags, weights=weights))
    flat, _ = formats.load_weights(folder / weights)
    tokens, _ = formats.load_tokens(folder / "x_train.bin")
    params = check_step(data, flat, *gpt2.get_batch(tokens, 1, 2, 8))
    assert (data["model"], data["steps"]) == (weights, 7 if checkpoint else None)
    assert data["adamw"] == (data["steps"] or 0)
    assert (data["lr"], data["decay"]) == (pytest.approx(lr), decay)
    assert data["what"] == "batch 1 of x_train.bin"

    groups = [
        {"params": [p for name, p in params.items() if (name in gpt2.DECAYING) == decays]}
        | {"weight_decay": decay * decays}
        for decays in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    if checkpoint:
        moments = [gpt2.named_views(moment, CONFIG) for moment in parts_of(folder / "saved.bin")[3]]
        for name, p in params.items():
            m, v = (torch.tensor(moment[name]).double() for moment in moments)
            optimizer.state[p] = {"step": torch.tensor(7.0), "exp_avg": m, "exp_avg_sq": v}
    before = {name: p.detach().clone() for name, p in params.items()}
    gradients = {name: p.grad.clone() for name, p in params.items()}
    if checkpoint:
        assert torch.nn.utils.clip_grad_norm_(params.values(), 0.1) > 0.2
    optimizer.step()
    rows = {(row["name"], row["layer"]): row for row in data["parameters"]}
    assert len(rows) == len(data["parameters"]) == 12 * CONFIG.L + 4
    for (name, l), row in rows.items():
        at = slice(None) if l is None else l
        step = (params[name].detach() - before[name])[at]
        close(row["weight"], before[name][at].norm())
        assert row["shape"] == list(step.shape)
        if name == "qkvb" and not checkpoint:
            continue  # its keys' gradient is rounding noise, which AdamW's first step magnifies
        close(row["gradient"], gradients[name][at].norm())
        close(row["step"], step.norm())


@pytest.mark.parametrize("text", ["to be, or not to be", "ß\n\u4e2d", "a", HOSTILE[:14]])
def test_text(folder, text):
    data = data_of(page_of(folder, "--text", text))
    texts = [token["token"] for token in data["tokens"]]
    assert texts[0] == "<|endoftext|>"
    ids = [CONFIG.V - 1, *encoding.encoder(VOCABULARY, CONFIG.V - 1, "--prompt")(text)]
    assert b"".join(VOCABULARY[i] for i in ids[1:]).decode() == text
    flat, _ = formats.load_weights(folder / "w.bin")
    check_step(data, flat, np.array([ids[:-1]]), np.array([ids[1:]]))
    if text.isascii():
        assert "".join([*texts[1:], data["tokens"][-1]["target"]]) == text


def test_default_is_the_first_of_the_validation_data(folder):
    data = data_of(page_of(folder, "--seq-len", "20"))
    assert (data["shape"], data["what"]) == ([1, 20], "batch 0 of x_val.bin")
    flat, _ = formats.load_weights(folder / "w.bin")
    tokens, _ = formats.load_tokens(folder / "x_val.bin")
    check_step(data, flat, *gpt2.get_batch(tokens, 0, 1, 20))


def test_settings_of_the_next_step():
    """A run at its end has its last rate; what a file doesn't say is training's default."""
    settings = {"steps": 10, "lr": 1e-2, "min_lr_frac": 0.1, "warmup": 0}
    found = show_step.next_step({"step": 10, "settings": settings}, None, None)
    assert found["lr"] == gpt2.learning_rate(9, 10, 1e-2, 0, 0.1) and found["decay"] == 0
    assert show_step.next_step({}, None, 0.3) | {"source": ""} == {
        "lr": 1e-4, "decay": 0.3, "clip": 0.0, "source": ""}  # fmt: skip


def test_weights_find_their_own_tokenizer(folder):
    """That beside them, or the one of a flag: --data is needed for neither."""
    (folder / "w_tokenizer.bin").write_bytes((folder / "x_tokenizer.bin").read_bytes())
    for flags in (), ("--weights", "best.bin", "--tokenizer", "x_tokenizer.bin"):
        flags = "tools/show_step.py", "--weights", "w.bin", "--text", "to be", *flags
        succeeded(run(PROJECT, *flags, cwd=folder))
        assert data_of(folder / "step.html")["tokens"][1]["token"] == "to"
    (folder / "w_tokenizer.bin").unlink()
    assert data_of(folder / "step.html")["steps"] == 7  # of weights without moments, too
    assert data_of(folder / "step.html")["adamw"] == 0


def test_loss_is_what_training_prints(folder):
    flags = "--init w.bin --data x --batch-size 2 --seq-len 8 --steps 2 --val-every 0".split()
    flags += ["--no-save", "--sample-every", "0", "--lr", "0"]
    done = run(PROJECT, LESSON, *flags, cwd=folder)
    printed = re.findall(r"step 1: train loss (\S+)", done.stdout)
    assert printed == [f"{data_of(page_of(folder, *BATCH))['loss']:f}"]


def test_watching_changes_nothing():
    def profiler(*_):
        pass

    seen, before, chunk = {}, sys.getprofile(), gpt2.CHUNK
    note = lambda name, variables, returned: seen.update({name: (variables, returned)})  # noqa: E731
    x = np.ones((gpt2.THREADS + 1, gpt2.CHUNK), "f4")  # which is cut into chunks otherwise
    sys.setprofile(profiler)
    try:
        out, cache = tracing.watch(note, gpt2.layernorm_forward, x, x[0], x[0])
        assert sys.getprofile() is profiler and chunk == gpt2.CHUNK
        with pytest.raises(ValueError):  # that 5 heads do not fit
            tracing.watch(note, gpt2.attention_forward, x, 3, 5)
        assert sys.getprofile() is profiler and chunk == gpt2.CHUNK
    finally:
        sys.setprofile(before)
    variables, returned = seen["layernorm_forward"]
    assert variables["x"] is x and returned[0] is out
    variables, returned = seen["normalize"]  # its body, of all rows at once
    assert variables["centered"].shape == x.shape and returned[0] is cache[0]
    assert all(map(str.isidentifier, seen))


def test_token_text():
    """What is not UTF-8, or can't be seen, is spelled out."""
    shown = {
        b" to\n": " to\n",
        "ß".encode(): "ß",
        b"\xe2\x82": r"\xe2\x82",
        b"\x00\x1b\r\t": r"\x00\x1b\r\t",
        "\u202e".encode(): r"\u202e",
    }
    assert {token: show_step.token_text(token) for token in shown} == shown


# ----------------------------------------------------------------------------
# The page as a file


def test_lesson_is_quoted():
    source = Path(gpt2.__file__).read_text(encoding="utf-8")
    for name, said in show_step.lesson().items():
        for way in "forward", "backward":
            assert said[way]["lines"], f"{name} has no {way} line"
            assert all(f" {line}\n" in source for line in said[way]["lines"])
            functions = said[way]["function"]
            assert all(function in source for function in functions.split("\n\n\n"))
            own = f"def {(show_step.PLACES | show_step.OTHERS)[name][1]}_{way}("
            assert functions.count(own) == 1 or (name in ("mid", "out") and not functions)
    attention = show_step.lesson()["atty"]
    for line in "weights = np.exp(x - ", "def attend_in_tiles(", "preatt = q @ k.mT":
        assert attention["forward"]["function"].count(line) == 1
    assert "dpreatt = att * (datt - " in attention["backward"]["function"]
    assert attention["page"] == "attention.md" and "datt = dout @ v.T" in attention["text"]


def test_text_cannot_become_markup(tmp_path):
    formats.write_page(tmp_path / "a.html", show_step.TEMPLATE, {"text": HOSTILE})
    assert data_of(tmp_path / "a.html") == {"text": HOSTILE}


def test_page_names_nothing_of_the_machine(folder):
    page = page_of(folder, *BATCH, weights=str(folder / "w.bin"), data=str(folder / "x"))
    text, data = page.read_text(encoding="utf-8"), data_of(page)
    assert folder.name not in text and str(gpt2.HERE) not in text
    assert data["model"] == "w.bin"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", data["made"])


def test_size_of_a_d12(folder, tmp_path):
    config = gpt2.GPT2Config(maxT=32, V=CONFIG.V, L=12, NH=12, C=24)
    formats.write_weights(tmp_path / "d12.bin", gpt2.init_weights(config), config)
    page = page_of(folder, "--seq-len", "32", weights=str(tmp_path / "d12.bin"))
    assert 1_000_000 < page.stat().st_size < 2_000_000  # measured: 1.3 MB


@pytest.mark.parametrize(
    ("files", "flags", "says"),
    [
        ({"weights": "none.bin"}, [], ["none.bin: there is no file", "reference_gpt2.py"]),
        ({"weights": "nan.bin"}, [], ["nan.bin: its weights are not all finite"]),
        ({"weights": "other.bin"}, [], ["has 261 tokens, other.bin knows 260", "--tokenizer"]),
        ({"data": "few"}, ["--seq-len", "9"], ["few_val.bin: has 9 tokens; lower"]),
        ({"data": "few"}, ["--batch", "0"], ["few_train.bin: there is no file"]),
        ({"data": "none"}, [], ["gpt2_tokenizer.bin: "]),
        ({}, ["--seq-len", "21"], ["21 tokens in a sequence", "20 of these weights"]),
        ({}, ["--text", "x" * 30], ["30 tokens in a sequence"]),
        ({}, ["--text", ""], ["--text: is empty"]),
        ({}, ["--lr", "1e300"], ["with rate 1e+300 and decay 0 the step is not finite"]),
        ({"data": "letters"}, ["--text", "a{"], ["--text: this model's tokens lack '{'"]),
        ({}, ["-o", "none/step.html"], ["-o none/step.html: there is no such folder"]),
    ],
)
def test_mistakes_end_with_one_line(folder, files, flags, says):
    (folder / "step.html").write_text("<!doctype html> which outlives a mistake")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    failed(show_step_in(folder, "--seq-len", "8", *flags, **files), *says)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_default_files(tmp_path):
    """As in its first command: GPT-2's weights and the validation data of Shakespeare."""
    project, size = add_data(make_project(tmp_path), "tiny_shakespeare"), gpt2.GPT2_VOCAB_SIZE
    small_weights(project / "gpt2_124M.bin", 24, size)
    write_tokens(project / "data" / "tiny_shakespeare_val.bin", range(99), size)
    write_tokenizer(project / "gpt2_tokenizer.bin", [b"a"] * size)
    succeeded(run(project, "tools/show_step.py", "-o", "step.html"))
    data = data_of(project / "step.html")
    assert (data["model"], data["what"]) == ("gpt2_124M.bin", "batch 0 of tiny_shakespeare_val.bin")


def test_bad_flags(folder):
    for flags in "--text a --batch 1", "--batch -1", "--seq-len 0", "--lr inf", "--batch x", "more":
        failed(show_step_in(folder, *flags.split()), status=2)


# ----------------------------------------------------------------------------
# The page in a browser


@pytest.fixture(scope="module")
def page(folder):
    return page_of(folder, *BATCH, weights="saved.bin", output="browser.html")


def check_shown(text, number):
    """Is the text the number, to the digits that it has?"""
    shown = float(text.replace("−", "-"))
    if number == 0:
        assert shown == 0
    else:
        digit = 10 ** (math.floor(math.log10(abs(number))) - 3)
        assert abs(shown - number) <= 0.5001 * digit, f"{text} is not {number}"
        assert len(re.sub(r"e.*|[^\d]", "", text).lstrip("0")) == 4, f"{text}: not 4 digits"


@needs_chromium
@pytest.mark.parametrize(
    "width, scheme", [(400, "light"), (700, "dark"), (1000, "light"), (1600, "dark")]
)
def test_panels(browser, page, width, scheme):
    browser.open(page, width, scheme)
    for panel in "text", "way", "attention", "parameters":
        box = browser.js(f"document.getElementById('{panel}').getBoundingClientRect().toJSON()")
        assert box["height"] > 100 and 0 <= box["x"] and box["right"] <= width
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    assert browser.js("document.querySelectorAll('g.place').length") == 10 * CONFIG.L + 3
    paper = browser.js("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    for canvas in "heads", "att", "datt", "dpreatt":
        colors = browser.js(
            f"new Set(new Uint32Array(document.getElementById('{canvas}').getContext('2d')"
            ".getImageData(0, 0, 300, 300).data.buffer)).size"
        )
        assert colors > 5
    labels = browser.js(
        "[...document.querySelectorAll('#diagram svg:first-child g.place text:last-child')]"
        ".map((text) => text.getBoundingClientRect().toJSON())"
    )
    assert len(labels) == 10 and all(label["right"] <= width for label in labels)
    if width > 700:  # at an angle below that, and so the boxes around them may overlap
        for left, right in zip(labels, labels[1:], strict=False):
            assert left["right"] < right["left"]


@needs_chromium
def test_facts(opened, page):
    facts = opened.text("#facts")
    data = data_of(page)
    for words in f"{data['loss']:.6f}", "16: batch 1 of x_train.bin", data["made"], "so far7":
        assert words in facts
    assert opened.text("h1") == "A training step of saved.bin"
    assert f"their sum {data['sum']:.4f}, their mean {data['loss']:.6f}" in opened.text("#loss-key")


@needs_chromium
def test_tokens(opened, page):
    tokens = data_of(page)["tokens"]
    for i in 0, 5, 15:
        opened.move(f"#tokens button:nth-of-type({i + 1})", click=True)
        card = f"#tokens button:nth-of-type({i + 1})"
        check_shown(opened.text(f"{card} .loss"), tokens[i]["loss"])
        check_shown(opened.text(f"{card} .gradient"), tokens[i]["gradient"])
        for row, (_, prob) in enumerate(tokens[i]["likeliest"], 1):
            check_shown(opened.text(f"#token tr:nth-child({row}) .number"), prob)
        check_shown(opened.text("#token .number"), tokens[i]["prob"])
    opened.key("ArrowLeft")
    opened.key("Enter")
    assert opened.js("document.querySelector('[aria-pressed=true]') === document.activeElement")
    assert f"Position {14 % 8}:" in opened.text("#token")


@needs_chromium
def test_last_targets_and_longest_bar(opened, page):
    tokens = data_of(page)["tokens"]
    shown = opened.js("[...document.querySelectorAll('#tokens .last')].map((x) => x.textContent)")
    seen = [tokens[i]["target"].replace(" ", "·").replace("\n", "⏎") for i in (7, 15)]
    assert shown == seen
    assert opened.js("document.querySelector('#token .bar').style.width") == "200px"


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_largest_weight_stands_out_most(browser, page, scheme):
    """att of the first query is 1; in the dark it is the brightest of all."""
    browser.open(page, 1000, scheme)
    x, y = cell(browser, 0, 0)
    canvas = "document.getElementById('att').getContext('2d')"
    pixel = browser.js(f"[...{canvas}.getImageData({int(x)}, {int(y + 9)}, 1, 1).data]")
    red, green, blue, _ = pixel
    assert (min(red, green, blue) > 200) == (scheme == "dark")
    assert (max(red, green, blue) < 100) == (scheme == "light")


@needs_chromium
def test_click_opens_a_place(opened, page):
    data = data_of(page)
    assert not opened.js("document.getElementById('opened')")
    opened.move("g.place[data-place=qkv][data-row='1']", click=True)
    place = next(p for p in data["places"] if (p["name"], p["layer"]) == ("qkv", 1))
    assert opened.text("#opened h3") == "qkv of block 1"
    check_shown(opened.text("#opened tbody .forward"), place["x"])
    check_shown(opened.text("#opened tbody .backward"), place["dx"])
    rows = opened.js("[...document.querySelectorAll('#opened tbody tr')].map(r => r.textContent)")
    assert [row.split("(")[0] for row in rows] == ["qkv", "qkvw", "qkvb"]
    assert rows[0].startswith("qkv(16, 36)") and rows[1].startswith("qkvw(36, 12)")
    for words in "qkv, qkv_cache = linear_forward(", "def linear_backward(", "doc/linear.md":
        assert words in opened.text("#opened")
    opened.move("g.place[data-place=qkv][data-row='1']", click=True)
    assert not opened.js("document.getElementById('opened')")
    opened.key("ArrowRight")  # to attention
    opened.key("Enter")
    assert opened.text("#opened h3") == "atty of block 1"
    opened.key("ArrowDown")
    opened.key("Enter")
    assert opened.text("#opened h3") == "atty of block 2"


@needs_chromium
def test_every_place_opens(opened):
    for row in range(CONFIG.L + 1):
        for column in range(10 if row < CONFIG.L else 3):
            opened.js(f"openPlace({row}, {column})")
            assert "undefined" not in opened.text("#opened")
            assert opened.js("document.querySelectorAll('#opened pre').length") >= 2


def cell(opened, query, key):
    """Where a cell is in a matrix, in pixels of the canvas."""
    margin, size = opened.js("[grid.margin, grid.size]")
    return margin + (key + 0.5) * size, margin + (query + 0.5) * size


def pick_head(opened, layer, head):
    margin, size = opened.js("[heads.margin, heads.size + heads.gap]")
    opened.move("#heads", margin + (head + 0.4) * size, margin + (layer + 0.4) * size, click=True)


@needs_chromium
def test_hover_shows_the_numbers_of_a_cell(opened, page):
    matrices = matrices_of(data_of(page))
    for layer, head in (0, 1), (2, 0):
        pick_head(opened, layer, head)
        for name, query, key in ("att", 7, 2), ("datt", 3, 3), ("dpreatt", 6, 0):
            opened.move(f"#{name}", *cell(opened, query, key))
            text = opened.text("#cell")
            assert text.startswith(f"Block {layer}, head {head}")
            assert f"({query}), key" in text and f"({key}):" in text
            for which, name in enumerate(("att", "datt", "dpreatt")):
                shown = opened.text(f"#cell [data-number={name}] .number")
                check_shown(shown, matrices[layer, which, head, query, key])


@needs_chromium
def test_colors_say_the_sign(opened, page):
    matrices = matrices_of(data_of(page))
    pick_head(opened, 1, 1)
    for which, name in (1, "datt"), (2, "dpreatt"):
        values = matrices[1, which, 1]
        size, width = opened.js(f"[grid.size, document.getElementById('{name}').width]")
        pixels = opened.js(
            f"[...document.getElementById('{name}').getContext('2d')"
            f".getImageData(0, 0, {width}, {width}).data]"
        )
        pixels = np.reshape(pixels, (width, width, 4))
        for query, key in zip(*np.tril_indices(8), strict=True):
            x, y = cell(opened, query, key)
            red, _, blue, _ = pixels[int(y + 0.2 * size), int(x + 0.2 * size)]
            if abs(values[query, key]) > 0.02 * np.nanmax(abs(values)):
                assert (red > blue) == (values[query, key] > 0)
        raised = opened.js("rgb('raised')")
        for query, key in zip(*np.triu_indices(8, 1), strict=True):  # masked: nearly the page's
            x, y = cell(opened, query, key)
            assert pixels[int(y), int(x), :3].tolist() == raised


@needs_chromium
def test_row_shows_what_softmax_subtracts(opened, page):
    matrices = matrices_of(data_of(page))
    pick_head(opened, 1, 0)
    opened.move("#dpreatt", *cell(opened, 6, 2), click=True)
    att, datt, dpreatt = matrices[1, :, 0, 6, :7]
    check_shown(opened.text("#taken"), (att * datt).sum())
    assert abs(float(opened.text("#zero").replace("−", "-"))) < 1e-6 * abs(datt).max()
    rows = opened.js(
        "[...document.querySelectorAll('#row tbody tr')]"
        ".map((row) => [...row.querySelectorAll('.number')].map((cell) => cell.textContent))"
    )
    assert len(rows) == 7
    expected = np.stack([att, datt, datt - (att * datt).sum(), dpreatt], 1)
    for row, numbers in zip(rows, expected, strict=True):
        for text, number in zip(row, numbers, strict=True):
            check_shown(text, number)


@needs_chromium
def test_arrow_keys_move_in_the_matrices(opened):
    opened.move("#datt", *cell(opened, 4, 2), click=True)
    cells = {"ArrowDown": [5, 2], "ArrowRight": [5, 3], "ArrowUp": [4, 3], "ArrowLeft": [4, 2]}
    for key, query_and_key in cells.items():
        opened.key(key)
        assert opened.js("[picked.query, picked.key]") == query_and_key
        assert f"({query_and_key[0]}), block" in opened.text("#row-title")
    for _ in range(10):
        opened.key("ArrowUp")
    assert opened.js("[picked.query, picked.key]") == [0, 0]
    opened.js("document.getElementById('heads').focus(), pickHead(0, 0)")
    opened.key("ArrowDown")
    opened.key("ArrowRight")
    assert opened.js("[picked.layer, picked.head]") == [1, 1]


@needs_chromium
def test_parameters_can_be_sorted(opened, page):
    rows = data_of(page)["parameters"]
    matrices = {row["step"] / row["weight"] for row in rows if row["name"] in gpt2.DECAYING}

    def column(n):
        return opened.js(
            "[...document.querySelectorAll('#rows tbody tr')]"
            f".map((row) => row.children[{n}].textContent)"
        )

    assert column(0) == [row["name"] for row in rows]
    for n, field in (3, "weight"), (4, "gradient"), (5, "step"):
        opened.move(f"#rows th:nth-child({n + 1}) button", click=True)
        largest = sorted((row[field] for row in rows), reverse=True)
        for text, number in zip(column(n), largest, strict=True):
            check_shown(text, number)
        opened.key("Enter")
        check_shown(column(n)[0], largest[-1])
    opened.move("#rows th:nth-child(7) button", click=True)
    ratios = sorted((row["step"] / row["weight"] for row in rows), reverse=True)
    for text, ratio in zip(column(6), ratios, strict=True):
        check_shown(text.strip("▲▼ "), ratio)
        own = ratio in matrices
        assert ("▲" in text) == (own and ratio > 1e-2) and ("▼" in text) == (own and ratio < 1e-4)


@needs_chromium
def test_all_controls_can_be_reached_by_tab(opened):
    opened.js("document.body.focus()")
    reached = set()
    for _ in range(40):
        opened.key("Tab")
        reached.add(opened.js(
            "(({tagName, id, parentElement, type}) => `${tagName} ${id || type || ''}`)"
            "(document.activeElement)"
        ))  # fmt: skip
    for control in "CANVAS heads", "CANVAS att", "CANVAS datt", "CANVAS dpreatt", "INPUT radio":
        assert control in reached
    assert "g " in reached and any(control.startswith("BUTTON") for control in reached)


@needs_chromium
def test_hostile_text_is_shown_as_text(browser, folder):
    text = HOSTILE[:19]
    page = page_of(folder, "--text", text, output="hostile.html")
    browser.open(page)
    shown = browser.js("[...document.querySelectorAll('#tokens .word')].map(w => w.textContent)")
    assert "".join(shown[1:]) == text.replace(" ", "·")
    assert browser.js("document.images.length") == 0
    assert browser.requests == [page.as_uri()]
