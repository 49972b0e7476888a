"""Finds the levels of weights that lie on a grid, and stores them in few bits.

Folding a BatchNorm into a quantised weight multiplies each channel by a number, and
joining layers reorders channels. Both leave every channel on a grid of its own, so the
grid is found again from the values alone, whatever has happened to them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

MOST = 127  # of a level
CAPS = {1: 2, 7: 4, 63: 8, MOST: 8}  # largest level to bits
NEAR = 2e-3  # of a level: what float32 may be off the grid


@dataclass(frozen=True)
class Levels:
    """A weight as whole numbers and a scale for each channel.

    Parameters
    ----------
    levels : ndarray
        int8, of the weight's shape.
    scale : ndarray
        float32, one for each channel.
    axis : int
        Along which the channels lie.
    high : int
        The levels lie from ``-high`` to ``high``: 1, 7, 63 or 127.
    """

    levels: np.ndarray
    scale: np.ndarray
    axis: int
    high: int

    @property
    def bits(self) -> int:
        """The bits that a level needs."""
        return CAPS[self.high]

    def refined(self, most: int) -> Levels:
        """Return the same weight with levels up to ``most`` and a smaller scale.

        Biases are stated by the scale: few levels would round them coarsely.
        """
        factor = max(most // self.high, 1)
        scale = (self.scale / factor).astype(np.float32)
        return replace(self, levels=self.levels * np.int8(factor), scale=scale)

    @property
    def values(self) -> np.ndarray:
        """The weight, float32."""
        along = [1] * self.levels.ndim
        along[self.axis] = -1
        return self.levels.astype(np.float32) * self.scale.reshape(along)


def levels_of(weight: np.ndarray, axis: int = 0) -> Levels | None:
    """Return the levels of a weight, None if some channel lies on no grid.

    Parameters
    ----------
    weight : ndarray
        Float32.
    axis : int
        Of the channels.

    Notes
    -----
    The coarsest grid with levels up to ``MOST`` is taken, and then made as fine as the
    other channels' levels allow: biases are stated by it.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    rows = rows.astype(np.float64)
    largest = np.abs(rows).max(axis=1)
    steps = np.zeros(len(rows), int)  # levels between zero and the largest value
    steps[largest == 0] = 1
    for count in range(1, MOST + 1):
        open_rows = np.flatnonzero(steps == 0)
        if not len(open_rows):
            break
        part = rows[open_rows] * (count / largest[open_rows, None])
        off = np.abs(part - np.rint(part)).max(axis=1)
        steps[open_rows[off < NEAR]] = count
    if not steps.all():
        return None
    used = steps[largest > 0]
    high = next(cap for cap in CAPS if cap >= (used.max() if len(used) else 1))
    finest = high // steps * steps
    known = np.where(largest > 0, largest / finest, 0)
    usual = np.median(known[largest > 0]) if len(used) else 2.0**-10
    scale = np.where(largest > 0, known, usual)
    levels = np.rint(rows / scale[:, None]).astype(np.int8)
    shape = (weight.shape[axis], *np.delete(weight.shape, axis))
    whole = np.moveaxis(levels.reshape(shape), 0, axis)
    return Levels(np.ascontiguousarray(whole), scale.astype(np.float32), axis, high)


def packed(levels: np.ndarray, bits: int) -> bytes:
    """Return whole numbers in two's complement, the first in the lowest bits of a byte.

    Parameters
    ----------
    levels : ndarray
        int8, in C order.
    bits : int
        2, 4 or 8.
    """
    flat = levels.reshape(-1).astype(np.uint8) & ((1 << bits) - 1)
    each = 8 // bits
    filled = np.zeros(-(-flat.size // each) * each, np.uint8)
    filled[: flat.size] = flat
    shifts = (np.arange(each) * bits).astype(np.uint8)
    parts = filled.reshape(-1, each) << shifts
    return np.bitwise_or.reduce(parts, axis=1).astype(np.uint8).tobytes()


def unpacked(data: bytes, bits: int, size: int) -> np.ndarray:
    """Return the whole numbers that ``packed`` stored, int8.

    Raises
    ------
    ValueError
        If there are too few or too many bytes.
    """
    each = 8 // bits
    if len(data) != -(-size // each):
        raise ValueError(f"{len(data)} bytes are no {size} numbers of {bits} bits")
    shifts = (np.arange(each) * bits).astype(np.uint8)
    values = (np.frombuffer(data, np.uint8)[:, None] >> shifts) & ((1 << bits) - 1)
    signed = values.astype(np.int16)
    signed = np.where(signed >= 1 << (bits - 1), signed - (1 << bits), signed)
    return signed.reshape(-1)[:size].astype(np.int8)


def packed_signs(levels: np.ndarray) -> bytes:
    """Return numbers that are -1 or 1 as bits, the first in the lowest bit of a byte.

    Parameters
    ----------
    levels : ndarray
        int8, in C order.
    """
    return np.packbits(levels.reshape(-1) > 0, bitorder="little").tobytes()


def unpacked_signs(data: bytes, size: int) -> np.ndarray:
    """Return the numbers that ``packed_signs`` stored, int8."""
    stored = np.frombuffer(data, np.uint8)
    bits = np.unpackbits(stored, count=size, bitorder="little")
    return (2 * bits.astype(np.int8) - 1).astype(np.int8)
