"""What the scripts that run a recipe share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from common import contexts, environment, parser


def recipe_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of a script that runs a recipe."""
    made = parser(description, run_options=True)
    made.add_argument(
        "--data",
        metavar="DIR",
        help="folder that the recipe's data.root is in; default: "
        "$GLUON_COMPRESS_DATA, or the current folder",
    )
    made.add_argument("--quiet", action="store_true", help="no progress bars")
    return made


def add_own_data(made: argparse.ArgumentParser) -> None:
    """Add the options that put a folder of one's own into a detector's recipe."""
    where = "in VOC layout; from the current folder, not from --data"
    made.add_argument("--images", metavar="FOLDER", help=where)
    made.add_argument("--train", metavar="SPLIT", help="to train on")
    made.add_argument("--test", metavar="SPLIT", help="to measure on")
    made.add_argument("--classes", nargs="+", metavar="NAME", help="what to detect")
    made.add_argument("--seed", type=int, help="of the recipe")


def with_own_data(recipe: Any, args: argparse.Namespace) -> Any:
    """Return a recipe with the options of ``add_own_data`` that were given."""
    data = recipe.data.replace(**given(args, "train", "test", "classes"))
    if args.images:
        # Absolute, so that the folder of recipes is not put before it; and the classes
        # of the recipe are those of other images.
        root, classes = os.path.abspath(args.images), args.classes or None
        data = data.replace(kind="voc", root=root, classes=classes)
    return recipe.replace(data=data, **given(args, "seed"))


def given(args: argparse.Namespace, *names: str) -> dict:
    """Return the options that were given."""
    found = {name: vars(args)[name] for name in names}
    return {n: v for n, v in found.items() if v is not None and v is not False}


def run_recipe(recipe: Any, args: argparse.Namespace) -> None:
    """Run the stages of a recipe, print the table and where the report lies."""
    from gluon_compress import pipeline, summary, train
    from gluon_compress.recipe import DATA_FOLDER

    if args.data:
        os.environ[DATA_FOLDER] = args.data
    options = train.Options(
        ctx=contexts(args.ctx), kvstore=args.kvstore, progress=not args.quiet
    )
    results = pipeline.run(
        recipe, args.out, resume=args.resume, options=options, facts=environment()
    )
    out, last = Path(args.out), list(results["stages"])[-1]
    print(summary.table(results))
    print(f"report: {out / 'report' / 'index.html'}")
    print(f"model:  {out / last / 'model'}")
