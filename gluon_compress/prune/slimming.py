"""A net without the channels that a plan does not keep."""

from __future__ import annotations

from typing import Any, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph, Tensor, form_of, trace, trace_any
from gluon_compress.graph.context import (
    GROUPED,
    attribute,
    numbers,
    tied_groups,
    whole_groups,
)
from gluon_compress.graph.symbols import CONSTANT, output_shapes, put_together
from gluon_compress.plan import Plan


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

    Notes
    -----
    MXNet 1.9.1 on a CPU fails, or crashes, when it trains a concatenation of feature
    maps whose channels are no multiples of 16 (and runs ``slice`` on one), in slim
    nets as in any other. ``select`` keeps multiples of 16 by default.
    """
    graph = traced(net, plan, shape)
    alive = graph.alive(plan.keep if plan else {})
    nodes = [slim_node(graph, i, alive) for i in range(len(graph.nodes))]
    params = {name: _slim_value(graph, name, alive) for name in graph.params}
    _check_slim(graph, nodes, params, alive)
    return rebuilt(net, graph, put_together(nodes, graph.heads), params)


def traced(net: Any, plan: Plan | None, shape: Sequence | None) -> Graph:
    """Return the graph of a net that has values and that a plan fits."""
    graph = trace_any(net) if shape is None else trace(net, shape)
    for name, value in graph.params.items():
        if value is None:
            raise ValueError(f"parameter {name!r} has no value: initialise the net")
    if plan is not None:
        plan.check(graph)
    return graph


def rebuilt(net: Any, graph: Graph, symbol: mx.sym.Symbol, params: dict) -> Any:
    """Return a net of a symbol, trained as the one it came from; new values are not."""
    result = form_of(net).rebuild(net, symbol, params)
    added = set(params) - set(graph.params)
    for parameter in result.collect_params().values():
        setting = graph.settings.get(parameter.name)
        if setting is not None:
            parameter.grad_req = setting.grad_req
            parameter.lr_mult, parameter.wd_mult = setting.lr_mult, setting.wd_mult
        elif parameter.name in added:
            parameter.grad_req = "null"
    devices = _devices(net)
    if len(devices) > 1:  # a graph has the values of the first
        result.collect_params().reset_ctx(devices)
    return result


def _devices(net: Any) -> list[mx.Context]:
    """Return the devices that a net's parameters lie on."""
    if isinstance(net, tuple):
        return []
    known = (p for p in net.collect_params().values() if p._data is not None)
    return next((p.list_ctx() for p in known), [])


def slim_node(graph: Graph, i: int, alive: np.ndarray) -> dict:
    """Return a node with the attributes it has when only ``alive`` is kept."""
    node = graph.nodes[i]
    # Declared shapes have the old widths and would contradict the new ones.
    attrs = {k: v for k, v in node["attrs"].items() if k != "__shape__"}
    if node["op"] in REWRITES:
        attrs.update(REWRITES[node["op"]](_Cut(graph, i, alive)))
    setting = graph.settings.get(node["name"])
    if node["op"] == "null" and setting is not None and setting.constant:
        attrs[CONSTANT] = "1"
    return {**node, "attrs": attrs}


def _slim_value(graph: Graph, name: str, alive: np.ndarray) -> mx.nd.NDArray:
    value = graph.params[name]
    if name not in graph.axes:
        return value
    array = value.asnumpy()
    axes = graph.axes[name]
    if name in graph.blocks:
        blocks = alive[graph.blocks[name]]
        parts = np.split(array, len(blocks))
        array = np.concatenate([p[:, kept] for p, kept in zip(parts, blocks)])
        axes = [along for along in axes if along.axis != 1]
    for along in axes:
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
    new = {"num_filter": str(outs), "num_group": str(total // inner)}
    if tied_groups(cut.node["attrs"]):
        whole = whole_groups(cut.node["attrs"], cut.input(0).shape[1])
        new[GROUPED] = "whole" if whole else "each"
    return new


def _deformable(cut: _Cut) -> dict:
    return {"num_filter": str(cut.out()[1])}


def _dense(cut: _Cut) -> dict:
    return {"num_hidden": str(cut.out()[-1])}


def _embedding(cut: _Cut) -> dict:
    return {"output_dim": str(cut.out()[-1])}


def _slice_axis(cut: _Cut) -> dict:
    axis = cut.attr("axis") % len(cut.input(0).shape)
    ends = {key: cut.moved(axis, cut.attr(key)) for key in ("begin", "end")}
    return {key: str(value) for key, value in ends.items()}


def _slice(cut: _Cut) -> dict:
    ends = {key: numbers(cut.node["attrs"], key) for key in ("begin", "end")}
    return {
        key: str(tuple(cut.moved(axis, p) for axis, p in enumerate(positions)))
        for key, positions in ends.items()
    }


def _split(cut: _Cut) -> dict:
    axis = cut.attr("axis", 1) % len(cut.input(0).shape)
    indices = numbers(cut.node["attrs"], "indices")
    moved = [cut.moved(axis, position) for position in indices]
    return {"indices": str(moved)} if indices else {}


def _broadcast(cut: _Cut) -> dict:
    sizes = zip(numbers(cut.node["attrs"], "shape"), cut.out())
    return {"shape": str(tuple(new if old else 0 for old, new in sizes))}


def _reshape(cut: _Cut) -> dict:
    """Replace the numbers of the shape that stand for axes that lose channels."""
    shape, lost = list(numbers(cut.node["attrs"], "shape")), cut.outputs[0].axis
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
    "_contrib_DeformableConvolution": _deformable,
    "_contrib_ModulatedDeformableConvolution": _deformable,
    "Embedding": _embedding,
    "slice_axis": _slice_axis,
    "slice": _slice,
    "_split_v2": _split,
    "broadcast_to": _broadcast,
    "Reshape": _reshape,
    "reshape": _reshape,
}
