"""Channels padded to whole blocks of MXNet's kernels, in memory, not on disk.

oneDNN's blocked kernels of MXNet 1.9.1 take whole blocks of 16 output channels. A
convolution of any other width leaves them for a slower path: a predictor of 38 x 38
cells and 100 channels takes longer than one of 128.
"""

from __future__ import annotations

from typing import Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph.context import attribute
from gluon_compress.graph.symbols import put_together, take_apart

BLOCK = 32
LAST = (0, 2, 3, 1)  # channels last


def pad_channels(
    symbol: mx.sym.Symbol, params: Mapping[str, mx.nd.NDArray]
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return a graph with the same outputs whose last convolutions fill their kernels.

    A convolution that only a transpose to channels last reads gets channels of zeros up
    to a multiple of ``BLOCK``, which are cut off behind the transpose.

    Parameters
    ----------
    symbol : Symbol
    params : mapping
        Left as they are.
    """
    nodes, heads = take_apart(symbol)
    values = dict(params)
    made: list[dict] = []
    where: dict[int, int] = {}
    for i, node in enumerate(nodes):
        inputs = [[where[e[0]], *e[1:]] for e in node["inputs"]]
        made.append({**node, "inputs": inputs})
        where[i] = len(made) - 1
        cut = _padded(nodes, node, made, values)
        if cut is not None:
            made.append({**cut, "inputs": [[where[i], 0, 0]]})
            where[i] = len(made) - 1
    padded = put_together(made, [[where[h[0]], *h[1:]] for h in heads])
    return padded, values


def _padded(nodes: Sequence, node: dict, made: Sequence, values: dict) -> dict | None:
    """Pad the convolution before a transpose; return what cuts its channels off."""
    if node["op"] != "transpose" or attribute(node["attrs"], "axes") != LAST:
        return None
    place = node["inputs"][0][0]
    layer = nodes[place]
    readers = sum(e[0] == place for other in nodes for e in other["inputs"])
    if layer["op"] != "Convolution" or readers != 1:
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
    before = made[made[-1]["inputs"][0][0]]
    before["attrs"] = {**layer["attrs"], "num_filter": str(width + missing)}
    return {
        "op": "slice_axis",
        "name": f"{node['name']}_cut",
        "attrs": {"axis": "3", "begin": "0", "end": str(width)},
    }
