from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gluon_compress import Budget, Plan, count, delete, select, trace
from gluon_compress.plan import CRITERIA, SELECTIONS
from gluon_compress.plan.criteria import scores
from gluon_compress.plan.meter import LIMITS
from nets import (
    SHAPE,
    Wired,
    chain,
    conv,
    few_groups,
    random_plan,
    ready,
    wide,
)


@pytest.fixture(scope="module")
def graph():
    return trace(ready(wide()), SHAPE)


@pytest.fixture(scope="module")
def tiny():
    return trace(ready(chain()), SHAPE)


# Under a budget.


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_budget_is_met_closely(graph, criterion, selection, limit):
    budget = Budget.share(count(graph), **{limit: 0.5})
    how = {"selection": selection, "multiple": 1, "minimum": 2}
    plan = select(graph, budget, criterion, **how)
    assert 0.95 < getattr(count(graph, plan), limit) / budget.limits[limit] <= 1
    # Not one channel more fits.
    for group in graph.groups:
        left = sorted(set(range(group.width)) - set(plan.kept(group)))
        if left:
            more = {**plan.keep, group.name: sorted((*plan.kept(group), left[0]))}
            assert getattr(count(graph, Plan(more)), limit) > budget.limits[limit]


def test_several_limits_are_met_and_one_of_them_closely(graph):
    budget = Budget.share(count(graph), macs=0.6, bytes=0.5, params=0.5)
    cost = count(graph, select(graph, budget, multiple=1))
    shares = [getattr(cost, n) / limit for n, limit in budget.limits.items()]
    assert max(shares) <= 1
    assert max(shares) > 0.97  # one more channel costs percents here


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("limit", LIMITS)
def test_budget_of_the_whole_net_keeps_everything(graph, selection, limit):
    budget = Budget.share(count(graph), **{limit: 1})
    plan = select(graph, budget, selection=selection)
    assert plan.keep == Plan.everything(graph).keep


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("multiple", [8, 16])
def test_widths_are_multiples_or_whole(graph, selection, multiple):
    budget = Budget.share(count(graph), macs=0.5)
    plan = select(graph, budget, selection=selection, multiple=multiple)
    assert plan.made_by["multiple"] == multiple
    for group in graph.groups:
        kept = len(plan.kept(group))
        assert kept % multiple == 0 or kept == group.width


def test_multiples_count_channels_not_indices():
    graph = trace(ready(few_groups()), SHAPE)  # two channels an index
    budget = Budget.share(count(graph), macs=0.6)
    plan = select(graph, budget, multiple=4, groups=("conv0", "conv1"))
    sizes = {g.name: g.size for g in graph.groups}
    assert plan.made_by["multiple"] == 4
    assert all(len(plan.keep[n]) * sizes[n] % 4 == 0 for n in ("conv0", "conv1"))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_minimum_is_respected(graph, selection):
    budget = Budget.share(count(graph), macs=0.5)
    how = {"selection": selection, "multiple": 1, "minimum": 30}
    plan = select(graph, budget, "random", **how)
    for group in graph.groups:
        assert len(plan.kept(group)) >= min(30, group.width)


def test_multiple_is_halved_where_the_budget_asks_for_it(graph):
    budget = Budget.share(count(graph), macs=0.05)
    plan = select(graph, budget, multiple=16)
    assert plan.made_by["multiple"] < 16
    assert count(graph, plan).macs <= budget.macs


@pytest.mark.parametrize("selection", SELECTIONS)
def test_best_channels_stay(graph, selection):
    budget = Budget.share(count(graph), macs=0.5)
    plan, worth = select(graph, budget, "l2", selection=selection), scores(graph, "l2")
    for name, row in worth.items():
        kept = np.isin(np.arange(len(row)), plan.keep[name])
        if not kept.all():
            assert row[kept].min() >= row[~kept].max()


def test_uniform_keeps_the_same_share(graph):
    budget = Budget.share(count(graph), macs=0.3)
    plan = select(graph, budget, selection="uniform", multiple=1)
    shares = [len(plan.keep[g.name]) / g.width for g in graph.groups if not g.frozen]
    assert max(shares) - min(shares) < 0.05


def test_greedy_takes_where_the_most_is_left():
    """Channels are all worth the same here, and cost the same."""
    names = ("a", "b")
    layers = {"a": conv(40, 1), "b": conv(20, 1), "out": conv(2, 1)}

    def wire(F, m, x):
        return m["out"](F.concat(*[m[n](x) for n in names], dim=1))

    net = ready(Wired(wire, **layers))
    for parameter in net.collect_params(".*weight").values():
        parameter.set_data(parameter.data() * 0 + 1)
    graph = trace(net, SHAPE)
    budget = Budget.share(count(graph), macs=0.5)
    plan = select(graph, budget, selection="greedy", multiple=1)
    kept = [len(plan.keep[group.name]) for group in graph.groups[:2]]
    assert kept == [15, 15]


