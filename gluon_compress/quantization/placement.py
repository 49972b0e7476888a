"""Where quantisers go: at the tensors that a runtime computes in integers.

These are the inputs of quantised layers, both inputs of sums, the inputs of averages,
and on request the outputs of last layers. A tensor is quantised where it comes from:
behind the activation of the layer that makes it, never between the two. What only hands
values on (a reshape, the largest of some) stands for its source. The parts of a
concatenation share one scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Container, Sequence

from gluon_compress.graph import Graph
from gluon_compress.graph.annotations import BINARY
from gluon_compress.graph.context import attribute
from gluon_compress.graph.layers import (
    Layer,
    by_pattern,
    check_float32,
    chosen_layers,
    layers_of,
)
from gluon_compress.graph.operators import operator_of
from gluon_compress.quantization.settings import LayerBits, QuantizationSettings

# What runtimes compute in integers; deformable convolutions in their dilated form.
LAYERS = ("Convolution", "FullyConnected", "_contrib_DeformableConvolution")
SUMS = ("elemwise_add", "broadcast_add", "_plus", "_Plus", "add_n", "ElementWiseSum")
CONCATS = ("Concat", "concat")
AVERAGES = ("_contrib_AdaptiveAvgPooling2D", "mean")
HAND_ON = {  # operators whose outputs are values of their first input, or zero
    *("Flatten", "flatten", "Reshape", "reshape", "transpose", "SwapAxis", "squeeze"),
    *("expand_dims", "Dropout", "_copy", "identity", "BlockGrad", "SliceChannel"),
    *("_split_v2", "slice", "slice_axis", "depth_to_space", "space_to_depth"),
    *("reverse", "tile", "repeat", "slice_like", "stack"),
}
BEHIND = {"BatchNorm", "Activation", "relu", "sigmoid", "clip", "LeakyReLU"}


@dataclass(frozen=True)
class QuantisedLayer:
    """A layer that is quantised.

    Parameters
    ----------
    layer : Layer
    weight_bits, input_bits : int
    """

    layer: Layer
    weight_bits: int
    input_bits: int


@dataclass(frozen=True)
class QuantiserPlacement:
    """What is quantised.

    Parameters
    ----------
    layers : tuple of QuantisedLayer
    tensors : tuple of (tuple of int, int)
        Numbers of the nodes whose outputs share a scale, and the bits.
    """

    layers: tuple[QuantisedLayer, ...]
    tensors: tuple[tuple[tuple[int, ...], int], ...]


def place(graph: Graph, settings: QuantizationSettings) -> QuantiserPlacement:
    """Return what is quantised of a net.

    Raises
    ------
    ValueError
        If a pattern matches no layer, no layer is left, or one is not float32.
    """
    check_float32(graph)
    layers = _quantised_layers(graph, settings)
    if not layers:
        raise ValueError(
            f"target is {list(settings.target)}, ignored {list(settings.ignored)}: no "
            "layer is left to quantise; allowed: patterns that leave one"
        )
    joined = _Joined(graph)
    for row in layers:
        joined.demand(graph.nodes[row.layer.number]["inputs"][0], row.input_bits)
    numbers = {row.layer.number for row in layers}
    behind = _reaching(graph, numbers)
    for i in sorted(_reached(graph, numbers) & behind):
        for entry in _summed(graph, graph.nodes[i]):
            if settings.sums == "both" or not _is_from(graph, entry, numbers):
                joined.demand(entry, settings.activations.bits)
    if settings.outputs:
        for row in layers:
            if row.layer.number not in behind:
                last = _behind(graph, row.layer.number)
                joined.demand([last, 0], row.input_bits)
    return QuantiserPlacement(tuple(layers), joined.tensors())


def _quantised_layers(
    graph: Graph, settings: QuantizationSettings
) -> list[QuantisedLayer]:
    every = layers_of(graph, LAYERS)
    chosen = chosen_layers(every, settings.target, settings.ignored)
    binary = {a.target for a in graph.annotated.annotations if a.kind == BINARY}
    mixed = by_pattern(every, settings.mixed, LayerBits(), key="mixed")
    before, behind = between(graph)
    bits_of: dict[str, list[int]] = {}  # of a weight that several layers read
    rows = []
    for layer in chosen:
        ends = []
        if layer.number not in before:
            ends.append(settings.first)
        if layer.number not in behind:
            ends.append(settings.last)
        if None in ends or layer.weight in binary:
            continue
        stated = mixed[layer.name]
        least = max((bits for bits in ends if bits is not None), default=0)
        weight = stated.weights or max(settings.weights.bits, least)
        inputs = stated.activations or max(settings.activations.bits, least)
        bits_of.setdefault(layer.weight, []).append(weight)
        rows.append((layer, inputs))
    return [QuantisedLayer(r, max(bits_of[r.weight]), inputs) for r, inputs in rows]


def between(graph: Graph) -> tuple[set[int], set[int]]:
    """Return the nodes behind some layer with a weight, and those before one.

    First layers are not among the former, last ones not among the latter.
    """
    numbers = {layer.number for layer in layers_of(graph)}
    return _reached(graph, numbers), _reaching(graph, numbers)


def _reached(graph: Graph, layers: set[int]) -> set[int]:
    """Return the nodes that read what some layers make."""
    reached: set[int] = set()
    for i, node in enumerate(graph.nodes):
        if any(entry[0] in reached or entry[0] in layers for entry in node["inputs"]):
            reached.add(i)
    return reached


def _reaching(graph: Graph, layers: set[int]) -> set[int]:
    """Return the nodes that some layers read."""
    reaching: set[int] = set()
    for i in range(len(graph.nodes) - 1, -1, -1):
        if i in reaching or i in layers:
            reaching.update(entry[0] for entry in graph.nodes[i]["inputs"])
    return reaching


def _summed(graph: Graph, node: dict) -> list:
    """Return the inputs of a node that sums or averages maps."""
    if _averages(node):
        return node["inputs"][:1]
    names = [graph.nodes[entry[0]]["name"] for entry in node["inputs"]]
    computed = all(name not in graph.params for name in names)
    return node["inputs"] if node["op"] in SUMS and computed else []


def _is_from(graph: Graph, entry: Sequence, layers: set[int]) -> bool:
    """Return whether a layer, or a BatchNorm behind it, makes a tensor."""
    number = entry[0]
    if operator_of(graph.nodes[number]["op"]).running_statistics:
        number = graph.nodes[number]["inputs"][0][0]
    return number in layers


def _averages(node: dict) -> bool:
    is_pool = node["op"] == "Pooling"
    return node["op"] in AVERAGES or (
        is_pool and attribute(node["attrs"], "pool_type", "max") == "avg"
    )


def hands_on(node: dict) -> bool:
    """Return whether a node's outputs are values of its first input, or zero."""
    if node["op"] == "Pooling":
        return attribute(node["attrs"], "pool_type", "max") == "max"
    if node["op"] == "UpSampling":
        return attribute(node["attrs"], "sample_type", None) == "nearest"
    if node["op"] == "Pad":
        zero = attribute(node["attrs"], "constant_value", 0) == 0
        return zero or attribute(node["attrs"], "mode", "") != "constant"
    return node["op"] in HAND_ON


