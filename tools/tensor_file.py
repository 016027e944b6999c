"""
Files of tensors in the safetensors format (github.com/huggingface/safetensors): read and write.

A file is the length of a JSON text (8 bytes, little-endian); the text, which says of each tensor
its dtype, its shape, and where it begins and ends, counted from the text's end; the tensors.

What the tensors mean to a GPT-2 is in tools/huggingface.py.
"""

import json
import math
import os
from collections import namedtuple

from tools.console import UserError
from tools.formats import check_writable as check_path
from tools.formats import replacing

import numpy as np

DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # those that we read
HEADER_BYTES = 2**22  # of the text, at most: far more than the 580 tensors of GPT-2 XL take

Tensor = namedtuple("Tensor", "file dtype shape position")


def read_header(path, hint):
    """
    Return the tensors of a file, {name: Tensor}, with nothing read of them yet.

    Raises UserError, with the hint if there is no such file. Only tensors whose dtype is in DTYPES
    are sure to have the size that their shape asks for.
    """
    if not os.path.isfile(path):  # a pipe would keep us waiting
        raise UserError(f"{path}: there is no file of this name; {hint}")
    found, ranges, size = {}, [], os.path.getsize(path)
    try:
        with open(path, "rb") as f:
            data = 8 + int.from_bytes(f.read(8), "little")
            if data > min(size, HEADER_BYTES):
                raise ValueError("its header is longer than the file, or than any GPT-2's")
            header = json.loads(f.read(data - 8))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
                raise ValueError(f"{name!r} has no proper shape or position")
            itemsize = np.dtype(DTYPES[dtype]).itemsize if dtype in DTYPES else None
            if itemsize and end - begin != itemsize * math.prod(shape):
                raise ValueError(f"{name!r} has a size other than its shape's")
            ranges.append((begin, end))
            found[name] = Tensor(path, dtype, tuple(shape), data + begin)
        free = 0
        for begin, end in sorted(ranges):
            if not free <= begin <= end <= size - data:
                raise ValueError("its tensors overlap, or lie outside the file")
            free = end
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"{path}: not a safetensors file, or damaged: {error}; get it again"
        raise UserError(why) from error
    return found


def read_tensor(tensor):
    """Read a Tensor of read_header, one with a dtype of DTYPES -> float32 or float16, its shape."""
    count, dtype = math.prod(tensor.shape), DTYPES[tensor.dtype]
    values = np.fromfile(tensor.file, dtype, count, offset=tensor.position)
    if tensor.dtype == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(tensor.shape)


def check_writable(path, flag):
    """Raise UserError, naming the flag, unless path can be written: it has tensors, or nothing."""
    check_path(path, b"", flag)
    if os.path.isfile(path) and os.path.getsize(path):
        try:
            read_header(path, "")
        except UserError:
            what = "there is a file of another kind, which is not replaced"
            raise UserError(f"{flag} {path}: {what}; give another name, or move it") from None


def write(path, named):
    """Write float32 arrays, [(name, array), ...], one after the other. Raises UserError."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, array in named:
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    with replacing(path, kind=0) as f:  # it begins with a length
        f.write(len(text).to_bytes(8, "little") + text)
        for _, array in named:
            f.write(np.ascontiguousarray(array))
