"""Draws labelled boxes on images, with one colour for each class."""

from __future__ import annotations

import colorsys
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Sequence

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from gluon_compress.boxes import intersects

# Dark enough for white text. Neighbours also differ in lightness, for readers with
# colour vision deficiency (after Okabe and Ito 2008).
PALETTE = (
    (200, 55, 20),
    (0, 95, 170),
    (0, 125, 85),
    (150, 60, 140),
    (140, 95, 0),
    (10, 118, 148),
    (95, 95, 95),
    (190, 35, 100),
)
WHITE, INK = (255, 255, 255), (34, 34, 34)


@dataclass(frozen=True)
class Boxes:
    """The objects of one image: its ground truth, or what a detector found.

    Parameters
    ----------
    corner_boxes : ndarray
        ``(N, 4)``, in pixels of the image.
    ids : ndarray
        ``(N,)``, the class of each box.
    scores : ndarray, optional
        ``(N,)``, from 0 to 1. Ground truth has none.
    difficult : ndarray, optional
        ``(N,)``, 1 where VOC marks an object as difficult.
    """

    corner_boxes: np.ndarray
    ids: np.ndarray
    scores: np.ndarray | None = None
    difficult: np.ndarray | None = None

    @staticmethod
    def of_label(label: np.ndarray) -> Boxes:
        """Return the boxes of a label ``(M, 6)``: corners, class (or -1), difficult."""
        label = np.asarray(label, np.float32).reshape(-1, 6)
        label = label[label[:, 4] >= 0]
        return Boxes(label[:, :4], label[:, 4].astype(int), None, label[:, 5])

    @staticmethod
    def of_output(
        ids: np.ndarray,
        scores: np.ndarray,
        corner_boxes: np.ndarray,
        *,
        threshold: float = 0.5,
        scale: Sequence[float] = (1.0, 1.0),
    ) -> Boxes:
        """Return the detections of one image, best first.

        Parameters
        ----------
        ids, scores : ndarray
            ``(N, 1)``; an id below 0 is padding.
        corner_boxes : ndarray
            ``(N, 4)``, in pixels of the net's input.
        threshold : float
            The lowest score to keep.
        scale : pair of float
            Width and height of the image, divided by those of the net's input.
        """
        ids, scores = (np.asarray(a).reshape(-1) for a in (ids, scores))
        boxes = np.asarray(corner_boxes).reshape(-1, 4) * np.tile(scale, 2)
        order = np.argsort(-scores, kind="stable")
        order = order[(ids[order] >= 0) & (scores[order] >= threshold)]
        return Boxes(boxes[order], ids[order].astype(int), scores[order])

    def records(self, classes: Sequence[str]) -> list[dict]:
        """Return a dict for each box: ``class``, ``box`` and, if known, ``score``."""
        records = []
        for i, box in enumerate(np.asarray(self.corner_boxes, float)):
            record: dict[str, Any] = {"class": classes[int(self.ids[i])]}
            if self.scores is not None:
                record["score"] = round(float(self.scores[i]), 4)
            records.append({**record, "box": [round(v, 1) for v in box.tolist()]})
        return records

    def __len__(self) -> int:
        return len(self.corner_boxes)


def colour(class_id: int) -> tuple[int, int, int]:
    """Return the RGB colour of a class, the same in every picture."""
    if class_id < len(PALETTE):
        return PALETTE[class_id]
    # The golden angle gives any number of hues, with neighbours far apart.
    bright = np.array(colorsys.hsv_to_rgb((class_id * 0.381966) % 1.0, 0.85, 0.85))
    # White text is legible up to a luminance of 0.18.
    luminance = float(bright**2.2 @ (0.2126, 0.7152, 0.0722))
    most = (0.06, 0.10, 0.16)[class_id % 3]
    dimmed = bright * min(1.0, most / luminance) ** (1 / 2.2)
    red, green, blue = (int(v) for v in 255 * dimmed)
    return red, green, blue


