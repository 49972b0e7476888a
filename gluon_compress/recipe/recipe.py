"""What recipes of all tasks share: how they are read, checked and written."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Dict, List, Mapping, Optional, Tuple, Type, Union

from pydantic import TypeAdapter, ValidationInfo
from pydantic_core import core_schema
from typing_extensions import Annotated, Literal

from gluon_compress.compression.registry import check_order, row_settings
from gluon_compress.models import FAMILIES, Family, family_that_builds
from gluon_compress.models.settings import EvaluationSettings, ModelSettings
from gluon_compress.storage.atomic import write_json
from gluon_compress.train.schedule import Schedule
from gluon_compress.validation import (
    CountOrZero,
    NonEmptyStr,
    NonNegative,
    Settings,
    Tagged,
    few,
    missing_key,
    not_allowed,
)

FORMAT: Literal[1] = 1
MOST_NAMES = 8  # of models, in a message


class ModelOf:
    """Settings of a net of a family, which the key ``name`` decides.

    Parameters
    ----------
    base : type
        The settings that all nets of a task have.
    """

    def __init__(self, base: Type[ModelSettings]) -> None:
        self.base = base

    def _families(self) -> list[Family]:
        return [f for f in FAMILIES.values() if issubclass(f.Settings, self.base)]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Check the name, then the settings of its family."""

        def check(value: Any) -> Any:
            if isinstance(value, self.base):
                return value
            if not isinstance(value, dict):
                raise not_allowed(value, "an object {...}")
            if "name" not in value:
                raise missing_key("name")
            families = self._families()
            for family in families:
                if value["name"] in family.models():
                    return family.Settings.model_validate(value)
            names = [name for family in families for name in family.models()]
            raise not_allowed(value["name"], few(names, MOST_NAMES), "name")

        return core_schema.no_info_plain_validator_function(check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Dict[str, Any]:
        """List the settings of all families of the task."""
        return _any_of([family.Settings for family in self._families()], handler)


class EvaluationOf:
    """Settings of the evaluation of a net, whose family may have keys of its own.

    The recipe's ``model`` has to come before.

    Parameters
    ----------
    base : type
        The settings that all nets of a task have.
    """

    def __init__(self, base: Type[EvaluationSettings]) -> None:
        self.base = base

    def _class_of(self, family: Optional[Family]) -> Type[EvaluationSettings]:
        return self.base if family is None else family.Evaluation or self.base

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Check the settings as the family of the model has them."""

        def check(value: Any, info: ValidationInfo) -> Any:
            if isinstance(value, self.base):
                return value
            return self._class_of(family_of_recipe(info.data)).model_validate(value)

        return core_schema.with_info_plain_validator_function(check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Dict[str, Any]:
        """List the settings of all families."""
        classes = map(self._class_of, FAMILIES.values())
        return _any_of([c for c in classes if issubclass(c, self.base)], handler)


def family_of_recipe(fields: Mapping[str, Any]) -> Optional[Family]:
    """Return the family of the net that a recipe compresses, None if it is not known.

    Parameters
    ----------
    fields : mapping
        ``model``, and ``student`` if there is one.
    """
    model = fields.get("student") or fields.get("model")
    return None if model is None else family_that_builds(model.name)


def _any_of(classes: List[Type[Settings]], handler: Any) -> Dict[str, Any]:
    union: Any = Union[tuple(dict.fromkeys(classes))]
    # Of one class alone, pydantic would not ask for its descriptions.
    return handler(TypeAdapter(List[union]).core_schema)["items"]


class Recipe(Settings):
    """An experiment: two runs of a recipe differ in nothing that can be chosen.

    Parameters
    ----------
    paper : str
        What it reproduces.
    command : str
        The command that runs it.
    hours : float
        About how long that takes on two idle cores.
    expected : dict
        Figures to expect, for the reader.
    task : str
        ``detection`` or ``classification``.
    model : ModelSettings
        The full net.
    data : DetectionData or ClassificationData
        Its images.
    train : Schedule
        Training of the full net.
    compression : tuple of rows
        Each names one of ``ALGORITHMS``; they are applied in this order.
    finetune : Schedule or None
        Training of the compact net at the end; None: there is no compression, or
        its last row has a training of its own.
    distillation : settings or None
        What the last training learns from a teacher; None: it uses labels only.
    seed : int
        Decides initial values, the order of images and everything else that is random.
    format : int
        Version of this file format.

    Attributes
    ----------
    metric : str
        Name of the accuracy in results. It is the task's, not a key of the file.
    """

    metric: ClassVar[str]

    paper: NonEmptyStr
    command: NonEmptyStr
    hours: NonNegative
    expected: Dict[str, Any]
    task: str
    model: Any
    data: Any
    train: Schedule
    compression: Tuple[Annotated[Any, Tagged("algorithm", row_settings)], ...] = ()
    finetune: Optional[Schedule] = None
    distillation: Any = None
    seed: CountOrZero = 0
    format: Literal[1] = FORMAT

    def check(self) -> None:
        """Check the order of rows, and that there is a last training if needed."""
        check_order(self.compression)
        if self.finetune is not None:
            return
        if self.compression and getattr(self.compression[-1], "train", None) is None:
            raise self.error("finetune", "a schedule, since there is compression")
        lesson = self.distillation
        several = getattr(lesson, "teachers", None)
        if lesson is not None and lesson.teacher is None and several is None:
            raise self.error("distillation.teacher", "a model folder without finetune")

    def save(self, path: str | os.PathLike) -> None:
        """Write the recipe as JSON with every key, also those with default values."""
        write_json(path, self.to_json())
