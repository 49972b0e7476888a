"""Searches in recipes: policies that score plans on training images."""

from __future__ import annotations

import logging
import time
from typing import Callable, Optional

from mxnet.gluon import HybridBlock
from typing_extensions import Annotated

from gluon_compress.compression.algorithm import StageContext
from gluon_compress.graph import Graph
from gluon_compress.plan import AMC, REWARDS, SEARCHES, Episode, Plan, Search
from gluon_compress.plan.policies.episodes import SEARCH_LOG
from gluon_compress.prune import PlanScore, ReconstructionSettings, WeightFitter
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


def search_policy(
    name: str,
    net: HybridBlock,
    graph: Graph,
    settings: SearchSettings,
    context: StageContext,
) -> Search:
    """Return the policy of a search, with its log in the stage's folder.

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
    fitter, fit = None, settings.reconstruct
    if fit is not None:
        batches = list(context.batches(net, fit.batches))
        fitter = WeightFitter(
            net,
            batches,
            points=fit.points,
            ridge=fit.ridge,
            graph=graph,
            seed=context.seed,
        )
    context.to_device(net)
    score = PlanScore(
        net,
        lambda masked: context.accuracy(masked, training_images=settings.images),
        fitter=fitter,
        graph=graph,
    )
    own = {"warmup": settings.warmup} if name == AMC.name else {}
    return SEARCHES[name](
        _within(graph, score),
        episodes=settings.episodes,
        reward=settings.reward,
        seed=context.seed,
        log=context.folder / SEARCH_LOG,
        stop_early=settings.stop_early,
        progress=_Progress(name, settings.episodes),
        **own,
    )


def _within(graph: Graph, score: PlanScore) -> Callable[[Plan], float]:
    """Return a score of plans for the same net with another number of classes."""
    names = [group.name for group in graph.groups if not group.frozen]
    return lambda plan: score(Plan({name: plan.keep[name] for name in names}))


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
