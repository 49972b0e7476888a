"""What experiments were to show, as differences of what was measured."""

from __future__ import annotations

import fnmatch
from typing import Any, Collection, Mapping, Sequence

from tables import table


def aims_table(
    means: Mapping[str, Any],
    aims: Sequence[tuple],
    figure: str,
    *,
    beside: Mapping[str, Mapping[str, Any]] | None = None,
    unfinished: Collection[str] = (),
) -> list:
    """Return the part of a page that says which aims are met, and which missed.

    An aim is (experiment, other, least difference in points); those of experiments
    that are not in the set are left out. ``beside`` are other figures and their means,
    whose differences are shown, too; ``unfinished`` are experiments that lack seeds.
    """
    rows = []
    for net, other, least in aims:
        if {net, other} <= set(means):
            points = _points(means, net, other)
            met = "not run yet"
            if points is not None:
                met = "yes" if points >= least else "no"
                met += ", so far" if {net, other} & set(unfinished) else ""
            more = [_points(of, net, other) for of in (beside or {}).values()]
            aim = f"at least {least:+.1f}"
            cells = [aim, _signed(points), met, *map(_signed, more)]
            rows.append([f"{net} − {other}", *cells])
    head = (f"difference of {figure}", "aim, points", "measured", "met")
    shown = table((*head, *(beside or ())), rows)
    return ["## What was aimed at\n", shown] if rows else []


def gains_table(
    means: Mapping[str, Any],
    bases: Mapping[str, str],
    figure: str,
    *,
    beside: Mapping[str, Mapping[str, Any]] | None = None,
) -> list:
    """Return the part of a page that says what each net gains over another.

    ``bases`` are patterns of names and the net that what fits is held against.
    """
    rows = []
    for pattern, base in bases.items():
        for net in fnmatch.filter(means if base in means else (), pattern):
            points = _points(means, net, base)
            if net != base and points is not None:
                more = [_points(of, net, base) for of in (beside or {}).values()]
                rows.append([net, base, _signed(points), *map(_signed, more)])
    head = ("net", "against", f"points of {figure}", *(beside or ()))
    return ["## What is gained\n", table(head, rows)] if rows else []


def _points(means: Mapping[str, Any], net: str, other: str) -> float | None:
    if means[net] is None or means[other] is None:
        return None
    return 100 * (means[net] - means[other])


def _signed(points: float | None) -> str:
    return "" if points is None else f"{points:+.1f}"
