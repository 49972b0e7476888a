"""What a released detector finds and what it gets wrong, for its card."""

from __future__ import annotations

from typing import Any, Iterator, Mapping, Sequence

import numpy as np

from gluon_compress.detection_errors import (
    IGNORED,
    KINDS,
    RIGHT,
    ImageDetections,
    Judged,
    average_precision,
    confusion,
    gains,
    judge,
    precision_recall,
)
from gluon_compress.markdown import percent, table

FILE = "accuracy.json"  # in the folder of a released detector
THRESHOLDS = np.round(np.arange(0.05, 0.96, 0.01), 2)
IOUS = np.round(np.arange(0.5, 1.0, 0.05), 2)
MOST_CONFUSED = 3  # pairs of classes that are named


def accuracy_of(
    images: Sequence[ImageDetections],
    classes: Sequence[str],
    on: str,
    *,
    chosen: Sequence[ImageDetections] | None = None,
    chosen_on: str | None = None,
) -> dict[str, Any]:
    """Return what a card says of a detector's accuracy, as JSON.

    Parameters
    ----------
    images : sequence of ImageDetections
        What the released net finds in the images it is measured on.
    classes : sequence of str
    on : str
        What these images are.
    chosen : sequence of ImageDetections, optional
        Of the images that the threshold is chosen on; None: ``images``.
    chosen_on : str, optional
        What those are.
    """
    judged = judge(images)
    same = chosen is None
    threshold = best_threshold(judged if chosen is None else judge(chosen))
    above = judged.at(threshold)
    errors = gains(judged, len(classes))
    return {
        "on": on,
        "images": len(images),
        "threshold": threshold,
        "threshold_on": on if same else chosen_on,
        "classes": _classes(images, judged, above, classes),
        "all": _found(above, np.ones_like(above.ids, bool), above.counted),
        "errors": {
            kind: {"at_threshold": above.counts()[kind], "mAP": errors[kind]}
            for kind in KINDS
        },
        "confused": _confused(above, classes),
    }


def best_threshold(judged: Judged) -> float:
    """Return the score from which on F1 over all classes is largest.

    F1 is the harmonic mean of precision and recall, over the detections and objects of
    all classes together. Of equal thresholds the highest is returned.
    """
    values = []
    for threshold in THRESHOLDS:
        above = judged.at(threshold)
        found = _found(above, np.ones_like(above.ids, bool), above.counted)
        precision, recall = found["precision"] or 0.0, found["recall"] or 0.0
        total = precision + recall
        values.append(2 * precision * recall / total if total else 0.0)
    best = len(values) - 1 - int(np.argmax(values[::-1]))
    return float(THRESHOLDS[best])


def _classes(
    images: Sequence[ImageDetections],
    judged: Judged,
    above: Judged,
    classes: Sequence[str],
) -> dict[str, Any]:
    strict = [judge(images, iou=float(iou)) for iou in IOUS]
    rows = {}
    for number, name in enumerate(classes):
        of_class = above.counted & (above.object_ids == number)
        curve = precision_recall(judged, number)
        has_objects = bool(of_class.sum())
        means = [
            average_precision(*precision_recall(each, number), "voc10")
            for each in strict
        ]
        rows[name] = {
            "objects": int(of_class.sum()),
            "voc07": average_precision(*curve, "voc07") if has_objects else None,
            "voc10": average_precision(*curve, "voc10") if has_objects else None,
            "voc10_50_95": float(np.mean(means)) if has_objects else None,
            **_found(above, above.ids == number, of_class),
        }
    return rows


def _found(judged: Judged, detected: np.ndarray, objects: np.ndarray) -> dict:
    """Return precision and recall of some detections and objects; None for none."""
    there = detected & (judged.kind != IGNORED)
    right = int((judged.kind[there] == RIGHT).sum())
    found = int((~np.isnan(judged.found[objects])).sum())
    return {
        "precision": right / int(there.sum()) if there.any() else None,
        "recall": found / int(objects.sum()) if objects.any() else None,
    }


def _confused(judged: Judged, classes: Sequence[str]) -> list[dict]:
    """Return which classes are most often taken for which."""
    counts = confusion(judged, len(classes))[: len(classes), : len(classes)]
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = [divmod(int(i), len(classes)) for i in order]
    return [
        {"object": classes[a], "taken_for": classes[b], "count": int(counts[a, b])}
        for a, b in pairs
        if counts[a, b]
    ]


# ---------------------------------------------------------------- the card


def accuracy_text(accuracy: Mapping[str, Any]) -> str:
    """Return the part of a card that shows an accuracy."""
    return "\n\n".join(_parts(accuracy))


def _parts(accuracy: Mapping[str, Any]) -> Iterator[str]:
    rows = [_row(name, row) for name, row in accuracy["classes"].items()]
    means = {key: _mean(accuracy, key) for key in ("voc07", "voc10", "voc10_50_95")}
    objects = sum(row["objects"] for row in accuracy["classes"].values())
    rows.append(_row("all", {"objects": objects, **means, **accuracy["all"]}))
    threshold, on = accuracy["threshold"], accuracy["on"]
    head = (
        *("class", "objects", "AP, VOC 2007", "AP, VOC 2010", "AP, 0.5:0.95"),
        *(f"precision at {threshold:.2f}", f"recall at {threshold:.2f}"),
    )
    yield (
        f"On the {accuracy['images']:,} images of {on}, with the released weights, in "
        "percent. AP is at an IoU of 0.5, or the mean of VOC 2010's from 0.5 to 0.95. "
        "Difficult objects do not count."
    )
    yield table(head, rows).rstrip()
    same = accuracy["threshold_on"] == on
    where = "these images themselves" if same else accuracy["threshold_on"]
    yield (
        f"The suggested score threshold is **{threshold:.2f}**. There, F1 over all "
        f"classes is largest on {where}"
        f"{', so other images may suit another one' if same else ''}."
    )
    yield (
        "What goes wrong: how often at this threshold, and how many points of mAP (VOC "
        "2010) are lost by it over all scores."
    )
    errors = [
        (kind, KINDS[kind], f"{row['at_threshold']:,}", percent(row["mAP"]))
        for kind, row in accuracy["errors"].items()
    ]
    yield table(("kind", "what it is", "count", "mAP lost"), errors).rstrip()
    pairs = [
        f"{pair['object']} for {pair['taken_for']} ({pair['count']:,})"
        for pair in accuracy["confused"]
    ]
    if pairs:
        yield f"Most often it takes {', '.join(pairs)}."


def _row(name: str, row: Mapping[str, Any]) -> tuple:
    keys = ("voc07", "voc10", "voc10_50_95", "precision", "recall")
    return (name, f"{row['objects']:,}", *(percent(row[key]) for key in keys))


def _mean(accuracy: Mapping[str, Any], key: str) -> float | None:
    values = [row[key] for row in accuracy["classes"].values() if row[key] is not None]
    return sum(values) / len(values) if values else None
