"""Layers with weights by name, and the patterns by which settings choose some of them.

A pattern is one of ``fnmatch``. Names are structural (``graph.names``): the same in
every process, whatever else it has built.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Mapping, Sequence, TypeVar

import numpy as np

from gluon_compress.graph.annotations import bake_weights
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.tracing import Graph
from gluon_compress.validation import LONGEST_LINE, few, shortened

T = TypeVar("T")
MOST_NAMES = 6  # of layers, in a message


@dataclass(frozen=True)
class Layer:
    """A layer with a weight.

    Parameters
    ----------
    name : str
        The same in every process.
    number : int
        Of its node in ``graph.nodes``.
    op : str
        Its operator.
    weight : str
        Name of the parameter, as the net has it.
    bias : str or None
        Likewise.
    """

    name: str
    number: int
    op: str
    weight: str
    bias: str | None


def layers_of(graph: Graph, ops: Sequence[str] | None = None) -> list[Layer]:
    """Return the layers whose weight is a parameter, in the order of the net.

    Parameters
    ----------
    graph : Graph
    ops : sequence of str, optional
        Only these operators. A layer that is called twice is there twice.
    """
    layers = []
    for i, node in enumerate(graph.nodes):
        place = operator_of(node["op"]).weight_input
        if place is None or (ops is not None and node["op"] not in ops):
            continue
        weight = graph.nodes[node["inputs"][place][0]]
        if weight["op"] != "null" or weight["name"] not in graph.params:
            continue
        rest = node["inputs"][place + 1 :]
        bias = graph.nodes[rest[0][0]]["name"] if rest else None
        name = graph.grouping.names[i]
        layers.append(Layer(name, i, node["op"], weight["name"], bias))
    return layers


def chosen_layers(
    layers: Sequence[Layer],
    target: Sequence[str] = ("*",),
    ignored: Sequence[str] = (),
    *,
    key: str = "",
) -> list[Layer]:
    """Return the layers that a pattern of ``target`` matches and none of ``ignored``.

    Parameters
    ----------
    layers : sequence of Layer
    target, ignored : sequence of str
        Patterns of names.
    key : str
        What stands before ``target`` and ``ignored`` in messages.

    Raises
    ------
    ValueError
        If a pattern matches no layer.
    """
    for name, patterns in (("target", target), ("ignored", ignored)):
        check_patterns(layers, patterns, f"{key}{name}")
    return [
        layer
        for layer in layers
        if matches(layer.name, target) and not matches(layer.name, ignored)
    ]


def by_pattern(
    layers: Sequence[Layer], rows: Mapping[str, T], default: T, *, key: str
) -> dict[str, T]:
    """Return a value for each layer's name: of the first pattern that fits, or default.

    Raises
    ------
    ValueError
        If a pattern matches no layer.
    """
    check_patterns(layers, tuple(rows), key)
    result: dict[str, T] = {}
    for layer in layers:
        fitting = (v for p, v in rows.items() if fnmatchcase(layer.name, p))
        result[layer.name] = next(fitting, default)
    return result


def check_float32(graph: Graph) -> None:
    """Refuse weights of another type: annotations compute in float32.

    Raises
    ------
    ValueError
        Naming the first.
    """
    for layer in layers_of(graph):
        value = graph.params[layer.weight]
        if value is not None and value.dtype != np.float32:
            raise ValueError(
                f"the weight of {layer.name!r} is {np.dtype(value.dtype).name}; "
                "allowed: float32, as net.cast('float32') makes it"
            )


def effective_weights(graph: Graph) -> dict[str, np.ndarray]:
    """Return the weights as layers read them: under their masks, for instance."""
    values = {**graph.params, **graph.annotated.params}
    nodes, heads = graph.annotated.nodes, graph.annotated.heads
    _, _, baked = bake_weights(
        nodes, heads, {n: v for n, v in values.items() if v is not None}
    )
    return {
        name: baked.get(name, value).asnumpy()
        for name, value in graph.params.items()
        if value is not None
    }


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether any pattern matches a name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(layers: Sequence[Any], patterns: Sequence[str], key: str) -> None:
    """Refuse a pattern that matches none of some layers.

    Raises
    ------
    ValueError
        Naming key, pattern and some names.
    """
    names = list(dict.fromkeys(layer.name for layer in layers))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            known = few(names, MOST_NAMES) or "none"
            line = f"{key}: pattern {pattern!r} matches no layer; layers are {known}"
            raise ValueError(shortened(line, LONGEST_LINE))
