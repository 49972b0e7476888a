"""The multi-box loss of detectors with anchors.

GluonCV's ``SSDMultiBoxLoss`` in the terms of this package, with anchors to ignore and a
weight for each object.
"""

from __future__ import annotations

from mxnet import autograd, nd
from mxnet.ndarray import NDArray as Array

NEGATIVES = 3  # for each positive (Liu et al. 2016, section 2.2)


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


def _ranks(values: Array) -> Array:
    """Place of each value in its row, 0 for the largest, ``(B, A)``."""
    order = nd.argsort(values, axis=1, is_ascend=False)
    rows, places = (nd.arange(n, ctx=values.context) for n in values.shape)
    rows = nd.broadcast_like(rows.expand_dims(1), order)
    places = nd.broadcast_like(places.expand_dims(0), order)
    # One sort and a scatter: a second sort costs as much as the first.
    return nd.scatter_nd(places, nd.stack(rows, order), shape=values.shape)
