"""Detection as a task of the pipeline."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from gluon_compress import data, models
from gluon_compress.building import build
from gluon_compress.data.inspection import misspelt
from gluon_compress.deployment import fused
from gluon_compress.detection_errors import DETECTIONS, per_image, save_detections
from gluon_compress.distill import distil_step, losses_of, needs_taps, ssd_ensemble
from gluon_compress.evaluate import detect_all, precisions
from gluon_compress.models import NamedBlock, family_of, supervised_step
from gluon_compress.models.balance import balanced
from gluon_compress.models.settings import DetectorSettings
from gluon_compress.pipeline.task import Context, Lesson, Splits, Task, check_classes
from gluon_compress.recipe.detection import DetectionRecipe, DetectorDistillation
from gluon_compress.sizes import size_text
from gluon_compress.train import Schedule
from gluon_compress.validation import listed

VAL_BATCH = 8
LOGGER = logging.getLogger(__name__)


class DetectionTask(Task):
    """Find boxes and their classes in images."""

    recipe: DetectionRecipe

    def build(self, classes: Sequence[str]) -> tuple[HybridBlock, HybridBlock]:
        """Build all nets at once, so that a wrong name is found in seconds."""
        recipe = self.recipe
        full = self._build(recipe.model, classes)
        student = full
        if recipe.student is not None:
            student = self._build(recipe.student, classes)
        teacher = self.teacher(full, classes)
        if teacher is not None and recipe.distillation is not None:
            for each in _teachers(teacher):
                family_of(student).check_teacher(student, each)
                _taps(recipe.distillation, each)
        return full, student

    def teacher(self, full: Any, classes: Sequence[str]) -> Any:
        """Return the teacher of the last training; a tuple if there are several."""
        settings = self.recipe.distillation
        if settings is None or settings.teachers is None:
            return super().teacher(full, classes)
        return tuple(self.load_fitting(each, classes) for each in settings.teachers)

    def _build(self, model: DetectorSettings, classes: Sequence[str]) -> HybridBlock:
        if model.weights is not None:
            net = self.load_fitting(model.weights, classes)
        elif model.start is not None:
            net = self._started(model.start, classes)
        else:
            net = self._new(model, classes)
        return self.with_plan(net, model)

    def _new(self, model: DetectorSettings, classes: Sequence[str]) -> HybridBlock:
        recipe, family = self.recipe, models.family_that_builds(model.name)
        # A student may be of another family than the one that ``evaluate`` is for.
        filtered = family is not None and family.Evaluation is type(recipe.evaluate)
        return build(
            model.name,
            classes,
            seed=recipe.seed,
            size=recipe.data.size,
            **model.build_options(),
            **(recipe.evaluate.build_options() if filtered else {}),
        )

    def _started(self, folder: str, classes: Sequence[str]) -> HybridBlock:
        """Return an exported net, its class predictors new if its classes differ."""
        net = self._load_sized(folder)
        if family_of(net).classes_of(net) == tuple(classes):
            return net
        return models.with_classes(net, classes, seed=self.recipe.seed)

    def load_fitting(self, folder: str, classes: Sequence[str]) -> HybridBlock:
        """Return the net of an exported model; refuse one of other classes or size."""
        net = self._load_sized(folder)
        check_classes(net, folder, classes)
        return net

    def _load_sized(self, folder: str) -> HybridBlock:
        net = self.load(folder)
        size, expected = models.input_size(net), self.recipe.data.input_size
        if size != tuple(expected):
            raise ValueError(
                f"{folder}: its images are {size_text(size)} pixels, data.size is "
                f"{size_text(expected)}"
            )
        return net

    def with_classes(self, net: HybridBlock, classes: int) -> HybridBlock:
        """Return the detector with a number of classes without names."""
        return models.with_classes(net, [str(number) for number in range(classes)])

    def open_data(self) -> Splits:
        """Open the splits; without one for validation it is the test split."""
        settings = self.recipe.data
        train = settings.open(settings.train)
        _warn_of_slips(train)
        test = settings.open(settings.test, train.classes)
        val = test
        if settings.val is not None:
            val = settings.open(settings.val, train.classes)
        return Splits(train, val, test)

    def fitted(self, splits: Splits) -> DetectionTask:
        """Return the task with limits and ``auto`` settings that fit the data."""
        most = max(map(data.most_objects, (splits.train, splits.val, splits.test)))
        evaluate = self.recipe.evaluate.for_objects(most)
        changes = self._decided(splits.train)
        loss = self.recipe.loss
        if loss.class_weights is not None:
            classes = splits.train.classes
            weights = loss.class_weights.counted(classes, _object_counts(splits.train))
            changes["loss"] = loss.replace(class_weights=weights)
        return type(self)(self.recipe.replace(evaluate=evaluate, **changes))

    def _decided(self, train: Any) -> Dict[str, Any]:
        """Return nets' settings with what they leave to the training images decided."""
        recipe = self.recipe
        stated = {"model": recipe.model, "student": recipe.student}
        open_ones = {k: m for k, m in stated.items() if m is not None and m.undecided}
        if not open_ones:
            return {}
        objects = data.objects_in(train, recipe.data.size, seed=recipe.seed)
        decided = {}
        for key, settings in open_ones.items():
            family = models.family_that_builds(settings.name)
            assert family is not None, "the recipe has checked the name"
            try:
                decided[key] = family.settled(settings, objects)
            except ValueError as error:
                place = f"{key}.{settings.undecided[0]} is 'auto'"
                raise ValueError(f"{place}, but {error}") from None
        return decided

    def batches(
        self,
        dataset: Any,
        net: HybridBlock,
        schedule: Schedule,
        *,
        broken: data.Broken = "replace",
    ) -> Any:
        """Return endless epochs of augmented images and the targets of the net."""
        family = family_of(net)
        preprocess = family.preprocess(net)
        settings = self.recipe.augmentation
        sample = partial(
            data.detection_train_sample,
            size=preprocess,
            expansion=settings.expansion,
        )
        make = partial(
            data.Batches,
            dataset,
            sample,
            schedule.batch_size,
            seed=self.recipe.seed,
            last="fill",  # one shape for every step
            targets=family.targets(net, **self._assignment(family)),
            normalized=preprocess.inputs,
            broken=broken,
            most_broken=self.recipe.data.most_broken,
        )
        # What is measured on batches is measured on images as they are.
        if not settings.composes or broken != "replace":
            return make()
        composed = make(compose=data.Composer(settings, self.recipe.data.size))
        epochs = max(0, schedule.epochs - settings.plain_epochs)
        return data.ProgressiveBatches(composed, make(), epochs)

    def _assignment(self, family: models.Family) -> Dict[str, Any]:
        """Return the setting of targets that only SSDs have."""
        return {"assignment": self.recipe.assignment} if family.kind == "ssd" else {}

    def lesson(self, net: HybridBlock, teacher: Any, ctx: Context) -> Lesson:
        """Teach from labels, and from other detectors where there are any."""
        family, settings = family_of(net), self.recipe.distillation
        loss = family.loss(net, **self.recipe.loss.options)
        if teacher is None or settings is None:
            block, loss = self._balanced(family, net, family.training_net(net), loss)
            return Lesson(block, supervised_step(loss))
        first, stride = _teachers(teacher)[0], settings.stride
        taps = _taps(settings, first)
        context = family.loss_context(net, taps, stride=stride) if taps else {}
        blocks = [
            family_of(each).training_net(each, taps, stride=stride)
            for each in _teachers(teacher)
        ]
        fast = [NamedBlock(fused(block, ctx), block.names) for block in blocks]
        widths = _map_widths(first)
        block = family.training_net(
            net,
            taps,
            adapters=[widths[name] for name in taps],
            stride=stride,
            seed=self.recipe.seed,
        )
        block, loss = self._balanced(family, net, block, loss)
        step = distil_step(
            fast[0] if len(fast) == 1 else ssd_ensemble(fast),
            taps,
            loss,
            weights=settings.losses,
            settings=settings.loss_settings,
            **context,
        )
        return Lesson(block, step)

    def _balanced(
        self, family: models.Family, net: HybridBlock, block: NamedBlock, loss: Any
    ) -> tuple[NamedBlock, Any]:
        """Return what to train and its loss, with parts weighed if the recipe asks."""
        kind = self.recipe.loss.balance
        if kind is None:
            return block, loss
        return balanced(kind, family, net, block, loss)

    def evaluate(
        self, net: HybridBlock, dataset: Any, ctx: mx.Context
    ) -> Dict[str, Any]:
        """Return mAP and the precision of each class, and how they were measured."""
        detected, _ = self._detected(net, dataset, ctx)
        return self._figures(net, detected)

    def measure(
        self, net: HybridBlock, dataset: Any, ctx: mx.Context, folder: Path
    ) -> Dict[str, Any]:
        """Evaluate, and leave the detections in the folder for the report."""
        detected, left_out = self._detected(net, dataset, ctx)
        images = per_image(detected, self.recipe.data.size, left_out)
        save_detections(folder / DETECTIONS, images)
        return self._figures(net, detected)

    def _detected(
        self, net: HybridBlock, dataset: Any, ctx: mx.Context
    ) -> tuple[list[tuple], list[int]]:
        """Return what ``detect_all`` does, and the numbers of images left out."""
        net.hybridize(static_alloc=True, static_shape=True)
        family = family_of(net)
        preprocess = family.preprocess(net)
        batches = data.Batches(
            dataset,
            preprocess.sample,
            VAL_BATCH,
            shuffle=False,
            most_broken=self.recipe.data.most_broken,
            normalized=preprocess.inputs,
        )
        detected = detect_all(
            lambda images: family.results(net, images.as_in_context(ctx)),
            batches.epoch(0),
        )
        return detected, batches.left_out

    def _figures(self, net: HybridBlock, detected: list[tuple]) -> Dict[str, Any]:
        recipe = self.recipe
        return precisions(
            lambda results: results,
            detected,
            family_of(net).classes_of(net),
            size=recipe.data.size,
            metric=recipe.evaluate.metric,
            iou=recipe.evaluate.iou,
        )

    def validate(
        self, net: HybridBlock, dataset: Any, ctx: mx.Context
    ) -> Mapping[str, float]:
        """Return mAP and the precision of each class."""
        figures = self.evaluate(net, dataset, ctx)
        return {"mAP": figures["mAP"], **figures["classes"]}


