"""The interface of a postprocess."""

from __future__ import annotations

from typing import Any, ClassVar, Mapping, Protocol, Sequence

import numpy as np


class Postprocess(Protocol):
    """Turns a net's outputs into results.

    Attributes
    ----------
    kind : str
        Its name in manifests.
    Settings : type
        Its section of the manifest: a ``validation.Settings`` with the key ``kind``.
    finds_boxes : bool
        Whether results are ids, scores and corner boxes.
    arrays : tuple of str
        Names of the ``.npy`` files that it needs beside the manifest.
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
        """Return results of a batch, arrays ``(B, ...)``, in pixels of the input."""

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
