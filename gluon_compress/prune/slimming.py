"""Slimming: a net without the channels that a plan does not keep."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph, Tensor, rebuild, trace
from gluon_compress.graph.annotations import is_parameter, parameter_axes
from gluon_compress.graph.context import SlimContext
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import output_shapes, put_together
from gluon_compress.graph.tracing import with_constant_mark
from gluon_compress.plan import Plan


def slim(
    net: Any, plan: Plan | None, *, shape: Any = None, graph: Graph | None = None
) -> Any:
    """Return a net without the channels that a plan does not keep.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Left as it is. Channel masks in it are dropped. Masks of single weights and fake
        quantisers stay; their parameters are cut like the tensors they belong to.
    plan : Plan or None
        None keeps everything.
    shape : tuple or dict, optional
        Shape of the input, as for ``trace``; needed unless the net states it.
    graph : Graph, optional
        Of this net with its present values, so that it is not traced again.

    Returns
    -------
    HybridBlock
        What the net's adapter rebuilds, a SymbolBlock for most.

    Raises
    ------
    ValueError
        If the plan does not fit the net, the net has no values, or the shape is needed.

    Notes
    -----
    MXNet 1.9.1 on a CPU fails, or crashes, when it trains a concatenation of feature
    maps whose channels are no multiples of 16 (and runs ``slice`` on one), in slim
    nets as in any other. ``select`` keeps multiples of 16 by default.
    """
    graph = traced(net, plan, shape, graph)
    keep_mask = graph.keep_mask(plan.keep if plan else {})
    nodes = [slim_node(graph, i, keep_mask) for i in range(len(graph.nodes))]
    params = {name: _slim_value(graph, name, keep_mask) for name in graph.params}
    _check_slim(graph, nodes, params, keep_mask)
    own = _slim_annotations(graph, keep_mask)
    symbol = put_together(_with_annotations(graph, nodes, own), graph.annotated.heads)
    return rebuild(net, graph, symbol, {**params, **own})


def traced(
    net: Any, plan: Plan | None, shape: Any = None, graph: Graph | None = None
) -> Graph:
    """Return the graph of a net that has values and that a plan fits."""
    graph = trace(net, shape) if graph is None else graph
    for name, value in (*graph.params.items(), *graph.annotated.params.items()):
        if value is None:
            raise ValueError(f"parameter {name!r} has no value: initialise the net")
    if plan is not None:
        plan.check(graph)
    return graph


def slim_node(graph: Graph, i: int, keep_mask: np.ndarray) -> dict:
    """Return a node with the attributes it has when only ``keep_mask`` is kept."""
    node = graph.nodes[i]
    # Declared shapes have the old widths and would contradict the new ones.
    attrs = {k: v for k, v in node["attrs"].items() if k != "__shape__"}
    if node["op"] == "null" and node["name"] in graph.annotated.targets:
        attrs["__shape__"] = str(graph.kept_shape((i, 0), keep_mask))
    rewrite = operator_of(node["op"]).rewrite
    if rewrite is not None:
        attrs.update(rewrite(_context(graph, i, keep_mask)))
    return with_constant_mark({**node, "attrs": attrs}, graph.settings)


def _context(graph: Graph, i: int, keep_mask: np.ndarray) -> SlimContext:
    node, outputs = graph.nodes[i], graph.tensors[i]
    return SlimContext(
        node["attrs"],
        [graph.tensor(entry) for entry in node["inputs"]],
        outputs,
        keep_mask,
        [graph.kept_shape(entry, keep_mask) for entry in node["inputs"]],
        [tensor.kept_shape(keep_mask) for tensor in outputs],
    )


def _slim_value(graph: Graph, name: str, keep_mask: np.ndarray) -> mx.nd.NDArray:
    value = graph.params[name]
    if name not in graph.axes:
        return value
    return _cut(
        value, range(value.ndim), graph.axes[name], graph.blocks.get(name), keep_mask
    )


def _cut(
    value: mx.nd.NDArray,
    axes: Sequence[int],
    tensors: Sequence[Tensor],
    blocks: np.ndarray | None,
    keep_mask: np.ndarray,
) -> mx.nd.NDArray:
    """Return the part of a value that lies along the channels that stay.

    Parameters
    ----------
    value : NDArray
        The axes of the tensor it belongs to are ``axes``; lengths of 1 stay.
    tensors : sequence of Tensor
        The axes of that tensor that lose channels.
    blocks : ndarray or None
        Positions along the second axis, block by block of rows, where these differ.
    """
    array = value.asnumpy()
    # Blocks are blocks of all rows: the second axis comes first.
    for tensor in sorted(tensors, key=lambda tensor: tensor.axis != 1):
        if tensor.axis is None or tensor.axis not in axes:
            continue
        axis = list(axes).index(tensor.axis)
        if array.shape[axis] == 1 and tensor.shape[tensor.axis] > 1:
            continue
        if tensor.axis == 1 and blocks is not None:
            parts = np.split(array, len(blocks), list(axes).index(0))
            kept = [np.compress(keep_mask[b], p, axis) for p, b in zip(parts, blocks)]
            array = np.concatenate(kept, list(axes).index(0))
        else:
            array = np.compress(keep_mask[tensor.positions], array, axis)
    return mx.nd.array(array, ctx=value.ctx, dtype=value.dtype)


def _slim_annotations(graph: Graph, keep_mask: np.ndarray) -> dict[str, mx.nd.NDArray]:
    """Return the values of the annotations' parameters, cut like what they annotate."""
    annotated, values = graph.annotated, {}
    variables = {node["name"]: node for node in annotated.nodes if is_parameter(node)}
    for annotation in annotated.annotations if variables else ():
        i, output = annotated.plain[annotation.source[0]], annotation.source[1]
        tensors, blocks = [graph.tensors[i][output]], None
        if annotation.target in graph.params:
            tensors = graph.axes.get(annotation.target, [])
            blocks = graph.blocks.get(annotation.target)
        for name in annotation.parameters:
            value, axes = annotated.params[name], parameter_axes(variables[name])
            lengths = dict(zip(axes, value.shape))
            if blocks is not None and lengths.get(1, 1) > 1 == lengths.get(0, 1):
                raise ValueError(
                    f"annotation parameter {name!r} lies along input channels, and the "
                    f"groups of {annotation.target!r} lose different ones"
                )
            values[name] = _cut(value, axes, tensors, blocks, keep_mask)
    return values


def _with_annotations(graph: Graph, nodes: Sequence[dict], values: Mapping) -> list:
    """Return slim nodes with the graph's annotations among them."""
    result = []
    for number, node in zip(graph.annotated.plain, graph.annotated.nodes):
        attrs = node["attrs"] if number < 0 else nodes[number]["attrs"]
        if is_parameter(node):
            attrs = {**attrs, "__shape__": str(values[node["name"]].shape)}
        result.append({**node, "attrs": attrs})
    return result


def _check_slim(graph: Graph, nodes: list, params: dict, keep_mask: np.ndarray) -> None:
    """Check that MXNet infers the shapes that the groups promise."""
    known = {**graph.inputs, **{name: v.shape for name, v in params.items()}}
    found = output_shapes(nodes, graph.heads, known)
    for node, shapes, tensors in zip(nodes, found, graph.tensors):
        promised = [t.kept_shape(keep_mask) for t in tensors]
        assert node["op"] == "null" or shapes == promised, (node, shapes, promised)
