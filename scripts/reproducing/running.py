"""One experiment: run, after those whose nets it starts from, and its result stored."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from gluon_compress.provenance import ROOT, environment
from reproducing.sums import note

STARTS = re.compile(r'"runs/([^/"]+)/([^/"]+)/([^"]+)"')


def run_one(path: Path, out: Path) -> None:
    """Run an experiment, and before it what it starts from; store or compare."""
    from gluon_compress import pipeline, train
    from gluon_compress.recipe import load_recipe
    from gluon_compress.storage.atomic import read_json

    os.chdir(ROOT)  # recipes name their files from here
    for other in _missing(path):
        run_one(other, ROOT / "runs" / other.parent.parent.name)
    name, place, result = path.parent.name, out / path.parent.name, "result.json"
    print(f"{name}: begins", flush=True)
    options = train.Options(progress=False)
    recipe, facts = load_recipe(path), environment()
    pipeline.run(recipe, place, resume=True, options=options, facts=facts)
    stored = path.with_name(result)
    if stored.exists():
        found, told = (_value(read_json(file)) for file in (place / result, stored))
        print(f"{name}: {found} here, {told} in {stored.relative_to(ROOT)}")
        return
    if (place / "plan.json").exists():
        shutil.copyfile(place / "plan.json", path.with_name("plan.json"))
    shutil.copyfile(place / result, stored)
    note(ROOT / "model_zoo", stored)


def starts(path: Path) -> list[tuple[str, str, str]]:
    """Return set, name and file of the nets of others that a recipe starts from."""
    return list(dict.fromkeys(STARTS.findall(path.read_text(encoding="utf-8"))))


def _missing(path: Path) -> list[Path]:
    """Return the recipes of nets that a recipe starts from and that are not there."""
    absent = [s for s in starts(path) if not Path(ROOT, "runs", *s).exists()]
    found = [ROOT / "model_zoo" / kind / name / path.name for kind, name, _ in absent]
    return [recipe for recipe in found if recipe.exists()]


def _value(whole: dict) -> str:
    last = list(whole["stages"].values())[-1]
    key = next(key for key in ("mAP", "top1") if key in last)
    return f"{key} {last[key]:.4f}"
