"""
The curves of training logs: what is drawn, the page in a browser, unfinished logs, files that are
no logs. Where there is no Chromium, the tests in a browser are skipped.
"""

import io
import os
import random
import re
import statistics
import warnings

from tools import plot_log
from tools.log import COLUMNS

import numpy as np
import pytest
from browser import chromium, data_of, needs_chromium, with_page, without_errors  # noqa: F401
from helpers import PROJECT, run, succeeded, write
from matplotlib.image import imread

BLUE, ORANGE = (31, 119, 180), (255, 127, 14)  # the first two colors of matplotlib
HOSTILE = "<script><img src=x onerror=alert(1)>.csv"
ONE_ROW = pytest.mark.parametrize(
    "row", ["0,0,,4.5,,,,,", "0,0,4.5,,0.001,1.5,9,,", "0,0,nan,inf,0,nan,9,,"]
)


def plot(folder, *flags, **how):
    """Run tools/plot_log.py in a folder -> its output."""
    return succeeded(run(PROJECT, "tools/plot_log.py", *flags, cwd=folder, **how))


def write_log(path, steps, seed=0, size=0):
    """Write a log as training does; validation every 10 steps and after the last -> the path.

    size: nats per token in a bit per byte; 0: unknown.
    """
    rng, rows = random.Random(seed), [COLUMNS]
    for step in range(steps + 1):
        val_loss = f"{3 + 8 / (1 + step / 20):.6f}" if step % 10 == 0 or step == steps else ""
        loss = f"{rng.gauss(3 + 8 / (1 + step / 20), 0.2):.6f}"
        rest = f"0.001,{rng.lognormvariate(0, 0.3):g},123.4" if step < steps else ",,"
        bits = f"{float(loss) / size:.6f}" if size and step < steps else ""
        rest += f",{bits},{f'{float(val_loss) / size:.6f}' if size and val_loss else ''}"
        rows.append(f"{step},{64 * step},{loss if step < steps else ''},{val_loss},{rest}")
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


# ----------------------------------------------------------------------------
# Pictures


