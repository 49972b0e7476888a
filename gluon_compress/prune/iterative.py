"""Prunes iteratively: sets masks in rounds during training, hard or soft.

The decision of a round depends only on the net's values at its beginning, including
masks. These are in the checkpoint, so a resumed run takes the same decisions.
"""

from __future__ import annotations

from functools import partial
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

EARLY, REACHED = 1 / 8, 3 / 4  # of the rounds, and of the way, with a bias


def _exponential(done: float, kept: float) -> float:
    """The limit falls by the same factor in each round; ``kept`` is what is left."""
    if kept >= 1:
        return 1 - done
    return (kept**done - kept) / (1 - kept)


def _with_bias(done: float, kept: float) -> float:
    """``a exp(-k i) + b`` with three quarters of the way in an eighth of the rounds.

    He et al. 2019 (asymptotic soft filter pruning), equation 4. The way is 1 - y^(8 i)
    over 1 - y^8, where y is exp(-k / 8): the root of 1 - y = 3/4 (1 - y^8).
    """
    y = 1 - REACHED
    for _ in range(20):  # contracts by 10^-4 each
        y = 1 - REACHED * (1 - y ** (1 / EARLY))
    fallen = y ** (done / EARLY)
    last = y ** (1 / EARLY)
    return (fallen - last) / (1 - last)


# The remaining share of the way from the full net to the budget, by the share of rounds
# that is done, and by the budget as a share of the full cost.
SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "cubic": lambda done, kept: (1 - done) ** 3,
    "linear": lambda done, kept: 1 - done,
    "baseline": lambda done, kept: 0.0,
    "exponential": _exponential,
    "exponential_with_bias": _with_bias,
}
SOFT_KEPT = 0.01  # what ``exponential`` takes for soft masks, whose factor falls to 0


class Rounds(Settings):
    """How often masks are decided during training, and how they become final.

    Parameters
    ----------
    count : int
        Rounds of masking and training, of equal length; 1 is one-shot pruning.
    curve : str
        A name in ``SCHEDULES``: how the limit falls from the full cost to the budget,
        which the last round meets: ``cubic`` (Zhu and Gupta 2017, equation 1),
        ``linear``, ``exponential`` (by the same factor in each round),
        ``exponential_with_bias`` (three quarters in the first eighth) or ``baseline``
        (all in the first round). The last three are NNCF's.
    soft : bool
        In hard rounds (false) the budget shrinks from round to round, and masked
        channels stay masked. In soft rounds the budget is the final one from the start,
        and masked channels are multiplied by a factor that shrinks from 1 to 0: they
        keep training and can return. The last round is hard.
    epochs : int or None
        Epochs over which the rounds are spread; later epochs belong to the last round.
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
        """Return the epochs at which rounds begin, the first being 0.

        Raises
        ------
        ValueError
            If the rounds do not fit into the epochs.
        """
        spread = epochs if self.epochs is None else self.epochs
        if spread > epochs:
            raise ValueError(
                f"rounds: epochs is {spread}, the run has {epochs}: the last mask "
                "would never be set"
            )
        if self.count > spread:
            raise ValueError(
                f"rounds: count is {self.count}; allowed: up to one an epoch, {spread}"
            )
        return [number * spread // self.count for number in range(self.count)]

    def remaining(self, number: int, kept: float = SOFT_KEPT) -> float:
        """Return the remaining share of the way to the budget in a round, from 1.

        Parameters
        ----------
        number : int
        kept : float
            The budget as a share of the full cost.
        """
        return SCHEDULES[self.curve](number / self.count, kept)


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
        A masked net. The trained block must share its parameters: it is the net itself,
        or for instance its ``Family.training_net``.
    budget : Budget
        The target.
    decide : callable
        ``decide(graph, budget, within) -> Plan``, for instance with ``select``.
        ``graph`` has the current values and all channels, ``budget`` is the budget of
        the round, and ``within`` keeps what is not masked yet; it is None in soft
        rounds, where every channel can return. The result may depend on the net's
        values and MXNet's random numbers only.
    rounds : Rounds
    shape : tuple or dict, optional
        Input shape for the budget, as for ``slim``.
    table : LatencyTable, optional
        For a latency budget, as for ``select``.

    Returns
    -------
    callable
        After training, ``plan_of(net)`` is the plan of the last round. Each round
        discards the best validation of earlier masks.

    Raises
    ------
    ValueError
        If the net has no masks. In ``fit``, before the first step, if the rounds do not
        fit into the run, the trained block does not share the masks, or the shape does
        not fit the net.

    Notes
    -----
    Soft masks follow He et al. 2018 (soft filter pruning, algorithm 1): all channels
    are updated, and the masked ones are chosen again in each round. However, a channel
    that is zero before a ReLU has no gradient and would never return. Hence the
    soft-pruning factor, which falls from round to round (Cai et al. 2020, softer
    pruning, where it multiplies filters). It applies to forward and backward passes, so
    training costs as much as with hard masks.
    """
    masks = _masks(net)

    def callback(trained: Any, progress: Any) -> None:
        starts = rounds.starts(progress.epochs)
        if progress.epoch not in starts:
            return
        _check_has(trained, masks)
        number = starts.index(progress.epoch) + 1
        graph = traced(net, None, shape)
        if rounds.soft:
            plan, factor = decide(graph, budget, None), rounds.remaining(number)
        else:
            remaining = partial(rounds.remaining, number)
            limits = _between(budget, graph, remaining, table)
            plan, factor = decide(graph, limits, plan_of(net)), 0.0
        set_mask(net, plan, graph=graph)
        _soften(masks, factor)
        progress.best = progress.best_epoch = None

    return callback


def plan_of(net: Any) -> Plan:
    """Return the plan of a net's masks.

    Parameters
    ----------
    net : HybridBlock
        A masked net. Channels under a soft mask count as removed.

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
    """Return the mask parameter of each group."""
    names = mask_names(take_apart(symbol_of(net))[0])
    if not names:
        raise ValueError("the net has no masks; mask(net, plan) returns one with masks")
    parameters = {p.name: p for p in net.collect_params().values()}
    return {group: parameters[name] for group, name in names.items()}


def _check_has(trained: Any, masks: Mapping) -> None:
    """Refuse a trained block that does not share the masks."""
    trained_ids = {id(parameter) for parameter in trained.collect_params().values()}
    for group, parameter in masks.items():
        if id(parameter) not in trained_ids:
            raise ValueError(
                f"the mask of group {group!r} is not a parameter of the trained block; "
                "train the masked net, or a block that shares its masks"
            )


def _between(
    budget: Budget,
    graph: Graph,
    remaining: Callable[[float], float],
    table: LatencyTable | None,
) -> Budget:
    """Return the budget of a round, between the full cost and the target."""
    model = cost_model_for(graph, budget, table)
    costs = model.costs(model.full[None])
    limits = {}
    for name, limit in budget.limits.items():
        full = float(costs[name][0])
        limits[name] = limit + (full - limit) * remaining(limit / full)
    return budget.with_limits(limits)


def _soften(masks: Mapping, factor: float) -> None:
    """Multiply masked channels by a factor instead of zero."""
    for parameter in masks.values():
        values = parameter.list_data()[0].asnumpy()
        parameter.set_data(mx.nd.array(np.maximum(values, factor)))
