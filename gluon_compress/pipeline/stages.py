"""The stages of a run: train the full net, compress it, fine-tune the compact net.

``Job`` is a run's recipe with its data opened. The contexts are what a compression
algorithm gets to see of it.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import Block, HybridBlock

from gluon_compress import data, train
from gluon_compress.binarization.training import BinaryScales
from gluon_compress.compression import (
    ALGORITHMS,
    DryRunContext,
    StageContext,
    StageOutput,
)
from gluon_compress.compression.algorithm import score_here
from gluon_compress.compression.strength import applied
from gluon_compress.evaluate import warn_of_limit
from gluon_compress.graph import Graph, structure_of
from gluon_compress.models import family_of
from gluon_compress.pipeline.scoring import score_swept
from gluon_compress.pipeline.task import Lesson, Splits, Task
from gluon_compress.plan import Plan
from gluon_compress.prune import ReconstructionSettings, mask, slim
from gluon_compress.quantization.biases import settle_biases
from gluon_compress.quantization.training import WeightScales
from gluon_compress.sweeps import Sweep
from gluon_compress.train import Schedule
from gluon_compress.validation import few

FULL, COMPACT = "full", "compact"  # the first and the last stage
LOGGER = logging.getLogger(__name__)
MOST_PROBLEMS = 10  # files that are named when they are left out; results count all


@dataclass(frozen=True)
class Job:
    """A run of a recipe: its data, a folder for results, and how to train.

    Parameters
    ----------
    task : Task
        With the recipe.
    splits : Splits
        Its data.
    out : Path
        Folder of the run; each stage has a folder in it.
    options : train.Options
        Devices, seed and progress bars.
    facts : mapping
        Commit, hardware and versions, for every ``result.json``.
    named : dict
        How many problems of each data set, by its ``id``, have been logged.
    sweep : Sweep
        Where plans are scored.
    """

    task: Task
    splits: Splits
    out: Path
    options: train.Options
    facts: Mapping[str, Any]
    named: Dict[int, int] = field(default_factory=dict)
    sweep: Sweep = field(default_factory=Sweep)

    @property
    def recipe(self) -> Any:
        """The task's recipe."""
        return self.task.recipe

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.splits.train.classes)

    def batches(self, net: HybridBlock, schedule: Schedule) -> Any:
        """Return endless epochs of training batches."""
        return self.task.batches(self.splits.train, net, schedule)

    def evaluate(
        self, net: HybridBlock, dataset: Any = None, folder: Path | None = None
    ) -> Dict[str, Any]:
        """Measure a net on the test images, or on another data set.

        With a folder, that of a stage, the task may leave there what it saw.
        """
        dataset = self.splits.test if dataset is None else dataset
        device = self.options.ctx[0]
        if folder is None:
            figures = self.task.evaluate(net, dataset, device)
        else:
            figures = self.task.measure(net, dataset, device, folder)
        self.name_broken("evaluation: left out", dataset)
        return figures

    def validate(self, net: HybridBlock) -> Mapping[str, float]:
        """Measure a net on the validation images."""
        dataset = self.splits.val
        figures = self.task.validate(net, dataset, self.options.ctx[0])
        self.name_broken("validation: left out", dataset)
        return figures

    def name_broken(self, what: str, dataset: Any) -> None:
        """Log which files of a data set turned out to be broken, each once."""
        _name_broken(what, dataset, self.named)


def open_job(
    task: Task, out: Path, options: train.Options, facts: Mapping[str, Any]
) -> Job:
    """Open the data of a recipe; log which files are left out and what was repaired.

    Raises
    ------
    ValueError
        As ``Task.open_data``, or if too many images to measure on are broken.
    """
    splits = task.open_data()
    named = {"train": splits.train, "val": splits.val, "test": splits.test}
    if splits.test is splits.val:
        del named["test"]
    counts: Dict[int, int] = {}
    for split, dataset in named.items():
        _name_broken(f"{split}: left out", dataset, counts)
        _warn(f"{split}: in doubt", getattr(dataset, "doubts", []))
        if dataset is not splits.train:
            data.refuse_broken(dataset, task.recipe.data.most_broken)
        for line in data.describe_counts(data.count_images(dataset)):
            LOGGER.warning("%s: %s", split, line)
    return Job(task.fitted(splits), splits, out, options, facts, counts)


