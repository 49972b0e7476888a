"""Fused blocks: operators that are timed as one, and the small nets that time them."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph, Tensor
from gluon_compress.graph.context import attribute
from gluon_compress.graph.layer_rules import whole_groups
from gluon_compress.graph.operators import (
    CHANNELWISE,
    DENSE,
    FOLLOWER,
    LAYER,
    operator_of,
)
from gluon_compress.graph.symbols import put_together

BLOCK = 8  # channels; kernels are slower for other counts than multiples of it

# What says nothing on how long an operator takes, or is a width.
SILENT = {
    *("num_filter", "num_hidden", "num_group", "workspace", "eps", "momentum"),
    *("fix_gamma", "use_global_stats", "cudnn_off", "cudnn_tune"),
}


@dataclass(frozen=True)
class Side:
    """How many channels a unit has on one side, under any plan.

    Parameters
    ----------
    full : int
        Of the whole net.
    tensor : Tensor, optional
        Along whose axis they are counted; None where no plan changes them.
    """

    full: int
    tensor: Tensor | None = None

    def kept(self, alive: np.ndarray) -> int:
        """Return their number when only ``alive`` is kept, see ``Graph.keep_mask``."""
        if self.tensor is None:
            return self.full
        return int(alive[self.tensor.positions].sum())


@dataclass(frozen=True)
class Unit:
    """An operator, and those behind it that are timed with it.

    Parameters
    ----------
    kind : str
        Operators, attributes and shapes but for the widths: units of one kind take
        the same time at the same widths, whatever net they are of.
    how : str
        ``layer`` has two widths; ``tied`` (depthwise layers and channelwise operators)
        one; of ``rest`` only the whole is timed and the output's share counted.
    nodes : tuple of int
        In the order of the graph.
    inputs, outputs : Side
        Channels that go in and come out; a unit with one width has no ``outputs``.
    step : int
        Widths that can be built are multiples of it.
    """

    kind: str
    how: str
    nodes: tuple[int, ...]
    inputs: Side
    outputs: Side
    step: int = 1

    @property
    def least(self) -> int:
        """The smallest width that fills blocks, on either side."""
        return BLOCK * self.step // gcd(BLOCK, self.step)


NOTHING = Side(0)  # the other side of a unit with one width


def units_of(graph: Graph) -> list[Unit]:
    """Return the units of a graph in its order; every operator is in one.

    Operators without any computed input (constants) are left out.
    """
    users: dict[int, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        for entry in node["inputs"]:
            users.setdefault(entry[0], []).append(i)
    ends, taken, found = {head[0] for head in graph.heads}, set(), []
    for i, node in enumerate(graph.nodes):
        if node["op"] == "null" or i in taken or not data_inputs(graph, i):
            continue
        chain = [i]
        while _how(graph, i) != "rest" and chain[-1] not in ends:
            after = users.get(chain[-1], [])
            if len(after) != 1 or _latency(graph, after[0]) != FOLLOWER:
                break
            chain.append(after[0])
        taken.update(chain)
        found.append(_unit(graph, tuple(chain)))
    return found


def data_inputs(graph: Graph, i: int) -> list[int]:
    """Return which inputs of a node are no parameters."""
    return [
        k
        for k, entry in enumerate(graph.nodes[i]["inputs"])
        if graph.nodes[entry[0]]["op"] != "null"
        or graph.nodes[entry[0]]["name"] in graph.inputs
    ]


def _shape(graph: Graph, entry: Sequence) -> tuple[int, ...]:
    return graph.tensors[entry[0]][entry[1]].shape


def _latency(graph: Graph, i: int) -> str:
    return operator_of(graph.nodes[i]["op"]).latency


def _how(graph: Graph, i: int) -> str:
    """Return how a unit that starts with a node depends on widths."""
    node = graph.nodes[i]
    data, out = data_inputs(graph, i), graph.tensors[i][0].shape
    shapes = [_shape(graph, node["inputs"][k]) for k in data]
    form = _latency(graph, i)
    if form in (LAYER, DENSE) and data == [0]:
        tied = form == LAYER and whole_groups(node["attrs"], shapes[0][1])
        return "tied" if tied else "layer"
    whole = {s[1] for s in shapes if len(s) > 1} == set(out[1:2])
    channelwise = form in (CHANNELWISE, FOLLOWER)
    # Of operators with parameters only BatchNorm's follow from the width alone.
    plain = len(data) == len(node["inputs"])
    plain = plain or operator_of(node["op"]).running_statistics
    if whole and channelwise and plain:
        axes = {t.axis for t in (graph.tensor(node["inputs"][k]) for k in data)}
        return "tied" if axes <= {1, None} else "rest"
    return "rest"


def _unit(graph: Graph, nodes: tuple[int, ...]) -> Unit:
    first = graph.nodes[nodes[0]]
    how, attrs = _how(graph, nodes[0]), first["attrs"]
    data = first["inputs"][data_inputs(graph, nodes[0])[0]]
    groups, step, note = attribute(attrs, "num_group", 1), 1, ""
    if how == "layer":
        inputs, outputs = _ends(graph, nodes[0])
        step = groups
        note = f" groups={groups}" if groups > 1 else ""
    elif how == "tied":
        inputs, outputs = _side(graph, data, 1), NOTHING
        if _latency(graph, nodes[0]) == LAYER:
            step = inputs.full // groups
            out = graph.tensors[nodes[0]][0].shape[1]
            note = f" groups of {step} to {out // groups}"
    else:
        whole = graph.tensors[nodes[0]][0]
        first_axis = min(1, len(whole.shape) - 1)
        axis = first_axis if whole.axis is None else whole.axis
        inputs, outputs = _side(graph, [nodes[0], 0], axis), NOTHING
    return Unit(_kind(graph, nodes, how) + note, how, nodes, inputs, outputs, step)


def _ends(graph: Graph, i: int) -> tuple[Side, Side]:
    """Return the sides of a layer; a dense one counts the features that go in."""
    node = graph.nodes[i]
    out = graph.tensors[i][0]
    if _latency(graph, i) != DENSE:
        return _side(graph, node["inputs"][0], 1), _side(graph, [i, 0], 1)
    weight = node["inputs"][1]
    name, full = graph.nodes[weight[0]]["name"], _shape(graph, weight)[1]
    along = [t for t in graph.axes.get(name, ()) if t.axis == 1]
    return Side(full, *along[:1]), _side(graph, [i, 0], len(out.shape) - 1)


def _side(graph: Graph, entry: Sequence, axis: int) -> Side:
    tensor = graph.tensors[entry[0]][entry[1]]
    return Side(tensor.shape[axis], tensor if tensor.axis == axis else None)


def _kind(graph: Graph, nodes: tuple[int, ...], how: str) -> str:
    """Return the text that tells units apart, without their widths."""
    words = []
    for i in nodes:
        node = graph.nodes[i]
        attrs = [
            f"{key}={value}"
            for key, value in sorted(node["attrs"].items())
            if key not in SILENT and not key.startswith("__")
        ]
        words.append(" ".join([node["op"], *attrs]))
    shapes = _data_shapes(graph, nodes[0], how, None)
    places = ["x".join("C" if n is None else str(n) for n in s) for s in shapes]
    return " + ".join(words) + " on " + ", ".join(places)


def _data_shapes(graph: Graph, i: int, how: str, width: int | None) -> list[tuple]:
    """Return the shapes of a node's computed inputs with so many channels."""
    node = graph.nodes[i]
    shapes = [_shape(graph, node["inputs"][k]) for k in data_inputs(graph, i)]
    if how == "rest":
        return shapes
    if _latency(graph, i) == DENSE:
        kept = shapes[0][:1]
        if not attribute(node["attrs"], "flatten", True):
            kept = shapes[0][:-1]
        return [(*kept, width)]
    return [(s[0], width, *s[2:]) for s in shapes]


