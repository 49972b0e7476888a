"""Data sets as items (image, label), and batches that any step can be repeated from.

An item is an image ``(H, W, 3)``, uint8, RGB, and a label ``(M, 6)``, float32: corner
box in pixels, class id, difficult. Which samples a batch holds and what chance does to
them is a function of (seed, epoch, index) alone.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterator, Sequence

import mxnet as mx
import numpy as np
from gluoncv.data import COCODetection, VOCDetection
from gluoncv.model_zoo.ssd.target import SSDTargetGenerator
from mxnet.gluon.data.vision import ImageFolderDataset

from gluon_compress.annotation import Annotation, read_annotation
from gluon_compress.augment import normalize
from gluon_compress.images import EXTENSIONS, Cache, read_header, read_image

CACHE_BYTES = 512 << 20


class VOCLayout:
    """A data set in the folder layout of Pascal VOC.

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
    problems : list of (file, reason)
        Files that are skipped and objects that are left out.
    repairs : Counter
        How many boxes were ``clipped`` to the frame, ``swapped`` (a maximum below its
        minimum) or dropped (``no area``), objects skipped (``unknown class``), images
        ``listed twice`` or of another size than annotated (``size differs``).

    Raises
    ------
    ValueError
        If a folder or list is missing, an object's class is unknown, or more than
        half of the images cannot be used.

    Notes
    -----
    Boxes are as GluonCV's ``VOCDetection`` gives them, one less than in the file.
    Headers and annotations are read here, pixels later: an image whose pixels turn out
    broken then is replaced by the next one, each time, and named in ``problems``.
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
        self.problems: list[tuple[str, str]] = []
        self.repairs: Counter = Counter()
        self._lock = threading.Lock()
        self._cache = Cache(cache_bytes)
        self._keep = (unknown, difficult)
        self.classes = _class_names(self.root, classes)
        names = self._listed()
        self._items = [item for item in map(self._item, names) if item]
        self._refuse_ruins(len(names), len(self._items))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"index {index}: the data set has {size} images")
        for place in range(index % size, index % size + size):
            image = self._image(place % size)
            if image is not None:
                return image, self.label(place % size)
        raise ValueError(f"{self.root}: no image of {self.split!r} can be decoded")

    def label(self, index: int) -> np.ndarray:
        """Return the label of an image, ``(M, 6)``, without reading its pixels."""
        return self._items[index][2].copy()

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        return self._items[index][0]

    def verify(self, *, workers: int = 2) -> dict:
        """Decode every image once and return what there is.

        Returns
        -------
        dict
            ``images`` that can be used, ``objects`` of each class, ``repairs`` and
            ``problems``.

        Raises
        ------
        ValueError
            If more than half of the images are broken.
        """
        with ThreadPoolExecutor(workers) as pool:
            images = pool.map(self._image, range(len(self)))
            good = [image is not None for image in images]
        self._refuse_ruins(len(good), sum(good))
        ids = [self._items[i][2][:, 4] for i, fine in enumerate(good) if fine]
        counts = Counter(np.concatenate(ids).astype(int).tolist())
        objects = {name: counts[i] for i, name in enumerate(self.classes)}
        return {
            "images": sum(good),
            "objects": objects,
            "repairs": dict(self.repairs),
            "problems": list(self.problems),
        }

    def _listed(self) -> list[tuple[str, Path | None]]:
        """Return the names of the split, each with its image file."""
        place = self.root / "ImageSets" / "Main" / f"{self.split}.txt"
        files = _files(self.root / "JPEGImages", EXTENSIONS)
        _files(self.root / "Annotations", (".xml",))
        names = {}
        for line in _lines(place):
            name = _named(line, files)
            self.repairs["listed twice"] += name in names
            names[name] = files.get(name)
        if not names:
            raise ValueError(f"{place}: the list names no image")
        return list(names.items())

    def _item(self, entry: tuple[str, Path | None]):
        """Return (file, whether to turn it upright, label), or None with a problem."""
        name, file = entry
        place = self.root / "Annotations" / f"{name}.xml"
        try:
            if file is None:
                kinds = ", ".join(EXTENSIONS)
                wanted = self.root / "JPEGImages" / name
                raise ValueError(f"{wanted}: there is no such image ({kinds})")
            annotation, header = read_annotation(place), read_header(file)
        except ValueError as error:
            self._report(file or name, str(error))
            return None
        for reason in annotation.left_out:
            self._report(place, reason)
        stored = (header.width, header.height)
        # Some tools annotate the image as stored, others as shown.
        upright = not (header.turned and annotation.size == stored)
        shape = header.upright if upright else stored
        self.repairs["size differs"] += annotation.size not in (None, shape)
        return file, upright, self._label(annotation, shape, place)

    def _label(self, annotation: Annotation, shape, place: Path) -> np.ndarray:
        unknown, with_difficult = self._keep
        rows = []
        for name, box, difficult in annotation.objects:
            if name not in self.classes:
                if unknown == "error":
                    known = ", ".join(self.classes)
                    raise ValueError(f"{place}: class {name!r}; allowed: {known}")
                self.repairs["unknown class"] += 1
                continue
            corners = self._repair(np.array(box) - 1, shape)
            if corners is not None and (with_difficult or not difficult):
                rows.append([*corners, self.classes.index(name), difficult])
        return np.array(rows, np.float32).reshape(-1, 6)

    def _repair(self, box: np.ndarray, shape) -> np.ndarray | None:
        low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
        self.repairs["swapped"] += bool((low != box[:2]).any())
        clipped = np.clip(np.concatenate([low, high]), 0, np.tile(shape, 2))
        if not (clipped[:2] < clipped[2:]).all():
            self.repairs["no area"] += 1
            return None
        self.repairs["clipped"] += bool((clipped != [*low, *high]).any())
        return clipped

    def _image(self, index: int) -> np.ndarray | None:
        file, upright, _ = self._items[index]
        image = self._cache.get(index)
        if image is not None:
            return image
        try:
            return self._cache.offer(index, read_image(file, upright=upright))
        except ValueError as error:
            self._report(file, str(error))
            return None

    def _report(self, file, reason: str) -> None:
        entry = (str(file), reason)
        with self._lock:
            if entry not in self.problems:
                self.problems.append(entry)

    def _refuse_ruins(self, listed: int, usable: int) -> None:
        if 2 * usable < listed or usable == 0:
            raise ValueError(
                f"{self.root}: only {usable} of the {listed} images of "
                f"{self.split!r} can be used; {self.problems[0][1]}"
            )


