"""Fake quantisers: what is written into a symbol, and how it is read back.

A quantiser maps ``x`` to ``s * clip(round(x / s), low, high)`` with whole numbers
``low <= 0 <= high``. It rounds halves to even, as ONNX, NumPy and every runtime do.
MXNet's own ``rint``, ``round`` and ``round_ste`` do not, and are slow: here ``1.5 *
2**23`` is added and subtracted, which leaves float32 no digits after the point. Both
have the slope 1, so that is the straight-through estimator too. ``clip`` is a maximum
and a minimum for the same reason: MXNet vectorises these.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph.annotations import (
    FAKE_QUANT,
    MARKS,
    AnnotationParameter,
    NewAnnotation,
    of_kind,
)

ROUNDER = 1.5 * 2**23  # of float32
ROUNDER64 = 1.5 * 2**52  # of float64
LEVELS = "__quantiser_levels__"  # the attribute of its nodes: low and high
SCALE = "scale"  # role of its parameter
LEAST_SCALE = 1e-12  # of a scale that is learned


@dataclass(frozen=True)
class QuantiserGrid:
    """The levels of a quantiser and their distance.

    Parameters
    ----------
    scale : float
        Distance of two levels.
    low, high : int
        First and last level; 0 lies between them.
    """

    scale: float
    low: int
    high: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the nearest levels' values, float32."""
        scale = np.float32(self.scale)
        levels = np.rint(np.asarray(x, np.float32) / scale)
        levels = np.clip(levels, self.low, self.high)
        return (levels * scale).astype(np.float32)


@dataclass(frozen=True)
class Quantiser:
    """A quantiser of a symbol.

    Parameters
    ----------
    name : str
        Of the annotation.
    target : str
        The parameter or node that is quantised.
    source : (int, int)
        Number of the node and of its output.
    scale : ndarray
        One number, or one for each channel of a weight, float32.
    low, high : int
    """

    name: str
    target: str
    source: tuple[int, int]
    scale: np.ndarray
    low: int
    high: int

    @property
    def bits(self) -> int:
        """The bits that the levels need."""
        return int(np.ceil(np.log2(self.high - self.low + 1)))