def copies(
    graph: Graph, unit: Unit, widths: Sequence[int], count: int
) -> tuple[mx.sym.Symbol, dict[str, tuple]]:
    """Return a net of so many copies of a unit side by side.

    All read the same inputs, which thin convolutions make where they are maps: so
    they come in a memory layout as convolutions leave it. Each copy has weights of
    its own. Without any copy the net puts out these inputs.

    Parameters
    ----------
    graph : Graph
    unit : Unit
        Of this graph.
    widths : sequence of int
        Channels that go in, and that come out.
    count : int

    Returns
    -------
    (Symbol, dict)
        The net, and the shapes of its inputs, which are named ``data0`` and so on, and
        of those parameters whose shapes do not follow from them.
    """
    shapes = _data_shapes(graph, unit.nodes[0], unit.how, widths[0])
    nodes, given, sources = [], {}, []
    for k, shape in enumerate(shapes):
        nodes.append(_variable(f"data{k}"))
        sources.append([len(nodes) - 1, 0, 0])
        given[f"data{k}"] = shape
        if len(shape) == 4 and unit.how != "rest":
            given[f"data{k}"] = (shape[0], 1, *shape[2:])
            nodes.append(_variable(f"entry{k}_weight"))
            made = {"num_filter": str(shape[1]), "kernel": "(1, 1)", "no_bias": "True"}
            ends = [sources[-1], [len(nodes) - 1, 0, 0]]
            nodes.append(_node("Convolution", f"entry{k}", made, ends))
            sources[-1] = [len(nodes) - 1, 0, 0]
    heads = [] if count else sources
    for number in range(count):
        prefix = f"copy{number}_"
        heads.append(_copy(graph, unit, widths, (nodes, sources, prefix, given)))
    return put_together(nodes, heads), given


