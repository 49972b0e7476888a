"""Counts what a net costs: MACs, parameters, bytes, activations; and measures latency.

**MACs** are the multiply-accumulates of convolutions, dense layers and matrix products;
FLOPs are 2 x MACs. **params** are trained (weights, biases, scale and shift of
normalisation), **bytes** are stored: parameters and running statistics, 4 bytes each;
MB is 10^6 bytes. **activations** are the output elements of layers with MACs. MACs and
activations are per sample. Annotations (masks, fake quantisers) and constants (anchors)
do not count.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph
from gluon_compress.graph.context import size_of
from gluon_compress.graph.operators import operator_of

BYTES = 4  # of one float32


@dataclass(frozen=True)
class Row:
    """The cost of one layer."""

    name: str
    op: str
    output: tuple[int, ...]
    macs: int = 0
    params: int = 0
    bytes: int = 0
    activations: int = 0


@dataclass(frozen=True)
class Cost:
    """The cost of a net: rows in the order of its layers, and their sums.

    ``str(cost)`` is a table.
    """

    rows: tuple[Row, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample."""
        return sum(row.macs for row in self.rows)

    @property
    def params(self) -> int:
        """Trained parameters."""
        return sum(row.params for row in self.rows)

    @property
    def bytes(self) -> int:
        """Bytes of everything stored, as float32."""
        return sum(row.bytes for row in self.rows)

    @property
    def activations(self) -> int:
        """Output elements of the layers with MACs, for one sample."""
        return sum(row.activations for row in self.rows)

    def figures(self) -> dict[str, int]:
        """Return parameters, bytes, MACs and FLOPs by name, for a result."""
        return {
            "params": self.params,
            "bytes": self.bytes,
            "macs": self.macs,
            "flops": 2 * self.macs,
        }

    def __str__(self) -> str:
        table: list[tuple[str, ...]]
        table = [("layer", "operator", "output", "MACs", "params", "bytes")]
        for row in self.rows:
            output = "x".join(str(n) for n in row.output[1:])
            table.append((row.name, row.op, output, *_written(row)))
        table.append(("total", "", "", *_written(self)))
        widths = [max(len(line[k]) for line in table) for k in range(len(table[0]))]
        return "\n".join(_aligned(line, widths) for line in table)


def _written(cost: Row | Cost) -> tuple[str, ...]:
    return tuple(f"{n:,}" for n in (cost.macs, cost.params, cost.bytes))


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    """Return a line of the table, words to the left, numbers to the right."""
    words = [text.ljust(width) for text, width in zip(line[:3], widths)]
    numbers = [text.rjust(width) for text, width in zip(line[3:], widths[3:])]
    return "  ".join(words + numbers).rstrip()


def count(graph: Graph, plan: Any = None) -> Cost:
    """Return the cost of a net, with or without a plan applied.

    Parameters
    ----------
    graph : Graph
    plan : Plan, optional
        Count as after ``slim``, without building the net.

    Raises
    ------
    ValueError
        If the plan does not fit the graph.
    """
    if plan is not None:
        plan.check(graph)
    keep_mask = graph.keep_mask(plan.keep if plan is not None else {})
    rows: list[Row] = []
    counted: set[str] = set()
    for i, node in enumerate(graph.nodes):
        if node["op"] == "null":
            continue
        parameters = _new_parameters(graph, node, counted)
        if parameters or operator_of(node["op"]).macs is not None:
            rows.append(_row(graph, i, keep_mask, parameters))
    return Cost(tuple(rows))


def macs_by_node(graph: Graph) -> list[int]:
    """Return the multiply-accumulates of each node of a graph, for one sample."""
    everything = graph.keep_mask({})
    return [_macs(graph, i, everything) for i in range(len(graph.nodes))]


def _macs(graph: Graph, i: int, keep_mask: np.ndarray) -> int:
    node = graph.nodes[i]
    macs_of = operator_of(node["op"]).macs
    if macs_of is None:
        return 0
    shapes = [graph.kept_shape(entry, keep_mask) for entry in node["inputs"]]
    out = graph.kept_shape((i, 0), keep_mask)
    return macs_of(node["attrs"], shapes, out) // graph.batch


