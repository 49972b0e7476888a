"""The recipe of a detector."""

from __future__ import annotations

from typing import Any, ClassVar, Dict, Optional, Tuple

from pydantic import (
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from typing_extensions import Annotated, Literal

from gluon_compress.data.composing import DetectionAugmentation
from gluon_compress.data.detection import DetectionData
from gluon_compress.distill import LOSSES, DistillationLoss, losses_of, needs_taps
from gluon_compress.models import FAMILIES, family_that_builds
from gluon_compress.models.loss_settings import LossSettings
from gluon_compress.models.settings import DetectionEvaluation, DetectorSettings
from gluon_compress.recipe.recipe import (
    EvaluationOf,
    ModelOf,
    Recipe,
    family_of_recipe,
)
from gluon_compress.validation import (
    Allowed,
    Count,
    NonEmptyStr,
    NonNegative,
    OneOf,
    Settings,
    listed,
    unknown_key,
)

_SOME = Field(min_length=1)
_Detector = Annotated[Any, ModelOf(DetectorSettings)]


class DetectorDistillation(Settings):
    """What the student learns from its teacher in the last training.

    The settings of the losses are keys here too; see the ``Config`` of each row of
    ``distill.LOSSES``.

    Parameters
    ----------
    teacher : str or None
        Folder of an exported detector; None: the recipe's own full net.
    teachers : tuple of str or None
        Folders of two or more exported detectors that teach together, in place of
        ``teacher``: by the mean of their class probabilities, and of their boxes. Not
        for losses on feature maps.
    losses : dict
        Weights of losses, by their names in ``distill.LOSSES``; at least one is above
        0. Losses on feature maps compare the maps that the predictors read. Default:
        those of the detector's family.
    taps : tuple of str or None
        These maps, each once: ``map0`` is the largest, ``map1`` the next, ...; None:
        all of them.
    stride : int
        On maps larger than 5 x 5, only every n-th cell in each direction is compared.
        Neighbouring cells are alike, and adapters cost time for each cell.
    """

    model_config = ConfigDict(extra="allow")

    teacher: Optional[NonEmptyStr] = None
    teachers: Optional[
        Annotated[
            Tuple[NonEmptyStr, ...],
            Field(min_length=2),
            Allowed("two or more model folders, or null"),
        ]
    ] = None
    losses: Dict[Annotated[str, OneOf(lambda: _losses())], NonNegative] = {}
    taps: Optional[Annotated[Tuple[NonEmptyStr, ...], _SOME]] = None
    stride: Count = 2

    def check(self) -> None:
        """Check that the teacher teaches something, and no map twice."""
        if not any(self.losses.values()):
            raise self.error(
                "losses", f"a weight above 0 of any of {listed(_losses())}"
            )
        if self.teachers is not None:
            if self.teacher is not None:
                raise self.error("teacher", "null where there are teachers")
            if needs_taps(self.losses):
                raise self.error("losses", "none on feature maps with several teachers")
        if self.taps is not None and len(set(self.taps)) < len(self.taps):
            raise self.error("taps", "each name once")

    @property
    def loss_settings(self) -> Dict[str, Any]:
        """The settings of the losses, by name."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _with_loss_settings(cls, content: Any) -> Any:
        """Check the settings of the losses, and add their defaults."""
        if not isinstance(content, dict):
            return content
        configs = dict.fromkeys(loss.Config for loss in _losses().values())
        names = [*cls.model_fields, *(key for c in configs for key in c.model_fields)]
        for key in content:
            if key not in names:
                raise unknown_key(key, dict.fromkeys(names))
        settings: Dict[str, Any] = {}
        for config in configs:
            stated = {k: content[k] for k in config.model_fields if k in content}
            settings.update(dict(config.model_validate(stated)))
        return {**content, **settings}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Dict[str, Any]:
        """Add the settings of the losses."""
        json_schema = super().__get_pydantic_json_schema__(schema, handler)
        resolved = handler.resolve_ref_schema(json_schema)
        resolved["additionalProperties"] = False
        for loss in _losses().values():
            properties = loss.Config.model_json_schema().get("properties", {})
            resolved["properties"].update(properties)
        return json_schema


def _losses() -> Dict[str, DistillationLoss]:
    """Return the losses that detectors of any family can be distilled with."""
    kinds = [f.kind for f in FAMILIES.values() if f.task == "detection"]
    return {n: loss for n, loss in LOSSES.items() if any(map(loss.is_for, kinds))}


class DetectionRecipe(Recipe):
    """A recipe that trains and compresses a detector.

    Parameters
    ----------
    model : DetectorSettings
        The full detector.
    data : DetectionData
        Its images.
    augmentation : DetectionAugmentation
        What is done to training images beside the usual crops and colours.
    assignment : str
        Which anchors learn an object, of SSDs: ``iou``, those that overlap it by half,
        or ``atss``, by the mean and deviation of its own overlaps (Zhang et al. 2020).
    loss : LossSettings
        Strategies that change the loss; all are off by default.
    student : DetectorSettings or None
        The detector that is compressed and fine-tuned, for instance on a trunk that
        was pruned as a classifier; None: the trained full detector.
    distillation : DetectorDistillation or None
        What the last training learns from a teacher; None: it uses labels only.
    evaluate : DetectionEvaluation
        How detections are filtered and measured.
    """

    metric: ClassVar[str] = "mAP"

    task: Literal["detection"] = "detection"
    model: _Detector
    data: DetectionData
    augmentation: DetectionAugmentation = DetectionAugmentation()
    assignment: Literal["iou", "atss"] = "iou"
    loss: LossSettings = LossSettings()
    student: Optional[_Detector] = None
    distillation: Optional[DetectorDistillation] = None
    evaluate: Annotated[
        Any, EvaluationOf(DetectionEvaluation), Field(validate_default=True)
    ] = {}

    @field_validator("distillation", mode="before")
    @classmethod
    def _with_default_losses(cls, content: Any, info: ValidationInfo) -> Any:
        """Take the losses of the family where none are named."""
        family = family_of_recipe(info.data)
        if family is None or not isinstance(content, dict) or "losses" in content:
            return content
        return {**content, "losses": dict(family.default_losses)}

    def check(self) -> None:
        """Check the losses, and that there is a last training where one is needed."""
        super().check()
        family = family_of_recipe(dict(self))
        if self.assignment != "iou" and family is not None and family.kind != "ssd":
            raise self.error("assignment", "'iou', except for SSDs")
        self._check_loss()
        if self.distillation is not None and family is not None:
            allowed = losses_of(family.kind)
            for name, weight in self.distillation.losses.items():
                if weight and name not in allowed:
                    raise self.error("distillation.losses", listed(allowed))
            if self.distillation.teachers is not None and family.kind != "ssd":
                raise self.error("distillation.teachers", "null, except for SSDs")
        if self.student is not None and self.finetune is None:
            raise self.error("finetune", "a schedule, since there is a student")
        if self.student is not None and self.student.masks:
            raise self.error("student.masks", "false; a student is slimmed untrained")

    def _check_loss(self) -> None:
        """Check that the losses of all nets have the strategies that are on."""
        stated = [self.model] if self.student is None else [self.model, self.student]
        families = [family_that_builds(settings.name) for settings in stated]
        for name in self.loss.options:
            for family in families:
                if family is not None and name not in family.loss_options:
                    allowed = f"null for nets of kind {family.kind!r}"
                    raise self.error(f"loss.{name}", allowed)
