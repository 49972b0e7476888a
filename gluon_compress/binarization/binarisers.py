"""Binary weights and inputs: what is written into a symbol, and how it is read back.

A weight ``w`` becomes ``scale * sign(w)``, with the slope 1. An input ``x`` becomes
``scale`` where ``x > scale * threshold``, else 0, with the slope 1 within half a scale
of the threshold. Zero stays zero in both, so that masked channels stay masked; a weight
that is exactly zero is of no use as a binary one.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph.annotations import (
    BINARY,
    MARKS,
    AnnotationParameter,
    NewAnnotation,
    annotations_of,
    marked,
    of_kind,
)

SCHEME = "__binary_scheme__"  # the attribute of its nodes: of a weight, or INPUT
INPUT = "input"
SCALE, THRESHOLD = "scale", "threshold"  # roles of parameters
ON = "on"  # role of the switch that a net in training has: 0 or 1
LEAST_SCALE = 1e-12
STEEP = 1e20  # what turns any difference that float32 has into more than 1


def weight_scale(weight: np.ndarray, scheme: str, axis: int = 0) -> np.ndarray:
    """Return the mean absolute weight of each filter, or of the layer, float32."""
    magnitude = np.abs(weight)
    if scheme == "dorefa":
        return magnitude.mean(keepdims=True).reshape(1).astype(np.float32)
    others = tuple(i for i in range(weight.ndim) if i != axis)
    return magnitude.mean(axis=others).astype(np.float32)


def binary_weight(
    scale: np.ndarray, scheme: str, *, axis: int, switch: bool
) -> NewAnnotation:
    """Return the annotation of a binary weight.

    Parameters
    ----------
    scale : ndarray
        As ``weight_scale`` returns it.
    scheme : str
        ``xnor`` or ``dorefa``.
    axis : int
        Of the output channels.
    switch : bool
        Whether it has a switch, which is off.
    """
    axes = (axis,) if scheme == "xnor" else ()
    parameters = {SCALE: AnnotationParameter(mx.nd.array(scale), axes)}
    if switch:
        parameters[ON] = AnnotationParameter(mx.nd.zeros(1))

    def build(x: mx.sym.Symbol, **values: mx.sym.Symbol) -> mx.sym.Symbol:
        change = mx.sym.broadcast_mul(mx.sym.sign(x), values[SCALE]) - x
        if switch:
            change = mx.sym.broadcast_mul(change, values[ON])
        return x + mx.sym.BlockGrad(change)

    return NewAnnotation(BINARY, _with_scheme(build, scheme), parameters)


def binary_input(
    scale: float, threshold: float, *, size: int, switch: bool
) -> NewAnnotation:
    """Return the annotation of a binary map.

    Parameters
    ----------
    scale, threshold : float
        The threshold is a share of the scale, from 0 to 1.
    size : int
        Elements of the map for one sample: gradients of scale and threshold are divided
        by its root, as those of learned steps (Esser et al. 2020).
    switch : bool
    """
    parameters = {
        SCALE: AnnotationParameter(mx.nd.array([scale]), trained=True),
        THRESHOLD: AnnotationParameter(mx.nd.array([threshold]), trained=True),
    }
    if switch:
        parameters[ON] = AnnotationParameter(mx.nd.zeros(1))
    factor = 1 / np.sqrt(size)

    def build(x: mx.sym.Symbol, **values: mx.sym.Symbol) -> mx.sym.Symbol:
        slow = {
            role: mx.sym.contrib.gradientmultiplier(values[role], scalar=factor)
            for role in (SCALE, THRESHOLD)
        }
        size_of = _at_least(slow[SCALE], LEAST_SCALE)
        limit = _at_most(_at_least(slow[THRESHOLD], 0), 1)
        shares = mx.sym.broadcast_div(x, size_of)
        passed = mx.sym.broadcast_greater(shares, limit)
        ramp = mx.sym.broadcast_sub(shares, limit) + 0.5
        ramp = _at_most(_at_least(ramp, 0), 1)
        binary = ramp + mx.sym.BlockGrad(passed - ramp)
        binary = mx.sym.broadcast_mul(binary, size_of)
        if not switch:
            return binary
        on = values[ON]
        return mx.sym.broadcast_mul(x, 1 - on) + mx.sym.broadcast_mul(binary, on)

    return NewAnnotation(BINARY, _with_scheme(build, INPUT), parameters)


def _at_least(x: mx.sym.Symbol, low: float) -> mx.sym.Symbol:
    return mx.sym._internal._MaximumScalar(x, scalar=float(low))


def _at_most(x: mx.sym.Symbol, high: float) -> mx.sym.Symbol:
    return mx.sym._internal._MinimumScalar(x, scalar=float(high))


def _with_scheme(build: Any, scheme: str) -> Any:
    def with_attribute(x: mx.sym.Symbol, **values: mx.sym.Symbol) -> mx.sym.Symbol:
        with mx.AttrScope(**{SCHEME: scheme}):
            return build(x, **values)

    return with_attribute


# Reading.


def schemes_of(nodes: Sequence[dict]) -> dict[str, str]:
    """Return the scheme of each binary weight or input by the annotation's name."""
    return {
        node["attrs"][MARKS[BINARY]]: node["attrs"][SCHEME]
        for node in nodes
        if node["op"] != "null" and {SCHEME, MARKS[BINARY]} <= set(node["attrs"])
    }


