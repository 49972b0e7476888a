"""Which groups may lose channels, and between which widths: what a caller may ask."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from math import gcd
from typing import Any, Mapping, Sequence, Union

import numpy as np

from gluon_compress.graph import ChannelGroup, Graph
from gluon_compress.graph.operators import operator_of
from gluon_compress.plan.plan import listed

FIRST = "first layer, protected unless ends=True"
LAST = "last layer, protected unless ends=True"

# A number of channels, a share of the width, either by pattern, or what is usual.
Bound = Union[int, float, Mapping[str, Union[int, float]], None]


def held(
    graph: Graph, groups: Sequence[str], leave: Sequence[str], *, ends: bool
) -> dict[str, str]:
    """Return the groups that could lose channels but may not, each with the reason.

    Parameters
    ----------
    graph : Graph
    groups : sequence of str
        Patterns of the groups that may lose channels.
    leave : sequence of str
        Patterns of groups to leave alone.
    ends : bool
        Whether the first and the last layers may lose channels, too.

    Raises
    ------
    ValueError
        If a pattern of ``groups`` fits no group that could lose channels, or one of
        ``leave`` no group at all.
    """
    chosen = matching(graph, groups)
    names = [group.name for group in graph.groups]
    for pattern in leave:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"leave: pattern {pattern!r} fits no group; {listed(names)}"
            )
    first, last = (set(), set()) if ends else (first_layers(graph), last_layers(graph))
    reasons = {}
    for group in free_groups(graph):
        left = [p for p in leave if fnmatchcase(group.name, p)]
        if left:
            reasons[group.name] = f"left alone by {left[0]!r}"
        elif group.name not in chosen:
            reasons[group.name] = f"not among groups {', '.join(map(repr, groups))}"
        elif first & set(group.layers):
            reasons[group.name] = FIRST
        elif last & set(group.layers):
            reasons[group.name] = LAST
    return reasons


def free_groups(graph: Graph) -> list[ChannelGroup]:
    """Return the groups that are not frozen."""
    return [group for group in graph.groups if not group.frozen]


def matching(graph: Graph, patterns: Sequence[str]) -> set[str]:
    """Return the names of the groups that are not frozen and that patterns fit.

    Raises
    ------
    ValueError
        If a pattern fits none.
    """
    free = [group.name for group in free_groups(graph)]
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


def first_layers(graph: Graph) -> set[str]:
    """Return the layers that read the network's input, with no layer in between.

    A group that one of them makes is protected as a whole, also where an addition
    couples it with later layers, as in a ResNet's first stage: index *i* is one
    channel, so keeping the first layer whole keeps the others' outputs whole. Layers
    inside the residual branches are groups of their own and stay free.
    """
    raw, found = [False] * len(graph.nodes), set()
    for i, node in enumerate(graph.nodes):
        operator = operator_of(node["op"])
        read = node["inputs"][:1] if operator.size_inputs else node["inputs"]
        if node["op"] == "null":
            raw[i] = node["name"] in graph.inputs
        elif operator.weight_input is None:
            raw[i] = any(raw[entry[0]] for entry in read)
        elif raw[node["inputs"][0][0]]:
            found.add(graph.found.names[i])
    return found


def last_layers(graph: Graph) -> set[str]:
    """Return the layers that the network's outputs come from, none in between.

    Most are frozen, because their channels are outputs; what is left are layers whose
    channels are summed up, or the like, on their way out.
    """
    found, seen, ahead = set(), set(), [head[0] for head in graph.heads]
    while ahead:
        i = ahead.pop()
        if i in seen:
            continue
        seen.add(i)
        if operator_of(graph.nodes[i]["op"]).weight_input is not None:
            found.add(graph.found.names[i])
        else:
            ahead += [entry[0] for entry in graph.nodes[i]["inputs"]]
    return found


def bounds(
    graph: Graph, name: str, asked: Bound, default: int | float
) -> dict[str, int]:
    """Return a number of indices for each group that is not frozen.

    Parameters
    ----------
    graph : Graph
    name : str
        ``minimum`` is rounded up to whole indices, ``maximum`` down, to one at least.
    asked : int, float, mapping or None
        Channels as a whole number, or a share of the width as a float, for all groups
        or by pattern of group names; the first pattern that fits counts.
    default : int or float
        For groups that no pattern fits, and for None.

    Raises
    ------
    ValueError
        If a value is neither, or a pattern fits no group that can lose channels.
    """
    rows = asked if isinstance(asked, Mapping) else {"*": asked}
    for pattern, value in rows.items():
        if value is not None:
            place = f"{name}[{pattern!r}]" if isinstance(asked, Mapping) else name
            _check_bound(place, value)
        matching(graph, [pattern])
    result = {}
    for group in free_groups(graph):
        fits = (v for p, v in rows.items() if fnmatchcase(group.name, p))
        value = next(fits, None)
        value = default if value is None else value
        result[group.name] = _indices(group, value, up=name == "minimum")
    return result


def check_bounds(
    graph: Graph, minimum: Bound, maximum: Bound, groups: Sequence[ChannelGroup]
) -> None:
    """Refuse a minimum above the maximum of one of the groups.

    Raises
    ------
    ValueError
        For that, and as for ``bounds``.
    """
    least = bounds(graph, "minimum", minimum, 1)
    most = bounds(graph, "maximum", maximum, 1.0)
    for group in groups:
        if least[group.name] > most[group.name]:
            raise ValueError(
                f"group {group.name!r} keeps {least[group.name]} at least and "
                f"{most[group.name]} at most; allowed: a minimum up to the maximum"
            )


def _check_bound(place: str, value: Any) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    share = isinstance(value, (float, np.floating)) and 0 < value <= 1
    if not share and not (whole and value >= 1):
        raise ValueError(
            f"{place} is {value!r}; allowed: a whole number from 1, or a share above "
            "0 up to 1.0"
        )


def _indices(group: ChannelGroup, value: int | float, *, up: bool) -> int:
    whole = isinstance(value, (int, np.integer))
    exact = value / group.size if whole else value * group.width
    rounded = math.ceil(exact - 1e-9) if up else math.floor(exact + 1e-9)
    return min(max(rounded, 1), group.width)


def widths_of(
    group: ChannelGroup, multiple: int, least: int, most: int, whole: int
) -> list[int]:
    """Return the numbers of indices that a group may keep, ascending.

    Multiples (of channels, however many an index stands for) from ``least`` to
    ``most``, and the ``whole`` that there is, so that a group narrower than a multiple
    stays as it is. Where no multiple lies between, it is ``most``.
    """
    step = multiple // gcd(multiple, group.size)
    most = min(most, whole)
    widths = [n for n in range(step, most + 1, step) if n >= min(least, most)]
    if most == whole and whole not in widths:
        widths.append(whole)
    return widths or [most]
