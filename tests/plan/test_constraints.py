from __future__ import annotations

import numpy as np
import pytest

from gluon_compress import Budget, Plan, count, select, trace
from gluon_compress.plan import POLICIES, Constraints
from gluon_compress.plan.constraints import FIRST, first_layers, last_layers
from nets import (
    SHAPE,
    Wired,
    chain,
    conv,
    few_groups,
    graph_of,
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


def plan_for(graph, budget, *, selection: str = "greedy", **constraints) -> Plan:
    """Return the plan of a policy under constraints."""
    constraints = Constraints(**constraints)
    return select(graph, budget, selection=selection, constraints=constraints)


# Which groups.


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
    assert first_layers(graph_of(name)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chain", {"dense0"}),
        ("two_outputs", {"conv1", "dense0"}),
        ("detector_head", {"conv1", "conv3", "conv4", "conv5"}),
    ],
)
def test_last_layers_make_the_outputs(name, expected):
    assert last_layers(graph_of(name)) == expected


def test_input_that_lends_its_shape_only_is_not_read():
    def wire(F, m, x):
        y = m["b"](F.UpSampling(m["a"](x), scale=2, sample_type="nearest"))
        return m["c"](F.slice_like(y, x, axes=(2, 3)))

    net = Wired(wire, a=conv(4), b=conv(4), c=conv(2))
    assert first_layers(trace(ready(net), SHAPE)) == {"conv0"}


@pytest.mark.parametrize("selection", ["greedy", "uniform"])
def test_first_layers_are_protected_unless_asked(graph, selection):
    budget = Budget.share(count(graph), macs=0.5)
    how = {"selection": selection, "multiple": 1}
    assert "conv0" in changed(graph, plan_for(graph, budget, ends=True, **how))
    plan = plan_for(graph, budget, **how)
    assert "conv0" not in changed(graph, plan)
    assert plan.made_by["held"] == {"conv0": FIRST}
    assert count(graph, plan).macs <= budget.macs


def test_last_layer_whose_channels_are_summed_up_is_protected():
    def wire(F, m, x):
        return F.sum(m["b"](m["a"](m["stem"](x))), axis=1)

    net = Wired(wire, stem=conv(16), a=conv(16), b=conv(16))
    graph = trace(ready(net), SHAPE)
    budget = Budget.share(count(graph), macs=0.7)
    plan = plan_for(graph, budget, multiple=1)
    assert changed(graph, plan) == {"conv1"}
    assert list(plan.made_by["held"]) == ["conv0", "conv2"]
    # A maximum takes from every group that may lose channels.
    how = {"multiple": 1, "maximum": 0.5}
    assert changed(graph, plan_for(graph, budget, **how)) == {"conv1"}
    freed = plan_for(graph, budget, ends=True, **how)
    assert changed(graph, freed) == {"conv0", "conv1", "conv2"}


def test_error_says_what_protection_costs(tiny):
    message = (
        "reached is .*; first layer, protected unless ends=True: conv0; at their "
        "minimum: conv1; frozen as network output 0 .*: dense0$"
    )
    with pytest.raises(ValueError, match=message):
        plan_for(tiny, Budget.share(count(tiny), macs=0.05))
    assert plan_for(tiny, Budget.share(count(tiny), macs=0.2), ends=True)


def test_error_names_patterns_and_counts_what_is_too_long():
    layers = {f"l{i:02}": conv(4) for i in range(12)}

    def wire(F, m, x):
        for name in layers:
            x = m[name](x)
        return x

    graph = trace(ready(Wired(wire, **layers)), SHAPE)
    how = {"ends": True, "groups": ["conv[0-9]"], "ignored": ["conv2"], "multiple": 1}
    message = (
        "at their minimum: conv0, conv1, conv3, conv4, conv5, conv6 and 3 more; left "
        r"alone by 'conv2': conv2; not among groups 'conv\[0-9\]': conv10; frozen"
    )
    with pytest.raises(ValueError, match=message):
        plan_for(graph, Budget(macs=1), **how)


def test_groups_are_left_alone_by_pattern(graph):
    budget = Budget.share(count(graph), macs=0.7)
    how = {"multiple": 1, "ends": True, "ignored": ("conv[04]",)}
    plan = plan_for(graph, budget, **how)
    assert changed(graph, plan) & {"conv0", "conv1", "conv4"} == {"conv1"}
    assert plan.made_by["held"] == dict.fromkeys(
        ("conv0", "conv4"), "left alone by 'conv[04]'"
    )


