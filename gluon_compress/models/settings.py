"""What a recipe may state of a net: the settings that families share or add to."""

from __future__ import annotations

from typing import Any, ClassVar, Dict, Iterable, Optional, Sequence, Tuple

from typing_extensions import Literal

from gluon_compress.validation import Count, NonEmptyStr, Positive, Settings, Share

# What a net that training starts from does not already determine.
_BESIDE_START = ("name", "plan", "masks", "start")
AUTO = "auto"  # of a setting that the training images decide
# What results and logs hold beside the figures of classes, which they hold by name.
RESERVED = ("mAP", "kind", "epoch")


def check_options(stated: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuse options of a model that it does not have.

    Raises
    ------
    ValueError
        Naming the first, and those that there are.
    """
    known = sorted(allowed)
    for name in sorted(stated):
        if name not in known:
            raise ValueError(f"model option {name!r}; allowed: {', '.join(known)}")


def check_classes(classes: Sequence[str]) -> None:
    """Refuse classes of a detector that are not distinct names, or are reserved.

    Raises
    ------
    ValueError
    """
    if not classes or len(set(classes)) != len(classes):
        raise ValueError(f"classes must be distinct names, not {classes!r}")
    reserved = [name for name in classes if name in RESERVED]
    if reserved:
        raise ValueError(
            f"class {reserved[0]!r}: results and logs use this name otherwise; "
            f"allowed: any but {', '.join(RESERVED)}"
        )


class ModelSettings(Settings):
    """Which net to build or to load.

    Parameters
    ----------
    name : str
        A name that ``models.build`` takes.
    plan : str or None
        File of a plan; the net gets its structure before it is trained.
    masks : bool
        Whether the net trains with the plan as masks and is slimmed afterwards.
    weights : str or None
        Folder of an exported model to load instead of building and training one.

    Attributes
    ----------
    task : str
        Whose recipes may state them: a row of ``pipeline.TASKS``.
    """

    task: ClassVar[str]

    name: NonEmptyStr
    plan: Optional[NonEmptyStr] = None
    masks: bool = False
    weights: Optional[NonEmptyStr] = None

    @property
    def undecided(self) -> Tuple[str, ...]:
        """Names of the settings that the training images are to decide."""
        return ()

    def build_options(self) -> Dict[str, Any]:
        """Return what differs from the model's own, as ``build`` takes it.

        Settings that are still to be decided are the model's own until then.
        """
        return {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if name not in (*ModelSettings.model_fields, "start", *self.undecided)
            and getattr(self, name) != field.default
        }


class ClassifierSettings(ModelSettings):
    """Which classifier to build or to load.

    Parameters
    ----------
    name : str
        A name in GluonCV's model zoo, for instance ``resnet50_v1d``.
    """

    task: ClassVar[str] = "classification"

    def check(self) -> None:
        """Check that a loaded net does not get another structure."""
        if self.plan is not None and self.weights is not None:
            raise self.error("plan", "null where there are weights")
        if self.masks and self.plan is None:
            raise self.error("masks", "true with a plan, else false")


class DetectorSettings(ModelSettings):
    """Which detector to build or to load.

    Parameters
    ----------
    width : float
        Share of the channels of every layer, for toy nets.
    start : str or None
        Folder of an exported detector to train further: structure and values are its
        own, but class predictors start anew where its classes are others.
    """

    task: ClassVar[str] = "detection"

    width: Positive = 1.0
    start: Optional[NonEmptyStr] = None

    def check(self) -> None:
        """Check that settings do not contradict a net that is loaded."""
        if self.start is not None:
            for name, field in type(self).model_fields.items():
                if name not in _BESIDE_START and getattr(self, name) != field.default:
                    raise self.error("start", f"null where {name!r} is given")
        if self.masks and (self.plan is None or self.weights is not None):
            allowed = "true with a plan and without weights, else false"
            raise self.error("masks", allowed)


class EvaluationSettings(Settings):
    """How a net is measured."""

    def for_objects(self, most: int) -> EvaluationSettings:
        """Return the settings for images of at most this many objects."""
        return self

    def build_options(self) -> Dict[str, Any]:
        """Return what the family adds to its task's keys, as ``build`` takes it."""
        return {}


class DetectionEvaluation(EvaluationSettings):
    """How detections are measured.

    Parameters
    ----------
    metric : str
        ``voc07`` (11 points) or ``voc10`` (area under the curve).
    iou : float
        Overlap from which a detection counts as correct.
    """

    metric: Literal["voc07", "voc10"] = "voc07"
    iou: Share = 0.5

    def build_options(self) -> Dict[str, Any]:
        """Return what the family adds to these keys, as ``build`` takes it."""
        names = type(self).model_fields.keys() - DetectionEvaluation.model_fields.keys()
        return {name: getattr(self, name) for name in names}


DETECTIONS, BOXES_A_DETECTION = 100, 4  # as GluonCV's 100 and 400


class NmsEvaluation(DetectionEvaluation):
    """How detections are suppressed by better ones, and measured.

    Parameters
    ----------
    nms_thresh : float
        Overlap from which a box is suppressed by a better one, as in GluonCV's
        ``SSD.set_nms``.
    nms_topk : int or None
        Boxes of an image that enter the suppression; None: four times ``post_nms``.
    post_nms : int or None
        Boxes of an image that are returned; None: twice the largest number of objects
        in an image of the data, but at least 100.
    """

    nms_thresh: Share = 0.45
    nms_topk: Optional[Count] = None
    post_nms: Optional[Count] = None

    def for_objects(self, most: int) -> NmsEvaluation:
        """Return the settings for images of at most this many objects."""
        post_nms = self.post_nms or max(DETECTIONS, 2 * most)
        nms_topk = self.nms_topk or BOXES_A_DETECTION * post_nms
        return self.replace(post_nms=post_nms, nms_topk=nms_topk)

    def build_options(self) -> Dict[str, Any]:
        """Return NMS as ``build`` takes it."""
        if self.post_nms is None or self.nms_topk is None:
            return self.for_objects(0).build_options()
        return super().build_options()
