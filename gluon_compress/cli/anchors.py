"""Fits the anchors of a detector to the objects of a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Dict, Mapping

from gluon_compress.cli.app import Command
from gluon_compress.cli.data_source import add_data_source, source_recipe
from gluon_compress.cli.image_files import refuse_other_picture, without
from gluon_compress.cli.recipes import Content
from gluon_compress.printable import printable

TEXT = r"""Fit the anchors of a detector to your objects, before any training.

  %(prog)s --images MY_FOLDER
  %(prog)s --images MY_FOLDER --out mine.json
  %(prog)s --recipe model_zoo/ssd_300_resnet50_v1d_own/recipe.json \
    --images MY_FOLDER --out mine.json

An object is learnt from anchors that overlap it by half. Prints the sizes and ratios of
the anchors, and the recall of the best anchor: the share of the training objects that
some anchor overlaps by half. --out writes a recipe with the fitted anchors, and a
picture of objects and anchors beside it. In a recipe, "sizes": "auto" does the same
when a run starts.
"""
NAMES = {"own": "the model's own", "stated": "the recipe's", "fitted": "fitted"}


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_data_source(parser)
    parser.add_argument(
        "--ratios", action="store_true", help="fit aspect ratios too, not only sizes"
    )
    parser.add_argument("--out", metavar="FILE", help="recipe to write; JSON")
    parser.add_argument(
        "--picture", metavar="FILE", help="PNG to draw; default: beside --out"
    )


def _run(args: argparse.Namespace) -> None:
    picture = args.picture or (args.out and Path(args.out).with_suffix(".png"))
    _check_out(args)
    if picture:
        refuse_other_picture(Path(picture))
    recipe, content = source_recipe(args)
    from gluon_compress import data, report

    train = recipe.data.open(recipe.data.train)
    data.check_present(train, _place(recipe))
    objects = data.objects_in(train, recipe.data.size, seed=recipe.seed)
    layouts = _layouts(recipe, recipe.model, objects, args)
    columns = {
        NAMES[name]: report.AnchorColumn.of(layout, objects.corner_boxes)
        for name, layout in layouts.items()
    }
    print(report.anchor_table(columns, objects.ids, objects.classes))
    split, size = recipe.data.train, "x".join(map(str, objects.size))
    print(
        f"{len(objects.ids)} objects in {objects.images} images of {split!r}, resized "
        f"to {size} pixels"
    )
    for file, reason in train.problems:
        print(printable(f"skipped {file}: {without(file, reason)}"))
    if args.out:
        fitted = {"model": layouts["fitted"]}
        if recipe.student is not None:
            student = _layouts(recipe, recipe.student, objects, args)
            fitted["student"] = student["fitted"]
        _write(args.out, _with_anchors(content, fitted, args))
        print(f"recipe:  {args.out}")
    if picture:
        report.anchor_chart(columns, objects.corner_boxes, picture)
        print(f"picture: {picture}")


def _check_out(args: argparse.Namespace) -> None:
    """Refuse to replace a file, unless it is the recipe that is read."""
    if not args.out:
        return
    path = Path(args.out)
    if path.is_dir():
        raise ValueError(f"--out {path}: is a folder; allowed: the name of a file")
    same = args.recipe and path.exists() and path.samefile(args.recipe)
    if path.exists() and not same:
        allowed = "a new name, or that of --recipe"
        raise ValueError(f"--out {path}: this file exists; allowed: {allowed}")


def _layouts(
    recipe: Any, settings: Any, objects: Any, args: argparse.Namespace
) -> Dict[str, Any]:
    """Return the anchors of a model by where they are from."""
    from gluon_compress import models

    # Anchors of a net that is loaded are its own; these would be those of a new one.
    settings = settings.replace(weights=None, start=None)
    family = models.family_that_builds(settings.name)
    assert family is not None, "the recipe has checked the name"
    keys = ("sizes", "ratios") if args.ratios else ("sizes",)
    size = recipe.data.input_size
    stated = family.anchor_layout(settings, size)
    if stated is None:
        raise ValueError(f"model {settings.name!r}: has no anchors to fit")
    usual = dict.fromkeys(keys)
    own = family.anchor_layout(settings.replace(**usual), size)
    layouts = {"own": own, "stated": stated}
    if stated == own:
        del layouts["stated"]
    undecided = settings.replace(**dict.fromkeys(keys, "auto"))
    fitted = _placed(recipe, family.settled, undecided, objects)
    return {**layouts, "fitted": family.anchor_layout(fitted, size)}


def _placed(recipe: Any, fit: Any, settings: Any, objects: Any) -> Any:
    try:
        return fit(settings, objects)
    except ValueError as error:
        raise ValueError(f"{_place(recipe)}: {error}") from None


def _place(recipe: Any) -> str:
    return f"{recipe.data.folder()}, split {recipe.data.train!r}"


def _with_anchors(
    content: Content, layouts: Mapping[str, Any], args: argparse.Namespace
) -> Content:
    """Return a recipe's JSON with the anchors of its model and its student."""
    changes = {
        key: {**content[key], **_stated(layout, args)}
        for key, layout in layouts.items()
    }
    return {**content, **changes}


def _stated(layout: Any, args: argparse.Namespace) -> Mapping[str, Any]:
    sizes = {"sizes": list(layout.sizes)}
    ratios = {"ratios": [list(row) for row in layout.ratios]}
    return {**sizes, **(ratios if args.ratios else {})}


def _write(path: str, content: Content) -> None:
    from gluon_compress.recipe import parse_recipe
    from gluon_compress.storage.atomic import write_json

    parse_recipe(content, path)  # a recipe that could not be read helps nobody
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


ANCHORS = Command(TEXT, _add_options, _run, writes=("out", "picture"))
