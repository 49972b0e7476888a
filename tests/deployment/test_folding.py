from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo import get_model
from mxnet.gluon import nn

from gluon_compress.deployment import fold, fused
from gluon_compress.graph import block_of, pair_of
from gluon_compress.graph.symbols import take_apart
from gluon_compress.models.ssd import training
from nets import NETS, Wired, batch, conv, difference, ready, unit
from runtimes import detector


def norms(symbol) -> int:
    return sum(node["op"] == "BatchNorm" for node in take_apart(symbol)[0])


@pytest.mark.parametrize("name", NETS)
def test_folded_net_computes_the_same(name):
    net = ready(NETS[name]())
    folded = fold(*pair_of(net))
    assert difference(net(batch()), block_of(*folded)(batch())) < 1e-5


@pytest.mark.parametrize(
    "name", ["chain", "residual", "depthwise", "many_groups", "deconvolution"]
)
def test_no_batchnorm_is_left_behind_a_layer(name):
    symbol, params = pair_of(ready(NETS[name]()))
    folded, left = fold(symbol, params)
    assert norms(symbol) > norms(folded) == 0
    assert set(left) | {"data"} == set(folded.list_inputs())
    assert not folded.list_auxiliary_states()


def test_batchnorm_with_a_fixed_scale_and_another_epsilon_folds():
    net = nn.HybridSequential()
    net.add(conv(6), nn.BatchNorm(scale=False, epsilon=0.1), nn.Dense(5))
    net = ready(net)
    folded = fold(*pair_of(net))
    assert norms(folded[0]) == 0
    assert difference(net(batch()), block_of(*folded)(batch())) < 1e-5


def test_batchnorm_behind_a_dense_layer_folds():
    net = nn.HybridSequential()
    net.add(conv(4), nn.Dense(6), nn.BatchNorm(), nn.Dense(5, use_bias=False))
    net = ready(net)
    folded = fold(*pair_of(net))
    assert norms(folded[0]) == 0
    assert difference(net(batch()), block_of(*folded)(batch())) < 1e-5


def test_layer_that_something_else_reads_keeps_its_batchnorm():
    def wire(F, m, x):
        y = m["a"](x)
        return m["out"](y + m["norm"](y))

    net = ready(Wired(wire, a=conv(6), norm=nn.BatchNorm(), out=nn.Dense(5)))
    folded = fold(*pair_of(net))
    assert norms(folded[0]) == 1
    assert difference(net(batch()), block_of(*folded)(batch())) < 1e-5


def test_weights_of_two_layers_keep_their_batchnorms():
    first = conv(3, use_bias=False)
    second = conv(3, use_bias=False, params=first.params)

    def wire(F, m, x):
        return m["out"](m["n2"](m["b"](m["n1"](m["a"](x)))))

    layers = {"a": first, "b": second, "n1": nn.BatchNorm(), "n2": nn.BatchNorm()}
    net = ready(Wired(wire, **layers, out=nn.Dense(5)))
    folded = fold(*pair_of(net))
    assert norms(folded[0]) == 2
    assert difference(net(batch()), block_of(*folded)(batch())) < 1e-5


def test_shift_that_two_batchnorms_share_is_left_alone():
    one = nn.BatchNorm()
    two = nn.BatchNorm(params=one.params)

    def wire(F, m, x):
        return m["out"](m["n2"](m["b"](m["n1"](m["a"](x)))))

    net = ready(Wired(wire, a=conv(6), b=conv(6), n1=one, n2=two, out=nn.Dense(5)))
    folded = fold(*pair_of(net))
    assert difference(net(batch()), block_of(*folded)(batch())) < 1e-5


def test_given_pair_is_left_as_it_was():
    net = ready(unit(8))
    symbol, params = pair_of(net)
    text, before = symbol.tojson(), {n: v.asnumpy() for n, v in params.items()}
    fold(symbol, params)
    assert symbol.tojson() == text
    assert all((params[n].asnumpy() == v).all() for n, v in before.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet50_v1d", "resnet18_v2", "mobilenetv3_small", "resnest14"],
)
def test_nets_of_the_zoo_fold(name):
    shape = (1, 3, 64, 64)
    net = ready(get_model(name, pretrained=False), shape)
    folded = fold(*pair_of(net))
    assert difference(net(batch(shape)), block_of(*folded)(batch(shape))) < 1e-5
    if name == "resnet50_v1d":
        assert norms(folded[0]) == 0


def test_fused_net_computes_what_its_net_does():
    net = training.training_net(detector(size=96), taps=("map0", "map5"), stride=2)
    images = mx.nd.random.normal(shape=(2, 3, 96, 96))
    wanted, found = list(net(images).values()), fused(net)(images)
    assert len(wanted) == len(found) == 4
    for ours, its in zip(wanted, found):
        difference = np.abs(ours.asnumpy() - its.asnumpy()).max()
        assert difference <= 1e-5 * np.abs(ours.asnumpy()).max()


def test_fused_net_is_on_the_devices_that_are_asked_for():
    devices = [mx.cpu(0), mx.cpu(1)]
    net = fused(detector(size=96), devices)
    assert all(p.list_ctx() == devices for p in net.collect_params().values())
    images = mx.nd.random.normal(shape=(1, 3, 96, 96))
    first, second = (net(images.as_in_context(device))[0] for device in devices)
    np.testing.assert_array_equal(first.asnumpy(), second.asnumpy())
