"""Two halves of no net: what is found follows from the pixels by formula."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from gluon_compress.serving.frames import SentTensor

PAIR = "ab" * 32
CLASSES = ("blue", "green", "red")


def image(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.RandomState(seed).randint(1, 255, (height, width, 3), np.uint8)


def expected(pixels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what the halves find in an image, and the whole net too."""
    total = int(pixels[..., 0].astype(int).sum())
    height, width = pixels.shape[:2]
    scores = np.array([0.9, 0.4], np.float32)
    boxes = np.array([[0, 0, width, height], [0, 0, total % 97, 1]], np.float32)
    return np.array([total % 3, 0]), scores, boxes


@dataclass
class FakeHead:
    """Sends the red channel; a black image is empty, a narrow one is refused."""

    pair: str = PAIR
    bits: int = 8

    def encode(self, pixels: np.ndarray) -> SentTensor | None:
        height, width = pixels.shape[:2]
        if min(height, width) < 8:
            raise ValueError(f"an image of {width} x {height} pixels; allowed: from 8")
        if not pixels.any():
            return None
        red = pixels[..., 0]
        return SentTensor(red.tobytes(), 0.0, 1.0, height, width, (1, height, width))


@dataclass
class FakeTail:
    """Adds up what it is sent; takes so many seconds a batch."""

    pair: str = PAIR
    bits: int = 8
    seconds: float = 0.0
    classes: tuple = CLASSES
    batches: list | None = None
    max_payload: int = 1 << 14

    def detect(self, messages: list) -> list:
        time.sleep(self.seconds)
        if self.batches is not None:
            self.batches.append(len(messages))
        return [self._one(message) for message in messages]

    def _one(self, message: SentTensor) -> tuple:
        if message.tensor == (1, 13, 13):
            raise RuntimeError("a fault of the net's own")
        red = np.frombuffer(message.payload, np.uint8)
        if len(red) != np.prod(message.tensor):
            raise ValueError(f"a payload of {len(red)} bytes for {message.tensor}")
        pixels = red.reshape(message.tensor[1:])[..., None]
        return expected(pixels)


class FakeNet:
    """The whole net, as ``Predictor``."""

    classes = CLASSES

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __call__(self, images: list) -> list:
        time.sleep(self.seconds)
        return [expected(pixels) for pixels in images]


def assert_found(answer, pixels: np.ndarray, where: str = "server") -> None:
    assert (answer.where, answer.error) == (where, "")
    for part, wanted in zip(answer.detections, expected(pixels)):
        np.testing.assert_array_equal(part, wanted)
