"""Commands that carry out a recipe: run, train, prune and plan.

Options change the recipe's JSON before it is read, so that what they give is checked as
what the file says is.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any, Dict

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import (
    add_devices,
    add_others,
    add_out,
    add_resized,
    add_sweep,
    contexts,
    refuse,
    sweep_of,
    write_result,
)
from gluon_compress.provenance import environment

Content = Dict[str, Any]  # a recipe's JSON
SCORED = "score the plans of searches and sensitivities"

RUN_TEXT = r"""Carry out a recipe, from training to an exported, evaluated compact net.

  %(prog)s --recipe model_zoo/ssd_300_toy/recipe.json --out runs/demo
  %(prog)s --recipe model_zoo/ssd_300_resnet50_v1d_own/recipe.json \
    --images MY_FOLDER --out runs/mine

Stages: train the full net, choose and mask channels, slim, delete the branch channels,
fine-tune with the full net as teacher, export and check, report. Each writes its
result.json into DIR; --resume continues after the last complete stage, and inside a
training from its last checkpoint. Options replace what the recipe says; without
--classes they are those of MY_FOLDER/classes.txt, or all that are found.
"""

TRAIN_TEXT = r"""Train a net: a detector or a classifier, from labels or with a teacher.

  %(prog)s --recipe model_zoo/ssd_300_resnet50_v1d_voc/recipe.json \
    --data FOLDER_OF_VOCdevkit --out runs/voc --ctx 'gpu(0,1)'
  %(prog)s --recipe RECIPE --out runs/mine --images MY_FOLDER \
    --classes cat dog --plan plan.json --teacher runs/full/full/model
  %(prog)s --recipe RECIPE --out runs/mine --images MY_FOLDER \
    --start model_zoo/ssd_300_mobilenet1.0_bccd

