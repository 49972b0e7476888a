"""Masks decided in rounds while a net trains, and runs of it that are resumed."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from gluon_compress import (
    Budget,
    Plan,
    count,
    mask,
    models,
    select,
    slim,
    taylor,
    trace,
)
from gluon_compress.models.ssd import training
from gluon_compress.plan import Constraints
from gluon_compress.prune import SCHEDULES, Rounds, mask_in_rounds, plan_of, set_mask
from gluon_compress.train import BEST, Progress, Schedule, fit, load_best
from nets import NETS, batch, chain, difference, random_plan, ready
from nets import SHAPE as PICTURE
from runtimes import detector
from training import (
    QUIET,
    Batches,
    Stop,
    cross_entropy,
    outcome,
    same,
    stopped,
    values,
)

SHAPE = (1, 2, 4, 4)  # of Batches
RESUME = replace(QUIET, resume=True)


def conv_net(plan: Plan | None = None) -> gluon.HybridBlock:
    """Return a masked net with Dropout, always the same."""
    net = gluon.nn.HybridSequential()
    for width in (12, 10):
        net.add(gluon.nn.Conv2D(width, 3, padding=1), gluon.nn.BatchNorm())
        net.add(gluon.nn.Activation("relu"))
    net.add(gluon.nn.Dropout(0.4), gluon.nn.Dense(3))
    masked = mask(ready(net, SHAPE), plan, shape=SHAPE)
    masked.hybridize(static_alloc=True, static_shape=True)
    return masked


def target(net) -> Budget:
    return Budget.share(count(trace(net, SHAPE)), macs=0.4, params=0.5)


def decide(graph, budget, within) -> Plan:
    constraints = Constraints(multiple=1, ends=True, within=within)
    return select(graph, budget, "l1", constraints=constraints)


def schedule(epochs: int, **more) -> Schedule:
    how = {"learning_rate": 0.1, "warmup_epochs": 0.5, "weight_decay": 0.01, **more}
    return Schedule(epochs=epochs, **how)


def callback_of(net, rounds: Rounds, how=decide):
    return mask_in_rounds(net, target(net), how, rounds, shape=SHAPE)


def train(folder, rounds: Rounds, epochs: int = 6, **more):
    """Train a net in rounds; return it and what its masks kept, epoch by epoch."""
    net, seen = conv_net(), []
    callbacks = [
        callback_of(net, rounds, more.pop("decide", decide)),
        lambda *_: seen.append((plan_of(net).keep, leaks(net))),
    ]
    how = {"callbacks": callbacks, "options": QUIET, **more}
    loss = how.pop("step_loss", cross_entropy)
    fit(net, Batches(2), loss, schedule(epochs), folder, **how)
    return net, seen


def leaks(net) -> set:
    """Return the values of masked channels."""
    masks = [p.data().asnumpy() for p in net.collect_params(".*_mask").values()]
    return {round(float(v), 6) for m in masks for v in m if v != 1}


# --- when, and how far ------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounds", "epochs", "expected"),
    [
        (Rounds(), 5, [0]),
        (Rounds(count=3), 6, [0, 2, 4]),
        (Rounds(count=3), 7, [0, 2, 4]),
        (Rounds(count=4), 4, [0, 1, 2, 3]),
        (Rounds(count=2, epochs=4), 10, [0, 2]),
    ],
)
def test_rounds_begin_at_equal_distances(rounds, epochs, expected):
    assert rounds.starts(epochs) == expected


def test_curves_of_nncf_by_their_formulas():
    kept = 0.25  # a quarter of the cost is left
    exponential = Rounds(count=4, curve="exponential")
    limits = [kept + (1 - kept) * exponential.remaining(i, kept) for i in range(1, 5)]
    assert limits == pytest.approx([kept ** (i / 4) for i in range(1, 5)])
    biased = Rounds(count=16, curve="exponential_with_bias")
    assert biased.remaining(2, kept) == pytest.approx(1 / 4)
    ratios = np.diff([biased.remaining(i, kept) for i in range(1, 17)])
    assert ratios[1:] / ratios[:-1] == pytest.approx(ratios[1] / ratios[0])
    assert Rounds(count=4, curve="baseline").remaining(1, kept) == 0
    for curve in SCHEDULES:
        assert Rounds(count=3, curve=curve).remaining(3) == 0


def test_curves_end_at_the_target():
    for number, left in ((1, 0.75**3), (2, 0.5**3), (3, 0.25**3), (4, 0)):
        assert Rounds(count=4).remaining(number) == pytest.approx(left)
        linear = Rounds(count=4, curve="linear").remaining(number)
        assert linear == pytest.approx(1 - number / 4)


@pytest.mark.parametrize("curve", SCHEDULES)
def test_budgets_go_from_the_full_cost_to_the_target(tmp_path, curve):
    budgets = []

    def spy(graph, budget, within):
        budgets.append(budget)
        return decide(graph, budget, within)

    net, _ = train(tmp_path, Rounds(count=3, curve=curve), decide=spy)
    full, end = count(trace(net, SHAPE)), target(net)
    for number, budget in enumerate(budgets, 1):
        for name, limit in end.limits.items():
            cost = getattr(full, name)
            left = SCHEDULES[curve](number / 3, limit / cost)
            expected = limit + (cost - limit) * left
            assert getattr(budget, name) == pytest.approx(expected)
    assert budgets[2:] == [end]


def test_hard_rounds_mask_more_and_more(tmp_path):
    _, seen = train(tmp_path, Rounds(count=3, curve="linear"))
    kept = [keep for keep, _ in seen]
    assert kept[0] == kept[1] != kept[2] == kept[3] != kept[4] == kept[5]
    for before, after in zip(kept, kept[1:]):
        assert all(set(after[group]) <= set(before[group]) for group in after)
    assert set().union(*(leak for _, leak in seen)) == {0}


@pytest.mark.parametrize("soft", [False, True])
def test_the_last_plan_meets_the_budget_and_is_what_is_slimmed(tmp_path, soft):
    net, seen = train(tmp_path, Rounds(count=3, soft=soft))
    plan = plan_of(net)
    assert plan.keep == seen[-1][0]
    graph, limits = trace(net, SHAPE), target(net).limits
    assert all(getattr(count(graph, plan), n) <= v for n, v in limits.items())
    small = slim(net, plan, shape=SHAPE)
    assert difference(net(batch(SHAPE)), small(batch(SHAPE))) < 1e-5


def test_one_round_is_one_shot_pruning(tmp_path):
    plain = conv_net()
    set_mask(plain, decide(trace(plain, SHAPE), target(plain), None), shape=SHAPE)
    how = {"options": QUIET}
    fit(plain, Batches(2), cross_entropy, schedule(6), tmp_path / "a", **how)
    for number, soft in enumerate((False, True)):
        net, _ = train(tmp_path / str(number), Rounds(count=1, soft=soft))
        assert same(values(net), values(plain))


def test_rounds_go_on_within_what_was_masked_before():
    net = conv_net(Plan({"conv0": range(3, 12)}))
    seen = []

    def spy(graph, budget, within):
        seen.append(within.keep["conv0"])
        return decide(graph, budget, within)

    callback_of(net, Rounds(count=2), spy)(net, Progress(epochs=4))
    assert seen == [tuple(range(3, 12))]
    assert set(plan_of(net).keep["conv0"]) <= set(range(3, 12))


@pytest.mark.parametrize("name", NETS)
def test_masks_tell_their_plan(name):
    net = ready(NETS[name]())
    graph = trace(net, PICTURE)
    plan = random_plan(graph, 2)
    found = plan_of(mask(net, plan, shape=PICTURE))
    assert found.keep == plan.keep


# --- soft masks -------------------------------------------------------------------


def test_soft_masks_leak_less_and_less(tmp_path):
    _, seen = train(tmp_path, Rounds(count=3, soft=True))
    expected = [(2 / 3) ** 3, (1 / 3) ** 3, 0]
    for (_, found), leak in zip(seen, np.repeat(expected, 2)):
        assert found == {round(leak, 6)}


def test_channels_under_a_soft_mask_train_and_come_back(tmp_path):
    # Whoever was masked first is worth most from then on.
    first = {}

    def spy(graph, budget, within):
        assert within is None
        if not first:
            first.update(decide(graph, budget, None).keep)
            return Plan(first)
        worth = {
            g.name: 1.0 - np.isin(np.arange(g.width), first[g.name])
            for g in graph.groups
            if not g.frozen
        }
        constraints = Constraints(multiple=1, ends=True)
        return select(graph, budget, worth, constraints=constraints)

    _, seen = train(tmp_path, Rounds(count=3, soft=True), decide=spy)
    for group, kept in seen[0][0].items():
        assert set(seen[2][0][group]) - set(kept)


@pytest.mark.parametrize(("soft", "trains"), [(False, False), (True, True)])
def test_only_soft_masks_let_masked_channels_train(soft, trains):
    net = conv_net()
    callback_of(net, Rounds(count=4, soft=soft))(net, Progress(epochs=4))
    dead = [i for i in range(12) if i not in plan_of(net).keep["conv0"]]
    assert dead
    with autograd.record():
        loss, _ = cross_entropy(net, next(Batches().epoch(0)))
    loss.backward()
    gamma = next(p for p in net.collect_params(".*gamma").values())
    assert (gamma.grad().asnumpy()[dead] != 0).any() == trains


def test_a_round_changes_nothing_but_masks():
    net = conv_net()
    before = values(net)
    callback_of(net, Rounds(count=4, soft=True))(net, Progress(epochs=4))
    for name, old, new in zip(net.collect_params(), before, values(net)):
        assert np.array_equal(old, new) != name.endswith("_mask")


def test_the_leak_is_a_factor_of_scale_and_shift_in_both_passes():
    data, leak = next(Batches().epoch(0)), Rounds(count=2, soft=True).remaining(1)
    net = conv_net()
    callback_of(net, Rounds(count=2, soft=True))(net, Progress(epochs=2))
    plain, factors = conv_net(), []
    for group, width in (("conv0", 12), ("conv1", 10)):
        factor = np.full(width, leak)
        factor[list(plan_of(net).keep[group])] = 1
        factors += [factor, factor]
    affine = ".*(gamma|beta)"
    own, other = (list(n.collect_params(affine).values()) for n in (net, plain))
    for parameter, factor in zip(other, factors):
        parameter.set_data(parameter.data() * mx.nd.array(factor))
    assert difference(net(data[0]), plain(data[0])) < 1e-5
    for block in (net, plain):
        with autograd.record(train_mode=False):
            loss, _ = cross_entropy(block, data)
        loss.backward()
    assert len(own) == len(other) == 4
    for a, b, factor in zip(own, other, factors):
        slopes = factor * b.grad().asnumpy()
        np.testing.assert_allclose(a.grad().asnumpy(), slopes, rtol=1e-4, atol=1e-6)


# --- the best of the run ----------------------------------------------------------


def test_the_best_is_of_the_last_round(tmp_path):
    scores = iter([0.9, 0.8, 0.7, 0.1, 0.3, 0.2])
    net, seen = train(
        tmp_path, Rounds(count=2), validate=lambda: {"score": next(scores)}
    )
    assert load_best(net, tmp_path).best == 0.3
    assert plan_of(net).keep == seen[-1][0]


def test_there_is_no_best_if_the_last_round_has_none(tmp_path):
    scores = iter([0.9, math.nan])
    validate = {"validate": lambda: {"score": next(scores)}}
    train(tmp_path, Rounds(count=2), 2, **validate)
    assert not (tmp_path / BEST).exists()


# --- killed and resumed -----------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["hard", "soft"])
def whole(request, tmp_path_factory):
    """Return rounds, the values that a run of them ends with, and what it leaves."""
    rounds, folder = (
        Rounds(count=3, curve="linear", soft=request.param),
        tmp_path_factory.mktemp("run"),
    )
    net, _ = train(folder, rounds)
    return rounds, values(net), outcome(folder)


@pytest.mark.parametrize("step", [3, 4, 9])  # within an epoch; where a round begins
def test_resumed_anywhere_it_ends_the_same(tmp_path, whole, step):
    rounds, end, left = whole
    for minutes in (0, 10):  # the last checkpoint is a step or an epoch old
        folder = tmp_path / str(minutes)
        how = {"options": replace(QUIET, save_minutes=minutes)}
        with pytest.raises(Stop):
            train(folder, rounds, step_loss=stopped(step), **how)
        net, _ = train(folder, rounds, options=RESUME)
        assert same(values(net), end)
        assert outcome(folder) == left


@pytest.mark.parametrize(("soft", "step"), [(False, 4), (True, 7)])
def test_importance_from_data_is_the_same_after_a_resume(tmp_path, soft, step):
    ends = []
    for name, loss in (("whole", cross_entropy), ("cut", stopped(step))):
        try:
            net = by_taylor(tmp_path / name, soft, loss, QUIET)
        except Stop:
            mx.random.seed(9)  # as if the process were another; the net has Dropout
            net = by_taylor(tmp_path / name, soft, cross_entropy, RESUME)
        ends.append(values(net))
    assert same(*ends)


def by_taylor(folder, soft: bool, loss, options) -> gluon.HybridBlock:
    """Train a net in rounds that are decided by the gradients of its masks."""
    net = conv_net()

    def as_masked(fresh):
        set_mask(fresh, plan_of(net), shape=SHAPE)
        return fresh

    def how(graph, budget, within):
        data = islice(Batches().epoch(0), 2)
        worth = taylor(net, data, cross_entropy, prepare=as_masked, shape=SHAPE)
        constraints = Constraints(multiple=1, ends=True, within=within)
        return select(graph, budget, worth, constraints=constraints)

    callbacks = [callback_of(net, Rounds(count=3, soft=soft), how)]
    plan = {"callbacks": callbacks, "options": options}
    fit(net, Batches(2), loss, schedule(6), folder, **plan)
    return net


# --- a detector -------------------------------------------------------------------


def test_a_detector_is_masked_through_the_block_that_is_trained():
    net = detector(size=64)
    images = mx.nd.array(np.random.RandomState(0).randn(1, 3, 64, 64))
    masked = mask(net, None)
    block = training.training_net(masked)
    full = count(models.graph_of(masked))

    def by_l1(graph, budget, within):
        constraints = Constraints(multiple=8, ends=True, within=within)
        return select(graph, budget, "l1", constraints=constraints)

    budget = Budget.share(full, macs=0.5)
    shape = models.graph_of(net).inputs["data"]
    callback = mask_in_rounds(masked, budget, by_l1, Rounds(count=2), shape=shape)
    shares = []
    for epoch in (0, 1):
        callback(block, Progress(epoch=epoch, epochs=2))
        plan = plan_of(masked)
        shares.append(count(models.graph_of(masked), plan).macs / full.macs)
        small = training.training_net(slim(masked, plan))
        pair = [[*net(images).values()] for net in (block, small)]
        assert difference(*pair) < 1e-5
    assert shares[1] <= 0.5 < shares[0] <= 0.5 + 0.5 * 0.5**3


# --- bad input --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "^count is 0; allowed: a whole number from 1"),
        ({"count": 1.5}, "^count is 1.5; allowed: a whole number"),
        ({"count": True}, "^count is True; allowed: a whole number"),
        ({"epochs": 0}, "^epochs is 0; allowed: a whole number from 1"),
        ({"count": 5, "epochs": 4}, "count is 5; allowed: up to one an epoch, 4"),
        ({"curve": "square"}, "curve is 'square'; allowed: cubic, linear"),
        ({"soft": 1}, "^soft is 1; allowed: true or false"),
    ],
)
def test_rounds_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message) as error:
        Rounds(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        (Rounds(count=7), "count is 7; allowed: up to one an epoch, 6"),
        (
            Rounds(count=2, epochs=8),
            "epochs is 8, the run has 6: the last mask would never",
        ),
    ],
)
def test_rounds_that_do_not_fit_into_the_run_are_refused(tmp_path, rounds, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, rounds, step_loss=stopped(0))


def test_a_net_without_masks_is_refused():
    net = ready(chain())
    with pytest.raises(ValueError, match="the net has no masks"):
        mask_in_rounds(net, Budget(macs=1e6), decide, Rounds(), shape=PICTURE)
    with pytest.raises(ValueError, match="the net has no masks"):
        plan_of(net)


def test_a_block_that_does_not_have_the_masks_is_refused(tmp_path):
    net, other = conv_net(), conv_net()
    callback, before = callback_of(net, Rounds()), values(net)
    with pytest.raises(ValueError, match="mask of group 'conv0'"):
        fit(
            other,
            Batches(2),
            cross_entropy,
            schedule(2),
            tmp_path,
            callbacks=[callback],
            options=QUIET,
        )
    assert same(values(net), before)


def test_a_plan_that_does_not_fit_is_refused_and_changes_nothing():
    net = conv_net()
    before = values(net)
    callback = callback_of(net, Rounds(), lambda *_: Plan({"conv7": (0,)}))
    with pytest.raises(ValueError, match="group 'conv7' is not in the net"):
        callback(net, Progress(epochs=2))
    assert same(values(net), before)
