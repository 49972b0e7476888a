"""Reads files that others made: bounded bytes, JSON and arrays.

All that this package reads goes through here, or through a reader of its format that
keeps to the same rules: what a file states is checked against its size before memory is
taken, nothing in it is run, and every fault is one line that names the file.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from contextlib import contextmanager
from functools import partial
from typing import IO, Any, Collection, Iterator, Mapping, NoReturn

import numpy as np

from gluon_compress.validation import LONGEST_LINE, shortened, shown

# Far beyond what this package writes.
MOST_JSON = 1 << 24  # bytes; parsed, they may take 30 times as much
_CHUNK = 1 << 24
DEEPEST = 64  # objects and lists within each other
MOST_INFLATED = 1 << 28  # bytes that the compressed arrays of a file may have in all
LARGEST_INTEGER = (1 << 63) - 1

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
# Bytes of file names that are not UTF-8 become U+DC80 to U+DCFF and may be stored.
_LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
# As NumPy writes it, of numbers and truth values; other headers are not evaluated.
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|]?)([biuf])([1248])', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}(?:, \d{1,18})*,?)?)\), \} *\n"
)
_LONGEST_NPY_HEADER = 1 << 12
# What zipfile raises for damaged files.
_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    KeyError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class Unreadable(ValueError):
    """The content of a file is not what it should be."""


def read_bytes(path: str | os.PathLike, most: int) -> bytes:
    """Return the content of a regular file of at most so many bytes.

    Raises
    ------
    ValueError
        If the file is missing, no regular file, larger, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise ValueError(f"{path}: has {size} bytes; allowed: at most {most}")
            return file.read(most)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None


