"""Data sets as items of an image and its label, from the layouts people have.

An item is an image ``(H, W, 3)``, uint8, RGB, and a label ``(M, 6)``, float32: corner
box in pixels, class id, difficult. A set has ``classes``, and ``problems``: the files
that are skipped and the objects that are left out.
"""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from pathlib import Path
from typing import Sequence

import numpy as np
from gluoncv.data import COCODetection, VOCDetection

from gluon_compress.data.images import (
    CACHE_BYTES,
    EXTENSIONS,
    Header,
    Pictures,
    read_header,
)
from gluon_compress.data.voc_xml import (
    Annotation,
    class_names,
    files_in,
    listed_name,
    read_annotation,
    read_lines,
    repair,
)

YEARS = (2007, 2012)


class VOCLayout:
    """A detection set in the folder layout of Pascal VOC.

    Parameters
    ----------
    root : path
        Holds ``JPEGImages``, ``Annotations`` and ``ImageSets/Main/<split>.txt``.
    split : str
        Every image that the list names belongs to it, whatever a second column of
        1, 0 or -1 says.
    classes : sequence of str or path, optional
        Names, or a file with one on each line. None: ``classes.txt`` of the root, or
        else all names in its annotations, sorted, whatever the split.
    unknown : str
        What to do with an object of another class: ``error``, or ``skip``.
    difficult : bool
        Whether objects marked difficult are in the labels.
    cache_bytes : int
        Decoded images are kept in memory up to this size.

    Attributes
    ----------
    classes : tuple of str
    repairs : Counter
        How many boxes were ``clipped`` to the frame, ``swapped`` (a maximum below its
        minimum) or dropped for ``no area``, objects ``left out`` or skipped as of an
        ``unknown class``, and images ``listed twice`` or of another size than
        annotated (``size differs``; their boxes are taken as they are).

    Raises
    ------
    ValueError
        If a folder or list is missing, an object's class is unknown, more than half
        of the images cannot be used, or more than half of those that can be differ in
        size from their annotations and a box is lost by that: it has an area in the
        annotated frame, and none in the image.

    Notes
    -----
    Boxes are as GluonCV's ``VOCDetection`` gives them, one less than in the file.
    Headers and annotations are read at once, pixels later: an image whose pixels turn
    out broken then is replaced by the next one, each time, so that a training with
    it can be repeated.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str,
        classes: Sequence[str] | str | os.PathLike | None = None,
        *,
        unknown: str = "error",
        difficult: bool = True,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if unknown not in ("error", "skip"):
            raise ValueError(f"unknown is {unknown!r}; allowed: error, skip")
        self.root, self.split = Path(root), split
        self.repairs: Counter = Counter()
        self._objects = (unknown, difficult)
        self.classes = class_names(self.root, classes)
        self._pictures = Pictures([], cache_bytes=cache_bytes)
        self._labels: list[np.ndarray] = []
        self._lost: list[str] = []
        listed = self._listed()
        for name, file in listed.items():
            self._add(name, file)
        self._refuse_ruins(len(listed), len(self))
        self._refuse_other_sizes()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        used, image = self._pictures.read(index)
        return image, self.label(used)

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Files that are skipped and objects that are left out, each with a reason."""
        return self._pictures.problems

    def label(self, index: int) -> np.ndarray:
        """Return the label of an image, ``(M, 6)``, without reading its pixels."""
        return self._labels[index].copy()

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        return self._pictures.files[index]

    def verify(self, *, workers: int = 2) -> dict:
        """Decode every image once and return what there is.

        Returns
        -------
        dict
            ``images`` that can be used, ``objects`` of each class in them,
            ``repairs`` and ``problems``.

        Raises
        ------
        ValueError
            If more than half of the images are broken.
        """
        whole = self._pictures.whole(workers=workers)
        self._refuse_ruins(len(whole), sum(whole))
        ids = [label[:, 4] for label, fine in zip(self._labels, whole) if fine]
        counts = Counter(np.concatenate(ids).astype(int).tolist())
        return {
            "images": sum(whole),
            "objects": {name: counts[i] for i, name in enumerate(self.classes)},
            "repairs": counted(self)["repairs"],
            "problems": list(self.problems),
        }

    def _listed(self) -> dict[str, Path | None]:
        """Return the names of the split, each with its image file."""
        place = self.root / "ImageSets" / "Main" / f"{self.split}.txt"
        files = files_in(self.root / "JPEGImages", EXTENSIONS)
        files_in(self.root / "Annotations", (".xml",))
        names: dict[str, Path | None] = {}
        for line in read_lines(place):
            name = listed_name(line, files)
            self.repairs["listed twice"] += name in names
            names[name] = files.get(name)
        if not names:
            raise ValueError(f"{place}: the list names no image")
        return names

    def _add(self, name: str, file: Path | None) -> None:
        place = self.root / "Annotations" / f"{name}.xml"
        wanted = self.root / "JPEGImages" / name
        try:
            if file is None:
                raise ValueError(f"{wanted}: no such image ({', '.join(EXTENSIONS)})")
            annotation, header = read_annotation(place), read_header(file)
        except ValueError as error:
            self._pictures.report(file or wanted, str(error))
            return
        self.repairs["left out"] += len(annotation.left_out)
        for reason in annotation.left_out:
            self._pictures.report(place, reason)
        upright, shape = _seen_as(annotation, header)
        self.repairs["size differs"] += annotation.size not in (None, shape)
        self._labels.append(self._label(annotation, shape, place))
        self._pictures.files.append(file)
        self._pictures.upright.append(upright)

    def _label(self, annotation: Annotation, shape, place: Path) -> np.ndarray:
        unknown, with_difficult = self._objects
        rows = []
        for name, box, difficult in annotation.objects:
            if name not in self.classes:
                if unknown == "error":
                    known = ", ".join(self.classes)
                    raise ValueError(f"{place}: class {name!r}; allowed: {known}")
                self.repairs["unknown class"] += 1
                continue
            corners, done = repair(box, shape)
            self.repairs.update(done)
            if corners is None and annotation.size not in (None, shape):
                self._note_lost(box, annotation.size, shape, place)
            if corners is not None and (with_difficult or not difficult):
                rows.append([*corners, self.classes.index(name), difficult])
        return np.array(rows, np.float32).reshape(-1, 6)

    def _refuse_ruins(self, listed: int, usable: int) -> None:
        if 2 * usable < listed:
            raise ValueError(
                f"{self.root}: only {usable} of the {listed} images of "
                f"{self.split!r} can be used; {self.problems[0][1]}"
            )

    def _note_lost(self, box, size, shape, place: Path) -> None:
        """Note a box that only the size in its annotation has room for."""
        if repair(box, size)[0] is not None:
            said, found = ("x".join(map(str, sides)) for sides in (size, shape))
            self._lost.append(f"{place} says {said}, its image is {found}")

    def _refuse_other_sizes(self) -> None:
        """Refuse annotations of other images: most sizes differ, and boxes are lost."""
        other = self.repairs["size differs"]
        if 2 * other > len(self) and self._lost:
            raise ValueError(
                f"{self.root}: {other} of the {len(self)} images of {self.split!r} "
                f"have another size than annotated, which loses {len(self._lost)} of "
                f"the boxes; allowed: images as they were annotated; {self._lost[0]}"
            )


