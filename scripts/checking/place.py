"""A folder where the commands of the pages run in minutes: small data, small nets."""

from __future__ import annotations

import shutil
from pathlib import Path

from gluon_compress.provenance import ROOT

SMALL = {"name": "ssd_300_mobilenet0.25", "extras": [32, 32, 32]}
ONCE = {"epochs": 1, "batch_size": 8, "learning_rate": 0.01}
BUDGET = {"macs_ratio": 0.6}


def furnish(folder: Path) -> None:
    """Put into a folder what a reader of the pages has: images, recipes, a demo."""
    from gluon_compress import pipeline, train
    from gluon_compress.data import make_toy
    from gluon_compress.recipe import load_recipe

    (folder / ".venv").symlink_to(ROOT / ".venv")
    for name in ("scripts", "docs", "gluon_compress"):
        (folder / name).symlink_to(ROOT / name)
    make_toy(folder / "runs" / "toy", images=32)
    for name in ("pets", "photos"):
        shutil.copytree(folder / "runs" / "toy", folder / name)
    shutil.copytree(
        folder / "pets" / "JPEGImages", folder / "photos", dirs_exist_ok=True
    )
    _photograph(folder)
    for path in sorted((ROOT / "model_zoo").glob("*/recipe.json")):
        _shrink(path, folder / "model_zoo" / path.parent.name / path.name)
    shutil.copytree(
        ROOT / "model_zoo" / "imagenette",
        folder / "model_zoo" / "imagenette",
        ignore=shutil.ignore_patterns("*.params"),
    )
    demo = load_recipe(folder / "model_zoo" / "ssd_300_toy" / "recipe.json")
    pipeline.run(demo, folder / "runs" / "demo", options=train.Options(progress=False))


def _photograph(folder: Path) -> None:
    import cv2

    first = cv2.imread(str(sorted((folder / "photos").glob("*.jpg"))[0]))
    for name in ("photo.jpg", "photo.ppm"):
        cv2.imwrite(str(folder / name), first)


def _shrink(source: Path, target: Path) -> None:
    """Write a detector's recipe with a small net and one epoch; others are left out."""
    from gluon_compress.storage.atomic import read_json, write_json

    recipe = read_json(source)
    if not recipe["model"]["name"].startswith("ssd"):
        return
    recipe["model"] = SMALL
    for part in ("train", "finetune"):
        if part in recipe:
            recipe[part] = ONCE
    for step in recipe.get("compression", ()):
        step.pop("train", None)
        if step["algorithm"] == "prune":
            step.update(budget=BUDGET, groups=["*"], classes=None)
    target.parent.mkdir(parents=True)
    write_json(target, recipe)
