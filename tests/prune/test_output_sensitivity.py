from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from gluon_compress import Plan, effects, slim, trace
from gluon_compress.plan.importance import best_first, importance_of
from nets import NETS, SHAPE, batch, chain, conv, flat, ready
from runtimes import detector

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
        expected = reference(net, group, importance_of(graph, "l2")[group.name], kept)
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
    worth = importance_of(graph, "l1")
    turned = {name: row.max() - row for name, row in worth.items()}
    given = effects(net, IMAGES, criterion=worth, shape=SHAPE)
    assert given == effects(net, IMAGES, shape=SHAPE)
    assert given != effects(net, IMAGES, criterion=turned, shape=SHAPE)


def test_detector_is_measured_at_its_raw_head():
    net, shape = detector(size=96), (1, 3, 96, 96)
    found = effects(net, [batch((2, *shape[1:]))], shape=shape)
    assert len(found) == sum(not g.frozen for g in trace(net, shape).groups)
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
    with pytest.raises(ValueError, match="same for every sample"):
        effects(ready(chain()), [mx.nd.zeros((4, *SHAPE[1:]))], shape=SHAPE)


def test_output_that_is_not_finite_is_refused():
    net = mx.gluon.nn.HybridSequential()
    net.add(conv(6), conv(4))  # a ReLU would make zeros of it
    images = mx.nd.full((2, *SHAPE[1:]), np.nan)
    with pytest.raises(ValueError, match="is not finite"):
        effects(ready(net), [images], shape=SHAPE)


def test_net_that_can_lose_nothing_has_no_effects():
    net = mx.gluon.nn.HybridSequential()
    net.add(conv(4))  # its channels are the output
    assert effects(ready(net), IMAGES, shape=SHAPE) == {}
