"""Times the fused blocks of a net into a latency table, and checks its sums."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_devices, add_out, write_result

TEXT = """Time a net's fused blocks into a latency table; compare its sums with nets.

  %(prog)s resnet50_v1d --table latency.json --threads 2 --check
  %(prog)s runs/demo/full/model --size 300 --table latency.json

NET is a model folder, or a name of this package's models or of GluonCV's model zoo.
Only what the table lacks is timed. Let nothing else run on the machine. Threads wait
for each other actively (OMP_WAIT_POLICY=active), as in a program that is in a hurry;
with another value in the environment, the table is for that.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_devices(parser)
    parser.add_argument("net", metavar="NET")
    parser.add_argument(
        "--table", required=True, metavar="FILE", help="made or extended"
    )
    parser.add_argument("--size", type=above_0, default=224, help="default: 224")
    parser.add_argument(
        "--threads", type=above_0, help="default: OMP_NUM_THREADS or all"
    )
    parser.add_argument("--check", action="store_true", help="time whole nets, too")
    add_out(parser, "net", "rows", required=False)


def _measure(args: argparse.Namespace) -> None:
    """Time what is missing, save it, and say how far sums are from whole nets."""
    if args.threads:  # MXNet reads both when it is imported
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "active")
    import gluon_compress as gc
    from gluon_compress.graph import pair_of

    earlier = gc.LatencyTable.load(args.table) if Path(args.table).exists() else None
    net, shape = pair_of(net_of(args.net)), (1, 3, args.size, args.size)
    graph = gc.trace(net, shape)
    table = gc.measure_blocks(graph, earlier)
    table.save(args.table)
    print(f"{gc.predict_latency(graph, table):.2f} ms predicted for {table.machine}")
    if not args.check:
        return
    plans, rows = plans_of(graph, table), []
    nets = [gc.slim(net, plan, shape=shape) for plan in plans.values()]
    for name, measured in zip(plans, gc.latency.nets_ms(nets, shape)):
        predicted = gc.predict_latency(graph, table, plans[name])
        rows.append({"plan": name, "predicted_ms": predicted, "measured_ms": measured})
        times = f"{predicted:8.2f} ms predicted, {measured:8.2f} ms measured"
        print(f"{name:12} {times}, {predicted / measured - 1:+.1%}")
    if args.out:
        write_result(args.out, {"net": args.net, "shape": shape, "rows": rows})


def net_of(name: str) -> Any:
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
    if name in models.models_for("detection"):
        return models.build(name)
    net = model_zoo.get_model(name, pretrained=False)
    net.initialize()
    net(nd.zeros((1, 3, 224, 224)))
    return net


def plans_of(graph: Any, table: Any) -> dict[str, Any]:
    """Return plans of different shape for a net, with names to print."""
    import gluon_compress as gc

    cost, quarter = gc.count(graph), gc.predict_latency(graph, table) / 4
    plans = {"everything": gc.Plan({}), "half of all": gc.delete(graph, {"*": 0.5})}
    plans["1/4 MACs"] = gc.select(graph, gc.Budget.share(cost, macs=0.25))
    limit = gc.Budget(latency_ms=quarter)
    plans["1/4 latency"] = gc.select(graph, limit, table=table)
    for seed, share in ((1, 0.7), (2, 0.3)):
        limit = gc.Budget.share(cost, macs=share)
        plans[f"random {seed}"] = gc.select(
            graph, limit, "random", seed=seed, selection="global"
        )
    return plans


LATENCY = Command(TEXT, _add_options, _measure, writes=("table", "out"))
