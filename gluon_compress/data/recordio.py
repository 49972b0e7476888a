"""Classification data sets packed as RecordIO, as MXNet's ``im2rec`` writes them."""

from __future__ import annotations

import io
import os
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Iterator, NamedTuple, Sequence

import numpy as np

from gluon_compress.data.images import (
    CACHE_BYTES,
    ImageStore,
    StoredImages,
    decode_image,
    most_pixels,
)
from gluon_compress.validation import LONGEST_LINE, shortened, shown

_MAGIC = 0xCED7230A  # a record starts with it
_LENGTH_BITS = 29  # the other three of the word tell whether it continues
_WHOLE, _LAST = 0, 3
_HEAD = struct.Struct("<IfQQ")  # flag, label, two ids


class Record(NamedTuple):
    """Where a record is."""

    file: Path
    key: str
    offset: int

    def __str__(self) -> str:
        return f"{self.file}: record {self.key}"


class Records(StoredImages):
    """A data set packed by ``im2rec``: ``NAME.rec``, and ``NAME.idx`` beside it.

    It holds the records that the index names, in its order: an index of some records
    is a data set of these.

    Parameters
    ----------
    path : path
        The ``.rec`` file.
    classes : sequence of str
        Names in the order of the ids; records hold ids only.
    cache_bytes : int
        As for ``VOCLayout``.

    Attributes
    ----------
    labels : list of int

    Raises
    ------
    ValueError
        If a file is missing, the index is invalid, a record has no label or one outside
        the classes, or more than half of the records are damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        classes: Sequence[str],
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.path, self.classes = Path(path), tuple(classes)
        self.index = self.path.with_suffix(".idx")
        self._images = ImageStore([], cache_bytes=cache_bytes, read=_read_image)
        self.labels: list[int] = []
        records = _read_index(self.index, self.path)
        with _opened(self.path) as file:
            for record in records:
                self._add(record, file)
        self._check_usable(len(records), len(self))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Return an image and its class id; raises ``BrokenImage``."""
        return self._images.read(index), self.labels[index]

    def verify(self, *, workers: int = 2) -> dict:
        """Decode every record once, and list those that cannot be used.

        Returns
        -------
        dict
            ``images``, the number of usable records, and ``problems``: (record,
            reason) of each of the others.

        Raises
        ------
        ValueError
            If more than half of the records are broken.
        """
        decodable = self._images.decodable(workers=workers)
        self._check_usable(len(decodable), sum(decodable))
        return {"images": sum(decodable), "problems": self.problems}

    def _add(self, record: Record, file: BinaryIO) -> None:
        try:
            label, _ = _unpacked(record, file, 4)
        except ValueError as error:
            self._images.skip(record, str(error))
            return
        number = int(label) if np.isfinite(label) else -1
        if number != label or not 0 <= number < len(self.classes):
            raise ValueError(
                f"{record}: class {label:g}; allowed: 0 to {len(self.classes) - 1}"
            )
        self.labels.append(number)
        self._images.files.append(record)
        self._images.upright.append(True)

    def _check_usable(self, listed: int, usable: int) -> None:
        if 2 * usable < listed:
            raise ValueError(
                f"{self.path}: only {usable} of {listed} records can be used; "
                f"{shortened(self.problems[0][1], LONGEST_LINE // 2)}"
            )


def _read_index(index: Path, path: Path) -> list[Record]:
    for file in (path, index):
        if not file.is_file():
            raise ValueError(f"{file}: there is no such file")
    size = path.stat().st_size
    records: dict[int, Record] = {}
    with open(index, encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            key, _, text = line.strip().rpartition("\t")
            if not key and not text:
                continue
            offset = int(text) if text.isdigit() and len(text) < 20 else -1
            if not (key and 0 <= offset < size) or offset in records:
                raise ValueError(
                    f"{index}: line {number} is {shown(line.strip())}; allowed: a key, "
                    f"a tab, and where a record starts in the {size} bytes of {path}, "
                    "each once"
                )
            records[offset] = Record(path, key, offset)
    if not records:
        raise ValueError(f"{index}: names no record")
    return list(records.values())


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file that may have gone since it was listed."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None


def _read_image(record: Record, *, upright: bool) -> np.ndarray:
    with _opened(record.file) as file:
        _, content = _unpacked(record, file)
    return decode_image(content, str(record), upright=upright)


def _unpacked(
    record: Record, file: BinaryIO, most: int | None = None
) -> tuple[float, bytes]:
    """Return the label and the image of a record, or the start of the image."""
    content = _content(record, file, None if most is None else _HEAD.size + 4 + most)
    try:
        flag, label, _, _ = _HEAD.unpack_from(content)
        if flag == 1:  # the labels follow
            (label,) = struct.unpack_from("<f", content, _HEAD.size)
    except struct.error:
        raise ValueError(f"{record}: cut short") from None
    if flag > 1:
        raise ValueError(f"{record}: {flag} labels; allowed: one")
    return label, content[_HEAD.size + 4 * flag :]


def _content(record: Record, file: BinaryIO, most: int | None) -> bytes:
    """Return the bytes of a record, which is split where they hold the magic number."""
    size = file.seek(0, io.SEEK_END)
    parts, offset = [], record.offset
    while True:
        file.seek(offset)
        start = file.read(8)
        magic, word = struct.unpack("<II", start.ljust(8, b"\0"))
        part, length = word >> _LENGTH_BITS, word & ((1 << _LENGTH_BITS) - 1)
        if magic != _MAGIC:
            raise ValueError(f"{record}: no record starts at byte {offset}")
        if offset + 8 + length > size:
            raise ValueError(f"{record}: cut short")
        if offset + length - record.offset > 8 * most_pixels():
            raise ValueError(f"{record}: too many bytes for an image")
        parts.append(file.read(length if most is None else min(length, most)))
        if part in (_WHOLE, _LAST) or most is not None:
            return struct.pack("<I", _MAGIC).join(parts)
        offset += 8 + (length + 3) // 4 * 4
