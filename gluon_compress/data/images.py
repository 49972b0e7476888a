"""Reads image files: size, EXIF orientation, pixels, and a cache of pixels.

Every image of the package is decoded here, so that headers and pixels agree about the
orientation, and nothing larger than ``MOST_PIXELS`` is decoded.
"""

from __future__ import annotations

import io
import logging
import os
import stat
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Callable, Iterator, Sequence

import cv2
import numpy as np
from PIL import Image

from gluon_compress.data.broken import BrokenImage, ChangedFile

LOG = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png")
CACHE_BYTES = 512 << 20
MOST_PIXELS = 1 << 26  # of an image; decoding takes up to 12 bytes for each
PIXEL_LIMIT = "GLUON_COMPRESS_MOST_PIXELS"  # environment variable: another limit
ORIENTATION = 0x0112  # the EXIF tag
_JPEG, _PNG, _RIFF, _BMP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM"
_END = b"\xff\xd9"  # of a JPEG
_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's markers that state a size
_EXIF = b"Exif\0\0"
_AT_ONCE = 1024  # images whose decoding is asked for
_CUT = "the image is cut short"
# How the stored pixels become upright, by EXIF orientation.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


@dataclass(frozen=True)
class Header:
    """What an image file says of its pixels.

    Parameters
    ----------
    width, height : int
        As stored, pixels.
    orientation : int
        EXIF's, 1 to 8: how the stored pixels are turned or mirrored to be upright. 1:
        they are upright.
    bits : int or None
        Significant bits of a sample of more than 8 bits, if the file states them.
    """

    width: int
    height: int
    orientation: int = 1
    bits: int | None = None

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height of the image as stored."""
        return self.width, self.height

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        turned = self.orientation >= 5
        return (self.height, self.width) if turned else (self.width, self.height)


def read_header(path: str | os.PathLike) -> Header:
    """Return the header of an image file, after checking that the file is complete.

    Raises
    ------
    ValueError
        If it is missing, not an image, has too many pixels, or ends before its last
        pixel.
    """
    with _opened(path) as file:
        return _header(file, str(path))


def read_image(path: str | os.PathLike, *, upright: bool = True) -> np.ndarray:
    """Return the pixels of an image file.

    Parameters
    ----------
    path : path
        JPEG, PNG, WebP or BMP, whatever its name: colour, grey-scale, CMYK, with alpha,
        of 8 or 16 bits.
    upright : bool
        Whether it is turned as its EXIF data says.

    Returns
    -------
    numpy.ndarray
        ``(H, W, 3)``, uint8, RGB.

    Raises
    ------
    ValueError
        If it cannot be read or decoded, or has too many pixels.
    """
    with _opened(path) as file:
        header = _header(file, str(path))
        file.seek(0)
        data = file.read()
    return _pixels(data, header, str(path), upright=upright)


def decode_image(data: bytes, source: str, *, upright: bool = True) -> np.ndarray:
    """Return the pixels of an encoded image, as ``read_image`` does.

    Parameters
    ----------
    data : bytes
    source : str
        Where they are from, for messages.
    upright : bool

    Raises
    ------
    ValueError
        As ``read_image``.
    """
    header = _header(io.BytesIO(data), source)
    return _pixels(data, header, source, upright=upright)


def decode_header(data: bytes, source: str) -> Header:
    """Return the header of an encoded image, as ``read_header`` does.

    Raises
    ------
    ValueError
        As ``read_header``.
    """
    return _header(io.BytesIO(data), source)


def most_pixels() -> int:
    """Return how many pixels an image can have.

    Raises
    ------
    ValueError
        If the environment variable holds no number.
    """
    text = os.environ.get(PIXEL_LIMIT, str(MOST_PIXELS))
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 12):
        raise ValueError(f"{PIXEL_LIMIT} is {text[:40]!r}; allowed: a whole number")
    return int(text)


def to_8_bits(image: np.ndarray, source: str, bits: int | None = None) -> np.ndarray:
    """Return an image of 16 bits with 8 bits a sample.

    Parameters
    ----------
    image : ndarray
        uint16.
    source : str
        Its name in the warning, logged once, about samples that only fill the lower
        bits: the image is nearly black then.
    bits : int, optional
        How many bits are significant, if that is known. Samples that fill no more are
        scaled by it.
    """
    largest = int(image.max())
    if bits is not None and bits < 16 and largest < 1 << bits:
        return (image.astype(np.float32) * (255 / ((1 << bits) - 1))).astype(np.uint8)
    if 255 < largest < 1 << 14:
        _warn_dark(source, largest.bit_length())
    return (image // 257).astype(np.uint8)


_dark: list[str] = []


def _warn_dark(source: str, bits: int) -> None:
    if not _dark:
        _dark.append(source)
        LOG.warning(
            "%s: 16 bits a sample, of which only %d are used: nearly black with 8 "
            "bits; scale such images to the full range. This is said once",
            source,
            bits,
        )


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a file that can be no longer than its pixels."""
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            raise ValueError(f"{path}: not a file")
        if state.st_size > 8 * most_pixels():
            raise ValueError(f"{path}: {state.st_size} bytes are too many for an image")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None


