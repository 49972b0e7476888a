"""Make a plan by fixed shares: each group keeps a share, whatever that costs."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Mapping, Sequence

import numpy as np

from gluon_compress.graph import Graph
from gluon_compress.plan.constraints import (
    Bound,
    bounds,
    bounds_as_json,
    check_multiple,
    free_groups,
    matching,
    widths_of,
)
from gluon_compress.plan.importance import best_first, importance_of
from gluon_compress.plan.plan import Plan


def delete(
    graph: Graph,
    keep: Mapping[str, float],
    criterion: str | Mapping[str, Sequence] = "l1",
    *,
    multiple: int = 16,
    minimum: Bound = None,
    seed: int = 0,
) -> Plan:
    """Keep a fixed share of the channels of some groups.

    Parameters
    ----------
    graph : Graph
    keep : mapping
        Pattern of group names to the share that stays, above 0 to 1. The first pattern
        that matches a group counts; groups that none matches stay whole. First and last
        layers are not protected: a pattern that names them asks for it.
    criterion : str or mapping
        How important a channel is, as for ``select``.
    multiple : int
        Of the widths that ``multiple`` allows, the nearest to the share is taken, the
        larger of two. At 16, a share of 0.3 keeps 16 of 64 channels, 0.001 keeps 16 of
        1,024, and a group of up to 16 stays whole.
    minimum : int, float or mapping, optional
        The least that a group keeps, as in ``Constraints``.
    seed : int
        For the criterion ``random``.

    Raises
    ------
    ValueError
        If there is no pattern, one matches no group that can lose channels or only
        groups that earlier ones match, a share is not allowed, or, without a
        ``minimum``, it rounds to less than one channel.
    """
    check_multiple(multiple)
    shares = _checked_shares(graph, keep)
    if minimum is None:
        _check_one_stays(graph, shares)
    importance = importance_of(graph, criterion, seed)
    least = bounds(graph, "minimum", minimum, multiple)
    kept: dict[str, Sequence[int]] = {
        group.name: range(group.width) for group in graph.groups
    }
    for group in free_groups(graph):
        name, full = group.name, group.width
        _, share = _first_match(shares, name)
        if share < 1:
            widths = widths_of(group, multiple, least[name], full, full)
            width = min(widths, key=lambda n: (abs(n - share * full), -n))
            indices = best_first(range(full), importance[name])[:width]
            kept[name] = sorted(int(i) for i in indices)
    made_by = {
        "criterion": criterion if isinstance(criterion, str) else "given",
        "selection": "delete",
        "keep": shares,
        "multiple": multiple,
        **bounds_as_json(minimum=minimum),
        "seed": seed,
        "commit": "",
        "widths": {group.name: group.width for group in graph.groups},
    }
    return Plan(kept, made_by=made_by)


def _first_match(shares: Mapping[str, float], group: str) -> tuple[str, float]:
    """Return the pattern that decides on a group, and its share; 1 without any."""
    matches = ((p, share) for p, share in shares.items() if fnmatchcase(group, p))
    return next(matches, ("", 1.0))


def _checked_shares(graph: Graph, keep: Mapping[str, float]) -> dict[str, float]:
    """Return the shares as Python's own numbers."""
    if not keep:
        raise ValueError("keep is {}; allowed: a pattern with its share, or several")
    decided: set[str] = set()
    for pattern, share in keep.items():
        numbers = (int, float, np.integer, np.floating)
        number = isinstance(share, numbers) and not isinstance(share, bool)
        if not number or not 0 < share <= 1:
            raise ValueError(f"{pattern!r} keeps {share!r}; allowed: above 0 to 1")
        matches = matching(graph, [pattern])
        if matches and matches <= decided:
            raise ValueError(f"{pattern!r} decides nothing; allowed: before the others")
        decided |= matches
    return {pattern: float(share) for pattern, share in keep.items()}


def _check_one_stays(graph: Graph, shares: Mapping[str, float]) -> None:
    """Refuse a share that rounds to less than one channel, at the narrowest group."""
    for group in sorted(free_groups(graph), key=lambda group: group.width):
        pattern, share = _first_match(shares, group.name)
        least = 0.5 / group.width
        if share < least:
            raise ValueError(
                f"{pattern!r} keeps {share!r} of {group.name!r}, whose width is "
                f"{group.width}: less than one channel; allowed: from {least!r}"
            )
