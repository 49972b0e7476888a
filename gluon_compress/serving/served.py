"""What a server computes: the tail of a split net, or a whole net."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any, Callable, Hashable, Protocol, Sequence, Tuple

from gluon_compress.serving.frames import (
    DIGEST,
    HEADER,
    MOST_AXES,
    Kind,
    Mode,
    SentTensor,
    overhead,
    read_image,
    read_tensor,
)


class Served(Protocol):
    """What a server computes.

    Attributes
    ----------
    mode : Mode
    request : Kind
        Of the frames that it takes.
    pair : bytes
        The sha256 that both halves share; zeros for a whole net.
    bits : int
        Of each number of a tensor; 0 for a whole net.
    classes : tuple of str
        Names by class id.
    largest : int or None
        Bytes that a request can have, if the net states it.
    """

    mode: Mode
    request: Kind
    pair: bytes
    bits: int
    classes: Tuple[str, ...]
    largest: int | None

    def read(self, body: bytes) -> tuple[int, int, Any]:
        """Return number, milliseconds and item of a request; quickly."""

    def kind(self, item: Any) -> Hashable:
        """Return what items must share to be computed together."""

    def detect(self, items: list) -> Sequence:
        """Return the arrays of each item's image, as ``Predictor`` does."""


class ServedTail:
    """The tail of a split net.

    Parameters
    ----------
    tail : splitting.halves.Tail
    message : callable
        Makes what the tail takes of the fields of a ``SentTensor``.
    """

    mode, request = Mode.SPLIT, Kind.TENSOR

    def __init__(self, tail: Any, message: Callable[..., Any] = SentTensor) -> None:
        self._tail, self._message = tail, message
        payload = overhead(Mode.SPLIT, MOST_AXES) - HEADER.size + tail.max_payload
        self.largest: int | None = payload
        self.pair, self.bits = bytes.fromhex(tail.pair), int(tail.bits)
        self.classes = tuple(tail.classes)

    def read(self, body: bytes) -> tuple[int, int, Any]:
        """Return number, milliseconds and message."""
        number, milliseconds, tensor = read_tensor(body)
        if self._message is SentTensor:
            return number, milliseconds, tensor
        content = {field.name: getattr(tensor, field.name) for field in fields(tensor)}
        return number, milliseconds, self._message(**content)

    def kind(self, item: Any) -> Hashable:
        """Return the tensor's shape."""
        return item.tensor

    def detect(self, items: list) -> Sequence:
        """Return what the tail finds."""
        return self._tail.detect(items)


class ServedNet:
    """A whole detector or classifier.

    Parameters
    ----------
    predictor : ImagePredictor
    pixels : int
        That an image can have.
    """

    mode, request = Mode.WHOLE, Kind.IMAGE
    pair, bits = bytes(DIGEST), 0
    largest: int | None = None

    def __init__(self, predictor: Any, pixels: int) -> None:
        self._predictor, self._pixels = predictor, pixels
        self.classes = tuple(predictor.classes)

    def read(self, body: bytes) -> tuple[int, int, Any]:
        """Return number, milliseconds and encoded image."""
        return read_image(body)

    def kind(self, item: Any) -> Hashable:
        """Return nothing: images of any size share a batch."""
        return None

    def detect(self, items: list) -> Sequence:
        """Decode the images and return what the net finds.

        Raises
        ------
        ValueError
            For an image that cannot be decoded or has too many pixels.
        """
        return self._predictor([self._decoded(data) for data in items])

    def _decoded(self, data: bytes) -> Any:
        from gluon_compress.data.images import decode_header, decode_image

        height, width = decode_header(data, "the image").upright[::-1]
        if height * width > self._pixels:
            raise ValueError(
                f"an image of {width} x {height} pixels; allowed: {self._pixels}"
            )
        return decode_image(data, "the image")


def open_served(
    folder: str | os.PathLike,
    *,
    runtime: str = "onnxruntime",
    threads: int | None = None,
    pixels: int = 1 << 24,
) -> Served:
    """Return what a folder holds: a tail, or a whole deployed net.

    Parameters
    ----------
    folder : path
        A tail's, or one that ``deploy`` wrote.
    runtime : str
        One of ``RUNTIMES``.
    threads : int, optional
        Default: the runtime's own choice.
    pixels : int
        That an image for a whole net can have.

    Raises
    ------
    ValueError
        If there is no such folder, it is neither, or the runtime cannot open it.
    """
    from gluon_compress.deployment.manifest import is_deployed
    from gluon_compress.deployment.predictor import Predictor
    from gluon_compress.splitting.halves import Message, open_tail
    from gluon_compress.storage.artifacts import read_manifest

    if is_deployed(read_manifest(folder)):
        return ServedNet(Predictor(folder, runtime, threads=threads), pixels)
    tail = open_tail(folder, runtime=runtime, threads=threads)
    return ServedTail(tail, Message)
