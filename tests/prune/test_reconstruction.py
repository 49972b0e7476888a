from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from gluon_compress import Plan, mask, slim, trace
from gluon_compress.prune import reconstruct
from nets import NETS, SHAPE, conv, difference, random_plan, ready, residual

SIZE = (1, 3, 8, 8)


def batches(count=2, images=8, shape=SIZE, seed=0):
    random = np.random.RandomState(seed)
    return [mx.nd.array(random.randn(images, *shape[1:])) for _ in range(count)]


def parameters(net) -> dict:
    return {p.name: p for p in net.collect_params().values()}


def with_dependent_filters(net, kept: list, halves: bool = False):
    """Make the other filters of the first layer sums of some, or of those in a half."""
    weight = next(iter(net.collect_params().values()))
    values = weight.data().asnumpy()
    random = np.random.RandomState(3)
    for i in range(len(values)):
        if i not in kept:
            sources = [k for k in kept if not halves or k // 4 == i // 4]
            mix = random.randn(len(sources))
            values[i] = np.tensordot(mix, values[sources], axes=1)
    weight.set_data(mx.nd.array(values))
    return net


def sequential(*layers):
    net = nn.HybridSequential()
    net.add(*layers)
    return net


READERS = {
    "3x3": lambda: conv(5),
    "strided": lambda: conv(5, strides=2),
    "dilated": lambda: conv(5, dilation=2),
    "1x1 without a bias": lambda: conv(5, 1, use_bias=False),
    "dense": lambda: nn.Dense(5),
    "grouped": lambda: conv(6, groups=2),
    "norm, then 1x1": lambda: sequential(nn.BatchNorm(), conv(5, 1)),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_the_kept_channels_determine_is_restored(reader):
    # Other filters are sums of these, so nothing is lost with them.
    kept = [0, 1, 4, 5] if reader == "grouped" else [0, 1, 2, 3]
    net = sequential(conv(8, use_bias=False), READERS[reader]())
    net = with_dependent_filters(ready(net, SIZE), kept, reader == "grouped")
    graph = trace(net, SIZE)
    group = graph.groups[0]  # of 4 pairs, for the grouped convolution
    plan = Plan({group.name: kept[: group.width // 2]})
    images = batches(4, 80)

    fitted = reconstruct(net, plan, images, points=64, ridge=1e-10, graph=graph)

    x = batches(1, seed=9)[0]
    assert difference(slim(net, plan, graph=graph)(x), net(x)) > 0.1
    assert difference(fitted(x), net(x)) < 1e-3


def test_weights_and_bias_are_those_of_least_squares():
    net = ready(sequential(conv(8), nn.Activation("relu"), conv(5, 1)), SIZE)
    graph = trace(net, SIZE)
    plan = Plan({graph.groups[0].name: [0, 3, 5]})
    images = batches(3)

    fitted = reconstruct(net, plan, images, points=64, ridge=1e-12, graph=graph)

    hidden = np.concatenate([net[1](net[0](x)).asnumpy() for x in images])
    outputs = np.concatenate([net(x).asnumpy() for x in images])
    rows = hidden.transpose(0, 2, 3, 1).reshape(-1, 8)[:, [0, 3, 5]].astype(float)
    rows = np.hstack([rows, np.ones((len(rows), 1))])
    targets = outputs.transpose(0, 2, 3, 1).reshape(-1, 5)
    expected, *_ = np.linalg.lstsq(rows, targets, rcond=None)
    *_, weight, bias = fitted.collect_params().values()
    np.testing.assert_allclose(
        weight.data().asnumpy().reshape(5, 3), expected[:3].T, atol=1e-4
    )
    np.testing.assert_allclose(bias.data().asnumpy(), expected[3], atol=1e-4)


def test_a_strong_ridge_leaves_the_weights_alone():
    net = ready(residual(), SHAPE)
    plan = random_plan(trace(net, SHAPE), seed=1)
    fitted = reconstruct(net, plan, batches(shape=SHAPE), ridge=1e9, shape=SHAPE)
    small = slim(net, plan, shape=SHAPE)
    for name, parameter in parameters(fitted).items():
        if name.endswith("weight"):
            expected = parameters(small)[name].data().asnumpy()
            np.testing.assert_allclose(parameter.data().asnumpy(), expected, atol=1e-5)


def test_a_constant_goes_to_the_running_mean_behind_the_layer():
    # The lost channels are nearly constant, so the mean of the sum shifts.
    net = sequential(conv(8), conv(5, 1, use_bias=False), nn.BatchNorm())
    net = ready(net, SIZE)
    bias = list(net.collect_params().values())[1]
    bias.set_data(mx.nd.array([0, 0, 0, 0, 9, 9, 9, 9]))
    graph = trace(net, SIZE)
    plan = Plan({graph.groups[0].name: range(4)})
    fitted = reconstruct(net, plan, batches(4), points=64, graph=graph)
    x = batches(1, seed=9)[0]
    full = net(x).asnumpy()
    channels = (0, 2, 3)
    np.testing.assert_allclose(
        fitted(x).asnumpy().mean(channels), full.mean(channels), atol=0.2
    )
    wrong = slim(net, plan, graph=graph)(x).asnumpy()
    assert np.abs(wrong.mean(channels) - full.mean(channels)).max() > 1


def test_a_plan_that_keeps_everything_changes_nothing():
    net = ready(residual(), SHAPE)
    fitted = reconstruct(net, Plan({}), batches(shape=SHAPE), shape=SHAPE)
    for name, parameter in parameters(fitted).items():
        np.testing.assert_array_equal(
            parameter.data().asnumpy(), parameters(net)[name].data().asnumpy()
        )


@pytest.mark.parametrize("name", sorted(NETS)[::2])
def test_every_net_keeps_its_form_and_the_full_net_its_values(name):
    net = ready(NETS[name](), SHAPE)
    graph = trace(net, SHAPE)
    plan = random_plan(graph, seed=2)
    before = {n: p.data().asnumpy() for n, p in parameters(net).items()}

    fitted = reconstruct(net, plan, batches(1, 4, SHAPE), ridge=0.1, graph=graph)

    small = slim(net, plan, graph=graph)
    for key, parameter in parameters(fitted).items():
        assert parameter.shape == parameters(small)[key].shape
        assert np.isfinite(parameter.data().asnumpy()).all(), key
    for key, value in before.items():
        np.testing.assert_array_equal(value, parameters(net)[key].data().asnumpy())


def test_the_same_seed_gives_the_same_weights_and_another_samples_other_places():
    net = ready(residual(), SHAPE)
    plan = random_plan(trace(net, SHAPE), seed=1)
    images = batches(shape=SHAPE)

    def weights(seed):
        fitted = reconstruct(net, plan, images, points=3, shape=SHAPE, seed=seed)
        return [p.data().asnumpy() for p in fitted.collect_params().values()]

    first, second, other = weights(0), weights(0), weights(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other))


def test_images_may_be_of_another_size_than_the_trace():
    net = ready(sequential(conv(8), conv(5), nn.GlobalAvgPool2D()), SIZE)
    graph = trace(net, SIZE)
    plan = Plan({graph.groups[0].name: range(4)})
    larger = batches(shape=(1, 3, 20, 17))
    assert reconstruct(net, plan, larger, graph=graph)(larger[0]).shape == (8, 5, 1, 1)


def test_masks_of_the_net_are_dropped_as_by_slim():
    net = ready(residual(), SHAPE)
    plan = random_plan(trace(net, SHAPE), seed=1)
    masked = mask(net, plan, shape=SHAPE)
    fitted = reconstruct(masked, plan, batches(shape=SHAPE), shape=SHAPE)
    assert not any(name.endswith("_mask") for name in parameters(fitted))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batches": []}, "no batch"),
        ({"points": 0}, "points is 0"),
        ({"ridge": 0}, "ridge 0"),
        ({"batches": [mx.nd.full((2, 3, 8, 8), np.inf)]}, "not finite"),
    ],
)
def test_bad_input_is_refused(change, words):
    net = ready(sequential(conv(8), conv(5)), SIZE)
    plan = random_plan(trace(net, SIZE), seed=1)
    given = {"batches": batches(), "shape": SIZE, **change}
    data = given.pop("batches")
    with pytest.raises(ValueError, match=words):
        reconstruct(net, plan, data, **given)


@pytest.mark.parametrize("name", ["chain", "residual", "concat", "shared"])
def test_the_way_to_a_layer_may_begin_anywhere(name, monkeypatch):
    net = ready(NETS[name](), SHAPE)
    plan, images = random_plan(trace(net, SHAPE), seed=1), batches(3, shape=SHAPE)
    fitted = []
    for most in (0, 1e9):  # nothing is kept, or everything
        monkeypatch.setattr("gluon_compress.prune.reconstruction._Walk.MOST", most)
        fitted.append(reconstruct(net, plan, images, shape=SHAPE))
    x = batches(1, shape=SHAPE, seed=9)[0]
    assert difference(fitted[0](x), slim(net, plan, shape=SHAPE)(x)) > 1e-3
    assert difference(fitted[0](x), fitted[1](x)) < 1e-5
