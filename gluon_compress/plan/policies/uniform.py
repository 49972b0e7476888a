"""Selection by shares that are fixed by hand: the same everywhere, or by depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gluon_compress.plan.policies.filling import fill_up, first_fit
from gluon_compress.plan.problem import PruningProblem

RATIO = 1.5  # ours: papers that compare with such policies do not state theirs


@dataclass(frozen=True)
class Uniform:
    """Keep the same share of every group, the largest that meets the budget."""

    name: ClassVar[str] = "uniform"

    def __call__(self, problem: PruningProblem) -> np.ndarray:
        """Return levels that meet the budget."""
        return proportional(problem, np.ones(len(problem.groups)))


@dataclass(frozen=True)
class ByDepth:
    """Keep shares that change linearly from the first to the last group.

    Hand-crafted policies, as learnt ones are compared with (He et al. 2018): they prune
    shallow layers more than deep ones, or the reverse.

    Parameters
    ----------
    ratio : float
        Share of the last group over that of the first. A share above 1 is all.
    """

    ratio: float = RATIO

    def __post_init__(self) -> None:
        if not 0 < self.ratio < np.inf:
            raise ValueError(f"ratio is {self.ratio!r}; allowed: a number above 0")

    @property
    def name(self) -> str:
        """What a plan records as its selection."""
        return "shallow_more" if self.ratio >= 1 else "deep_more"

    @property
    def notes(self) -> dict[str, Any]:
        """What a plan records of this policy."""
        return {"ratio": self.ratio}

    def __call__(self, problem: PruningProblem) -> np.ndarray:
        """Return levels that meet the budget."""
        return proportional(problem, np.linspace(1, self.ratio, len(problem.groups)))


def proportional(problem: PruningProblem, weights: np.ndarray) -> np.ndarray:
    """Return the levels of the largest shares with these proportions that fit."""
    most = problem.full_widths * weights
    factors = {width / full for row, full in zip(problem.widths, most) for width in row}

    def levels_at(factor: float) -> np.ndarray:
        return problem.levels_below(factor * most)

    def lowest_factor(k: int, level: int) -> float:
        return -problem.widths[k][level - 1] / most[k]

    levels = first_fit(problem, levels_at, sorted(factors, reverse=True))
    return fill_up(problem, levels, lowest_factor)
