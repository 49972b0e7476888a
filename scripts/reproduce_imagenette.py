#!/usr/bin/env python
"""Run the pruning experiments on Imagenette and write their tables.

  scripts/reproduce_imagenette.py --out runs/imagenette            # all that is missing
  scripts/reproduce_imagenette.py --out runs/imagenette --only 'l1*'
  scripts/reproduce_imagenette.py                                  # the page alone

Every experiment is a recipe of model_zoo/imagenette. Its result.json and plan come to
lie beside it, and docs/imagenette.md is made from these files alone. Two processes with
one thread each, with different --only, use two cores better than one with two.
"""

from __future__ import annotations

import os
import shutil
from fnmatch import fnmatchcase
from pathlib import Path

from common import environment, main, parser
from facts import ROOT
from imagenette import page

RECIPES = ROOT / "model_zoo" / "imagenette"
PAGE = ROOT / "docs" / "imagenette.md"


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("--out", metavar="DIR", help="for the runs")
    made.add_argument("--only", default="*", metavar="PATTERN", help="of names")
    made.add_argument("--check", action="store_true", help="fail if the page is stale")
    return made


def run(args) -> None:
    """Run what has no result yet, then write or check the page."""
    if args.out is not None:
        for recipe in _chosen(args.only):
            _run_one(recipe, Path(args.out))
    text = page(RECIPES)
    if args.check:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            raise ValueError(f"{PAGE}: is stale; without --check it is written")
        return
    PAGE.write_text(text, encoding="utf-8")
    print(PAGE)


def _chosen(pattern: str) -> list[Path]:
    found = sorted(RECIPES.glob("*/recipe.json"))
    chosen = [p for p in found if fnmatchcase(p.parent.name, pattern)]
    if not chosen:
        raise ValueError(f"--only {pattern!r} fits no folder of {RECIPES}")
    return chosen


def _run_one(path: Path, out: Path) -> None:
    from gluon_compress import pipeline, train
    from gluon_compress.recipe import ClassifierRecipe

    place = out / path.parent.name
    result = path.with_name("result.json")
    if result.exists():
        return
    print(f"{path.parent.name}: begins", flush=True)
    os.chdir(ROOT)  # recipes name their files from here
    recipe = ClassifierRecipe.load(path)
    options = train.Options(progress=False)
    pipeline.run(recipe, place, resume=True, options=options, facts=environment())
    for plan in place.glob("*/plan.json"):
        shutil.copyfile(plan, path.with_name("plan.json"))
    shutil.copyfile(place / "result.json", result)


if __name__ == "__main__":
    main(run, arguments())
