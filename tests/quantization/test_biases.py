"""Biases that are whole steps of integer kernels."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

import gluon_compress as gc
from gluon_compress.deployment.folding import fold
from gluon_compress.deployment.quantised import QuantisedGraph
from gluon_compress.graph import pair_of
from gluon_compress.graph.symbols import take_apart
from gluon_compress.quantization import quantize
from gluon_compress.quantization.biases import settle_biases, with_whole_biases
from nets import SHAPE, batch, chain, difference, flat, ready


def parts_of_steps(net) -> np.ndarray:
    """Return how far the biases of the files of a chain are from whole steps."""
    graph = QuantisedGraph.of(*fold(*pair_of(net), SHAPE))
    nodes, _ = take_apart(graph.symbol)
    parts = []
    for node in nodes:
        if node["op"] in ("Convolution", "FullyConnected"):
            source, weight, bias = (nodes[i]["name"] for i, *_ in node["inputs"])
            grid = graph.tensors[source]
            scale = graph.weights[weight].scale * np.float32(grid.scale)
            steps = graph.params[bias].asnumpy() / scale
            parts.append(np.abs(steps - np.rint(steps)).max())
    assert len(parts) == 3
    return np.array(parts)


def trained(net) -> None:
    """Take a step of training."""
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01})
    with autograd.record():
        loss = net(batch()).square().mean()
    loss.backward()
    trainer.step(1)


def test_a_quantised_net_has_whole_biases_and_computes_nearly_the_same():
    net, x = ready(chain()), batch()
    made = quantize(net, None, [(x,)], shape=SHAPE)
    assert parts_of_steps(made).max() < 0.01
    assert difference(net(x), made(x)) < 0.05


def test_training_moves_biases_and_they_settle_again():
    net = quantize(ready(chain()), None, [(batch(),)], shape=SHAPE)
    trained(net)
    assert parts_of_steps(net).max() > 0.1
    whole = with_whole_biases(net)
    assert parts_of_steps(net).max() > 0.1
    settle_biases(net)
    for one in (whole, net):
        assert parts_of_steps(one).max() < 0.01
    assert np.array_equal(flat(whole(batch()))[0], flat(net(batch()))[0])


def test_a_loop_exports_whole_biases():
    rows = [{"algorithm": "quantize", "weights": {"ranges": "learned"}}]
    net, controller = gc.compress(ready(chain()), rows, [(batch(),)])
    trained(net)
    controller.step()
    kept = controller._hooks.finished(net)
    assert parts_of_steps(kept).max() < 0.01
    assert parts_of_steps(net).max() > 0.1


def test_nets_without_quantisers_stay_as_they_are():
    net = ready(chain())
    assert with_whole_biases(net, SHAPE) is net
    before = net[-1].bias.data().asnumpy()
    settle_biases(net)
    assert net[-1].bias.data().asnumpy() == pytest.approx(before, abs=0)
    assert isinstance(net(batch()), mx.nd.NDArray)
