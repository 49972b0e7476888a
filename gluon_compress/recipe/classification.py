"""The recipe of a classifier."""

from __future__ import annotations

from typing import Any, ClassVar, Optional

from typing_extensions import Annotated, Literal

from gluon_compress.data.classification import ClassificationData
from gluon_compress.distill.classification import SoftTargetLossSettings
from gluon_compress.recipe.of_family import ModelOfFamily
from gluon_compress.recipe.recipe import ModelSettings, Recipe
from gluon_compress.validation import (
    NonEmptyStr,
    NonNegative,
    Positive,
    Settings,
    ShareOrZero,
)


class ClassifierSettings(ModelSettings):
    """Which classifier to build or to load.

    Parameters
    ----------
    name : str
        A classifier of ``gluon_compress.models``, for instance ``resnet50_v1d``.
    plan : str or None
        File of a plan; the net gets its structure before it is trained from scratch.
    weights : str or None
        Folder of an exported classifier to load instead of training one.
    """

    def check(self) -> None:
        """Check that a loaded net does not get another structure."""
        if self.plan is not None and self.weights is not None:
            raise self.error("plan", "null where there are weights")
        if self.masks and self.plan is None:
            raise self.error("masks", "true with a plan, else false")


class ClassTargetSettings(Settings):
    """Which answer the net learns to give for an image.

    Parameters
    ----------
    label_smoothing : float
        Probability that is spread evenly over all classes.
    mixup : float
        Alpha of the Beta distribution that images are mixed by; 0: they are not mixed.
    """

    label_smoothing: ShareOrZero = 0.1
    mixup: NonNegative = 0.0


class SoftTargetSettings(SoftTargetLossSettings):
    """What the student learns from its teacher in the last training.

    Parameters
    ----------
    teacher : str or None
        Folder of an exported classifier; None: the recipe's own full net.
    weight : float
        Of ``distill.soft_target_loss``, beside the loss of the labels.
    """

    teacher: Optional[NonEmptyStr] = None
    weight: Positive = 1.0


class ClassificationRecipe(Recipe):
    """A recipe that trains and compresses a classifier.

    Parameters
    ----------
    model : ClassifierSettings
        The full net.
    data : ClassificationData
        Its images, and how they are augmented.
    targets : ClassTargetSettings
        Which answer the net learns to give for an image.
    distillation : SoftTargetSettings or None
        What the last training learns from a teacher; None: it uses labels only.
    """

    metric: ClassVar[str] = "top1"

    task: Literal["classification"] = "classification"
    model: Annotated[Any, ModelOfFamily("classification", ClassifierSettings)]
    data: ClassificationData
    targets: ClassTargetSettings = ClassTargetSettings()
    distillation: Optional[SoftTargetSettings] = None
