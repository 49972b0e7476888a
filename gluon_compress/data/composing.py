"""Makes one training image of several: mosaics, and mixtures of two.

The result is an image with boxes like any other and is augmented like one. Pixels and
boxes of each part move together; nothing changes its aspect ratio.
"""

from __future__ import annotations

from typing import Callable, Sequence, Tuple

import cv2
import numpy as np
from pydantic import Field
from typing_extensions import Annotated

from gluon_compress.data.detection_transforms import MAX_EXPANSION, inside
from gluon_compress.data.preprocess import as_rgb
from gluon_compress.sizes import Size, size_pair
from gluon_compress.validation import Allowed, CountOrZero, Settings, ShareOrZero

Item = Tuple[np.ndarray, np.ndarray]

TRIALS = 10  # windows of an image that are tried
MIDDLE = (0.3, 0.7)  # where the four parts of a mosaic meet, shares of its sides
BETA = 8.0  # shares of mixed images: 0.27 to 0.73, 19 times of 20


class DetectionAugmentation(Settings):
    """What is done to training images before the usual crops and colours.

    Parameters
    ----------
    expansion : float
        Half of the images are put on a canvas with sides up to so many times as long,
        so that small objects are learnt too; 1: none is.
    mosaic : float
        Share of the training images that are composed of four.
    mixup : float
        Share of the training images that another one is blended with.
    plain_epochs : int
        So many epochs at the end of a training have neither.
    """

    expansion: Annotated[float, Field(ge=1, le=10), Allowed("a number, 1 to 10")] = (
        MAX_EXPANSION
    )
    mosaic: ShareOrZero = 0.0
    mixup: ShareOrZero = 0.0
    plain_epochs: CountOrZero = 0

    @property
    def composes(self) -> bool:
        """Whether any image is made of several."""
        return bool(self.mosaic or self.mixup)


class Composer:
    """Composes training images, for ``Batches``.

    Parameters
    ----------
    settings : DetectionAugmentation
    size : int or (int, int)
        Height and width of the net's input; mosaics are twice as large.
    """

    def __init__(self, settings: DetectionAugmentation, size: Size) -> None:
        self.settings = settings
        height, width = size_pair(size)
        self.size = (2 * height, 2 * width)

    def __call__(
        self, item: Item, draw: Callable[[], Item], rng: np.random.Generator
    ) -> Item:
        """Return an item, alone or with others.

        Parameters
        ----------
        item : (ndarray, ndarray)
            Image and label.
        draw : callable
            Returns another item of the data set, chosen with ``rng``.
        rng : numpy.random.Generator
            The only source of random numbers.
        """
        chances = rng.random(2)
        if chances[0] < self.settings.mosaic:
            item = mosaic([item, draw(), draw(), draw()], self.size, rng)
        if chances[1] < self.settings.mixup:
            item = mixed(item, draw(), rng)
        return item


def mosaic(items: Sequence[Item], size: Size, rng: np.random.Generator) -> Item:
    """Return one image of four, which meet at a random point.

    Bochkovskiy, Wang and Liao 2020 (YOLOv4), section 3.3. Each part is a window of its
    image that has the shape of its quadrant, see ``window``.

    Parameters
    ----------
    items : sequence of (ndarray, ndarray)
        Four images ``(H, W, 3)`` of any size and labels ``(M, 4+)``, corner boxes in
        pixels first: top left, top right, bottom left, bottom right.
    size : int or (int, int)
        Height and width of the result, pixels, at least 4.
    rng : numpy.random.Generator

    Returns
    -------
    tuple
        Image, uint8, and the labels of all parts, float64, in its pixels. Boxes whose
        centre is cut off are left out, others are clipped to their quadrant.
    """
    height, width = size_pair(size)
    y, x = (round(side * rng.uniform(*MIDDLE)) for side in (height, width))
    image, labels = np.empty((height, width, 3), np.uint8), []
    corners = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    for item, (x0, y0, x1, y1) in zip(items, corners):
        part, label = window(*item, (y1 - y0, x1 - x0), rng)
        image[y0:y1, x0:x1] = part
        label[:, :4] += (x0, y0, x0, y0)
        labels.append(label)
    return image, np.concatenate(labels)


def mixed(item: Item, other: Item, rng: np.random.Generator) -> Item:
    """Return the blend of two images, with the objects of both.

    Zhang et al. 2019 ("Bag of Freebies"), section 3.1, "visually coherent mixup", with
    shares near a half, so that every object can be seen and all weigh alike.

    Parameters
    ----------
    item, other : (ndarray, ndarray)
        Image and label. The result has the size of the first; of the second, a window
        of the same shape is blended.
    rng : numpy.random.Generator
    """
    image, label = as_rgb(item[0]), item[1].astype(np.float64)
    share = rng.beta(BETA, BETA)
    second, theirs = window(*other, image.shape[:2], rng)
    blend = cv2.addWeighted(image, share, second, 1 - share, 0)
    return blend, np.concatenate([label, theirs])


def window(
    image: np.ndarray, label: np.ndarray, size: Size, rng: np.random.Generator
) -> Item:
    """Return a random window of a shape, resized, and the boxes in it.

    It is as large as the image allows. Of ten windows the first that keeps all objects
    is taken, else the one that keeps most: what is seen but not labelled misleads.

    Parameters
    ----------
    image : ndarray
        ``(H, W, 3)``.
    label : ndarray
        ``(M, 4+)``, corner boxes in pixels first.
    size : (int, int)
        Height and width of the result, pixels.
    rng : numpy.random.Generator

    Returns
    -------
    tuple
        Image, uint8, and label, float64. Boxes whose centre is outside are left out.
    """
    image, (height, width) = as_rgb(image), size_pair(size)
    rows, columns = image.shape[:2]
    scale = max(height / rows, width / columns)
    seen_rows = min(rows, max(1, round(height / scale)))
    seen_columns = min(columns, max(1, round(width / scale)))
    tops = rng.integers(rows - seen_rows + 1, size=TRIALS)
    lefts = rng.integers(columns - seen_columns + 1, size=TRIALS)
    crops = np.stack([lefts, tops, lefts + seen_columns, tops + seen_rows], axis=1)
    kept = [inside(label.astype(np.float64), crop) for crop in crops]
    best = int(np.argmax([len(each) for each in kept]))
    crop, boxes = crops[best], kept[best]
    part = image[crop[1] : crop[3], crop[0] : crop[2]]
    shrinks = height < seen_rows
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    part = cv2.resize(part, (width, height), interpolation=interpolation)
    factors = (width / seen_columns, height / seen_rows)
    boxes[:, :4] = (boxes[:, :4] - np.tile(crop[:2], 2)) * np.tile(factors, 2)
    return part, boxes