@pytest.mark.parametrize(
    ("name", "magic"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.PDF", b"%PDF")]
)
def test_picture(tmp_path, name, magic):
    """MPLBACKEND is for matplotlib's windows, of which none is opened."""
    write_log(tmp_path / r"$\a$.csv", 300)
    write_log(tmp_path / "b.csv", 200, seed=1)
    out = plot(tmp_path, r"$\a$.csv", "b.csv", "-o", name, MPLBACKEND="bogus")
    assert out == f"$\\a$.csv: 301 rows\nb.csv: 201 rows\nwrote {name}\n"
    assert (tmp_path / name).read_bytes().startswith(magic)
    assert sorted(os.listdir(tmp_path)) == [r"$\a$.csv", name, "b.csv"]
    if name == "a.png":
        pixels = np.round(imread(tmp_path / name)[:, :, :3] * 255).astype(int)
        assert pixels.shape == (720, 1080, 3)
        for color in BLUE, ORANGE:
            assert (pixels == color).all(axis=2).sum() > 200


@ONE_ROW
def test_one_row(tmp_path, row):
    (tmp_path / "log.csv").write_text(f"{COLUMNS}\n{row}\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot_log.draw({"a.csv": plot_log.read_log(tmp_path / "log.csv")})
        figure.savefig(io.BytesIO(), format="png")


@pytest.mark.parametrize("steps, window", [([9], 11), ([500, 9], 11), ([9, 2000, 700], 41)])
def test_window_of_the_longest_log(steps, window):
    assert plot_log.window_of({str(n): {"step": np.arange(n)} for n in steps}) == window


def test_what_a_run_has_printed_is_a_log(tmp_path):
    lines = ["weights: d1, 9 parameters", "step 0: val loss 3.500000", "step 0: sample", "---", "a"]
    lines += ["step 0: train loss 3.250000 (took 9.000000 ms, 7 tokens/s)"]
    lines += ["step 1: train loss nan (took", "step 10: val loss 2.500000"]
    log = plot_log.read_log(write(tmp_path / "run.txt", "\n".join(lines).encode()))
    assert list(log) == COLUMNS.split(",") and log["step"].tolist() == [0, 10]
    assert log["val_loss"].tolist() == [3.5, 2.5] and log["train_loss"][0] == 3.25
    assert np.isnan([log["train_loss"][1], *log["lr"], *log["grad_norm"], *log["val_bpb"]]).all()
    assert plot_log.draw({"run.txt": log}).axes


def test_what_is_drawn(tmp_path):
    log = plot_log.read_log(write_log(tmp_path / "log.csv", 1500))
    assert list(log) == COLUMNS.split(",")
    figure = plot_log.draw({"log.csv": log})
    lines = [[line.get_xydata() for line in panel.lines] for panel in figure.axes]
    loss, (lr,), norm = ([line for line in panel if len(line)] for panel in lines)  # no legend
    for (each, medians, *_), name in (loss, "train_loss"), (norm, "grad_norm"):
        values = log[name][:1500].tolist()
        assert (each == np.stack([np.arange(1500), values], 1)).all()
        for i, (step, median) in enumerate(medians):
            half = min(15, i, 1499 - i)  # 31 steps, fewer near an end
            assert (step, median) == (i, statistics.median(values[i - half : i + half + 1]))
        assert len(medians) == 1500
    every_10 = np.arange(0, 1501, 10)
    assert (loss[2] == np.stack([every_10, log["val_loss"][every_10]], 1)).all()
    assert (lr[:1500] == [[step, 0.001] for step in range(1500)]).all()


def test_other_tokens_share_an_axis(tmp_path):
    """Of several logs that all have them, it is bits per byte."""
    names = "a.csv", "b.csv"
    logs = {name: plot_log.read_log(write_log(tmp_path / name, 40, name, 3.0)) for name in names}
    loss = plot_log.draw(logs).axes[0]
    assert loss.get_ylabel() == "loss (bits per byte)"
    curves = [line.get_xydata() for line in loss.lines if len(line.get_xydata())]
    for (each, val), log in zip((curves[:2], curves[2:]), logs.values(), strict=True):
        np.testing.assert_allclose(each[:, 1], log["train_loss"][:40] / 3, atol=1e-6)
        assert (val[:, 1] == log["val_bpb"][::10]).all()
    without = plot_log.read_log(write_log(tmp_path / "without.csv", 40))
    for others in logs | {"without.csv": without}, {"a.csv": logs["a.csv"]}:
        assert plot_log.unit_of(others) == "loss"


@pytest.mark.parametrize(("steps", "mean"), [(40, []), (1500, ["training, median of 31 steps"])])
def test_legend(tmp_path, steps, mean):
    figure = plot_log.draw({"a.csv": plot_log.read_log(write_log(tmp_path / "log.csv", steps))})
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["a.csv", "training, each batch", *mean, "validation"]


# ----------------------------------------------------------------------------
# Logs that are read; tests/test_bad_input.py has what the program says to the others


@pytest.mark.parametrize("rest", ["4", "4,256,3.5,,0.0", "4,256,3.5,,0.001,1,12"])
def test_unfinished_last_line_is_ignored(tmp_path, rest):
    log = plot_log.read_log(write_log(tmp_path / "log.csv", 40))
    with open(tmp_path / "log.csv", "a") as f:
        f.write(rest)
    for name, values in plot_log.read_log(tmp_path / "log.csv").items():
        np.testing.assert_array_equal(values, log[name])


# ----------------------------------------------------------------------------
# The page


def test_page_has_the_numbers_of_the_logs(tmp_path):
    """And needs no matplotlib."""
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('matplotlib')")
    write_log(tmp_path / "a.csv", 300)
    with open(write_log(tmp_path / HOSTILE, 40), "a") as f:
        f.write("41,2624,nan,inf,0,nan,9,,\n")
    out = plot(tmp_path, "a.csv", HOSTILE, "-o", "loss.html", PYTHONPATH=str(tmp_path))
    assert out == f"a.csv: 301 rows\n{HOSTILE}: 42 rows\nwrote loss.html\n"
    shown = data_of(tmp_path / "loss.html")["runs"]
    assert [log.pop("name") for log in shown] == ["a.csv", HOSTILE]
    for log, name in zip(shown, ("a.csv", HOSTILE), strict=True):
        columns = [row.split(",") for row in (tmp_path / name).read_text().split()]
        for column, *cells in zip(*columns, strict=True):
            assert log[column] == [
                None if cell in ("", "nan", "inf") else float(cell) for cell in cells
            ]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for name, steps in ("a.csv", 1500), (HOSTILE, 600):
        write_log(folder / name, steps, seed=steps, size=3.0)
    plot(folder, "a.csv", HOSTILE, "-o", "loss.html")
    return folder / "loss.html"


@needs_chromium
@pytest.mark.parametrize("width, scheme", [(400, "light"), (1600, "dark")])
def test_page_in_a_browser(browser, page, width, scheme):
    browser.open(page, width, scheme)
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    assert browser.js("document.images.length") == 0
    heights = browser.js("[...document.querySelectorAll('canvas')].map((c) => c.height)")
    assert len(heights) == 3 and min(heights) > 80
    paper = browser.js("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert HOSTILE in browser.text("#runs")
    assert browser.text("#key") == (
        "Thin: each training batch. Thick: the median of 31 steps. Dots: validation."
    )


def pixels_near(opened, color):
    """How many pixels of the loss have a color of #rrggbb, or nearly."""
    numbers = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return opened.js(
        "(() => { const c = document.querySelector('canvas');"
        " const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;"
        " for (let i = 0; i < p.length; i += 4)"
        f" if ({numbers}.every((x, j) => Math.abs(x - p[i + j]) < 8)) n++; return n; }})()"
    )


@needs_chromium
def test_two_runs_can_be_hidden(opened):
    first, second = opened.js("ON_WHITE.slice(0, 2)")
    assert min(pixels_near(opened, first), pixels_near(opened, second)) > 200
    opened.move("#runs label:nth-child(2) input", click=True)
    assert pixels_near(opened, first) > 200 and pixels_near(opened, second) == 0
    opened.move("#runs label:nth-child(1) input", click=True)
    assert pixels_near(opened, first) == 0


@needs_chromium
def test_axis(opened, page):
    runs = data_of(page)["runs"]
    assert opened.js("whole()") == [0, 1500]
    opened.move("#axes label:nth-child(2) input", click=True)
    assert opened.js("whole()") == [0, 1500 * 64]
    opened.move("#axes label:nth-child(3) input", click=True)
    seconds = sum(ms or 0 for ms in runs[0]["ms"]) / 1000
    assert opened.js("whole()") == [0, pytest.approx(seconds)]


@needs_chromium
def test_unit(opened):
    assert opened.js("[unit, PANELS.length]") == ["bpb", 3]
    before = opened.js("document.querySelector('canvas').toDataURL()")
    opened.move("#units label:nth-child(1) input", click=True)
    assert opened.js("unit") == "loss"
    assert opened.js("document.querySelector('canvas').toDataURL()") != before


@needs_chromium
def test_hover_shows_the_nearest_step(opened, page):
    opened.move("#panels", opened.js("pixel(400 / 1500)"), 50)
    for i, log in enumerate(data_of(page)["runs"], 1):
        step = int(re.search(r" step (\d+):", opened.text(f"#readout div:nth-child({i})"))[1])
        assert abs(step - 400) <= 2
        shown = opened.text(f"#readout div:nth-child({i})")
        assert f"train_loss {log['train_loss'][step]}," in shown
        assert f"ms {log['ms'][step]}" in shown
    opened.move("#panels", opened.js("pixel(1)"), 50)
    assert "step 1500: val_loss" in opened.text("#readout div:nth-child(1)")
    assert "step 600: val_loss" in opened.text("#readout div:nth-child(2)")


@needs_chromium
def test_drag_zooms_and_keys_move(opened):
    opened.drag("#panels", *opened.js("[pixel(0.2), pixel(0.4)]"), 60)
    low, high = opened.js("view")
    assert low == pytest.approx(300, abs=3) and high == pytest.approx(600, abs=3)
    opened.js("document.getElementById('panels').focus()")
    opened.key("ArrowRight")
    assert opened.js("view") == pytest.approx([375, 675], abs=4)
    opened.key("+")
    assert opened.js("view") == pytest.approx([450, 600], abs=4)
    for _ in range(20):
        opened.key("ArrowLeft")
    assert opened.js("view[0]") == 0
    opened.key("-")
    opened.key("0")
    assert opened.js("view") is None
    opened.drag("#panels", *opened.js("[pixel(0.5), pixel(0.5) + 2]"), 60)  # no more than a click
    assert opened.js("view") is None
    opened.drag("#panels", *opened.js("[pixel(0.9), pixel(0.8)]"), 60)  # to the left
    assert opened.js("view") == pytest.approx([1200, 1350], abs=4)
    opened.move("#all", click=True)
    assert opened.js("view") is None


@needs_chromium
@ONE_ROW
def test_page_of_one_row(browser, tmp_path, row):
    (tmp_path / "log.csv").write_text(f"{COLUMNS}\n{row}\n")
    plot(tmp_path, "log.csv", "-o", "one.html")
    browser.open(tmp_path / "one.html")
    for i in 1, 2, 3:
        browser.move(f"#axes label:nth-child({i}) input", click=True)
        browser.move("#panels", 300, 40)
        assert "log.csv step 0:" in browser.text("#readout")
