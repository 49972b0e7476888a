from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from gluon_compress import Budget, Plan, count, select, slim, trace
from gluon_compress.plan import CRITERIA
from gluon_compress.plan.cost_model import LIMITS, Meter
from gluon_compress.plan.importance import scores
from nets import (
    NETS,
    SHAPE,
    Wired,
    chain,
    conv,
    few_groups,
    plans,
    ready,
    residual,
    unit,
    wide,
)

TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def graph():
    return trace(ready(wide()), SHAPE)


@pytest.fixture(scope="module")
def tiny():
    return trace(ready(chain()), SHAPE)


# The file.

EXAMPLE = Plan({"conv0": (0, 3), "conv1": (5,)}, "a nét", {"seed": 1})


def test_file_is_as_documented(tmp_path):
    EXAMPLE.save(tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text(encoding="utf-8")
    assert text == (
        '{\n  "format": 1,\n  "net": "a nét",\n  "made_by": {"seed": 1},\n'
        '  "keep": {\n    "conv0": [0, 3],\n    "conv1": [5]\n  }\n}\n'
    )


@pytest.mark.parametrize("plan", [EXAMPLE, Plan({})])
def test_file_holds_the_plan(tmp_path, plan):
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_loaded_plan_is_stored_as_the_same_bytes(tmp_path, graph):
    paths = tmp_path / "one.json", tmp_path / "two.json"
    limits = Budget.share(count(graph), macs=0.5, bytes=0.7)
    select(graph, limits, "random", seed=3, net="n", commit="c").save(paths[0])
    Plan.load(paths[0]).save(paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()


CODE = """
import sys, warnings
warnings.simplefilter("ignore")
from nets import *
from gluon_compress import *
several = [ready(NETS[name]()) for name in sys.argv[2:]]
graph = trace(ready(residual()), SHAPE)
budget = Budget.share(count(graph), params=0.6)
for criterion in ("l1", "random"):
    for selection in ("uniform", "global", "greedy"):
        how = {"multiple": 1, "seed": 4, "selection": selection, "ends": True}
        plan = select(graph, budget, criterion, **how)
        plan.save(f"{sys.argv[1]}/{criterion}_{selection}.json")
"""


def test_plan_is_the_same_bytes_in_a_new_process(tmp_path):
    found = []
    for before in ((), ("concat", "chain")):
        folder = tmp_path / str(len(before))
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", CODE, str(folder), *before],
            env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
            check=True,
        )
        found.append({p.name: p.read_bytes() for p in folder.iterdir()})
    assert found[0] == found[1]
    assert len(found[0]) == 6


GOOD = '{"format": 1, "net": "", "made_by": {}, "keep": {"conv0": [0, 1]}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD[:-9], r"plan.json: not JSON at line 1, column \d+"),
        ("[]", r"plan.json: a plan is an object"),
        (GOOD.replace("1,", "2,", 1), "plan.json: format is 2; this version reads 1"),
        (GOOD.replace("1,", "true,", 1), "plan.json: format is True"),
        (GOOD.replace("net", "nets"), "nets: no such key; allowed: format, net"),
        (GOOD.replace('"net": "", ', ""), "plan.json: net: this key is missing"),
        (GOOD.replace('""', "3"), "plan.json: net is 3; allowed: a text"),
        (GOOD.replace("{}", "[]"), "made_by is .*; allowed: an object"),
        (GOOD.replace("[0, 1]", "2"), "group 'conv0' keeps 2; allowed: a list"),
        (GOOD.replace("[0, 1]", "[]"), "group 'conv0' keeps nothing; allowed: one"),
        (GOOD.replace("[0, 1]", "[1, 1]"), "keeps 1 after 1; allowed: ascending"),
        (GOOD.replace("[0, 1]", "[2, 1]"), "keeps 1 after 2; allowed: ascending"),
        (GOOD.replace("[0, 1]", "[-1, 1]"), "keeps -1; allowed: whole numbers from 0"),
        (GOOD.replace("[0, 1]", "[0.5]"), "keeps 0.5; allowed: whole numbers"),
        (GOOD.replace("[0, 1]", "[true]"), "keeps True; allowed: whole numbers"),
    ],
)
def test_broken_file_is_named_with_what_is_allowed(tmp_path, text, message):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        Plan.load(tmp_path / "plan.json")
    assert str(tmp_path / "plan.json") in str(raised.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="plan.json: there is no such file"):
        Plan.load(tmp_path / "plan.json")


