"""Accuracy of any callable: VOC mAP through GluonCV's metric, and top-1."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Sequence

import mxnet as mx
import numpy as np
from gluoncv.utils.metrics.voc_detection import VOC07MApMetric, VOCMApMetric

MEAN = "mAP"  # what GluonCV's metrics call the mean over classes
METRICS = {"voc07": VOC07MApMetric, "voc10": VOCMApMetric}
# The overlaps that COCO averages over.
IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


def voc_map(
    detect: Callable,
    batches: Iterable,
    classes: Sequence[str],
    *,
    size: int,
    metric: str = "voc07",
    iou: float | Sequence[float] = 0.5,
) -> dict[str, float]:
    """Return the mean average precision and the precision of each class.

    Parameters
    ----------
    detect : callable
        Images ``(B, 3, size, size)`` to ids ``(B, N, 1)``, scores ``(B, N, 1)`` and
        corner boxes ``(B, N, 4)`` in pixels; an id below 0 is padding.
    batches : iterable
        Pairs of images and labels ``(B, M, 6)``: corner box, class, difficult,
        padded with -1, in pixels of the resized image.
    classes : sequence of str
    size : int
        Boxes are clipped to it, as GluonCV's evaluation does.
    metric : str
        ``voc07`` (11 points) or ``voc10`` (area under the curve).
    iou : float or sequence of float
        Overlap from which a detection counts, measured as VOC does on the resized
        image (one pixel is added to width and height). Of several, such as ``IOUS``,
        each is measured and the mean returned.

    Returns
    -------
    dict
        ``mAP`` first, then one entry a class; NaN where a class has no object,
        which the mean leaves out.

    Raises
    ------
    ValueError
        For an unknown metric, an overlap outside 0 to 1, a label of no class, a class
        named ``mAP``, or when there is not one object to find (the difficult ones need
        not be).
    """
    if MEAN in classes:
        raise ValueError(f"class {MEAN!r} is named as the mean; allowed: other names")
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; allowed: {', '.join(METRICS)}")
    ious = [float(i) for i in (iou if isinstance(iou, (tuple, list)) else [iou])]
    if not ious or not all(0 < i <= 1 for i in ious):
        raise ValueError(f"iou is {iou!r}; allowed: above 0 to 1")
    make = METRICS[metric]
    measures = [make(iou_thresh=i, class_names=list(classes)) for i in ious]
    objects = 0
    for images, labels in batches:
        ids, scores, corner_boxes = detect(images)
        labels = _numpy(labels)
        objects += _count(labels, len(classes))
        found = np.clip(_numpy(corner_boxes), 0, size), _numpy(ids), _numpy(scores)
        for measure in measures:
            measure.update(*found, labels[..., :4], labels[..., 4:5], labels[..., 5:6])
    if objects == 0:
        raise ValueError("there is not one object in these images to evaluate on")
    names = measures[0].get()[0]
    values = np.mean([measure.get()[1] for measure in measures], axis=0)
    figures = dict(zip(names, map(float, values)))
    return {MEAN: figures.pop(MEAN), **figures}


def precisions(
    detect: Callable,
    batches: Iterable,
    classes: Sequence[str],
    *,
    size: int,
    metric: str = "voc07",
    iou: float = 0.5,
) -> dict[str, Any]:
    """Return what a result file says of a detector's precision, detecting once.

    Parameters
    ----------
    detect, batches, classes, size, metric, iou
        As for ``voc_map``.

    Returns
    -------
    dict
        ``mAP`` as ``voc_map`` gives it, ``metric``, ``iou``, ``mAP_50_95`` (the mean
        over ``IOUS`` of the area under the curve, whatever the metric is) and
        ``classes`` (the precision of each).

    Raises
    ------
    ValueError
        As ``voc_map`` does.
    """
    found = [
        (tuple(_numpy(part) for part in detect(images)), _numpy(labels))
        for images, labels in batches
    ]
    figures = voc_map(tuple, found, classes, size=size, metric=metric, iou=iou)
    strict = voc_map(tuple, found, classes, size=size, metric="voc10", iou=IOUS)
    value = figures.pop("mAP")
    how = {"metric": metric, "iou": iou, "mAP_50_95": strict["mAP"]}
    return {"mAP": value, **how, "classes": figures}


def _count(labels: np.ndarray, classes: int) -> int:
    """Return the number of objects that a detector has to find."""
    ids, difficult = labels[..., 4], labels[..., 5]
    if (ids >= classes).any():
        raise ValueError(
            f"a label has class {int(ids.max())}; allowed: 0 to {classes - 1}"
        )
    return int(((ids >= 0) & (difficult == 0)).sum())


def top1(classify: Callable, batches: Iterable) -> float:
    """Return the share of samples whose highest score is at their class.

    Parameters
    ----------
    classify : callable
        Images to scores ``(B, C)``.
    batches : iterable
        Pairs of images and class ids ``(B,)``.

    Raises
    ------
    ValueError
        If there is no sample.
    """
    right = total = 0
    for images, ids in batches:
        guess = _numpy(classify(images)).argmax(axis=1)
        right += int((guess == _numpy(ids).reshape(-1)).sum())
        total += len(guess)
    if total == 0:
        raise ValueError("there is not one sample to evaluate on")
    return right / total


def _numpy(array) -> np.ndarray:
    return array.asnumpy() if isinstance(array, mx.nd.NDArray) else np.asarray(array)