def _copy(graph: Graph, unit: Unit, widths: Sequence[int], place: tuple) -> list:
    """Append a copy of a unit to nodes; return its output."""
    nodes, sources, prefix, given = place
    last: list = []
    for i in unit.nodes:
        node, ends = graph.nodes[i], []
        data = data_inputs(graph, i)
        for k, _ in enumerate(node["inputs"]):
            if k in data:
                ends.append(last or sources[data.index(k)])
            else:
                name = f"{prefix}{i}_{k}"
                if unit.how == "rest":  # the other shapes follow from the widths
                    given[name] = _shape(graph, node["inputs"][k])
                nodes.append(_variable(name))
                ends.append([len(nodes) - 1, 0, 0])
        attrs = {k: v for k, v in node["attrs"].items() if not k.startswith("__")}
        if i == unit.nodes[0]:
            attrs.update(_resized(graph, unit, widths))
        nodes.append(_node(node["op"], f"{prefix}{i}", attrs, ends))
        last = [len(nodes) - 1, 0, 0]
    return last


def _resized(graph: Graph, unit: Unit, widths: Sequence[int]) -> dict[str, str]:
    """Return the attributes of a layer's node that widths change."""
    node, form = graph.nodes[unit.nodes[0]], _latency(graph, unit.nodes[0])
    if form not in (LAYER, DENSE) or unit.how == "rest":
        return {}
    if form == DENSE:
        return {"num_hidden": str(widths[1])}
    if unit.how == "layer":
        return {"num_filter": str(widths[1])}
    groups = attribute(node["attrs"], "num_group", 1)
    out = graph.tensors[unit.nodes[0]][0].shape[1]
    left = widths[0] // unit.step
    return {"num_group": str(left), "num_filter": str(left * (out // groups))}


def _variable(name: str) -> dict:
    return {"op": "null", "name": name, "attrs": {}, "inputs": []}


def _node(op: str, name: str, attrs: Mapping, inputs: list) -> dict:
    return {"op": op, "name": name, "attrs": dict(attrs), "inputs": inputs}


def knots(unit: Unit) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the widths at which a unit is timed: those that go in, and come out."""
    if unit.how == "rest":
        full = unit.inputs.full
        return ((full,) if unit.inputs.tensor is None else (0, full)), (0,)
    return _knots(unit.inputs, unit.least), _knots(unit.outputs, unit.least)


def _knots(side: Side, least: int) -> tuple[int, ...]:
    """Return a block, about a quarter, a half and three quarters, and all."""
    if side.tensor is None:
        return (side.full,)
    # Quarters are rounded up to even blocks where that leaves them apart.
    wide = 2 * least if side.full >= 8 * least else least
    shares = [-(-side.full * quarter // (4 * wide)) * wide for quarter in (1, 2, 3)]
    return tuple(sorted({n for n in (least, *shares) if n < side.full} | {side.full}))
