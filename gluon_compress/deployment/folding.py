"""Prepares nets for inference: folds BatchNorm into layers, and fuses layers."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import SymbolBlock

from gluon_compress.deployment.runtimes import FUSED
from gluon_compress.graph import block_of, pair_of
from gluon_compress.graph.annotations import bake_weights
from gluon_compress.graph.context import attribute
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import put_together, take_apart


def fold(
    symbol: mx.sym.Symbol, params: Mapping[str, mx.nd.NDArray]
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return a net for inference with BatchNorm folded into the layers before it.

    A layer's weight ``w`` and bias ``b`` become ``w * s`` and ``b * s + beta - mean *
    s`` with ``s = gamma / sqrt(var + eps)`` (Jacob et al. 2018, section 3.2).
    BatchNorm after anything else, or after a layer that something else reads, stays.
    Annotated weights are first replaced by the values that layers read.

    Parameters
    ----------
    symbol : Symbol
    params : mapping
        Values of all parameters and running statistics; not changed.

    Returns
    -------
    tuple
        Symbol and parameters.
    """
    nodes, heads, params = bake_weights(*take_apart(symbol), params)
    uses = _uses(nodes, heads)
    values = dict(params)
    for i, node in enumerate(nodes):
        if _folds(nodes, i, uses):
            layer, beta = (nodes[node["inputs"][k][0]] for k in (0, 2))
            weight, bias = _folded(nodes, node, layer, params)
            name = layer["name"] + "_bias"
            values[nodes[layer["inputs"][1][0]]["name"]] = weight
            values[name] = bias
            # The variable of the shift precedes the new layer in the graph, and has
            # no other use.
            beta.update(name=name, attrs={})
            attrs = {**layer["attrs"], "no_bias": "False"}
            inputs = [*layer["inputs"][:2], node["inputs"][2]]
            nodes[i] = {**layer, "attrs": attrs, "inputs": inputs}
    folded = put_together(nodes, heads)
    used = set(folded.list_inputs())
    return folded, {name: value for name, value in values.items() if name in used}


def fused(net: Any, ctx: Sequence[mx.Context] | None = None) -> SymbolBlock:
    """Return a net for inference only: BatchNorm folded and, on CPUs, layers fused.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Not changed; the values are copied.
    ctx : sequence of Context, optional
        Default: the CPU.
    """
    devices = list(ctx or [mx.cpu()])
    symbol, params = fold(*pair_of(net))
    if all(device.device_type == "cpu" for device in devices):
        symbol = symbol.get_backend_symbol(FUSED)
    block = block_of(symbol, params)
    block.collect_params().reset_ctx(devices)
    block.hybridize(static_alloc=True, static_shape=True)
    return block


def _uses(nodes: Sequence[dict], heads: Sequence) -> list[int]:
    """Return how often each node is read."""
    counts = [0] * len(nodes)
    for entry in (*heads, *(e for node in nodes for e in node["inputs"])):
        counts[entry[0]] += 1
    return counts


def _folds(nodes: Sequence[dict], i: int, uses: Sequence[int]) -> bool:
    """Return whether node ``i`` is a BatchNorm that can be folded."""
    node = nodes[i]
    running = operator_of(node["op"]).running_statistics
    if not running or attribute(node["attrs"], "axis", 1) != 1:
        return False
    layer = nodes[node["inputs"][0][0]]
    moments_read = attribute(node["attrs"], "output_mean_var", False)
    if not operator_of(layer["op"]).foldable or moments_read:
        return False
    plain = attribute(layer["attrs"], "layout", None) in (None, "NCHW", "NCW", "NCDHW")
    groups = attribute(layer["attrs"], "num_group", 1)
    split = operator_of(layer["op"]).weight_axis != 0 and groups > 1  # scaled by blocks
    read = (node["inputs"][0], layer["inputs"][1], node["inputs"][2])
    return plain and not split and all(uses[entry[0]] == 1 for entry in read)


def _folded(nodes: Sequence, node: dict, layer: dict, params: Mapping) -> tuple:
    """Return the weight and the bias of a layer with the BatchNorm behind it."""
    names = [nodes[entry[0]]["name"] for entry in node["inputs"][1:]]
    gamma, beta, mean, var = (_exact(params[name]) for name in names)
    if attribute(node["attrs"], "fix_gamma", True):
        gamma = np.ones_like(gamma)
    scale = gamma / np.sqrt(var + attribute(node["attrs"], "eps", 1e-3))
    shift = beta - mean * scale
    if len(layer["inputs"]) > 2:
        shift += scale * _exact(params[nodes[layer["inputs"][2][0]]["name"]])
    weight = _exact(params[nodes[layer["inputs"][1][0]]["name"]])
    shape = [1] * weight.ndim
    shape[operator_of(layer["op"]).weight_axis] = -1
    return mx.nd.array(weight * scale.reshape(shape)), mx.nd.array(shift)


def _exact(value: mx.nd.NDArray) -> np.ndarray:
    return value.asnumpy().astype(np.float64)
