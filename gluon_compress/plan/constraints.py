"""Which groups may lose channels, and between which widths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Mapping, Sequence, Union

import numpy as np

from gluon_compress.graph import ChannelGroup, Graph
from gluon_compress.graph.operators import operator_of
from gluon_compress.plan.plan import Plan, listed

FIRST = "first layer, protected unless ends=True"
LAST = "last layer, protected unless ends=True"

# Channels as a whole number, a share of the width as a float, or either by pattern of
# group names, of which the first that fits counts. None: the default.
Bound = Union[int, float, Mapping[str, Union[int, float]], None]


@dataclass(frozen=True)
class Constraints:
    """Which groups may lose channels, and how many.

    Patterns are those of ``fnmatch``, with group names.

    Parameters
    ----------
    multiple : int, optional
        Widths, in channels, are multiples of it, or the whole width. ``select`` halves
        it only where the budget cannot be met otherwise. None: what the latency table
        of a runtime shows to be worth it, and 16 without one.
    minimum : int, float or mapping, optional
        The least that a group keeps: channels as a whole number, a share of the width
        as a float, or either by pattern, of which the first that fits counts. It is
        rounded up. The default is ``multiple``.
    maximum : int, float or mapping, optional
        The most that a group keeps, likewise, rounded down. It also holds where the
        budget would allow more. By default there is none.
    groups : sequence of str
        Patterns of the groups that may lose channels.
    ignored : sequence of str
        Patterns of groups to leave alone.
    ends : bool
        Whether the first and last layers (``first_layers``, ``last_layers``) may lose
        channels too. Channels of a network output are frozen in any case.
    within : Plan, optional
        Channels that this plan removes are not kept: a plan of ``delete``, for
        instance.

    Raises
    ------
    ValueError
        If ``multiple`` is not a whole number from 1, or patterns are a single text.
    """

    multiple: int | None = None
    minimum: Bound = None
    maximum: Bound = None
    groups: Sequence[str] = ("*",)
    ignored: Sequence[str] = ()
    ends: bool = False
    within: Plan | None = None

    def __post_init__(self) -> None:
        if self.multiple is not None:
            check_multiple(self.multiple)
        for name in ("groups", "ignored"):
            patterns = getattr(self, name)
            if isinstance(patterns, str):
                raise ValueError(f"{name} is {patterns!r}; allowed: a list of patterns")

    def check(self, graph: Graph) -> None:
        """Refuse constraints that do not fit a graph.

        Raises
        ------
        ValueError
            If a pattern of ``groups``, ``minimum`` or ``maximum`` matches no group that
            could lose channels, or one of ``ignored`` no group at all, a bound is not
            allowed, a minimum exceeds the maximum of a group that may lose channels, or
            ``within`` is a plan for another net.
        """
        if self.within is not None:
            self.within.check(graph)
        protected = self.protected_groups(graph)
        least = bounds(graph, "minimum", self.minimum, 1)
        most = bounds(graph, "maximum", self.maximum, 1.0)
        for group in free_groups(graph):
            if group.name not in protected and least[group.name] > most[group.name]:
                raise ValueError(
                    f"group {group.name!r} keeps {least[group.name]} at least and "
                    f"{most[group.name]} at most; allowed: a minimum up to the maximum"
                )

    def protected_groups(self, graph: Graph) -> dict[str, str]:
        """Return the groups that are not frozen but must stay as they are, and why.

        Raises
        ------
        ValueError
            If a pattern matches no group.
        """
        allowed = matching(graph, self.groups)
        names = [group.name for group in graph.groups]
        for pattern in self.ignored:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"ignored: pattern {pattern!r} matches no group; {listed(names)}"
                )
        first = set() if self.ends else first_layers(graph)
        last = set() if self.ends else last_layers(graph)
        reasons = {}
        for group in free_groups(graph):
            ignoring = [p for p in self.ignored if fnmatchcase(group.name, p)]
            if ignoring:
                reasons[group.name] = f"left alone by {ignoring[0]!r}"
            elif group.name not in allowed:
                patterns = ", ".join(map(repr, self.groups))
                reasons[group.name] = f"not among groups {patterns}"
            elif first & set(group.layers):
                reasons[group.name] = FIRST
            elif last & set(group.layers):
                reasons[group.name] = LAST
        return reasons

    def kept_before(self, group: ChannelGroup) -> Sequence[int]:
        """Return the indices of a group that ``within`` keeps."""
        return range(group.width) if self.within is None else self.within.kept(group)

    def widths(self, graph: Graph, multiple: int) -> list[list[int]]:
        """Return the widths that each group that is not frozen may have, ascending.

        Parameters
        ----------
        graph : Graph
        multiple : int
            Used in place of the constraints' own.
        """
        protected = self.protected_groups(graph)
        least = bounds(graph, "minimum", self.minimum, multiple)
        most = bounds(graph, "maximum", self.maximum, 1.0)
        rows = []
        for group in free_groups(graph):
            full = len(self.kept_before(group))
            if group.name in protected:
                rows.append([full])
            else:
                name = group.name
                rows.append(widths_of(group, multiple, least[name], most[name], full))
        return rows

    def bounds_as_json(self) -> dict[str, Any]:
        """Return the minimum and maximum that are given, for a plan's notes."""
        return bounds_as_json(minimum=self.minimum, maximum=self.maximum)


def free_groups(graph: Graph) -> list[ChannelGroup]:
    """Return the groups that are not frozen."""
    return [group for group in graph.groups if not group.frozen]


