"""Reads every image of a split once, and notes what a check of the data asks about."""

from __future__ import annotations

import difflib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import numpy as np

from gluon_compress.data.broken import BrokenImage
from gluon_compress.data.duplicates import Fingerprint
from gluon_compress.data.objects import LEAST_SIDE

NEAR = 0.8  # similarity of names, 0 to 1, from which one may be a misspelling
RARE = 0.1  # of the objects of the class with the similar name, up to which one is


@dataclass(frozen=True)
class ImageRecord:
    """An image that can be used.

    Parameters
    ----------
    index : int
        In the data set.
    name : str
        Its file.
    height, width : int
        Pixels.
    label : numpy.ndarray
        ``(M, 6)``: corner box in pixels of the image, class id, difficult.
    fingerprint : Fingerprint
    """

    index: int
    name: str
    height: int
    width: int
    label: np.ndarray
    fingerprint: Fingerprint


@dataclass(frozen=True)
class Inspection:
    """All images of a split, and what is wrong with them.

    Parameters
    ----------
    split : str
    dataset
    records : tuple of ImageRecord
        The images that can be decoded.
    tiny : tuple of (file, reason)
        Images too small to show an object.
    """

    split: str
    dataset: Any
    records: tuple[ImageRecord, ...]
    tiny: tuple[tuple[str, str], ...]

    def boxes(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes ``(N, 4)``, in pixels of a net's input, and their classes."""
        boxes, ids = [np.zeros((0, 4))], [np.zeros(0, int)]
        for record in self.records:
            scale = np.tile([size[1] / record.width, size[0] / record.height], 2)
            boxes.append(record.label[:, :4] * scale)
            ids.append(record.label[:, 4].astype(int))
        return np.concatenate(boxes), np.concatenate(ids)


def inspect(dataset: Any, split: str, *, workers: int = 2) -> Inspection:
    """Decode every image of a data set and return what is in it.

    Parameters
    ----------
    dataset
        ``len``, ``path(i)`` and ``[i]`` -> (image, label ``(M, 6)``).
    split : str
    workers : int
        Threads that decode.
    """

    def read(index: int) -> ImageRecord | None:
        try:
            image, label = dataset[index]
        except BrokenImage:  # the data set reports it
            return None
        height, width = image.shape[:2]
        name = str(dataset.path(index))
        return ImageRecord(index, name, height, width, label, Fingerprint.of(image))

    with ThreadPoolExecutor(workers) as pool:
        read_ones = pool.map(read, range(len(dataset)))
        records = [record for record in read_ones if record is not None]
    tiny = [
        (r.name, f"the image has {r.width} x {r.height} pixels")
        for r in records
        if min(r.width, r.height) < LEAST_SIDE
    ]
    return Inspection(split, dataset, tuple(records), tuple(tiny))


def misspelt(
    counts: Mapping[str, int], right: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Return pairs of class names of which the first is probably a slip of the second.

    Parameters
    ----------
    counts : mapping
        Objects of each class name in the annotations.
    right : sequence of str
        Names that are stated elsewhere; one that has objects is not the slip.

    Returns
    -------
    list of (str, str)
        Names that are nearly equal, the rarer first; or equal but for case, spaces and
        punctuation, however many objects there are.
    """
    pairs = []
    names = list(dict.fromkeys([*right, *counts]))
    plain = {name: _plain(name) for name in names}
    for name in names:
        matcher = difflib.SequenceMatcher(None)
        matcher.set_seq2(plain[name])  # of which it keeps an index
        likeness = []
        for other in names:
            if other == name or not _may_be(
                name, other, counts, right, alike=plain[name] == plain[other]
            ):
                continue
            matcher.set_seq1(plain[other])
            # Each is an upper bound of the next, and takes less time.
            if (
                matcher.real_quick_ratio() >= NEAR
                and matcher.quick_ratio() >= NEAR
                and matcher.ratio() >= NEAR
            ):
                likeness.append((matcher.ratio(), counts.get(other, 0), other))
        if likeness:
            pairs.append((name, max(likeness)[2]))
    return pairs


def _may_be(
    name: str, other: str, counts: Mapping, right: Sequence[str], *, alike: bool
) -> bool:
    """Return whether the name may stand for the other, by how often both occur."""
    count, of_other = counts.get(name, 0), counts.get(other, 0)
    if of_other and other in right:
        return name not in right
    if count and name in right:
        return False
    if alike:
        return (count, name) < (of_other, other)
    return count <= RARE * of_other


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())
