"""Detectors as a task of the pipeline."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Sequence

from mxnet.gluon import HybridBlock

from gluon_compress import data, models
from gluon_compress.building import build as build_net
from gluon_compress.checks import few
from gluon_compress.deployment import fused
from gluon_compress.distill import distil_step, losses_of, needs_taps
from gluon_compress.evaluate import precisions
from gluon_compress.graph import Graph
from gluon_compress.models import NamedBlock, family_of, supervised_step
from gluon_compress.pipeline.job import Job, Lesson, Task, cut, teacher_of
from gluon_compress.recipe import Data, Distillation, Model, Recipe, Schedule
from gluon_compress.sizes import size_pair, size_text

# Keys of a recipe's model that leave the rest to the model itself.
OWN = ("sizes", "ratios", "steps", "extras")
# Kinds of data whose classes and objects are those that GluonCV's loader gives.
LOADERS = {"gluoncv_voc": data.voc_gluoncv, "coco": data.coco_gluoncv}


def open_sets(recipe: Recipe) -> tuple:
    """Open the splits of a recipe; without one for validation it is the test's."""
    config = recipe.data
    train, test = (_with_objects(config, n) for n in (config.train, config.test))
    val = test if config.val is None else _with_objects(config, config.val)
    return train, val, test


def _dataset(config: Data, split: str):
    root = config.folder()
    if config.kind == "toy":
        data.make_toy(root)
    if config.kind in LOADERS:
        opened = LOADERS[config.kind](root, split)
        _check_classes(config, opened.classes)
        return opened
    return data.VOCLayout(root, split, config.classes, difficult=config.difficult)


def _check_classes(config: Data, there: Sequence[str]) -> None:
    """Refuse classes that a set cannot have, for its loader knows no others."""
    if config.classes is None:
        return
    wanted = data.class_names(config.folder(), config.classes)
    if tuple(wanted) != tuple(there):
        raise ValueError(
            f"data.classes is {few(wanted, 20)}; kind {config.kind!r} gives "
            f"{few(there, 20)}; allowed: the same in the same order, or none"
        )


def _with_objects(config: Data, split: str):
    """Open a split, and refuse it if there is nothing to learn or to find in it."""
    opened = _dataset(config, split)
    labels = (opened.label(i) for i in range(len(opened)))
    if not any((label[:, 5] == 0).any() for label in labels):
        raise ValueError(
            f"{config.folder()}: the {len(opened)} images of {split!r} hold no object "
            "that is not difficult"
        )
    return opened


def build(job: Job, classes: Sequence[str]) -> tuple[HybridBlock, HybridBlock | None]:
    """Build all nets at once, so that a wrong name is found in seconds."""
    recipe = job.recipe
    start = _build(job, recipe.model, classes)
    student = None if recipe.student is None else _build(job, recipe.student, classes)
    found = teacher_of(job, start, classes)
    if found is not None:
        family_of(found).check_teacher(student or start, found)
        _taps(recipe.distillation, found)
    return start, student


def _build(job: Job, model: Model, classes: Sequence[str]) -> HybridBlock:
    recipe = job.recipe
    if model.weights is not None:
        return cut(job, loaded(recipe, model.weights, classes), model)
    if model.start is not None:
        return cut(job, _started(recipe, model.start, classes), model)
    how = recipe.evaluate
    given = {name: vars(model)[name] for name in OWN}
    net = build_net(
        model.name,
        classes,
        width=model.width,
        trunk=model.trunk,
        seed=recipe.seed,
        size=recipe.data.size,
        nms_thresh=how.nms_thresh,
        nms_topk=how.nms_topk,
        post_nms=how.post_nms,
        **{name: value for name, value in given.items() if value is not None},
    )
    return cut(job, net, model)


def loaded(recipe: Recipe, folder: str, classes: Sequence[str]) -> HybridBlock:
    """Return the net of an export, and refuse one of other classes or another size."""
    net = _sized(recipe, folder)
    own = family_of(net).classes_of(net)
    if own != tuple(classes):
        raise ValueError(
            f"{folder}: its classes are {list(own)}, those of the data {list(classes)}"
        )
    return net


def _started(recipe: Recipe, folder: str, classes: Sequence[str]) -> HybridBlock:
    """Return the net of an export, its class predictors new if its classes differ."""
    net = _sized(recipe, folder)
    if family_of(net).classes_of(net) == tuple(classes):
        return net
    return models.with_classes(net, classes, seed=recipe.seed)


