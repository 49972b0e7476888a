"""What a recipe may state of a net: the settings that all families share."""

from __future__ import annotations

from typing import Any, Dict, Optional

from gluon_compress.validation import NonEmptyStr, Positive, Settings

# What a net that training starts from does not already determine.
_BESIDE_START = ("name", "plan", "masks", "start")


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
    """

    name: NonEmptyStr
    plan: Optional[NonEmptyStr] = None
    masks: bool = False
    weights: Optional[NonEmptyStr] = None

    def build_options(self) -> Dict[str, Any]:
        """Return what differs from the model's own, as ``build`` takes it."""
        return {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if name not in (*ModelSettings.model_fields, "start")
            and getattr(self, name) != field.default
        }


class ClassifierSettings(ModelSettings):
    """Which classifier to build or to load.

    Parameters
    ----------
    name : str
        A name in GluonCV's model zoo, for instance ``resnet50_v1d``.
    """

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
    trunk : str or None
        Folder of an exported classifier, pruned or not, to take the trunk from; None:
        the trunk of ``name``, with initial values.
    start : str or None
        Folder of an exported detector to train further: structure and values are its
        own, but class predictors start anew where its classes are others.
    """

    width: Positive = 1.0
    trunk: Optional[NonEmptyStr] = None
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
