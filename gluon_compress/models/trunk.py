"""Any classifier's symbol as a detector's trunk: where its three taps are.

A pruned classifier is only a symbol, so the taps are found by structure: at each
stride the last tensor that everything behind it is computed from.
"""

from __future__ import annotations

import json
from typing import Mapping, Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock

from gluon_compress.graph import block_of

STRIDES = (8, 16, 32)
_SIDE = 256  # a multiple of every stride, so that no size is rounded


def classifier_trunk(
    symbol: mx.sym.Symbol, params: Mapping[str, mx.nd.NDArray]
) -> tuple[HybridBlock, list[mx.sym.Symbol]]:
    """Return a classifier given as a symbol as a trunk, with its weights.

    Parameters
    ----------
    symbol : Symbol
        With one image input, in any state of pruning.
    params : mapping
        Its parameters and running statistics.

    Returns
    -------
    net : SymbolBlock
        With the given values.
    taps : list of Symbol
        The last tensors at strides 8, 16 and 32 that are cut points of the graph;
        in a ResNet the outputs of stages 2, 3 and 4.

    Raises
    ------
    ValueError
        If there is no such tensor at one of the strides.
    """
    inputs = [n for n in symbol.list_arguments() if n not in params]
    if len(inputs) != 1:
        raise ValueError(f"a trunk has one input, the image; this one needs {inputs}")
    taps = find_taps(symbol, inputs[0])
    if inputs[0] != "data":
        symbol = symbol(**{inputs[0]: mx.sym.var("data")})
        taps = find_taps(symbol, "data")
    return block_of(mx.sym.Group(taps), params), taps


def find_taps(
    symbol: mx.sym.Symbol, data: str = "data", strides: Sequence[int] = STRIDES
) -> list[mx.sym.Symbol]:
    """Return the last cut point of the graph at each stride."""
    internals = symbol.get_internals()
    shape = (1, 3, _SIDE, _SIDE)
    _, shapes, _ = internals.infer_shape_partial(**{data: shape})
    sides = {n: s[-1] for n, s in zip(internals.list_outputs(), shapes) if len(s) == 4}
    last = {_SIDE // sides[n]: n for n in _cut_points(symbol) if sides.get(n)}
    missing = [s for s in strides if s not in last]
    if missing:
        raise ValueError(f"this classifier has no tensor at stride {missing[0]} to tap")
    return [internals[last[stride]] for stride in strides]


def _cut_points(symbol: mx.sym.Symbol) -> list[str]:
    """Return the outputs that everything behind them is computed from, in order."""
    nodes = json.loads(symbol.tojson())["nodes"]
    operators = [i for i, node in enumerate(nodes) if node["op"] != "null"]
    last_use = dict.fromkeys(range(len(nodes)), -1)
    for i in operators:
        for entry in nodes[i]["inputs"]:
            last_use[entry[0]] = i
    points, reach = [], -1
    for i in operators:
        if reach <= i:  # nothing before is used behind
            points.append(nodes[i]["name"] + "_output")
        reach = max(reach, last_use[i])
    return points
