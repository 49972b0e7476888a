"""From a backbone and a configuration to an SSD, and the configuration back again."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

import mxnet as mx
import numpy as np
from gluoncv.model_zoo.ssd import SSD
from gluoncv.model_zoo.ssd.anchor import LiteAnchorGenerator, SSDAnchorGenerator
from mxnet.gluon import HybridBlock, SymbolBlock

from gluon_compress.graph.symbols import infer_shapes, shapes_of
from gluon_compress.models.extra_stages import with_extras
from gluon_compress.models.ssd.config import SSDConfig
from gluon_compress.models.ssd.fast_nms import FastSSD
from gluon_compress.sizes import written_size

MIN_SIDE, MAX_SIDE = 32, 4096  # pixels; other sizes are not tried
# Cells a side that GluonCV's anchors of the first map have, and of any map at least.
ROOM, SMALL_ROOM = 64, 16


def build_ssd(
    backbone: tuple[HybridBlock, list[mx.sym.Symbol]], config: SSDConfig
) -> SSD:
    """Return an SSD on a backbone's taps and the extra stages, not initialised.

    Parameters
    ----------
    backbone : tuple
        The classifier and its taps, as one of ``BACKBONES`` returns them.
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
        If the backbone has too few taps, or at this size a map has no cell, or more
        cells than there are anchors for.
    """
    net, taps = backbone
    wanted = len(config.ratios) - len(config.extras)
    if wanted > len(taps):
        raise ValueError(
            f"extras: {len(config.extras)} stages for {len(config.ratios)} maps; the "
            f"backbone has {len(taps)} taps, not {wanted}"
        )
    parameters = {p.name: p for p in net.collect_params().values()}
    _check_size(taps[-wanted:], config, shapes_of(parameters))
    outputs = with_extras(taps[-wanted:], config.extras, to_one_cell=not config.lite)
    features = SymbolBlock(
        outputs, mx.sym.var("data", dtype="float32"), params=net.collect_params()
    )
    return ssd_around(features, config)


def _check_size(taps: Sequence, config: SSDConfig, shapes: Mapping) -> None:
    """Refuse a size that the maps cannot have, before MXNet infers their shapes."""
    maps = mx.sym.Group(list(taps))

    def sides_of(side: int) -> list[int]:
        return _map_sides(maps, config, {**shapes, "data": (1, 3, side, side)})

    def vanish(side: int) -> bool:
        return min(sides_of(side)) < 1

    def overflow(side: int) -> bool:
        rooms = (max(ROOM >> i, SMALL_ROOM) for i in range(len(config.ratios)))
        return any(s > room for s, room in zip(sides_of(side), rooms))

    def fits(side: int) -> bool:
        in_range = isinstance(side, (int, np.integer)) and MIN_SIDE <= side <= MAX_SIDE
        return in_range and not vanish(side) and not overflow(side)

    if not all(map(fits, config.size)):
        least = _first(lambda side: not vanish(side))
        raise ValueError(
            f"size is {written_size(config.size)!r}; allowed: {least} to "
            f"{_first(overflow) - 1} pixels, for {len(config.ratios)} maps, "
            f"{len(config.extras)} of them by extra stages"
        )


def _map_sides(maps: mx.sym.Symbol, config: SSDConfig, shapes: Mapping) -> list[int]:
    """Return how many cells a side each map has; below 1, where it cannot be."""
    try:
        sides = [shape[2] for shape in infer_shapes(maps, shapes)[1]]
    except ValueError:
        return [0]
    for i in range(len(config.extras)):
        last = i == len(config.extras) - 1 and not config.lite
        sides.append(sides[-1] - 2 if last else (sides[-1] + 1) // 2)
    return sides


def _first(holds: Callable[[int], bool]) -> int:
    """Return the smallest side for which something holds; all above it hold too."""
    low, high = MIN_SIDE, MAX_SIDE
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


class _OneCell:
    """GluonCV's anchors of one cell, copied to all: its own loop over cells is slow."""

    def _generate_anchors(self, sizes, ratios, step, alloc_size, offsets):
        of_cell: Any = super()
        shapes = of_cell._generate_anchors(sizes, ratios, step, (1, 1), (0, 0))
        anchors = np.tile(shapes.reshape(-1, 4), (*alloc_size, 1, 1))
        rows, columns = ((np.arange(n) + o) * step for n, o in zip(alloc_size, offsets))
        anchors[..., 0] = columns[:, np.newaxis]
        anchors[..., 1] = rows[:, np.newaxis, np.newaxis]
        return anchors.reshape(1, 1, *alloc_size, -1)


class _Anchors(_OneCell, SSDAnchorGenerator):
    pass


class _LiteAnchors(_OneCell, LiteAnchorGenerator):
    pass


def ssd_around(features: HybridBlock, config: SSDConfig) -> SSD:
    """Return the SSD that reads its maps from a block, predictors not initialised."""
    kernel = config.predictor_kernel
    net = FastSSD(
        prefix="ssd_",
        network=None,
        base_size=config.height,
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
        anchor_generator=_LiteAnchors if config.lite else _Anchors,
    )
    net.set_nms(config.nms_thresh, config.nms_topk, config.post_nms)
    net.anchor_generators.initialize()  # constants: there is nothing to choose
    for generator in net.anchor_generators:
        generator._im_size = config.size  # GluonCV takes one number for both
    return net


def config_of(net: SSD) -> SSDConfig:
    """Read the configuration back from any GluonCV SSD with its usual anchors."""
    generators = list(net.anchor_generators)
    last = generators[-1]._sizes
    conv = net.class_predictors[0].predictor._kwargs
    return SSDConfig(
        classes=tuple(net.classes),
        size=tuple(generators[0]._im_size),
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