def source_of(nodes: Sequence[dict], i: int, known: Container[str] = ()) -> int:
    """Return the node whose quantiser is that of a tensor: what hands it on has none.

    Parameters
    ----------
    nodes : sequence
        Of a plain symbol.
    i : int
        Number of the node that makes the tensor.
    known : container of str
        Names of nodes at which to stop in any case.
    """
    while nodes[i]["inputs"] and nodes[i]["name"] not in known:
        if not (hands_on(nodes[i]) or nodes[i]["op"] in CONCATS):
            break
        i = nodes[i]["inputs"][0][0]  # the parts of a concatenation share a scale
    return i


def _behind(graph: Graph, number: int) -> int:
    """Return the last of the nodes that belong to a layer: its norm and activation."""
    readers: dict[int, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        for entry in node["inputs"]:
            readers.setdefault(entry[0], []).append(i)
    heads = {head[0] for head in graph.heads}
    while number not in heads:
        following = readers.get(number, [])
        if len(following) != 1 or graph.nodes[following[0]]["op"] not in BEHIND:
            break
        number = following[0]
    return number


class _Joined:
    """Tensors that are quantised, and which of them share a scale."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._first: dict[int, int] = {}  # of a set, by member
        self._calls: dict[str, list[int]] = {}  # of a layer that is called often
        for i, node in enumerate(graph.nodes):
            self._calls.setdefault(node["name"], []).append(i)
        self._bits: dict[int, int] = {}

    def demand(self, entry: Sequence, bits: int) -> None:
        """Quantise what a tensor comes from, in at least so many bits."""
        sources = self._sources(entry[0])
        if any(self._graph.nodes[i]["name"] in self._graph.params for i in sources):
            return  # computed from parameters: nothing of a map
        # All calls of a layer have one annotation.
        names = [self._graph.nodes[i]["name"] for i in sources]
        sources = [i for name in dict.fromkeys(names) for i in self._calls[name]]
        for i in sources:
            self._first.setdefault(i, i)
            self._bits[i] = max(self._bits.get(i, 0), bits)
            first, other = self._root(sources[0]), self._root(i)
            self._first[max(first, other)] = min(first, other)

    def _root(self, i: int) -> int:
        while self._first[i] != i:
            i = self._first[i]
        return i

    def _sources(self, i: int) -> list[int]:
        node = self._graph.nodes[i]
        if node["op"] in CONCATS or node["op"] == "stack":
            parts = [self._sources(entry[0]) for entry in node["inputs"]]
            return list(dict.fromkeys(s for part in parts for s in part))
        if hands_on(node):
            return self._sources(node["inputs"][0][0])
        return [i]

    def tensors(self) -> tuple[tuple[tuple[int, ...], int], ...]:
        """Return the sets of nodes that share a scale, with their bits."""
        sets: dict[int, list[int]] = {}
        for i in sorted(self._first):
            sets.setdefault(self._root(i), []).append(i)
        return tuple(
            (tuple(members), max(self._bits[i] for i in members))
            for members in sets.values()
        )


def weight_of(node: dict) -> list:
    """Return the entry of the weight of a node of ``LAYERS``."""
    return node["inputs"][operator_of(node["op"]).weight_input or 0]


def weight_axis(op: str) -> int:
    """Return the axis of a weight along which its output channels lie."""
    return operator_of(op).weight_axis
