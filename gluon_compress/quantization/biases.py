"""Moves biases to whole steps of what an integer kernel adds them to.

A kernel sums products of levels in 32 bits. Its bias is such a sum too: a whole number
of steps, each the scale of the layer's input times that of the weight's channel. A net
whose biases lie on these steps computes what its integer files do. Others are half a
step off at most, which is some thousandths of a level of the output: enough to move
every few hundredth value to the next level.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Dict, Mapping

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph, pair_of, rebuild, symbol_of, trace
from gluon_compress.graph.context import attribute
from gluon_compress.graph.layers import Layer, effective_weights, layers_of
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import take_apart
from gluon_compress.quantization.levels import levels_of
from gluon_compress.quantization.placement import LAYERS, source_of, weight_axis
from gluon_compress.quantization.quantisers import is_quantised, quantisers_of
from gluon_compress.quantization.settings import NARROW

EPSILON = 1e-3  # MXNet's default of BatchNorm
LARGEST = 2**31 - 1


def with_whole_biases(net: Any, shape: Any = None) -> Any:
    """Return a quantised net whose biases are whole steps; BatchNorm's betas move.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Not changed. One without quantisers is returned as it is.
    shape : tuple, optional
        Of the input, unless the net states it.
    """
    if not is_quantised(take_apart(symbol_of(net))[0]):
        return net
    graph = trace(net, shape)
    symbol, params = pair_of(net)
    for name, value in whole_biases(graph).items():
        params[name] = mx.nd.array(value, ctx=params[name].context)
    return rebuild(net, graph, symbol, params)


def settle_biases(net: Any) -> None:
    """Move the biases of a quantised net in place, see ``with_whole_biases``."""
    if not is_quantised(take_apart(symbol_of(net))[0]):
        return
    parameters = {p.name: p for p in net.collect_params().values()}
    for name, value in whole_biases(trace(net)).items():
        parameters[name].set_data(mx.nd.array(value))


def whole_biases(graph: Graph) -> Dict[str, np.ndarray]:
    """Return the values of biases and betas that are whole steps, by name."""
    weights, scales = effective_weights(graph), _scales(graph)
    entries = [*graph.heads, *(e for node in graph.nodes for e in node["inputs"])]
    uses = Counter(_identity(graph, entry[0]) for entry in entries)
    norms = {
        node["inputs"][0][0]: node
        for node in graph.nodes
        if operator_of(node["op"]).running_statistics
    }
    result: Dict[str, np.ndarray] = {}
    for layer in layers_of(graph, LAYERS):
        source = source_of(graph.nodes, graph.nodes[layer.number]["inputs"][0][0])
        scale = scales.get(graph.nodes[source]["name"])
        alone = uses[layer.weight] == 1 and (layer.bias is None or uses[layer.bias] < 2)
        if scale is None or not alone:
            continue
        norm = norms.get(layer.number) if uses[layer.number] == 1 else None
        found = _moved(graph, layer, norm, weights, scale)
        if found is not None and uses[found[0]] == 1:
            result[found[0]] = found[1]
    return result


def _scales(graph: Graph) -> Dict[str, float]:
    """Return the scale of each quantised map by the name of the node that makes it."""
    values = {**graph.params, **graph.annotated.params}
    scales: Dict[str, set] = {}
    for row in quantisers_of(graph.annotated.nodes, values):
        if row.target not in graph.params:
            scales.setdefault(row.target, set()).add(float(row.scale[0]))
    return {name: min(found) for name, found in scales.items() if len(found) == 1}


def _identity(graph: Graph, i: int) -> int | str:
    node = graph.nodes[i]
    return node["name"] if node["op"] == "null" else i


def _moved(
    graph: Graph,
    layer: Layer,
    norm: Mapping | None,
    weights: Mapping[str, np.ndarray],
    scale: float,
) -> tuple[str, np.ndarray] | None:
    """Return the name and value of what makes a layer's bias whole; None: nothing."""
    weight, axis = weights[layer.weight], weight_axis(layer.op)
    channels = weight.shape[axis]
    shift, factor = np.zeros(channels), np.ones(channels)
    if layer.bias is not None:
        shift = _value(graph, layer.bias)
    name = layer.bias
    if norm is not None:
        names = [graph.nodes[entry[0]]["name"] for entry in norm["inputs"][1:5]]
        gamma, beta, mean, var = (_value(graph, each) for each in names)
        if attribute(norm["attrs"], "fix_gamma", True):
            gamma = np.ones_like(gamma)
        if len(gamma) != channels:
            return None
        factor = gamma / np.sqrt(var + attribute(norm["attrs"], "eps", EPSILON))
        shift, name = beta + factor * (shift - mean), names[1]
    if name is None:
        return None
    along = [1] * weight.ndim
    along[axis] = -1
    folded = (weight.astype(np.float64) * factor.reshape(along)).astype(np.float32)
    levels = levels_of(folded, axis)
    if levels is None:
        return None
    step = levels.refined(NARROW).scale.astype(np.float64) * np.float32(scale)
    whole = np.rint(shift / step)
    if np.abs(whole).max() > LARGEST:
        return None
    value = _value(graph, name) + whole * step - shift
    return name, value.astype(np.float32)


def _value(graph: Graph, name: str) -> np.ndarray:
    """Return a parameter's value, float64."""
    return graph.params[name].asnumpy().astype(np.float64)
