"""
What the experiments have in common: a short training run, and how figures are kept and drawn.
"""

import datetime
import json
import math
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import train_gpt2 as gpt2
from tools.benchmark import processor
from tools.console import Parser, UserError, bounded, run_program
from tools.formats import replacing
from tools.token_files import prefix_of

import numpy as np

HERE = Path(__file__).resolve().parent
MAKE_DATA = "`python prepro_text.py data/tiny_shakespeare.txt --bytes --name bytes` makes it"


def load(name):
    """Return the tokens for training, those for validation, and V. Raises UserError."""
    prefix = prefix_of(name)
    for part in "train", "val":
        if not Path(f"{prefix}_{part}.bin").is_file():
            raise UserError(f"{prefix}_{part}.bin: no such file; {MAKE_DATA}")
    (train, V), (val, _) = (gpt2.load_tokens(f"{prefix}_{part}.bin") for part in ("train", "val"))
    return train, val, V


def config_of(tokens, B, T, V, L, NH, C):
    """Return a config. Raises UserError if there is no such model, or no batch for it."""
    if NH < 1 or C % NH:
        raise UserError(f"{C} channels can't be shared by {NH} heads; give others")
    if B * T >= len(tokens):
        raise UserError(f"a batch of {B} times {T} is more than the {len(tokens):,} tokens; fewer")
    return gpt2.GPT2Config(T, V, L, NH, C)


def number(text):
    """Return the number that a text is. Raises UserError."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{text!r} is not a number; --help shows some") from None


def fresh(config, seed):
    """Return the lesson's random weights by name."""
    return gpt2.named_views(gpt2.init_weights(config, seed), config)


def training(params, config, tokens, steps, B, T, model=gpt2, clip=0.0, **rate):
    """
    Train params, in place: yield the loss and the gradient's norm of each step, before its update.

    It ends where one of them is not finite. model has gpt2_forward and gpt2_backward. clip is the
    greatest norm, 0 for any; rate has lr, warmup and min_lr_frac of learning_rate().
    """
    rate = {"warmup": 0, "min_lr_frac": 1.0} | rate
    grads, m, v = ({name: np.zeros_like(p) for name, p in params.items()} for _ in range(3))
    for step in range(steps):
        loss, cache = model.gpt2_forward(params, config, *gpt2.get_batch(tokens, step, B, T))
        model.gpt2_backward(1.0, cache, grads)
        norm = gpt2.clip_gradients(grads, clip or math.inf)
        yield float(loss), norm
        if not math.isfinite(loss + norm):
            return
        lr = gpt2.learning_rate(step, steps, **rate)
        gpt2.adamw_update(params, grads, m, v, step + 1, lr)


def commit():
    """Return the commit that is checked out, with + if files differ from it; None without git."""
    git = ["git", "-C", str(HERE)]
    try:
        name = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True)
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno", ":/*.py"])
    except (OSError, subprocess.CalledProcessError):
        return None
    return name.strip() + "+" * bool(changed)


def panels(titles, rows=1):
    """Return matplotlib's figure, and its panels, a row after the other. Raises UserError."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UserError("needs matplotlib; `pip install -r requirements-dev.txt`") from None
    figure = Figure(figsize=(9, 1 + 3 * rows), dpi=120, layout="constrained")
    axes = figure.subplots(rows, len(titles) // rows, squeeze=False).ravel()
    for panel, title in zip(axes, titles, strict=True):
        panel.set_title(title, fontsize=10)
        panel.grid(color="0.9")
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def experiment(about, settings, measure, draw):
    """
    Be a program: write what measure(**settings) returns to NAME.json, and draw() it to NAME.png.

    about is the program's docstring. settings are flags and their defaults; a tuple takes several
    values. measure returns a dict for JSON; draw(measured, settings) a figure.
    """
    run_program(lambda: main(about, settings, measure, draw))


def read_record(path, settings):
    """Return what an experiment with these settings has written. Raises UserError."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["settings"].keys() == settings.keys():
            return record
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise UserError(f"--show {path}: not a file that this program has written; give its .json")


def main(about, settings, measure, draw):
    name = Path(sys.argv[0]).stem
    parser = Parser(description=about.strip().split("\n\n")[0])
    text = "draw what was measured before, and measure nothing"
    parser.add_argument("--show", metavar="NAME.json", type=Path, help=text)
    text = "folder for NAME.json and NAME.png (default: experiments/yours)"
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=HERE / "yours", help=text)
    for key, value in settings.items():
        many = {"nargs": "+"} if isinstance(value, tuple) else {}
        kind = type(value[0] if many else value)
        if kind in (int, float):
            kind = bounded(kind, 0 if kind is float or key in ("seed", "warmup") else 1)
        how = {"type": kind, "default": value, **many}
        text = " ".join(map(str, value)) if many else value
        parser.add_argument(f"--{key.replace('_', '-')}", help=f"(default: {text})", **how)
    args = parser.parse_args()
    panels([""])  # or minutes of measuring would be lost without matplotlib
    args.out.mkdir(parents=True, exist_ok=True)
    written = [args.out / f"{name}.png"]
    if args.show:
        record = read_record(args.show, settings)
    else:
        settings, began = {key: getattr(args, key) for key in settings}, time.perf_counter()
        record = {
            "date": datetime.date.today().isoformat(), "commit": commit(),
            "processor": f"{processor()}, {gpt2.THREADS} threads",
            "versions": f"Python {platform.python_version()}, NumPy {np.__version__}",
            "settings": settings, "measured": measure(**settings),
            "seconds": round(time.perf_counter() - began),
        }  # fmt: skip
        text = json.dumps(record, indent=1, default=float)
        text = re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text)
        written.append(args.out / f"{name}.json")
        with replacing(written[1]) as f:
            f.write(text.encode() + b"\n")
    with replacing(written[0]) as f:
        draw(record["measured"], record["settings"]).savefig(f, format="png")
    print("wrote", *written)
