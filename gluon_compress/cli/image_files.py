"""Finds the image files of arguments, and names the pictures drawn of them."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Sequence


def images_in(folder: str) -> list[Path]:
    """Return the image files of a folder, by name.

    Raises
    ------
    ValueError
        If there is no such folder, or no image in it.
    """
    from gluon_compress.data.images import EXTENSIONS

    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    return images_of([folder], EXTENSIONS)


def images_of(paths: Sequence[str], endings: Sequence[str]) -> list[Path]:
    """Return the given image files and those of given folders, each once.

    Raises
    ------
    ValueError
        If there is no such image.
    """
    from gluon_compress.data.listed_files import files_in

    files: dict[Path, None] = {}
    for path in map(Path, paths):
        candidates = files_in(path) if path.is_dir() else [path]
        images = [file for file in candidates if file.suffix.lower() in endings]
        if not path.exists():
            raise ValueError(f"{path}: there is no such file or folder")
        if not images:
            raise ValueError(f"{path}: no image; allowed: {', '.join(endings)}")
        files.update(dict.fromkeys(images))
    return list(files)


def others_in(paths: Sequence[str], endings: Sequence[str]) -> list[Path]:
    """Return the files of given folders that are not images by their names."""
    from gluon_compress.data.listed_files import files_in

    folders = filter(Path.is_dir, map(Path, paths))
    files = chain.from_iterable(map(files_in, folders))
    return sorted(file for file in files if file.suffix.lower() not in endings)


def pictures(
    paths: Sequence[str], out: Path, endings: Sequence[str]
) -> dict[Path, Path]:
    """Return the path of the picture of each given image.

    Raises
    ------
    ValueError
        If there is no such image, or a picture would replace one of the images,
        another picture, or a file that was not drawn earlier.
    """
    targets = {image: out / image.name for image in images_of(paths, endings)}
    used: set[Path] = set()
    for image, target in targets.items():
        if target.resolve() in used or target.resolve() == image.resolve():
            raise ValueError(f"{image}: its picture would replace {target}")
        refuse_other_picture(target)
        used.add(target.resolve())
    return targets


def refuse_other_picture(path: Path) -> None:
    """Raise ValueError for a file in place of a picture that was not drawn earlier."""
    from gluon_compress.report import is_drawn

    if path.is_file() and not is_drawn(path):
        allowed = "a new file, or a picture that was drawn earlier"
        raise ValueError(f"{path}: is another file; allowed: {allowed}")


def without(file: str | Path, reason: str) -> str:
    """Return a reason without the name of its file, if it starts with that."""
    start = f"{file}: "
    return reason[len(start) :] if reason.startswith(start) else reason
