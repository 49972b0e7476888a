from __future__ import annotations

import json

import numpy as np
import pytest

from gluon_compress import Budget, Plan, count, select, slim, trace
from gluon_compress.plan import BySensitivity, Constraints, Sensitivity
from gluon_compress.plan.importance import best_first, importance_of
from gluon_compress.prune import sensitivity
from nets import NETS, SHAPE, batch, chain, ready, residual, two_outputs

IMAGES = batch((8, *SHAPE[1:]))


def agreement(net, full=None) -> float:
    """Return something like accuracy: how near the outputs are to the full net's."""
    out = net(IMAGES).asnumpy()
    return float(1 / (1 + np.abs(out - (0 if full is None else full)).mean()))


def close_to(net):
    full = net(IMAGES).asnumpy()
    return lambda other: agreement(other, full)


class Counting:
    """A measure that counts its calls, and may stop like a killed process."""

    def __init__(self, measure, stop: int = 10**6) -> None:
        self.measure, self.stop, self.calls, self.nets = measure, stop, 0, set()

    def __call__(self, net) -> float:
        self.calls += 1
        self.nets.add(id(net))
        if self.calls > self.stop:
            raise KeyboardInterrupt
        return self.measure(net)


# What is measured.


def test_points_are_the_accuracies_of_slim_nets():
    net = ready(residual())
    graph, measure = trace(net, SHAPE), close_to(net)
    found = sensitivity(net, measure, ratios=(0.5, 0.25), criterion="l2", shape=SHAPE)
    assert found.full == pytest.approx(measure(net))
    assert list(found.curves) == ["conv0", "conv1"]
    for group in graph.groups:
        if group.frozen:
            continue
        order = best_first(range(group.width), importance_of(graph, "l2")[group.name])
        assert [n for n, _ in found.curves[group.name]] == [
            group.width // 2,
            group.width // 4,
        ]
        for kept, value in found.curves[group.name]:
            plan = Plan({group.name: sorted(order[:kept].tolist())})
            expected = measure(slim(net, plan, shape=SHAPE))
            assert value == pytest.approx(expected, rel=1e-5)
            assert value < 0.999


@pytest.mark.parametrize("name", ["depthwise", "few_groups", "shuffle", "halves"])
def test_index_of_several_channels_is_one(name):
    net = ready(NETS[name]())
    graph, measure = trace(net, SHAPE), close_to(net)
    found = sensitivity(net, measure, ratios=(0.5,), shape=SHAPE)
    group = next(g for g in graph.groups if not g.frozen)
    ((kept, value),) = found.curves[group.name]
    order = best_first(range(group.width), importance_of(graph, "l1")[group.name])
    plan = Plan({group.name: sorted(order[:kept].tolist())})
    expected = measure(slim(net, plan, shape=SHAPE))
    assert value == pytest.approx(expected, rel=1e-5)


def test_one_masked_net_is_measured_and_the_given_one_stays():
    net = ready(chain())
    before = {n: p.data().asnumpy() for n, p in net.collect_params().items()}
    measure = Counting(agreement)
    sensitivity(net, measure, ratios=(0.75, 0.5, 0.25), shape=SHAPE)
    assert measure.calls == 1 + 2 * 3
    assert len(measure.nets) == 1
    assert id(net) not in measure.nets
    after = {n: p.data().asnumpy() for n, p in net.collect_params().items()}
    assert all((before[n] == after[n]).all() for n in before)


def test_equal_widths_are_measured_once_and_one_index_stays():
    measure = Counting(agreement)
    found = sensitivity(ready(chain()), measure, ratios=(0.1, 0.05, 0.2), shape=SHAPE)
    assert {n: [k for k, _ in c] for n, c in found.curves.items()} == {
        "conv0": [1],
        "conv1": [1],
    }
    assert measure.calls == 3


def test_groups_are_chosen_by_pattern():
    how = {"groups": ("conv1",), "shape": SHAPE}
    assert list(sensitivity(ready(chain()), agreement, **how).curves) == ["conv1"]


