from __future__ import annotations

import math
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from gluon_compress import mask, trace
from gluon_compress.models.ssd import training
from gluon_compress.plan.importance import importance_of
from gluon_compress.prune import bn_l1_step
from gluon_compress.train import fit
from nets import (
    SHAPE,
    Wired,
    batch,
    chain,
    conv,
    dense_block,
    plain,
    ready,
    residual,
    unit,
)
from runtimes import detector
from training import (
    ONE_STEP,
    QUIET,
    SHORT,
    Batches,
    Stop,
    conv_net,
    cross_entropy,
    same,
    stopped,
    values,
)


def nothing(net, data) -> tuple:
    """Return a loss of zero whose gradients are zero."""
    return (0 * net(data[0])).sum(), {"own": mx.nd.zeros(1)}


def gammas(net) -> list:
    return list(net.collect_params(".*gamma").values())


def slopes(net, step, parameters, data=None) -> list[np.ndarray]:
    with autograd.record():
        loss, _ = step(net, (batch(),) if data is None else data)
    loss.backward()
    return [p.grad().asnumpy() for p in parameters]


def signed(net) -> nn.HybridBlock:
    """Give scales both signs, and one the value zero."""
    for gamma in gammas(net):
        value = gamma.data().asnumpy() * (-1) ** np.arange(gamma.shape[0])
        value[2] = 0
        gamma.set_data(mx.nd.array(value))
    return net


@pytest.mark.parametrize("hybrid", [False, True])
def test_slope_is_the_weight_times_the_sign(hybrid):
    net = signed(ready(residual()))
    if hybrid:
        net.hybridize(static_alloc=True, static_shape=True)
    step = bn_l1_step(nothing, net, 0.3, shape=SHAPE)
    found = slopes(net, step, gammas(net))
    assert len(found) == 3
    for slope, gamma in zip(found, gammas(net)):
        expected = 0.3 * np.sign(gamma.data().asnumpy())
        np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_slopes_are_added_to_those_of_the_loss():
    net = signed(ready(residual()))

    def own(net, data):
        return (net(data[0]) ** 2).sum(), {}

    alone = slopes(net, own, net.collect_params(".*(gamma|weight)").values())
    step = bn_l1_step(own, net, 0.3, shape=SHAPE)
    both = slopes(net, step, net.collect_params(".*(gamma|weight)").values())
    for p, a, b in zip(net.collect_params(".*(gamma|weight)").values(), alone, both):
        extra = 0.3 * np.sign(p.data().asnumpy()) if p.name.endswith("gamma") else 0
        np.testing.assert_allclose(b, a + extra, rtol=1e-5, atol=1e-5)


def test_the_part_is_the_weight_times_the_sum_of_sizes():
    net = signed(ready(chain()))
    loss, parts = bn_l1_step(nothing, net, 0.3, shape=SHAPE)(net, (batch(),))
    expected = 0.3 * sum(np.abs(g.data().asnumpy()).sum() for g in gammas(net))
    assert list(parts) == ["own", "sparsity"]
    assert parts["sparsity"].asscalar() == pytest.approx(expected)
    assert loss.asscalar() == pytest.approx(expected)


def test_scales_of_channels_that_stay_are_left_alone():
    net = nn.HybridSequential()
    net.add(unit(8), unit(5))  # the second one's channels are outputs
    ready(net)
    step = bn_l1_step(nothing, net, 0.3, shape=SHAPE)
    first, last = slopes(net, step, gammas(net))
    np.testing.assert_allclose(first, 0.3, rtol=1e-6)
    assert (last == 0).all()


def test_a_scale_for_channels_of_both_kinds_is_pulled_in_part():
    def wire(F, m, x):
        y = m["norm"](F.concat(m["a"](x), x, dim=1))
        return m["out"](F.relu(y))

    net = ready(Wired(wire, a=conv(6), norm=nn.BatchNorm(), out=nn.Dense(5)))
    (found,) = slopes(net, bn_l1_step(nothing, net, 0.3, shape=SHAPE), gammas(net))
    np.testing.assert_allclose(found, [0.3] * 6 + [0] * 3, rtol=1e-6)


def test_a_scale_for_two_groups_is_pulled_in_whole():
    net = ready(dense_block())
    found = slopes(net, bn_l1_step(nothing, net, 0.3, shape=SHAPE), gammas(net))
    assert [len(slope) for slope in found] == [8, 14]
    for slope in found:
        np.testing.assert_allclose(slope, 0.3, rtol=1e-6)


