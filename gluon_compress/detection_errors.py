"""What kinds of errors a detector makes, as TIDE defines them.

Bolya, Foley, Hays, Hoffman 2020, "TIDE: A General Toolbox for Identifying Object
Detection Errors" (arXiv:2008.08115), section 2.2. Matching and precision are VOC's, so
that what the errors are subtracted from is the mAP that was measured.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from typing import Collection, Iterable, Sequence

import numpy as np

from gluon_compress.boxes import iou as box_iou
from gluon_compress.sizes import Size, size_pair
from gluon_compress.storage.atomic import write_atomically
from gluon_compress.storage.reading import finite, read_arrays, write_arrays
from gluon_compress.validation import listed, wrong

DETECTIONS = "detections.npz"  # in the folder of a stage
# Of a detection: right, ignored (a difficult object), or what is wrong with it.
RIGHT, IGNORED = "right", "ignored"
KINDS = {
    "class": "right place, wrong class",
    "place": "right class, overlaps too little",
    "both": "overlaps an object of another class, and too little",
    "duplicate": "of an object that a better detection has found",
    "background": "where there is no object",
    "missed": "objects that nothing above comes near",
}
NEAR = 0.1  # IoU up to which a detection is of the background
POINTS = np.arange(0.0, 1.1, 0.1)  # of recall, where VOC 2007 reads precision


@dataclass(frozen=True)
class ImageDetections:
    """The objects of an image, and what a detector found in it.

    Parameters
    ----------
    label : numpy.ndarray
        ``(M, 6)``: corner box in pixels of the net's input, class id, difficult.
    ids, scores : numpy.ndarray
        ``(N,)``.
    corner_boxes : numpy.ndarray
        ``(N, 4)``, pixels of the net's input.
    number : int
        Of the image in its data set, some of whose images may have been left out.
    """

    label: np.ndarray
    ids: np.ndarray
    scores: np.ndarray
    corner_boxes: np.ndarray
    number: int = 0


def per_image(
    detected: Iterable, size: Size, left_out: Collection[int] = ()
) -> list[ImageDetections]:
    """Return the images of batches of results and labels, without padding.

    Parameters
    ----------
    detected : iterable
        Pairs of (ids ``(B, N, 1)``, scores ``(B, N, 1)``, corner boxes ``(B, N, 4)``)
        and labels ``(B, M, 6)``.
    size : int or (int, int)
        Height and width that boxes are clipped to.
    left_out : collection of int
        Numbers of the images that are not in the batches.
    """
    height, width = size_pair(size)
    images = []
    numbers = (number for number in itertools.count() if number not in left_out)
    for results, labels in detected:
        for ids, scores, boxes, label in zip(*results, labels):
            there = ids.reshape(-1) >= 0
            images.append(
                ImageDetections(
                    label[label[:, 4] >= 0],
                    ids.reshape(-1)[there].astype(int),
                    scores.reshape(-1)[there],
                    np.clip(boxes[there], 0, [width, height] * 2),
                    next(numbers),
                )
            )
    return images


# ---------------------------------------------------------------- files


def save_detections(path: str | os.PathLike, images: Sequence[ImageDetections]) -> None:
    """Write the detections of a data set, image by image, as arrays."""
    empty = ImageDetections(
        np.zeros((0, 6)), np.zeros(0, int), np.zeros(0), np.zeros((0, 4))
    )
    rows = [empty, *images]
    arrays = {
        "numbers": np.array([image.number for image in images], np.int32),
        "objects": np.array([len(image.label) for image in images], np.int32),
        "detections": np.array([len(image.ids) for image in images], np.int32),
        "labels": np.concatenate([row.label for row in rows]).astype(np.float32),
        "ids": np.concatenate([row.ids for row in rows]).astype(np.int32),
        "scores": np.concatenate([row.scores for row in rows]).astype(np.float32),
        "boxes": np.concatenate([row.corner_boxes for row in rows]).astype(np.float32),
    }
    write_atomically(path, write_arrays(arrays))


def load_detections(path: str | os.PathLike) -> list[ImageDetections]:
    """Read what ``save_detections`` wrote.

    Raises
    ------
    ValueError
        If the file is missing or is not of this kind.
    """
    arrays = read_arrays(path)
    if set(arrays) != set(_STORED):
        raise wrong(f"{path}: the arrays", sorted(arrays), listed(_STORED))
    finite(arrays, path)
    for name, (kind, shape, counted_by) in _STORED.items():
        array, count = arrays[name], arrays[counted_by] if counted_by else None
        fits = array.dtype.kind == kind and array.shape[1:] == shape and array.ndim
        if not fits or (count is not None and len(array) != count.sum()):
            raise ValueError(f"{path}: holds no detections: {name} does not fit")
    counts = [arrays[name] for name in ("objects", "detections", "numbers")]
    if any((array < 0).any() for array in counts):
        raise ValueError(f"{path}: holds no detections: a count is below 0")
    if len({len(array) for array in counts}) > 1:
        raise ValueError(f"{path}: holds no detections: the counts do not fit")
    if not len(arrays["objects"]):
        return []
    columns = [
        np.split(arrays[name], np.cumsum(arrays[_STORED[name][2]])[:-1])
        for name in ("labels", "ids", "scores", "boxes")
    ]
    return list(map(ImageDetections, *columns, arrays["numbers"].tolist()))


# Kind and shape of a row of each array, and what counts its rows image by image.
_STORED: dict[str, tuple[str, tuple, str]] = {
    "numbers": ("i", (), ""),
    "objects": ("i", (), ""),
    "detections": ("i", (), ""),
    "labels": ("f", (6,), "objects"),
    "ids": ("i", (), "detections"),
    "scores": ("f", (), "detections"),
    "boxes": ("f", (4,), "detections"),
}


# ---------------------------------------------------------------- errors


@dataclass(frozen=True)
class Judged:
    """The detections and objects of a data set, matched.

    Parameters
    ----------
    image, ids, scores : numpy.ndarray
        ``(D,)``, of each detection: the number of its image, class, score.
    corner_boxes : numpy.ndarray
        ``(D, 4)``.
    kind : numpy.ndarray
        ``(D,)``, text: ``right``, ``ignored`` or one of ``KINDS``.
    target : numpy.ndarray
        ``(D,)``, the object that a detection found, or nearly found if its kind is
        ``class`` or ``place``; else -1.
    object_image, object_ids, areas, counted : numpy.ndarray
        ``(G,)``, of each object: the number of its image, class, area in pixels of the
        net's input, whether it is to be found (not difficult).
    found : numpy.ndarray
        ``(G,)``, the score that an object was found with; NaN if it was not.
    """

    image: np.ndarray
    ids: np.ndarray
    scores: np.ndarray
    corner_boxes: np.ndarray
    kind: np.ndarray
    target: np.ndarray
    object_image: np.ndarray
    object_ids: np.ndarray
    areas: np.ndarray
    counted: np.ndarray
    found: np.ndarray

    @property
    def missed(self) -> np.ndarray:
        """Which objects ``(G,)`` no detection finds or nearly finds."""
        near = np.isin(self.kind, ("class", "place"))
        missed = self.counted & np.isnan(self.found)
        missed[self.target[near]] = False
        return missed

    def at(self, threshold: float) -> Judged:
        """Return the same without detections whose score is below a threshold."""
        kept = self.scores >= threshold
        with np.errstate(invalid="ignore"):
            found = np.where(self.found >= threshold, self.found, np.nan)
        names = ("image", "ids", "scores", "corner_boxes", "kind", "target")
        return replace(self, found=found, **{n: getattr(self, n)[kept] for n in names})

    def counts(self) -> dict[str, int]:
        """Return how many errors of each kind there are."""
        counts = {kind: int((self.kind == kind).sum()) for kind in KINDS}
        return {**counts, "missed": int(self.missed.sum())}

    def errors_of_images(self, images: int) -> np.ndarray:
        """Return how many wrong detections and lost objects each image has."""
        wrong = np.isin(self.kind, list(KINDS))
        lost = self.counted & np.isnan(self.found)
        errors = np.bincount(self.image[wrong], minlength=images)
        return errors + np.bincount(self.object_image[lost], minlength=images)


def judge(
    images: Sequence[ImageDetections], *, iou: float = 0.5, near: float = NEAR
) -> Judged:
    """Match detections with objects, and say what is wrong with each detection.

    A detection finds the object of its class that it overlaps most, if by ``iou`` and
    if no better detection has. The others are, in this order: of a ``place`` if they
    overlap an object of their class by ``near`` at least, of a ``class`` if they
    overlap one of another class by ``iou``, a ``duplicate``, of the ``background`` if
    they overlap nothing by ``near``, or wrong in ``both`` ways.

    Parameters
    ----------
    images : sequence of ImageDetections
    iou : float
        Overlap from which a detection counts, measured as VOC does (one pixel is added
        to width and height).
    near : float
    """
    rows: list[tuple] = []
    first = 0  # number of the image's first object
    found: list[np.ndarray] = []
    for number, image in enumerate(images):
        scores = np.full(len(image.label), np.nan)
        order = np.argsort(-image.scores, kind="stable")
        overlaps = _overlaps(image)
        for i in order:
            kind, target = _kind(
                image, overlaps[i], int(image.ids[i]), scores, iou, near
            )
            if kind == RIGHT:
                scores[target] = image.scores[i]
            at = first + target if target >= 0 else -1
            row = (number, image.ids[i], image.scores[i], image.corner_boxes[i])
            rows.append((*row, kind, at))
        found.append(scores)
        first += len(image.label)
    labels = np.concatenate([np.zeros((0, 6)), *(image.label for image in images)])
    sides = labels[:, 2:4] - labels[:, :2]
    columns = list(zip(*rows)) or [()] * 6
    return Judged(
        np.array(columns[0], int),
        np.array(columns[1], int),
        np.array(columns[2], float),
        np.array(columns[3], float).reshape(-1, 4),
        np.array(columns[4], str),
        np.array(columns[5], int),
        np.repeat(np.arange(len(images)), [len(image.label) for image in images]),
        labels[:, 4].astype(int),
        sides.prod(axis=1),
        labels[:, 5] == 0,
        np.concatenate([np.zeros(0), *found]),
    )


def _overlaps(image: ImageDetections) -> np.ndarray:
    """Return the IoU of each detection with each object, with VOC's extra pixel."""
    more = np.array([0, 0, 1, 1])
    objects = np.asarray(image.label[:, :4], float) + more
    return box_iou(np.asarray(image.corner_boxes, float) + more, objects)


