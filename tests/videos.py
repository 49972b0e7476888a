"""Tiny videos: each frame is of one grey, brighter than the one before."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from gluon_compress.data.video_writer import new_video

STEP = 6  # of grey, from frame to frame
TURNED = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # by 90 degrees, in 16.16


def grey(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Return the frame of a number, RGB, ``(height, width, 3)``."""
    return np.full((height, width, 3), STEP * number, np.uint8)


def write_video(path: Path, frames: int = 20, rate: float = 10.0) -> Path:
    """Write so many frames as a video, and return its path."""
    with new_video(path, rate) as writer:
        for number in range(frames):
            writer.write(grey(number), number / rate)
    return path


def turn(path: Path) -> None:
    """State in an MP4 file that its frames are to be turned, as phones do."""
    content = bytearray(path.read_bytes())
    # ISO/IEC 14496-12, 8.3.2: version 0 has 40 bytes before the matrix.
    matrix = content.index(b"tkhd") + 4 + 40
    content[matrix : matrix + 36] = struct.pack(">9i", *TURNED)
    path.write_bytes(content)


def with_codec(path: Path, old: bytes, new: bytes) -> None:
    """Name another codec wherever a file states one."""
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
