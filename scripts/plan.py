#!/usr/bin/env python
"""Plan what a recipe compresses, without data and training: widths and costs.

  scripts/plan.py --recipe model_zoo/ssd_300_resnet50_v1d_compact/recipe.json --out DIR

Writes DIR/plan.json, one plan for all rows of the recipe, and DIR/result.json with what
the net costs before and after. The net has the values that the recipe's seed gives, so
the same recipe gives the same plan, byte for byte; a run of it decides anew when there
are trained ones. A trunk that is not there yet counts as one of the seed's values.

A row that deletes keeps the multiple of channels that is nearest to its share, and one
multiple at least: at the usual 16, a share of 0.3 leaves 16 of 64 channels, and a group
of 16 stays whole. A share that rounds to less than one channel is refused.
"""

from __future__ import annotations

from pathlib import Path

from common import add_out, main, parser, write_result


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("--recipe", required=True, metavar="FILE", help="JSON")
    add_out(made, "stages", "classes")
    made.add_argument("--classes", nargs="+", metavar="NAME", help="default: its own")
    return made


def run(args) -> None:
    """Decide, print the costs, and write both files."""
    from gluon_compress import pipeline, report
    from gluon_compress.recipe import load_recipe

    out = Path(args.out)
    if (out / "plan.json").exists() and not (out / "result.json").exists():
        raise ValueError(f"{out}/plan.json is not of this script; choose a new folder")
    recipe = load_recipe(args.recipe)
    classes = args.classes or recipe.data.classes
    if classes is None or isinstance(classes, str):
        raise ValueError(f"{args.recipe}: has no list of classes; give --classes")
    plan, costs = pipeline.decide(recipe, classes)
    out.mkdir(parents=True, exist_ok=True)
    plan.save(out / "plan.json")
    names = ("params", "bytes", "macs")
    rows = [report.Figures(n, *(c[k] for k in names)) for n, c in costs.items()]
    print(report.cost_table(rows))
    print(write_result(args.out, {"stages": costs, "classes": len(classes)}))


if __name__ == "__main__":
    main(run, arguments())
