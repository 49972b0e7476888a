"""Batches of samples and targets, made ahead in threads.

Nothing here runs an MXNet operator: one that waits behind those of a training step
takes longer than the work itself.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterator, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.data.normalization import normalize

LAST = ("keep", "discard", "fill")


class Batches:
    """Batches of a data set: the same for the same seed, from any batch on.

    Chance is a function of (seed, epoch, index of the sample) alone.

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
        Threads that make batches ahead; 0: none. It does not change the batches.
    shuffle : bool
    last : str
        The last batch of an epoch, where it is smaller: ``keep`` it, ``discard`` it,
        or ``fill`` it with samples from the epoch's beginning.
    targets : callable, optional
        Labels to a tuple of arrays (``Family.targets``). None: the labels themselves,
        padded with -1 to ``(B, M, 6)``, or class ids ``(B,)``.
    mix : callable, optional
        ``mix(arrays, rng)`` -> arrays, called with a whole batch (``Mixup``).
    normalized : callable
        What makes a net's input of a batch of images.

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
        mix: Callable | None = None,
        normalized: Callable = normalize,
    ) -> None:
        for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0)):
            if value < least:
                raise ValueError(f"{name} is {value}; allowed: from {least}")
        if workers < 0:
            raise ValueError(f"workers is {workers}; allowed: from 0")
        if last not in LAST:
            raise ValueError(f"last is {last!r}; allowed: {', '.join(LAST)}")
        self.dataset, self.sample, self.batch_size = dataset, sample, batch_size
        self.seed, self.workers, self.shuffle = seed, workers, shuffle
        self.last, self.targets, self.mix = last, targets or padded, mix
        self.normalized = normalized
        if len(self) < 1:
            raise ValueError(f"{len(dataset)} images make no batch of {batch_size}")

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and self.last != "discard")

    def __iter__(self) -> Iterator[tuple]:
        return self.epoch(0)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple]:
        """Yield the batches of an epoch from batch ``start`` on, as NDArrays.

        Raises
        ------
        Exception
            What reading or changing a sample raised, at the batch that holds it.
        """
        order, size = self._order(number), self.batch_size
        parts: Iterator[tuple] = (
            (number, i, order[i * size : (i + 1) * size])
            for i in range(start, len(self))
        )
        if self.workers:
            made = self._ahead(parts)
        else:
            made = (self._make(*part) for part in parts)
        yield from made

    def _ahead(self, parts: Iterator) -> Iterator[tuple]:
        """Yield what threads make, in order; when closed, wait for them to end."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="batches")
        waiting: deque = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(self._make, *part))
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

    def _make(self, epoch: int, number: int, indices: Sequence[int]) -> tuple:
        samples = [self._sample(epoch, int(index)) for index in indices]
        images, labels = zip(*samples)
        arrays = (self.normalized(images), *self.targets(labels))
        if self.mix is not None:
            # The fourth number makes it another stream than any sample's.
            rng = np.random.default_rng([self.seed, epoch, number, 1])
            arrays = self.mix(arrays, rng)
        return tuple(mx.nd.array(array, ctx=mx.cpu()) for array in arrays)

    def _sample(self, epoch: int, index: int) -> tuple:
        image, label = self.dataset[index]
        rng = np.random.default_rng([self.seed, epoch, index])
        return self.sample(image, label, rng=rng)


def padded(labels: Sequence) -> tuple[np.ndarray]:
    """Return labels as one array: class ids, or rows padded with -1.

    Parameters
    ----------
    labels : sequence
        B class ids, or B arrays ``(M, 6)`` of different M.

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


class EarlyBatches:
    """Some batches in the first epochs, others behind: smaller images, then all of it.

    Parameters
    ----------
    early, late : Batches
        Of the same length.
    epochs : int
        How many epochs take the early ones.
    """

    def __init__(self, early, late, epochs: int) -> None:
        self.early, self.late, self.epochs = early, late, epochs

    def __len__(self) -> int:
        return len(self.late)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple]:
        """Yield the batches of an epoch from batch ``start`` on."""
        chosen = self.early if number < self.epochs else self.late
        return chosen.epoch(number, start)


def drawn(length: int, count: int, seed: int) -> list[int]:
    """Return so many different indices, or all of them in another order."""
    order = np.random.default_rng(seed).permutation(length)
    return [int(i) for i in order[:count]]


class Sample:
    """Some images of a data set; see ``sample``.

    Parameters
    ----------
    dataset
    count : int
        All of them, where there are fewer.
    seed : int
    """

    def __init__(self, dataset, count: int, *, seed: int = 0) -> None:
        self.dataset, self.indices = dataset, drawn(len(dataset), count, seed)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple:
        return self.dataset[self.indices[index]]
