"""The page of the experiments on Imagenette, made of their result files alone."""

from __future__ import annotations

import statistics
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Sequence

HEAD = ("experiment", "criterion", "selection", "GMACs", "params, M")
TOP1 = ("top-1 after the cut", "recalibrated", "fine-tuned", "epochs")
PARTS = {
    "Trained from scratch": ("resnet50_v1d", "mobilenet1.0"),
    "A quarter of the MACs": ("25_*",),
    "Half of the MACs": ("50_*",),
    "At the cost of GluonCV's resnet50_v1d_0.48": ("48_*",),
}
TEXT = """# Pruning ResNet50-v1d on Imagenette

Top-1 on the {images:,} validation images of Imagenette at 96 pixels: ten classes of
ImageNet, from random values. No figure can be compared with one on ImageNet. The
tables hold what `scripts/reproduce_imagenette.py` measured.

A pruned net starts from `resnet50_v1d`, loses its channels at once, has its BatchNorm
measured anew on 16 training batches, and is fine-tuned. MACs are for 96 pixels. The
selection `greedy` weighs groups by their effect on the outputs, which 4 training batches
tell.
"""


def page(folder: Path) -> str:
    """Return the page as Markdown; an experiment without a result is named as such."""
    from gluon_compress.files import read_json

    results = {p.parent.name: read_json(p) for p in folder.glob("*/result.json")}
    names = sorted(path.parent.name for path in folder.glob("*/recipe.json"))
    images = {r["data"]["test"]["images"] for r in results.values()} or {0}
    parts = [TEXT.format(images=max(images))]
    for title, patterns in PARTS.items():
        chosen = [n for n in names if any(fnmatchcase(n, p) for p in patterns)]
        if chosen:
            rows = [_row(name, results.get(name)) for name in chosen]
            parts += [f"## {title}\n", _table((*HEAD, *TOP1), rows)]
        parts.append(_seeds({n: results[n] for n in chosen if n in results}))
    return "\n".join(parts)


def _row(name: str, result: Any) -> list[str]:
    link = f"[{name}](../model_zoo/imagenette/{name}/recipe.json)"
    if result is None:
        return [link, *["not run yet"], *[""] * (len(HEAD) + len(TOP1) - 2)]
    stages = result["stages"]
    last, cut = stages[list(stages)[-1]], stages.get("1_prune", {})
    made, before = (cut.get(k, {}) for k in ("made_by", "before_recalibration"))
    figures = [before.get("top1"), cut.get("top1"), last["top1"]]
    kind = [made.get("criterion", "–"), made.get("selection", "–")]
    kind += [f"{last['macs'] / 1e9:.3f}", f"{last['params'] / 1e6:.2f}"]
    return [link, *kind, *map(_percent, figures), str(last["epochs"])]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _seeds(results: dict[str, Any]) -> str:
    """Return the mean over experiments that differ in the seed alone."""
    groups: dict[str, list[float]] = {}
    for name, result in results.items():
        kind, _, seed = name.rpartition("_seed")
        if seed.isdigit():
            last = list(result["stages"].values())[-1]
            groups.setdefault(kind, []).append(last["top1"])
    rows = [
        [kind, str(len(v)), _percent(statistics.mean(v)), _percent(max(v) - min(v))]
        for kind, v in groups.items()
    ]
    return _table(("experiment", "seeds", "top-1", "range"), rows) if rows else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (f"| {' | '.join(c)} |\n" for c in (head, ["---"] * len(head), *rows))
    return "".join(lines)
