"""Accuracy of any callable: VOC's mAP, COCO's mAP, and top-1."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
from collections import defaultdict
from typing import Any, Callable, Iterable, Mapping, Sequence

import mxnet as mx
import numpy as np
from gluoncv.utils.metrics.voc_detection import VOC07MApMetric, VOCMApMetric

from gluon_compress.boxes import best_overlaps
from gluon_compress.sizes import Size, size_pair

LOG = logging.getLogger(__name__)
MEAN = "mAP"  # what GluonCV's metrics call the mean over classes
STRICT = "voc_mAP_50_95"
_PIECES = 256  # small arrays that are joined
MOST_OF_COCO = 100  # detections of an image that COCO's metric looks at
OF_NMS = "post_nms and nms_topk of an SSD; larger ones find them"
OF_COCO = "that COCO's metric looks at; voc_map has no such limit"
LARGEST = 4e4  # pixels; COCO's metric overlooks boxes of more than 1e10 pixels
# The overlaps that COCO averages over.
IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


class _AreaMetric(VOCMApMetric):
    """GluonCV's metric of the area under the curve, without a loop over detections."""

    def _average_precision(self, rec: Any, prec: Any) -> float:
        if rec is None or prec is None:
            return float("nan")
        recalls = np.concatenate([[0.0], rec, [1.0]])
        precisions = np.concatenate([[0.0], np.nan_to_num(prec), [0.0]])
        # From each recall on, the highest precision.
        highest = np.maximum.accumulate(precisions[::-1])[::-1]
        steps = np.flatnonzero(recalls[1:] != recalls[:-1])
        return np.sum((recalls[steps + 1] - recalls[steps]) * highest[steps + 1])


METRICS = {"voc07": VOC07MApMetric, "voc10": _AreaMetric}
_said: set[tuple[int, int]] = set()


def warn_of_limit(
    objects: int, detections: int | None, place: str = "", *, reason: str = OF_NMS
) -> None:
    """Log that some objects cannot be found; once for each pair of numbers.

    Parameters
    ----------
    objects : int
        The largest number of objects in an image, difficult ones left out.
    detections : int or None
        The largest number of detections in an image; None: no limit.
    place : str
        Which images these are.
    reason : str
        What sets the limit, and what to do.
    """
    if detections is None or objects <= detections or (objects, detections) in _said:
        return
    _said.add((objects, detections))
    LOG.warning(
        "%s%d objects in an image, but no more than %d detections (%s): the others "
        "count as missed",
        f"{place}: " if place else "",
        objects,
        detections,
        reason,
    )


def voc_map(
    detect: Callable,
    batches: Iterable,
    classes: Sequence[str],
    *,
    size: Size,
    metric: str = "voc07",
    iou: float | Sequence[float] = 0.5,
) -> dict[str, float]:
    """Return the mean average precision and the precision of each class.

    Parameters
    ----------
    detect : callable
        Images ``(B, 3, H, W)`` to ids ``(B, N, 1)``, scores ``(B, N, 1)`` and
        corner boxes ``(B, N, 4)`` in pixels; an id below 0 is padding.
    batches : iterable
        Pairs of images and labels ``(B, M, 6)``: corner box, class, difficult,
        padded with -1, in pixels of the resized image.
    classes : sequence of str
    size : int or (int, int)
        Height and width of the images; boxes are clipped to it, as GluonCV's evaluation
        does.
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
        For an unknown metric, an overlap outside 0 to 1, a label of no class, a
        detection or a label that is not a number, a class named ``mAP``, or when there
        is not one object to find (the difficult ones need not be).
    """
    ious = np.ravel(np.asarray(iou, float)).tolist()
    measures = _measures(metric, ious, classes)
    _measure(measures, detect, batches, classes, size)
    return _figures(measures)


