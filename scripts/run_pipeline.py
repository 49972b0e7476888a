#!/usr/bin/env python
r"""Go the whole way from a recipe to an exported, evaluated compact detector.

  scripts/run_pipeline.py --recipe model_zoo/ssd_300_toy/recipe.json --out runs/demo
  scripts/run_pipeline.py --recipe model_zoo/ssd_300_resnet50_v1d_own/recipe.json \
    --images MY_FOLDER --out runs/mine

Stages: train the full detector, choose and mask channels, slim, delete the branch
channels, fine-tune with the full detector as teacher, export and check, report. Each
writes its result.json into DIR; --resume goes on behind the last complete stage, and
inside a training from its last checkpoint. Options replace what the recipe says;
without --classes they are those of MY_FOLDER/classes.txt, or all that are found.
"""

from __future__ import annotations

from common import main
from runs import add_own_data, recipe_parser, run_recipe, with_own_data


def arguments():
    """Return the parser of this script."""
    made = recipe_parser(__doc__)
    add_own_data(made)
    return made


def run(args) -> None:
    """Read the recipe and run it."""
    from gluon_compress.recipe import load_recipe

    recipe = load_recipe(args.recipe, task="detection")
    run_recipe(with_own_data(recipe, args), args)


if __name__ == "__main__":
    main(run, arguments())
