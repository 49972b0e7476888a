"""Recipes: what to build, on which data, how to compress and train it, as JSON.

``detector`` and ``classifier`` are the two kinds; ``common`` is what they share.
"""

from __future__ import annotations

import os
from typing import Mapping

from gluon_compress.checks import part
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


def load_recipe(source: str | os.PathLike | Mapping) -> Recipe | ClassifierRecipe:
    """Read a recipe of either kind; its data tell which it is.

    Parameters
    ----------
    source : path or mapping
        A file, or a recipe's JSON.

    Raises
    ------
    ValueError
        As the ``load`` of both; for a mapping without a file's name.
    """
    content = source if isinstance(source, Mapping) else read_json(source)
    data = content.get("data") if isinstance(content, Mapping) else None
    images = isinstance(data, Mapping) and data.get("kind") in KINDS
    kind = ClassifierRecipe if images else Recipe
    return part(kind)(content, "") if content is source else kind.load(source)
