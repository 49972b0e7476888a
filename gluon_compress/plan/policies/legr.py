"""LeGR: an evolution of how filters of different layers are ranked together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Dict, Sequence

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
        draws = [self._draw(random, number, problem) for number in range(self.episodes)]
        pairs: Dict[int, tuple[np.ndarray, np.ndarray]] = {}
        levels: Dict[int, np.ndarray] = {}
        rewards: list[float] = []
        while (why := trials.ended()) is None:
            number = len(rewards)
            # Most rivals are older than the last: several episodes are decided at once.
            for later in range(number, min(number + self.population, self.episodes)):
                rivals = draws[later].rivals
                if later in levels or any(rival >= number for rival in rivals):
                    continue
                parent = pairs[max(rivals, key=rewards.__getitem__)] if rivals else None
                scales, shifts = pairs[later] = draws[later].child(parent)
                ranks = zip(problem.importance, scales, shifts)
                levels[later] = best_ranked(problem, [a * v + b for v, a, b in ranks])
            trials.expect({n: levels[n] for n in sorted(levels) if n >= number})
            rewards.append(trials.try_out(levels[number]))
        return trials.finish(why)

    def _draw(
        self, random: np.random.RandomState, number: int, problem: PruningProblem
    ) -> _Mutation:
        """Draw all that is random in an episode; it depends on no reward."""
        count, rivals, step = len(problem.groups), [], 1.0
        changed = np.arange(count)
        if number >= self.population:
            drawn = random.choice(self.population, self.samples, replace=False)
            rivals = [number - self.population + int(i) for i in drawn]
            size = max(int(self.mutated * count), 1)
            changed = random.choice(count, size, replace=False)
            step = 1 - number / (self.episodes * 1.25)
        factors, added = np.ones(count), np.zeros(count)
        if number:  # the first ranking is the plain global one
            spread, size = self.spread * step, len(changed)
            deviations = np.array([np.std(problem.importance[k]) for k in changed])
            factors[changed] = np.exp(random.normal(0, spread, size))
            added[changed] = deviations * random.normal(0, spread, size)
        return _Mutation(rivals, factors, added)


@dataclass(frozen=True)
class _Mutation:
    """How a pair of scales and shifts comes of another one.

    Parameters
    ----------
    rivals : sequence of int
        The episodes whose best pair is changed; without any, it is the plain one.
    factors, added : ndarray
        ``(groups,)``, of scales and to shifts.
    """

    rivals: Sequence[int]
    factors: np.ndarray
    added: np.ndarray

    def child(
        self, parent: tuple[np.ndarray, np.ndarray] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scales and shifts, each ``(groups,)``."""
        if parent is None:
            return self.factors, self.added
        return parent[0] * self.factors, parent[1] + self.added
