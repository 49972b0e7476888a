"""Trains BatchNorm scales towards zero before pruning (network slimming)."""

from __future__ import annotations

import math
from typing import Any, Callable, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph
from gluon_compress.graph.context import attribute
from gluon_compress.graph.operators import operator_of
from gluon_compress.prune.slimming import traced
from gluon_compress.train.schedule import Schedule
from gluon_compress.validation import Positive, Settings


class BatchNormL1Settings(Settings):
    """Training with a penalty on BatchNorm scales before channels are chosen.

    Parameters
    ----------
    weight : float
        Weight of the sum of absolute scales in the loss.
    train : Schedule
        The schedule of this training.
    """

    weight: Positive
    train: Schedule


PART = "sparsity"  # the name of the penalty in logs


def bn_l1_step(
    step_loss: Callable,
    net: Any,
    weight: float,
    *,
    shape: Any = None,
    graph: Graph | None = None,
) -> Callable:
    """Return a step loss for ``fit`` with a penalty on BatchNorm scales.

    ``L = L_0 + weight * sum |gamma|`` (Liu et al. 2017, network slimming, equation 1),
    over the scales of removable channels only: on others it would cost accuracy for
    nothing. The gradient at zero is zero.

    Parameters
    ----------
    step_loss : callable
        ``step_loss(net, batch) -> (loss, {part: value})``.
    net : HybridBlock
        The net with the trained parameters, masked or not: the block given to ``fit``,
        or the net of a ``Family.training_net``.
    weight : float
        At least 0. Liu et al. use 1e-5 to 1e-4 with a loss averaged over images.
    shape, graph
        As for ``slim``.

    Returns
    -------
    callable
        Its part ``sparsity`` is ``weight * sum |gamma|``.

    Raises
    ------
    ValueError
        For a weight below 0, or a net without such scales.
    """
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not number or not math.isfinite(weight) or weight < 0:
        raise ValueError(f"bn_l1: weight is {weight!r}; allowed: a number from 0")
    removable_of = _removable_scales(traced(net, None, shape, graph))
    trained = {p.name: p for p in net.collect_params().values()}
    scales = [
        (trained[name], mx.nd.array(removable))
        for name, removable in removable_of.items()
        if trained[name].grad_req != "null"
    ]
    if not scales:
        raise ValueError(
            "the net has no trained BatchNorm scale of a channel that can be removed"
        )

    def step(net: Callable, batch: Sequence) -> tuple:
        loss, parts = step_loss(net, batch)
        device = loss.ctx
        sizes = [
            (parameter.data(device).abs() * removable.as_in_context(device)).sum()
            for parameter, removable in scales
        ]
        penalty = weight * mx.nd.add_n(*sizes)
        return loss + penalty, {**parts, PART: penalty}

    return step


def _removable_scales(graph: Graph) -> dict[str, np.ndarray]:
    """Return for each scale parameter ones at removable channels, zeros elsewhere."""
    removable = {}
    for node in graph.nodes:
        trained = not attribute(node["attrs"], "fix_gamma", True)
        if operator_of(node["op"]).running_statistics and trained:
            name = graph.nodes[node["inputs"][1][0]]["name"]
            for tensor in graph.axes.get(name, ()):
                removable[name] = np.asarray(tensor.positions >= 0, np.float32)
    return removable
