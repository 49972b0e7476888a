from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gluon_compress import Budget, Plan, count, select, trace
from gluon_compress.plan import Constraints, PruningProblem
from gluon_compress.plan.constraints import FIRST
from nets import SHAPE, chain, ready, wide


@pytest.fixture(scope="module")
def graph():
    return trace(ready(wide()), SHAPE)


@pytest.fixture(scope="module")
def tiny():
    return trace(ready(chain()), SHAPE)


# The budget.


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


def test_budget_that_cannot_be_met_says_what_can(graph):
    free = [group.name for group in graph.groups if not group.frozen]
    least = count(graph, Plan(dict.fromkeys(free, (0,)))).macs
    message = (
        f"budget of 1,000 macs cannot be met: .* reached is {least:,}; at their "
        "minimum: conv0, conv1, conv3, conv4; frozen as network output 0 .*: conv5"
    )
    with pytest.raises(ValueError, match=message) as raised:
        select(graph, Budget(macs=1000), constraints=Constraints(ends=True))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": "best"}, "selection 'best' is unknown; allowed: uniform"),
        ({"selection": "sensitivity"}, "'sensitivity' needs data.*prune.sensitivity"),
        ({"criterion": "best"}, "criterion 'best' is unknown; allowed: l1"),
        ({"criterion": "taylor"}, r"'taylor' needs data: .*prune.taylor"),
    ],
)
def test_wrong_name_is_refused(graph, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        select(graph, Budget(macs=1e9), **options)
    assert "\n" not in str(raised.value)


# A policy of the user's own.


def smallest(problem):
    return problem.smallest


class Recorded:
    """A policy with a name and notes."""

    name, notes = "recorded", {"episodes": 3}

    def __call__(self, problem) -> list[int]:
        return problem.smallest.tolist()


def test_callable_chooses_the_levels(graph):
    budget = Budget.share(count(graph), macs=0.5)
    plan = select(graph, budget, selection=smallest)
    assert plan.made_by["selection"] == "smallest"
    widths = {g.name: len(plan.kept(g)) for g in graph.groups}
    # The least multiple of 16, or all; conv0 and conv5 are protected and frozen.
    assert widths == {"conv0": 48, "conv1": 16, "conv3": 16, "conv4": 16, "conv5": 5}


def test_name_and_notes_of_a_policy_are_recorded(graph):
    budget = Budget.share(count(graph), macs=0.5)
    plan = select(graph, budget, selection=Recorded())
    assert plan.made_by["selection"] == "recorded"
    assert plan.made_by["episodes"] == 3
    assert plan.keep == select(graph, budget, selection=smallest).keep


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (lambda problem: [0], r"returned int64 of shape \(1,\); allowed: .*\(4,\)"),
        (lambda problem: problem.smallest + 0.5, "returned float64"),
        (lambda problem: problem.smallest - 1, "level -1 for group 'conv0'; .* 0 to 0"),
        (lambda problem: problem.largest + [0, 1, 0, 0], "for group 'conv1'; allowed"),
        (lambda problem: problem.largest, "2 times the budget's macs"),
        (lambda problem: None, "returned object"),
    ],
)
def test_levels_that_cannot_be_are_refused(graph, levels, message):
    budget = Budget.share(count(graph), macs=0.5)
    with pytest.raises(ValueError, match=message) as raised:
        select(graph, budget, selection=levels)
    assert "\n" not in str(raised.value)


# The problem.


def test_problem_states_what_each_group_may_keep(graph):
    budget = Budget.share(count(graph), macs=0.5)
    problem = PruningProblem.build(graph, budget)
    assert [group.name for group in problem.groups] == [
        "conv0",
        "conv1",
        "conv3",
        "conv4",
    ]
    assert problem.protected == {"conv0": FIRST}
    assert problem.widths == [
        [48],
        [16, 32, 48, 64, 80],
        [16, 24],
        [16, 32, 48, 64],
    ]
    assert problem.largest.tolist() == [0, 4, 1, 3]
    assert problem.levels_below([100, 50, 8, 48]).tolist() == [0, 2, 0, 2]
    for importance in problem.importance:
        assert (np.diff(importance) <= 0).all()


def test_load_is_the_largest_cost_over_its_limit(graph):
    total = count(graph)
    problem = PruningProblem.build(graph, Budget.share(total, macs=0.5, bytes=0.8))
    assert problem.load(problem.largest)[0] == pytest.approx(2)
    assert not problem.fits(problem.largest)
    levels = np.array([problem.smallest, problem.largest])
    assert problem.loads(levels).shape == (2, 2)
    plan = problem.plan(problem.smallest)
    shares = [count(graph, plan).macs / total.macs / 0.5]
    shares.append(count(graph, plan).bytes / total.bytes / 0.8)
    assert problem.loads(problem.smallest)[0] == pytest.approx(shares)


def test_levels_become_a_plan_of_the_best_channels(graph):
    problem = PruningProblem.build(graph, Budget.share(count(graph), macs=0.5), "l2")
    plan = problem.plan(problem.largest, {"by": "hand"})
    assert plan.keep == Plan.everything(graph).keep
    assert plan.made_by["by"] == "hand"
    plan.check(graph)
    plan = problem.plan(problem.smallest)
    for group, channels, widths in zip(
        problem.groups, problem.channels, problem.widths
    ):
        assert set(plan.kept(group)) == set(channels[: widths[0]])


# What is recorded.


def test_plan_says_how_it_was_made(tmp_path, graph):
    budget = Budget(macs=int(0.5 * count(graph).macs))
    select(graph, budget, "l2", seed=7).save(tmp_path / "p")
    stored = json.loads((tmp_path / "p").read_text(encoding="utf-8"))
    expected = {
        "criterion": "l2",
        "selection": "greedy",
        "budget": {"macs": budget.macs},
        "multiple": 16,
        "seed": 7,
        "commit": "",
        "held": {"conv0": FIRST},
        "widths": {"conv0": 48, "conv1": 80, "conv3": 24, "conv4": 64, "conv5": 5},
    }
    assert stored["made_by"] == expected
    assert list(stored["made_by"]) == list(expected)  # plans rebuild byte for byte