def _sized(recipe: Recipe, folder: str) -> HybridBlock:
    """Return the net of an export, and refuse one for images of another size."""
    net = models.load(folder)
    size = models.input_size(net)
    if size != size_pair(recipe.data.size):
        raise ValueError(
            f"{folder}: its images are {size_text(size)} pixels, data.size is "
            f"{size_text(recipe.data.size)}"
        )
    return net


def save(job: Job, net: HybridBlock, folder: Path, name: str) -> dict:
    """Write the raw head as an export."""
    return models.save(net, folder, name)


def trace(job: Job, net: HybridBlock) -> Graph:
    """Trace the raw head."""
    return models.graph_of(net)


def with_classes(net: HybridBlock, classes: int) -> HybridBlock:
    """Return the detector with so many classes, of no names."""
    return models.with_classes(net, [str(number) for number in range(classes)])


def batches(job: Job, net: HybridBlock, schedule: Schedule) -> data.Batches:
    """Return endless epochs of augmented images with the targets of a net's anchors."""
    sample = partial(data.ssd_train_sample, size=job.recipe.data.size)
    return data.Batches(
        job.train,
        sample,
        schedule.batch_size,
        seed=job.recipe.seed,
        last="fill",  # one shape for every step
        targets=family_of(net).targets(net),
    )


def accuracy(job: Job, net: HybridBlock, dataset: Any) -> dict:
    """Return mAP and the precision of each class, and how they were measured."""
    how, device = job.recipe.evaluate, job.options.ctx[0]
    net.hybridize(static_alloc=True, static_shape=True)
    sample = partial(data.ssd_val_sample, size=job.recipe.data.size)
    return precisions(
        lambda images: net(images.as_in_context(device)),
        data.Batches(dataset, sample, 8, shuffle=False).epoch(0),
        family_of(net).classes_of(net),
        size=job.recipe.data.size,
        metric=how.metric,
        iou=how.iou,
    )


def validation(job: Job, net: HybridBlock, dataset: Any) -> dict:
    """Return mAP and the precision of each class."""
    figures = accuracy(job, net, dataset)
    return {"mAP": figures["mAP"], **figures["classes"]}


def lesson(job: Job, net: HybridBlock, teacher: HybridBlock | None) -> Lesson:
    """Teach from labels, and from another detector where there is one."""
    how, family = job.recipe.distillation, family_of(net)
    if teacher is None:
        return Lesson(family.training_net(net), supervised_step(family.loss(net)))
    taps = _taps(how, teacher)
    widths = dict(zip(family.map_names(teacher), family.map_widths(teacher)))
    block = family.training_net(teacher, taps, stride=how.stride)
    step = distil_step(
        NamedBlock(fused(block, job.options.ctx), block.names),
        taps,
        family.loss(net),
        weights=how.losses,
        settings=how,
        **(family.loss_context(net, taps, stride=how.stride) if taps else {}),
    )
    adapters = [widths[name] for name in taps]
    form = {"adapters": adapters, "stride": how.stride, "seed": job.recipe.seed}
    return Lesson(family.training_net(net, taps, **form), step)


def _taps(how: Distillation, teacher: HybridBlock) -> Sequence[str]:
    """Return the names of the teacher's maps that a recipe's losses compare."""
    if needs_taps(how.losses):
        names = family_of(teacher).map_names(teacher)
        for name in how.taps or ():
            if name not in names:
                raise ValueError(f"tap {name!r}; allowed: {', '.join(names)}")
        return names if how.taps is None else how.taps
    if how.taps is not None:
        losses = losses_of(family_of(teacher).kind)
        on_maps = [name for name, loss in losses.items() if loss.on_maps]
        raise ValueError(
            f"distillation.taps {list(how.taps)}: no loss that has a weight compares "
            f"maps; those that do: {', '.join(on_maps)}"
        )
    return ()


def block(net: HybridBlock) -> HybridBlock:
    """Return the net in its form for training."""
    return family_of(net).training_net(net)


DETECTION = Task(
    open_sets=open_sets,
    build=build,
    save=save,
    load=models.load,
    trace=trace,
    with_classes=with_classes,
    batches=batches,
    block=block,
    loaded=loaded,
    lesson=lesson,
    accuracy=accuracy,
    validation=validation,
    metric="mAP",
)
