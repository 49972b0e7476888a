"""A plan applied to a net: as masks, which can be taken back, or by cutting."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph, Tensor, form_of, symbol_of, trace, trace_any
from gluon_compress.nodes import (
    MASK,
    mask_names,
    output_shapes,
    put_together,
    take_apart,
)
from gluon_compress.plan import Plan
from gluon_compress.rules import attribute
from gluon_compress.zeros import Demand


def slim(net: Any, plan: Plan | None, *, shape: Sequence | None = None) -> Any:
    """Return a net without the channels that a plan does not keep.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Left as it is. Masks in it are dropped.
    plan : Plan or None
        None keeps everything.
    shape : tuple, optional
        Shape of the input; by default the first usual one that fits the net.

    Returns
    -------
    HybridBlock
        What the net's form rebuilds, a SymbolBlock for most.

    Raises
    ------
    ValueError
        If the plan does not fit the net, or the net has no values.
    """
    graph = _graph(net, plan, shape)
    alive = graph.alive(plan.keep if plan else {})
    nodes = [_slim_node(graph, i, alive) for i in range(len(graph.nodes))]
    params = {name: _slim_value(graph, name, alive) for name in graph.params}
    _check_slim(graph, nodes, params, alive)
    return _rebuild(net, graph, put_together(nodes, graph.heads), params)


def mask(net: Any, plan: Plan | None, *, shape: Sequence | None = None) -> Any:
    """Return a net whose channels outside a plan are multiplied by zero.

    Every group that may lose channels gets one parameter ``<group>_mask`` of ones and
    zeros that is not trained; ``set_mask`` changes it. In inference the net's outputs
    are those of ``slim``.

    Parameters
    ----------
    net, plan, shape
        As for ``slim``.

    Raises
    ------
    ValueError
        If the plan does not fit the net, or the net has no values.
    """
    graph = _graph(net, plan, shape)
    writer = _MaskWriter(graph)
    values = _mask_values(graph, plan)
    sample = next(iter(graph.params.values()))
    params = dict(graph.params)
    for name, value in {**values, **writer.indices}.items():
        params[name] = mx.nd.array(value, ctx=sample.ctx, dtype="float32")
    symbol = put_together(writer.nodes, writer.heads)
    used = set(symbol.list_inputs())
    params = {name: value for name, value in params.items() if name in used}
    return _rebuild(net, graph, symbol, params)


def set_mask(net: Any, plan: Plan | None, *, shape: Sequence | None = None) -> None:
    """Change which channels of a masked net are alive, in place.

    Parameters
    ----------
    net : HybridBlock
        What ``mask`` returned.
    plan : Plan or None
        None brings every channel back.
    shape : tuple, optional
        As for ``slim``.

    Raises
    ------
    ValueError
        If the net has no masks or the plan does not fit it.
    """
    nodes, _ = take_apart(symbol_of(net))
    names = mask_names(nodes)
    if not names:
        raise ValueError("the net has no masks; mask(net, plan) returns one that has")
    values = _mask_values(_graph(net, plan, shape), plan)
    parameters = {p.name: p for p in net.collect_params().values()}
    for name in names.values():
        parameters[name].set_data(mx.nd.array(values[name]))


def _graph(net: Any, plan: Plan | None, shape: Sequence | None) -> Graph:
    graph = trace_any(net) if shape is None else trace(net, shape)
    for name, value in graph.params.items():
        if value is None:
            raise ValueError(f"parameter {name!r} has no value: initialise the net")
    if plan is not None:
        plan.check(graph)
    return graph


def _rebuild(net: Any, graph: Graph, symbol: mx.sym.Symbol, params: dict) -> Any:
    result = form_of(net).rebuild(net, symbol, params)
    added = set(params) - set(graph.params)
    for parameter in result.collect_params().values():
        setting = graph.settings.get(parameter.name)
        if setting is not None:
            parameter.grad_req = setting.grad_req
            parameter.lr_mult, parameter.wd_mult = setting.lr_mult, setting.wd_mult
        elif parameter.name in added:
            parameter.grad_req = "null"
    return result


# -- slimming ----------------------------------------------------------------------


def _slim_node(graph: Graph, i: int, alive: np.ndarray) -> dict:
    node = graph.nodes[i]
    # Declared shapes have the old widths and would contradict the new ones.
    attrs = {k: v for k, v in node["attrs"].items() if k != "__shape__"}
    if node["op"] in REWRITES:
        attrs.update(REWRITES[node["op"]](_Cut(graph, i, alive)))
    return {**node, "attrs": attrs}


def _slim_value(graph: Graph, name: str, alive: np.ndarray) -> mx.nd.NDArray:
    value = graph.params[name]
    if name not in graph.axes:
        return value
    array = value.asnumpy()
    for along in graph.axes[name]:
        array = np.compress(alive[along.places], array, along.axis)
    return mx.nd.array(array, ctx=value.ctx, dtype=value.dtype)


def _check_slim(graph: Graph, nodes: list, params: dict, alive: np.ndarray) -> None:
    """Compare the shapes that MXNet infers with those the groups promise."""
    known = {**graph.inputs, **{name: v.shape for name, v in params.items()}}
    found = output_shapes(nodes, graph.heads, known)
    for node, shapes, tensors in zip(nodes, found, graph.tensors):
        promised = [t.kept(alive) for t in tensors]
        assert node["op"] == "null" or shapes == promised, (node, shapes, promised)


class _Cut:
    """A node that loses channels, as its rewriting sees it."""

    def __init__(self, graph: Graph, i: int, alive: np.ndarray) -> None:
        self.graph, self.alive = graph, alive
        self.node, self.outputs = graph.nodes[i], graph.tensors[i]

    def attr(self, key: str, default: Any = None) -> Any:
        return attribute(self.node["attrs"], key, default)

    def input(self, k: int) -> Tensor:
        return self.graph.tensor(self.node["inputs"][k])

    def shape(self, k: int) -> tuple:
        return self.graph.kept_shape(self.node["inputs"][k], self.alive)

    def out(self) -> tuple:
        return self.outputs[0].kept(self.alive)

    def moved(self, axis: int, position: int | None) -> int | None:
        """Return where a position along an axis of input 0 is after the cut."""
        tensor = self.input(0)
        if position is None or tensor.axis != axis:
            return position
        length = tensor.shape[axis]
        position = position + length if position < 0 else min(position, length)
        return int(self.alive[tensor.places[:position]].sum())


def _convolution(cut: _Cut) -> dict:
    outs, inner = cut.out()[1], cut.shape(1)[1]
    total = outs if cut.node["op"] == "Deconvolution" else cut.shape(0)[1]
    return {"num_filter": str(outs), "num_group": str(total // inner)}


def _dense(cut: _Cut) -> dict:
    return {"num_hidden": str(cut.out()[-1])}


def _embedding(cut: _Cut) -> dict:
    return {"output_dim": str(cut.out()[-1])}


def _slice_axis(cut: _Cut) -> dict:
    axis = cut.attr("axis") % len(cut.input(0).shape)
    ends = {key: cut.moved(axis, cut.attr(key)) for key in ("begin", "end")}
    return {key: str(value) for key, value in ends.items()}


def _slice(cut: _Cut) -> dict:
    ends = {key: cut.attr(key) for key in ("begin", "end")}
    return {
        key: str(tuple(cut.moved(axis, p) for axis, p in enumerate(positions)))
        for key, positions in ends.items()
    }


def _split(cut: _Cut) -> dict:
    axis = cut.attr("axis", 1) % len(cut.input(0).shape)
    indices = cut.attr("indices", ())
    moved = [cut.moved(axis, position) for position in indices]
    return {"indices": str(moved)} if indices else {}


def _broadcast(cut: _Cut) -> dict:
    sizes = zip(cut.attr("shape"), cut.out())
    return {"shape": str(tuple(new if old else 0 for old, new in sizes))}


def _reshape(cut: _Cut) -> dict:
    """Replace the numbers of the shape that stand for axes that lose channels."""
    shape, lost = list(cut.attr("shape", ())), cut.outputs[0].axis
    if lost is not None:
        for position, axis in written_axes(shape, len(cut.input(0).shape)):
            if axis == lost:
                shape[position] = cut.out()[axis]
    return {"shape": str(tuple(shape))} if shape else {}


def written_axes(shape: Sequence[int], ndim: int) -> list[tuple[int, int]]:
    """Return (position, output axis) of the plain numbers in a Reshape's shape.

    Parameters
    ----------
    shape : sequence of int
        With MXNet's codes: 0 copies an axis, -1 is inferred, -2 copies the rest, -3
        joins two axes, -4 splits one into the two numbers that follow.
    ndim : int
        Of the input.
    """
    found, read, made, position = [], 0, 0, 0
    while position < len(shape):
        code = shape[position]
        if code == -4:
            pair = ((position + 1, made), (position + 2, made + 1))
            found += [at for at in pair if shape[at[0]] > 0]
            position += 2
        elif code > 0:
            found.append((position, made))
        made += {-2: ndim - read, -4: 2}.get(code, 1)
        read += {-2: ndim - read, -3: 2}.get(code, 1)
        position += 1
    return found


REWRITES = {
    "Convolution": _convolution,
    "Convolution_v1": _convolution,
    "Deconvolution": _convolution,
    "FullyConnected": _dense,
    "Embedding": _embedding,
    "slice_axis": _slice_axis,
    "slice": _slice,
    "_split_v2": _split,
    "broadcast_to": _broadcast,
    "Reshape": _reshape,
    "reshape": _reshape,
}


# -- masks -------------------------------------------------------------------------


def _mask_values(graph: Graph, plan: Plan | None) -> Mapping[str, np.ndarray]:
    alive = graph.alive(plan.keep if plan else {})
    return {
        _mask_name(group.name): alive[graph.places(group)].astype(np.float32)
        for group in graph.groups
        if not group.frozen
    }


def _mask_name(group: str) -> str:
    return f"{group}_mask"


class _MaskWriter:
    """The nodes of a graph with masks written in."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.demand = graph, Demand(graph)
        self.nodes: list[dict] = []
        self.indices: dict[str, np.ndarray] = {}
        self.variables: dict[str, int] = {}
        self.where: dict[int, int] = {}
        self.products: dict[tuple, int] = {}
        whole = graph.alive({})
        for i in range(len(graph.nodes)):
            node = _slim_node(graph, i, whole)
            self.where[i] = self._add({**node, "inputs": self._inputs(i, node)})
            for place in sorted(p for p in self.demand.masked if p[0] == i):
                self.products[place] = self._product(place)
        self.heads = [[self.where[h[0]], *h[1:]] for h in graph.heads]

    def _inputs(self, i: int, node: dict) -> list:
        result = []
        for k, entry in enumerate(node["inputs"]):
            product = self.products.get((entry[0], entry[1]))
            if product is not None and (i, k) in self.demand.edges:
                result.append([product, 0, 0])
            else:
                result.append([self.where[entry[0]], *entry[1:]])
        return result

    def _add(self, node: dict) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _op(self, op: str, name: str, inputs: Sequence[int], **attrs: Any) -> int:
        texts = {key: str(value) for key, value in attrs.items()}
        entries = [[i, 0, 0] for i in inputs]
        return self._add({"op": op, "name": name, "attrs": texts, "inputs": entries})

    def _variable(self, name: str, group: str, length: int) -> int:
        if name not in self.variables:
            shape = f"({length},)"
            attrs = {MASK: group, "__shape__": shape, "__dtype__": "0"}
            node = {"op": "null", "name": name, "attrs": attrs, "inputs": []}
            self.variables[name] = self._add(node)
        return self.variables[name]

    def _product(self, place: tuple) -> int:
        tensor = self.graph.tensor(place)
        name = self.graph.nodes[place[0]]["name"] + (f"_{place[1]}" if place[1] else "")
        vector = self._vector(tensor.places, name)
        shape = [1] * len(tensor.shape)
        shape[tensor.axis] = -1
        mask = self._op("Reshape", f"{name}_mask", [vector], shape=tuple(shape))
        source = [self.where[place[0]], place[1], 0]
        product = {"op": "broadcast_mul", "name": f"{name}_masked", "attrs": {}}
        return self._add({**product, "inputs": [source, [mask, 0, 0]]})

    def _in_order(self, places: np.ndarray) -> list:
        """Return the groups that a tensor has, in the order they begin in it."""
        first = {}
        for group in self.graph.groups:
            here = np.isin(places, self.graph.places(group))
            if here.any():
                first[group] = int(np.argmax(here))
        return sorted(first, key=first.__getitem__)

    def _vector(self, places: np.ndarray, name: str) -> int:
        """Return the node of a vector of 1 and 0 for a tensor's channels."""
        groups = self._in_order(places)
        parts = [self._variable(_mask_name(g.name), g.name, g.width) for g in groups]
        order = np.concatenate([self.graph.places(g) for g in groups])
        if (places < 0).any():
            first = {"axis": 0, "begin": 0, "end": 1}
            one = self._op("slice_axis", f"{name}_one", parts[:1], **first)
            parts.append(self._op("ones_like", f"{name}_ones", [one]))
            order = np.append(order, -1)
        joined = parts[0]
        if len(parts) > 1:
            args = {"num_args": len(parts), "dim": 0}
            joined = self._op("Concat", f"{name}_masks", parts, **args)
        if np.array_equal(order, places):
            return joined
        position = {int(p): k for k, p in enumerate(order)}
        self.indices[f"{name}_places"] = np.array([position[int(p)] for p in places])
        index = self._variable(f"{name}_places", "", len(places))
        return self._op("take", f"{name}_order", [joined, index], axis=0)
