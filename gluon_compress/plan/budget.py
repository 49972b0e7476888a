"""What a plan may cost: limits in any combination, and the meter that holds them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from gluon_compress.cost import Cost
from gluon_compress.graph import Graph
from gluon_compress.latency import LatencyTable
from gluon_compress.plan.cost_model import LATENCY, LIMITS, Meter
from gluon_compress.plan.plan import listed


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
        ``timing.predict_latency`` gives them for a table.

    Raises
    ------
    ValueError
        If no limit is given, or one is not a number above 0.
    """

    macs: float | None = None
    bytes: float | None = None
    params: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            right = isinstance(limit, (int, float, np.number))
            right = right and not isinstance(limit, bool) and math.isfinite(limit)
            if not right or limit <= 0:
                raise ValueError(
                    f"budget {name} is {limit!r}; allowed: a number above 0"
                )
        if not self.limits:
            names = ", ".join((*LIMITS, LATENCY))
            raise ValueError(f"a budget needs at least one of {names}")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, by name."""
        return {n: v for n, v in asdict(self).items() if v is not None}

    @classmethod
    def share(cls, cost: Cost, **shares: float) -> Budget:
        """Return limits as shares of a cost: ``Budget.share(cost, macs=0.5)``.

        A cost has no latency: for a share of it multiply what
        ``timing.predict_latency`` gives.

        Raises
        ------
        ValueError
            If a name is not one of the figures of a cost.
        """
        for name in shares:
            if name not in LIMITS:
                raise ValueError(f"budget {name!r} is unknown; {listed(LIMITS)}")
        return cls(**{n: share * getattr(cost, n) for n, share in shares.items()})


def meter_of(graph: Graph, budget: Budget, table: LatencyTable | None) -> Meter:
    """Return the meter for a budget; a table that no limit asks for is not used.

    Raises
    ------
    ValueError
        If latency is limited and there is no table, or it lacks a unit of the graph.
    """
    if budget.latency_ms is None:
        return Meter(graph)
    if table is None:
        raise ValueError(
            f"a budget of {budget.latency_ms:g} {LATENCY} needs a latency table: "
            "table=timing.measure_units(graph), or a saved one by LatencyTable.load"
        )
    return Meter(graph, table)
