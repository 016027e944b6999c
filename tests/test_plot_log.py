"""
The curves of training logs: what is drawn, the page in a browser, unfinished logs, files that are
no logs. The browser is a Chromium of the system; where there is none, its tests are skipped.
"""

import json
import os
import random
import re
import runpy
import subprocess
import sys
from pathlib import Path

from tools import plot_log
from tools.log import COLUMNS as LOG_COLUMNS

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from matplotlib.image import imread

PLOT_LOG = Path(__file__).parent.parent / "tools" / "plot_log.py"
BLUE, ORANGE = (31, 119, 180), (255, 127, 14)  # the first two colours of matplotlib


def plot(folder, *flags, **env):
    command = [sys.executable, PLOT_LOG, *flags]
    env = os.environ | env
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def log_text(steps, seed=0):
    """A log as train_gpt2.py writes it; validation every 10 steps and after the last."""
    rng, rows = random.Random(seed), [LOG_COLUMNS]
    for step in range(steps + 1):
        val_loss = f"{3 + 8 / (1 + step / 20):.6f}" if step % 10 == 0 or step == steps else ""
        loss = f"{rng.gauss(3 + 8 / (1 + step / 20), 0.2):.6f}"
        rest = f"0.001,{rng.lognormvariate(0, 0.3):g},123.4" if step < steps else ",,"
        rows.append(f"{step},{64 * step},{loss if step < steps else ''},{val_loss},{rest}")
    return "".join(f"{row}\n" for row in rows)


def picture(path):
    """The pixels of a picture, (height, width, 3) from 0 to 255."""
    return np.round(imread(path)[:, :, :3] * 255).astype(int)


def pixels_of(picture, color):
    return int((picture == color).all(axis=2).sum())


@pytest.mark.parametrize("steps", [1, 40, 1500])
def test_picture(tmp_path, steps):
    (tmp_path / "log.csv").write_text(log_text(steps))
    done = plot(tmp_path, "log.csv", "-o", "loss.png")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "wrote loss.png"
    assert "Warning" not in done.stderr
    drawn = picture(tmp_path / "loss.png")
    assert drawn.shape == (720, 1080, 3)
    assert pixels_of(drawn, BLUE) > 200 and pixels_of(drawn, ORANGE) == 0
    assert sorted(os.listdir(tmp_path)) == ["log.csv", "loss.png"]


def test_backend_that_there_is_not(tmp_path):
    """It is for matplotlib's windows, of which we open none."""
    (tmp_path / "log.csv").write_text(log_text(3))
    done = plot(tmp_path, "log.csv", "-o", "loss.svg", MPLBACKEND="bogus")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("steps, window", [([9], 10), ([500, 9], 10), ([9, 2000, 700], 40)])
def test_window_of_the_longest_log(steps, window):
    assert plot_log.window_of({str(n): {"step": np.arange(n)} for n in steps}) == window


def test_two_logs_have_two_colours(tmp_path):
    (tmp_path / r"$\a$.csv").write_text(log_text(300))
    (tmp_path / "b.csv").write_text(log_text(200, seed=1))
    assert plot(tmp_path, r"$\a$.csv", "b.csv", "-o", "loss.png").returncode == 0
    drawn = picture(tmp_path / "loss.png")
    assert min(pixels_of(drawn, BLUE), pixels_of(drawn, ORANGE)) > 200


