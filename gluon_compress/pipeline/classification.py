"""Classifiers as a task of the pipeline."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Sequence

from mxnet.gluon import HybridBlock

from gluon_compress import data, models
from gluon_compress.deployment import fused
from gluon_compress.distill import distil_step
from gluon_compress.evaluate import top1
from gluon_compress.graph import Graph
from gluon_compress.graph import trace as trace_net
from gluon_compress.models import NamedBlock, family_of, supervised_step
from gluon_compress.pipeline.job import Job, Lesson, Task, cut, teacher_of
from gluon_compress.recipe import ClassifierRecipe, Schedule

VAL_BATCH = 64


def open_sets(recipe: ClassifierRecipe) -> tuple:
    """Open both splits; what is judged in the end is ``val`` too."""
    config = recipe.data
    folder, names = config.folder(), config.classes
    if isinstance(names, str):
        names = data.class_names(folder, folder / names)
    if config.kind == "record":
        train, val = (
            data.Records(folder / f"{split}.rec", names)
            for split in (config.train, config.val)
        )
    else:
        train = data.ImageFolder(folder / config.train, names)
        val = data.ImageFolder(folder / config.val, train.classes)
    return train, val, val


def build(job: Job, classes: Sequence[str]) -> tuple[HybridBlock, None]:
    """Build the net, or load it."""
    model, size = job.recipe.model, job.recipe.data.size
    teacher_of(job, None, classes)  # found wrong now, not after hours
    if model.weights is not None:
        return loaded(job.recipe, model.weights, classes), None
    seed = job.recipe.seed
    net = models.build(model.name, classes, size=size, seed=seed)
    return cut(job, net, model), None


def loaded(
    recipe: ClassifierRecipe, folder: str, classes: Sequence[str]
) -> HybridBlock:
    """Return the net of an export, and refuse one of other classes."""
    net = load(folder)
    own = family_of(net).classes_of(net)
    if own != tuple(classes):
        raise ValueError(
            f"{folder}: its classes are {list(own)}, those of the data {list(classes)}"
        )
    return net


def save(job: Job, net: Any, folder: Path, name: str) -> dict:
    """Write the net as an export."""
    return models.save(net, folder, name)


def load(folder: Path) -> HybridBlock:
    """Return the net of an export."""
    return models.load(folder, "classifier")


def trace(job: Job, net: Any) -> Graph:
    """Trace the net at the size of the recipe's images."""
    size = job.recipe.data.size
    return trace_net(net, (1, 3, size, size))


def with_classes(net: HybridBlock, classes: int) -> None:
    """Refuse it: the last layer is small beside what is in front of it."""
    raise ValueError(f"compression.classes is {classes}; allowed: null for classifiers")


def batches(job: Job, net: Any, schedule: Schedule) -> Any:
    """Return endless epochs of changed images with the chances of each class."""
    config = job.recipe.data
    late = _batches(job, schedule, config.size)
    # The early epochs are those of the training from scratch.
    if schedule is not job.recipe.train or not config.early_epochs:
        return late
    early = _batches(job, schedule, config.early_size)
    return data.EarlyBatches(early, late, config.early_epochs)


def _batches(job: Job, schedule: Schedule, size: int) -> Any:
    config, how = job.recipe.data, job.recipe.targets
    changes = {
        "least_area": config.least_area,
        "jitter": config.jitter,
        "lighting": config.lighting,
    }
    shared = {
        "seed": job.recipe.seed,
        "targets": data.ClassTargets(
            len(job.train.classes), smoothing=how.label_smoothing
        ),
        "mix": data.Mixup(how.mixup) if how.mixup else None,
    }
    if config.kind == "record":
        return data.RecordBatches(
            job.train, schedule.batch_size, size, changes=changes, **shared
        )
    sample = partial(data.crop_train_sample, size=size, **changes)
    return data.Batches(job.train, sample, schedule.batch_size, last="fill", **shared)


def _judged(job: Job, net: HybridBlock, dataset: Any) -> float:
    size, device = job.recipe.data.size, job.options.ctx[0]
    net.hybridize(static_alloc=True, static_shape=True)
    if job.recipe.data.kind == "record":
        count = min(VAL_BATCH, len(dataset))
        found = data.RecordBatches(dataset, count, size, shuffle=False)
    else:
        sample = partial(data.crop_val_sample, size=size)
        found = data.Batches(dataset, sample, VAL_BATCH, shuffle=False)
    return top1(lambda images: net(images.as_in_context(device)), found.epoch(0))


def accuracy(job: Job, net: HybridBlock, dataset: Any) -> dict:
    """Return the share of images whose class is the highest score."""
    size = job.recipe.data.size
    return {"top1": _judged(job, net, dataset), "metric": f"top-1 at {size} pixels"}


def validation(job: Job, net: HybridBlock, dataset: Any) -> dict:
    """Return the share of images whose class is the highest score."""
    return {"top1": _judged(job, net, dataset)}


def lesson(job: Job, net: HybridBlock, teacher: HybridBlock | None) -> Lesson:
    """Teach from labels, and from another classifier where there is one."""
    family = family_of(net)
    block, loss = family.training_net(net), family.loss(net)
    if teacher is None:
        return Lesson(block, supervised_step(loss))
    how = job.recipe.distillation
    step = distil_step(
        NamedBlock(fused(teacher, job.options.ctx), block.names),
        (),
        loss,
        weights={"soft_targets": how.weight},
        settings={"temperature": how.temperature},
    )
    return Lesson(block, step)


def block(net: HybridBlock) -> HybridBlock:
    """Return the net itself."""
    return net


CLASSIFICATION = Task(
    open_sets=open_sets,
    build=build,
    save=save,
    load=load,
    trace=trace,
    with_classes=with_classes,
    batches=batches,
    block=block,
    loaded=loaded,
    lesson=lesson,
    accuracy=accuracy,
    validation=validation,
    metric="top1",
)
