"""Writes model cards: use, accuracy, size, and how a model was trained."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any, Mapping

from experiments.sets import RESULT, Experiment, needed_by
from gluon_compress.markdown import table
from gluon_compress.provenance import ROOT
from gluon_compress.report.tables import RUNTIME_NAMES
from gluon_compress.sizes import size_pair
from gluon_compress.storage.atomic import read_json
from tools.accuracy import FILE as ACCURACY
from tools.accuracy import accuracy_text
from tools.origins import IMAGES, TRUNKS, origins, trunks_of

PYTHON = ".venv/bin/python"  # of a checkout
TASKS = {"detection": "object detection", "classification": "image classification"}
SHOWN = 20  # classes that are named
LATENCY_NOTE = (
    "measured on a busy machine, so not comparable between cards; "
    "see the [benchmark](../../docs/benchmark/benchmark.md)"
)
FROM_A_CHECKOUT = {
    "detection": "From a checkout: detect on your images, reproduce the metric, export "
    "for a device. DIR contains the data set of the metric.",
    "classification": "From a checkout, reproduce the metric. DIR contains its data "
    "set. Images are centre-cropped (`data.crop_val_sample`) and normalised "
    "(`data.normalize`).",
}


def card(entry: Any, folder: Path) -> str:
    """Return the page of a model, from its row of the index and its files alone."""
    result = read_json(folder / RESULT) if (folder / RESULT).exists() else {}
    parts = [
        f"# {entry.name}",
        _introduction(entry),
        table(("", ""), figures(entry, result)).rstrip(),
        *_accuracy(folder),
        "## Use",
        use(entry, folder),
        "## Training",
        training(entry, folder),
        *_origins(folder),
        "## Limits",
        _limits(entry),
    ]
    return "\n\n".join(parts) + "\n"


def _accuracy(folder: Path) -> list[str]:
    """Return what a detector finds and gets wrong, where that was measured."""
    if not (folder / ACCURACY).exists():
        return []
    return ["## Accuracy", accuracy_text(read_json(folder / ACCURACY))]


def _origins(folder: Path) -> list[str]:
    """Return what the trunk has seen, and whose the images are, where that is known."""
    if not (folder / ACCURACY).exists():
        return []
    recipe = read_json(folder / "recipe.json")
    recipes = [*(e.recipe for e in needed_by(recipe, folder.parent)), recipe]
    trunks = [trunk for each in recipes for trunk in trunks_of(each)]
    seen = [f"- {text}" for text in origins(trunks, TRUNKS)]
    if not trunks:
        seen = ["- No trunk: all weights were random at first."]
    roots = [each["data"]["root"] for each in recipes]
    images = [f"- {text}" for text in origins(roots, IMAGES)]
    return ["### What it has seen", "\n".join([*seen, *images])]


def _introduction(entry: Any) -> str:
    names = ", ".join(entry.classes[:SHOWN])
    more = len(entry.classes) - SHOWN
    names += f" and {more} more" if more > 0 else ""
    state = "trained on" if entry.weights else "an untrained structure for"
    return (
        f"For {TASKS[_task(entry)]}, {state} {entry.data}: {names}. Input: "
        f"{' × '.join(map(str, size_pair(entry.size)))} pixels."
    )


def _task(entry: Any) -> str:
    from gluon_compress.models import family_named

    return family_named(entry.kind).task


def figures(entry: Any, result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what was counted and measured, in words."""
    rows = [
        ("parameters", f"{entry.params / 1e6:.2f} M, {entry.bytes / 1e6:.2f} MB"),
        ("MACs", f"{entry.macs / 1e9:.3f} G ({2 * entry.macs / 1e9:.3f} GFLOPs)"),
        ("licence", entry.licence),
    ]
    if entry.metric:
        value = f"{100 * entry.metric.value:.1f} on {entry.metric.on}"
        kind = list(result["released"])[-1]
        rows.insert(0, (entry.metric.name, value))
        rows.append(("weights", f"{entry.weights.bytes / 1e6:.2f} MB, {kind}"))
    if result.get("latency"):
        speed = list(result["latency"].values())[-1]  # of the net that is released
        hardware = result["hardware"]
        runtime = RUNTIME_NAMES[speed.get("runtime", "mxnet")]
        where = f"{_threads(hardware)} of {hardware['cpu']}, {runtime}"
        ms = f"{speed['median_ms']:.1f} ms, batch 1, {where}; {LATENCY_NOTE}"
        rows.append(("latency", ms))
    return rows


