"""What experiments were to show, as differences of what was measured."""

from __future__ import annotations

import fnmatch
import statistics
from typing import Mapping, Sequence

from tables import table

Groups = Mapping[str, Mapping[int, dict]]  # see tables.by_net


def aims_table(
    groups: Groups, aims: Sequence[tuple], figures: Mapping[str, str]
) -> list:
    """Return the part of a page that says which aims are met, and which missed.

    An aim is (experiment, other, least difference in points), any above it where that
    is 0; those of experiments that are not in the set are left out. ``figures`` are
    keys of results by what a page calls them: the first is judged, the others are shown
    beside it. A difference is the mean over the seeds that both experiments have.
    """
    rows = []
    for net, other, least in aims:
        if {net, other} <= set(groups):
            found, missing = _pairs(groups[net], groups[other])
            points = _points(found, figures)
            met = "not run yet"
            if found:
                reached = points[0] >= least if least else points[0] > 0
                met = "yes" if reached else "no"
                met += ", so far" if missing else ""
            first, *more = map(_signed, points)
            aim = f"at least {least:+.1f}" if least else "above 0"
            rows.append([f"{net} − {other}", aim, first, str(len(found)), met, *more])
    judged, *others = figures
    head = (f"difference of {judged}", "aim, points", "measured", "seeds", "met")
    shown = table((*head, *others), rows)
    return ["## What was aimed at\n", shown] if rows else []


def gains_table(
    groups: Groups, bases: Mapping[str, str], figures: Mapping[str, str]
) -> list:
    """Return the part of a page that says what each net gains over another.

    ``bases`` are patterns of names and the net that what fits is held against, seed by
    seed as in ``aims_table``.
    """
    rows = []
    for pattern, base in bases.items():
        for net in fnmatch.filter(groups if base in groups else (), pattern):
            found, _ = _pairs(groups[net], groups[base])
            if net != base and found:
                points = map(_signed, _points(found, figures))
                rows.append([net, base, str(len(found)), *points])
    judged, *others = figures
    head = ("net", "against", "seeds", f"points of {judged}", *others)
    return ["## What is gained\n", table(head, rows)] if rows else []


def _pairs(net: Mapping[int, dict], other: Mapping[int, dict]) -> tuple[list, int]:
    """Return the results of both with the same seed, and how many are still missing."""
    shared = [(net[seed], other[seed]) for seed in net if seed in other]
    found = [pair for pair in shared if all(pair)]
    return found, len(shared) - len(found)


def _points(pairs: Sequence[tuple], figures: Mapping[str, str]) -> list[float | None]:
    if not pairs:
        return [None] * len(figures)
    keys = figures.values()
    return [100 * statistics.mean(a[key] - b[key] for a, b in pairs) for key in keys]


def _signed(points: float | None) -> str:
    digits = 2 if points and abs(points) < 0.05 else 1  # no +0.0 for more
    return "" if points is None else f"{points:+.{digits}f}"
