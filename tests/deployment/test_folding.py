from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo import get_model
from mxnet.gluon import nn

from gluon_compress.deployment import fold, folding, fused
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


S = mx.sym
DATA = S.var("data")


def layer(x=DATA, name="c", channels=4, **how):
    how = {"kernel": (3, 3), "pad": (1, 1), **how}
    return S.Convolution(x, num_filter=channels, name=name, **how)


def norm(x, name="n", **how):
    return S.BatchNorm(x, fix_gamma=False, name=name, **how)


def dense(**how):
    return S.FullyConnected(DATA, num_hidden=4, name="c", **how)


def bias_read_twice():
    bias = S.var("b")
    return norm(layer(bias=bias)) + layer(name="d", bias=bias)


def weight_of_one_name():
    first, second = S.var("w"), S.var("w")
    return norm(layer(weight=first)) + layer(name="d", weight=second)


def scale_read_twice():
    how = {"gamma": S.var("g_gamma"), "beta": S.var("b_beta")}
    return norm(layer(), **how) + norm(layer(name="d"), "m", **how)


def taken_name():
    factor = S.reshape(S.var("c_bias", shape=(4,)), (1, 4, 1, 1))
    return norm(layer(no_bias=True)) + S.broadcast_mul(layer(name="d"), factor)


def two_norms_of_a_layer():
    x = layer()
    return norm(x) + norm(x, "m")


def layer_among_the_outputs():
    x = layer()
    return S.Group([norm(x), x])


def deconvolution(groups):
    return S.Deconvolution(
        DATA, num_filter=4, kernel=(2, 2), num_group=groups, name="c"
    )


# Graphs, and the BatchNorms that cannot be folded.
GRAPHS = {
    "norm behind a norm": (lambda: norm(norm(layer()), "m"), 0),
    "bias read twice": (bias_read_twice, 0),
    "two variables of one name": (weight_of_one_name, 1),
    "scale and shift read twice": (scale_read_twice, 0),
    "name taken": (taken_name, 0),
    "two norms of a layer": (two_norms_of_a_layer, 2),
    "layer among the outputs": (layer_among_the_outputs, 1),
    "norm behind a concat": (lambda: norm(S.concat(layer(), DATA, dim=1)), 1),
    "another axis": (lambda: norm(layer(), axis=2), 1),
    "axis from the end": (lambda: norm(layer(), axis=-3), 0),
    "statistics of the batch too": (lambda: norm(layer(), use_global_stats=True), 0),
    "grouped": (lambda: norm(layer(num_group=2)), 0),
    "deconvolution": (lambda: norm(deconvolution(1)), 0),
    "grouped deconvolution": (lambda: norm(deconvolution(2)), 1),
    "dense": (lambda: norm(dense()), 0),
    "dense along the last axis": (lambda: norm(dense(flatten=False), axis=-1), 0),
    "dense along another axis": (lambda: norm(dense(flatten=False)), 1),
    "computed shift": (lambda: norm(layer(), beta=2 * S.var("b_beta", shape=(4,))), 1),
}


def filled(symbol, shape):
    """Return a symbol's parameters with random values."""
    random = np.random.RandomState(0)
    shapes, _, states = symbol.infer_shape(data=shape)
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    params = {}
    for name, size in zip(names, [*shapes, *states]):
        positive = name.endswith(("gamma", "var"))
        values = random.uniform(0.5, 2, size) if positive else random.normal(size=size)
        params[name] = mx.nd.array(values)
    del params["data"]
    return params


@pytest.mark.parametrize("graph", GRAPHS)
def test_batchnorm_folds_where_it_is_exact(graph):
    build, left = GRAPHS[graph]
    symbol, shape = build(), (2, 4, 4, 4)
    params = filled(symbol, shape)
    folded = fold(symbol, params)
    assert norms(folded[0]) == left
    x = mx.nd.random.normal(shape=shape)
    for wanted, found in zip(outputs((symbol, params), x), outputs(folded, x)):
        assert np.abs(wanted - found).max() <= 1e-5 * np.abs(wanted).max()


def outputs(pair, x):
    result = block_of(*pair)(x)
    result = result if isinstance(result, (list, tuple)) else [result]
    return [one.asnumpy() for one in result]


def test_output_of_a_folded_batchnorm_keeps_its_name():
    symbol = norm(layer(), "scores")
    folded, _ = fold(symbol, filled(symbol, (1, 4, 4, 4)))
    assert folded.list_outputs() == ["scores_output"]


def test_norms_in_float16_stay():
    symbol = norm(layer())
    params = filled(symbol, (1, 4, 4, 4))
    params["c_weight"] = params["c_weight"].astype("float16")
    assert norms(fold(symbol, params)[0]) == 1


def halved(symbol, params):
    """Return a pair that is not what it should be."""
    return symbol, {name: value / 2 for name, value in params.items()}


@pytest.mark.parametrize("prepare", [lambda pair, **how: fold(*pair, **how), fused])
def test_batchnorm_stays_where_the_folded_net_differs(monkeypatch, prepare):
    monkeypatch.setattr(folding, "_folded", halved)
    net = ready(NETS["chain"]())
    result = prepare(pair_of(net), shape=batch().shape)
    block = block_of(*result) if isinstance(result, tuple) else result
    assert difference(net(batch()), block(batch())) < 1e-5


def test_weights_that_change_when_they_are_baked_are_refused(monkeypatch):
    monkeypatch.setattr(folding, "_baked", halved)
    net = ready(NETS["chain"]())
    with pytest.raises(ValueError, match="of their scale"):
        fold(*pair_of(net), shape=batch().shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet50_v1d_0.11", "resnet18_v2", "mobilenetv3_small", "resnest14"],
)
def test_nets_of_the_zoo_fold(name):
    shape = (1, 3, 64, 64)
    net = ready(get_model(name, pretrained=False), shape)
    folded = fold(*pair_of(net))
    assert difference(net(batch(shape)), block_of(*folded)(batch(shape))) < 1e-5
    if name == "resnet50_v1d_0.11":
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
