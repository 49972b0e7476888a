"""A deployed detector in any runtime: images to ids, scores and corner boxes."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Iterable, Iterator, Sequence

import numpy as np

from gluon_compress.data import normalize
from gluon_compress.data.images import read_image
from gluon_compress.deployment import manifest
from gluon_compress.deployment.formats import BATCH
from gluon_compress.deployment.postprocess import Decoding, detections
from gluon_compress.deployment.preprocess import as_rgb, prepared
from gluon_compress.deployment.runtimes import RUNTIMES
from gluon_compress.storage.artifacts import MANIFEST

# Which of a runtime's formats are taken, the first that was exported.
READS = {
    ("mxnet", "float32"): ("mxnet",),
    ("mxnet", "int8"): ("int8",),
    ("onnxruntime", "float32"): ("onnx-dynamic", "onnx"),
    ("onnxruntime", "int8"): ("onnx-int8",),
    ("openvino", "int8"): ("onnx-int8",),
    ("openvino", "float32"): ("openvino", "onnx-dynamic", "onnx"),
    ("ncnn", "float32"): ("ncnn",),
    ("opencv", "float32"): ("onnx",),
}


class Predictor:
    """A detector of a deployed folder, in one of its runtimes.

    Parameters
    ----------
    folder : path
        That ``deploy`` wrote; the sha256 of its files is checked.
    runtime : str
        One of ``RUNTIMES``.
    precision : str
        ``float32`` or ``int8``.
    threads : int, optional
        At least 1. Default: the runtime's own choice.

    Raises
    ------
    ValueError
        If the folder, a file of it or the runtime is missing, a file was altered, the
        manifest states what cannot be, the runtime cannot load its file, or ``threads``
        is not for this runtime.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        runtime: str = "mxnet",
        *,
        precision: str = "float32",
        threads: int | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; allowed: at least 1")
        folder = Path(folder)
        stated = manifest.read(folder)
        written = _chosen(folder, stated, runtime, precision)
        self.classes, self.size = stated.classes, stated.anchors.size
        self.normalized = partial(normalize, mean=stated.mean, std=stated.std)
        self.one_by_one = written.batch != BATCH
        anchors, stds = _anchors(folder, stated), stated.decode.stds
        self.decoding = Decoding(anchors, stds, **vars(stated.nms))
        files = [folder / file for file in written.files]
        try:
            self._run = RUNTIMES[runtime](files, threads)
        except ValueError:  # says what is wrong: a missing module, threads
            raise
        except Exception as error:  # each runtime has its own
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{files[0]}: {runtime} cannot load it: {why}") from None

    def __call__(self, images: Sequence[np.ndarray]) -> list[tuple]:
        """Return for each image its ids, scores and corner boxes, best first.

        Parameters
        ----------
        images : sequence of ndarray
            Of any size: RGB ``(H, W, 3)``, RGBA or grey, of 8 or 16 bits.

        Returns
        -------
        list of tuple
            Ids ``(N,)``, scores ``(N,)`` and corner boxes ``(N, 4)`` in pixels of the
            image.

        Raises
        ------
        ValueError
            For anything but a sequence of such images.
        """
        if getattr(images, "ndim", 4) != 4:
            shape = f"one array of shape {images.shape}"
            raise ValueError(f"images is {shape}; allowed: a list of images")
        if not isinstance(images, (Sequence, np.ndarray)):
            raise ValueError(f"images is {images!r}; allowed: a list of images")
        views = [as_rgb(image) for image in images]
        rows = [self.prepared(view) for view in views]
        if not self.one_by_one and rows:
            rows = [np.concatenate(rows)]
        found = [self.detect(batch) for batch in rows]
        parts = [np.concatenate(part) for part in zip(*found)]
        return [
            _to_pixels(*(part[i] for part in parts), view.shape, self.size)
            for i, view in enumerate(views)
        ]

    def prepared(self, image: np.ndarray) -> np.ndarray:
        """Return an image of any size as the net takes it, ``(1, 3, size, size)``."""
        return prepared(image, self.size, self.normalized)

    def stream(self, files: Iterable[str | os.PathLike]) -> Iterator[tuple]:
        """Detect on image files one by one; the next is read while the net runs.

        Parameters
        ----------
        files : iterable of path
            JPEG or PNG; taken as they are asked for, so that it may be endless.

        Yields
        ------
        tuple
            The file, and what calling the predictor returns for its image. For a file
            that cannot be read the ValueError that says why, instead.
        """
        with ThreadPoolExecutor(1) as reader:
            coming = None
            for file in files:
                last, coming = coming, (file, reader.submit(self._read, file))
                if last is not None:
                    yield self._finished(*last)
            if coming is not None:
                yield self._finished(*coming)

    def _read(self, file: str | os.PathLike) -> tuple:
        """Return an image's shape and its input, or why there is none, and None."""
        try:
            image = read_image(file)
        except ValueError as error:
            return error, None
        return image.shape, self.prepared(image)

    def _finished(self, file: str | os.PathLike, reading: Future) -> tuple:
        shape, batch = reading.result()
        if batch is None:
            return file, shape
        found = (part[0] for part in self.detect(batch))
        return file, _to_pixels(*found, shape, self.size)

    def detect(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ids ``(B, N, 1)``, scores and corner boxes for prepared images.

        Parameters
        ----------
        batch : ndarray
            ``(B, 3, size, size)``, float32, as ``normalized`` makes it.
        """
        return detections(self.predictions(batch), self.decoding)

    def predictions(self, batch: np.ndarray) -> np.ndarray:
        """Return what the head says of prepared images, ``(B, A, C + 5)``.

        Raises
        ------
        ValueError
            For a shape that the export was not made for.
        """
        batch = np.ascontiguousarray(batch, np.float32)
        expected = (3, self.size, self.size)
        if batch.ndim != 4 or batch.shape[1:] != expected or not len(batch):
            raise ValueError(f"a batch of shape {batch.shape}; allowed: B x {expected}")
        if self.one_by_one and len(batch) > 1:
            raise ValueError(
                f"a batch of {len(batch)} images; this export was made for 1"
            )
        shape = (len(batch), len(self.decoding.anchors), len(self.classes) + 5)
        return self._run(batch)[0].reshape(shape)


def _chosen(
    folder: Path, stated: manifest.Deployed, runtime: str, precision: str
) -> manifest.Written:
    """Return the exported format that a runtime reads."""
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime {runtime!r}; allowed: {', '.join(RUNTIMES)}")
    wanted = READS.get((runtime, precision))
    if wanted is None:
        allowed = sorted(p for r, p in READS if r == runtime)
        raise ValueError(f"precision {precision!r} of {runtime}; allowed: {allowed}")
    for name in wanted:
        if name in stated.formats:
            return stated.formats[name]
    raise ValueError(
        f"{folder}: {runtime} reads the format {' or '.join(wanted)}; the folder has "
        f"{', '.join(stated.formats) or 'none'}"
    )


def _anchors(folder: Path, stated: manifest.Deployed) -> np.ndarray:
    """Return the anchors, one for each row of the output."""
    shape = (stated.outputs[0].shape[1], 4)
    try:
        anchors = np.load(folder / manifest.ANCHORS)
    except ValueError as error:
        raise ValueError(f"{folder / manifest.ANCHORS}: {error}") from None
    if anchors.dtype != np.float32 or not np.isfinite(anchors).all():
        raise ValueError(f"{folder / manifest.ANCHORS}: allowed: numbers of float32")
    if anchors.shape != shape:
        raise ValueError(
            f"{folder / manifest.ANCHORS}: {anchors.shape}; allowed: {shape}, for "
            f"outputs[0].shape in {MANIFEST}"
        )
    return anchors


def _to_pixels(ids, scores, boxes, shape: Sequence[int], size: int) -> tuple:
    """Return the valid rows, with boxes in pixels of an image of such a shape."""
    valid = ids[:, 0] >= 0
    scale = np.array([shape[1] / size, shape[0] / size] * 2, np.float32)
    return ids[valid, 0].astype(int), scores[valid, 0], boxes[valid] * scale
