from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from gluon_compress import Plan, mask, trace
from gluon_compress.prune import PlanScore, WeightFitter
from nets import NETS, SHAPE, batch, conv, flat, random_plan, ready


def images(count=64, seed=0):
    random = np.random.RandomState(seed)
    return [mx.nd.array(random.randn(count, *SHAPE[1:]))]


def total(net) -> float:
    return float(sum(np.abs(output).sum() for output in flat(net(batch()))))


@pytest.mark.parametrize("name", ["chain", "residual", "concat", "depthwise"])
def test_the_score_of_a_plan_is_the_accuracy_of_its_masked_net(name):
    net = ready(NETS[name](), SHAPE)
    graph = trace(net, SHAPE)
    score = PlanScore(net, total, graph=graph)
    for seed in (1, 2, 1):
        plan = random_plan(graph, seed)
        expected = total(mask(net, plan, graph=graph))
        assert score(plan) == pytest.approx(expected, rel=1e-6)
    assert score(Plan({})) == pytest.approx(total(net), rel=1e-6)


def test_weights_are_those_of_least_squares_on_the_full_nets_inputs():
    net = nn.HybridSequential()
    net.add(conv(8), nn.Activation("relu"), conv(5, 1))
    ready(net, SHAPE)
    graph = trace(net, SHAPE)
    kept = [0, 3, 5]
    fitter = WeightFitter(net, images(), points=64, ridge=1e-12, graph=graph)

    values = fitter.values(Plan({graph.groups[0].name: kept}))

    (x,) = images()
    hidden = net[1](net[0](x)).asnumpy().transpose(0, 2, 3, 1).reshape(-1, 8)
    rows = np.hstack([hidden[:, kept], np.ones((len(hidden), 1))]).astype(float)
    targets = net(x).asnumpy().transpose(0, 2, 3, 1).reshape(-1, 5)
    expected, *_ = np.linalg.lstsq(rows, targets, rcond=None)
    *_, weight, bias = net.collect_params()
    np.testing.assert_allclose(values[weight][:, kept, 0, 0], expected[:3].T, atol=1e-4)
    gone = [k for k in range(8) if k not in kept]
    assert not values[weight][:, gone].any()
    np.testing.assert_allclose(values[bias], expected[3], atol=1e-4)


@pytest.mark.parametrize(
    "name", ["residual", "concat", "few_groups", "flatten_dense", "preactivation"]
)
def test_a_fitted_plan_is_nearer_to_the_full_net_and_leaves_no_trace(name):
    net = ready(NETS[name](), SHAPE)
    graph = trace(net, SHAPE)
    plan = random_plan(graph, seed=3)
    fitter = WeightFitter(net, images(), points=64, graph=graph)
    outputs = []

    def record(masked) -> float:
        outputs.append(flat(masked(images(seed=0)[0])))
        return 0.0

    score = PlanScore(net, record, fitter=fitter, graph=graph)
    score(plan)
    score(Plan({}))
    PlanScore(net, record, graph=graph)(plan)
    fitted, whole, cut = outputs
    (x,) = images(seed=0)
    full = flat(net(x))

    def error(values) -> float:
        return sum(float(np.square(a - b).sum()) for a, b in zip(values, full))

    assert error(fitted) < error(cut)
    for a, b in zip(whole, full):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_an_accuracy_that_is_no_number_is_refused():
    net = ready(NETS["chain"](), SHAPE)
    with pytest.raises(ValueError, match="accuracy is nan"):
        PlanScore(net, lambda masked: float("nan"), shape=SHAPE)(Plan({}))


def test_a_plan_of_another_net_is_refused():
    net = ready(NETS["chain"](), SHAPE)
    with pytest.raises(ValueError, match="no_such"):
        PlanScore(net, total, shape=SHAPE)(Plan({"no_such": [0]}))