def test_global_prefers_the_groups_of_more_worth(graph):
    worth = scores(graph, "random", 7)
    budget = Budget.share(count(graph), params=0.5)
    how = {"selection": "global", "multiple": 1, "minimum": 1, "seed": 7}
    plan = select(graph, budget, "random", **how)
    lost = [
        worth[n][i] for n in worth for i in set(range(len(worth[n]))) - {*plan.keep[n]}
    ]
    kept = [worth[n][i] for n in worth for i in plan.keep[n]]
    # One level of worth for all groups, but for what still fits in the end.
    assert np.quantile(kept, 0.05) > np.quantile(lost, 0.9)


def test_patterns_choose_groups(graph):
    budget = Budget.share(count(graph), macs=0.9)
    plan = select(graph, budget, multiple=1, groups=("*conv1", "conv3"))
    changed = {g.name for g in graph.groups if len(plan.kept(g)) < g.width}
    assert changed
    assert changed <= {"conv1", "conv3"}


def test_nothing_is_kept_that_an_earlier_plan_removes(graph):
    within = random_plan(graph, 3)
    budget = Budget.share(count(graph, within), macs=0.7)
    plan = select(graph, budget, multiple=1, within=within)
    for group in graph.groups:
        assert set(plan.kept(group)) <= set(within.kept(group))
    assert count(graph, plan).macs <= budget.macs


def test_net_that_cannot_lose_channels_has_a_plan():
    graph = trace(ready(conv(3)), SHAPE)
    budget = Budget.share(count(graph), macs=1)
    for selection in SELECTIONS:
        assert select(graph, budget, selection=selection).keep == {"conv0": (0, 1, 2)}


def test_budget_that_cannot_be_met_says_what_can(graph):
    free = [group.name for group in graph.groups if not group.frozen]
    least = count(graph, Plan(dict.fromkeys(free, (0,)))).macs
    message = f"budget of 1,000 macs cannot be met: .* reached is {least:,}; frozen"
    with pytest.raises(ValueError, match=message) as raised:
        select(graph, Budget(macs=1000))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": "best"}, "selection 'best' is unknown; allowed: uniform"),
        ({"criterion": "best"}, "criterion 'best' is unknown; allowed: l1"),
        ({"multiple": 0}, "multiple is 0; allowed: a whole number from 1"),
        ({"minimum": 2.5}, "minimum is 2.5; allowed: a whole number from 1"),
        ({"groups": ("layer*",)}, r"'layer\*' fits no group .*; allowed: conv0, conv1"),
        ({"within": Plan({"x": (0,)})}, "group 'x' is not in the net; allowed: conv0"),
    ],
)
def test_wrong_option_is_named(graph, options, message):
    with pytest.raises(ValueError, match=message):
        select(graph, Budget(macs=1e9), **options)


@pytest.mark.parametrize("limit", [0, -1, "1e9", True, math.nan, math.inf])
def test_limit_is_a_number_above_0(limit):
    with pytest.raises(
        ValueError, match=r"budget macs is .*; allowed: a number above 0"
    ):
        Budget(macs=limit)


def test_budget_needs_a_limit():
    with pytest.raises(ValueError, match="at least one of macs, bytes, params"):
        Budget()


def test_share_of_an_unknown_figure_is_refused(tiny):
    with pytest.raises(ValueError, match="budget 'flops' is unknown; allowed: macs"):
        Budget.share(count(tiny), flops=0.5)


# By fixed shares.


def test_delete_keeps_the_share_of_the_first_pattern_that_fits(graph):
    plan = delete(graph, {"conv1": 0.25, "conv*": 0.5}, multiple=4)
    widths = {g.name: (len(plan.kept(g)), g.width) for g in graph.groups}
    assert widths["conv1"] == (20, 80)
    for name in ("conv0", "conv3", "conv4"):
        assert widths[name][0] == widths[name][1] / 2
    assert widths["conv5"] == (5, 5)


def test_delete_takes_the_nearest_multiple_and_leaves_the_rest(graph):
    plan = delete(graph, {"conv1": 0.48}, "l1", multiple=16)
    assert {g.name for g in graph.groups if len(plan.kept(g)) < g.width} == {"conv1"}
    assert len(plan.keep["conv1"]) == 32  # of 80: 38.4 is nearer to 32 than to 48
    best = np.argsort(-scores(graph, "l1")["conv1"], kind="stable")[:32]
    assert plan.keep["conv1"] == tuple(sorted(best))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"conv1": 0}, "'conv1' keeps 0; allowed: above 0 to 1"),
        ({"conv1": 1.5}, "'conv1' keeps 1.5; allowed: above 0 to 1"),
        ({"conv1": True}, "'conv1' keeps True; allowed: above 0 to 1"),
        ({"conv5": 0.5}, "'conv5' fits no group that can lose channels; allowed"),
    ],
)
def test_share_that_cannot_be_is_refused(graph, keep, message):
    with pytest.raises(ValueError, match=message):
        delete(graph, keep)


def test_plan_says_how_it_was_made(tmp_path, graph):
    budget = Budget(macs=int(0.5 * count(graph).macs))
    select(graph, budget, "l2", seed=7, net="n", commit="abc").save(tmp_path / "p")
    stored = json.loads((tmp_path / "p").read_text(encoding="utf-8"))
    assert stored["made_by"] == {
        "criterion": "l2",
        "selection": "greedy",
        "budget": {"macs": budget.macs},
        "multiple": 16,
        "seed": 7,
        "commit": "abc",
    }