def matching(graph: Graph, patterns: Sequence[str]) -> set[str]:
    """Return the names of the groups that are not frozen and match a pattern.

    Raises
    ------
    ValueError
        If a pattern matches none.
    """
    free = [group.name for group in free_groups(graph)]
    matches = set()
    for pattern in patterns:
        names = [name for name in free if fnmatchcase(name, pattern)]
        if not names and free:
            raise ValueError(
                f"pattern {pattern!r} matches no group that can lose channels; "
                f"{listed(free)}"
            )
        matches.update(names)
    return matches


def first_layers(graph: Graph) -> set[str]:
    """Return the layers that read the network's input, with no layer in between.

    A group that one of them produces is protected as a whole, even where an addition
    couples it with later layers, as in the first stage of a ResNet: index *i* is one
    channel, so a first layer that stays whole keeps the others' outputs whole. Layers
    inside residual branches have groups of their own, which stay free.
    """
    layers = set()
    reads_input = [False] * len(graph.nodes)  # of each node's output
    for i, node in enumerate(graph.nodes):
        operator = operator_of(node["op"])
        if node["op"] == "null":
            reads_input[i] = node["name"] in graph.inputs
        elif operator.weight_input is not None:
            if reads_input[node["inputs"][0][0]]:
                layers.add(graph.grouping.names[i])
        else:
            # Of later inputs, some operators read only the shape.
            entries = node["inputs"][:1] if operator.size_inputs else node["inputs"]
            reads_input[i] = any(reads_input[entry[0]] for entry in entries)
    return layers


def last_layers(graph: Graph) -> set[str]:
    """Return the layers before the network's outputs, with no layer in between.

    Most are frozen because their channels are outputs. The others are layers whose
    channels are, for instance, summed on the way to an output.
    """
    layers, visited = set(), set()
    pending = [head[0] for head in graph.heads]
    while pending:
        i = pending.pop()
        if i in visited:
            continue
        visited.add(i)
        if operator_of(graph.nodes[i]["op"]).weight_input is not None:
            layers.add(graph.grouping.names[i])
        else:
            pending += [entry[0] for entry in graph.nodes[i]["inputs"]]
    return layers


def bounds(
    graph: Graph, name: str, bound: Bound, default: int | float
) -> dict[str, int]:
    """Return a bound of each group that is not frozen, as a number of indices.

    Parameters
    ----------
    graph : Graph
    name : str
        ``minimum`` is rounded up to whole indices, ``maximum`` down, to at least one.
    bound : int, float, mapping or None
        As for ``Constraints``.
    default : int or float
        For groups that no pattern matches, and for None.

    Raises
    ------
    ValueError
        If a value is neither, or a pattern matches no group that can lose channels.
    """
    rows = bound if isinstance(bound, Mapping) else {"*": bound}
    for pattern, value in rows.items():
        if value is not None:
            key = f"{name}[{pattern!r}]" if isinstance(bound, Mapping) else name
            _check_bound(key, value)
        matching(graph, [pattern])
    result = {}
    for group in free_groups(graph):
        matches = (v for p, v in rows.items() if fnmatchcase(group.name, p))
        value = next(matches, None)
        value = default if value is None else value
        result[group.name] = _in_indices(group, value, round_up=name == "minimum")
    return result


def bounds_as_json(**named_bounds: Bound) -> dict[str, Any]:
    """Return the bounds that are not None with Python's own numbers, by name."""
    return {
        name: {pattern: _plain(value) for pattern, value in bound.items()}
        if isinstance(bound, Mapping)
        else _plain(bound)
        for name, bound in named_bounds.items()
        if bound is not None
    }


def check_multiple(multiple: Any) -> None:
    """Refuse a multiple that is not a whole number from 1.

    Raises
    ------
    ValueError
        For anything else.
    """
    is_int = isinstance(multiple, int) and not isinstance(multiple, bool)
    if not is_int or multiple < 1:
        raise ValueError(f"multiple is {multiple!r}; allowed: a whole number from 1")


def widths_of(
    group: ChannelGroup, multiple: int, least: int, most: int, full: int
) -> list[int]:
    """Return the numbers of indices that a group may keep, ascending.

    These are the multiples from ``least`` to ``most`` (of channels, however many an
    index stands for), and the ``full`` number, so that a group narrower than a multiple
    stays as it is. Where no multiple lies between the bounds, it is ``most``.
    """
    step = multiple // math.gcd(multiple, group.size)
    most = min(most, full)
    widths = [n for n in range(step, most + 1, step) if n >= min(least, most)]
    if most == full and full not in widths:
        widths.append(full)
    return widths or [most]


def _check_bound(key: str, value: Any) -> None:
    is_int = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    is_share = isinstance(value, (float, np.floating)) and 0 < value <= 1
    if not is_share and not (is_int and value >= 1):
        raise ValueError(
            f"{key} is {value!r}; allowed: a whole number from 1, or a share above "
            "0 up to 1.0"
        )


def _in_indices(group: ChannelGroup, value: int | float, *, round_up: bool) -> int:
    is_count = isinstance(value, (int, np.integer))
    exact = value / group.size if is_count else value * group.width
    rounded = math.ceil(exact - 1e-9) if round_up else math.floor(exact + 1e-9)
    return min(max(rounded, 1), group.width)


def _plain(value: Any) -> int | float | None:
    """Return a number that may be NumPy's as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


MULTIPLE = 16
# Multiples of 16, first and last layers protected, nothing else.
DEFAULT = Constraints()
