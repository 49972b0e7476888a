"""Box geometry in NumPy: formats, overlaps, SSD's delta codec and NMS.

``corner_boxes`` are (xmin, ymin, xmax, ymax), ``center_boxes`` are (x, y, width,
height). All functions compute in the type of their arguments, so float32 boxes give
float32 results.
"""

from __future__ import annotations

from typing import Sequence

import cv2
import numpy as np

STDS = (0.1, 0.1, 0.2, 0.2)  # Liu et al. 2016: the "variances" of box deltas
IN_CACHE = 1 << 18  # pairs of boxes that are computed at once
MIN_SIDE = 1e-6  # pixels; a box with a shorter side is empty


def corner_from_center(center_boxes: np.ndarray) -> np.ndarray:
    """Return center boxes ``(N, 4)`` as corner boxes ``(N, 4)``."""
    half = center_boxes[:, 2:] / 2
    return np.hstack([center_boxes[:, :2] - half, center_boxes[:, :2] + half])


def center_from_corner(corner_boxes: np.ndarray) -> np.ndarray:
    """Return corner boxes ``(N, 4)`` as center boxes ``(N, 4)``."""
    size = corner_boxes[:, 2:] - corner_boxes[:, :2]
    return np.hstack([corner_boxes[:, :2] + size / 2, size])