def counted(dataset) -> dict:
    """Return how many images a set has and skips, and its repairs if it counts them.

    An object that is left out is a problem, but its image is used.
    """
    repairs = getattr(dataset, "repairs", None)
    skipped = len(dataset.problems) - (repairs["left out"] if repairs else 0)
    counts = {"images": len(dataset), "skipped": skipped}
    if repairs is None:
        return counts
    return {**counts, "repairs": {name: n for name, n in repairs.items() if n}}


def _seen_as(annotation: Annotation, header: Header) -> tuple[bool, tuple[int, int]]:
    """Return whether to turn the image upright, and its width and height then.

    Some tools annotate the image as it is stored, others as it is shown: the size in
    the annotation tells. Where it does not, GluonCV's reader turns it.
    """
    stored = (header.width, header.height)
    if header.turned and annotation.size == stored:
        return False, stored
    return True, header.upright


class Detections:
    """A detection set whose files and labels another loader has found.

    Parameters
    ----------
    files : sequence of path
    labels : sequence of array
        ``(M, 5)`` or ``(M, 6)`` for each file; rows without a class are padding.
    classes : sequence of str
    cache_bytes : int
        As for ``VOCLayout``.
    """

    def __init__(
        self, files, labels, classes, *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.classes = tuple(classes)
        self._pictures = Pictures(files, cache_bytes=cache_bytes)
        self._labels = [_six_columns(label) for label in labels]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        used, image = self._pictures.read(index)
        return image, self.label(used)

    def label(self, index: int) -> np.ndarray:
        """Return the label of an image, ``(M, 6)``, without reading its pixels."""
        return self._labels[index].copy()

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Files that could not be decoded, each with a reason."""
        return self._pictures.problems


def _six_columns(label) -> np.ndarray:
    rows = np.asarray(label, np.float32)
    rows = rows.reshape(len(rows), -1) if rows.size else rows.reshape(0, 6)
    rows = np.hstack([rows, np.zeros((len(rows), 6 - rows.shape[1]), np.float32)])
    return rows[rows[:, 4] >= 0]


def voc_gluoncv(
    root: str | os.PathLike, splits: str | Sequence[tuple[int, str]]
) -> Detections:
    """Return Pascal VOC 2007 and 2012 as GluonCV's ``VOCDetection`` reads it.

    Parameters
    ----------
    root : path
        Holds ``VOC2007``, ``VOC2012`` or both.
    splits : sequence of (year, name), or str
        A name alone means every year that has it: ``trainval`` is the usual 07+12.

    Raises
    ------
    ValueError
        If a folder or list is missing, or an annotation cannot be read.
    """
    root = Path(root)
    pairs: list[tuple[int, str]]
    if isinstance(splits, str):
        lists = {(year, splits): _voc_list(root, year, splits) for year in YEARS}
        pairs = [split for split, path in lists.items() if path.exists()]
        if not pairs:
            places = " and ".join(map(str, lists.values()))
            raise ValueError(f"{places}: there is no such file")
    else:
        pairs = list(splits)
    for year, name in pairs:
        if not _voc_list(root, year, name).exists():
            raise ValueError(f"{_voc_list(root, year, name)}: there is no such file")
    try:
        found = VOCDetection(str(root), pairs)
    except (OSError, SyntaxError, AttributeError, TypeError) as error:
        raise ValueError(f"{root}: GluonCV cannot read {pairs}: {error}") from None
    files = [found._image_path.format(*item) for item in found._items]
    return Detections(files, found._label_cache, found.classes)


def _voc_list(root: Path, year: int, name: str) -> Path:
    return root / f"VOC{year}" / "ImageSets" / "Main" / f"{name}.txt"


def coco_gluoncv(root: str | os.PathLike, split: str) -> Detections:
    """Return COCO as GluonCV's ``COCODetection`` reads it; needs pycocotools.

    Parameters
    ----------
    root : path
        Holds ``annotations`` and the folders of images.
    split : str
        ``train2017``, ``val2017`` or the name of a file in ``annotations``. Images
        without objects are left out of the training splits alone.

    Raises
    ------
    ValueError
        If pycocotools or a file is missing, or the annotations are not COCO's.
    """
    name = split if split.startswith("instances_") else f"instances_{split}"
    place = Path(root) / "annotations" / f"{name}.json"
    if not place.exists():
        raise ValueError(f"{place}: there is no such file")
    if importlib.util.find_spec("pycocotools") is None:
        raise ValueError("COCO needs pycocotools: pip install gluon_compress[coco]")
    try:
        found = COCODetection(str(root), [name], skip_empty="train" in name)
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise ValueError(f"{place}: GluonCV cannot read it: {error}") from None
    return Detections(found._items, found._labels, found.classes)
