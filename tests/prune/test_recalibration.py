from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from gluon_compress import mask, slim, trace
from gluon_compress.models.ssd import training
from gluon_compress.prune import recalibrate
from gluon_compress.train import Schedule, fit
from nets import NETS, SHAPE, batch, chain, difference, random_plan, ready, residual
from runtimes import detector
from training import QUIET, cross_entropy

FLAT = (1, 4)


def values(net) -> dict:
    return {p.name: p.data().asnumpy() for p in net.collect_params().values()}


def running(net) -> list[np.ndarray]:
    """Return running means and variances, in the net's order."""
    return [v for n, v in values(net).items() if n.endswith(("mean", "var"))]


def perceptron(*layers: nn.HybridBlock) -> nn.HybridSequential:
    net = nn.HybridSequential()
    net.add(*layers)
    return ready(net, FLAT)


def arrays(*sizes: int, shape=FLAT) -> list[tuple]:
    """Return batches of so many samples each."""
    random = np.random.RandomState(7)
    return [(mx.nd.array(random.randn(n, *shape[1:]) * 2 + 1),) for n in sizes]


def close(own, other, **tolerance) -> None:
    assert len(own) == len(other) > 0
    for a, b in zip(own, other):
        np.testing.assert_allclose(a, b, **{"rtol": 2e-5, "atol": 1e-6, **tolerance})


# --- the statistics ---------------------------------------------------------------


def test_statistics_are_those_of_all_samples_normalised_batch_by_batch():
    norm, relu = nn.BatchNorm(epsilon=0.01), nn.Activation("relu")
    net = perceptron(nn.Dense(3), norm, relu, nn.Dense(2), nn.BatchNorm())
    w1, b1, gamma, beta, _, _, w2, b2, *_ = values(net).values()
    batches, first, second = arrays(5, 3), [], []
    for (x,) in batches:
        y = x.asnumpy().astype(float) @ w1.T + b1
        first.append(y)
        y = gamma * (y - y.mean(0)) / np.sqrt(y.var(0) + 0.01) + beta
        second.append(np.maximum(y, 0) @ w2.T + b2)
    expected = []
    for layer in (np.concatenate(first), np.concatenate(second)):
        expected += [layer.mean(0), layer.var(0)]
    close(running(recalibrate(net, batches)), expected)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("size", [1, 3])
def test_statistics_of_maps_are_over_all_positions(axis, size):
    net = nn.HybridSequential()
    net.add(nn.BatchNorm(axis=axis))
    ready(net, SHAPE)
    images = batch().asnumpy()[:size]
    others = tuple(i for i in range(4) if i != axis % 4)
    found = running(recalibrate(net, [(mx.nd.array(images),)]))
    close(found, [images.mean(others), images.var(others)])


def test_one_batch_gives_what_a_backward_pass_without_momentum_leaves():
    net = ready(residual())
    found = running(recalibrate(net, [(batch(),)]))
    for block in _batch_norms(net):
        block._kwargs["momentum"] = 0.0
    with autograd.record():
        loss = net(batch()).sum()
    loss.backward()
    close(found, running(net))


def _batch_norms(block) -> list:
    inside = [b for child in block._children.values() for b in _batch_norms(child)]
    return inside + [block] * isinstance(block, nn.BatchNorm)


@pytest.mark.parametrize(
    "how", [{"momentum": 0.1}, {"scale": False}, {"use_global_stats": True}]
)
def test_settings_of_a_batchnorm_do_not_change_its_statistics(how):
    found = []
    for options in ({}, how):
        net = perceptron(nn.Dense(3), nn.BatchNorm(**options))
        found.append(running(recalibrate(net, arrays(4, 5))))
    close(*found)


@pytest.mark.parametrize(
    "op", [mx.sym.BatchNorm_v1, lambda x, **how: mx.sym.contrib.SyncBatchNorm(x, **how)]
)
def test_other_kinds_of_batchnorm(op):
    how = {"name": "norm", "fix_gamma": False, "eps": 0.1}
    more = {"key": "norm"} if op is not mx.sym.BatchNorm_v1 else {}
    symbol = op(mx.sym.var("data"), **how, **more)
    names = [n for n in symbol.list_inputs() if n.startswith("norm")]
    pair = symbol, {name: mx.nd.ones(3) for name in names}
    images = batch().asnumpy()
    found = running(recalibrate(pair, [(batch(),)]))
    close(found, [images.mean((0, 2, 3)), images.var((0, 2, 3))])


def test_a_scale_that_is_fixed_at_one_counts_as_one():
    net = perceptron(nn.BatchNorm(scale=False), nn.Dense(2), nn.BatchNorm())
    gamma = next(p for n, p in net.collect_params(".*gamma").items())
    gamma.set_data(mx.nd.full(4, 9))
    other = perceptron(nn.BatchNorm(), nn.Dense(2), nn.BatchNorm())
    next(iter(other.collect_params(".*gamma").values())).set_data(mx.nd.ones(4))
    close(*(running(recalibrate(block, arrays(6))) for block in (net, other)))


