"""Classification data sets packed as RecordIO, read by MXNet's own iterator."""

from __future__ import annotations

import math
import os
import struct
from itertools import islice
from pathlib import Path
from typing import Callable, Iterator, Mapping, Sequence

import cv2
import mxnet as mx
import numpy as np
from mxnet import recordio

from gluon_compress.data.batches import pad_labels
from gluon_compress.data.imagenet_transforms import ASPECTS
from gluon_compress.data.normalization import MEAN, STD
from gluon_compress.data.preprocess import CROP
from gluon_compress.sizes import Size, size_pair

_SEEDS = 2**31 - 1


class Records:
    """A data set packed by ``im2rec``: ``NAME.rec``, and ``NAME.idx`` beside it.

    Parameters
    ----------
    path : path
        The ``.rec`` file.
    classes : sequence of str
        Names in the order of the ids; records hold ids only.

    Raises
    ------
    ValueError
        If a file is missing or the index is invalid.
    """

    def __init__(self, path: str | os.PathLike, classes: Sequence[str]) -> None:
        self.path, self.classes = Path(path), tuple(classes)
        self.index = self.path.with_suffix(".idx")
        self.problems: list[tuple[str, str]] = []  # see ``verify``
        for file in (self.path, self.index):
            if not file.is_file():
                raise ValueError(f"{file}: there is no such file")
        with open(self.index, encoding="ascii", errors="replace") as lines:
            rows = [line.split("\t") for line in lines]
        if not rows or not all(len(r) == 2 and r[1].strip().isdigit() for r in rows):
            raise ValueError(f"{self.index}: not an index of records, or an empty one")
        self._size = len(rows)

    def __len__(self) -> int:
        return self._size

    def verify(self) -> dict:
        """Decode every record once, and list those that cannot be used.

        MXNet's reader ends the process at a record that it cannot decode: call this
        first if a file may be damaged.

        Returns
        -------
        dict
            ``images``, the number of usable records, and ``problems``: (record,
            reason) of each of the others.
        """
        problems = []
        reader = recordio.MXIndexedRecordIO(str(self.index), str(self.path), "r")
        for key in reader.keys:
            try:
                header, content = recordio.unpack(reader.read_idx(key))
                if cv2.imdecode(np.frombuffer(content, np.uint8), 1) is None:
                    raise ValueError("cannot be decoded")
                if not 0 <= np.max(header.label) < len(self.classes):
                    raise ValueError(f"has class {header.label}")
            except (mx.MXNetError, cv2.error, struct.error, TypeError, ValueError) as e:
                gist = str(e).strip().splitlines() or [type(e).__name__]
                problems.append((f"{self.path}: record {key}", gist[-1]))
        reader.close()
        return {"images": len(self) - len(problems), "problems": problems}


class RecordBatches:
    """Batches of packed records, with the interface of ``Batches``.

    Random numbers depend only on (seed, epoch), so that a resumed run continues as if
    it had not stopped; it first reads the records up to the batch where it stopped.

    Parameters
    ----------
    records : Records
    batch_size : int
    size : int or (int, int)
        Height and width of the images, pixels.
    changes : mapping, optional
        ``least_area``, ``jitter`` and ``lighting``, as in ``crop_train_sample``. None:
        the centre of every image, as in ``crop_val_sample``.
    seed : int
    workers : int
        Threads of MXNet's reader. The batches do not depend on it.
    shuffle : bool
    targets, mix : callable, optional
        As in ``Batches``. With ``changes``, a smaller last batch is filled up from the
        beginning of the epoch; without, it stays small.
    """

    def __init__(
        self,
        records: Records,
        batch_size: int,
        size: Size,
        *,
        changes: Mapping[str, float] | None = None,
        seed: int = 0,
        workers: int = 2,
        shuffle: bool = True,
        targets: Callable | None = None,
        mix: Callable | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; allowed: from 1")
        if len(records) < batch_size:
            raise ValueError(f"{len(records)} images make no batch of {batch_size}")
        self.records, self.batch_size, self.seed = records, batch_size, seed
        self.targets, self.mix, self.trains = targets or pad_labels, mix, bool(changes)
        view = _train_view(**changes) if changes else _val_view(size)
        self._options = {
            "path_imgrec": str(records.path),
            "path_imgidx": str(records.index),
            "data_shape": (3, *size_pair(size)),
            "batch_size": batch_size,
            "shuffle": shuffle,
            "round_batch": True,
            "preprocess_threads": workers,
            "verbose": False,
            **{f"mean_{c}": 255 * m for c, m in zip("rgb", MEAN)},
            **{f"std_{c}": 255 * s for c, s in zip("rgb", STD)},
            **view,
        }

    def __len__(self) -> int:
        return math.ceil(len(self.records) / self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple]:
        """Yield the batches of an epoch from batch ``start`` on, as NDArrays.

        Raises
        ------
        ValueError
            If a class id is out of range, or MXNet cannot open the files.
        """
        seed = (self.seed * 1_000_003 + number) % _SEEDS
        try:
            reader = mx.io.ImageRecordIter(seed=seed, seed_aug=seed, **self._options)
            for index, batch in islice(enumerate(reader), start, len(self)):
                yield self._arrays(batch, (self.seed, number, index))
        except mx.MXNetError as error:
            gist = str(error).strip().splitlines()[-1]
            raise ValueError(f"{self.records.path}: {gist}") from None

    def _arrays(self, batch: mx.io.DataBatch, seeds: tuple) -> tuple:
        count = self.batch_size - (0 if self.trains else batch.pad)
        labels = batch.label[0].asnumpy()[:count]
        images = batch.data[0][:count]
        arrays = (images, *self.targets(labels.astype(int)))
        if self.mix is not None:
            rng = np.random.default_rng([*seeds, 1])
            arrays = self.mix((images.asnumpy(), *arrays[1:]), rng)
        return tuple(
            a if isinstance(a, mx.nd.NDArray) else mx.nd.array(a, ctx=mx.cpu())
            for a in arrays
        )


def _train_view(least_area: float, jitter: float, lighting: float) -> dict:
    return {
        "random_resized_crop": True,
        "min_random_area": least_area,
        "max_random_area": 1.0,
        "min_aspect_ratio": ASPECTS[0],
        "max_aspect_ratio": ASPECTS[1],
        "rand_mirror": True,
        "brightness": jitter,
        "contrast": jitter,
        "saturation": jitter,
        "pca_noise": lighting,
    }


def _val_view(size: Size) -> dict:
    return {"resize": math.ceil(max(size_pair(size)) / CROP)}
