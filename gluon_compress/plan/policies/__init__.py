"""Policies: how a budget is distributed over the channel groups.

A policy is a callable ``policy(problem) -> levels``: it sees a ``PruningProblem`` and
returns the level of each group, ``(groups,)``. It owns the data it follows. A plan
records its ``name`` and, if it has them, its ``notes`` (a mapping, JSON).
"""

from __future__ import annotations

from typing import Callable

import numpy as np

from gluon_compress.plan.plan import listed
from gluon_compress.plan.policies.amc import AMC
from gluon_compress.plan.policies.by_sensitivity import BySensitivity
from gluon_compress.plan.policies.episodes import REWARDS, Episode, Search
from gluon_compress.plan.policies.greedy import Greedy
from gluon_compress.plan.policies.legr import LeGR
from gluon_compress.plan.policies.random_search import RandomSearch
from gluon_compress.plan.policies.ranked import Global
from gluon_compress.plan.policies.uniform import RATIO, ByDepth, Uniform
from gluon_compress.plan.problem import PruningProblem

__all__ = [
    "AMC",
    "MEASURED",
    "POLICIES",
    "REWARDS",
    "SEARCHES",
    "ByDepth",
    "BySensitivity",
    "Episode",
    "Global",
    "Greedy",
    "LeGR",
    "Policy",
    "RandomSearch",
    "Search",
    "Uniform",
    "policy_named",
    "selections",
]

Policy = Callable[[PruningProblem], np.ndarray]

POLICIES: dict[str, Policy] = {
    Uniform.name: Uniform(),
    "shallow_more": ByDepth(RATIO),
    "deep_more": ByDepth(1 / RATIO),
    Global.name: Global(),
    Greedy.name: Greedy(),
}
# Policies that try plans out, and settle on the one with the best score.
SEARCHES: dict[str, type[Search]] = {
    AMC.name: AMC,
    LeGR.name: LeGR,
    RandomSearch.name: RandomSearch,
}
# Policies that need measured data, and what to pass in place of the name.
MEASURED: dict[str, str] = {
    BySensitivity.name: "BySensitivity(prune.sensitivity(net, accuracy))",
    **{
        name: f"{search.__name__}(prune.PlanScore(net, accuracy))"
        for name, search in SEARCHES.items()
    },
}


def selections() -> tuple[str, ...]:
    """Return the names that recipes and plans may call policies by."""
    return (*POLICIES, *MEASURED)


def policy_named(name: str) -> Policy:
    """Return the policy of a name.

    Raises
    ------
    ValueError
        If there is none, or it needs data.
    """
    if name in MEASURED:
        raise ValueError(
            f"selection {name!r} needs data; allowed: selection={MEASURED[name]}"
        )
    if name not in POLICIES:
        raise ValueError(f"selection {name!r} is unknown; {listed(selections())}")
    return POLICIES[name]
