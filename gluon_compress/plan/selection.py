"""How plans are made: under a budget, or by fixed shares."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Mapping, Sequence

import numpy as np

from gluon_compress.graph import Graph
from gluon_compress.plan.budget import Budget, meter_of
from gluon_compress.plan.choose import SELECTIONS, Choices, widths_of
from gluon_compress.plan.criteria import scores
from gluon_compress.plan.decision import Plan, listed
from gluon_compress.timing import LatencyTable


def select(
    graph: Graph,
    budget: Budget,
    criterion: str | Mapping[str, Sequence] = "l1",
    *,
    selection: str = "greedy",
    multiple: int = 16,
    minimum: int | None = None,
    groups: Sequence[str] = ("*",),
    within: Plan | None = None,
    table: LatencyTable | None = None,
    seed: int = 0,
    net: str = "",
    commit: str = "",
) -> Plan:
    """Choose the channels to keep so that every limit is met, and closely.

    Parameters
    ----------
    graph : Graph
    budget : Budget
    criterion : str or mapping
        What a channel is worth: a name in ``criteria.CRITERIA``, or group to worth,
        from ``prune.taylor`` for instance.
    selection : str
        How the widths are found, a name in ``choose.SELECTIONS``.
    multiple : int
        Widths, in channels, are multiples of it or whole. Only where the budget
        cannot be met so, it is halved until it can.
    minimum : int, optional
        Channels that no group goes below; the multiple by default.
    groups : sequence of str
        Patterns of group names; the others keep what ``within`` says.
    within : Plan, optional
        Nothing is kept that it does not keep, ``delete``'s plan for instance.
    table : LatencyTable, optional
        The times that a limit of latency is for; needed where there is one.
    seed : int
        For the criterion ``random``.
    net, commit : str
        Notes for the plan's reader.

    Raises
    ------
    ValueError
        If a name is unknown, a pattern matches no group, latency is limited without a
        table, or the budget cannot be met; then the message says what is the least
        that can be reached.
    """
    if selection not in SELECTIONS:
        raise ValueError(f"selection {selection!r} is unknown; {listed(SELECTIONS)}")
    _check_whole("multiple", multiple)
    if minimum is not None:
        _check_whole("minimum", minimum)
    if within is not None:
        within.check(graph)
    meter, worth = meter_of(graph, budget, table), scores(graph, criterion, seed)
    free = _matching(graph, groups)
    base = within or Plan({})
    while True:
        widths = []
        for group in meter.groups:
            most = len(base.kept(group))
            least = multiple if minimum is None else minimum
            able = widths_of(group, multiple, least, most)
            widths.append(able if group.name in free else [most])
        order = [_best_first(base.kept(g), worth[g.name]) for g in meter.groups]
        ranked = [worth[g.name][kept] for g, kept in zip(meter.groups, order)]
        choices = Choices(meter, budget.limits, widths, ranked)
        if choices.fits(choices.smallest) or multiple == 1:
            break
        multiple //= 2
    _check_reachable(choices, graph, free)
    rungs = SELECTIONS[selection](choices)
    keep = {
        group.name: tuple(sorted(int(i) for i in kept[: row[rung]]))
        for group, kept, row, rung in zip(meter.groups, order, widths, rungs)
    }
    made_by = {
        "criterion": criterion if isinstance(criterion, str) else "given",
        "selection": selection,
        "budget": {n: float(v) for n, v in budget.limits.items()},
        "multiple": multiple,
        "seed": seed,
        "commit": commit,
    }
    return Plan(_all_groups(graph, keep), net, made_by)


def delete(
    graph: Graph,
    keep: Mapping[str, float],
    criterion: str | Mapping[str, Sequence] = "l1",
    *,
    multiple: int = 16,
    minimum: int | None = None,
    seed: int = 0,
    net: str = "",
    commit: str = "",
) -> Plan:
    """Choose a fixed share of the channels of some groups, whatever that costs.

    Parameters
    ----------
    graph : Graph
    keep : mapping
        Pattern of group names to the share that stays, above 0 to 1; the first
        pattern that fits a group counts, groups that none fits stay whole.
    criterion, multiple, minimum, seed, net, commit
        As for ``select``; the width nearest to the share is taken.

    Raises
    ------
    ValueError
        If a pattern matches no group that can lose channels, or a share is wrong.
    """
    _check_whole("multiple", multiple)
    if minimum is not None:
        _check_whole("minimum", minimum)
    for pattern, share in keep.items():
        number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if not number or not 0 < share <= 1:
            raise ValueError(f"{pattern!r} keeps {share!r}; allowed: above 0 to 1")
        _matching(graph, [pattern])
    worth, chosen = scores(graph, criterion, seed), {}
    for group in graph.groups:
        share = next((s for p, s in keep.items() if fnmatchcase(group.name, p)), 1)
        if not group.frozen and share < 1:
            least = multiple if minimum is None else minimum
            able = widths_of(group, multiple, least, group.width)
            width = min(able, key=lambda n: (abs(n - share * group.width), -n))
            order = _best_first(range(group.width), worth[group.name])
            chosen[group.name] = tuple(sorted(int(i) for i in order[:width]))
    made_by = {
        "criterion": criterion if isinstance(criterion, str) else "given",
        "selection": "delete",
        "keep": {pattern: float(share) for pattern, share in keep.items()},
        "multiple": multiple,
        "seed": seed,
        "commit": commit,
    }
    return Plan(_all_groups(graph, chosen), net, made_by)


def _all_groups(graph: Graph, keep: Mapping) -> dict:
    return {g.name: keep.get(g.name, range(g.width)) for g in graph.groups}


def _best_first(kept: Sequence[int], worth: np.ndarray) -> np.ndarray:
    """Return indices by falling worth; of equal ones the first comes first."""
    kept = np.asarray(kept, int)
    return kept[np.argsort(-worth[kept], kind="stable")]


def _matching(graph: Graph, patterns: Sequence[str]) -> set[str]:
    free = [group.name for group in graph.groups if not group.frozen]
    found = set()
    for pattern in patterns:
        names = [name for name in free if fnmatchcase(name, pattern)]
        if not names and free:
            raise ValueError(
                f"pattern {pattern!r} fits no group that can lose channels; "
                f"{listed(free)}"
            )
        found.update(names)
    return found


def _check_whole(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}; allowed: a whole number from 1")


def _check_reachable(choices: Choices, graph: Graph, free: set) -> None:
    if choices.fits(choices.smallest):
        return
    least = np.array([[row[0] for row in choices.widths]], int)
    totals = choices.meter.totals(least)
    name = max(choices.limits, key=lambda n: totals[n][0] / choices.limits[n])
    held = [g.name for g in graph.groups if g.frozen or g.name not in free]
    raise ValueError(
        f"the budget of {choices.limits[name]:,.0f} {name} cannot be met: the least "
        f"that can be reached is {totals[name][0]:,.0f}; frozen or left out are "
        f"{', '.join(held) or 'no groups'}"
    )
