"""Compares what latency tables predict with the times of whole nets."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import product
from pathlib import Path
from typing import Any, Mapping

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.provenance import cores
from gluon_compress.storage.atomic import write_atomically

TEXT = """Compare what latency tables predict with the times of whole nets.

  %(prog)s --out runs/latency --runtimes onnxruntime ncnn --threads 1

For each runtime, precision and number of threads: measures a latency table of each net
(OUT/tables, extended if it is there), deploys random plans of it, times them, and
compares. Writes result.json and latency.md. Let nothing else run on the machine.
"""
NETS = ("ssd_300_resnet50_v1d", "ssd_300_mobilenet1.0")
SHAPE = (1, 3, 300, 300)
PAGE = "latency.md"
MEDIAN, WORST = 0.07, 0.15  # the largest errors aimed for
FIRST_SEED = 1000  # far from those of the nets that tables are fitted to
INTRODUCTION = """# Latency tables

A latency table has the times of the blocks of a net in one runtime and precision, at
several widths, and those of a few whole nets, to which four factors are fitted
([how](../guide.md#milliseconds)). Here the sum that it predicts is compared with the
time of deployed nets: random plans of SSD-300 for 20 classes, unknown to the tables.
The error is predicted over measured, minus one. Times are the smallest of all runs;
with one thread they are CPU time.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    from gluon_compress.deployment.latency.timings import PRECISIONS, RUNTIMES

    add_out(parser, "rows", files=[PAGE])
    parser.add_argument("--nets", nargs="+", default=list(NETS), metavar="NET")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS
    )
    parser.add_argument(
        "--threads", nargs="+", type=above_0, default=[1, cores()], metavar="N"
    )
    parser.add_argument("--plans", type=above_0, default=10, metavar="N")
    parser.add_argument("--spread", type=float, default=0.1, help="of latency")


def _benchmark(args: argparse.Namespace) -> None:
    """Measure setting by setting, print errors, and write both files."""
    from gluon_compress.deployment.latency.timings import TIMINGS

    out, rows = Path(args.out), []
    (out / "tables").mkdir(parents=True, exist_ok=True)
    settings = [
        (*pair, threads)
        for pair, threads in product(TIMINGS, sorted(set(args.threads)))
        if pair[0] in args.runtimes and pair[1] in args.precisions
    ]
    if not settings:
        raise ValueError("no runtime of --runtimes has one of --precisions")
    for setting in settings:
        for name in args.nets:
            row = compare(name, *setting, out, args.plans, args.spread)
            print(_line(row), flush=True)
            rows.append(row)
    result = write_result(out, {"rows": rows})
    page = page_of(json.loads(result.read_text(encoding="utf-8")))
    write_atomically(out / PAGE, page)
    print(result)


def compare(
    name: str,
    runtime: str,
    precision: str,
    threads: int,
    out: Path,
    count: int,
    spread: float,
) -> dict[str, Any]:
    """Return predicted and measured times of random plans of a net in one setting."""
    import gluon_compress as gc
    from gluon_compress.deployment.latency.measuring import deployed_ms, measure_table

    net = gc.build(name)
    graph = gc.trace(net, SHAPE)
    file = out / "tables" / f"{runtime}-{precision}-{threads}.json"
    begin = time.monotonic()
    measured = measure_table(graph, file, runtime, precision, threads, spread=spread)
    minutes = (time.monotonic() - begin) / 60
    plans = random_plans(graph, count)
    nets, place = [gc.slim(net, plan) for plan in plans], out / "deployed"
    times = deployed_ms(nets, place, runtime, precision, threads, spread=spread)
    return {
        "net": name,
        "runtime": runtime,
        "precision": precision,
        "threads": threads,
        "minutes": minutes,
        "machine": dict(measured.machine),
        "correction": vars(measured.correction),
        "plans": [
            {
                "predicted_ms": gc.predict_latency(graph, measured, plan),
                "measured_ms": smallest,
                "median_ms": median,
            }
            for plan, (smallest, median) in zip(plans, times)
        ],
    }


def random_plans(graph: Any, count: int) -> list[Any]:
    """Return plans with random widths: half of any size, half of about one share."""
    import numpy as np

    import gluon_compress as gc
    from gluon_compress.plan.constraints import DEFAULT, MULTIPLE, free_groups

    rows, plans = DEFAULT.widths(graph, MULTIPLE), []
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        rs = np.random.RandomState(seed)
        share = rs.uniform(0.2, 1.0)
        keep = {}
        for group, row in zip(free_groups(graph), rows):
            width = int(rs.choice(row))
            if seed % 2:
                wanted = share * rs.uniform(0.6, 1.4) * row[-1]
                width = min(row, key=lambda n, wanted=wanted: abs(n - wanted))
            keep[group.name] = range(width)
        plans.append(gc.Plan(keep))
    return plans


def errors_of(row: Mapping[str, Any]) -> list[float]:
    """Return predicted over measured, minus one, of each plan."""
    return [p["predicted_ms"] / p["measured_ms"] - 1 for p in row["plans"]]


def _summary(row: Mapping[str, Any]) -> tuple[float, float, float, bool]:
    """Return median, largest and mean error, and whether the aims are met."""
    errors = errors_of(row)
    sizes = [abs(e) for e in errors]
    median, worst = statistics.median(sizes), max(sizes)
    met = median <= MEDIAN and worst <= WORST
    return median, worst, statistics.mean(errors), met


def _line(row: Mapping[str, Any]) -> str:
    median, worst, mean, met = _summary(row)
    return (
        f"{row['runtime']} {row['precision']} {row['threads']} {row['net']}: "
        f"median {median:.1%}, worst {worst:.1%}, mean {mean:+.1%}, "
        f"{row['minutes']:.1f} min, {'met' if met else 'missed'}"
    )


# ---------------------------------------------------------------- the page


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the result alone."""
    machine = f"{result['hardware']['cpu']}, {result['hardware']['cores']} cores"
    source = f"{machine}; commit {result['commit']}, {result['date'][:10]}.\n"
    aims = (
        f"Aims: a median error of at most {MEDIAN:.0%}, the worst at most "
        f"{WORST:.0%}.\n"
    )
    head = (
        *("net", "runtime", "precision", "threads", "ms", "median error"),
        *("worst", "mean", "table, minutes", "spread", "met"),
    )
    lines = []
    for row in result["rows"]:
        median, worst, mean, met = _summary(row)
        times = [plan["measured_ms"] for plan in row["plans"]]
        lines.append(
            [
                row["net"],
                row["runtime"],
                row["precision"],
                str(row["threads"]),
                f"{min(times):.1f} to {max(times):.1f}",
                f"{median:.1%}",
                f"{worst:.1%}",
                f"{mean:+.1%}",
                f"{row['minutes']:.1f}",
                row["machine"]["spread"],
                "yes" if met else "no",
            ]
        )
    return "\n".join([INTRODUCTION, aims, source, table(head, lines)])


COMMAND = Command(TEXT, _add_options, _benchmark)
