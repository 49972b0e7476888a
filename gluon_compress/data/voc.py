"""Detection data sets in the folder layout of Pascal VOC.

An item is an image ``(H, W, 3)``, uint8, RGB, and a label ``(M, 6)``, float32: corner
box in pixels, class id, difficult. A data set has ``classes``, and ``problems``: files
that are skipped and objects that are left out.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Sequence

import numpy as np

from gluon_compress.data.class_choice import ClassChoice
from gluon_compress.data.frames import Frame, choose_frames
from gluon_compress.data.images import (
    CACHE_BYTES,
    EXTENSIONS,
    Header,
    ImageStore,
    read_header,
)
from gluon_compress.data.listed_files import FileIndex, find_listed, read_lines
from gluon_compress.data.voc_xml import (
    VOCAnnotation,
    annotated_classes,
    read_annotation,
    read_class_names,
    repair,
)


@dataclass(frozen=True)
class _Sample:
    """An image of a list, and what its files say."""

    file: Path
    xml: Path
    annotation: VOCAnnotation
    header: Header


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
    resized : str
        What to do with images of another size than annotated, as ``choose_frames``
        takes it: ``error``, ``scale`` or ``keep``.
    cache_bytes : int
        Decoded images are kept in memory up to this size.

    Attributes
    ----------
    classes : tuple of str
    repairs : Counter
        How many boxes were ``clipped`` to the image, ``swapped`` (a maximum below its
        minimum) or dropped for ``no area``; how many objects were ``left out``; how
        many images were ``listed twice``, or differ in size from their annotation:
        ``scaled`` with their boxes, or ``size differs``, where boxes are used as they
        are.
    class_counts : dict
        With ``others="ignore"``, what is left out (``ClassChoice.counts``).
    doubts : list of (file, reason)
        Images that are used although their boxes may have been drawn on other pixels.

    Raises
    ------
    ValueError
        If a folder or list is missing, an object has another class, or more than half
        of the images cannot be used, or differ in size from their annotations (see
        ``resized``). With ``ignore``: if no image is left, or a class occurs in no
        annotation of any split.

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
        resized: str = "error",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.root, self.split = Path(root), split
        self.repairs: Counter = Counter()
        self._difficult = difficult
        self._choice = ClassChoice(read_class_names(self.root, classes), others)
        self.classes = self._choice.names
        self._images = ImageStore([], cache_bytes=cache_bytes)
        self._labels: list[np.ndarray] = []
        self.doubts: list[tuple[str, str]] = []
        listed = self._listed()
        count = len(listed) + len(self.problems)
        usable = [self._read(image, xml) for image, xml in listed.items()]
        samples = [sample for sample in usable if sample is not None]
        self._check_usable(count, len(samples))
        files = [sample.file for sample in samples]
        frames = choose_frames(
            [sample.header for sample in samples],
            [sample.annotation.size for sample in samples],
            files,
            resized=resized,
        )
        for sample, frame in zip(samples, frames):
            self._add(sample, frame)
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

    def _listed(self) -> dict[Path, Path]:
        """Return the images of the split, each with its annotation file."""
        path = _list_of(self.root, self.split)
        images = FileIndex(self.root / "JPEGImages", EXTENSIONS)
        annotations = FileIndex(self.root / "Annotations", (".xml",))
        lines = read_lines(path)
        if not lines:
            raise ValueError(f"{path}: the list names no image")
        files: dict[Path, Path] = {}
        for line in lines:
            try:
                name, image = find_listed(line, images)
                self.repairs["listed twice"] += image in files
                files[image] = annotations.find(name)[1]
            except ValueError as error:
                self._images.report(path, str(error))
        return files

    def _read(self, image: Path, xml: Path) -> _Sample | None:
        """Return an image's annotation and header, or None after reporting why not."""
        try:
            return _Sample(image, xml, read_annotation(xml), read_header(image))
        except ValueError as error:
            self._images.report(image, str(error))
            return None

    def _add(self, sample: _Sample, frame: Frame) -> None:
        self.repairs["left out"] += len(sample.annotation.left_out)
        for reason in sample.annotation.left_out:
            self._images.report(sample.xml, reason)
        self.repairs["scaled" if frame.scaled else "size differs"] += frame.differs
        label = self._label(sample, frame)
        if self._choice.ignores and not len(label):
            self._choice.images += 1
            return
        if frame.doubt and len(label):
            self.doubts.append((str(sample.file), frame.doubt))
        self._labels.append(label if self._difficult else label[label[:, 5] == 0])
        self._images.files.append(sample.file)
        self._images.upright.append(frame.upright)

    def _label(self, sample: _Sample, frame: Frame) -> np.ndarray:
        rows = []
        for name, box, difficult in sample.annotation.objects:
            index = self._choice.id_of(name, sample.xml)
            if index is None:
                continue
            corners, repairs = repair(box, frame.size, frame.scale)
            self.repairs.update(repairs)
            if corners is not None:
                rows.append([*corners, index, difficult])
        return np.array(rows, np.float32).reshape(-1, 6)

    def _check_usable(self, listed: int, usable: int) -> None:
        if 2 * usable < listed:
            raise ValueError(
                f"{self.root}: only {usable} of the {listed} images of "
                f"{self.split!r} can be used; {self.problems[0][1]}"
            )


def _list_of(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Main" / f"{split}.txt"
