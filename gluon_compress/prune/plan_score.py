"""Scores plans by the accuracy of a masked net: one evaluation a plan."""

from __future__ import annotations

import math
from typing import Any, Callable

import mxnet as mx

from gluon_compress.graph import Graph
from gluon_compress.plan import Plan
from gluon_compress.prune.masks import mask
from gluon_compress.prune.reconstruction import WeightFitter
from gluon_compress.prune.slimming import traced
from gluon_compress.prune.taylor_importance import gates_of, keep_only


class PlanScore:
    """``score(plan) -> float``: the accuracy of a net with a plan's masks.

    The net is masked once. A plan changes the values of the masks and, if there is a
    fitter, those of the weights; then the net is evaluated.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Not changed.
    accuracy : callable
        ``accuracy(masked net) -> float``, higher being better. It must not train.
    fitter : WeightFitter, optional
        Made of the same graph: weights are reconstructed before a plan is scored.
    shape, graph
        As for ``slim``.

    Raises
    ------
    ValueError
        When called: if the accuracy is not a finite number, or the plan does not fit.
    """

    def __init__(
        self,
        net: Any,
        accuracy: Callable[[Any], float],
        *,
        fitter: WeightFitter | None = None,
        shape: Any = None,
        graph: Graph | None = None,
    ) -> None:
        self.graph = traced(net, None, shape, graph)
        self.masked = mask(net, None, graph=self.graph)
        self._accuracy, self._fitter = accuracy, fitter
        self._gates = gates_of(self.masked)
        self._parameters = {p.name: p for p in self.masked.collect_params().values()}

    def __call__(self, plan: Plan) -> float:
        """Return the accuracy with a plan's masks."""
        score = float(self.measure(plan))
        if not math.isfinite(score):
            raise ValueError(f"the accuracy is {score}; allowed: a finite number")
        return score

    def measure(self, plan: Plan) -> Any:
        """Return what ``accuracy`` does with a plan's masks."""
        plan.check(self.graph)
        for group in self.graph.groups:
            if not group.frozen:
                keep_only(self._gates[group.name], plan.kept(group))
        if self._fitter is not None:
            for name, value in self._fitter.values(plan).items():
                self._parameters[name].set_data(mx.nd.array(value))
        return self._accuracy(self.masked)
