from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo import get_model

from gluon_compress.deployment import fused
from gluon_compress.deployment.fusing import fuse, fusible
from gluon_compress.graph import block_of
from nets import difference, ready

S = mx.sym
DATA = S.var("data")
SHAPE = (2, 4, 6, 6)


def layer(x, name):
    return S.Convolution(x, num_filter=4, kernel=(3, 3), pad=(1, 1), name=name)


def active(x, kind):
    if kind == "norm":
        return S.BatchNorm(x, fix_gamma=False, name="n")
    return S.clip(x, 0, 6) if kind == "clip" else S.Activation(x, act_type="relu")


def residual(kind):
    x = layer(DATA, "a")
    return layer(active(x, kind), "b") + x


def residual_of_sums(kind):
    x = layer(DATA, "a") + layer(DATA, "b")
    return layer(active(x, kind), "c") + x


def layer_among_outputs(kind):
    x = layer(DATA, "a")
    return S.Group([active(x, kind), x])


def dense_among_outputs(kind):
    x = S.FullyConnected(DATA, num_hidden=4, name="a")
    return S.Group([active(x, kind), x])


def copied_input(kind):
    return active(layer(S.Dropout(S.identity(DATA)), "a"), kind)


@pytest.mark.parametrize("kind", ["norm", "relu", "clip"])
@pytest.mark.parametrize(
    "build",
    [
        residual,
        residual_of_sums,
        layer_among_outputs,
        dense_among_outputs,
        copied_input,
    ],
)
def test_fused_graph_computes_the_same(build, kind):
    symbol, random = build(kind), np.random.RandomState(0)
    shapes, _, states = symbol.infer_shape(data=SHAPE)
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    params = {
        name: mx.nd.array(random.uniform(0.5, 2, size) - (len(size) > 1))
        for name, size in zip(names, [*shapes, *states])
        if name != "data"
    }
    x = mx.nd.random.normal(shape=SHAPE)
    wanted, found = (block_of(s, params)(x) for s in (symbol, fuse(symbol)))
    assert difference(wanted, found) < 1e-5
    states = {name: params.pop(name) for name in symbol.list_auxiliary_states()}
    executor = fusible(symbol).bind(mx.cpu(), {**params, "data": x}, aux_states=states)
    assert difference(wanted, executor.forward()) < 1e-5


def test_fused_resnet_v2_computes_the_same():
    shape = (1, 3, 8, 8)
    net = ready(get_model("cifar_resnet20_v2", classes=3), shape)
    x = mx.nd.random.normal(shape=shape)
    assert difference(net(x), fused(net)(x)) < 1e-5
