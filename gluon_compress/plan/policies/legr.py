"""LeGR: an evolution of how filters of different layers are ranked together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gluon_compress.plan.policies.episodes import Search, Trials
from gluon_compress.plan.policies.ranked import best_ranked
from gluon_compress.plan.problem import PruningProblem


@dataclass
class LeGR(Search):
    """Learn a scale and a shift of each group's importance, for one global ranking.

    Chin et al. 2020, algorithm 1, with the settings that NNCF publishes: an evolution
    with ageing. Each new pair of scales and shifts is a mutation of the fittest of a
    random sample, and takes the place of the oldest. The first population counts as
    episodes, too.

    Parameters
    ----------
    population : int
        Pairs that live at a time.
    samples : int
        Pairs that compete for being mutated.
    mutated : float
        Share of the groups that a mutation changes, at least one.
    spread : float
        Standard deviation of the logarithm of a scale, and of a shift in standard
        deviations of the importance. It shrinks linearly, to a fifth at the end.
    """

    population: int = 64
    samples: int = 16
    mutated: float = 0.1
    spread: float = 1.0
    name: ClassVar[str] = "legr"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.samples <= self.population:
            raise ValueError(
                f"samples is {self.samples!r}; allowed: 1 to the population, "
                f"{self.population}"
            )
        if not 0 < self.mutated <= 1 or not self.spread > 0:
            raise ValueError(
                f"mutated is {self.mutated!r}, spread {self.spread!r}; allowed: a share"
                " above 0, and a number above 0"
            )

    def settings(self) -> dict[str, Any]:
        """Return what decides the course of the search, JSON."""
        own = ("population", "samples", "mutated", "spread")
        return {**super().settings(), **{name: getattr(self, name) for name in own}}

    def __call__(self, problem: PruningProblem) -> np.ndarray:
        """Return the best levels of all episodes.

        Raises
        ------
        ValueError
            As for ``Trials``, or if a score is not finite.
        """
        trials = Trials(self, problem, self.name, warmup=self.population)
        random = np.random.RandomState(self.seed)
        count = len(problem.groups)
        deviations = np.array([np.std(row) for row in problem.importance])
        living: list[tuple[np.ndarray, np.ndarray, float]] = []
        while (why := trials.ended()) is None:
            number = len(trials.episodes)
            scales, shifts = np.ones(count), np.zeros(count)
            changed, step = np.arange(count), 1.0
            if number >= self.population:
                rivals = random.choice(len(living), self.samples, replace=False)
                scales, shifts, _ = max((living[i] for i in rivals), key=lambda p: p[2])
                size = max(int(self.mutated * count), 1)
                changed = random.choice(count, size, replace=False)
                step = 1 - number / (self.episodes * 1.25)
            scales, shifts = scales.copy(), shifts.copy()
            if number:  # the first ranking is the plain global one
                spread = self.spread * step
                scales[changed] *= np.exp(random.normal(0, spread, len(changed)))
                shifts[changed] += deviations[changed] * random.normal(
                    0, spread, len(changed)
                )
            values = [a * v + b for v, a, b in zip(problem.importance, scales, shifts)]
            reward = trials.try_out(best_ranked(problem, values))
            living.append((scales, shifts, reward))
            del living[: -self.population]
        return trials.finish(why)
