"""What the stages work with: the recipe, its data opened, batches and accuracy."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Mapping, Sequence

import mxnet as mx
from gluoncv.model_zoo.ssd import SSD
from mxnet.gluon import Block

from gluon_compress import data, models, train
from gluon_compress.evaluate import voc_map
from gluon_compress.models import ssd
from gluon_compress.recipe import Data, Model, Recipe, Schedule

LOG = logging.getLogger(__name__)
NAMED = 10  # of the files that are left out; results count all


@dataclass(frozen=True)
class Job:
    """A recipe with its data opened and a place for its results.

    Parameters
    ----------
    recipe : Recipe
    out : Path
    train, val, test
        Data sets; ``val`` is what is measured while training.
    options : train.Options
        Devices, seed and progress bars.
    facts : mapping
        Commit, hardware and versions, for every ``result.json``.
    """

    recipe: Recipe
    out: Path
    train: Any
    val: Any
    test: Any
    options: train.Options
    facts: Mapping[str, Any] = field(default_factory=dict)


def open_job(
    recipe: Recipe, out: Path, options: train.Options, facts: Mapping[str, Any]
) -> Job:
    """Open the data of a recipe.

    Raises
    ------
    ValueError
        If it cannot be opened, or there is nothing in it to learn or to find.
    """
    sets = [_with_objects(recipe.data, split) for split in _splits(recipe.data)]
    return Job(recipe, out, *sets, options, facts)


def _splits(config: Data) -> tuple[str, str, str]:
    return config.train, config.val or config.test, config.test


def _dataset(config: Data, split: str):
    """Open one split of the recipe's data."""
    root = config.folder()
    if config.kind == "toy":
        data.make_toy(root)
    if config.kind == "gluoncv_voc":
        return data.voc_gluoncv(root, split)
    if config.kind == "coco":
        return data.coco_gluoncv(root, split)
    return data.VOCLayout(root, split, config.classes, difficult=config.difficult)


def _with_objects(config: Data, split: str):
    """Open a split, and refuse it if there is nothing to learn or to find in it."""
    opened = _dataset(config, split)
    labels = (opened.label(i) for i in range(len(opened)))
    if not any((label[:, 5] == 0).any() for label in labels):
        raise ValueError(
            f"{config.folder()}: the {len(opened)} images of {split!r} hold no object "
            "that is not difficult"
        )
    for file, reason in opened.problems[:NAMED]:
        LOG.warning("%s: left out: %s: %s", split, file, reason)
    if len(opened.problems) > NAMED:
        LOG.warning("%s: and %d more", split, len(opened.problems) - NAMED)
    return opened


def _val_batches(job: Job, dataset) -> data.Batches:
    sample = partial(data.ssd_val_sample, size=job.recipe.data.size)
    return data.Batches(dataset, sample, 8, shuffle=False)


def train_batches(job: Job, net: SSD, schedule: Schedule) -> data.Batches:
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


def place(block: Block, ctx: Sequence[mx.Context]) -> None:
    """Move a block's parameters to devices, if they are not there."""
    parameters = block.collect_params()
    if any(p.list_ctx() != list(ctx) for p in parameters.values()):
        parameters.reset_ctx(list(ctx))


def accuracy(job: Job, net: SSD, dataset) -> dict:
    """Return mAP and the precision of each class, and how they were measured."""
    how, device = job.recipe.evaluate, job.options.ctx[0]
    net.hybridize(static_alloc=True, static_shape=True)
    figures = voc_map(
        lambda images: net(images.as_in_context(device)),
        _val_batches(job, dataset).epoch(0),
        net.classes,
        size=job.recipe.data.size,
        metric=how.metric,
        iou=how.iou,
    )
    value = figures.pop("mAP")
    return {"mAP": value, "metric": how.metric, "iou": how.iou, "classes": figures}


def untrained(job: Job) -> tuple[SSD, SSD | None]:
    """Build both nets at once, so that a wrong name is found in seconds."""
    recipe = job.recipe
    start = _build(recipe, recipe.model, job.train.classes)
    student = recipe.student and _build(recipe, recipe.student, job.train.classes)
    return start, student


def _build(recipe: Recipe, model: Model, classes: tuple[str, ...]) -> SSD:
    if model.weights is not None:
        net = models.load(model.weights)
        if tuple(net.classes) != tuple(classes):
            raise ValueError(
                f"{model.weights}: its classes are {list(net.classes)}, those of the "
                f"data {list(classes)}"
            )
        if models.image_size(net) != recipe.data.size:
            raise ValueError(
                f"{model.weights}: its images are {models.image_size(net)} pixels, "
                f"data.size is {recipe.data.size}"
            )
        return net
    how = recipe.evaluate
    return models.build(
        model.name,
        classes,
        width=model.width,
        trunk=model.trunk,
        seed=recipe.seed,
        size=recipe.data.size,
        sizes=model.sizes,
        ratios=model.ratios,
        steps=model.steps,
        extras=model.extras,
        nms_thresh=how.nms_thresh,
        nms_topk=how.nms_topk,
        post_nms=how.post_nms,
    )
