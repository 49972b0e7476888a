#!/usr/bin/env python
"""Go the whole way from a recipe to an exported, evaluated compact detector.

  scripts/run_pipeline.py --recipe model_zoo/ssd_300_toy/recipe.json --out runs/demo

Stages: train the full detector, choose and mask channels, slim, delete the branch
channels, fine-tune with the full detector as teacher, export and check, report. Each
writes its result.json into DIR; --resume goes on behind the last complete stage, and
inside a training from its last checkpoint.
"""

from __future__ import annotations

from common import main
from runs import recipe_parser, run_recipe


def arguments():
    """Return the parser of this script."""
    return recipe_parser(__doc__)


def run(args) -> None:
    """Read the recipe and run it."""
    from gluon_compress.recipe import Recipe

    run_recipe(Recipe.load(args.recipe), args)


if __name__ == "__main__":
    main(run, arguments())
