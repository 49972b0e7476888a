"""Images of any kind as a deployed head takes them."""

from __future__ import annotations

import os
from typing import Callable, Iterable, Sequence

import numpy as np

from gluon_compress.data import normalize, ssd_val_sample
from gluon_compress.data.images import read_image


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Return an image as RGB of 8 bits, ``(H, W, 3)``.

    Parameters
    ----------
    image : ndarray
        uint8 or uint16: ``(H, W)``, or with 1, 3 or 4 channels, the last of four
        being alpha, which is dropped.

    Raises
    ------
    ValueError
        For anything else, or no pixel.
    """
    image = np.asarray(image)
    depth = 1 if image.ndim == 2 else image.shape[-1] if image.ndim == 3 else 0
    if image.dtype not in (np.uint8, np.uint16) or depth not in (1, 3, 4):
        raise ValueError(
            f"an image of shape {image.shape} and {image.dtype}; allowed: uint8 or "
            "uint16, (H, W) or (H, W, 1, 3 or 4)"
        )
    if image.size == 0:
        raise ValueError(f"an image of shape {image.shape} has no pixel")
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    image = image.reshape(*image.shape[:2], depth)
    return np.repeat(image, 3, axis=2) if depth == 1 else image[:, :, :3]


def prepared(
    image: np.ndarray, size: int, normalized: Callable = normalize
) -> np.ndarray:
    """Return an image as a batch of one, ``(1, 3, size, size)``, as nets are tested.

    Parameters
    ----------
    image : ndarray
        As ``as_rgb`` takes it.
    size : int
        Pixels.
    normalized : callable
        ``data.normalize``, with the net's own mean and std.
    """
    view, _ = ssd_val_sample(as_rgb(image), np.zeros((0, 6), np.float32), size)
    return normalized(view[None])


def read_inputs(
    files: Iterable[str | os.PathLike], size: int, most: int | None = None
) -> tuple[np.ndarray, Sequence[str]]:
    """Return image files as inputs ``(N, 3, size, size)``, and what was skipped why.

    With ``most``, reading ends when so many have been read.

    Raises
    ------
    ValueError
        If none can be read.
    """
    rows, skipped = [], []
    for file in files:
        if len(rows) == most:
            break
        try:
            rows.append(prepared(read_image(file), size))
        except ValueError as error:
            skipped.append(str(error))
    if not rows:
        raise ValueError(f"no image can be read: {(skipped or ['there is none'])[0]}")
    return np.concatenate(rows), skipped
