"""Augments images for classifiers, in uint8.

The changes are those of GluonCV's ImageNet training (He et al. 2019, "Bag of Tricks",
section 2.1): a random crop, mirrored half of the time, with random colours. All colour
changes are one matrix, applied at the size of the net's input.
"""

from __future__ import annotations

from typing import Sequence

import cv2
import numpy as np

from gluon_compress.data.preprocess import (
    CROPPED,
    Interpolation,
    Preprocess,
    as_rgb,
)
from gluon_compress.sizes import Size, size_pair

ASPECTS = (3 / 4, 4 / 3)
TRIALS = 10

_GRAY = np.array([0.299, 0.587, 0.114])
# Principal components of ImageNet's colours (Krizhevsky et al. 2012, section 4.1).
_LENGTHS = np.array([55.46, 4.794, 1.148])
_DIRECTIONS = np.array(
    [
        [-0.5675, 0.7192, 0.4009],
        [-0.5808, -0.0045, -0.8140],
        [-0.5836, -0.6948, 0.4203],
    ]
)


def crop_train_sample(
    image: np.ndarray,
    label: int,
    size: Size,
    rng: np.random.Generator,
    *,
    least_area: float = 0.08,
    jitter: float = 0.4,
    lighting: float = 0.1,
    interpolation: Interpolation = CROPPED,
) -> tuple[np.ndarray, int]:
    """Return a random crop of an image, resized, and its class.

    Parameters
    ----------
    image : numpy.ndarray
        ``(H, W, 3)``, uint8, RGB; not changed.
    label : int
        Returned as it is.
    size : int or (int, int)
        Height and width of the result, pixels.
    rng : numpy.random.Generator
        The only source of random numbers.
    least_area : float
        Smallest share of the image's area that a crop takes.
    jitter : float
        Largest relative change of brightness, contrast and saturation.
    lighting : float
        Standard deviation of the noise along ImageNet's principal colours.
    interpolation : Interpolation
        How the crop is resized.

    Returns
    -------
    tuple
        Image ``(H, W, 3)``, uint8, and ``label``.
    """
    image, (rows, columns) = as_rgb(image), size_pair(size)
    stretch = columns / rows
    top, left, height, width = _crop(image.shape[:2], least_area, stretch, rng)
    part = image[top : top + height, left : left + width]
    view = interpolation.resize(part, rows, columns)
    if rng.random() < 0.5:
        view = cv2.flip(view, 1)
    if jitter or lighting:
        view = cv2.transform(view, _colours(view, jitter, lighting, rng))
    return view, label


def crop_val_sample(
    image: np.ndarray,
    label: int,
    size: Size,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, int]:
    """Return the centre of an image and its class.

    Parameters
    ----------
    image, label, size
        As in ``crop_train_sample``.
    rng : ignored
        Nothing is random here.

    Returns
    -------
    tuple
        Image ``(H, W, 3)``, uint8: the centre of the image after resizing it to just
        cover ``size / 0.875``, and ``label``.
    """
    view, _ = Preprocess.centre_crop(*size_pair(size)).view(image)
    return view, label


def _crop(
    shape: Sequence[int], least_area: float, stretch: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a crop (top, left, height, width) by its area and aspect ratio.

    If none of the trials fits, it is the largest centred one of the result's aspect
    ratio, ``stretch`` (width over height), to which drawn ratios are relative.
    """
    height, width = shape
    areas = rng.uniform(least_area, 1, TRIALS) * height * width
    low, high = np.log(ASPECTS)
    aspects = np.exp(rng.uniform(low, high, TRIALS)) * stretch
    for w, h in np.rint(np.sqrt([areas * aspects, areas / aspects])).astype(int).T:
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return int(top), int(left), int(h), int(w)
    h = max(round(min(height, width / stretch)), 1)
    w = max(round(min(width, height * stretch)), 1)
    return (height - h) // 2, (width - w) // 2, h, w


def _colours(view: np.ndarray, jitter: float, lighting: float, rng) -> np.ndarray:
    """Draw brightness, contrast, saturation and lighting as one ``(3, 4)`` matrix."""
    bright, contrast, colour = rng.uniform(1 - jitter, 1 + jitter, 3)
    gray = bright * float(_GRAY @ np.array(cv2.mean(view)[:3]))
    matrix = bright * contrast * np.eye(3)
    matrix = colour * matrix + (1 - colour) * _GRAY @ matrix
    noise = _DIRECTIONS @ (_LENGTHS * rng.normal(0, lighting, 3))
    return np.hstack([matrix, ((1 - contrast) * gray + noise)[:, None]])
