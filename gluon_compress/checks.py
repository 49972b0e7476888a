"""Data classes that check their fields, from JSON and from Python alike.

A check is a function ``check(value, place)`` that returns the value to keep or raises
a ``ValueError`` that starts with the place ("train.epochs is 0; allowed: ...").
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Callable, Mapping, Sequence

Check = Callable[[Any, str], Any]


def wrong(place: str, value: Any, allowed: str) -> ValueError:
    """Return the error that names a place, its value and what is allowed."""
    return ValueError(f"{place} is {value!r}; allowed: {allowed}")


def key(check: Check, default: Any = MISSING) -> Any:
    """Declare a field with its check; without a default it must be given."""
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata={"check": check})
    return field(default=default, metadata={"check": check})


def section(cls: type) -> type:
    """Make a frozen data class of a class whose fields are declared with ``key``.

    A method ``disagreement`` may return (key, value, allowed) where fields that are
    right alone do not go together, otherwise None.
    """
    cls.__post_init__ = _check_fields
    return dataclass(frozen=True)(cls)


def _check_fields(self: Any) -> None:
    for f in fields(self):
        value = f.metadata["check"](self.__dict__[f.name], f.name)
        object.__setattr__(self, f.name, value)
    problem = self.disagreement() if hasattr(self, "disagreement") else None
    if problem:
        raise wrong(*problem)


def part(cls: type) -> Check:
    """Accept a section, or the JSON object of one."""
    known = {f.name: f for f in fields(cls)}

    def check(value: Any, place: str) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict):
            raise wrong(place or "the content", value, "an object {...}")
        inside = f"{place}." if place else ""
        for name in value:
            if name not in known:
                raise ValueError(f"{inside}{name}: no such key; {_list(known)}")
        for name, f in known.items():
            if name not in value and f.default is f.default_factory is MISSING:
                raise ValueError(f"{inside}{name}: this key is missing")
        try:
            return cls(**value)
        except ValueError as error:
            raise ValueError(f"{inside}{error}") from None

    return check


def one_part(name: str, kinds: Mapping[str, type]) -> Check:
    """Accept one of several sections; the field ``name`` says which."""

    def check(value: Any, place: str) -> Any:
        if isinstance(value, tuple(kinds.values())):
            return value
        kind = value.get(name) if isinstance(value, dict) else None
        if not isinstance(kind, str) or kind not in kinds:
            raise ValueError(f"{place}.{name} is {kind!r}; {_list(kinds)}")
        return part(kinds[kind])(value, place)

    return check


def _list(names: Any) -> str:
    return f"allowed: {', '.join(map(str, names))}"


def text(value: Any, place: str) -> str:
    """Accept any text but the empty one."""
    if not isinstance(value, str) or not value:
        raise wrong(place, value, "a text that is not empty")
    return value


def truth(value: Any, place: str) -> bool:
    """Accept true and false."""
    if not isinstance(value, bool):
        raise wrong(place, value, "true or false")
    return value


def number(low: float, high: float = math.inf, *, above: bool = False) -> Check:
    """Accept finite numbers from ``low`` (or only above it) to ``high``."""
    allowed = f"a number {'above' if above else 'from'} {low:g}"
    allowed += "" if high == math.inf else f" to {high:g}"

    def check(value: Any, place: str) -> float:
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
        right = right and math.isfinite(value) and low <= value <= high
        if not right or (above and value == low):
            raise wrong(place, value, allowed)
        return value

    return check


def whole(low: int) -> Check:
    """Accept whole numbers from ``low``."""

    def check(value: Any, place: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise wrong(place, value, f"a whole number from {low}")
        return value

    return check


def one_of(*names: str) -> Check:
    """Accept one of the given words."""

    def check(value: Any, place: str) -> str:
        if not isinstance(value, str) or value not in names:
            raise wrong(place, value, ", ".join(names))
        return value

    return check


def optional(check: Check) -> Check:
    """Accept null beside what ``check`` accepts."""
    return lambda value, place: None if value is None else check(value, place)


def text_or(check: Check) -> Check:
    """Accept text beside what ``check`` accepts."""
    return lambda value, place: (text if isinstance(value, str) else check)(
        value, place
    )


def list_of(check: Check, *, least: int = 0, exactly: int | None = None) -> Check:
    """Accept a list of at least, or exactly, so many elements; it becomes a tuple."""
    allowed = f"a list of {least} or more" if least else "a list"
    allowed = allowed if exactly is None else f"a list of {exactly}"

    def check_all(value: Any, place: str) -> tuple:
        right = isinstance(value, (list, tuple)) and len(value) >= least
        if not right or exactly not in (None, len(value)):
            raise wrong(place, value, allowed)
        return tuple(check(v, f"{place}[{i}]") for i, v in enumerate(value))

    return check_all


def map_of(check: Check, *names: str) -> Check:
    """Accept an object whose keys are any text, or only the given names."""

    def check_all(value: Any, place: str) -> dict:
        if not isinstance(value, dict):
            raise wrong(place, value, "an object {...}")
        for name in value:
            if not isinstance(name, str) or (names and name not in names):
                raise ValueError(f"{place}.{name}: no such key; {_list(names)}")
        return {name: check(v, f"{place}.{name}") for name, v in value.items()}

    return check_all


def class_names(classes: Any) -> tuple[str, ...]:
    """Return the names of classes, in their order.

    Raises
    ------
    ValueError
        If they are no names, one of them is empty or there twice, or there is none.
    """
    allowed = "a list of distinct names"
    if isinstance(classes, (str, bytes)) or not hasattr(classes, "__iter__"):
        raise wrong("classes", classes, allowed)
    names = tuple(classes)
    if not names or any(not isinstance(n, str) or not n.strip() for n in names):
        raise wrong("classes", names, allowed)
    if len(set(names)) != len(names):
        raise wrong("classes", names, f"{allowed}; one is there twice")
    return tuple(map(str, names))


def anything(value: Any, place: str) -> Any:
    """Accept what is there: it is for the reader, not for the program."""
    return value


def few(names: Sequence[str], most: int) -> str:
    """Return the first names for a message, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
