"""What latency is measured on: nets by name, and plans to compare sums with."""

from __future__ import annotations

from pathlib import Path


def net_of(name: str):
    """Return the net of a model folder, of this package, or of GluonCV's model zoo.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    from gluoncv import model_zoo
    from mxnet import nd

    from gluon_compress import models

    if Path(name).is_dir():
        return models.load(name)
    if name in models.MODELS:
        return models.build(name)
    net = model_zoo.get_model(name, pretrained=False)
    net.initialize()
    net(nd.zeros((1, 3, 224, 224)))
    return net


def plans_of(graph, table) -> dict:
    """Return plans of different shape for a net, with names to print."""
    import gluon_compress as gc

    cost, quarter = gc.count(graph), gc.predict_latency(graph, table) / 4
    plans = {"everything": gc.Plan({}), "half of all": gc.delete(graph, {"*": 0.5})}
    plans["1/4 MACs"] = gc.select(graph, gc.Budget.share(cost, macs=0.25))
    limit = gc.Budget(latency_ms=quarter)
    plans["1/4 latency"] = gc.select(graph, limit, table=table)
    for seed, share in ((1, 0.7), (2, 0.3)):
        limit, how = gc.Budget.share(cost, macs=share), {"selection": "global"}
        plans[f"random {seed}"] = gc.select(graph, limit, "random", seed=seed, **how)
    return plans
