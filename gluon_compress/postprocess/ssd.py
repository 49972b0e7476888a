"""Decodes an SSD's outputs into boxes, as GluonCV does, with OpenCV's NMS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Mapping, Sequence, Tuple

import numpy as np
from typing_extensions import Literal

from gluon_compress.boxes import STDS, corner_from_center, decode_deltas, nms
from gluon_compress.postprocess.base import Rows, boxes_in_images
from gluon_compress.postprocess.ssd_check import DetectionCheck, compared
from gluon_compress.validation import (
    Positive,
    Settings,
    Share,
    ShareOrZero,
    wrong,
)

ANCHORS = "anchors.npy"
JOINED = "predictions"  # scores and deltas concatenated, in deployed graphs
SEPARATE = ("class_scores", "box_deltas")  # in Gluon nets


class SSDPostprocessSettings(Settings):
    """Constants of decoding and of NMS.

    Parameters
    ----------
    kind : str
        ``ssd``.
    stds : tuple of float
        Factors of box deltas (the "variances" of Liu et al. 2016).
    nms_thresh : float
        A box is dropped if its IoU with a better box of its class exceeds this.
    nms_topk : int
        Number of boxes that enter NMS, the best of all classes.
    post_nms : int
        Number of boxes returned.
    least_score : float
        Boxes up to this score are dropped.
    """

    kind: Literal["ssd"] = "ssd"
    stds: Tuple[Positive, Positive, Positive, Positive] = STDS
    nms_thresh: Share = 0.45
    nms_topk: Rows = 400
    post_nms: Rows = 100
    least_score: ShareOrZero = 0.01


@dataclass(frozen=True)
class SSDPostprocess:
    """Decodes boxes from anchors, and suppresses boxes that overlap better ones.

    Parameters
    ----------
    anchors : ndarray
        Center boxes ``(A, 4)`` in pixels of the input, float32.
    settings : SSDPostprocessSettings
    """

    anchors: np.ndarray
    settings: SSDPostprocessSettings = SSDPostprocessSettings()

    kind: ClassVar[str] = "ssd"
    Settings: ClassVar[type] = SSDPostprocessSettings
    finds_boxes: ClassVar[bool] = True
    arrays: ClassVar[tuple] = (ANCHORS,)
    separate: ClassVar[tuple] = SEPARATE
    ahead: ClassVar[int] = 0  # numbers of an anchor before the scores

    @classmethod
    def from_state(
        cls, settings: Any, arrays: Mapping[str, np.ndarray]
    ) -> SSDPostprocess:
        """Return the postprocess that ``state`` described.

        Raises
        ------
        ValueError
            If the anchors are not finite float32 numbers ``(A, 4)``.
        """
        anchors = arrays[ANCHORS]
        if anchors.dtype != np.float32 or not np.isfinite(anchors).all():
            raise ValueError(f"{ANCHORS}: allowed: finite numbers of float32")
        if anchors.ndim != 2 or anchors.shape[1] != 4:
            raise ValueError(f"{ANCHORS}: {anchors.shape}; allowed: (A, 4)")
        return cls(anchors, settings)

    @property
    def most_detections(self) -> int:
        """How many boxes of an image can be returned."""
        return min(self.settings.post_nms, self.settings.nms_topk)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return its section of the manifest, and the anchors by file name."""
        return self.settings.to_json(), {ANCHORS: self.anchors}

    def check(self, shapes: Mapping[str, Sequence[int]], classes: Sequence) -> None:
        """Raise ValueError unless outputs have one row an anchor, and classes fit."""
        if JOINED not in shapes or len(shapes[JOINED]) != 3:
            allowed = f"{JOINED!r}, with a shape of 3"
            raise wrong("outputs", {n: list(s) for n, s in shapes.items()}, allowed)
        _, rows, width = shapes[JOINED]
        others = self.ahead + 5
        if len(classes) + others != width:
            allowed = f"{width - others} names, for outputs[0].shape ends in {width}"
            raise wrong("classes", list(classes), allowed)
        if len(self.anchors) != rows:
            raise ValueError(
                f"{ANCHORS}: {self.anchors.shape}; allowed: {(rows, 4)}, for "
                "outputs[0].shape in the manifest"
            )

    def decode(
        self, outputs: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ids, scores and corner boxes, as GluonCV's SSD does.

        Parameters
        ----------
        outputs : mapping
            ``predictions`` ``(B, A, C + 5)``: scores of the background and C classes
            before softmax, then four box deltas; or ``class_scores``
            ``(B, A, C + 1)`` and ``box_deltas`` ``(B, A, 4)``.

        Returns
        -------
        tuple
            Ids ``(B, N, 1)``, scores ``(B, N, 1)`` and corner boxes ``(B, N, 4)`` in
            pixels of the input, float32, best first; N is ``post_nms``, rows without a
            detection are -1. A box or score that is not a finite number is none.
        """
        predictions = self.joined(outputs)
        rows = np.full((len(predictions), self.settings.post_nms, 6), -1, np.float32)
        for row, prediction in zip(rows, predictions):
            with np.errstate(over="ignore", invalid="ignore"):  # not numbers, infinite
                candidates = self._candidates(*self.anchored(prediction))
            finite = np.isfinite(candidates[2]).all(axis=1)
            labels, scores, boxes = (part[finite] for part in candidates)
            chosen = nms(
                boxes,
                labels,
                self.settings.nms_thresh,
                limit=self.settings.post_nms,
            )
            count = len(chosen)
            row[:count, 0], row[:count, 1] = labels[chosen], scores[chosen]
            row[:count, 2:] = boxes[chosen]
        return rows[..., :1], rows[..., 1:2], rows[..., 2:]

    @staticmethod
    def in_images(
        results: Sequence[np.ndarray], placements: Sequence
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return for each image ids, scores and corner boxes in its pixels."""
        return boxes_in_images(results, placements)

    def compare(
        self,
        outputs: Mapping[str, np.ndarray],
        results: Sequence[np.ndarray],
        expected: Sequence[np.ndarray],
        *,
        tolerance: float,
        side: int,
    ) -> tuple[float, str]:
        """Return the largest difference of detections, and what is wrong with them."""
        checks = []
        for whole, actual, wanted in zip(
            self.joined(outputs), _side_by_side(results), _side_by_side(expected)
        ):
            allowed = tolerance * float(np.abs(whole).max())
            prediction, anchors = self.anchored(whole, slack=allowed)
            boxes = decode_deltas(prediction[:, -4:], anchors, self.settings.stds)
            check = DetectionCheck(
                self.class_probabilities(prediction),
                corner_from_center(boxes),
                self.settings,
                side,
                allowed,
                self.doubtful(whole, slack=allowed),
            )
            checks.append((check, actual, wanted))
        return compared(checks)

    @staticmethod
    def class_probabilities(prediction: np.ndarray) -> np.ndarray:
        """Return the probabilities ``(A, C)`` of one image, without the background."""
        logits = prediction[:, :-4]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (shares / shares.sum(axis=1, keepdims=True))[:, 1:]

    @classmethod
    def joined(cls, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return all that outputs say of each anchor, ``(B, A, ahead + C + 5)``."""
        if JOINED in outputs:
            return outputs[JOINED]
        return np.concatenate([outputs[name] for name in cls.separate], axis=2)

    def anchored(
        self, prediction: np.ndarray, *, slack: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what one image's outputs predict, and from which anchors.

        Parameters
        ----------
        prediction : ndarray
            ``(A, ahead + C + 5)``.
        slack : float
            By how much outputs may be off. Whatever may be detected then is returned.

        Returns
        -------
        tuple of ndarray
            Scores and deltas ``(N, C + 5)``, and center boxes ``(N, 4)``, pixels.
        """
        return prediction, self.anchors

    def doubtful(self, prediction: np.ndarray, *, slack: float) -> np.ndarray | None:
        """Return which of ``anchored``'s rows may as well not be there; None: none."""
        return None

    def _candidates(self, prediction: np.ndarray, center_anchors: np.ndarray) -> tuple:
        """Return labels, scores and corner boxes of one image's best, best first.

        The softmax of class c exceeds t only if c's score exceeds the background's by
        log(t / (1 - t)), since other classes only add to the denominator. This test
        leaves few anchors whose exponentials are needed.
        """
        classes, least = prediction.shape[1] - 5, self.settings.least_score
        with np.errstate(divide="ignore"):  # at 0 all boxes pass, at 1 none
            margin = np.float32(np.log(least) - np.log1p(-least) - 1e-3)
        # One row a class: NumPy reduces few long rows much faster than many short ones.
        logits = np.ascontiguousarray(prediction[:, : classes + 1].T)
        possible = logits[1:] > logits[0] + margin
        anchors = np.flatnonzero(possible.any(axis=0))
        # Row by row takes a third of the time of all rows at once.
        logits = np.stack([row[anchors] for row in logits])
        shares = np.exp(logits - logits.max(axis=0))
        shares /= shares.sum(axis=0)
        flat = shares[1:].ravel()  # by class, then anchor: GluonCV's order
        candidates = np.flatnonzero(flat > least)
        scores = flat[candidates]
        topk = self.settings.nms_topk
        if len(candidates) > topk:
            best = np.sort(np.argpartition(-scores, topk - 1)[:topk])
            candidates, scores = candidates[best], scores[best]
        order = np.argsort(-scores, kind="stable")
        labels, rows = np.divmod(candidates[order], max(len(anchors), 1))
        chosen = anchors[rows]
        deltas = prediction[chosen, classes + 1 :]
        boxes = decode_deltas(deltas, center_anchors[chosen], self.settings.stds)
        return labels, scores[order], corner_from_center(boxes)


def _side_by_side(results: Sequence[np.ndarray]) -> np.ndarray:
    """Return ids, scores and corner boxes as one array ``(B, N, 6)``."""
    return np.concatenate(results, axis=2)