def warn_of_limits(net: HybridBlock, splits: Splits) -> None:
    """Log if an image has more objects than a detector can find."""
    limit = family_of(net).most_detections(net)
    if limit is not None:
        for name in ("train", "val", "test"):
            warn_of_limit(data.most_objects(getattr(splits, name)), limit, name)


def _name_broken(what: str, dataset: Any, named: Dict[int, int]) -> None:
    problems = getattr(dataset, "problems", ())
    whole = getattr(dataset, "dataset", dataset)  # of a subset
    _warn(what, problems[named.get(id(whole), 0) :])
    named[id(whole)] = len(problems)


def _warn(what: str, files: Sequence[tuple[str, str]]) -> None:
    """Log the first of some files, each with a reason, and how many more there are."""
    for file, reason in files[:MOST_PROBLEMS]:
        LOGGER.warning("%s: %s: %s", what, file, reason)
    if len(files) > MOST_PROBLEMS:
        LOGGER.warning("%s: and %d more", what, len(files) - MOST_PROBLEMS)


class DryRun(DryRunContext):
    """What compression algorithms see of a recipe before any training."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.model, self.seed = task.recipe.model.name, task.recipe.seed
        self.shape = task.shape

    def trace(self, net: HybridBlock) -> Graph:
        """Return the graph of a net for an input of ``shape``."""
        return self._task.trace(net)

    def with_classes(self, net: HybridBlock, classes: int) -> HybridBlock:
        """Return the net as it would be with a number of classes."""
        return self._task.with_classes(net, classes)


class Stage(DryRun, StageContext):
    """What a compression algorithm sees of a run."""

    def __init__(self, job: Job, folder: Path) -> None:
        super().__init__(job.task)
        self._job, self.folder = job, folder
        self.commit, self.metric = job.facts.get("commit"), job.task.metric

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
        lesson: Lesson | None = None,
    ) -> Dict[str, Any]:
        """Train a net in place, on labels by default, and return notes on that."""
        return fit(
            self._job,
            net,
            None,
            schedule,
            folder or self.folder,
            callbacks=callbacks,
            step_callbacks=step_callbacks,
            start_callbacks=start_callbacks,
            wrap=wrap,
            lesson=lesson,
        )

    def datasets(self) -> tuple[Any, Any]:
        """Return the data sets of training and of validation."""
        return self._job.splits.train, self._job.splits.val

    def options(self, folder: str) -> tuple[Path, train.Options]:
        """Return a folder in the stage's, and options, for a ``train.fit`` there."""
        return self.folder / folder, self._job.options

    def images(self, count: int) -> list[np.ndarray]:
        """Return some validation images; broken ones are left out."""
        dataset = self._job.splits.val
        found: list[np.ndarray] = []
        for i in range(len(dataset)):
            if len(found) == count:
                break
            with suppress(ValueError):
                found.append(dataset[i][0])
        return found

    def batches(self, net: HybridBlock, count: int) -> Any:
        """Return some batches, of the size and augmentation of the fine-tuning."""
        job = self._job
        schedule = job.recipe.finetune or job.recipe.train
        batches = job.task.batches(job.splits.train, net, schedule, broken="leave out")
        return islice(batches.epoch(0), count)

    def steps_per_epoch(self, net: HybridBlock, schedule: Schedule) -> int:
        """Return the number of steps of an epoch under a schedule."""
        return len(self._job.batches(net, schedule))

    def training_block(self, net: HybridBlock) -> HybridBlock:
        """Return the block that is trained; it shares its parameters with the net."""
        return self._job.task.training_block(net)

    def devices(self) -> Sequence[mx.Context]:
        """Return the devices that nets are trained on."""
        return self._job.options.ctx

    def step_loss(self, net: HybridBlock) -> Callable:
        """Return the step loss for labels."""
        return self._job.task.lesson(net, None, self._job.options.ctx).step_loss

    def accuracy(self, net: HybridBlock, training_images: int | None = None) -> float:
        """Return the accuracy on the test images, or on some training images."""
        dataset = None if training_images is None else self._sample(training_images)
        return self._of_first(lambda: self._job.evaluate(net, dataset)[self.metric])

    def validated(self, net: HybridBlock) -> float:
        """Return the accuracy on the validation images."""
        return self._of_first(lambda: self._job.validate(net)[self.metric])

    def _of_first(self, measure: Callable[[], float]) -> float:
        """Return what rank 0 measures: decisions rest on it, on all ranks alike."""
        return self._job.options.ranks.from_first("accuracy", measure)

    def within(self, name: str) -> Stage:
        """Return the same with a folder of this name in its folder."""
        return Stage(self._job, self.folder / name)

    def check_sample(self, training_images: int) -> None:
        """Refuse to measure on so many training images if they lack a class."""
        sample = self._sample(training_images)
        absent = data.absent_classes(sample, self._job.classes)
        if absent:
            raise ValueError(
                f"images is {training_images}: those drawn show no {few(absent, 6)}; "
                "allowed: so many that every class occurs"
            )

    def _sample(self, training_images: int) -> Any:
        return data.draw_subset(self._job.splits.train, training_images, seed=self.seed)

    def to_device(self, net: HybridBlock) -> None:
        """Move a net to the device that accuracy is measured on."""
        to_devices(net, self._job.options.ctx[:1])

    @contextmanager
    def plan_score(
        self, net: HybridBlock, images: int, fit: ReconstructionSettings | None = None
    ) -> Iterator[Callable[[Plan], float]]:
        """Yield a score of plans, which the workers of the run's sweep compute."""
        job = self._job
        if job.sweep.is_here:
            yield score_here(self, net, images, fit)
            return
        with score_swept(job, self.folder, net, images, fit, job.sweep) as score:
            yield score


