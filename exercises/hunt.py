"""
Find the bug: a copy of train_gpt2.py with one mistake in it, and a test that is red.

    python exercises/hunt.py                  # what there is, by layer
    python exercises/hunt.py 7                # make exercises/hunt_07/
    python exercises/hunt.py 7 --check 95     # is it line 95 of exercises/hunt_07/train_gpt2.py?
"""

import argparse
import inspect
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -I leaves it out
import cases
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
# the layers of functions that have other names
LAYERS = {"attend": "attention", "attend_in_tiles": "attention", "normalize": "layernorm"}
LAYERS |= {"gpt2": "model"}


def hunted_file(number):
    """Return the lesson's text with mistake number, from 1, in it; the line that has it."""
    mistake = mistakes.HUNTS[number - 1]
    lines, start = inspect.getsourcelines(getattr(cases.gpt2, mistake.function))
    healthy, broken = "".join(lines), mistakes.source_of(mistake)
    text = Path(cases.gpt2.__file__).read_text(encoding="utf-8")
    pairs = zip(healthy.splitlines(), broken.splitlines(), strict=True)
    (line,) = [start + i for i, (a, b) in enumerate(pairs) if a != b]
    return text.replace(healthy, broken), line


def make(number, folder):
    """Write the copy, and what its test needs. SystemExit if a copy is there that was changed."""
    text, _ = hunted_file(number)
    copy = folder / "train_gpt2.py"
    if copy.exists() and copy.read_text(encoding="utf-8") != text:
        sys.exit(f"hunt.py: {copy}: differs from what this makes; delete it to begin again")
    for name in "tests", "tools":
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    for name in TESTED_WITH:
        shutil.copy(PROJECT / name, folder / name)
    copy.write_text(text, encoding="utf-8")


def main():
    total = len(mistakes.HUNTS)
    parser = argparse.ArgumentParser(description="Find the bug in a copy of train_gpt2.py.")
    parser.error = lambda why: parser.exit(2, f"hunt.py: {why}; --help lists the flags\n")
    parser.add_argument("number", nargs="?", type=int, metavar="N", help=f"which one, 1 to {total}")
    parser.add_argument("--check", type=int, metavar="LINE", help="is it this line of the copy?")
    args = parser.parse_args()
    if args.number is None:
        layers = {}
        for i, mistake in enumerate(mistakes.HUNTS, 1):
            function = mistake.function.rpartition("_")[0] or mistake.function
            layer = LAYERS.get(function, function)
            layers.setdefault(layer, []).append(str(i))
        print("\n".join(f"{layer:>12}: {' '.join(n)}" for layer, n in layers.items()))
        return 0
    if not 1 <= args.number <= total:
        parser.error(f"{args.number} is not from 1 to {total}")
    mistake = mistakes.HUNTS[args.number - 1]
    folder = cases.FOLDER / f"hunt_{args.number:02}"
    if args.check is None:
        make(args.number, folder)
        print(f"made {folder}: in its train_gpt2.py one line is wrong. Its test is red:")
        print(f"  cd {folder} && python test_gpt2.py --quick")
        print(f"Found it? python exercises/hunt.py {args.number} --check LINE")
        return 0
    _, line = hunted_file(args.number)
    if args.check == line:
        print(f"yes, line {line}, in {mistake.function}: {mistake.name}")
        return 0
    print(f"no, it is not line {args.check}")
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"hunt.py: {error.filename}: {error.strerror}; check that file or folder")