def _header(file: BinaryIO, source: str) -> Header:
    start = file.read(16)
    parse = next((p for mark, p in _PARSERS.items() if start.startswith(mark)), None)
    if parse is None:
        reason = f"starts with {start!r}" if start else "is empty"
        kinds = "JPEG, PNG, WebP, BMP"
        raise ValueError(
            f"{source}: not a readable image: it {reason}; allowed: {kinds}"
        )
    try:
        header = parse(file)
    except struct.error:
        raise ValueError(f"{source}: {_CUT}") from None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    if not 0 < header.width * header.height <= most_pixels():
        raise ValueError(
            f"{source}: {header.width} x {header.height} pixels; allowed: 1 to "
            f"{most_pixels()}, or to what the environment variable {PIXEL_LIMIT} says"
        )
    return header


def _jpeg_header(file: BinaryIO) -> Header:
    width = height = 0
    exif = b""
    offset = 2
    while True:
        file.seek(offset)
        mark, kind, length = struct.unpack(">BBH", file.read(4))
        if (mark, kind) in ((0xFF, 0xFF), (0, 0xFF)):  # padding
            offset += 1
            continue
        if mark != 0xFF or length < 2:
            raise ValueError(f"not a readable image: no JPEG marker at byte {offset}")
        if kind == 0xDA:  # the pixels start
            break
        if kind in _SIZES:
            height, width = struct.unpack(">xHH", file.read(5))
        if kind == 0xE1 and not exif:
            content = file.read(length - 2)
            exif = content if content.startswith(_EXIF) else b""
        offset += 2 + length
    # The end of a thumbnail lies before the pixels, and cameras append videos.
    file.seek(max(file.seek(0, io.SEEK_END) - 64, offset))
    if _END not in file.read():
        file.seek(offset)
        if _END not in file.read():
            raise ValueError(_CUT)
    return Header(width, height, _orientation(exif))


def _png_header(file: BinaryIO) -> Header:
    file.seek(len(_PNG) + 8)
    width, height = struct.unpack(">II", file.read(8))
    chunks: dict[bytes, bytes] = {}
    end = file.seek(0, io.SEEK_END)
    offset = len(_PNG)
    while b"IEND" not in chunks:  # EXIF data may follow the pixels
        file.seek(offset)
        size, name = struct.unpack(">I4s", file.read(8))
        offset += 12 + size
        if offset > end:
            raise ValueError(_CUT)
        if name in (b"eXIf", b"sBIT", b"IEND"):
            chunks.setdefault(name, file.read(size))
    bits = max(chunks.get(b"sBIT", b""), default=0) or None
    return Header(width, height, _orientation(chunks.get(b"eXIf")), bits)


