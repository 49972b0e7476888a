#!/usr/bin/env python
"""Go the whole way from a recipe to an exported, evaluated compact detector.

  scripts/run_pipeline.py --recipe model_zoo/ssd_300_toy/recipe.json --out runs/demo

Stages: train the full detector, choose and mask channels, slim, delete the branch
channels, fine-tune with the full detector as teacher, export and check, report. Each
writes its result.json into DIR; --resume goes on behind the last complete stage, and
inside a training from its last checkpoint.
"""

from __future__ import annotations

import os
from pathlib import Path

from common import contexts, environment, main, parser


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__, run_options=True)
    made.add_argument(
        "--data",
        metavar="DIR",
        help="folder that the recipe's data.root is in; default: "
        "$GLUON_COMPRESS_DATA, or the current folder",
    )
    made.add_argument("--quiet", action="store_true", help="no progress bars")
    return made


def run(args) -> None:
    """Read the recipe, run its stages, print the table and where the report lies."""
    from gluon_compress import pipeline, summary, train
    from gluon_compress.recipe import DATA_FOLDER, Recipe

    if args.data:
        os.environ[DATA_FOLDER] = args.data
    options = train.Options(
        ctx=contexts(args.ctx), kvstore=args.kvstore, progress=not args.quiet
    )
    recipe = Recipe.load(args.recipe)
    results = pipeline.run(
        recipe, args.out, resume=args.resume, options=options, facts=environment()
    )
    out = Path(args.out)
    print(summary.table(results))
    print(f"report: {out / 'report' / 'index.html'}")
    print(f"model:  {out / 'compact' / 'model'}")


if __name__ == "__main__":
    main(run, arguments())
