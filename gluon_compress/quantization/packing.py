"""A file of parameters in which weights take 1, 2, 4 or 8 bits, and zeros one.

All numbers are little-endian. The head is ``GCPQ``, the version and the number of
tensors, as u32. Then for each tensor:

======== ==========================================================================
u16      bytes of the name, then the name in UTF-8
u8 x 4   bits (32: float32; else 1, 2, 4 or 8), axes, axis of the channels, sparse
u32 each the length of each axis
f32 each the scale of each channel, unless bits is 32
bytes    if sparse is 1: a bit for each value, 1 where it is not zero; then the values
         that are not zero. Else all values. They are float32; or levels in C order, the
         first in the lowest bits of a byte, in two's complement, of 1 bit: 0 is -1, and
         1 is 1. Then zeros up to a multiple of 4 from the file's start
======== ==========================================================================

A weight is its level times the scale of its channel. The version is 1 if nothing is
sparse or of 1 bit, which earlier versions of this package read too, else 2. Of the ways
to store a tensor the smallest is taken.

A file whose name ends in ``.gz`` is the same, compressed by gzip: levels near 0 are
frequent, so it is smaller.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Mapping

import numpy as np

from gluon_compress.quantization.levels import (
    Levels,
    levels_of,
    packed,
    packed_signs,
    unpacked,
    unpacked_signs,
)
from gluon_compress.storage.atomic import write_atomically
from gluon_compress.storage.reading import Unreadable, finite, read_bytes
from gluon_compress.validation import shown

MAGIC, FIRST, VERSION = b"GCPQ", 1, 2
FLOATS, SIGNS = 32, 1  # bits
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
    stored = {name: _stored(value) for name, value in values.items()}
    is_new = any(row.sparse or row.bits == SIGNS for row in stored.values())
    version = VERSION if is_new else FIRST
    parts = [MAGIC, struct.pack("<II", version, len(values))]
    size = sum(map(len, parts))
    for name, row in stored.items():
        for part in row.parts(name):
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


def sparse_bytes(size: int, others: int, bits: int) -> int:
    """Return the bytes of values of which ``others`` are not zero, without scales."""
    return min(_bytes(size, bits), _bytes(size, 1) + _bytes(others, bits))


def is_smaller(value: np.ndarray | Levels) -> bool:
    """Return whether a file holds a tensor in fewer bytes than its float32 values."""
    row = _stored(value)
    return len(row.scales) + len(row.data) < _bytes(math.prod(row.shape), FLOATS)


def _bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)


@dataclass(frozen=True)
class _PackedTensor:
    """A tensor as a file holds it."""

    bits: int
    shape: tuple[int, ...]
    axis: int
    sparse: int
    scales: bytes
    data: bytes

    def parts(self, name: str) -> list[bytes]:
        """Return the parts of the file, without the zeros at the end."""
        text, ndim = name.encode(), len(self.shape)
        head = struct.pack("<BBBB", self.bits, ndim, self.axis, self.sparse)
        shape = struct.pack(f"<{ndim}I", *self.shape)
        length = struct.pack("<H", len(text))
        return [length, text, head, shape, self.scales, self.data]


def _stored(value: np.ndarray | Levels) -> _PackedTensor:
    if not isinstance(value, Levels):
        flat = value.astype("<f4").reshape(-1)
        others = flat != 0
        dense, nonzero = flat.tobytes(), flat[others].tobytes()
        return _smaller(FLOATS, value.shape, 0, b"", (dense, nonzero), others)
    if value.high == 1:
        value = _without_empty(value)
    flat, bits = value.levels.reshape(-1), value.bits
    others = flat != 0
    if value.high == 1:
        signs = packed_signs(flat[others])
        dense, bits = (signs, SIGNS) if others.all() else (packed(flat, bits), bits)
        row = _smaller(bits, flat.shape, 0, b"", (dense, signs), others)
        bits = SIGNS if row.sparse else bits
    else:
        parts = packed(flat, bits), packed(flat[others], bits)
        row = _smaller(bits, flat.shape, 0, b"", parts, others)
    scales = value.scale.astype("<f4").tobytes()
    shape, axis = value.levels.shape, value.axis
    return replace(row, bits=bits, shape=shape, axis=axis, scales=scales)


def _smaller(
    bits: int,
    shape: tuple[int, ...],
    axis: int,
    scales: bytes,
    data: tuple[bytes, bytes],
    others: np.ndarray,
) -> _PackedTensor:
    """Return all values, or the bits of those that are not zero and these alone."""
    dense, nonzero = data
    sparse = np.packbits(others, bitorder="little").tobytes() + nonzero
    if len(sparse) < len(dense):
        return _PackedTensor(bits, shape, axis, 1, scales, sparse)
    return _PackedTensor(bits, shape, axis, 0, scales, dense)


def _without_empty(value: Levels) -> Levels:
    """Return signs in which a channel of zeros is one of ones with the scale 0."""
    rows = np.moveaxis(value.levels, value.axis, 0).reshape(len(value.scale), -1)
    empty = ~rows.any(axis=1)
    if not empty.any() or (rows[~empty] == 0).any():
        return value
    along = [1] * value.levels.ndim
    along[value.axis] = -1
    levels = np.where(empty.reshape(along), np.int8(1), value.levels)
    scale = np.where(empty, np.float32(0), value.scale)
    return replace(value, levels=levels, scale=scale)


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
    if version not in (FIRST, VERSION) or count > MOST_TENSORS:
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
    bits, ndim, axis, sparse = reader.numbers("BBBB")
    known = bits in (SIGNS, 2, 4, 8, FLOATS) and ndim <= MOST_AXES and sparse in (0, 1)
    if not known or (bits != FLOATS and axis >= ndim):
        raise Unreadable(f"{shown(name)} of {bits} bits and {ndim} axes")
    shape = reader.numbers(f"{ndim}I")
    size = math.prod(shape)
    # A sparse tensor needs a bit for each value.
    if size * (1 if sparse else bits) // 8 > len(reader.data):
        raise Unreadable(f"{shown(name)} of shape {shown(shape)}")
    scale = np.empty(0, np.float32)
    if bits != FLOATS:
        scale = np.frombuffer(reader.take(4 * shape[axis]), "<f4")
    others = np.ones(size, bool)
    if sparse:
        places = np.frombuffer(reader.take(_bytes(size, 1)), np.uint8)
        others = np.unpackbits(places, count=size, bitorder="little").astype(bool)
    count = int(others.sum())
    data = reader.take(_bytes(count, bits))
    if bits == FLOATS:
        array = np.zeros(size, np.float32)
        array[others] = np.frombuffer(data, "<f4")
        return array.reshape(shape)
    levels = np.zeros(size, np.int8)
    read = unpacked_signs if bits == SIGNS else partial(unpacked, bits=bits)
    levels[others] = read(data, size=count)
    return Levels(levels.reshape(shape), scale, axis, 0).values


def _text(content: bytes) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable(f"name {shown(content)}") from None
    if not text.isprintable() or not text:
        raise Unreadable(f"name {shown(text)}")
    return text
