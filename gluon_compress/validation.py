"""Settings: immutable classes that check their fields, from JSON and from Python.

A wrong value is a ``ValueError`` of one line that names the file, the key, the value
and what is allowed::

    recipe.json: compression[1].budget.macs is -3; allowed: a number above 0

A class of settings lists its fields with types of this module or of ``typing``. Its
NumPy docstring explains them; JSON Schema takes the descriptions from there::

    class Crop(Settings):
        size: Count = 224
        least_area: Share = 0.08
        mode: Literal["center", "random"] = "random"

        def check(self) -> None:
            if self.mode == "center" and self.least_area != 1:
                raise self.error("least_area", "1 with mode 'center'")

Pydantic reads annotations when the class is made, and Python 3.8 has no ``X | Y``:
write ``Optional[X]``, ``Union[X, Y]`` and ``Dict[X, Y]``. Lists become tuples, so
annotate ``Tuple[X, ...]``.
"""

from __future__ import annotations

import inspect
import re
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema
from typing_extensions import Annotated

from gluon_compress.printable import is_plain

LONGEST_LINE = 300
LONGEST_VALUE = 80
NOT_ALLOWED, UNKNOWN_KEY = "not_allowed", "unknown_key"

T = TypeVar("T")
S = TypeVar("S", bound="Settings")


if TYPE_CHECKING:  # pydantic does not export it
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


class _OneLineErrors(ModelMetaclass):
    """Makes ``Schedule(epochs=0)`` raise one line, as ``parse`` does."""

    def __call__(cls, *args: Any, **values: Any) -> Any:  # noqa: N805
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            raise ValueError(error_line(error)) from None


class Settings(BaseModel, metaclass=_OneLineErrors):
    """Base of all settings: immutable, no unknown keys, no silent conversions.

    ``"3"`` is no integer, ``True`` is no number, numbers are finite. An integer given
    for a float stays an integer, so that a file that is written again stays the same.

    Raises
    ------
    ValueError
        One line that names the key, its value and what is allowed.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=False,
    )

    def check(self) -> None:
        """Check fields against each other; a subclass raises ``self.error(...)``."""

    def error(self, key: str, allowed: str) -> Exception:
        """Return the error that a (dotted) key of these settings has a wrong value."""
        value: Any = self
        for name in key.split("."):
            value = value[name] if isinstance(value, Mapping) else getattr(value, name)
        return not_allowed(value, allowed, key)

    def replace(self: S, **changes: Any) -> S:
        """Return a copy with some fields changed; it is checked as a new one is."""
        return type(self)(**{**dict(self), **changes})

    def to_json(self) -> Dict[str, Any]:
        """Return all fields, defaults too, as dicts, lists, numbers and text."""
        return _with_lists(self)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        if cls.model_config["extra"] == "forbid":
            for key in content:
                if key not in cls.model_fields:
                    raise unknown_key(key, cls.model_fields)
        return {key: _with_tuples(value) for key, value in content.items()}

    @field_validator("*", mode="wrap")
    @classmethod
    def _numbers_as_given(cls, value: Any, handler: Callable) -> Any:
        return _as_given(value, handler(value))

    @model_validator(mode="after")
    def _check(self: S) -> S:
        self.check()
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Dict[str, Any]:
        """Describe fields in JSON Schema by the class's docstring."""
        json_schema = handler(schema)
        resolved = handler.resolve_ref_schema(json_schema)
        lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
        resolved["description"] = lines[0] if lines else ""
        for name, text in described(cls).items():
            if name in resolved.get("properties", {}):
                resolved["properties"][name].setdefault("description", text)
        return json_schema


class NoSettings(Settings):
    """There is nothing to set."""


def parse(cls: Type[T], content: Any, source: Any = "") -> T:
    """Return settings, or any annotated type, from the content of a JSON file.

    Parameters
    ----------
    cls : type
        A class of ``Settings``, or for instance ``Dict[str, str]``.
    content : JSON value
    source : path, optional
        Where the content is from; errors start with it.

    Raises
    ------
    ValueError
        One line that names source, key, value and what is allowed.
    """
    try:
        if isinstance(cls, type) and issubclass(cls, BaseModel):
            return cls.model_validate(content)
        return TypeAdapter(cls).validate_python(content)
    except ValidationError as error:
        raise ValueError(error_line(error, source)) from None


