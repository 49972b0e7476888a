"""The pruning problem that policies solve: allowed widths, importance and cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Mapping, Sequence

import numpy as np

from gluon_compress.graph import ChannelGroup, Graph
from gluon_compress.latency import LatencyTable
from gluon_compress.plan.budget import Budget, cost_model_for
from gluon_compress.plan.constraints import (
    DEFAULT,
    MULTIPLE,
    Constraints,
    free_groups,
)
from gluon_compress.plan.cost_model import CostModel
from gluon_compress.plan.importance import best_first, importance_of
from gluon_compress.plan.plan import Plan
from gluon_compress.validation import few


@dataclass(frozen=True)
class PruningProblem:
    """The input of a policy. A solution is one *level* (index of a width) per group.

    ``build`` makes one. All lists have one element per group, in the order of
    ``groups``.

    Parameters
    ----------
    graph : Graph
    budget : Budget
    criterion : str
        Name of the importance criterion; ``given`` if it is a mapping.
    groups : list of ChannelGroup
        The groups that are not frozen, protected ones included.
    protected : mapping
        Group that must stay as it is to the reason. Such a group has one width.
    multiple : int
        Widths are multiples of it, as far as possible.
    widths : list of list of int
        The numbers of indices that a group may keep, ascending.
    channels : list of ndarray
        The indices of a group, most important first.
    importance : list of ndarray
        Their importance, in the same order.
    cost_model : CostModel
    """

    graph: Graph
    budget: Budget
    criterion: str
    groups: list[ChannelGroup]
    protected: Mapping[str, str]
    multiple: int
    widths: list[list[int]]
    channels: list[np.ndarray]
    importance: list[np.ndarray]
    cost_model: CostModel

    @classmethod
    def build(
        cls,
        graph: Graph,
        budget: Budget,
        criterion: str | Mapping[str, Sequence] = "l1",
        *,
        constraints: Constraints = DEFAULT,
        table: LatencyTable | None = None,
        seed: int = 0,
    ) -> PruningProblem:
        """Return the problem of a budget; parameters and errors as for ``select``.

        The multiple of the constraints, or of the latency table, is halved until the
        budget can be met.
        """
        constraints.check(graph)
        importance = importance_of(graph, criterion, seed)
        cost_model = cost_model_for(graph, budget, table)
        channels = [
            best_first(constraints.kept_before(group), importance[group.name])
            for group in free_groups(graph)
        ]
        multiple = constraints.multiple or _worth_it(budget, table)
        while True:
            problem = cls(
                graph=graph,
                budget=budget,
                criterion=criterion if isinstance(criterion, str) else "given",
                groups=free_groups(graph),
                protected=constraints.protected_groups(graph),
                multiple=multiple,
                widths=constraints.widths(graph, multiple),
                channels=channels,
                importance=[
                    importance[group.name][indices]
                    for group, indices in zip(free_groups(graph), channels)
                ],
                cost_model=cost_model,
            )
            if problem.fits(problem.smallest):
                return problem
            if multiple == 1:
                raise ValueError(_unreachable(problem))
            multiple //= 2

    @property
    def smallest(self) -> np.ndarray:
        """The lowest level of every group, ``(groups,)``."""
        return np.zeros(len(self.widths), int)

    @property
    def largest(self) -> np.ndarray:
        """The highest level of every group, ``(groups,)``."""
        return np.array([len(row) - 1 for row in self.widths], int)

    @property
    def full_widths(self) -> np.ndarray:
        """The width of every group at its highest level, ``(groups,)``."""
        return self.widths_at(self.largest)

    @cached_property
    def _width_table(self) -> np.ndarray:
        """The widths as an array; short rows are filled with their last width."""
        longest = max((len(row) for row in self.widths), default=0)
        rows = [[*row, *row[-1:] * (longest - len(row))] for row in self.widths]
        return np.array(rows, int).reshape(len(rows), longest)

    def widths_at(self, levels: np.ndarray) -> np.ndarray:
        """Return the widths of levels ``(groups,)`` or ``(choices, groups)``."""
        return self._width_table[np.arange(len(self.widths)), levels]

    def loads(self, levels: np.ndarray) -> np.ndarray:
        """Return every cost over its limit, ``(choices, limits)``.

        Parameters
        ----------
        levels : ndarray
            ``(groups,)``, or ``(choices, groups)`` for many choices at once.
        """
        costs = self.cost_model.costs(self.widths_at(np.atleast_2d(levels)))
        return np.stack([costs[n] / lim for n, lim in self.budget.limits.items()], 1)

    def load(self, levels: np.ndarray) -> np.ndarray:
        """Return the largest cost over its limit, ``(choices,)``; up to 1 it is met."""
        return self.loads(levels).max(axis=1)

    def fits(self, levels: np.ndarray) -> bool:
        """Return whether levels ``(groups,)`` meet the budget."""
        return bool(self.load(levels)[0] <= 1)

    def levels_below(self, counts: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return the largest levels with at most the given numbers of indices.

        A group whose widths are all larger gets its lowest level.
        """
        levels = [
            max(int(np.searchsorted(row, count + 1e-9, "right")) - 1, 0)
            for row, count in zip(self.widths, counts)
        ]
        return np.array(levels, int)

    def plan(
        self, levels: np.ndarray, made_by: Mapping[str, Any] | None = None
    ) -> Plan:
        """Return the plan that keeps the most important channels of each group.

        Parameters
        ----------
        levels : ndarray
            ``(groups,)``
        made_by : mapping, optional
            Notes for the plan, JSON.
        """
        keep: dict[str, Sequence[int]] = {
            group.name: range(group.width) for group in self.graph.groups
        }
        widths = self.widths_at(np.asarray(levels))
        for group, indices, width in zip(self.groups, self.channels, widths):
            keep[group.name] = sorted(int(i) for i in indices[:width])
        graph_widths = {group.name: group.width for group in self.graph.groups}
        return Plan(keep, made_by={**(made_by or {}), "widths": graph_widths})


def _worth_it(budget: Budget, table: LatencyTable | None) -> int:
    """Return the multiple that a latency table shows to be worth it, if it is used."""
    multiple = getattr(table, "multiple", None)
    return MULTIPLE if multiple is None or budget.latency_ms is None else multiple


def _unreachable(problem: PruningProblem) -> str:
    """Return the message that a budget cannot be met: how far it is, and why."""
    loads = problem.loads(problem.smallest)[0]
    name, limit = list(problem.budget.limits.items())[int(loads.argmax())]
    widths = problem.widths_at(problem.smallest)
    least = problem.cost_model.costs(widths[None])[name][0]
    groups_by_reason: dict[str, list[str]] = {}
    for group in problem.graph.groups:
        reason = problem.protected.get(group.name, "at their minimum")
        if group.frozen:
            reason = f"frozen as {group.frozen}"
        groups_by_reason.setdefault(reason, []).append(group.name)
    reasons = (f"{why}: {few(names, 6)}" for why, names in groups_by_reason.items())
    return (
        f"the budget of {_figure(limit)} {name} cannot be met: the least that can be "
        f"reached is {_figure(least)}; {'; '.join(reasons)}"
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.4g}"
