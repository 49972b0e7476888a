#!/usr/bin/env python
r"""Train a classifier of GluonCV's zoo on images in ImageNet's layout.

  scripts/train_classifier.py --recipe model_zoo/resnet50_v1d_imagenette/recipe.json \
    --out runs/resnet50_v1d_imagenette

The images are DATA/train/CLASS/*.JPEG and DATA/val/CLASS/*.JPEG, or train.rec and
val.rec with their indices (data.kind "record" in the recipe). DIR/full/model is the
net, which prune_backbone.py takes, and which a detector can have as its trunk.
"""

from __future__ import annotations

from common import main
from runs import recipe_parser, run_recipe


def arguments():
    """Return the parser of this script."""
    return recipe_parser(__doc__)


def run(args) -> None:
    """Read the recipe, refuse one that prunes, and train."""
    from gluon_compress.recipe import load_recipe

    recipe = load_recipe(args.recipe, task="classification")
    if recipe.finetune is not None:
        raise ValueError(f"{args.recipe}: compresses; that is for prune_backbone.py")
    run_recipe(recipe, args)


if __name__ == "__main__":
    main(run, arguments())