@pytest.mark.parametrize(("name", "magic"), [("a.svg", b"<?xml"), ("a.PDF", b"%PDF")])
def test_formats(tmp_path, name, magic):
    (tmp_path / "log.csv").write_text(log_text(40))
    assert plot(tmp_path, "log.csv", "-o", name).returncode == 0
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_what_is_drawn(tmp_path):
    (tmp_path / "log.csv").write_text(log_text(1500))
    plot_log = runpy.run_path(str(PLOT_LOG))
    log = plot_log["read_log"](tmp_path / "log.csv")
    assert list(log) == LOG_COLUMNS.split(",")
    figure = plot_log["draw"]({"log.csv": log})
    lines = [[line.get_xydata() for line in panel.lines] for panel in figure.axes]
    loss, (lr,), norm = ([line for line in panel if len(line)] for panel in lines)  # no legend
    for (each, mean, *_), name in (loss, "train_loss"), (norm, "grad_norm"):
        assert (each == np.stack([np.arange(1500), log[name][:1500]], 1)).all()
        middles = np.arange(14.5, 1485)  # 30 steps, one more each time
        expected = np.convolve(log[name][:1500], np.full(30, 1 / 30), "valid")
        np.testing.assert_allclose(mean, np.stack([middles, expected], 1), rtol=1e-9)
    every_10 = np.arange(0, 1501, 10)
    assert (loss[2] == np.stack([every_10, log["val_loss"][every_10]], 1)).all()
    assert (lr[:1500] == [[step, 0.001] for step in range(1500)]).all()


@pytest.mark.parametrize(("steps", "mean"), [(40, []), (1500, ["training, mean of 30 steps"])])
def test_legend(tmp_path, steps, mean):
    (tmp_path / "log.csv").write_text(log_text(steps))
    plot_log = runpy.run_path(str(PLOT_LOG))
    figure = plot_log["draw"]({"a.csv": plot_log["read_log"](tmp_path / "log.csv")})
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["a.csv", "training, each batch", *mean, "validation"]


@pytest.mark.parametrize("rest", ["4", "4,256,3.5,,0.0", "4,256,3.5,,0.001,1,12"])
def test_unfinished_last_line_is_ignored(tmp_path, rest):
    whole = "".join(log_text(40).splitlines(keepends=True)[:5])
    for folder, text in ("whole", whole), ("killed", whole + rest):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "log.csv").write_text(text)
        assert plot(tmp_path / folder, "log.csv", "-o", "loss.png").returncode == 0
    pictures = [picture(tmp_path / folder / "loss.png") for folder in ("whole", "killed")]
    assert (pictures[0] == pictures[1]).all()


@pytest.mark.parametrize("row", ["0,0,,4.5,,,", "0,0,4.5,,0.001,1.5,9", "0,0,nan,inf,0,nan,9"])
def test_one_row(tmp_path, row):
    (tmp_path / "log.csv").write_text(f"{LOG_COLUMNS}\n{row}\n")
    done = plot(tmp_path, "log.csv", "-o", "loss.png")
    assert done.returncode == 0 and "Warning" not in done.stderr


# ----------------------------------------------------------------------------
# The page

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium")
HOSTILE = "</script><img src=x onerror=alert(1)>.csv".replace("/", "")  # no folder in it


