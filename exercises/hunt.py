"""
Find the bug: a copy of train_gpt2.py with a mistake in it, without its comments.

    python exercises/hunt.py                  # what there is
    python exercises/hunt.py 7                # make my_exercises/hunt_1_07/: level 1
    python exercises/hunt.py 7 --level 2      # make my_exercises/hunt_2_07/
    python exercises/hunt.py 7 --check 95     # is it line 95 of its train_gpt2.py?
    python exercises/hunt.py 7 --check        # does the copy learn as it should, as it is now?
"""

import argparse
import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -I leaves it out
import cases
import curve
import mistakes

PROJECT = cases.FOLDER.parent
TESTED_WITH = (
    "test_gpt2.py",
    "tools/console.py",
    "tools/formats.py",
    "tools/tracing.py",
    "tests/small_weights.bin",
    "tests/small_state.bin",
)
LEVELS = {
    1: "a wrong line in a layer, which is named; the parity test is red",
    2: "a wrong line in a layer; there is only a loss curve",
    3: "a wrong line outside of the layers; a loss curve",
    4: "two wrong lines in layers; a loss curve",
}
OUTSIDE = (  # the function, what it has, what it has then, and what that is
    ("get_batch", "tokens[places + 1]", "tokens[places]", "targets are not shifted"),
    ("get_batch", "tokens[places + 1]", "tokens[places + 2]", "targets are two on"),
    ("get_batch", "np.arange(i * B, i * B + B)", "np.arange(i, i + B)", "batches overlap"),
    ("evaluate", ") / batches", ") / B", "the mean is over another number of batches"),
    ("init_weights", "0.02 if", "0.2 if", "weights begin ten times too large"),
    ("init_weights", "view[:] = 1", "view[:] = 0.1", "layernorms begin at a tenth"),
    ("learning_rate", "(step + 1) / warmup", "(step + 1) / steps", "warm-up never gets to lr"),
    ("learning_rate", "0.5 * (1 + ", "0.5 * (1 - ", "the cosine rises"),
    ("clip_gradients", "max_norm / norm", "norm / max_norm", "clipping makes it longer"),
    ("adamw_update", "name in DECAYING", "name not in DECAYING", "the others decay"),
)
# the layers of functions that have other names
LAYERS = {"attend": "attention", "attend_in_tiles": "attention", "normalize": "layernorm"}
LAYERS |= {"gpt2": "model"}


def hunted(level, number):
    """Return the mistakes of a hunt, from 1: each has a function, edits, and a name."""
    if level == 3:
        function, *edit, name = OUTSIDE[number - 1]
        return [SimpleNamespace(function=function, edits=[edit], name=name)]
    found = mistakes.HUNTS
    if level == 1:
        return [found[number - 1]]
    order = [found[i] for i in np.random.default_rng(level).permutation(len(found))]
    first = order[number - 1]
    others = [other for other in order if other.function != first.function]
    return [first, others[number % len(others)]] if level == 4 else [first]


def hunted_file(level, number):
    """Return the lesson's text, without comments, with the mistakes of a hunt; their lines."""
    text = healthy = Path(cases.gpt2.__file__).read_text(encoding="utf-8")
    for mistake in hunted(level, number):
        source = inspect.getsource(getattr(cases.gpt2, mistake.function))
        text = text.replace(source, mistakes.source_of(mistake))
    text, healthy = (ast.unparse(ast.parse(each)) + "\n" for each in (text, healthy))
    pairs = enumerate(zip(healthy.splitlines(), text.splitlines(), strict=True), 1)
    return text, [i for i, (a, b) in pairs if a != b]


def in_order(level, number):
    """Return the mistakes of a hunt in the order of their lines."""
    text = Path(cases.gpt2.__file__).read_text(encoding="utf-8")
    return sorted(hunted(level, number), key=lambda it: text.index(f"def {it.function}("))


def layer_of(mistake):
    function = mistake.function.rpartition("_")[0] or mistake.function
    return LAYERS.get(function, function)


def make(level, number, folder):
    """Write the copy, and what shows its sickness. SystemExit if it is there, and was changed."""
    text, _ = hunted_file(level, number)
    copy = folder / "train_gpt2.py"
    if copy.exists() and copy.read_text(encoding="utf-8") != text:
        sys.exit(f"{copy}: differs from what this makes; delete it to begin again")
    folder.mkdir(exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    for name in TESTED_WITH if level == 1 else ():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    shutil.copy(cases.FOLDER / "curve.py", folder)
    healthy = json.dumps(curve.losses(cases.gpt2))
    (folder / "healthy.json").write_text(healthy, encoding="utf-8")
    copy.write_text(text, encoding="utf-8")


def listing():
    """Return what hunts there are, lines."""
    layers = {}
    for i, mistake in enumerate(mistakes.HUNTS, 1):
        layers.setdefault(layer_of(mistake), []).append(str(i))
    counts = {level: len(OUTSIDE if level == 3 else mistakes.HUNTS) for level in LEVELS}
    lines = [f"level {level}, 1 to {counts[level]}: {what}" for level, what in LEVELS.items()]
    return [lines[0], *(f"{layer:>14}: {' '.join(n)}" for layer, n in layers.items()), *lines[1:]]


def main():
    parser = argparse.ArgumentParser(description="Find the bug in a copy of train_gpt2.py.")
    parser.error = lambda why: parser.exit(2, f"hunt.py: {why}; --help lists the flags\n")
    parser.add_argument("number", nargs="?", type=int, metavar="N", help="which one")
    parser.add_argument("--level", type=int, choices=LEVELS, default=1, help="default: 1")
    text = "is it this line of the copy, as it is now? Without LINE: is the copy well?"
    parser.add_argument("--check", nargs="?", type=int, const=False, metavar="LINE", help=text)
    args = parser.parse_args()
    if args.number is None and args.check is not None:
        parser.error("--check: of which one? give N, too")
    if args.number is None:
        print("\n".join(listing()))
        return 0
    level, number = args.level, args.number
    total = len(OUTSIDE if level == 3 else mistakes.HUNTS)
    if not 1 <= number <= total:
        parser.error(f"{number} is not from 1 to {total}")
    folder = cases.HOME / f"hunt_{level}_{number:02}"
    again = f"python exercises/hunt.py {number}" + (f" --level {level}" if level > 1 else "")
    if args.check is None:
        make(level, number, folder)
        where = f", {layer_of(mistakes.HUNTS[number - 1])}" if level == 1 else ""
        print(f"made {folder}: {LEVELS[level].replace(', which is named', where)}")
        print(f"  cd {folder} && python {'test_gpt2.py --quick' if level == 1 else 'curve.py'}")
        print(f"Found it? {again} --check LINE; mended it? {again} --check")
        return 0
    copy = folder / "train_gpt2.py"
    if not copy.exists():
        sys.exit(f"{copy}: not there; `{again}` makes it")
    if args.check is False:
        return subprocess.run([sys.executable, folder / "curve.py"]).returncode
    now = dict(enumerate(copy.read_text(encoding="utf-8").splitlines(), 1))
    text, lines = hunted_file(level, number)
    for line, mistake in zip(lines, in_order(level, number), strict=True):
        if now.get(args.check, "").strip() == text.splitlines()[line - 1].strip():
            other = "; there is another one" if len(lines) > 1 else ""
            print(f"yes, line {args.check}, in {mistake.function}: {mistake.name}{other}")
            return 0
    print(f"no, it is not line {args.check}")
    return 1


if __name__ == "__main__":
    cases.run_program(lambda: sys.exit(main()))
