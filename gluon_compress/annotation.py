"""One Pascal VOC annotation: its XML and the many ways in which files bend it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

CORNERS = ("xmin", "ymin", "xmax", "ymax")
_YES = ("1", "true", "yes")


@dataclass(frozen=True)
class Annotation:
    """What an annotation file says.

    Parameters
    ----------
    size : tuple or None
        Width and height in pixels, None where they are missing or not positive.
    objects : tuple
        (class name, corner box, difficult) of each object; the box as written,
        which is one pixel more than an index.
    left_out : tuple of str
        One reason for each object without a name or a readable box.
    """

    size: tuple[int, int] | None
    objects: tuple[tuple[str, tuple[float, ...], bool], ...]
    left_out: tuple[str, ...]


def read_annotation(path: str | os.PathLike) -> Annotation:
    """Read an annotation file.

    Raises
    ------
    ValueError
        Naming the file and the line, if it is missing or not XML.
    """
    try:
        root = ElementTree.fromstring(Path(path).read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
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
    return Annotation(_size(root), tuple(objects), tuple(left_out))


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
        size = tuple(round(_number(root, f"size/{side}")) for side in _SIDES)
    except ValueError:
        return None
    return size if min(size) > 0 else None


_SIDES = ("width", "height")