@contextmanager
def open_regular(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Open a regular file for reading; a pipe or a device is a ValueError."""
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path}: is no regular file")
        yield file


def _open_at_once(path: str, flags: int) -> int:
    # A pipe that nobody writes to would be waited for.
    return os.open(path, flags | os.O_NONBLOCK)


# ------------------------------------------------------------------- JSON


def read_json(
    path: str | os.PathLike,
    *,
    most: int = MOST_JSON,
    only_finite: bool = True,
    keys: Collection[str] | None = None,
) -> Any:
    """Return the content of a JSON file.

    Parameters
    ----------
    path : path
    most : int
        Bytes that the file may have.
    only_finite, keys
        As for ``parse_json``.

    Raises
    ------
    ValueError
        If the file is missing or larger, or ``parse_json`` refuses it. The message
        names the file and the position.
    """
    data = read_bytes(path, most)
    return parse_json(data, path, only_finite=only_finite, keys=keys)


def parse_json(
    data: bytes | str,
    source: Any,
    *,
    only_finite: bool = True,
    keys: Collection[str] | None = None,
) -> Any:
    """Return the content of JSON text.

    Parameters
    ----------
    data : bytes or str
        UTF-8.
    source : path
        Where the text is from; errors start with it.
    only_finite : bool
        Whether to refuse ``NaN``, ``Infinity`` and numbers too large for 64 bits, which
        are no JSON but what Python's ``json`` writes. If not, the caller checks them.
    keys : collection of str, optional
        Of objects, wherever they are; others are left out as they are read, which
        saves their memory. Default: all.

    Raises
    ------
    ValueError
        If it is no JSON, a key occurs twice, a number is not finite or an integer has
        more than 64 bits, lists and objects are nested more than ``DEEPEST`` deep, or a
        text is not Unicode.
    """
    try:
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogatepass")
        _check_depth(data)
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_distinct
            if keys is None
            else partial(_distinct, keys=keys),
            parse_int=_integer,
            parse_float=_float if only_finite else float,
            parse_constant=_constant if only_finite else float,
        )
        if rb"\ud" in data or rb"\uD" in data:
            _check_texts(content)
        return content
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{source}: not JSON at {place}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not UTF-8 text at byte {error.start}") from None
    except Unreadable as error:
        raise ValueError(f"{source}: {error}") from None


def _check_depth(data: bytes) -> None:
    """Refuse deep nesting, which Python's parser follows by recursion."""
    if data.count(b"[") + data.count(b"{") <= DEEPEST:
        return
    text = np.frombuffer(_STRING.sub(b"", data), np.uint8)
    depth = deepest = 0
    for start in range(0, len(text), _CHUNK):  # a level takes four bytes
        part = text[start : start + _CHUNK]
        steps = np.zeros(len(part), np.int8)
        steps[(part == ord("[")) | (part == ord("{"))] = 1
        steps[(part == ord("]")) | (part == ord("}"))] = -1
        levels = depth + steps.cumsum(dtype=np.int32)
        depth, deepest = int(levels[-1]), max(deepest, int(levels.max()))
    if deepest > DEEPEST:
        raise Unreadable(f"nested {deepest} deep; allowed: {DEEPEST}")


def _distinct(pairs: list, keys: Collection[str] | None = None) -> dict:
    content: dict = {}
    for key, value in pairs:
        if key in content:  # ``json`` would silently keep the last value
            raise Unreadable(f"key {shown(key)} is there twice")
        content[key] = value
    if keys is None:
        return content
    return {key: value for key, value in content.items() if key in keys}


def _integer(text: str) -> int:
    if len(text) < 19 or (len(text) < 25 and abs(int(text)) <= LARGEST_INTEGER):
        return int(text)
    raise Unreadable(f"{shortened(text, 40)}: an integer of more than 64 bits")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Unreadable(f"{shortened(text, 40)}: a number too large for 64 bits")
    return value


def _constant(text: str) -> NoReturn:
    raise Unreadable(f"{text}: JSON has no such number")


def _check_texts(content: Any) -> None:
    """Refuse halves of surrogate pairs, which nothing can print or store."""
    if isinstance(content, str) and _LONE_SURROGATE.search(content):
        raise Unreadable(f"{shown(content)} is no Unicode text")
    if isinstance(content, dict):
        for key, value in content.items():
            _check_texts(key)
            _check_texts(value)
    elif isinstance(content, list):
        for value in content:
            _check_texts(value)


# ------------------------------------------------------------------- arrays


def read_array(path: str | os.PathLike) -> np.ndarray:
    """Return the array of an ``.npy`` file of numbers or truth values.

    Raises
    ------
    ValueError
        If the file is missing, or is not exactly one such array as NumPy writes it.
    """
    try:
        with open_regular(path) as file:
            return _array(file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except Unreadable as error:
        raise ValueError(f"{path}: {error}") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file by name.

    Raises
    ------
    ValueError
        If the file is missing, one of its members is damaged or no array of numbers or
        truth values, or they would take much more memory than the file's size.
    """
    try:
        with open_regular(path) as file:
            return _members(file)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (Unreadable, *_DAMAGE) as error:
        reason = shortened(" ".join(str(error).split()), LONGEST_LINE // 2)
        raise ValueError(f"{path}: not a complete file of arrays ({reason})") from None
    except UnicodeError:
        raise ValueError(f"{path}: not a complete file of arrays (names)") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None


def _members(file: IO[bytes]) -> dict[str, np.ndarray]:
    size = os.fstat(file.fileno()).st_size
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        stored = sum(m.file_size for m in members if m.compress_type == 0)
        inflated = sum(m.file_size for m in members if m.compress_type != 0)
        if stored > size or inflated > MOST_INFLATED:
            raise Unreadable(f"it states {stored + inflated} bytes of arrays")
        for member in members:
            name = member.filename
            if not name.endswith(".npy") or name[:-4] in arrays:
                raise Unreadable(f"member {shown(name)}")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Unreadable(f"the compression of {shown(name)}")
            with archive.open(member) as source:
                try:
                    arrays[name[:-4]] = _array(source, member.file_size)
                except Unreadable as error:
                    raise Unreadable(f"{shown(name)}: {error}") from None
    return arrays


def _array(file: Any, size: int) -> np.ndarray:
    """Return the array that a file of ``size`` bytes holds."""
    start = file.read(10)
    if len(start) < 10 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2):
        raise Unreadable("no array of NumPy")
    more = b"" if start[6] == 1 else file.read(2)
    length = int.from_bytes(start[8:] + more, "little")
    header = file.read(min(length, _LONGEST_NPY_HEADER))
    match = _NPY_HEADER.fullmatch(header)
    if len(header) < length or match is None:
        raise Unreadable("no array of plain numbers")
    order, kind, width, fortran, text = (part.decode() for part in match.groups())
    if f"{kind}{width}" in ("b2", "b4", "b8", "f1"):
        raise Unreadable(f"an array of type {kind}{width}")
    shape = tuple(int(n) for n in text.replace(",", " ").split())
    dtype = np.dtype(f"{order}{kind}{width}")
    expected = math.prod(shape) * dtype.itemsize
    actual = size - len(start) - len(more) - length
    if expected != actual or len(shape) > 32:
        raise Unreadable(
            f"{actual} bytes; an array of shape {shown(shape)} has {shown(expected)}"
        )
    data = file.read(expected)
    if file.read(1) or len(data) != expected:
        raise Unreadable("cut short")
    values = np.frombuffer(data, dtype).copy()
    try:
        return values.reshape(shape, order="F" if fortran == "True" else "C")
    except ValueError:  # no element, and yet an axis too long for NumPy
        raise Unreadable(f"an array of shape {shown(shape)}") from None


def finite(values: Mapping[str, np.ndarray], source: Any) -> None:
    """Raise ValueError, naming source and array, if a number is not finite."""
    for name, value in values.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"{source}: {shown(name)} holds NaN or infinite numbers")


def write_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the content of an ``.npz`` file that ``read_arrays`` reads.

    It is not compressed, so that its size bounds the memory that reading takes.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
