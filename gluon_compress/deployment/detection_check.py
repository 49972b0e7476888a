"""Whether a graph with NMS finds what its net finds, up to what rounding decides."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from gluoncv.utils.bbox import bbox_iou

from gluon_compress.deployment.postprocess import Decoding, corner_boxes

LEAST_TOLERANCE = 1e-4  # of a score, or of the side of the input
NONE = -1  # class of a row without a detection


@dataclass(frozen=True)
class Expected:
    """What a head predicts for an image, and what detections of it are held against.

    Detections are ``(N, 6)``: class, score and corner box, best first.

    Parameters
    ----------
    raw : ndarray
        The head's predictions, ``(A, C + 5)``.
    how : Decoding
    size : int
        Side of the input: a corner off by it is off by 1, as a score off by 1 is.
    relative : float
        What the head may be off by, of the largest of its values.
    """

    raw: np.ndarray
    how: Decoding
    size: int
    relative: float

    @property
    def tolerance(self) -> float:
        """What scores and boxes may be off by.

        It is much where the head's values are, as those of a net before training.
        """
        return max(LEAST_TOLERANCE, self.relative * float(np.abs(self.raw).max()))

    def departure(self, found: np.ndarray) -> float:
        """Return how far the worst detection is from the nearest box of its class."""
        worst, classes = 0.0, self._scores.shape[1]
        deltas = self.raw[:, classes + 1 :]
        boxes = corner_boxes(deltas, self.how.anchors, self.how.stds)
        scale = _scale(boxes, self.size)
        for label, score, *box in _valid(found):
            if label not in range(classes):
                return float("inf")
            off = np.abs(self._scores[:, int(label)] - score)
            worst = max(worst, float(np.maximum(off, _apart(boxes, box) / scale).min()))
        return worst

    def lost(self, rows: np.ndarray, others: np.ndarray) -> int:
        """Count detections that are not among others, though nothing explains it.

        What explains it: a better one of their class among the others that overlaps
        it, and the limits of scores and of rows, where it is one of the last. Two NMS
        of the same boxes, which rounding sorts otherwise, lose nothing of each other's.
        """
        rows, others = _valid(rows), _valid(others)
        least = self._least_score
        if len(others) == self.how.post_nms:
            least = max(least, float(others[:, 1].min()))
        overlaps, slack = _overlaps(rows, others), self._slack(rows)
        count = 0
        for i, row in enumerate(rows):
            same, scores = others[:, 0] == row[0], others[:, 1]
            equal = same & (np.abs(scores - row[1]) <= self.tolerance)
            far = self.tolerance * max(self.size, float(np.abs(row[2:]).max()))
            equal &= _apart(others[:, 2:], row[2:]) <= far
            better = same & (scores >= row[1] - self.tolerance)
            better &= overlaps[i] >= self.how.nms_thresh - slack[i]
            last = row[1] <= least + self.tolerance
            count += not (last or equal.any() or better.any())
        return count

    def doubled(self, rows: np.ndarray) -> int:
        """Count detections that overlap a better one of their class by too much."""
        rows = _valid(rows)
        slack, labels = self._slack(rows), rows[:, 0]
        limit = self.how.nms_thresh + np.maximum(slack, slack[:, None])
        above = (_overlaps(rows, rows) > limit) & (labels == labels[:, None])
        return int(np.tril(above, -1).any(axis=1).sum())

    @cached_property
    def _scores(self) -> np.ndarray:
        """The scores of the classes, without the background, ``(A, C)``."""
        logits = self.raw[:, :-4]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (shares / shares.sum(axis=1, keepdims=True))[:, 1:]

    @property
    def _least_score(self) -> float:
        """The score up to which a box may not be looked at."""
        scores, how = self._scores.ravel(), self.how
        if len(scores) <= how.nms_topk:
            return how.least_score
        last = len(scores) - how.nms_topk
        return max(how.least_score, float(np.partition(scores, last)[last]))

    def _slack(self, rows: np.ndarray) -> np.ndarray:
        """Return by how much overlaps with boxes change within the tolerance."""
        boxes = rows[:, 2:].astype(np.float64)
        with np.errstate(all="ignore"):  # empty and infinite boxes
            sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
            moved = self.tolerance * _scale(boxes, self.size)
            slack = 4 * moved / np.maximum(sides, 0)
        return np.where(np.isnan(slack), np.inf, slack)


def _valid(rows: np.ndarray) -> np.ndarray:
    return rows[rows[:, 0] != NONE]


def _scale(boxes: np.ndarray, size: int) -> np.ndarray:
    # An untrained net's boxes may be beyond any number; others are within the image.
    return np.clip(np.abs(boxes).max(axis=1), size, np.finfo(np.float32).max)


def _apart(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the largest difference of a corner of each box from those of one."""
    with np.errstate(invalid="ignore"):  # infinity less infinity
        off = np.where(boxes == box, 0, np.abs(boxes - box)).max(axis=1, initial=0)
    return np.where(np.isnan(off), np.inf, off)


def _overlaps(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the overlaps ``(N, M)``; of boxes that are no number, 1."""
    with np.errstate(all="ignore"):
        found = bbox_iou(rows[:, 2:].astype(np.float64), others[:, 2:])
    return np.nan_to_num(found, nan=1)