def _webp_header(file: BinaryIO) -> Header:
    file.seek(4)
    size, name = struct.unpack("<I4s", file.read(8))
    if name != b"WEBP":
        raise ValueError(f"not a readable image: RIFF of kind {name!r}, not WebP")
    end = 8 + size
    if file.seek(0, io.SEEK_END) < end:
        raise ValueError(_CUT)
    chunks: dict[bytes, bytes] = {}
    offset = 12
    while offset + 8 <= end:
        file.seek(offset)
        name, size = struct.unpack("<4sI", file.read(8))
        chunks.setdefault(name, file.read(size if name == b"EXIF" else 10))
        offset += 8 + size + size % 2
    if b"VP8X" in chunks:
        canvas = chunks[b"VP8X"]
        width, height = (
            1 + int.from_bytes(canvas[i : i + 3], "little") for i in (4, 7)
        )
    elif b"VP8L" in chunks:
        (packed,) = struct.unpack("<xI", chunks[b"VP8L"][:5])
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    else:
        packed, other = struct.unpack("<6xHH", chunks.get(b"VP8 ", b""))
        width, height = packed & 0x3FFF, other & 0x3FFF
    return Header(width, height, _orientation(chunks.get(b"EXIF")))


def _bmp_header(file: BinaryIO) -> Header:
    file.seek(14)
    (size,) = struct.unpack("<I", file.read(4))
    layout = "<HH" if size == 12 else "<ii"
    width, height = struct.unpack(layout, file.read(struct.calcsize(layout)))
    return Header(width, abs(height))  # below 0: the first row is on top


# How a file is read, by its first bytes: names lie.
_PARSERS: dict[bytes, Callable[[BinaryIO], Header]] = {
    _JPEG: _jpeg_header,
    _PNG: _png_header,
    _RIFF: _webp_header,
    _BMP: _bmp_header,
}


def _orientation(exif: bytes | None) -> int:
    if not exif:
        return 1
    tags: Any = Image.Exif()
    try:
        tags.load(exif)
        value = tags.get(ORIENTATION)
    except Exception:  # anything can stand there
        return 1
    return value if value in _TURNS else 1


def _pixels(data: bytes, header: Header, source: str, *, upright: bool) -> np.ndarray:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    if data.startswith(_PNG) and data[24] == 16:
        flags |= cv2.IMREAD_ANYDEPTH
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        reason = f"OpenCV requires {error.err}"
        raise ValueError(f"{source}: cannot be decoded: {reason}") from None
    # OpenCV has a header reader of its own, and both must mean the same image.
    if image is None or image.shape != (header.height, header.width, 3):
        raise ValueError(f"{source}: cannot be decoded")
    if image.dtype == np.uint16:
        image = to_8_bits(image, source, header.bits)
    turn = _TURNS.get(header.orientation) if upright else None
    return image if turn is None else turn(image)


def keep_no_images() -> None:
    """Keep no decoded images from now on in this process: a copy, for its memory."""
    ImageStore.keeps = False


