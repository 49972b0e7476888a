"""The symbol of a two-stage detector, and the parts that it runs in.

The first stage is a trunk, a feature pyramid (Lin et al. 2017, "Feature Pyramid
Networks") and a region proposal network (Ren et al. 2015, "Faster R-CNN") that all maps
share. The second stage reads the maps in regions and predicts classes and boxes, and in
a Mask R-CNN (He et al. 2017) masks. Which regions, is decided between the stages, by
NMS, which is no part of any graph.

One symbol holds both stages, so that one trace, one plan and one file are enough. It
has one input, the image: the regions are a constant of it, ``REGIONS``, a grid that
costs what the proposals of an image do. ``stages`` cuts the symbol there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph.symbols import CONSTANT, put_together, take_apart
from gluon_compress.models.initialize import with_missing_initialized
from gluon_compress.models.rcnn.config import RCNNConfig
from gluon_compress.postprocess.rcnn import (
    BOXES,
    CLASSES,
    FEATURES,
    HEADS,
    MAPS,
    MASK,
    MASKS,
    POOLED,
    REGIONS,
    RPN_DELTAS,
    RPN_SCORES,
    regions_of,
)

OUTPUTS = (RPN_SCORES, RPN_DELTAS, CLASSES, BOXES)
MASK_OUTPUTS = (*OUTPUTS, MASKS)
PREFIX = "rcnn_"
MAP = f"{PREFIX}map"  # nodes: the maps that both stages read, from 0 at stride 4
LAST = f"{PREFIX}features"  # node: the last features of a region, (R, D)
LAST_MASK = f"{PREFIX}mask_relu"  # node: the last maps of a region for masks
SAMPLES = 2  # points a side in each cell of a region
MASK_LAYERS, MASK_WIDTH = 4, 256
THREE = {"kernel": (3, 3), "pad": (1, 1)}
# How weights start, by the beginnings of their names, as in GluonCV.
_PYRAMID = mx.init.Xavier(rnd_type="uniform", factor_type="in", magnitude=1)
STARTS = {
    f"{PREFIX}lateral": _PYRAMID,
    MAP: _PYRAMID,
    f"{PREFIX}rpn": mx.init.Normal(0.01),
    f"{PREFIX}{BOXES}": mx.init.Normal(0.001),
}
REGION = len(POOLED) + 5  # numbers of a region


def two_stage(
    taps: Sequence[mx.sym.Symbol],
    config: RCNNConfig,
    *,
    fpn_channels: int,
    rpn_channels: int,
    head_channels: int,
    roi_size: int,
    masks: bool = False,
) -> mx.sym.Symbol:
    """Return the symbol with the outputs ``OUTPUTS``, or ``MASK_OUTPUTS``.

    Parameters
    ----------
    taps : sequence of Symbol
        The trunk's maps at strides 4, 8, 16 and 32.
    config : RCNNConfig
    fpn_channels : int
        Of the maps of the pyramid.
    rpn_channels : int
        Of the layer that proposals are predicted from.
    head_channels : int
        Of both dense layers of the second stage.
    roi_size : int
        Cells a side that a region is read in. From 14 on, dense layers see half as many
        cells a side, masks all of them, as in GluonCV's Mask R-CNN.
    masks : bool
        Whether there are masks.
    """
    maps = _pyramid(taps, fpn_channels)
    outputs = _proposals(maps, rpn_channels, len(config.ratios))
    regions = mx.sym.var(
        REGIONS,
        shape=(_count(config), REGION),
        dtype="float32",
        attr={CONSTANT: "1"},
    )
    pooled = _pooled(maps, regions, roi_size, PREFIX)
    x = pooled
    if roi_size >= 14:
        x = mx.sym.Pooling(
            x,
            kernel=(3, 3),
            stride=(2, 2),
            pad=(1, 1),
            pool_type="avg",
            name=f"{PREFIX}halved",
        )
    for i, name in enumerate((f"{PREFIX}features0", LAST)):
        x = _dense(x, head_channels, f"{PREFIX}dense{i}")
        x = mx.sym.Activation(x, act_type="relu", name=name)
    outputs += _predictors(x, len(config.classes))
    if masks:
        found = mx.sym.slice_axis(
            regions, axis=0, begin=0, end=config.post_nms, name=f"{PREFIX}found"
        )
        x = _pooled(maps, found, roi_size, f"{PREFIX}mask_")
        for i in range(MASK_LAYERS):
            x = mx.sym.Convolution(
                x, num_filter=MASK_WIDTH, name=f"{PREFIX}mask_conv{i}", **THREE
            )
            x = mx.sym.Activation(x, act_type="relu", name=f"{PREFIX}mask_relu{i}")
        x = mx.sym.Deconvolution(
            x,
            num_filter=MASK_WIDTH,
            kernel=(2, 2),
            stride=(2, 2),
            no_bias=False,
            name=f"{PREFIX}mask_up",
        )
        x = mx.sym.Activation(x, act_type="relu", name=LAST_MASK)
        outputs.append(_mask_predictor(x, len(config.classes)))
    return mx.sym.Group(outputs)


def _count(config: RCNNConfig) -> int:
    return max(config.rpn_post_nms, config.post_nms)


def _pyramid(taps: Sequence[mx.sym.Symbol], width: int) -> list:
    """Return the maps at strides 4 to 32, and one at 64 for proposals alone."""
    maps, above = [], None
    for i in reversed(range(len(taps))):
        name = f"{PREFIX}lateral{i}"
        y = mx.sym.Convolution(
            taps[i],
            num_filter=width,
            kernel=(1, 1),
            name=name,
        )
        if above is None:
            name = f"{MAP}{len(taps)}"
            smallest = mx.sym.Convolution(
                y,
                num_filter=width,
                stride=(2, 2),
                name=name,
                **THREE,
            )
        else:
            up = mx.sym.UpSampling(
                above, scale=2, sample_type="nearest", name=f"{PREFIX}up{i}"
            )
            y = mx.sym.elemwise_add(y, up, name=f"{PREFIX}sum{i}")
        above, name = y, f"{MAP}{i}"
        maps.append(mx.sym.Convolution(y, num_filter=width, name=name, **THREE))
    return [*maps[::-1], smallest]


def _proposals(maps: Sequence, width: int, depth: int) -> list:
    """Return scores ``(B, A, 1)`` and deltas ``(B, A, 4)`` of all anchors."""

    def layer(name: str) -> dict:
        """Return the parameters of a layer that all maps share."""
        return {
            kind: mx.sym.var(f"{PREFIX}{name}_{kind}") for kind in ("weight", "bias")
        }

    shared, score, box = layer("rpn"), layer("rpn_score"), layer("rpn_box")
    rows: dict = {1: [], 4: []}
    for i, x in enumerate(maps):
        name = f"{PREFIX}rpn{i}"
        x = mx.sym.Convolution(x, num_filter=width, name=name, **THREE, **shared)
        x = mx.sym.Activation(x, act_type="relu", name=f"{name}_relu")
        for kind, numbers, parameters in (("score", 1, score), ("box", 4, box)):
            y = mx.sym.Convolution(
                x,
                num_filter=numbers * depth,
                kernel=(1, 1),
                name=f"{name}_{kind}",
                **parameters,
            )
            y = mx.sym.transpose(y, (0, 2, 3, 1), name=f"{name}_{kind}_last")
            y = y.reshape((0, -1, numbers), name=f"{name}_{kind}_rows")
            rows[numbers].append(y)
    names = {1: RPN_SCORES, 4: RPN_DELTAS}
    return [mx.sym.concat(*rows[n], dim=1, name=name) for n, name in names.items()]


def _pooled(maps: Sequence, regions: mx.sym.Symbol, side: int, name: str) -> Any:
    """Return the maps in regions ``(R, C, side, side)``, each from one of the maps.

    Every map is read in every region, and what is of another map is multiplied by 0.
    (GluonCV gives such regions the image -1, for which MXNet's operator on the CPU
    writes no result: it leaves what was in memory.)
    """
    rois = mx.sym.slice_axis(regions, axis=1, begin=0, end=5, name=f"{name}rois")
    parts = []
    for i, stride in enumerate(POOLED):
        its = mx.sym.slice_axis(
            regions, axis=1, begin=5 + i, end=6 + i, name=f"{name}of{i}"
        )
        # An empty box in place of others: nearly all of its memory is in the cache.
        own = mx.sym.broadcast_mul(rois, its, name=f"{name}rois{i}")
        part = mx.sym.contrib.ROIAlign(
            maps[i],
            own,
            pooled_size=(side, side),
            spatial_scale=1 / stride,
            sample_ratio=SAMPLES,
            name=f"{name}pooled{i}",
        )
        its = its.reshape((-1, 1, 1, 1), name=f"{name}share{i}")
        parts.append(mx.sym.broadcast_mul(part, its, name=f"{name}own{i}"))
    return mx.sym.add_n(*parts, name=f"{name}pooled")


def _predictors(x: mx.sym.Symbol, classes: int) -> list:
    """Return class scores ``(R, C + 1)`` and box deltas ``(R, 4 C)``."""
    widths = {CLASSES: classes + 1, BOXES: 4 * classes}
    return [_dense(x, width, f"{PREFIX}{name}") for name, width in widths.items()]


def _dense(x: mx.sym.Symbol, width: int, name: str) -> mx.sym.Symbol:
    """Return a dense layer; MXNet's ONNX exporter flattens only if that is written."""
    return mx.sym.FullyConnected(x, num_hidden=width, flatten=True, name=name)


