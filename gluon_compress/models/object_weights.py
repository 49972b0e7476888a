"""How much each object counts in a detector's classification loss."""

from __future__ import annotations

from typing import Sequence

import numpy as np
from mxnet import autograd, nd
from mxnet.ndarray import NDArray as Array

from gluon_compress.boxes import (
    corner_from_center,
    decode_deltas,
    iou_of_pairs,
)
from gluon_compress.models.loss_settings import ClassWeights

LEAST_IOU = 0.1  # a box that is off by more counts no less
TINY = 1e-12


def positive_weights(
    scores: Array,
    deltas: Array,
    classes: Array,
    boxes: Array,
    *,
    stds: Sequence[float],
    iou_guided: float | None = None,
    class_weights: ClassWeights | None = None,
) -> Array | None:
    """Return what each object counts in the classification loss; None: all count 1.

    The strategies are those of ``LossSettings``, whose weights are multiplied. No
    gradient flows through them.

    Parameters
    ----------
    scores : NDArray
        Logits, ``(..., C + 1)``, class 0 the background.
    deltas, boxes : NDArray
        Box deltas and their targets, ``(..., 4)``.
    classes : NDArray
        Class targets, ``(...)``: objects are above 0.
    stds : sequence of float
        What box deltas are multiplied by.
    iou_guided : float, optional
    class_weights : ClassWeights, optional
        With counts.
    """
    if iou_guided is None and class_weights is None:
        return None
    with autograd.pause():
        ids = classes.asnumpy()
        at = np.nonzero(ids > 0)
        weights = np.ones(ids.shape, np.float32)
        if iou_guided is not None:
            pair = deltas.asnumpy()[at], boxes.asnumpy()[at]
            weights[at] *= iou_weights(overlaps_of_deltas(*pair, stds), iou_guided)
        if class_weights is not None:
            chances = nd.pick(nd.softmax(scores, axis=-1), nd.maximum(classes, 0))
            numbers = ids[at].astype(int) - 1
            of_class = weights_of_classes(numbers, chances.asnumpy()[at], class_weights)
            weights[at] *= of_class[numbers]
        return nd.array(weights, ctx=scores.context)


def overlaps_of_deltas(
    deltas: np.ndarray, boxes: np.ndarray, stds: Sequence[float]
) -> np.ndarray:
    """Return the IoU of boxes given by deltas from one anchor each, ``(N,)``.

    It does not depend on the anchor, and is computed from one of size 1.

    Parameters
    ----------
    deltas, boxes : numpy.ndarray
        Predicted box deltas and those of the objects, ``(N, 4)``.
    stds : sequence of float
        What they are multiplied by.
    """
    anchors = np.tile(np.array([0, 0, 1, 1], np.float32), (len(deltas), 1))
    with np.errstate(over="ignore", invalid="ignore"):
        pair = [
            corner_from_center(decode_deltas(each, anchors, stds).astype(np.float64))
            for each in (deltas, boxes)
        ]
        return np.nan_to_num(iou_of_pairs(*pair))


def iou_weights(overlaps: np.ndarray, power: float) -> np.ndarray:
    """Return the weights of ``LossSettings.iou_guided`` for N objects, ``(N,)``.

    Parameters
    ----------
    overlaps : numpy.ndarray
        The IoU of each with the box that is predicted for it, ``(N,)``.
    power : float
    """
    shares = np.maximum(overlaps, LEAST_IOU) ** power
    return len(shares) * shares / max(shares.sum(), TINY)


def weights_of_classes(
    ids: np.ndarray, chances: np.ndarray, settings: ClassWeights
) -> np.ndarray:
    """Return the weight of each class, ``(C,)``, by the formula of ``ClassWeights``.

    Parameters
    ----------
    ids : numpy.ndarray
        Classes of the batch's positives from 0, ``(N,)``.
    chances : numpy.ndarray
        Their probabilities of the right class, ``(N,)``.
    settings : ClassWeights
        With counts.
    """
    counts = np.asarray(settings.counts, float)
    rare = (counts.mean() / counts) ** settings.rarity
    seen = np.bincount(ids, minlength=len(counts))
    missed = 1 - chances.astype(float)
    hard = np.bincount(ids, missed, minlength=len(counts)) / np.maximum(seen, 1)
    ratio = (hard + TINY) / (missed.mean() + TINY) if len(ids) else np.ones(len(rare))
    weights = rare * np.where(seen > 0, ratio, 1) ** settings.hardness
    return np.clip(weights, 1 / settings.most, settings.most)
