"""Distillation losses on feature maps, for nets of any family."""

from __future__ import annotations

from typing import Any, Callable

from mxnet import nd

from gluon_compress.distill import losses
from gluon_compress.distill.registry import Array, DistillationLoss, Pair
from gluon_compress.validation import Positive, Settings


class ChannelSettings(Settings):
    """Settings of ``channels``.

    Parameters
    ----------
    channel_temperature : float
        Divides the features.
    """

    channel_temperature: Positive = 4.0


def _features(pair: Pair, settings: Any) -> Array:
    return _mean_over_maps(losses.feature_loss, pair)


def _hints(pair: Pair, settings: Any) -> Array:
    return _mean_over_maps(losses.hint_loss, pair)


def _channels(pair: Pair, settings: ChannelSettings) -> Array:
    temperature = settings.channel_temperature
    return _mean_over_maps(lambda s, t: losses.channel_loss(s, t, temperature), pair)


def _mean_over_maps(loss: Callable, pair: Pair) -> Array:
    maps = pair.maps()
    return nd.add_n(*[loss(s, t) for s, t in maps]) / len(maps)


FEATURE_LOSSES = {
    "features": DistillationLoss(_features, on_maps=True),
    "hints": DistillationLoss(_hints, on_maps=True),
    "channels": DistillationLoss(_channels, on_maps=True, Config=ChannelSettings),
}
