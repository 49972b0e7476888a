"""Rows of what was measured here, which share no column of accuracy with others'."""

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
# Those of the same epochs in all as the compact nets, which start from a trained one.
AGAIN = {kind: f"{kind}_again" for kind in ("full", "mobilenet", "lite")}
WORDS = {
    "full": "SSD-300 ResNet50-v1d",
    "compact": "compact, 2.31 GMACs",
    "compact_s": "compact_s, 2 × 1.155 GFLOPs",
    "mobilenet": "SSD-300 MobileNet1.0, the same maps",
    "lite": "SSD-300 MobileNet1.0, classic",
}


def own_cost(cost: Mapping) -> list[str]:
    """Return size and work as they were counted."""
    macs = cost["macs"]
    return [f"{cost['bytes'] / 1e6:.2f}", f"{macs / 1e9:.3f}", f"{2 * macs / 1e9:.3f}"]


def own_detector(name: str, cost: Mapping, sets: Sequence[Mapping]) -> list[list[str]]:
    """Return the rows of a detector of ours: its cost, and its mAP on each set."""
    kinds = {OURS[name]: WORDS[name]}
    if name in AGAIN:
        kinds[AGAIN[name]] = f"{WORDS[name]}, trained as long as compact"
    return [
        [words, *own_cost(cost), NOT_HERE, *(_measured(found, kind) for found in sets)]
        for kind, words in kinds.items()
    ]


def _measured(results: Mapping[str, Any], kind: str) -> str:
    found = list(by_net(results).get(kind, {}).values())
    done, all_of_them = sum(map(bool, found)), len(found)
    count = f"{done} of {all_of_them}" if done < all_of_them else f"{done}"
    seeds = f", {count} seed{'s' * (all_of_them > 1)}" if done else ""
    return _accuracy(found, "mAP") + seeds


def own_classifier(name: str, results: Mapping[str, Any]) -> list[str]:
    """Return the cells of a classifier of an experiment."""
    (stage,) = by_net({name: results[name]})[name].values()
    cost = own_cost(stage) if stage else [""] * len(COST)
    return [name, *cost, NOT_HERE, _accuracy([stage], "top1")]


def _accuracy(found: Sequence, key: str) -> str:
    if not found:
        return NOT_HERE
    done = [stage for stage in found if stage]
    if not done:
        return "not run yet"
    return percent(mean_of(done, key))