def error_line(error: ValidationError, source: Any = "") -> str:
    """Return the first problem of a validation as one line."""
    problem = error.errors(include_url=False)[0]
    context = problem.get("ctx", {})
    place = shortened(_dotted((*problem["loc"], *_key_of(context))), LONGEST_VALUE)
    kind, allowed = problem["type"], _allowed(problem)
    if kind == UNKNOWN_KEY or "[key]" in problem["loc"]:
        line = f"{place}: no such key; allowed: {allowed}"
    elif kind == "missing":
        line = f"{place}: this key is missing"
    else:
        value = shown(context["value"] if "value" in context else problem["input"])
        line = f"{place or 'the content'} is {value}; allowed: {allowed}"
    line = " ".join(line.split())
    return shortened(f"{source}: {line}" if str(source) else line, LONGEST_LINE)


def not_allowed(value: Any, allowed: str, key: str = "") -> Exception:
    """Return the error that a validator raises for a value.

    Parameters
    ----------
    value : anything
    allowed : str
        In plain words, as ``"a number above 0"``.
    key : str
        Where the value is, within what is being validated.
    """
    context = {"key": key, "value": value, "allowed": allowed}
    return PydanticCustomError(NOT_ALLOWED, "not allowed", context)


def unknown_key(key: Any, names: Iterable[str]) -> Exception:
    """Return the error that a validator raises for a key that is not one of some."""
    context = {"key": str(key), "allowed": listed(names)}
    return PydanticCustomError(UNKNOWN_KEY, "no such key", context)


def missing_key(key: str) -> Exception:
    """Return the error that a validator raises for a key that has to be there."""
    return PydanticCustomError("missing", "missing", {"key": key})


def wrong(place: str, value: Any, allowed: str) -> ValueError:
    """Return the one-line error that names a place, its value and what is allowed."""
    line = f"{place} is {shown(value)}; allowed: {allowed}"
    return ValueError(shortened(line, LONGEST_LINE))


def shown(value: Any) -> str:
    """Return a value as it is quoted in messages: short, lists as in JSON."""
    try:
        return shortened(repr(_with_lists(value)), LONGEST_VALUE)
    except ValueError:  # Python does not print integers of thousands of digits
        return f"a {type(value).__name__}"


def shortened(text: str, most: int) -> str:
    """Return a text, cut to a number of characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def first_line(error: Exception) -> str:
    """Return the first line of what another library says, short enough to quote."""
    text = str(error).strip() or type(error).__name__
    return shortened(text.splitlines()[0], LONGEST_LINE // 2)


def listed(names: Iterable[Any]) -> str:
    """Return names as messages list them."""
    return ", ".join(map(str, names))


def few(names: Sequence[str], most: int) -> str:
    """Return the first names for a message, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return listed(names[:most]) + more


class Allowed:
    """Says in plain words what a type allows, in place of pydantic's own messages.

    ``Annotated[int, Field(ge=1), Allowed("a whole number from 1")]``. Put it on unions
    too: pydantic would report every member.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Wrap the type's own check."""

        def check(value: Any, inner: Callable) -> Any:
            try:
                return inner(value)
            except ValidationError:
                raise not_allowed(value, self.text) from None

        return WrapValidator(check).__get_pydantic_core_schema__(source, handler)


