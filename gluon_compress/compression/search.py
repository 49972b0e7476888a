"""Searches in recipes: policies that score plans on training images."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import Any, Iterable, Iterator, Optional

from mxnet.gluon import HybridBlock
from typing_extensions import Annotated

from gluon_compress.compression.algorithm import StageContext
from gluon_compress.graph import Graph
from gluon_compress.plan import AMC, REWARDS, SEARCHES, Episode, Plan, Search
from gluon_compress.plan.policies.episodes import SEARCH_LOG
from gluon_compress.prune import ReconstructionSettings
from gluon_compress.validation import Count, OneOf, Settings

LOGGER = logging.getLogger(__name__)
SECONDS = 10.0  # between two lines of progress


class SearchSettings(Settings):
    """How a policy searches plans in a pruning stage.

    Parameters
    ----------
    episodes : int
        Plans to try.
    images : int
        Training images that a plan is scored on; drawn by the seed, not augmented.
    reward : str
        A name in ``plan.REWARDS``: what is made of the accuracy.
    warmup : int
        For the selection ``amc``: episodes with random actions.
    reconstruct : ReconstructionSettings or None
        How weights are fitted before a plan is scored; None: they stay.
    stop_early : bool
        Whether the search ends when it repeats itself or cannot win against the
        selection ``greedy`` any more.
    """

    episodes: Count = 400
    images: Count = 512
    reward: Annotated[str, OneOf(lambda: REWARDS)] = "accuracy"
    warmup: Count = 100
    reconstruct: Optional[ReconstructionSettings] = None
    stop_early: bool = True


@contextmanager
def search_policy(
    name: str,
    net: HybridBlock,
    graph: Graph,
    settings: SearchSettings,
    context: StageContext,
) -> Iterator[Search]:
    """Yield the policy of a search, with its log in the stage's folder.

    Parameters
    ----------
    name : str
        In ``plan.SEARCHES``.
    net : HybridBlock
    graph : Graph
        Of the net with its present values.
    settings : SearchSettings
    context : StageContext

    Raises
    ------
    ValueError
        If the images that plans are scored on lack a class.
    """
    context.check_sample(settings.images)
    own = {"warmup": settings.warmup} if name == AMC.name else {}
    with context.plan_score(net, settings.images, settings.reconstruct) as score:
        yield SEARCHES[name](
            _Within(graph, score),
            episodes=settings.episodes,
            reward=settings.reward,
            seed=context.seed,
            log=context.folder / SEARCH_LOG,
            stop_early=settings.stop_early,
            progress=_Progress(name, settings.episodes),
            **own,
        )


class _Within:
    """A score of plans for the same net with another number of classes."""

    def __init__(self, graph: Graph, score: Any) -> None:
        self._names = [group.name for group in graph.groups if not group.frozen]
        self._score = score

    def __call__(self, plan: Plan) -> float:
        return self._score(self._own(plan))

    def expect(self, plans: Iterable[Plan]) -> None:
        """Tell the score which plans will come, if it wants to know."""
        if hasattr(self._score, "expect"):
            self._score.expect(map(self._own, plans))

    def _own(self, plan: Plan) -> Plan:
        return Plan({name: plan.keep[name] for name in self._names})


class _Progress:
    """Logs a line every few seconds."""

    def __init__(self, name: str, episodes: int) -> None:
        self.name, self.episodes, self.logged = name, episodes, time.monotonic()

    def __call__(self, episode: Episode) -> None:
        now = time.monotonic()
        if now - self.logged < SECONDS and episode.number + 1 < self.episodes:
            return
        self.logged = now
        LOGGER.info(
            "%s: episode %d of %d, reward %.4f, best %.4f, reference %.4f",
            *(self.name, episode.number + 1, self.episodes),
            *(episode.reward, episode.best, episode.reference),
        )
