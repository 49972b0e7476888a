"""A pruning problem and a score of its plans, for tests of searches."""

from __future__ import annotations

from gluon_compress import Budget, count, trace
from gluon_compress.plan import SEARCHES, Constraints, PruningProblem, selections
from nets import SHAPE, ready, wide

# Policies that fill the budget in one go; searches have laws of their own.
DIRECT = [name for name in selections() if name not in SEARCHES]


def problem_of(net=wide, share=0.5, **how) -> PruningProblem:
    graph = trace(ready(net(), SHAPE), SHAPE)
    budget = Budget.share(count(graph), macs=share)
    how.setdefault("constraints", Constraints(multiple=1, ends=True))
    return PruningProblem.build(graph, budget, **how)


def score_of(plan) -> float:
    """Return a score that only the second group decides."""
    name, kept = list(plan.keep.items())[1]
    return len(kept) / plan.made_by["widths"][name]
