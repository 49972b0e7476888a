"""SSD detectors as a task of the pipeline."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Sequence

from gluoncv.model_zoo.ssd import SSD

from gluon_compress import data, models
from gluon_compress.checks import few
from gluon_compress.deployment import fused
from gluon_compress.distill import ON_TAPS, Settings, distil_step, needs_taps
from gluon_compress.evaluate import precisions
from gluon_compress.graph import Graph
from gluon_compress.models import head, ssd
from gluon_compress.pipeline.job import Job, Lesson, Task, cut, teacher_of
from gluon_compress.recipe import Data, Distillation, Model, Recipe, Schedule

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


def build(job: Job, classes: Sequence[str]) -> tuple[SSD, SSD | None]:
    """Build all nets at once, so that a wrong name is found in seconds."""
    recipe = job.recipe
    start = _build(job, recipe.model, classes)
    student = None if recipe.student is None else _build(job, recipe.student, classes)
    found = teacher_of(job, start, classes)
    if found is not None:
        head.check_teacher(student or start, found)
        _taps(recipe.distillation, found)
    return start, student


def _build(job: Job, model: Model, classes: Sequence[str]) -> SSD:
    recipe = job.recipe
    if model.weights is not None:
        return cut(job, loaded(recipe, model.weights, classes), model)
    if model.start is not None:
        return cut(job, _started(recipe, model.start, classes), model)
    how = recipe.evaluate
    given = {name: vars(model)[name] for name in OWN}
    net = models.build(
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


def loaded(recipe: Recipe, folder: str, classes: Sequence[str]) -> SSD:
    """Return the net of an export, and refuse one of other classes or another size."""
    net = _sized(recipe, folder)
    if tuple(net.classes) != tuple(classes):
        raise ValueError(
            f"{folder}: its classes are {list(net.classes)}, those of the data "
            f"{list(classes)}"
        )
    return net


def _started(recipe: Recipe, folder: str, classes: Sequence[str]) -> SSD:
    """Return the net of an export, its class predictors new if its classes differ."""
    net = _sized(recipe, folder)
    if tuple(net.classes) == tuple(classes):
        return net
    return head.with_classes(net, classes, seed=recipe.seed)


def _sized(recipe: Recipe, folder: str) -> SSD:
    """Return the net of an export, and refuse one for images of another size."""
    net = models.load(folder)
    if models.image_size(net) != recipe.data.size:
        raise ValueError(
            f"{folder}: its images are {models.image_size(net)} pixels, data.size is "
            f"{recipe.data.size}"
        )
    return net


def save(job: Job, net: SSD, folder: Path, name: str) -> dict:
    """Write the raw head as an export."""
    return models.save(net, folder, name)


def trace(job: Job, net: SSD) -> Graph:
    """Trace the raw head."""
    return models.trace_head(net)


def with_classes(net: SSD, classes: int) -> SSD:
    """Return the detector with so many classes, of no names."""
    return head.with_classes(net, [str(number) for number in range(classes)])


def batches(job: Job, net: SSD, schedule: Schedule) -> data.Batches:
    """Return endless epochs of augmented images with the targets of a net's anchors."""
    sample = partial(data.ssd_train_sample, size=job.recipe.data.size)
    stds = ssd.config_of(net).stds
    return data.Batches(
        job.train,
        sample,
        schedule.batch_size,
        seed=job.recipe.seed,
        last="fill",  # one shape for every step
        targets=data.SSDTargets(ssd.anchors_of(net), stds=stds),
    )


def accuracy(job: Job, net: SSD, dataset: Any) -> dict:
    """Return mAP and the precision of each class, and how they were measured."""
    how, device = job.recipe.evaluate, job.options.ctx[0]
    net.hybridize(static_alloc=True, static_shape=True)
    sample = partial(data.ssd_val_sample, size=job.recipe.data.size)
    return precisions(
        lambda images: net(images.as_in_context(device)),
        data.Batches(dataset, sample, 8, shuffle=False).epoch(0),
        net.classes,
        size=job.recipe.data.size,
        metric=how.metric,
        iou=how.iou,
    )


def validation(job: Job, net: SSD, dataset: Any) -> dict:
    """Return mAP and the precision of each class."""
    figures = accuracy(job, net, dataset)
    return {"mAP": figures["mAP"], **figures["classes"]}


def lesson(job: Job, net: SSD, teacher: SSD | None) -> Lesson:
    """Teach from labels, and from another detector where there is one."""
    how = job.recipe.distillation
    if teacher is None:
        return Lesson(head.head_block(net), head.supervised(head.ssd_loss()))
    taps, every = _taps(how, teacher), head.map_widths(teacher)
    widths = [every[i] for i in head.tap_numbers(teacher, taps)]
    taught = head.head_block(teacher, taps=taps, stride=how.stride)
    taught = fused(taught, job.options.ctx)
    step = distil_step(
        taught,
        taps,
        head.ssd_loss(),
        weights=how.losses,
        settings=_settings(how),
        anchors=head.map_anchors(net, taps, stride=how.stride) if taps else None,
    )
    form = {"taps": taps, "adapters": widths, "stride": how.stride}
    return Lesson(head.head_block(net, **form, seed=job.recipe.seed), step)


def _taps(how: Distillation, teacher: SSD) -> Sequence[str]:
    """Return the names of the teacher's maps that a recipe's losses compare."""
    if needs_taps(how.losses):
        taps = head.map_names(teacher) if how.taps is None else how.taps
        head.tap_numbers(teacher, taps)  # refuses names that do not exist
        return taps
    if how.taps is not None:
        raise ValueError(
            f"distillation.taps {list(how.taps)}: no loss that has a weight compares "
            f"maps; those that do: {', '.join(ON_TAPS)}"
        )
    return ()


def _settings(how: Distillation) -> Settings:
    return Settings(
        temperature=how.temperature,
        background=how.background,
        margin=how.margin,
        near=how.near,
        channel_temperature=how.channel_temperature,
    )


DETECTION = Task(
    open_sets=open_sets,
    build=build,
    save=save,
    load=models.load,
    trace=trace,
    with_classes=with_classes,
    batches=batches,
    block=head.head_block,
    loaded=loaded,
    lesson=lesson,
    accuracy=accuracy,
    validation=validation,
    metric="mAP",
)
