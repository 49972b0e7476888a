"""The interface of a postprocess."""

from __future__ import annotations

from typing import Any, Callable, ClassVar, Mapping, Protocol, Sequence, Tuple

import numpy as np
from pydantic import Field
from typing_extensions import Annotated

from gluon_compress.validation import Allowed

Detections = Tuple[np.ndarray, np.ndarray, np.ndarray]
FIRST = "features"  # the first stage of a net of several
# An array of this many rows is made for each image.
Rows = Annotated[
    int, Field(ge=1, le=100_000), Allowed("a whole number from 1 to 100000")
]


def finite_detections(results: Sequence[np.ndarray]) -> Detections:
    """Return detections, those whose score or box is not finite set to -1.

    Parameters
    ----------
    results : sequence of ndarray
        Ids ``(B, N, 1)``, scores ``(B, N, 1)`` and corner boxes ``(B, N, 4)``.
    """
    finite = [np.isfinite(part).all(axis=2, keepdims=True) for part in results]
    valid = np.logical_and.reduce(finite)
    ids, scores, boxes = (np.where(valid, part, np.float32(-1)) for part in results)
    return ids, scores, boxes


def boxes_in_images(
    results: Sequence[np.ndarray], placements: Sequence
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return detections image by image: ``in_images`` of all that find boxes.

    Parameters
    ----------
    results : sequence of ndarray
        Ids ``(B, N, 1)``, scores ``(B, N, 1)`` and corner boxes ``(B, N, 4)`` in pixels
        of the input; rows without a detection are -1.
    placements : sequence of data.Placement

    Returns
    -------
    list of tuple
        Ids ``(N,)``, scores ``(N,)`` and corner boxes ``(N, 4)`` in pixels of each
        image. All are finite numbers; other detections are left out.
    """
    images = []
    for ids, scores, boxes, placement in zip(*finite_detections(results), placements):
        with np.errstate(over="ignore"):  # a very large box
            boxes = placement.to_image(boxes)
        valid = (ids[:, 0] >= 0) & np.isfinite(boxes).all(axis=1)
        images.append((ids[valid, 0].astype(int), scores[valid, 0], boxes[valid]))
    return images


class Postprocess(Protocol):
    """Turns a net's outputs into results.

    Attributes
    ----------
    kind : str
        Its name in manifests.
    Settings : type
        Its section of the manifest: a ``validation.Settings`` with the key ``kind``.
    finds_boxes : bool
        Whether results are ids, scores and corner boxes. Then ``in_images`` is
        ``boxes_in_images``.
    arrays : tuple of str
        Names of the ``.npy`` files that it needs beside the manifest.
    later_stages : tuple of str
        Of nets of several stages, the names of those behind ``FIRST``; there may be
        fewer. It then has a method ``run(stages, batch, together)``, which returns
        the outputs that ``decode`` reads, as ``RCNNPostprocess`` has. Others need not
        state it.
    """

    kind: ClassVar[str]
    Settings: ClassVar[type]
    finds_boxes: ClassVar[bool]
    arrays: ClassVar[tuple]

    @classmethod
    def from_state(cls, settings: Any, arrays: Mapping[str, np.ndarray]) -> Postprocess:
        """Return the postprocess that ``state`` described.

        Raises
        ------
        ValueError
            If an array does not fit; the message names its file.
        """

    def state(self) -> tuple:
        """Return its section of the manifest, a dict, and its arrays by file name."""

    def check(self, shapes: Mapping[str, Sequence[int]], classes: Sequence) -> None:
        """Raise ValueError if the shapes of the outputs or the classes do not fit."""

    def decode(self, outputs: Mapping[str, np.ndarray]) -> tuple:
        """Return results of a batch, arrays ``(B, ...)``, in pixels of the input.

        What would not be a finite number is no result: its id is -1.
        """

    @staticmethod
    def in_images(results: Sequence[np.ndarray], placements: Sequence) -> list:
        """Return the results of ``decode`` for each image, in pixels of the image.

        Parameters
        ----------
        results : sequence of ndarray
            Arrays ``(B, ...)``.
        placements : sequence of data.Placement
            Where each image lies in the input.
        """

    def compare(
        self,
        outputs: Mapping[str, np.ndarray],
        results: Sequence[np.ndarray],
        expected: Sequence[np.ndarray],
        *,
        tolerance: float,
        side: int,
    ) -> tuple:
        """Return how far results are off, and what is wrong with them, or ``""``.

        Parameters
        ----------
        outputs : mapping
            The net's outputs.
        results, expected : sequence of ndarray
            As ``decode`` returns them: those to check, and the net's own.
        tolerance : float
            By how much outputs may differ, relative to their largest value.
        side : int
            The longer side of the input, pixels.
        """


def decoded(
    postprocess: Postprocess,
    run: Callable[[Any], Mapping[str, np.ndarray]],
    batch: Any,
    mirror: Callable[[Any], Any] = lambda batch: np.ascontiguousarray(batch[..., ::-1]),
) -> tuple:
    """Run a net on a batch, and on its mirror image if that is asked for; decode.

    Parameters
    ----------
    postprocess : Postprocess
        With an attribute ``mirrors`` that is true, the net also runs on the mirrored
        batch, and ``postprocess.averaged(outputs, mirrored)`` makes one of both.
    run : callable
        Inputs ``(B, 3, H, W)`` to outputs by name.
    batch : ndarray or NDArray
    mirror : callable
        Mirrors a batch from left to right.
    """
    outputs = run(batch)
    if getattr(postprocess, "mirrors", False):
        average = postprocess.averaged  # type: ignore[attr-defined]
        outputs = average(outputs, run(mirror(batch)))
    return postprocess.decode(outputs)
