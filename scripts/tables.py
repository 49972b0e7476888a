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


def aims_table(
    means: Mapping[str, Any],
    aims: Sequence[tuple],
    figure: str,
    beside: tuple[str, Mapping[str, Any]] | None = None,
) -> list:
    """Return the part of a page that says which aims are met, and which missed.

    An aim is (experiment, other, least difference in points); those of experiments
    that are not in the set are left out. ``beside`` is another figure and its means,
    whose difference is shown, too.
    """
    shown = [(f"difference of {figure}", means), *([beside] if beside else [])]
    rows = []
    for net, other, least in aims:
        if {net, other} <= set(means):
            found = [_points(of, net, other) for _, of in shown]
            told = "yes" if found[0] is not None and found[0] >= least else "no"
            told = told if found[0] is not None else "not run yet"
            cells = ["" if value is None else f"{value:+.1f}" for value in found]
            aim = f"at least {least:+.1f}"
            rows.append([f"{net} − {other}", aim, cells[0], told, *cells[1:]])
    names = [name for name, _ in shown]
    head = (names[0], "aim, points", "measured", "met", *names[1:])
    return ["## What was aimed at\n", table(head, rows)] if rows else []


def _points(means: Mapping[str, Any], net: str, other: str) -> float | None:
    if means[net] is None or means[other] is None:
        return None
    return 100 * (means[net] - means[other])
