"""Sets of experiments: a folder of recipes, run one by one, and a page of results.

Every experiment is FOLDER/NAME/recipe.json; its result.json and plan.json come to lie
beside it. Names that differ in ``_seedN`` alone are one experiment, repeated.
"""

from __future__ import annotations

import os
import shutil
from fnmatch import fnmatchcase
from pathlib import Path

from common import parser
from facts import ROOT, environment
from reproducing.sums import note


def experiment_parser(description: str):
    """Return a parser with the options of a script that runs a set of experiments."""
    made = parser(description)
    made.add_argument("--out", metavar="DIR", help="for the runs")
    made.add_argument("--only", default="*", metavar="PATTERN", help="of names")
    made.add_argument("--check", action="store_true", help="fail if the page is stale")
    return made


def carry_out(folder: Path, page: Path, make_page, args) -> None:
    """Run what has no result yet, where asked to; then write or check the page."""
    if args.out is not None:
        for recipe in _chosen(folder, args.only):
            _run_one(recipe, Path(args.out).resolve())
    text = make_page(folder)
    if not args.check:
        page.write_text(text, encoding="utf-8")
        print(page)
    elif not page.exists() or page.read_text(encoding="utf-8") != text:
        raise ValueError(f"{page}: is stale; without --check it is written")


def _chosen(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob("*/recipe.json"))
    chosen = [p for p in found if fnmatchcase(p.parent.name, pattern)]
    if not chosen:
        raise ValueError(f"--only {pattern!r} fits no folder of {folder}")
    return chosen


def _run_one(path: Path, out: Path) -> None:
    from gluon_compress import pipeline, train
    from gluon_compress.recipe import load_recipe

    place, result = out / path.parent.name, path.with_name("result.json")
    if result.exists():
        return
    print(f"{path.parent.name}: begins", flush=True)
    os.chdir(ROOT)  # recipes name their files from here
    options = train.Options(progress=False)
    recipe, facts = load_recipe(path), environment()
    pipeline.run(recipe, place, resume=True, options=options, facts=facts)
    if (place / "plan.json").exists():
        shutil.copyfile(place / "plan.json", path.with_name("plan.json"))
    shutil.copyfile(place / "result.json", result)
    note(ROOT / "model_zoo", result)
