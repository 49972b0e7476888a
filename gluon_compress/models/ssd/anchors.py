"""The anchors of an SSD: where they lie and which cells of which map they belong to."""

from __future__ import annotations

from typing import Sequence

import mxnet as mx
from gluoncv.model_zoo.ssd import SSD

from gluon_compress.models.anchor_fit import AnchorLayout
from gluon_compress.models.anchor_grid import AnchorGrid
from gluon_compress.models.ssd.build import config_of
from gluon_compress.models.ssd.raw_head import map_shapes, tap_numbers


def anchors_of(net: SSD) -> mx.nd.NDArray:
    """Return the anchors as center boxes in pixels, ``(1, A, 4)``."""
    parts = [
        generator.anchors.value[:, :, :height, :width].reshape((1, -1, 4))
        for generator, (_, _, height, width) in zip(
            net.anchor_generators, map_shapes(net)
        )
    ]
    return mx.nd.concat(*parts, dim=1)


def layout_of(net: SSD) -> AnchorLayout:
    """Return the shapes of a detector's anchors and the grids of their centres."""
    config = config_of(net)
    return AnchorLayout(
        config.sizes,
        config.ratios,
        config.steps,
        tuple((height, width) for _, _, height, width in map_shapes(net)),
        config.lite,
    )


def anchor_grid(
    net: SSD, taps: Sequence[str] | None = None, *, stride: int = 1
) -> AnchorGrid:
    """Return the anchors of a detector, with the cells of its maps they belong to."""
    maps = tuple(
        (height, width, generator.num_depth)
        for generator, (_, _, height, width) in zip(
            net.anchor_generators, map_shapes(net)
        )
    )
    numbers = None if taps is None else tap_numbers(net, taps)
    center_boxes, stds = anchors_of(net).asnumpy()[0], config_of(net).stds
    return AnchorGrid(center_boxes, maps, stds, numbers, stride)
