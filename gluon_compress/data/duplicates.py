"""Finds images that are there twice, also resized or stored again, by perceptual hash.

The hash is the difference hash: whether each pixel of a tiny grey image is brighter
than its left neighbour. Images of nearly equal hashes are compared at a small size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import cv2
import numpy as np

MOST_BITS = 7  # in which the hashes of images that are compared differ
_BLOCKS = 4  # a side, of which small images are compared first
_AT_ONCE = 1024  # images that are compared at once
SIDE = 16  # pixels of the small images that are compared
# Differences of their values, 0 to 255, up to which two images show the same.
MEAN_ALIKE, MOST_ALIKE = 6.0, 40
# Where they are equal, apart from size and compression: a part of it for any image, and
# a share of the image's standard deviation, for a faint object is a small difference.
MOST_EQUAL, OF_CONTRAST = 2.0, 0.05


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image to compare it with others.

    Parameters
    ----------
    bits : int
        The difference hash, 64 bits.
    small : numpy.ndarray
        ``(SIDE, SIDE, 3)``, uint8.
    """

    bits: int
    small: np.ndarray

    @staticmethod
    def of(image: np.ndarray) -> Fingerprint:
        """Return the fingerprint of an image ``(H, W, 3)``, uint8, RGB."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        tiny = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
        packed = np.packbits(tiny[:, 1:] > tiny[:, :-1])
        small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return Fingerprint(int.from_bytes(packed.tobytes(), "big"), small)


@dataclass(frozen=True)
class Duplicate:
    """Two images that show the same.

    Parameters
    ----------
    first, second : int
        Their numbers, in rising order.
    equal : bool
        Whether their pixels are equal, apart from size and compression.
    """

    first: int
    second: int
    equal: bool


def duplicates(prints: Sequence[Fingerprint]) -> list[Duplicate]:
    """Return, for each image that resembles an earlier one, the most similar of these.

    One that is a copy of an earlier image is not compared with those that follow, so
    that thousands of copies take little longer than thousands of other images.

    Parameters
    ----------
    prints : sequence of Fingerprint

    Returns
    -------
    list of Duplicate
        In the order of the second image.
    """
    if not prints:
        return []
    hashes = np.array([p.bits for p in prints], np.uint64)
    small = np.stack([p.small.reshape(-1) for p in prints])
    blocks = small.reshape(-1, _BLOCKS, SIDE // _BLOCKS, _BLOCKS, SIDE // _BLOCKS, 3)
    coarse = np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)
    coarse = coarse.reshape(len(small), -1)
    found = []
    originals, count = np.zeros(len(prints), int), 0
    for second, bits in enumerate(hashes):
        earlier = originals[:count]
        close = earlier[_different_bits(hashes[earlier], bits) <= MOST_BITS]
        # Means of blocks differ by no more than the pixels do, and by rounding.
        gaps = _gaps(coarse, close, second)
        near = gaps.max(axis=1, initial=0) <= MOST_ALIKE + 1
        near &= gaps.sum(axis=1, dtype=np.int32) <= (MEAN_ALIKE + 1) * gaps.shape[1]
        close = close[near]
        most, first = _nearest(small, close, second)
        if most <= MOST_ALIKE:
            limit = MOST_EQUAL + OF_CONTRAST * small[first].std()
            found.append(Duplicate(first, second, most <= limit))
        if most > MOST_EQUAL:
            originals[count] = second
            count += 1
    return found


def _nearest(small: np.ndarray, close: np.ndarray, second: int) -> tuple[int, int]:
    """Return the largest difference from the most similar image, and its number."""
    best = (MOST_ALIKE + 1, -1)
    for start in range(0, len(close), _AT_ONCE):
        part = close[start : start + _AT_ONCE]
        gaps = _gaps(small, part, second)
        most = np.where(gaps.mean(axis=1) <= MEAN_ALIKE, gaps.max(axis=1), 255)
        best = min(best, (int(most.min()), int(part[most.argmin()])))
    return best


def _gaps(values: np.ndarray, others: np.ndarray, row: int) -> np.ndarray:
    """Return by how much each value of other rows differs from that of a row, uint8."""
    rows = values[others]
    return np.maximum(rows, values[row]) - np.minimum(rows, values[row])


def _different_bits(hashes: np.ndarray, other: np.uint64) -> np.ndarray:
    """Return in how many bits hashes differ from another, by sums of ever more."""
    x = hashes ^ other
    x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
    x = (x & np.uint64(0x3333333333333333)) + (
        (x >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (x * np.uint64(0x0101010101010101)) >> np.uint64(56)
