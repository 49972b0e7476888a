"""The recipe of a classifier: what to build, on which images, how to compress it."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Mapping

from gluon_compress import checks as c
from gluon_compress.checks import key, section
from gluon_compress.recipe.common import (
    ALGORITHMS,
    FORMAT,
    Schedule,
    folder_of,
    format_problem,
    read_recipe,
)
from gluon_compress.storage.atomic import write_json

KINDS = ("folder", "record")
_share = c.number(0, 1)


@section
class Classifier:
    """Which net to build.

    Parameters
    ----------
    name : str
        A name of GluonCV's model zoo, ``resnet50_v1d`` for instance.
    plan : str or None
        A plan whose structure the net gets before it is trained from scratch.
    masks : bool
        Whether the net trains with the plan as masks, and is slimmed then.
    weights : str or None
        Folder of a classifier's export to load instead of training one.
    """

    name: str = key(c.text)
    plan: str | None = key(c.optional(c.text), None)
    masks: bool = key(c.truth, False)
    weights: str | None = key(c.optional(c.text), None)

    def disagreement(self) -> tuple[str, Any, str] | None:
        """Check that a loaded net does not get another structure."""
        if self.plan is not None and self.weights is not None:
            return "plan", self.plan, "null where there are weights"
        if self.masks and self.plan is None:
            return "masks", True, "true with a plan, else false"
        return None


@section
class Images:
    """Which images to train and judge on, and how they are changed.

    Parameters
    ----------
    kind : str
        ``folder`` (``root/<split>/<class>/<image>``, as ImageNet is unpacked) or
        ``record`` (``root/<split>.rec`` and ``.idx``, read by MXNet's own iterator).
    root : str
        Folder; see ``folder``.
    train, val : str
        Names of the splits.
    classes : tuple of str, str or None
        Names in the order of the ids, the file in ``root`` that lists them, or None:
        the names of the folders. Records hold ids alone, so they need names.
    size : int
        Height and width of the net's input, pixels.
    early_size, early_epochs : int
        The first epochs of ``train`` may see smaller images, which is faster and
        nearly as good (Tan and Le 2021, section 4).
    least_area, jitter, lighting : float
        As in ``data.crop_train_sample``.
    """

    kind: str = key(c.one_of(*KINDS))
    root: str = key(c.text)
    train: str = key(c.text, "train")
    val: str = key(c.text, "val")
    classes: tuple[str, ...] | str | None = key(
        c.optional(c.text_or(c.list_of(c.text, least=2))), None
    )
    size: int = key(c.whole(32), 224)
    early_size: int = key(c.whole(32), 224)
    early_epochs: int = key(c.whole(0), 0)
    least_area: float = key(c.number(0, 1, above=True), 0.08)
    jitter: float = key(_share, 0.4)
    lighting: float = key(_share, 0.1)

    def disagreement(self) -> tuple[str, Any, str] | None:
        """Check that records have class names."""
        if self.kind == "record" and self.classes is None:
            return "classes", None, "names in the order of the ids; records have none"
        return None

    def folder(self) -> Path:
        """Return the root, relative to ``$GLUON_COMPRESS_DATA`` or to where we are."""
        return folder_of(self.root)


@section
class Targets:
    """What the net is to answer to an image.

    Parameters
    ----------
    label_smoothing : float
        Probability that is spread evenly over all classes.
    mixup : float
        Alpha of the Beta distribution that images are mixed by; 0: they are not.
    """

    label_smoothing: float = key(_share, 0.1)
    mixup: float = key(c.number(0), 0.0)


@section
class SoftTargets:
    """What the student learns from its teacher, in the recipe's last training.

    Parameters
    ----------
    teacher : str or None
        Folder of a classifier's export; None: the recipe's own full net.
    weight : float
        Of ``distill.soft_target_loss``, beside the labels' loss.
    temperature : float
        Divides the scores of both nets.
    """

    teacher: str | None = key(c.optional(c.text), None)
    weight: float = key(c.number(0, above=True), 1.0)
    temperature: float = key(c.number(0, above=True), 2.0)


@section
class ClassifierRecipe:
    """All of an experiment with a classifier.

    Parameters
    ----------
    paper, command, hours, expected
        As for ``Recipe``.
    model : Classifier
    data : Images
    train, finetune : Schedule
        Of the full net, and of the compact one at the end.
    targets : Targets
    compression : tuple of rows
        One of ``ALGORITHMS`` each, in the order they are applied.
    distillation : SoftTargets or None
        Used in the last training; None: labels alone.
    seed : int
    """

    paper: str = key(c.text)
    command: str = key(c.text)
    hours: float = key(c.number(0))
    expected: Mapping[str, Any] = key(c.map_of(c.anything))
    model: Classifier = key(c.part(Classifier))
    data: Images = key(c.part(Images))
    train: Schedule = key(c.part(Schedule))
    finetune: Schedule | None = key(c.optional(c.part(Schedule)), None)
    targets: Targets = key(c.part(Targets), Targets())
    compression: tuple[Any, ...] = key(
        c.list_of(c.one_part("algorithm", ALGORITHMS)), ()
    )
    distillation: SoftTargets | None = key(c.optional(c.part(SoftTargets)), None)
    seed: int = key(c.whole(0), 0)
    format: int = key(c.whole(1), FORMAT)

    def disagreement(self) -> tuple[str, Any, str] | None:
        """Check the format, and that what is compressed is fine-tuned."""
        if self.compression and self.finetune is None:
            return "finetune", None, "a schedule, since there is compression"
        taught = self.distillation
        if taught is not None and taught.teacher is None and self.finetune is None:
            return "distillation.teacher", None, "a model folder without finetune"
        return format_problem(self.format)

    @staticmethod
    def load(path: str | os.PathLike) -> ClassifierRecipe:
        """Read a recipe.

        Raises
        ------
        ValueError
            Naming the file, the key, its value and what is allowed.
        """
        return read_recipe(ClassifierRecipe, path)

    def save(self, path: str | os.PathLike) -> None:
        """Write it as JSON with every key, also those left at their defaults."""
        write_json(path, asdict(self))
