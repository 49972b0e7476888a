"""The recipe of a classifier."""

from __future__ import annotations

from typing import Any, ClassVar, Optional

from typing_extensions import Annotated, Literal

from gluon_compress.data.classification import ClassificationData
from gluon_compress.distill.classification import SoftTargetLossSettings
from gluon_compress.models.settings import ClassifierSettings
from gluon_compress.recipe.recipe import ModelOf, Recipe
from gluon_compress.validation import (
    NonEmptyStr,
    NonNegative,
    Positive,
    Settings,
    ShareOrZero,
)


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
    model: Annotated[Any, ModelOf(ClassifierSettings)]
    data: ClassificationData
    targets: ClassTargetSettings = ClassTargetSettings()
    distillation: Optional[SoftTargetSettings] = None
