"""A set from its archives to its place, where it is whole or not at all."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

from downloads.dataset import DataSet
from downloads.store import alone, fetched, so_far
from gluon_compress.unpack import check_room, unpack


def is_there(dataset: DataSet, root: Path) -> bool:
    """Return whether a set is in its place; ValueError if only a part of it is."""
    place = root / dataset.place
    if not os.path.lexists(place):
        return False
    lacking = ", ".join(dataset.lacks(place))
    if lacking:
        raise ValueError(f"{place}: is there, but lacks {lacking}; move it away")
    return True


def obtain(dataset: DataSet, root: Path, mirror: str | None, *, keep: bool) -> bool:
    """Put a set in its place; return False if it was there already.

    Parameters
    ----------
    dataset : DataSet
    root : path
    mirror : str or None
        Base address of files that are named as the archives are.
    keep : bool
        Leave the archives in ``root/downloads``.

    Raises
    ------
    ValueError
        If a part of the set is there, an archive cannot be had or unpacked or is not
        the right one, or there is not enough room. The place is as it was then.
    """
    if is_there(dataset, root):
        return False
    place, store = root / dataset.place, root / "downloads"
    with alone(root), _tidy(place, store) as temporary:
        if is_there(dataset, root):  # another process has just put it there
            return False
        # Images hardly pack: what is unpacked is about as large as its archives.
        check_room(2 * dataset.size - so_far(dataset, store), root)
        files = [fetched(archive, store, mirror) for archive in dataset.archives]
        unpack([(f, a.inner) for f, a in zip(files, dataset.archives)], temporary)
        lacking = ", ".join(dataset.lacks(temporary))
        if lacking:
            raise ValueError(f"{store}: the archives lack {lacking}")
        os.sync()  # a power cut must not leave the place with less than its content
        temporary.rename(place)
        for file in () if keep else files:
            file.unlink()
    return True


@contextmanager
def _tidy(place: Path, store: Path) -> Iterator[Path]:
    """Give a name beside a place to unpack to; nothing of that name is left after."""
    temporary = place.with_name(f".{place.name}.unpacking")
    if temporary.exists():  # of a process that was killed, for we are alone
        shutil.rmtree(temporary)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # not there, or something is in it
            store.rmdir()
