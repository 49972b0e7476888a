"""The model zoo: models by name, with weights that are fetched, checked and kept."""

from __future__ import annotations

from gluon_compress.zoo.get import get_model, load_folder
from gluon_compress.zoo.index import Entry, Metric, Weights, add, list_models, read
from gluon_compress.zoo.release import release
from gluon_compress.zoo.weights import REPO, find, load

__all__ = [
    "REPO",
    "Entry",
    "Metric",
    "Weights",
    "add",
    "find",
    "get_model",
    "list_models",
    "load",
    "load_folder",
    "read",
    "release",
]
