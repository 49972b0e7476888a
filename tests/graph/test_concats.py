"""Nets whose concatenations begin within a block of channels can be trained."""

from __future__ import annotations

import mxnet as mx
import pytest
from mxnet import autograd, gluon

import gluon_compress as gc
from gluon_compress.graph.concats import with_plain_gradients
from gluon_compress.models import family_of

SHAPE = (2, 16, 8, 8)


def joined(*widths: int) -> mx.sym.Symbol:
    """Return convolutions side by side, and one over all of them."""
    data = mx.sym.var("data")
    parts = [
        mx.sym.Convolution(data, kernel=(3, 3), num_filter=width, name=f"part{i}")
        for i, width in enumerate(widths)
    ]
    x = mx.sym.concat(*parts, dim=1, name="joined")
    return mx.sym.Convolution(x, kernel=(3, 3), num_filter=16, name="over")


def gradients(symbol: mx.sym.Symbol) -> list[mx.nd.NDArray]:
    block = gluon.SymbolBlock(symbol, mx.sym.var("data", dtype="float32"))
    mx.random.seed(0)
    block.initialize(mx.init.Normal(0.1))
    block.hybridize()
    with autograd.record():
        loss = (block(mx.nd.ones(SHAPE)) ** 2).sum()
    loss.backward()
    return [p.grad().asnumpy() for p in block.collect_params().values()]


@pytest.mark.parametrize("widths", [(20, 44), (24, 24), (16, 20, 28)])
def test_a_part_may_begin_anywhere(widths):
    symbol = with_plain_gradients(joined(*widths), {"data": SHAPE})
    assert "joined_plain_output" in symbol.get_internals().list_outputs()
    assert all(abs(gradient).max() > 0 for gradient in gradients(symbol))


@pytest.mark.parametrize("widths", [(16, 32), (32, 20)])
def test_parts_that_begin_with_a_block_stay(widths):
    symbol = joined(*widths)
    assert with_plain_gradients(symbol, {"data": SHAPE}) is symbol


def test_vectors_stay():
    symbol = mx.sym.concat(mx.sym.var("a"), mx.sym.var("b"), dim=1)
    assert with_plain_gradients(symbol, {"a": (2, 3), "b": (2, 5)}) is symbol


def test_a_shufflenet_takes_a_step():
    net = gc.build("codenet_a", classes=["a"], size=64)
    block = family_of(net).training_net(net)
    with autograd.record():
        loss = sum(
            (map_ * map_).sum() for map_ in block(mx.nd.ones((1, 3, 64, 64))).values()
        )
    loss.backward()
    first = net.collect_params()["trunk_stem_conv_weight"]
    assert abs(first.grad().asnumpy()).max() > 0


def test_a_classifier_is_trained_as_a_symbol_where_it_has_to():
    net = gc.build("cifar_resnet20_v1", classes=["a", "b"], size=32)
    family = family_of(net)
    assert family.training_net(net).block is net
    data = mx.sym.var("data")
    x = mx.sym.Convolution(joined(20, 44), kernel=(1, 1), num_filter=2, name="last")
    symbol = mx.sym.flatten(mx.sym.Pooling(x, global_pool=True, pool_type="avg"))
    shapes, _, _ = symbol.infer_shape(data=(1, 3, 32, 32))
    names = symbol.list_arguments()
    params = {n: mx.nd.ones(s) for n, s in zip(names, shapes) if n != data.name}
    other = family.from_symbol(symbol, params, family.config_of(net))
    assert family.training_net(other).block is not other
