"""What the stages work with: the recipe, its task, its data opened."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import mxnet as mx
from mxnet.gluon import Block, HybridBlock

from gluon_compress import data, train
from gluon_compress.graph import Graph
from gluon_compress.plan import Plan
from gluon_compress.prune import slim

LOG = logging.getLogger(__name__)
NAMED = 10  # of the files that are left out; results count all


@dataclass(frozen=True)
class Lesson:
    """What is trained, and the step loss it is trained with."""

    block: HybridBlock
    step_loss: Callable


@dataclass(frozen=True)
class Task:
    """What the stages need to know of a kind of net; ``detection`` holds one.

    Parameters
    ----------
    open_sets : callable
        ``(recipe) -> (train, val, test)``, data sets with ``classes``, ``problems``
        and a length; ``val`` is measured while training.
    build : callable
        ``(job, classes) -> (start, student)``, untrained; ``student`` may be None.
    save, load : callable
        ``(job, net, folder, name) -> manifest`` and ``(folder) -> net``.
    trace : callable
        ``(job, net) -> Graph``.
    with_classes : callable
        ``(net, classes)`` -> the net as it would be with so many classes.
    batches : callable
        ``(job, net, schedule)`` -> endless epochs of training batches.
    block : callable
        ``(net)`` -> the part of a net that is trained, recalibrated and timed.
    loaded : callable
        ``(recipe, folder, classes)`` -> a trained net that fits the recipe's data.
    lesson : callable
        ``(job, net, teacher) -> Lesson``; without a teacher from labels alone.
    accuracy : callable
        ``(job, net, dataset) -> dict`` whose first entry is named ``metric``.
    validation : callable
        As ``accuracy``, but figures alone, for the log.
    metric : str
    """

    open_sets: Callable[[Any], tuple]
    build: Callable[[Job, Sequence[str]], tuple]
    save: Callable[[Job, Any, Path, str], dict]
    load: Callable[[Path], Any]
    trace: Callable[[Job, Any], Graph]
    with_classes: Callable[[Any, int], Any]
    batches: Callable[[Job, Any, Any], Any]
    block: Callable[[Any], HybridBlock]
    loaded: Callable[[Any, str, Sequence[str]], Any]
    lesson: Callable[[Job, Any, Any], Lesson]
    accuracy: Callable[[Job, Any, Any], dict]
    validation: Callable[[Job, Any, Any], dict]
    metric: str


@dataclass(frozen=True)
class Job:
    """A recipe with its data opened and a place for its results.

    Parameters
    ----------
    task : Task
    recipe : Recipe or ClassifierRecipe
    out : Path
    train, val, test
        Data sets; ``val`` is what is measured while training.
    options : train.Options
        Devices, seed and progress bars.
    facts : mapping
        Commit, hardware and versions, for every ``result.json``.
    """

    task: Task
    recipe: Any
    out: Path
    train: Any
    val: Any
    test: Any
    options: train.Options
    facts: Mapping[str, Any] = field(default_factory=dict)


def open_job(
    task: Task, recipe: Any, out: Path, options: train.Options, facts: Mapping[str, Any]
) -> Job:
    """Open the data of a recipe; log which files are left out, and what was repaired.

    Raises
    ------
    ValueError
        If it cannot be opened, or there is nothing in it to learn or to find.
    """
    sets = task.open_sets(recipe)
    for dataset, split in zip(sets, ("train", "val", "test")):
        if split == "test" and dataset is sets[1]:
            continue
        for file, reason in dataset.problems[:NAMED]:
            LOG.warning("%s: left out: %s: %s", split, file, reason)
        if len(dataset.problems) > NAMED:
            LOG.warning("%s: and %d more", split, len(dataset.problems) - NAMED)
        repairs = data.counted(dataset).get("repairs")
        if repairs:
            told = ", ".join(f"{name} {count}" for name, count in repairs.items())
            LOG.warning("%s: repairs: %s", split, told)
    return Job(task, recipe, out, *sets, options, facts)


def teacher_of(job: Job, full: Any, classes: Sequence[str]) -> Any:
    """Return who teaches in the recipe's last training: the full net, another, None.

    Raises
    ------
    ValueError
        If the folder holds no net of these classes.
    """
    how = job.recipe.distillation
    if how is None or how.teacher is None:
        return None if how is None else full
    return job.task.loaded(job.recipe, how.teacher, classes)


def cut(job: Job, net: Any, model: Any) -> Any:
    """Return a net in the structure of its plan, if the recipe gives it one.

    Where the net is to train with masks it stays whole, but the plan has to fit.

    Raises
    ------
    ValueError
        Naming the file, if the plan is of another net.
    """
    if model.plan is None:
        return net
    plan = Plan.load(model.plan)
    # Nets of one family have groups of the same names.
    if plan.net not in ("", model.name):
        raise ValueError(f"{model.plan}: is of {plan.net!r}, not of {model.name!r}")
    graph = job.task.trace(job, net)
    try:
        plan.check(graph)
    except ValueError as error:
        raise ValueError(f"{model.plan}: {error}") from None
    return net if model.masks else slim(net, plan, shape=graph.inputs["data"])


def place(block: Block, ctx: Sequence[mx.Context]) -> None:
    """Move a block's parameters to devices, if they are not there."""
    parameters = block.collect_params()
    if any(p.list_ctx() != list(ctx) for p in parameters.values()):
        parameters.reset_ctx(list(ctx))
