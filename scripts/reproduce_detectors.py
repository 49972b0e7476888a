#!/usr/bin/env python
"""Run a set of experiments with detectors, and write its table and its plot.

  scripts/reproduce_detectors.py bccd --out runs/bccd          # all that is missing
  scripts/reproduce_detectors.py bccd --out runs/bccd --only 'full_*'
  scripts/reproduce_detectors.py bccd                          # table and plot alone

Every experiment is a recipe of model_zoo/SET; those that start from another's net need
that one to have been run. Its result.json and plan come to lie beside it, and
docs/SET.md and docs/SET.png are made from these files and scripts/pages/SET.md alone.
"""

from __future__ import annotations

from functools import partial

from common import main
from detectors import page, points_of
from experiments import carry_out, experiment_parser
from gluon_compress.provenance import ROOT

PAGES = {path.stem: path for path in (ROOT / "scripts" / "pages").glob("*.md")}


def arguments():
    """Return the parser of this script."""
    made = experiment_parser(__doc__)
    made.add_argument("set", choices=sorted(PAGES), help="folder of model_zoo")
    return made


def run(args) -> None:
    """Run what has no result yet, then write or check the page."""
    from gluon_compress import report

    folder, target = ROOT / "model_zoo" / args.set, ROOT / "docs" / f"{args.set}.md"
    text = PAGES[args.set].read_text(encoding="utf-8")
    carry_out(folder, target, partial(page, text=text), args)
    points = [report.Point(*point) for point in points_of(folder)]
    if points and not args.check:
        report.pareto(points, target.with_suffix(".png"), value="mAP at 0.5, %")


if __name__ == "__main__":
    main(run, arguments())
