"""Quantises nets: writes quantisers into the symbol, and sets their scales."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Dict, Iterable, Mapping, Sequence

import numpy as np

from gluon_compress.graph import Graph, annotate, pair_of, symbol_of, trace
from gluon_compress.graph.annotations import mask_names
from gluon_compress.graph.layers import effective_weights
from gluon_compress.graph.symbols import take_apart
from gluon_compress.quantization.biases import with_whole_biases
from gluon_compress.quantization.corrections import corrected, equalized
from gluon_compress.quantization.cpu import dot_product_feature
from gluon_compress.quantization.placement import QuantiserPlacement, place, weight_axis
from gluon_compress.quantization.quantisers import (
    QuantiserGrid,
    activation_grid,
    activation_quantiser,
    is_quantised,
    least_error_scales,
    quantisers_of,
    weight_grid,
    weight_quantiser,
    weight_scales,
)
from gluon_compress.quantization.ranges import measure_ranges
from gluon_compress.quantization.settings import (
    NARROW,
    QuantizationSettings,
    WeightSettings,
)
from gluon_compress.validation import parse, wrong


@dataclass(frozen=True)
class Quantised:
    """A quantised net, and what was decided.

    Parameters
    ----------
    net : HybridBlock
    notes : mapping
        JSON values: bits, levels, the CPU's feature, bytes.
    """

    net: Any
    notes: Mapping[str, Any] = field(default_factory=dict)


def quantize(
    net: Any,
    config: Any = None,
    batches: Iterable = (),
    *,
    shape: Any = None,
) -> Any:
    """Return a net that computes as its integer exports do, without any training.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Trained; not changed.
    config : QuantizationSettings or mapping, optional
        Default: 8 bits everywhere.
    batches : iterable
        Tuples of arrays, the first of which is the net's input, to measure ranges on.
    shape : tuple, optional
        Of the input, unless the net states it.

    Returns
    -------
    HybridBlock
        Of the same kind as the net, with fake quantisers in its symbol. ``deploy`` and
        exports write integers for it.

    Raises
    ------
    ValueError
        For a setting that is not allowed, a pattern that matches nothing, or data on
        which no range can be measured.
    """
    if not isinstance(config, QuantizationSettings):
        config = parse(QuantizationSettings, {} if config is None else config)
    if config.budget is not None:
        allowed = "null without a loss, which the algorithm 'quantize' of a recipe has"
        raise wrong("budget", config.budget.to_json(), allowed)
    return quantized(net, config, list(batches), shape=shape).net


def quantized(
    net: Any,
    settings: QuantizationSettings,
    batches: Sequence,
    *,
    shape: Any = None,
    bits: Mapping[str, int] | None = None,
) -> Quantised:
    """Return a quantised net and notes; see ``quantize``.

    Parameters
    ----------
    net, shape
        As for ``quantize``.
    settings : QuantizationSettings
    batches : sequence
        Of them the first ``settings.batches`` are used.
    bits : mapping, optional
        Bits of the weight, by name of the layer, in place of the settings'.
    """
    check_quantisable(net)
    batches = [b if isinstance(b, (tuple, list)) else (b,) for b in batches]
    batches = batches[: settings.batches]
    if shape is None and batches:
        shape = getattr(net, "input_shape", None)
    graph = trace(net, shape)
    if settings.equalize:
        net = equalized(net, graph)
        graph = trace(net, shape)
    placement = with_bits(place(graph, settings), bits or {})
    kinds = settings.activations
    ranges = measure_ranges(
        graph,
        [members for members, _ in placement.tensors],
        batches,
        kinds,
        [count for _, count in placement.tensors],
    )
    grids = [
        activation_grid(low, high, count, kinds.scheme)
        for (low, high), (_, count) in zip(ranges, placement.tensors)
    ]
    result = annotated(net, graph, placement, settings, grids)
    notes = notes_on(graph, placement, settings)
    if settings.correct_bias:
        result, count = corrected(net, result, placement, batches, shape)
        notes["corrected_layers"] = count
    return Quantised(with_whole_biases(result, shape), notes)


def check_quantisable(net: Any) -> None:
    """Refuse a net that is quantised already, or whose channels are masked.

    Raises
    ------
    ValueError
        Saying which.
    """
    nodes, _ = take_apart(symbol_of(net))
    if is_quantised(nodes):
        raise ValueError("the net has quantisers; allowed: a net in float32")
    if mask_names(nodes):
        raise ValueError("the net has channel masks; allowed: what slim made of it")


def with_bits(
    placement: QuantiserPlacement, bits: Mapping[str, int]
) -> QuantiserPlacement:
    """Return a placement with other bits of some layers' weights."""
    layers = tuple(
        replace(row, weight_bits=bits.get(row.layer.name, row.weight_bits))
        for row in placement.layers
    )
    return replace(placement, layers=layers)


