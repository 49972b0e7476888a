"""What a plan does to each group, and how much of the savings is due to it."""

from __future__ import annotations

from typing import Any, Mapping

import numpy as np

from gluon_compress.graph import Graph
from gluon_compress.plan.cost_model import CostModel
from gluon_compress.plan.plan import Plan

ATTRIBUTED = ("macs", "bytes")


def explain(graph: Graph, plan: Plan) -> list[dict[str, Any]]:
    """Attribute what a plan saves to the groups; one row for each group.

    A layer that loses inputs and outputs saves more than each alone would, and less
    than both in sum. What two groups save together is halved between them: the part of
    a group is the mean of what it saves as the first to lose channels and as the last.
    As a cost is at most a product of two groups' widths, this is its Shapley value
    (Shapley 1953), and the parts add up to what the plan saves.

    Parameters
    ----------
    graph : Graph
    plan : Plan

    Returns
    -------
    list of dict
        For JSON, in the order of the network: ``name``, ``width`` and ``kept``
        (indices), ``frozen`` (the reason, or empty), ``held`` (why ``select`` did not
        touch a group that is whole and not frozen, or empty), ``effect`` (that the
        policy followed, None where it was not measured), ``macs_saved`` and
        ``bytes_saved`` (shares of what the plan saves, which add up to 1; all 0 if it
        saves nothing) and ``layers`` (whose outputs the channels are).

    Raises
    ------
    ValueError
        If the plan does not fit the graph.
    """
    plan.check(graph)
    shares = _shares(graph, plan)
    reasons = _noted(plan, "held")
    effects = _noted(plan, "effects")
    rows = []
    for group in graph.groups:
        kept = len(plan.kept(group))
        # In a plan of several rows, an earlier one may have pruned what a later one
        # protected.
        is_untouched = kept == group.width and not group.frozen
        row = {
            "name": group.name,
            "width": group.width,
            "kept": kept,
            "frozen": group.frozen,
            "held": reasons.get(group.name, "") if is_untouched else "",
            "effect": effects.get(group.name),
        }
        for cost in ATTRIBUTED:
            row[f"{cost}_saved"] = shares[cost].get(group.name, 0.0)
        row["layers"] = list(group.layers)
        rows.append(row)
    return rows


def _noted(plan: Plan, key: str) -> Mapping[str, Any]:
    """Return a mapping of the plan's notes, empty if there is none."""
    notes = plan.made_by.get(key)
    return notes if isinstance(notes, Mapping) else {}


def _shares(graph: Graph, plan: Plan) -> dict[str, dict[str, float]]:
    """Return each group's share of what is saved, by the name of the cost."""
    model = CostModel(graph)
    full = model.full
    kept = np.array([len(plan.kept(group)) for group in model.groups], int)
    one_each = np.eye(len(full), dtype=bool)
    # Row k: only group k has lost channels; then: only group k has not.
    first = model.costs(np.where(one_each, kept, full).reshape(one_each.shape))
    last = model.costs(np.where(one_each, full, kept).reshape(one_each.shape))
    before_after = model.costs(np.stack([full, kept]))
    shares = {}
    for cost in ATTRIBUTED:
        before, after = before_after[cost]
        parts = ((before - first[cost]) + (last[cost] - after)) / 2
        saved = max(before - after, 1.0)
        shares[cost] = {
            group.name: float(part / saved) for group, part in zip(model.groups, parts)
        }
    return shares
