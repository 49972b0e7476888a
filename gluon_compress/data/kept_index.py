"""Keeps what opening a large data set found, so that it opens in seconds the next time.

Opening reads every header and every annotation. What comes of it is kept in a file of
arrays, with the names, sizes and times of change of all files that were read. It is
used again only if these are as they were, and the same code reads for the same
settings. A file that is damaged, foreign or out of date is made anew.

Data folders may be read-only, and reading changes nothing in them: the files are in
``indices`` in ``~/.mxnet``, or in ``MXNET_HOME``, beside the weights of models. The
environment variable ``GLUON_COMPRESS_INDICES`` names another folder; if it is empty,
nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, TypeVar

import mxnet as mx
import numpy as np

from gluon_compress.data.listed_files import is_clutter
from gluon_compress.storage.atomic import write_atomically
from gluon_compress.storage.reading import (
    Unreadable,
    parse_json,
    read_arrays,
    write_arrays,
)

LOG = logging.getLogger(__name__)
T = TypeVar("T")

INDICES = "GLUON_COMPRESS_INDICES"  # environment variable
LEAST_ENTRIES = 2000  # of a set whose index is kept
MOST_BYTES = 1 << 30  # of all indices that are kept; the oldest are removed
# Seconds within which a file may change twice and show one time of change (FAT: two).
SETTLED = 2.0
_NOTE = "note"
_NAME = re.compile(r"[0-9a-f]{32}\.npz")


class FilesState:
    """What tells whether files have changed: names, sizes, and times of change.

    Attributes
    ----------
    entries : int
        How many files it tells of, or how many entries a list among them may have.
    newest : float
        The latest time of change that does not lie in the future, seconds.
    """

    def __init__(self) -> None:
        self.entries, self.newest = 0, 0.0
        self._digest = hashlib.sha256()
        self._now = time.time()

    def add(self, paths: Iterable[str]) -> None:
        """Add files by their paths; one that is missing is noted as such."""
        names, stats = [], []
        for path in paths:
            names.append(path)
            stats.append(_stat_of(path))
        self._add(names, stats)

    def add_tree(self, folder: str | os.PathLike) -> None:
        """Add all files in a folder and its subfolders, each folder once."""
        waiting, seen = [os.fspath(folder)], set()
        while waiting:
            here = waiting.pop()
            real = os.path.realpath(here)
            if real in seen:  # a link back
                continue
            seen.add(real)
            try:
                with os.scandir(here) as entries:
                    inside = [e for e in entries if not is_clutter(e.name)]
            except OSError:  # who reads it says so
                self._add([here], [(-1, -1)])
                continue
            inside.sort(key=lambda entry: entry.name)
            folders = [entry for entry in inside if entry.is_dir()]
            files = [entry for entry in inside if not entry.is_dir()]
            self._add([here], [(len(folders), -1)])
            self._add([e.name for e in files], [_stat_of(e) for e in files])
            waiting.extend(entry.path for entry in reversed(folders))

    def hexdigest(self) -> str:
        """Return 64 hexadecimal digits, equal if nothing has changed."""
        return self._digest.hexdigest()

    def _add(self, names: list[str], stats: list[tuple[int, int]]) -> None:
        values = np.array(stats, np.int64).reshape(-1, 2)
        text = "\0".join(names).encode("utf-8", "surrogatepass")
        self._digest.update(b"%d\0%d\0" % (len(names), len(text)))
        self._digest.update(text)
        self._digest.update(values.tobytes())
        self.entries += len(names)
        times = values[:, 1] / 1e9
        past = times[times <= self._now + SETTLED]
        self.newest = max(self.newest, float(past.max(initial=0)))


def settled(take: Callable[[], FilesState]) -> FilesState:
    """Return the state of files, so that any later change shows in it.

    A file that changes twice within moments may show one time of change. So if one has
    just changed, wait for at most ``SETTLED`` seconds and look again.
    """
    state = take()
    age = time.time() - state.newest
    if state.entries >= LEAST_ENTRIES and age < SETTLED:
        time.sleep(min(SETTLED - age, SETTLED))
        state = take()
    return state


class KeptIndex:
    """The file in which the index of a data set is kept, if it is.

    Parameters
    ----------
    **subject
        All that the index depends on beside the content of files: layout, paths and
        settings, as JSON has them.
    """

    def __init__(self, **subject: Any) -> None:
        with suppress(FileNotFoundError):  # what paths may be relative to
            subject["paths from"] = os.getcwd()
        self._subject = json.loads(json.dumps(subject, sort_keys=True, default=str))
        folder = indices()
        name = hashlib.sha256(json.dumps(self._subject).encode()).hexdigest()[:32]
        self.path = None if folder is None else folder / f"{name}.npz"

    def read(
        self,
        state: Callable[[Any, Mapping[str, np.ndarray]], FilesState],
        parse: Callable[[Any, Mapping[str, np.ndarray]], T],
    ) -> T | None:
        """Return what ``keep`` has stored, if the files are as they were.

        Parameters
        ----------
        state : callable
            Stored note and arrays to the state of the files.
        parse : callable
            Stored note and arrays to what is returned. Both raise ValueError,
            LookupError or TypeError if these do not fit each other.
        """
        if self.path is None or not self.path.is_file():
            return None
        try:
            arrays = read_arrays(self.path)
            head, note = self._parts(arrays)
            if head == self._head(state(note, arrays)):
                return parse(note, arrays)
        except (ValueError, LookupError, TypeError) as error:
            LOG.warning("%s: damaged (%s); it is made again", self.path, error)
        return None

    def keep(
        self, state: FilesState, note: Any, arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Store the index of a large set; where it cannot be stored, do nothing.

        Parameters
        ----------
        state : FilesState
            Taken by ``settled`` before the files were read.
        note
            As JSON has it.
        arrays : mapping
        """
        if self.path is None or state.entries < LEAST_ENTRIES:
            return
        text = json.dumps({"head": self._head(state), "note": note}).encode()
        content = {**arrays, _NOTE: np.frombuffer(text, np.uint8)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, write_arrays(content))
            _make_room(self.path)
        except OSError as error:
            LOG.info("no index is kept: %s", error)

    def _parts(self, arrays: dict[str, np.ndarray]) -> tuple[Any, Any]:
        """Return head and note, which are taken out of the arrays."""
        stored = arrays.pop(_NOTE, None)
        if stored is None or stored.dtype != np.uint8:
            raise Unreadable(f"{self.path}: no index of a data set")
        content = parse_json(stored.tobytes(), self.path)
        if not isinstance(content, dict) or set(content) != {"head", "note"}:
            raise Unreadable(f"{self.path}: no index of a data set")
        return content["head"], content["note"]

    def _head(self, state: FilesState) -> dict[str, Any]:
        files = state.hexdigest()
        return {"subject": self._subject, "code": _code(), "files": files}


