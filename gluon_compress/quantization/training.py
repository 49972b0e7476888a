"""Moves the scales of a quantised net while it trains.

Scales of weights follow the weights: in 8 bits their largest value after every step, in
fewer bits the scale of least error at every epoch. Scales of maps follow an average of
the extremes, where the settings say so. Scales that are learned have gradients and need
nothing of this.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, NamedTuple, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import SymbolBlock

from gluon_compress.distributed import ranks
from gluon_compress.graph import pair_of, symbol_of
from gluon_compress.graph.annotations import (
    FAKE_QUANT,
    FIXED,
    annotations_of,
    weights_below,
)
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.quantization.biases import with_whole_biases
from gluon_compress.quantization.placement import LAYERS, weight_of
from gluon_compress.quantization.quantisers import (
    LEAST_SCALE,
    Quantiser,
    is_quantised,
    least_error_scales,
    quantisers_of,
    weight_scales,
)
from gluon_compress.quantization.settings import ActivationSettings
from gluon_compress.train.hooks import Hooks, Position
from gluon_compress.validation import wrong


class _Weight(NamedTuple):
    """A weight whose scales follow it."""

    value: Callable[[], np.ndarray]
    scale: Any
    high: int
    axis: int
    few_bits: bool


class WeightScales(Hooks):
    """Lets the scales of weights follow the weights.

    Parameters
    ----------
    net : HybridBlock
        With quantisers; one without has nothing to move.
    """

    def __init__(self, net: Any) -> None:
        self._rows = _fixed_weights(net)

    def begin_epoch(self, position: Position) -> None:
        """Set the scales of weights in few bits."""
        for row in self._rows:
            if row.few_bits:
                self._set(row)

    def end_step(self, position: Position) -> None:
        """Set the scales of weights in 8 bits."""
        for row in self._rows:
            if not row.few_bits:
                self._set(row)

    def finished(self, net: Any) -> Any:
        """Return the net with biases that are whole steps of integer kernels."""
        return with_whole_biases(net)

    @staticmethod
    def _set(row: _Weight) -> None:
        value = row.value()
        scales = least_error_scales if row.few_bits else weight_scales
        row.scale.set_data(mx.nd.array(scales(value, row.high, row.axis)))


def _fixed_weights(net: Any) -> list[_Weight]:
    nodes, _ = take_apart(symbol_of(net))
    if not is_quantised(nodes):
        return []
    _, params = pair_of(net)
    parameters = {p.name: p for p in net.collect_params().values()}
    variables = {node["name"]: node for node in nodes if node["op"] == "null"}
    axes, values = weight_axes(nodes), weight_readers(nodes, FAKE_QUANT, parameters)
    rows = []
    for quantiser, name in _with_parameter(nodes, params):
        weight = quantiser.target
        if weight in params and FIXED in variables[name]["attrs"]:
            few, axis = quantiser.high < 63, axes.get(weight, 0)
            row = _Weight(values[weight], parameters[name], quantiser.high, axis, few)
            rows.append(row)
    return rows


def weight_readers(
    nodes: Sequence[dict], kind: str, parameters: Mapping[str, Any]
) -> dict[str, Callable[[], np.ndarray]]:
    """Return what gives the present value that annotations of a kind read of weights.

    Parameters
    ----------
    nodes : sequence
        As ``symbols.take_apart`` returns them.
    kind : str
    parameters : mapping
        Gluon parameters by name.
    """

    def reader(symbol: mx.sym.Symbol) -> Callable[[], np.ndarray]:
        names = symbol.list_inputs()

        def read() -> np.ndarray:
            values = {name: parameters[name].list_data()[0] for name in names}
            first = values[names[0]]
            if len(names) == 1:
                return first.asnumpy()
            return symbol.eval(ctx=first.context, **values)[0].asnumpy()

        return read

    return {n: reader(symbol) for n, symbol in weights_below(nodes, kind).items()}


def _with_parameter(nodes: Sequence[dict], params: Any) -> list[tuple[Quantiser, str]]:
    """Return the quantisers whose scale is a parameter, and its name."""
    names = {a.name: a.parameters for a in annotations_of(nodes)}
    found = [(q, names[q.name]) for q in quantisers_of(nodes, params)]
    return [(quantiser, name[0]) for quantiser, name in found if name]


def weight_axes(nodes: Sequence[dict]) -> dict[str, int]:
    """Return the axis of the channels of each weight behind annotations."""
    plain = {a.source[0]: a.target for a in annotations_of(nodes)}
    axes = {}
    for node in nodes:
        if node["op"] in LAYERS:
            i = weight_of(node)[0]
            while nodes[i]["op"] != "null" and i not in plain:
                i = nodes[i]["inputs"][0][0]
            axes[nodes[i]["name"]] = operator_of(node["op"]).weight_axis
    return axes


class MovingRanges(Hooks):
    """Lets the scales of maps follow an average of what they need.

    Parameters
    ----------
    net : HybridBlock
        With quantisers of moving ranges.
    settings : ActivationSettings
    """

    def __init__(self, net: Any, settings: ActivationSettings) -> None:
        self._settings = settings
        self._images: list = []  # of the step: one array for each device
        symbol = symbol_of(net)
        nodes, _ = take_apart(symbol)
        _, params = pair_of(net)
        self._parameters = {p.name: p for p in net.collect_params().values()}
        variables = {node["name"]: node for node in nodes if node["op"] == "null"}
        self._rows = [
            (quantiser, self._parameters[name])
            for quantiser, name in _with_parameter(nodes, params)
            if quantiser.target not in params and FIXED in variables[name]["attrs"]
        ]
        heads = [[*quantiser.source, 0] for quantiser, _ in self._rows]
        self._observer = None
        if heads:
            extremes = []
            for tensor in put_together(nodes, heads):
                extremes += [mx.sym.min(tensor), mx.sym.max(tensor)]
            both = mx.sym.stack(*extremes)
            inputs = [n for n in both.list_inputs() if n not in params]
            if len(inputs) > 1:
                allowed = f"fixed or learned, for a net of {len(inputs)} inputs"
                raise wrong("activations.ranges", "moving", allowed)
            data = [mx.sym.var(name, dtype="float32") for name in inputs]
            shared = net.collect_params()
            self._observer = SymbolBlock(both, data, params=shared)

    def see(self, images: Any) -> None:
        """Keep the images of a step until its end."""
        self._images.append(images)

    def end_step(self, position: Position) -> None:
        """Move the scales by what the images of the step need, on all devices."""
        images, self._images = self._images, []
        if self._observer is None or position.step % self._settings.every:
            return
        assert images
        each = np.array([self._needs(part) for part in images], np.float32)
        # The extremes of the whole batch decide, whatever it was divided into.
        scales = ranks().combined("moving ranges", each.max(axis=0), "max")
        momentum = self._settings.momentum
        for (_, parameter), needed in zip(self._rows, scales):
            before = parameter.list_data()[0].asnumpy()
            after = momentum * before + (1 - momentum) * needed
            parameter.set_data(mx.nd.array(after.astype(np.float32)))

    def _needs(self, images: Any) -> list[float]:
        """Return the scale that each quantiser needs for some images."""
        assert self._observer is not None
        with autograd.train_mode():
            extremes = self._observer(images).asnumpy().reshape(-1, 2)
        return [
            _needed(low, high, quantiser.low, quantiser.high)
            for (quantiser, _), (low, high) in zip(self._rows, extremes)
        ]


def _needed(low: float, high: float, first: int, last: int) -> float:
    """Return the least scale whose levels cover a range."""
    by_high = max(high, 0) / last if last else 0.0
    by_low = min(low, 0) / first if first else 0.0
    return max(by_high, by_low, LEAST_SCALE)
