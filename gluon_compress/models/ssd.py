"""SSD-300: a GluonCV ``SSD`` on any trunk, and what it is beside its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Sequence

import mxnet as mx
import numpy as np
from gluoncv.data import VOCDetection
from gluoncv.model_zoo.ssd import SSD
from gluoncv.model_zoo.ssd.anchor import LiteAnchorGenerator, SSDAnchorGenerator
from mxnet.gluon import HybridBlock, SymbolBlock

from gluon_compress.boxes import STDS
from gluon_compress.models.lean import LeanSSD

LEAST, MOST = 32, 4096  # pixels; sizes outside are not looked at
ROOM, SMALL_ROOM = 64, 16  # cells a side that GluonCV's first, and least, anchors have
# What results and logs hold beside the figures of classes, which they hold by name.
TAKEN = ("mAP", "kind", "epoch")
BRANCH = "expand_"  # in front of the names of all that an extra stage holds
VOC_CLASSES = tuple(VOCDetection.CLASSES)
THIN, WIDE = (1, 2, 0.5), (1, 2, 0.5, 3, 1 / 3)
# The six maps on a MobileNet, whose trunk is too thin for the usual extra stages.
NARROW = {"extras": (256, 128, 128)}
# The classic MobileNet-SSD, in the numbers of GluonCV's ssd_300_mobilenet1.0_lite_coco.
LITE = {
    "sizes": (60, 105, 150, 195, 240, 285, 300),
    "ratios": (THIN, *[WIDE] * 5),
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
        Foreground classes, none of them named as one of ``TAKEN``; the background is
        class 0 of the scores.
    size : int
        Height and width of the input, pixels.
    sizes : tuple of float
        Anchor sizes in pixels, one more than there are maps.
    ratios : tuple of tuple of float
        Anchor aspect ratios (width / height) of each map.
    steps : tuple of float
        Distance in pixels between anchor centres of each map.
    extras : tuple of int
        Channels of the extra stages that follow the trunk; it gives the other maps,
        from its last taps.
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
    size: int = 300
    sizes: tuple[float, ...] = (30, 60, 111, 162, 213, 264, 315)
    ratios: tuple[tuple[float, ...], ...] = (THIN, WIDE, WIDE, WIDE, THIN, THIN)
    steps: tuple[float, ...] = (8, 16, 32, 64, 100, 300)
    extras: tuple[int, ...] = (512, 256, 256)
    stds: tuple[float, ...] = STDS
    nms_thresh: float = 0.45
    nms_topk: int = 400
    post_nms: int = 100
    predictor_kernel: tuple[int, int] = (3, 3)
    lite: bool = False

    def __post_init__(self) -> None:
        maps = len(self.ratios)
        if len(self.sizes) != maps + 1 or len(self.steps) != maps:
            raise ValueError(
                f"anchors: {maps} lists of ratios need {maps + 1} sizes and {maps} "
                f"steps, not {len(self.sizes)} and {len(self.steps)}"
            )
        if len(self.extras) >= maps:
            raise ValueError(
                f"extras: {len(self.extras)} stages for {maps} maps; allowed: fewer, "
                "so that the trunk gives one at least"
            )
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be distinct names, not {self.classes!r}")
        taken = [name for name in self.classes if name in TAKEN]
        if taken:
            raise ValueError(
                f"class {taken[0]!r}: results and logs call something else so; "
                f"allowed: any but {', '.join(TAKEN)}"
            )


def build_ssd(trunk: tuple[HybridBlock, list[mx.sym.Symbol]], config: SSDConfig) -> SSD:
    """Return an SSD on a trunk's taps and the extra stages, not initialised.

    Parameters
    ----------
    trunk : tuple
        What ``resnet_trunk`` or ``mobilenet_trunk`` returns.
    config : SSDConfig

    Returns
    -------
    gluoncv.model_zoo.SSD
        In training it returns class scores ``(B, A, C + 1)``, box deltas
        ``(B, A, 4)`` and anchors ``(1, A, 4)``; otherwise ids, scores and
        corner boxes after NMS.

    Raises
    ------
    ValueError
        If the trunk has too few taps, or at this size a map has no cell, or more of
        them than there are anchors for.
    """
    net, taps = trunk
    wanted = len(config.ratios) - len(config.extras)
    if wanted > len(taps):
        raise ValueError(
            f"extras: {len(config.extras)} stages for {len(config.ratios)} maps; the "
            f"trunk has {len(taps)} taps, not {wanted}"
        )
    _check_size(taps[-wanted:], config)
    outputs = _with_extras(taps[-wanted:], config.extras, config.lite)
    features = SymbolBlock(
        outputs, mx.sym.var("data", dtype="float32"), params=net.collect_params()
    )
    return ssd_around(features, config)


def _with_extras(taps: Sequence, widths: Sequence[int], lite: bool) -> list:
    """Append one 1x1 transition and one 3x3 convolution per width to the taps.

    Stages halve the map, the last one takes the 3x3 map to 1x1 without padding, which
    gives SSD-300's classic 38, 19, 10, 5, 3, 1. In the lite form it halves, too: 19,
    10, 5, 3, 2, 1.
    """
    y, outputs = taps[-1], list(taps)
    for i, width in enumerate(widths):
        y = _conv_bn_relu(y, width // 2, f"trans_{{}}{i}", kernel=(1, 1))
        last = i == len(widths) - 1 and not lite
        step = {} if last else {"pad": (1, 1), "stride": (2, 2)}
        y = _conv_bn_relu(y, width, f"{{}}{i}", kernel=(3, 3), **step)
        outputs.append(y)
    return outputs


def _check_size(taps: Sequence, config: SSDConfig) -> None:
    """Refuse a size that the maps cannot have, before MXNet infers their shapes."""

    def vanish(size: int) -> bool:
        return min(_sides(taps, config, size)) < 1

    def overflow(size: int) -> bool:
        rooms = (max(ROOM >> i, SMALL_ROOM) for i in range(len(config.ratios)))
        return any(s > room for s, room in zip(_sides(taps, config, size), rooms))

    size = config.size
    whole = isinstance(size, (int, np.integer)) and LEAST <= size <= MOST
    if not whole or vanish(size) or overflow(size):
        least = _first(lambda size: not vanish(size))
        raise ValueError(
            f"size is {size!r}; allowed: {least} to {_first(overflow) - 1} pixels, for "
            f"{len(config.ratios)} maps, {len(config.extras)} of them by extra stages"
        )


def _sides(taps: Sequence, config: SSDConfig, size: int) -> list[int]:
    """Return how many cells a side each map has; below 1, where it cannot be."""
    _, shapes, _ = mx.sym.Group(list(taps)).infer_shape(data=(1, 3, size, size))
    sides = [shape[2] for shape in shapes]
    for i in range(len(config.extras)):
        last = i == len(config.extras) - 1 and not config.lite
        sides.append(sides[-1] - 2 if last else (sides[-1] + 1) // 2)
    return sides


def _first(holds: Callable[[int], bool]) -> int:
    """Return the first size for which something holds that holds for all above it."""
    low, high = LEAST, MOST
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _conv_bn_relu(x, width: int, name: str, **conv):
    x = mx.sym.Convolution(
        x, num_filter=width, no_bias=True, name=BRANCH + name.format("conv"), **conv
    )
    x = mx.sym.BatchNorm(x, fix_gamma=False, name=BRANCH + name.format("bn"))
    return mx.sym.Activation(x, act_type="relu", name=BRANCH + name.format("relu"))


def ssd_around(features: HybridBlock, config: SSDConfig) -> SSD:
    """Return the SSD that reads its maps from a block, predictors not initialised."""
    kernel = config.predictor_kernel
    net = LeanSSD(
        prefix="ssd_",
        network=None,
        base_size=config.size,
        features=lambda **_: features,
        num_filters=None,
        sizes=list(config.sizes),
        ratios=[list(r) for r in config.ratios],
        steps=list(config.steps),
        classes=list(config.classes),
        stds=config.stds,
        anchor_alloc_size=ROOM,
        predictors_kernel=kernel,
        predictors_pad=tuple(k // 2 for k in kernel),
        anchor_generator=LiteAnchorGenerator if config.lite else SSDAnchorGenerator,
    )
    net.set_nms(config.nms_thresh, config.nms_topk, config.post_nms)
    net.anchor_generators.initialize()  # constants: there is nothing to choose
    return net


def config_of(net: SSD) -> SSDConfig:
    """Read the configuration back from any GluonCV SSD with its usual anchors."""
    generators = list(net.anchor_generators)
    last = generators[-1]._sizes
    conv = net.class_predictors[0].predictor._kwargs
    return SSDConfig(
        classes=tuple(net.classes),
        size=generators[0]._im_size[0],
        sizes=(*(_number(g._sizes[0]) for g in generators), _upper_size(last)),
        ratios=tuple(tuple(g._ratios) for g in generators),
        steps=tuple(_number(2 * _first_centre(g)) for g in generators),
        extras=(),
        stds=tuple(net.bbox_decoder._stds),
        nms_thresh=net.nms_thresh,
        nms_topk=net.nms_topk,
        post_nms=net.post_nms,
        predictor_kernel=tuple(conv["kernel"]),
        lite=isinstance(generators[0], LiteAnchorGenerator),
    )


def _number(value: float) -> float:
    """Drop the float32 noise of values that were stored in an array."""
    return float(np.round(float(value), 4))


def _upper_size(pair: tuple[float, float]) -> float:
    # The generator keeps (s, sqrt(s * next)).
    return _number(pair[1] ** 2 / pair[0])


def _first_centre(generator) -> float:
    return generator.anchors.value.reshape((-1,))[0].asscalar()


def image_size(net: SSD) -> int:
    """Return the height and width in pixels that the anchors were made for."""
    return net.anchor_generators[0]._im_size[0]


def anchors_of(net: SSD) -> mx.nd.NDArray:
    """Return the anchors as center boxes in pixels, ``(1, A, 4)``."""
    size = image_size(net)
    maps = mx.sym.Group(list(net.features(mx.sym.var("data"))))
    _, shapes, _ = maps.infer_shape(data=(1, 3, size, size))
    parts = [
        generator.anchors.value[:, :, :height, :width].reshape((1, -1, 4))
        for generator, (_, _, height, width) in zip(net.anchor_generators, shapes)
    ]
    return mx.nd.concat(*parts, dim=1)
