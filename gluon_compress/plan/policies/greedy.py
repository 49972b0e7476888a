"""Greedy selection: remove, step by step, what is missed least for what it saves."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Mapping, Sequence

import numpy as np

from gluon_compress.graph import ChannelGroup
from gluon_compress.plan.policies.filling import fill_up
from gluon_compress.plan.problem import PruningProblem

# ``loss(k, level)``: what group ``k`` misses when it goes down from a level.
MarginalLoss = Callable[[int, int], float]


@dataclass(frozen=True)
class Greedy:
    """Remove the step with the least estimated loss for the cost it saves.

    The loss is ``estimated_loss``; the cost is the group's part of the limit that is
    exceeded most.

    Parameters
    ----------
    effects : mapping, optional
        Group to its effect on the net's outputs, as ``prune.effects`` measures it. By
        default a group counts as many times as it has layers.
    """

    effects: Mapping[str, float] | None = None
    name: ClassVar[str] = "greedy"

    @property
    def notes(self) -> dict[str, Any]:
        """What a plan records of this policy."""
        return {"effects": dict(self.effects)} if self.effects else {}

    def __call__(self, problem: PruningProblem) -> np.ndarray:
        """Return levels that meet the budget.

        Raises
        ------
        ValueError
            If the effect of a group is missing, or not a finite number from 0.
        """
        return thin_out(problem, estimated_loss(problem, self._weights(problem.groups)))

    def _weights(self, groups: Sequence[ChannelGroup]) -> list[float]:
        if self.effects is None:
            return layer_counts(groups)
        return [
            _checked_effect(name, self.effects.get(name)) for name in _names(groups)
        ]


def layer_counts(groups: Sequence[ChannelGroup]) -> list[float]:
    """Return how many layers make or pass on the channels of each group."""
    return [float(max(len(group.layers), 1)) for group in groups]


def estimated_loss(problem: PruningProblem, effects: Sequence[float]) -> MarginalLoss:
    """Return the estimate of what a group misses when it goes down from a level.

    A sum that is estimated from a share s of its terms has an error whose variance
    grows as 1/s - 1 (Cochran 1977, section 2.6). This is 1 at half the channels, where
    effects are measured, and has no bound towards none. The last channels of a narrow
    group are therefore missed more than as many of a wide one, and no group is emptied
    because its channels are expensive.

    Parameters
    ----------
    problem : PruningProblem
    effects : sequence of float
        Of each group.
    """
    inverse_shares = []  # of the importance that remains at each level
    for importance, widths in zip(problem.importance, problem.widths):
        remaining = np.maximum(np.cumsum(importance), 1e-12)
        inverse_shares.append(remaining[-1] / remaining[np.array(widths, int) - 1])

    def loss(k: int, level: int) -> float:
        return effects[k] * float(
            inverse_shares[k][level - 1] - inverse_shares[k][level]
        )

    return loss


def thin_out(problem: PruningProblem, loss: MarginalLoss) -> np.ndarray:
    """Take the step with the least loss for the load it saves until the budget is met.

    The load is that of the limit exceeded most, which may be another one after the
    step. What still fits in the end is given back, the largest loss first.

    Parameters
    ----------
    problem : PruningProblem
    loss : callable
        ``loss(k, level) -> float``, from 0.

    Returns
    -------
    ndarray
        Levels ``(groups,)``.
    """
    levels = _Thinning(problem, loss).run()
    load = problem.loads(levels)[0].max()

    def loss_for_load(k: int, level: int) -> float:
        raised = levels.copy()
        raised[k] = level
        return loss(k, level) / max(problem.load(raised)[0] - load, 1e-12)

    return fill_up(problem, levels, loss_for_load)


class _Thinning:
    """The state of one search: the levels so far, and bounds on what steps cost.

    A step saves less of a limit the more the other groups have lost, and it saves no
    more of the load than of the limit exceeded most. So the loss for what a step saved
    of that limit, computed earlier, is a lower bound of its price, and a group whose
    bound is above the best price need not be evaluated again.
    """

    def __init__(self, problem: PruningProblem, loss: MarginalLoss) -> None:
        self.problem, self.loss = problem, loss
        self.levels = problem.largest
        self.loads = problem.loads(self.levels)[0]
        # One queue per limit, of (lower bound of the price, group, level).
        prunable = np.flatnonzero(self.levels > 0).tolist()
        self.queues = [
            [(0.0, k, int(self.levels[k])) for k in prunable] for _ in self.loads
        ]

    def run(self) -> np.ndarray:
        """Return the first levels that meet the budget, or the smallest."""
        while self.loads.max() > 1 and self.levels.any():
            k = self._cheapest(int(self.loads.argmax()))
            self.loads = self._loads_after(k)
            self.levels[k] -= 1
            if self.levels[k] > 0:
                for queue in self.queues:
                    heapq.heappush(queue, (0.0, k, int(self.levels[k])))
        return self.levels

    def _loads_after(self, k: int) -> np.ndarray:
        """Return the loads with one step less of group ``k``."""
        lowered = self.levels.copy()
        lowered[k] -= 1
        return self.problem.loads(lowered)[0]

    def _cheapest(self, worst: int) -> int:
        """Return the group whose next step has the lowest price, the first of equals.

        Parameters
        ----------
        worst : int
            Number of the limit that is exceeded most.
        """
        queue = self.queues[worst]
        best_price, best_group = np.inf, -1
        evaluated = []
        while queue and queue[0][:2] < (best_price, best_group):
            _, k, level = heapq.heappop(queue)
            if level != self.levels[k]:
                continue  # a step that was taken while another limit was the worst
            after = self._loads_after(k)
            lost = self.loss(k, level)
            price = lost / max(self.loads.max() - after.max(), 1e-12)
            bound = lost / max(self.loads[worst] - after[worst], 1e-12)
            evaluated.append((min(bound, price), k, level))
            best_price, best_group = min((best_price, best_group), (price, k))
        for entry in evaluated:
            heapq.heappush(queue, entry)
        return best_group


def _names(groups: Sequence[ChannelGroup]) -> list[str]:
    return [group.name for group in groups]


def _checked_effect(group: str, effect: Any) -> float:
    number = isinstance(effect, (int, float, np.number))
    if not number or not np.isfinite(effect) or effect < 0:
        raise ValueError(
            f"the effect of group {group!r} is {effect!r}; allowed: a number from 0"
        )
    return float(effect)
