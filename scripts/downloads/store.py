"""The folder that sets go to: held alone, with archives in ``downloads``."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from downloads.dataset import Archive, DataSet


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make a folder and hold it; other processes wait."""
    from gluon_compress.storage.atomic import held

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".downloading"
    with held(path):
        try:
            yield
        finally:
            path.unlink()


def so_far(dataset: DataSet, store: Path) -> int:
    """Return how many bytes of a set's archives lie there, unfinished ones included."""
    files = [file for a in dataset.archives for file in store.glob(f"{a.name}*")]
    return sum(file.stat().st_size for file in files)


def fetched(archive: Archive, store: Path, mirror: str | None) -> Path:
    """Return the file of an archive, which is downloaded if it is not there.

    Raises
    ------
    ValueError
        If it cannot be had, or another file lies in its place.
    """
    from gluon_compress.storage.download import fetch, intact

    path = store / archive.name
    if path.exists():
        # It may be somebody's own file, and fetch would replace it.
        if not intact(path, archive.checksum):
            raise ValueError(f"{path}: is not the file of {archive.url}; move it away")
        return path
    url = archive.url if mirror is None else f"{mirror.rstrip('/')}/{archive.name}"
    return fetch(url, path, archive.checksum, size=archive.size)
