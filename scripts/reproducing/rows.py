"""Rows of the tables: published ones and ours, which share no column of accuracy."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from tables import by_net, mean_of, percent

NOT_HERE = "not measured here"
COST = ("MB", "GMACs", "GFLOPs")
OURS = {  # what a detector is called in the sets of experiments
    "full": "full",
    "compact": "compact_distilled",
    "compact_s": "compact_s_distilled",
    "mobilenet": "mobilenet",
    "lite": "lite",
}
WORDS = {
    "full": "SSD-300 ResNet50-v1d",
    "compact": "compact, 2.31 GMACs",
    "compact_s": "compact_s, 2 × 1.155 GFLOPs",
    "mobilenet": "SSD-300 MobileNet1.0, the same maps",
    "lite": "SSD-300 MobileNet1.0, classic",
}


def published_detector(row: Mapping) -> list[str]:
    """Return the cells of a figure that others published."""
    told = "" if row["data"] == "VOC07 test" else f" ({row['data']})"
    value = f"{row['mAP']:.1f}{told}"
    return [row["name"], *published_cost(row), value, row["source"]]


def published_classifier(row: Mapping, cost: Mapping) -> list[str]:
    """Return the cells of a classifier that GluonCV publishes, its cost counted."""
    return [row["name"], *own_cost(cost), f"{row['top1']:.2f}", row["source"]]


def published_cost(row: Mapping) -> list[str]:
    """Return size and work as they were published, a dash where they were not."""
    size = row.get("bytes", 4 * row.get("params", 0))
    cells = [f"{size / 1e6:.1f}" if size else "–"]
    if "flops" in row:  # of which it is not said how they were counted
        return [*cells, "–", f"{row['flops'] / 1e9:.2f} “FLOPS”"]
    macs = row.get("macs")
    cells += [f"{macs / 1e9:.2f}", f"{2 * macs / 1e9:.2f}"] if macs else ["–", "–"]
    return cells


def own_cost(cost: Mapping) -> list[str]:
    """Return size and work as they were counted."""
    macs = cost["macs"]
    return [f"{cost['bytes'] / 1e6:.2f}", f"{macs / 1e9:.3f}", f"{2 * macs / 1e9:.3f}"]


def own_detector(name: str, cost: Mapping, sets: Sequence[Mapping]) -> list[str]:
    """Return the cells of a detector of ours: its cost, and its mAP on each set."""
    found = [_accuracy(by_net(results).get(OURS[name], []), "mAP") for results in sets]
    return [WORDS[name], *own_cost(cost), NOT_HERE, *found]


def own_classifier(name: str, results: Mapping[str, Any]) -> list[str]:
    """Return the cells of a classifier of an experiment."""
    (stage,) = by_net({name: results[name]})[name]
    cost = own_cost(stage) if stage else [""] * len(COST)
    return [name, *cost, NOT_HERE, _accuracy([stage], "top1")]


def _accuracy(found: Sequence, key: str) -> str:
    if not found:
        return NOT_HERE
    done = [stage for stage in found if stage]
    if not done:
        return "not run yet"
    count = f"{len(done)} of {len(found)}" if len(done) < len(found) else len(done)
    seeds = f", {count} seeds" if len(found) > 1 else ""
    return percent(mean_of(done, key)) + seeds
