"""Chooses layers, and writes binary weights and inputs into the symbol."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from gluon_compress.binarization.binarisers import (
    INPUT,
    SCALE,
    THRESHOLD,
    binary_input,
    binary_targets,
    binary_weight,
    weight_scale,
)
from gluon_compress.binarization.settings import BinarizationSettings
from gluon_compress.cost import count
from gluon_compress.graph import Graph, annotate, pair_of, rebuild, symbol_of, trace
from gluon_compress.graph.annotations import BINARY, strip
from gluon_compress.graph.layers import (
    Layer,
    check_float32,
    chosen_layers,
    effective_weights,
    layers_of,
)
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.quantization.packing import sparse_bytes
from gluon_compress.quantization.placement import LAYERS, between, weight_axis
from gluon_compress.quantization.quantisers import is_quantised
from gluon_compress.quantization.ranges import Observer

TAKEN = "_taken"  # suffix of the node that hands a layer its input
SAMPLED = 1 << 16  # values of a map that a scale is measured on, for each batch
FLOAT_BITS = 32


def binary_layers(graph: Graph, settings: BinarizationSettings) -> List[Layer]:
    """Return the layers that are binarised.

    Raises
    ------
    ValueError
        If a pattern matches no layer, or no layer is left.
    """
    check_float32(graph)
    behind, before = between(graph)
    chosen = [
        layer
        for layer in chosen_layers(
            layers_of(graph, LAYERS), settings.target, settings.ignored
        )
        if (settings.first or layer.number in behind)
        and (settings.last or layer.number in before)
    ]
    if not chosen:
        raise ValueError(
            f"target is {list(settings.target)}, ignored {list(settings.ignored)}: no "
            "layer is left to binarise; allowed: settings that leave one"
        )
    return chosen


def check_binarisable(net: Any) -> None:
    """Refuse a net that is quantised or binarised already.

    Raises
    ------
    ValueError
        Saying which.
    """
    nodes, _ = take_apart(symbol_of(net))
    if is_quantised(nodes) or binary_targets(nodes):
        raise ValueError("the net has quantisers; allowed: a net in float32")


def begun(
    net: Any,
    graph: Graph,
    layers: Sequence[Layer],
    settings: BinarizationSettings,
    batches: Sequence | None,
) -> Any:
    """Return a net with binary weights and inputs, switched off.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Not changed.
    graph : Graph
        Of the net.
    layers : sequence of Layer
    settings : BinarizationSettings
    batches : sequence or None
        Tuples of arrays to measure the scales of inputs on; None: they are 1.

    Raises
    ------
    ValueError
        If there is no batch, or an input is not finite or never above zero.
    """
    if settings.activations:
        net = _with_taken(net, graph, layers)
        graph = trace(net, graph.inputs)
    axes = {layer.weight: weight_axis(layer.op) for layer in layers}
    scales = _scales(graph, batches)
    return _annotated(net, graph, axes, settings.weights, scales, switch=True)


def finished(net: Any, shape: Any = None) -> Any:
    """Return a net in training without switches: all that can be is binary.

    Parameters
    ----------
    net : HybridBlock
        What ``begun`` returned; it stays as it is.
    shape : tuple, optional
        Of the input, unless the net states it.
    """
    symbol, params = pair_of(net)
    nodes, heads = take_apart(symbol)
    schemes = binary_targets(nodes)
    plain = put_together(*strip(nodes, heads, [BINARY]))
    used = set(plain.list_inputs())
    values = {name: value for name, value in params.items() if name in used}
    bare = rebuild(net, trace(net, shape), plain, values)
    graph = trace(bare, shape)
    scales = {
        name: (
            float(params[f"{name}_{SCALE}"].asscalar()),
            float(params[f"{name}_{THRESHOLD}"].asscalar()),
        )
        for name, scheme in schemes.items()
        if scheme == INPUT
    }
    (scheme,) = {scheme for scheme in schemes.values() if scheme != INPUT}
    axes = {
        layer.weight: weight_axis(layer.op)
        for layer in layers_of(graph, LAYERS)
        if layer.weight in schemes
    }
    return _annotated(bare, graph, axes, scheme, scales, switch=False)


def _annotated(
    net: Any,
    graph: Graph,
    axes: Mapping[str, int],
    scheme: str,
    scales: Mapping[str, Tuple[float, float]],
    *,
    switch: bool,
) -> Any:
    """Return a net with binary weights, and binary maps by scale and threshold."""
    values = effective_weights(graph)
    weights = {
        name: binary_weight(
            weight_scale(values[name], scheme, axis), scheme, axis=axis, switch=switch
        )
        for name, axis in axes.items()
    }
    outputs = {}
    for node, (tensor, *_) in zip(graph.nodes, graph.tensors):
        if node["name"] in scales:
            size = int(np.prod(tensor.shape[1:]))
            scale, threshold = scales[node["name"]]
            outputs[node["name"]] = binary_input(
                scale, threshold, size=size, switch=switch
            )
    return annotate(net, weights=weights, outputs=outputs, graph=graph)


def _with_taken(net: Any, graph: Graph, layers: Sequence[Layer]) -> Any:
    """Return a net in which the input of each layer is a node of its own.

    Others that read the same tensor, such as a sum, then get it as it is.
    """
    symbol, params = pair_of(net)
    nodes, heads = take_apart(symbol)
    names = {graph.nodes[layer.number]["name"] for layer in layers}
    result: list[dict] = []
    number_of: dict[int, int] = {}
    calls: Dict[str, int] = {}
    for i, node in enumerate(nodes):
        inputs = [[number_of[e[0]], *e[1:]] for e in node["inputs"]]
        if node["op"] in LAYERS and node["name"] in names:
            call = calls[node["name"]] = calls.get(node["name"], 0) + 1
            name = f"{node['name']}_{call}{TAKEN}"
            taken = {"op": "_copy", "name": name, "attrs": {}, "inputs": inputs[:1]}
            result.append(taken)
            inputs[0] = [len(result) - 1, 0, 0]
        result.append({**node, "inputs": inputs})
        number_of[i] = len(result) - 1
    heads = [[number_of[head[0]], *head[1:]] for head in heads]
    return rebuild(net, graph, put_together(result, heads), params)


def _scales(graph: Graph, batches: Sequence | None) -> Dict[str, Tuple[float, float]]:
    """Return scale and threshold of each input that a layer takes."""
    numbers = [i for i, n in enumerate(graph.nodes) if n["name"].endswith(TAKEN)]
    names = [graph.nodes[i]["name"] for i in numbers]
    if batches is None:
        return dict.fromkeys(names, (1.0, 0.5))
    if not numbers:
        return {}
    observer = Observer(graph, numbers)
    seen: Dict[str, list] = {name: [] for name in names}
    for count_of, batch in enumerate(batches, 1):
        for i, name, output in zip(numbers, names, observer(batch)):
            values = output.asnumpy().reshape(-1)
            if not np.isfinite(values).all():
                raise ValueError(
                    f"batch {count_of}: {graph.grouping.names[i]!r} gives NaN or "
                    "infinity; allowed: finite numbers to measure scales on"
                )
            seen[name].append(values[:: max(values.size // SAMPLED, 1)])
    if not seen[names[0]]:
        raise ValueError("batches: there is none; binary inputs need at least one")
    result = {}
    for i, name in zip(numbers, names):
        values = np.concatenate(seen[name])
        if not (values > 0).any():
            raise ValueError(
                f"{graph.grouping.names[i]!r} is never above 0 in {len(batches)} "
                "batches; allowed: inputs that are. Name its layer in 'ignored'"
            )
        result[name] = (_least_error_scale(values), 0.5)
    return result


def _least_error_scale(values: np.ndarray) -> float:
    """Return the scale at which 0 and the scale stand for values with least error."""
    positive = np.sort(values[values > 0]).astype(np.float64)
    sums, count_of = np.cumsum(positive[::-1])[::-1], len(positive)
    tried = np.linspace(0.02, 1, 50) * positive[-1]
    first = np.searchsorted(positive, tried / 2, side="right")
    above = np.append(sums, 0)[first]
    # The squared error without what does not depend on the scale.
    error = (count_of - first) * tried**2 - 2 * tried * above
    return float(tried[np.argmin(error)])


def notes_on(
    graph: Graph, layers: Sequence[Layer], settings: BinarizationSettings
) -> Dict[str, Any]:
    """Return what is binary, for ``result.json``: bytes and bit-operations.

    ``bit_operations`` are MACs times the bits of the weight times those of the input.
    """
    macs = {row.name: row.macs for row in count(graph).rows}
    input_bits = 1 if settings.activations else FLOAT_BITS
    rows, total = [], 0
    for layer in layers:
        shape = graph.params[layer.weight].shape
        size, channels = int(np.prod(shape)), shape[weight_axis(layer.op)]
        stored = sparse_bytes(size, size, 1) + 4 * channels
        total += stored - 4 * size
        row = {"weights": size, "bytes": stored}
        row["bit_operations"] = macs[layer.name] * input_bits
        rows.append({"layer": layer.name, **row})
    every = sum(4 * int(np.prod(value.shape)) for value in graph.params.values())
    names = {layer.name for layer in layers}
    others = sum(n for name, n in macs.items() if name not in names)
    binary = sum(row["bit_operations"] for row in rows)
    return {
        "binary": {
            "layers": rows,
            "float32_bytes": every,
            "packed_bytes": every + total,
            "bit_operations": binary + others * FLOAT_BITS**2,
            "float32_bit_operations": sum(macs.values()) * FLOAT_BITS**2,
        }
    }
