"""Times the blocks of a net into a latency table, and checks its sums."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import (
    above_0,
    add_devices,
    add_out,
    add_scheduler,
    sweep_of,
    write_result,
)
from gluon_compress.deployment.latency.timings import (
    PRECISIONS,
    RUNTIMES,
    timing_of,
)
from gluon_compress.provenance import cores

TEXT = """Time a net's blocks into a latency table; compare its sums with whole nets.

  %(prog)s --runtime onnxruntime --precision int8 --threads 1 --table latency.json
  %(prog)s runs/demo/full/model --runtime ncnn --bundle pi
  %(prog)s resnet50_v1d --table latency.json --threads 2 --check
  %(prog)s --tables DIR --each onnxruntime/int8/1 --each ncnn/float32/2 \
    --scheduler tcp://node1:8786

NET is a model folder, or a name of this package's models or of GluonCV's model zoo; for
a runtime it is ssd_300_resnet50_v1d by default. Only what the table lacks is timed. A
stopped measurement goes on with the same command. Let nothing else run on the machine.

With --runtime, blocks are written and timed as that runtime fuses them. --bundle writes
them and a program instead, which measures the table on another machine: it needs
Python, NumPy and the runtime.

--tables measures several tables, DIR/RUNTIME_PRECISION_THREADS.json, one after the
other; or on the workers of a Dask scheduler, which see DIR under the same name, one at
a time on each machine.

Without, MXNet's default form is timed, operator by operator. Its threads wait for each
other actively (OMP_WAIT_POLICY=active), as in a program that is in a hurry; with
another value in the environment, the table is for that.
"""
DEFAULT_NET, DEFAULT_SIZE = "ssd_300_resnet50_v1d", 224
SPREAD = 0.1
PRINT_SECONDS = 10


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_devices(parser)
    parser.add_argument("net", metavar="NET", nargs="?")
    parser.add_argument("--table", metavar="FILE", help="made or extended")
    parser.add_argument(
        "--bundle", metavar="DIR", help="write the blocks for another machine"
    )
    parser.add_argument("--runtime", choices=RUNTIMES)
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="of the runtime; default: float32"
    )
    parser.add_argument(
        "--size", type=above_0, help="default: the net's own, or 224 if it has none"
    )
    parser.add_argument(
        "--threads", type=above_0, help="default: OMP_NUM_THREADS or all"
    )
    parser.add_argument(
        "--spread",
        type=_spread,
        help="how much equal measurements of a runtime may differ; default: 0.1",
    )
    parser.add_argument("--check", action="store_true", help="time whole nets, too")
    parser.add_argument("--tables", metavar="DIR", help="of several tables")
    parser.add_argument(
        "--each",
        action="append",
        type=_setting,
        metavar="SETTING",
        help="with --tables: RUNTIME/PRECISION/THREADS of a table; any number of times",
    )
    add_scheduler(parser, "with --tables: measure")
    add_out(parser, "net", "rows", required=False)


def _spread(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number above 0")
    return value


def _setting(text: str) -> tuple[str, str, int]:
    """Return runtime, precision and threads."""
    parts = text.split("/")
    try:
        if len(parts) != 3:
            raise ValueError("RUNTIME/PRECISION/THREADS")
        timing_of(*parts[:2])
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}; {error}") from None
    return parts[0], parts[1], above_0(parts[2])


def _measure(args: argparse.Namespace) -> None:
    """Time what is missing, save it, and say how far sums are from whole nets."""
    if args.tables is not None:
        own = ("table", "bundle", "runtime", "precision", "threads", "check", "out")
        _refuse(args, own, "has no place with --tables")
        _measure_tables(args)
        return
    _refuse(args, ("each", "scheduler"), "needs --tables")
    if args.runtime is None:
        _refuse(args, ("bundle", "precision", "spread"), "needs --runtime")
        if args.net is None:
            raise ValueError("NET is missing; only with --runtime there is a default")
    elif args.bundle is not None:
        names = ("table", "threads", "spread", "check", "out")
        _refuse(args, names, "is for the machine that runs the bundle")
        _write_bundle(args)
        return
    if args.table is None:
        raise ValueError("--table is missing: the file to make or extend")
    if args.threads:  # MXNet reads both when it is imported
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if args.runtime is not None:
        _measure_runtime(args)
    else:
        _measure_mxnet(args)


def _refuse(args: argparse.Namespace, names: Sequence[str], why: str) -> None:
    for name in names:
        if getattr(args, name):
            raise ValueError(f"--{name} {why}")


def _measure_mxnet(args: argparse.Namespace) -> None:
    """Time MXNet's default form."""
    os.environ.setdefault("OMP_WAIT_POLICY", "active")
    import gluon_compress as gc
    from gluon_compress.graph import pair_of

    earlier = gc.LatencyTable.load(args.table) if Path(args.table).exists() else None
    if earlier is not None and "runtime" in earlier.machine:
        raise ValueError(
            f"{args.table}: is a table of {earlier.machine['runtime']}; name it with "
            "--runtime, or choose another file"
        )
    net = net_of(args.net)
    pair, shape = pair_of(net), _shape(net, args.size)
    graph = gc.trace(pair, shape)
    table = gc.measure_blocks(graph, earlier)
    table.save(args.table)
    print(f"{gc.predict_latency(graph, table):.2f} ms predicted for {table.machine}")
    if args.check:
        _check(args, pair, graph, table, lambda nets: gc.latency.nets_ms(nets, shape))


