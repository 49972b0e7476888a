"""Reads MXNet's ``.params`` files without MXNet, whose loader believes what they say.

A file is a head, the number of arrays and the arrays, the number of names and the
names; all numbers are little-endian. An array states how it is stored (here: dense),
its shape, its device (ignored) and its type.
"""

from __future__ import annotations

import math
import os
import struct
from typing import Any

import numpy as np

from gluon_compress.storage.reading import Unreadable, open_regular
from gluon_compress.validation import shown

MAGIC = 0x112
DENSE = (0xF993FAC9, 0xF993FACA)  # since MXNet 1.0, and with NumPy's shapes
TYPES = dict(enumerate(("f4", "f8", "f2", "u1", "i4", "i1", "i8", "?")))
MOST_ARRAYS, MOST_AXES, LONGEST_NAME = 100_000, 8, 1000


def read_params(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the arrays of a ``.params`` file by name.

    Raises
    ------
    ValueError
        If the file is missing, or anything but dense arrays with distinct names, which
        fill it to its last byte.
    """
    try:
        with open_regular(path) as file:
            data = memoryview(file.read())
        return _arrays(_Reader(data))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except Unreadable as error:
        raise ValueError(f"{path}: not a file of parameters: {error}") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None


class _Reader:
    """Takes one part of a file after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._place = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._place

    def take(self, count: int) -> memoryview:
        if count > self.left:
            raise Unreadable(f"cut short at byte {self._place}")
        self._place += count
        return self._data[self._place - count : self._place]

    def numbers(self, layout: str) -> Any:
        """Return numbers in ``struct``'s notation; of one the number itself."""
        values = struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))
        return values[0] if len(values) == 1 else values

    def count(self, most: int, subject: str) -> int:
        value = self.numbers("Q")
        if value > most:
            raise Unreadable(f"{value} {subject}; allowed: at most {most}")
        return value


def _arrays(reader: _Reader) -> dict[str, np.ndarray]:
    if reader.numbers("QQ") != (MAGIC, 0):
        raise Unreadable("another head")
    arrays = [_array(reader) for _ in range(reader.count(MOST_ARRAYS, "arrays"))]
    names = [_name(reader) for _ in range(reader.count(MOST_ARRAYS, "names"))]
    if len(names) != len(arrays) or len(set(names)) != len(names):
        raise Unreadable(f"{len(arrays)} arrays with {len(set(names))} different names")
    if reader.left:
        raise Unreadable(f"{reader.left} bytes too many")
    return dict(zip(names, arrays))


def _array(reader: _Reader) -> np.ndarray:
    magic, storage, axes = reader.numbers("Iii")
    if magic not in DENSE or storage != 0:
        raise Unreadable("an array that is not dense, or of an earlier version")
    if not 0 <= axes <= MOST_AXES:
        raise Unreadable(f"an array of {axes} axes; allowed: up to {MOST_AXES}")
    shape = tuple(reader.numbers("q") for _ in range(axes))
    _, _, number = reader.numbers("iii")  # device and its number
    if any(n < 1 for n in shape) or (not shape and magic == DENSE[0]):
        raise Unreadable(f"an array of shape {shown(shape)}")
    if number not in TYPES:
        raise Unreadable(f"an array of type {number}")
    dtype = np.dtype(TYPES[number]).newbyteorder("<")
    content = reader.take(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(content, dtype).reshape(shape)


def _name(reader: _Reader) -> str:
    content = bytes(reader.take(reader.count(LONGEST_NAME, "bytes in a name")))
    try:
        name = content.decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable(f"name {shown(content)}") from None
    if not name.isprintable():
        raise Unreadable(f"name {shown(name)}")
    return name
