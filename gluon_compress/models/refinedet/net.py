"""The symbol of a RefineDetLite: sources, two steps, and the connections between.

Two steps predict from the same anchors (Zhang et al. 2018, "Single-Shot Refinement
Neural Network for Object Detection"). The first reads the backbone's taps and extra
stages, the *sources*: whether an anchor holds an object, and how to move it. Transfer
connections hand the sources on, each with what is above it. The second step reads these
and predicts classes, and boxes from the moved anchors. Light heads and bilinear
upsampling are RefineDetLite's (Chen et al. 2020).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph.annotations import bake_weights
from gluon_compress.graph.symbols import (
    infer_shapes,
    put_together,
    shapes_of,
    take_apart,
)
from gluon_compress.models.extra_stages import (
    EXTRAS,
    conv_bn,
    conv_bn_relu,
    with_extras,
)
from gluon_compress.models.initialize import with_missing_initialized
from gluon_compress.models.refinedet.config import RefineDetConfig
from gluon_compress.postprocess.refinedet import STEPS
from gluon_compress.postprocess.ssd import JOINED

OUTPUTS = STEPS
HEAD = "refinedet_"  # prefix of the names of connections and heads
# Nodes: all that a step says of each anchor, (B, A, 6) and (B, A, C + 5).
FIRST, SECOND = f"{HEAD}first_step", f"{HEAD}second_step"
THREE = {"kernel": (3, 3), "pad": (1, 1)}


def refinedet(
    taps: Sequence[mx.sym.Symbol], shapes: Mapping[str, tuple], config: RefineDetConfig
) -> mx.sym.Symbol:
    """Return the symbol with the outputs ``OUTPUTS``.

    Parameters
    ----------
    taps : sequence of Symbol
        Of a backbone, the smallest map last.
    shapes : mapping
        Those of the backbone's parameters that are known.
    config : RefineDetConfig

    Raises
    ------
    ValueError
        If the backbone has too few taps.
    """
    wanted = len(config.ratios) - len(config.extras)
    if wanted > len(taps):
        raise ValueError(
            f"extras: {len(config.extras)} stages for {len(config.ratios)} maps; the "
            f"backbone has {len(taps)} taps, not {wanted}"
        )
    sources = with_extras(taps[-wanted:], config.extras)
    given = {**shapes, "data": (1, 3, *config.size)}
    sides = [s[2:] for s in infer_shapes(mx.sym.Group(sources), given)[1]]
    heads = [
        _light_head(source, config.channels, f"{HEAD}refine{i}_")
        for i, source in enumerate(sources)
    ]
    first = _rows(heads, "refine", config.depths, 6, FIRST)
    maps = _transferred(sources, sides, config.channels)
    heads = [
        _light_head(tap, config.channels, f"{HEAD}detect{i}_")
        for i, tap in enumerate(maps)
    ]
    return _outputs(first, heads, config)


def _transferred(sources: Sequence, sides: Sequence, width: int) -> list:
    """Return the maps of the second step, each with what the next smaller one says."""
    maps: list = []
    for i in reversed(range(len(sources))):
        name = f"{HEAD}transfer{i}_"
        y = conv_bn_relu(sources[i], width, f"{name}in_{{}}", **THREE)
        y = conv_bn(y, width, f"{name}out_{{}}", **THREE)
        if maps:
            height, width_ = sides[i]
            # By numbers: exchange formats have no size of another map.
            above = mx.sym.contrib.BilinearResize2D(
                maps[-1], height=height, width=width_, name=f"{name}up"
            )
            y = mx.sym.elemwise_add(y, above, name=f"{name}sum")
        maps.append(mx.sym.Activation(y, act_type="relu", name=f"{name}relu"))
    return maps[::-1]


def _light_head(x: mx.sym.Symbol, width: int, name: str) -> mx.sym.Symbol:
    """Return the sum of a 1x1 convolution and of a bottleneck around a 3x3 one."""
    side = conv_bn(x, width, f"{name}side_{{}}")
    y = conv_bn_relu(x, width // 2, f"{name}in_{{}}")
    y = conv_bn_relu(y, width // 2, f"{name}mid_{{}}", **THREE)
    y = conv_bn(y, width, f"{name}out_{{}}")
    y = mx.sym.elemwise_add(y, side, name=f"{name}sum")
    return mx.sym.Activation(y, act_type="relu", name=f"{name}relu")


def _rows(heads: Sequence, step: str, depths: Sequence[int], width: int, name: str):
    """Return what 1x1 predictors say of all anchors, ``(B, A, width)``."""
    rows = []
    for i, (head, depth) in enumerate(zip(heads, depths)):
        y = mx.sym.Convolution(
            head,
            num_filter=depth * width,
            kernel=(1, 1),
            name=f"{HEAD}{step}{i}_predictor",
        )
        y = mx.sym.transpose(y, (0, 2, 3, 1), name=f"{HEAD}{step}{i}_last")
        rows.append(y.reshape((0, -1, width), name=f"{HEAD}{step}{i}_rows"))
    return mx.sym.concat(*rows, dim=1, name=name)


def _outputs(first, heads: Sequence, config: RefineDetConfig) -> mx.sym.Symbol:
    """Return the four outputs, of the first step's rows and the second step's heads."""
    scores = len(config.classes) + 1
    second = _rows(heads, "detect", config.depths, scores + 4, SECOND)
    cuts = [(first, 0, 2), (first, 2, 6), (second, 0, scores)]
    cuts.append((second, scores, scores + 4))
    return mx.sym.Group(
        [
            mx.sym.slice_axis(rows, axis=2, begin=begin, end=end, name=name)
            for (rows, begin, end), name in zip(cuts, OUTPUTS)
        ]
    )


def joined(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return the symbol with one output ``(B, A, C + 11)`` in place of four."""
    steps = [_inside(symbol, name) for name in (FIRST, SECOND)]
    return mx.sym.concat(*steps, dim=2, name=JOINED)