def use(entry: Any, folder: Path) -> str:
    """Return how to load a model, measure it, and put it to work."""
    weights = ", pretrained=True" if entry.weights else ""
    python = f"""```python
import gluon_compress as gc

net = gc.get_model("{entry.name}"{weights})
```"""
    if not entry.weights:
        return python
    place, data = f"model_zoo/{entry.name}", read_json(folder / "recipe.json")["data"]
    split = data.get("test") or data.get("val")
    images = f"--data DIR/{data['root']} --split {split}"
    if _task(entry) == "detection":
        commands = [
            f"scripts/detect.py {place} IMAGES --out found",
            f"scripts/evaluate.py {place} {images}",
            f"scripts/export.py {place} --out edge --formats onnx --images IMAGES",
        ]
    else:
        commands = [f"scripts/evaluate_classifier.py {place} {images}"]
    lines = "\n".join(f"    {PYTHON} {command}" for command in commands)
    return f"{python}\n\n{FROM_A_CHECKOUT[_task(entry)]}\n\n{lines}"


# ---------------------------------------------------------------- training


def training(entry: Any, folder: Path) -> str:
    """Return how a model was trained, or is to be trained."""
    recipe = read_json(folder / "recipe.json")
    command = f"    {PYTHON} {_with_data(entry.command)}\n\n"
    plan = " and [plan.json](plan.json)" if (folder / "plan.json").exists() else ""
    files = f"[recipe.json](recipe.json){plan}"
    if not entry.weights:
        return (
            f"{command}Not run here; estimated at {entry.hours:g} hours on two cores. "
            f"Settings: {files}.{_trunk(entry, folder)}"
        )
    experiments = needed_by(recipe, folder.parent)
    roots = [one.recipe["data"]["root"] for one in experiments]
    names = dict.fromkeys([*roots, recipe["data"]["root"]])
    return (
        f"{command}Training took {hours_of(folder, recipe)} of a busy machine. "
        f"Settings: {files}. Figures: [result.json](result.json)."
        f"{_before(experiments)} Images are read from "
        f"{' and '.join(f'DIR/{name}' for name in names)}."
    )


def _with_data(command: str) -> str:
    return command if "--data" in command else f"{command} --data DIR"


def _before(experiments: list[Experiment]) -> str:
    """Return which nets a run needs, in the order they are trained, and their hours."""
    if not experiments:
        return ""
    links = []
    for experiment in experiments:
        name = f"{experiment.set_name}/{experiment.name}"
        hours = hours_of(experiment.folder, experiment.recipe)
        link = f"../{experiment.set_name}/experiments.json"
        links.append(f"[{name}]({link}) ({hours})")
    return f" Missing prerequisites are trained first: {', '.join(links)}."


def _trunk(entry: Any, folder: Path) -> str:
    """Return what a detector that was not trained here is to start from."""
    if _task(entry) != "detection":
        return ""
    trunk = read_json(folder / "recipe.json")["model"].get("trunk")
    if trunk is None:
        return " It starts from random weights."
    source = folder.parent / PurePosixPath(trunk).parts[1]
    if not (source / "recipe.json").exists():
        return f" Its backbone, `{trunk}`, is trained first."
    hours = hours_of(source, read_json(source / "recipe.json"))
    return (
        f" Its backbone, `{trunk}`, is trained first by the recipe [{source.name}]"
        f"(../{source.name}/recipe.json): {hours} more."
    )


def hours_of(folder: Path, recipe: dict[str, Any]) -> str:
    """Return the hours of a training in words: measured where its result says them."""
    file = folder / RESULT
    stages = read_json(file)["stages"].values() if file.exists() else ()
    trained = [stage for stage in stages if stage.get("train_seconds")]
    if not trained:
        return f"about {recipe['hours']:g} hours"
    hours = sum(stage["train_seconds"] for stage in trained) / 3600
    return f"{hours:.1f} hours on {_threads(trained[-1]['hardware'])}"


def _threads(hardware: Mapping[str, Any]) -> str:
    count = hardware["threads"]
    return f"{count} thread{'s' * (count > 1)}"


# ---------------------------------------------------------------- limits


def _limits(entry: Any) -> str:
    if not entry.weights:
        return "Its accuracy is unknown: it was never trained."
    text = (
        f"It was trained and measured on {entry.data} only. Scores are not calibrated "
        "probabilities"
    )
    if _task(entry) == "detection":
        text += (
            ". After few epochs of training, few scores reach 0.5, the default "
            "threshold of `scripts/detect.py`; lower it with `--threshold`"
        )
    page = re.search(r"--out runs/(\w+) ", entry.command)
    if page and (ROOT / "docs" / f"{page[1]}.md").exists():
        text += (
            f". [{page[1]}.md](../../docs/{page[1]}.md) compares it with other nets, "
            "some of them trained longer"
        )
    return f"{text}."
