"""Policies that try plans out: AMC, LeGR and random search."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gluon_compress import Budget, count, select, trace
from gluon_compress.plan import (
    AMC,
    Constraints,
    Global,
    LeGR,
    RandomSearch,
)
from gluon_compress.plan.policies import SEARCHES
from gluon_compress.plan.policies.amc import Environment
from gluon_compress.plan.policies.ddpg import DDPGSettings
from gluon_compress.plan.policies.wall import filled, walled
from nets import NETS, SHAPE, conv, ready, wide
from searches import problem_of, score_of

SMALL = {"agent": DDPGSettings(hidden=16, batch=16)}
MAKE = {
    "amc": lambda score, **how: AMC(score, **{"warmup": 10, **SMALL, **how}),
    "legr": lambda score, **how: LeGR(score, **{"population": 8, "samples": 4, **how}),
    "random_search": RandomSearch,
}


class Counted:
    def __init__(self, score=score_of, stop_after=None):
        self.score, self.calls, self.stop_after = score, 0, stop_after

    def __call__(self, plan) -> float:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        return self.score(plan)


def test_every_search_is_known_by_name():
    assert set(MAKE) == set(SEARCHES)


@pytest.mark.parametrize("name", ["chain", "residual", "concat", "shuffle", "shared"])
def test_the_action_wall_meets_every_budget(name):
    random = np.random.RandomState(0)
    for share in (0.4, 0.7, 0.95):
        try:
            problem = problem_of(NETS[name], share)
        except ValueError:  # the smallest net is larger
            continue
        for _ in range(20):
            assert problem.fits(walled(problem, random.rand(len(problem.groups))))
        # Nothing stands in the way of what is asked for, if that is within the budget.
        asked = problem.smallest
        shares = [row[0] / row[-1] for row in problem.widths]
        assert (walled(problem, shares) == asked).all()


def test_the_wall_leaves_room_for_later_groups_only_as_far_as_needed():
    problem = problem_of(share=0.6)
    levels = walled(problem, [1.0] * len(problem.groups))
    assert problem.fits(levels)
    for k in np.flatnonzero(levels < problem.largest):
        low = levels.copy()
        low[k + 1 :] = 0
        low[k] += 1
        assert not problem.fits(low)


@pytest.mark.parametrize("name", ["wide", "residual", "concat"])
def test_filled_levels_are_larger_and_use_the_budget(name):
    net = wide if name == "wide" else NETS[name]
    problem, random = problem_of(net, share=0.7), np.random.RandomState(0)
    for _ in range(10):
        levels = walled(problem, random.rand(len(problem.groups)))
        more = filled(problem, levels)
        assert (more >= levels).all()
        assert problem.fits(more)
        for k in np.flatnonzero(more < problem.largest):
            raised = more.copy()
            raised[k] += 1
            assert not problem.fits(raised)


@pytest.mark.parametrize("name", ["amc", "random_search"])
def test_random_plans_use_the_budget_where_only_accuracy_counts(name):
    def mean_load(reward):
        rows = []
        how = {"reward": reward, "progress": rows.append, "stop_early": False}
        MAKE[name](score_of, episodes=10, **how)(problem_of())
        return np.mean([row.loads["macs"] for row in rows])

    assert mean_load("accuracy") > 0.95
    assert mean_load("accuracy_flops") < 0.9


def test_an_episode_followed_has_the_states_that_led_to_it():
    problem = problem_of(share=0.5)
    environment = Environment(problem, least=0.2)
    states = []
    for action in np.linspace(0.1, 0.9, len(environment.groups)):
        states.append(environment.state())
        environment.step(action)
    levels = environment.levels
    followed, actions = environment.followed(levels)
    np.testing.assert_array_equal(followed, states)
    assert actions[:-1] == [state[-1] for state in states[1:]]


def test_states_follow_what_is_saved_and_what_can_be():
    problem = problem_of(share=0.5)
    environment = Environment(problem, least=0.2)
    states = []
    for _ in environment.groups:
        states.append(environment.state())
        environment.step(0.5)
    states = np.array(states)
    assert states.shape == (len(environment.groups), 11)
    assert ((states >= 0) & (states <= 1)).all()
    saved, rest, action = states[:, -3:].T
    assert saved[0] == 0
    assert action[0] == 1
    assert (np.diff(saved) >= 0).all()
    assert (np.diff(rest) <= 0).all()


@pytest.mark.parametrize("name", MAKE)
def test_a_search_returns_its_best_plan_within_the_budget(name):
    problem = problem_of()
    search = MAKE[name](Counted(), episodes=30, stop_early=False)
    tried = []
    search.progress = tried.append
    levels = search(problem)
    assert search.score.calls == 31  # with the reference
    assert problem.fits(levels)
    best = max(tried, key=lambda episode: episode.reward)
    assert tuple(problem.widths_at(levels)) == best.widths
    assert all(episode.loads["macs"] <= 1 for episode in tried)
    notes = search.notes["search"]
    assert notes["tried"] == 30
    assert notes["score"] == best.score == score_of(problem.plan(levels))
    assert notes["wins"] == (best.reward > best.reference)


@pytest.mark.parametrize("name", MAKE)
def test_the_seed_decides_the_course(name):
    def course(seed):
        rows = []
        MAKE[name](score_of, episodes=25, seed=seed, progress=rows.append)(problem_of())
        return [row.widths for row in rows]

    assert course(0) == course(0)
    assert course(0) != course(1)


@pytest.mark.parametrize("stopped", [0, 7, 24])
@pytest.mark.parametrize("name", MAKE)
def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(
    tmp_path, name, stopped
):
    def search(log, stop_after=None):
        score = Counted(stop_after=stop_after)
        return MAKE[name](score, episodes=25, log=log, stop_early=False)

    whole = search(tmp_path / "whole.jsonl")
    expected = whole(problem_of())
    log = tmp_path / "killed.jsonl"
    with pytest.raises(KeyboardInterrupt):
        search(log, stop_after=stopped)(problem_of())
    with open(log, "a") as file:
        file.write('{"episode": 3, "wid')  # a line that was being written

    resumed = search(log)

    assert (resumed(problem_of()) == expected).all()
    assert resumed.score.calls == 26 - stopped
    assert log.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert resumed.notes == whole.notes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "settings"),
        ({"episodes": 20}, "settings"),
        ({"share": 0.6}, "budget"),
        ({"net": NETS["chain"]}, "groups"),
        ({"criterion": "l2"}, "problem"),
    ],
)
def test_the_log_of_another_search_is_refused(tmp_path, change, words):
    log = tmp_path / "log.jsonl"
    RandomSearch(score_of, episodes=3, log=log)(problem_of())
    before = log.read_bytes()
    how = {k: change.pop(k) for k in ("seed", "episodes") if k in change}
    with pytest.raises(ValueError, match=rf"log\.jsonl.*{words}"):
        RandomSearch(score_of, log=log, **{"episodes": 3, **how})(problem_of(**change))
    assert log.read_bytes() == before


@pytest.mark.parametrize("text", ["[]\n", "{}\n{}\n", "no json\n"])
def test_a_file_that_is_no_log_is_refused(tmp_path, text):
    log = tmp_path / "log.jsonl"
    log.write_text(text)
    with pytest.raises(ValueError, match=r"log\.jsonl"):
        RandomSearch(score_of, episodes=3, log=log)(problem_of())


def test_nothing_is_written_through_a_link(tmp_path):
    target, log = tmp_path / "target", tmp_path / "log.jsonl"
    log.symlink_to(target)
    with pytest.raises(OSError, match=r"log\.jsonl"):
        RandomSearch(score_of, episodes=3, log=log)(problem_of())
    assert not target.exists()


@pytest.mark.parametrize("name", MAKE)
def test_widths_of_a_search_are_multiples_or_whole(name):
    problem = problem_of(constraints=Constraints(multiple=8, ends=True))
    rows: list = []
    MAKE[name](score_of, episodes=5, progress=rows.append)(problem)
    full = [widths[-1] for widths in problem.widths]
    for row in rows:
        assert all(n % 8 == 0 or n == most for n, most in zip(row.widths, full))


@pytest.mark.parametrize("name", MAKE)
def test_a_net_that_cannot_lose_channels_has_a_plan(name):
    graph = trace(ready(conv(3), SHAPE), SHAPE)
    budget = Budget.share(count(graph), macs=1)
    search = MAKE[name](lambda plan: 0.5, episodes=3)
    plan = select(graph, budget, selection=search)
    assert plan.keep == {"conv0": (0, 1, 2)}


def test_legr_begins_with_the_plain_global_ranking():
    problem, rows = problem_of(), []
    LeGR(score_of, episodes=2, progress=rows.append)(problem)
    assert rows[0].widths == tuple(problem.widths_at(Global()(problem)))


@pytest.mark.parametrize("name", ["amc", "legr"])
def test_a_search_that_learns_comes_to_better_plans(name):
    rows: list = []
    MAKE[name](score_of, episodes=150, stop_early=False, progress=rows.append, seed=3)(
        problem_of(share=0.4)
    )
    rewards = [row.reward for row in rows]
    assert np.mean(rewards[-20:]) > np.mean(rewards[:10]) + 0.1


def test_a_search_that_cannot_win_ends_and_says_so():
    problem = problem_of()
    random = np.random.RandomState(0)
    scores = iter([0.9, *(0.3 + 0.01 * random.randn(1000))])
    search = RandomSearch(lambda plan: next(scores), episodes=400)
    search(problem)
    notes = search.notes["search"]
    assert notes["tried"] == 50
    assert "reference" in notes["ended_early"]
    assert notes["wins"] is False
    assert notes["reference_score"] == 0.9


def test_a_search_that_may_still_win_goes_on():
    problem = problem_of()
    random = np.random.RandomState(0)
    rising = np.linspace(0.3, 0.95, 400) + 0.01 * random.randn(400)
    scores = iter([0.9, *rising])
    search = RandomSearch(lambda plan: next(scores), episodes=400)
    search(problem)
    assert search.notes["search"]["tried"] == 400
    assert search.notes["search"]["wins"] is True


def test_a_search_that_repeats_itself_ends():
    problem = problem_of()
    agent = DDPGSettings(hidden=16, batch=16, actor_rate=1e-12)
    search = AMC(score_of, episodes=400, warmup=2, noise=1e-9, agent=agent)
    search.reference = lambda problem: problem.smallest
    search(problem)
    assert search.notes["search"]["tried"] < 100
    assert "same widths" in search.notes["search"]["ended_early"]


def test_a_plan_records_its_search():
    graph = trace(ready(wide(), SHAPE), SHAPE)
    budget = Budget.share(count(graph), macs=0.6)
    plan = select(
        graph,
        budget,
        selection=RandomSearch(score_of, episodes=4),
        constraints=Constraints(multiple=1),
    )
    assert plan.made_by["selection"] == "random_search"
    assert plan.made_by["search"]["tried"] == 4
    json.dumps(plan.made_by)


def test_the_reward_of_the_paper_counts_flops():
    problem, rows = problem_of(), []
    RandomSearch(score_of, episodes=3, reward="accuracy_flops", progress=rows.append)(
        problem
    )
    for row in rows:
        macs = problem.cost_model.costs(np.array([row.widths]))["macs"][0]
        assert row.reward == pytest.approx(-(1 - row.score) * np.log(2 * macs))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomSearch(score_of, episodes=0), "episodes is 0"),
        (lambda: RandomSearch(score_of, reward="speed"), "reward 'speed'"),
        (lambda: AMC(score_of, warmup=0), "warmup is 0"),
        (lambda: AMC(score_of, noise=0), "noise is 0"),
        (lambda: AMC(score_of, least=1), "least is 1"),
        (lambda: LeGR(score_of, samples=65), "samples is 65"),
        (lambda: LeGR(score_of, mutated=0), "mutated is 0"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_an_agent_that_diverges_is_named():
    agent = DDPGSettings(hidden=16, batch=16, actor_rate=1e300, critic_rate=1e300)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="not finite"):
        AMC(score_of, episodes=60, warmup=3, agent=agent)(problem_of())


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="reference is nan"):
        RandomSearch(lambda plan: float("nan"), episodes=3)(problem_of())


def test_a_name_alone_is_refused_with_what_it_needs():
    graph = trace(ready(wide(), SHAPE), SHAPE)
    with pytest.raises(ValueError, match="PlanScore"):
        select(graph, Budget.share(count(graph), macs=0.6), selection="amc")


# What is told in advance, to scores that several workers compute.


class Foreseeing(Counted):
    """A score that notes before which call each plan was announced."""

    def __init__(self, **how) -> None:
        super().__init__(**how)
        self.announced: dict = {}
        self.asked: list = []

    def expect(self, plans) -> None:
        for plan in plans:
            self.announced.setdefault(json.dumps(plan.keep), self.calls)

    def __call__(self, plan) -> float:
        self.asked.append(json.dumps(plan.keep))
        return super().__call__(plan)


@pytest.mark.parametrize(
    ("name", "foreseen"), [("amc", 10), ("legr", 25), ("random_search", 25)]
)
def test_what_no_reward_decides_is_announced(name, foreseen):
    courses = []
    for score in (Counted(), Foreseeing()):
        rows: list = []
        MAKE[name](score, episodes=25, progress=rows.append)(problem_of())
        courses.append(rows)
    assert courses[0] == courses[1]
    assert set(score.asked[1 : 1 + foreseen]) == set(score.announced)
    early = [
        number
        for number, plan in enumerate(score.asked)
        if score.announced.get(plan, number) < number
    ]
    # Of an evolution, what has an earlier episode among its rivals has to wait for it.
    assert len(early) > (12 if name == "legr" else foreseen - 2)


def test_what_the_log_knows_is_not_announced(tmp_path):
    file = tmp_path / "search.jsonl"
    with pytest.raises(KeyboardInterrupt):
        RandomSearch(Counted(stop_after=6), episodes=9, log=file)(problem_of())
    score = Foreseeing()
    RandomSearch(score, episodes=9, log=file)(problem_of())
    assert list(score.announced) == list(dict.fromkeys(score.asked))
    assert score.calls == 9 + 1 - 6
