"""Reads videos and cameras frame by frame, with OpenCV.

One frame is in memory at a time, two if the source is live. A live source does not
wait: ``Latest`` keeps its newest frame and drops those that nobody asked for in time.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

import cv2
import numpy as np

from gluon_compress.data.images import most_pixels

VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"),
    *(".mpg", ".mpeg", ".3gp", ".ts", ".wmv", ".ogv"),
)
RATE, FASTEST = 25.0, 240.0  # frames a second: if none is stated, and at most
PATIENCE = 10.0  # seconds without a frame, after which a live source is given up
TICK = 0.1  # seconds between two looks at whether to stop
# How frames become upright, by the degrees that a file states.
_TURNS = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}
_USER = re.compile("//[^/@]*@")
SHORT = 0.05  # share of a video that may be missing at its end, as lengths are guesses


@dataclass(frozen=True)
class VideoFrame:
    """A frame of a video.

    Parameters
    ----------
    number : int
        From 0; frames that were not read count.
    seconds : float
        When it is shown, from the start.
    image : ndarray
        ``(H, W, 3)``, uint8, RGB, upright.
    """

    number: int
    seconds: float
    image: np.ndarray


class Capture:
    """A video file, or a camera or stream, whose frames are read once, in order.

    Parameters
    ----------
    source : path, str or int
        A video file; with ``live``, the number of a camera, its device, or the address
        of a stream.
    every : int
        Only each n-th frame is decoded.
    live : bool
        Whether frames come in their own time, not as fast as they are read.

    Attributes
    ----------
    name : str
        For messages.
    rate : float
        Frames a second, before ``every``.
    count : int
        Frames that the file states or its length suggests; 0: not known.
    problem : str
        Why no more frames came than those that were read; empty at a regular end.

    Raises
    ------
    ValueError
        If there is no such file, or nothing in it that OpenCV can decode.
    """

    def __init__(
        self, source: str | os.PathLike | int, *, every: int = 1, live: bool = False
    ) -> None:
        self.name = str(source)
        if live:  # addresses may hold a password
            self.name = f"camera {_USER.sub('//', self.name)}"
        self.every, self.live, self.problem = every, live, ""
        self._capture = opened(source, live, self.name)
        # Not every build of OpenCV turns videos of phones; here it is done for all.
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        self._turn = _TURNS.get(round(self._number(cv2.CAP_PROP_ORIENTATION_META)))
        self.rate = plausible(self._number(cv2.CAP_PROP_FPS))
        self.count = 0 if live else int(self._number(cv2.CAP_PROP_FRAME_COUNT))
        width = self._number(cv2.CAP_PROP_FRAME_WIDTH)
        pixels = width * self._number(cv2.CAP_PROP_FRAME_HEIGHT)
        if pixels > most_pixels():
            self._capture.release()
            most = f"more than {most_pixels()} pixels"
            raise ValueError(f"{self.name}: has frames of {most}")

    def __iter__(self) -> Iterator[VideoFrame]:
        """Yield the frames, and close the source."""
        number, last, start = 0, -1.0, time.monotonic()
        try:
            while self._grabbed():
                seconds = time.monotonic() - start
                if not self.live:
                    seconds = self._number(cv2.CAP_PROP_POS_MSEC) / 1000
                if seconds <= last:  # some files have no times
                    seconds = last + 1 / self.rate if number else 0.0
                if number % self.every == 0:
                    image = self._retrieved()
                    if image is None:
                        break
                    yield VideoFrame(number, seconds, image)
                number, last = number + 1, seconds
            self.problem = self._problem(number, last)
        finally:
            self._capture.release()

    def _grabbed(self) -> bool:
        try:
            return self._capture.grab()
        except cv2.error:
            return False

    def _retrieved(self) -> np.ndarray | None:
        try:
            decoded, image = self._capture.retrieve()
            if not decoded:
                return None
            if self._turn is not None:
                image = cv2.rotate(image, self._turn)
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        except cv2.error:
            return None

    def _number(self, which: int) -> float:
        """Return a number that the file states, 0 if it is none."""
        value = self._capture.get(which)
        return value if 0 <= value < 1 << 40 else 0.0

    def _problem(self, read: int, last: float) -> str:
        if self.live:
            return f"{self.name}: no more frames after {read}"
        if read == 0:
            codec = _codec_name(int(self._number(cv2.CAP_PROP_FOURCC)))
            return f"{self.name}: holds no frame that OpenCV can decode ({codec})"
        missing = min(self.count - read, self.count - (last * self.rate + 1))
        if missing > max(2, SHORT * self.count):
            return f"{self.name}: broken after {read} of {self.count} frames"
        return ""


class Latest:
    """The newest frames of a live source; older ones are dropped, not delayed.

    A thread reads the source as fast as it comes.

    Parameters
    ----------
    frames : iterable of VideoFrame
    stopped : callable
        Asked every now and then; True ends the iteration.
    patience : float
        Seconds without a frame after which the source is given up.

    Attributes
    ----------
    dropped : int
        Frames so far that were replaced by newer ones.
    problem : str
        Why no more frames came; empty if the source was not at fault.
    """

    def __init__(
        self,
        frames: Any,
        *,
        stopped: Callable[[], bool] = lambda: False,
        patience: float = PATIENCE,
    ) -> None:
        self.dropped, self.problem = 0, ""
        self._frames, self._stopped, self._patience = frames, stopped, patience
        self._newest: VideoFrame | None = None
        self._changed = threading.Condition()
        self._is_over = self._is_left = False
        # A camera that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __iter__(self) -> Iterator[VideoFrame]:
        """Yield the newest frame whenever one is asked for and has come."""
        self._thread.start()
        try:
            while True:
                frame = self._next()
                if frame is None:
                    break
                yield frame
        finally:
            self._is_left = True
            self._thread.join(1.0)

    def _next(self) -> VideoFrame | None:
        end = time.monotonic() + self._patience
        while not self._stopped():
            with self._changed:
                self._changed.wait_for(
                    lambda: self._newest is not None or self._is_over, TICK
                )
                frame, self._newest = self._newest, None
                if frame is not None or self._is_over:
                    return frame
            if time.monotonic() >= end:
                name = getattr(self._frames, "name", "the source")
                self.problem = f"{name}: no frame for {self._patience:g} seconds"
                return None
        return None

    def _read(self) -> None:
        try:
            for frame in self._frames:
                if self._is_left:
                    return
                with self._changed:
                    self.dropped += self._newest is not None
                    self._newest = frame
                    self._changed.notify()
            self.problem = getattr(self._frames, "problem", "")
        except Exception as error:  # told in the other thread
            self.problem = str(error)
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify()


# ---------------------------------------------------------------- opening


def opened(source: Any, live: bool, name: str) -> cv2.VideoCapture:
    """Open a video file, or a camera or stream; as ``Capture`` does."""
    if live:
        return _opened_live(source, name)
    path = Path(source)
    check_name(path)
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder")
    if not path.is_file():
        raise ValueError(f"{path}: is no regular file; allowed: a video")
    with open(path, "rb"):
        pass  # says whether it may be read
    with quiet():
        # An absolute path is never taken for an address or a pattern of names.
        capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise ValueError(
            f"{path}: OpenCV can read no video from it: broken, or of an unknown kind"
        )
    return capture


def _opened_live(source: str | int, name: str) -> cv2.VideoCapture:
    with quiet():
        if isinstance(source, str) and "://" in source:
            limit = int(PATIENCE * 1000)
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit]
            limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
            capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        else:
            kind = cv2.CAP_ANY if isinstance(source, int) else cv2.CAP_V4L2
            capture = cv2.VideoCapture(source, kind)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    if not capture.isOpened():
        raise ValueError(
            f"{name}: cannot be opened; is it connected, and not in use elsewhere?"
        )
    return capture


def check_name(path: Path) -> None:
    """Refuse a name that OpenCV cannot be given."""
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(
            f"{path}: its name is no UTF-8, which OpenCV needs for videos; rename it"
        ) from None


def plausible(rate: float) -> float:
    """Return a rate, or the usual one if it cannot be right."""
    return rate if 0 < rate <= FASTEST else RATE


def _codec_name(code: int) -> str:
    letters = bytes(code >> shift & 255 for shift in (0, 8, 16, 24))
    if letters.isalnum():
        return f"codec {letters.decode()}"
    return "no codec is stated"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep OpenCV and FFmpeg from writing to standard error: errors are one line."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read at the first use
    sys.stderr.flush()
    before, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(null)
