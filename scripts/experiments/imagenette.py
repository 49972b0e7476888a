"""Runs the pruning experiments on Imagenette, and writes their page."""

from __future__ import annotations

import argparse
import statistics
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Mapping

from experiments.aims import aims_table
from experiments.results import by_net, last_stage, mean_of, results_of
from experiments.runner import add_options, carry_out
from experiments.sets import FILE, RESULT, ZOO
from gluon_compress.cli.app import Command
from gluon_compress.markdown import percent, table
from gluon_compress.provenance import ROOT
from gluon_compress.storage.atomic import read_json

TEXT = """Run the pruning experiments on Imagenette and write their tables.

  %(prog)s --out runs/imagenette                     # all that are missing
  %(prog)s --out runs/imagenette --only 'l1*'
  %(prog)s --out runs/imagenette --workers 2         # two at a time
  %(prog)s                                           # only the page

The experiments are listed in model_zoo/imagenette/experiments.json. Results and plans
go to model_zoo/imagenette/NAME; docs/imagenette.md is made only from these files. Two
processes with one thread each use two cores better than one process with two threads.
"""
FOLDER = ZOO / "imagenette"
PAGE = ROOT / "docs" / "imagenette.md"
ORIGIN = "resnet50_v1d"  # what is pruned
PARTS = {
    "Trained from scratch": (ORIGIN, "mobilenet1.0", "short_*"),
    "A quarter of the MACs": ("25_*",),
    "Half of the MACs": ("50_*",),
    "At the cost of GluonCV's resnet50_v1d_0.48": ("48_*",),
    "Backbones of compact detectors": ("trunk_*",),
}
# The automatic plan is there to beat others of the same cost.
BEATEN = {"25": ("l1_uniform", "random_uniform")}
BEATEN["48"] = (*BEATEN["25"], "structure")
SCRATCH = ("25_bn_scale", "25_bn_scale_scratch")
EARLY = ("48_bn_scale", "48_bn_scale_early")
AIMS = [
    *(
        (f"{cost}_l1", f"{cost}_{other}", 0.0)
        for cost in BEATEN
        for other in BEATEN[cost]
    ),
    (*SCRATCH, 0.0),
    *((name, "48_structure", 0.0) for name in EARLY),
]
HEAD = (
    *("experiment", "criterion", "selection", "GMACs", "params, M"),
    *("top-1, pruned", "recalibrated", "fine-tuned", "epochs"),
)
INTRODUCTION = """# Pruning ResNet50-v1d on Imagenette

Top-1 on the {images:,} validation images of Imagenette at 96 pixels: ten classes of
ImageNet, trained from random weights. These figures are not comparable with ImageNet.
`scripts/reproduce_imagenette.py` measured them with the recipes of
[experiments.json](../model_zoo/imagenette/experiments.json). Our images were all
160 × 160 pixels. Those that `scripts/download_data.py` downloads keep their shape, so a
rerun on them may differ.

A pruned net starts from `resnet50_v1d`, or from `short_resnet50_v1d` if its name ends
in `_short`. It loses its channels at once, has its BatchNorm statistics re-estimated on
16 training batches, and is fine-tuned. MACs are for 96 pixels. The selection `greedy`
uses output sensitivities measured on 4 training batches. Epochs are those of the full
net plus those of fine-tuning; a net trained from scratch for comparison gets their sum.
`early` is pruned after the full net has seen only small images, and has the remaining
epochs to recover.
"""
NOISE = """
With this many images, a top-1 of {top1:.0f} % has a standard error of {error:.1f}
points, and seeds add to it. Smaller differences say little.
"""
STRUCTURE = """\
The structure of a plan, trained from random weights for all epochs, does no worse here
than the pruned net after its short fine-tuning. So what pruning finds is the structure,
as Liu et al. 2019 report ("Rethinking the Value of Network Pruning"). The weights it
keeps save epochs if a trained full net already exists.
"""


def _run(args: argparse.Namespace) -> None:
    """Run what has no result yet, then write or check the page."""
    carry_out(FOLDER, PAGE, page, args)


# ---------------------------------------------------------------- the page


def page(folder: Path) -> str:
    """Return the page as Markdown; an experiment without a result is named as such."""
    results = results_of(folder)
    images = max(
        (r["data"]["test"]["images"] for r in results.values() if r), default=0
    )
    parts = [INTRODUCTION.format(images=images) + _noise(results.get(ORIGIN), images)]
    for title, patterns in PARTS.items():
        names = [n for n in results if any(fnmatchcase(n, p) for p in patterns)]
        if names:
            rows = [row(name, results) for name in names]
            parts += [f"## {title}\n", table(HEAD, rows)]
        parts.append(_means_over_seeds({name: results[name] for name in names}))
    groups = by_net(results)
    parts += aims_table(groups, AIMS, {"top-1, fine-tuned": "top1"})
    pruned, scratch = (mean_of(groups.get(n, {}).values(), "top1") for n in SCRATCH)
    if pruned and scratch and pruned <= scratch:
        parts.append(STRUCTURE)
    return "\n".join(parts)


def _noise(result: Any, images: int) -> str:
    """Say how sure an accuracy near that of the full net can be."""
    if not result:
        return ""
    top1 = result["stages"]["full"]["top1"]
    error = (top1 * (1 - top1) / images) ** 0.5
    return NOISE.format(top1=100 * top1, error=100 * error)


def row(name: str, results: Mapping[str, Any]) -> list[str]:
    """Return the row of an experiment, which may not have a result yet."""
    link = f"[{name}](../model_zoo/imagenette/{FILE})"
    result = results[name]
    if result is None:
        return [link, "not run yet", *[""] * (len(HEAD) - 2)]
    stages, last = result["stages"], last_stage(result)
    cut = stages.get("1_prune", {})
    made_by, before = cut.get("made_by", {}), cut.get("before_recalibration", {})
    accuracies = [before.get("top1"), cut.get("top1"), last["top1"]]
    return [
        link,
        made_by.get("criterion", "–"),
        made_by.get("selection", "–"),
        f"{last['macs'] / 1e9:.3f}",
        f"{last['params'] / 1e6:.2f}",
        *map(percent, accuracies),
        _epochs(stages, results),
    ]


def _epochs(stages: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Return the epochs of all stages, those of the weights that were given first."""
    weights = Path(stages["full"].get("weights", ""))
    if weights.parts[:1] == ("model_zoo",):  # released
        origin = read_json(ROOT / weights / RESULT)
    else:  # SET/NAME/full/model
        origin = results.get(weights.parent.parent.name)
    earlier = origin["stages"] if origin else {}
    counts = [stage.get("epochs") for stage in (*earlier.values(), *stages.values())]
    return " + ".join(str(count) for count in counts if count)


def _means_over_seeds(results: Mapping[str, Any]) -> str:
    """Return a table of the experiments that differ in the seed alone."""
    rows = []
    for net, seeds in by_net(results).items():
        top1 = [stage["top1"] for stage in seeds.values() if stage]
        if net not in results and top1:
            spread = max(top1) - min(top1)
            mean = statistics.mean(top1)
            rows.append([net, str(len(top1)), percent(mean), percent(spread)])
    return table(("experiment", "seeds", "top-1", "range"), rows) if rows else ""


# Several processes may share the experiments of a folder; each run has one writer.
COMMAND = Command(TEXT, add_options, _run, writes=())