def _mask_predictor(x: mx.sym.Symbol, classes: int) -> mx.sym.Symbol:
    """Return the logits of masks ``(R, C, 2 side, 2 side)``."""
    return mx.sym.Convolution(
        x, num_filter=classes, kernel=(1, 1), name=f"{PREFIX}{MASKS}"
    )


def reference_regions(config: RCNNConfig) -> np.ndarray:
    """Return the regions that the whole symbol reads: a grid on the input, ``(R, 9)``.

    The maps take turns, so that each is read.
    """
    count = _count(config)
    columns = int(np.ceil(np.sqrt(count)))
    row, column = np.divmod(np.arange(count), columns)
    height, width = config.size
    center = np.stack([column + 0.5, row + 0.5], axis=1) / columns * [width, height]
    turn = np.arange(count) % len(POOLED)
    half = 4.0 * np.array(POOLED)[turn, None]  # of eight cells of a map
    boxes = np.hstack([center - half, center + half])
    regions = regions_of(np.clip(boxes, 0, [width, height] * 2)[None])
    regions[:, 5:] = np.eye(len(POOLED))[turn]
    return regions


def stages(symbol: mx.sym.Symbol) -> dict[str, mx.sym.Symbol]:
    """Return the parts of a symbol that run one after the other, by name.

    ``features`` is from ``data`` to the outputs of the first stage and ``MAPS``;
    ``heads``, and ``mask`` if there are masks, are from ``MAPS`` and ``REGIONS`` to the
    outputs of the second. Annotations behind a map belong to both parts.

    Parameters
    ----------
    symbol : Symbol
        As ``two_stage`` returns it, pruned, quantised or not.
    """
    nodes, heads = take_apart(symbol)
    numbers = {node["name"]: i for i, node in enumerate(nodes)}
    places = [[numbers[f"{MAP}{i}"], 0, 0] for i in range(len(POOLED))]
    features = put_together(nodes, [*heads[:2], *places])
    cut = [dict(node) for node in nodes]
    for (place, *_), name in zip(places, MAPS):
        cut[place] = {"op": "null", "name": name, "attrs": {}, "inputs": []}
    regions = cut[numbers[REGIONS]]
    # As many regions as there are, not as many as the grid has.
    cut[numbers[REGIONS]] = {**regions, "attrs": {}}
    parts = {FEATURES: features, HEADS: put_together(cut, heads[2:4])}
    if len(heads) > len(OUTPUTS):
        parts[MASK] = _of_all(put_together(cut, heads[4:]))
    return parts


