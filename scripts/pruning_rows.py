"""Rows of the tables on pruning a classifier, made of result files alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from gluon_compress.provenance import ROOT
from tables import by_net, percent, table

HEAD = (
    *("experiment", "criterion", "selection", "GMACs", "params, M"),
    *("top-1 after the cut", "recalibrated", "fine-tuned", "epochs"),
)


def row(name: str, results: dict[str, Any]) -> list[str]:
    """Return the row of an experiment, which may not have a result yet."""
    result = results[name]
    link = f"[{name}](../model_zoo/imagenette/{name}/recipe.json)"
    if result is None:
        return [link, *["not run yet"], *[""] * (len(HEAD) - 2)]
    stages = result["stages"]
    last, cut = stages[list(stages)[-1]], stages.get("1_prune", {})
    made, before = (cut.get(k, {}) for k in ("made_by", "before_recalibration"))
    figures = [before.get("top1"), cut.get("top1"), last["top1"]]
    kind = [made.get("criterion", "–"), made.get("selection", "–")]
    kind += [f"{last['macs'] / 1e9:.3f}", f"{last['params'] / 1e6:.2f}"]
    return [link, *kind, *map(percent, figures), _epochs(stages, results)]


def _epochs(stages: dict[str, Any], results: dict[str, Any]) -> str:
    """Return the epochs of all stages, those of the weights that were given first."""
    from gluon_compress.storage.atomic import read_json

    weights = Path(stages["full"].get("weights", ""))
    if weights.parts[:1] == ("model_zoo",):  # released
        origin = read_json(ROOT / weights / "result.json")
    else:  # SET/NAME/full/model
        origin = results.get(weights.parent.parent.name)
    given = origin["stages"] if origin else {}
    counts = [stage.get("epochs") for stage in (*given.values(), *stages.values())]
    return " + ".join(str(count) for count in counts if count)


def seeds(results: dict[str, Any]) -> str:
    """Return the mean over experiments that differ in the seed alone."""
    rows = []
    for kind, found in by_net(results).items():
        top1 = [stage["top1"] for stage in found.values() if stage]
        if kind not in results and top1:
            shown = percent(statistics.mean(top1)), percent(max(top1) - min(top1))
            rows.append([kind, str(len(top1)), *shown])
    return table(("experiment", "seeds", "top-1", "range"), rows) if rows else ""
