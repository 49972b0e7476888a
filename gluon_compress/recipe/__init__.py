"""Recipes: what to build, on which data, how to compress and train it, as JSON.

``detector`` and ``classifier`` are the two kinds; ``common`` is what they share.
"""

from gluon_compress.recipe.classifier import (
    Classifier,
    ClassifierRecipe,
    Images,
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
    "Sparsity",
    "Targets",
]
