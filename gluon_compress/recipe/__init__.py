"""Recipes: experiments as JSON. They compose the settings of the package's parts.

``recipe`` is what all tasks share; ``detection`` and ``classification`` are the two
tasks; ``schema`` writes the JSON Schema by which editors complete and check recipes.
"""

from __future__ import annotations

import os
from typing import Any, Dict, Type

from gluon_compress.data.classification import CLASSIFICATION_SETS
from gluon_compress.data.folders import DATA_FOLDER
from gluon_compress.recipe.classification import ClassificationRecipe
from gluon_compress.recipe.detection import DetectionRecipe
from gluon_compress.recipe.recipe import FORMAT, Recipe
from gluon_compress.storage.atomic import read_json
from gluon_compress.validation import listed, parse, wrong

__all__ = [
    "DATA_FOLDER",
    "FORMAT",
    "RECIPES",
    "ClassificationRecipe",
    "DetectionRecipe",
    "Recipe",
    "load_recipe",
    "parse_recipe",
]

RECIPES: Dict[str, Type[Recipe]] = {
    "detection": DetectionRecipe,
    "classification": ClassificationRecipe,
}


def load_recipe(path: str | os.PathLike, *, task: str | None = None) -> Any:
    """Read a recipe.

    Parameters
    ----------
    path : path
        Of a JSON file.
    task : str, optional
        Refuse recipes of other tasks.

    Returns
    -------
    DetectionRecipe or ClassificationRecipe

    Raises
    ------
    ValueError
        One line that names the file, the key, its value and what is allowed.
    """
    recipe = parse_recipe(read_json(path), path)
    if task is not None and recipe.task != task:
        raise wrong(f"{path}: task", recipe.task, task)
    return recipe


def parse_recipe(content: Any, source: Any = "") -> Any:
    """Return the recipe that the content of a JSON file states.

    Parameters
    ----------
    content : JSON value
        ``"task"`` says which class of ``RECIPES`` it is; recipes written before there
        was such a key are told by their kind of data. ``"$schema"`` is for editors.
    source : path, optional
        Where the content is from; errors start with it.

    Raises
    ------
    ValueError
        One line, as for ``load_recipe``.
    """
    task = "detection"
    if isinstance(content, dict):
        content = {key: v for key, v in content.items() if key != "$schema"}
        task = content.get("task", _task_of(content.get("data")))
    if not isinstance(task, str) or task not in RECIPES:
        place = f"{source}: task" if str(source) else "task"
        raise wrong(place, task, listed(RECIPES))
    return parse(RECIPES[task], content, source)


def _task_of(data: Any) -> str:
    kind = data.get("kind") if isinstance(data, dict) else None
    images = isinstance(kind, str) and kind in CLASSIFICATION_SETS
    return "classification" if images else "detection"
