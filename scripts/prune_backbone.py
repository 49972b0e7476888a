#!/usr/bin/env python
r"""Prune a trained classifier to a budget and fine-tune it: a compact trunk.

  scripts/prune_backbone.py --recipe model_zoo/RECIPE.json --out runs/compact \
    --weights runs/resnet50_v1d_imagenette/full/model --budget macs_ratio=0.25

Options replace what the recipe says of its row "prune". Without weights the classifier
is trained first. DIR/compact/model is the result.
"""

from __future__ import annotations

import argparse

from common import main
from runs import recipe_parser, run_recipe


def budget(text: str) -> dict[str, float]:
    """Return limits given as ``macs_ratio=0.25,params=12e6``."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}; allowed: as macs=1e9, macs_ratio=0.25,bytes=20e6"
        ) from None


def arguments():
    """Return the parser of this script."""
    made = recipe_parser(__doc__)
    made.add_argument("--weights", metavar="MODEL", help="trained classifier to prune")
    made.add_argument("--budget", type=budget, help="macs_ratio=0.25,params=12e6, ...")
    made.add_argument("--criterion", help="what a channel is worth")
    made.add_argument("--selection", help="how channels are chosen by it")
    made.add_argument("--seed", type=int, help="of the recipe")
    return made


def run(args) -> None:
    """Read the recipe, put the options in, and run it."""
    from gluon_compress.recipe import load_recipe

    recipe = load_recipe(args.recipe, task="classification")
    if recipe.finetune is None or not recipe.compression:
        raise ValueError(f"{args.recipe}: has no compression and finetune to prune by")
    given = {k: vars(args)[k] for k in ("budget", "criterion", "selection")}
    given = {name: value for name, value in given.items() if value is not None}
    rows = [
        row.replace(**given) if row.algorithm == "prune" else row
        for row in recipe.compression
    ]
    model = recipe.model.replace(weights=args.weights or recipe.model.weights)
    seed = recipe.seed if args.seed is None else args.seed
    recipe = recipe.replace(model=model, compression=tuple(rows), seed=seed)
    run_recipe(recipe, args)


if __name__ == "__main__":
    main(run, arguments())
