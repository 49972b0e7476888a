"""Make a plan under a budget: a policy chooses how many channels each group keeps."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np

from gluon_compress.accelerator import Accelerator
from gluon_compress.graph import Graph
from gluon_compress.latency import LatencyTable
from gluon_compress.plan.budget import Budget
from gluon_compress.plan.constraints import DEFAULT, Constraints
from gluon_compress.plan.plan import Plan
from gluon_compress.plan.policies import Policy, policy_named
from gluon_compress.plan.problem import PruningProblem


def select(
    graph: Graph,
    budget: Budget,
    criterion: str | Mapping[str, Sequence] = "l1",
    *,
    selection: str | Policy = "greedy",
    constraints: Constraints = DEFAULT,
    table: LatencyTable | None = None,
    seed: int = 0,
) -> Plan:
    """Choose the channels to keep so that every limit is met, and one of them closely.

    Parameters
    ----------
    graph : Graph
    budget : Budget
    criterion : str or mapping
        How important a channel is: a name in ``plan.CRITERIA``, or group to the
        importance of its indices, from ``prune.taylor`` for instance.
    selection : str or callable
        How the budget is distributed over the groups: a name in ``plan.POLICIES``, a
        policy with its data (``Greedy(effects)``, ``BySensitivity(curves)``), or a
        callable that takes a ``PruningProblem`` and returns a level for each group.
    constraints : Constraints
        Which groups may lose channels, and between which widths.
    table : LatencyTable, optional
        Times of this machine; needed where the budget limits latency.
    seed : int
        For the criterion ``random``.

    Returns
    -------
    Plan
        ``made_by`` holds criterion, selection, budget, multiple and seed, the reason of
        each protected group (``held``), and the ``widths`` of the graph, by which
        ``Plan.check`` recognises another net.

    Raises
    ------
    ValueError
        If a name is unknown, a pattern matches no group, the criterion, the policy or a
        limit of latency needs data that is missing, a value of the net is not finite,
        the policy returns something else than levels that meet the budget, or the
        budget cannot be met. Then the message gives the least that can be reached, and
        which groups stand in the way and why.
    """
    policy = policy_named(selection) if isinstance(selection, str) else selection
    problem = PruningProblem.build(
        graph, budget, criterion, constraints=constraints, table=table, seed=seed
    )
    name = _name_of(policy)
    levels = _checked_levels(policy(problem), problem, name)
    made_by = {
        "criterion": problem.criterion,
        "selection": name,
        "budget": {cost: float(limit) for cost, limit in budget.limits.items()},
        **_device_of(budget),
        "multiple": problem.multiple,
        **constraints.bounds_as_json(),
        **getattr(policy, "notes", {}),
        "seed": seed,
        "commit": "",
        "held": dict(problem.protected),
    }
    return problem.plan(levels, made_by)


def _device_of(budget: Budget) -> dict:
    """Return what a plan states of the accelerator whose cycles are limited."""
    if budget.cycles is None:
        return {}
    return {"accelerator": (budget.accelerator or Accelerator()).to_json()}


def _name_of(policy: Policy) -> str:
    """Return the name of a policy: its own, else that of its function or class."""
    name = getattr(policy, "name", None) or getattr(policy, "__name__", None)
    return name or type(policy).__name__


def _checked_levels(levels: Any, problem: PruningProblem, name: str) -> np.ndarray:
    """Return what a policy returned as an array of levels that meet the budget."""
    levels = np.asarray(levels)
    if levels.shape != problem.largest.shape or (
        levels.size and not np.issubdtype(levels.dtype, np.integer)
    ):
        raise ValueError(
            f"selection {name!r} returned {levels.dtype} of shape {levels.shape}; "
            f"allowed: whole numbers of shape {problem.largest.shape}, one a group"
        )
    for group, level, largest in zip(problem.groups, levels, problem.largest):
        if not 0 <= level <= largest:
            raise ValueError(
                f"selection {name!r} returned level {level} for group {group.name!r}; "
                f"allowed: 0 to {largest}"
            )
    levels = levels.astype(int)
    loads = dict(zip(problem.budget.limits, problem.loads(levels)[0]))
    for cost, load in loads.items():
        if load > 1:
            raise ValueError(
                f"selection {name!r} returned levels of {load:.4g} times the budget's "
                f"{cost}; allowed: at most 1"
            )
    return levels
