"""What each channel group keeps: the decision as data, and how it is made.

``decision`` is the plan and its file; ``selection`` makes one, under a budget or by
fixed shares; ``criteria`` says what a channel is worth, ``curves`` what accuracy goes
with it, ``reach`` which groups may lose channels, ``choose`` how wide each may stay,
``meter`` what that costs, ``budget`` what it may, and ``account`` what a plan did.
"""

from gluon_compress.plan.account import explain
from gluon_compress.plan.budget import Budget
from gluon_compress.plan.choose import SELECTIONS
from gluon_compress.plan.criteria import CRITERIA
from gluon_compress.plan.curves import Sensitivity
from gluon_compress.plan.decision import Plan
from gluon_compress.plan.selection import delete, select

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