def _files(folder: Path, extensions: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    files = sorted(folder.iterdir())
    return {f.stem: f for f in files if f.suffix.lower() in extensions}


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text at byte {error.start}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _named(line: str, files: dict) -> str:
    """Return the name on a list's line: names may hold spaces, lines two columns."""
    first, _, last = line.rpartition(" ")
    if line not in files and first and last in ("1", "0", "-1"):
        return first.strip()
    return line


def _class_names(root: Path, classes) -> tuple[str, ...]:
    if not root.is_dir():
        raise ValueError(f"{root}: there is no such folder")
    place = "classes"
    if classes is None and (root / "classes.txt").exists():
        classes = root / "classes.txt"
    if isinstance(classes, (str, os.PathLike)):
        place, classes = str(classes), _lines(Path(classes))
    elif classes is None:
        place, classes = f"{root / 'Annotations'}: classes", _scan(root)
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice or not classes:
        raise ValueError(f"{place}: need distinct names, at least one; twice: {twice}")
    return tuple(classes)


def _scan(root: Path) -> list[str]:
    names = set()
    for file in _files(root / "Annotations", (".xml",)).values():
        try:
            names.update(name for name, _, _ in read_annotation(file).objects)
        except ValueError:
            continue  # it is named when its split is read
    return sorted(names)


class SSDTargets:
    """Turns the labels of a batch into what SSD's loss compares with.

    Parameters
    ----------
    anchors : NDArray
        Center boxes in pixels, ``(1, A, 4)``.
    iou : float
        Overlap from which an anchor belongs to an object.
    stds : sequence of float
        What box deltas are divided by.
    """

    def __init__(
        self,
        anchors: mx.nd.NDArray,
        *,
        iou: float = 0.5,
        stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
    ) -> None:
        self.anchors = anchors
        self._generate = SSDTargetGenerator(
            iou_thresh=iou, stds=stds, negative_mining_ratio=-1
        )

    def __call__(self, labels: Sequence[np.ndarray]) -> tuple:
        """Return class targets ``(B, A)`` and box targets ``(B, A, 4)``."""
        targets = [self._one(label) for label in labels]
        return tuple(mx.nd.concat(*parts, dim=0) for parts in zip(*targets))

    def _one(self, label: np.ndarray) -> tuple:
        if len(label) == 0:
            shape = self.anchors.shape
            return mx.nd.zeros(shape[:2]), mx.nd.zeros(shape)
        boxes = mx.nd.array(label[None, :, :4])
        ids = mx.nd.array(label[None, :, 4:5])
        return self._generate(self.anchors, None, boxes, ids)[:2]


class Batches:
    """Batches of a data set, the same ones for the same seed, from any batch on.

    Parameters
    ----------
    dataset
        ``len`` and ``[i]`` -> (image, label).
    sample : callable
        ``sample(image, label, rng=rng)`` -> (image ``(S, S, 3)``, uint8, label);
        ``functools.partial(ssd_train_sample, size=300)`` for instance.
    batch_size : int
    seed : int
    workers : int
        Threads that make batches ahead; 0: none. It does not change the batches.
    shuffle : bool
    last : str
        The last batch of an epoch, where it is smaller: ``keep`` it, ``discard`` it,
        or ``fill`` it with samples from the epoch's beginning.
    targets : callable, optional
        Labels to a tuple of arrays (``SSDTargets``). None: the labels themselves,
        padded with -1 to ``(B, M, 6)``, or class ids ``(B,)``.

    Raises
    ------
    ValueError
        If there is nothing to make a batch of, or for a wrong size or word.
    """

    def __init__(
        self,
        dataset,
        sample: Callable,
        batch_size: int,
        *,
        seed: int = 0,
        workers: int = 1,
        shuffle: bool = True,
        last: str = "keep",
        targets: Callable | None = None,
    ) -> None:
        if last not in ("keep", "discard", "fill"):
            raise ValueError(f"last is {last!r}; allowed: keep, discard, fill")
        if batch_size < 1 or workers < 0:
            raise ValueError(
                f"batch_size is {batch_size}, workers {workers}; allowed: from 1, from 0"
            )
        self.dataset, self.sample, self.batch_size = dataset, sample, batch_size
        self.seed, self.workers, self.shuffle = seed, workers, shuffle
        self.last, self.targets = last, targets or _padded
        if len(self) < 1:
            raise ValueError(f"{len(dataset)} images make no batch of {batch_size}")

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and self.last != "discard")

    def __iter__(self) -> Iterator[tuple]:
        return self.epoch(0)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple]:
        """Yield the batches of an epoch from batch ``start`` on, as NDArrays."""
        order = self._order(number)
        size = self.batch_size
        parts = (order[i * size : (i + 1) * size] for i in range(start, len(self)))
        if self.workers == 0:
            yield from (self._batch(number, part) for part in parts)
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="batches")
        waiting: deque = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(self._batch, number, part))
                if len(waiting) > self.workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            pool.shutdown()

    def _order(self, epoch: int) -> np.ndarray:
        count = len(self.dataset)
        order = np.arange(count)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(count)
        missing = -count % self.batch_size if self.last == "fill" else 0
        return np.resize(order, count + missing)

    def _batch(self, epoch: int, indices: Sequence[int]) -> tuple:
        samples = [self._sample(epoch, int(index)) for index in indices]
        images, labels = zip(*samples)
        arrays = self.targets(labels)
        return (mx.nd.array(normalize(np.stack(images))), *arrays)

    def _sample(self, epoch: int, index: int) -> tuple:
        rng = np.random.default_rng([self.seed, epoch, index])
        image, label = self.dataset[index]
        return self.sample(image, label, rng=rng)


def _padded(labels: Sequence) -> tuple:
    if np.ndim(labels[0]) == 0:
        return (mx.nd.array(labels),)
    most = max(1, *(len(label) for label in labels))
    out = np.full((len(labels), most, 6), -1, np.float32)
    for row, label in zip(out, labels):
        row[: len(label)] = label
    return (mx.nd.array(out),)