class _Grown:
    """Numbers that are added piece by piece, in little more memory than they take.

    GluonCV's metrics make an array of each, and do not mind that it is no list.
    """

    def __init__(self) -> None:
        self._pieces: list[np.ndarray] = []
        self._large: list[np.ndarray] = []

    def extend(self, values: np.ndarray) -> None:
        """Add numbers."""
        if len(values):
            self._pieces.append(values)
        if len(self._pieces) >= _PIECES:
            self._large.append(np.concatenate(self._pieces))
            self._pieces = []

    def __array__(self, dtype: Any = None) -> np.ndarray:
        pieces = [*self._large, *self._pieces]
        values = np.concatenate(pieces) if pieces else np.array([])
        return values if dtype is None else values.astype(dtype)


def _measures(metric: str, ious: Sequence[float], classes: Sequence[str]) -> list:
    """Return one of GluonCV's metrics for each overlap."""
    if MEAN in classes:
        raise ValueError(f"class {MEAN!r} is named as the mean; allowed: other names")
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; allowed: {', '.join(METRICS)}")
    if not ious or not all(0 < i <= 1 for i in ious):
        iou = ious[0] if len(ious) == 1 else ious
        raise ValueError(f"iou is {iou!r}; allowed: above 0 to 1")
    return [METRICS[metric](iou_thresh=i, class_names=list(classes)) for i in ious]


def _measure(
    measures: Sequence[VOCMApMetric],
    detect: Callable,
    batches: Iterable,
    classes: Sequence[str],
    size: Size,
) -> None:
    """Add the detections and objects of all batches to metrics."""
    height, width = size_pair(size)
    scores: dict[int, _Grown] = defaultdict(_Grown)
    for measure in measures:
        measure._score, measure._match = scores, defaultdict(_Grown)
    objects = 0
    for images, labels in batches:
        ids, values, corner_boxes = _detections(detect(images))
        labels = _numpy(labels)
        objects += _count(labels, len(classes), corner_boxes.shape[1])
        corner_boxes = np.clip(corner_boxes, 0, [width, height] * 2)
        for image in zip(ids[..., 0], values[..., 0], corner_boxes, labels):
            _add_image(measures, *image)
    if objects == 0:
        raise ValueError("these images hold no object to evaluate on")


def _figures(measures: Sequence[VOCMApMetric]) -> dict[str, float]:
    """Return the means over metrics: ``mAP`` first, then each class."""
    names = measures[0].get()[0]
    values = np.mean([measure.get()[1] for measure in measures], axis=0)
    figures = dict(zip(names, map(float, values)))
    return {MEAN: figures.pop(MEAN), **figures}


def _add_image(
    measures: Sequence[VOCMApMetric],
    ids: np.ndarray,
    scores: np.ndarray,
    corner_boxes: np.ndarray,
    label: np.ndarray,
) -> None:
    """Add the detections and objects of an image to metrics, as their ``update`` does.

    That computes all overlaps again for each metric, over ten times as slowly. Scores
    are those of all metrics.
    """
    found, label = ids >= 0, label[label[:, 4] >= 0]
    ids, scores = ids[found].astype(int), scores[found]
    more = np.array([0, 0, 1, 1], np.float32)
    detected, wanted = corner_boxes[found] + more, label[:, :4] + more
    classes = label[:, 4].astype(int)
    ious = np.array([measure.iou_thresh for measure in measures])
    for number in np.unique(np.concatenate([ids, classes])):
        order = np.flatnonzero(ids == number)
        order = order[scores[order].argsort()[::-1]]
        objects = wanted[classes == number]
        difficult = label[classes == number, 5] != 0
        hits = np.zeros((len(measures), len(order)), np.int8)
        if len(objects) and len(order):
            best, most = best_overlaps(detected[order], objects)
            rows, near = np.nonzero(most >= ious[:, None])
            # The first of a metric's detections that are nearest to an object.
            first = np.unique(rows * len(objects) + best[near], return_index=True)[1]
            hits[rows[first], near[first]] = 1
            ignored = difficult[best[near]]
            hits[rows[ignored], near[ignored]] = -1
        measures[0]._score[number].extend(scores[order])
        for measure, row in zip(measures, hits):
            measure._n_pos[number] += int((~difficult).sum())
            measure._match[number].extend(row)


