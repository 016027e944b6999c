"""
Marks what learners have written: points for each gradient, as check.py --json prints them.

Here is what is right, and the given forward passes; the learner's function runs in another process,
child.py, in an empty folder in which there is no lesson. It gets arrays by a pipe, drawn anew, and
gives arrays back. exercises/README.md says what this stops, and what it doesn't.
"""

import ast
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path
from types import SimpleNamespace

import cases
import child
import grade
import numpy as np
from cases import EXERCISES, gpt2

SECONDS = 40  # by the clock, that a call may take, on a computer that may be busy
START = (
    "import sys; sys.path += sys.argv[1:3]; import child; sys.path.pop(); child.main(sys.argv[3])"
)
KEPT = "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"  # what Python itself may need


def lesson_for(text):
    """Return the part of the lesson that an exercise imports, with what this needs; or ""."""
    nodes = ast.parse(Path(gpt2.__file__).read_text(encoding="utf-8")).body
    makes = {}  # name: the statements that make it
    for node in nodes:
        walked = [node] if hasattr(node, "name") else list(ast.walk(node))
        names = {n.asname or n.name for n in walked if isinstance(n, ast.alias)}
        names |= {n.id for n in walked if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        for name in names | {getattr(node, "name", None)}:
            makes.setdefault(name, []).append(node)
    given = ast.walk(ast.parse(text))
    imports = [n for n in given if isinstance(n, ast.ImportFrom) and n.module == "train_gpt2"]
    wanted, kept = [alias.name for node in imports for alias in node.names], []
    while wanted:
        for node in makes.pop(wanted.pop(), ()):
            if node not in kept:
                kept.append(node)
                wanted += [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
    return "\n".join(ast.unparse(node) for node in nodes if node in kept)


class Child:
    """A learner's file in a process of its own. functions: the given ones, and the learner's."""

    def __init__(self, name, path):
        text = cases.given_text(name)
        given = types.ModuleType(name)
        exec(compile(text, name, "exec"), vars(given))
        self.exercise, self.path, self.folder = EXERCISES[name], path, tempfile.TemporaryDirectory()
        self.functions = SimpleNamespace(**vars(given))
        setattr(self.functions, self.exercise.function, self.call)
        here = Path(self.folder.name)
        (here / path.name).write_bytes(path.read_bytes() if path.exists() else text.encode())
        (here / "child.py").write_bytes(Path(child.__file__).read_bytes())
        if lesson := lesson_for(text):
            (here / "train_gpt2.py").write_text(lesson, encoding="utf-8")
        packages = str(Path(np.__file__).resolve().parent.parent)
        # -I and -S: no variable, no folder of the user's, no site-packages
        command = [sys.executable, "-I", "-S", "-B", "-c", START, str(here), packages, path.name]
        env = {name: os.environ[name] for name in KEPT if name in os.environ}
        env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, cwd=here, env=env, **pipes)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()
        self.folder.cleanup()

    def limits(self, args):
        """Return what the learner's function may call with few rows only, or not at all."""
        forward, function = self.exercise.forward, self.exercise.function
        if function == "accumulate":
            most = len(args[2][0][0])
            return {"gpt2_forward": (2, most, "accumulate puts batches into one")}
        found = {forward: (0, -1, f"{function} calls {forward}: it should do with the cache")}
        if function == "pieces_backward":
            found["head_forward"] = 0, args[1][-1], "head_forward gets more than `rows` rows"
        return found

    def call(self, *args):
        """Call the learner's function. It changes the arrays in args, as it would here."""
        arrays, began = [], time.monotonic()
        timer = threading.Timer(SECONDS, self.process.kill)
        timer.start()
        message = {"function": self.exercise.function, "args": child.pack(args, arrays)}
        try:
            child.send(self.process.stdin, message | {"limits": self.limits(args)}, arrays)
            reply, theirs = child.receive(self.process.stdout)
            if "error" in reply:
                raise grade.Stop(str(reply["error"])[:400])
            for mine, array in zip(arrays, theirs, strict=False):
                if not np.array_equal(mine, array, equal_nan=True):
                    mine[...] = array
            for mine, value in zip(args, child.unpack(reply["args"], theirs), strict=True):
                if isinstance(mine, list):
                    mine[:] = value
            return child.unpack(reply["result"], theirs)
        except grade.Stop:
            raise
        except (EOFError, OSError):
            late = time.monotonic() - began > SECONDS
            what = f"no end after {SECONDS} seconds" if late else "Python itself ended"
            raise grade.Stop(f"{self.path.name}: {what}") from None
        except Exception as error:
            what = f"what it sends can't be read: {child.one_line(error)}"
            raise grade.Stop(f"{self.path.name}: {what}") from None
        finally:
            timer.cancel()


def drawn_tokens(name, rng):
    """Return what cases.pairs and cases.encode make inputs of, or None."""
    if name == "pairs":
        words = [rng.integers(97, 100, n).tolist() for n in (1, *rng.integers(2, 12, 4))]
        return {"words": words, "times": rng.integers(1, 4, 5).tolist()}
    if name == "encode":
        merges = [tuple(rng.integers(97, 100, 2).tolist()) for _ in range(2)]
        merges += [(merges[0][0], 256 + int(rng.integers(2))), (256, 257), (256, 256)]
        return {"word": rng.integers(97, 100, 40).tolist(), "merges": merges}
    return None


def tried(name, functions, case, **how):
    """Return the gradients by name, none if there is an error, and what is wrong, or None."""
    try:
        return grade.call(name, functions, case.inputs, dout=case.dout, **how), None
    except grade.Stop as stop:
        return {}, str(stop)
    except Exception as error:  # arrays of texts, and what else nobody thought of
        return {}, f"what it gives can't be judged: {child.one_line(error)}"


def judged(name, path, rng):
    """Return {what is checked: whether it passed}, and the first thing that is wrong, or None."""
    passed, why = {}, []
    with Child(name, path) as answer, np.errstate(all="ignore"):
        for sizes in EXERCISES[name].shapes:
            case = grade.prepare(name, drawn_tokens(name, rng) or sizes, rng, rng)
            got, stop = tried(name, answer.functions, case, strict=True)
            if stop:
                got, _ = tried(name, answer.functions, case)
            why += [stop] if stop else []
            for g, want in case.want.items():
                passed.setdefault(g, True)
                fine = g in got and grade.close(got[g], want) and got[g].dtype == want.dtype
                passed[g] &= bool(fine)
        single = case._replace(inputs=cases.cast(case.inputs, np.float32))
        got, stop = tried(name, answer.functions, single)
        why += [stop] if stop else []
        for g, want in case.want.items():
            fine = g in got and grade.close(got[g], want, 1e-3)
            passed[g] &= fine and (got[g].dtype != np.float64 or g == "the returned loss")
    passed["contract"] = not why and all(passed.values())  # alone it would be worth nothing
    return passed, why[0] if why else None


def mark(name, rng):
    """Return the marks of one exercise, as they stand in the document."""
    path = cases.path_of(name)
    passed, why = judged(name, path, rng)
    if not path.exists():
        why = "there is no such file"
    elif why and "NotImplementedError" in why and not grade.begun(path):
        why = "not begun"
    if name == "adamw":  # a point for each kind of its 48 tensors
        kinds = {g.split()[0] for g in passed}
        passed = {k: all(p for g, p in passed.items() if g.split()[0] == k) for k in kinds}
    results = [{"name": g, "points": int(p), "of": 1, "passed": p} for g, p in passed.items()]
    points = sum(result["points"] for result in results)
    found = {"name": name, "file": path.name, "points": points, "of": len(results), "why": why}
    return found | {"results": results}


def document(names, seed):
    """Return the marks of these exercises. seed: of the arrays they are tried on; None: any."""
    seed = secrets.randbelow(10**9) if seed is None else seed
    rng = np.random.default_rng(seed)
    gpt2.THREADS, gpt2.POOL = 1, cases.NO_POOL  # the arrays are small
    exercises = [mark(name, rng) for name in names]
    total = {key: sum(exercise[key] for exercise in exercises) for key in ("points", "of")}
    return {"folder": str(cases.HOME), "seed": seed} | total | {"exercises": exercises}
