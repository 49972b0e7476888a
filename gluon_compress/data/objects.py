"""The objects of a detection data set, in pixels of a net's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gluon_compress.data.broken import BrokenImage
from gluon_compress.sizes import Size, size_pair
from gluon_compress.validation import shown

MOST_IMAGES = 5000  # that are read; of more, a random part
LEAST_SIDE = 8  # pixels of an image


@dataclass(frozen=True)
class Objects:
    """Objects of many images, resized to one size.

    Parameters
    ----------
    corner_boxes : numpy.ndarray
        ``(N, 4)``, float64, pixels of the resized image.
    ids : numpy.ndarray
        ``(N,)``, the class of each.
    classes : tuple of str
    size : tuple of int
        Height and width that images were resized to.
    images : int
        How many images were read.
    """

    corner_boxes: np.ndarray
    ids: np.ndarray
    classes: tuple[str, ...]
    size: tuple[int, int]
    images: int


def objects_in(
    dataset: Any, size: Size, *, seed: int = 0, most_images: int = MOST_IMAGES
) -> Objects:
    """Return the objects of a data set, as a net sees them whose input has a size.

    Parameters
    ----------
    dataset
        ``len``, ``classes``, ``path(i)`` and ``[i]`` -> (image, label ``(M, 6)``).
    size : int or (int, int)
        Height and width of the net's input, pixels.
    seed : int
        Decides which images are read if there are more than ``most_images``.
    most_images : int

    Raises
    ------
    ValueError
        If an image is too small to show an object.
    """
    height, width = size_pair(size)
    indices = np.arange(len(dataset))
    if len(indices) > most_images:
        drawn = np.random.default_rng(seed).permutation(len(indices))[:most_images]
        indices = np.sort(drawn)
    boxes, ids = [np.zeros((0, 4))], [np.zeros(0, int)]
    for index in map(int, indices):
        try:
            image, label = dataset[index]
        except BrokenImage:  # the data set reports it
            continue
        check_side(image, str(dataset.path(index)))
        rows, columns = image.shape[:2]
        boxes.append(label[:, :4] * np.tile([width / columns, height / rows], 2))
        ids.append(label[:, 4].astype(int))
    return Objects(
        np.concatenate(boxes),
        np.concatenate(ids),
        tuple(dataset.classes),
        (height, width),
        len(boxes) - 1,
    )


def check_present(dataset: Any, place: str) -> None:
    """Refuse a data set that has no object of one of its classes.

    Parameters
    ----------
    dataset
        ``len``, ``classes`` and ``label(i)``.
    place : str
        Where it is from, for the message.

    Raises
    ------
    ValueError
        Naming the class.
    """
    labels = [dataset.label(index)[:, 4] for index in range(len(dataset))]
    ids = set(np.concatenate(labels).astype(int)) if labels else set()
    for number, name in enumerate(dataset.classes):
        if number not in ids:
            raise ValueError(
                f"{place}: there is no object of class {shown(name)}; allowed: "
                "classes of the annotations"
            )


def check_side(image: np.ndarray, name: str) -> None:
    """Refuse an image that is too small to show an object.

    Raises
    ------
    ValueError
        Naming the image and its size.
    """
    rows, columns = image.shape[:2]
    if min(rows, columns) < LEAST_SIDE:
        raise ValueError(too_small(columns, rows, name))


def too_small(width: int, height: int, name: str) -> str:
    """Return what is said of an image that is too small to show an object."""
    return (
        f"{name}: the image has {width} x {height} pixels; allowed: from {LEAST_SIDE} "
        "a side"
    )