def dry_run(task: Task, net: HybridBlock) -> tuple[Plan | None, HybridBlock]:
    """Compress an untrained net: a budget out of reach costs no training.

    Returns
    -------
    (Plan or None, HybridBlock)
        What all rows of the recipe together keep of the net, if any of them makes a
        plan, and the compressed net.
    """
    context, plans, compressed = DryRun(task), [], net
    for row in task.recipe.compression:
        output = ALGORITHMS[row.algorithm].dry_run(compressed, row, context)
        compressed = output.net
        plans.append(output.plan)
    return composed(task, net, plans), compressed


def composed(task: Task, net: HybridBlock, plans: Sequence[Plan | None]) -> Plan | None:
    """Return one plan for several that were applied to a net one after the other."""
    in_order = [plan for plan in plans if plan is not None]
    if not in_order:
        return None
    graph = task.trace(net)
    widths = {group.name: group.width for group in graph.groups}
    everything = Plan.everything(graph)
    total = Plan(everything.keep, made_by={"widths": widths})
    for plan in in_order:
        total = total.compose(plan)
    return Plan(total.keep, task.recipe.model.name, total.made_by)


def train_full(
    job: Job, net: HybridBlock, folder: Path
) -> tuple[HybridBlock, Dict[str, Any]]:
    """Train the full net, or take it as it was loaded; return it and notes."""
    recipe = job.recipe
    if recipe.model.weights is not None:
        return net, {"weights": recipe.model.weights}
    is_last = recipe.finetune is None
    teacher = job.task.teacher(None, job.classes) if is_last else None
    if not recipe.model.masks:
        return net, fit(job, net, teacher, recipe.train, folder)
    plan = Plan.load(recipe.model.plan)
    masked = mask(net, plan, shape=job.task.shape)
    notes = fit(job, masked, teacher, recipe.train, folder)
    return slim(masked, plan, shape=job.task.shape), notes


