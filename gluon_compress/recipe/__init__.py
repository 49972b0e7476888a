"""Recipes: what to build, on which data, how to compress and train it, as JSON.

``detector`` and ``classifier`` are the two kinds; ``common`` is what they share.
"""

from __future__ import annotations

import os

from gluon_compress.recipe.classifier import (
    KINDS,
    Classifier,
    ClassifierRecipe,
    Images,
    SoftTargets,
    Targets,
)
from gluon_compress.recipe.common import (
    ALGORITHMS,
    DATA_FOLDER,
    FORMAT,
    Delete,
    Prune,
    Rounds,
    Schedule,
    Sensitivity,
    Sparsity,
)
from gluon_compress.recipe.detector import Data, Distillation, Evaluate, Model, Recipe
from gluon_compress.storage.atomic import read_json

__all__ = [
    "ALGORITHMS",
    "DATA_FOLDER",
    "FORMAT",
    "Classifier",
    "ClassifierRecipe",
    "Data",
    "Delete",
    "Distillation",
    "Evaluate",
    "Images",
    "Model",
    "Prune",
    "Recipe",
    "Rounds",
    "Schedule",
    "Sensitivity",
    "SoftTargets",
    "Sparsity",
    "Targets",
    "load_recipe",
]


def load_recipe(path: str | os.PathLike) -> Recipe | ClassifierRecipe:
    """Read a recipe of either kind; its data tell which it is.

    Raises
    ------
    ValueError
        As the ``load`` of both.
    """
    content = read_json(path)
    data = content.get("data") if isinstance(content, dict) else None
    images = isinstance(data, dict) and data.get("kind") in KINDS
    return (ClassifierRecipe if images else Recipe).load(path)
