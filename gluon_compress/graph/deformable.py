"""Deformable 3 x 3 convolutions, from free offsets to what is cheap to compute.

Each rung of the ladder keeps what those before it gave up (Huang et al. 2021, CoDeNet):

=========== ==========================================================================
none        an ordinary convolution
full        each of the nine taps has its own offset in x and y (Dai et al. 2017)
bounded     offsets are limited, so that a few rows of the map suffice
square      the taps keep their square: one number a cell, the distance between taps
integer     that number is whole, so that nothing is interpolated
depthwise   each channel has its own 3 x 3 filter, a 1 x 1 convolution follows
=========== ==========================================================================

The map is padded by zeros, as in other frameworks. In a symbol, each is one node: it is
traced, pruned, counted and stored like any convolution. At whole distances the result
is exactly a sum of dilated convolutions, of which a mask chooses one in each cell:
``dilated`` and ``for_training`` return this form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph.context import attribute
from gluon_compress.graph.symbols import (
    infer_shapes,
    put_together,
    replaced,
    shapes_of,
    take_apart,
)
from gluon_compress.validation import shown

RUNGS = ("none", "full", "bounded", "square", "integer", "depthwise")
OPERATOR = "_contrib_DeformableConvolution"
TAPS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))
# Of a node: its rung, its bound, and the node whose output is the distance of its taps.
RUNG, BOUND, DISTANCE = "__rung__", "__bound__", "__distance__"
MOST = 64  # the largest bound
DEFAULT_BOUND = 4


def check_rung(rung: str, bound: int) -> None:
    """Refuse a rung that does not exist, and a bound below 1.

    Raises
    ------
    ValueError
    """
    if rung not in RUNGS:
        raise ValueError(f"rung is {shown(rung)}; allowed: {', '.join(RUNGS)}")
    whole = isinstance(bound, (int, np.integer)) and not isinstance(bound, bool)
    if not whole or not 1 <= bound <= MOST:
        allowed = f"a whole number from 1 to {MOST}"
        raise ValueError(f"bound is {shown(bound)}; allowed: {allowed}")


def deformable(
    x: mx.sym.Symbol,
    channels: int,
    width: int,
    name: str,
    *,
    rung: str = "depthwise",
    bound: int = DEFAULT_BOUND,
) -> mx.sym.Symbol:
    """Return a deformable 3 x 3 convolution of a map, without bias.

    Parameters
    ----------
    x : Symbol
        ``(B, channels, H, W)``.
    channels, width : int
        Of the input and of the output.
    name : str
        Beginning of all names.
    rung : str
        One of ``RUNGS``.
    bound : int
        Offsets are from ``-bound`` to ``bound - 1`` cells. The distance between taps of
        a square is therefore from ``1 - bound`` to ``bound``; a negative one turns the
        filter round.

    Notes
    -----
    ``initial_values`` says how offsets start: taps where an ordinary convolution has
    them.
    """
    check_rung(rung, bound)
    single = rung == "depthwise"
    filters = {"num_filter": channels if single else width, "no_bias": True}
    groups = channels if single else 1
    if rung == "none":
        return mx.sym.Convolution(
            x, kernel=(3, 3), pad=(1, 1), name=f"{name}_conv", **filters
        )
    if rung in ("full", "bounded"):
        offsets = mx.sym.Convolution(
            x, num_filter=18, kernel=(3, 3), pad=(1, 1), name=f"{name}_offsets"
        )
        distance = ""
        if rung == "bounded":
            limits = {"a_min": -bound, "a_max": bound - 1}
            offsets = mx.sym.clip(offsets, name=f"{name}_bounded", **limits)
    else:
        scale = mx.sym.Convolution(
            x, num_filter=1, kernel=(1, 1), name=f"{name}_distance"
        )
        distance = f"{name}_bounded"
        scale = mx.sym.clip(scale, a_min=1 - bound, a_max=bound, name=distance)
        if rung != "square":
            scale = _rounded(scale)
        offsets = _square_offsets(scale)
    padded = mx.sym.pad(
        x, mode="constant", pad_width=(0, 0, 0, 0, 1, 1, 1, 1), name=f"{name}_pad"
    )
    x = mx.sym.contrib.DeformableConvolution(
        padded,
        offsets,
        kernel=(3, 3),
        num_group=groups,
        name=f"{name}_conv",
        attr={RUNG: rung, BOUND: str(bound), DISTANCE: distance},
        **filters,
    )
    if not single:
        return x
    return mx.sym.Convolution(
        x, num_filter=width, kernel=(1, 1), no_bias=True, name=f"{name}_point"
    )


def initial_values(name: str, shape: Sequence[int]) -> mx.nd.NDArray | None:
    """Return the first value of a parameter that decides offsets; None for others."""
    if name.endswith(("_distance_weight", "_offsets_weight", "_offsets_bias")):
        return mx.nd.zeros(shape)
    return mx.nd.ones(shape) if name.endswith("_distance_bias") else None


def _rounded(x: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return the nearest whole number, halves up, with the slope of ``x``.

    The difference is exact: both numbers are within a half of each other.
    """
    return x - mx.sym.BlockGrad(x - mx.sym.floor(x + 0.5))


