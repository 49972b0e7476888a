"""Writes videos with OpenCV, atomically and at a constant rate."""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

import cv2
import numpy as np

from gluon_compress.data.video import SHORT, check_name, opened, plausible, quiet
from gluon_compress.storage.atomic import disk_errors, draft_folder, errors_for

# What OpenCV's own build of FFmpeg encodes. Browsers play WebM.
ENCODERS = {
    ".mp4": "mp4v",
    ".mov": "mp4v",
    ".mkv": "mp4v",
    ".avi": "MJPG",
    ".webm": "VP80",
}
LONGEST_GAP = 10.0  # seconds that one frame is shown for
MARK = b"made by gluon_compress"  # at the end of videos written here
_MATROSKA, _VOID = (".mkv", ".webm"), 0xEC


class VideoWriter:
    """Writes frames as a video of constant rate, each shown at its time.

    Parameters
    ----------
    path : path
        One of ``ENCODERS`` by its ending.
    rate : float
        Frames a second. A frame is repeated until the next one is due.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, round(plausible(rate), 2)
        self.frames = 0
        self._start: float | None = None
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Show an image from a time on.

        Parameters
        ----------
        image : ndarray
            ``(H, W, 3)``, uint8, RGB. The first one decides the size, whose sides
            become even; others are fitted into it, with a black border.
        seconds : float
            Never less than before.
        """
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if self._writer is None:
            self._start = seconds
            height, width = (max(2, side - side % 2) for side in image.shape[:2])
            self._size = (width, height)
            self._writer = self._new()
        due = round((seconds - (self._start or 0.0)) * self.rate) + 1
        if due - self.frames > LONGEST_GAP * self.rate:
            # Times that jump are wrong more often than not: go on from here.
            due = self.frames + 1
            self._start = seconds - self.frames / self.rate
        image = _fitted(image, *self._size)
        for _ in range(due - self.frames):
            self._writer.write(image)
            self.frames += 1

    def close(self) -> None:
        """Finish the file, and check that it can be read.

        Raises
        ------
        ValueError
            If OpenCV cannot read it, or only a part.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        with suppress(ValueError):
            capture = opened(self.path, False, self.path.name)
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            is_whole = capture.grab() and count >= (1 - SHORT) * self.frames - 2
            capture.release()
            if is_whole:
                return
        raise ValueError(f"{self.path.name}: OpenCV could not write it whole")

    def _new(self) -> cv2.VideoWriter:
        code = cv2.VideoWriter.fourcc(*ENCODERS[self.path.suffix.lower()])
        with quiet():
            writer = cv2.VideoWriter(
                os.fspath(self.path), cv2.CAP_FFMPEG, code, self.rate, self._size
            )
        if not writer.isOpened():
            raise ValueError(f"{self.path.name}: OpenCV cannot write such a video")
        return writer


@contextmanager
def new_video(path: str | os.PathLike, rate: float) -> Iterator[VideoWriter]:
    """Yield a writer whose video becomes ``path`` when the block succeeds.

    Nothing is written if the block writes no frame.

    Parameters
    ----------
    path : path
        One of ``ENCODERS`` by its ending.
    rate : float
        Frames a second.

    Raises
    ------
    ValueError
        If OpenCV cannot write it.
    OSError
        If the disk is full, or the file cannot be replaced; the error names ``path``.
    """
    path = Path(path)
    check_name(path)
    with draft_folder(path) as draft, disk_errors(path, draft):
        file = draft / f"video{path.suffix}"
        writer = VideoWriter(file, rate)
        yield writer
        writer.close()
        if not writer.frames:
            return
        with open(file, "ab") as stream:
            stream.write(_marked(path.suffix.lower()))
            stream.flush()
            os.fsync(stream.fileno())
        with errors_for(path, instead=True):
            os.replace(file, path)


def is_written_here(path: str | os.PathLike) -> bool:
    """Return whether ``new_video`` wrote a file, which may thus be replaced."""
    try:
        with open(path, "rb") as file:
            file.seek(-min(len(MARK), os.path.getsize(path)), os.SEEK_END)
            return file.read() == MARK
    except OSError:
        return False


def _marked(ending: str) -> bytes:
    """Return the mark in a form that players skip."""
    if ending in _MATROSKA:
        return bytes([_VOID, 0x80 | len(MARK)]) + MARK
    if ending == ".avi":
        return b"JUNK" + struct.pack("<I", len(MARK)) + MARK
    return struct.pack(">I", 8 + len(MARK)) + b"free" + MARK


def _fitted(image: np.ndarray, width: int, height: int) -> np.ndarray:
    rows, columns = image.shape[:2]
    if (columns - columns % 2, rows - rows % 2) == (width, height):
        return np.ascontiguousarray(image[:height, :width])
    scale = min(width / columns, height / rows)
    inner = [max(1, round(side * scale)) for side in (columns, rows)]
    placed = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    resized = cv2.resize(image, tuple(inner), interpolation=cv2.INTER_AREA)
    placed[top : top + inner[1], left : left + inner[0]] = resized
    return placed
