"""Settings shared by the data of all tasks: the folder and the image size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Tuple, Union

from pydantic import Field
from typing_extensions import Annotated

from gluon_compress.validation import Allowed

DATA_FOLDER = "GLUON_COMPRESS_DATA"  # environment variable

_Side = Annotated[int, Field(ge=32)]
ImageSize = Annotated[
    Union[_Side, Tuple[_Side, _Side]],
    Allowed("a whole number from 32, or two of them as [height, width]"),
]


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width, pixels, of a size as settings state it."""
    return (size, size) if isinstance(size, int) else size


def folder_of(root: str) -> Path:
    """Return the folder of a data root.

    An absolute path stays as it is. Any other path is relative to the folder that the
    environment variable ``GLUON_COMPRESS_DATA`` names, where its last part alone counts
    too, or to the current folder if the variable is not set.

    Parameters
    ----------
    root : str
        A recipe's ``data.root``: a name such as ``bccd``, or a path.
    """
    base = os.environ.get(DATA_FOLDER)
    if not base or Path(root).is_absolute() or Path(base, root).exists():
        return Path(base or "", root)
    return Path(base, Path(root).name)


def existing_folder(root: str) -> Path:
    """Return the folder of a data root, which must exist.

    Raises
    ------
    ValueError
        If it does not; the message says what can be given.
    """
    folder = folder_of(root)
    if folder.is_dir():
        return folder
    raise ValueError(
        f"data.root is {root!r}, but there is no folder {folder}; allowed: a path, or "
        f"a name in the folder that --data or {DATA_FOLDER} gives"
    )
