from __future__ import annotations

import mxnet as mx
from mxnet import autograd

from gluon_compress import Plan, mask, trace
from gluon_compress.graph import symbol_of
from gluon_compress.graph.symbols import take_apart
from nets import SHAPE, batch, chain, plain, ready, residual


def products_of(net) -> list[tuple]:
    """Return the number of axes of every product that was put in."""
    symbol = symbol_of(net)
    internals = symbol.get_internals()
    shapes = internals.infer_shape(data=SHAPE)[1]
    sizes = dict(zip(internals.list_outputs(), shapes))
    nodes, _ = take_apart(symbol)
    made = [n["name"] for n in nodes if n["op"] == "broadcast_mul"]
    return [len(sizes[f"{name}_output"]) for name in made]


def test_masks_behind_batchnorm_act_on_its_scale_and_shift():
    # Two BatchNorms, two vectors each; maps are not multiplied.
    assert products_of(mask(ready(chain()), None, shape=SHAPE)) == [1] * 4


def test_masks_act_on_maps_where_there_is_no_batchnorm():
    assert set(products_of(mask(ready(plain()), None, shape=SHAPE))) == {4}


def test_masks_leave_no_trace_in_the_graph():
    net = ready(residual())
    masked = mask(net, Plan({"conv0": (1, 2)}), shape=SHAPE)
    own, other = trace(net, SHAPE), trace(masked, SHAPE)
    assert other.ops == own.ops
    assert [g.name for g in other.groups] == [g.name for g in own.groups]
    assert list(other.params) == list(own.params)


def test_scale_of_dead_channels_is_kept_and_gets_no_gradient():
    net = ready(chain())
    masked = mask(net, Plan({"conv0": (1, 2)}), shape=SHAPE)
    gamma = next(p for p in masked.collect_params(".*gamma").values())
    before = gamma.data().asnumpy()
    with autograd.record():
        loss = (masked(batch()) ** 2).sum()
    loss.backward()
    slopes = gamma.grad().asnumpy()
    assert (before != 0).all()
    assert (slopes[[0, 3, 4, 5, 6, 7]] == 0).all()
    assert (slopes[[1, 2]] != 0).all()
    mx.nd.waitall()
