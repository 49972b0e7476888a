"""What makes rounding hurt less without training (Nagel et al. 2019).

Cross-layer equalisation scales the channels between two layers to like ranges: it
changes nothing in float32. Bias correction takes the mean error of each channel, which
rounded weights make, out of the bias.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Iterable, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph, pair_of, rebuild, trace
from gluon_compress.graph.annotations import bake_weights
from gluon_compress.graph.context import attribute
from gluon_compress.graph.layers import Layer, layers_of
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.quantization.placement import QuantiserPlacement
from gluon_compress.quantization.ranges import runner

ROUNDS = 4  # of equalisation over all pairs
LEAST, MOST = 1e-2, 1e2  # of a channel's factor in one round
EPSILON = 1e-3  # MXNet's default of BatchNorm


def equalized(net: Any, graph: Graph) -> Any:
    """Return a net whose pairs of layers have channels of like ranges.

    Between the two layers may be a BatchNorm and a ReLU, and nothing else may read
    what lies between them. With ``r1`` and ``r2`` the largest weights of a channel as
    output of the first and input of the second layer, the first is divided by ``sqrt(r1
    / r2)`` and the second multiplied by it (equation 11).

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Not changed. Weights with annotations are left as they are.
    graph : Graph
        Of the net.
    """
    symbol, params = pair_of(net)
    values = {name: value.asnumpy() for name, value in params.items()}
    pairs = _pairs(graph)
    for _ in range(ROUNDS):
        for first, norm, second in pairs:
            _equalise(graph, values, first, norm, second)
    new = {n: mx.nd.array(v, dtype=params[n].dtype) for n, v in values.items()}
    return rebuild(net, graph, symbol, new)


def _pairs(graph: Graph) -> list[tuple[Layer, int | None, Layer]]:
    """Return convolutions that only a BatchNorm and a ReLU lie between."""
    layers = {layer.number: layer for layer in layers_of(graph, ("Convolution",))}
    uses = _uses(graph)
    pairs = []
    for second in layers.values():
        i, norm = _source(graph, second, uses)
        first = layers.get(i)
        if first is None or uses[str(i)] != 1:
            continue
        weights = {first.weight, second.weight}
        alone = all(uses[name] == 1 for name in weights) and len(weights) == 2
        if alone and not weights & graph.annotated.targets:
            pairs.append((first, norm, second))
    return pairs


def _uses(graph: Graph) -> Counter:
    """Return how often each node is read; a variable counts by its name."""
    entries = [*graph.heads, *(e for node in graph.nodes for e in node["inputs"])]
    sources = [(entry[0], graph.nodes[entry[0]]) for entry in entries]
    return Counter(n["name"] if n["op"] == "null" else str(i) for i, n in sources)


def _source(graph: Graph, layer: Layer, uses: Counter) -> tuple[int, int | None]:
    """Return the node behind ReLU and BatchNorm of a layer's input, and the latter."""
    i, norm = graph.nodes[layer.number]["inputs"][0][0], None
    while uses[str(i)] == 1:
        node = graph.nodes[i]
        attrs = node["attrs"]
        if operator_of(node["op"]).running_statistics and norm is None:
            if attribute(attrs, "fix_gamma", True):
                break
            norm = i
        elif node["op"] != "relu" and attrs.get("act_type") != "relu":
            break
        i = node["inputs"][0][0]
    return i, norm


def _equalise(
    graph: Graph, values: dict, first: Layer, norm: int | None, second: Layer
) -> None:
    groups = attribute(graph.nodes[second.number]["attrs"], "num_group", 1)
    following = values[second.weight]
    channels = following.shape[1] * groups
    made = values[first.weight]
    if made.shape[0] != channels:
        return
    before = np.abs(made.reshape(channels, -1)).max(axis=1)
    names = None
    if norm is not None:
        node = graph.nodes[norm]
        names = [graph.nodes[e[0]]["name"] for e in node["inputs"][1:5]]
        gamma, _, _, var = (values[name] for name in names)
        eps = attribute(node["attrs"], "eps", EPSILON)
        before = before * np.abs(gamma) / np.sqrt(var + eps)
    # Input channel j of group g is channel g * n + j of the map.
    per_group = following.reshape(groups, -1, *following.shape[1:])
    after = np.abs(per_group).max(axis=(1, *range(3, per_group.ndim))).reshape(-1)
    known = (before > 0) & (after > 0)
    ratio = np.where(known, before, 1) / np.where(known, after, 1)
    factor = np.clip(np.sqrt(ratio), LEAST, MOST)
    scaled = per_group * factor.reshape(groups, 1, -1, *[1] * (per_group.ndim - 3))
    values[second.weight] = scaled.reshape(following.shape).astype(np.float32)
    if names is not None:
        for name in names[:2]:
            values[name] = (values[name] / factor).astype(np.float32)
        return
    along = (-1, *[1] * (made.ndim - 1))
    values[first.weight] = (made / factor.reshape(along)).astype(np.float32)
    if first.bias is not None:
        values[first.bias] = (values[first.bias] / factor).astype(np.float32)


