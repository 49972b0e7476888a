"""What a Pascal VOC folder holds beside pixels, and how real files bend its rules."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence
from xml.etree import ElementTree

import numpy as np

CORNERS = ("xmin", "ymin", "xmax", "ymax")
SIDES = ("width", "height")
FLAGS = ("1", "0", "-1")
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


def repair(box: Sequence[float], shape: Sequence[int]) -> tuple:
    """Return an annotated box in pixel indices, and what had to be done to it.

    Parameters
    ----------
    box : sequence of float
        As written: the first pixel is 1.
    shape : sequence of int
        Width and height of the image, pixels.

    Returns
    -------
    tuple
        The corner box, float32 as labels are, with the corners in order and inside the
        image, or None if that leaves no area; and a list of ``swapped``, ``clipped``,
        ``no area``.
    """
    written = np.array(box, np.float64) - 1
    low = np.minimum(written[:2], written[2:])
    high = np.maximum(written[:2], written[2:])
    ordered = np.concatenate([low, high])
    clipped = np.clip(ordered, 0, np.tile(shape, 2))
    done = ["swapped"] * bool((ordered != written).any())
    kept = clipped.astype(np.float32)  # which may join corners that were apart
    if not (kept[:2] < kept[2:]).all():
        return None, [*done, "no area"]
    return kept, done + ["clipped"] * bool((clipped != ordered).any())


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


def files_in(folder: Path, extensions: Sequence[str]) -> dict[str, Path]:
    """Return the files of a folder by stem, extensions in any case.

    Raises
    ------
    ValueError
        If there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    files = sorted(folder.iterdir())
    return {f.stem: f for f in files if f.suffix.lower() in extensions}


def read_lines(path: Path) -> list[str]:
    """Return the lines of a list that are not blank, whatever editor wrote it.

    Raises
    ------
    ValueError
        If it cannot be read or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text at byte {error.start}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def listed_name(line: str, files: dict[str, Path]) -> str:
    """Return the stem that a line of a split's list means.

    Names may hold spaces, some lists name the whole file, and VOC's lists of one class
    have a second column. What is a stem as it stands is taken as it stands.
    """
    stem, _, extension = line.rpartition(".")
    words = line.rsplit(None, 1)
    if line in files:
        return line
    if stem in files and files[stem].suffix.lower() == f".{extension.lower()}":
        return stem
    return words[0] if len(words) == 2 and words[1] in FLAGS else line


def class_names(
    root: Path, classes: Sequence[str] | str | os.PathLike | None
) -> tuple[str, ...]:
    """Return class names: as given, from a file, or as found in a VOC folder.

    Raises
    ------
    ValueError
        If there is none, or one is there twice; the message names the place.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: there is no such folder")
    if classes is None and (root / "classes.txt").exists():
        classes = root / "classes.txt"
    place: str | os.PathLike
    if classes is None:
        place, names = root / "Annotations", _scan(root)
    elif isinstance(classes, (str, os.PathLike)):
        place, names = classes, read_lines(Path(classes))
    else:
        place, names = "classes", list(classes)
    if not names:
        raise ValueError(f"{place}: there is no class name")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{place}: class {twice!r} is there twice")
    return tuple(names)


def _scan(root: Path) -> list[str]:
    names: set[str] = set()
    for file in files_in(root / "Annotations", (".xml",)).values():
        try:
            names.update(name for name, _, _ in read_annotation(file).objects)
        except ValueError:
            continue  # it is named when its split is read
    return sorted(names)
