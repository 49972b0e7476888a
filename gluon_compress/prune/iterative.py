"""Iterative pruning: masks decided in rounds while a net trains, hard or soft.

What a round decides is a function of the values that the net has at its beginning,
its masks among them. All of that is in a checkpoint, so a run that is killed and
resumed takes the decisions of one that was not.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, Optional

import mxnet as mx
import numpy as np
from typing_extensions import Annotated

from gluon_compress.graph import Graph, symbol_of
from gluon_compress.graph.annotations import mask_names
from gluon_compress.graph.symbols import take_apart
from gluon_compress.latency import LatencyTable
from gluon_compress.plan import Budget, Plan
from gluon_compress.plan.budget import cost_model_for
from gluon_compress.prune.masks import set_mask
from gluon_compress.prune.slimming import traced
from gluon_compress.validation import Count, OneOf, Settings

# What is left of the way from the full net to the budget after a share of the rounds.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cubic": lambda done: (1 - done) ** 3,
    "linear": lambda done: 1 - done,
}


class Rounds(Settings):
    """How often masks are decided anew during a training, and how they become final.

    Parameters
    ----------
    count : int
        Rounds of masking and training, equally long; 1 is one-shot pruning.
    curve : str
        A name in ``SCHEDULES``: ``cubic`` (Zhu and Gupta 2017, equation 1) or
        ``linear``, the way from the full net to the budget. The last round is at the
        budget.
    soft : bool
        In hard rounds (false) the budget shrinks round by round, and what is masked
        stays masked. In soft rounds the budget is the final one from the start, and
        masked channels are multiplied by a factor that shrinks from 1 to 0. They train
        on and may come back, until the last round is hard.
    epochs : int or None
        Epochs that the rounds are spread over; later epochs belong to the last round.
        None: all epochs of the training.

    Raises
    ------
    ValueError
        If a value is not allowed, or there are more rounds than epochs.
    """

    count: Count = 1
    curve: Annotated[str, OneOf(lambda: SCHEDULES)] = "cubic"
    soft: bool = False
    epochs: Optional[Count] = None

    def check(self) -> None:
        """Check that every round has an epoch."""
        if self.epochs is not None and self.count > self.epochs:
            raise self.error("count", f"up to one an epoch, {self.epochs}")

    def starts(self, epochs: int) -> list[int]:
        """Return the epochs of a run at which rounds begin, the first one 0.

        Raises
        ------
        ValueError
            If the rounds do not fit into so many epochs.
        """
        own = epochs if self.epochs is None else self.epochs
        if own > epochs:
            raise ValueError(
                f"rounds: epochs is {own}, the run has {epochs}: the last mask would "
                "never be set"
            )
        if self.count > own:
            raise ValueError(
                f"rounds: count is {self.count}; allowed: up to one an epoch, {own}"
            )
        return [number * own // self.count for number in range(self.count)]

    def left(self, number: int) -> float:
        """Return the part of the way that is left in a round, counted from 1."""
        return SCHEDULES[self.curve](number / self.count)


def mask_in_rounds(
    net: Any,
    budget: Budget,
    decide: Callable[[Graph, Budget, Plan | None], Plan],
    rounds: Rounds,
    *,
    shape: Any = None,
    table: LatencyTable | None = None,
) -> Callable:
    """Return a callback for ``fit`` that sets the masks of a net in rounds.

    Parameters
    ----------
    net : HybridBlock
        What ``mask`` returned. The block that is trained must have its parameters: it
        is the net itself, or for instance ``Family.training_net`` of a detector.
    budget : Budget
        The target.
    decide : callable
        ``decide(graph, budget, within) -> Plan``, for instance by ``select``.
        ``graph`` has the values of the moment and all channels, ``budget`` is the
        round's, ``within`` what is not masked yet; None in soft rounds, where every
        channel may come back. It must follow from the net's values; what it draws by
        MXNet is drawn again after a resume.
    rounds : Rounds
    shape : tuple or dict, optional
        Of the input that the budget is for, as for ``slim``.
    table : LatencyTable, optional
        For a budget of latency, as for ``select``.

    Returns
    -------
    callable
        After training, ``plan_of(net)`` is the plan of the last round. What was
        judged best under earlier masks is forgotten at the beginning of a round.

    Raises
    ------
    ValueError
        If the net has no masks; from ``fit``, before its first step, if the rounds do
        not fit into the run, the block that is trained does not have the masks, or
        the shape does not fit the net.

    Notes
    -----
    Soft masks follow He et al. 2018 (soft filter pruning, algorithm 1): all channels
    are updated and who is masked is decided anew. A channel that is set to zero in
    front of a ReLU has no gradient, though, and would never return. Hence the
    soft-pruning factor, which falls from round to round (Cai et al. 2020, softer
    pruning, where it acts on the filters). It acts in forward and backward passes
    alike, so training costs what it costs with hard masks.
    """
    masks = _masks(net)

    def callback(trained: Any, progress: Any) -> None:
        starts = rounds.starts(progress.epochs)
        if progress.epoch not in starts:
            return
        _check_has(trained, masks)
        left = rounds.left(starts.index(progress.epoch) + 1)
        graph = traced(net, None, shape)
        if rounds.soft:
            plan, factor = decide(graph, budget, None), left
        else:
            plan, factor = (
                decide(graph, _between(budget, graph, left, table), plan_of(net)),
                0,
            )
        set_mask(net, plan, graph=graph)
        _soften(masks, factor)
        progress.best = progress.best_epoch = None

    return callback


def plan_of(net: Any) -> Plan:
    """Return what the masks of a net keep, as a plan.

    Parameters
    ----------
    net : HybridBlock
        What ``mask`` returned; a channel under a soft mask is not kept.

    Raises
    ------
    ValueError
        If the net has no masks.
    """
    keep = {}
    for group, parameter in _masks(net).items():
        values = parameter.list_data()[0].asnumpy()
        keep[group] = np.flatnonzero(values == 1).tolist()
    return Plan(keep)


def _masks(net: Any) -> Mapping[str, Any]:
    """Return the mask of each group, a parameter."""
    names = mask_names(take_apart(symbol_of(net))[0])
    if not names:
        raise ValueError("the net has no masks; mask(net, plan) returns one that has")
    parameters = {p.name: p for p in net.collect_params().values()}
    return {group: parameters[name] for group, name in names.items()}


def _check_has(trained: Any, masks: Mapping) -> None:
    """Refuse to train a block that would not see the masks, nor store them."""
    own = {id(parameter) for parameter in trained.collect_params().values()}
    for group, parameter in masks.items():
        if id(parameter) not in own:
            raise ValueError(
                f"the mask of group {group!r} is no parameter of the block that is "
                "trained; train the net with masks, or a block that shares them"
            )


def _between(
    budget: Budget, graph: Graph, left: float, table: LatencyTable | None
) -> Budget:
    """Return the budget of a round on the way from the full cost to the target."""
    model = cost_model_for(graph, budget, table)
    full = model.costs(model.full[None])
    limits = budget.limits.items()
    return budget.with_limits(
        {n: v + (float(full[n][0]) - v) * left for n, v in limits}
    )


def _soften(masks: Mapping, factor: float) -> None:
    """Let a share of the masked channels' values through."""
    for parameter in masks.values():
        values = parameter.list_data()[0].asnumpy()
        parameter.set_data(mx.nd.array(np.maximum(values, factor)))
