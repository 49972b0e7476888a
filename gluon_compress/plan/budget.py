"""Budgets: limits of one or several costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Mapping

import numpy as np

from gluon_compress.accelerator import Accelerator
from gluon_compress.cost import Cost
from gluon_compress.graph import Graph
from gluon_compress.latency import LatencyTable
from gluon_compress.plan.cost_model import (
    COSTS,
    CYCLES,
    LATENCY,
    CostFunction,
    CostModel,
)
from gluon_compress.plan.plan import listed

NAMED = (*COSTS, LATENCY, CYCLES)


@dataclass(frozen=True)
class CostLimit:
    """A limit of a user-defined cost.

    Parameters
    ----------
    limit : float
    cost : callable
        ``cost(graph)`` returns a function from kept widths ``(choices, groups)``, one
        column for each group that is not frozen, to costs ``(choices,)``. A cost must
        not fall when a width rises.
    """

    limit: float
    cost: CostFunction


@dataclass(frozen=True)
class Budget:
    """Limits that a plan must meet; at least one.

    Parameters
    ----------
    macs : float, optional
        Multiply-accumulates of one sample.
    bytes : float, optional
        Stored size as float32.
    params : float, optional
        Trained parameters.
    latency_ms : float, optional
        Milliseconds of one forward pass of the batch that was traced, as
        ``latency.predict_latency`` computes them from a table.
    cycles : float, optional
        Cycles of one image on ``accelerator``, as ``accelerator_cost`` counts them.
    accelerator : Accelerator, optional
        Default: ``Accelerator()``.
    custom : mapping
        Name to ``CostLimit``: limits of any other cost.

    Raises
    ------
    ValueError
        If there is no limit, one is not a number above 0, or a custom one has the name
        of another.
    """

    macs: float | None = None
    bytes: float | None = None
    params: float | None = None
    latency_ms: float | None = None
    cycles: float | None = None
    accelerator: Accelerator | None = None
    custom: Mapping[str, CostLimit] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in self.custom:
            if name in NAMED:
                raise ValueError(
                    f"budget custom names {name!r}; allowed: names other than "
                    f"{', '.join(NAMED)}"
                )
        for name, limit in self.limits.items():
            number = isinstance(limit, (int, float, np.number))
            number = number and not isinstance(limit, bool) and math.isfinite(limit)
            if not number or limit <= 0:
                raise ValueError(
                    f"budget {name} is {limit!r}; allowed: a number above 0"
                )
        if not self.limits:
            raise ValueError(f"a budget needs at least one of {', '.join(NAMED)}")

    @property
    def limits(self) -> dict[str, float]:
        """The limits, by the name of the cost."""
        named = {name: getattr(self, name) for name in NAMED}
        limits = {name: limit for name, limit in named.items() if limit is not None}
        return {**limits, **{name: row.limit for name, row in self.custom.items()}}

    def with_limits(self, limits: Mapping[str, float]) -> Budget:
        """Return a budget with other limits of the same costs.

        Parameters
        ----------
        limits : mapping
            Name of a cost that is limited here to its new limit; the others stay.
        """
        custom = {
            name: replace(row, limit=limits.get(name, row.limit))
            for name, row in self.custom.items()
        }
        named: dict[str, Any] = {
            name: limit for name, limit in limits.items() if name not in custom
        }
        return replace(self, custom=custom, **named)

    @classmethod
    def share(cls, cost: Cost, **shares: float) -> Budget:
        """Return limits as shares of a cost: ``Budget.share(cost, macs=0.5)``.

        A ``Cost`` has no latency: for a share of it multiply what
        ``latency.predict_latency`` returns.

        Raises
        ------
        ValueError
            If a name is not one of the figures of a cost.
        """
        for name in shares:
            if name not in COSTS:
                raise ValueError(f"budget {name!r} is unknown; {listed(COSTS)}")
        return cls(**{n: share * getattr(cost, n) for n, share in shares.items()})


def cost_model_for(
    graph: Graph, budget: Budget, table: LatencyTable | None = None
) -> CostModel:
    """Return the cost model that computes what a budget limits.

    A table is used only if the budget limits latency.

    Raises
    ------
    ValueError
        If latency is limited and there is no table, or it lacks a block of the graph.
    """
    if budget.latency_ms is None:
        table = None
    elif table is None:
        raise ValueError(
            f"a budget of {budget.latency_ms:g} {LATENCY} needs a latency table: "
            "table=latency.measure_blocks(graph), or a saved one by LatencyTable.load"
        )
    extra = {name: row.cost for name, row in budget.custom.items()}
    device = None
    if budget.cycles is not None:
        device = budget.accelerator or Accelerator()
    return CostModel(graph, table, extra, device)
