"""Classification as a task of the pipeline."""

from __future__ import annotations

from functools import partial
from typing import Any, Dict, Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock

from gluon_compress import data, models
from gluon_compress.deployment import fused
from gluon_compress.distill import distil_step
from gluon_compress.evaluate import top1
from gluon_compress.models import NamedBlock, family_of, supervised_step
from gluon_compress.pipeline.task import (
    Context,
    Lesson,
    Splits,
    Task,
    check_classes,
)
from gluon_compress.recipe.classification import ClassificationRecipe
from gluon_compress.sizes import size_text
from gluon_compress.train import Schedule

VAL_BATCH = 64


class ClassificationTask(Task):
    """Tell which class an image belongs to."""

    recipe: ClassificationRecipe

    def build(self, classes: Sequence[str]) -> tuple[HybridBlock, HybridBlock]:
        """Build the net, or load it."""
        recipe = self.recipe
        self.teacher(None, classes)  # refuses one that does not fit
        model = recipe.model
        if model.weights is not None:
            net = self.load_fitting(model.weights, classes)
        else:
            size, seed = recipe.data.size, recipe.seed
            options = model.build_options()
            net = models.build(model.name, classes, size=size, seed=seed, **options)
            net = self.with_plan(net, model)
        return net, net

    def load_fitting(self, folder: str, classes: Sequence[str]) -> HybridBlock:
        """Return the net of an exported model; refuse one of other classes."""
        net = self.load(folder)
        check_classes(net, folder, classes)
        return net

    def with_classes(self, net: HybridBlock, classes: int) -> HybridBlock:
        """Refuse it: the last layer costs little beside what is in front of it."""
        raise ValueError(
            f"compression.classes is {classes}; allowed: null for classifiers"
        )

    def open_data(self) -> Splits:
        """Open both splits; results are measured on ``val`` too."""
        settings = self.recipe.data
        train = settings.open(settings.train)
        val = settings.open(settings.val, train.classes)
        return Splits(train, val, val)

    def batches(
        self,
        dataset: Any,
        net: HybridBlock,
        schedule: Schedule,
        *,
        broken: data.Broken = "replace",
    ) -> Any:
        """Return endless epochs of augmented images and the chances of each class."""
        settings = self.recipe.data
        preprocess = family_of(net).preprocess(net)
        make = partial(self._batches, dataset, schedule, preprocess, broken)
        late = make(settings.size)
        # The early epochs are those of the training from scratch.
        if schedule is not self.recipe.train or not settings.early_epochs:
            return late
        early = make(settings.early_size)
        return data.ProgressiveBatches(early, late, settings.early_epochs)

    def _batches(
        self,
        dataset: Any,
        schedule: Schedule,
        preprocess: data.Preprocess,
        broken: data.Broken,
        size: Any,
    ) -> Any:
        settings, targets = self.recipe.data, self.recipe.targets
        changes: Dict[str, Any] = {
            "least_area": settings.least_area,
            "jitter": settings.jitter,
            "lighting": settings.lighting,
            "interpolation": preprocess.interpolation,
        }
        smoothing = targets.label_smoothing
        shared: Dict[str, Any] = {
            "seed": self.recipe.seed,
            "targets": data.ClassTargets(len(dataset.classes), smoothing=smoothing),
            "mix": data.Mixup(targets.mixup) if targets.mixup else None,
        }
        return data.Batches(
            dataset,
            partial(data.crop_train_sample, size=size, **changes),
            schedule.batch_size,
            last="fill",
            normalized=preprocess.normalized,
            broken=broken,
            most_broken=settings.most_broken,
            **shared,
        )

    def lesson(
        self, net: HybridBlock, teacher: HybridBlock | None, ctx: Context
    ) -> Lesson:
        """Teach from labels, and from another classifier where there is one."""
        family, settings = family_of(net), self.recipe.distillation
        block, loss = family.training_net(net), family.loss(net)
        if teacher is None or settings is None:
            return Lesson(block, supervised_step(loss))
        step = distil_step(
            NamedBlock(fused(teacher, ctx), block.names),
            (),
            loss,
            weights={"soft_targets": settings.weight},
            settings=settings,
        )
        return Lesson(block, step)

    def evaluate(
        self, net: HybridBlock, dataset: Any, ctx: mx.Context
    ) -> Dict[str, Any]:
        """Return the share of images whose class has the highest score."""
        settings = self.recipe.data
        net.hybridize(static_alloc=True, static_shape=True)
        height, width = settings.input_size
        preprocess = family_of(net).preprocess(net)
        preprocess = preprocess.replace(height=height, width=width)
        batches = data.Batches(
            dataset,
            preprocess.sample,
            VAL_BATCH,
            shuffle=False,
            normalized=preprocess.inputs,
            most_broken=settings.most_broken,
        )
        share = top1(lambda images: net(images.as_in_context(ctx)), batches.epoch(0))
        pixels = size_text(settings.input_size)
        return {"top1": share, "metric": f"top-1 at {pixels} pixels"}