def half_even(x: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return the nearest whole numbers, halves to even, with the slope 1."""
    return (x + ROUNDER) - ROUNDER


def weight_grid(bits: int, *, narrow: int | None = None) -> tuple[int, int]:
    """Return the levels of a symmetric weight, for instance -127 and 127."""
    most = 2 ** (bits - 1) - 1
    if narrow is not None:
        most = min(most, narrow)
    return -most, most


def weight_scales(weight: np.ndarray, high: int, axis: int = 0) -> np.ndarray:
    """Return the scale of each channel by its largest weight, float32."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others)
    # A channel of zeros has any scale.
    return np.where(largest > 0, largest / high, 1.0).astype(np.float32)


def least_error_scales(weight: np.ndarray, high: int, axis: int = 0) -> np.ndarray:
    """Return the scale of each channel that rounds it with the least squared error.

    Tried are shares from 0.3 to 1 of what ``weight_scales`` gives.
    """
    scales = weight_scales(weight, high, axis)
    rows = np.moveaxis(weight, axis, 0).reshape(len(scales), -1)
    best, least = scales.copy(), np.full(len(scales), np.inf)
    for share in np.linspace(0.3, 1, 29):
        tried = (scales * share).astype(np.float32)
        levels = np.clip(np.rint(rows / tried[:, None]), -high, high)
        error = np.square(levels * tried[:, None] - rows).sum(axis=1)
        better = error < least
        best[better], least[better] = tried[better], error[better]
    return best


def activation_grid(low: float, high: float, bits: int, scheme: str) -> QuantiserGrid:
    """Return the grid of a tensor whose values lie in a range.

    Parameters
    ----------
    low, high : float
        The range; it is widened to hold zero.
    bits : int
    scheme : str
        As in ``ActivationSettings``.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    most = 2**bits - 1
    if scheme == "signed":
        half = 2 ** (bits - 1) - 1
        return QuantiserGrid(_float32(max(-low, high) / half), -half, half)
    if low == 0:
        return QuantiserGrid(_float32(high / most), 0, most)
    if scheme == "symmetric":
        half = 2 ** (bits - 1)
        scale = _float32(max(-low / half, high / (half - 1)))
        return QuantiserGrid(scale, -half, half - 1)
    scale = _float32((high - low) / most)
    zero = int(np.clip(np.rint(-low / scale), 0, most))
    return QuantiserGrid(scale, -zero, most - zero)


def _float32(value: float) -> float:
    """Return a scale as symbols and files hold it."""
    return float(np.float32(value)) if value > 0 else LEAST_SCALE


# Writing.


def weight_quantiser(
    scale: np.ndarray, low: int, high: int, *, axis: int, size: int, learned: bool
) -> NewAnnotation:
    """Return a quantiser of a weight with a scale for each output channel.

    Parameters
    ----------
    scale : ndarray
    low, high : int
    axis : int
        Of the output channels.
    size : int
        Elements of the weight.
    learned : bool
        Whether the scales are trained. If not, gradients pass as they are.
    """
    parameter = AnnotationParameter(mx.nd.array(scale), (axis,), trained=learned)
    step = 1 / np.sqrt(max(size / len(scale), 1) * high)

    def build(x: mx.sym.Symbol, **scales: mx.sym.Symbol) -> mx.sym.Symbol:
        y = _by_tensor(x, scales[SCALE], low, high, step if learned else None)
        return y if learned else x + mx.sym.BlockGrad(y - x)

    return NewAnnotation(FAKE_QUANT, _marked(build, low, high), {SCALE: parameter})


def activation_quantiser(grid: QuantiserGrid, *, kind: str, size: int) -> NewAnnotation:
    """Return a quantiser of a map.

    Parameters
    ----------
    grid : QuantiserGrid
    kind : str
        ``fixed``: the scale is a number in the symbol, which is by far the cheapest;
        ``moving``: a parameter that is not trained; ``learned``: one that is.
    size : int
        Elements of the map for one sample.
    """
    low, high = grid.low, grid.high
    if kind == "fixed":
        scale = float(np.float32(grid.scale))

        def fixed(x: mx.sym.Symbol) -> mx.sym.Symbol:
            return half_even(_clipped(x / scale, low, high)) * scale

        return NewAnnotation(FAKE_QUANT, _marked(fixed, low, high))
    learned = kind == "learned"
    step = 1 / np.sqrt(size * max(high, -low)) if learned else None
    value = mx.nd.array([grid.scale])

    def build(x: mx.sym.Symbol, **scales: mx.sym.Symbol) -> mx.sym.Symbol:
        return _by_tensor(x, scales[SCALE], low, high, step)

    parameters = {SCALE: AnnotationParameter(value, trained=learned)}
    return NewAnnotation(FAKE_QUANT, _marked(build, low, high), parameters)


def _by_tensor(
    x: mx.sym.Symbol, scale: mx.sym.Symbol, low: int, high: int, step: float | None
) -> mx.sym.Symbol:
    """Return the quantised tensor; ``step`` is LSQ's factor of the scale's gradient."""
    if step is None:
        scale = mx.sym.BlockGrad(scale)
    else:
        scale = mx.sym.contrib.gradientmultiplier(scale, scalar=step)
        scale = mx.sym._internal._MaximumScalar(scale, scalar=LEAST_SCALE)
    levels = half_even(_clipped(mx.sym.broadcast_div(x, scale), low, high))
    return mx.sym.broadcast_mul(levels, scale)


def _clipped(x: mx.sym.Symbol, low: int, high: int) -> mx.sym.Symbol:
    x = mx.sym._internal._MaximumScalar(x, scalar=float(low))
    return mx.sym._internal._MinimumScalar(x, scalar=float(high))


def _marked(build: Any, low: int, high: int) -> Any:
    def with_levels(x: mx.sym.Symbol, **parameters: mx.sym.Symbol) -> mx.sym.Symbol:
        with mx.AttrScope(**{LEVELS: f"({low}, {high})"}):
            return build(x, **parameters)

    return with_levels


# Reading.


def quantisers_of(
    nodes: Sequence[dict], params: Mapping[str, mx.nd.NDArray]
) -> list[Quantiser]:
    """Return the quantisers of a symbol, in the order of its nodes.

    Parameters
    ----------
    nodes : sequence
        As ``symbols.take_apart`` returns them.
    params : mapping
        Values of the parameters.
    """
    levels: dict[str, tuple[int, int]] = {}
    numbers: dict[str, float] = {}
    for node in nodes:
        attrs = node["attrs"]
        if node["op"] == "null" or not {LEVELS, MARKS[FAKE_QUANT]} <= set(attrs):
            continue
        name = attrs[MARKS[FAKE_QUANT]]
        levels[name] = ast.literal_eval(attrs[LEVELS])
        if node["op"] == "_div_scalar":
            numbers[name] = float(attrs["scalar"])
    result = []
    for annotation in of_kind(nodes, FAKE_QUANT):
        name = annotation.name
        if name not in levels:
            continue  # another kind of fake quantiser
        if name in numbers:
            scale = np.array([numbers[name]], np.float32)
        else:
            (variable,) = annotation.parameters
            scale = np.maximum(params[variable].asnumpy(), np.float32(LEAST_SCALE))
        low, high = levels[name]
        row = Quantiser(name, annotation.target, annotation.source, scale, low, high)
        result.append(row)
    return result


def is_quantised(nodes: Sequence[dict]) -> bool:
    """Return whether a symbol has quantisers."""
    return any(LEVELS in node["attrs"] for node in nodes)


def in_float64(nodes: Sequence[dict]) -> list[dict]:
    """Return a symbol's nodes such that quantisers round in float64 too."""
    result = []
    for node in nodes:
        scalar = node["attrs"].get("scalar")
        if LEVELS in node["attrs"] and scalar and float(scalar) == ROUNDER:
            node = {**node, "attrs": {**node["attrs"], "scalar": repr(ROUNDER64)}}
        result.append(node)
    return result
