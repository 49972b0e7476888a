"""Random budgets: never above a limit, and close to the one that binds."""

from __future__ import annotations

import gluoncv
import mxnet as mx
import numpy as np
import pytest

from gluon_compress import Budget, build, count, models, select, trace
from gluon_compress.plan import BySensitivity, Constraints, Sensitivity
from nets import NETS, graph_of
from searches import DIRECT

LIMITS = (("macs",), ("bytes",), ("params",), ("macs", "bytes"), ("macs", "params"))


def curves(graph, random) -> Sensitivity:
    """Return made-up accuracies, some of them noisy, of every group."""
    free = [group for group in graph.groups if not group.frozen]
    points = {}
    for group in free:
        counts = sorted({max(group.width * k // 4, 1) for k in (1, 2, 3)}, reverse=True)
        points[group.name] = [(n, float(random.uniform(0.1, 0.8))) for n in counts]
    return Sensitivity(0.75, {g.name: g.width for g in free}, points, "random")


def options(graph, selection: str, random) -> dict:
    seed = int(random.randint(1000))
    if selection == "sensitivity":
        return {"selection": BySensitivity(curves(graph, random)), "seed": seed}
    return {"selection": selection, "seed": seed}


def limits(total, random, lowest: float, names: tuple = ()) -> Budget:
    names = names or LIMITS[random.randint(len(LIMITS))]
    shares = {name: float(random.uniform(lowest, 0.98)) for name in names}
    return Budget.share(total, **shares)


def used(cost, budget) -> list[float]:
    return [getattr(cost, name) / limit for name, limit in budget.limits.items()]


@pytest.mark.parametrize("selection", DIRECT)
@pytest.mark.parametrize("name", NETS)
def test_tiny_net_is_never_above_a_limit_and_takes_what_fits(name, selection):
    graph = graph_of(name)
    random = np.random.RandomState(len(name))
    for multiple in (1, 2, 8):
        budget = limits(count(graph), random, 0.7)
        how = options(graph, selection, random)
        how["constraints"] = Constraints(multiple=multiple, ends=True)
        try:
            plan = select(graph, budget, "random", **how)
        except ValueError as error:
            if "cannot be met: the least that can be reached is" in str(error):
                continue
            raise
        assert max(used(count(graph, plan), budget)) <= 1
        step = plan.made_by["multiple"]
        for group in graph.groups:
            kept = len(plan.kept(group)) * group.size
            whole = kept == group.width * group.size
            assert whole or kept % step == 0


def zoo(name: str):
    """Return the graph of a net of usual size; weights do not matter here."""
    if name == "ssd":
        return models.graph_of(build("ssd_300_resnet18_v1b", classes=["a", "b"]))
    net = gluoncv.model_zoo.get_model(name, pretrained=False)
    net.initialize(mx.init.Zero())
    net(mx.nd.zeros((1, 3, 32, 32)))
    return trace(net, (1, 3, 224, 224))


@pytest.fixture(scope="module", params=["resnet50_v1d", "mobilenet1.0", "ssd"])
def usual(request):
    return zoo(request.param)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("selection", "multiple", "names"),
    [
        ("greedy", 16, ("macs",)),
        ("greedy", 1, ("bytes",)),
        ("uniform", 8, ("params",)),
        ("global", 1, ("macs", "bytes")),
        ("sensitivity", 8, ("macs", "params")),
    ],
)
def test_usual_net_is_within_3_percent_of_the_limit_that_binds(
    usual, selection, multiple, names
):
    random = np.random.RandomState(multiple)
    budget = limits(count(usual), random, 0.2, names)
    how = options(usual, selection, random)
    how["constraints"] = Constraints(multiple=multiple)
    plan = select(usual, budget, "random", **how)
    assert plan.made_by["multiple"] == multiple
    shares = used(count(usual, plan), budget)
    assert 0.97 < max(shares) <= 1, (budget, plan.made_by)
