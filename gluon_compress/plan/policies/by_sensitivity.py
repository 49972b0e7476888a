"""Selection by sensitivity: follow the accuracy that was measured group by group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gluon_compress.plan.policies.greedy import estimated_loss, layer_counts, thin_out
from gluon_compress.plan.problem import PruningProblem
from gluon_compress.plan.sensitivity import Sensitivity

# Weight of the estimated loss, which decides where the accuracy does not change.
TIE = 1e-3


@dataclass(frozen=True)
class BySensitivity:
    """Remove the step with the least measured loss of accuracy for the cost it saves.

    Curves of accuracy tell which layers can be thinned (Li et al. 2017, section 3.2).
    Where a curve is flat, the loss that ``Greedy`` estimates decides.

    Parameters
    ----------
    curves : Sensitivity
        What ``prune.sensitivity`` measured, with the criterion of the plan.
    """

    curves: Sensitivity
    name: ClassVar[str] = "sensitivity"

    def __call__(self, problem: PruningProblem) -> np.ndarray:
        """Return levels that meet the budget.

        Raises
        ------
        ValueError
            If the curves were measured with another criterion or on another net, or
            have no curve of a group that may lose channels.
        """
        self._check(problem)
        lost = [
            self.curves.lost(group.name, row) if len(row) > 1 else np.zeros(1)
            for group, row in zip(problem.groups, problem.widths)
        ]
        estimated = estimated_loss(problem, layer_counts(problem.groups))

        def loss(k: int, level: int) -> float:
            accuracy = float(lost[k][level - 1] - lost[k][level])
            return accuracy + TIE * estimated(k, level)

        return thin_out(problem, loss)

    def _check(self, problem: PruningProblem) -> None:
        if self.curves.criterion != problem.criterion:
            raise ValueError(
                f"criterion {problem.criterion!r}: the sensitivity was measured with "
                f"{self.curves.criterion!r}; allowed: the same"
            )
        self.curves.check(
            [g for g in problem.groups if g.name not in problem.protected]
        )
