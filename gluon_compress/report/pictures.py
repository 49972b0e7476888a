"""Pictures of test images: ground truth beside detections."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from gluon_compress.report.boxes import INK, WHITE, Boxes, colour, draw, font, label_of
from gluon_compress.storage.atomic import write_atomically

MARK = "drawn by gluon_compress"  # the comment in a picture


@dataclass(frozen=True)
class Example:
    """An image with two sets of boxes, such as ground truth and detections.

    Parameters
    ----------
    image : ndarray
        ``(H, W, 3)`` uint8, RGB.
    left, right : Boxes
        Boxes of the left and the right column, in pixels of the image.
    name : str
    """

    image: np.ndarray
    left: Boxes
    right: Boxes
    name: str = ""


def detections(
    examples: Sequence[Example],
    classes: Sequence[str],
    path: str | os.PathLike,
    *,
    panel: int = 480,
    heads: tuple[str, str] = ("ground truth", "detections"),
) -> None:
    """Draw ground truth (left) beside detections (right), one row for each image.

    Parameters
    ----------
    examples : sequence of Example
    classes : sequence of str
    path : path
        The PNG file.
    panel : int
        Width of each of the two columns, in pixels.
    heads : pair of str
        Titles of the left and the right column.
    """
    if not examples:
        raise ValueError("a picture of detections needs at least one image")
    gap = 12
    width = 2 * panel + 3 * gap
    hard = any(
        example.left.difficult is not None and example.left.difficult.any()
        for example in examples
    )
    strips = [_legend(classes, width, gap, hard), _heads(heads, panel, gap)]
    for example in examples:
        pair = [
            draw(example.image, boxes, classes, width=panel)
            for boxes in (example.left, example.right)
        ]
        strips.append(_row(pair, example.name, gap))
    save_image(np.concatenate(strips), path)


@dataclass(frozen=True)
class Tile:
    """A picture of a gallery.

    Parameters
    ----------
    image : ndarray
        ``(H, W, 3)`` uint8, RGB.
    boxes : Boxes
        In pixels of the image.
    text : str
        Stands below it.
    """

    image: np.ndarray
    boxes: Boxes
    text: str = ""


def gallery(
    tiles: Sequence[Tile],
    classes: Sequence[str],
    path: str | os.PathLike,
    *,
    columns: int = 4,
    panel: int = 240,
) -> None:
    """Draw images with boxes in rows, each with a line of text below it.

    Parameters
    ----------
    tiles : sequence of Tile
    classes : sequence of str
        For the legend of colours.
    path : path
        The PNG file.
    columns : int
    panel : int
        Width of an image, and its greatest height, pixels.
    """
    if not tiles:
        raise ValueError("a gallery needs at least one image, there is none")
    gap = 12
    width = columns * (panel + gap) + gap
    used = {int(i) for tile in tiles for i in tile.boxes.ids}
    strips = [_legend(classes, width, gap, False)] if used else []
    for first in range(0, len(tiles), columns):
        row = tiles[first : first + columns]
        strips.append(_gallery_row(row, classes, width, panel, gap))
    save_image(np.concatenate(strips), path)


def _gallery_row(
    tiles: Sequence[Tile], classes: Sequence[str], width: int, panel: int, gap: int
) -> np.ndarray:
    drawn = []
    for tile in tiles:
        height, breadth = tile.image.shape[:2]
        fitted = max(1, min(panel, round(panel * breadth / height)))
        drawn.append(draw(tile.image, tile.boxes, classes, width=fitted))
    high = max(picture.shape[0] for picture in drawn)
    image, pen = _blank(high + 26, width)
    for i, (picture, tile) in enumerate(zip(drawn, tiles)):
        left = gap + i * (panel + gap)
        image.paste(Image.fromarray(picture), (left, 0))
        text = _shortened(tile.text, panel)
        pen.text((left, picture.shape[0] + 3), text, (85, 85, 85), font=font(12))
    return np.asarray(image)


def _shortened(text: str, width: int) -> str:
    """Return the end of a text, which tells files apart, as far as there is room."""
    _, ruler = _blank(1, 1)
    shown = text
    while len(shown) > 1 and ruler.textlength(shown, font=font(12)) > width:
        shown = f"…{shown.lstrip('…')[1:]}"
    return shown


def save_image(image: np.ndarray, path: str | os.PathLike) -> None:
    """Write a uint8 image as JPEG if its name ends so, as PNG otherwise.

    It is marked as drawn here, see ``is_drawn``.
    """
    path = Path(path)
    kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG"
    options: dict[str, Any] = {"quality": 92, "comment": MARK}
    if kind == "PNG":
        notes = PngInfo()
        notes.add_text("Comment", MARK)
        options = {"compress_level": 6, "pnginfo": notes}
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def is_drawn(path: str | os.PathLike) -> bool:
    """Return whether ``save_image`` wrote a file, which may thus be replaced."""
    try:
        with Image.open(path) as image:
            marks = (image.info.get("comment"), image.info.get("Comment"))
    except Exception:  # of Pillow, for any other file
        return False
    return MARK in marks or MARK.encode() in marks


def _blank(height: int, width: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width, height), WHITE)
    return image, ImageDraw.Draw(image)


def _legend(classes: Sequence[str], width: int, gap: int, hard: bool) -> np.ndarray:
    """Return the legend of class colours, on as many lines as needed."""
    text_font, line = font(15), 26
    _, ruler = _blank(1, 1)
    names = [label_of(i, classes) for i in range(len(classes))]
    if hard:
        names.append("dashed: difficult, not counted")
    positions, x, y = [], gap, gap // 2
    for name in names:
        wide = int(ruler.textlength(name, font=text_font)) + 22
        if x > gap and x + wide > width - gap:
            x, y = gap, y + line
        positions.append((x, y))
        x += wide + 18
    image, pen = _blank(y + line, width)
    for i, (name, (x, y)) in enumerate(zip(names, positions)):
        if i < len(classes):
            pen.rectangle((x, y + 4, x + 13, y + 17), fill=colour(i))
        pen.text((x + 20, y + 1), name, INK, font=text_font)
    return np.asarray(image)


def _heads(heads: tuple[str, str], panel: int, gap: int) -> np.ndarray:
    image, pen = _blank(26, 2 * panel + 3 * gap)
    for x, text in zip((gap, panel + 2 * gap), heads):
        pen.text((x, 3), text, INK, font=font(16))
    return np.asarray(image)


def _row(pair: Sequence[np.ndarray], name: str, gap: int) -> np.ndarray:
    high, panel = pair[0].shape[:2]
    below = 24 if name else gap
    image, pen = _blank(high + below, 2 * panel + 3 * gap)
    for i, picture in enumerate(pair):
        image.paste(Image.fromarray(picture), (gap + i * (panel + gap), 0))
    pen.text((gap, high + 2), name, (85, 85, 85), font=font(12))
    return np.asarray(image)
