"""The multi-box loss of detectors with anchors, and what weighs its objects.

GluonCV's ``SSDMultiBoxLoss`` in the terms of this package, with anchors to ignore and a
weight for each object.
"""

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

NEGATIVES = 3  # for each positive (Liu et al. 2016, section 2.2)
LEAST_IOU = 0.1  # a box that is off by more counts no less
TINY = 1e-12


def multi_box(
    scores: Array,
    deltas: Array,
    classes: Array,
    boxes: Array,
    *,
    weights: Array | None = None,
) -> tuple[Array, Array]:
    """Return the classification and the box loss of a batch (Liu et al. 2016, eq. 1).

    ``1 / N (sum_pos w_a ce_a + sum_neg ce_a)`` over the N positives and the hardest
    negatives, 3 to 1 in each image, and ``1 / N sum_pos smooth_l1(d_a - t_a)``.

    Parameters
    ----------
    scores : NDArray
        Logits, ``(B, A, C + 1)``, class 0 the background.
    deltas, boxes : NDArray
        Box deltas and their targets, ``(B, A, 4)``.
    classes : NDArray
        Class targets, ``(B, A)``: 0 for the background; anchors below 0 are ignored.
    weights : NDArray, optional
        ``w``, ``(B, A)``; None: 1.

    Returns
    -------
    tuple of NDArray
        One element each; 0 for a batch without positives.
    """
    positive = classes > 0
    chosen = mined(scores, classes)
    if weights is not None:
        chosen = nd.where(positive, weights, chosen)
    right = nd.maximum(classes, 0)
    entropy = -nd.pick(nd.log_softmax(scores, axis=-1), right, axis=-1)
    off = nd.smooth_l1(deltas - boxes, scalar=1.0).sum(axis=-1)
    count = nd.maximum(positive.sum(), 1)
    return (chosen * entropy).sum() / count, (positive * off).sum() / count


def mined(scores: Array, classes: Array) -> Array:
    """Return ones for positives and the hardest negatives of each image, ``(B, A)``."""
    with autograd.pause():
        positive, negative = classes > 0, classes == 0
        # Losses are above 0: others come last. Of equal ones, as many as wanted.
        background = nd.log_softmax(scores, axis=-1).slice_axis(-1, 0, 1)
        loss = -background.squeeze(axis=-1) * negative - (1 - negative)
        count = NEGATIVES * positive.sum(axis=1, keepdims=True)
        hard = nd.broadcast_lesser(_ranks(loss), count) * negative
        return nd.maximum(positive, hard)


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

    Arrays are those of ``multi_box``; the strategies are those of ``LossSettings``,
    whose weights are multiplied. No gradient flows through them.

    Parameters
    ----------
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
            arrays = deltas.asnumpy()[at], boxes.asnumpy()[at]
            weights[at] *= iou_weights(*arrays, iou_guided, stds)
        if class_weights is not None:
            chances = nd.pick(nd.softmax(scores, axis=-1), nd.maximum(classes, 0))
            numbers = ids[at].astype(int) - 1
            of_class = weights_of_classes(numbers, chances.asnumpy()[at], class_weights)
            weights[at] *= of_class[numbers]
        return nd.array(weights, ctx=scores.context)


def iou_weights(
    deltas: np.ndarray, boxes: np.ndarray, power: float, stds: Sequence[float]
) -> np.ndarray:
    """Return the weights of ``LossSettings.iou_guided`` for N positives, ``(N,)``.

    The IoU of two boxes that are given by deltas from one anchor does not depend on the
    anchor: it is computed from one of size 1.

    Parameters
    ----------
    deltas, boxes : numpy.ndarray
        Predicted box deltas and those of the objects, ``(N, 4)``.
    power : float
    stds : sequence of float
    """
    anchors = np.tile(np.array([0, 0, 1, 1], np.float32), (len(deltas), 1))
    with np.errstate(over="ignore", invalid="ignore"):
        pair = [
            corner_from_center(decode_deltas(each, anchors, stds).astype(np.float64))
            for each in (deltas, boxes)
        ]
        overlaps = np.nan_to_num(iou_of_pairs(*pair))
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


def _ranks(values: Array) -> Array:
    """Place of each value in its row, 0 for the largest, ``(B, A)``."""
    order = nd.argsort(values, axis=1, is_ascend=False)
    rows, places = (nd.arange(n, ctx=values.context) for n in values.shape)
    rows = nd.broadcast_like(rows.expand_dims(1), order)
    places = nd.broadcast_like(places.expand_dims(0), order)
    # One sort and a scatter: a second sort costs as much as the first.
    return nd.scatter_nd(places, nd.stack(rows, order), shape=values.shape)
