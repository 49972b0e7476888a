"""Detection data sets in the folder layout of Pascal VOC.

An item is an image ``(H, W, 3)``, uint8, RGB, and a label ``(M, 6)``, float32: corner
box in pixels, class id, difficult. A data set has ``classes``, and ``problems``: files
that are skipped and objects that are left out.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Sequence

import numpy as np

from gluon_compress.data.class_choice import ClassChoice
from gluon_compress.data.images import (
    CACHE_BYTES,
    EXTENSIONS,
    Header,
    ImageStore,
    read_header,
)
from gluon_compress.data.voc_xml import (
    VOCAnnotation,
    annotated_classes,
    files_in,
    listed_name,
    read_annotation,
    read_class_names,
    read_lines,
    repair,
)


class VOCLayout:
    """A detection data set in the folder layout of Pascal VOC.

    Parameters
    ----------
    root : path
        Holds ``JPEGImages``, ``Annotations`` and ``ImageSets/Main/<split>.txt``.
    split : str
        All images that the list names; a second column of 1, 0 or -1 is ignored.
    classes : sequence of str or path, optional
        Names, or a file with one on each line. None: ``classes.txt`` in ``root``; if
        missing, all names in the annotations of all splits, sorted.
    others : str
        What to do with objects of other classes: ``error``; or ``ignore`` them, and
        leave out images that hold no object of ``classes``.
    difficult : bool
        Whether labels include objects marked difficult.
    absent : bool
        With ``ignore``, whether a class may occur nowhere in the set, as when the
        classes are those of a net and not chosen for this set.
    cache_bytes : int
        Decoded images are kept in memory up to this size.

    Attributes
    ----------
    classes : tuple of str
    repairs : Counter
        How many boxes were ``clipped`` to the image, ``swapped`` (a maximum below its
        minimum) or dropped for ``no area``; how many objects were ``left out``; how
        many images were ``listed twice``, or differ in size from their annotation
        (``size differs``; their boxes are used as they are).
    class_counts : dict
        With ``others="ignore"``, what is left out (``ClassChoice.counts``).

    Raises
    ------
    ValueError
        If a folder or list is missing, an object has another class, or more than half
        of the images cannot be used. Also if more than half of the usable images differ
        in size from their annotations, and a box that has an area in the annotated size
        has none in the image. With ``ignore``: if no image is left, or a class occurs
        in no annotation of any split.

    Notes
    -----
    Boxes are as GluonCV's ``VOCDetection`` gives them: file coordinates minus 1.
    Headers and annotations are read at once, pixels later. An image whose pixels turn
    out to be broken is replaced by the next one, every time, so that training stays
    reproducible.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str,
        classes: Sequence[str] | str | os.PathLike | None = None,
        *,
        others: str = "error",
        absent: bool = False,
        difficult: bool = True,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.root, self.split = Path(root), split
        self.repairs: Counter = Counter()
        self._difficult = difficult
        self._choice = ClassChoice(read_class_names(self.root, classes), others)
        self.classes = self._choice.names
        self._images = ImageStore([], cache_bytes=cache_bytes)
        self._labels: list[np.ndarray] = []
        self._lost: list[str] = []
        listed = self._listed()
        for name, file in listed.items():
            self._add(name, file)
        self._check_usable(len(listed), len(self) + self._choice.images)
        self._check_sizes()
        self._choice.check(
            [int(i) for label in self._labels for i in label[:, 4]],
            len(self),
            _list_of(self.root, split),
            None if absent else partial(annotated_classes, self.root),
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        used, image = self._images.read(index)
        return image, self.label(used)

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Files that are skipped and objects that are left out, each with a reason."""
        return self._images.problems

    @property
    def class_counts(self) -> dict:
        """What the choice of classes left out (``ClassChoice.counts``)."""
        return self._choice.counts

    def label(self, index: int) -> np.ndarray:
        """Return the label of an image, ``(M, 6)``, without reading its pixels."""
        return self._labels[index].copy()

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        return self._images.files[index]

    def verify(self, *, workers: int = 2) -> dict:
        """Decode every image once, and count what can be used.

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
        decodable = self._images.decodable(workers=workers)
        self._check_usable(len(decodable), sum(decodable))
        ids = [label[:, 4] for label, ok in zip(self._labels, decodable) if ok]
        counts = Counter(np.concatenate(ids).astype(int).tolist())
        return {
            "images": sum(decodable),
            "objects": {name: counts[i] for i, name in enumerate(self.classes)},
            "repairs": {name: n for name, n in self.repairs.items() if n},
            "problems": list(self.problems),
        }

    def _listed(self) -> dict[str, Path | None]:
        """Return the names of the split, each with its image file."""
        path = _list_of(self.root, self.split)
        files = files_in(self.root / "JPEGImages", EXTENSIONS)
        files_in(self.root / "Annotations", (".xml",))
        names: dict[str, Path | None] = {}
        for line in read_lines(path):
            name = listed_name(line, files)
            self.repairs["listed twice"] += name in names
            names[name] = files.get(name)
        if not names:
            raise ValueError(f"{path}: the list names no image")
        return names

    def _add(self, name: str, file: Path | None) -> None:
        xml = self.root / "Annotations" / f"{name}.xml"
        stem = self.root / "JPEGImages" / name
        try:
            if file is None:
                raise ValueError(f"{stem}: no such image ({', '.join(EXTENSIONS)})")
            annotation, header = read_annotation(xml), read_header(file)
        except ValueError as error:
            self._images.report(file or stem, str(error))
            return
        self.repairs["left out"] += len(annotation.left_out)
        for reason in annotation.left_out:
            self._images.report(xml, reason)
        upright, size = _orientation(annotation, header)
        self.repairs["size differs"] += annotation.size not in (None, size)
        label = self._label(annotation, size, xml)
        if self._choice.ignores and not len(label):
            self._choice.images += 1
            return
        self._labels.append(label if self._difficult else label[label[:, 5] == 0])
        self._images.files.append(file)
        self._images.upright.append(upright)

    def _label(
        self, annotation: VOCAnnotation, size: tuple[int, int], xml: Path
    ) -> np.ndarray:
        rows = []
        for name, box, difficult in annotation.objects:
            index = self._choice.id_of(name, xml)
            if index is None:
                continue
            corners, repairs = repair(box, size)
            self.repairs.update(repairs)
            if corners is None and annotation.size not in (None, size):
                self._note_lost(box, annotation.size, size, xml)
            if corners is not None:
                rows.append([*corners, index, difficult])
        return np.array(rows, np.float32).reshape(-1, 6)

    def _check_usable(self, listed: int, usable: int) -> None:
        if 2 * usable < listed:
            raise ValueError(
                f"{self.root}: only {usable} of the {listed} images of "
                f"{self.split!r} can be used; {self.problems[0][1]}"
            )

    def _note_lost(self, box, annotated, actual, xml: Path) -> None:
        """Note a box that has an area only in an image of the annotated size."""
        if repair(box, annotated)[0] is not None:
            sizes = ["x".join(map(str, size)) for size in (annotated, actual)]
            self._lost.append(f"{xml} says {sizes[0]}, its image is {sizes[1]}")

    def _check_sizes(self) -> None:
        """Refuse annotations of other images: most sizes differ, and boxes are lost."""
        other = self.repairs["size differs"]
        if 2 * other > len(self) and self._lost:
            raise ValueError(
                f"{self.root}: {other} of the {len(self)} images of {self.split!r} "
                f"differ in size from their annotations, which loses {len(self._lost)} "
                f"boxes; allowed: images as they were annotated; {self._lost[0]}"
            )


def _list_of(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Main" / f"{split}.txt"


def _orientation(
    annotation: VOCAnnotation, header: Header
) -> tuple[bool, tuple[int, int]]:
    """Return whether the image is turned upright, and its width and height then.

    Some tools annotate the stored image, others the upright one. The annotated size
    decides; where both are possible, the image is turned, as in GluonCV.
    """
    stored = (header.width, header.height)
    if header.turned and annotation.size == stored:
        return False, stored
    return True, header.upright
