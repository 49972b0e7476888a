"""Reads the annotations of Pascal VOC folders, tolerating common errors."""

from __future__ import annotations

import codecs
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence
from xml.etree import ElementTree

import numpy as np

from gluon_compress.data.class_choice import as_name
from gluon_compress.data.kept_index import FilesState, KeptIndex, settled
from gluon_compress.data.listed_files import FileIndex, read_lines
from gluon_compress.storage.reading import read_bytes
from gluon_compress.validation import LONGEST_LINE, shortened

MOST_BYTES = 1 << 24

CORNERS = ("xmin", "ymin", "xmax", "ymax")
SIDES = ("width", "height")
_YES = ("true", "yes", "t", "y", "on")
# Encodings of several bytes a letter, beside UTF-8 and UTF-16 that XML parsers know.
ENCODINGS = (
    "big5",
    "big5hkscs",
    "cp932",
    "cp949",
    "cp950",
    "euc_jp",
    "euc_kr",
    "gb18030",
    "gb2312",
    "gbk",
    "shift_jis",
)
MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_ENCODING = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)["']""")
_DECLARATION = re.compile(r"<\?xml[^>]*\?>")


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
        root = _parsed(content)
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


def is_yes(value: Any) -> bool:
    """Return whether a flag is set, as tools write it: 1, 1.0, "true", "Yes"."""
    text = str(value).strip().lower()
    try:
        number = float(text)
    except ValueError:
        return text in _YES
    return math.isfinite(number) and number > 0


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


def _parsed(content: bytes) -> ElementTree.Element:
    """Return the root of an XML file.

    Beside what XML parsers take: one of ``ENCODINGS``, a byte order mark that
    contradicts the declaration, and blank lines before it.
    """
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError):
        encoding = _encoding(content)
        if encoding is None:
            raise
    text = content.decode(encoding).lstrip("\ufeff\r\n\t ")
    return ElementTree.fromstring(_DECLARATION.sub("", text, count=1))


def _encoding(content: bytes) -> str | None:
    """Return the encoding of a file that the XML parser has refused, if it is clear."""
    marks = (name for mark, name in MARKS.items() if content.startswith(mark))
    marked = next(marks, None)
    if marked is not None:
        return marked
    declared = _ENCODING.match(content)
    name = codecs.lookup(declared[1].decode()).name if declared else "utf-8"
    return name if name in ("utf-8", *ENCODINGS) else None


def _object(element: ElementTree.Element) -> tuple[str, tuple[float, ...], bool]:
    name = as_name(_text(element, "name"))
    if not name:
        raise ValueError("it has no <name>")
    box = tuple(_number(element, f"bndbox/{corner}") for corner in CORNERS)
    return name, box, is_yes(_text(element, "difficult"))


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
    why = ""
    if classes is None:
        found, problems = _scanned(root)
        source, names = root / "Annotations", sorted(found)
        why = f"; {shortened(problems[0], LONGEST_LINE // 2)}" if problems else ""
    elif isinstance(classes, (str, os.PathLike)):
        source, names = classes, read_lines(Path(classes))
    else:
        source, names = "classes", list(classes)
    names = [as_name(name) for name in names]
    if not names:
        raise ValueError(f"{source}: there is no class name{why}")
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{source}: class {duplicate!r} is there twice")
    return tuple(names)


def annotated_classes(root: Path) -> list[str]:
    """Return the class names in all annotations of a folder, sorted."""
    return sorted(_scanned(root)[0])


def _scanned(root: Path) -> tuple[set[str], list[str]]:
    """Return the class names in a folder's annotations, and a thing that is wrong."""
    folder = root / "Annotations"

    def files() -> FilesState:
        state = FilesState()
        state.add_tree(folder)
        return state

    index = KeptIndex(layout="class names of annotations", folder=folder)
    kept = index.read(
        lambda note, arrays: files(),
        lambda note, arrays: ({*map(str, note["names"])}, [*note["problems"]]),
    )
    if kept is not None:
        return kept
    state = settled(files)
    found: set[str] = set()
    problems = []
    for file in FileIndex(folder, (".xml",)):
        try:
            annotation = read_annotation(file)
        except ValueError as error:  # reading its split reports it
            problems.append(str(error))
            continue
        found.update(name for name, _, _ in annotation.objects)
        problems += (f"{file}: {reason}" for reason in annotation.left_out)
    index.keep(state, {"names": sorted(found), "problems": problems[:1]}, {})
    return found, problems[:1]
