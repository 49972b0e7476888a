"""What a plan does to each group, and what that saves: the numbers behind a report."""

from __future__ import annotations

from typing import Any, Mapping

import numpy as np

from gluon_compress.graph import Graph
from gluon_compress.plan.cost_model import Meter
from gluon_compress.plan.plan import Plan

SAVED = ("macs", "bytes")


def explain(graph: Graph, plan: Plan) -> list[dict[str, Any]]:
    """Return a row for every group, what was not pruned among them, for JSON.

    A layer that loses inputs and outputs saves more than each alone would, less than
    both in sum. What two groups save together is halved between them: a group's part
    is the mean of what it saves as the first to lose channels and as the last. That is
    its Shapley value (Shapley 1953), as a cost is at most a product of two groups'
    widths, and so all parts add up to what the plan saves.

    Parameters
    ----------
    graph : Graph
    plan : Plan

    Returns
    -------
    list of dict
        In the order of the network: ``name``, ``width`` and ``kept`` (indices),
        ``frozen`` (the reason, or empty), ``held`` (why ``select`` did not touch a
        group that is whole and not frozen, or empty), ``effect`` (what the plan's
        search went by, None where it was not measured), ``macs_saved`` and
        ``bytes_saved`` (shares of what the plan saves, which add up to 1; all 0 if it
        saves nothing) and ``layers`` (whose outputs the channels are).

    Raises
    ------
    ValueError
        If the plan does not fit the graph.
    """
    plan.check(graph)
    shares, reasons = _shares(graph, plan), plan.made_by.get("held")
    reasons = reasons if isinstance(reasons, Mapping) else {}
    effects = plan.made_by.get("effects")
    effects = effects if isinstance(effects, Mapping) else {}
    kept = {group.name: len(plan.kept(group)) for group in graph.groups}
    # In plans of several rows, an earlier one may have pruned what a later one holds.
    whole = {g.name for g in graph.groups if kept[g.name] == g.width and not g.frozen}
    return [
        {
            "name": group.name,
            "width": group.width,
            "kept": kept[group.name],
            "frozen": group.frozen,
            "held": reasons.get(group.name, "") if group.name in whole else "",
            "effect": effects.get(group.name),
            **{f"{name}_saved": shares[name].get(group.name, 0.0) for name in SAVED},
            "layers": list(group.layers),
        }
        for group in graph.groups
    ]


def _shares(graph: Graph, plan: Plan) -> dict[str, dict[str, float]]:
    """Return each group's share of what is saved, by the name of the total."""
    meter = Meter(graph)
    full = np.array([group.width for group in meter.groups], int)
    kept = np.array([len(plan.kept(group)) for group in meter.groups], int)
    own = np.eye(len(full), dtype=bool)
    # Row k: only group k has lost channels; then: only group k has not.
    first = meter.totals(np.where(own, kept, full).reshape(own.shape))
    last = meter.totals(np.where(own, full, kept).reshape(own.shape))
    ends = meter.totals(np.stack([full, kept]))
    result = {}
    for name in SAVED:
        before, after = ends[name]
        parts = ((before - first[name]) + (last[name] - after)) / 2
        saved = max(before - after, 1.0)
        names = (group.name for group in meter.groups)
        result[name] = {g: float(part / saved) for g, part in zip(names, parts)}
    return result
