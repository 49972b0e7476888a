"""Linear layers as matrix products, for fitting weights to data.

At each place of its output, a linear layer computes ``columns @ matrix.T`` plus the
bias, group by group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping

import numpy as np

from gluon_compress.graph.context import attribute, numbers


@dataclass(frozen=True)
class LinearForm:
    """How a layer is a matrix product.

    Parameters
    ----------
    columns : callable
        ``columns(attrs, data, places) -> (groups, rows, features)``: what the layer
        multiplies with its weight at flat positions ``(B, P)`` of its output.
    output_axis : int
        The axis of the output that has the channels.
    """

    columns: Callable[[Mapping[str, str], np.ndarray, np.ndarray], np.ndarray]
    output_axis: int

    def rows(self, output: np.ndarray) -> np.ndarray:
        """Return the output ``(B, places, channels)``, in the order of the places."""
        moved = np.moveaxis(output, self.output_axis, -1)
        return moved.reshape(len(output), -1, moved.shape[-1])


def convolution_columns(
    attrs: Mapping[str, str], data: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Return the values under the kernel at some places of the output.

    Parameters
    ----------
    attrs : mapping
        Of a convolution with channels first, of any number of dimensions.
    data : ndarray
        ``(B, C, ...)``
    places : ndarray
        Flat positions in the output, ``(B, P)``.

    Returns
    -------
    ndarray
        ``(groups, B * P, C / groups * kernel size)``
    """
    kernel = numbers(attrs, "kernel")
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    stride = numbers(attrs, "stride") or ones
    dilate = numbers(attrs, "dilate") or ones
    pad = numbers(attrs, "pad") or zeros
    padded = np.pad(data, [(0, 0), (0, 0), *((p, p) for p in pad)])
    size = [
        (length - d * (k - 1) - 1) // s + 1
        for length, k, s, d in zip(padded.shape[2:], kernel, stride, dilate)
    ]
    corners = [c * s for c, s in zip(np.unravel_index(places, size), stride)]
    images = np.arange(len(data))[:, None]
    taps = []
    for tap in np.ndindex(*kernel):
        at = (c + t * d for c, t, d in zip(corners, tap, dilate))
        index = (images, slice(None), *at)
        taps.append(padded[index])  # (B, P, C)
    columns = np.stack(taps, axis=-1)
    groups = attribute(attrs, "num_group", 1)
    return columns.reshape(places.size, groups, -1).transpose(1, 0, 2)


def dense_columns(
    attrs: Mapping[str, str], data: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Return the features of some rows of the output; as ``convolution_columns``."""
    if attribute(attrs, "flatten", True):
        rows = data.reshape(len(data), 1, -1)
    else:
        rows = data.reshape(len(data), -1, data.shape[-1])
    chosen = rows[np.arange(len(data))[:, None], places]
    return chosen.reshape(1, places.size, -1)


def as_matrix(weight: np.ndarray, attrs: Mapping[str, str]) -> np.ndarray:
    """Return a layer's weight as ``(groups, outputs / groups, features)``."""
    groups = attribute(attrs, "num_group", 1)
    return weight.reshape(groups, len(weight) // groups, -1)


CONVOLUTION = LinearForm(convolution_columns, output_axis=1)
DENSE = LinearForm(dense_columns, output_axis=-1)
