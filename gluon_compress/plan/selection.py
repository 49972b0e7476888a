"""How plans are made: under a budget, or by fixed shares."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Mapping, Sequence

import numpy as np

from gluon_compress.graph import ChannelGroup, Graph
from gluon_compress.latency import LatencyTable
from gluon_compress.plan.budget import Budget, meter_of
from gluon_compress.plan.constraints import (
    Bound,
    bounds,
    check_bounds,
    free_groups,
    held,
    matching,
    widths_of,
)
from gluon_compress.plan.importance import best_first, scores
from gluon_compress.plan.plan import Plan, listed
from gluon_compress.plan.search import SELECTIONS, Choices
from gluon_compress.plan.sensitivity import Sensitivity
from gluon_compress.validation import few


def select(
    graph: Graph,
    budget: Budget,
    criterion: str | Mapping[str, Sequence] = "l1",
    *,
    selection: str = "greedy",
    multiple: int = 16,
    minimum: Bound = None,
    maximum: Bound = None,
    groups: Sequence[str] = ("*",),
    leave: Sequence[str] = (),
    ends: bool = False,
    within: Plan | None = None,
    table: LatencyTable | None = None,
    effects: Mapping[str, float] | None = None,
    sensitivity: Sensitivity | None = None,
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
    minimum, maximum : int, float or mapping, optional
        What each group keeps at least and at most: channels as a whole number, a share
        of the width as a float, or either by pattern of group names, of which the first
        that fits counts. The minimum is the multiple by default. A maximum holds also
        where the budget does not ask for it.
    groups : sequence of str
        Patterns of group names; the others keep what ``within`` says.
    leave : sequence of str
        Patterns of group names to leave alone.
    ends : bool
        Whether groups may lose channels that are made by a layer that reads the
        network's input (``reach.first_layers``) or that makes an output
        (``reach.last_layers``). What an output shows is frozen in any case.
    within : Plan, optional
        Nothing is kept that it does not keep, ``delete``'s plan for instance.
    table : LatencyTable, optional
        The times that a limit of latency is for; needed where there is one.
    effects : mapping, optional
        Group to what it means to the net, from ``prune.effects``, for ``greedy``. By
        default a group counts as often as layers make or pass on its channels.
    sensitivity : Sensitivity, optional
        What ``prune.sensitivity`` measured, for the selection of that name.
    seed : int
        For the criterion ``random``.
    net, commit : str
        Notes for the plan's reader.

    Returns
    -------
    Plan
        Its ``made_by`` holds the reason of each group that was ``held`` back, and the
        ``widths`` of all, by which ``Plan.check`` knows another net.

    Raises
    ------
    ValueError
        If a name is unknown, a pattern matches no group, data are missing that a
        criterion, a selection or a limit of latency needs, a value of the net is not
        finite, or the budget cannot be met; then the message says what is the least
        that can be reached, and which groups stand in the way and why.
    """
    if selection not in SELECTIONS:
        raise ValueError(f"selection {selection!r} is unknown; {listed(SELECTIONS)}")
    _check_whole("multiple", multiple)
    if within is not None:
        within.check(graph)
    worth = scores(graph, criterion, seed)
    reasons = held(graph, groups, leave, ends=ends)
    able = [group for group in free_groups(graph) if group.name not in reasons]
    _check_curves(sensitivity, selection, criterion, able)
    weighed = _effects(effects, selection, graph)
    meter = meter_of(graph, budget, table)
    check_bounds(graph, minimum, maximum, able)
    base = within or Plan({})
    order = [best_first(base.kept(g), worth[g.name]) for g in meter.groups]
    ranked = [worth[g.name][kept] for g, kept in zip(meter.groups, order)]
    while True:
        widths = _widths(graph, base, reasons, (minimum, maximum), multiple)
        lost = _lost(sensitivity, meter.groups, widths)
        choices = Choices(meter, budget.limits, widths, ranked, weighed, lost)
        if choices.fits(choices.smallest) or multiple == 1:
            break
        multiple //= 2
    _check_reachable(choices, graph, reasons)
    rungs = SELECTIONS[selection](choices)
    keep = {
        group.name: tuple(sorted(int(i) for i in kept[: row[rung]]))
        for group, kept, row, rung in zip(meter.groups, order, widths, rungs)
    }
    made_by = {
        "criterion": _name(criterion),
        "selection": selection,
        "budget": {n: float(v) for n, v in budget.limits.items()},
        "multiple": multiple,
        **_stated(minimum=minimum, maximum=maximum),
        **({"effects": dict(effects)} if effects else {}),
        "seed": seed,
        "commit": commit,
        "held": reasons,
        "widths": {group.name: group.width for group in graph.groups},
    }
    return Plan(_all_groups(graph, keep), net, made_by)


