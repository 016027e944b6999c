"""
Says which exercises are solved and which is next, or what is wrong with one of them.

    python exercises/check.py                    # go through all of them
    python exercises/check.py layernorm          # grade one
    python exercises/check.py layernorm --hint   # the first step of its derivation; --hint 2: ...
"""

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cases
import grade
from hints import HINTS

GRADE = Path(grade.__file__)
MARKS = {grade.RIGHT: "done", grade.WRONG: "wrong", grade.EMPTY: "empty"}


def run_grade(name, path=None, seconds=grade.SECONDS):
    """Grade in a process of its own -> status, the report's lines."""
    path = path or cases.path_of(name)
    command = [sys.executable, str(GRADE), name, str(path), str(seconds)]
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    kinds = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "env": env}
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=4 * seconds, **kinds)
    except subprocess.TimeoutExpired:
        return grade.WRONG, [f"{path.name}: still running after {4 * seconds} seconds"]
    lines = done.stdout.splitlines()
    if lines and lines[-1] == grade.END:
        return done.returncode, lines[:-1]
    # the innermost line of the learner's file at the end of time, in faulthandler's words
    found = re.search(re.escape(path.name) + r'", line (\d+)', done.stderr)
    place = f"{path.name}, line {found[1]}" if found else path.name
    if "Timeout" in done.stderr:
        what = f"still running after {seconds} seconds; does a loop never end?"
    else:
        what = f"Python itself ended (exit status {done.returncode}), with no report"
    return grade.WRONG, [f"{place}: {what}"]


def relative(path):
    """Return a path as it is seen from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def check_one(name):
    status, lines = run_grade(name)
    page = f"doc/{cases.EXERCISES[name].page}.md"
    print(f"{name}: {MARKS[status]} ({relative(cases.path_of(name))}, {page})")
    if status == grade.RIGHT:
        following = cases.ORDER[cases.ORDER.index(name) + 1 :][:1]
        print(f"next: check.py {following[0]}" if following else "that was the last one")
    else:
        print("\n".join(f"  {line}" for line in lines))
        print(f"a step of the derivation: check.py {name} --hint")
    return status


def check_all():
    """Grade all, and say what is next; the report of the first that is not done."""
    following = None
    with ThreadPoolExecutor(2) as pool:
        for name, (status, lines) in zip(
            cases.ORDER, pool.map(run_grade, cases.ORDER), strict=True
        ):
            print(f"{MARKS[status]:>6}  {cases.path_of(name).name}", flush=True)
            if status != grade.RIGHT and not following:
                following = name, lines
    if not following:
        print("all done; now hunt.py 1")
        return grade.RIGHT
    name, lines = following
    page = f"doc/{cases.EXERCISES[name].page}.md"
    print(f"\nnext: {relative(cases.path_of(name))}, with {page}; then check.py {name}")
    print("\n".join(f"  {line}" for line in lines))
    return grade.WRONG


def show_hint(name, number):
    hints = HINTS[name]
    number = min(max(number, 1), len(hints))
    print(f"{name}, step {number} of {len(hints)}:\n\n  {hints[number - 1]}\n")
    if number < len(hints):
        print(f"the next step: check.py {name} --hint {number + 1}")
    else:
        print(f"that was the last one; doc/{cases.EXERCISES[name].page}.md has the derivation")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.error = lambda why: parser.exit(2, f"check.py: {why}; --help lists the flags\n")
    parser.add_argument("name", nargs="?", metavar="NAME", help=" ".join(cases.ORDER))
    parser.add_argument("--hint", nargs="?", type=int, const=1, metavar="N", help="show step N")
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="replace")
    if args.name and args.name not in cases.ORDER:
        parser.error(f"{args.name} is not one of {', '.join(cases.ORDER)}")
    if args.hint is not None:
        if not args.name:
            parser.error("--hint needs the name of an exercise")
        return show_hint(args.name, args.hint)
    return check_one(args.name) if args.name else check_all()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
