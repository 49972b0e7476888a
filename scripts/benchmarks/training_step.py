"""Shows where the time of a training step goes, phase by phase and layer by layer."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from benchmarks.nets import build, noise
from experiments.nets import TIMED
from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.provenance import threads
from gluon_compress.storage.atomic import write_atomically

TEXT = """Show where a training step's time goes, phase by phase and layer by layer.

  OMP_NUM_THREADS=1 %(prog)s compact full --out runs/training

Nets are those of benchmark.py. A step is that of a recipe: forward, loss, backward,
clipped gradients, update; and the targets, which a thread computes beside it. Then each
kind of layer is run alone, with the shapes of the net. With one thread, times are CPU
time. Writes result.json and training.md.
"""
PAGE = "training.md"
LABEL = [[30.0, 40, 150, 200, 3, 0], [100.0, 90, 280, 290, 7, 0]]  # of every image
PHASES = ("forward", "loss", "backward", "clip", "update")
TARGETS = "targets, beside"
WAYS = ("forward", "backward")
CLIP_NORM = 10
CONV = "convolution"
KINDS = {  # of layers that are no convolutions
    "BatchNorm": ("BatchNorm",),
    "activation": ("Activation", "LeakyReLU", "relu", "clip"),
    "pooling": ("Pooling",),
    "sum": ("elemwise_add", "broadcast_add", "_plus", "_Plus"),
}
LAYOUT = "layout: concat, transpose, slice, reshape"
INTRODUCTION = """# Where a training step's time goes

Training steps of SSD-300 for 20 classes with batches of {batch}. Times are medians of
{rounds} steps{clock}; MXNet waits between phases. *Beside* is done by another thread,
while the step runs.
"""
LAYERS = """## Layer by layer

Each kind of layer alone, forwards and backwards, with the shapes of the net:
milliseconds a step, and GFLOP/s of convolutions (a backward pass computes twice as
much). Alone, each layer reads and writes maps in MXNet's plain layout; in a net,
neighbours keep that of oneDNN. So the sums are larger than the step; the first max
pooling, above all, is slow only alone.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("nets", nargs="*", metavar="NET", help="default: compact full")
    add_out(parser, "nets", files=[PAGE])
    parser.add_argument("--batch", type=above_0, default=8)
    parser.add_argument("--rounds", type=above_0, default=7)


def _benchmark(args: argparse.Namespace) -> None:
    """Time nets one by one, print, and write both files."""
    names = args.nets or ["compact", "full"]
    unknown = sorted(set(names) - set(TIMED))
    if unknown:
        raise ValueError(f"{unknown[0]}: none of {', '.join(TIMED)}")
    nets = []
    for name in names:
        net = build(name)
        phases = time_phases(net, args.batch, args.rounds)
        layers = time_layers(net, args.batch, args.rounds)
        nets.append({"net": name, "phases": phases, "layers": layers})
        print(_phases(nets[-1:]), _layers(nets[-1:]), sep="\n", flush=True)
    settings = {"batch": args.batch, "rounds": args.rounds}
    result = write_result(args.out, {**settings, "nets": nets})
    page = page_of(json.loads(result.read_text(encoding="utf-8")))
    write_atomically(Path(args.out) / PAGE, page)


def _clock() -> Callable[[], float]:
    """Return CPU time with one thread: what else a machine does is not in it."""
    return time.process_time if threads() == 1 else time.perf_counter