def _widths(
    graph: Graph, base: Plan, reasons: Mapping, asked: tuple, multiple: int
) -> list[list[int]]:
    """Return the numbers of indices that each group that is not frozen may keep."""
    least = bounds(graph, "minimum", asked[0], multiple)
    most = bounds(graph, "maximum", asked[1], 1.0)
    result = []
    for group in free_groups(graph):
        name, whole = group.name, len(base.kept(group))
        between = (least[name], most[name])
        free = name not in reasons
        result.append(widths_of(group, multiple, *between, whole) if free else [whole])
    return result


def _effects(
    given: Mapping[str, float] | None, selection: str, graph: Graph
) -> list[float]:
    """Return the effect of each group that may lose channels."""
    if given is None:
        return [float(max(len(group.layers), 1)) for group in free_groups(graph)]
    if selection != "greedy":
        raise ValueError(
            f"selection {selection!r} does not follow effects; allowed: with "
            "selection 'greedy'"
        )
    found = []
    for group in free_groups(graph):
        value = given.get(group.name)
        number = isinstance(value, (int, float, np.number))
        if not number or not np.isfinite(value) or value < 0:
            raise ValueError(
                f"the effect of group {group.name!r} is {value!r}; allowed: a number "
                "from 0"
            )
        found.append(float(value))
    return found


def _check_curves(
    sensitivity: Sensitivity | None,
    selection: str,
    criterion: str | Mapping,
    groups: Sequence[ChannelGroup],
) -> None:
    if sensitivity is None:
        return
    if selection != "sensitivity":
        raise ValueError(
            f"selection {selection!r} does not follow a sensitivity; allowed: with "
            "selection 'sensitivity'"
        )
    if sensitivity.criterion != _name(criterion):
        raise ValueError(
            f"criterion {_name(criterion)!r}: the sensitivity was measured with "
            f"{sensitivity.criterion!r}; allowed: the same"
        )
    sensitivity.check(groups)


def _lost(
    sensitivity: Sensitivity | None,
    groups: Sequence[ChannelGroup],
    widths: Sequence[Sequence[int]],
) -> list[np.ndarray] | None:
    """Return the accuracy that is lost at each width; held groups have but one."""
    if sensitivity is None:
        return None
    return [
        sensitivity.lost(group.name, row) if len(row) > 1 else np.zeros(1)
        for group, row in zip(groups, widths)
    ]


def _name(criterion: str | Mapping) -> str:
    return criterion if isinstance(criterion, str) else "given"


def _stated(**bounds: Bound) -> dict[str, Any]:
    """Return the bounds that were given, as JSON has them."""
    given = {name: value for name, value in bounds.items() if value is not None}
    return {
        name: {pattern: _plain(bound) for pattern, bound in value.items()}
        if isinstance(value, Mapping)
        else _plain(value)
        for name, value in given.items()
    }


def _plain(bound: float) -> int | float | None:
    """Return a bound that may be NumPy's as Python's own number."""
    return bound.item() if isinstance(bound, np.generic) else bound


