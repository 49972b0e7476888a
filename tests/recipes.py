"""Recipes of ``tiny_nets`` for the tests of runs, and what they do with them."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest

from gluon_compress import pipeline
from gluon_compress.cost import Latency
from gluon_compress.pipeline import task_of
from gluon_compress.pipeline.stages import Job, open_job
from gluon_compress.recipe import DetectionRecipe, load_recipe
from gluon_compress.train import Options
from tiny_nets import DETECTOR, NAME

QUIET = Options(progress=False)
RECIPE = {
    "paper": "none, a test",
    "command": "pytest",
    "hours": 0.01,
    "expected": {},
    "task": "detection",
    "model": {"name": DETECTOR, "extras": [32, 32, 32]},
    "data": {"kind": "toy", "root": "toy", "train": "train", "test": "test"},
    "train": {"epochs": 1, "batch_size": 4, "learning_rate": 0.01},
    "compression": [
        {
            "algorithm": "prune",
            "criterion": "l1",
            "selection": "uniform",
            "budget": {"macs_ratio": 0.6},
            "multiple": 1,
            "groups": ["tiny_*"],
            "train": {"epochs": 1, "batch_size": 4, "learning_rate": 0.01},
        },
        {"algorithm": "delete", "keep": {"expand*": 0.5}, "multiple": 1},
    ],
    "finetune": {"epochs": 1, "batch_size": 4, "learning_rate": 0.01},
    "distillation": {"losses": {"scores": 1, "boxes": 1, "features": 1}},
}
# Of a classifier.
STEPS = {"epochs": 4, "batch_size": 6, "learning_rate": 0.05}
TRAIN = {
    "paper": "none, a test",
    "command": "pytest",
    "hours": 0.01,
    "expected": {},
    "model": {"name": NAME},
    "data": {
        "kind": "folder",
        "root": "images",
        "size": 48,
        "early_size": 32,
        "early_epochs": 3,
    },
    "train": {**STEPS, "epochs": 30, "weight_decay": 0.0},
}


def recipe_in(folder, **changes) -> DetectionRecipe:
    """Write the recipe, with changes, for images in ``folder/toy``, and load it."""
    content = {**RECIPE, **changes}
    data = {**content["data"], "kind": "voc", "root": str(folder / "toy")}
    (folder / "recipe.json").write_text(json.dumps({**content, "data": data}))
    return load_recipe(folder / "recipe.json")


RUN = importlib.import_module("gluon_compress.pipeline.run")


def do_not_time(monkeypatch) -> None:
    """Let runs state a latency without timing their nets."""
    timed = Latency.of([2.0], "1", "mxnet")
    monkeypatch.setattr(RUN, "latencies_in_turn", lambda nets: [timed] * len(nets))


def make_runs_quick(monkeypatch) -> None:
    """Let runs neither time their nets nor write a report."""
    do_not_time(monkeypatch)
    monkeypatch.setattr(RUN, "write_report", lambda *_: None)


def quick_run(recipe, out, **options) -> dict[str, Any]:
    """Run a recipe, but time no net and write no report."""
    with pytest.MonkeyPatch.context() as patch:
        make_runs_quick(patch)
        return pipeline.run(recipe, out, **{"options": QUIET, **options})


def job_of(recipe, out, options: Options = QUIET) -> Job:
    """Return the job of a run, with its data opened."""
    return open_job(task_of(recipe), out, options, {})