def corrected(
    net: Any,
    quantised: Any,
    placement: QuantiserPlacement,
    batches: Iterable,
    shape: Any,
) -> tuple[Any, int]:
    """Return a quantised net with corrected biases, and how many layers have one.

    The mean over images and places of ``(W' - W) * x`` is measured for each output
    channel, with the inputs ``x`` of the float32 net, padding included. It is
    subtracted from the bias, or added to the running mean of the BatchNorm behind.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        In float32.
    quantised : HybridBlock or (symbol, params)
        With quantisers; not changed.
    placement : QuantiserPlacement
    batches : iterable
        Tuples of arrays.
    shape : tuple or None
        Of the input.
    """
    graph, errors = trace(net, shape), _weight_errors(quantised, placement)
    means = _mean_errors(graph, placement, errors, batches)
    symbol, params = pair_of(quantised)
    places = _places(graph, placement)
    for number, mean in means.items():
        place = places.get(number)
        if place is None:
            continue
        name, sign = place
        value = params[name]
        params[name] = mx.nd.array(value.asnumpy() + sign * mean, dtype=value.dtype)
    count = sum(number in places for number in means)
    return rebuild(quantised, trace(quantised, shape), symbol, params), count


def _weight_errors(
    quantised: Any, placement: QuantiserPlacement
) -> dict[str, np.ndarray]:
    symbol, params = pair_of(quantised)
    _, _, baked = bake_weights(*take_apart(symbol), params)
    names = {row.layer.weight for row in placement.layers}
    return {name: baked[name].asnumpy() - params[name].asnumpy() for name in names}


def _mean_errors(
    graph: Graph, placement: QuantiserPlacement, errors: dict, batches: Iterable
) -> dict[int, np.ndarray]:
    """Return the mean of each layer's error for each output channel, by its node."""
    nodes = list(graph.annotated.nodes)
    number_of = {p: i for i, p in enumerate(graph.annotated.plain) if p >= 0}
    values = {**graph.params, **graph.annotated.params}
    heads, numbers = [], []
    for row in placement.layers:
        layer = nodes[number_of[row.layer.number]]
        name = f"{row.layer.weight}_error"
        nodes.append({"op": "null", "name": name, "attrs": {}, "inputs": []})
        values[name] = mx.nd.array(errors[row.layer.weight])
        inputs = [layer["inputs"][0], [len(nodes) - 1, 0, 0]]
        attrs = {**layer["attrs"], "no_bias": "True"}
        error = f"{layer['name']}_error{len(nodes)}"
        nodes.append({**layer, "name": error, "attrs": attrs, "inputs": inputs})
        heads.append([len(nodes) - 1, 0, 0])
        numbers.append(row.layer.number)
    run = runner(graph, put_together(nodes, heads), values)
    sums: dict[int, Any] = dict.fromkeys(numbers, 0.0)
    count = 0
    for batch in batches:
        for number, output in zip(numbers, run(batch)):
            array = output.asnumpy().astype(np.float64)
            channels = _channel_axis(graph.nodes[number]) % array.ndim
            axes = tuple(axis for axis in range(array.ndim) if axis != channels)
            sums[number] = sums[number] + array.mean(axis=axes)
        count += 1
    return {number: total / max(count, 1) for number, total in sums.items()}


def _channel_axis(node: dict) -> int:
    """Return the axis of a layer's output along which its channels lie."""
    flat = attribute(node["attrs"], "flatten", True)
    return -1 if node["op"] == "FullyConnected" and not flat else 1


def _places(graph: Graph, placement: QuantiserPlacement) -> dict[int, tuple[str, int]]:
    """Return the parameter that takes a layer's correction, and its sign."""
    calls: dict[str, int] = {}
    for row in placement.layers:
        calls[row.layer.weight] = calls.get(row.layer.weight, 0) + 1
    norms: dict[int, Sequence] = {}
    for node in graph.nodes:
        if operator_of(node["op"]).running_statistics:
            norms[node["inputs"][0][0]] = node["inputs"]
    places = {}
    for row in placement.layers:
        layer = row.layer
        if calls[layer.weight] > 1 or layer.weight in graph.annotated.targets:
            continue
        if layer.bias is not None:
            places[layer.number] = (layer.bias, -1)
        elif layer.number in norms:
            mean = graph.nodes[norms[layer.number][3][0]]["name"]
            places[layer.number] = (mean, 1)
    return places