def test_plan_that_cannot_be_stored_leaves_the_file(tmp_path):
    EXAMPLE.save(tmp_path / "plan.json")
    with pytest.raises(TypeError):
        Plan({}, made_by={"graph": object()}).save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == EXAMPLE


# Whether it fits.


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"conv9": (0,)}, "'conv9' is not in the net; allowed: conv0, conv1, dense0"),
        ({"conv0": (7, 8)}, "group 'conv0' keeps channel 8, its width is 8"),
        ({"dense0": (1,)}, "keeps 1 of 5 channels, but it is frozen: network output"),
    ],
)
def test_plan_that_does_not_fit_is_refused(tiny, keep, message):
    with pytest.raises(ValueError, match=message):
        Plan(keep).check(tiny)


def test_plan_of_another_net_is_known_by_the_widths(tiny):
    # The same names, and every index exists in both nets.
    layers = {"a": unit(8), "b": unit(12), "out": nn.Dense(5)}
    net = Wired(lambda F, m, x: m["out"](m["b"](m["a"](x))), **layers)
    wider = trace(ready(net), SHAPE)
    plan = select(tiny, Budget.share(count(tiny), macs=0.6), multiple=1)
    plan.check(tiny)
    message = "made for another net: group 'conv1' has width 12, there 6"
    with pytest.raises(ValueError, match=message):
        plan.check(wider)


@pytest.mark.parametrize("notes", [{}, {"widths": None}, {"widths": [8, 6, 5]}])
def test_plan_without_usable_widths_is_judged_by_its_indices(tiny, notes):
    Plan({"conv0": (0, 1)}, made_by=notes).check(tiny)
    with pytest.raises(ValueError, match="keeps channel 8, its width is 8"):
        Plan({"conv0": (8,)}, made_by=notes).check(tiny)


def test_plan_of_a_shorter_net_is_refused(tiny):
    layers = {"a": unit(8), "b": unit(6), "c": unit(6), "out": nn.Dense(5)}
    net = Wired(lambda F, m, x: m["out"](m["c"](m["b"](m["a"](x)))), **layers)
    plan = select(tiny, Budget.share(count(tiny), macs=0.6), multiple=1)
    message = "another net: group 'conv2' has width 6, there none"
    with pytest.raises(ValueError, match=message):
        slim(ready(net), plan, shape=SHAPE)


def test_plan_may_name_frozen_groups_and_leave_groups_out(tiny):
    for plan in (Plan({"dense0": range(5)}), Plan({}), Plan.everything(tiny)):
        plan.check(tiny)
        assert count(tiny, plan) == count(tiny)


def test_plans_compose():
    first = Plan({"a": (1, 3, 5), "b": (0, 2)}, "net")
    later = Plan({"a": (0, 2), "c": (4,)}, made_by={"seed": 2})
    expected = {"a": (1, 5), "b": (0, 2), "c": (4,)}
    assert first.compose(later) == Plan(expected, "net", {"seed": 2})


def test_composed_plan_is_for_the_first_net():
    net = ready(chain())
    graph = trace(net, SHAPE)
    how = {"multiple": 1, "ends": True}
    first = select(graph, Budget.share(count(graph), macs=0.7), **how)
    small = slim(net, first, shape=SHAPE)
    between = trace(small, SHAPE)
    later = select(between, Budget.share(count(between), macs=0.7), **how)
    both = first.compose(later, between)
    both.check(graph)
    assert both.made_by["widths"] == first.made_by["widths"]
    assert count(graph, both).rows == count(between, later).rows


def test_plan_for_another_net_does_not_compose():
    message = "group 'a' keeps channel 3 of the 3 that the plan before leaves"
    with pytest.raises(ValueError, match=message):
        Plan({"a": (1, 3, 5)}).compose(Plan({"a": (3,)}))