def indices() -> Path | None:
    """Return the folder in which indices are kept; None: nowhere."""
    named = os.environ.get(INDICES)
    if named is not None:
        return Path(named).expanduser() if named else None
    return Path(mx.base.data_dir()).expanduser() / "indices"


@lru_cache(maxsize=None)
def _code() -> str:
    """Return a digest of the code that reads data sets."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _stat_of(file: str | os.DirEntry) -> tuple[int, int]:
    """Return size and time of change in nanoseconds; -1 for a file that is missing."""
    try:
        told = os.stat(file) if isinstance(file, str) else file.stat()
    except (OSError, ValueError):  # a name may hold a zero byte
        return -1, -1
    return told.st_size, told.st_mtime_ns


def _make_room(newest: Path) -> None:
    """Remove the indices that were made first, if all take too many bytes."""
    known = []
    for file in newest.parent.iterdir():
        with suppress(FileNotFoundError):  # another process may have removed it
            if file != newest and _NAME.fullmatch(file.name):
                known.append((file.stat().st_mtime, file.stat().st_size, file))
    total = newest.stat().st_size + sum(size for _, size, _ in known)
    for _, size, file in sorted(known):
        if total <= MOST_BYTES:
            return
        with suppress(FileNotFoundError):
            file.unlink()
        total -= size