def data_of(page):
    """What is in the page's script of data."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text)


def test_page_has_the_numbers_of_the_logs(tmp_path):
    for name, steps in ("a.csv", 300), (HOSTILE, 40):
        (tmp_path / name).write_text(log_text(steps))
    done = plot(tmp_path, "a.csv", HOSTILE, "-o", "loss.html")
    said = f"a.csv: 301 rows\n{HOSTILE}: 41 rows\nwrote loss.html\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    page = (tmp_path / "loss.html").read_text(encoding="utf-8")
    for address in "http:", "https:", "src=", "url(", "import(", "fetch(", "XMLHttpRequest":
        assert address not in page.replace(r"\u003cimg src=", "")
    runs = data_of(page)["runs"]
    assert [run.pop("name") for run in runs] == ["a.csv", HOSTILE]
    for run, name in zip(runs, ("a.csv", HOSTILE), strict=True):
        columns = [row.split(",") for row in (tmp_path / name).read_text().split()]
        for column, *cells in zip(*columns, strict=True):
            assert run[column] == [float(cell) if cell else None for cell in cells]


def test_page_of_numbers_that_are_none(tmp_path):
    (tmp_path / "log.csv").write_text(f"{LOG_COLUMNS}\n0,0,nan,inf,0,nan,9\n")
    assert plot(tmp_path, "log.csv", "-o", "a.html").returncode == 0
    (run,) = data_of((tmp_path / "a.html").read_text())["runs"]
    assert (run["train_loss"], run["val_loss"], run["lr"]) == ([None], [None], [0.0])


def test_page_needs_no_matplotlib(tmp_path):
    (tmp_path / "log.csv").write_text(log_text(40))
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('matplotlib')")
    done = plot(tmp_path, "log.csv", "-o", "loss.html", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for name, steps in ("a.csv", 1500), (HOSTILE, 600):
        (folder / name).write_text(log_text(steps, seed=steps))
    assert plot(folder, "a.csv", HOSTILE, "-o", "loss.html").returncode == 0
    return folder / "loss.html"


@pytest.fixture
def opened(browser, page):
    """The browser with the page; no test may leave an error, or have asked for anything else."""
    browser.errors.clear()
    browser.requests.clear()
    browser.open(page)
    yield browser
    assert browser.errors == []
    assert browser.requests == [page.as_uri()]


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_page_in_a_browser(browser, page, width, scheme):
    browser.errors.clear()
    browser.open(page, width, scheme)
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    assert browser.js("document.images.length") == 0
    heights = browser.js("[...document.querySelectorAll('canvas')].map((c) => c.height)")
    assert len(heights) == 3 and min(heights) > 80
    paper = browser.js("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert HOSTILE in browser.text("#runs")
    assert browser.text("#key") == (
        "Thin: each training batch. Thick: the mean of 30 steps. Dots: validation."
    )
    assert browser.errors == []


def pixels_near(opened, color):
    """How many pixels of the loss have a colour of #rrggbb, or nearly."""
    numbers = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return opened.js(
        "(() => { const c = document.querySelector('canvas');"
        " const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;"
        " for (let i = 0; i < p.length; i += 4)"
        f" if ({numbers}.every((x, j) => Math.abs(x - p[i + j]) < 8)) n++; return n; }})()"
    )


@needs_chromium
def test_two_runs_can_be_hidden(opened):
    first, second = opened.js("COLORS.slice(0, 2)")
    assert min(pixels_near(opened, first), pixels_near(opened, second)) > 200
    opened.move("#runs label:nth-child(2) input", click=True)
    assert pixels_near(opened, first) > 200 and pixels_near(opened, second) == 0
    opened.move("#runs label:nth-child(1) input", click=True)
    assert pixels_near(opened, first) == 0


@needs_chromium
def test_axis(opened, page):
    runs = data_of(page.read_text())["runs"]
    assert opened.js("whole()") == [0, 1500]
    opened.move("#axes label:nth-child(2) input", click=True)
    assert opened.js("whole()") == [0, 1500 * 64]
    opened.move("#axes label:nth-child(3) input", click=True)
    seconds = sum(ms or 0 for ms in runs[0]["ms"]) / 1000
    assert opened.js("whole()") == [0, pytest.approx(seconds)]


@needs_chromium
def test_hover_shows_the_nearest_step(opened, page):
    runs = data_of(page.read_text())["runs"]
    opened.move("#panels", opened.js("pixel(400 / 1500)"), 50)
    for i, run in enumerate(runs, 1):
        step = int(re.search(r" step (\d+):", opened.text(f"#readout div:nth-child({i})"))[1])
        assert abs(step - 400) <= 2
        shown = opened.text(f"#readout div:nth-child({i})")
        assert f"train_loss {run['train_loss'][step]}," in shown
        assert f"ms {run['ms'][step]}" in shown
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
@pytest.mark.parametrize("row", ["0,0,,4.5,,,", "0,0,4.5,,0.001,1.5,9", "0,0,nan,inf,0,nan,9"])
def test_page_of_one_row(browser, tmp_path, row):
    (tmp_path / "log.csv").write_text(f"{LOG_COLUMNS}\n{row}\n")
    assert plot(tmp_path, "log.csv", "-o", "one.html").returncode == 0
    browser.errors.clear()
    browser.open(tmp_path / "one.html")
    for i in 1, 2, 3:
        browser.move(f"#axes label:nth-child({i}) input", click=True)
        browser.move("#panels", 300, 40)
        assert "log.csv step 0:" in browser.text("#readout")
    assert browser.errors == []