def _measure_runtime(args: argparse.Namespace) -> None:
    precision = args.precision or PRECISIONS[0]
    timing_of(args.runtime, precision)
    threads = int(args.threads or os.environ.get("OMP_NUM_THREADS") or cores())
    import gluon_compress as gc
    from gluon_compress.deployment.latency import measuring

    file, setting = Path(args.table), (args.runtime, precision, threads)
    measuring.known_table(file, *setting)
    net, name = _net(args)
    graph = gc.trace(net, _shape(net, args.size))
    spread = args.spread or SPREAD
    table = measuring.measure_table(
        graph, file, *setting, spread=spread, progress=progress("written")
    )
    print(f"{gc.predict_latency(graph, table):.2f} ms predicted for {table.machine}")
    if args.check:

        def times(nets: Sequence[Any]) -> list[float]:
            place = file.with_name(file.name + measuring.WORK)
            rows = measuring.deployed_ms(nets, place, *setting, spread=spread)
            return [smallest for smallest, _ in rows]

        args.net = name
        _check(args, net, graph, table, times)


def _measure_tables(args: argparse.Namespace) -> None:
    """Measure several tables, and print where each lies."""
    from gluon_compress.sweeps import run_tasks

    if not args.each:
        raise ValueError("--each is missing: RUNTIME/PRECISION/THREADS of each table")
    folder = Path(args.tables)
    folder.mkdir(parents=True, exist_ok=True)
    net = args.net or DEFAULT_NET
    settings = list(dict.fromkeys(args.each))
    items = [
        {
            "net": os.path.abspath(net) if Path(net).is_dir() else net,
            "size": args.size,
            "setting": setting,
            "spread": args.spread or SPREAD,
            "file": os.path.abspath(folder / f"{'_'.join(map(str, setting))}.json"),
        }
        for setting in settings
    ]
    names = ["/".join(map(str, setting)) for setting in settings]
    failed = []
    for outcome in run_tasks(
        measure_one, items, sweep=sweep_of(args), names=names, alone=True
    ):
        name = names[outcome.index]
        print(f"{name}: {outcome.error or outcome.value}", flush=True)
        if outcome.error is not None:
            failed.append(f"{name}: {outcome.error}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(names)} failed; {failed[0]}")


def measure_one(item: Mapping[str, Any]) -> str:
    """Measure what one table lacks on this machine: a task of a sweep.

    Parameters
    ----------
    item : mapping
        JSON: ``net``, ``size``, ``setting`` (runtime, precision and threads),
        ``spread``, and the ``file``.

    Returns
    -------
    str
        The file, and what the net takes.
    """
    import gluon_compress as gc
    from gluon_compress.deployment.latency import measuring

    file, setting = Path(item["file"]), tuple(item["setting"])
    measuring.known_table(file, *setting)
    net = net_of(item["net"])
    graph = gc.trace(net, _shape(net, item["size"]))
    table = measuring.measure_table(
        graph, file, *setting, spread=item["spread"], progress=progress("written")
    )
    cpu = table.machine["cpu"]
    return f"{file}, {gc.predict_latency(graph, table):.2f} ms on {cpu}"


def _write_bundle(args: argparse.Namespace) -> None:
    import gluon_compress as gc
    from gluon_compress.deployment.latency import bundle

    if args.runtime == "mxnet":
        raise ValueError(
            "--bundle: MXNet fuses layers with this package; measure its table where "
            "this package is installed"
        )
    precision = args.precision or PRECISIONS[0]
    folder = Path(args.bundle)
    bundle.check_folder(folder, args.runtime, precision)
    net, _ = _net(args)
    graph = gc.trace(net, _shape(net, args.size))
    bundle.write_bundle(
        graph, folder, args.runtime, precision, progress=progress("written")
    )
    bundle.write_program(folder)
    print(f"{folder}; there: python {bundle.PROGRAM} --threads 1 --table latency.json")


def _net(args: argparse.Namespace) -> tuple[Any, str]:
    name = args.net or DEFAULT_NET
    return net_of(name), name


def _shape(net: Any, size: int | None) -> tuple[int, ...]:
    """Return the shape of one image: of the given size, the net's own, or 224."""
    from gluon_compress.graph import adapter_of

    stated = adapter_of(net).shape(net) if size is None else None
    if isinstance(stated, tuple):
        return (1, *stated[1:])
    side = size or DEFAULT_SIZE
    return (1, 3, side, side)


def progress(
    what: str, clock: Callable[[], float] = time.monotonic
) -> Callable[[int, int], None]:
    """Return what prints how many blocks are done, every few seconds at most."""
    printed = [clock()]

    def tell(done: int, total: int) -> None:
        if clock() - printed[0] >= PRINT_SECONDS:
            printed[0] = clock()
            print(f"{done} of {total} {what}", flush=True)

    return tell


def _check(
    args: argparse.Namespace,
    net: Any,
    graph: Any,
    table: Any,
    times: Callable[[Sequence[Any]], Sequence[float]],
) -> None:
    """Compare sums with whole nets; ``times`` returns the milliseconds of nets."""
    import gluon_compress as gc

    shape = next(iter(graph.inputs.values()))
    plans, rows = plans_of(graph, table), []
    nets = [gc.slim(net, plan, shape=shape) for plan in plans.values()]
    for name, measured in zip(plans, times(nets)):
        predicted = gc.predict_latency(graph, table, plans[name])
        rows.append({"plan": name, "predicted_ms": predicted, "measured_ms": measured})
        both = f"{predicted:8.2f} ms predicted, {measured:8.2f} ms measured"
        print(f"{name:12} {both}, {predicted / measured - 1:+.1%}")
    if args.out:
        machine = {"machine": dict(table.machine)}
        write_result(
            args.out, {"net": args.net, "shape": shape, **machine, "rows": rows}
        )


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


LATENCY = Command(
    TEXT, _add_options, _measure, writes=("table", "bundle", "tables", "out")
)
