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
