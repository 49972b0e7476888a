"""How a RefineDetLite trains: the targets of both steps, and its loss."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd, nd

from gluon_compress.boxes import STDS, corner_from_center, decode_deltas, iou
from gluon_compress.data.batches import pad_labels
from gluon_compress.models.matching import match, matched_targets
from gluon_compress.models.multi_box import multi_box
from gluon_compress.models.named import named
from gluon_compress.models.object_weights import positive_weights
from gluon_compress.models.refinedet.net import OUTPUTS

IOU = 0.5  # overlap from which an anchor belongs to an object


class RefineDetTargets:
    """Turns the labels of a batch into what the first step's loss compares with.

    The second step's targets depend on what the first predicts: the loss makes them
    from the labels.

    Parameters
    ----------
    center_anchors : numpy.ndarray
        Pixels, ``(A, 4)``.
    iou : float
        Overlap from which an anchor belongs to an object.
    stds : sequence of float
        What box deltas are divided by.
    """

    def __init__(
        self,
        center_anchors: np.ndarray,
        *,
        iou: float = IOU,
        stds: Sequence[float] = STDS,
    ) -> None:
        self.iou, self.stds = np.float32(iou), tuple(stds)
        # Column-major, for ``boxes.iou``.
        self.corner_anchors = np.asfortranarray(corner_from_center(center_anchors))

    def __call__(
        self, labels: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the targets of a batch.

        Parameters
        ----------
        labels : sequence of numpy.ndarray
            ``(M, 5+)`` each: corner box in pixels, class id.

        Returns
        -------
        tuple
            Ones for anchors with an object ``(B, A)``, their box targets ``(B, A, 4)``,
            and the labels, padded with -1 to ``(B, M, 6)``; float32.
        """
        pairs = [self.of(label, self.corner_anchors) for label in labels]
        classes, deltas = (np.stack(parts) for parts in zip(*pairs))
        return (classes > 0).astype(np.float32), deltas, *pad_labels(labels)

    def of(
        self, label: np.ndarray, corner_anchors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the class and box targets of anchors, moved or not."""

        def matches(corner_boxes: np.ndarray) -> np.ndarray:
            # Anchors that were moved to nowhere overlap nothing.
            with np.errstate(all="ignore"):
                overlaps = np.nan_to_num(iou(corner_boxes, corner_anchors))
            return match(overlaps, self.iou)

        return matched_targets(label, corner_anchors, matches, self.stds)


class RefineDetLoss:
    """The multi-box losses of both steps (Zhang et al. 2018, equation 1).

    ``L = object + refinement + class + box``, each a part of ``multi_box``: hard
    negatives are 3 to 1 in both steps, and each step is divided by its own positives.
    The second step matches objects with the anchors as the first step moves them.
    Anchors that the first step takes for background with a probability above
    ``1 - least_objectness`` are ignored there, for they will not be looked at.

    The strategies of ``LossSettings`` weigh the classification of the second step,
    which is the one that tells classes apart.

    Parameters
    ----------
    center_anchors : numpy.ndarray
        Pixels, ``(A, 4)``.
    least_objectness : float
    iou : float
        Overlap from which a moved anchor belongs to an object.
    stds : sequence of float
        What box deltas of both steps are multiplied by.
    **options
        ``iou_guided`` and ``class_weights`` of ``positive_weights``.
    """

    def __init__(
        self,
        center_anchors: np.ndarray,
        *,
        least_objectness: float,
        iou: float = IOU,
        stds: Sequence[float] = STDS,
        **options: Any,
    ) -> None:
        self.center_anchors, self.options = center_anchors, options
        self.targets = RefineDetTargets(center_anchors, iou=iou, stds=stds)
        self.least_objectness = least_objectness

    def __call__(
        self, outputs: Any, batch: Sequence[mx.nd.NDArray]
    ) -> tuple[mx.nd.NDArray, Mapping[str, mx.nd.NDArray]]:
        """Return the loss and its parts.

        Parameters
        ----------
        outputs : mapping or sequence
            ``OUTPUTS``, by name or in order.
        batch : sequence of NDArray
            Images, and the arrays of ``RefineDetTargets``.
        """
        if not isinstance(outputs, Mapping):
            outputs = named(list(outputs)[: len(OUTPUTS)], OUTPUTS)
        objectness, refinements, scores, deltas = (outputs[n] for n in OUTPUTS)
        holds, moves, labels = batch[1:4]
        first = multi_box(objectness, refinements, holds, moves)
        with autograd.pause():
            arrays = (a.asnumpy() for a in (objectness, refinements, labels))
            classes, boxes = (
                nd.array(part, ctx=scores.context)
                for part in self.second_targets(*arrays)
            )
        weights = positive_weights(
            scores, deltas, classes, boxes, stds=self.targets.stds, **self.options
        )
        second = multi_box(scores, deltas, classes, boxes, weights=weights)
        names = ("object", "refinement", "class", "box")
        parts = dict(zip(names, (*first, *second)))
        return sum(parts.values()), parts

    def second_targets(
        self, objectness: np.ndarray, refinements: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the class targets ``(B, A)``, -1 to ignore, and box targets.

        Parameters
        ----------
        objectness : numpy.ndarray
            Logits, ``(B, A, 2)``.
        refinements : numpy.ndarray
            Box deltas of the first step, ``(B, A, 4)``.
        labels : numpy.ndarray
            Padded with -1, ``(B, M, 5+)``.
        """
        with np.errstate(divide="ignore"):
            limit = np.log(self.least_objectness) - np.log1p(-self.least_objectness)
        ignored = objectness[..., 1] - objectness[..., 0] <= limit
        pairs = []
        for moves, label in zip(refinements, labels):
            with np.errstate(over="ignore", invalid="ignore"):
                moved = decode_deltas(moves, self.center_anchors, self.targets.stds)
            corners = np.asfortranarray(corner_from_center(moved))
            pairs.append(self.targets.of(label[label[:, 4] >= 0], corners))
        classes, deltas = (np.stack(parts) for parts in zip(*pairs))
        return np.where(ignored, np.float32(-1), classes), deltas
