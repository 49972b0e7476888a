"""What experiments were to show, as differences of what was measured."""

from __future__ import annotations

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
            found, missing = pairs(groups[net], groups[other])
            means = points(found, figures)
            met = _verdict([points([pair], figures)[0] for pair in found], least)
            met += ", so far" if found and missing else ""
            first, *more = map(signed, means)
            aim = f"at least {least:+.1f}" if least else "above 0"
            rows.append([f"{net} − {other}", aim, first, str(len(found)), met, *more])
    judged, *others = figures
    head = (f"difference of {judged}", "aim, points", "measured", "seeds", "met")
    shown = table((*head, *others), rows)
    return ["## What was aimed at\n", shown] if rows else []


def _verdict(differences: Sequence[float], least: float) -> str:
    """Say whether the mean over the seeds reaches an aim, and how many of them do."""

    def reached(difference: float) -> bool:
        return difference >= least if least else difference > 0

    if not differences:
        return "not run yet"
    verdict, count = reached(statistics.mean(differences)), len(differences)
    agree = sum(reached(one) == verdict for one in differences)
    by = "one seed" if count == 1 else f"{agree} of {count} seeds"
    return ("yes" if verdict else "no") + ("" if agree == count > 1 else f", by {by}")


def pairs(net: Mapping[int, dict], other: Mapping[int, dict]) -> tuple[list, int]:
    """Return the results of both with the same seed, and how many are still missing."""
    shared = [(net[seed], other[seed]) for seed in net if seed in other]
    found = [pair for pair in shared if all(pair)]
    return found, len(shared) - len(found)


def points(found: Sequence[tuple], figures: Mapping[str, str]) -> list[float | None]:
    """Return the mean differences of pairs of results, or nothing without any."""
    if not found:
        return [None] * len(figures)
    keys = figures.values()
    return [100 * statistics.mean(a[key] - b[key] for a, b in found) for key in keys]


def signed(value: float | None) -> str:
    """Return a difference with its sign, or nothing."""
    digits = 2 if value and abs(value) < 0.05 else 1  # no +0.0 for more
    return "" if value is None else f"{value:+.{digits}f}"
