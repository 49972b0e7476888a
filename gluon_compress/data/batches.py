"""Batches of samples and targets, prepared ahead of training in threads or processes.

Nothing of that runs an MXNet operator: it would wait behind the operators of a training
step for longer than the work itself takes, and processes must not.
"""

from __future__ import annotations

import copy
from contextlib import closing
from typing import Any, Callable, Generator, Iterator, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.data.broken import (
    BROKEN,
    MOST_BROKEN,
    Broken,
    BrokenImage,
    refuse_broken,
)
from gluon_compress.data.normalization import normalize
from gluon_compress.data.workers import by_processes, by_threads
from gluon_compress.data.workers import processes as processes_wanted

LAST = ("keep", "discard", "fill")


class Batches:
    """Batches of a data set, reproducible by seed from any batch on.

    Random numbers depend only on (seed, epoch, index of the sample).

    Parameters
    ----------
    dataset
        ``len`` and ``[i]`` -> (image, label).
    sample : callable
        ``sample(image, label, rng=rng)`` -> (image ``(H, W, 3)``, uint8, label);
        ``functools.partial(detection_train_sample, size=300)`` for instance.
    batch_size : int
    seed : int
    workers : int
        Threads that prepare batches; 0: none. The batches do not depend on it.
    processes : int, optional
        Processes that prepare batches in place of threads, for many cores; they keep
        no decoded images. 0: threads. Default: what the environment variable
        ``GLUON_COMPRESS_PROCESSES`` says, else 0. The batches do not depend on it.
    shuffle : bool
    last : str
        What to do with a smaller last batch of an epoch: ``keep``, ``discard``, or
        ``fill`` it with samples from the beginning of the epoch.
    targets : callable, optional
        Labels to a tuple of arrays (``Family.targets``). None: the labels themselves,
        padded with -1 to ``(B, M, 6)``, or class ids ``(B,)``.
    compose : callable, optional
        ``compose(item, draw, rng)`` -> item, called before ``sample``, where ``draw()``
        returns another item (``Composer``).
    mix : callable, optional
        ``mix(arrays, rng)`` -> arrays, called with a whole batch, or with the rows
        that ``mix.closure(rows, size)`` says belong together (``Mixup``).
    normalized : callable
        Turns a batch of images into a net's input.
    broken : str, optional
        What to do with an image that cannot be read (``BrokenImage``): ``replace`` it
        by the next readable one, which suits training, or ``leave out``, which
        measuring needs; its batch is smaller then. None: ``replace`` with ``shuffle``,
        else ``leave out``.
    most_broken : float
        Share of the images that may be left out. At least half may be replaced.

    Raises
    ------
    ValueError
        If there are too few images for a batch, a setting is not allowed, or the data
        set has skipped more than the share that may be left out.
    """

    def __init__(
        self,
        dataset,
        sample: Callable,
        batch_size: int,
        *,
        seed: int = 0,
        workers: int = 1,
        processes: int | None = None,
        shuffle: bool = True,
        last: str = "keep",
        targets: Callable | None = None,
        compose: Callable | None = None,
        mix: Callable | None = None,
        normalized: Callable = normalize,
        broken: Broken | None = None,
        most_broken: float = MOST_BROKEN,
    ) -> None:
        processes = processes_wanted() if processes is None else processes
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("workers", workers, 0),
            ("processes", processes, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; allowed: from {least}")
        if last not in LAST:
            raise ValueError(f"last is {last!r}; allowed: {', '.join(LAST)}")
        if broken is None:
            broken = "replace" if shuffle else "leave out"
        if broken not in BROKEN:
            raise ValueError(f"broken is {broken!r}; allowed: {', '.join(BROKEN)}")
        if not 0 <= most_broken <= 1:
            raise ValueError(f"most_broken is {most_broken}; allowed: from 0 to 1")
        self.dataset, self.sample, self.batch_size = dataset, sample, batch_size
        self.seed, self.workers, self.processes = seed, workers, processes
        self.shuffle = shuffle
        self.compose = compose
        self.last, self.targets, self.mix = last, targets or pad_labels, mix
        self.normalized, self.most_broken = normalized, most_broken
        self.leaves_out = broken == "leave out"
        self._most = most_broken if self.leaves_out else max(most_broken, MOST_BROKEN)
        self._broken: dict[int, str] = {}  # why, by the index
        self._rank, self._ranks = 0, 1
        if len(self) < 1:
            raise ValueError(f"{len(dataset)} images make no batch of {batch_size}")
        if self.leaves_out:
            refuse_broken(dataset, most_broken)

    def __len__(self) -> int:
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and self.last != "discard")

    def __iter__(self) -> Iterator[tuple]:
        return self.epoch(0)

    def part(self, rank: int, ranks: int) -> Batches:
        """Return the part of each batch that one of several ranks trains on.

        The parts together are the batches as they are: the same images, augmented the
        same way. Each rank reads the images of its part alone.

        Raises
        ------
        ValueError
            If a batch cannot be divided evenly.
        """
        sizes = {self.batch_size}
        if self.last == "keep":
            sizes |= {len(self.dataset) % self.batch_size}
        for size in sizes:
            if size % ranks:
                raise ValueError(
                    f"batch_size is {size}; allowed with {ranks} workers: a multiple "
                    f"of {ranks}"
                )
        if self.leaves_out:
            raise ValueError("broken is 'leave out'; allowed with workers: 'replace'")
        part = copy.copy(self)
        part._rank, part._ranks = rank, ranks
        return part

    @property
    def left_out(self) -> list[int]:
        """Numbers of the images that turned out to be broken."""
        return sorted(self._broken)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple]:
        """Yield the batches of an epoch from batch ``start`` on, as NDArrays.

        Raises
        ------
        ValueError
            If too many images are broken: all, or more than may be left out.
        Exception
            Whatever reading or transforming a sample raised, at its batch.
        """
        order, size = self._order(number), self.batch_size
        numbers = range(start, len(self))

        def make(batch: int) -> tuple[tuple, dict[int, str]]:
            return self._make(number, batch, order[batch * size : (batch + 1) * size])

        def make_ready(batch: int) -> tuple[tuple, dict[int, str]]:
            arrays, broken = make(batch)
            return _ready(arrays), broken

        made: Generator
        if self.processes:
            made = by_processes(make, numbers, self.processes)
        elif self.workers:
            made = by_threads(make_ready, numbers, self.workers)
        else:
            made = (make_ready(batch) for batch in numbers)
        with closing(made):
            for arrays, broken in made:
                self._note_broken(broken)
                if arrays:
                    yield _ready(arrays) if self.processes else arrays

    def _note_broken(self, broken: Mapping[int, str]) -> None:
        """Note what only another process knows so far; refuse too much of it."""
        for index, reason in broken.items():
            if index not in self._broken:
                self._broken[index] = reason
                if hasattr(self.dataset, "note_broken"):
                    self.dataset.note_broken(index, reason)
                self._refuse_broken(reason)

    def _refuse_broken(self, reason: str) -> None:
        lost = max(len(self._broken), getattr(self.dataset, "broken", 0))
        refuse_broken(self.dataset, self._most, broken=lost, reason=reason)

    def _order(self, epoch: int) -> np.ndarray:
        count = len(self.dataset)
        order = np.arange(count)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(count)
        missing = -count % self.batch_size if self.last == "fill" else 0
        return np.resize(order, count + missing)

    def _make(
        self, epoch: int, number: int, indices: np.ndarray
    ) -> tuple[tuple, dict[int, str]]:
        """Return the arrays of a batch, and why images are that were found broken."""
        known = len(self._broken)
        rows, needed = self._rows(len(indices))
        samples = [
            sample
            for row in needed
            for sample in self._samples(epoch, int(indices[row]))
        ]
        if not samples:
            return (), self._broken_since(known)
        images, labels = zip(*samples)
        arrays = (self.normalized(images), *self.targets(labels))
        if self.mix is not None:
            # The fourth number keeps this stream apart from those of the samples.
            rng = np.random.default_rng([self.seed, epoch, number, 1])
            arrays = self.mix(arrays, rng)
        if len(needed) > len(rows):
            places = [needed.index(row) for row in rows]
            arrays = tuple(array[places] for array in arrays)
        return arrays, self._broken_since(known)

    def _broken_since(self, count: int) -> dict[int, str]:
        """Return what was found broken after so many, maybe by another thread."""
        return dict(list(self._broken.items())[count:])

    def _rows(self, size: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return the rows of a batch that are wanted, and those to make them from."""
        count = size // self._ranks
        rows = range(size)[self._rank * count : (self._rank + 1) * count]
        if self.mix is None or self._ranks == 1:
            return rows, rows
        closure = getattr(self.mix, "closure", lambda rows, size: range(size))
        return rows, closure(rows, size)

    def _samples(self, epoch: int, index: int) -> Iterator[tuple]:
        """Yield the sample of an index, if there is one."""
        for image, label in self._items(index):
            if self.compose is not None:
                image, label = self._composed((image, label), epoch, index)
            rng = np.random.default_rng([self.seed, epoch, index])
            yield self.sample(image, label, rng=rng)

    def _composed(self, item: tuple, epoch: int, index: int) -> tuple:
        # The fourth number keeps this stream apart from that of the sample.
        rng = np.random.default_rng([self.seed, epoch, index, 2])

        def draw() -> tuple:
            other = int(rng.integers(len(self.dataset)))
            # What cannot be read is left out; then the item stands in for it.
            return next(self._items(other), item)

        assert self.compose is not None
        return self.compose(item, draw, rng)

    def _items(self, index: int) -> Iterator[tuple]:
        """Yield an item or its replacement; nothing for one that is left out."""
        count = len(self.dataset)
        for offset in range(count):
            try:
                yield self.dataset[(index + offset) % count]
                return
            except BrokenImage as error:
                reason = str(error)
            self._broken[(index + offset) % count] = reason
            self._refuse_broken(reason)
            if self.leaves_out:
                return
        raise ValueError(f"none of {count} images can be read: {reason}")


def _ready(arrays: Sequence[np.ndarray]) -> tuple:
    return tuple(mx.nd.array(array, ctx=mx.cpu()) for array in arrays)


def pad_labels(labels: Sequence) -> tuple[np.ndarray]:
    """Return labels as one array: class ids, or rows pad_labels with -1.

    Parameters
    ----------
    labels : sequence
        B class ids, or B arrays ``(M, 6)`` with any M.

    Returns
    -------
    tuple
        One float32 array, ``(B,)`` or ``(B, M, 6)`` with the largest M, at least 1.
    """
    if np.ndim(labels[0]) == 0:
        return (np.array(labels, np.float32),)
    most = max(1, *(len(label) for label in labels))
    out = np.full((len(labels), most, 6), -1, np.float32)
    for row, label in zip(out, labels):
        row[: len(label)] = label
    return (out,)


class ProgressiveBatches:
    """One kind of batches in the first epochs, another later, as smaller images first.

    Tan and Le 2021, section 4, "progressive learning".

    Parameters
    ----------
    early, late : Batches
        Both of the same length.
    epochs : int
        How many epochs use ``early``.
    """

    def __init__(self, early: Any, late: Any, epochs: int) -> None:
        self.early, self.late, self.epochs = early, late, epochs

    def __len__(self) -> int:
        return len(self.late)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple]:
        """Yield the batches of an epoch from batch ``start`` on."""
        chosen = self.early if number < self.epochs else self.late
        return chosen.epoch(number, start)

    def part(self, rank: int, ranks: int) -> ProgressiveBatches:
        """Return the part of each batch that one of several ranks trains on."""
        early, late = self.early.part(rank, ranks), self.late.part(rank, ranks)
        return ProgressiveBatches(early, late, self.epochs)
