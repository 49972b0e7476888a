"""What each channel group keeps: the decision as data, and how it is made.

``decision`` is the plan and its file; ``selection`` makes one, under a budget or by
fixed shares; ``criteria`` says what a channel is worth, ``curves`` what accuracy goes
with it, ``reach`` which groups may lose channels, ``choose`` how wide each may stay,
``meter`` what that costs, ``budget`` what it may, and ``account`` what a plan did.
"""

from gluon_compress.plan.budget import Budget
from gluon_compress.plan.importance import CRITERIA
from gluon_compress.plan.plan import Plan
from gluon_compress.plan.savings import explain
from gluon_compress.plan.search import SELECTIONS
from gluon_compress.plan.selection import delete, select
from gluon_compress.plan.sensitivity import Sensitivity

__all__ = [
    "CRITERIA",
    "SELECTIONS",
    "Budget",
    "Plan",
    "Sensitivity",
    "delete",
    "explain",
    "select",
]
