"""What a device sends: the tensor of a head, or an encoded image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Tuple, Union

import numpy as np

from gluon_compress.serving.frames import (
    Hello,
    Kind,
    Mode,
    overhead,
    pack_image,
    pack_tensor,
)

NOTHING = (
    np.zeros(0, int),
    np.zeros(0, np.float32),
    np.zeros((0, 4), np.float32),
)


@dataclass(frozen=True)
class Prepared:
    """A request that can be sent.

    Parameters
    ----------
    kind : Kind
    size : int
        Bytes of its frame.
    pack : callable
        Takes number and milliseconds left, and returns the body.
    scale : tuple of float
        Width and height of the image, as multiples of what is sent.
    """

    kind: Kind
    size: int
    pack: Callable[[int, int], bytes]
    scale: Tuple[float, float] = (1.0, 1.0)

    def in_image(self, detections: tuple) -> tuple:
        """Return detections with boxes in pixels of the image."""
        if self.scale == (1.0, 1.0) or len(detections) < 3:
            return detections
        ids, scores, boxes = detections
        return ids, scores, boxes * np.array(self.scale * 2, np.float32)


class HeadSender:
    """Sends what the head of a split net computes.

    Parameters
    ----------
    head : splitting.halves.Head
    """

    nothing = NOTHING

    def __init__(self, head: Any) -> None:
        self._head = head
        self.least = overhead(Mode.SPLIT)  # bytes of a request

    def hello(self, threshold: float) -> Hello:
        """Return what the device says of itself."""
        pair = bytes.fromhex(self._head.pair)
        return Hello(Mode.SPLIT, int(self._head.bits), pair, threshold)

    def prepare(self, image: Union[np.ndarray, bytes]) -> Prepared | None:
        """Return a request; None if the neural filter found the image empty.

        Raises
        ------
        ValueError
            For an image that the head cannot take.
        """
        message = self._head.encode(as_array(image))
        if message is None:
            return None
        size = overhead(Mode.SPLIT, len(message.tensor)) + len(message.payload)
        return Prepared(Kind.TENSOR, size, partial(pack_tensor, message=message))


class ImageSender:
    """Sends whole images, arrays as JPEG.

    Parameters
    ----------
    quality : int
        Of JPEG, 1 to 100.
    longest : int, optional
        Pixels of the longer side; larger images are shrunk.
    """

    nothing = NOTHING

    def __init__(self, quality: int = 95, longest: int | None = None) -> None:
        if not 1 <= quality <= 100:
            raise ValueError(f"quality is {quality}; allowed: 1 to 100")
        if longest is not None and longest < 1:
            raise ValueError(f"longest is {longest}; allowed: a number from 1")
        self._quality, self._longest = quality, longest
        self.least = overhead(Mode.WHOLE)

    def hello(self, threshold: float) -> Hello:
        """Return what the device says of itself."""
        return Hello(Mode.WHOLE, threshold=threshold)

    def prepare(self, image: Union[np.ndarray, bytes]) -> Prepared:
        """Return a request.

        Raises
        ------
        ValueError
            For an image that cannot be encoded.
        """
        scale = (1.0, 1.0)
        if isinstance(image, bytes) and self._longest is None:
            data = image
        else:
            pixels, scale = self._shrunk(as_array(image))
            data = jpeg(pixels, self._quality)
        size = overhead(Mode.WHOLE) + len(data)
        pack = partial(pack_image, image=data)
        return Prepared(Kind.IMAGE, size, pack, scale)

    def _shrunk(self, image: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
        import cv2

        height, width = image.shape[:2]
        longer = max(height, width)
        if self._longest is None or longer <= self._longest:
            return image, (1.0, 1.0)
        ratio = self._longest / longer
        size = max(1, round(width * ratio)), max(1, round(height * ratio))
        shrunk = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return shrunk, (width / size[0], height / size[1])


def jpeg(image: np.ndarray, quality: int) -> bytes:
    """Return an RGB image ``(H, W, 3)``, uint8, as JPEG.

    Raises
    ------
    ValueError
        For anything else, and for a side of more pixels than JPEG knows.
    """
    import cv2

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        shape = f"{image.dtype} {image.shape}"
        raise ValueError(f"an image of {shape}; allowed: uint8 (H, W, 3)")
    try:
        done, data = cv2.imencode(
            ".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
    except cv2.error:
        done = False
    if not done:
        raise ValueError(f"an image of {image.shape}, which JPEG cannot hold")
    return data.tobytes()


def as_array(image: Union[np.ndarray, bytes]) -> np.ndarray:
    """Return an image as an array ``(H, W, 3)``; encoded ones are decoded."""
    if not isinstance(image, bytes):
        return image
    from gluon_compress.data.images import decode_image

    return decode_image(image, "the image")
