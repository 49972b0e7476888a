"""Samples of what stages and runs leave, each read as a resumed run and a report do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from gluon_compress.detection_errors import (
    DETECTIONS,
    ImageDetections,
    confusion,
    load_detections,
    save_detections,
)
from gluon_compress.pipeline.results import read_run, read_stage
from gluon_compress.recipe import load_recipe
from gluon_compress.report.run_report import figures, sentence
from gluon_compress.report.tables import cost_cells, plan_cells

STAGE, RUN, RECIPE = "full/result.json", "result.json", "recipe.json"
CLASSES = ("a", "b")


def result_files(recipe: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a finished run that a report reads, by name."""
    group = {"name": "conv0", "width": 8, "kept": 4, "frozen": "", "held": ""}
    saved = {"effect": 0.5, "macs_saved": 1.0, "bytes_saved": 1.0, "layers": ["conv0"]}
    stage = {
        "stage": "full",
        "params": 10,
        "bytes": 40,
        "macs": 100,
        "flops": 200,
        "mAP": 0.5,
        "classes": {"a": 0.5, "b": None},
        "metric": "voc07",
        "iou": 0.5,
        "groups": [{**group, **saved}],
        "seed": 0,
    }
    time = {"median_ms": 2.0, "p10_ms": 1.0, "p90_ms": 3.0}
    data = {"kind": "voc", "root": "none", "test": {"images": 2, "skipped": 0}}
    run = {"stages": {"full": stage}, "latency": {"full": time}, "data": data}
    contents = {STAGE: stage, RUN: {**run, "seed": 0}, RECIPE: recipe}
    return {name: json.dumps(content).encode() for name, content in contents.items()}


def read_results(folder: Path) -> None:
    """Read the results of a run, and make what its report prints of them."""
    recipe = load_recipe(folder / RECIPE)
    stages = {"full": read_stage(folder / STAGE, "full", recipe.metric)}
    results = read_run(folder / RUN, stages)
    cost_cells(figures(recipe, results))
    sentence(recipe, results)
    for stage in stages.values():
        plan_cells(stage.get("groups") or [])


def detection_files(scratch: Path) -> dict[str, bytes]:
    """Return the detections that a stage keeps."""
    label = np.array([[1, 1, 9, 9, 0, 0]], np.float32)
    boxes = np.array([[1, 1, 9, 9], [2, 2, 8, 8]], np.float32)
    found = ImageDetections(label, np.array([0, 1]), np.array([0.9, 0.5]), boxes)
    save_detections(scratch / DETECTIONS, [found, found])
    return {DETECTIONS: (scratch / DETECTIONS).read_bytes()}


def read_detections(folder: Path) -> None:
    """Read detections, and name what is wrong with each."""
    from gluon_compress.report.error_report import ErrorReport

    load_detections(folder / DETECTIONS)
    report = ErrorReport({"full": folder / DETECTIONS}, CLASSES)
    list(report.tables())
    confusion(report.seen["full"], len(CLASSES))