The recipe's data.kind is gluoncv_voc (Pascal VOC; its "trainval" is 2007 and 2012),
coco, or voc (any folder in VOC's layout); for a classifier folder or record. Options
replace what the recipe says, and all but --data are for detectors. DIR/full/model is
the net that the other commands take.
"""

TRAIN_CLASSIFIER_TEXT = r"""Train a classifier of GluonCV's zoo on ImageNet's layout.

  %(prog)s --recipe model_zoo/resnet50_v1d_imagenette/recipe.json \
    --out runs/resnet50_v1d_imagenette

The images are DATA/train/CLASS/*.JPEG and DATA/val/CLASS/*.JPEG, or train.rec and
val.rec with their indices (data.kind "record" in the recipe). DIR/full/model is the net
that can be pruned, and which a detector can have as its trunk.
"""

PRUNE_TEXT = r"""Prune a trained net to a budget and fine-tune it.

  %(prog)s --recipe model_zoo/RECIPE.json --out runs/compact \
    --weights runs/resnet50_v1d_imagenette/full/model --budget macs_ratio=0.25

Options replace what the recipe says of its row "prune". Without weights the net is
trained first. DIR/compact/model is the result: of a classifier, a compact trunk.
"""

PLAN_TEXT = """Plan what a recipe compresses, without data or training.

  %(prog)s --recipe model_zoo/ssd_300_resnet50_v1d_compact/recipe.json --out DIR

Writes DIR/plan.json, one plan for all rows of the recipe, and DIR/result.json with what
the net costs before and after. The net has the values that the recipe's seed gives, so
the same recipe gives the same plan, byte for byte; a run decides anew with trained
values. A trunk that does not exist yet counts as one with the seed's values.

A row that deletes keeps the multiple of channels that is nearest to its share, and one
multiple at least: at the usual 16, a share of 0.3 leaves 16 of 64 channels, and a group
of 16 stays whole. A share that rounds to less than one channel is refused.
"""


# ---------------------------------------------------------------- options


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that trains."""
    add_devices(parser)
    parser.add_argument("--recipe", required=True, metavar="FILE", help="a JSON file")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder of the results"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in DIR")
    parser.add_argument(
        "--kvstore",
        help="as in gluon.Trainer; default: device, or dist_sync under launch",
    )
    parser.add_argument(
        "--gradient-threshold",
        type=float,
        metavar="T",
        help="under launch: send gradients in 2 bits a number, -T, 0 or T, and keep "
        "the rest for later steps",
    )
    parser.add_argument(
        "--fast-sums",
        action="store_true",
        help="under launch, with more than two workers: send half as many bytes, but "
        "the last digit of sums may differ from run to run",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder that holds the recipe's data.root; default: "
        "$GLUON_COMPRESS_DATA, or the current folder",
    )
    add_others(parser)
    add_resized(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check",
        action="store_true",
        help="only check the data, as check-data does; the page is in DIR_check",
    )


def add_own_data(parser: argparse.ArgumentParser) -> None:
    """Add the options that replace the data of a detector's recipe."""
    text = "folder in VOC layout; from the current folder, not from --data"
    parser.add_argument("--images", metavar="FOLDER", help=text)
    parser.add_argument("--train", metavar="SPLIT", help="split to train on")
    parser.add_argument("--test", metavar="SPLIT", help="split to measure on")
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="classes to detect"
    )
    parser.add_argument("--seed", type=int, help="replaces the recipe's")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    add_recipe_options(parser)
    add_sweep(parser, SCORED)
    _add_check(parser)
    add_own_data(parser)


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    add_recipe_options(parser)
    _add_check(parser)
    parser.add_argument("--teacher", metavar="MODEL", help="detector to learn from")
    parser.add_argument(
        "--plan", metavar="FILE", help="plan to take the structure from"
    )
    parser.add_argument(
        "--masks", action="store_true", help="train with the plan as masks, then slim"
    )
    parser.add_argument(
        "--trunk", metavar="MODEL", help="classifier that brings the backbone"
    )
    parser.add_argument(
        "--start", metavar="MODEL", help="detector to train further, of any classes"
    )
    add_own_data(parser)


def _add_prune_options(parser: argparse.ArgumentParser) -> None:
    add_recipe_options(parser)
    add_sweep(parser, SCORED)
    parser.add_argument("--weights", metavar="MODEL", help="trained net to prune")
    parser.add_argument(
        "--budget", type=budget, help="limits: macs_ratio=0.25,params=12e6, ..."
    )
    parser.add_argument("--criterion", help="criterion of importance")
    parser.add_argument("--selection", help="selection policy")
    parser.add_argument("--seed", type=int, help="replaces the recipe's")


def _add_plan_options(parser: argparse.ArgumentParser) -> None:
    add_devices(parser)
    parser.add_argument("--recipe", required=True, metavar="FILE", help="a JSON file")
    add_out(parser, "stages", "classes", files=["plan.json"])
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="default: the recipe's"
    )


def budget(text: str) -> dict[str, float]:
    """Return limits written as ``macs_ratio=0.25,params=12e6``."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}; allowed: as macs=1e9, macs_ratio=0.25,bytes=20e6"
        ) from None


# ---------------------------------------------------------------- changes of recipes


def read_recipe(path: str) -> tuple[Any, Content]:
    """Return a recipe as read, and its JSON to change.

    Raises
    ------
    ValueError
        Naming the file, the key, its value and what is allowed.
    """
    from gluon_compress.recipe import load_recipe
    from gluon_compress.storage.atomic import read_json

    return load_recipe(path), read_json(path)


def changed(content: Content, path: str) -> Any:
    """Return the recipe of a file whose JSON was changed by options.

    Raises
    ------
    ValueError
        Naming the file, the key, its value and what is allowed.
    """
    from gluon_compress.recipe import parse_recipe

    return parse_recipe(content, path)


def with_own_data(recipe: Content, args: argparse.Namespace) -> Content:
    """Return a recipe with the options of ``add_own_data`` that were given."""
    names = ("train", "test", "classes", "others", "resized")
    data = {**recipe["data"], **given(args, *names)}
    if getattr(args, "images", None):
        # Absolute, so that the folder of data is not put before it; and the classes of
        # the recipe are those of other images.
        root = os.path.abspath(args.images)
        chosen = {
            "classes": args.classes or None,
            "others": args.others or "error",
            "resized": args.resized or "error",
        }
        data = {**data, "kind": "voc", "root": root, **chosen}
    return {**recipe, "data": data, **given(args, "seed")}


def with_training(recipe: Content, args: argparse.Namespace) -> Content:
    """Return a recipe with the options of ``train`` that were given."""
    model = recipe["model"]
    if getattr(args, "start", None):  # a net that is built already
        model = {key: model[key] for key in ("name", "plan", "masks") if key in model}
    model = {**model, **given(args, "plan", "masks", "trunk", "start")}
    recipe = with_own_data({**recipe, "model": model}, args)
    if getattr(args, "teacher", None):
        distillation = {**(recipe.get("distillation") or {}), "teacher": args.teacher}
        recipe = {**recipe, "distillation": distillation}
    return recipe


def with_pruning(recipe: Content, args: argparse.Namespace) -> Content:
    """Return a recipe with the options of ``prune`` that were given."""
    settings = given(args, "budget", "criterion", "selection")
    rows = [
        {**row, **settings} if row["algorithm"] == "prune" else row
        for row in recipe["compression"]
    ]
    model = {**recipe["model"], **given(args, "weights")}
    data = {**recipe["data"], **given(args, "others", "resized")}
    changes = {"model": model, "data": data, "compression": rows}
    return {**recipe, **changes, **given(args, "seed")}


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options that were given."""
    values = {name: getattr(args, name, None) for name in names}
    return {n: v for n, v in values.items() if v is not None and v is not False}


# ---------------------------------------------------------------- commands


def run_recipe(recipe: Any, args: argparse.Namespace) -> None:
    """Run the stages of a recipe, print the table and where the report lies."""
    from gluon_compress import pipeline, train
    from gluon_compress.recipe import DATA_FOLDER
    from gluon_compress.report import run_report

    if args.data:
        os.environ[DATA_FOLDER] = args.data
    if getattr(args, "check", False):
        from gluon_compress.cli.check_data import check_beside

        check_beside(recipe, args.out)
        return
    sweep = sweep_of(args)
    if not sweep.is_here and not any(map(_scores_plans, recipe.compression)):
        place = args.scheduler or f"{args.workers} workers"
        raise ValueError(
            f"{place}: nothing to do there; allowed with a recipe that searches plans "
            "or measures a sensitivity"
        )
    chosen = {} if args.kvstore is None else {"kvstore": args.kvstore}
    options = train.Options(
        ctx=contexts(args.ctx),
        progress=not args.quiet,
        gradient_threshold=args.gradient_threshold,
        exact_sums=not args.fast_sums,
        **chosen,
    )
    if not options.ranks.leads:  # rank 0 says the same
        logging.disable(logging.WARNING)
    results = pipeline.run(
        recipe,
        args.out,
        resume=args.resume,
        options=options,
        facts=environment(),
        sweep=sweep,
    )
    if not results:  # rank 0 has them
        return
    out, last = Path(args.out), list(results["stages"])[-1]
    print(run_report.table(recipe, results))
    print(f"report: {out / 'report' / 'index.html'}")
    print(f"model:  {out / last / 'model'}")


def _scores_plans(row: Any) -> bool:
    """Tell whether a row of a recipe's compression measures many plans."""
    return any(getattr(row, name, None) for name in ("search", "sensitivity"))


def _run(args: argparse.Namespace) -> None:
    recipe, content = read_recipe(args.recipe)
    _refuse_own_data(recipe, args)
    run_recipe(changed(with_own_data(content, args), args.recipe), args)


def _train(args: argparse.Namespace) -> None:
    recipe, content = read_recipe(args.recipe)
    if recipe.finetune is not None or recipe.compression:
        others = "run_pipeline.py, prune_backbone.py or run"
        message = f"{args.recipe}: compresses; that is for {others}"
        raise ValueError(message)
    _refuse_own_data(recipe, args)
    run_recipe(changed(with_training(content, args), args.recipe), args)


def _prune(args: argparse.Namespace) -> None:
    recipe, content = read_recipe(args.recipe)
    if recipe.finetune is None or not recipe.compression:
        message = f"{args.recipe}: has no compression and finetune to prune by"
        raise ValueError(message)
    run_recipe(changed(with_pruning(content, args), args.recipe), args)


def _refuse_own_data(recipe: Any, args: argparse.Namespace) -> None:
    if recipe.task != "detection":
        refuse(args, ("images", "test", "classes", "check"), "only for detectors")


def _plan(args: argparse.Namespace) -> None:
    """Decide, print the costs, and write both files."""
    from gluon_compress import pipeline, report
    from gluon_compress.recipe import load_recipe

    out = Path(args.out)
    recipe = load_recipe(args.recipe)
    classes = args.classes or recipe.data.classes
    if classes is None or isinstance(classes, str):
        raise ValueError(f"{args.recipe}: has no list of classes; give --classes")
    plan, costs = pipeline.decide(recipe, classes)
    # The result first: without it, the plan would be taken for something else's.
    result = write_result(args.out, {"stages": costs, "classes": len(classes)})
    plan.save(out / "plan.json")
    names = ("params", "bytes", "macs")
    rows = [report.Figures(n, *(c[k] for k in names)) for n, c in costs.items()]
    print(report.cost_table(rows))
    print(result)


# ``pipeline.run`` is the sole writer of a run's folder.
RUN = Command(RUN_TEXT, _add_run_options, _run, writes=())
TRAIN = Command(TRAIN_TEXT, _add_train_options, _train, writes=())
TRAIN_CLASSIFIER = Command(TRAIN_CLASSIFIER_TEXT, add_recipe_options, _train, writes=())
PRUNE = Command(PRUNE_TEXT, _add_prune_options, _prune, writes=())
PLAN = Command(PLAN_TEXT, _add_plan_options, _plan)
