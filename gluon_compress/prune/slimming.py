"""Slims nets: removes the channels that a plan does not keep."""

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
        Not changed. Its channel masks are dropped. Weight masks and fake quantisers
        stay; their parameters are cut like the tensors they belong to.
    plan : Plan or None
        None keeps everything.
    shape : tuple or dict, optional
        Shape of the input, as for ``trace``; needed unless the net states it.
    graph : Graph, optional
        The graph of this net with its current values, to avoid tracing it again.

    Returns
    -------
    HybridBlock
        Of the same kind as the net; a SymbolBlock for most.

    Raises
    ------
    ValueError
        If the plan does not fit the net, the net has no values, or the shape is needed.

    Notes
    -----
    MXNet 1.9.1 on a CPU fails or crashes when it trains any net that concatenates
    feature maps whose channels are not multiples of 16 (and when it runs ``slice`` on
    one). ``select`` keeps multiples of 16 by default.
    """
    graph = traced(net, plan, shape, graph)
    keep_mask = graph.keep_mask(plan.keep if plan else {})
    nodes = [slim_node(graph, i, keep_mask) for i in range(len(graph.nodes))]
    params = {name: _slim_value(graph, name, keep_mask) for name in graph.params}
    _check_slim(graph, nodes, params, keep_mask)
    values = _slim_annotations(graph, keep_mask)
    nodes = _with_annotations(graph, nodes, values)
    symbol = put_together(nodes, graph.annotated.heads)
    return rebuild(net, graph, symbol, {**params, **values})


def traced(
    net: Any, plan: Plan | None, shape: Any = None, graph: Graph | None = None
) -> Graph:
    """Return the graph of a net, after checking its values and that a plan fits."""
    graph = trace(net, shape) if graph is None else graph
    for name, value in (*graph.params.items(), *graph.annotated.params.items()):
        if value is None:
            raise ValueError(f"parameter {name!r} has no value: initialise the net")
    if plan is not None:
        plan.check(graph)
    return graph


def slim_node(graph: Graph, i: int, keep_mask: np.ndarray) -> dict:
    """Return a node with its attributes under a keep mask."""
    node = graph.nodes[i]
    attrs = {k: v for k, v in node["attrs"].items() if k != "__shape__"}
    declared = "__shape__" in node["attrs"] and node["name"] in graph.params
    if node["op"] == "null" and (declared or node["name"] in graph.annotated.targets):
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
    """Return the part of a value for the channels that are kept.

    Parameters
    ----------
    value : NDArray
        Its axes lie along ``axes`` of its tensor; axes of length 1 are not cut.
    tensors : sequence of Tensor
        The axes of that tensor that lose channels.
    blocks : ndarray or None
        Positions along the second axis for each block of rows, if they differ.
    """
    array = value.asnumpy()
    # Blocks refer to all rows, so the second axis is cut first.
    for tensor in sorted(tensors, key=lambda tensor: tensor.axis != 1):
        if tensor.axis is None or tensor.axis not in axes:
            continue
        axis = list(axes).index(tensor.axis)
        if array.shape[axis] == 1 and tensor.shape[tensor.axis] > 1:
            continue
        if tensor.axis == 1 and blocks is not None:
            parts = np.split(array, len(blocks), list(axes).index(0))
            parts = [np.compress(keep_mask[b], p, axis) for p, b in zip(parts, blocks)]
            array = np.concatenate(parts, list(axes).index(0))
        else:
            array = np.compress(keep_mask[tensor.positions], array, axis)
    return mx.nd.array(array, ctx=value.ctx, dtype=value.dtype)


def _slim_annotations(graph: Graph, keep_mask: np.ndarray) -> dict[str, mx.nd.NDArray]:
    """Return the parameters of annotations, cut like the annotated tensors."""
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
    """Return slim nodes together with the graph's annotations."""
    result = []
    for number, node in zip(graph.annotated.plain, graph.annotated.nodes):
        attrs = node["attrs"] if number < 0 else nodes[number]["attrs"]
        if is_parameter(node):
            attrs = {**attrs, "__shape__": str(values[node["name"]].shape)}
        result.append({**node, "attrs": attrs})
    return result


def _check_slim(graph: Graph, nodes: list, params: dict, keep_mask: np.ndarray) -> None:
    """Check that MXNet infers the shapes that the groups predict."""
    stated = {**graph.inputs, **{name: v.shape for name, v in params.items()}}
    inferred = output_shapes(nodes, graph.heads, stated)
    for node, shapes, tensors in zip(nodes, inferred, graph.tensors):
        expected = [t.kept_shape(keep_mask) for t in tensors]
        assert node["op"] == "null" or shapes == expected, (node, shapes, expected)