def _square_offsets(scale: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return offsets in y and x ``(B, 18, H, W)`` of taps that are ``scale`` apart."""
    more = scale - 1
    by_sign = {1: more, -1: mx.sym.negative(more), 0: mx.sym.zeros_like(more)}
    return mx.sym.concat(*[by_sign[k] for tap in TAPS for k in tap], dim=1)


# The same as dilated convolutions.


@dataclass(frozen=True)
class DeformableNode:
    """A deformable convolution in the nodes of a symbol.

    Parameters
    ----------
    number : int
        Of its node.
    name, rung : str
    bound : int
    source, offsets, weight : sequence of int
        The entries of its map before padding, its offsets and its weight.
    distance : sequence of int or None
        The entry of the distance between taps, before rounding, if it has one.
    filters, groups : int
    """

    number: int
    name: str
    rung: str
    bound: int
    source: Sequence[int]
    offsets: Sequence[int]
    weight: Sequence[int]
    distance: Sequence[int] | None
    filters: int
    groups: int

    @property
    def whole(self) -> bool:
        """Whether distances are whole, so that it is a sum of dilated convolutions."""
        return self.rung in ("integer", "depthwise")


def deformable_nodes(nodes: Sequence[dict]) -> list[DeformableNode]:
    """Return the deformable convolutions that ``deformable`` made, in order."""
    numbers = {node["name"]: i for i, node in enumerate(nodes)}
    found = []
    for i, node in enumerate(nodes):
        if node["op"] != OPERATOR or RUNG not in node["attrs"]:
            continue
        padded, offsets, weight = node["inputs"][:3]
        distance = numbers.get(node["attrs"].get(DISTANCE, ""))
        found.append(
            DeformableNode(
                number=i,
                name=node["name"],
                rung=node["attrs"][RUNG],
                bound=int(node["attrs"][BOUND]),
                source=nodes[padded[0]]["inputs"][0],
                offsets=offsets,
                weight=weight,
                distance=None if distance is None else [distance, 0, 0],
                filters=attribute(node["attrs"], "num_filter"),
                groups=attribute(node["attrs"], "num_group", 1),
            )
        )
    return found


def for_training(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return a symbol with dilated convolutions where distances are whole.

    It computes the same. The gradient with respect to the distance is that of a mask
    that changes linearly from one whole number to the next; the operator's own at whole
    distances says little about where to go.
    """
    return _with_dilated(symbol, training=True)[0]


def dilated(
    symbol: mx.sym.Symbol, params: Mapping[str, mx.nd.NDArray]
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return a symbol for inference with dilated convolutions, and its parameters.

    The turned filters, and the sums that a distance of 0 needs, are parameters.
    Deformable convolutions whose distances are not whole stay.
    """
    symbol, sources = _with_dilated(symbol, training=False)
    values = dict(params)
    for name, (weight, distance) in sources.items():
        value = params[weight].asnumpy()
        values[name] = mx.nd.array(filter_at(value, distance))
    used = set(symbol.list_inputs())
    return symbol, {name: value for name, value in values.items() if name in used}


def sampled(
    symbol: mx.sym.Symbol, params: Mapping[str, mx.nd.NDArray], shape: Sequence[int]
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return a symbol for inference that samples the map nine times, and parameters.

    It is for runtimes that have no deformable convolution, where distances are not
    whole. Each tap is a bilinear sampling of the padded map and a 1 x 1 convolution.

    Parameters
    ----------
    symbol : Symbol
    params : mapping
        Values of its parameters.
    shape : sequence of int
        Shape of the input ``data``: places in maps are constants of the new symbol.
    """
    nodes, heads = take_apart(symbol)
    found = deformable_nodes(nodes)
    values = dict(params)
    if not found:
        return symbol, values
    maps = put_together(nodes, [node.source for node in found])
    shapes = infer_shapes(maps, {**shapes_of(params), "data": tuple(shape)})[1]
    for node, (_, _, *cells) in reversed(list(zip(found, shapes))):
        weight = values[nodes[node.weight[0]]["name"]].asnumpy()
        form, constants = _sampled_form(node, weight, cells)
        values.update(constants)
        inputs = {"map": nodes[node.number]["inputs"][0], "offsets": node.offsets}
        named = {f"{node.name}_{key}": entry for key, entry in inputs.items()}
        nodes, heads = replaced(nodes, heads, node.number, form, named)
    symbol = put_together(nodes, heads)
    used = set(symbol.list_inputs())
    return symbol, {name: value for name, value in values.items() if name in used}


def _sampled_form(
    node: DeformableNode, weight: np.ndarray, cells: Sequence[int]
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return a deformable convolution as samplings, and the values it needs."""
    x, offsets = (mx.sym.var(f"{node.name}_{key}") for key in ("map", "offsets"))
    rows, columns = cells
    # Of the padded map, from -1 to 1 between the centres of its outermost cells.
    steps = [2 / (side + 1) for side in cells]
    lines = np.broadcast_to(np.arange(rows)[:, None], cells)
    across = np.broadcast_to(np.arange(columns), cells)
    places = [
        step * (base + tap + 1) - 1
        for pair in TAPS
        for step, base, tap in zip(steps, (lines, across), pair)
    ]
    values = {
        f"{node.name}_places": np.stack(places)[None],
        f"{node.name}_steps_weight": np.tile(steps, len(TAPS)).reshape(-1, 1, 1, 1),
    }
    # Not a product of two tensors: of a convolution, every reader knows the channels.
    scaled = mx.sym.Convolution(
        offsets,
        num_filter=2 * len(TAPS),
        num_group=2 * len(TAPS),
        kernel=(1, 1),
        no_bias=True,
        name=f"{node.name}_steps",
    )
    moved = mx.sym.broadcast_add(scaled, mx.sym.var(f"{node.name}_places"))
    parts = []
    for i, (y, across_by) in enumerate(TAPS):
        name = f"{node.name}_tap{i}"
        down, right = (
            mx.sym.slice_axis(moved, axis=1, begin=at, end=at + 1)
            for at in (2 * i, 2 * i + 1)
        )
        grid = mx.sym.concat(right, down, dim=1)
        values[f"{name}_weight"] = weight[:, :, y + 1, across_by + 1][..., None, None]
        part = mx.sym.Convolution(
            mx.sym.BilinearSampler(x, grid, name=f"{name}_sample"),
            num_filter=node.filters,
            num_group=node.groups,
            kernel=(1, 1),
            no_bias=True,
            name=name,
        )
        parts.append(part)
    symbol = mx.sym.add_n(*parts, name=node.name)
    return symbol, {name: mx.nd.array(value) for name, value in values.items()}


def filter_at(weight: np.ndarray, distance: int) -> np.ndarray:
    """Return the filter of a distance between taps, for a dilation by its amount."""
    if distance == 0:
        return weight.sum(axis=(2, 3), keepdims=True)
    return weight if distance > 0 else weight[:, :, ::-1, ::-1]


def _with_dilated(
    symbol: mx.sym.Symbol, *, training: bool
) -> tuple[mx.sym.Symbol, dict[str, tuple[str, int]]]:
    """Return the symbol, and its new parameters: the weight and distance of each."""
    nodes, heads = take_apart(symbol)
    sources: dict[str, tuple[str, int]] = {}
    for node in reversed(deformable_nodes(nodes)):
        if not node.whole or node.distance is None:
            continue
        weight_name = nodes[node.weight[0]]["name"]
        weights = {}
        for distance in distances(node.bound):
            weights[distance] = _weight(node, distance, training=training)
            if not training and distance <= 0:
                new = weights[distance].name
                sources[new] = (weight_name, distance)
        form = _dilated_form(node, weights, training=training)
        inputs = {"map": node.source, "taps": node.distance, "filter": node.weight}
        named = {f"{node.name}_{key}": entry for key, entry in inputs.items()}
        nodes, heads = replaced(nodes, heads, node.number, form, named)
    return put_together(nodes, heads), sources


def distances(bound: int) -> range:
    """Return the whole distances between taps that a bound allows."""
    return range(1 - bound, bound + 1)


def _weight(node: DeformableNode, distance: int, *, training: bool) -> mx.sym.Symbol:
    weight = mx.sym.var(f"{node.name}_filter")
    if distance > 0:
        return weight
    if not training:
        return mx.sym.var(f"{node.name}_at{distance}_weight".replace("-", "m"))
    if distance == 0:
        return mx.sym.sum(weight, axis=(2, 3), keepdims=True)
    return mx.sym.reverse(weight, axis=(2, 3))


def _dilated_form(
    node: DeformableNode, weights: Mapping[int, mx.sym.Symbol], *, training: bool
) -> mx.sym.Symbol:
    x, taps = (mx.sym.var(f"{node.name}_{key}") for key in ("map", "taps"))
    whole = mx.sym.floor(taps + 0.5)
    parts = []
    for distance, weight in weights.items():
        step = abs(distance)
        shape = {"kernel": (3, 3), "dilate": (step, step), "pad": (step, step)}
        part = mx.sym.Convolution(
            x,
            weight,
            num_filter=node.filters,
            num_group=node.groups,
            no_bias=True,
            name=f"{node.name}_at{distance}".replace("-", "m"),
            **(shape if step else {"kernel": (1, 1)}),
        )
        chosen = _near(whole, distance)
        if training:
            soft = _near(taps, distance)
            chosen = soft + mx.sym.BlockGrad(chosen - soft)
        parts.append(mx.sym.broadcast_mul(part, chosen))
    return mx.sym.add_n(*parts, name=node.name)


def _near(taps: mx.sym.Symbol, distance: int) -> mx.sym.Symbol:
    """Return 1 at a distance, falling to 0 at the next whole ones."""
    # MXNet's exporter prints the name of each "1 - x" on standard output.
    return mx.sym.relu(mx.sym.negative(mx.sym.abs(taps - distance)) + 1)