def test_group_that_fell_apart_does_not_compose():
    # Of the halves of a shuffle one channel each is left: they need no longer go
    # together.
    def wire(F, m, x):
        x = F.reshape(m["stem"](x), (0, -4, 2, -1, -2)).swapaxes(1, 2)
        x = F.sum(F.reshape(x, (0, -3, -2)).reshape((0, -4, -1, 2, -2)), axis=2)
        return m["out"](x)

    net = ready(Wired(wire, stem=conv(8), out=conv(2)))
    first = Plan({"conv0": (1,)})
    found = trace(slim(net, first, shape=SHAPE), SHAPE)
    with pytest.raises(ValueError, match="'conv0' has width 2 .* leaves 1: the plans"):
        first.compose(Plan({}), found)


# What a channel is worth.


def two_layers():
    net = Wired(lambda F, m, x: m["b"](m["a"](x)), a=conv(4), b=conv(2))
    return trace(ready(net), SHAPE)


def named(graph, shape: tuple) -> list[str]:
    """Return the parameters of a shape."""
    return [name for name in graph.params if graph.params[name].shape == shape]


def normalised(rows) -> np.ndarray:
    rows = np.asarray(rows, float)
    return rows / np.sqrt((rows**2).mean())


@pytest.mark.parametrize(
    ("criterion", "measure"),
    [
        ("l1", lambda rows: np.abs(rows).mean(1)),
        ("l2", lambda rows: np.sqrt((rows**2).mean(1))),
    ],
)
def test_worth_of_filters_is_their_normalised_mean(criterion, measure):
    graph = two_layers()
    (weight,) = named(graph, (4, 3, 3, 3))
    rows = graph.params[weight].asnumpy().astype(float).reshape(4, -1)
    expected = normalised(measure(rows))
    np.testing.assert_allclose(scores(graph, criterion)["conv0"], expected)


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_worth_of_constant_filters_is_their_share(criterion):
    graph = two_layers()
    (weight,) = named(graph, (4, 3, 3, 3))
    graph.params[weight][:] = np.reshape([1, -2, 3, -4], (4, 1, 1, 1))
    expected = np.array([1, 2, 3, 4]) / math.sqrt((1 + 4 + 9 + 16) / 4)
    np.testing.assert_allclose(scores(graph, criterion)["conv0"], expected)


def test_worth_of_a_group_is_the_mean_over_its_producers():
    graph = trace(ready(residual()), SHAPE)
    weights = named(graph, (8, 3, 3, 3)) + named(graph, (8, 6, 3, 3))
    ramps = np.arange(1, 9), np.arange(8, 0, -1) ** 2
    for name, ramp in zip(weights, ramps):
        graph.params[name][:] = np.reshape(ramp, (8, 1, 1, 1))
    expected = np.mean([normalised(ramp) for ramp in ramps], axis=0)
    np.testing.assert_allclose(scores(graph, "l1")["conv0"], expected)


def test_bn_scale_is_the_mean_absolute_scale():
    graph = trace(ready(residual()), SHAPE)
    gammas = [n for n in graph.params if n.endswith("gamma")]
    wide = [n for n in gammas if graph.params[n].shape == (8,)]
    graph.params[wide[0]][:] = np.arange(8)
    graph.params[wide[1]][:] = -2 * np.arange(8)
    found = scores(graph, "bn_scale")
    np.testing.assert_allclose(found["conv0"], 1.5 * np.arange(8))
    (narrow,) = set(gammas) - set(wide)
    expected = np.abs(graph.params[narrow].asnumpy())
    np.testing.assert_allclose(found["conv1"], expected, rtol=1e-6)


def test_bn_l1_is_the_product(graph):
    both = scores(graph, "bn_scale"), scores(graph, "l1")
    for name, found in scores(graph, "bn_l1").items():
        np.testing.assert_allclose(found, both[0][name] * both[1][name])


def test_median_is_the_mean_distance_from_the_other_filters():
    graph = two_layers()
    (weight,) = named(graph, (4, 3, 3, 3))
    rows = np.zeros((4, 27))
    # On a line: at 0, 1, 2 and 6.
    rows[:, 5] = 0, 1, 2, 6
    graph.params[weight][:] = rows.reshape(4, 3, 3, 3)
    expected = normalised([0 + 1 + 2 + 6, 1 + 0 + 1 + 5, 2 + 1 + 0 + 4, 6 + 5 + 4])
    np.testing.assert_allclose(scores(graph, "median")["conv0"], expected)


