"""Random search: what a learnt policy has to beat at an equal number of episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gluon_compress.plan.policies.episodes import Search, Trials
from gluon_compress.plan.policies.wall import filled, walled
from gluon_compress.plan.problem import PruningProblem


@dataclass
class RandomSearch(Search):
    """Draw the share of every group uniformly, under the action wall; keep the best.

    Where only accuracy counts, the shares grow in proportion until the budget is used.
    """

    name: ClassVar[str] = "random_search"

    def __call__(self, problem: PruningProblem) -> np.ndarray:
        """Return the best levels of all episodes.

        Raises
        ------
        ValueError
            As for ``Trials``, or if a score is not finite.
        """
        trials = Trials(self, problem, self.name)
        random = np.random.RandomState(self.seed)
        drawn = (
            walled(problem, random.rand(len(problem.groups)))
            for _ in range(self.episodes)
        )
        plans = [filled(problem, levels) if self.fills else levels for levels in drawn]
        trials.expect(dict(enumerate(plans)))
        while (why := trials.ended()) is None:
            trials.try_out(plans[len(trials.episodes)])
        return trials.finish(why)
