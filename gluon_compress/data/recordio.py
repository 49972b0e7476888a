"""Classification data sets packed as RecordIO, as MXNet's ``im2rec`` writes them."""

from __future__ import annotations

import io
import math
import os
import struct
from array import array
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Iterator, Mapping, NamedTuple, Sequence

import numpy as np

from gluon_compress.data.broken import ChangedFile
from gluon_compress.data.images import (
    CACHE_BYTES,
    ImageStore,
    StoredImages,
    decode_image,
    most_pixels,
)
from gluon_compress.data.kept_index import FilesState, KeptIndex, settled
from gluon_compress.data.packed import Texts, shaped
from gluon_compress.storage.reading import Unreadable
from gluon_compress.validation import LONGEST_LINE, shortened, shown

_MAGIC = 0xCED7230A  # a record starts with it
_LENGTH_BITS = 29  # the other three of the word tell whether it continues
_WHOLE, _LAST = 0, 3
_HEAD = struct.Struct("<IfQQ")  # flag, label, two ids
_PLAIN = struct.Struct("<IIIf")  # magic, length, flag, label
_START = 8 + _HEAD.size
_PLAIN_BYTES = 1 << 24  # up to which no record is too long for an image
_LINE = 8  # bytes of a line of an index, about as few as there can be


class Record(NamedTuple):
    """Where a record is."""

    file: Path
    key: str
    offset: int

    def __str__(self) -> str:
        return f"{self.file}: record {self.key}"


