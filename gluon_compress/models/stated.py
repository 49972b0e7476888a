"""What the manifest of a detector states beside its symbol, checked before use.

A family lists it as a class of ``Settings``, whose fields are those of its
configuration, alone or in sections, which are ``Settings`` themselves.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Mapping, Tuple, Type, Union

from pydantic import Field
from typing_extensions import Annotated

from gluon_compress.sizes import written_size
from gluon_compress.validation import Allowed, Positive, Settings, parse

MAX_SIDE = 1 << 14  # pixels; families may allow fewer
Stds = Tuple[Positive, Positive, Positive, Positive]
Side = Annotated[
    int, Field(ge=1, le=MAX_SIDE), Allowed(f"a whole number from 1 to {MAX_SIDE}")
]
InputSize = Annotated[
    Union[Side, Tuple[Side, Side]],
    Allowed(f"a whole number from 1 to {MAX_SIDE}, or height and width"),
]


def stated_by(kind: Type[Settings], config: Any) -> dict[str, Any]:
    """Return what a manifest states of a configuration, JSON-able.

    Parameters
    ----------
    kind : type
        ``Manifest`` of a family.
    config : dataclass
        With all fields that ``kind`` and its sections name, ``classes`` and ``size``.
    """
    values = {
        **asdict(config),
        "classes": list(config.classes),
        "size": written_size(config.size),
    }
    sections = _sections(kind)
    return {
        key: {name: values[name] for name in sections[key].model_fields}
        if key in sections
        else values[key]
        for key in kind.model_fields
    }


def values_from(kind: Type[Settings], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a configuration that a manifest states.

    Raises
    ------
    ValueError
        Naming a key that is missing or unknown, or its value and what is allowed.
    """
    keys = kind.model_fields
    stated = dict(parse(kind, {k: v for k, v in manifest.items() if k in keys}))
    for section in _sections(kind):
        stated.update(dict(stated.pop(section)))
    return stated


def _sections(kind: Type[Settings]) -> dict[str, Type[Settings]]:
    types = {key: field.annotation for key, field in kind.model_fields.items()}
    return {
        key: found
        for key, found in types.items()
        if isinstance(found, type) and issubclass(found, Settings)
    }
