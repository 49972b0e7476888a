"""Detection as a task of the pipeline."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence

import mxnet as mx
from gluoncv.model_zoo.ssd import SSD

from gluon_compress import data, models
from gluon_compress.deployment import fused
from gluon_compress.distill import ON_TAPS, Settings, distil_step, needs_taps
from gluon_compress.evaluate import precisions
from gluon_compress.graph import Graph
from gluon_compress.models import head, ssd
from gluon_compress.pipeline.task import Context, Lesson, Splits, Task
from gluon_compress.recipe.detection import (
    DetectionRecipe,
    DetectorDistillation,
    DetectorSettings,
)
from gluon_compress.train import Schedule
from gluon_compress.validation import listed

VAL_BATCH = 8
# What a recipe may leave to the model itself.
_ANCHORS = ("sizes", "ratios", "steps", "extras")


class DetectionTask(Task):
    """Find boxes and their classes in images."""

    metric = "mAP"
    recipe: DetectionRecipe

    def build(self, classes: Sequence[str]) -> tuple[SSD, SSD]:
        """Build all nets at once, so that a wrong name is found in seconds."""
        recipe = self.recipe
        full = self._build(recipe.model, classes)
        student = full
        if recipe.student is not None:
            student = self._build(recipe.student, classes)
        teacher = self.teacher(full, classes)
        if teacher is not None:
            head.check_teacher(student, teacher)
            _taps(recipe.distillation, teacher)
        return full, student

    def _build(self, model: DetectorSettings, classes: Sequence[str]) -> SSD:
        if model.weights is not None:
            net = self.load_fitting(model.weights, classes)
        elif model.start is not None:
            net = self._started(model.start, classes)
        else:
            net = self._new(model, classes)
        return self.with_plan(net, model)

    def _new(self, model: DetectorSettings, classes: Sequence[str]) -> SSD:
        recipe = self.recipe
        anchors = {name: getattr(model, name) for name in _ANCHORS}
        return models.build(
            model.name,
            classes,
            width=model.width,
            trunk=model.trunk,
            seed=recipe.seed,
            size=recipe.data.size,
            nms_thresh=recipe.evaluate.nms_thresh,
            nms_topk=recipe.evaluate.nms_topk,
            post_nms=recipe.evaluate.post_nms,
            **{name: value for name, value in anchors.items() if value is not None},
        )

    def _started(self, folder: str, classes: Sequence[str]) -> SSD:
        """Return an exported net, its class predictors new if its classes differ."""
        net = self._load_sized(folder)
        if tuple(net.classes) == tuple(classes):
            return net
        return head.with_classes(net, classes, seed=self.recipe.seed)

    def load(self, folder: str | Path) -> SSD:
        """Return the net of an exported model."""
        return models.load(folder)

    def load_fitting(self, folder: str, classes: Sequence[str]) -> SSD:
        """Return the net of an exported model; refuse one of other classes or size."""
        net = self._load_sized(folder)
        if tuple(net.classes) != tuple(classes):
            raise ValueError(
                f"{folder}: its classes are {list(net.classes)}, those of the data "
                f"{list(classes)}"
            )
        return net

    def _load_sized(self, folder: str) -> SSD:
        net, size = models.load(folder), self.recipe.data.size
        if models.image_size(net) != size:
            raise ValueError(
                f"{folder}: its images are {models.image_size(net)} pixels, data.size "
                f"is {size}"
            )
        return net

    def save(
        self, net: SSD, folder: Path, name: str, classes: Sequence[str]
    ) -> Dict[str, Any]:
        """Export a net and return its manifest."""
        return models.save(net, folder, name)

    def trace(self, net: SSD) -> Graph:
        """Return the graph of the raw head."""
        return models.trace_head(net)

    def with_classes(self, net: SSD, classes: int) -> SSD:
        """Return the detector with a number of classes without names."""
        return head.with_classes(net, [str(number) for number in range(classes)])

    def open_data(self) -> Splits:
        """Open the splits; without one for validation it is the test split."""
        settings = self.recipe.data
        train, test = settings.open(settings.train), settings.open(settings.test)
        val = test if settings.val is None else settings.open(settings.val)
        return Splits(train, val, test)

    def batches(self, dataset: Any, net: SSD, schedule: Schedule) -> data.Batches:
        """Return endless epochs of augmented images and the targets of anchors."""
        stds = ssd.config_of(net).stds
        return data.Batches(
            dataset,
            partial(data.ssd_train_sample, size=self.recipe.data.size),
            schedule.batch_size,
            seed=self.recipe.seed,
            last="fill",  # one shape for every step
            targets=data.SSDTargets(ssd.anchors_of(net), stds=stds),
        )

    def training_block(self, net: SSD) -> Any:
        """Return the raw head."""
        return head.head_block(net)

    def lesson(self, net: SSD, teacher: SSD | None, ctx: Context) -> Lesson:
        """Teach from labels, and from another detector where there is one."""
        if teacher is None:
            return Lesson(head.head_block(net), head.supervised(head.ssd_loss()))
        settings = self.recipe.distillation
        taps, widths = _taps(settings, teacher), head.map_widths(teacher)
        adapters = [widths[i] for i in head.tap_numbers(teacher, taps)]
        anchors = head.map_anchors(net, taps, stride=settings.stride) if taps else None
        step = distil_step(
            fused(head.head_block(teacher, taps=taps, stride=settings.stride), ctx),
            taps,
            head.ssd_loss(),
            weights=settings.losses,
            settings=Settings(
                temperature=settings.temperature,
                background=settings.background,
                margin=settings.margin,
                near=settings.near,
                channel_temperature=settings.channel_temperature,
            ),
            anchors=anchors,
        )
        block = head.head_block(
            net,
            taps=taps,
            adapters=adapters,
            stride=settings.stride,
            seed=self.recipe.seed,
        )
        return Lesson(block, step)

    def evaluate(self, net: SSD, dataset: Any, ctx: mx.Context) -> Dict[str, Any]:
        """Return mAP and the precision of each class, and how they were measured."""
        recipe = self.recipe
        net.hybridize(static_alloc=True, static_shape=True)
        sample = partial(data.ssd_val_sample, size=recipe.data.size)
        return precisions(
            lambda images: net(images.as_in_context(ctx)),
            data.Batches(dataset, sample, VAL_BATCH, shuffle=False).epoch(0),
            net.classes,
            size=recipe.data.size,
            metric=recipe.evaluate.metric,
            iou=recipe.evaluate.iou,
        )

    def validate(self, net: SSD, dataset: Any, ctx: mx.Context) -> Mapping[str, float]:
        """Return mAP and the precision of each class."""
        figures = self.evaluate(net, dataset, ctx)
        return {"mAP": figures["mAP"], **figures["classes"]}


def _taps(settings: DetectorDistillation, teacher: SSD) -> Sequence[str]:
    """Return the names of the teacher's maps that a recipe's losses compare."""
    if needs_taps(settings.losses):
        taps = head.map_names(teacher) if settings.taps is None else settings.taps
        head.tap_numbers(teacher, taps)  # refuses names that do not exist
        return taps
    if settings.taps is not None:
        raise ValueError(
            f"distillation.taps is {list(settings.taps)}; allowed: null, unless a loss "
            f"on feature maps has a weight: {listed(ON_TAPS)}"
        )
    return ()