# ----------------------------------------------------------------------------
# Errors: one line that names the file, exit status 1, and nothing written


def check_fails(folder, done, *says, status=1):
    assert done.returncode == status and "wrote" not in done.stdout
    assert done.stderr.startswith("plot_log.py: ") and done.stderr.count("\n") == 1
    for words in says:
        assert words in done.stderr
    assert not list(folder.rglob("*.png*")) and not list(folder.rglob("*.html*"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no rows yet"),
        (LOG_COLUMNS.encode(), "no rows yet"),
        (f"{LOG_COLUMNS}\n".encode(), "no rows yet"),
        (f"{LOG_COLUMNS}\n0,0,4.5".encode(), "no rows yet"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xfe", "not a training log"),
        (b"<!DOCTYPE html>\n<html></html>\n", "not a training log"),
        (b"step,loss\n0,4.5\n", "not a training log"),
        (f"{LOG_COLUMNS},note\n0,0,4.5,,0.1,1,1,hi\n".encode(), "not a training log"),
        (f"{LOG_COLUMNS}\n0,0,4.5,,0.1,1,1\n1,64,four,,0.1,1,1\n".encode(), "line 3: "),
        (f"{LOG_COLUMNS}\n0,0,4.5,,0.1,1,1\n1,64\n2,128,4,,0.1,1,1\n".encode(), "2 cells, not 7"),
        (f"{LOG_COLUMNS}\n0,0,4.5,,0.1,1,1\n\n".encode(), "line 3: 1 cells"),
    ],
)
def test_no_log(tmp_path, content, says):
    (tmp_path / "good.csv").write_text(log_text(40))
    (tmp_path / "bad.csv").write_bytes(content)
    done = plot(tmp_path, "good.csv", "bad.csv", "-o", "loss.png")
    check_fails(tmp_path, done, "bad.csv", says, "; ")


@pytest.mark.parametrize(
    ("name", "says"), [("none.csv", "No such file"), (".", ": "), ("log.csv/x", ": ")]
)
def test_log_that_cannot_be_read(tmp_path, name, says):
    (tmp_path / "log.csv").write_text(log_text(40))
    check_fails(tmp_path, plot(tmp_path, name, "-o", "loss.png"), name, says, "--log FILE")


@pytest.mark.parametrize("name", ["none/loss.png", "folder.svg", "log.csv/loss.png"])
def test_output_that_cannot_be_written(tmp_path, name):
    (tmp_path / "log.csv").write_text(log_text(40))
    (tmp_path / "folder.svg").mkdir()
    check_fails(tmp_path, plot(tmp_path, "log.csv", "-o", name), f"{name}: ", "; ")


def test_old_picture_outlives_an_error(tmp_path):
    (tmp_path / "loss.png").write_text("old")
    assert plot(tmp_path, "none.csv", "-o", "loss.png").returncode == 1
    assert (tmp_path / "loss.png").read_text() == "old"


def test_matplotlib_is_missing(tmp_path):
    (tmp_path / "log.csv").write_text(log_text(40))
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('matplotlib')")
    done = plot(tmp_path, "log.csv", "-o", "loss.png", PYTHONPATH=str(tmp_path))
    check_fails(tmp_path, done, "pip install -r requirements-dev.txt")


@pytest.mark.parametrize(
    "flags", [["log.csv"], ["-o", "a.png"], ["log.csv", "-o", "a.jpg"], ["log.csv", "-o", "a"]]
)
def test_bad_flags(tmp_path, flags):
    (tmp_path / "log.csv").write_text(log_text(40))
    assert plot(tmp_path, *flags).returncode == 2
    assert os.listdir(tmp_path) == ["log.csv"]
