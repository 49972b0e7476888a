"""The page of the experiments on Imagenette, made of their result files alone."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from aims import aims_table
from pruning_rows import HEAD, row, seeds
from tables import by_net, mean_of, results_of, table

ORIGIN = "resnet50_v1d"  # what is pruned
PARTS = {
    "Trained from scratch": (ORIGIN, "mobilenet1.0", "short_*"),
    "A quarter of the MACs": ("25_*",),
    "Half of the MACs": ("50_*",),
    "At the cost of GluonCV's resnet50_v1d_0.48": ("48_*",),
    "Trunks of compact detectors": ("trunk_*",),
}
# The automatic plan is there to beat others of the same cost.
BEATEN = {"25": ("l1_uniform", "random_uniform")}
BEATEN["48"] = (*BEATEN["25"], "structure")
AIMS = [(f"{k}_l1", f"{k}_{other}", 0.0) for k in BEATEN for other in BEATEN[k]]
SCRATCH = ("25_bn_scale", "25_bn_scale_scratch")
EARLY = ("48_bn_scale", "48_bn_scale_early")
AIMS += [(*SCRATCH, 0.0), *((name, "48_structure", 0.0) for name in EARLY)]
TEXT = """# Pruning ResNet50-v1d on Imagenette

Top-1 on the {images:,} validation images of Imagenette at 96 pixels: ten classes of
ImageNet, from random values. No figure can be compared with one on ImageNet. The
tables hold what `scripts/reproduce_imagenette.py` measured. The images at hand were all
160 × 160 pixels; those that `scripts/download_data.py` fetches keep their shape, so a
rerun on them may differ.

A pruned net starts from `resnet50_v1d`, or one called `…_short` from
`short_resnet50_v1d`, loses its channels at once, has its BatchNorm
measured anew on 16 training batches, and is fine-tuned. MACs are for 96 pixels. The
selection `greedy` weighs groups by their effect on the outputs of 4 training batches.
Epochs are those of the full net and of the fine-tune; a net that is trained from
scratch for comparison gets their sum. `early` is pruned when the full net has seen
small images alone, and has the rest of the epochs to recover.
"""
NOISE = """
On so many images a top-1 of {top1:.0f} % has a standard error of {error:.1f} points,
and another seed moves it too: a difference below that says little.
"""

STRUCTURE = """The structure of a plan, trained from random values for all epochs, does
no worse here than the pruned net after its few: what pruning finds is the structure, as
Liu et al. 2019 ("Rethinking the Value of Network Pruning") found. The weights that it
keeps save epochs where the full net is there already.
"""


def page(folder: Path) -> str:
    """Return the page as Markdown; an experiment without a result is named as such."""
    results = results_of(folder)
    images = {r["data"]["test"]["images"] for r in results.values() if r} or {0}
    parts = [TEXT.format(images=max(images)) + _noise(results.get(ORIGIN), max(images))]
    for title, patterns in PARTS.items():
        chosen = [n for n in results if any(fnmatchcase(n, p) for p in patterns)]
        if chosen:
            rows = [row(name, results) for name in chosen]
            parts += [f"## {title}\n", table(HEAD, rows)]
        parts.append(seeds({name: results[name] for name in chosen}))
    groups = by_net(results)
    top1 = [mean_of(groups.get(name, {}).values(), "top1") for name in SCRATCH]
    told = [STRUCTURE] if all(top1) and top1[0] <= top1[1] else []
    aimed = aims_table(groups, AIMS, {"top-1, fine-tuned": "top1"})
    return "\n".join([*parts, *aimed, *told])


def _noise(result: Any, images: int) -> str:
    """Return how sure an accuracy near that of the full net can be."""
    if not result:
        return ""
    top1 = result["stages"]["full"]["top1"]
    error = (top1 * (1 - top1) / images) ** 0.5
    return NOISE.format(top1=100 * top1, error=100 * error)
