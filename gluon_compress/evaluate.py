"""Accuracy of any callable: VOC's mAP, COCO's mAP, and top-1."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from typing import Any, Callable, Iterable, Mapping, Sequence

import mxnet as mx
import numpy as np
from gluoncv.utils.metrics.voc_detection import VOC07MApMetric, VOCMApMetric

from gluon_compress.sizes import Size, size_pair

MEAN = "mAP"  # what GluonCV's metrics call the mean over classes
STRICT = "voc_mAP_50_95"
METRICS = {"voc07": VOC07MApMetric, "voc10": VOCMApMetric}
# The overlaps that COCO averages over.
IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


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
        For an unknown metric, an overlap outside 0 to 1, a label of no class, a class
        named ``mAP``, or when there is not one object to find (the difficult ones need
        not be).
    """
    if MEAN in classes:
        raise ValueError(f"class {MEAN!r} is named as the mean; allowed: other names")
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; allowed: {', '.join(METRICS)}")
    ious = np.ravel(np.asarray(iou, float)).tolist()
    if not ious or not all(0 < i <= 1 for i in ious):
        raise ValueError(f"iou is {iou!r}; allowed: above 0 to 1")
    make = METRICS[metric]
    measures = [make(iou_thresh=i, class_names=list(classes)) for i in ious]
    height, width = size_pair(size)
    objects = 0
    for images, labels in batches:
        ids, scores, corner_boxes = detect(images)
        labels = _numpy(labels)
        objects += _count(labels, len(classes))
        detections = (
            np.clip(_numpy(corner_boxes), 0, [width, height] * 2),
            _numpy(ids),
            _numpy(scores),
        )
        truth = labels[..., :4], labels[..., 4:5], labels[..., 5:6]
        for measure in measures:
            measure.update(*detections, *truth)
    if objects == 0:
        raise ValueError("there is not one object in these images to evaluate on")
    names = measures[0].get()[0]
    values = np.mean([measure.get()[1] for measure in measures], axis=0)
    figures = dict(zip(names, map(float, values)))
    return {MEAN: figures.pop(MEAN), **figures}


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
    detected = detect_all(detect, batches)

    def measured(**settings: Any) -> dict[str, float]:
        return voc_map(
            lambda results: results, detected, classes, size=size, **settings
        )

    figures = measured(metric=metric, iou=iou)
    strict = measured(metric="voc10", iou=IOUS)
    return {
        MEAN: figures.pop(MEAN),
        "metric": metric,
        "iou": iou,
        STRICT: strict[MEAN],
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
        If pycocotools is missing, for a label of no class, or when there is not one
        object to find.
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
        results = [_numpy(part) for part in detect(inputs)]
        labels = _numpy(labels)
        objects += _count(labels, len(classes))
        for label, ids, scores, corner_boxes in zip(labels, *results):
            number = len(images) + 1
            images.append({"id": number})
            truth += _coco_truth(label, number, len(truth) + 1)
            detections += _coco_detections(ids, scores, corner_boxes, number)
    if objects == 0:
        raise ValueError("there is not one object in these images to evaluate on")
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
