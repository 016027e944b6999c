"""
Says which exercises are solved and which is next, or what is wrong with one of them.

    python exercises/check.py --start            # copy them to my_exercises/, where you solve them
    python exercises/check.py                    # go through all of them
    python exercises/check.py layernorm          # grade one
    python exercises/check.py layernorm --hint   # the first step of its derivation; --hint 2: ...
    python exercises/check.py --train            # train a small GPT-2 with what is solved
    python exercises/check.py --variant 7        # other exercises, whose answers are on no page
    python exercises/check.py --reset layernorm  # as it was given; yours is kept beside it
    python exercises/check.py --json             # for a lecturer: points for each gradient
"""

import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # python -I leaves it out

import cases
import grade
import marks
import seeds
import training
from hints import HINTS

GRADE, INSIGHT = Path(grade.__file__), Path(grade.__file__).with_name("insight.py")
# an estimate of the minutes that each takes, with the pages before it (doc/README.md), in evenings
EVENINGS = (
    {"product": 120, "bias": 10},
    {"softmax": 100},
    {"crossentropy": 75, "gelu": 50},
    {"layernorm": 85, "embedding": 60},
    {"attention_head": 65, "attention": 50},
    {"block": 50, "tied": 75},
    {"adamw": 70, "accumulate": 50},
    {"flash": 75},
    {"pieces": 65, "lora": 60},
    {"pairs": 75, "encode": 25},
    {"rms": 85, "rope": 20, "grouped": 20},
)
MINUTES = {name: minutes for evening in EVENINGS for name, minutes in evening.items()}
MARKS = {grade.RIGHT: "done", grade.WRONG: "wrong", grade.EMPTY: "empty"}


def run_grade(name, path=None, seconds=grade.SECONDS):
    """Grade in a process of its own -> status, the report's lines."""
    path = path or cases.path_of(name)
    command = [sys.executable, str(GRADE), name, str(path), str(seconds)]
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    kinds = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "env": env}
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=8 * seconds, **kinds)
    except subprocess.TimeoutExpired:
        return grade.WRONG, [f"{path.name}: still running after {8 * seconds} seconds"]
    lines = done.stdout.splitlines()
    if lines and lines[-1] == grade.END:
        return done.returncode, lines[:-1]
    # the innermost line of the learner's file at the end of time, in faulthandler's words
    found = re.search(re.escape(path.name) + r'", line (\d+)', done.stderr)
    place = f"{path.name}, line {found[1]}" if found else path.name
    if found and grade.COMPUTES in done.stderr:
        what = f"still running after {seconds} seconds; does a loop never end?"
    elif found and grade.WAITS in done.stderr:
        what = f"no end after {4 * seconds} seconds; what does it wait for?"
    elif "Timeout" in done.stderr:  # faulthandler's word
        what = "the grader itself took too long, because the computer is busy: try again"
    else:
        what = f"Python itself ended (exit status {done.returncode}), with no report"
    return grade.WRONG, [f"{place}: {what}"]


def relative(path):
    """Return a path as it is seen from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def insight(name):
    """Return what the lesson does otherwise, and the time of both, in lines."""
    command = [sys.executable, str(INSIGHT), name, str(cases.path_of(name))]
    kinds = {"stdin": subprocess.DEVNULL, "capture_output": True, "encoding": "utf-8"}
    try:
        return subprocess.run(command, timeout=20, **kinds).stdout.splitlines()
    except subprocess.TimeoutExpired:
        return ["right, but slow: at the sizes of a small model one call takes over ten seconds"]


def progress(done):
    """Say how far one is, and what it takes to the next, and to the end of the evening."""
    left = [name for name in cases.ORDER if name not in done]
    said = f"{len(done)} of {len(cases.ORDER)}"
    if not left:
        return f"{said} done: now train with your gradients, check.py --train; or hunt.py 1"
    number = next(i for i, evening in enumerate(EVENINGS, 1) if left[0] in evening)
    tonight = sum(MINUTES[n] for n in left if n in EVENINGS[number - 1])
    said += f", about {MINUTES[left[0]]} minutes to the next"
    return f"{said}; {tonight} to the end of evening {number} of {len(EVENINGS)}"


def command(name, seed):
    """Return the command that grades an exercise, of a seed's set if there is a seed."""
    return f"check.py {name}" + (f" --variant {seed}" if seed is not None else "")


def check_one(name, names, seed):
    status, lines = run_grade(name)
    page = f"doc/{cases.EXERCISES[name].page}.md"
    print(f"{name}: {MARKS[status]} ({relative(cases.path_of(name))}, {page})")
    if status == grade.RIGHT:
        if seed is None:
            print("\n".join(f"  {line}" for line in insight(name)))
        following = [*names[names.index(name) + 1 :], None][0]
        then = command(following, seed) if following else "check.py --train"
        if following and cases.EXERCISES[following].page != cases.EXERCISES[name].page:
            then = f"doc/{cases.EXERCISES[following].page}.md, then {then}"
        if name == cases.LESSONS[-1]:
            then = f"check.py --train, because all that trains a model is done; then {then}"
        print(f"next: {then}")
    else:
        print("\n".join(f"  {line}" for line in lines))
        print(f"a step of the derivation: {command(name, seed)} --hint")
    return status


def grade_all(names=cases.ORDER):
    """Grade all of these; print what is done -> {exercise: (status, the report's lines)}."""
    graded = {}
    with ThreadPoolExecutor(2) as pool:
        for name, result in zip(names, pool.map(run_grade, names), strict=True):
            graded[name] = result
            print(f"{MARKS[result[0]]:>6}  {cases.path_of(name).name}", flush=True)
    return graded


