"""What a two-stage detector is beside its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from gluon_compress.boxes import STDS
from gluon_compress.models.settings import check_classes
from gluon_compress.postprocess.rcnn import LEVELS, RATIOS, SIZES, UNIT
from gluon_compress.sizes import size_pair, written_size

LARGEST = 4096  # pixels a side; larger inputs are not tried


@dataclass(frozen=True)
class RCNNConfig:
    """Classes, input size, anchors, proposals, decoding and NMS, and sampling.

    Parameters
    ----------
    classes : tuple of str
        Foreground classes; the background is class 0 of the scores.
    size : tuple of int
        Largest height and width of an input, pixels, multiples of 32; one number stands
        for a square. Exports have inputs of this size.
    short : int or None
        Pixels that the shorter side of an image is scaled to, if the image then fits
        into ``size``; None: as large as fits.
    sizes : tuple of float
        Side of the square anchor of each map, pixels, at strides 4, 8, 16, 32 and 64.
    ratios : tuple of float
        Height over width of the anchors of a cell.
    stds : tuple of float
        What box deltas of the second stage are multiplied by.
    clip : float
        The largest logarithm of a growth that box deltas may ask for.
    rpn_pre_nms, rpn_post_nms : int
        Boxes of an image, the best, that enter and that leave the first stage's NMS.
    rpn_nms_thresh : float
        Overlap from which a proposal is suppressed by a better one.
    nms_thresh, nms_topk, post_nms
        As in GluonCV's ``FasterRCNN.set_nms``, but ``nms_topk`` counts all classes.
    least_score : float
        Boxes up to this score are dropped.
    rpn_samples, roi_samples : int
        Anchors and proposals of an image that the losses look at.
    """

    classes: tuple[str, ...]
    size: tuple[int, int] = (320, 320)
    short: Optional[int] = None
    sizes: tuple[float, ...] = SIZES
    ratios: tuple[float, ...] = RATIOS
    stds: tuple[float, ...] = STDS
    clip: float = 4.14
    rpn_pre_nms: int = 1000
    rpn_post_nms: int = 200
    rpn_nms_thresh: float = 0.7
    nms_thresh: float = 0.5
    nms_topk: int = 400
    post_nms: int = 100
    least_score: float = 0.01
    rpn_samples: int = 256
    roi_samples: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "size", size_pair(self.size))
        for name in ("sizes", "ratios", "stds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_classes(self.classes)
        for side in self.size:
            if not isinstance(side, int) or side % UNIT or not UNIT <= side <= LARGEST:
                raise ValueError(
                    f"size is {written_size(self.size)!r}; allowed: multiples of "
                    f"{UNIT} pixels, from {UNIT} to {LARGEST}"
                )
        if self.short is not None and not 1 <= self.short <= max(self.size):
            raise ValueError(
                f"short is {self.short!r}; allowed: from 1 to {max(self.size)}, the "
                "longer side of the input, or None"
            )
        if len(self.sizes) != LEVELS or min(self.sizes) <= 0:
            raise ValueError(
                f"sizes are {self.sizes}; allowed: {LEVELS} numbers above 0"
            )
        if not self.ratios or min(self.ratios) <= 0:
            raise ValueError(f"ratios are {self.ratios}; allowed: numbers above 0")
        for name in COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; allowed: a whole number from 1")


COUNTS = (
    *("rpn_pre_nms", "rpn_post_nms", "nms_topk", "post_nms"),
    *("rpn_samples", "roi_samples"),
)