def test_groups_without_a_scale_have_their_weights_worth():
    net = Wired(
        lambda F, m, x: m["c"](m["b"](m["a"](x))), a=unit(4), b=conv(3), c=conv(2)
    )
    graph = trace(ready(net), SHAPE)
    found = scores(graph, "bn_scale")
    expected = found["conv0"].mean() * scores(graph, "l2")["conv1"]
    np.testing.assert_allclose(found["conv1"], expected)


def test_index_of_several_channels_has_their_mean():
    graph = trace(ready(few_groups()), SHAPE)
    gamma = next(n for n in graph.params if graph.params[n].shape == (24,))
    graph.params[gamma][:] = np.arange(24)
    expected = (np.arange(12) + np.arange(12, 24)) / 2
    np.testing.assert_allclose(scores(graph, "bn_scale")["conv1"], expected)


def test_random_worth_is_by_seed_and_name(graph, tiny):
    first, again, other = (scores(graph, "random", seed) for seed in (1, 1, 2))
    assert all(
        (first[n] == again[n]).all() and (first[n] != other[n]).any() for n in first
    )
    # The same name and width in another net: the same numbers.
    assert (scores(tiny, "random", 1)["conv0"] == first["conv0"][:8]).all()


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", NETS)
def test_every_free_index_of_every_net_has_a_worth(name, criterion):
    graph = trace(ready(NETS[name]()), SHAPE)
    found = scores(graph, criterion)
    free = {g.name: g.width for g in graph.groups if not g.frozen}
    assert {n: len(row) for n, row in found.items()} == free
    assert all(np.isfinite(row).all() and (row >= 0).all() for row in found.values())


def test_criterion_needs_values():
    message = r"criterion 'l1' needs values, parameter 'conv\d+_weight' has none"
    with pytest.raises(ValueError, match=message):
        scores(trace(chain(), SHAPE), "l1")
    assert scores(trace(chain(), SHAPE), "random")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("criterion", [*CRITERIA, {}])
def test_values_that_are_not_finite_are_named(criterion, value):
    net = ready(chain())
    weight = list(net.collect_params(".*conv.*weight").values())[1]
    name = weight.name
    array = weight.data().asnumpy()
    array[2, 3, 1, 0] = value
    weight.set_data(mx.nd.array(array))
    graph = trace(net, SHAPE)
    message = rf"parameter '{name}' holds {value} at \[2, 3, 1, 0\]; allowed: finite"
    with pytest.raises(ValueError, match=message) as raised:
        select(graph, Budget.share(count(graph), macs=0.5), criterion)
    assert "\n" not in str(raised.value)


def test_criterion_on_data_needs_data(graph):
    with pytest.raises(ValueError, match="criterion 'taylor' needs data: measure with"):
        scores(graph, "taylor")


def test_equal_worth_keeps_the_first_indices():
    net = ready(chain())
    for parameter in net.collect_params(".*weight").values():
        parameter.set_data(parameter.data() * 0 + 1)
    graph = trace(net, SHAPE)
    budget = Budget.share(count(graph), macs=0.4)
    plan = select(graph, budget, multiple=1, ends=True)
    for group in graph.groups:
        kept = plan.kept(group)
        assert kept == tuple(range(len(kept)))
    assert len(plan.keep["conv0"]) < 8


def test_unknown_criterion_names_the_known(graph):
    message = "criterion 'best' is unknown; allowed: l1, l2, bn_scale"
    with pytest.raises(ValueError, match=message):
        scores(graph, "best")


# What it costs.


@pytest.mark.parametrize("name", NETS)
def test_costs_agree(name):
    """Those that are computed for a plan, and those of the slim net."""
    net = ready(NETS[name]())
    graph = trace(net, SHAPE)
    meter = Meter(graph)
    for plan in plans(graph):
        predicted, found = (
            count(graph, plan),
            trace(slim(net, plan, shape=SHAPE), SHAPE),
        )
        assert predicted.rows == count(found).rows
        widths = [[len(plan.kept(group)) for group in meter.groups]]
        totals = meter.totals(np.array(widths))
        assert {n: totals[n][0] for n in LIMITS} == {
            n: getattr(predicted, n) for n in LIMITS
        }