def check_all(names, seed):
    """Grade all, and say what is next; the report of the first that is not done."""
    graded = grade_all(names)
    left = [name for name, (status, _) in graded.items() if status != grade.RIGHT]
    if seed is None:
        print(f"\n{progress(graded.keys() - set(left))}")
        if len(left) == len(names):
            print("where to begin, if all of this is new: doc/start.md, ten minutes")
            if cases.HOME == cases.FOLDER:
                print("first: check.py --start, which copies them to a folder of your own")
    else:
        print(f"\n{len(names) - len(left)} of {len(names)} of variant {seed}")
    if not left:
        return grade.RIGHT
    page = f"doc/{cases.EXERCISES[left[0]].page}.md"
    print(f"next: {relative(cases.path_of(left[0]))}, with {page}; then {command(left[0], seed)}")
    print("\n".join(f"  {line}" for line in graded[left[0]][1]))
    return grade.WRONG


def train():
    """Train with the answers that are right, beside the lesson."""
    graded = grade_all()
    print()
    right = {n: cases.path_of(n) for n, (status, _) in graded.items() if status == grade.RIGHT}
    return training.main(right)


def show_hint(name, number, seed=None):
    hints = HINTS[name] if seed is None else [seeds.HINTS[name]]
    number = min(max(number, 1), len(hints))
    print(f"{name}, step {number} of {len(hints)}:\n\n  {hints[number - 1]}\n")
    if number < len(hints):
        print(f"the next step: check.py {name} --hint {number + 1}")
    elif seed is None:
        print(f"that was the last one; doc/{cases.EXERCISES[name].page}.md has the derivation")


def start():
    """Copy the exercises that are not yet there into a folder of the learner's own."""
    cases.MINE.mkdir(exist_ok=True)
    cases.HOME = cases.MINE
    new = [name for name in cases.ORDER if not cases.path_of(name).exists()]
    for name in new:
        cases.path_of(name).write_text(cases.given_text(name), encoding="utf-8")
    there = len(cases.ORDER) - len(new)
    print(f"{relative(cases.MINE)}: {len(new)} exercises copied, {there} were there, and stay")
    first = f"{relative(cases.path_of(cases.ORDER[0]))}, with doc/rules.md; then "
    print(f"next: {'' if there else first}check.py")


def reset(name):
    """Write an exercise as it was given; what the learner has is kept beside it."""
    path, text = cases.path_of(name), cases.given_text(name)
    if path == cases.GIVEN.get(name):
        sys.exit(f"{relative(path)} is no copy of yours; git checkout {relative(path)}")
    said = ""
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
        numbers = ["", *range(2, 1000)]
        olds = (path.with_name(f"{path.name}.old{number}") for number in numbers)
        old = next(old for old in olds if not old.exists())
        path.rename(old)
        said = f"; yours is {relative(old)}"
    path.write_text(text, encoding="utf-8")
    print(f"{relative(path)}: as it was given{said}")


def main():
    parser = argparse.ArgumentParser(description="Grade the exercises.")
    parser.error = lambda why: parser.exit(2, f"check.py: {why}; --help lists the flags\n")
    parser.add_argument("name", nargs="?", metavar="NAME", help=" ".join(cases.ORDER))
    parser.add_argument("--variant", type=int, metavar="SEED", help="this seed's set of others")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--hint", nargs="?", type=int, const=1, metavar="N", help="show step N")
    modes.add_argument("--train", action="store_true", help="train a model with what is solved")
    modes.add_argument("--start", action="store_true", help="copy them to my_exercises/")
    text = "as it was given; yours is kept beside it"
    modes.add_argument("--reset", dest="reset_name", metavar="NAME", help=text)
    text = "where the answers are; default: my_exercises if it is there, or else exercises"
    parser.add_argument("--folder", type=Path, metavar="DIR", help=text)
    text = "mark apart from the answers' own process; points for each gradient"
    modes.add_argument("--json", action="store_true", help=text)
    text = "of --json's arrays; default: drawn anew"
    parser.add_argument("--seed", type=int, metavar="N", help=text)
    args = parser.parse_args()
    names, seed = cases.ORDER, args.variant
    if args.folder:
        if not args.folder.is_dir():
            parser.error(f"{args.folder} is no folder")
        cases.HOME = args.folder.resolve()
    if args.start:
        if args.name or args.folder or seed is not None:
            parser.error("--start stands alone: it copies all of them to my_exercises")
        return start()
    if args.seed is not None and (args.seed < 0 or not args.json):
        parser.error("--seed: a number from 0 on, for --json")
    if seed is not None:
        if seed < 0:
            parser.error(f"{seed} is below 0")
        names = seeds.use(seed)
        if not args.json:  # which writes nothing to a folder that was handed in
            seeds.make(seed)
    for name in filter(None, (args.name, args.reset_name)):
        if name not in names:
            parser.error(f"{name} is not one of {', '.join(names)}")
    if args.reset_name:
        return reset(args.reset_name)
    if args.json:
        if cases.HOME == cases.FOLDER and seed is None:
            parser.error("--json marks copies: --start makes them, --folder says where they are")
        found = marks.document([args.name] if args.name else names, args.seed)
        print(json.dumps(found, indent=1))
        return grade.RIGHT if found["points"] == found["of"] else grade.WRONG
    if args.train:
        if args.name or seed is not None:
            parser.error("--train stands alone: it takes all that is solved")
        return train()
    if args.hint is not None:
        if not args.name:
            parser.error("--hint needs the name of an exercise")
        return show_hint(args.name, args.hint, seed)
    return check_one(args.name, names, seed) if args.name else check_all(names, seed)


if __name__ == "__main__":
    cases.run_program(lambda: sys.exit(main()))
