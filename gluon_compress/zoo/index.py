"""Reads and writes the index of the model zoo."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Tuple, Union

from pydantic import Field
from typing_extensions import Annotated

from gluon_compress.models import FAMILIES
from gluon_compress.provenance import runs_of
from gluon_compress.storage.atomic import read_json, write_json
from gluon_compress.storage.locks import taking_turns
from gluon_compress.validation import (
    Allowed,
    Count,
    NonEmptyStr,
    NonNegative,
    OneOf,
    Settings,
    Sha256,
    ShareOrZero,
    parse,
    shown,
)

FORMAT = 1
NAME = "index.json"
# The folder is in an installed package, and beside it in a checkout.
_PLACES = (Path(__file__).parents[1], Path(__file__).parents[2])


class Metric(Settings):
    """A measured accuracy of a model.

    Parameters
    ----------
    name : str
        For instance ``"mAP"``.
    value : float
        From 0 to 1, with the released weights.
    on : str
        The images.
    """

    name: NonEmptyStr
    value: ShareOrZero
    on: NonEmptyStr


class Weights(Settings):
    """A file with the values of all parameters.

    Parameters
    ----------
    file : str
        Its relative path in the model zoo, or after the base address of a download.
    bytes : int
    sha256 : str
    """

    file: NonEmptyStr
    bytes: Count
    sha256: Sha256

    def check(self) -> None:
        """Refuse a path that leads out of the zoo."""
        parts = self.file.split("/")  # an absolute path begins with ""
        special = set("\\%?#\0") & set(self.file)  # would change the address
        if special or not all(map(_is_name, parts)):
            raise self.error("file", "a path in the model zoo")


class Entry(Settings):
    """A model of the zoo.

    Parameters
    ----------
    name : str
        Name of the model and of its folder.
    kind : str
        One of ``models.FAMILIES``.
    classes : tuple of str
    data : str
        The data set it was trained on, or is meant for.
    size : int or (int, int)
        Height and width of its images, pixels; one number for a square.
    params, macs, bytes : int
        As ``gluon_compress.count`` computes them, with float32 values.
    licence : str
        Licence of the weights.
    command : str
        The command that trains it.
    hours : float
        About how long that takes on two idle cores, from the recipe.
    metric : Metric, optional
        Only with weights.
    weights : Weights, optional
        None for a structure that has not been trained.
    """

    name: NonEmptyStr
    kind: Annotated[str, OneOf(lambda: FAMILIES)]
    classes: Annotated[Tuple[NonEmptyStr, ...], Field(min_length=1)]
    data: NonEmptyStr
    size: Annotated[
        Union[Count, Tuple[Count, Count]],
        Allowed("a whole number from 1, or height and width"),
    ]
    params: Count
    macs: Count
    bytes: Count
    licence: NonEmptyStr
    command: NonEmptyStr
    hours: NonNegative
    metric: Optional[Metric] = None
    weights: Optional[Weights] = None

    def check(self) -> None:
        """Check the name, and that weights come with a metric."""
        if "/" in self.name or "\\" in self.name or not _is_name(self.name):
            raise self.error("name", "the name of a folder")
        if (self.metric is None) != (self.weights is None):
            raise self.error("weights", "with a metric, or without either")


class Index(Settings):
    """The models of a zoo."""

    models: Tuple[Entry, ...]


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..")


def folder() -> Path:
    """Return the folder of the model zoo.

    Raises
    ------
    ValueError
        If this installation has none.
    """
    for parent in _PLACES:
        if (parent / "model_zoo" / NAME).is_file():
            return parent / "model_zoo"
    raise ValueError(f"{_PLACES[0] / 'model_zoo' / NAME}: the index is missing")


def read(zoo: Path | None = None) -> dict[str, Entry]:
    """Return the models of a zoo by name; of this package's by default.

    Raises
    ------
    ValueError
        For an index of another format, or one that is invalid; the message names the
        model and the key.
    """
    path = (folder() if zoo is None else Path(zoo)) / NAME
    content = read_json(path)
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is not int or version != FORMAT:
        raise ValueError(
            f"{path}: format is {shown(version)}; this version reads {FORMAT}"
        )
    models = parse(Index, {"models": content.get("models")}, path).models
    entries = {entry.name: entry for entry in models}
    if len(entries) < len(models):
        names = [entry.name for entry in models]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: model {shown(duplicate)} is there twice")
    return entries


def add(entry: Entry, zoo: Path) -> None:
    """Write an entry into the index of a zoo, in the order of names."""
    path = Path(zoo) / NAME
    with taking_turns(path):
        entries = read(zoo) if path.exists() else {}
        entries[entry.name] = entry
        models = [entries[name].to_json() for name in sorted(entries)]
        write_json(path, {"format": FORMAT, "models": models})


def list_models(*, pretrained: bool = False) -> list[str]:
    """Return the names of the zoo's models, or only of those that have weights."""
    return [n for n, e in sorted(read().items()) if e.weights or not pretrained]


def training_of(name: str) -> str | None:
    """Return how long the training of a recipe takes, and its command.

    Recipes of the zoo that it starts from are added.

    Parameters
    ----------
    name : str
        Name of a recipe's folder, or of a detector with a recipe for Pascal VOC.

    Returns
    -------
    str or None
        None if there is no such recipe.
    """
    for recipe_name in (name, f"{name}_voc"):
        file = folder() / recipe_name / "recipe.json"
        if file.is_file():
            recipe = read_json(file)
            first = "".join(
                f"; before it, about {needed['hours']:g} hours: {needed['command']}"
                for needed in _needed(recipe)
            )
            hours = f"about {recipe['hours']:g} hours of two cores"
            return f"{hours} make them: {recipe['command']}{first}"
    return None


def _needed(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the recipes whose runs, ``runs/NAME/...``, a recipe needs, in order."""
    names = [run.parts[1] for run in runs_of(recipe)]
    files = [folder() / name / "recipe.json" for name in dict.fromkeys(names)]
    recipes = [read_json(file) for file in files if file.is_file()]
    ordered = []
    for needed in recipes:
        ordered += [*_needed(needed), needed]
    return list({needed["command"]: needed for needed in ordered}.values())


def unknown(name: Any, names: Sequence[str]) -> ValueError:
    """Return the error for an unknown name, which suggests the most similar ones."""
    similar = difflib.get_close_matches(str(name).lower(), names, n=3, cutoff=0.5)
    words = f"did you mean {', '.join(similar)}?" if similar else "see list_models()"
    return ValueError(f"model {name!r} is unknown; {words}")
