from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from gluon_compress import Budget, Plan, count, select, trace
from gluon_compress.plan import Constraints, Greedy, delete, explain
from gluon_compress.plan.constraints import FIRST
from nets import (
    NETS,
    SHAPE,
    Wired,
    chain,
    conv,
    few_groups,
    graph_of,
    plans,
    random_plan,
    ready,
    residual,
    wide,
)


@pytest.fixture(scope="module")
def graph():
    return trace(ready(wide()), SHAPE)


def parts(rows: list, key: str) -> dict:
    return {row["name"]: row[key] for row in rows}


@pytest.mark.parametrize("name", NETS)
def test_shares_add_up_to_what_is_saved(name):
    graph = graph_of(name)
    for plan in plans(graph):
        rows = explain(graph, plan)
        for key, total in (("macs_saved", "macs"), ("bytes_saved", "bytes")):
            shares = parts(rows, key)
            saved = getattr(count(graph), total) > getattr(count(graph, plan), total)
            assert sum(shares.values()) == pytest.approx(1 if saved else 0, abs=1e-9)
            assert min(shares.values()) >= 0


def test_share_is_the_mean_over_all_orders_of_pruning(graph):
    """Shapley's definition, by going through every order."""
    plan = random_plan(graph, 5)
    names = list(plan.keep)
    expected = dict.fromkeys(names, 0.0)
    for order in itertools.permutations(names):
        done, before = {}, count(graph).macs
        for name in order:
            done[name] = plan.keep[name]
            after = count(graph, Plan(done)).macs
            expected[name] += (before - after) / math.factorial(len(names))
            before = after
    saved = count(graph).macs - count(graph, plan).macs
    found = parts(explain(graph, plan), "macs_saved")
    for name in names:
        assert found[name] == pytest.approx(expected[name] / saved)


def test_two_groups_share_what_they_save_together():
    # 1x1 layers: 3 x 8 and 8 x 6 per place, and 6 x 2.
    net = Wired(
        lambda F, m, x: m["c"](m["b"](m["a"](x))),
        a=conv(8, 1, use_bias=False),
        b=conv(6, 1, use_bias=False),
        c=conv(2, 1, use_bias=False),
    )
    graph = trace(ready(net), SHAPE)
    rows = explain(graph, Plan({"conv0": range(4), "conv1": range(3)}))
    first = (3 * 4) + (8 * 6 - 4 * 6), (8 * 6 - 8 * 3) + 3 * 2
    last = (3 * 4) + (8 * 3 - 4 * 3), (4 * 6 - 4 * 3) + 3 * 2
    saved = (3 * 8 + 8 * 6 + 6 * 2) - (3 * 4 + 4 * 3 + 3 * 2)
    expected = [(a + b) / 2 / saved for a, b in zip(first, last)]
    found = parts(rows, "macs_saved")
    assert [found["conv0"], found["conv1"]] == pytest.approx(expected)
    assert parts(rows, "bytes_saved") == pytest.approx(found)


def test_rows_say_what_was_not_pruned_and_why(graph):
    budget = Budget.share(count(graph), macs=0.6)
    plan = select(graph, budget, constraints=Constraints(ignored=("conv3",)))
    rows = {row["name"]: row for row in explain(graph, plan)}
    assert list(rows) == [group.name for group in graph.groups]
    assert rows["conv0"]["held"] == FIRST
    assert rows["conv3"]["held"] == "left alone by 'conv3'"
    assert rows["conv5"]["frozen"].startswith("network output 0")
    assert rows["conv5"]["held"] == ""
    for row in rows.values():
        assert row["kept"] == len(plan.kept(graph.group(row["name"])))
        if row["kept"] == row["width"]:
            assert row["macs_saved"] == row["bytes_saved"] == 0
        else:
            assert row["frozen"] == row["held"] == ""
            assert row["macs_saved"] > 0


def test_what_an_earlier_row_pruned_is_not_said_to_be_held(graph):
    first = delete(graph, {"conv3": 0.5}, multiple=1, minimum=1)
    budget = Budget.share(count(graph), macs=0.6)
    later = select(graph, budget, constraints=Constraints(ignored=("conv3",)))
    both = Plan({**later.keep, **first.keep}, made_by=later.made_by)
    rows = {row["name"]: row for row in explain(graph, both)}
    assert both.made_by["held"]["conv3"] == "left alone by 'conv3'"
    assert rows["conv3"]["kept"] < rows["conv3"]["width"]
    assert rows["conv3"]["held"] == ""


def test_layers_are_those_that_make_the_channels():
    graph = trace(ready(residual()), SHAPE)
    rows = explain(graph, Plan({}))
    assert parts(rows, "layers") == {
        "conv0": ["conv0", "conv2"],
        "conv1": ["conv1"],
        "dense0": ["dense0"],
    }
    assert set(parts(rows, "macs_saved").values()) == {0.0}


def test_depthwise_layers_belong_to_the_channels_they_pass_on():
    for name, expected in (
        ("depthwise", {"conv0": ("conv0", "conv1")}),
        ("shuffle", {"conv1": ("conv1", "conv2")}),
        ("slices", {"conv0": ("conv0",), "conv0.2": ("conv0",)}),
    ):
        graph = graph_of(name)
        layers = {group.name: group.layers for group in graph.groups}
        assert expected.items() <= layers.items()


def test_rows_are_json_and_numbers_are_indices():
    graph = trace(ready(few_groups()), SHAPE)
    rows = explain(graph, Plan({"conv0": (0, 1, 2)}))
    assert json.loads(json.dumps(rows)) == rows
    assert (rows[0]["width"], rows[0]["kept"]) == (8, 3)  # 16 and 6 channels


def test_plan_without_notes_is_explained(graph):
    rows = explain(graph, Plan({"conv1": np.arange(40)}))
    assert parts(rows, "macs_saved")["conv1"] == 1
    assert not any(row["held"] for row in rows)


def test_plan_of_another_net_is_refused(graph):
    with pytest.raises(ValueError, match="group 'conv9' is not in the net"):
        explain(graph, Plan({"conv9": (0,)}))
    tiny = trace(ready(chain()), SHAPE)
    plan = select(graph, Budget.share(count(graph), macs=0.6))
    with pytest.raises(ValueError, match="group 'conv0' keeps channel 47"):
        explain(tiny, plan)


def test_effects_that_were_followed_are_told(graph):
    free = [group.name for group in graph.groups if not group.frozen]
    found = {name: 0.5 + i for i, name in enumerate(free)}
    budget = Budget.share(count(graph), macs=0.5)
    rows = explain(graph, select(graph, budget, selection=Greedy(found)))
    assert {n: e for n, e in parts(rows, "effect").items() if e is not None} == found
    plain = explain(graph, select(graph, budget))
    assert set(parts(plain, "effect").values()) == {None}