def _object_counts(train: Any) -> list[int]:
    """Return how many objects of each class a data set has."""
    ids = np.concatenate([train.label(i)[:, 4] for i in range(len(train))]).astype(int)
    return np.bincount(ids, minlength=len(train.classes)).tolist()


def _warn_of_slips(train: Any) -> None:
    """Log class names that are probably misspelt: each would be learnt as a class."""
    objects = _object_counts(train)
    for name, right in misspelt(dict(zip(train.classes, objects))):
        LOGGER.warning("class %r is probably a misspelling of %r", name, right)


def _teachers(teacher: Any) -> Sequence[HybridBlock]:
    return teacher if isinstance(teacher, tuple) else (teacher,)


def _map_widths(net: HybridBlock) -> Dict[str, int]:
    family = family_of(net)
    return dict(zip(family.map_names(net), family.map_widths(net)))


def _taps(settings: DetectorDistillation, teacher: HybridBlock) -> Sequence[str]:
    """Return the names of the teacher's maps that a recipe's losses compare."""
    family = family_of(teacher)
    if needs_taps(settings.losses):
        names = family.map_names(teacher)
        for name in settings.taps or ():
            if name not in names:
                raise ValueError(f"tap {name!r}; allowed: {listed(names)}")
        return names if settings.taps is None else settings.taps
    if settings.taps is not None:
        on_maps = [n for n, loss in losses_of(family.kind).items() if loss.on_maps]
        raise ValueError(
            f"distillation.taps is {list(settings.taps)}; allowed: null, unless a loss "
            f"on feature maps has a weight: {listed(on_maps)}"
        )
    return ()
