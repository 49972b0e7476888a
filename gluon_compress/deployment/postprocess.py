"""From a head's predictions to boxes, as GluonCV decodes them, with OpenCV's NMS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import cv2
import numpy as np

LEAST_SIDE = 1e-6  # pixels: a box with a shorter side is empty


@dataclass(frozen=True)
class Decoding:
    """What turns a head's predictions into detections.

    Parameters
    ----------
    anchors : ndarray
        Center boxes ``(A, 4)``, pixels, float32.
    stds : sequence of float
        What box deltas are multiplied by.
    nms_thresh : float
        Overlap with a better box of its class from which a box is dropped.
    nms_topk : int
        Boxes that NMS looks at, the best of all classes.
    post_nms : int
        Rows that are returned.
    least_score : float
        A score up to it counts as none.
    """

    anchors: np.ndarray
    stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2)
    nms_thresh: float = 0.45
    nms_topk: int = 400
    post_nms: int = 100
    least_score: float = 0.01


def detections(
    predictions: np.ndarray, how: Decoding
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids, scores and corner boxes, as GluonCV's SSD does.

    Parameters
    ----------
    predictions : ndarray
        ``(B, A, C + 5)``: scores of the background and C classes before softmax, then
        four box deltas.
    how : Decoding

    Returns
    -------
    tuple
        Ids ``(B, N, 1)``, scores ``(B, N, 1)`` and corner boxes ``(B, N, 4)`` in
        pixels of the input, float32, best first; N is ``post_nms``, rows without a
        detection are -1.
    """
    found = np.full((len(predictions), how.post_nms, 6), -1, np.float32)
    for row, one in zip(found, predictions):
        labels, scores, boxes = _candidates(one, how)
        kept = nms(boxes, labels, how.nms_thresh, limit=how.post_nms)
        row[: len(kept), 0], row[: len(kept), 1] = labels[kept], scores[kept]
        row[: len(kept), 2:] = boxes[kept]
    return found[..., :1], found[..., 1:2], found[..., 2:]


def _candidates(one: np.ndarray, how: Decoding) -> tuple:
    """Return labels, scores and corner boxes of the best of one image, best first.

    A softmax of c exceeds t only where c's score exceeds the background's by
    log(t / (1 - t)), for the other classes only add to the denominator: comparing
    leaves few anchors whose exponentials are needed.
    """
    classes = one.shape[1] - 5
    with np.errstate(divide="ignore"):  # from 0, where all count, to 1, where none does
        margin = np.float32(np.log(how.least_score) - np.log1p(-how.least_score) - 1e-3)
    # A row a class: NumPy reduces few long rows many times as fast as many short ones.
    logits = np.ascontiguousarray(one[:, : classes + 1].T)
    possible = logits[1:] > logits[0] + margin
    anchors = np.flatnonzero(possible.any(axis=0))
    # Row by row, a third of the time of both at once.
    logits = np.stack([row[anchors] for row in logits])
    shares = np.exp(logits - logits.max(axis=0))
    shares /= shares.sum(axis=0)
    flat = shares[1:].ravel()  # by class, then anchor: GluonCV's order
    places = np.flatnonzero(flat > how.least_score)
    scores = flat[places]
    if len(places) > how.nms_topk:
        best = np.sort(np.argpartition(-scores, how.nms_topk - 1)[: how.nms_topk])
        places, scores = places[best], scores[best]
    order = np.argsort(-scores, kind="stable")
    labels, rows = np.divmod(places[order], max(len(anchors), 1))
    chosen = anchors[rows]
    boxes = corner_boxes(one[chosen, classes + 1 :], how.anchors[chosen], how.stds)
    return labels, scores[order], boxes


def corner_boxes(
    deltas: np.ndarray, anchors: np.ndarray, stds: Sequence[float]
) -> np.ndarray:
    """Return the corner boxes that deltas make of anchors (Liu et al. 2016, eq. 2).

    Parameters
    ----------
    deltas : ndarray
        ``(N, 4)``: centre and logarithmic size, in units of ``stds``.
    anchors : ndarray
        Center boxes ``(N, 4)``.
    stds : sequence of float
    """
    scaled = deltas * np.asarray(stds, np.float32)
    centres = scaled[:, :2] * anchors[:, 2:] + anchors[:, :2]
    halves = np.exp(scaled[:, 2:]) * anchors[:, 2:] / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


def nms(
    boxes: np.ndarray, labels: np.ndarray, overlap: float, *, limit: int | None = None
) -> np.ndarray:
    """Return which boxes stay: none better of their label overlaps by more.

    A box that is empty, or whose corners are no finite numbers, overlaps none.

    Parameters
    ----------
    boxes : ndarray
        Corner boxes ``(N, 4)``, best first.
    labels : ndarray
        ``(N,)``.
    overlap : float
        Intersection over union.
    limit : int, optional
        Of these no more than the best are wanted.

    Returns
    -------
    ndarray
        Ascending places.
    """
    rectangles = boxes.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        rectangles[:, 2:] -= rectangles[:, :2]  # width and height
    # The others overlap nothing; OpenCV takes two empty boxes for the same one.
    measurable = np.isfinite(rectangles).all(axis=1)
    measurable &= (rectangles[:, 2:] > LEAST_SIDE).all(axis=1)
    stays = ~measurable
    ranks = np.arange(len(boxes), 0, -1, dtype=np.float32)
    for label in np.unique(labels):
        ours = np.flatnonzero((labels == label) & measurable)
        kept = cv2.dnn.NMSBoxes(rectangles[ours], ranks[ours], 0.0, overlap)
        stays[ours[np.asarray(kept, int)]] = True
    return np.flatnonzero(stays)[:limit]
