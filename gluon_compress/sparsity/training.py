"""Moves masks of weights while a net trains."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet import autograd

from gluon_compress.sparsity.curves import adaptive_level, level_at
from gluon_compress.sparsity.masks import (
    LOGIT,
    MASK,
    NOISE,
    Masks,
    kept_weights,
    largest,
)
from gluon_compress.sparsity.settings import SparsitySettings
from gluon_compress.sparsity.sparsifying import finished
from gluon_compress.train.hooks import Hooks, Position

UNIT = 0.05  # of the share of zeros: what counts 1 in the loss


class MagnitudeMasks(Hooks):
    """Chooses masks by the present weights, at a share of zeros that grows.

    Weights under a mask have no gradient, but keep their value, so that they can return
    until the share is final.

    Parameters
    ----------
    net : HybridBlock
        What ``sparsifying.begun`` returned.
    names : sequence of str
        Of the weights.
    settings : SparsitySettings
    shape : tuple, optional
        Of the input, unless the net states it.
    """

    def __init__(
        self, net: Any, names: Sequence[str], settings: SparsitySettings, shape: Any
    ) -> None:
        self._settings, self._shape = settings, shape
        parameters = _parameters(net)
        self._rows = {n: (parameters[n], parameters[f"{n}_{MASK}"]) for n in names}

    def begin_epoch(self, position: Position) -> bool:
        """Choose the masks of the epoch."""
        level = self._level(position.epoch, position)
        self._set(level)
        before = self._level(max(position.epoch - 1, 0), position)
        return position.epoch == 0 or level != before

    def end_step(self, position: Position) -> None:
        """Choose masks anew within the epoch, where that is asked for."""
        every = self._settings.growth.every
        if every is not None and position.step % every == 0:
            self._set(self._level(position.epoch, position))

    def finished(self, net: Any) -> Any:
        """Return the net with the masks of the final share of zeros."""
        return finished(net, self.final_masks(), self._shape)

    def final_masks(self) -> Masks:
        """Return the masks of the final share of zeros."""
        return kept_weights(self._values(), self._settings, self._settings.final)

    def _level(self, epoch: float, position: Position) -> float:
        return level_at(self._settings, epoch, position.epochs)

    def _values(self) -> Dict[str, np.ndarray]:
        return {n: _value(weight) for n, (weight, _) in self._rows.items()}

    def _set(self, level: float) -> None:
        masks = kept_weights(self._values(), self._settings, level)
        for name, (_, mask) in self._rows.items():
            mask.set_data(mx.nd.array(masks[name]))


class LearnedMasks(Hooks):
    """Draws masks with probabilities that are trained, and pulls these to a share.

    Parameters
    ----------
    net, names, settings, shape
        As for ``MagnitudeMasks``.

    Notes
    -----
    The term of the loss is ``((share of zeros expected - share wanted) / UNIT) ** 2``
    over all weights. In the end, the most probable weights stay that make the share
    exact.
    """

    def __init__(
        self, net: Any, names: Sequence[str], settings: SparsitySettings, shape: Any
    ) -> None:
        self._settings, self._shape = settings, shape
        self._position = Position(0, 0.0, 0)
        parameters = _parameters(net)
        self._rows: Mapping[str, Tuple[Any, Any]] = {
            n: (parameters[f"{n}_{LOGIT}"], parameters[f"{n}_{NOISE}"]) for n in names
        }

    def begin_epoch(self, position: Position) -> bool:
        """Begin with masks at rest; they move until the share is final, and after."""
        return position.epoch <= self._settings.growth.reached(position.epochs)

    def begin_step(self, position: Position) -> None:
        """Note how far the training is."""
        self._position = position

    def see(self, images: Any) -> None:
        """Draw the noise of a step."""
        for _, noise in self._rows.values():
            u = mx.nd.random.uniform(1e-6, 1 - 1e-6, shape=noise.shape)
            noise.set_data(mx.nd.log(u / (1 - u)))

    def loss(self) -> Any:
        """Return the distance from the share of zeros that is wanted now."""
        arrays = [logit.list_data()[0] for logit, _ in self._rows.values()]
        kept = mx.nd.add_n(*(mx.nd.sigmoid(array).sum() for array in arrays))
        zeros = 1 - kept / sum(array.size for array in arrays)
        with autograd.pause():
            wanted = self._wanted(zeros)
        return self._settings.weight * ((zeros - wanted) / UNIT) ** 2

    def end_step(self, position: Position) -> None:
        """Let the masks rest: the more probable of both values."""
        for _, noise in self._rows.values():
            noise.set_data(mx.nd.zeros(noise.shape))

    def finished(self, net: Any) -> Any:
        """Return the net with fixed masks of exactly the share of zeros."""
        return finished(net, self.final_masks(), self._shape)

    def final_masks(self) -> Masks:
        """Return the masks of the most probable weights."""
        scores = {n: _value(logit) for n, (logit, _) in self._rows.items()}
        apart = self._settings.scope == "layer"
        return largest(scores, self._settings.final, apart=apart)

    def _wanted(self, zeros: Any) -> float:
        if self._settings.growth.curve == "adaptive":
            return adaptive_level(self._settings, float(zeros.asscalar()))
        position = self._position
        return level_at(self._settings, position.epoch, position.epochs)


def _parameters(net: Any) -> Dict[str, Any]:
    return {p.name: p for p in net.collect_params().values()}


def _value(parameter: Any) -> np.ndarray:
    return parameter.list_data()[0].asnumpy()
