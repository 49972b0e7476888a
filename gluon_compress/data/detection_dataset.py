"""A detection data set: image files, their boxes, and what was wrong with both.

An item is an image ``(H, W, 3)``, uint8, RGB, and a label ``(M, 6)``, float32: corner
box in pixels, class id, difficult.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Collection, Mapping, Sequence

import numpy as np

from gluon_compress.data.class_choice import ClassChoice
from gluon_compress.data.frames import Frame, choose_frames
from gluon_compress.data.images import (
    CACHE_BYTES,
    PIXEL_LIMIT,
    Header,
    ImageStore,
    StoredImages,
)
from gluon_compress.data.objects import LEAST_SIDE, too_small
from gluon_compress.data.packed import Rows, Texts, shaped
from gluon_compress.data.voc_xml import VOCAnnotation, repair
from gluon_compress.storage.reading import Unreadable
from gluon_compress.validation import LONGEST_LINE, shortened

COLUMNS = 6  # of a label
# Fields of ``Contents`` that are no arrays.
NOTED = (
    *("classes", "repairs", "doubts", "problems", "skipped"),
    *("ignored", "left_out", "absent"),
)


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


@dataclass(frozen=True)
class Contents:
    """What a detection data set holds once it is filled, in arrays and texts.

    Parameters
    ----------
    classes : tuple of str
    files : Texts
    upright : numpy.ndarray
        ``(N,)``, bool: which are turned as their EXIF data says.
    sizes : numpy.ndarray
        ``(N, 2)``, int32: widths and heights then, pixels.
    labels : Rows
    repairs, doubts, problems, skipped
        As a data set has them.
    ignored : dict
        How many objects of each other class were ignored.
    left_out : int
        How many images were left out for having no object of the classes.
    absent : tuple of str
    """

    classes: tuple[str, ...]
    files: Texts
    upright: np.ndarray
    sizes: np.ndarray
    labels: Rows
    repairs: dict[str, int]
    doubts: tuple[tuple[str, str], ...]
    problems: tuple[tuple[str, str], ...]
    skipped: int
    ignored: dict[str, int]
    left_out: int
    absent: tuple[str, ...]

    def kept(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the same as a note, in JSON, and arrays, for ``KeptIndex``."""
        note = {name: getattr(self, name) for name in NOTED}
        arrays = {"upright": self.upright, "sizes": self.sizes}
        file_note, file_arrays = self.files.kept("files")
        labels = {"rows": self.labels.rows, "row_ends": self.labels.ends}
        return {**note, **file_note}, {**arrays, **file_arrays, **labels}

    @classmethod
    def from_kept(cls, note: Any, arrays: Mapping[str, np.ndarray]) -> Contents:
        """Return what ``kept`` was made of.

        Raises
        ------
        Unreadable
            If it is something else.
        """
        try:
            files = Texts.from_kept("files", note, arrays)
            labels = Rows(arrays["rows"], arrays["row_ends"])
            upright = shaped(arrays["upright"], np.bool_, (len(files),))
            sizes = shaped(arrays["sizes"], np.int32, (len(files), 2))
            rows = shaped(labels.rows, np.float32, (len(labels.rows), COLUMNS))
            classes, absent = (tuple(map(str, note[k])) for k in ("classes", "absent"))
            if len(labels) != len(files) or not np.isfinite(rows).all():
                raise Unreadable("labels that do not fit the images")
            if not np.isin(rows[:, 4], np.arange(len(classes))).all():
                raise Unreadable("labels that do not fit the classes")
            repairs, ignored = (
                {str(name): int(count) for name, count in note[key].items()}
                for key in ("repairs", "ignored")
            )
            doubts, problems = (
                tuple((str(file), str(reason)) for file, reason in note[key])
                for key in ("doubts", "problems")
            )
            skipped, left_out = int(note["skipped"]), int(note["left_out"])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise Unreadable(f"no detection data set ({error})") from None
        return cls(
            classes,
            files,
            upright,
            sizes,
            labels,
            repairs,
            doubts,
            problems,
            skipped,
            ignored,
            left_out,
            absent,
        )


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
        self._labels = Rows.of([], COLUMNS)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an image and its label; raises ``BrokenImage``."""
        return self._images.read(index), self.label(index)

    @property
    def class_counts(self) -> dict[str, Any]:
        """What the choice of classes left out (``ClassChoice.counts``)."""
        return self._choice.counts

    @property
    def settings(self) -> dict[str, Any]:
        """What the images and labels depend on beside files, for ``KeptIndex``."""
        return {
            "classes": self.classes,
            "others": self._choice.others,
            "difficult": self._difficult,
            "most_pixels": os.environ.get(PIXEL_LIMIT),
        }

    def label(self, index: int) -> np.ndarray:
        """Return the label of an image, ``(M, 6)``, without reading its pixels."""
        return self._labels[index].copy()

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        return Path(self._images.files[index])

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
        labels, files, shown = [], [], []
        for image, frame in zip(images, frames):
            label = self._checked_label(image, frame)
            if label is not None:
                labels.append(label)
                files.append(str(image.file))
                shown.append(frame)
        self._labels = Rows.of(labels, COLUMNS)
        self._images.hold(
            Texts.of(files),
            np.array([frame.upright for frame in shown], bool),
            np.array([frame.size for frame in shown], np.int32).reshape(-1, 2),
        )
        ids = np.unique(self._labels.rows[:, 4]).astype(int).tolist()
        self._choice.check(ids, len(self), self.place, in_whole_set)

    @property
    def contents(self) -> Contents:
        """All that filling has changed."""
        images, choice = self._images, self._choice
        return Contents(
            self.classes,
            images.files,
            images.upright,
            images.sizes,
            self._labels,
            dict(self.repairs),
            tuple(self.doubts),
            tuple(self.problems),
            self.skipped,
            dict(choice.objects),
            choice.images,
            choice.absent,
        )

    def hold(self, contents: Contents) -> None:
        """Be as the data set was whose contents these are."""
        self._labels = contents.labels
        self._images.hold(contents.files, contents.upright, contents.sizes)
        self._images.restore(contents.problems, contents.skipped)
        self.repairs, self.doubts = Counter(contents.repairs), [*contents.doubts]
        self._choice.objects = Counter(contents.ignored)
        self._choice.images = contents.left_out
        self._choice.absent = contents.absent

    def _is_large_enough(self, image: AnnotatedImage) -> bool:
        width, height = image.header.stored
        if min(width, height) >= LEAST_SIDE:
            return True
        self.skip(image.file, too_small(width, height, str(image.file)))
        return False

    def _checked_label(self, image: AnnotatedImage, frame: Frame) -> np.ndarray | None:
        """Return the label of an image and note repairs; None if it is left out."""
        for reason in image.annotation.left_out:
            self.leave_out(image.source, reason)
        label = self._label(image, frame)
        if self._choice.ignores and not len(label):
            self._choice.images += 1
            return None
        self.repairs["scaled" if frame.scaled else "size differs"] += frame.differs
        if frame.doubt and len(label):
            self.doubts.append((str(image.file), frame.doubt))
        return label if self._difficult else label[label[:, 5] == 0]

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
        return np.array(rows, np.float32).reshape(-1, COLUMNS)

    def _check_usable(self, readable: int | None = None) -> None:
        usable = len(self) - self.broken if readable is None else readable
        listed = self.skipped + (len(self) if readable is None else readable)
        if 2 * usable < listed:
            raise ValueError(
                f"{self.place}: only {usable} of the {listed} images can be used; "
                f"{shortened(self.problems[0][1], LONGEST_LINE // 2)}"
            )