def _new_parameters(graph: Graph, node: dict, counted: set[str]) -> list:
    """Return a node's inputs that are parameters not counted yet, and note them."""
    entries = []
    for entry in node["inputs"]:
        name = graph.nodes[entry[0]]["name"]
        if name in graph.params and graph.nodes[entry[0]]["op"] == "null":
            setting = graph.settings.get(name)
            if name not in counted and not (setting and setting.constant):
                entries.append(entry)
            counted.add(name)
    return entries


def _row(graph: Graph, i: int, keep_mask: np.ndarray, parameters: Sequence) -> Row:
    """Return the cost of a node and of its ``parameters``."""
    node, out = graph.nodes[i], graph.kept_shape((i, 0), keep_mask)
    has_macs = operator_of(node["op"]).macs is not None
    macs = _macs(graph, i, keep_mask)
    activations = size_of(out) // graph.batch if has_macs else 0
    sizes = {
        graph.nodes[entry[0]]["name"]: size_of(graph.kept_shape(entry, keep_mask))
        for entry in parameters
    }
    trained = sum(size for name, size in sizes.items() if name not in graph.running)
    stored = BYTES * sum(sizes.values())
    name = graph.grouping.names[i]
    return Row(name, node["op"], out, macs, trained, stored, activations)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass: median, and the range of the middle 80%."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    repeats: int
    threads: str
    runtime: str = "mxnet"

    @classmethod
    def of(cls, times: Sequence[float], threads: str, runtime: str) -> Latency:
        """Return the latency that some runs show, given their milliseconds."""
        low, middle, high = map(float, np.percentile(times, [10, 50, 90]))
        return cls(middle, low, high, len(times), threads, runtime)

    def __str__(self) -> str:
        return (
            f"{self.median_ms:.1f} ms ({self.p10_ms:.1f} to {self.p90_ms:.1f}), "
            f"median of {self.repeats}, {self.threads} threads"
        )


def measure_latency(
    run: Callable,
    shape: Sequence[int],
    *,
    repeats: int = 50,
    warmup: int = 10,
    threads: int | None = None,
    ctx: mx.Context | None = None,
) -> Latency:
    """Measure the time of a net for a batch of random images.

    It is MXNet that runs, as the net is hybridized. To compare nets, use
    ``deployment.latencies_in_turn``: of nets that are timed one after the other, a busy
    machine may slow down one alone.

    Parameters
    ----------
    run : callable
        A net, or any function of an NDArray; its outputs are waited for.
    shape : tuple
        Shape of the input.
    repeats, warmup : int
        Passes that are measured, and passes before them.
    threads : int, optional
        Number of threads to report. It is not set here: MXNet reads the default,
        ``OMP_NUM_THREADS``, when it starts.
    ctx : Context, optional

    Raises
    ------
    ValueError
        If ``repeats`` is below 1 or ``warmup`` below 0.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(
            f"repeats {repeats!r} must be 1 or more, warmup {warmup!r} 0 or more"
        )
    random = np.random.RandomState(0).rand(*shape).astype(np.float32)
    batch = mx.nd.array(random, ctx=ctx)
    times = [_timed(run, batch) for _ in range(warmup + repeats)]
    named = str(threads or os.environ.get("OMP_NUM_THREADS") or os.cpu_count())
    return Latency.of(times[warmup:], named, "mxnet")


def _timed(run: Callable, batch: mx.nd.NDArray) -> float:
    start = time.perf_counter()
    _wait(run(batch))
    return 1000 * (time.perf_counter() - start)


def _wait(outputs: Any) -> None:
    """Wait until all outputs, however nested or named, are computed."""
    if isinstance(outputs, mx.nd.NDArray):
        outputs.wait_to_read()
    elif isinstance(outputs, Mapping):
        _wait(list(outputs.values()))
    elif isinstance(outputs, (list, tuple)):
        for output in outputs:
            _wait(output)
    else:
        mx.nd.waitall()
