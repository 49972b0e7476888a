"""The index: what the model zoo holds, and where a model's own files lie."""

from __future__ import annotations

import difflib
import re
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, Mapping, Sequence

from gluon_compress import checks as c
from gluon_compress.checks import key, section
from gluon_compress.models import FAMILIES
from gluon_compress.storage.atomic import read_json, write_json

FORMAT = 1
NAME = "index.json"
# Installed, the folder lies in the package; in a checkout beside it.
_PLACES = (Path(__file__).parents[1], Path(__file__).parents[2])


@section
class Metric:
    """How good a model is: what was measured, on what, and the value.

    Parameters
    ----------
    name : str
        As ``"mAP"``.
    value : float
        From 0 to 1, of the weights as they are shipped.
    on : str
        The images.
    """

    name: str = key(c.text)
    value: float = key(c.number(0, 1))
    on: str = key(c.text)


@section
class Weights:
    """A file with the values of all parameters.

    Parameters
    ----------
    file : str
        Its path in the model zoo, or behind the base address of a download: relative,
        and not out of it.
    bytes : int
    sha256 : str
    """

    file: str = key(c.text)
    bytes: int = key(c.whole(1))
    sha256: str = key(c.text)

    def disagreement(self) -> tuple[str, Any, str] | None:
        """Return what is no file of a zoo, if anything."""
        parts = self.file.split("/")  # an absolute path begins with ""
        odd = set("\\%?#\0") & set(self.file)  # which an address reads as another path
        if odd or not all(map(_is_name, parts)):
            return "file", self.file, "a path in the model zoo"
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            return "sha256", self.sha256, "64 hexadecimal digits in lower case"
        return None


def _kind(value: Any, place: str) -> str:
    return c.one_of(*FAMILIES)(value, place)


def _size(value: Any, place: str) -> Any:
    if isinstance(value, (list, tuple)):
        return c.list_of(c.whole(1), exactly=2)(value, place)
    return c.whole(1)(value, place)


@section
class Entry:
    """A model of the zoo.

    Parameters
    ----------
    name : str
        Of the model and of its folder.
    kind : str
        One of ``models.FAMILIES``.
    classes : tuple of str
    data : str
        The data set it was trained on, or is meant for.
    size : int or (int, int)
        Height and width of its images, pixels.
    params, macs, bytes : int
        As ``gluon_compress.count`` states them; bytes are those of float32.
    licence : str
        Of the weights.
    command : str
        What trains it.
    hours : float
        About how long that takes on two idle cores, from the recipe.
    metric : Metric, optional
        Only with weights.
    weights : Weights, optional
        Without, it is a structure that has not been trained here.
    """

    name: str = key(c.text)
    kind: str = key(_kind)
    classes: tuple = key(c.list_of(c.text, least=1))
    data: str = key(c.text)
    size: Any = key(_size)
    params: int = key(c.whole(1))
    macs: int = key(c.whole(1))
    bytes: int = key(c.whole(1))
    licence: str = key(c.text)
    command: str = key(c.text)
    hours: float = key(c.number(0))
    metric: Any = key(c.optional(c.part(Metric)), None)
    weights: Any = key(c.optional(c.part(Weights)), None)

    def disagreement(self) -> tuple[str, Any, str] | None:
        """Return what does not go together, if anything."""
        if "/" in self.name or "\\" in self.name or not _is_name(self.name):
            return "name", self.name, "the name of a folder"
        if (self.metric is None) == (self.weights is None):
            return None
        return "weights", self.weights, "with a metric, or neither of both"


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..")


def folder() -> Path:
    """Return the folder of the model zoo.

    Raises
    ------
    ValueError
        If this installation has none.
    """
    for place in _PLACES:
        if (place / "model_zoo" / NAME).is_file():
            return place / "model_zoo"
    raise ValueError(f"{_PLACES[0] / 'model_zoo' / NAME}: the index is missing")


def read(zoo: Path | None = None) -> dict[str, Entry]:
    """Return the models of a zoo by name; of this package's by default.

    Raises
    ------
    ValueError
        For an index of a newer format, or one that is broken: the model and the key
        are named.
    """
    path = (folder() if zoo is None else Path(zoo)) / NAME
    content = read_json(path)
    found = content.get("format") if isinstance(content, dict) else None
    if type(found) is not int or found != FORMAT:
        raise ValueError(f"{path}: format is {found!r}; this version reads {FORMAT}")
    try:
        models = c.list_of(c.part(Entry))(content.get("models"), "models")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    known = {entry.name: entry for entry in models}
    if len(known) < len(models):
        names = [entry.name for entry in models]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: model {double!r} is there twice")
    return known


def add(entry: Entry, zoo: Path) -> None:
    """Write an entry into the index of a zoo, in the order of names."""
    known = read(zoo) if (Path(zoo) / NAME).exists() else {}
    known[entry.name] = entry
    models = [asdict(known[name]) for name in sorted(known)]
    write_json(Path(zoo) / NAME, {"format": FORMAT, "models": models})


def list_models(*, pretrained: bool = False) -> list[str]:
    """Return the names of the zoo's models, or only of those that have weights."""
    return [n for n, e in sorted(read().items()) if e.weights or not pretrained]


def training_of(name: str) -> str | None:
    """Return how long the training of a recipe takes, and its command.

    What its nets start from, by recipes of the zoo, is named behind it.

    Parameters
    ----------
    name : str
        Of a recipe's folder, or of a detector that there is a recipe of for the
        classes of Pascal VOC.

    Returns
    -------
    str or None
        None where there is no such recipe.
    """
    for file in (folder() / place / "recipe.json" for place in (name, f"{name}_voc")):
        if file.is_file():
            recipe = read_json(file)
            first = "".join(
                f"; before it, about {one['hours']:g} hours: {one['command']}"
                for one in _needed(recipe)
            )
            hours = f"about {recipe['hours']:g} hours of two cores"
            return f"{hours} make them: {recipe['command']}{first}"
    return None


def _needed(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the recipes whose runs, ``runs/NAME/...``, one starts from, in order."""
    parts = [recipe.get(part) or {} for part in ("model", "student", "distillation")]
    starts = [p.get(k, "") for p in parts for k in ("trunk", "weights", "teacher")]
    names = [PurePosixPath(start).parts[1] for start in starts if "runs/" in start]
    files = [folder() / name / "recipe.json" for name in dict.fromkeys(names)]
    made = [read_json(file) for file in files if file.is_file()]
    found = [one for before in made for one in (*_needed(before), before)]
    return list({one["command"]: one for one in found}.values())


def unknown(name: Any, known: Sequence[str]) -> ValueError:
    """Return the error that suggests the names nearest to one that is not known."""
    near = difflib.get_close_matches(str(name).lower(), known, n=3, cutoff=0.5)
    words = f"did you mean {', '.join(near)}?" if near else "see list_models()"
    return ValueError(f"model {name!r} is unknown; {words}")
