from __future__ import annotations

import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from mxnet.gluon import nn

from gluon_compress import Budget, Plan, count, select, slim, trace
from gluon_compress.plan import Constraints
from nets import SHAPE, Wired, chain, conv, ready, unit, wide

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def graph():
    return trace(ready(wide()), SHAPE)


@pytest.fixture(scope="module")
def tiny():
    return trace(ready(chain()), SHAPE)


def smaller(graph, **constraints) -> Plan:
    """Return a plan for 0.6 of the MACs, at any width."""
    budget = Budget.share(count(graph), macs=0.6)
    return select(graph, budget, constraints=Constraints(multiple=1, **constraints))


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
    select(graph, limits, "random", seed=3).save(paths[0])
    Plan.load(paths[0]).save(paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()


CODE = """
import sys, warnings
warnings.simplefilter("ignore")
from nets import *
from gluon_compress import *
from gluon_compress.plan import Constraints
several = [ready(NETS[name]()) for name in sys.argv[2:]]
graph = trace(ready(residual()), SHAPE)
budget = Budget.share(count(graph), params=0.6)
for criterion in ("l1", "random"):
    for selection in ("uniform", "global", "greedy"):
        how = {"seed": 4, "selection": selection}
        how["constraints"] = Constraints(multiple=1, ends=True)
        plan = select(graph, budget, criterion, **how)
        plan.save(f"{sys.argv[1]}/{criterion}_{selection}.json")
groups = trace(ready(projection()), SHAPE).groups
with open(f"{sys.argv[1]}/groups.txt", "w") as file:
    file.write(repr(groups))
"""


def test_plans_and_groups_are_the_same_bytes_in_a_new_process(tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    program = tmp_path / "plans.py"
    program.write_text(CODE, encoding="utf-8")
    # Here, other nets have been built before.
    monkeypatch.setattr("sys.argv", ["plans.py", str(tmp_path / "here"), "concat"])
    with warnings.catch_warnings():
        runpy.run_path(str(program))
    subprocess.run(
        [sys.executable, str(program), str(tmp_path / "there")],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        check=True,
    )
    here, there = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("here", "there")
    )
    assert here == there
    assert len(here) == 7


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
    plan = smaller(tiny)
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
    plan = smaller(tiny)
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
    first = smaller(graph, ends=True)
    small = slim(net, first, shape=SHAPE)
    between = trace(small, SHAPE)
    later = smaller(between, ends=True)
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
