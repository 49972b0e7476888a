"""Reads sets of experiments: one experiments.json, and the recipes that it stands for.

``model_zoo/SET/experiments.json`` holds

    {"base": RECIPE, "experiments": {NAME: {"extends": …, "seeds": …, "recipe": …}}}

An experiment's recipe is that of ``extends``, by default ``base``, changed by its
``recipe`` as a JSON merge patch (RFC 7396): objects are merged, null removes a key,
anything else replaces. With ``seeds`` it stands for ``NAME_seed0`` and so on. In texts
``{name}``, ``{seed}`` and ``{about}`` stand for the full name, the seed, and the
experiment's ``about``.

Results and plans lie beside it, ``SET/NAME/result.json``. A recipe may start from the
net of another experiment, ``runs/SET/NAME/...``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

from gluon_compress.provenance import ROOT, runs_of
from gluon_compress.storage.atomic import read_json

ZOO = ROOT / "model_zoo"
FILE, RESULT, PLAN = "experiments.json", "result.json", "plan.json"


@dataclass(frozen=True)
class Experiment:
    """One training with one seed.

    Parameters
    ----------
    name : str
        With its seed, if there are several.
    recipe : dict
        JSON, as ``gluon_compress.recipe.parse_recipe`` takes it.
    folder : Path
        Of its result and plan.
    """

    name: str
    recipe: dict[str, Any]
    folder: Path

    @property
    def set_name(self) -> str:
        """The name of the set that it is part of."""
        return self.folder.parent.name

    @property
    def result(self) -> Path:
        """Its result file, which need not exist yet."""
        return self.folder / RESULT


def read_set(folder: Path) -> dict[str, Experiment]:
    """Return the experiments of a set by name, in alphabetical order.

    Raises
    ------
    ValueError
        If the file cannot be read or an experiment extends one that is not there.
    """
    file = folder / FILE
    content = read_json(file)
    rows = content["experiments"]
    experiments = {}
    for row_name, row in rows.items():
        template = _template(row_name, content, file)
        for name, seed in _names(row_name, row.get("seeds")):
            words = {"name": name, "seed": seed, "about": row.get("about", "")}
            recipe = _filled(template, words)
            if seed:
                recipe["seed"] = seed
            experiments[name] = Experiment(name, recipe, folder / name)
    return dict(sorted(experiments.items()))


def _names(name: str, seeds: list[int] | None) -> Iterator[tuple[str, int]]:
    if seeds is None:
        yield name, 0
    else:
        yield from ((f"{name}_seed{seed}", seed) for seed in seeds)


def _template(name: str, content: dict[str, Any], file: Path) -> dict[str, Any]:
    rows = content["experiments"]
    if name not in rows:
        raise ValueError(f"{file}: extends {name!r}; allowed: {', '.join(rows)}")
    row = rows[name]
    parent = row.get("extends")
    start = content["base"] if parent is None else _template(parent, content, file)
    return merged(start, row.get("recipe", {}))


def merged(target: Any, patch: Any) -> Any:
    """Return a JSON value changed by a merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def _filled(value: Any, words: dict[str, Any]) -> Any:
    if isinstance(value, str):
        for name, word in words.items():
            value = value.replace(f"{{{name}}}", str(word))
        return value
    if isinstance(value, dict):
        return {key: _filled(inner, words) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, words) for inner in value]
    return value


def starts_of(recipe: dict[str, Any], zoo: Path = ZOO) -> list[Experiment]:
    """Return the experiments of a zoo whose nets a recipe starts from, each once."""
    experiments: dict[Path, Experiment] = {}
    for run in runs_of(recipe):
        folder = zoo / run.parts[1]
        rows = read_set(folder) if (folder / FILE).exists() else {}
        if len(run.parts) > 2 and run.parts[2] in rows:
            experiment = rows[run.parts[2]]
            experiments[experiment.folder] = experiment
    return list(experiments.values())


def needed_by(recipe: dict[str, Any], zoo: Path = ZOO) -> list[Experiment]:
    """Return what a recipe starts from and what that starts from, in running order."""
    experiments: dict[Path, Experiment] = {}
    for start in starts_of(recipe, zoo):
        for experiment in (*needed_by(start.recipe, zoo), start):
            experiments.setdefault(experiment.folder, experiment)
    return list(experiments.values())
