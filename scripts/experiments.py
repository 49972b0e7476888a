"""Sets of experiments: a folder of recipes, run one by one, and a page of results.

Every experiment is FOLDER/NAME/recipe.json; its result.json and plan.json come to lie
beside it. Names that differ in ``_seedN`` alone are one experiment, repeated. A recipe
may start from the net of another, ``runs/SET/NAME/...``, which is run first if that is
not there.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path

from common import parser
from reproducing import sums
from reproducing.running import run_one


def experiment_parser(description: str):
    """Return a parser with the options of a script that runs a set of experiments."""
    made = parser(description)
    made.add_argument("--out", metavar="DIR", help="for the runs")
    made.add_argument("--data", metavar="DIR", help="folder that the images are in")
    made.add_argument("--only", default="*", metavar="PATTERN", help="of names")
    made.add_argument(
        "--again", action="store_true", help="run what has a result too, and compare"
    )
    made.add_argument("--check", action="store_true", help="fail if the page is stale")
    return made


def carry_out(folder: Path, page: Path, make_page, args) -> None:
    """Run what has no result yet, where asked to; then write or check the page."""
    from gluon_compress.recipe import DATA_FOLDER

    if args.data is not None:
        os.environ[DATA_FOLDER] = str(Path(args.data).resolve())
    sums.check(folder.parent)
    if args.out is not None:
        for recipe in _chosen(folder, args.only):
            if args.again or not recipe.with_name("result.json").exists():
                run_one(recipe, Path(args.out).resolve())
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
