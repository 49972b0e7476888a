"""Turns an image of any size into a net's input, and maps boxes back to the image.

A model's manifest states its ``Preprocess``, so that Gluon, every edge runtime and
evaluation feed a net the same pixels.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Iterable, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from PIL.Image import Image, fromarray
from typing_extensions import Literal

from gluon_compress.data.images import most_pixels, read_image, to_8_bits
from gluon_compress.data.normalization import MEAN, STD, normalize
from gluon_compress.validation import Count, Positive, Settings, Share, ShareOrZero

PLAIN_MODES = ("F", "L", "RGB", "RGBA", "RGBX")  # of PIL, as arrays have them
CROP = 0.875  # share of the shorter side in a classifier's input: 224 of 256 pixels

Method = Literal["area", "cubic", "linear", "nearest"]


@dataclass(frozen=True)
class Placement:
    """Where an image lies in a net's input; maps boxes between the two.

    Parameters
    ----------
    height, width : int
        Size of the image, pixels.
    rows, columns : int
        Height and width that it was resized to.
    top, left : int
        Rows and columns cut off the resized image.
    """

    height: int
    width: int
    rows: int
    columns: int
    top: int = 0
    left: int = 0

    def to_image(self, corner_boxes: np.ndarray) -> np.ndarray:
        """Return boxes ``(N, 4)`` of the input in pixels of the image."""
        scale = np.array(
            [self.width / self.columns, self.height / self.rows] * 2, np.float32
        )
        return (corner_boxes + self._corner()) * scale

    def to_input(self, corner_boxes: np.ndarray) -> np.ndarray:
        """Return boxes ``(N, 4)`` of the image in pixels of the input, float64."""
        scale = np.array([self.columns / self.width, self.rows / self.height] * 2)
        return corner_boxes * scale - self._corner()

    def _corner(self) -> np.ndarray:
        return np.array([self.left, self.top] * 2, np.float32)


class Interpolation(Settings):
    """Interpolation methods by OpenCV's names; the defaults are GluonCV's for SSD.

    Parameters
    ----------
    larger : str
        For images larger than the result in both directions: ``area``, ``cubic``,
        ``linear`` or ``nearest``.
    smaller : str
        For images smaller than the result in both directions.
    otherwise : str
        For all other images.
    """

    larger: Method = "area"
    smaller: Method = "cubic"
    otherwise: Method = "linear"

    def resize(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """Return an image resized."""
        rows, columns = image.shape[:2]
        method = self.otherwise
        if columns > width and rows > height:
            method = self.larger
        elif columns < width and rows < height:
            method = self.smaller
        flag = getattr(cv2, f"INTER_{method.upper()}")
        return cv2.resize(image, (int(width), int(height)), interpolation=flag)


CROPPED = Interpolation(smaller="linear")  # how classifiers' images are resized


class Preprocess(Settings):
    """How an image becomes a net's input.

    Parameters
    ----------
    height : int
        Height of the input, pixels.
    width : int
        Width of the input, pixels.
    keep_ratio : bool
        Whether the image keeps its aspect ratio. If so, and without ``crop``, it is
        scaled to fit and lies in the top left corner; the rest of the input is zero.
    short : int, optional
        For images that keep their aspect ratio, without ``crop``: pixels that the
        shorter side is scaled to, if the image then fits. None: as large as fits.
    unit : int, optional
        For images that keep their aspect ratio, without ``crop``: ``height`` and
        ``width`` are the most that an input may have. It ends behind the image, at the
        next multiple of so many pixels. None: every input has ``height`` and ``width``.
    crop : float, optional
        For images that keep their aspect ratio: the image is scaled to cover the
        input's sides divided by ``crop`` (rounded up), and its centre is taken.
    mean : tuple of float
        One value each for red, green and blue, for colours in 0..1.
    std : tuple of float
        One value each for red, green and blue, for colours in 0..1.
    interpolation : Interpolation
        How the 8-bit image is resized.
    """

    height: Count
    width: Count
    keep_ratio: bool = False
    short: Optional[Count] = None
    unit: Optional[Count] = None
    crop: Optional[Share] = None
    mean: Tuple[ShareOrZero, ShareOrZero, ShareOrZero] = MEAN
    std: Tuple[Positive, Positive, Positive] = STD
    interpolation: Interpolation = Interpolation()

    def check(self) -> None:
        """Refuse what is only for images that keep their aspect ratio."""
        if self.crop is not None and not self.keep_ratio:
            raise self.error("crop", "null, unless keep_ratio is true")
        for name in ("short", "unit"):
            if getattr(self, name) is not None and (
                not self.keep_ratio or self.crop is not None
            ):
                allowed = "null, unless keep_ratio is true and crop is null"
                raise self.error(name, allowed)
        if self.unit is not None and (
            self.height % self.unit or self.width % self.unit
        ):
            raise self.error("unit", "a divisor of height and width, or null")

    @classmethod
    def centre_crop(cls, height: int, width: int, **settings: Any) -> Preprocess:
        """Return a classifier's preprocess: scale the short side, crop the centre."""
        settings.setdefault("interpolation", CROPPED)
        return cls(height=height, width=width, keep_ratio=True, crop=CROP, **settings)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of an input, ``(1, 3, height, width)``."""
        return 1, 3, self.height, self.width

    @property
    def fixed(self) -> Preprocess:
        """The same, but every input has ``height`` and ``width``."""
        return self if self.unit is None else self.replace(unit=None)

    def takes(self, shape: Sequence[int]) -> bool:
        """Return whether inputs of a shape ``(B, 3, H, W)`` are such as this makes."""
        if len(shape) != 4 or shape[1] != 3:
            return False
        if self.unit is None:
            return tuple(shape[2:]) == (self.height, self.width)
        limits = zip(shape[2:], (self.height, self.width))
        return all(0 < n <= most and n % self.unit == 0 for n, most in limits)

    @property
    def fill(self) -> tuple[int, ...]:
        """The 8-bit colour that becomes zero: that of what is no image in a view."""
        return tuple(round(255 * value) for value in self.mean)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, Placement]:
        """Return a net's input, and where the image lies in it.

        Parameters
        ----------
        image : ndarray
            As ``as_rgb`` takes it.

        Returns
        -------
        tuple
            Input ``(1, 3, height, width)``, float32, and ``Placement``.

        Raises
        ------
        ValueError
            For anything that ``as_rgb`` refuses.
        """
        view, placement = self.view(image)
        return self.inputs([view]), placement

    def view(self, image: np.ndarray) -> tuple[np.ndarray, Placement]:
        """Return the resized and cropped 8-bit RGB image, not normalized.

        Its shape is ``(height, width, 3)``, or smaller if the image keeps its aspect
        ratio and does not fill the input.

        Raises
        ------
        ValueError
            For anything that ``as_rgb`` refuses, and an image so narrow that it would
            get more than ``images.most_pixels``.
        """
        image = as_rgb(image)
        place = self.placement(*image.shape[:2])
        view = self.interpolation.resize(image, place.rows, place.columns)
        if self.keep_ratio and self.crop is not None:
            rows = slice(place.top, place.top + self.height)
            columns = slice(place.left, place.left + self.width)
            view = np.ascontiguousarray(view[rows, columns])
        return view, place

    def placement(self, height: int, width: int) -> Placement:
        """Return where an image of a size lies in the input.

        Raises
        ------
        ValueError
            For an image so narrow that it would get more than ``images.most_pixels``.
        """
        rows, columns = self._resized_size(height, width)
        if rows * columns > most_pixels():
            raise ValueError(
                f"an image of {width} x {height} pixels, too narrow: it would be "
                f"resized to {columns} x {rows}; allowed: {most_pixels()} pixels"
            )
        top = left = 0
        if self.keep_ratio and self.crop is not None:
            top, left = (rows - self.height) // 2, (columns - self.width) // 2
        return Placement(height, width, rows, columns, top, left)

    def sample(
        self, image: np.ndarray, label: Any, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, Any]:
        """Return what ``view`` gives of an image to measure on, and its label there.

        Parameters
        ----------
        image : ndarray
            ``(H, W, 3)``, uint8, RGB.
        label : ndarray or int
            ``(M, 4+)``: corner boxes in pixels, then any columns; or a class id, which
            is returned as it is.
        rng : ignored
            Nothing is random here.

        Returns
        -------
        tuple
            Image, uint8, and label; boxes are float32, in pixels of the input.
        """
        view, placement = self.view(image)
        if np.ndim(label) == 0:
            return view, label
        boxes = label.astype(np.float64)
        boxes[:, :4] = placement.to_input(boxes[:, :4])
        return view, boxes.astype(np.float32)

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of what a part of an image is resized to, height first.

        It is the input's, or as much of it as the part fills, if its aspect ratio is
        kept.
        """
        if not self.keep_ratio or self.crop is not None:
            return self.height, self.width
        return self._resized_size(height, width)

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image is resized to."""
        if not self.keep_ratio:
            return self.height, self.width
        if self.crop is None:
            factor = min(self.height / height, self.width / width)
            if self.short is not None:
                factor = min(factor, self.short / min(height, width))
            return max(round(height * factor), 1), max(round(width * factor), 1)
        sides = math.ceil(self.height / self.crop), math.ceil(self.width / self.crop)
        factor = max(sides[0] / height, sides[1] / width)
        return round(height * factor), round(width * factor)

    def read(
        self, files: Iterable[str | os.PathLike], most: int | None = None
    ) -> tuple[np.ndarray, list[str]]:
        """Return inputs ``(N, 3, height, width)`` of image files, and what was skipped.

        Parameters
        ----------
        files : iterable of path
        most : int, optional
            Stop after this many images.

        Returns
        -------
        tuple
            Inputs, and one line for each file that cannot be read, with the reason.

        Raises
        ------
        ValueError
            If none can be read.
        """
        inputs: list[np.ndarray] = []
        skipped: list[str] = []
        for file in files:
            if len(inputs) == most:
                break
            try:
                inputs.append(self(read_image(file))[0])
            except ValueError as error:
                skipped.append(str(error))
        if not inputs:
            reason = skipped[0] if skipped else "there is none"
            raise ValueError(f"no image can be read: {reason}")
        return np.concatenate(inputs), skipped

    def inputs(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Return inputs ``(B, 3, height, width)`` of views; what none fills is zero.

        With ``unit``, all end behind the largest.

        Parameters
        ----------
        views : sequence of ndarray
            8-bit images, as ``view`` returns them.
        """
        sides = self.height, self.width
        if self.unit is not None and len(views):
            rows, columns = np.max([view.shape[:2] for view in views], axis=0).tolist()
            unit = self.unit
            sides = -(-rows // unit) * unit, -(-columns // unit) * unit
        if all(view.shape[:2] == sides for view in views):
            return self.normalized(views)
        batch = np.zeros((len(views), 3, *sides), np.float32)
        for planes, view in zip(batch, views):
            planes[:, : view.shape[0], : view.shape[1]] = self.normalized([view])[0]
        return batch

    def normalized(self, views: Union[np.ndarray, Sequence[np.ndarray]]) -> np.ndarray:
        """Return inputs ``(B, 3, H, W)`` of 8-bit images ``(B, H, W, 3)``."""
        return normalize(views, self.mean, self.std)


def as_rgb(image: Any) -> np.ndarray:
    """Return an image as 8-bit RGB, ``(H, W, 3)``.

    Parameters
    ----------
    image : ndarray or PIL.Image.Image
        uint8 or uint16: ``(H, W)``, or with 1, 3 or 4 channels. The fourth is alpha; it
        is dropped. PIL's can have any mode but ``F``; its pixels are taken as they are,
        not turned as EXIF data says.

    Raises
    ------
    ValueError
        For anything else, or an empty image.
    """
    allowed = "uint8 or uint16, (H, W) or (H, W, 1, 3 or 4)"
    if not hasattr(image, "__array_interface__"):
        # NumPy would read an MXNet array value by value, for minutes.
        raise ValueError(
            f"an image is a {type(image).__name__}; allowed: NumPy arrays, {allowed}"
        )
    image = np.asarray(_of_plain_mode(image) if isinstance(image, Image) else image)
    depth = 1 if image.ndim == 2 else image.shape[-1] if image.ndim == 3 else 0
    if image.dtype not in (np.uint8, np.uint16) or depth not in (1, 3, 4):
        raise ValueError(
            f"an image of shape {image.shape} and {image.dtype}; allowed: {allowed}"
        )
    if image.size == 0:
        raise ValueError(f"an image of shape {image.shape} has no pixel")
    if image.dtype == np.uint16:
        image = to_8_bits(image, f"an image of shape {image.shape}")
    image = image.reshape(*image.shape[:2], depth)
    return np.repeat(image, 3, axis=2) if depth == 1 else image[:, :, :3]


def _of_plain_mode(image: Image) -> Image:
    """Return an image of PIL whose samples are grey or RGB: not those of a palette."""
    if image.mode in PLAIN_MODES:
        return image
    if image.mode.startswith("I"):  # of 16 bits, as PIL reads PNGs
        samples = np.asarray(image)
        if samples.min(initial=0) >= 0 and samples.max(initial=0) < 1 << 16:
            return fromarray(samples.astype(np.uint16))
        return image
    return image.convert("RGB")