@lru_cache(maxsize=None)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of all pictures, which matplotlib ships."""
    return ImageFont.truetype(_font_file(), size)


def _font_file() -> str:
    folder = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
    return os.path.join(folder, "DejaVuSans.ttf")


@lru_cache(maxsize=None)
def _drawable() -> frozenset[int]:
    """Return the characters that the font has a glyph for."""
    return frozenset(FT2Font(_font_file()).get_charmap())


def label_of(class_id: int, classes: Sequence[str]) -> str:
    """Return the name of a class, or its number if the font lacks a glyph for it.

    Missing glyphs would be drawn as the same empty box for every class.
    """
    name = classes[class_id]
    return name if _drawable().issuperset(map(ord, name)) else f"class {class_id}"


def draw(
    image: np.ndarray, boxes: Boxes, classes: Sequence[str], *, width: int | None = None
) -> np.ndarray:
    """Return a copy of an image with boxes, classes and scores drawn on it.

    Parameters
    ----------
    image : ndarray
        ``(H, W, 3)`` uint8, RGB.
    boxes : Boxes
        Boxes with scores are labelled with class and score where there is room, the
        best first. Without scores, only the colour shows the class.
    classes : sequence of str
    width : int, optional
        Width in pixels to scale the image to before drawing, so that lines and text
        stay sharp.

    Returns
    -------
    ndarray
        uint8, with the same aspect ratio.

    Raises
    ------
    ValueError
        If the image has another type or shape, or the class of a box has no name.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"image is {image.dtype} {image.shape}; allowed: uint8 (height, width, 3)"
        )
    _check_classes(boxes, classes)
    scale = 1.0 if width is None else width / image.shape[1]
    canvas = Image.fromarray(image)
    if width is not None and width != image.shape[1]:
        size = (width, max(1, round(image.shape[0] * scale)))
        canvas = canvas.resize(size, Image.Resampling.BICUBIC)
    corners = np.asarray(boxes.corner_boxes, np.float64).reshape(-1, 4) * scale
    pen = ImageDraw.Draw(canvas)
    for i in _largest_first(corners):
        hard = boxes.difficult is not None and boxes.difficult[i]
        _outline(pen, corners[i], colour(int(boxes.ids[i])), bool(hard))
    _label_all(pen, corners, boxes, classes)
    return np.asarray(canvas).copy()


def _check_classes(boxes: Boxes, classes: Sequence[str]) -> None:
    for i in boxes.ids:
        if not 0 <= int(i) < len(classes):
            raise ValueError(f"a box is of class {int(i)}; there are {len(classes)}")


def _largest_first(corners: np.ndarray) -> np.ndarray:
    areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    return np.argsort(-areas, kind="stable")


def _line_width(size: Sequence[int], sides: np.ndarray) -> int:
    """Return a width that is visible on a large image but does not fill a small box."""
    usual = max(2, round(min(size) / 200))
    return max(1, min(usual, int(min(sides) / 6)))


def _outline(
    pen: ImageDraw.ImageDraw, box: np.ndarray, ink: tuple, dashed: bool
) -> None:
    size = pen.im.size
    thick = _line_width(size, box[2:] - box[:2])
    limit = np.tile(size, 2) - 1
    x0, y0, x1, y1 = (int(v) for v in np.clip(np.rint(box), 0, limit))
    x1, y1 = max(x0, x1), max(y0, y1)
    if not dashed:
        # A white edge separates the line from an image of the same colour.
        outer = (max(x0 - 1, 0), max(y0 - 1, 0), x1 + 1, y1 + 1)
        pen.rectangle(outer, outline=WHITE, width=thick + 2 if thick > 1 else 1)
        pen.rectangle((x0, y0, x1, y1), outline=ink, width=thick)
        return
    step = 4 * thick
    for x in range(x0, x1 + 1, 2 * step):
        for y in (y0, y1):
            pen.line((x, y, min(x + step, x1), y), fill=ink, width=thick)
    for y in range(y0, y1 + 1, 2 * step):
        for x in (x0, x1):
            pen.line((x, y, x, min(y + step, y1)), fill=ink, width=thick)


def _label_all(pen, corners: np.ndarray, boxes: Boxes, classes: Sequence[str]) -> None:
    text_font = font(max(11, round(min(pen.im.size) / 34)))
    taken: list[tuple] = []
    if boxes.scores is None:
        return
    for i in np.argsort(-np.asarray(boxes.scores), kind="stable"):
        score = f"{boxes.scores[i]:.2f}"
        # If there is no room for the full label, there may be for the score.
        for text in (f"{label_of(int(boxes.ids[i]), classes)} {score}", score):
            rectangle = _free_rectangle(pen, corners[i], text, text_font, taken)
            if rectangle is not None:
                taken.append(rectangle)
                pen.rectangle(rectangle, fill=colour(int(boxes.ids[i])))
                pen.text(
                    (rectangle[0] + 3, rectangle[1] + 1), text, WHITE, font=text_font
                )
                break


def _free_rectangle(pen, box: np.ndarray, text: str, text_font, taken: list):
    """Return the first rectangle at the box that covers no label, or None."""
    wide = pen.textlength(text, font=text_font) + 6
    high = sum(text_font.getmetrics()) + 2
    x0, y0, x1, y1 = box
    columns, rows = pen.im.size
    corners = (
        *((x0, y) for y in (y0 - high, y1 + 1)),
        *((x1 - wide, y) for y in (y0 - high, y1 + 1)),
        *((x, y) for x in (x0, x1 - wide) for y in (y0, y1 - high)),
    )
    for x, y in corners:
        x = min(max(x, 0), columns - wide - 1)
        rectangle = (int(x), int(y), int(x + wide), int(y + high))
        if x < 0 or y < 0 or rectangle[3] >= rows:
            continue
        if not any(intersects(rectangle, other, touching=True) for other in taken):
            return rectangle
    return None