def test_a_channel_that_never_changes_has_no_variance():
    net = perceptron(nn.BatchNorm())
    mean, variance = running(recalibrate(net, [(mx.nd.full((3, 4), 2),)]))
    close([mean, variance], [np.full(4, 2), np.zeros(4)], atol=1e-9)


def test_a_batchnorm_that_runs_twice_has_the_statistics_of_both():
    norm, dense = nn.BatchNorm(), nn.Dense(4)
    net = perceptron(norm, dense, norm)
    weight, bias = (dense.params.get(n).data().asnumpy() for n in ("weight", "bias"))
    gamma, beta = norm.gamma.data().asnumpy(), norm.beta.data().asnumpy()
    ((x,),) = batches = arrays(6)
    x = x.asnumpy().astype(float)
    y = gamma * (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) + beta
    both = np.concatenate([x, y @ weight.T + bias])
    found = recalibrate(net, batches)
    close(running(found), [both.mean(0), both.var(0)])


def test_inference_becomes_what_training_computes():
    net = ready(residual())
    found = recalibrate(net, [(batch(),)])
    with autograd.train_mode():
        expected = net(batch())
    assert difference(net(batch()), expected) > 0.1
    assert difference(found(batch()), expected) < 1e-5


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_dropout_does_not_matter(rate):
    with_it = perceptron(nn.Dense(8), nn.Dropout(rate), nn.Dense(3), nn.BatchNorm())
    without = perceptron(nn.Dense(8), nn.Dense(3), nn.BatchNorm())
    close(*(running(recalibrate(net, arrays(5))) for net in (with_it, without)))


def test_calls_give_the_same_bytes():
    net = ready(residual())
    one, other = (running(recalibrate(net, [(batch(),)])) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other))


# --- the net ----------------------------------------------------------------------


def test_nothing_but_running_statistics_changes():
    net = ready(residual())
    next(iter(net.collect_params(".*weight").values())).grad_req = "null"
    before = values(net)
    found = recalibrate(net, [(batch(),)])
    assert all(np.array_equal(v, before[n]) for n, v in values(net).items())
    assert values(found).keys() == before.keys()
    for name, value in values(found).items():
        fixed = not name.endswith(("mean", "var"))
        assert np.array_equal(value, before[name]) == fixed, name
    settings = [
        {p.name: p.grad_req for p in n.collect_params().values()} for n in (net, found)
    ]
    assert settings[0] == settings[1]


@pytest.mark.parametrize("name", NETS)
def test_masked_and_slim_nets_agree(name):
    net = ready(NETS[name]())
    plan = random_plan(trace(net, SHAPE), 3)
    batches = [(batch(seed=2),), (batch(seed=3),)]
    masked, small = (
        recalibrate(way(net, plan, shape=SHAPE), batches) for way in (mask, slim)
    )
    assert difference(masked(batch()), small(batch())) < 1e-5
    again = slim(masked, plan, shape=SHAPE)
    assert difference(again(batch()), small(batch())) < 1e-5


def test_masks_stay():
    net = ready(chain())
    masked = mask(net, random_plan(trace(net, SHAPE), 0), shape=SHAPE)
    found = values(recalibrate(masked, [(batch(),)]))
    masks = {n: v for n, v in values(masked).items() if n.endswith("_mask")}
    assert len(masks) == 2
    assert all(np.array_equal(found[n], v) for n, v in masks.items())


@pytest.mark.parametrize("how", [{}, {"static_alloc": True, "static_shape": True}])
def test_hybridized_nets_and_batches_of_unlike_size(how):
    net = ready(residual())
    batches = [(batch(),), (batch(seed=5)[:1],)]
    expected = running(recalibrate(net, batches))
    net.hybridize(**how)
    net(batch())
    close(running(recalibrate(net, batches)), expected)


def test_symbol_and_parameters():
    net = ready(residual())
    params = {p.name: p.data() for p in net.collect_params().values()}
    found = recalibrate((net(mx.sym.var("data")), params), [(batch(),)])
    close(running(found), running(recalibrate(net, [(batch(),)])))


def test_several_inputs_are_the_first_arrays():
    one, two = mx.sym.var("one"), mx.sym.var("two")
    symbol = mx.sym.BatchNorm(one + 2 * two, name="norm", fix_gamma=False)
    names = [n for n in symbol.list_inputs() if n.startswith("norm")]
    params = {name: mx.nd.ones(4) for name in names}
    (a,), (b,), (ignored,) = arrays(3, 3, 3)
    found = running(recalibrate((symbol, params), [(a, b, ignored)]))
    both = (a + 2 * b).asnumpy()
    close(found, [both.mean(0), both.var(0)])


