"""Uniform selection: every group keeps the same share of its channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gluon_compress.plan.policies.filling import fill_up, first_fit
from gluon_compress.plan.problem import PruningProblem


@dataclass(frozen=True)
class Uniform:
    """Keep the same share of every group, the largest that meets the budget."""

    name: ClassVar[str] = "uniform"

    def __call__(self, problem: PruningProblem) -> np.ndarray:
        """Return levels that meet the budget."""
        most = np.array([row[-1] for row in problem.widths])
        shares = {width / row[-1] for row in problem.widths for width in row}

        def levels_at(share: float) -> np.ndarray:
            return problem.levels_below(share * most)

        def lowest_share(k: int, level: int) -> float:
            return -problem.widths[k][level - 1] / most[k]

        levels = first_fit(problem, levels_at, sorted(shares, reverse=True))
        return fill_up(problem, levels, lowest_share)
