"""Sequences of texts and of rows that take little more memory than their content.

A list of a million file names takes over 100 MB, and a process that reads it copies the
pages it shares with others. Arrays take a fifth, and can be stored as they are.
"""

from __future__ import annotations

import os
from typing import Any, Iterator, Mapping, Sequence

import numpy as np

from gluon_compress.storage.reading import Unreadable

_CODING = ("utf-8", "surrogatepass")  # file names need not be Unicode


class Texts(Sequence):
    """Texts in one array of bytes; what all begin with is stored once.

    Parameters
    ----------
    content : numpy.ndarray
        ``(B,)``, uint8: the texts without ``prefix``, in UTF-8.
    ends : numpy.ndarray
        ``(N,)``, int64: where each ends in ``content``.
    prefix : str

    Raises
    ------
    Unreadable
        If the arrays are not those of texts.
    """

    def __init__(self, content: np.ndarray, ends: np.ndarray, prefix: str) -> None:
        check_ends(ends, len(content))
        if content.dtype != np.uint8 or content.ndim != 1:
            raise Unreadable(f"texts of type {content.dtype}")
        starts = ends[:-1][ends[:-1] < len(content)]
        if ((content[starts] & 0xC0) == 0x80).any():
            raise Unreadable("a text that begins inside of a letter")
        self.content, self.ends, self.prefix = content, ends, prefix
        try:
            content.tobytes().decode(*_CODING)
        except UnicodeDecodeError as error:
            raise Unreadable(f"texts: {error.reason}") from None

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        """Return a copy of texts."""
        prefix = os.path.commonprefix([min(texts), max(texts)]) if texts else ""
        parts = [text[len(prefix) :].encode(*_CODING) for text in texts]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), np.uint8), ends, prefix)

    def kept(self, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return a note, in JSON, and arrays, for ``KeptIndex``."""
        arrays = {name: self.content, f"{name}_ends": self.ends}
        return {f"{name}_prefix": self.prefix}, arrays

    @classmethod
    def from_kept(
        cls, name: str, note: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> Texts:
        """Return the texts that ``kept`` was called of."""
        return cls(arrays[name], arrays[f"{name}_ends"], str(note[f"{name}_prefix"]))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index):
        """Return a text, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, end = span(self.ends, index)
        return self.prefix + self.content[start:end].tobytes().decode(*_CODING)

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))


class Rows(Sequence):
    """Arrays of rows, one for each item, in one array.

    Parameters
    ----------
    rows : numpy.ndarray
        ``(R, C)``: those of all items.
    ends : numpy.ndarray
        ``(N,)``, int64: where those of each item end.

    Raises
    ------
    Unreadable
        If ``ends`` does not fit ``rows``.
    """

    def __init__(self, rows: np.ndarray, ends: np.ndarray) -> None:
        check_ends(ends, len(rows))
        self.rows, self.ends = rows, ends

    @classmethod
    def of(cls, items: Sequence[np.ndarray], columns: int) -> Rows:
        """Return a copy of arrays ``(M, columns)``, float32."""
        rows = np.concatenate([np.zeros((0, columns), np.float32), *items])
        return cls(rows, np.cumsum([*map(len, items)], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index):
        """Return the rows of an item, a view."""
        start, end = span(self.ends, index)
        return self.rows[start:end]


def span(ends: np.ndarray, index: int) -> tuple[int, int]:
    """Return where an item starts and ends; raises IndexError."""
    count = len(ends)
    if not -count <= index < count:
        raise IndexError(f"index {index}: there are {count} items")
    index %= count
    return (int(ends[index - 1]) if index else 0), int(ends[index])


def check_ends(ends: np.ndarray, total: int) -> None:
    """Raise Unreadable unless ends rise to a total."""
    if ends.dtype != np.int64 or ends.ndim != 1:
        raise Unreadable(f"ends of type {ends.dtype}, {ends.ndim} axes")
    first, last = (ends[0], ends[-1]) if len(ends) else (0, 0)
    if first < 0 or last != total or (np.diff(ends) < 0).any():
        raise Unreadable(f"ends that do not rise to {total}")


def shaped(array: np.ndarray, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array; raise Unreadable if it is of another type or shape."""
    if array.dtype != dtype or array.shape != shape:
        raise Unreadable(f"{array.dtype} of shape {array.shape}, not of {shape}")
    return array