def time_phases(net: Any, batch: int, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each phase of a training step."""
    import mxnet as mx
    import numpy as np
    from mxnet import autograd, gluon

    from gluon_compress.models import family_of, supervised_step

    family, clock = family_of(net), _clock()
    make_targets = family.targets(net)
    labels = [np.array(LABEL)] * batch
    images = mx.nd.array(noise((batch, 3, 300, 300)))
    arrays = [images, *map(mx.nd.array, make_targets(labels))]
    block = family.training_net(net)
    block.hybridize(static_alloc=True, static_shape=True)
    step_loss = supervised_step(family.loss(net))
    options = {"momentum": 0.9, "learning_rate": 1e-9}  # noise teaches nothing
    trainer = gluon.Trainer(block.collect_params(), "sgd", options)
    trained = [p for p in block.collect_params().values() if p.grad_req != "null"]
    times: dict[str, list[float]] = {name: [] for name in (*PHASES, TARGETS)}
    for number in range(rounds + 2):
        marks = [clock()]

        def mark(marks: list = marks) -> None:
            mx.nd.waitall()
            marks.append(clock())

        with autograd.record():
            block(images)
        mark()
        with autograd.record():
            loss, _ = step_loss(block, arrays)
        mark()
        loss.backward()
        mark()
        gradients = [parameter.grad() for parameter in trained]
        gluon.utils.clip_global_norm(gradients, CLIP_NORM, check_isfinite=False)
        mark()
        trainer.step(1)
        mark()
        make_targets(labels)
        mark()
        spent = [1e3 * (end - begin) for begin, end in zip(marks, marks[1:])]
        spent[1] -= spent[0]  # the loss is computed from another forward pass
        if number > 1:  # the first ones make the graphs
            for name, ms in zip(times, spent):
                times[name].append(ms)
    return {name: statistics.median(ms) for name, ms in times.items()}


# ---------------------------------------------------------------- layers


def time_layers(net: Any, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each kind of layer: milliseconds and MACs of a step."""
    import gluon_compress as gc
    from gluon_compress.graph import pair_of
    from gluon_compress.models import family_of

    pair = pair_of(family_of(net).training_net(net))
    graph = gc.trace(pair, (batch, 3, 300, 300))
    macs = {row.name: row.macs * batch for row in gc.count(graph).rows}
    counts: Counter = Counter()
    for kind, *layer in _layers_of(graph, macs):
        counts[(kind, *layer)] += 1
    rows: dict[str, dict[str, Any]] = {}
    for (kind, op, attrs, shapes, work), count in counts.items():
        forward, backward = _layer_ms(op, dict(attrs), shapes, rounds)
        row = rows.setdefault(
            kind, {"kind": kind, "count": 0, "forward": 0, "backward": 0, "macs": 0}
        )
        row["count"] += count
        row["macs"] += count * work
        row["forward"] += count * forward
        row["backward"] += count * backward
    return sorted(rows.values(), key=lambda row: -row["forward"] - row["backward"])


def _layers_of(graph: Any, macs: Mapping[str, int]) -> Iterator[tuple]:
    """Yield kind, operator, attributes, input shapes and MACs of each layer."""
    for i, node in enumerate(graph.nodes):
        kind = _kind(node)
        if kind is None:
            continue
        shapes = tuple(graph.tensors[e[0]][e[1]].shape for e in node["inputs"])
        attrs = {k: v for k, v in node["attrs"].items() if not k.startswith("__")}
        work = macs.get(graph.grouping.names[i], 0)
        yield kind, node["op"], tuple(sorted(attrs.items())), shapes, work


def _kind(node: Mapping[str, Any]) -> str | None:
    op, attrs = node["op"], node["attrs"]
    if op == "Convolution":
        side = attrs["kernel"].strip("()").split(",")[0]
        grouped = int(attrs.get("num_group", 1)) > 1
        return f"{CONV} {side}x{side}{', depthwise' if grouped else ''}"
    if op in ("Concat", "concat", "transpose", "slice_axis", "Reshape", "Flatten"):
        return LAYOUT
    return next((kind for kind, ops in KINDS.items() if op in ops), None)


def _layer_ms(
    op: str, attrs: dict[str, str], shapes: tuple, rounds: int
) -> tuple[float, float]:
    """Return the smallest milliseconds forwards and backwards of a layer alone."""
    import mxnet as mx

    clock = _clock()
    names = [f"input{k}" for k in range(len(shapes))]
    symbol = getattr(mx.sym, op)(*map(mx.sym.var, names), **attrs)
    if len(symbol.list_outputs()) > 1:
        symbol = symbol[0]
    net = symbol.simple_bind(mx.cpu(), "write", **dict(zip(names, shapes)))
    for array in net.arg_arrays:
        array[:] = mx.nd.random.normal(shape=array.shape)
    times = []
    for _ in range(rounds + 2):
        marks = [clock()]
        (output,) = net.forward(is_train=True)
        mx.nd.waitall()
        marks.append(clock())
        net.backward([output])
        mx.nd.waitall()
        marks.append(clock())
        times.append([1e3 * (end - begin) for begin, end in zip(marks, marks[1:])])
    forward, backward = map(min, zip(*times))
    return forward, backward


# ---------------------------------------------------------------- the page


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the result alone."""
    hardware = result["hardware"]
    count = hardware["threads"]
    machine = f"{hardware['cpu']}, {count} thread{'s' if count > 1 else ''}"
    source = f"{machine}; commit {result['commit']}, {result['date'][:10]}.\n"
    clock = ", of CPU time" if count == 1 else ""
    settings = {key: result[key] for key in ("batch", "rounds")}
    parts = [INTRODUCTION.format(**settings, clock=clock), source]
    parts += [_phases(result["nets"]), LAYERS, _layers(result["nets"])]
    return "\n".join(parts)


def _phases(nets: list[Mapping[str, Any]]) -> str:
    head = ["phase", *(f"{net['net']}, ms" for net in nets), *("share" for _ in nets)]
    totals = [sum(net["phases"][name] for name in PHASES) for net in nets]
    lines = []
    for name in (*PHASES, TARGETS):
        times = [net["phases"][name] for net in nets]
        shares = [f"{ms / total:.1%}" for ms, total in zip(times, totals)]
        lines.append([name, *(f"{ms:.1f}" for ms in times), *shares])
    lines.insert(
        len(PHASES), ["step", *(f"{t:.1f}" for t in totals), *("" for _ in nets)]
    )
    return table(head, lines)


def _layers(nets: list[Mapping[str, Any]]) -> str:
    parts = []
    for net in nets:
        lines = [_row(row) for row in net["layers"]]
        sums = [
            sum(row[way] for row in net["layers"]) for way in ("forward", "backward")
        ]
        lines.append(["all layers", "", *(f"{ms:.1f}" for ms in sums), "", ""])
        head = (f"{net['net']}: layers", "count", "forward, ms", "backward, ms")
        parts.append(table((*head, "GFLOP/s", "GFLOP/s, backward"), lines))
    return "\n".join(parts)


def _row(row: Mapping[str, Any]) -> list[str]:
    times = [f"{row[way]:.1f}" for way in WAYS]
    speeds = ["", ""]
    if row["macs"]:
        flops = [2 * row["macs"], 4 * row["macs"]]
        speeds = [f"{n / row[way] / 1e6:.0f}" for n, way in zip(flops, WAYS)]
    return [row["kind"], str(row["count"]), *times, *speeds]


COMMAND = Command(TEXT, _add_options, _benchmark)
