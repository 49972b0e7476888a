"""What nets gain over others, as differences of what was measured."""

from __future__ import annotations

import fnmatch
from typing import Mapping

from aims import Groups, pairs, points, signed
from tables import table


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
            found, _ = pairs(groups[net], groups[base])
            if net != base and found:
                means = map(signed, points(found, figures))
                rows.append([net, base, str(len(found)), *means])
    judged, *others = figures
    head = ("net", "against", "seeds", f"points of {judged}", *others)
    return ["## What is gained\n", table(head, rows)] if rows else []
