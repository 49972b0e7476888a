"""What there is to know of a set: its archives, its place, and what makes it whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping


@dataclass(frozen=True)
class Archive:
    """A file that a set, or a part of it, is packed in.

    Parameters
    ----------
    url : str
    size : int
        Bytes.
    checksum : str
        As ``gluon_compress.storage.download`` takes it.
    inner : str
        The folder in it whose content is the set's; "" means all of it.
    """

    url: str
    size: int
    checksum: str
    inner: str = ""

    @property
    def name(self) -> str:
        """The last part of the address, which a mirror's file has too."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class DataSet:
    """A set as it is offered, and as it is when it is in place.

    Parameters
    ----------
    place : str
        Its folder below ``--root``: what recipes call ``data.root``, or within that.
    terms : str
        What it may be used for, in a few words.
    archives : tuple of Archive
        No file may be in two of them.
    holds : mapping
        How many files there are at least in each folder; 1 for a file.
    """

    place: str
    terms: str
    archives: tuple[Archive, ...]
    holds: Mapping[str, int]

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(archive.size for archive in self.archives)

    def lacks(self, folder: str | os.PathLike) -> list[str]:
        """Return what a folder would need to be the whole set, in words."""
        found = {name: _files(Path(folder, name)) for name in self.holds}
        few = {name: n for name, n in self.holds.items() if found[name] < n}
        return [f"{name} ({found[name]} of {n} files)" for name, n in few.items()]


def _files(path: Path) -> int:
    if path.is_file():
        return 1
    return sum(len(names) for _, _, names in os.walk(path))
