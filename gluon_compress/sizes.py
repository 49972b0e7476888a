"""Sizes of images: height and width, or one number for a square."""

from __future__ import annotations

from typing import Any, Sequence, Union

Size = Union[int, Sequence[int]]


def size_pair(size: Size) -> tuple[Any, Any]:
    """Return (height, width) of a size; one number is the side of a square.

    Values are not checked: what reads them says what it allows.
    """
    if isinstance(size, (tuple, list)) and len(size) == 2:
        return size[0], size[1]
    return size, size


def written_size(size: Size) -> Any:
    """Return a size as files state it: one number for a square, else a list of two."""
    height, width = size_pair(size)
    return height if height == width else [height, width]


def size_text(size: Size) -> str:
    """Return a size for messages: ``300`` or ``300 x 480`` (height x width)."""
    height, width = size_pair(size)
    return f"{height}" if height == width else f"{height} x {width}"
