"""Search steps that policies share: the first levels that fit, and what fits on top."""

from __future__ import annotations

import heapq
from typing import Any, Callable, Sequence

import numpy as np

from gluon_compress.plan.problem import PruningProblem


def first_fit(
    problem: PruningProblem,
    levels_at: Callable[[Any], np.ndarray],
    thresholds: Sequence[Any],
) -> np.ndarray:
    """Return the levels of the first threshold that meets the budget, by bisection.

    Parameters
    ----------
    problem : PruningProblem
    levels_at : callable
        Threshold to levels ``(groups,)``.
    thresholds : sequence
        In an order in which the levels never rise.

    Returns
    -------
    ndarray
        The smallest levels if no threshold fits.
    """
    low, high = 0, len(thresholds)
    while low < high:
        middle = (low + high) // 2
        if problem.fits(levels_at(thresholds[middle])):
            high = middle
        else:
            low = middle + 1
    return levels_at(thresholds[low]) if low < len(thresholds) else problem.smallest


def fill_up(
    problem: PruningProblem,
    levels: np.ndarray,
    priority: Callable[[int, int], float],
) -> np.ndarray:
    """Raise groups level by level, the highest priority first, while the budget holds.

    Parameters
    ----------
    problem : PruningProblem
    levels : ndarray
        Levels ``(groups,)`` that meet the budget.
    priority : callable
        ``priority(k, level) -> float``, of raising group ``k`` to a level.
    """
    levels, largest = levels.copy(), problem.largest
    queue = [
        (-priority(k, levels[k] + 1), k)
        for k in range(len(levels))
        if levels[k] < largest[k]
    ]
    heapq.heapify(queue)
    while queue:
        _, k = heapq.heappop(queue)
        levels[k] += 1
        if not problem.fits(levels):
            levels[k] -= 1  # what does not fit now never will
        elif levels[k] < largest[k]:
            heapq.heappush(queue, (-priority(k, levels[k] + 1), k))
    return levels