def has_binary_maps(nodes: Sequence[dict]) -> bool:
    """Return whether a symbol has binary inputs of layers."""
    return any(node["attrs"].get(SCHEME) == INPUT for node in nodes)


def binary_targets(nodes: Sequence[dict]) -> dict[str, str]:
    """Return the scheme of what is binary, by the name of the weight or node."""
    schemes = schemes_of(nodes)
    return {
        a.target: schemes[a.name] for a in of_kind(nodes, BINARY) if a.name in schemes
    }


# For inference.


def baked_inputs(
    nodes: Sequence[dict], heads: Sequence, params: Mapping[str, mx.nd.NDArray]
) -> tuple[list[dict], list]:
    """Return a symbol whose binary inputs are computed as every runtime can.

    Parameters
    ----------
    nodes, heads
        As ``symbols.take_apart`` returns them, not changed. Variables of scales and
        thresholds are not used any more.
    params : mapping
        Their values.

    Notes
    -----
    ``x > limit`` becomes ``clip(1e20 * (x - limit), 0, 1)``, which has no other values
    than 0 and 1 either.
    """
    schemes = schemes_of(nodes)
    rows = {a.name: a for a in annotations_of(nodes, [BINARY])}
    # The last node of an annotation is its result.
    ends: dict[int, str] = {}
    for name, scheme in schemes.items():
        if scheme == INPUT and rows[name].parameters:
            members = [
                i
                for i, node in enumerate(nodes)
                if node["op"] != "null" and node["attrs"].get(MARKS[BINARY]) == name
            ]
            ends[members[-1]] = name
    result: list[dict] = []
    number_of: dict[int, int] = {}

    def moved(entries: Sequence) -> list:
        return [[number_of[e[0]], *e[1:]] for e in entries]

    for i, node in enumerate(nodes):
        if i in ends:
            row = rows[ends[i]]
            source = [number_of[row.source[0]], row.source[1], 0]
            for new in _inference(row.name, *_numbers(row, params)):
                result.append({**new, "inputs": [source]})
                source = [len(result) - 1, 0, 0]
        else:
            result.append({**node, "inputs": moved(node["inputs"])})
        number_of[i] = len(result) - 1
    return result, moved(heads)


def _numbers(row: Any, params: Mapping[str, mx.nd.NDArray]) -> tuple[float, float]:
    """Return scale and limit of an input, by float32 as in training."""
    values = {name: params[name].asscalar() for name in row.parameters}
    by_role = {name[len(row.target) + 1 :]: value for name, value in values.items()}
    scale = max(np.float32(by_role[SCALE]), np.float32(LEAST_SCALE))
    threshold = np.clip(np.float32(by_role[THRESHOLD]), 0, 1)
    scale = scale * np.float32(by_role.get(ON, 1))
    return float(scale), float(np.float32(scale * threshold))


def _inference(name: str, scale: float, limit: float) -> list[dict]:
    steps = (
        ("_minus_scalar", {"scalar": repr(limit)}),
        ("_mul_scalar", {"scalar": repr(STEEP)}),
        ("clip", {"a_min": "0.0", "a_max": "1.0"}),
        ("_mul_scalar", {"scalar": repr(scale)}),
    )
    rows = []
    for number, (op, attrs) in enumerate(steps):
        node = {"op": op, "name": f"{name}_{number}", "attrs": {**attrs, SCHEME: INPUT}}
        rows.append(marked(node, BINARY, name))
    return rows
