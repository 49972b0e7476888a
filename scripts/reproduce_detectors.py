#!/usr/bin/env python
"""Run a set of experiments with detectors, and write its table and its plot.

  scripts/reproduce_detectors.py bccd --out runs/bccd          # all that is missing
  scripts/reproduce_detectors.py bccd --out runs/bccd --only 'full_*'
  scripts/reproduce_detectors.py bccd                          # table and plot alone

Every experiment is a recipe of model_zoo/SET; those that start from another's net need
that one to have been run. Its result.json and plan come to lie beside it, and
docs/SET.md and docs/SET.png are made from these files alone.
"""

from __future__ import annotations

from functools import partial

from common import main
from detectors import page, points_of
from experiments import carry_out, experiment_parser
from facts import ROOT

TEXTS = {
    "bccd": """# SSD-300 on blood cells

mAP on the test images of BCCD, three classes: red and white cells and platelets. No
figure can be compared with one on Pascal VOC. All nets train for the same epochs on
the same changed images, at the same rate; a compact net for as many again as the full
detector that it starts from, and so do the nets called `again`. The teacher is
`full_again`, or with `self_taught` the very net that was pruned. Anchors are part of a
recipe: small ones for platelets, and `lite`, whose largest map has 19 × 19 cells, has
those of platelets and red cells there; most platelets, smaller than two of its cells,
still overlap none of its anchors by half. Trunks of ResNet and MobileNet alike have
learnt on Imagenette for eight epochs, see [there](imagenette.md); nets called "scratch"
start from random values, `trunk_first` from a trunk that was pruned there, which had
more epochs. `compact` and `compact_s` have the structure that meets the paper's budgets
with 20 classes, `mobilenet` the same six maps as they, `lite` is the classic
MobileNet-SSD. Where many seeds are named, differences are those of their means.
""",
    "bccd_ablation": """# What earns what: losses and deletion

mAP on the test images of BCCD, one seed, a short fine-tuning. All nets come from the
same full detector (`full_seed0` of [there](bccd.md)), within the budgets of `compact`;
`full_again` is the teacher. `losses_…`: what it teaches by; they start from the pruned
net of `compact_tuned_seed0`, which has half of the branch channels. `keep_…`: the share
of the branch channels that stays, taught by the usual losses, as
`losses_scores_boxes_features` is, where 50 % stay. The test set is small: differences
of a point or two may be chance.
""",
    "fod": """# SSD-300 on objects on runways

mAP on the test images of ten classes of FOD, one seed. No figure can be compared
with one on Pascal VOC. Nets and names are those of [there](bccd.md).
""",
}


def arguments():
    """Return the parser of this script."""
    made = experiment_parser(__doc__)
    made.add_argument("set", choices=sorted(TEXTS), help="folder of model_zoo")
    return made


def run(args) -> None:
    """Run what has no result yet, then write or check the page."""
    from gluon_compress import report

    folder, target = ROOT / "model_zoo" / args.set, ROOT / "docs" / f"{args.set}.md"
    carry_out(folder, target, partial(page, text=TEXTS[args.set]), args)
    points = [report.Point(*point) for point in points_of(folder)]
    if points and not args.check:
        report.pareto(points, target.with_suffix(".png"), value="mAP at 0.5, %")


if __name__ == "__main__":
    main(run, arguments())
