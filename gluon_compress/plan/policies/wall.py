"""The action wall: shares of channels become levels that always meet the budget."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from gluon_compress.plan.policies.uniform import proportional
from gluon_compress.plan.problem import PruningProblem


def walled_level(
    problem: PruningProblem, chosen: np.ndarray, k: int, share: float
) -> int:
    """Return the level of a group for a share of its channels, under the budget.

    It is the largest level of at most that share, and of those with which the budget
    can still be met if all later groups go to their smallest width (He et al. 2018,
    algorithm 1).

    Parameters
    ----------
    problem : PruningProblem
    chosen : ndarray
        Levels ``(groups,)``: those of earlier groups are decided.
    k : int
        The group. The groups before it can be met with the later ones at their
        smallest, as this function guarantees.
    share : float
        Of the channels, 0 to 1.
    """
    widths = problem.widths[k]
    wanted = problem.levels_below(
        [row[-1] * share if i == k else 0 for i, row in enumerate(problem.widths)]
    )[k]
    choices = np.zeros((wanted + 1, len(problem.widths)), int)
    choices[:, :k] = chosen[:k]
    choices[:, k] = np.arange(wanted + 1)
    fitting = np.flatnonzero(problem.load(choices) <= 1)
    assert len(fitting), (problem.groups[k].name, widths)
    return int(fitting[-1])


def walled(problem: PruningProblem, shares: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the levels of one share for each group, in order, under the budget."""
    levels = problem.smallest
    for k, share in enumerate(shares):
        levels[k] = walled_level(problem, levels, k, share)
    return levels


def filled(problem: PruningProblem, levels: np.ndarray) -> np.ndarray:
    """Return levels of the same proportions that use the budget up.

    Parameters
    ----------
    problem : PruningProblem
    levels : ndarray
        ``(groups,)``, within the budget.
    """
    return proportional(problem, problem.widths_at(levels) / problem.full_widths)
