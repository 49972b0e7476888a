"""The page of the paper's tables, made of result files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping

from reproducing import published as others
from reproducing import rows as r
from reproducing import text as t
from tables import results_of, table

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
PUBLISHED = ("detector, as published", "params, M", "MB", "“FLOPs”, G")
PUBLISHED += ("mAP, VOC07 test", "source")
OURS = ("detector, ours", *r.COST, "mAP, VOC07 test", "mAP, BCCD test")
OURS += ("mAP, FOD test10",)
THEIRS = ("classifier, as published", *r.COST, "top-1, ImageNet val", "source")
PRUNED = ("classifier, ours", *r.COST, "top-1, ImageNet val", "top-1, Imagenette val")
SHOWN = ("resnet50_v1d", "mobilenet1.0", "48_structure", "48_bn_scale_early")
SHOWN += ("trunk_compact", "trunk_compact_s")


def page_of(zoo: Path, costs: Mapping, published: Mapping) -> str:
    """Return docs/reproduce.md."""
    found = results_of(zoo / "imagenette")
    theirs = [
        others.published_classifier(row, costs["classifiers"][row["name"]])
        for row in published["classifiers"]
    ]
    return "\n".join(
        [
            t.TEXT,
            "## Detectors\n",
            detectors(zoo, costs, published),
            t.DETECTORS,
            "## Backbones\n",
            "At 224 × 224 pixels, 1,000 classes; sizes and work are counted here:\n",
            table(THEIRS, theirs),
            "At 96 × 96 pixels and 10 classes, from [imagenette.md](imagenette.md):\n",
            table(PRUNED, [r.own_classifier(name, found) for name in SHOWN]),
        ]
    )


def detectors(zoo: Path, costs: Mapping, published: Mapping[str, Any]) -> str:
    """Return both tables of detectors."""
    theirs = [others.published_detector(row) for row in published["detectors"]]
    sets = [results_of(zoo / name) for name in ("bccd", "fod")]
    nets = costs["detectors"].items()
    ours = [row for name, cost in nets for row in r.own_detector(name, cost, sets)]
    notes = t.NOTES.format(widths=t.widths(costs["measured"]))
    return f"{table(PUBLISHED, theirs)}\n{table(OURS, ours)}\n{notes}"


def readme_of(text: str, tables: str) -> str:
    """Return README's text with the tables of detectors between its marks.

    Raises ValueError if it has none.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"README.md: has no {BEGIN} and {END}")
    return f"{before}{begin}\n\n{tables}\n{end}{after}"
