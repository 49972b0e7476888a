"""Network slimming: train BatchNorm scales towards zero before pruning."""

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
    """Training that pulls BatchNorm scales towards zero before channels are chosen.

    Parameters
    ----------
    weight : float
        Of the sum of absolute scales in the loss.
    train : Schedule
        Of this training.
    """

    weight: Positive
    train: Schedule


PART = "sparsity"  # of the loss in logs, which keep the name


def bn_l1_step(
    step_loss: Callable,
    net: Any,
    weight: float,
    *,
    shape: Any = None,
    graph: Graph | None = None,
) -> Callable:
    """Return a step loss for ``fit`` that also pulls BatchNorm scales towards zero.

    ``L = L_0 + weight * sum |gamma|`` (Liu et al. 2017, network slimming, equation
    1), over the scales of channels that can be removed; the others would lose
    accuracy for nothing. At zero the slope is zero.

    Parameters
    ----------
    step_loss : callable
        ``step_loss(net, batch) -> (loss, {part: value})``.
    net : HybridBlock
        Has the parameters that are trained, with masks or without: the block that
        ``fit`` gets, or the detector behind a ``Family.training_net``.
    weight : float
        From 0. Liu et al. use 1e-5 to 1e-4, with a loss that is a mean over images.
    shape, graph
        As for ``slim``.

    Returns
    -------
    callable
        Its part ``sparsity``, as logs name it, is ``weight * sum |gamma|``.

    Raises
    ------
    ValueError
        For another weight, or a net without such scales.
    """
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not number or not math.isfinite(weight) or weight < 0:
        raise ValueError(f"bn_l1: weight is {weight!r}; allowed: a number from 0")
    places = _scales(traced(net, None, shape, graph))
    trained = {p.name: p for p in net.collect_params().values()}
    scales = [
        (trained[name], mx.nd.array(places[name]))
        for name in places
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
            (parameter.data(device).abs() * which.as_in_context(device)).sum()
            for parameter, which in scales
        ]
        penalty = weight * mx.nd.add_n(*sizes)
        return loss + penalty, {**parts, PART: penalty}

    return step


def _scales(graph: Graph) -> dict[str, np.ndarray]:
    """Return, for each scale, ones where its channel can be removed."""
    found = {}
    for node in graph.nodes:
        trained = not attribute(node["attrs"], "fix_gamma", True)
        if operator_of(node["op"]).running_statistics and trained:
            name = graph.nodes[node["inputs"][1][0]]["name"]
            for tensor in graph.axes.get(name, ()):
                found[name] = np.asarray(tensor.positions >= 0, np.float32)
    return found