def map_symbols(symbol: mx.sym.Symbol) -> dict[str, mx.sym.Symbol]:
    """Return the maps that the second step's heads read, largest first."""
    outputs = set(symbol.get_internals().list_outputs())
    maps, i = {}, 0
    while f"{HEAD}transfer{i}_relu_output" in outputs:
        maps[f"map{i}"] = _inside(symbol, f"{HEAD}transfer{i}_relu")
        i += 1
    return maps


def trunk_parameters(symbol: mx.sym.Symbol) -> set[str]:
    """Return the names of all parameters of the backbone."""
    names = {*symbol.list_arguments(), *symbol.list_auxiliary_states()} - {"data"}
    return {name for name in names if not name.startswith((EXTRAS, HEAD))}


def with_classes(
    symbol: mx.sym.Symbol,
    params: Mapping[str, mx.nd.NDArray],
    config: RefineDetConfig,
    classes: Sequence[str],
    *,
    seed: int,
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray], RefineDetConfig]:
    """Return symbol, values and configuration of a net whose class scores are new.

    The predictors of the second step are new layers without annotations; their rows for
    boxes have the values of before.
    """
    nodes, heads = take_apart(symbol)
    layers = _detectors(nodes)
    entries = [layer["inputs"][0] for layer in layers]
    first = next(i for i, node in enumerate(nodes) if node["name"] == FIRST)
    tensors = list(put_together(nodes, [[first, 0, 0], *entries]))
    new = replace(config, classes=tuple(classes))
    result = _outputs(tensors[0], tensors[1:], new)
    names = {*result.list_arguments(), *result.list_auxiliary_states()}
    own = {f"{HEAD}detect{i}_predictor_{k}" for i in range(len(layers)) for k in KINDS}
    kept = {n: value for n, value in params.items() if n in names - own}
    values = with_missing_initialized(result, kept, config.size, seed=seed)
    plain, _, baked = bake_weights(nodes, heads, dict(params))
    for i, layer in enumerate(_detectors(plain)):
        for entry, kind in zip(layer["inputs"][1:], KINDS):
            old = baked[plain[entry[0]]["name"]].asnumpy()
            name = f"{HEAD}detect{i}_predictor_{kind}"
            values[name] = _with_boxes_of(values[name], old, config.depths[i])
    return result, values, new


KINDS = ("weight", "bias")


def _detectors(nodes: Sequence[dict]) -> list[dict]:
    """Return the predictors of the second step, in the order of their maps."""
    by_name = {node["name"]: node for node in nodes if node["op"] == "Convolution"}
    layers, i = [], 0
    while f"{HEAD}detect{i}_predictor" in by_name:
        layers.append(by_name[f"{HEAD}detect{i}_predictor"])
        i += 1
    return layers


def _with_boxes_of(new: mx.nd.NDArray, old: np.ndarray, depth: int) -> mx.nd.NDArray:
    """Return new rows of a predictor's parameter, each anchor's last four the old."""
    value = new.asnumpy().reshape(depth, -1, *old.shape[1:])
    value[:, -4:] = old.reshape(depth, -1, *old.shape[1:])[:, -4:]
    return mx.nd.array(value.reshape(-1, *old.shape[1:]))


def _inside(symbol: mx.sym.Symbol, name: str) -> mx.sym.Symbol:
    return symbol.get_internals()[f"{name}_output"]


def center_anchors(
    config: RefineDetConfig, sides: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Return the anchors as center boxes in pixels, ``(A, 4)``, float32.

    Map by map, row by row, all of a cell together. The cells of a map divide the input
    evenly, whatever the map's stride.

    Parameters
    ----------
    config : RefineDetConfig
    sides : sequence of (int, int)
        Rows and columns of each map.
    """
    parts = []
    for (rows, columns), size, ratios in zip(sides, config.sizes, config.ratios):
        y = (np.arange(rows) + 0.5) * config.size[0] / rows
        x = (np.arange(columns) + 0.5) * config.size[1] / columns
        roots = np.sqrt(ratios)
        boxes = np.empty((rows, columns, len(roots), 4), np.float32)
        boxes[..., 0], boxes[..., 1] = x[:, None], y[:, None, None]
        boxes[..., 2], boxes[..., 3] = size * roots, size / roots
        parts.append(boxes.reshape(-1, 4))
    return np.concatenate(parts)


def map_sides(
    symbol: mx.sym.Symbol, values: Mapping[str, Any], config: RefineDetConfig
) -> list[tuple[int, int]]:
    """Return rows and columns of each map."""
    maps = mx.sym.Group(list(map_symbols(symbol).values()))
    given = {**shapes_of(values), "data": (1, 3, *config.size)}
    return [(shape[2], shape[3]) for shape in infer_shapes(maps, given)[1]]
