"""Reads image files: size, EXIF orientation, damaged files, and a cache of pixels."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Sequence

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

EXTENSIONS = (".jpg", ".jpeg", ".png")
CACHE_BYTES = 512 << 20
ORIENTATION = 0x0112  # the EXIF tag
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG"
_SCAN, _END = b"\xff\xda", b"\xff\xd9"


@dataclass(frozen=True)
class Header:
    """The stored size of an image file, and whether EXIF turns it.

    ``turned`` tells whether showing the image upright swaps width and height.
    """

    width: int
    height: int
    turned: bool

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        return (self.height, self.width) if self.turned else (self.width, self.height)


def read_header(path: str | os.PathLike) -> Header:
    """Return the header of an image, after checking that the file is complete.

    Raises
    ------
    ValueError
        If it is missing, not an image, or ends before its last pixel.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Where there is none, Pillow would decode all of a PNG to look for it.
            has_exif = "exif" in image.info
            turned = has_exif and image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not a readable image: unknown format") from None
    except Exception as error:  # Pillow's readers raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a readable image: {reason}") from None
    if not _is_complete(path):
        raise ValueError(f"{path}: the image is cut short")
    return Header(width, height, turned)


def _is_complete(path: str | os.PathLike) -> bool:
    with open(path, "rb") as file:
        start = file.read(4)
        end = b"IEND" if start.startswith(_PNG) else _END
        file.seek(max(os.path.getsize(path) - 64, 0))
        if end in file.read() or not start.startswith((_JPEG, _PNG)):
            return True
        # Cameras append videos and maker notes, so the end mark can be far from it.
        file.seek(0)
        data = file.read()
    return data.find(end, _first_scan(data) if end == _END else 0) >= 0


def _first_scan(data: bytes) -> int:
    """Return where a JPEG's pixels start, after thumbnails with their own end marks."""
    offset = 2
    while offset + 4 <= len(data) and data[offset : offset + 2] != _SCAN:
        offset += 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
    return offset


def read_image(path: str | os.PathLike, *, upright: bool = True) -> np.ndarray:
    """Return the pixels of an image file.

    Parameters
    ----------
    path : path
        JPEG or PNG: colour, grey-scale, CMYK, with alpha, of 8 or 16 bits.
    upright : bool
        Whether it is turned as its EXIF data says.

    Returns
    -------
    numpy.ndarray
        ``(H, W, 3)``, uint8, RGB.

    Raises
    ------
    ValueError
        If it cannot be read or decoded.
    """
    flags = cv2.IMREAD_COLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    if not data.size:
        raise ValueError(f"{path}: cannot be decoded: it is empty")
    if data[:4].tobytes() == _PNG and b"IEND" not in data.tobytes():
        # libpng would print this to standard error by itself.
        raise ValueError(f"{path}: cannot be decoded: it is cut short")
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error as error:
        reason = f"OpenCV requires {error.err}"
        raise ValueError(f"{path}: cannot be decoded: {reason}") from None
    if image is None:
        raise ValueError(f"{path}: cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class ImageStore:
    """Decoded image files by index, cached in memory; broken ones are replaced.

    Cached images are never evicted: every epoch reads every image once in a new order,
    so keeping the first ones is as good as any other choice.

    Parameters
    ----------
    files : sequence of path
    upright : sequence of bool, optional
        Which are turned as their EXIF data says; default: all.
    cache_bytes : int
        Limit for the memory of decoded images.

    Attributes
    ----------
    problems : list of (file, reason)
        Files that could not be decoded, and what ``report`` added.
    """

    def __init__(
        self,
        files: Sequence,
        *,
        upright: Sequence[bool] | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.files = list(files)
        self.upright = list(upright or [True] * len(files))
        self.problems: list[tuple[str, str]] = []
        self._cache: dict[int, np.ndarray] = {}
        self._free, self._lock = cache_bytes, threading.Lock()

    def read(self, index: int) -> tuple[int, np.ndarray]:
        """Return the index and the pixels of an image, or of the next readable one.

        Raises
        ------
        IndexError
            If there is no such image.
        ValueError
            If all are broken.
        """
        size = len(self.files)
        if not -size <= index < size:
            raise IndexError(f"index {index}: there are {size} images")
        for offset in range(size):
            candidate = (index + offset) % size
            image = self._read(candidate)
            if image is not None:
                return candidate, image
        raise ValueError(f"none of {size} images can be decoded: {self.problems[0][1]}")

    def decodable(self, *, workers: int = 2) -> list[bool]:
        """Decode every image, and return for each whether that worked."""
        with ThreadPoolExecutor(workers) as pool:
            images = pool.map(self._read, range(len(self.files)))
            return [image is not None for image in images]

    def report(self, file: str | os.PathLike, reason: str) -> None:
        """Add a problem unless it is already listed."""
        entry = (str(file), reason)
        with self._lock:
            if entry not in self.problems:
                self.problems.append(entry)

    def _read(self, index: int) -> np.ndarray | None:
        if index in self._cache:
            return self._cache[index]
        file = self.files[index]
        try:
            image = read_image(file, upright=self.upright[index])
        except ValueError as error:
            self.report(file, str(error))
            return None
        image.flags.writeable = False  # it is handed out again
        with self._lock:
            if index not in self._cache and image.nbytes <= self._free:
                self._cache[index] = image
                self._free -= image.nbytes
        return image
