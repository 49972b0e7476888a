"""Global selection: the channels of all groups compete by importance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Sequence

import numpy as np

from gluon_compress.plan.policies.filling import fill_up, first_fit
from gluon_compress.plan.problem import PruningProblem


@dataclass(frozen=True)
class Global:
    """Rank the channels of all groups by importance and keep the best that fit."""

    name: ClassVar[str] = "global"

    def __call__(self, problem: PruningProblem) -> np.ndarray:
        """Return levels that meet the budget."""
        return best_ranked(problem, problem.importance)


def best_ranked(problem: PruningProblem, values: Sequence[np.ndarray]) -> np.ndarray:
    """Return the levels that keep the channels of the highest values that fit.

    Parameters
    ----------
    problem : PruningProblem
    values : sequence of ndarray
        Of each group's channels, falling.
    """
    thresholds = np.unique(np.concatenate([[], *values]))
    ascending = [row[::-1] for row in values]

    def levels_at(threshold: float) -> np.ndarray:
        counts = [
            len(row) - np.searchsorted(row, threshold, "left") for row in ascending
        ]
        return problem.levels_below(np.array(counts))

    def mean_value(k: int, level: int) -> float:
        start, stop = problem.widths[k][level - 1 : level + 1]
        return float(values[k][start:stop].mean())

    levels = first_fit(problem, levels_at, thresholds)
    return fill_up(problem, levels, mean_value)
