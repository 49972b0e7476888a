"""A plan, the decision what each channel group keeps, as data that can be stored."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Mapping, Sequence

import numpy as np

from gluon_compress.choose import SELECTIONS, Choices, widths_of
from gluon_compress.cost import Cost
from gluon_compress.criteria import scores
from gluon_compress.files import read_json, write_atomically
from gluon_compress.graph import ChannelGroup, Graph
from gluon_compress.meter import LIMITS, Meter

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """What each channel group keeps, and how that was decided.

    Parameters
    ----------
    keep : mapping
        Group to its kept indices, ascending. A group that is not named keeps all.
    net : str
        What the plan is for, in the reader's words.
    made_by : mapping
        Criterion, selection, budget, multiple, seed and commit, as far as they apply.

    Raises
    ------
    ValueError
        If indices are not whole numbers from 0, ascending and distinct, or none.
    """

    keep: Mapping[str, tuple[int, ...]]
    net: str = ""
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keep = {group: _indices(group, kept) for group, kept in self.keep.items()}
        object.__setattr__(self, "keep", keep)
        object.__setattr__(self, "made_by", dict(self.made_by))

    @classmethod
    def everything(cls, graph: Graph, net: str = "") -> Plan:
        """Return the plan that keeps every channel of a graph."""
        return cls({group.name: range(group.width) for group in graph.groups}, net)

    @classmethod
    def load(cls, path: Any) -> Plan:
        """Read a plan.

        Raises
        ------
        ValueError
            If the file is missing or holds no plan that this version knows.
        """
        stored = read_json(path)
        if not isinstance(stored, dict):
            raise ValueError(f"{path}: a plan is an object {{...}}")
        number = stored.get("format")
        if number != FORMAT or isinstance(number, bool):
            raise ValueError(
                f"{path}: format is {number!r}; this version reads {FORMAT}"
            )
        _check_keys(path, stored)
        try:
            return cls(stored["keep"], stored["net"], stored["made_by"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, path: Any) -> None:
        """Write the plan, atomically; equal plans make equal bytes."""
        lines = [
            f'  "format": {FORMAT},',
            f'  "net": {_json(self.net)},',
            f'  "made_by": {_json(self.made_by)},',
        ]
        rows = [f"    {_json(g)}: {_json(list(kept))}" for g, kept in self.keep.items()]
        keep = "{\n" + ",\n".join(rows) + "\n  }" if rows else "{}"
        lines.append(f'  "keep": {keep}')
        write_atomically(path, "{\n" + "\n".join(lines) + "\n}\n")

    def kept(self, group: ChannelGroup) -> tuple[int, ...]:
        """Return the indices that a group keeps."""
        return self.keep.get(group.name, tuple(range(group.width)))

    def check(self, graph: Graph) -> None:
        """Refuse a graph that the plan does not fit.

        Raises
        ------
        ValueError
            For a group the graph does not have, an index beyond a group's width, or a
            frozen group that would lose channels.
        """
        known = {group.name: group for group in graph.groups}
        for name, kept in self.keep.items():
            if name not in known:
                raise ValueError(f"group {name!r} is not in the net; {_list(known)}")
            group = known[name]
            if kept[-1] >= group.width:
                raise ValueError(
                    f"group {name!r} keeps channel {kept[-1]}, "
                    f"its width is {group.width}"
                )
            if group.frozen and len(kept) < group.width:
                raise ValueError(
                    f"group {name!r} keeps {len(kept)} of {group.width} channels, "
                    f"but it is frozen: {group.frozen}"
                )

    def compose(self, later: Plan) -> Plan:
        """Return one plan for this one and then a plan for the net it left.

        Parameters
        ----------
        later : Plan
            Made on the graph of the net that was slimmed by this plan.

        Raises
        ------
        ValueError
            If the later plan keeps an index that this one does not leave.
        """
        keep = dict(self.keep)
        for name, kept in later.keep.items():
            if name not in keep:
                keep[name] = kept
            elif kept[-1] >= len(keep[name]):
                raise ValueError(
                    f"group {name!r} keeps channel {kept[-1]} of the "
                    f"{len(keep[name])} that the plan before leaves"
                )
            else:
                keep[name] = tuple(self.keep[name][i] for i in kept)
        return Plan(keep, later.net or self.net, later.made_by)


def _indices(group: str, kept: Sequence) -> tuple[int, ...]:
    if isinstance(kept, np.ndarray):
        kept = kept.tolist()
    if not isinstance(group, str) or not isinstance(kept, (list, tuple, range)):
        raise ValueError(f"group {group!r} keeps {kept!r}; allowed: a list of indices")
    if not len(kept):
        raise ValueError(f"group {group!r} keeps nothing; allowed: one index or more")
    before = -1
    for i in kept:
        if not isinstance(i, (int, np.integer)) or isinstance(i, bool) or i < 0:
            raise ValueError(
                f"group {group!r} keeps {i!r}; allowed: whole numbers from 0"
            )
        if i <= before:
            raise ValueError(
                f"group {group!r} keeps {i} after {before}; "
                "allowed: ascending, each index once"
            )
        before = i
    return tuple(int(i) for i in kept)


def _check_keys(path: Any, stored: dict) -> None:
    kinds = {"format": int, "net": str, "made_by": dict, "keep": dict}
    for name in stored:
        if name not in kinds:
            raise ValueError(f"{path}: {name}: no such key; {_list(kinds)}")
    for name, kind in kinds.items():
        if name not in stored:
            raise ValueError(f"{path}: {name}: this key is missing")
        if not isinstance(stored[name], kind):
            what = {str: "a text", dict: "an object {...}"}.get(kind)
            raise ValueError(f"{path}: {name} is {stored[name]!r}; allowed: {what}")


@dataclass(frozen=True)
class Budget:
    """Limits that a plan must meet; at least one.

    Parameters
    ----------
    macs : float, optional
        Multiply-accumulates of one sample.
    bytes : float, optional
        Stored size as float32.
    params : float, optional
        Trained parameters.

    Raises
    ------
    ValueError
        If no limit is given, or one is not a number above 0.
    """

    macs: float | None = None
    bytes: float | None = None
    params: float | None = None

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            right = isinstance(limit, (int, float, np.number))
            right = right and not isinstance(limit, bool) and math.isfinite(limit)
            if not right or limit <= 0:
                raise ValueError(
                    f"budget {name} is {limit!r}; allowed: a number above 0"
                )
        if not self.limits:
            raise ValueError(f"a budget needs at least one of {', '.join(LIMITS)}")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, by name."""
        return {n: v for n, v in asdict(self).items() if v is not None}

    @classmethod
    def share(cls, cost: Cost, **shares: float) -> Budget:
        """Return limits as shares of a cost: ``Budget.share(cost, macs=0.5)``."""
        for name in shares:
            if name not in LIMITS:
                raise ValueError(f"budget {name!r} is unknown; {_list(LIMITS)}")
        return cls(**{n: share * getattr(cost, n) for n, share in shares.items()})


