"""Images that a benchmark reads on the way to boxes."""

from __future__ import annotations

from pathlib import Path

from places import images_in


def readable(folder: str, most: int) -> list[Path]:
    """Return the first image files of a folder that can be read; print what cannot.

    Raises
    ------
    ValueError
        If none can be read.
    """
    from gluon_compress.data.images import read_image

    files, found = images_in(folder), []
    for file in files:
        if len(found) == most:
            break
        try:
            read_image(file)
        except ValueError as error:
            print(f"skipped: {error}")
        else:
            found.append(file)
    if not found:
        raise ValueError(f"{folder}: none of its {len(files)} images can be read")
    return found
