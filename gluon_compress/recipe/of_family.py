"""Parts of a recipe that depend on the family of the net that its model names."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Type, Union

from pydantic import TypeAdapter, ValidationInfo
from pydantic_core import core_schema

from gluon_compress.models import FAMILIES, Family, family_that_builds, models_for
from gluon_compress.validation import Settings, combined, listed, not_allowed


class ModelOfFamily:
    """Settings of a model, joined by the ``BuildSettings`` of its family.

    ``Annotated[Any, ModelOfFamily("detection", DetectorSettings)]``. The name has to be
    that of a model of the task, unless a folder is given to load the net from.

    Parameters
    ----------
    task : str
    cls : type
        A subclass of ``ModelSettings``.
    """

    def __init__(self, task: str, cls: Type[Settings]) -> None:
        self.task, self.cls = task, cls

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Choose the class by the name, then check the settings."""

        def check(value: Any) -> Any:
            if isinstance(value, self.cls):
                return value
            return self._class_of(value).model_validate(value)

        return core_schema.no_info_plain_validator_function(check)

    def _class_of(self, content: Any) -> Type[Settings]:
        name = content.get("name") if isinstance(content, dict) else None
        family = family_named_by(name)
        if family is not None and family.task == self.task:
            return combined(self.cls, family.BuildSettings)
        loads = isinstance(content, dict) and any(
            content.get(key) for key in ("weights", "start")
        )
        if name and isinstance(name, str) and not loads:
            raise not_allowed(name, listed(models_for(self.task)), "name")
        return self.cls

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Dict[str, Any]:
        """List the classes of all families of the task."""
        return _any_of(self.task, self.cls, "BuildSettings", handler)


class EvaluationOfFamily:
    """Settings of an evaluation, joined by the ``EvaluationSettings`` of the family.

    It is the family of the recipe's ``model``, a field that has to come before.

    Parameters
    ----------
    task : str
    cls : type
        A class of ``Settings``.
    """

    def __init__(self, task: str, cls: Type[Settings]) -> None:
        self.task, self.cls = task, cls

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Choose the class by the model, then check the settings."""

        def check(value: Any, info: ValidationInfo) -> Any:
            if isinstance(value, self.cls):
                return value
            family = family_of_model(info.data)
            added = None if family is None else family.EvaluationSettings
            cls = self.cls if added is None else combined(self.cls, added)
            return cls.model_validate(value)

        return core_schema.with_info_plain_validator_function(check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Dict[str, Any]:
        """List the classes of all families of the task."""
        return _any_of(self.task, self.cls, "EvaluationSettings", handler)


def family_named_by(name: Any) -> Optional[Family]:
    """Return the family of a model's name, or None."""
    return family_that_builds(name) if isinstance(name, str) else None


def family_of_model(fields: Mapping[str, Any]) -> Optional[Family]:
    """Return the family of the net that a recipe compresses, or None.

    Parameters
    ----------
    fields : mapping
        The recipe's ``model``, and its ``student`` if there is one.
    """
    model = fields.get("student") or fields.get("model")
    return None if model is None else family_named_by(model.name)


def _any_of(task: str, cls: Type[Settings], name: str, handler: Any) -> Dict[str, Any]:
    added = [getattr(f, name) for f in FAMILIES.values() if f.task == task]
    classes = dict.fromkeys(combined(cls, settings) for settings in added)
    adapter: Any = TypeAdapter(List[Union[tuple(classes)]])  # type: ignore[misc]
    return handler(adapter.core_schema)["items"]
