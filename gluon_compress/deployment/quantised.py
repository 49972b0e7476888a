"""A quantised inference graph as exporters see it: plain, with grids beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Mapping

import mxnet as mx
import numpy as np

from gluon_compress.binarization.binarisers import has_binary_maps
from gluon_compress.graph.annotations import BINARY, KINDS, strip
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.quantization.image_range import range_quantisers
from gluon_compress.quantization.levels import Levels, levels_of
from gluon_compress.quantization.placement import LAYERS, weight_of
from gluon_compress.quantization.quantisers import (
    QuantiserGrid,
    is_quantised,
    quantisers_of,
)


@dataclass(frozen=True)
class QuantisedGraph:
    """A graph without quantisers, and what they were.

    Parameters
    ----------
    symbol : Symbol
        Plain. Its nodes have distinct names.
    params : mapping
        Float32 values; quantised weights are levels times scales.
    tensors : mapping
        Name of a node, or of the input, to the grid of its output.
    weights : mapping
        Name of a weight to its levels.
    """

    symbol: mx.sym.Symbol
    params: Mapping[str, mx.nd.NDArray]
    tensors: Mapping[str, QuantiserGrid]
    weights: Mapping[str, Levels]

    @classmethod
    def of(
        cls, symbol: mx.sym.Symbol, params: Mapping[str, mx.nd.NDArray]
    ) -> QuantisedGraph:
        """Return the graph of a folded symbol, whose weights are baked."""
        nodes, heads = take_apart(symbol)
        nodes = _distinct(nodes)
        tensors = {
            nodes[q.source[0]]["name"]: QuantiserGrid(float(q.scale[0]), q.low, q.high)
            for q in quantisers_of(nodes, params)
        }
        plain, heads = strip(nodes, heads, [k for k in KINDS if k != BINARY])
        symbol = put_together(plain, heads)
        used = set(symbol.list_inputs())
        values = {name: value for name, value in params.items() if name in used}
        weights: Dict[str, Levels] = {}
        for node in plain:
            if node["op"] in LAYERS:
                name = plain[weight_of(node)[0]]["name"]
                if name in values and name not in weights:
                    axis = operator_of(node["op"]).weight_axis
                    levels = levels_of(values[name].asnumpy(), axis)
                    if levels is not None:
                        weights[name] = levels
        return cls(symbol, values, tensors, weights)


def _distinct(nodes: list[dict]) -> list[dict]:
    """Return nodes of which no two operators have one name."""
    used: set[str] = set()
    result = []
    for node in nodes:
        name, number = node["name"], 1
        if node["op"] != "null":
            while name in used:
                number += 1
                name = f"{node['name']}_{number}"
            used.add(name)
        result.append({**node, "name": name})
    return result


def has_quantisers(symbol: mx.sym.Symbol) -> bool:
    """Return whether a symbol has fake quantisers."""
    return is_quantised(take_apart(symbol)[0])


def has_jumps(symbol: mx.sym.Symbol) -> bool:
    """Return whether maps are rounded, or binary: then rounding errors can grow."""
    nodes, _ = take_apart(symbol)
    rounded = is_quantised(nodes) or range_quantisers(nodes)
    return bool(rounded) or has_binary_maps(nodes)


def steps_between(outputs: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Return the largest difference of any output, in steps of it.

    A step is a 255th of the range of the expected output, zero included.
    """
    worst = 0.0
    for output, wanted in zip(outputs, expected):
        low, high = min(float(wanted.min()), 0.0), max(float(wanted.max()), 0.0)
        step = max((high - low) / 255, 1e-30)
        off = np.abs(np.asarray(output, np.float64).reshape(wanted.shape) - wanted)
        worst = max(worst, float(off.max()) / step)
    return worst
