"""Gives MXNet's int8 the ranges of a net's own quantisers, as far as it takes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Dict

import mxnet as mx
from mxnet.contrib import quantization

from gluon_compress.deployment.fusing import fuse
from gluon_compress.deployment.int8 import BACKEND
from gluon_compress.deployment.quantised import QuantisedGraph

if TYPE_CHECKING:
    from gluon_compress.deployment.formats import InferenceGraph


def quantize(graph: InferenceGraph) -> tuple[mx.sym.Symbol, Dict[str, mx.nd.NDArray]]:
    """Return a net that computes in int8, with the ranges of a graph's quantisers.

    MXNet rounds weights anew, by the largest of each channel over 127, has no zero
    points, and rounds where its own passes do. So this departs from the graph, by how
    much is for the check of the files to say.

    Parameters
    ----------
    graph : InferenceGraph
        With quantisers.
    """
    plain = QuantisedGraph.of(graph.symbol, graph.params)
    fused = fuse(plain.symbol, BACKEND)
    quantized, _ = quantization._quantize_symbol(
        fused,
        mx.cpu(),
        excluded_symbols=[],
        excluded_operators=[],
        offline_params=[],
        quantized_dtype="auto",
        quantize_mode="smart",
        quantize_granularity="tensor-wise",
    )
    ranges = _ranges(plain, fused)
    calibrated = quantization._calibrate_quantized_sym(quantized, ranges)
    result = fuse(calibrated, BACKEND)
    values = quantization._quantize_params(result, dict(plain.params), ranges)
    return result, values


def _ranges(plain: QuantisedGraph, fused: mx.sym.Symbol) -> dict:
    """Return the range of each tensor by the name that MXNet gives it."""
    grids = {
        name: (grid.low * grid.scale, grid.high * grid.scale)
        for name, grid in plain.tensors.items()
    }
    ranges = {}
    for node in json.loads(fused.tojson())["nodes"]:
        made = node["name"]
        for part in node.get("subgraphs", ()):  # of layers joined with what follows
            made = part["nodes"][part["heads"][0][0]]["name"]
        if made in grids:
            key = node["name"] if node["op"] == "null" else f"{node['name']}_output"
            ranges[key] = grids[made]
    return ranges