def test_net_of_several_outputs_is_measured_by_its_own_measure():
    def measure(net) -> float:
        return float(net(IMAGES)[1].abs().mean().asscalar())

    found = sensitivity(ready(two_outputs()), measure, shape=SHAPE)
    assert set(found.curves) == {"conv0", "conv2"}


# How it is read.


def curve(*points) -> Sensitivity:
    return Sensitivity(0.8, {"a": 16}, {"a": points})


def test_lost_accuracy_lies_on_straight_lines_to_nothing():
    lost = curve((8, 0.6), (4, 0.2)).lost("a", [16, 12, 8, 6, 4, 2, 0])
    np.testing.assert_allclose(lost, [0, 0.1, 0.2, 0.4, 0.6, 0.7, 0.8])


def test_gain_is_noise():
    # More than the whole net, and a narrow group better than a wide one.
    lost = curve((12, 0.9), (8, 0.5), (4, 0.7)).lost("a", [12, 8, 4])
    np.testing.assert_allclose(lost, [0, 0.3, 0.3])


def test_more_channels_never_lose_more():
    random = np.random.RandomState(0)
    for _ in range(50):
        counts = sorted(random.choice(15, 4, replace=False) + 1, reverse=True)
        points = list(zip(map(int, counts), random.uniform(0, 1, 4).tolist()))
        lost = curve(*points).lost("a", np.arange(17))
        assert (np.diff(lost) <= 1e-12).all()
        assert lost[16] == 0


def test_plan_follows_the_measurement():
    net = ready(chain())
    found = sensitivity(net, close_to(net), shape=SHAPE)
    graph = trace(net, SHAPE)
    budget = Budget.share(count(graph), macs=0.5)
    constraints = Constraints(multiple=1, ends=True)
    plan = select(
        graph, budget, selection=BySensitivity(found), constraints=constraints
    )
    assert count(graph, plan).macs <= budget.macs
    assert plan.made_by["selection"] == "sensitivity"
    assert slim(net, plan, shape=SHAPE)(IMAGES).shape == (2, 5)


# The file.


def test_file_holds_what_was_measured(tmp_path):
    found = sensitivity(ready(chain()), agreement, shape=SHAPE)
    found.save(tmp_path / "s.json")
    assert Sensitivity.load(tmp_path / "s.json") == found


def test_interrupted_measurement_goes_on_where_it_was(tmp_path):
    net, cache = ready(residual()), tmp_path / "s.json"
    how = {"ratios": (0.5, 0.25), "shape": SHAPE}
    whole = sensitivity(net, agreement, **how)
    killed = Counting(agreement, stop=4)  # in the middle of the second group
    with pytest.raises(KeyboardInterrupt):
        sensitivity(net, killed, cache=cache, **how)
    assert list(json.loads(cache.read_text())["curves"]) == ["conv0"]
    rest = Counting(agreement)
    found = sensitivity(net, rest, cache=cache, **how)
    assert found == whole
    assert rest.calls == 2
    again = Counting(agreement)
    assert sensitivity(net, again, cache=cache, **how) == whole
    assert again.calls == 0


def test_cache_holds_for_another_build_of_the_same_net(tmp_path):
    cache = tmp_path / "s.json"
    sensitivity(ready(chain()), agreement, cache=cache, shape=SHAPE)
    again = Counting(agreement)  # other names: the process has built more nets
    sensitivity(ready(chain()), again, cache=cache, shape=SHAPE)
    assert again.calls == 0


def other_values():
    return ready(chain(), seed=1)


@pytest.mark.parametrize(
    ("net", "options"),
    [
        (other_values, {}),
        (lambda: ready(residual()), {}),
        (lambda: ready(chain()), {"criterion": "l2"}),
        (lambda: ready(chain()), {"ratios": (0.5,)}),
        (lambda: ready(chain()), {"criterion": "random", "seed": 1}),
    ],
)
def test_cache_of_something_else_is_refused_and_stays(tmp_path, net, options):
    cache = tmp_path / "s.json"
    first = {"criterion": "random"} if "seed" in options else {}
    sensitivity(ready(chain()), agreement, cache=cache, shape=SHAPE, **first)
    before = cache.read_bytes()
    message = r"s.json: measured on another net, criterion or ratios"
    with pytest.raises(ValueError, match=message):
        sensitivity(net(), agreement, cache=cache, shape=SHAPE, **options)
    assert cache.read_bytes() == before


