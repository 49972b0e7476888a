"""ShuffleNetV2 (Ma et al. 2018) up to stride 32, as CoDeNet has it."""

from __future__ import annotations

from typing import Any

import mxnet as mx

from gluon_compress.models.centernet.layers import convolution

STEM = 24
REPEATS = (4, 8, 4)  # units of each stage, at strides 8, 16 and 32
# Channels of the stages, and of the 1x1 convolution behind them.
WIDTHS = {1: ((116, 232, 464), 1024), 2: ((244, 488, 976), 2153)}
PREFIX = "trunk_"


def shufflenet_v2(data: mx.sym.Symbol, width: int, *, pool: bool) -> mx.sym.Symbol:
    """Return the map at stride 32.

    Channels are not moved to be shuffled. The two halves that a unit of the published
    net would find after shuffling are put together from halves of what the unit before
    gave: the same net but for the order of channels, in slices and concatenations that
    every runtime has.

    Parameters
    ----------
    data : Symbol
        Images.
    width : int
        1 or 2: a row of ``WIDTHS``.
    pool : bool
        Whether the stem has stride 2 and a pooling behind it, as published for
        ShuffleNetV2; otherwise one convolution of stride 4.
    """
    widths, last = WIDTHS[width]
    name = f"{PREFIX}stem"
    x = convolution(data, STEM, name, kernel=3, stride=2 if pool else 4)
    if pool:
        x = mx.sym.Pooling(
            x,
            kernel=(3, 3),
            stride=(2, 2),
            pad=(1, 1),
            pool_type="max",
            name=f"{PREFIX}pool",
        )
    channels = STEM
    for stage, (repeats, wide) in enumerate(zip(REPEATS, widths), 2):
        for unit in range(repeats):
            name, half = f"{PREFIX}stage{stage}_unit{unit}", wide // 2
            if unit == 0:
                left, right = _downsampling(x, channels, half, name)
            else:
                left, right = left, _branch(right, half, name)
            if unit < repeats - 1:  # what follows the last one reads all channels
                left, right = _exchanged(left, right, half, name)
        x, channels = mx.sym.concat(left, right, dim=1, name=f"{name}_out"), wide
    return convolution(x, last, f"{PREFIX}last")


def _downsampling(x: mx.sym.Symbol, channels: int, half: int, name: str) -> tuple:
    """Return both branches of a unit that halves the map."""
    left = convolution(
        x,
        channels,
        f"{name}_left_depth",
        kernel=3,
        stride=2,
        depthwise=True,
        relu=False,
    )
    left = convolution(left, half, f"{name}_left_point")
    return left, _branch(x, half, name, stride=2)


def _branch(x: mx.sym.Symbol, half: int, name: str, *, stride: int = 1) -> Any:
    """Return the branch with weights of a unit."""
    x = convolution(x, half, f"{name}_first")
    depth = f"{name}_depth"
    x = convolution(x, half, depth, kernel=3, stride=stride, depthwise=True, relu=False)
    return convolution(x, half, f"{name}_second")


def _exchanged(left: Any, right: Any, half: int, name: str) -> tuple:
    """Return maps of which each has half of either branch."""
    cut = half // 2

    def joined(begin: int, end: int, side: str) -> Any:
        parts = [
            mx.sym.slice_axis(
                part, axis=1, begin=begin, end=end, name=f"{name}_{side}{i}"
            )
            for i, part in enumerate((left, right))
        ]
        return mx.sym.concat(*parts, dim=1, name=f"{name}_{side}")

    return joined(0, cut, "low"), joined(cut, half, "high")