class ImageStore:
    """Decoded image files by index, cached in memory.

    Cached images are never evicted: every epoch reads every image once in a new order,
    so keeping the first ones is as good as any other choice.

    Parameters
    ----------
    files : sequence of path
    cache_bytes : int
        Limit for the memory of decoded images.
    read : callable
        ``read(file, upright=)`` -> pixels, if ``files`` are something else.

    Attributes
    ----------
    skipped : int
        How many listed images are not among the files (``skip``).
    """

    keeps = True  # decoded images

    def __init__(
        self,
        files: Sequence,
        *,
        cache_bytes: int = CACHE_BYTES,
        read: Callable[..., np.ndarray] = read_image,
    ) -> None:
        self._decode = read
        self.hold(files)
        self._problems: dict[tuple[str, str], None] = {}
        self._cache: dict[int, np.ndarray] = {}
        self._broken: dict[int, str] = {}
        self.skipped = 0
        self._free, self._lock = cache_bytes, threading.Lock()

    def hold(
        self,
        files: Sequence,
        upright: np.ndarray | None = None,
        sizes: np.ndarray | None = None,
    ) -> None:
        """Take the place of all files so far.

        Parameters
        ----------
        files : sequence of path
            Kept as it is: ``Texts`` take little memory.
        upright : numpy.ndarray, optional
            ``(N,)``, bool: which are turned as their EXIF data says; default: all.
        sizes : numpy.ndarray, optional
            ``(N, 2)``: widths and heights then, pixels. An image of another size has
            changed since, and cannot be used.
        """
        self.files: Any = files
        self.upright: Any = upright
        self.sizes: Any = sizes

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Files that could not be decoded and what ``report`` added, with reasons."""
        with self._lock:
            return list(self._problems)

    def read(self, index: int) -> np.ndarray:
        """Return the pixels of an image.

        Raises
        ------
        IndexError
            If there is no such image.
        BrokenImage
            If it cannot be read; the file is one of the ``problems`` then.
        """
        size = len(self.files)
        if not -size <= index < size:
            raise IndexError(f"index {index}: there are {size} images")
        image = self._read(index % size)
        if image is None:
            raise BrokenImage(self._broken[index % size])
        return image

    @property
    def broken(self) -> list[int]:
        """Indices of the images that could not be read so far."""
        with self._lock:
            return sorted(self._broken)

    def note_broken(self, index: int, reason: str) -> None:
        """Note that an image cannot be read, as another process has found."""
        self.report(self.files[index], reason)
        with self._lock:
            self._broken.setdefault(index, reason)

    def decodable(self, *, workers: int = 2) -> list[bool]:
        """Decode every image, and return for each whether that worked."""
        count = len(self.files)
        with ThreadPoolExecutor(workers) as pool:
            worked: list[bool] = []
            for start in range(0, count, _AT_ONCE):
                part = range(start, min(start + _AT_ONCE, count))
                worked += pool.map(lambda i: self._read(i) is not None, part)
            return worked

    def report(self, file: Any, reason: str) -> None:
        """Add a problem unless it is already listed."""
        with self._lock:
            self._problems[str(file), reason] = None

    def skip(self, file: Any, reason: str) -> None:
        """Note that a listed image cannot be used; it is not among the files."""
        self.report(file, reason)
        self.skipped += 1

    def restore(self, problems: Sequence[tuple[str, str]], skipped: int) -> None:
        """Note all that ``report`` and ``skip`` noted of the same files before."""
        with self._lock:
            self._problems = dict.fromkeys(problems)
        self.skipped = skipped

    def _read(self, index: int) -> np.ndarray | None:
        if index in self._cache or index in self._broken:
            return self._cache.get(index)
        file = self.files[index]
        upright = self.upright is None or bool(self.upright[index])
        try:
            image = self._decode(file, upright=upright)
            self._check_size(index, image)
        except ChangedFile:  # nor can any other image of it be read
            raise
        except ValueError as error:
            self.note_broken(index, str(error))
            return None
        image.flags.writeable = False  # it is handed out again
        with self._lock:
            fits = self.keeps and image.nbytes <= self._free
            if index not in self._cache and fits:
                self._cache[index] = image
                self._free -= image.nbytes
        return image

    def _check_size(self, index: int, image: np.ndarray) -> None:
        if self.sizes is None:
            return
        height, width = image.shape[:2]
        stated = self.sizes[index].tolist()
        if [width, height] != stated:
            raise ValueError(
                f"{self.files[index]}: has {width} x {height} pixels, but had "
                f"{stated[0]} x {stated[1]} when the data set was opened"
            )


class StoredImages:
    """A data set whose images are in an ``ImageStore``, ``_images``."""

    _images: ImageStore

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Files that cannot be used and objects that are left out, with reasons."""
        return self._images.problems

    @property
    def skipped(self) -> int:
        """How many listed images are not among the items."""
        return self._images.skipped

    @property
    def broken(self) -> int:
        """How many items turned out to be broken when they were read."""
        return len(self._images.broken)

    def note_broken(self, index: int, reason: str) -> None:
        """Note that an item is broken, as another process has found."""
        self._images.note_broken(index, reason)
