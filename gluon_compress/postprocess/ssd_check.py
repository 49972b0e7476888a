"""Checks detections against a net's predictions, allowing for rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterable

import numpy as np

from gluon_compress.boxes import iou

MIN_TOLERANCE = 1e-4  # of a score, or of the side of the input
NONE = -1  # class of a row without a detection


@dataclass(frozen=True)
class DetectionCheck:
    """Checks the detections of one image against the net's predictions.

    Detections are rows ``(N, 6)``: class, score and corner box, best first.

    Parameters
    ----------
    scores : ndarray
        The net's probabilities ``(A, C)`` of each class at each anchor.
    corner_boxes : ndarray
        The net's boxes ``(A, 4)``, pixels of the input.
    settings : SSDPostprocessSettings
        The constants of NMS.
    side : int
        The longer side of the input, pixels. An error of a corner by ``side`` counts as
        much as an error of a score by 1.
    allowed : float
        Allowed error of scores and boxes; at least ``MIN_TOLERANCE`` is allowed.
    doubtful : ndarray, optional
        The anchors ``(A,)`` that rounding may leave out before NMS.
    """

    scores: np.ndarray
    corner_boxes: np.ndarray
    settings: Any
    side: int
    allowed: float
    doubtful: np.ndarray | None = None

    @property
    def tolerance(self) -> float:
        """Allowed error of scores and boxes.

        It is large if the net's outputs are large, as before training.
        """
        return max(MIN_TOLERANCE, self.allowed)

    def departure(self, rows: np.ndarray) -> float:
        """Return the error of the worst detection to the nearest box of its class."""
        worst = 0.0
        scale = _scale(self.corner_boxes, self.side)
        for label, score, *box in _valid(rows):
            if label not in range(self.scores.shape[1]):
                return float("inf")
            off = np.abs(self.scores[:, int(label)] - score)
            apart = _apart(self.corner_boxes, box) / scale
            worst = max(worst, float(np.maximum(off, apart).min()))
        return worst

    def lost(self, rows: np.ndarray, others: np.ndarray) -> int:
        """Count detections that are missing among others without an explanation.

        Explanations are a better, overlapping detection of the same class among the
        others, and, for the last detections, the limits of scores and rows. So two runs
        of NMS whose boxes rounding sorted differently lose nothing. What a doubtful
        anchor detects may be missing, and may have suppressed what is.
        """
        rows, others = _valid(rows), _valid(others)
        least = self._least_score
        if len(others) == self.settings.post_nms:
            least = max(least, float(others[:, 1].min()))
        others = np.concatenate([others, self._doubtful_rows()])
        overlaps, slack = _overlaps(rows, others), self._slack(rows)
        count = 0
        for i, row in enumerate(rows):
            same, scores = others[:, 0] == row[0], others[:, 1]
            equal = same & (np.abs(scores - row[1]) <= self.tolerance)
            far = self.tolerance * max(self.side, float(np.abs(row[2:]).max()))
            equal &= _apart(others[:, 2:], row[2:]) <= far
            better = same & (scores >= row[1] - self.tolerance)
            better &= overlaps[i] >= self.settings.nms_thresh - slack[i]
            last = row[1] <= least + self.tolerance
            count += not (last or equal.any() or better.any())
        return count

    def doubled(self, rows: np.ndarray) -> int:
        """Count detections that overlap a better one of their class by too much."""
        rows = _valid(rows)
        slack, labels = self._slack(rows), rows[:, 0]
        limit = self.settings.nms_thresh + np.maximum(slack, slack[:, None])
        above = (_overlaps(rows, rows) > limit) & (labels == labels[:, None])
        return int(np.tril(above, -1).any(axis=1).sum())

    def _doubtful_rows(self) -> np.ndarray:
        """Return the detections ``(N, 6)`` of doubtful anchors."""
        if self.doubtful is None:
            return np.zeros((0, 6), np.float32)
        anchors = np.flatnonzero(self.doubtful)
        numbers, labels = np.nonzero(self.scores[anchors] > self.settings.least_score)
        chosen = anchors[numbers]
        scores = self.scores[chosen, labels]
        return np.column_stack([labels, scores, self.corner_boxes[chosen]])

    @property
    def _least_score(self) -> float:
        """The score up to which a box may not enter NMS."""
        scores, topk = self.scores.ravel(), self.settings.nms_topk
        if len(scores) <= topk:
            return self.settings.least_score
        last = len(scores) - topk
        return max(self.settings.least_score, float(np.partition(scores, last)[last]))

    def _slack(self, rows: np.ndarray) -> np.ndarray:
        """Return how much the overlaps of boxes can change within the tolerance."""
        boxes = rows[:, 2:].astype(np.float64)
        with np.errstate(all="ignore"):  # empty and infinite boxes
            sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
            moved = self.tolerance * _scale(boxes, self.side)
            slack = 4 * moved / np.maximum(sides, 0)
        return np.where(np.isnan(slack), np.inf, slack)


def _valid(rows: np.ndarray) -> np.ndarray:
    return rows[rows[:, 0] != NONE]


def _scale(boxes: np.ndarray, side: int) -> np.ndarray:
    # An untrained net's boxes can be arbitrarily large; others are within the image.
    return np.clip(np.abs(boxes).max(axis=1), side, np.finfo(np.float32).max)


def _apart(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the largest coordinate difference between each box and one box."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        off = np.where(boxes == box, 0, np.abs(boxes - box)).max(axis=1, initial=0)
    return np.where(np.isnan(off), np.inf, off)


def _overlaps(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the overlaps ``(N, M)``; 1 for boxes that are not numbers."""
    with np.errstate(all="ignore"):
        overlaps = iou(rows[:, 2:].astype(np.float64), others[:, 2:])
    return np.nan_to_num(overlaps, nan=1)


def compared(
    checks: Iterable[tuple[DetectionCheck, np.ndarray, np.ndarray]],
) -> tuple[float, str]:
    """Return the largest difference of detections, and what is wrong with them.

    Parameters
    ----------
    checks : iterable
        Of each image a check, and rows ``(N, 6)`` of what is checked and of what is
        right. The first image with a fault ends it.
    """
    worst = 0.0
    for check, actual, wanted in checks:
        worst = max(worst, check.departure(actual))
        lost = check.lost(wanted, actual)
        extra = check.lost(actual, wanted) + check.doubled(actual)
        if not worst <= check.tolerance or lost or extra:
            return worst, (
                f"differs from the net's boxes by {worst:.2g}, allowed: "
                f"{check.tolerance:.2g}; {lost} boxes are missing and {extra} are "
                "extra, allowed: none"
            )
    return worst, ""
