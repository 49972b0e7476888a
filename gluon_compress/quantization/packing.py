"""A file of parameters in which quantised weights take 2, 4 or 8 bits.

All numbers are little-endian. The head is ``GCPQ``, the version (1) and the number of
tensors, as u32. Then for each tensor:

======== ==========================================================================
u16      bytes of the name, then the name in UTF-8
u8 x 4   bits (32: float32; else 2, 4 or 8), axes, axis of the channels, 0
u32 each the length of each axis
f32 each the scale of each channel, unless bits is 32
bytes    float32 values; or levels in two's complement in C order, the first in the
         lowest bits of a byte; then zeros up to a multiple of 4 from the file's start
======== ==========================================================================

A weight is its level times the scale of its channel. A file whose name ends in ``.gz``
is the same, compressed by gzip: levels near 0 are frequent, so it is smaller.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Mapping

import numpy as np

from gluon_compress.quantization.levels import Levels, levels_of, packed, unpacked
from gluon_compress.storage.atomic import write_atomically
from gluon_compress.storage.reading import Unreadable, finite, read_bytes
from gluon_compress.validation import shown

MAGIC, VERSION = b"GCPQ", 1
FLOATS = 32
MOST_BYTES, MOST_TENSORS, MOST_AXES = 1 << 31, 100_000, 8


def pack(values: Mapping[str, np.ndarray], axes: Mapping[str, int]) -> dict:
    """Return values, with levels in place of those that lie on grids.

    Parameters
    ----------
    values : mapping
        Float32 by name.
    axes : mapping
        Names of weights, and the axis of their channels.
    """
    result: dict = dict(values)
    for name, axis in axes.items():
        found = levels_of(values[name], axis)
        if found is not None:
            result[name] = found
    return result


def write_packed(
    path: str | os.PathLike, values: Mapping[str, np.ndarray | Levels]
) -> None:
    """Write float32 arrays and levels to a file."""
    parts = [MAGIC, struct.pack("<II", VERSION, len(values))]
    size = sum(map(len, parts))
    for name, value in values.items():
        for part in _tensor(name, value):
            parts.append(part)
            size += len(part)
        parts.append(bytes(-size % 4))
        size += len(parts[-1])
    data = b"".join(parts)
    if is_compressed(path):  # without the time, so that equal nets give equal files
        data = gzip.compress(data, 9, mtime=0)
    write_atomically(path, data)


def is_compressed(path: str | os.PathLike) -> bool:
    """Return whether a file is compressed, by its name."""
    return os.fspath(path).endswith(".gz")


def _tensor(name: str, value: np.ndarray | Levels) -> list[bytes]:
    text = name.encode()
    if isinstance(value, Levels):
        bits, axis, array = value.bits, value.axis, value.levels
        scales = value.scale.astype("<f4").tobytes()
        data = packed(array, bits)
    else:
        bits, axis, array, scales = FLOATS, 0, value, b""
        data = value.astype("<f4").tobytes()
    head = struct.pack("<BBBB", bits, array.ndim, axis, 0)
    shape = struct.pack(f"<{array.ndim}I", *array.shape)
    return [struct.pack("<H", len(text)), text, head, shape, scales, data]


def read_packed(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Return the float32 values that ``write_packed`` stored, by name.

    Raises
    ------
    ValueError
        If the file is missing, cut short, or holds anything else.
    """
    try:
        data = read_bytes(path, MOST_BYTES)
        values = _values(_decompressed(data) if is_compressed(path) else data)
    except Unreadable as error:
        raise ValueError(f"{Path(path)}: no packed parameters: {error}") from None
    finite(values, path)
    return values


def _decompressed(data: bytes) -> bytes:
    """Return the content of a gzip file, of at most ``MOST_BYTES``."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"no gzip file: {error}") from None
    if len(content) > MOST_BYTES:
        raise Unreadable(f"more than {MOST_BYTES} bytes")
    return content


class _PackedReader:
    """Takes one part of a file after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        if count > len(self.data) - self.place:
            raise Unreadable(f"cut short at byte {self.place}")
        self.place += count
        return self.data[self.place - count : self.place]

    def numbers(self, layout: str) -> tuple:
        """Return the next numbers, in ``struct``'s notation."""
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))


def _values(data: bytes) -> dict[str, np.ndarray]:
    reader = _PackedReader(data)
    if reader.take(4) != MAGIC:
        raise Unreadable("another head")
    version, count = reader.numbers("II")
    if version != VERSION or count > MOST_TENSORS:
        raise Unreadable(f"version {version} with {count} tensors")
    values: dict[str, np.ndarray] = {}
    for _ in range(count):
        name = _text(reader.take(reader.numbers("H")[0]))
        if name in values:
            raise Unreadable(f"{shown(name)} twice")
        values[name] = _array(reader, name)
        reader.take(-reader.place % 4)
    if reader.place != len(data):
        raise Unreadable(f"{len(data) - reader.place} bytes too many")
    return values


def _array(reader: _PackedReader, name: str) -> np.ndarray:
    bits, ndim, axis, _ = reader.numbers("BBBB")
    known = bits in (2, 4, 8, FLOATS) and ndim <= MOST_AXES
    if not known or (bits != FLOATS and axis >= ndim):
        raise Unreadable(f"{shown(name)} of {bits} bits and {ndim} axes")
    shape = reader.numbers(f"{ndim}I")
    size = math.prod(shape)
    if size * bits // 8 > len(reader.data):
        raise Unreadable(f"{shown(name)} of shape {shown(shape)}")
    if bits == FLOATS:
        return np.frombuffer(reader.take(4 * size), "<f4").reshape(shape)
    scale = np.frombuffer(reader.take(4 * shape[axis]), "<f4")
    levels = unpacked(reader.take(-(-size * bits // 8)), bits, size)
    return Levels(levels.reshape(shape), scale, axis, 0).values


def _text(content: bytes) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable(f"name {shown(content)}") from None
    if not text.isprintable() or not text:
        raise Unreadable(f"name {shown(text)}")
    return text
