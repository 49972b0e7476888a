"""Options of commands that look at a detector's data: a recipe, or a folder of images.

They are those of ``train``, so that what is looked at is what would be trained on.
"""

from __future__ import annotations

import argparse
import os
from typing import Any, Dict

from gluon_compress.cli.options import add_others, add_resized
from gluon_compress.cli.recipes import Content, add_own_data, changed, with_own_data

MODEL = "ssd_300_resnet50_v1d"
# What ``--images`` alone stands for: a detector that is trained, and not compressed.
USUAL: Dict[str, Any] = {
    "task": "detection",
    "paper": "none, images of one's own",
    "command": "gluon-compress train --recipe FILE --out DIR",
    "hours": 0,
    "expected": {},
    "model": {"name": MODEL},
    "data": {"kind": "voc", "root": ".", "train": "trainval", "test": "test"},
    "train": {
        "epochs": 24,
        "batch_size": 8,
        "learning_rate": 0.004,
        "warmup_epochs": 2,
        "clip_norm": 10,
        "validate_every": 6,
    },
}


def add_data_source(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose images and the model that they are for."""
    parser.add_argument("--recipe", metavar="FILE", help="of a detector; JSON")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder that holds the recipe's data.root; default: "
        "$GLUON_COMPRESS_DATA, or the current folder",
    )
    add_others(parser)
    add_resized(parser)
    add_own_data(parser)
    parser.add_argument(
        "--model", metavar="NAME", help=f"to look for; default: the recipe's or {MODEL}"
    )


def source_recipe(args: argparse.Namespace) -> tuple[Any, Content]:
    """Return the recipe that the options of ``add_data_source`` state, and its JSON.

    Raises
    ------
    ValueError
        If neither a recipe nor images are given, or a value is not allowed.
    """
    from gluon_compress.cli.recipes import read_recipe
    from gluon_compress.recipe import DATA_FOLDER

    if args.data:
        os.environ[DATA_FOLDER] = args.data
    if args.recipe:
        recipe, content = read_recipe(args.recipe)
        if recipe.task != "detection":
            raise ValueError(
                f"{args.recipe}: task is {recipe.task!r}; allowed: detection"
            )
    elif args.images:
        content = USUAL
    else:
        raise ValueError("nothing to look at; give --recipe FILE or --images FOLDER")
    if args.model:
        content = {**content, "model": {"name": args.model}}
    content = with_own_data(content, args)
    return changed(content, args.recipe or ""), content
