"""Puts a finished run into the model zoo: structure, weights, figures and a card."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.results import note
from experiments.sets import PLAN, RESULT, ZOO
from gluon_compress.cli.app import Command
from gluon_compress.detection_errors import DETECTIONS, load_detections
from gluon_compress.model_folder import read_manifest
from tools.accuracy import FILE, accuracy_of
from tools.card import card

TEXT = """Publish a finished run in the model zoo: structure, weights, figures, card.

  %(prog)s runs/demo --name ssd_300_toy --licence Apache-2.0
  %(prog)s model_zoo/ssd_300_resnet50_v1d_compact --untrained --licence MIT

Writes model_zoo/NAME and the model's row of model_zoo/index.json. Weights are stored in
float16 if the recipe's metric, measured again with the stored weights, stays within 0.1
point, otherwise in float32. With --untrained the folder holds a recipe and a plan, and
their structure is released without weights.
"""
NEAR = 1e-3  # of the metric: what float16 may cost


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="DIR", help="of run_pipeline.py and its like")
    parser.add_argument("--name", help="of the model; default: that of DIR")
    parser.add_argument("--licence", required=True, help="of the weights")
    parser.add_argument("--data", metavar="DIR", help="folder that holds data.root")
    parser.add_argument("--of", help="name of the data; default: data.root's last part")
    parser.add_argument("--untrained", action="store_true", help="only the structure")
    parser.add_argument("--zoo", default=ZOO, metavar="DIR")


def _release(args: argparse.Namespace) -> None:
    """Store, measure what is stored, and write the row and the card."""
    from gluon_compress import zoo
    from gluon_compress.recipe import DATA_FOLDER
    from gluon_compress.storage.atomic import write_atomically
    from gluon_compress.storage.locks import sole_writer

    if args.data:
        os.environ[DATA_FOLDER] = args.data
    args.name = args.name or Path(args.run).name
    folder = Path(args.zoo, args.name)
    with sole_writer(folder), TemporaryDirectory() as place:
        entry = (_untrained if args.untrained else _trained)(args, Path(place))
        # All of it is there, and measured: only now the zoo changes.
        shutil.copytree(Path(place, args.name), folder, dirs_exist_ok=True)
        zoo.add(entry, args.zoo)
        if entry.weights:
            note(Path(args.zoo), folder / RESULT)
        write_atomically(folder / "README.md", card(entry, folder))
    print(folder)


def _trained(args: argparse.Namespace, draft: Path) -> Any:
    """Store the last stage of a run; return its row of the index."""
    from gluon_compress import pipeline, zoo
    from gluon_compress.recipe import load_recipe
    from gluon_compress.storage.atomic import read_json, write_json

    source, folder = Path(args.run), draft / args.name
    recipe, result = load_recipe(source / "recipe.json"), read_json(source / RESULT)
    stage = list(result["stages"])[-1]
    key = recipe.metric
    figures, released = result["stages"][stage], {}
    for kind in ("float16", "float32"):
        weights = zoo.release(source / stage / "model", draft, args.name, kind=kind)
        net = zoo.load_folder(folder, zoo.load(draft / weights.file))
        released[kind] = pipeline.judge(recipe, net, folder=draft)[key]
        if abs(released[kind] - figures[key]) <= NEAR:
            break
    write_json(folder / RESULT, {**result, "released": released})
    split = getattr(recipe.data, "test", recipe.data.val)
    on = f"{_data(args, recipe)} {split}"
    metric = zoo.Metric(name=key, value=released[kind], on=on)
    if (draft / DETECTIONS).exists():
        accuracy = _accuracy(args, recipe, net, draft, on)
        write_json(folder / FILE, accuracy)
    return _entry(args, draft, recipe, figures, metric=metric, weights=weights)


def _accuracy(
    args: argparse.Namespace, recipe: Any, net: Any, draft: Path, on: str
) -> dict[str, Any]:
    """Return what the card shows of a detector, from what it found just now."""
    from gluon_compress import pipeline

    found = load_detections(draft / DETECTIONS)
    settings, chosen = recipe.data, {}
    if settings.val not in (None, settings.test):
        # A threshold is chosen on images that are not those to measure on.
        other = recipe.replace(data=settings.replace(test=settings.val))
        pipeline.judge(other, net, folder=draft)
        chosen = {
            "chosen": load_detections(draft / DETECTIONS),
            "chosen_on": f"{_data(args, recipe)} {settings.val}",
        }
    names = read_manifest(draft / args.name)["classes"]
    return accuracy_of(found, names, on, **chosen)


def _untrained(args: argparse.Namespace, draft: Path) -> Any:
    """Store the structure that a recipe and its plan give; return its row."""
    from gluon_compress import models, pipeline, zoo
    from gluon_compress.plan import Plan
    from gluon_compress.recipe import load_recipe

    source = Path(args.run)
    recipe, plan = load_recipe(source / "recipe.json"), Plan.load(source / PLAN)
    net, save = pipeline.structure(recipe, recipe.data.classes, plan)
    save(net, draft / "export", args.name)
    zoo.release(draft / "export", draft, args.name, kind=None)
    return _entry(args, draft, recipe, models.cost_of(net))


def _data(args: argparse.Namespace, recipe: Any) -> str:
    return args.of or Path(recipe.data.root).name


def _entry(
    args: argparse.Namespace, draft: Path, recipe: Any, figures: dict, **trained: Any
) -> Any:
    from gluon_compress import zoo

    for file in ("recipe.json", PLAN):  # which the card names
        if Path(args.run, file).exists():
            shutil.copyfile(Path(args.run, file), draft / args.name / file)
    manifest = read_manifest(draft / args.name)
    return zoo.Entry(
        name=args.name,
        kind=manifest["kind"],
        classes=manifest["classes"],
        data=_data(args, recipe),
        size=recipe.data.size,
        **{key: figures[key] for key in ("params", "macs", "bytes")},
        licence=args.licence,
        command=recipe.command,
        hours=recipe.hours,
        **trained,
    )


COMMAND = Command(TEXT, _add_options, _release)