def select(
    graph: Graph,
    budget: Budget,
    criterion: str = "l1",
    *,
    selection: str = "uniform",
    multiple: int = 16,
    minimum: int | None = None,
    groups: Sequence[str] = ("*",),
    within: Plan | None = None,
    seed: int = 0,
    net: str = "",
    commit: str = "",
) -> Plan:
    """Choose the channels to keep so that every limit is met, and closely.

    Parameters
    ----------
    graph : Graph
    budget : Budget
    criterion : str
        What a channel is worth, a name in ``criteria.CRITERIA``.
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
    seed : int
        For the criterion ``random``.
    net, commit : str
        Notes for the plan's reader.

    Raises
    ------
    ValueError
        If a name is unknown, a pattern matches no group, or the budget cannot be met;
        then the message says what is the least that can be reached.
    """
    if selection not in SELECTIONS:
        raise ValueError(f"selection {selection!r} is unknown; {_list(SELECTIONS)}")
    _check_whole("multiple", multiple)
    if minimum is not None:
        _check_whole("minimum", minimum)
    if within is not None:
        within.check(graph)
    meter, worth = Meter(graph), scores(graph, criterion, seed)
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
        "criterion": criterion,
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
    criterion: str = "l1",
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
        "criterion": criterion,
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
                f"pattern {pattern!r} fits no group that can lose channels; {_list(free)}"
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


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _list(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - 40} more" if len(names) > 40 else ""
    return f"allowed: {', '.join(map(str, names[:40]))}{more}"