def test_patterns_choose_groups(graph):
    budget = Budget.share(count(graph), macs=0.9)
    plan = plan_for(graph, budget, multiple=1, groups=("*conv1", "conv3"))
    changed = {g.name for g in graph.groups if len(plan.kept(g)) < g.width}
    assert changed
    assert changed <= {"conv1", "conv3"}


def test_nothing_is_kept_that_an_earlier_plan_removes(graph):
    within = random_plan(graph, 3)
    budget = Budget.share(count(graph, within), macs=0.7)
    plan = plan_for(graph, budget, multiple=1, within=within)
    for group in graph.groups:
        assert set(plan.kept(group)) <= set(within.kept(group))
    assert count(graph, plan).macs <= budget.macs


# Widths.


def test_bounds_are_channels_or_shares_by_pattern(graph):
    budget = Budget.share(count(graph), macs=0.3)
    minimum = {"conv1": 60, "conv3": 1, "conv*": 0.25}
    maximum = {"conv4": 0.5, "conv3": 4}
    how = {"multiple": 1, "ends": True, "minimum": minimum, "maximum": maximum}
    for selection in POLICIES:
        plan = plan_for(graph, budget, selection=selection, **how)
        kept = {g.name: len(plan.kept(g)) for g in graph.groups}
        assert kept["conv1"] >= 60
        assert kept["conv0"] >= 12
        assert 16 <= kept["conv4"] <= 32
        assert kept["conv3"] <= 4


def test_maximum_holds_where_the_budget_does_not_ask_for_it(graph):
    budget = Budget.share(count(graph), macs=1)
    plan = plan_for(graph, budget, maximum={"conv1": 0.5})
    # The largest multiple of 16 up to 40 of the 80.
    assert {g.name: len(plan.kept(g)) for g in graph.groups}["conv1"] == 32
    assert changed(graph, plan) == {"conv1"}
    assert plan.made_by["maximum"] == {"conv1": 0.5}


def test_bounds_of_numpy_are_stored(graph, tmp_path):
    budget = Budget.share(count(graph), macs=1)
    minimum, maximum = np.int64(8), {"conv1": np.float32(0.5)}
    plan = plan_for(graph, budget, minimum=minimum, maximum=maximum)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert plan.made_by["minimum"] == 8


def test_maximum_between_two_multiples_is_the_width(graph):
    plan = plan_for(graph, Budget.share(count(graph), macs=1), maximum={"conv1": 7})
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
    plan = plan_for(graph, Budget.share(count(graph), macs=0.6), **how)
    assert len(plan.keep["conv0"]) >= 4  # 7 channels are 3.5 indices
    assert len(plan.keep["conv1"]) <= 3


def test_multiples_count_channels_not_indices():
    graph = trace(ready(few_groups()), SHAPE)  # two channels an index
    budget = Budget.share(count(graph), macs=0.6)
    plan = plan_for(graph, budget, multiple=4, groups=("conv0", "conv1"))
    sizes = {g.name: g.size for g in graph.groups}
    assert plan.made_by["multiple"] == 4
    assert all(len(plan.keep[n]) * sizes[n] % 4 == 0 for n in ("conv0", "conv1"))


def test_multiple_is_halved_where_the_budget_asks_for_it(graph):
    budget = Budget.share(count(graph), macs=0.05)
    plan = plan_for(graph, budget, multiple=16)
    assert plan.made_by["multiple"] < 16
    assert count(graph, plan).macs <= budget.macs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multiple": 0}, "multiple is 0; allowed: a whole number from 1"),
        ({"minimum": 2.5}, "minimum is 2.5; allowed: a whole number from 1, or a sh"),
        ({"minimum": True}, "minimum is True; allowed"),
        ({"maximum": 0.0}, "maximum is 0.0; allowed: .* share above 0 up to 1.0"),
        ({"maximum": {"conv1": -4}}, r"maximum\['conv1'\] is -4; allowed"),
        ({"minimum": {"conv5": 2}}, "'conv5' matches no group that can lose channels"),
        ({"minimum": 0.5, "maximum": 8}, "'conv1' keeps 40 at least and 8 at most"),
        (
            {"ignored": ("layer*",)},
            r"ignored: pattern 'layer\*' matches no group",
        ),
        (
            {"groups": ("layer*",)},
            r"'layer\*' matches no group .*; allowed: conv0, conv1",
        ),
        ({"within": Plan({"x": (0,)})}, "group 'x' is not in the net; allowed: conv0"),
        ({"groups": "conv*"}, r"groups is 'conv\*'; allowed: a list of patterns"),
    ],
)
def test_constraint_that_does_not_fit_is_named(graph, options, message):
    with pytest.raises(ValueError, match=message):
        plan_for(graph, Budget(macs=1e9), **options)
