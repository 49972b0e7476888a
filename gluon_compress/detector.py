"""A trained model by its folder, to run on images: in Gluon or in an edge runtime.

``load_predictor`` takes detectors and classifiers; ``load_detector`` takes detectors
alone, and finds boxes above a threshold.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from gluon_compress import models
from gluon_compress.data import Preprocess
from gluon_compress.deployment.manifest import is_deployed
from gluon_compress.deployment.predictor import ImagePredictor, Predictor
from gluon_compress.deployment.runtimes import RUNTIMES
from gluon_compress.models.family import family_of
from gluon_compress.storage.artifacts import read_manifest


class GluonPredictor(ImagePredictor):
    """A net in Gluon, on the first of its devices; the net stays as it is.

    Parameters
    ----------
    net : HybridBlock
        A detector or classifier of any family.
    """

    def __init__(self, net: Any) -> None:
        self._net, self._family = net, family_of(net)
        super().__init__(
            self._family.classes_of(net),
            self._family.preprocess(net),
            self._family.postprocess(net),
        )

    def detect(self, batch: Any) -> tuple[np.ndarray, ...]:
        """Return the results for inputs, arrays of NumPy or MXNet."""
        device = next(iter(self._net.collect_params().values())).list_ctx()[0]
        if isinstance(batch, mx.nd.NDArray):
            self.check_shape(batch.shape)
        else:
            batch = mx.nd.array(self.checked(batch))
        return self._family.results(self._net, batch.as_in_context(device))


@dataclass(frozen=True)
class Detector:
    """A detector, whatever runs it.

    Parameters
    ----------
    predictor : ImagePredictor
        In Gluon, or in a runtime.
    """

    predictor: ImagePredictor

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by class id."""
        return self.predictor.classes

    @property
    def height(self) -> int:
        """Height of the input, pixels."""
        return self.predictor.height

    @property
    def width(self) -> int:
        """Width of the input, pixels."""
        return self.predictor.width

    @property
    def preprocess(self) -> Preprocess:
        """What images go through before."""
        return self.predictor.preprocess

    @property
    def max_batch(self) -> int | None:
        """How many images ``detect`` takes at once; None is any number."""
        return self.predictor.max_batch

    def detect(
        self, batch: mx.nd.NDArray | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ids, scores and corner boxes for inputs that are prepared already.

        Parameters
        ----------
        batch : NDArray or ndarray
            ``(B, 3, height, width)``, as ``preprocess`` makes it.

        Returns
        -------
        tuple of ndarray
            Ids ``(B, N, 1)``, scores ``(B, N, 1)`` and corner boxes ``(B, N, 4)`` in
            pixels of the input; rows without a detection are -1.
        """
        if isinstance(batch, mx.nd.NDArray) and isinstance(self.predictor, Predictor):
            batch = batch.asnumpy()
        ids, scores, corner_boxes = self.predictor.detect(batch)
        return ids, scores, corner_boxes

    def find(
        self, image: np.ndarray, threshold: float = 0.5
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what the detector finds in an image of any size, best first.

        Parameters
        ----------
        image : ndarray
            RGB ``(H, W, 3)``, RGBA or grey, of 8 or 16 bits.
        threshold : float
            Lowest score that counts.

        Returns
        -------
        tuple of ndarray
            Ids ``(N,)``, scores ``(N,)`` and corner boxes ``(N, 4)`` in pixels of the
            image.
        """
        ids, scores, corner_boxes = self.predictor([image])[0]
        enough = scores >= threshold
        return ids[enough], scores[enough], corner_boxes[enough]


def load_detector(
    folder: str | os.PathLike,
    *,
    runtime: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    trusted: bool = True,
    ctx: mx.Context | None = None,
) -> Detector:
    """Return the detector of a model folder, or of a deployed folder in a runtime.

    Parameters
    ----------
    folder, runtime, precision, threads, trusted, ctx
        As ``load_predictor`` takes them.

    Raises
    ------
    ValueError
        As ``load_predictor`` does, and for a model that finds no boxes.
    """
    options = {"runtime": runtime, "precision": precision, "threads": threads}
    predictor = load_predictor(
        folder,
        **options,  # type: ignore[arg-type]
        trusted=trusted,
        ctx=ctx,
    )
    if not predictor.postprocess.finds_boxes:
        kind = read_manifest(folder).get("kind")
        raise ValueError(f"{folder}: kind is {kind!r}; allowed: that of a detector")
    return Detector(predictor)


def load_predictor(
    folder: str | os.PathLike,
    *,
    runtime: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    trusted: bool = True,
    ctx: mx.Context | None = None,
) -> ImagePredictor:
    """Return the predictor of a model folder, or of a deployed folder in a runtime.

    Parameters
    ----------
    folder : path
        That ``models.save`` or ``deploy`` wrote.
    runtime : str, optional
        One of ``RUNTIMES``, for a deployed folder. Default: Gluon, for a model folder.
    precision : str, optional
        With a runtime, ``float32`` (the default) or ``int8``.
    threads : int, optional
        With a runtime, at least 1. MXNet takes them from ``OMP_NUM_THREADS``.
    trusted : bool
        With a runtime, as for ``Predictor``.
    ctx : Context, optional
        In Gluon; default: the CPU.

    Raises
    ------
    ValueError
        If the model cannot be loaded, or an option was given that would do nothing.
    """
    if runtime is not None:
        if ctx is not None and ctx.device_type != "cpu":
            raise ValueError(f"ctx is {ctx}; allowed with a runtime: the CPU")
        precision = precision or "float32"
        options = {"precision": precision, "threads": threads, "trusted": trusted}
        return Predictor(folder, runtime, **options)  # type: ignore[arg-type]
    if not trusted:
        raise ValueError("trusted is False; allowed without a runtime: True")
    for name, value in (("precision", precision), ("threads", threads)):
        if value is not None:
            raise ValueError(f"{name} is {value!r}; allowed without a runtime: None")
    manifest = read_manifest(folder)
    if is_deployed(manifest):
        raise ValueError(
            f"{folder}: kind is {manifest['kind']!r}, a deployed folder, and runtime "
            f"is None; allowed: {', '.join(RUNTIMES)}"
        )
    return predictor_of(models.load(folder), ctx)


def predictor_of(net: HybridBlock, ctx: mx.Context | None = None) -> ImagePredictor:
    """Return the predictor of a net in Gluon, which is moved to a device."""
    net.collect_params().reset_ctx(ctx or mx.cpu())
    net.hybridize(static_alloc=True, static_shape=True)
    return GluonPredictor(net)
