"""Which cells of a feature map lie near an object: the mask of ``imitation``.

It works in NumPy on a batch's targets, so that it runs while MXNet computes the nets'
outputs.
"""

from __future__ import annotations

import numpy as np

from gluon_compress.boxes import corner_from_center, decode_deltas, iou
from gluon_compress.models.anchor_grid import AnchorGrid
from gluon_compress.models.taps import subsampling


def imitation_masks(
    classes: np.ndarray, deltas: np.ndarray, anchors: AnchorGrid, share: float = 0.5
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
    anchors : AnchorGrid
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
    steps = subsampling([sides[:2] for sides in anchors.maps], anchors.stride)
    cells = [_pooled(mask, step) for mask, step in zip(cells, steps)]
    return cells if anchors.taps is None else [cells[i] for i in anchors.taps]


def _pooled(mask: np.ndarray, step: int) -> np.ndarray:
    """Return the largest value of each block of cells, ``step`` a side."""
    missing = [(0, 0), *((0, -side % step) for side in mask.shape[1:])]
    padded = np.pad(mask, missing)
    images, height, width = padded.shape
    blocks = padded.reshape(images, height // step, step, width // step, step)
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
