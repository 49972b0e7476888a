"""Tables of experiments, made of their result files alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Mapping, Sequence


def results_of(folder: Path) -> dict[str, Any]:
    """Return the result of each experiment by name, None where there is none yet."""
    from gluon_compress.files import read_json

    found = sorted(path.parent for path in folder.glob("*/recipe.json"))
    paths = {place.name: place / "result.json" for place in found}
    return {n: read_json(p) if p.exists() else None for n, p in paths.items()}


def by_net(results: Mapping[str, Any]) -> dict[str, list]:
    """Return the last stage of each result, or None, by name without ``_seedN``."""
    groups: dict[str, list] = {}
    for name, result in results.items():
        kind, _, seed = name.rpartition("_seed")
        last = result and list(result["stages"].values())[-1]
        groups.setdefault(kind if seed.isdigit() else name, []).append(last)
    return groups


def percent(value: float | None) -> str:
    """Return a share as text, a dash for none."""
    return "–" if value is None else f"{100 * value:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = (f"| {' | '.join(c)} |\n" for c in (head, ["---"] * len(head), *rows))
    return "".join(lines)


def mean_of(found: Sequence, key: str) -> float | None:
    """Return the mean of a figure over the seeds that have a result."""
    values = [stage[key] for stage in found if stage]
    return statistics.mean(values) if values else None


def aims_table(means: Mapping[str, Any], aims: Sequence[tuple], figure: str) -> list:
    """Return the part of a page that says which aims are met, and which missed.

    An aim is (experiment, other, least difference in points); those of experiments
    that are not in the set are left out.
    """
    rows = []
    for net, other, least in aims:
        if {net, other} <= set(means):
            known = means[net] is not None and means[other] is not None
            found = 100 * (means[net] - means[other]) if known else None
            told = "not run yet" if found is None else "yes" if found >= least else "no"
            shown = "" if found is None else f"{found:+.1f}"
            rows.append([f"{net} − {other}", f"at least {least:+.1f}", shown, told])
    head = (f"difference of {figure}", "aim, points", "measured", "met")
    return ["## What was aimed at\n", table(head, rows)] if rows else []
