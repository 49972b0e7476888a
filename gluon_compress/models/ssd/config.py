"""What an SSD is beside its network: classes, input size, anchors, decode and NMS."""

from __future__ import annotations

from dataclasses import dataclass

from gluoncv.data import VOCDetection

from gluon_compress.boxes import STDS
from gluon_compress.models.settings import check_classes
from gluon_compress.sizes import size_pair

VOC_CLASSES = tuple(VOCDetection.CLASSES)
FEW_RATIOS, MANY_RATIOS = (1, 2, 0.5), (1, 2, 0.5, 3, 1 / 3)
# For a MobileNet, which is too narrow for the usual extra stages.
NARROW = {"extras": (256, 128, 128)}
# The classic MobileNet-SSD, in the numbers of GluonCV's ssd_300_mobilenet1.0_lite_coco.
LITE = {
    "sizes": (60, 105, 150, 195, 240, 285, 300),
    "ratios": (FEW_RATIOS, *[MANY_RATIOS] * 5),
    "steps": (16, 30, 60, 100, 150, 300),
    "extras": (512, 256, 256, 128),
    "predictor_kernel": (1, 1),
    "lite": True,
}


@dataclass(frozen=True)
class SSDConfig:
    """What an SSD is beside its network: classes, anchors, decode and NMS constants.

    Parameters
    ----------
    classes : tuple of str
        Foreground classes, as ``check_classes`` takes them; the background is
        class 0 of the scores.
    size : tuple of int
        Height and width of the input, pixels; one number stands for a square.
    sizes : tuple of float
        Anchor sizes in pixels, one more than there are maps.
    ratios : tuple of tuple of float
        Anchor aspect ratios (width / height) of each map.
    steps : tuple of float
        Distance in pixels between anchor centres of each map.
    extras : tuple of int
        Channels of the extra stages behind the backbone; its last taps are the other
        maps.
    stds : tuple of float
        What box deltas are multiplied by (Liu et al. 2016: the "variances").
    nms_thresh, nms_topk, post_nms
        As in ``SSD.set_nms``.
    predictor_kernel : tuple of int
        Of the convolutions that predict classes and boxes.
    lite : bool
        Anchors and extra stages as in GluonCV's ``ssd_300_mobilenet1.0_lite_coco``:
        three anchors a cell on the first map, the first of them of half the size, and
        every extra stage halves its map.
    """

    classes: tuple[str, ...] = VOC_CLASSES
    size: tuple[int, int] = (300, 300)
    sizes: tuple[float, ...] = (30, 60, 111, 162, 213, 264, 315)
    ratios: tuple[tuple[float, ...], ...] = (
        FEW_RATIOS,
        *[MANY_RATIOS] * 3,
        *[FEW_RATIOS] * 2,
    )
    steps: tuple[float, ...] = (8, 16, 32, 64, 100, 300)
    extras: tuple[int, ...] = (512, 256, 256)
    stds: tuple[float, ...] = STDS
    nms_thresh: float = 0.45
    nms_topk: int = 400
    post_nms: int = 100
    predictor_kernel: tuple[int, int] = (3, 3)
    lite: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", size_pair(self.size))
        maps = len(self.ratios)
        if len(self.sizes) != maps + 1 or len(self.steps) != maps:
            raise ValueError(
                f"anchors: {maps} lists of ratios need {maps + 1} sizes and {maps} "
                f"steps, not {len(self.sizes)} and {len(self.steps)}"
            )
        if len(self.extras) >= maps:
            raise ValueError(
                f"extras: {len(self.extras)} stages for {maps} maps; allowed: fewer, "
                "so that the backbone gives at least one"
            )
        check_classes(self.classes)

    @property
    def height(self) -> int:
        """Of the input, pixels."""
        return self.size[0]

    @property
    def width(self) -> int:
        """Of the input, pixels."""
        return self.size[1]
