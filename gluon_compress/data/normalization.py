"""Normalizes uint8 images with ImageNet's mean and standard deviation."""

from __future__ import annotations

from typing import Sequence

import numpy as np

# For RGB in 0..1, as GluonCV's nets are trained.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(
    images: np.ndarray | Sequence[np.ndarray],
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> np.ndarray:
    """Return normalized images, channels first.

    Parameters
    ----------
    images : numpy.ndarray, or sequence of images
        ``(B, H, W, 3)``, uint8, RGB.
    mean, std : sequence of float
        One value for each channel, for colours in 0..1. Default: ImageNet's.

    Returns
    -------
    numpy.ndarray
        ``(B, 3, H, W)``, float32.
    """
    height, width, _ = images[0].shape
    out = np.empty((len(images), 3, height, width), np.float32)
    scale = 1 / (255 * np.array(std, np.float32))
    shift = np.array(mean, np.float32) / np.array(std, np.float32)
    for image, planes in zip(images, out):
        for channel, plane in enumerate(planes):
            np.multiply(image[..., channel], scale[channel], out=plane)
            plane -= shift[channel]
    return out
