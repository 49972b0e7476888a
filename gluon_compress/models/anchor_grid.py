"""The anchors of a detector, and which cells of which map they belong to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gluon_compress.boxes import STDS


@dataclass(frozen=True)
class AnchorGrid:
    """The anchors of a detector, and the map cells that they belong to.

    Parameters
    ----------
    center_boxes : numpy.ndarray
        Pixels, ``(A, 4)``: map by map, row by row, all of a cell together.
    maps : tuple
        (height, width, anchors of a cell) of each map.
    stds : tuple of float
        What box deltas are multiplied by.
    taps : tuple of int or None
        The maps whose cells are asked for; None: all.
    stride : int
        Only every n-th cell in each direction is asked for, as ``subsampling`` says;
        it stands for the n x n cells from it on.

    Raises
    ------
    ValueError
        If the maps do not have that many anchors.
    """

    center_boxes: np.ndarray
    maps: tuple[tuple[int, int, int], ...]
    stds: tuple[float, ...] = STDS
    taps: tuple[int, ...] | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        count = sum(height * width * each for height, width, each in self.maps)
        if np.shape(self.center_boxes) != (count, 4):
            raise ValueError(
                f"anchors: maps {self.maps} need boxes of shape {(count, 4)}, not "
                f"{np.shape(self.center_boxes)}"
            )
