"""Moves scales and switches of binary weights and inputs while a net trains."""

from __future__ import annotations

from typing import Any, Dict

import mxnet as mx

from gluon_compress.binarization.binarisers import (
    INPUT,
    ON,
    SCALE,
    binary_targets,
    weight_scale,
)
from gluon_compress.binarization.binarising import finished
from gluon_compress.binarization.settings import BinarizationSettings
from gluon_compress.graph import symbol_of
from gluon_compress.graph.annotations import BINARY
from gluon_compress.graph.symbols import take_apart
from gluon_compress.quantization.training import weight_axes, weight_readers
from gluon_compress.train.hooks import Hooks, Position


class BinaryScales(Hooks):
    """Lets the scales of binary weights follow the weights.

    Parameters
    ----------
    net : HybridBlock
        One without binary weights has nothing to move.
    """

    def __init__(self, net: Any) -> None:
        nodes, _ = take_apart(symbol_of(net))
        schemes = binary_targets(nodes)
        axes = weight_axes(nodes) if schemes else {}
        parameters = _parameters(net)
        values = weight_readers(nodes, BINARY, parameters) if schemes else {}
        self._rows = [
            (values[n], parameters[f"{n}_{SCALE}"], scheme, axes.get(n, 0))
            for n, scheme in schemes.items()
            if scheme != INPUT
        ]

    def end_step(self, position: Position) -> None:
        """Set the scales."""
        for value, scale, scheme, axis in self._rows:
            scale.set_data(mx.nd.array(weight_scale(value(), scheme, axis)))


class BinaryStages(Hooks):
    """Makes inputs binary from one epoch on, and weights from another.

    Parameters
    ----------
    net : HybridBlock
        What ``binarising.begun`` returned.
    settings : BinarizationSettings
    shape : tuple, optional
        Of the input, unless the net states it.
    """

    def __init__(self, net: Any, settings: BinarizationSettings, shape: Any) -> None:
        self._settings, self._shape = settings, shape
        parameters = _parameters(net)
        targets = binary_targets(take_apart(symbol_of(net))[0])
        self._switches = [
            (parameters[f"{name}_{ON}"], scheme == INPUT)
            for name, scheme in targets.items()
        ]

    def begin_epoch(self, position: Position) -> bool:
        """Switch on what is due."""
        settings, changed = self._settings, False
        weights_from = settings.binary_weights_from(position.epochs)
        for switch, is_input in self._switches:
            first = settings.activations_from if is_input else weights_from
            on = float(position.epoch >= first)
            if switch.list_data()[0].asscalar() != on:
                switch.set_data(mx.nd.array([on]))
                changed = True
        return changed

    def finished(self, net: Any) -> Any:
        """Return the net without switches."""
        return finished(net, self._shape)


def _parameters(net: Any) -> Dict[str, Any]:
    return {p.name: p for p in net.collect_params().values()}
