"""Image files as the world makes them: size, orientation, damage; and kept pixels."""

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
    """What an image file says before its pixels: stored size and EXIF turn.

    ``turned`` is whether showing the image upright swaps width and height.
    """

    width: int
    height: int
    turned: bool

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as the image is meant to be seen."""
        return (self.height, self.width) if self.turned else (self.width, self.height)


def read_header(path: str | os.PathLike) -> Header:
    """Return the header of an image whose file is whole.

    Raises
    ------
    ValueError
        If it is missing, not an image, or ends before its last pixel.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Without any, Pillow would decode a whole PNG in search of it.
            has_exif = "exif" in image.info
            turned = has_exif and image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not a readable image: unknown format") from None
    except Exception as error:  # Pillow's readers raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a readable image: {reason}") from None
    if not _is_whole(path):
        raise ValueError(f"{path}: the image is cut short")
    return Header(width, height, turned)


def _is_whole(path: str | os.PathLike) -> bool:
    with open(path, "rb") as file:
        start = file.read(4)
        end = b"IEND" if start.startswith(_PNG) else _END
        file.seek(max(os.path.getsize(path) - 64, 0))
        if end in file.read() or not start.startswith((_JPEG, _PNG)):
            return True
        # Cameras append films and makers' notes: the end may lie far before it.
        file.seek(0)
        data = file.read()
    return data.find(end, _first_scan(data) if end == _END else 0) >= 0


def _first_scan(data: bytes) -> int:
    """Return where a JPEG's pixels start: thumbnails before have ends of their own."""
    at = 2
    while at + 4 <= len(data) and data[at : at + 2] != _SCAN:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


def read_image(path: str | os.PathLike, *, upright: bool = True) -> np.ndarray:
    """Return the pixels of an image file.

    Parameters
    ----------
    path : path
        JPEG or PNG: colour, grey-scale, CMYK, with alpha, of 8 or 16 bits.
    upright : bool
        Whether it is turned as its EXIF data asks for.

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
        # Of its own accord, libpng would say so on standard error.
        raise ValueError(f"{path}: cannot be decoded: it is cut short")
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error as error:
        reason = f"OpenCV asks for {error.err}"
        raise ValueError(f"{path}: cannot be decoded: {reason}") from None
    if image is None:
        raise ValueError(f"{path}: cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class Pictures:
    """Image files by number: decoded once if memory allows, replaced when broken.

    What is kept in memory stays there: when every epoch reads every image once, in
    another order, keeping the first ones is as good as any other choice.

    Parameters
    ----------
    files : sequence of path
    upright : sequence of bool, optional
        Which are turned as their EXIF data asks for; default: all.
    cache_bytes : int
        How much memory decoded images may take.

    Attributes
    ----------
    problems : list of (file, reason)
        Files that could not be decoded; others may add to it with ``report``.
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
        self._kept: dict[int, np.ndarray] = {}
        self._free, self._lock = cache_bytes, threading.Lock()

    def read(self, index: int) -> tuple[int, np.ndarray]:
        """Return an image, or the next that is not broken, and which one it is.

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
        for place in range(index % size, index % size + size):
            image = self._read(place % size)
            if image is not None:
                return place % size, image
        raise ValueError(f"none of {size} images can be decoded: {self.problems[0][1]}")

    def whole(self, *, workers: int = 2) -> list[bool]:
        """Decode every image and return which can be."""
        with ThreadPoolExecutor(workers) as pool:
            images = pool.map(self._read, range(len(self.files)))
            return [image is not None for image in images]

    def report(self, file: str | os.PathLike, reason: str) -> None:
        """Add a problem, once."""
        entry = (str(file), reason)
        with self._lock:
            if entry not in self.problems:
                self.problems.append(entry)

    def _read(self, index: int) -> np.ndarray | None:
        if index in self._kept:
            return self._kept[index]
        file = self.files[index]
        try:
            image = read_image(file, upright=self.upright[index])
        except ValueError as error:
            self.report(file, str(error))
            return None
        image.flags.writeable = False  # it may be handed out again
        with self._lock:
            if index not in self._kept and image.nbytes <= self._free:
                self._kept[index] = image
                self._free -= image.nbytes
        return image
