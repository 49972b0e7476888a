from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from gluon_compress import Budget, Plan, count, effects, select, slim, trace
from gluon_compress.plan.importance import best_first, scores
from nets import NETS, SHAPE, batch, chain, conv, flat, ready, wide

IMAGES = [batch((4, *SHAPE[1:]), seed=seed) for seed in (1, 2)]


def passed(net) -> list[np.ndarray]:
    """Return what a net puts out for all images, each output in one array."""
    return [np.concatenate(p) for p in zip(*(flat(net(x)) for x in IMAGES))]


def reference(net, group, worth, kept: float) -> float:
    """Return a group's effect by cutting its channels for good."""
    stay = best_first(range(group.width), worth)[: max(int(kept * group.width), 1)]
    small = slim(net, Plan({group.name: sorted(stay.tolist())}), shape=SHAPE)
    return float(
        np.mean(
            [
                np.square(after - before).mean() / before.var(axis=0).mean()
                for before, after in zip(passed(net), passed(small))
            ]
        )
    )


@pytest.mark.parametrize("kept", [0.5, 0.3])
@pytest.mark.parametrize("name", ["residual", "depthwise", "few_groups", "two_outputs"])
def test_effect_is_the_change_that_a_cut_makes(name, kept):
    net = ready(NETS[name]())
    graph = trace(net, SHAPE)
    found = effects(net, IMAGES, criterion="l2", kept=kept, shape=SHAPE)
    free = [group for group in graph.groups if not group.frozen]
    assert list(found) == [group.name for group in free]
    for group in free:
        expected = reference(net, group, scores(graph, "l2")[group.name], kept)
        assert found[group.name] == pytest.approx(expected, rel=1e-3)
        assert found[group.name] > 0


def test_batches_may_be_tuples_and_the_net_stays():
    net = ready(chain())
    before = {n: p.data().asnumpy() for n, p in net.collect_params().items()}
    found = effects(net, [(images, None) for images in IMAGES], shape=SHAPE)
    assert found == effects(net, IMAGES, shape=SHAPE)
    for name, parameter in net.collect_params().items():
        assert (parameter.data().asnumpy() == before[name]).all()


def test_labels_of_a_criterion_decide_which_half_goes():
    net = ready(chain())
    graph = trace(net, SHAPE)
    worth = scores(graph, "l1")
    turned = {name: row.max() - row for name, row in worth.items()}
    given = effects(net, IMAGES, criterion=worth, shape=SHAPE)
    assert given == effects(net, IMAGES, shape=SHAPE)
    assert given != effects(net, IMAGES, criterion=turned, shape=SHAPE)


def test_detector_is_measured_at_its_raw_head():
    from gluon_compress.models import build

    net = build("ssd_300_mobilenet0.25", ["cell"], width=0.25, seed=1)
    found = effects(net, [batch((2, 3, 300, 300))], shape=(1, 3, 300, 300))
    assert len(found) == sum(not g.frozen for g in trace(net, (1, 3, 300, 300)).groups)
    assert min(found.values()) >= 0
    assert max(found.values()) > 0


# What goes wrong.


@pytest.mark.parametrize("kept", [0, 1, -0.5, 1.5])
def test_share_outside_its_range_is_refused(kept):
    with pytest.raises(ValueError, match="kept is .*; allowed: above 0 and below 1"):
        effects(ready(chain()), IMAGES, kept=kept, shape=SHAPE)


@pytest.mark.parametrize("images", [[], [batch(SHAPE)[:1]]])
def test_one_sample_tells_nothing(images):
    with pytest.raises(ValueError, match="two samples"):
        effects(ready(chain()), images, shape=SHAPE)


def test_net_that_does_not_look_at_its_input_is_refused():
    with pytest.raises(ValueError, match="puts out the same for every sample"):
        effects(ready(chain()), [mx.nd.zeros((4, *SHAPE[1:]))], shape=SHAPE)


def test_output_that_is_not_finite_is_refused():
    net = mx.gluon.nn.HybridSequential()
    net.add(conv(6), conv(4))  # a ReLU would make zeros of it
    images = mx.nd.full((2, *SHAPE[1:]), np.nan)
    with pytest.raises(ValueError, match="is not finite"):
        effects(ready(net), [images], shape=SHAPE)


# What a selection makes of it.


@pytest.fixture(scope="module")
def graph():
    return trace(ready(wide()), SHAPE)


def kept_share(graph, plan, name: str) -> float:
    return len(plan.keep[name]) / graph.group(name).width


def test_group_that_means_more_keeps_more(graph):
    budget = Budget.share(count(graph), macs=0.1)
    free = [group.name for group in graph.groups if not group.frozen]
    shares = {}
    for dear in free:
        found = {name: 100.0 if name == dear else 1.0 for name in free}
        plan = select(graph, budget, multiple=1, ends=True, effects=found)
        shares[dear] = kept_share(graph, plan, dear)
        assert plan.made_by["effects"] == found
        assert count(graph, plan).macs <= budget.macs
    equal = dict.fromkeys(free, 1.0)
    plain = select(graph, budget, multiple=1, ends=True, effects=equal)
    before = {name: kept_share(graph, plain, name) for name in free}
    thinned = [name for name in free if before[name] < 1]
    assert len(thinned) > 1
    assert all(shares[name] > before[name] for name in thinned)


def test_effects_of_one_scale_are_the_same(graph):
    budget = Budget.share(count(graph), macs=0.5)
    free = [group.name for group in graph.groups if not group.frozen]
    found = {name: 1.0 + i for i, name in enumerate(free)}
    larger = {name: 1000 * value for name, value in found.items()}
    plans = [select(graph, budget, ends=True, effects=e) for e in (found, larger)]
    assert plans[0].keep == plans[1].keep


def test_group_without_effect_goes_first(graph):
    free = [group.name for group in graph.groups if not group.frozen]
    found = {**dict.fromkeys(free, 1.0), free[1]: 0.0}
    budget = Budget.share(count(graph), macs=0.9)
    plan = select(graph, budget, multiple=1, ends=True, effects=found)
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
    plain = select(graph, budget, ends=True)
    assert plain.keep == select(graph, budget, ends=True, effects=layers).keep
    assert "effects" not in plain.made_by


@pytest.mark.parametrize("value", [None, -1.0, np.nan, np.inf, "much"])
def test_effect_that_is_no_number_is_refused(graph, value):
    free = [group.name for group in graph.groups if not group.frozen]
    found = {**dict.fromkeys(free, 1.0), free[0]: value}
    with pytest.raises(ValueError, match=f"the effect of group '{free[0]}' is"):
        select(graph, Budget.share(count(graph), macs=0.5), effects=found)


def test_effects_of_another_selection_are_refused(graph):
    free = [group.name for group in graph.groups if not group.frozen]
    found = dict.fromkeys(free, 1.0)
    with pytest.raises(ValueError, match="allowed: with selection 'greedy'"):
        select(
            graph,
            Budget.share(count(graph), macs=0.5),
            selection="uniform",
            effects=found,
        )


def test_net_that_can_lose_nothing_has_no_effects():
    net = mx.gluon.nn.HybridSequential()
    net.add(conv(4))  # its channels are the output
    assert effects(ready(net), IMAGES, shape=SHAPE) == {}
