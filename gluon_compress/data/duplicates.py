"""Finds images that are there twice, also resized or stored again, by perceptual hash.

The hash is the difference hash: whether each pixel of a tiny grey image is brighter
than its left neighbour. Images of nearly equal hashes are compared at a small size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import cv2
import numpy as np

BANDS = 8  # hashes that differ in fewer bits than this have an equal band
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
    small = np.stack([p.small for p in prints]).astype(np.int16)
    nearest: dict[int, tuple[int, int]] = {}
    for members in _same_bands(hashes):
        for position in range(1, len(members)):
            second, earlier = members[position], members[:position]
            close = earlier[_different_bits(hashes[earlier], hashes[second]) < BANDS]
            if not len(close):
                continue
            gaps = np.abs(small[close] - small[second]).reshape(len(close), -1)
            most = np.where(gaps.mean(axis=1) <= MEAN_ALIKE, gaps.max(axis=1), 255)
            best = (int(most.min()), int(close[most.argmin()]))
            if best < nearest.get(int(second), (MOST_ALIKE + 1, 0)):
                nearest[int(second)] = best
    return [
        Duplicate(first, second, most <= MOST_EQUAL + OF_CONTRAST * small[first].std())
        for second, (most, first) in sorted(nearest.items())
    ]


def _same_bands(hashes: np.ndarray):
    """Yield groups of images whose hashes agree in one of the bands."""
    width = 64 // BANDS
    for band in range(BANDS):
        keys = (hashes >> np.uint64(band * width)) & np.uint64(2**width - 1)
        order = np.argsort(keys, kind="stable")
        ends = np.flatnonzero(np.diff(keys[order])) + 1
        yield from (group for group in np.split(order, ends) if len(group) > 1)


def _different_bits(hashes: np.ndarray, other: np.uint64) -> np.ndarray:
    changed = (hashes ^ other).view(np.uint8).reshape(-1, 8)
    return np.unpackbits(changed, axis=1).sum(axis=1)
