"""The layer that makes a net's first output, and a new one in its place."""

from __future__ import annotations

from typing import Mapping, Sequence

import mxnet as mx

from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.models.initialize import with_missing_initialized
from gluon_compress.sizes import Size

_WIDTHS = {"FullyConnected": "num_hidden", "Convolution": "num_filter"}


def last_layer(nodes: Sequence[dict], head: Sequence) -> dict:
    """Return the dense layer or convolution nearest to an output.

    Raises
    ------
    ValueError
        If there is none on the way of first inputs.
    """
    node = nodes[head[0]]
    while node["op"] not in _WIDTHS:
        if node["op"] == "null":
            raise ValueError("the net ends in no dense layer or convolution")
        node = nodes[node["inputs"][0][0]]
    return node


def with_outputs(
    symbol: mx.sym.Symbol,
    params: Mapping[str, mx.nd.NDArray],
    count: int,
    size: Size,
    *,
    seed: int = 0,
    bias: float = 0.0,
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return a symbol whose first output has ``count`` channels, and values.

    The layer that makes the output is new; all others stay.

    Parameters
    ----------
    symbol : Symbol
    params : mapping
        Values of its parameters.
    count : int
    size : int or (int, int)
        Height and width of the input, pixels.
    seed : int
        Decides the initial values of the layer.
    bias : float
        The initial value of its bias, if it has one.
    """
    nodes, heads = take_apart(symbol)
    last = last_layer(nodes, heads[0])
    last["attrs"] = {**last["attrs"], _WIDTHS[last["op"]]: str(count)}
    new = [nodes[entry[0]] for entry in last["inputs"][1:]]
    for variable in new:  # their attributes state the shapes of before
        variable["attrs"] = {}
    symbol, names = put_together(nodes, heads), [node["name"] for node in new]
    values = {name: value for name, value in params.items() if name not in names}
    values = with_missing_initialized(symbol, values, size, seed=seed)
    for name in names[1:]:
        values[name] = mx.nd.full(values[name].shape, bias)
    return symbol, values
