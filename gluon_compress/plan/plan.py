"""The plan: what each channel group keeps, as data that can be stored."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

import numpy as np

from gluon_compress.graph import ChannelGroup, Graph
from gluon_compress.storage.atomic import read_json, write_atomically
from gluon_compress.validation import LONGEST_LINE, shortened, shown

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """What each channel group keeps, and how that was decided.

    Parameters
    ----------
    keep : mapping
        Group to its kept indices, ascending. A group that is not named keeps all.
    net : str
        Name of the net that the plan is for, for the reader.
    made_by : mapping
        How the plan was made: criterion, selection, budget, multiple, seed and commit,
        as far as they apply; ``held``, group to the reason why it was not touched; and
        ``widths`` of the groups of the net that it was made for. JSON.

    Raises
    ------
    ValueError
        If a group keeps nothing, or its indices are not ascending whole numbers from 0.
    """

    keep: Mapping[str, Sequence[int]]
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
            If the file is missing or holds no plan that this version can read.
        """
        stored = read_json(path)
        if not isinstance(stored, dict):
            raise ValueError(f"{path}: a plan is an object {{...}}")
        version = stored.get("format")
        if version != FORMAT or isinstance(version, bool):
            raise ValueError(
                f"{path}: format is {shown(version)}; this version reads {FORMAT}"
            )
        _check_keys(path, stored)
        try:
            return cls(stored["keep"], stored["net"], stored["made_by"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, path: Any) -> None:
        """Write the plan atomically; equal plans give equal bytes."""
        lines = [
            f'  "format": {FORMAT},',
            f'  "net": {_json(self.net)},',
            f'  "made_by": {_json(self.made_by)},',
        ]
        rows = [f"    {_json(g)}: {_json(list(kept))}" for g, kept in self.keep.items()]
        keep = "{\n" + ",\n".join(rows) + "\n  }" if rows else "{}"
        lines.append(f'  "keep": {keep}')
        write_atomically(path, "{\n" + "\n".join(lines) + "\n}\n")

    def kept(self, group: ChannelGroup) -> Sequence[int]:
        """Return the indices that a group keeps."""
        return self.keep.get(group.name, tuple(range(group.width)))

    def check(self, graph: Graph) -> None:
        """Refuse a graph that the plan does not fit.

        Raises
        ------
        ValueError
            If the graph lacks a group, an index is beyond the width of its group, a
            frozen group would lose channels, or the graph has other groups or widths
            than the net that the plan was made for, as far as the plan states them.
        """
        groups = {group.name: group for group in graph.groups}
        for name, kept in self.keep.items():
            if name not in groups:
                raise ValueError(
                    shortened(
                        f"group {shown(name)} is not in the net; {listed(groups)}",
                        LONGEST_LINE,
                    )
                )
            group = groups[name]
            if kept[-1] >= group.width:
                raise ValueError(
                    f"group {shown(name)} keeps channel {kept[-1]}, "
                    f"its width is {group.width}"
                )
            if group.frozen and len(kept) < group.width:
                raise ValueError(
                    f"group {shown(name)} keeps {len(kept)} of {group.width} channels, "
                    f"but it is frozen: {group.frozen}"
                )
        self._check_widths({name: group.width for name, group in groups.items()})

    def _check_widths(self, widths: Mapping[str, int]) -> None:
        """Refuse a net that merely happens to have the groups that the plan names."""
        stated = self.made_by.get("widths")
        if not isinstance(stated, Mapping) or stated == widths:
            return  # plans of earlier versions, or written by hand, state none
        name = next(n for n in [*widths, *stated] if widths.get(n) != stated.get(n))
        there = shown(stated[name]) if name in stated else "none"
        raise ValueError(
            f"the plan was made for another net: group {shown(name)} has width "
            f"{widths.get(name, 'none')}, there {there}"
        )

    def compose(self, later: Plan, graph: Graph | None = None) -> Plan:
        """Return one plan that does what this plan and then a later one do.

        Parameters
        ----------
        later : Plan
            Made on the graph of the net that this plan slimmed.
        graph : Graph, optional
            That graph, to check that the plans fit: channels that one index stood for
            may be groups of their own in the slim net.

        Raises
        ------
        ValueError
            If the later plan keeps an index that this one removes, or the groups of
            the graph are not what this plan leaves.
        """
        if graph is not None:
            self._check_left(graph)
            later.check(graph)
        keep = dict(self.keep)
        for name, kept in later.keep.items():
            if name not in keep:
                keep[name] = kept
            elif kept[-1] >= len(keep[name]):
                raise ValueError(
                    f"group {shown(name)} keeps channel {kept[-1]} of the "
                    f"{len(keep[name])} that the plan before leaves"
                )
            else:
                keep[name] = tuple(self.keep[name][i] for i in kept)
        made_by = {k: v for k, v in later.made_by.items() if k != "widths"}
        if "widths" in self.made_by:  # of the net that both together are for
            made_by["widths"] = self.made_by["widths"]
        return Plan(keep, later.net or self.net, made_by)

    def _check_left(self, graph: Graph) -> None:
        for group in graph.groups:
            expected = len(self.keep.get(group.name, range(group.width)))
            if group.width != expected:
                raise ValueError(
                    f"group {group.name!r} has width {group.width} in the slim net, "
                    f"the plan before leaves {expected}: the plans do not compose"
                )


def _indices(group: str, kept: Sequence) -> tuple[int, ...]:
    if isinstance(kept, np.ndarray):
        kept = kept.tolist()
    if not isinstance(group, str) or not isinstance(kept, (list, tuple, range)):
        raise ValueError(
            f"group {shown(group)} keeps {shown(kept)}; allowed: a list of indices"
        )
    if not len(kept):
        raise ValueError(
            f"group {shown(group)} keeps nothing; allowed: one index or more"
        )
    before = -1
    for i in kept:
        if not isinstance(i, (int, np.integer)) or isinstance(i, bool) or i < 0:
            raise ValueError(
                f"group {shown(group)} keeps {shown(i)}; allowed: whole numbers from 0"
            )
        if i <= before:
            raise ValueError(
                f"group {shown(group)} keeps {i} after {before}; "
                "allowed: ascending, each index once"
            )
        before = int(i)
    return tuple(int(i) for i in kept)


def _check_keys(path: Any, stored: dict) -> None:
    kinds = {"format": int, "net": str, "made_by": dict, "keep": dict}
    for name in stored:
        if name not in kinds:
            raise ValueError(
                f"{path}: {shown(name)[1:-1]}: no such key; {listed(kinds)}"
            )
    for name, kind in kinds.items():
        if name not in stored:
            raise ValueError(f"{path}: {name}: this key is missing")
        if not isinstance(stored[name], kind):
            allowed = "a text" if kind is str else "an object {...}"
            raise ValueError(
                f"{path}: {name} is {shown(stored[name])}; allowed: {allowed}"
            )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def listed(names: Any) -> str:
    """Return the end of an error message that lists what is allowed."""
    names = list(names)
    more = f" and {len(names) - 40} more" if len(names) > 40 else ""
    return f"allowed: {', '.join(map(str, names[:40]))}{more}"
