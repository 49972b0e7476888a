from __future__ import annotations

import numpy as np
import pytest

from gluon_compress import Budget, count, select, slim, trace
from gluon_compress.plan import Constraints, CostLimit, CostModel
from gluon_compress.plan.budget import cost_model_for
from gluon_compress.plan.cost_model import COSTS
from nets import NETS, SHAPE, plans, ready, wide


@pytest.mark.parametrize("name", NETS)
def test_costs_of_widths_are_those_of_the_slim_net(name):
    net = ready(NETS[name]())
    graph = trace(net, SHAPE)
    model = CostModel(graph)
    for plan in plans(graph)[1:4]:
        predicted, found = (
            count(graph, plan),
            trace(slim(net, plan, graph=graph), SHAPE),
        )
        assert predicted.rows == count(found).rows
        widths = [[len(plan.kept(group)) for group in model.groups]]
        costs = model.costs(np.array(widths))
        assert {n: costs[n][0] for n in COSTS} == {
            n: getattr(predicted, n) for n in COSTS
        }


# Costs of the user's own.


def channels(graph):
    """Count the channels that can be removed and are kept."""
    sizes = np.array([group.size for group in graph.groups if not group.frozen])
    return lambda widths: widths @ sizes


@pytest.fixture(scope="module")
def graph():
    return trace(ready(wide()), SHAPE)


def free_channels(graph) -> int:
    return sum(group.width for group in graph.groups if not group.frozen)


def test_custom_cost_is_met_closely(graph):
    limit = free_channels(graph) // 2
    budget = Budget(custom={"channels": CostLimit(limit, channels)})
    plan = select(graph, budget, constraints=Constraints(multiple=1, ends=True))
    free = [group for group in graph.groups if not group.frozen]
    assert sum(len(plan.kept(group)) for group in free) == limit
    assert plan.made_by["budget"] == {"channels": limit}


def test_custom_cost_goes_with_the_known_ones(graph):
    limits = {"macs": count(graph).macs, "channels": free_channels(graph) - 10}
    budget = Budget(
        macs=limits["macs"],
        custom={"channels": CostLimit(limits["channels"], channels)},
    )
    assert budget.limits == limits
    model = cost_model_for(graph, budget)
    costs = model.costs(model.full[None])
    assert costs["macs"][0] == limits["macs"]
    assert costs["channels"][0] == free_channels(graph)


def test_limits_are_replaced_and_cost_functions_stay(graph):
    budget = Budget(macs=100, custom={"channels": CostLimit(10, channels)})
    looser = budget.with_limits({"macs": 200, "channels": 20})
    assert looser.limits == {"macs": 200, "channels": 20}
    assert looser.custom["channels"].cost is channels
    assert budget.with_limits({"macs": 50}).limits == {"macs": 50, "channels": 10}


@pytest.mark.parametrize("limit", [0, -1, "much", True])
def test_custom_limit_is_a_number_above_0(limit):
    with pytest.raises(ValueError, match="budget channels is .*a number above 0"):
        Budget(custom={"channels": CostLimit(limit, channels)})


def test_custom_cost_has_a_name_of_its_own():
    with pytest.raises(ValueError, match="custom names 'macs'"):
        Budget(custom={"macs": CostLimit(10, channels)})
