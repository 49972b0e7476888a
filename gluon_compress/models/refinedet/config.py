"""What a RefineDetLite is beside its network: classes, anchors, decode and NMS."""

from __future__ import annotations

from dataclasses import dataclass

from gluon_compress.boxes import STDS
from gluon_compress.models.settings import check_classes
from gluon_compress.sizes import size_pair, written_size

RATIOS = (1.0, 2.0, 0.5)
UNIT = 32  # pixels: both sides of the input are multiples of the last tap's stride
MAX_SIDE = 4096


@dataclass(frozen=True)
class RefineDetConfig:
    """What a RefineDetLite is beside its network.

    Parameters
    ----------
    classes : tuple of str
        Foreground classes; the background is class 0 of the scores.
    size : tuple of int
        Height and width of the input, pixels, multiples of 32; one number stands for a
        square.
    sizes : tuple of float
        Side of the square anchors of each map, pixels.
    ratios : tuple of tuple of float
        Width over height of the anchors of each map.
    extras : tuple of int
        Channels of the extra stages behind the backbone; its last taps are the other
        maps.
    channels : int
        Of the transfer connections and heads.
    stds : tuple of float
        What box deltas of both steps are multiplied by.
    least_objectness : float
        Anchors whose probability to hold an object is up to this are no longer looked
        at: "negative anchor filtering".
    nms_thresh, nms_topk, post_nms
        As in GluonCV's ``SSD.set_nms``.
    """

    classes: tuple[str, ...]
    size: tuple[int, int] = (320, 320)
    sizes: tuple[float, ...] = (32, 64, 128, 256)
    ratios: tuple[tuple[float, ...], ...] = (RATIOS,) * 4
    extras: tuple[int, ...] = (512, 512)
    channels: int = 256
    stds: tuple[float, ...] = STDS
    least_objectness: float = 0.01
    nms_thresh: float = 0.45
    nms_topk: int = 400
    post_nms: int = 100

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", size_pair(self.size))
        sides = [isinstance(s, int) and UNIT <= s <= MAX_SIDE for s in self.size]
        if not all(sides) or any(side % UNIT for side in self.size):
            raise ValueError(
                f"size is {written_size(self.size)!r}; allowed: multiples of {UNIT} "
                f"pixels up to {MAX_SIDE}, the stride of the trunk's last map"
            )
        maps = len(self.ratios)
        if len(self.sizes) != maps:
            raise ValueError(
                f"sizes: {len(self.sizes)} numbers for {maps} lists of ratios; "
                "allowed: one of each for each map"
            )
        if len(self.extras) >= maps:
            raise ValueError(
                f"extras: {len(self.extras)} stages for {maps} maps; allowed: fewer, "
                "so that the backbone gives at least one"
            )
        if self.channels < 2:
            raise ValueError(f"channels is {self.channels}; allowed: from 2")
        check_classes(self.classes)

    @property
    def depths(self) -> tuple[int, ...]:
        """Anchors of a cell of each map."""
        return tuple(map(len, self.ratios))
