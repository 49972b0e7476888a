"""A detection data set: image files, their boxes, and what was wrong with both.

An item is an image ``(H, W, 3)``, uint8, RGB, and a label ``(M, 6)``, float32: corner
box in pixels, class id, difficult.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Collection, Sequence

import numpy as np

from gluon_compress.data.class_choice import ClassChoice
from gluon_compress.data.frames import Frame, choose_frames
from gluon_compress.data.images import CACHE_BYTES, Header, ImageStore, StoredImages
from gluon_compress.data.objects import LEAST_SIDE, too_small
from gluon_compress.data.voc_xml import VOCAnnotation, repair
from gluon_compress.validation import LONGEST_LINE, shortened


@dataclass(frozen=True)
class AnnotatedImage:
    """An image, and what its file and its annotation say.

    Parameters
    ----------
    file : Path
    source : Path
        Of the annotation, for messages.
    annotation : VOCAnnotation
        Boxes are as in VOC: the first pixel is 1.
    header : Header
    """

    file: Path
    source: Path
    annotation: VOCAnnotation
    header: Header


class DetectionDataset(StoredImages):
    """Images with boxes. A layout's reader fills it.

    Parameters
    ----------
    place : path
        What the split is read from, for messages.
    classes : sequence of str
    others : str
        What to do with objects of other classes: ``error``; or ``ignore`` them, and
        leave out images that hold no object of ``classes``.
    difficult : bool
        Whether labels include objects marked difficult.
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
    problems : list of (file, reason)
        Files that cannot be used and objects that are left out.
    skipped : int
        How many listed images are not among the items.
    broken : int
        How many items turned out to be broken when they were read.
    """

    def __init__(
        self,
        place: Path,
        classes: Sequence[str],
        *,
        others: str = "error",
        difficult: bool = True,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.place = place
        self.repairs: Counter = Counter()
        self.doubts: list[tuple[str, str]] = []
        self._choice = ClassChoice(classes, others)
        self.classes = self._choice.names
        self._difficult = difficult
        self._images = ImageStore([], cache_bytes=cache_bytes)
        self._labels: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an image and its label; raises ``BrokenImage``."""
        return self._images.read(index), self.label(index)

    @property
    def class_counts(self) -> dict[str, Any]:
        """What the choice of classes left out (``ClassChoice.counts``)."""
        return self._choice.counts

    def label(self, index: int) -> np.ndarray:
        """Return the label of an image, ``(M, 6)``, without reading its pixels."""
        return self._labels[index].copy()

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        return self._images.files[index]

    def verify(self, *, workers: int = 2) -> dict[str, Any]:
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
        self._check_usable()
        ids = [label[:, 4] for label, ok in zip(self._labels, decodable) if ok]
        counts = Counter(np.concatenate(ids).astype(int).tolist())
        return {
            "images": sum(decodable),
            "objects": {name: counts[i] for i, name in enumerate(self.classes)},
            "repairs": {name: n for name, n in self.repairs.items() if n},
            "problems": self.problems,
        }

    def skip(self, file: Path, reason: str) -> None:
        """Note that a listed image cannot be used."""
        self._images.skip(file, reason)

    def leave_out(self, source: Path, reason: str) -> None:
        """Note that an object cannot be used."""
        self._images.report(source, reason)
        self.repairs["left out"] += 1

    def fill(
        self,
        images: Sequence[AnnotatedImage],
        *,
        resized: str,
        in_whole_set: Callable[[], Collection[str]] | None,
    ) -> None:
        """Add images, and check that there are enough of them.

        Those that are too small to show an object are skipped.

        Parameters
        ----------
        images : sequence of AnnotatedImage
        resized : str
            As for ``choose_frames``.
        in_whole_set : callable or None
            As for ``ClassChoice.check``.
        """
        images = [image for image in images if self._is_large_enough(image)]
        self._check_usable(len(images))
        frames = choose_frames(
            [image.header for image in images],
            [image.annotation.size for image in images],
            [image.file for image in images],
            resized=resized,
        )
        for image, frame in zip(images, frames):
            self._add(image, frame)
        ids = [int(i) for label in self._labels for i in label[:, 4]]
        self._choice.check(ids, len(self), self.place, in_whole_set)

    def _is_large_enough(self, image: AnnotatedImage) -> bool:
        width, height = image.header.stored
        if min(width, height) >= LEAST_SIDE:
            return True
        self.skip(image.file, too_small(width, height, str(image.file)))
        return False

    def _add(self, image: AnnotatedImage, frame: Frame) -> None:
        for reason in image.annotation.left_out:
            self.leave_out(image.source, reason)
        label = self._label(image, frame)
        if self._choice.ignores and not len(label):
            self._choice.images += 1
            return
        self.repairs["scaled" if frame.scaled else "size differs"] += frame.differs
        if frame.doubt and len(label):
            self.doubts.append((str(image.file), frame.doubt))
        self._labels.append(label if self._difficult else label[label[:, 5] == 0])
        self._images.files.append(image.file)
        self._images.upright.append(frame.upright)

    def _label(self, image: AnnotatedImage, frame: Frame) -> np.ndarray:
        rows = []
        for name, box, difficult in image.annotation.objects:
            index = self._choice.id_of(name, image.source)
            if index is None:
                continue
            corners, repairs = repair(box, frame.size, frame.scale)
            self.repairs.update(repairs)
            if corners is not None:
                rows.append([*corners, index, difficult])
        return np.array(rows, np.float32).reshape(-1, 6)

    def _check_usable(self, readable: int | None = None) -> None:
        usable = len(self) - self.broken if readable is None else readable
        listed = self.skipped + (len(self) if readable is None else readable)
        if 2 * usable < listed:
            raise ValueError(
                f"{self.place}: only {usable} of the {listed} images can be used; "
                f"{shortened(self.problems[0][1], LONGEST_LINE // 2)}"
            )
