"""Decide what each channel group keeps, and store the decision as data.

``plan`` holds the plan and its file. ``selection`` makes one under a budget, and
``deletion`` by fixed shares. A ``problem`` is made of the ``importance`` of channels,
the ``constraints``, the ``budget`` and the ``cost_model``; one of the ``policies``
solves it. ``sensitivity`` is measured accuracy that a policy can follow, and
``savings`` attributes what a plan saves to the groups.
"""

from gluon_compress.plan.budget import Budget, CostLimit
from gluon_compress.plan.constraints import Constraints
from gluon_compress.plan.cost_model import CostModel
from gluon_compress.plan.deletion import delete
from gluon_compress.plan.importance import CRITERIA
from gluon_compress.plan.plan import Plan
from gluon_compress.plan.policies import (
    AMC,
    POLICIES,
    REWARDS,
    SEARCHES,
    ByDepth,
    BySensitivity,
    Episode,
    Global,
    Greedy,
    LeGR,
    Policy,
    RandomSearch,
    Search,
    Uniform,
    selections,
)
from gluon_compress.plan.problem import PruningProblem
from gluon_compress.plan.savings import explain
from gluon_compress.plan.selection import select
from gluon_compress.plan.sensitivity import Sensitivity

__all__ = [
    "AMC",
    "CRITERIA",
    "POLICIES",
    "REWARDS",
    "SEARCHES",
    "Budget",
    "ByDepth",
    "BySensitivity",
    "Constraints",
    "CostLimit",
    "CostModel",
    "Episode",
    "Global",
    "Greedy",
    "LeGR",
    "Plan",
    "Policy",
    "PruningProblem",
    "RandomSearch",
    "Search",
    "Sensitivity",
    "Uniform",
    "delete",
    "explain",
    "select",
    "selections",
]
