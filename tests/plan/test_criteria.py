from __future__ import annotations

import math

import mxnet as mx
import numpy as np
import pytest

from gluon_compress import Budget, count, select, trace
from gluon_compress.plan import CRITERIA, Constraints
from gluon_compress.plan.importance import importance_of
from nets import (
    NETS,
    SHAPE,
    Wired,
    chain,
    conv,
    few_groups,
    graph_of,
    ready,
    residual,
    unit,
    wide,
)


@pytest.fixture(scope="module")
def graph():
    return trace(ready(wide()), SHAPE)


@pytest.fixture(scope="module")
def tiny():
    return trace(ready(chain()), SHAPE)


def two_layers():
    net = Wired(lambda F, m, x: m["b"](m["a"](x)), a=conv(4), b=conv(2))
    return trace(ready(net), SHAPE)


def named(graph, shape: tuple) -> list[str]:
    """Return the parameters of a shape."""
    return [name for name in graph.params if graph.params[name].shape == shape]


def normalised(rows) -> np.ndarray:
    rows = np.asarray(rows, float)
    return rows / np.sqrt((rows**2).mean())


@pytest.mark.parametrize(
    ("criterion", "measure"),
    [
        ("l1", lambda rows: np.abs(rows).mean(1)),
        ("l2", lambda rows: np.sqrt((rows**2).mean(1))),
    ],
)
def test_importance_of_filters_is_their_normalised_mean(criterion, measure):
    graph = two_layers()
    (weight,) = named(graph, (4, 3, 3, 3))
    rows = graph.params[weight].asnumpy().astype(float).reshape(4, -1)
    expected = normalised(measure(rows))
    np.testing.assert_allclose(importance_of(graph, criterion)["conv0"], expected)


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_importance_of_constant_filters_is_their_share(criterion):
    graph = two_layers()
    (weight,) = named(graph, (4, 3, 3, 3))
    graph.params[weight][:] = np.reshape([1, -2, 3, -4], (4, 1, 1, 1))
    expected = np.array([1, 2, 3, 4]) / math.sqrt((1 + 4 + 9 + 16) / 4)
    np.testing.assert_allclose(importance_of(graph, criterion)["conv0"], expected)


def test_importance_of_a_group_is_the_mean_over_its_producers():
    graph = trace(ready(residual()), SHAPE)
    weights = named(graph, (8, 3, 3, 3)) + named(graph, (8, 6, 3, 3))
    ramps = np.arange(1, 9), np.arange(8, 0, -1) ** 2
    for name, ramp in zip(weights, ramps):
        graph.params[name][:] = np.reshape(ramp, (8, 1, 1, 1))
    expected = np.mean([normalised(ramp) for ramp in ramps], axis=0)
    np.testing.assert_allclose(importance_of(graph, "l1")["conv0"], expected)


def test_bn_scale_is_the_mean_absolute_scale():
    graph = trace(ready(residual()), SHAPE)
    gammas = [n for n in graph.params if n.endswith("gamma")]
    wide = [n for n in gammas if graph.params[n].shape == (8,)]
    graph.params[wide[0]][:] = np.arange(8)
    graph.params[wide[1]][:] = -2 * np.arange(8)
    found = importance_of(graph, "bn_scale")
    np.testing.assert_allclose(found["conv0"], 1.5 * np.arange(8))
    (narrow,) = set(gammas) - set(wide)
    expected = np.abs(graph.params[narrow].asnumpy())
    np.testing.assert_allclose(found["conv1"], expected, rtol=1e-6)


def test_bn_l1_is_the_product(graph):
    both = importance_of(graph, "bn_scale"), importance_of(graph, "l1")
    for name, found in importance_of(graph, "bn_l1").items():
        np.testing.assert_allclose(found, both[0][name] * both[1][name])