def _of_all(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return the part for masks, which reads all regions that it is given."""
    nodes, heads = take_apart(symbol)
    for node in nodes:
        if node["name"] == f"{PREFIX}found":
            node["attrs"] = {**node["attrs"], "end": "None"}
    return put_together(nodes, heads)


def map_symbols(symbol: mx.sym.Symbol) -> dict[str, mx.sym.Symbol]:
    """Return the maps of the pyramid that regions are read from, largest first."""
    internals = symbol.get_internals()
    return {name: internals[f"{MAP}{i}_output"] for i, name in enumerate(MAPS)}


def start_of(name: str) -> mx.init.Initializer | None:
    """Return how a parameter starts, None: as in other nets."""
    if not name.endswith("_weight"):
        return None
    return next((how for begin, how in STARTS.items() if name.startswith(begin)), None)


def trunk_parameters(symbol: mx.sym.Symbol) -> set[str]:
    """Return the names of all parameters of the trunk."""
    names = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    names -= {"data", REGIONS}
    return {name for name in names if not name.startswith(PREFIX)}


def with_classes(
    symbol: mx.sym.Symbol,
    params: Mapping[str, mx.nd.NDArray],
    config: RCNNConfig,
    classes: Sequence[str],
    *,
    seed: int,
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray], RCNNConfig]:
    """Return symbol, values and configuration of a net whose predictors are new."""
    nodes, heads = take_apart(symbol)
    numbers = {node["name"]: i for i, node in enumerate(nodes)}
    names = [LAST, LAST_MASK] if len(heads) > len(OUTPUTS) else [LAST]
    kept = [*heads[:2], *([numbers[name], 0, 0] for name in names)]
    scores, deltas, last, *mask = list(put_together(nodes, kept))
    outputs = [scores, deltas, *_predictors(last, len(classes))]
    outputs += [_mask_predictor(x, len(classes)) for x in mask]
    result = mx.sym.Group(outputs)
    own = tuple(f"{PREFIX}{name}_" for name in (CLASSES, BOXES, MASKS))
    needed = {*result.list_arguments(), *result.list_auxiliary_states()}
    values = {n: v for n, v in params.items() if n in needed and not n.startswith(own)}
    values = with_missing_initialized(
        result, values, config.size, seed=seed, start_of=start_of
    )
    return result, values, replace(config, classes=tuple(classes))
