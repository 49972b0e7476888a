"""Augments images and boxes for detectors, in uint8.

The changes and their distributions are those of GluonCV's ``SSDDefaultTrainTransform``
(Liu et al. 2016, section 2.2, "data augmentation"), in another order: the crop is
chosen first, on a virtual canvas, and only its pixels are resized; colours change last,
at the size of the net's input.
"""

from __future__ import annotations

from typing import Sequence

import cv2
import numpy as np

from gluon_compress.boxes import iou
from gluon_compress.data.preprocess import Preprocess, as_rgb
from gluon_compress.sizes import Size, size_pair

MAX_EXPANSION = 4.0
MIN_SCALE, MAX_ASPECT = 0.3, 2.0
MIN_OVERLAPS = (0.1, 0.3, 0.5, 0.7, 0.9, -np.inf)  # the last one: any crop
TRIALS = 50
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32.0, (0.5, 1.5), (0.5, 1.5), 18.0
INTERPOLATIONS = (
    cv2.INTER_NEAREST,
    cv2.INTER_LINEAR,
    cv2.INTER_CUBIC,
    cv2.INTER_AREA,
    cv2.INTER_LANCZOS4,
)

_GRAY = np.array([0.299, 0.587, 0.114])
# The colour space and the rounding of its matrices are those of MXNet's hue jitter.
_TO_YIQ = np.array([_GRAY, [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_FROM_YIQ = np.array([[1, 0.956, 0.621], [1, -0.272, -0.647], [1, -1.107, 1.705]])


def detection_train_sample(
    image: np.ndarray,
    label: np.ndarray,
    size: Size | Preprocess,
    rng: np.random.Generator,
    expansion: float = MAX_EXPANSION,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random view of an image to train on, and the boxes seen in it.

    The image is put on a canvas with sides up to four times as long (half of the time,
    which makes objects smaller than they are in the images to be detected on); a crop
    that overlaps the boxes enough is resized with a random interpolation and mirrored
    (half of the time); the colours of the image, not of the canvas, change.

    Parameters
    ----------
    image : numpy.ndarray
        ``(H, W, 3)``, uint8, RGB; not changed.
    label : numpy.ndarray
        ``(M, 4+)``: corner boxes in pixels, then any columns; M can be 0.
    size : int, (int, int) or Preprocess
        Height and width of the result, pixels; or what a net asks for, whose mean
        colour the canvas then has. If it keeps the aspect ratio, the result is as much
        of the input as the crop fills.
    rng : numpy.random.Generator
        The only source of random numbers.
    expansion : float
        The longest sides of the canvas, in those of the image; 1: no canvas.

    Returns
    -------
    tuple
        Image ``(H, W, 3)``, uint8, and label ``(N, 4+)``, float32, in its pixels.
        Boxes whose centre is outside the crop are left out, the others are clipped to
        it. N is 0 only if M is.

    Notes
    -----
    GluonCV works in float32. Here colours saturate at 0 and 255, as in the authors'
    own 8-bit code, and the edge of an expanded image, with its boxes, is rounded to a
    pixel of the result.
    """
    image = as_rgb(image)
    preprocess = size if isinstance(size, Preprocess) else _stretched(size)
    colour = _colour_matrix(rng)
    height, width = image.shape[:2]
    canvas, offset = _expand(width, height, expansion, rng)
    boxes = label.astype(np.float64)
    boxes[:, :4] += np.tile(offset, 2)
    boxes, crop = _random_crop(boxes, canvas, rng)
    interpolation = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
    columns, rows = crop[2:] - crop[:2]
    fitted = preprocess.fitted(rows, columns)
    seen, placed = _place(crop, offset, (width, height), fitted)
    canvas_view = np.full((*fitted, 3), preprocess.fill, np.uint8)
    view = _render(image, seen, placed, canvas_view, interpolation, colour)
    boxes = _follow(boxes, offset, seen, placed)
    if rng.random() < 0.5:
        view = cv2.flip(view, 1)
        boxes[:, [0, 2]] = fitted[1] - boxes[:, [2, 0]]
    return view, boxes.astype(np.float32)


def detection_val_sample(
    image: np.ndarray,
    label: np.ndarray,
    size: Size,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the resized image and its boxes, as GluonCV's SSDs are evaluated.

    Parameters
    ----------
    image, label, size
        As in ``detection_train_sample``.
    rng : ignored
        Nothing is random here.

    Returns
    -------
    tuple
        Image ``(H, W, 3)``, uint8, and label ``(M, 4+)``, float32.
    """
    return _stretched(size).sample(image, label)


def _stretched(size: Size) -> Preprocess:
    """Return GluonCV's preprocess of SSDs: an image is stretched to the input."""
    height, width = size_pair(size)
    return Preprocess(height=height, width=width)


def _resize(
    image: np.ndarray, width: int, height: int, interpolation: int
) -> np.ndarray:
    return cv2.resize(image, (int(width), int(height)), interpolation=interpolation)


def _expand(width: int, height: int, most: float, rng) -> tuple[np.ndarray, np.ndarray]:
    """Choose the canvas (width, height) and where on it the image lies."""
    size = np.array([width, height])
    if rng.random() < 0.5:
        return size, np.zeros(2, int)
    canvas = (size * rng.uniform(1, most)).astype(int)
    return canvas, rng.integers(0, canvas - size + 1)


def _random_crop(boxes: np.ndarray, canvas: np.ndarray, rng) -> tuple:
    """Return the boxes in a random crop, and the crop (xmin, ymin, xmax, ymax).

    For each least overlap, up to 50 crops are drawn, and the first that overlaps every
    box enough is a candidate, as is the whole canvas. One of the candidates is chosen.
    """
    trials = _draw_crops(canvas, len(MIN_OVERLAPS) * TRIALS, rng)
    if len(boxes) == 0:
        return boxes, trials[0]
    overlaps = iou(trials.astype(np.float32), boxes[:, :4].astype(np.float32))
    least = overlaps.min(axis=1).reshape(-1, TRIALS)
    enough = least >= np.array(MIN_OVERLAPS)[:, None]
    first = enough.argmax(axis=1) + TRIALS * np.arange(len(MIN_OVERLAPS))
    uncropped = np.array([0, 0, *canvas])
    candidates = np.vstack([uncropped, trials[first[enough.any(axis=1)]]])
    for crop in rng.permutation(candidates):
        kept = inside(boxes, crop)
        if len(kept):
            return kept, crop
    return boxes, uncropped


def _draw_crops(canvas: np.ndarray, count: int, rng) -> np.ndarray:
    scale = rng.uniform(MIN_SCALE, 1, count)
    square = scale * scale
    low, high = np.maximum(1 / MAX_ASPECT, square), np.minimum(MAX_ASPECT, 1 / square)
    root = np.sqrt(rng.uniform(low, high))
    shape = np.stack([scale * root, scale / root], axis=1)
    sizes = np.maximum((canvas * shape).astype(int), 1)
    corners = rng.integers(0, np.maximum(canvas - sizes, 1))
    return np.hstack([corners, corners + sizes])


def inside(boxes: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Return the boxes whose centre is in a crop, clipped to it."""
    centres = (boxes[:, :2] + boxes[:, 2:4]) / 2
    centred = (crop[:2] <= centres) & (centres < crop[2:])
    clipped = boxes.copy()
    clipped[:, :2] = np.maximum(boxes[:, :2], crop[:2])
    clipped[:, 2:4] = np.minimum(boxes[:, 2:4], crop[2:])
    has_area = clipped[:, :2] < clipped[:, 2:4]
    return clipped[(centred & has_area).all(axis=1)]


def _place(
    crop: np.ndarray, offset: np.ndarray, shape: Sequence[int], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of the image in a crop, and where it lies in the result.

    Both are (xmin, ymin, xmax, ymax) in whole pixels, of the image and of the result.
    """
    seen = np.concatenate(
        [np.maximum(crop[:2] - offset, 0), np.minimum(crop[2:] - offset, shape)]
    )
    sides = np.array(size[::-1])  # width, height
    scale = sides / (crop[2:] - crop[:2])
    placed = (seen + np.tile(offset - crop[:2], 2)) * np.tile(scale, 2)
    placed = np.rint(placed).astype(int)
    # Even a sliver of the image takes one pixel.
    placed[:2] = np.minimum(placed[:2], sides - 1)
    placed[2:] = np.maximum(placed[2:], placed[:2] + 1)
    return seen, placed


def _render(
    image: np.ndarray,
    seen: np.ndarray,
    placed: np.ndarray,
    canvas: np.ndarray,
    interpolation: int,
    colour: np.ndarray | None,
) -> np.ndarray:
    """Return the canvas with the part of the image that is seen on it."""
    x0, y0, x1, y1 = seen
    left, top, right, bottom = placed
    if x0 >= x1 or y0 >= y1:  # the crop misses an image without objects
        return canvas
    part = _resize(image[y0:y1, x0:x1], right - left, bottom - top, interpolation)
    if colour is not None:
        part = cv2.transform(part, colour)
    canvas[top:bottom, left:right] = part
    return canvas


def _follow(boxes, offset, seen, placed) -> np.ndarray:
    """Move boxes from the canvas to the result, together with the pixels."""
    if len(boxes) == 0:
        return boxes
    scale = (placed[2:] - placed[:2]) / (seen[2:] - seen[:2])
    start = np.tile(seen[:2] + offset, 2)
    moved = boxes.copy()
    corners = (boxes[:, :4] - start) * np.tile(scale, 2) + np.tile(placed[:2], 2)
    # Only rounding can put them outside.
    moved[:, :4] = np.clip(corners, np.tile(placed[:2], 2), np.tile(placed[2:], 2))
    return moved


def _colour_matrix(rng: np.random.Generator) -> np.ndarray | None:
    """Draw brightness, contrast, saturation and hue as one ``(3, 4)`` matrix.

    All are linear in RGB and contrast is a factor, so that the two orders GluonCV
    draws from are equal. Each change happens half of the time; None: no change.
    """
    happens = rng.random(4) < 0.5
    if not happens.any():
        return None
    shift = rng.uniform(-BRIGHTNESS, BRIGHTNESS) if happens[0] else 0.0
    matrix = np.eye(3)
    if happens[1]:
        share = rng.uniform(*SATURATION)
        matrix = share * matrix + (1 - share) * _GRAY
    if happens[2]:
        # In half turns: over 18 of them, all hues are equally likely.
        angle = np.pi * rng.uniform(-HUE, HUE)
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
        matrix = _FROM_YIQ @ turn @ _TO_YIQ @ matrix
    if happens[3]:
        matrix = matrix * rng.uniform(*CONTRAST)
    return np.hstack([matrix, matrix.sum(axis=1, keepdims=True) * shift])