def test_median_is_the_mean_distance_from_the_other_filters():
    graph = two_layers()
    (weight,) = named(graph, (4, 3, 3, 3))
    rows = np.zeros((4, 27))
    # On a line: at 0, 1, 2 and 6.
    rows[:, 5] = 0, 1, 2, 6
    graph.params[weight][:] = rows.reshape(4, 3, 3, 3)
    expected = normalised([0 + 1 + 2 + 6, 1 + 0 + 1 + 5, 2 + 1 + 0 + 4, 6 + 5 + 4])
    np.testing.assert_allclose(importance_of(graph, "median")["conv0"], expected)


def test_groups_without_a_scale_get_the_importance_of_their_weights():
    net = Wired(
        lambda F, m, x: m["c"](m["b"](m["a"](x))), a=unit(4), b=conv(3), c=conv(2)
    )
    graph = trace(ready(net), SHAPE)
    found = importance_of(graph, "bn_scale")
    expected = found["conv0"].mean() * importance_of(graph, "l2")["conv1"]
    np.testing.assert_allclose(found["conv1"], expected)


def test_index_of_several_channels_has_their_mean():
    graph = trace(ready(few_groups()), SHAPE)
    gamma = next(n for n in graph.params if graph.params[n].shape == (24,))
    graph.params[gamma][:] = np.arange(24)
    expected = (np.arange(12) + np.arange(12, 24)) / 2
    np.testing.assert_allclose(importance_of(graph, "bn_scale")["conv1"], expected)


def test_random_importance_is_by_seed_and_name(graph, tiny):
    first, again, other = (importance_of(graph, "random", seed) for seed in (1, 1, 2))
    assert all(
        (first[n] == again[n]).all() and (first[n] != other[n]).any() for n in first
    )
    # The same name and width in another net: the same numbers.
    assert (importance_of(tiny, "random", 1)["conv0"] == first["conv0"][:8]).all()


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", NETS)
def test_every_free_index_of_every_net_has_an_importance(name, criterion):
    graph = graph_of(name)
    found = importance_of(graph, criterion)
    free = {g.name: g.width for g in graph.groups if not g.frozen}
    assert {n: len(row) for n, row in found.items()} == free
    assert all(np.isfinite(row).all() and (row >= 0).all() for row in found.values())


def test_criterion_needs_values():
    message = r"criterion 'l1' needs values, parameter 'conv\d+_weight' has none"
    with pytest.raises(ValueError, match=message):
        importance_of(trace(chain(), SHAPE), "l1")
    assert importance_of(trace(chain(), SHAPE), "random")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("criterion", [*CRITERIA, {}])
def test_values_that_are_not_finite_are_named(criterion, value):
    net = ready(chain())
    weight = list(net.collect_params(".*conv.*weight").values())[1]
    name = weight.name
    array = weight.data().asnumpy()
    array[2, 3, 1, 0] = value
    weight.set_data(mx.nd.array(array))
    graph = trace(net, SHAPE)
    message = rf"parameter '{name}' holds {value} at \[2, 3, 1, 0\]; allowed: finite"
    with pytest.raises(ValueError, match=message) as raised:
        select(graph, Budget.share(count(graph), macs=0.5), criterion)
    assert "\n" not in str(raised.value)


def test_criterion_on_data_needs_data(graph):
    with pytest.raises(ValueError, match="criterion 'taylor' needs data: measure with"):
        importance_of(graph, "taylor")


def test_equal_importance_keeps_the_first_indices():
    net = ready(chain())
    for parameter in net.collect_params(".*weight").values():
        parameter.set_data(parameter.data() * 0 + 1)
    graph = trace(net, SHAPE)
    budget = Budget.share(count(graph), macs=0.4)
    plan = select(graph, budget, constraints=Constraints(multiple=1, ends=True))
    for group in graph.groups:
        kept = plan.kept(group)
        assert kept == tuple(range(len(kept)))
    assert len(plan.keep["conv0"]) < 8


def test_unknown_criterion_names_the_known(graph):
    message = "criterion 'best' is unknown; allowed: l1, l2, bn_scale"
    with pytest.raises(ValueError, match=message):
        importance_of(graph, "best")
