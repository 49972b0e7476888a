from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from gluon_compress import Budget, Plan, count, delete, select, trace
from gluon_compress.plan import CRITERIA, SELECTIONS, Sensitivity
from gluon_compress.plan.constraints import FIRST, first_layers, last_layers
from gluon_compress.plan.cost_model import LIMITS
from gluon_compress.plan.importance import scores
from nets import (
    NETS,
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


def by(selection: str, graph, criterion: str = "l1") -> dict:
    """Return a selection with the data that it needs; first layers are free."""
    how = {"selection": selection, "ends": True}
    if selection == "sensitivity":
        how["sensitivity"] = guide(graph, criterion)
    return how


# Under a budget.


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_budget_is_met_closely(graph, criterion, selection, limit):
    budget = Budget.share(count(graph), **{limit: 0.5})
    how = {**by(selection, graph, criterion), "multiple": 1, "minimum": 2}
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
    plan = select(graph, budget, **by(selection, graph))
    assert plan.keep == Plan.everything(graph).keep


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("multiple", [8, 16])
def test_widths_are_multiples_or_whole(graph, selection, multiple):
    budget = Budget.share(count(graph), macs=0.5)
    plan = select(graph, budget, **by(selection, graph), multiple=multiple)
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
    how = {**by(selection, graph, "random"), "multiple": 1, "minimum": 30}
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
    plan, worth = (
        select(graph, budget, "l2", **by(selection, graph, "l2")),
        scores(graph, "l2"),
    )
    for name, row in worth.items():
        kept = np.isin(np.arange(len(row)), plan.keep[name])
        if not kept.all():
            assert row[kept].min() >= row[~kept].max()


def test_uniform_keeps_the_same_share(graph):
    budget = Budget.share(count(graph), macs=0.3)
    plan = select(graph, budget, **by("uniform", graph), multiple=1)
    shares = [len(plan.keep[g.name]) / g.width for g in graph.groups if not g.frozen]
    assert max(shares) - min(shares) < 0.05


def test_greedy_takes_where_the_most_is_left():
    """Channels are all worth the same here, and cost the same.

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
    plan = select(graph, budget, **by("greedy", graph), multiple=1)
    kept = [len(plan.keep[group.name]) for group in graph.groups[:2]]
    assert kept == [18, 12]


def test_global_prefers_the_groups_of_more_worth(graph):
    worth = scores(graph, "random", 7)
    budget = Budget.share(count(graph), params=0.5)
    how = {**by("global", graph), "multiple": 1, "minimum": 1, "seed": 7}
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


def test_several_limits_weigh_by_what_is_over_them(graph):
    """Both limits are met to the last channel, whichever comes first."""
    total = count(graph)
    for macs, size in ((0.5, 0.9), (0.9, 0.5), (0.55, 0.55)):
        budget = Budget.share(total, macs=macs, bytes=size)
        cost = count(graph, select(graph, budget, multiple=1, ends=True))
        assert cost.macs <= budget.macs
        assert cost.bytes <= budget.bytes


def test_net_that_cannot_lose_channels_has_a_plan():
    graph = trace(ready(conv(3)), SHAPE)
    budget = Budget.share(count(graph), macs=1)
    for selection in SELECTIONS:
        plan = select(graph, budget, **by(selection, graph))
        assert plan.keep == {"conv0": (0, 1, 2)}


def test_budget_that_cannot_be_met_says_what_can(graph):
    free = [group.name for group in graph.groups if not group.frozen]
    least = count(graph, Plan(dict.fromkeys(free, (0,)))).macs
    message = (
        f"budget of 1,000 macs cannot be met: .* reached is {least:,}; at their "
        "minimum: conv0, conv1, conv3, conv4; frozen as network output 0 .*: conv5"
    )
    with pytest.raises(ValueError, match=message) as raised:
        select(graph, Budget(macs=1000), ends=True)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": "best"}, "selection 'best' is unknown; allowed: uniform"),
        ({"criterion": "best"}, "criterion 'best' is unknown; allowed: l1"),
        ({"multiple": 0}, "multiple is 0; allowed: a whole number from 1"),
        ({"minimum": 2.5}, "minimum is 2.5; allowed: a whole number from 1, or a sh"),
        ({"minimum": True}, "minimum is True; allowed"),
        ({"maximum": 0.0}, "maximum is 0.0; allowed: .* share above 0 up to 1.0"),
        ({"maximum": {"conv1": -4}}, r"maximum\['conv1'\] is -4; allowed"),
        ({"minimum": {"conv5": 2}}, "'conv5' fits no group that can lose channels"),
        ({"minimum": 0.5, "maximum": 8}, "'conv1' keeps 40 at least and 8 at most"),
        ({"leave": ("layer*",)}, r"leave: pattern 'layer\*' fits no group; .*conv5"),
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


# Which groups, and between which widths.


def changed(graph, plan) -> set[str]:
    return {g.name for g in graph.groups if len(plan.kept(g)) < g.width}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chain", {"conv0"}),
        ("depthwise", {"conv0"}),  # the depthwise layer does not read the input
        ("perceptron", {"dense0"}),
        # The input is concatenated once more, and added before the last layer.
        ("with_input", {"conv0", "conv1", "dense0"}),
        ("detector_head", {"conv0"}),
        ("halves", {"conv0"}),
    ],
)
def test_first_layers_read_the_input(name, expected):
    assert first_layers(trace(ready(NETS[name]()), SHAPE)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chain", {"dense0"}),
        ("two_outputs", {"conv1", "dense0"}),
        ("detector_head", {"conv1", "conv3", "conv4", "conv5"}),
    ],
)
def test_last_layers_make_the_outputs(name, expected):
    assert last_layers(trace(ready(NETS[name]()), SHAPE)) == expected


def test_input_that_lends_its_shape_only_is_not_read():
    def wire(F, m, x):
        y = m["b"](F.UpSampling(m["a"](x), scale=2, sample_type="nearest"))
        return m["c"](F.slice_like(y, x, axes=(2, 3)))

    net = Wired(wire, a=conv(4), b=conv(4), c=conv(2))
    assert first_layers(trace(ready(net), SHAPE)) == {"conv0"}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_first_layers_are_protected_unless_asked(graph, selection):
    budget = Budget.share(count(graph), macs=0.5)
    how = {**by(selection, graph), "multiple": 1}
    assert "conv0" in changed(graph, select(graph, budget, **how))
    plan = select(graph, budget, **{**how, "ends": False})
    assert "conv0" not in changed(graph, plan)
    assert plan.made_by["held"] == {"conv0": FIRST}
    assert count(graph, plan).macs <= budget.macs


def test_last_layer_whose_channels_are_summed_up_is_protected():
    def wire(F, m, x):
        return F.sum(m["b"](m["a"](m["stem"](x))), axis=1)

    net = Wired(wire, stem=conv(16), a=conv(16), b=conv(16))
    graph = trace(ready(net), SHAPE)
    budget = Budget.share(count(graph), macs=0.7)
    plan = select(graph, budget, multiple=1)
    assert changed(graph, plan) == {"conv1"}
    assert list(plan.made_by["held"]) == ["conv0", "conv2"]
    # A maximum takes from every group that may lose channels.
    how = {"multiple": 1, "maximum": 0.5}
    assert changed(graph, select(graph, budget, **how)) == {"conv1"}
    freed = select(graph, budget, ends=True, **how)
    assert changed(graph, freed) == {"conv0", "conv1", "conv2"}


def test_error_says_what_protection_costs(tiny):
    message = (
        "reached is .*; first layer, protected unless ends=True: conv0; at their "
        "minimum: conv1; frozen as network output 0 .*: dense0$"
    )
    with pytest.raises(ValueError, match=message):
        select(tiny, Budget.share(count(tiny), macs=0.05))
    assert select(tiny, Budget.share(count(tiny), macs=0.2), ends=True)


def test_error_names_patterns_and_counts_what_is_too_long():
    layers = {f"l{i:02}": conv(4) for i in range(12)}

    def wire(F, m, x):
        for name in layers:
            x = m[name](x)
        return x

    graph = trace(ready(Wired(wire, **layers)), SHAPE)
    how = {"ends": True, "groups": ["conv[0-9]"], "leave": ["conv2"], "multiple": 1}
    message = (
        "at their minimum: conv0, conv1, conv3, conv4, conv5, conv6 and 3 more; left "
        r"alone by 'conv2': conv2; not among groups 'conv\[0-9\]': conv10; frozen"
    )
    with pytest.raises(ValueError, match=message):
        select(graph, Budget(macs=1), **how)


def test_groups_are_left_alone_by_pattern(graph):
    budget = Budget.share(count(graph), macs=0.7)
    how = {"multiple": 1, "ends": True, "leave": ("conv[04]",)}
    plan = select(graph, budget, **how)
    assert changed(graph, plan) & {"conv0", "conv1", "conv4"} == {"conv1"}
    assert plan.made_by["held"] == dict.fromkeys(
        ("conv0", "conv4"), "left alone by 'conv[04]'"
    )


def test_bounds_are_channels_or_shares_by_pattern(graph):
    budget = Budget.share(count(graph), macs=0.3)
    minimum = {"conv1": 60, "conv3": 1, "conv*": 0.25}
    maximum = {"conv4": 0.5, "conv3": 4}
    how = {"multiple": 1, "ends": True, "minimum": minimum, "maximum": maximum}
    for selection in SELECTIONS:
        plan = select(graph, budget, **{**by(selection, graph), **how})
        kept = {g.name: len(plan.kept(g)) for g in graph.groups}
        assert kept["conv1"] >= 60
        assert kept["conv0"] >= 12
        assert 16 <= kept["conv4"] <= 32
        assert kept["conv3"] <= 4


def test_maximum_holds_where_the_budget_does_not_ask_for_it(graph):
    budget = Budget.share(count(graph), macs=1)
    plan = select(graph, budget, maximum={"conv1": 0.5})
    # The largest multiple of 16 up to 40 of the 80.
    assert {g.name: len(plan.kept(g)) for g in graph.groups}["conv1"] == 32
    assert changed(graph, plan) == {"conv1"}
    assert plan.made_by["maximum"] == {"conv1": 0.5}


def test_bounds_of_numpy_are_stored(graph, tmp_path):
    budget = Budget.share(count(graph), macs=1)
    minimum, maximum = np.int64(8), {"conv1": np.float32(0.5)}
    plan = select(graph, budget, minimum=minimum, maximum=maximum)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert plan.made_by["minimum"] == 8


def test_maximum_between_two_multiples_is_the_width(graph):
    plan = select(graph, Budget.share(count(graph), macs=1), maximum={"conv1": 7})
    assert len(plan.keep["conv1"]) == 7


def test_bounds_count_channels_where_an_index_stands_for_several():
    graph = trace(ready(few_groups()), SHAPE)
    sizes = {g.name: g.size for g in graph.groups}
    assert sizes["conv0"] == sizes["conv1"] == 2
    how = {
        "multiple": 1,
        "ends": True,
        "minimum": {"conv0": 7},
        "maximum": {"conv1": 7},
    }
    plan = select(graph, Budget.share(count(graph), macs=0.6), **how)
    assert len(plan.keep["conv0"]) >= 4  # 7 channels are 3.5 indices
    assert len(plan.keep["conv1"]) <= 3


# By measured accuracy.


def test_sensitivity_takes_from_the_group_that_loses_the_least_accuracy():
    """Two groups of equal cost and worth, one of which matters."""
    layers = {"a": conv(32, 1), "b": conv(32, 1), "out": conv(2, 1)}

    def wire(F, m, x):
        return m["out"](F.concat(m["a"](x), m["b"](x), dim=1))

    graph = trace(ready(Wired(wire, **layers)), SHAPE)
    curves = {"conv0": [(16, 0.9), (8, 0.89)], "conv1": [(16, 0.6), (8, 0.3)]}
    found = Sensitivity(0.9, {"conv0": 32, "conv1": 32}, curves, "l1")
    budget = Budget.share(count(graph), macs=0.7)
    how = {"selection": "sensitivity", "sensitivity": found, "ends": True}
    plan = select(graph, budget, multiple=1, **how)
    assert len(plan.keep["conv0"]) == 12
    assert len(plan.keep["conv1"]) == 32


def test_flat_curves_are_thinned_as_greedy_does(graph):
    free = [group for group in graph.groups if not group.frozen]
    curves = {g.name: [(g.width // 2, 0.9), (1, 0.9)] for g in free}
    found = Sensitivity(0.9, {g.name: g.width for g in free}, curves, "l1")
    budget = Budget.share(count(graph), macs=0.5)
    how = {"multiple": 1, "minimum": 4, "ends": True}
    guided = select(graph, budget, selection="sensitivity", sensitivity=found, **how)
    assert guided.keep == select(graph, budget, selection="greedy", **how).keep


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": "sensitivity"}, "'sensitivity' needs data: .*prune.sensitivity"),
        ({"selection": "greedy", "sensitivity": 1}, "'greedy' does not follow a"),
        (
            {"selection": "sensitivity", "sensitivity": 1, "criterion": "l2"},
            "criterion 'l2': the sensitivity was measured with 'l1'",
        ),
        ({"criterion": "taylor"}, r"'taylor' needs data: .*prune.taylor\(net, batches"),
    ],
)
def test_data_that_are_needed_and_missing_are_named(graph, options, message):
    if "sensitivity" in options:
        options = {**options, "sensitivity": guide(graph)}
    with pytest.raises(ValueError, match=message) as raised:
        select(graph, Budget(macs=1e9), **options)
    assert "\n" not in str(raised.value)


def test_sensitivity_of_another_net_is_refused(graph, tiny):
    how = {"selection": "sensitivity", "ends": True}
    with pytest.raises(ValueError, match="another net: group 'conv0' has width 48, th"):
        select(graph, Budget(macs=1e9), sensitivity=guide(tiny), **how)


def test_sensitivity_that_does_not_know_a_group_is_refused(graph):
    widths = {"conv0": 48, "conv1": 80}
    curves = {name: [(1, 0.5)] for name in widths}
    how = {"selection": "sensitivity", "ends": True}
    found = Sensitivity(0.9, widths, curves, "l1")
    with pytest.raises(ValueError, match="no curve of group 'conv3'"):
        select(graph, Budget(macs=1e9), sensitivity=found, **how)
    # What is not touched needs no curve.
    groups = ("conv0", "conv1")
    assert select(graph, Budget(macs=1e9), sensitivity=found, groups=groups, **how)


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
        ({"conv1": np.nan}, "'conv1' keeps nan; allowed: above 0 to 1"),
        ({"conv1": np.bool_(True)}, "'conv1' keeps True; allowed: above 0 to 1"),
        ({"conv5": 0.5}, "'conv5' fits no group that can lose channels; allowed"),
        ({"conv*": 0.5, "conv1": 0.2}, "'conv1' decides nothing; allowed: before the"),
        ({}, "keep is {}; allowed: a pattern with its share"),
    ],
)
def test_share_that_cannot_be_is_refused(graph, keep, message):
    with pytest.raises(ValueError, match=message):
        delete(graph, keep)


@pytest.mark.parametrize("multiple", [1, 16])
def test_share_of_less_than_one_channel_is_refused_with_the_least(graph, multiple):
    # conv3 is the narrowest that the second pattern decides on, with 24 channels.
    keep = {"conv0": 0.5, "conv*": 0.02}
    with pytest.raises(ValueError, match=r"'conv\*' keeps 0.02 of 'conv3'") as told:
        delete(graph, keep, multiple=multiple)
    words = r"whose width is 24: less than one channel; allowed: from (.*)$"
    least = float(re.search(words, str(told.value)).group(1))
    plan = delete(graph, {"conv0": 0.5, "conv*": least}, multiple=multiple)
    assert len(plan.keep["conv3"]) == multiple
    with pytest.raises(ValueError, match="less than one channel"):
        delete(graph, {"conv*": np.nextafter(least, 0)}, multiple=multiple)


def test_minimum_that_is_stated_may_be_more_than_a_share(graph):
    plan = delete(graph, {"conv*": 0.001}, multiple=1, minimum=1)
    assert {len(plan.kept(g)) for g in graph.groups if not g.frozen} == {1}


def test_width_is_the_nearest_of_the_allowed_ones(graph):
    # Of 64 channels 19.2, of 48 14.4, of 24 7.2; the multiples of 16 are far apart.
    plan = delete(graph, {"conv*": 0.3})
    assert [len(plan.keep[f"conv{i}"]) for i in (4, 0, 3)] == [16, 16, 16]
    assert len(delete(graph, {"conv1": 0.9}).keep["conv1"]) == 80  # of 72, as far as 64


@pytest.mark.parametrize("number", [np.float32, np.float64, np.float16])
def test_share_may_be_a_number_of_numpy(graph, number, tmp_path):
    plan = delete(graph, {"conv1": number(0.5)}, multiple=1)
    assert dict(plan.keep) == dict(delete(graph, {"conv1": 0.5}, multiple=1).keep)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


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
        "held": {"conv0": FIRST},
        "widths": {"conv0": 48, "conv1": 80, "conv3": 24, "conv4": 64, "conv5": 5},
    }
