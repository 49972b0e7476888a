"""Runs deployed nets on images, in any runtime."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterable, Iterator, Sequence

import numpy as np

from gluon_compress.data import Preprocess
from gluon_compress.data.images import read_image
from gluon_compress.deployment import manifest
from gluon_compress.deployment.formats import BATCH, formats_of
from gluon_compress.deployment.runtimes import (
    check_form,
    check_staged,
    open_files,
    open_stage,
)
from gluon_compress.deployment.trial import try_apart
from gluon_compress.postprocess import decoded
from gluon_compress.postprocess.base import FIRST
from gluon_compress.storage.artifacts import one_state
from gluon_compress.validation import first_line


class ImagePredictor(ABC):
    """Runs a net on images of any size; subclasses run it on prepared batches.

    Parameters
    ----------
    classes : sequence of str
        Names by class id.
    preprocess : data.Preprocess
        How images become inputs.
    postprocess : type or Postprocess
        Its ``in_images`` maps results to the images.
    max_batch : int, optional
        Largest batch of the net; None: any.
    """

    def __init__(
        self,
        classes: Sequence[str],
        preprocess: Preprocess,
        postprocess: Any,
        max_batch: int | None = None,
    ) -> None:
        self.classes, self.max_batch = tuple(classes), max_batch
        self.preprocess, self.postprocess = preprocess, postprocess

    @property
    def height(self) -> int:
        """Height of the net's input, pixels."""
        return self.preprocess.height

    @property
    def width(self) -> int:
        """Width of the net's input, pixels."""
        return self.preprocess.width

    def checked(self, batch: Any) -> np.ndarray:
        """Return prepared inputs as an array for the net.

        Raises
        ------
        ValueError
            For anything but ``(B, 3, height, width)`` finite numbers, B at least 1.
        """
        if not hasattr(batch, "__array_interface__"):
            # NumPy would read an MXNet array value by value, for minutes.
            kind = type(batch).__name__
            raise ValueError(f"a batch is of type {kind}; allowed: NumPy arrays")
        batch = np.asarray(batch)
        self.check_shape(batch.shape)
        if batch.dtype.kind not in "fiu":
            raise ValueError(f"a batch of {batch.dtype}; allowed: float32 numbers")
        batch = np.ascontiguousarray(batch, np.float32)
        if not np.isfinite(batch).all():  # which layers such as relu would hide
            raise ValueError("a batch has values that are not finite numbers")
        return batch

    def check_shape(self, shape: Sequence[int]) -> None:
        """Refuse another shape than ``preprocess`` makes, or one without images."""
        if not self.preprocess.takes(shape) or not shape[0]:
            expected, unit = self.preprocess.shape[1:], self.preprocess.unit
            words = "" if unit is None else f", or fewer pixels in steps of {unit}"
            raise ValueError(
                f"a batch of shape {shape}; allowed: B x {expected}{words}"
            )

    @abstractmethod
    def detect(self, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the results for prepared inputs.

        Parameters
        ----------
        batch : ndarray
            ``(B, 3, height, width)``, float32, as ``preprocess`` returns it.

        Returns
        -------
        tuple of ndarray
            For a detector: ids ``(B, N, 1)``, scores ``(B, N, 1)`` and corner boxes
            ``(B, N, 4)`` in pixels of the input; rows without a detection are -1. For a
            classifier: ids and probabilities ``(B, K)``.
        """

    def __call__(self, images: Sequence[np.ndarray]) -> list[tuple]:
        """Return the results for each image, best first.

        Parameters
        ----------
        images : sequence of ndarray
            Images of any size: RGB ``(H, W, 3)``, RGBA or grey, 8 or 16 bits; or PIL's.

        Returns
        -------
        list of tuple
            For a detector: ids ``(N,)``, scores ``(N,)`` and corner boxes ``(N, 4)`` in
            pixels of the image. For a classifier: ids ``(K,)`` and probabilities
            ``(K,)`` of the most probable classes.

        Raises
        ------
        ValueError
            For anything but a sequence of such images.
        """
        pairs = [self.preprocess(image) for image in _as_list(images)]
        if not pairs:
            return []
        inputs, placements = zip(*pairs)
        # Inputs that end behind their images cannot lie in one array.
        alone = self.max_batch == 1 or self.preprocess.unit is not None
        batches = inputs if alone else [np.concatenate(inputs)]
        rows = [self.detect(batch) for batch in batches]
        results = [np.concatenate(parts) for parts in zip(*rows)]
        return self.postprocess.in_images(results, placements)

    def stream(self, files: Iterable[str | os.PathLike]) -> Iterator[tuple]:
        """Run on image files one by one, reading the next while the net runs.

        Parameters
        ----------
        files : iterable of path
            JPEG or PNG; consumed lazily, so it may be endless.

        Yields
        ------
        tuple
            The file, and the results for its image, or the ValueError if it cannot be
            read.
        """
        with ThreadPoolExecutor(1) as reader:
            upcoming = None
            for file in files:
                last, upcoming = upcoming, (file, reader.submit(self._read, file))
                if last is not None:
                    yield self._finished(*last)
            if upcoming is not None:
                yield self._finished(*upcoming)

    def _read(self, file: str | os.PathLike) -> tuple | ValueError:
        try:
            return self.preprocess(read_image(file))
        except ValueError as error:
            return error

    def _finished(self, file: str | os.PathLike, reading: Future) -> tuple:
        read = reading.result()
        if isinstance(read, ValueError):
            return file, read
        batch, placement = read
        return file, self.postprocess.in_images(self.detect(batch), [placement])[0]


class Predictor(ImagePredictor):
    """A deployed detector or classifier in one of its runtimes.

    Parameters
    ----------
    folder : path
        Written by ``deploy``; the sha256 of its files is checked.
    runtime : str
        One of ``RUNTIMES``.
    precision : str
        ``float32`` or ``int8``.
    threads : int, optional
        At least 1. Default: the runtime's own choice.
    trusted : bool
        Whether the folder is from someone you trust. If not, it is first opened and run
        in a process of its own, with limits on time and memory; this takes seconds.

    Attributes
    ----------
    classes : tuple of str
        Names by class id.
    height, width : int
        Size of the net's input, pixels.
    max_batch : int or None
        Largest batch of the export; None: any.

    Raises
    ------
    ValueError
        If the folder, one of its files or the runtime is missing, a file was altered,
        the manifest is invalid, the runtime cannot load its file, or has no setting for
        ``threads``.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        runtime: str = "mxnet",
        *,
        precision: str = "float32",
        threads: int | None = None,
        trusted: bool = True,
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; allowed: at least 1")
        if not trusted:
            try_apart(folder, runtime, precision)
        stated, postprocess, batch, self._run, self._stages = _opened(
            Path(folder), runtime, precision, threads
        )
        super().__init__(
            stated.classes,
            stated.preprocess,
            postprocess,
            None if batch == BATCH else 1,
        )
        self._output_shapes = stated.output_shapes

    def detect(self, batch: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the results for inputs that are prepared already."""
        return decoded(self.postprocess, self.outputs, batch)

    def outputs(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Return the net's outputs ``(B, ...)`` for prepared images, by name.

        Of a net of several stages they are those that ``postprocess.run`` gives.

        Raises
        ------
        ValueError
            For a shape that the export was not made for.
        """
        batch = self.checked(batch)
        if self.max_batch is not None and len(batch) > self.max_batch:
            raise ValueError(
                f"a batch of {len(batch)} images; this export was made for "
                f"{self.max_batch}"
            )
        if not self._stages:
            return self._first(batch)
        stages = {FIRST: lambda inputs: self._first(inputs["data"]), **self._stages}
        try:
            return self.postprocess.run(stages, batch, together=False)
        except Exception as error:
            raise ValueError(f"the net does not run: {first_line(error)}") from None

    def _first(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs of the graph that reads images."""
        try:
            outputs = self._run(batch)
        except Exception as error:  # each runtime has its own
            raise ValueError(f"the net does not run: {first_line(error)}") from None
        shapes = {n: (len(batch), *s[1:]) for n, s in self._output_shapes.items()}
        actual = [int(np.size(output)) for output in outputs]
        if actual != [math.prod(shape) for shape in shapes.values()]:
            raise ValueError(
                f"outputs have {actual} numbers; the manifest states {shapes}"
            )
        return {
            name: np.asarray(output).reshape(shape)
            for (name, shape), output in zip(shapes.items(), outputs)
        }


@one_state
def _opened(folder: Path, runtime: str, precision: str, threads: int | None) -> tuple:
    """Return manifest, postprocess, batch, graph and stages of a deployed folder."""
    stated = manifest.read(folder)
    entry = _chosen(folder, stated, runtime, precision)
    postprocess = manifest.read_postprocess(folder, stated)
    files = [folder / file for file in entry.files]
    run = open_files(runtime, files, stated.input.shape, threads)
    stages = {
        name: open_stage(
            runtime,
            [folder / file for file in entry.stages[name]],
            stage.input_shapes,
            tuple(stage.output_shapes),
            threads,
        )
        for name, stage in stated.stages.items()
    }
    return stated, postprocess, entry.batch, run, stages


def _as_list(images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """Refuse anything but a sequence of images."""
    if isinstance(images, np.ndarray) and images.ndim != 4:
        shape = f"one array of shape {images.shape}"
        raise ValueError(f"images is {shape}; allowed: a list of images")
    if not isinstance(images, (Sequence, np.ndarray)) or isinstance(images, str):
        kind = type(images).__name__
        raise ValueError(f"images is of type {kind}; allowed: a list of images")
    return images


def _chosen(
    folder: Path, stated: manifest.DeployedManifest, runtime: str, precision: str
) -> manifest.FormatEntry:
    """Return the exported format that a runtime reads."""
    formats = formats_of(runtime, precision)
    if stated.stages:
        try:
            check_staged(runtime)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
    for name in formats:
        if name in stated.formats:
            entry = stated.formats[name]
            try:
                check_form(runtime, entry.deformable)
            except ValueError as error:
                raise ValueError(f"{folder}: format {name!r}: {error}") from None
            return entry
    raise ValueError(
        f"{folder}: {runtime} reads the format {' or '.join(formats)}; the folder has "
        f"{', '.join(stated.formats) or 'none'}"
    )
