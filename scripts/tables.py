"""Tables of experiments, made of their result files alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

METRICS = ("mAP", "voc_mAP_50_95", "top1")


def results_of(folder: Path) -> dict[str, Any]:
    """Return the result of each experiment by name, None where there is none yet."""
    from gluon_compress.storage.atomic import read_json

    found = sorted(path.parent for path in folder.glob("*/recipe.json"))
    for path in sorted(folder.glob("*/result.json")):
        if path.parent not in found:
            raise ValueError(f"{path.with_name('recipe.json')}: this recipe is missing")
    paths = {place.name: place / "result.json" for place in found}
    results = {n: read_json(p) if p.exists() else None for n, p in paths.items()}
    for name, result in results.items():
        for stage in _stages(result):
            if "mAP_50_95" in stage:  # its name until it claimed to be COCO's
                stage.setdefault("voc_mAP_50_95", stage.pop("mAP_50_95"))
        if result is not None and not _is_result(result):
            raise ValueError(f"{paths[name]}: has no stages with figures from 0 to 1")
    return results


def _stages(content: Any) -> list[dict]:
    stages = content.get("stages") if isinstance(content, dict) else None
    values = stages.values() if isinstance(stages, dict) else ()
    return [stage for stage in values if isinstance(stage, dict)]


def _is_result(content: Any) -> bool:
    stages = content.get("stages") if isinstance(content, dict) else None
    last = list(stages.values())[-1] if isinstance(stages, dict) and stages else None
    values = (
        [last.get(k) for k in METRICS if k in last] if isinstance(last, dict) else []
    )
    numbers = [v for v in values if isinstance(v, (int, float)) and 0 <= v <= 1]
    return bool(values) and len(numbers) == len(values)


def by_net(results: Mapping[str, Any]) -> dict[str, dict[int, Any]]:
    """Return the last stage of each result, or None, by net and seed.

    The net is the experiment's name without ``_seedN``; without one its seed is 0.
    """
    groups: dict[str, dict[int, Any]] = {}
    for name, result in results.items():
        kind, _, seed = name.rpartition("_seed")
        net, number = (kind, int(seed)) if seed.isdigit() else (name, 0)
        last = result and list(result["stages"].values())[-1]
        groups.setdefault(net, {})[number] = last
    return groups


def percent(value: float | None) -> str:
    """Return a share as text, a dash for none."""
    return "–" if value is None else f"{100 * value:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = (f"| {' | '.join(c)} |\n" for c in (head, ["---"] * len(head), *rows))
    return "".join(lines)


def mean_of(found: Iterable, key: str) -> float | None:
    """Return the mean of a figure over the seeds that have a result."""
    values = [stage[key] for stage in found if stage]
    return statistics.mean(values) if values else None
