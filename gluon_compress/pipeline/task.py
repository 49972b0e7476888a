"""The interface of a task: what the pipeline needs to know of a kind of problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock

from gluon_compress import models
from gluon_compress.data import Broken
from gluon_compress.graph import Graph
from gluon_compress.models.settings import ModelSettings
from gluon_compress.plan import Plan
from gluon_compress.prune import slim
from gluon_compress.recipe.recipe import Recipe
from gluon_compress.train import Schedule

Context = Sequence[mx.Context]


@dataclass(frozen=True)
class Splits:
    """The data sets of a recipe: to train on, to validate on, to measure results on.

    Each has ``classes``, ``problems`` and a length. ``val`` may be ``test`` itself.
    """

    train: Any
    val: Any
    test: Any


@dataclass(frozen=True)
class Lesson:
    """What is trained, and the step loss it is trained with.

    Parameters
    ----------
    block : HybridBlock
        Shares its parameters with the net; it may have some of its own.
    step_loss : callable
        ``step_loss(block, batch) -> (loss, {part: value})``.
    """

    block: HybridBlock
    step_loss: Callable


class Task(ABC):
    """A kind of problem; ``TASKS`` names the ones that recipes may have.

    Parameters
    ----------
    recipe : Recipe
    """

    def __init__(self, recipe: Any) -> None:
        self.recipe: Recipe = recipe

    @property
    def metric(self) -> str:
        """Name of the accuracy in results."""
        return self.recipe.metric

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the net's input, ``(1, 3, height, width)``."""
        height, width = self.recipe.data.input_size
        return (1, 3, height, width)

    # Nets. Nothing of this needs data.

    @abstractmethod
    def build(self, classes: Sequence[str]) -> tuple[HybridBlock, HybridBlock]:
        """Return the full net and the one that is compressed, both untrained.

        The second is the full net itself unless the recipe has a student. A teacher
        that does not fit is found here too: in seconds, not after hours.

        Raises
        ------
        ValueError
            If a name is unknown, or a file does not fit.
        """

    def load(self, folder: str | Path) -> HybridBlock:
        """Return the net of an exported model."""
        return models.load(folder)

    @abstractmethod
    def load_fitting(self, folder: str, classes: Sequence[str]) -> HybridBlock:
        """Return the net of an exported model; refuse one of other classes or size."""

    def save(self, net: HybridBlock, folder: Path, name: str) -> Dict[str, Any]:
        """Export a net and return its manifest."""
        return models.save(net, folder, name)

    def trace(self, net: HybridBlock) -> Graph:
        """Return the graph of a net at its own input size."""
        return models.graph_of(net)

    @abstractmethod
    def with_classes(self, net: HybridBlock, classes: int) -> HybridBlock:
        """Return the net as it would be with a number of classes."""

    def teacher(self, full: Any, classes: Sequence[str]) -> Any:
        """Return the teacher of the last training: a model folder, ``full``, or None.

        Raises
        ------
        ValueError
            If the folder holds no net of these classes.
        """
        settings = self.recipe.distillation
        if settings is None:
            return None
        if settings.teacher is None:
            return full
        return self.load_fitting(settings.teacher, classes)

    def with_plan(self, net: HybridBlock, model: ModelSettings) -> HybridBlock:
        """Return a net in the structure of its plan, if the recipe gives it one.

        A net that is to train with masks stays whole, but the plan has to fit.

        Raises
        ------
        ValueError
            Naming the file, if the plan is for another net.
        """
        if model.plan is None:
            return net
        plan = Plan.load(model.plan)
        # Groups of different nets of a family have the same names.
        if plan.net not in ("", model.name):
            raise ValueError(
                f"{model.plan}: net is {plan.net!r}; allowed: {model.name!r}"
            )
        try:
            plan.check(self.trace(net))
        except ValueError as error:
            raise ValueError(f"{model.plan}: {error}") from None
        return net if model.masks else slim(net, plan, shape=self.shape)

    # Training and evaluation.

    @abstractmethod
    def open_data(self) -> Splits:
        """Open the recipe's data sets.

        Raises
        ------
        ValueError
            If one cannot be opened, or there is nothing in it to learn or to find.
        """

    def fitted(self, splits: Splits) -> Task:
        """Return the task with settings that its recipe leaves to the data."""
        return self

    @abstractmethod
    def batches(
        self,
        dataset: Any,
        net: HybridBlock,
        schedule: Schedule,
        *,
        broken: Broken = "replace",
    ) -> Any:
        """Return endless epochs of training batches, as ``train.fit`` takes them.

        What is measured on them, such as importance, needs ``broken="leave out"``.
        """

    def training_block(self, net: HybridBlock) -> HybridBlock:
        """Return the block that is trained and recalibrated."""
        return models.family_of(net).training_net(net)

    @abstractmethod
    def lesson(self, net: HybridBlock, teacher: Any, ctx: Context) -> Lesson:
        """Return what to train; without a teacher (None) from labels alone."""

    @abstractmethod
    def evaluate(
        self, net: HybridBlock, dataset: Any, ctx: mx.Context
    ) -> Dict[str, Any]:
        """Measure a net, and return figures and how they were measured.

        The entry named ``metric`` is the accuracy.
        """

    def measure(
        self, net: HybridBlock, dataset: Any, ctx: mx.Context, folder: Path
    ) -> Dict[str, Any]:
        """Evaluate the net of a stage; a task may leave in its folder what it saw."""
        return self.evaluate(net, dataset, ctx)

    def validate(
        self, net: HybridBlock, dataset: Any, ctx: mx.Context
    ) -> Mapping[str, float]:
        """Measure a net during training; return figures only, the accuracy first."""
        return {self.metric: self.evaluate(net, dataset, ctx)[self.metric]}


def check_classes(net: HybridBlock, folder: str, classes: Sequence[str]) -> None:
    """Refuse a net of a folder whose classes are not those of the data."""
    names = models.family_of(net).classes_of(net)
    if names != tuple(classes):
        raise ValueError(
            f"{folder}: its classes are {list(names)}, those of the data "
            f"{list(classes)}"
        )