class OneOf:
    """A text that is a name in a registry, which is read at every check.

    ``Annotated[str, OneOf(lambda: CRITERIA)]``.
    """

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self.names = names

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Check that the registry has the name."""

        def check(value: Any) -> Any:
            names = list(self.names())
            if not isinstance(value, str) or value not in names:
                raise not_allowed(value, listed(names))
            return value

        return core_schema.no_info_plain_validator_function(check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Dict[str, Any]:
        """List the names."""
        return {"type": "string", "enum": list(self.names())}


class Tagged:
    """Settings of one of several classes; the key ``tag`` says which.

    ``Annotated[Any, Tagged("algorithm", lambda: {"prune": PruneSettings})]``: the
    registry is read at every check, so a row that is added to it is enough.
    """

    def __init__(self, tag: str, classes: Callable[[], Mapping[str, Any]]) -> None:
        self.tag, self.classes = tag, classes

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Check the tag, then the settings of its class."""

        def check(value: Any) -> Any:
            classes = self.classes()
            if isinstance(value, tuple(classes.values())):
                return value
            if not isinstance(value, dict):
                raise not_allowed(value, "an object {...}")
            name = value.get(self.tag)
            if not isinstance(name, str) or name not in classes:
                raise not_allowed(name, listed(classes), self.tag)
            return classes[name].model_validate(value)

        return core_schema.no_info_plain_validator_function(check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Dict[str, Any]:
        """List the classes."""
        union: Any = Union[tuple(self.classes().values())]
        return handler(TypeAdapter(union).core_schema)


def _distinct(names: Tuple[str, ...]) -> Tuple[str, ...]:
    if len(set(names)) < len(names) or not all(map(_is_name, names)):
        raise ValueError
    return names


def _is_name(name: str) -> bool:
    return bool(name.strip()) and is_plain(name)


def _names(value: Any, handler: Callable) -> Any:
    return _distinct(handler(value))


Count = Annotated[int, Field(ge=1), Allowed("a whole number from 1")]
CountOrZero = Annotated[int, Field(ge=0), Allowed("a whole number from 0")]
Positive = Annotated[float, Field(gt=0), Allowed("a number above 0")]
NonNegative = Annotated[float, Field(ge=0), Allowed("a number from 0")]
Share = Annotated[float, Field(gt=0, le=1), Allowed("a number above 0 to 1")]
ShareOrZero = Annotated[float, Field(ge=0, le=1), Allowed("a number from 0 to 1")]
NonEmptyStr = Annotated[str, Field(min_length=1), Allowed("a text that is not empty")]
Sha256 = Annotated[
    str, Field(pattern="^[0-9a-f]{64}$"), Allowed("64 hexadecimal digits in lower case")
]
ClassNames = Annotated[
    Tuple[str, ...],
    Field(min_length=1),
    WrapValidator(_names),
    Allowed("a list of distinct names"),
]


def class_names(classes: Any) -> Tuple[str, ...]:
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
    if not names or any(not isinstance(n, str) or not _is_name(n) for n in names):
        raise wrong("classes", names, allowed)
    if len(set(names)) != len(names):
        raise wrong("classes", names, f"{allowed}; one is there twice")
    return tuple(map(str, names))


def described(cls: type) -> Dict[str, str]:
    """Return what the NumPy docstring of a class says of each of its parameters."""
    texts: Dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        section = re.search(
            r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n-+$|\Z)", text, re.M | re.S
        )
        rows = re.split(r"^(?=\S)", section.group(1) if section else "", flags=re.M)
        for row in filter(str.strip, rows):
            head, *body = row.splitlines()
            explained = " ".join(line.strip() for line in body if line.strip())
            for name in head.partition(" : ")[0].split(","):
                texts[name.strip()] = explained
    return {name: text.replace("``", "") for name, text in texts.items() if text}


def _with_tuples(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_with_tuples, value))
    if type(value) is dict:
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return value


def _with_lists(value: Any) -> Any:
    if isinstance(value, Settings):
        value = dict(value)
    if isinstance(value, (list, tuple)):
        return list(map(_with_lists, value))
    if isinstance(value, dict):
        return {key: _with_lists(inner) for key, inner in value.items()}
    return value


def _as_given(given: Any, checked: Any) -> Any:
    """Return checked values, but integers where integers were given for floats."""
    if type(checked) is float and type(given) is int:
        return given
    if type(checked) is tuple and type(given) is tuple:
        return tuple(map(_as_given, given, checked))
    if type(checked) is dict and type(given) is dict:
        return {key: _as_given(given[key], inner) for key, inner in checked.items()}
    return checked


def _key_of(context: Mapping[str, Any]) -> Sequence[str]:
    return [context["key"]] if context.get("key") else []


def _dotted(location: Sequence[Any]) -> str:
    parts = [f"[{p}]" if isinstance(p, int) else f".{p}" for p in location]
    return "".join(part for part in parts if part != ".[key]").lstrip(".")


# What the types of ``typing`` allow, by the type of pydantic's error.
_TYPES: Dict[str, Callable[[Mapping[str, Any]], str]] = {
    "int_type": lambda c: "a whole number",
    "int_from_float": lambda c: "a whole number",
    "float_type": lambda c: "a number",
    "finite_number": lambda c: "a finite number",
    "string_type": lambda c: "a text",
    "bool_type": lambda c: "true or false",
    "tuple_type": lambda c: "a list",
    "list_type": lambda c: "a list",
    "dict_type": lambda c: "an object {...}",
    "mapping_type": lambda c: "an object {...}",
    "model_type": lambda c: "an object {...}",
    "none_required": lambda c: "null",
    "greater_than": lambda c: f"a number above {c['gt']:g}",
    "greater_than_equal": lambda c: f"a number from {c['ge']:g}",
    "less_than": lambda c: f"a number below {c['lt']:g}",
    "less_than_equal": lambda c: f"a number up to {c['le']:g}",
    "literal_error": lambda c: c["expected"].replace(" or ", ", ").replace("'", ""),
    "too_short": lambda c: f"a list of {c['min_length']} or more",
    "too_long": lambda c: f"a list of {c['max_length']} at most",
    "string_too_short": lambda c: f"a text of {c['min_length']} or more characters",
    "string_pattern_mismatch": lambda c: f"a text that matches {c['pattern']}",
}


def _allowed(problem: Mapping[str, Any]) -> str:
    context: Optional[Mapping[str, Any]] = problem.get("ctx")
    if context and "allowed" in context:
        return context["allowed"]
    describe = _TYPES.get(problem["type"])
    return describe(context or {}) if describe else problem["msg"]
