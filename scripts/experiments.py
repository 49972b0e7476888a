"""Sets of experiments: a folder of recipes, run one by one, and a page of results.

Every experiment is FOLDER/NAME/recipe.json; its result.json and plan.json come to lie
beside it. Names that differ in ``_seedN`` alone are one experiment, repeated. A recipe
may start from the net of another, ``runs/SET/NAME/...``, which is run first if that is
not there.
"""

from __future__ import annotations

import os
import re
import shutil
from fnmatch import fnmatchcase
from pathlib import Path

from common import parser
from facts import ROOT, environment
from reproducing.sums import note

STARTS = re.compile(r'"runs/([^/"]+)/([^/"]+)/([^"]+)"')


def experiment_parser(description: str):
    """Return a parser with the options of a script that runs a set of experiments."""
    made = parser(description)
    made.add_argument("--out", metavar="DIR", help="for the runs")
    made.add_argument("--only", default="*", metavar="PATTERN", help="of names")
    made.add_argument(
        "--again", action="store_true", help="run what has a result too, and compare"
    )
    made.add_argument("--check", action="store_true", help="fail if the page is stale")
    return made


def carry_out(folder: Path, page: Path, make_page, args) -> None:
    """Run what has no result yet, where asked to; then write or check the page."""
    if args.out is not None:
        for recipe in _chosen(folder, args.only):
            if args.again or not recipe.with_name("result.json").exists():
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
    """Run an experiment, and before it what it starts from; store or compare."""
    from gluon_compress import pipeline, train
    from gluon_compress.files import read_json
    from gluon_compress.recipe import load_recipe

    os.chdir(ROOT)  # recipes name their files from here
    for other in _missing(path):
        _run_one(other, ROOT / "runs" / other.parent.parent.name)
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
