"""Classification sets packed as RecordIO, through MXNet's own iterator."""

from __future__ import annotations

import math
import os
import shutil
import struct
import tempfile
import weakref
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

import cv2
import mxnet as mx
import numpy as np
from mxnet import recordio

from gluon_compress.data.batches import Sample, drawn, padded
from gluon_compress.data.imagenet_transforms import ASPECTS
from gluon_compress.data.normalization import MEAN, STD
from gluon_compress.data.preprocess import CROP
from gluon_compress.sizes import Size, size_pair

_SEEDS = 2**31 - 1


class Records:
    """A set that ``im2rec`` packed: ``NAME.rec`` and ``NAME.idx`` beside it.

    Parameters
    ----------
    path : path
        Of the ``.rec`` file.
    classes : sequence of str
        Names in the order of the ids, which is all that records hold.

    Raises
    ------
    ValueError
        If one of the files is missing or the index is not one.
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
        """Decode every record once and return what there is.

        MXNet's reader ends the process at a record that it cannot decode, so this is
        worth its time where a file may be damaged.

        Returns
        -------
        dict
            ``images`` that can be used, and ``problems``: each with its key.
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


def sample(dataset: Any, count: int, *, seed: int = 0) -> Any:
    """Return some images of a data set, drawn once.

    Parameters
    ----------
    dataset
        Records are copied to a file of their own, for MXNet's reader knows no others;
        it is gone with what is returned.
    count : int
        All of them, where there are fewer.
    seed : int
    """
    if not isinstance(dataset, Records):
        return Sample(dataset, count, seed=seed)
    place = tempfile.mkdtemp(prefix="records-")
    names = [str(Path(place, f"sample.{end}")) for end in ("idx", "rec")]
    reader = recordio.MXIndexedRecordIO(str(dataset.index), str(dataset.path), "r")
    writer = recordio.MXIndexedRecordIO(*names, "w")
    for number, index in enumerate(drawn(len(dataset), count, seed)):
        writer.write_idx(number, reader.read_idx(reader.keys[index]))
    reader.close()
    writer.close()
    made = Records(names[1], dataset.classes)
    weakref.finalize(made, shutil.rmtree, place, ignore_errors=True)
    return made


class RecordBatches:
    """Batches of a packed set, as ``Batches`` gives those of a folder.

    Chance is a function of (seed, epoch) alone, so that a resumed run goes on as it
    would have; reading up to the batch where it stopped takes a moment.

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
        Threads of MXNet's reader. It does not change the batches.
    shuffle : bool
    targets, mix : callable, optional
        As in ``Batches``. With ``changes``, a last batch that is smaller is filled
        from the epoch's beginning; without, it stays small.
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
        self.targets, self.mix, self.trains = targets or padded, mix, bool(changes)
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
            If a record has an id of no class, or MXNet cannot open the files.
        """
        seed = (self.seed * 1_000_003 + number) % _SEEDS
        try:
            found = mx.io.ImageRecordIter(seed=seed, seed_aug=seed, **self._options)
            batches = islice(enumerate(found), start, len(self))
            for place, batch in batches:
                yield self._arrays(batch, (self.seed, number, place))
        except mx.MXNetError as error:
            gist = str(error).strip().splitlines()[-1]
            raise ValueError(f"{self.records.path}: {gist}") from None

    def _arrays(self, batch: mx.io.DataBatch, place: tuple) -> tuple:
        count = self.batch_size - (0 if self.trains else batch.pad)
        labels = batch.label[0].asnumpy()[:count]
        images = batch.data[0][:count]
        arrays = (images, *self.targets(labels.astype(int)))
        if self.mix is not None:
            rng = np.random.default_rng([*place, 1])
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
