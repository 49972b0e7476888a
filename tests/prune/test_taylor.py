from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from gluon_compress import Budget, count, effects, select, slim, taylor, trace
from gluon_compress.plan import Constraints
from gluon_compress.plan.importance import importance_of
from gluon_compress.prune import mask
from nets import SHAPE, batch, chain, ready, residual


def step_loss(net, images):
    return (net(images[0]) ** 2).mean(), {}


def values(net) -> dict:
    return {n: p.data().asnumpy() for n, p in net.collect_params().items()}


def test_worth_is_the_square_of_the_slope_at_the_mask():
    # Without BatchNorm, whose statistics a changed mask would move.
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Dense(6, activation="relu"), mx.gluon.nn.Dense(3))
    ready(net, (1, 4))
    inputs = batch((1, 4))
    found = taylor(net, [(inputs,)], step_loss, shape=(1, 4))["dense0"]
    masked = mask(net, None, shape=(1, 4))
    (gate,) = [p for n, p in masked.collect_params().items() if n == "dense0_mask"]

    def loss_with(i: int, change: float) -> float:
        changed = np.ones(6)
        changed[i] += change
        gate.set_data(mx.nd.array(changed))
        return float(step_loss(masked, (inputs,))[0].asscalar())

    step = 1e-2
    slopes = [(loss_with(i, step) - loss_with(i, -step)) / (2 * step) for i in range(6)]
    squares = np.square(slopes)
    expected = squares / np.sqrt((squares**2).mean())
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_worth_is_the_mean_over_batches():
    net = ready(residual())
    parts = [(batch(seed=1),), (batch(seed=2),)]
    one, other = (taylor(net, [part], step_loss, shape=SHAPE) for part in parts)
    both = taylor(net, parts, step_loss, shape=SHAPE)
    for name, found in both.items():
        # All are normalised, so only the direction of the sum is known.
        assert np.isfinite(found).all()
        assert found.min() >= 0
        inside = np.linalg.lstsq(np.stack([one[name], other[name]], 1), found, None)
        np.testing.assert_allclose(inside[1], 0, atol=1e-6)


@pytest.mark.parametrize("form", ["numpy", "cpu_shared", "cpu_pinned"])
def test_arrays_of_any_reader_are_taken(form):
    net, images = ready(residual()), batch()
    other = (
        images.asnumpy() if form == "numpy" else images.as_in_context(mx.Context(form))
    )
    wanted = taylor(net, [(images,)], step_loss, shape=SHAPE)
    found = taylor(net, [(other,)], step_loss, shape=SHAPE)
    moved = effects(net, [other], shape=SHAPE)
    assert moved == effects(net, [images], shape=SHAPE)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


def test_net_stays_as_it_was():
    net = ready(residual())
    before = values(net)
    taylor(net, [(batch(),)], step_loss, shape=SHAPE)
    after = values(net)
    assert all((before[n] == after[n]).all() for n in before)
    assert all(p.grad_req == "write" for p in net.collect_params(".*weight").values())


def test_plan_follows_the_worth_it_is_given():
    net = ready(chain())
    graph = trace(net, SHAPE)
    worth = {"conv0": np.arange(8), "conv1": np.arange(6)[::-1]}
    budget = Budget.share(count(graph), macs=0.5)
    plan = select(graph, budget, worth, constraints=Constraints(multiple=1))
    kept = plan.keep["conv0"]
    assert kept == tuple(range(8 - len(kept), 8))
    assert plan.keep["conv1"] == tuple(range(len(plan.keep["conv1"])))
    assert plan.made_by["criterion"] == "given"
    assert slim(net, plan, shape=SHAPE)(batch()).shape == (2, 5)


@pytest.mark.parametrize(
    ("worth", "message"),
    [
        ({"conv0": np.ones(8)}, "no importance for group 'conv1'"),
        ({"conv0": np.ones(7), "conv1": np.ones(6)}, "'conv0' has shape .7,."),
        ({"conv0": np.full(8, np.nan), "conv1": np.ones(6)}, "8 finite numbers"),
        ({"conv0": -np.ones(8), "conv1": np.ones(6)}, "8 finite numbers from 0"),
    ],
)
def test_worth_that_does_not_fit_is_refused(worth, message):
    with pytest.raises(ValueError, match=message):
        importance_of(trace(ready(chain()), SHAPE), worth)


def test_value_that_is_not_finite_is_named_before_any_batch():
    net = ready(chain())
    weight = next(iter(net.collect_params(".*weight").values()))
    weight.set_data(weight.data() * np.nan)
    with pytest.raises(ValueError, match=f"parameter '{weight.name}' holds nan at"):
        taylor(net, [(batch(),)], step_loss, shape=SHAPE)


def test_data_is_needed():
    with pytest.raises(ValueError, match="there is no batch"):
        taylor(ready(chain()), [], step_loss, shape=SHAPE)