def detect_all(detect: Callable, batches: Iterable) -> list[tuple]:
    """Return the results of all batches, in memory, with their labels.

    Parameters
    ----------
    detect, batches
        As for ``voc_map``.

    Returns
    -------
    list of (results, labels)
        NumPy arrays: ids, scores and corner boxes; and labels.
    """
    return [
        (tuple(_numpy(part) for part in detect(images)), _numpy(labels))
        for images, labels in batches
    ]


def precisions(
    detect: Callable,
    batches: Iterable,
    classes: Sequence[str],
    *,
    size: Size,
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
        ``mAP`` as ``voc_map`` gives it, ``metric``, ``iou``, ``voc_mAP_50_95`` (the
        mean over ``IOUS`` of VOC's area under the curve, whatever the metric is) and
        ``classes`` (the precision of each).

    Raises
    ------
    ValueError
        As ``voc_map`` does.
    """
    measures = _measures(metric, [iou], classes)
    strict = _measures("voc10", IOUS, classes)
    _measure([*measures, *strict], detect, batches, classes, size)
    figures = _figures(measures)
    return {
        MEAN: figures.pop(MEAN),
        "metric": metric,
        "iou": iou,
        STRICT: _figures(strict)[MEAN],
        "classes": figures,
    }


def strict_map(result: Mapping[str, Any]) -> float | None:
    """Return the mean over ``IOUS`` that a result file states, of any version.

    Files of before call it ``mAP_50_95``, as if it were COCO's.
    """
    return result.get(STRICT, result.get("mAP_50_95"))


def coco_map(
    detect: Callable, batches: Iterable, classes: Sequence[str]
) -> dict[str, float]:
    """Return COCO's own mean average precision, by pycocotools.

    Parameters
    ----------
    detect, batches, classes
        As for ``voc_map``; any detection set will do. Objects marked difficult are
        ignored as COCO ignores crowds.

    Returns
    -------
    dict
        ``mAP`` (over ``IOUS``), ``mAP_50`` and ``mAP_75``: boxes of all areas, at most
        100 detections an image. Resizing an image does not change them.

    Raises
    ------
    ValueError
        If pycocotools is missing, for a label of no class, a detection or a label that
        is not a number, or when there is not one object to find.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise ValueError(
            "COCO's mAP needs pycocotools: pip install 'gluon_compress[coco]'"
        )
    images: list[dict] = []
    truth: list[dict] = []
    detections: list[dict] = []
    objects = 0
    for inputs, labels in batches:
        results = _detections(detect(inputs))
        labels = _numpy(labels)
        objects += _count(labels, len(classes), results[0].shape[1], MOST_OF_COCO)
        for label, ids, scores, corner_boxes in zip(labels, *results):
            number = len(images) + 1
            images.append({"id": number})
            truth += _coco_truth(label, number, len(truth) + 1)
            detections += _coco_detections(ids, scores, corner_boxes, number)
    if objects == 0:
        raise ValueError("these images hold no object to evaluate on")
    names = [{"id": i, "name": name} for i, name in enumerate(classes)]
    return _coco_figures(
        {"images": images, "annotations": truth, "categories": names}, detections
    )


def _coco_truth(label: np.ndarray, image: int, first: int) -> list[dict]:
    rows = label[label[:, 4] >= 0]
    return [
        {
            "id": first + i,
            "image_id": image,
            "category_id": int(row[4]),
            "bbox": _coco_box(row[:4]),
            "area": float((row[2] - row[0]) * (row[3] - row[1])),
            "iscrowd": int(row[5]),
        }
        for i, row in enumerate(rows)
    ]


def _coco_detections(
    ids: np.ndarray, scores: np.ndarray, corner_boxes: np.ndarray, image: int
) -> list[dict]:
    ids, scores = ids.reshape(-1), scores.reshape(-1)
    return [
        {
            "image_id": image,
            "category_id": int(ids[i]),
            "bbox": _coco_box(corner_boxes[i]),
            "score": float(scores[i]),
        }
        for i in np.flatnonzero(ids >= 0)
    ]


def _coco_box(corner_box: np.ndarray) -> list[float]:
    """Return xmin, ymin, width and height."""
    x0, y0, x1, y1 = map(float, corner_box)
    return [x0, y0, x1 - x0, y1 - y0]


def _coco_figures(truth: dict, detections: list[dict]) -> dict[str, float]:
    coco = importlib.import_module("pycocotools.coco").COCO
    evaluation = importlib.import_module("pycocotools.cocoeval").COCOeval
    names = (MEAN, f"{MEAN}_50", f"{MEAN}_75")
    if not detections:  # which pycocotools cannot read
        return dict.fromkeys(names, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # it reports every step
        annotated = coco()
        annotated.dataset = truth
        annotated.createIndex()
        run = evaluation(annotated, annotated.loadRes(detections), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return {name: float(value) for name, value in zip(names, run.stats)}


def _count(
    labels: np.ndarray, classes: int, detections: int, most: int | None = None
) -> int:
    """Return the number of objects that a detector has to find; warn of too many."""
    ids, difficult = labels[..., 4], labels[..., 5]
    if not np.isfinite(labels).all():
        raise ValueError("a label is not a number (NaN, infinite); allowed: numbers")
    if (ids >= classes).any():
        raise ValueError(
            f"a label has class {int(ids.max())}; allowed: 0 to {classes - 1}"
        )
    counts = ((ids >= 0) & (difficult == 0)).sum(axis=1)
    objects = int(counts.max(initial=0))
    if most is not None and most < detections:
        warn_of_limit(objects, most, reason=OF_COCO)
    else:
        warn_of_limit(objects, detections)
    return int(counts.sum())


def _detections(results: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """Return ids, scores and corner boxes, these within ``LARGEST``.

    Raises
    ------
    ValueError
        If one that counts is not a number: nobody can say whether it hits.
    """
    ids, scores, corner_boxes = (_numpy(part) for part in results)
    with np.errstate(invalid="ignore"):
        padding = ids[..., 0] < 0
    rows = np.concatenate([ids, scores, corner_boxes], axis=-1)
    wrong = (np.isnan(rows).any(axis=-1) | np.isinf(ids[..., 0])) & ~padding
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} of {int((~padding).sum())} detections have a class, "
            "score or box that is not a number (NaN); allowed: numbers; the net, or "
            "what decodes its outputs, is broken"
        )
    return ids, scores, np.clip(corner_boxes, -LARGEST, LARGEST)


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
        If there is no sample, a score is not a number, or an id is of no class.
    """
    right = total = 0
    for images, ids in batches:
        scores, ids = _numpy(classify(images)), _numpy(ids).reshape(-1)
        if scores.ndim != 2 or len(scores) != len(ids):
            allowed = f"one row for each of {len(ids)} images"
            raise ValueError(f"scores of shape {scores.shape}; allowed: {allowed}")
        if np.isnan(scores).any():
            count = int(np.isnan(scores).any(axis=1).sum())
            raise ValueError(
                f"the scores of {count} of {len(scores)} images are not numbers (NaN); "
                "allowed: numbers; the net is broken"
            )
        whole = (ids >= 0) & (ids < scores.shape[1]) & (ids == np.floor(ids))
        outside = ids[~whole]
        if len(outside):
            allowed = f"0 to {scores.shape[1] - 1}"
            raise ValueError(f"a label has class {outside[0]:g}; allowed: {allowed}")
        right += int((scores.argmax(axis=1) == ids).sum())
        total += len(ids)
    if total == 0:
        raise ValueError("there is not one sample to evaluate on")
    return right / total


def _numpy(array) -> np.ndarray:
    return array.asnumpy() if isinstance(array, mx.nd.NDArray) else np.asarray(array)
