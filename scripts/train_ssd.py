#!/usr/bin/env python
r"""Train an SSD from labels, or with a teacher: full, or in the structure of a plan.

  scripts/train_ssd.py --recipe model_zoo/ssd_300_resnet50_v1d_voc/recipe.json \
    --data FOLDER_OF_VOCdevkit --out runs/voc --ctx 'gpu(0,1)'
  scripts/train_ssd.py --recipe RECIPE --out runs/mine --images MY_FOLDER \
    --classes cat dog --plan plan.json --teacher runs/full/full/model
  scripts/train_ssd.py --recipe RECIPE --out runs/mine --images MY_FOLDER \
    --start model_zoo/ssd_300_mobilenet1.0_bccd

The recipe's data.kind is gluoncv_voc (Pascal VOC; its "trainval" is 2007 and 2012),
coco, or voc (any folder in VOC's layout). Options replace what the recipe says.
DIR/full/model is the net that run_pipeline.py, evaluate.py and export.py take.
"""

from __future__ import annotations

from common import main
from runs import add_own_data, given, recipe_parser, run_recipe, with_own_data


def arguments():
    """Return the parser of this script."""
    made = recipe_parser(__doc__)
    made.add_argument("--teacher", metavar="MODEL", help="detector to learn from, too")
    made.add_argument("--plan", metavar="FILE", help="structure to train")
    made.add_argument(
        "--masks", action="store_true", help="train with the plan as masks, then slim"
    )
    made.add_argument("--trunk", metavar="MODEL", help="classifier to take it from")
    made.add_argument(
        "--start", metavar="MODEL", help="detector to train on from, of any classes"
    )
    add_own_data(made)
    return made


def run(args) -> None:
    """Read the recipe, put the options in, refuse one that compresses, and train."""
    from gluon_compress.recipe import load_recipe
    from gluon_compress.recipe.detection import DetectorDistillation

    recipe = load_recipe(args.recipe, task="detection")
    if recipe.finetune is not None:
        raise ValueError(f"{args.recipe}: compresses; that is for run_pipeline.py")
    model = recipe.model
    if args.start:  # which has a trunk and anchors of its own
        kept = {"name": model.name, "plan": model.plan, "masks": model.masks}
        model = type(model)(**kept)
    model = model.replace(**given(args, "plan", "masks", "trunk", "start"))
    recipe = with_own_data(recipe.replace(model=model), args)
    if args.teacher:
        distillation = recipe.distillation or DetectorDistillation()
        distillation = distillation.replace(teacher=args.teacher)
        recipe = recipe.replace(distillation=distillation)
    run_recipe(recipe, args)


if __name__ == "__main__":
    main(run, arguments())