def test_scales_that_are_not_trained_do_not_count():
    net = ready(chain())
    gammas(net)[0].grad_req = "null"
    _, parts = bn_l1_step(nothing, net, 1, shape=SHAPE)(net, (batch(),))
    left = np.abs(gammas(net)[1].data().asnumpy()).sum()
    assert parts["sparsity"].asscalar() == pytest.approx(left)


def test_two_devices_make_the_update_of_one(tmp_path):
    ends = []
    for name, ctx in (("one", (mx.cpu(),)), ("two", (mx.cpu(0), mx.cpu(1)))):
        net = conv_net()
        net.collect_params().reset_ctx(list(ctx))
        step = bn_l1_step(nothing, net, 0.3, shape=(1, 2, 4, 4))
        options = replace(QUIET, ctx=ctx)
        schedule = ONE_STEP.replace(learning_rate=0.1)
        fit(net, Batches(1), step, schedule, tmp_path / name, options=options)
        ends += [g.data(c).asnumpy() for g in gammas(net) for c in ctx]
    assert len(ends) == 3
    for end in ends:
        np.testing.assert_allclose(end, 1 - 0.1 * 0.3, rtol=1e-6)


def test_masked_nets_and_weight_zero_are_allowed():
    net = mask(ready(chain()), None, shape=SHAPE)
    data = (batch(),)

    def own(net, data):
        return (net(data[0]) ** 2).sum(), {}

    step = bn_l1_step(own, net, 0, shape=SHAPE)
    expected = slopes(net, own, gammas(net), data)
    assert same(slopes(net, step, gammas(net), data), expected)


def test_training_makes_scales_small(tmp_path):
    sizes = []
    for name, weight in (("without", 0), ("with", 0.2)):
        net = conv_net(dropout=0.0)
        step = bn_l1_step(cross_entropy, net, weight, shape=(1, 2, 4, 4))
        schedule = SHORT.replace(epochs=10, weight_decay=0.0)
        fit(net, Batches(3), step, schedule, tmp_path / name, options=QUIET)
        graph = trace(net, (1, 2, 4, 4))
        sizes.append(importance_of(graph, "bn_scale")["conv0"].mean())
    assert sizes[1] < 0.7 * sizes[0]


def test_a_resumed_run_ends_as_one_that_was_not(tmp_path):
    ends = []
    for name, step_loss in (("whole", cross_entropy), ("cut", stopped(4))):
        net = conv_net()
        step = bn_l1_step(step_loss, net, 0.01, shape=(1, 2, 4, 4))
        options = replace(QUIET, save_minutes=0)
        try:
            fit(net, Batches(3), step, SHORT, tmp_path / name, options=options)
        except Stop:
            net = conv_net()
            step = bn_l1_step(cross_entropy, net, 0.01, shape=(1, 2, 4, 4))
            options = replace(QUIET, resume=True)
            fit(net, Batches(3), step, SHORT, tmp_path / name, options=options)
        ends.append(values(net))
    assert same(*ends)


def test_a_detector_is_trained_through_its_block():
    net = detector(size=96)
    block = training.training_net(net)
    images = mx.nd.array(np.random.RandomState(0).randn(1, 3, 96, 96))

    def own(net, data):
        return 0 * net(data[0])["class_scores"].sum(), {}

    step = bn_l1_step(own, net, 0.3)
    found = slopes(block, step, gammas(net), (images,))
    for slope in found:
        np.testing.assert_allclose(slope, 0.3, rtol=1e-6)
    assert len(found) == 10


# --- bad input --------------------------------------------------------------------


@pytest.mark.parametrize("weight", [-1e-4, math.nan, math.inf, True, "1e-4", None])
def test_a_weight_that_makes_no_sense_is_refused(weight):
    with pytest.raises(ValueError, match="weight is"):
        bn_l1_step(nothing, ready(chain()), weight, shape=SHAPE)


def test_a_net_without_scales_is_refused():
    with pytest.raises(ValueError, match="no trained BatchNorm scale of a channel"):
        bn_l1_step(nothing, ready(plain()), 1e-4, shape=SHAPE)


def test_scales_fixed_at_one_are_no_scales():
    net = nn.HybridSequential()
    net.add(conv(8), nn.BatchNorm(scale=False), nn.Activation("relu"), nn.Dense(3))
    with pytest.raises(ValueError, match="no trained BatchNorm scale of a channel"):
        bn_l1_step(nothing, ready(net), 1e-4, shape=SHAPE)
