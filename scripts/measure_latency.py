#!/usr/bin/env python
"""Time a net's units into a latency table; compare its sums with whole nets.

  scripts/measure_latency.py resnet50_v1d --table latency.json --threads 2 --check
  scripts/measure_latency.py runs/demo/full/model --size 300 --table latency.json

NET is a model folder, or a name of this package's models or of GluonCV's model zoo.
Only what the table lacks is timed. Let nothing else run on the machine. Threads wait
for each other actively (OMP_WAIT_POLICY=active), as a program that is in a hurry lets
them; with another value in the environment, the table is for that.
"""

from __future__ import annotations

import os
from pathlib import Path

from common import add_out, main, parser, write_result
from inputs import above_0
from subjects import net_of, plans_of


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("net", metavar="NET")
    made.add_argument("--table", required=True, metavar="FILE", help="made or extended")
    made.add_argument("--size", type=above_0, default=224, help="default: 224")
    made.add_argument("--threads", type=above_0, help="default: OMP_NUM_THREADS or all")
    made.add_argument("--check", action="store_true", help="time whole nets, too")
    add_out(made, "net", "rows", required=False)
    return made


def run(args) -> None:
    """Time what is missing, save it, and say how far sums are from whole nets."""
    if args.threads:  # MXNet reads both when it is imported
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "active")
    import gluon_compress as gc
    from gluon_compress.graph import pair_of

    known = gc.LatencyTable.load(args.table) if Path(args.table).exists() else None
    net, shape = pair_of(net_of(args.net)), (1, 3, args.size, args.size)
    graph = gc.trace(net, shape)
    table = gc.measure_units(graph, known)
    table.save(args.table)
    print(f"{gc.predict_latency(graph, table):.2f} ms predicted for {table.machine}")
    if not args.check:
        return
    plans, rows = plans_of(graph, table), []
    nets = [gc.slim(net, plan, shape=shape) for plan in plans.values()]
    for name, measured in zip(plans, gc.latency.nets_ms(nets, shape)):
        told = gc.predict_latency(graph, table, plans[name])
        rows.append({"plan": name, "predicted_ms": told, "measured_ms": measured})
        times = f"{told:8.2f} ms predicted, {measured:8.2f} ms measured"
        print(f"{name:12} {times}, {told / measured - 1:+.1%}")
    if args.out:
        write_result(args.out, {"net": args.net, "shape": shape, "rows": rows})


if __name__ == "__main__":
    main(run, arguments())
