"""
Runs a learner's function for marks.py, in a process of its own: arrays come in, arrays go out.

marks.py copies this into an empty folder, beside the learner's file, and starts it there. Nothing
that this process says is believed: what it sends are arrays, and marks.py compares them.
"""

import importlib
import io
import json
import os
import sys
import traceback
import types
from collections import namedtuple
from pathlib import Path

import numpy as np

MOST = 2**28  # bytes of a message
# Of Python's audit events, those that no answer needs: other processes, other files, other memory
REFUSED = "os.", "subprocess.", "ctypes.", "socket.", "shutil.", "sqlite3.", "gc.", "winreg."
FINE = "os.listdir", "os.scandir", "os.putenv", "os.unsetenv"  # what import does, and os.environ


def one_line(error):
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def where(error, path):
    """Return "file, line n" for an error in a learner's file."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path.name}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f"{path.name}, line {lines[-1]}" if lines else path.name


# ----------------------------------------------------------------------------
# Messages: their length, a line of JSON, and behind it each array as in an .npy file


def pack(tree, arrays):
    """Return a nest of dicts, sequences, arrays and numbers as JSON; arrays gets the arrays."""
    if isinstance(tree, np.ndarray | np.generic):
        at = [i for i, array in enumerate(arrays) if array is tree]
        arrays += [] if at else [tree]
        return {"array": at[0] if at else len(arrays) - 1, "number": isinstance(tree, np.generic)}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    kind = "named" if hasattr(tree, "_fields") else type(tree).__name__
    keys = [pack(k, arrays) for k in getattr(tree, "_fields", tree if kind == "dict" else ())]
    values = tree.values() if kind == "dict" else tree
    if kind not in ("named", "dict", "tuple", "list"):
        return {"other": kind}
    return {"kind": kind, "keys": keys, "values": [pack(value, arrays) for value in values]}


def unpack(tree, arrays):
    """Return the nest that pack was given."""
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        array = arrays[tree["array"]]
        return array[()] if tree["number"] else array
    if "other" in tree:
        return type(tree["other"], (), {})()
    values = [unpack(value, arrays) for value in tree["values"]]
    if tree["kind"] == "named":
        return namedtuple("Named", tree["keys"])(*values)
    if tree["kind"] == "dict":
        return dict(zip((unpack(key, arrays) for key in tree["keys"]), values, strict=True))
    return tuple(values) if tree["kind"] == "tuple" else values


def send(stream, message, arrays):
    body = io.BytesIO()
    body.write(json.dumps([message, len(arrays)]).encode() + b"\n")
    for array in arrays:
        np.lib.format.write_array(body, np.asarray(array), allow_pickle=False)
    stream.write(len(body.getvalue()).to_bytes(8, "little") + body.getvalue())
    stream.flush()


def receive(stream):
    """Return a message and its arrays. EOFError at the end; any other Exception if it is none."""
    size = int.from_bytes(stream.read(8), "little")
    if not size:
        raise EOFError
    if size > MOST:
        raise ValueError(f"a message of {size} bytes")
    body = io.BytesIO(stream.read(size))
    message, count = json.loads(body.readline())
    return message, [np.lib.format.read_array(body, allow_pickle=False) for _ in range(count)]


# ----------------------------------------------------------------------------
# The learner's side


def fence():
    """From now on, open only files of Python, of NumPy and of this folder; start nothing."""
    real = os.path.realpath
    roots = [os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "DLLs")]  # DLLs: Windows
    roots = [real(root) + os.sep for root in (*roots, os.path.dirname(np.__file__), os.getcwd())]

    def inside(path):
        path = real(os.fsdecode(path))
        rests = [path.removeprefix(root) for root in roots if path.startswith(root)]
        return any("-packages" not in rest for rest in rests)  # site-packages, dist-packages

    def hook(event, args):
        if event in ("open", "import"):
            path = args[0] if event == "open" else args[1]
            if path is not None and not isinstance(path, int) and not inside(path):
                raise PermissionError(f"{os.path.basename(os.fsdecode(path))} can't be opened here")
        elif event.startswith(REFUSED) and event not in FINE:
            raise PermissionError(f"{event} is refused here")

    sys.addaudithook(hook)


def limited(function, at, most, why):
    """Return a function that stops if its argument number `at` has more than `most` rows."""

    def with_few(*args, **options):
        if most < 0 or len(args[at]) > most:
            raise RuntimeError(why)
        return function(*args, **options)

    return with_few


def run(module, message, arrays):
    """Call one function -> what is sent back; arrays, which it may change, get its results."""
    original = dict(vars(module))
    for name, limit in message["limits"].items():
        if name in original:
            setattr(module, name, limited(original[name], *limit))
    args = unpack(message["args"], arrays)
    try:
        result = original[message["function"]](*args)
    finally:
        vars(module).update(original)
    return {"result": pack(result, arrays), "args": pack(args, arrays)}


def main(file):
    inlet, outlet = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what an answer prints goes where errors go
    np.seterr(all="ignore")
    if os.path.exists("train_gpt2.py"):
        importlib.import_module("train_gpt2")  # what the exercise gives of it, before the fence
    path, failed, module = Path(file), None, types.ModuleType(file[:-3])
    text = path.read_bytes()
    fence()
    try:
        exec(compile(text, file, "exec"), vars(module))
    except BaseException as error:
        failed = error
    while True:
        try:
            message, arrays = receive(inlet)
        except EOFError:
            return
        try:
            if failed:
                raise failed
            reply = run(module, message, arrays)
            send(outlet, reply, arrays)
        except BaseException as error:
            send(outlet, {"error": f"{where(error, path)}: {one_line(error)}"}, [])
