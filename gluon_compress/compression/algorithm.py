"""The interface of a compression algorithm, and what the pipeline gives to it.

An algorithm is a row of a recipe's ``"compression"``: settings, a dry run on an
untrained net, and the stage itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    Callable,
    ClassVar,
    Dict,
    Iterator,
    Mapping,
    Sequence,
    Tuple,
    Type,
)

import numpy as np
from mxnet.gluon import HybridBlock

from gluon_compress import validation
from gluon_compress.graph import Graph
from gluon_compress.plan import Plan
from gluon_compress.prune import PlanScore, ReconstructionSettings, WeightFitter
from gluon_compress.train import Options
from gluon_compress.train.hooks import Hooks
from gluon_compress.train.schedule import Schedule

PLAN = "plan.json"


@dataclass(frozen=True)
class StageOutput:
    """What an algorithm returns.

    Parameters
    ----------
    net : HybridBlock
        The compressed net, a new one.
    notes : mapping
        JSON values for the stage's ``result.json``.
    artifacts : mapping
        File name to an object with ``save(path)``: what the stage leaves beside its
        model. A ``plan.json`` says which channels were kept.
    """

    net: HybridBlock
    notes: Mapping[str, Any] = field(default_factory=dict)
    artifacts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plan(self) -> Plan | None:
        """Which channels were kept, if the algorithm decided that."""
        return self.artifacts.get(PLAN)


@dataclass(frozen=True)
class Attached:
    """What an algorithm makes of a net that a loop of the user's own trains.

    Parameters
    ----------
    net : HybridBlock
        A new one.
    hooks : callable
        ``hooks(net) -> Hooks`` for the net that all rows together have made, which has
        the parameters of this one under the same names.
    notes : mapping
        JSON values on what was decided.
    """

    net: HybridBlock
    hooks: Callable[[HybridBlock], Hooks] = lambda net: Hooks()
    notes: Mapping[str, Any] = field(default_factory=dict)


class DryRunContext(ABC):
    """What is known before any training.

    Attributes
    ----------
    model : str
        Name of the net in the recipe.
    shape : tuple of int
        Of the net's input, ``(1, 3, height, width)``.
    seed : int
        The recipe's.
    """

    model: str
    shape: tuple[int, ...]
    seed: int

    @abstractmethod
    def trace(self, net: HybridBlock) -> Graph:
        """Return the graph of a net for an input of ``shape``."""

    @abstractmethod
    def with_classes(self, net: HybridBlock, classes: int) -> HybridBlock:
        """Return the net as it would be with a number of classes."""


class LoopContext(DryRunContext):
    """What is known in a loop of the user's own: beside the net some batches."""

    @abstractmethod
    def batches(self, net: HybridBlock, count: int) -> Any:
        """Return an iterator of at most so many training batches, the same each time.

        They are to measure on; the first array of a batch is the net's input.
        """


class StageContext(LoopContext):
    """What a stage works with, beside what is known before any training.

    Attributes
    ----------
    folder : Path
        Of the stage. What lies there survives an interruption.
    commit : str or None
        Of the package, for provenance.
    metric : str
        Name of the accuracy, ``mAP`` or ``top1``.
    """

    folder: Path
    commit: str | None
    metric: str

    @abstractmethod
    def fit(
        self,
        net: HybridBlock,
        schedule: Schedule,
        *,
        folder: Path | None = None,
        callbacks: Sequence[Callable] = (),
        step_callbacks: Sequence[Callable] = (),
        start_callbacks: Sequence[Callable] = (),
        wrap: Callable[[Callable], Callable] | None = None,
        lesson: Any = None,
    ) -> Dict[str, Any]:
        """Train a net in place, on labels by default, and return notes on that.

        Parameters
        ----------
        net : HybridBlock
        schedule : Schedule
        folder : Path, optional
            Of log and checkpoints; None: the stage's. An interrupted training that is
            started again in its folder is resumed.
        callbacks, step_callbacks, start_callbacks : sequence of callables
            As for ``train.fit``.
        wrap : callable, optional
            Step loss to step loss, to add a regulariser for instance.
        lesson : object, optional
            What is trained instead of ``training_block``, and by which loss: its
            ``block``, which shares parameters with the net, and ``step_loss``.
        """

    @abstractmethod
    def steps_per_epoch(self, net: HybridBlock, schedule: Schedule) -> int:
        """Return the number of steps of an epoch under a schedule."""

    @abstractmethod
    def training_block(self, net: HybridBlock) -> HybridBlock:
        """Return the block that is trained; it shares its parameters with the net."""

    @abstractmethod
    def devices(self) -> Sequence[Any]:
        """Return the devices that nets are trained on."""

    @abstractmethod
    def step_loss(self, net: HybridBlock) -> Callable:
        """Return ``step_loss(block, batch) -> (loss, parts)`` for labels."""

    @abstractmethod
    def accuracy(self, net: HybridBlock, training_images: int | None = None) -> float:
        """Return the accuracy of a net on the test images.

        Parameters
        ----------
        net : HybridBlock
        training_images : int, optional
            Measure on so many training images instead; drawn by the seed.
        """

    @abstractmethod
    def validated(self, net: HybridBlock) -> float:
        """Return the accuracy on the validation images, which settings may follow.

        Where a recipe has none, they are the test images.
        """

    @abstractmethod
    def datasets(self) -> tuple[Any, Any]:
        """Return the data sets of training and of validation.

        They have ``len``, ``[i]`` -> (image, label) and ``classes``.
        """

    @abstractmethod
    def options(self, folder: str) -> tuple[Path, Options]:
        """Return a folder in the stage's, and options, for a ``train.fit`` there."""

    @abstractmethod
    def images(self, count: int) -> Sequence[np.ndarray]:
        """Return at most so many validation images, ``(H, W, 3)``, uint8, RGB."""

    @abstractmethod
    def within(self, name: str) -> StageContext:
        """Return the same with a folder of this name in its folder."""

    @abstractmethod
    def check_sample(self, training_images: int) -> None:
        """Refuse to measure on so many training images if they lack a class.

        Raises
        ------
        ValueError
            Naming the classes.
        """

    @abstractmethod
    def to_device(self, net: HybridBlock) -> None:
        """Move a net to the device that accuracy is measured on."""

    @contextmanager
    def plan_score(
        self, net: HybridBlock, images: int, fit: ReconstructionSettings | None = None
    ) -> Iterator[Callable[[Plan], float]]:
        """Yield a score of plans: the accuracy of a net with their masks.

        If several processes compute it, it has a method ``expect(plans)``.

        Parameters
        ----------
        net : HybridBlock
        images : int
            Training images to measure on.
        fit : ReconstructionSettings, optional
            How weights are fitted before a plan is scored; None: they stay.
        """
        yield score_here(self, net, images, fit)


