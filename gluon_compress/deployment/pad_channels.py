"""Pads output channels to full blocks of oneDNN's kernels, in memory only.

The blocked kernels in MXNet 1.9.1 need a multiple of 16 output channels. Convolutions
of other widths take a slower path: a predictor of 38 x 38 cells and 100 channels takes
longer than one of 128.
"""

from __future__ import annotations

from collections import Counter
from typing import Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph.context import attribute
from gluon_compress.graph.symbols import put_together, take_apart

BLOCK = 32
CHANNELS_LAST = (0, 2, 3, 1)


def pad_channels(
    symbol: mx.sym.Symbol, params: Mapping[str, mx.nd.NDArray]
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return a graph with the same outputs and full blocks in its last convolutions.

    A convolution read only by a transpose to channels last gets zero channels up to a
    multiple of ``BLOCK``; they are cut off after the transpose. Those that share their
    weights stay.

    Parameters
    ----------
    symbol : Symbol
    params : mapping
        Not changed.
    """
    nodes, heads = take_apart(symbol)
    values = dict(params)
    new_nodes: list[dict] = []
    new_index: dict[int, int] = {}
    for i, node in enumerate(nodes):
        inputs = [[new_index[e[0]], *e[1:]] for e in node["inputs"]]
        new_nodes.append({**node, "inputs": inputs})
        new_index[i] = len(new_nodes) - 1
        cut = _padded(nodes, node, new_nodes, values)
        if cut is not None:
            new_nodes.append({**cut, "inputs": [[new_index[i], 0, 0]]})
            new_index[i] = len(new_nodes) - 1
    padded = put_together(new_nodes, [[new_index[h[0]], *h[1:]] for h in heads])
    return padded, values


def _padded(
    nodes: Sequence, node: dict, new_nodes: Sequence, values: dict
) -> dict | None:
    """Pad the convolution before a transpose; return what cuts its channels off."""
    if node["op"] != "transpose" or attribute(node["attrs"], "axes") != CHANNELS_LAST:
        return None
    source = node["inputs"][0][0]
    layer = nodes[source]
    readers = Counter(e[0] for other in nodes for e in other["inputs"])
    if layer["op"] != "Convolution" or readers[source] != 1:
        return None
    if any(readers[entry[0]] > 1 for entry in layer["inputs"][1:]):
        return None
    width = attribute(layer["attrs"], "num_filter")
    missing = -width % BLOCK
    if missing == 0 or attribute(layer["attrs"], "num_group", 1) > 1:
        return None
    for entry in layer["inputs"][1:]:
        name = nodes[entry[0]]["name"]
        value = values[name].asnumpy()
        zeros = np.zeros((missing, *value.shape[1:]), value.dtype)
        values[name] = mx.nd.array(np.concatenate([value, zeros]))
    before = new_nodes[new_nodes[-1]["inputs"][0][0]]
    before["attrs"] = {**layer["attrs"], "num_filter": str(width + missing)}
    return {
        "op": "slice_axis",
        "name": f"{node['name']}_cut",
        "attrs": {"axis": "3", "begin": "0", "end": str(width)},
    }