GOOD = {
    "format": 1,
    "fingerprint": "x",
    "criterion": "l1",
    "full": 0.9,
    "curves": {"a": {"width": 8, "points": [[4, 0.5], [2, 0.4]]}},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "no sensitivity of format 1"),
        ({"full": None}, "accuracy of the whole net is None; allowed: a number from 0"),
        ({"full": -1}, "accuracy of the whole net is -1"),
        ({"curves": {"a": {"width": 8}}}, "no sensitivity: KeyError"),
        ({"curves": []}, "no sensitivity: AttributeError"),
        ({"curves": {"a": {"width": 8, "points": []}}}, r"group 'a' keeps \[\]; allow"),
        ({"curves": {"a": {"width": 8, "points": [[9, 1]]}}}, "allowed: 1 to 8"),
        ({"curves": {"a": {"width": 8, "points": [[0, 1]]}}}, "allowed: 1 to 8"),
        (
            {"curves": {"a": {"width": 8, "points": [[2, 1], [4, 1]]}}},
            r"keeps \[2, 4\]; allowed: falling numbers",
        ),
        (
            {"curves": {"a": {"width": 8, "points": [[2, "much"]]}}},
            "accuracy of group 'a' is 'much'",
        ),
    ],
)
def test_broken_file_is_named(tmp_path, change, message):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(ValueError, match=message) as raised:
        Sensitivity.load(path)
    assert str(raised.value).startswith(str(path))
    path.write_text(json.dumps(GOOD))
    assert Sensitivity.load(path).curves == {"a": ((4, 0.5), (2, 0.4))}


# Bad input.


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, None, "0.5", True])
def test_accuracy_is_a_number_from_0(value):
    message = r"accuracy of the whole net is .*; allowed: a number from 0"
    with pytest.raises(ValueError, match=message):
        sensitivity(ready(chain()), lambda net: value, shape=SHAPE)


def test_accuracy_that_goes_wrong_names_the_group():
    values = iter([0.9, 0.8, 0.7, 0.6, 0.5, float("nan"), 0.3])
    with pytest.raises(ValueError, match="accuracy of group 'conv1' is nan"):
        sensitivity(ready(chain()), lambda net: next(values), shape=SHAPE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": ()}, "ratios are empty"),
        ({"ratios": (1.0,)}, "ratio 1.0; allowed: above 0 and below 1"),
        ({"ratios": (0.5, 0)}, "ratio 0; allowed"),
        ({"ratios": (True,)}, "ratio True; allowed"),
        ({"ratios": ("0.5",)}, "ratio '0.5'; allowed"),
        ({"criterion": "best"}, "criterion 'best' is unknown"),
        ({"criterion": "taylor"}, "criterion 'taylor' needs data"),
        ({"groups": ("layer*",)}, "matches no group that can lose channels"),
    ],
)
def test_wrong_option_is_named_before_anything_is_measured(options, message):
    measure = Counting(agreement)
    with pytest.raises(ValueError, match=message):
        sensitivity(ready(chain()), measure, shape=SHAPE, **options)
    assert measure.calls == 0


def test_net_without_values_is_refused():
    with pytest.raises(ValueError, match="has no value: initialise the net"):
        sensitivity(chain(), agreement, shape=SHAPE)


def test_net_of_nan_is_refused():
    net = ready(chain())
    weight = next(iter(net.collect_params(".*weight").values()))
    weight.set_data(weight.data() * np.nan)
    with pytest.raises(ValueError, match=f"parameter '{weight.name}' holds nan"):
        sensitivity(net, agreement, shape=SHAPE)