def score_here(
    context: StageContext,
    net: HybridBlock,
    images: int,
    fit: ReconstructionSettings | None,
) -> PlanScore:
    """Return what ``StageContext.plan_score`` yields, computed by this process."""
    graph, fitter = context.trace(net), None
    if fit is not None:
        fitter = WeightFitter(
            net,
            list(context.batches(net, fit.batches)),
            points=fit.points,
            ridge=fit.ridge,
            graph=graph,
            seed=context.seed,
        )
    context.to_device(net)
    return PlanScore(
        net,
        lambda masked: context.accuracy(masked, training_images=images),
        fitter=fitter,
        graph=graph,
    )


class Algorithm(ABC):
    """A compression algorithm; ``ALGORITHMS`` names the ones that recipes may use.

    Attributes
    ----------
    Settings : type
        Its settings, a row of ``"compression"``. Their field ``algorithm`` is the
        algorithm's name in ``ALGORITHMS``.
    not_before : tuple of str
        Names of algorithms that cannot work on what this one leaves: a row of one of
        them has to come first.
    """

    Settings: ClassVar[Type[validation.Settings]]
    not_before: ClassVar[Tuple[str, ...]] = ()

    def predecessors(self, settings: Any) -> Tuple[str, ...]:
        """Return the algorithms whose rows come before one of these settings."""
        return self.not_before

    @abstractmethod
    def dry_run(
        self, net: HybridBlock, settings: Any, context: DryRunContext
    ) -> StageOutput:
        """Compress an untrained net, so that settings fail before hours of training.

        Parameters
        ----------
        net : HybridBlock
            With initial values; left as it is.
        settings : Settings
        context : DryRunContext

        Raises
        ------
        ValueError
            If the settings do not fit the net.
        """

    @abstractmethod
    def apply(
        self, net: HybridBlock, settings: Any, context: StageContext
    ) -> StageOutput:
        """Compress a trained net.

        It may be called again after an interruption, with the same net and what the
        stage's folder holds by then, and must come to the same result.

        Parameters
        ----------
        net : HybridBlock
            Left as it is, but for training that the settings ask for.
        settings : Settings
        context : StageContext
        """

    def at_strength(self, settings: Any, strength: float) -> Any:
        """Return settings that compress less, for a search with ``max_drop``.

        Parameters
        ----------
        settings : Settings
        strength : float
            From 0, excluded: next to nothing is compressed, to 1: as the settings say.
        """
        raise NotImplementedError(f"{type(self).__name__} has one strength")

    def attach(self, net: HybridBlock, settings: Any, context: LoopContext) -> Attached:
        """Begin to compress a net that a loop of the user's own trains.

        Parameters
        ----------
        net : HybridBlock
            With trained values; left as it is.
        settings : Settings
            Their schedules of training are not used: the loop is the user's.
        context : LoopContext

        Returns
        -------
        Attached
            By default what ``dry_run`` makes of the present values, without hooks.
        """
        output = self.dry_run(net, settings, context)
        return Attached(output.net, notes=output.notes)