def levels_of(settings: WeightSettings, bits: int) -> tuple[int, int]:
    """Return the levels of a weight, as this CPU needs them if that is ``auto``."""
    narrow = settings.levels == "narrow" or (
        settings.levels == "auto" and not dot_product_feature()
    )
    return weight_grid(bits, narrow=NARROW if narrow else None)


def annotated(
    net: Any,
    graph: Graph,
    placement: QuantiserPlacement,
    settings: QuantizationSettings,
    grids: Sequence[QuantiserGrid],
) -> Any:
    """Return a net with quantisers.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
    graph : Graph
        Of the net.
    placement : QuantiserPlacement
    settings : QuantizationSettings
    grids : sequence of QuantiserGrid
        Of each set of tensors.
    """
    weights: Dict[str, Any] = {}
    values = effective_weights(graph)
    for row in placement.layers:
        name = row.layer.weight
        if name in weights:
            continue
        value = values[name]
        low, high = levels_of(settings.weights, row.weight_bits)
        axis = weight_axis(row.layer.op)
        weights[name] = weight_quantiser(
            (weight_scales if row.weight_bits == 8 else least_error_scales)(
                value, high, axis
            ),
            low,
            high,
            axis=axis,
            size=value.size,
            learned=settings.weights.ranges == "learned",
        )
    outputs: Dict[str, Any] = {}
    for (members, _), grid in zip(placement.tensors, grids):
        for i in members:
            shape = graph.tensors[i][0].shape
            outputs[graph.nodes[i]["name"]] = activation_quantiser(
                grid, kind=settings.activations.ranges, size=int(np.prod(shape[1:]))
            )
    return annotate(net, weights=weights, outputs=outputs, graph=graph)


def notes_on(
    graph: Graph, placement: QuantiserPlacement, settings: QuantizationSettings
) -> dict[str, Any]:
    """Return what is quantised, for ``result.json``: bits, levels and bytes."""
    rows, total = [], 0
    for row in placement.layers:
        size = int(np.prod(graph.params[row.layer.weight].shape))
        channels = graph.params[row.layer.weight].shape[weight_axis(row.layer.op)]
        stored = packed_bytes(size, channels, row.weight_bits)
        total += stored
        rows.append(
            {
                "layer": row.layer.name,
                "weights": row.weight_bits,
                "activations": row.input_bits,
                "bytes": stored,
            }
        )
    _, high = levels_of(settings.weights, 8)
    return {
        "layers": rows,
        "weight_bytes": total,
        "float32_bytes": sum(
            4 * int(np.prod(value.shape)) for value in graph.params.values()
        ),
        "largest_level": high,
        "cpu_feature": dot_product_feature(),
    }


def packed_bytes(size: int, channels: int, bits: int) -> int:
    """Return the bytes of a weight whose levels are packed, with its scales."""
    return -(-size * bits // 8) + 4 * channels


def summary(net: Any) -> dict[str, Any]:
    """Return how many quantisers of how many bits a net has."""
    symbol, params = pair_of(net)
    nodes, _ = take_apart(symbol)
    counts: Dict[str, Dict[str, int]] = {"weights": {}, "activations": {}}
    names = {node["name"] for node in nodes if node["op"] == "null"} & set(params)
    for row in quantisers_of(nodes, params):
        kind = "weights" if row.target in names else "activations"
        key = str(row.bits)
        counts[kind][key] = counts[kind].get(key, 0) + 1
    return counts