def test_inputs_of_a_block_are_in_the_order_of_its_call():
    class Crossed(nn.HybridBlock):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm(in_channels=4)

        def hybrid_forward(self, F, one, two):
            return self.norm(2 * two + one)

    net = Crossed()
    net.initialize()
    (a,), (b,) = arrays(3, 3)
    both = (a + 2 * b).asnumpy()
    made = recalibrate(net, [(a, b)])
    close(running(made), [both.mean(0), both.var(0)])
    assert difference(made(a, b), recalibrate(made, [(a, b)])(a, b)) < 1e-6


def test_batches_may_be_numpy_arrays_and_a_generator():
    net = ready(residual())
    close(
        running(recalibrate(net, ((batch().asnumpy(),) for _ in range(2)))),
        running(recalibrate(net, [(batch(),)])),
    )


def test_every_device_gets_the_statistics():
    net = ready(residual())
    expected = running(recalibrate(net, [(batch(),)]))
    net.collect_params().reset_ctx([mx.cpu(0), mx.cpu(1)])
    found = recalibrate(net, [(batch(),)])
    for device in (mx.cpu(0), mx.cpu(1)):
        statistics = found.collect_params(".*(mean|var)").values()
        close([p.data(device).asnumpy() for p in statistics], expected)


def test_a_net_without_batchnorm_is_copied():
    net = perceptron(nn.Dense(3))
    found = recalibrate(net, arrays(2))
    assert found is not net
    assert difference(net(arrays(2)[0][0]), found(arrays(2)[0][0])) == 0


def test_a_detector_stays_one():
    net = detector(size=96)
    images = mx.nd.array(np.random.RandomState(0).randn(8, 3, 96, 96))
    found = recalibrate(net, [(images, "targets are not read")])
    assert type(found) is type(net)
    block, other = training.training_net(found), training.training_net(net)
    with autograd.train_mode():
        expected = other(images)
    assert difference([*block(images).values()], [*expected.values()]) < 1e-4


def test_accuracy_comes_back_after_pruning(tmp_path):
    # Each class has a pattern of its own; what else there is is noise.
    patterns = np.random.RandomState(0).randn(4, 1, 8, 8)

    def sample(seed: int) -> tuple:
        random = np.random.RandomState(seed)
        labels = random.randint(0, 4, 64)
        noise = random.randn(64, 1, 8, 8)
        return mx.nd.array(patterns[labels] + noise), mx.nd.array(labels)

    class Set:
        def __len__(self):
            return 10

        def epoch(self, number, start=0):
            return (sample(100 * number + i) for i in range(start, 10))

    net = nn.HybridSequential()
    for width in (16, 16):
        net.add(gluon.nn.Conv2D(width, 3, padding=1), nn.BatchNorm())
        net.add(nn.Activation("relu"))
    net.add(nn.MaxPool2D(2), nn.Dense(4))
    shape = (1, 1, 8, 8)
    ready(net, shape)
    schedule = Schedule(epochs=3, learning_rate=0.05, weight_decay=0.0)
    fit(net, Set(), cross_entropy, schedule, tmp_path, options=QUIET)
    images, labels = sample(99_999)

    def accuracy(block) -> float:
        return float((block(images).argmax(1) == labels).mean().asscalar())

    data = [sample(seed) for seed in range(4)]
    assert accuracy(net) > 0.9
    assert abs(accuracy(recalibrate(net, data)) - accuracy(net)) < 0.05
    plan = random_plan(trace(net, shape), 1)
    small = slim(net, plan, shape=shape)
    assert accuracy(recalibrate(small, data)) > accuracy(small) + 0.1


# --- bad input --------------------------------------------------------------------


def test_no_batch_is_refused():
    with pytest.raises(ValueError, match="there is no batch"):
        recalibrate(ready(residual()), [])


def test_a_batch_that_is_an_array_is_refused():
    with pytest.raises(ValueError, match="a batch is a NDArray; allowed: a tuple"):
        recalibrate(ready(residual()), batch())


def test_too_few_arrays_are_refused():
    symbol = mx.sym.var("one") + mx.sym.var("two")
    with pytest.raises(ValueError, match="has 1 arrays; the net has the inputs"):
        recalibrate((symbol, {}), arrays(2))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_and_nothing_changes(bad):
    net = ready(residual())
    before, images = values(net), batch()
    images[0, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="batchnorm.*_running_mean' are not finite"):
        recalibrate(net, [(batch(),), (images,)])
    assert all(np.array_equal(v, before[n]) for n, v in values(net).items())


def test_another_operator_with_running_statistics_is_named():
    symbol = mx.sym.contrib.BatchNormWithReLU(mx.sym.var("data"), name="norm")
    names = [n for n in symbol.list_inputs() if n.startswith("norm")]
    params = {name: mx.nd.ones(4) for name in names}
    with pytest.raises(ValueError, match="'norm_moving_mean' is a running statistic"):
        recalibrate((symbol, params), arrays(2))