def _kind(
    image: ImageDetections,
    overlaps: np.ndarray,
    class_id: int,
    found: np.ndarray,
    iou: float,
    near: float,
) -> tuple[str, int]:
    """Return what a detection is, and the number of its object in the image or -1."""
    if not len(overlaps):
        return "background", -1
    same = image.label[:, 4] == class_id
    of_class, of_others = np.where(same, overlaps, -1), np.where(same, -1, overlaps)
    best, other = int(of_class.argmax()), int(of_others.argmax())
    if of_class[best] >= iou:
        if image.label[best, 5] > 0:
            return IGNORED, best
        return (RIGHT, best) if np.isnan(found[best]) else ("duplicate", -1)
    if of_class[best] >= near:
        return "place", best
    if of_others[other] >= iou:
        return "class", other
    return ("background" if overlaps.max() <= near else "both"), -1


# ---------------------------------------------------------------- precision


def precision_recall(judged: Judged, class_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall of a class, detection by detection, best first.

    A class without an object to find has a recall of NaN.
    """
    rows = (judged.ids == class_id) & (judged.kind != IGNORED)
    objects = int((judged.counted & (judged.object_ids == class_id)).sum())
    return _curve(judged.scores[rows], judged.kind[rows] == RIGHT, objects)


def _curve(
    scores: np.ndarray, right: np.ndarray, objects: int
) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, len(hits) + 1)
    return precision, (hits / objects if objects else np.full(len(hits), np.nan))


def average_precision(
    precision: np.ndarray, recall: np.ndarray, metric: str = "voc10"
) -> float:
    """Return VOC's average precision of a curve: ``voc07`` (11 points) or ``voc10``."""
    if not len(recall):
        return 0.0
    if metric == "voc07":
        best = [precision[recall >= point] for point in POINTS]
        return float(np.mean([part.max() if len(part) else 0.0 for part in best]))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(np.concatenate([[0.0], recall]))
    return float((steps * envelope).sum())


def mean_precision(
    judged: Judged, classes: int, *, metric: str = "voc10", fix: str | None = None
) -> float:
    """Return the mAP, as it is or as it would be without one kind of errors.

    Parameters
    ----------
    judged : Judged
    classes : int
        Number of classes; those without an object to find are left out of the mean.
    metric : str
        ``voc07`` or ``voc10``.
    fix : str, optional
        One of ``KINDS``. Of detections in the wrong ``class`` or ``place`` the best of
        each object that nothing found becomes right, the others disappear. ``missed``
        objects are no longer asked for. All other errors disappear.
    """
    ids, right, kept = judged.ids.copy(), judged.kind == RIGHT, judged.kind != IGNORED
    counted = judged.counted & ~judged.missed if fix == "missed" else judged.counted
    wrong = np.flatnonzero(judged.kind == fix)
    kept[wrong] = False
    if fix in ("class", "place"):
        taken = set(np.flatnonzero(~np.isnan(judged.found)))
        for i in wrong[np.argsort(-judged.scores[wrong], kind="stable")]:
            target = int(judged.target[i])
            if judged.counted[target] and target not in taken:
                taken.add(target)
                ids[i], right[i], kept[i] = judged.object_ids[target], True, True
    values = []
    for number in range(classes):
        objects = int((counted & (judged.object_ids == number)).sum())
        if not (judged.counted & (judged.object_ids == number)).any():
            continue
        rows = kept & (ids == number)
        curve = _curve(judged.scores[rows], right[rows], objects)
        values.append(average_precision(*curve, metric) if objects else 1.0)
    return float(np.mean(values)) if values else float("nan")


def gains(judged: Judged, classes: int, *, metric: str = "voc10") -> dict[str, float]:
    """Return by how much the mAP would rise without each kind of errors alone."""
    now = mean_precision(judged, classes, metric=metric)
    return {
        kind: mean_precision(judged, classes, metric=metric, fix=kind) - now
        for kind in KINDS
    }


def confusion(judged: Judged, classes: int) -> np.ndarray:
    """Return how often objects of each class are taken for each class.

    Returns
    -------
    numpy.ndarray
        ``(C + 1, C + 1)``: rows are the classes of objects and then no object, columns
        what was detected and then nothing.
    """
    table = np.zeros((classes + 1, classes + 1), int)
    seen = ~np.isnan(judged.found)
    for row, kind, target in zip(judged.ids, judged.kind, judged.target):
        if kind == IGNORED or (kind == "class" and not judged.counted[target]):
            continue
        is_of_object = kind in (RIGHT, "class")
        table[judged.object_ids[target] if is_of_object else classes, row] += 1
        if kind == "class":
            seen[target] = True
    for class_id in judged.object_ids[judged.counted & ~seen]:
        table[class_id, classes] += 1
    return table