class RecordList(Sequence):
    """Where the records of a file are, in two arrays.

    Parameters
    ----------
    file : Path
    keys : Texts
    offsets : numpy.ndarray
        ``(N,)``, int64.
    """

    def __init__(self, file: Path, keys: Texts, offsets: np.ndarray) -> None:
        self.file, self.keys = file, keys
        self.offsets = shaped(offsets, np.int64, (len(keys),))

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index):
        """Return where a record is."""
        return Record(self.file, self.keys[index], int(self.offsets[index]))


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
        for file in (self.path, self.index):
            if not file.is_file():
                raise ValueError(f"{file}: there is no such file")
        self._images = ImageStore([], cache_bytes=cache_bytes, read=self._read_image)
        self._identity = _identity(os.stat(self.path))
        index = KeptIndex(layout="record", path=path, classes=len(self.classes))
        kept = index.read(lambda note, arrays: self._state(), self._parsed)
        if kept is None:
            state = settled(self._state)
            self._fill(_read_index(self.index, self.path))
            index.keep(state, *self._kept())
        else:
            records, labels, problems, skipped = kept
            self._hold(records, labels)
            self._images.restore(problems, skipped)

    def _fill(self, records: RecordList) -> None:
        """Read all labels, and leave out records that are damaged."""
        labels = np.full(len(records), -1, np.int32)
        with _opened(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            for i, offset in enumerate(records.offsets.tolist()):
                start = os.pread(file.fileno(), _START, offset)
                label = _plain_label(start, size - offset)
                if label is None:  # damaged, or merely unusual
                    try:
                        label, _ = _unpacked(records[i], file, 4)
                    except ValueError as error:
                        self._images.skip(records[i], str(error))
                        continue
                labels[i] = self._class_of(label, records, i)
        used = labels >= 0
        if not used.all():
            keys = [key for key, ok in zip(records.keys, used) if ok]
            records = RecordList(self.path, Texts.of(keys), records.offsets[used])
        self._hold(records, labels[used])
        self._check_usable(len(used), len(self))

    def _hold(self, records: RecordList, labels: np.ndarray) -> None:
        numbers = [*range(len(self.classes))]  # one object for all equal labels
        self.labels = [numbers[label] for label in labels.tolist()]
        self._images.hold(records)

    def _class_of(self, label: float, records: RecordList, index: int) -> int:
        number = int(label) if math.isfinite(label) else -1
        if number != label or not 0 <= number < len(self.classes):
            raise ValueError(
                f"{records[index]}: class {label:g}; allowed: 0 to "
                f"{len(self.classes) - 1}"
            )
        return number

    def _state(self) -> FilesState:
        state = FilesState()
        state.add([str(self.path), str(self.index)])
        state.entries = os.path.getsize(self.index) // _LINE
        return state

    def _kept(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        records = self._images.files
        note, arrays = records.keys.kept("keys")
        problems = {"problems": self.problems, "skipped": self.skipped}
        labels = np.array(self.labels, np.int32)
        numbers = {"offsets": records.offsets, "labels": labels}
        return {**note, **problems}, {**arrays, **numbers}

    def _parsed(self, note: Any, arrays: Mapping[str, np.ndarray]) -> tuple:
        """Return records, labels, problems and how many are skipped, as kept."""
        keys = Texts.from_kept("keys", note, arrays)
        records = RecordList(self.path, keys, arrays["offsets"])
        labels = shaped(arrays["labels"], np.int32, (len(keys),))
        size = os.path.getsize(self.path)
        for values, limit in ((labels, len(self.classes)), (records.offsets, size)):
            if len(values) and not 0 <= values.min() <= values.max() < limit:
                raise Unreadable("labels or places outside of what is allowed")
        problems = [(str(file), str(reason)) for file, reason in note["problems"]]
        return records, labels, problems, int(note["skipped"])

    def _read_image(self, record: Record, *, upright: bool) -> np.ndarray:
        with _opened(record.file) as file:
            if _identity(os.fstat(file.fileno())) != self._identity:
                raise ChangedFile(
                    f"{record.file}: has changed since the data set was opened; "
                    "allowed: files that stay as they are while they are used"
                )
            _, content = _unpacked(record, file)
        return decode_image(content, str(record), upright=upright)

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

    def _check_usable(self, listed: int, usable: int) -> None:
        if 2 * usable < listed:
            raise ValueError(
                f"{self.path}: only {usable} of {listed} records can be used, if "
                f"{self.index.name} is its index; "
                f"{shortened(self.problems[0][1], LONGEST_LINE // 2)}"
            )


def _read_index(index: Path, path: Path) -> RecordList:
    size = path.stat().st_size
    keys, ends, offsets = bytearray(), array("q"), array("q")
    known: set[int] | None = None  # of offsets that do not rise
    with open(index, encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            key, _, text = line.strip().rpartition("\t")
            if not key and not text:
                continue
            offset = int(text) if text.isdigit() and len(text) < 20 else -1
            if known is None and offsets and offset <= offsets[-1]:
                known = set(offsets)
            twice = known is not None and offset in known
            if not (key and 0 <= offset < size) or twice:
                raise ValueError(
                    f"{index}: line {number} is {shown(line.strip())}; allowed: a key, "
                    f"a tab, and where a record starts in the {size} bytes of {path}, "
                    "each once"
                )
            if known is not None:
                known.add(offset)
            keys += key.encode()
            ends.append(len(keys))
            offsets.append(offset)
    if not offsets:
        raise ValueError(f"{index}: names no record")
    texts = Texts(np.frombuffer(keys, np.uint8), np.array(ends, np.int64), "")
    return RecordList(path, texts, np.array(offsets, np.int64))


def _identity(told: os.stat_result) -> tuple[int, int]:
    """Return what differs if a file is another one or was written."""
    return told.st_size, told.st_mtime_ns


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file that may have gone since it was listed."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None


def _plain_label(start: bytes, rest: int) -> float | None:
    """Return the label in the first bytes of a record; None if it may be damaged.

    Parameters
    ----------
    start : bytes
    rest : int
        Bytes of the file from there on.
    """
    if len(start) < _START:
        return None
    magic, word, flag, label = _PLAIN.unpack_from(start)
    if magic != _MAGIC or flag != 0:
        return None
    # A record that continues has its number in the upper bits, so it is longer.
    return label if _HEAD.size <= word <= min(rest - 8, _PLAIN_BYTES) else None


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
