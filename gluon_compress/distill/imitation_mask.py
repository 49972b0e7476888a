"""Which cells of a map lie near an object, from a batch's targets and the anchors.

It is NumPy on arrays that are there already, so that it runs while MXNet computes
what the nets say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gluon_compress.boxes import STDS, corner_from_center, decode_deltas, iou
from gluon_compress.distill.adapters import strides


@dataclass(frozen=True)
class Anchors:
    """The anchors of a detector, and the map cells that they belong to.

    Parameters
    ----------
    center_boxes : numpy.ndarray
        Pixels, ``(A, 4)``: map by map, row by row, all of a cell together.
    maps : tuple
        (height, width, anchors of a cell) of each map.
    stds : tuple of float
        What box deltas are multiplied by.
    taps : tuple of int or None
        The maps whose cells are asked for; None: all.
    stride : int
        Every so-manyth cell in each direction is asked for, as ``strides`` says;
        it is near an object if any of the cells it stands for is.

    Raises
    ------
    ValueError
        If the maps do not have that many anchors.
    """

    center_boxes: np.ndarray
    maps: tuple[tuple[int, int, int], ...]
    stds: tuple[float, ...] = STDS
    taps: tuple[int, ...] | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        count = sum(height * width * each for height, width, each in self.maps)
        if np.shape(self.center_boxes) != (count, 4):
            raise ValueError(
                f"anchors: maps {self.maps} need boxes of shape {(count, 4)}, not "
                f"{np.shape(self.center_boxes)}"
            )


def near_objects(
    classes: np.ndarray, deltas: np.ndarray, anchors: Anchors, share: float = 0.5
) -> list[np.ndarray]:
    """Return a mask for each tap: the cells with an anchor that fits an object well.

    An anchor fits an object if their overlap is at least ``share`` of the largest
    overlap that any anchor of any map has with it (Wang et al. 2019, section 3.1).
    The objects are read back from the positives: every object has at least one.

    Parameters
    ----------
    classes : numpy.ndarray
        Class targets, ``(B, A)``; anchors above 0 are positives.
    deltas : numpy.ndarray
        Box targets, ``(B, A, 4)``.
    anchors : Anchors
    share : float
        Above 0, up to 1.

    Returns
    -------
    list of numpy.ndarray
        Ones and zeros, float32, ``(B, H, W)`` each.
    """
    corners = corner_from_center(anchors.center_boxes)
    fits = np.zeros(classes.shape, bool)
    for row, label, delta in zip(fits, classes, deltas):
        at = np.flatnonzero(label > 0)
        if len(at):
            boxes = decode_deltas(delta[at], anchors.center_boxes[at], anchors.stds)
            overlaps = iou(_distinct(corner_from_center(boxes)), corners)
            best = overlaps.max(axis=1, keepdims=True)
            row[:] = (overlaps >= share * best).any(axis=0)
    cells = _cells(fits, anchors.maps)
    every = strides([height for height, _, _ in anchors.maps], anchors.stride)
    cells = [_pooled(mask, step) for mask, step in zip(cells, every)]
    return cells if anchors.taps is None else [cells[i] for i in anchors.taps]


def _pooled(mask: np.ndarray, step: int) -> np.ndarray:
    """Return the largest value of each block of cells, ``step`` a side."""
    short = [(0, 0), *((0, -side % step) for side in mask.shape[1:])]
    whole = np.pad(mask, short)
    images, height, width = whole.shape
    blocks = whole.reshape(images, height // step, step, width // step, step)
    return blocks.max(axis=(2, 4))


def _cells(fits: np.ndarray, maps: tuple) -> list[np.ndarray]:
    ends = np.cumsum([np.prod(shape) for shape in maps])[:-1]
    parts = np.split(fits, ends, axis=1)
    return [
        part.reshape(len(fits), *shape).any(axis=-1).astype(np.float32)
        for part, shape in zip(parts, maps)
    ]


def _distinct(corner_boxes: np.ndarray) -> np.ndarray:
    """Drop boxes that are equal to a tenth of a pixel: positives of one object."""
    _, first = np.unique(corner_boxes.round(1), axis=0, return_index=True)
    return corner_boxes[first]