def delete(
    graph: Graph,
    keep: Mapping[str, float],
    criterion: str | Mapping[str, Sequence] = "l1",
    *,
    multiple: int = 16,
    minimum: Bound = None,
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
        pattern that fits a group counts, groups that none fits stay whole. Who names
        groups here asks for it, so first and last layers are not protected.
    criterion, multiple, minimum, seed, net, commit
        As for ``select``. Of the widths that ``multiple`` allows the one nearest to
        the share is taken, the larger of two: at 16, 0.3 of 64 channels is 16 of them,
        0.001 of 1,024 is 16, and a group of up to 16 stays whole.

    Raises
    ------
    ValueError
        If there is no pattern, one matches no group that can lose channels, or none
        that an earlier one does not, a share is wrong, or, without a ``minimum``, it
        rounds to less than one channel.
    """
    _check_whole("multiple", multiple)
    keep = _shares(graph, keep)
    if minimum is None:
        _check_one_stays(graph, keep)
    worth, chosen = scores(graph, criterion, seed), {}
    least = bounds(graph, "minimum", minimum, multiple)
    for group in graph.groups:
        share = next((s for p, s in keep.items() if fnmatchcase(group.name, p)), 1)
        if not group.frozen and share < 1:
            whole = group.width
            able = widths_of(group, multiple, least[group.name], whole, whole)
            width = min(able, key=lambda n: (abs(n - share * group.width), -n))
            order = best_first(range(group.width), worth[group.name])
            chosen[group.name] = tuple(sorted(int(i) for i in order[:width]))
    made_by = {
        "criterion": _name(criterion),
        "selection": "delete",
        "keep": keep,
        "multiple": multiple,
        **_stated(minimum=minimum),
        "seed": seed,
        "commit": commit,
        "widths": {group.name: group.width for group in graph.groups},
    }
    return Plan(_all_groups(graph, chosen), net, made_by)


def _shares(graph: Graph, keep: Mapping[str, float]) -> dict[str, float]:
    """Return shares to keep as Python's own numbers, if they and patterns are right."""
    if not keep:
        raise ValueError("keep is {}; allowed: a pattern with its share, or several")
    decided: set[str] = set()
    for pattern, share in keep.items():
        kinds = (int, float, np.integer, np.floating)
        number = isinstance(share, kinds) and not isinstance(share, bool)
        if not number or not 0 < share <= 1:
            raise ValueError(f"{pattern!r} keeps {share!r}; allowed: above 0 to 1")
        fits = matching(graph, [pattern])
        if fits and fits <= decided:
            raise ValueError(f"{pattern!r} decides nothing; allowed: before the others")
        decided |= fits
    return {pattern: float(share) for pattern, share in keep.items()}


def _check_one_stays(graph: Graph, keep: Mapping[str, float]) -> None:
    """Refuse a share that rounds to less than one channel, at the narrowest group."""
    for group in sorted(free_groups(graph), key=lambda group: group.width):
        fits = ((p, s) for p, s in keep.items() if fnmatchcase(group.name, p))
        pattern, share = next(fits, ("", 1.0))
        least = 0.5 / group.width
        if share < least:
            raise ValueError(
                f"{pattern!r} keeps {share!r} of {group.name!r}, whose width is "
                f"{group.width}: less than one channel; allowed: from {least!r}"
            )


def _all_groups(graph: Graph, keep: Mapping) -> dict:
    return {g.name: keep.get(g.name, range(g.width)) for g in graph.groups}


def _check_whole(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}; allowed: a whole number from 1")


def _check_reachable(choices: Choices, graph: Graph, reasons: Mapping) -> None:
    if choices.fits(choices.smallest):
        return
    least = np.array([[row[0] for row in choices.widths]], int)
    totals = choices.meter.totals(least)
    name = max(choices.limits, key=lambda n: totals[n][0] / choices.limits[n])
    stopped: dict[str, list[str]] = {}
    for group in graph.groups:
        reason = (
            f"frozen as {group.frozen}" if group.frozen else reasons.get(group.name)
        )
        stopped.setdefault(reason or "at their minimum", []).append(group.name)
    why = "; ".join(f"{reason}: {few(names, 6)}" for reason, names in stopped.items())
    raise ValueError(
        f"the budget of {_figure(choices.limits[name])} {name} cannot be met: the "
        f"least that can be reached is {_figure(totals[name][0])}; {why}"
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.4g}"