def iou(corner_boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each pair of corner boxes.

    Parameters
    ----------
    corner_boxes : numpy.ndarray
        ``(M, 4)``.
    others : numpy.ndarray
        ``(N, 4)``. Column-major memory is faster here: each coordinate is read as one
        long row.

    Returns
    -------
    numpy.ndarray
        ``(M, N)``, 0 for boxes that only touch; NaN for two boxes without area.
    """
    rows = max(IN_CACHE // max(len(others), 1), 1)
    if len(corner_boxes) > rows:
        starts = range(0, len(corner_boxes), rows)
        return np.concatenate([iou(corner_boxes[i : i + rows], others) for i in starts])
    x0, y0, x1, y1 = corner_boxes.T[:, :, None]
    left, top, right, bottom = others.T
    common = np.minimum(right, x1) - np.maximum(left, x0)
    height = np.minimum(bottom, y1) - np.maximum(top, y0)
    np.maximum(common, 0, out=common)
    common *= np.maximum(height, 0, out=height)
    union = (right - left) * (bottom - top) + (x1 - x0) * (y1 - y0)
    union -= common
    return common / union


def iou_of_pairs(corner_boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each box with the other in its row.

    Parameters
    ----------
    corner_boxes, others : numpy.ndarray
        ``(N, 4)`` each.

    Returns
    -------
    numpy.ndarray
        ``(N,)``, 0 for boxes that only touch; NaN for two boxes without area.
    """
    low = np.maximum(corner_boxes[:, :2], others[:, :2])
    high = np.minimum(corner_boxes[:, 2:], others[:, 2:])
    common = np.maximum(high - low, 0).prod(axis=1)
    areas = [(b[:, 2:] - b[:, :2]).prod(axis=1) for b in (corner_boxes, others)]
    with np.errstate(invalid="ignore"):
        return common / (areas[0] + areas[1] - common)


def best_overlaps(
    corner_boxes: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return which of the others each box overlaps most, and by which IoU.

    Parameters
    ----------
    corner_boxes : numpy.ndarray
        ``(M, 4)``.
    others : numpy.ndarray
        ``(N, 4)``, N at least 1.

    Returns
    -------
    tuple of numpy.ndarray
        ``(M,)`` each, as ``argmax`` and ``max`` of the rows of ``iou``, in memory for
        few of them.
    """
    best, most = [np.zeros(0, int)], [np.zeros(0)]
    rows = max(IN_CACHE // len(others), 1)
    for start in range(0, len(corner_boxes), rows):
        overlaps = iou(corner_boxes[start : start + rows], others)
        best.append(overlaps.argmax(axis=1))
        most.append(overlaps.max(axis=1))
    return np.concatenate(best), np.concatenate(most)


def encode_deltas(
    corner_boxes: np.ndarray, corner_anchors: np.ndarray, stds: Sequence[float] = STDS
) -> np.ndarray:
    """Return the box deltas from anchors to boxes (Liu et al. 2016, section 2.2).

    Parameters
    ----------
    corner_boxes, corner_anchors : numpy.ndarray
        ``(N, 4)`` each.
    stds : sequence of float
        What the deltas are divided by.

    Returns
    -------
    numpy.ndarray
        ``(N, 4)``: shift of the centre in units of the anchor's size, and logarithm
        of the ratio of sizes, over ``stds``.
    """
    size = corner_boxes[:, 2:] - corner_boxes[:, :2]
    anchor_size = corner_anchors[:, 2:] - corner_anchors[:, :2]
    anchor_center = corner_anchors[:, :2] + anchor_size / 2
    shift = corner_boxes[:, :2] + size / 2 - anchor_center
    deltas = np.hstack([shift / anchor_size, np.log(size / anchor_size)])
    return deltas / np.asarray(stds, np.float32)


def decode_deltas(
    deltas: np.ndarray, center_anchors: np.ndarray, stds: Sequence[float] = STDS
) -> np.ndarray:
    """Return the center boxes that deltas make of anchors: ``encode_deltas`` undone.

    Parameters
    ----------
    deltas : numpy.ndarray
        ``(N, 4)``.
    center_anchors : numpy.ndarray
        ``(N, 4)``.
    stds : sequence of float
        What the deltas are multiplied by.

    Returns
    -------
    numpy.ndarray
        Center boxes, ``(N, 4)``.
    """
    scaled = deltas * np.asarray(stds, np.float32)
    size = center_anchors[:, 2:]
    center = center_anchors[:, :2] + scaled[:, :2] * size
    return np.hstack([center, np.exp(scaled[:, 2:]) * size])


def nms(
    corner_boxes: np.ndarray,
    labels: np.ndarray,
    max_iou: float,
    *,
    limit: int | None = None,
) -> np.ndarray:
    """Return which boxes survive non-maximum suppression within their class.

    A box goes if a better one of its class that stays overlaps it by more than
    ``max_iou``. Empty boxes and boxes with a corner that is not finite overlap none.

    Parameters
    ----------
    corner_boxes : numpy.ndarray
        ``(N, 4)``, best first.
    labels : numpy.ndarray
        ``(N,)``, the class of each box.
    max_iou : float
        Largest intersection over union of two boxes that both stay.
    limit : int, optional
        At most this many boxes are returned.

    Returns
    -------
    numpy.ndarray
        Indices of the boxes that stay, ascending.
    """
    rectangles = corner_boxes.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        rectangles[:, 2:] -= rectangles[:, :2]  # width and height
    # OpenCV takes two empty boxes for the same one.
    measurable = np.isfinite(rectangles).all(axis=1)
    measurable &= (rectangles[:, 2:] > MIN_SIDE).all(axis=1)
    stays = ~measurable
    ranks = np.arange(len(corner_boxes), 0, -1, dtype=np.float32)
    for label in np.unique(labels):
        same = np.flatnonzero((labels == label) & measurable)
        best = cv2.dnn.NMSBoxes(rectangles[same], ranks[same], 0.0, max_iou)
        stays[same[np.asarray(best, int)]] = True
    return np.flatnonzero(stays)[:limit]


def intersects(
    box: Sequence[float], other: Sequence[float], *, touching: bool = False
) -> bool:
    """Return whether two corner boxes share an area, or with ``touching`` a point."""
    gaps = [other[0] - box[2], box[0] - other[2], other[1] - box[3], box[1] - other[3]]
    return max(gaps) <= 0 if touching else max(gaps) < 0


def contains(outer: Sequence[float], inner: Sequence[float]) -> bool:
    """Return whether a corner box lies inside another; their edges may touch."""
    low = outer[0] <= inner[0] and outer[1] <= inner[1]
    return low and inner[2] <= outer[2] and inner[3] <= outer[3]
