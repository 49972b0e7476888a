"""What each channel group keeps: the decision as data, and how it is made.

``decision`` is the plan and its file; ``selection`` makes one, under a budget or by
fixed shares; ``criteria`` says what a channel is worth, ``choose`` how wide each group
may stay, ``meter`` what that costs and ``budget`` what it may.
"""

from gluon_compress.plan.budget import Budget
from gluon_compress.plan.choose import SELECTIONS
from gluon_compress.plan.criteria import CRITERIA
from gluon_compress.plan.decision import Plan
from gluon_compress.plan.selection import delete, select

__all__ = ["CRITERIA", "SELECTIONS", "Budget", "Plan", "delete", "select"]