def compress(job: Job, net: HybridBlock, row: Any, folder: Path) -> StageOutput:
    """Apply one row of the recipe's compression and save what it leaves."""
    output = applied(ALGORITHMS[row.algorithm], net, row, Stage(job, folder))
    for name, artifact in output.artifacts.items():
        artifact.save(folder / name)
    return output


def finetune(
    job: Job, net: HybridBlock, full: HybridBlock, folder: Path
) -> tuple[HybridBlock, Dict[str, Any]]:
    """Train the compact net, with a teacher if the recipe has one."""
    teacher = job.task.teacher(full, job.classes)
    return net, fit(job, net, teacher, job.recipe.finetune, folder)


def fit(
    job: Job,
    net: HybridBlock,
    teacher: Any,
    schedule: Schedule,
    folder: Path,
    *,
    callbacks: Sequence[Callable] = (),
    step_callbacks: Sequence[Callable] = (),
    start_callbacks: Sequence[Callable] = (),
    wrap: Callable[[Callable], Callable] | None = None,
    lesson: Lesson | None = None,
) -> Dict[str, Any]:
    """Train a net in place and return notes for ``result.json``.

    Parameters
    ----------
    job : Job
    net : HybridBlock
    teacher : HybridBlock or None
    schedule : Schedule
    folder : Path
        Of log and checkpoints; a training that was interrupted there is resumed.
    callbacks, step_callbacks, start_callbacks : sequence of callables
        As for ``train.fit``.
    wrap : callable, optional
        Step loss to step loss.
    lesson : Lesson, optional
        What is trained instead of what the task teaches.
    """
    task, options = job.task, job.options
    lesson = lesson or task.lesson(net, teacher, options.ctx)
    step_loss = wrap(lesson.step_loss) if wrap else lesson.step_loss
    batches = job.batches(net, schedule)
    scales = train.SeveralHooks([WeightScales(net), BinaryScales(net)])
    following = train.hooked(scales, len(batches), part="scales")
    lesson.block.hybridize(static_alloc=True, static_shape=True)
    to_devices(lesson.block, options.ctx)
    to_devices(net, options.ctx)

    def validate() -> Mapping[str, float]:
        job.name_broken("training: others took the place", job.splits.train)
        return job.validate(net)

    progress = train.fit(
        lesson.block,
        batches,
        step_loss,
        schedule,
        folder,
        validate=validate,
        callbacks=[*callbacks, *following["callbacks"]],
        step_callbacks=[*step_callbacks, *following["step_callbacks"]],
        start_callbacks=start_callbacks,
        identity={"structure": structure_of(net)},
        options=options,
    )
    choose_best = job.splits.val is not job.splits.test
    if choose_best:  # else the best epoch would be chosen on the test images
        train.load_best(lesson.block, folder, options=options)
    settle_biases(net)

    def notes() -> Dict[str, Any]:
        _, validations = train.read_log(folder / train.LOG)
        return {
            "epochs": progress.epoch,
            "steps": progress.step,
            "train_seconds": round(progress.seconds, 1),
            "chosen": "best on val" if choose_best else "last",
            "validated": {str(row["epoch"]): row[task.metric] for row in validations},
        }

    return options.ranks.from_first("notes", notes)


def to_devices(block: Block, ctx: Sequence[mx.Context]) -> None:
    """Move a block's parameters to devices, if they are not there."""
    parameters = block.collect_params()
    if any(p.list_ctx() != list(ctx) for p in parameters.values()):
        parameters.reset_ctx(list(ctx))
