"""Reads the annotations of Pascal VOC folders, tolerating common errors."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence
from xml.etree import ElementTree

import numpy as np

from gluon_compress.data.listed_files import FileIndex, read_lines
from gluon_compress.storage.reading import read_bytes

MOST_BYTES = 1 << 24

CORNERS = ("xmin", "ymin", "xmax", "ymax")
SIDES = ("width", "height")
_YES = ("1", "true", "yes")


@dataclass(frozen=True)
class VOCAnnotation:
    """The content of an annotation file.

    Parameters
    ----------
    size : tuple or None
        Width and height in pixels; None if they are missing or not positive.
    objects : tuple
        (class name, corner box, difficult) of each object. The box is as written: its
        first pixel is 1.
    left_out : tuple of str
        One reason for each object without a name or a readable box.
    """

    size: tuple[int, int] | None
    objects: tuple[tuple[str, tuple[float, ...], bool], ...]
    left_out: tuple[str, ...]


def read_annotation(path: str | os.PathLike) -> VOCAnnotation:
    """Read an annotation file.

    Raises
    ------
    ValueError
        If it is missing or not XML; the message names the file and the line.
    """
    content = read_bytes(path, MOST_BYTES)
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        line = getattr(error, "position", (1, 0))[0]
        reason = str(error).split(":")[0]
        raise ValueError(f"{path}: line {line}: not XML: {reason}") from None
    objects, left_out = [], []
    for number, element in enumerate(root.iter("object"), 1):
        try:
            objects.append(_object(element))
        except ValueError as error:
            left_out.append(f"object {number} left out: {error}")
    return VOCAnnotation(_size(root), tuple(objects), tuple(left_out))


def repair(
    box: Sequence[float],
    shape: Sequence[int],
    scale: Sequence[float] = (1.0, 1.0),
) -> tuple:
    """Return an annotated box in pixel indices, and the repairs it needed.

    Parameters
    ----------
    box : sequence of float
        As written: the first pixel is 1.
    shape : sequence of int
        Width and height of the image, pixels.
    scale : sequence of float
        Factors from x and y of the annotation to those of the image.

    Returns
    -------
    tuple
        The corner box, float32, with its corners in order and inside the image, or None
        if that leaves no area; and a list of ``swapped``, ``clipped``, ``no area``.
    """
    written = (np.array(box, np.float64) - 1) * np.tile(scale, 2)
    low = np.minimum(written[:2], written[2:])
    high = np.maximum(written[:2], written[2:])
    ordered = np.concatenate([low, high])
    clipped = np.clip(ordered, 0, np.tile(shape, 2))
    repairs = []
    if (ordered != written).any():
        repairs.append("swapped")
    corners = clipped.astype(np.float32)  # rounding can make two corners equal
    if not (corners[:2] < corners[2:]).all():
        return None, [*repairs, "no area"]
    if (clipped != ordered).any():
        repairs.append("clipped")
    return corners, repairs


def _object(element: ElementTree.Element) -> tuple[str, tuple[float, ...], bool]:
    name = _text(element, "name")
    if not name:
        raise ValueError("it has no <name>")
    box = tuple(_number(element, f"bndbox/{corner}") for corner in CORNERS)
    difficult = _text(element, "difficult").lower() in _YES
    return name, box, difficult


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _number(element: ElementTree.Element, path: str) -> float:
    text = _text(element, path)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"<{path}> is {text!r}, not a number")
    return value


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    try:
        first, second = (round(_number(root, f"size/{side}")) for side in SIDES)
    except ValueError:
        return None
    return (first, second) if min(first, second) > 0 else None


def read_class_names(
    root: Path, classes: Sequence[str] | str | os.PathLike | None
) -> tuple[str, ...]:
    """Return class names: as given, from a file, or from the annotations of a folder.

    Raises
    ------
    ValueError
        If there is none, or one occurs twice; the message names the source.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: there is no such folder")
    if classes is None and (root / "classes.txt").exists():
        classes = root / "classes.txt"
    source: str | os.PathLike
    if classes is None:
        source, names = root / "Annotations", annotated_classes(root)
    elif isinstance(classes, (str, os.PathLike)):
        source, names = classes, read_lines(Path(classes))
    else:
        source, names = "classes", list(classes)
    if not names:
        raise ValueError(f"{source}: there is no class name")
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{source}: class {duplicate!r} is there twice")
    return tuple(names)


def annotated_classes(root: Path) -> list[str]:
    """Return the class names in all annotations of a folder, sorted."""
    names: set[str] = set()
    for file in FileIndex(root / "Annotations", (".xml",)):
        try:
            names.update(name for name, _, _ in read_annotation(file).objects)
        except ValueError:
            continue  # reading its split reports it
    return sorted(names)
