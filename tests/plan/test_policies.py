from __future__ import annotations

import numpy as np
import pytest

from gluon_compress import Budget, Plan, count, select, trace
from gluon_compress.plan import (
    CRITERIA,
    ByDepth,
    BySensitivity,
    Constraints,
    Greedy,
    Sensitivity,
)
from gluon_compress.plan.cost_model import COSTS
from gluon_compress.plan.importance import importance_of
from nets import SHAPE, Wired, chain, conv, ready, wide
from searches import DIRECT, problem_of

ANY_WIDTH = Constraints(multiple=1, ends=True)


@pytest.fixture(scope="module")
def graph():
    return trace(ready(wide()), SHAPE)


@pytest.fixture(scope="module")
def tiny():
    return trace(ready(chain()), SHAPE)


def guide(graph, criterion: str = "l1", seed: int = 0) -> Sensitivity:
    """Return made-up curves of every group that may lose channels."""
    random = np.random.RandomState(seed)
    free = [group for group in graph.groups if not group.frozen]
    curves = {}
    for group in free:
        counts = sorted({max(group.width * k // 4, 1) for k in (1, 2, 3)}, reverse=True)
        values = np.sort(random.uniform(0.2, 0.9, len(counts)))[::-1]
        curves[group.name] = list(zip(counts, values.tolist()))
    return Sensitivity(0.9, {g.name: g.width for g in free}, curves, criterion)


def by(selection: str, graph, criterion: str = "l1"):
    """Return a policy, with made-up data where it needs some."""
    if selection == "sensitivity":
        return BySensitivity(guide(graph, criterion))
    return selection


# Laws of every policy.


# Every criterion, every policy with every limit.
COMBINATIONS = [
    *((criterion, "greedy", "macs") for criterion in CRITERIA),
    *(("l1", selection, limit) for selection in DIRECT for limit in COSTS),
]


@pytest.mark.parametrize(("criterion", "selection", "limit"), sorted({*COMBINATIONS}))
def test_budget_is_met_closely(graph, criterion, selection, limit):
    budget = Budget.share(count(graph), **{limit: 0.5})
    plan = select(
        graph,
        budget,
        criterion,
        selection=by(selection, graph, criterion),
        constraints=Constraints(multiple=1, minimum=2, ends=True),
    )
    assert 0.95 < getattr(count(graph, plan), limit) / budget.limits[limit] <= 1
    # Not one channel more fits.
    for group in graph.groups:
        left = sorted(set(range(group.width)) - set(plan.kept(group)))
        if left:
            more = {**plan.keep, group.name: sorted((*plan.kept(group), left[0]))}
            assert getattr(count(graph, Plan(more)), limit) > budget.limits[limit]


@pytest.mark.parametrize("selection", DIRECT)
def test_budget_of_the_whole_net_keeps_everything(graph, selection):
    budget = Budget.share(count(graph), macs=1, bytes=1, params=1)
    constraints = Constraints(ends=True)
    policy = by(selection, graph)
    plan = select(graph, budget, selection=policy, constraints=constraints)
    assert plan.keep == Plan.everything(graph).keep


@pytest.mark.parametrize("selection", DIRECT)
def test_widths_are_multiples_or_whole(graph, selection):
    budget = Budget.share(count(graph), macs=0.5)
    constraints = Constraints(multiple=8, ends=True)
    policy = by(selection, graph)
    plan = select(graph, budget, selection=policy, constraints=constraints)
    assert plan.made_by["multiple"] == 8
    for group in graph.groups:
        kept = len(plan.kept(group))
        assert kept % 8 == 0 or kept == group.width


@pytest.mark.parametrize("selection", DIRECT)
def test_minimum_is_respected_and_the_best_channels_stay(graph, selection):
    budget = Budget.share(count(graph), macs=0.5)
    constraints = Constraints(multiple=1, minimum=30, ends=True)
    policy = by(selection, graph, "random")
    plan = select(graph, budget, "random", selection=policy, constraints=constraints)
    importance = importance_of(graph, "random")
    for group in graph.groups:
        assert len(plan.kept(group)) >= min(30, group.width)
        if len(plan.kept(group)) < group.width:
            row = importance[group.name]
            kept = np.isin(np.arange(len(row)), plan.kept(group))
            assert row[kept].min() >= row[~kept].max()


@pytest.mark.parametrize("selection", DIRECT)
def test_net_that_cannot_lose_channels_has_a_plan(selection):
    graph = trace(ready(conv(3)), SHAPE)
    budget = Budget.share(count(graph), macs=1)
    plan = select(graph, budget, selection=by(selection, graph))
    assert plan.keep == {"conv0": (0, 1, 2)}


def test_several_limits_are_met_and_one_of_them_closely(graph):
    total = count(graph)
    for macs, size in ((0.5, 0.9), (0.9, 0.5), (0.55, 0.55)):
        budget = Budget.share(total, macs=macs, bytes=size, params=0.95)
        cost = count(graph, select(graph, budget, constraints=ANY_WIDTH))
        shares = [getattr(cost, name) / limit for name, limit in budget.limits.items()]
        assert max(shares) <= 1
        assert max(shares) > 0.97  # one more channel costs percents here


# Uniform and global.


def test_uniform_keeps_the_same_share(graph):
    budget = Budget.share(count(graph), macs=0.3)
    plan = select(graph, budget, selection="uniform", constraints=ANY_WIDTH)
    shares = [len(plan.keep[g.name]) / g.width for g in graph.groups if not g.frozen]
    assert max(shares) - min(shares) < 0.05


@pytest.mark.parametrize(
    ("selection", "ratio"), [("shallow_more", 1.5), ("deep_more", 2 / 3)]
)
def test_shares_change_linearly_with_depth(graph, selection, ratio):
    budget = Budget.share(count(graph), macs=0.3)
    plan = select(graph, budget, selection=selection, constraints=ANY_WIDTH)
    free = [g for g in graph.groups if not g.frozen]
    shares = np.array([len(plan.keep[g.name]) / g.width for g in free])
    line = np.linspace(1, ratio, len(free))
    assert shares / shares[0] == pytest.approx(line, abs=0.1)
    assert plan.made_by["selection"] == selection


def test_a_share_by_depth_is_at_most_all():
    problem = problem_of(share=0.9)
    widths = problem.widths_at(ByDepth(20)(problem))
    most = [row[-1] for row in problem.widths]
    assert widths[-1] == most[-1]
    assert widths[0] < most[0]


@pytest.mark.parametrize("ratio", [0, -1, float("nan"), float("inf")])
def test_a_ratio_by_depth_is_a_number_above_0(ratio):
    with pytest.raises(ValueError, match=f"ratio is {ratio}"):
        ByDepth(ratio)


def test_global_keeps_the_most_important_channels_of_all_groups(graph):
    importance = importance_of(graph, "random", 7)
    budget = Budget.share(count(graph), params=0.5)
    constraints = Constraints(multiple=1, minimum=1, ends=True)
    plan = select(
        graph, budget, "random", selection="global", constraints=constraints, seed=7
    )
    kept, removed = [], []
    for name, row in importance.items():
        stays = np.isin(np.arange(len(row)), plan.keep[name])
        kept.extend(row[stays])
        removed.extend(row[~stays])
    # One threshold for all groups, except for what still fits in the end.
    assert np.quantile(kept, 0.05) > np.quantile(removed, 0.9)


# Greedy.


def test_greedy_takes_where_the_most_is_left():
    """All channels are equally important here, and cost the same.

    The least 40 / a + 20 / b for a + b = 30 has a : b as the roots of 40 and 20.
    """
    names = ("a", "b")
    layers = {"a": conv(40, 1), "b": conv(20, 1), "out": conv(2, 1)}

    def wire(F, m, x):
        return m["out"](F.concat(*[m[n](x) for n in names], dim=1))

    net = ready(Wired(wire, **layers))
    for parameter in net.collect_params(".*weight").values():
        parameter.set_data(parameter.data() * 0 + 1)
    graph = trace(net, SHAPE)
    budget = Budget.share(count(graph), macs=0.5)
    plan = select(graph, budget, constraints=ANY_WIDTH)
    kept = [len(plan.keep[group.name]) for group in graph.groups[:2]]
    assert kept == [18, 12]


def kept_share(graph, plan, name: str) -> float:
    return len(plan.keep[name]) / graph.group(name).width


def test_group_that_means_more_keeps_more(graph):
    budget = Budget.share(count(graph), macs=0.1)
    free = [group.name for group in graph.groups if not group.frozen]
    shares = {}
    for dear in free:
        found = {name: 100.0 if name == dear else 1.0 for name in free}
        plan = select(graph, budget, selection=Greedy(found), constraints=ANY_WIDTH)
        shares[dear] = kept_share(graph, plan, dear)
        assert plan.made_by["effects"] == found
        assert count(graph, plan).macs <= budget.macs
    equal = dict.fromkeys(free, 1.0)
    plain = select(graph, budget, selection=Greedy(equal), constraints=ANY_WIDTH)
    before = {name: kept_share(graph, plain, name) for name in free}
    thinned = [name for name in free if before[name] < 1]
    assert len(thinned) > 1
    assert all(shares[name] > before[name] for name in thinned)


def test_effects_of_one_scale_are_the_same(graph):
    budget = Budget.share(count(graph), macs=0.5)
    free = [group.name for group in graph.groups if not group.frozen]
    found = {name: 1.0 + i for i, name in enumerate(free)}
    larger = {name: 1000 * value for name, value in found.items()}
    plans = [select(graph, budget, selection=Greedy(e)) for e in (found, larger)]
    assert plans[0].keep == plans[1].keep


def test_group_without_effect_goes_first(graph):
    free = [group.name for group in graph.groups if not group.frozen]
    found = {**dict.fromkeys(free, 1.0), free[1]: 0.0}
    budget = Budget.share(count(graph), macs=0.9)
    plan = select(graph, budget, selection=Greedy(found), constraints=ANY_WIDTH)
    shares = {name: kept_share(graph, plan, name) for name in free}
    assert min(shares, key=shares.get) == free[1]


def test_without_effects_layers_are_counted():
    """A sum that four layers read and make is worth more than one between two."""
    net = ready(wide())
    graph = trace(net, SHAPE)
    free = [group for group in graph.groups if not group.frozen]
    layers = {group.name: float(len(group.layers)) for group in free}
    assert len(set(layers.values())) > 1
    budget = Budget.share(count(graph), macs=0.5)
    plain = select(graph, budget)
    assert plain.keep == select(graph, budget, selection=Greedy(layers)).keep
    assert "effects" not in plain.made_by


@pytest.mark.parametrize("value", [None, -1.0, np.nan, np.inf, "much"])
def test_effect_that_is_no_number_is_refused(graph, value):
    free = [group.name for group in graph.groups if not group.frozen]
    found = {**dict.fromkeys(free, 1.0), free[0]: value}
    with pytest.raises(ValueError, match=f"the effect of group '{free[0]}' is"):
        select(graph, Budget.share(count(graph), macs=0.5), selection=Greedy(found))


# By sensitivity.


def test_sensitivity_takes_from_the_group_that_loses_the_least_accuracy():
    """Two groups of equal cost and importance, one of which matters."""
    layers = {"a": conv(32, 1), "b": conv(32, 1), "out": conv(2, 1)}

    def wire(F, m, x):
        return m["out"](F.concat(m["a"](x), m["b"](x), dim=1))

    graph = trace(ready(Wired(wire, **layers)), SHAPE)
    curves = {"conv0": [(16, 0.9), (8, 0.89)], "conv1": [(16, 0.6), (8, 0.3)]}
    found = Sensitivity(0.9, {"conv0": 32, "conv1": 32}, curves, "l1")
    budget = Budget.share(count(graph), macs=0.7)
    policy = BySensitivity(found)
    plan = select(graph, budget, selection=policy, constraints=ANY_WIDTH)
    assert len(plan.keep["conv0"]) == 12
    assert len(plan.keep["conv1"]) == 32


def test_flat_curves_are_thinned_as_greedy_does(graph):
    free = [group for group in graph.groups if not group.frozen]
    curves = {g.name: [(g.width // 2, 0.9), (1, 0.9)] for g in free}
    found = Sensitivity(0.9, {g.name: g.width for g in free}, curves, "l1")
    budget = Budget.share(count(graph), macs=0.5)
    constraints = Constraints(multiple=1, minimum=4, ends=True)
    policy = BySensitivity(found)
    guided = select(graph, budget, selection=policy, constraints=constraints)
    assert guided.keep == select(graph, budget, constraints=constraints).keep


def test_sensitivity_of_another_criterion_is_refused(graph):
    policy = BySensitivity(guide(graph, "l1"))
    with pytest.raises(ValueError, match="criterion 'l2': .* measured with 'l1'"):
        select(graph, Budget(macs=1e9), "l2", selection=policy)


def test_sensitivity_of_another_net_is_refused(graph, tiny):
    with pytest.raises(ValueError, match="another net: group 'conv0' has width 48, th"):
        select(
            graph,
            Budget(macs=1e9),
            selection=BySensitivity(guide(tiny)),
            constraints=ANY_WIDTH,
        )


def test_group_that_may_lose_channels_needs_a_curve(graph):
    widths = {"conv0": 48, "conv1": 80}
    curves = {name: [(1, 0.5)] for name in widths}
    policy = BySensitivity(Sensitivity(0.9, widths, curves, "l1"))
    with pytest.raises(ValueError, match="no curve of group 'conv3'"):
        select(graph, Budget(macs=1e9), selection=policy, constraints=ANY_WIDTH)
    constraints = Constraints(groups=("conv0", "conv1"), ends=True)
    assert select(graph, Budget(macs=1e9), selection=policy, constraints=constraints)
