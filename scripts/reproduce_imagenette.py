#!/usr/bin/env python
"""Run the pruning experiments on Imagenette and write their tables.

  scripts/reproduce_imagenette.py --out runs/imagenette            # all that is missing
  scripts/reproduce_imagenette.py --out runs/imagenette --only 'l1*'
  scripts/reproduce_imagenette.py                                  # the page alone

Every experiment is a recipe of model_zoo/imagenette. Its result.json and plan come to
lie beside it, and docs/imagenette.md is made from these files alone. Two processes with
one thread each, with different --only, use two cores better than one with two.
"""

from __future__ import annotations

from common import main
from experiments import carry_out, experiment_parser
from gluon_compress.provenance import ROOT
from imagenette import page

RECIPES = ROOT / "model_zoo" / "imagenette"
PAGE = ROOT / "docs" / "imagenette.md"


def arguments():
    """Return the parser of this script."""
    return experiment_parser(__doc__)


def run(args) -> None:
    """Run what has no result yet, then write or check the page."""
    carry_out(RECIPES, PAGE, page, args)


if __name__ == "__main__":
    main(run, arguments())
