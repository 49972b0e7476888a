"""Times the fused blocks of a graph on this machine."""

from __future__ import annotations

import math
import time
from itertools import product
from typing import Callable, Mapping, Sequence

import mxnet as mx

from gluon_compress.graph import Graph, block_of
from gluon_compress.graph.symbols import infer_shapes, take_apart
from gluon_compress.latency.blocks import (
    FusedBlock,
    fused_blocks,
    grid_points,
    net_of_copies,
)
from gluon_compress.latency.table import (
    Grid,
    LatencyTable,
    this_machine,
    threads,
)
from gluon_compress.validation import shown

WARMUP, COPIES = 3, 2


def measure_blocks(
    graph: Graph,
    table: LatencyTable | None = None,
    *,
    repeats: int = 9,
    rounds: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> LatencyTable:
    """Return a table with the times of all blocks of a graph.

    Times that ``table`` has are not taken again.

    Blocks are timed as MXNet runs a net by default, operator by operator (as ``slim``
    returns it, or after ``hybridize()``), with the batch size that was traced. The time
    of a block is the time of a net with copies of it minus the time of the net without
    them. The smallest of all repeats counts, since other processes can only add to it.

    Parameters
    ----------
    graph : Graph
        Traced with the input shape that the latency is for; it needs no values.
    table : LatencyTable, optional
        Made on this machine; its times are reused.
    repeats : int
        Forward passes for each time in each round.
    rounds : int
        How often everything is timed, so that a busy minute spoils nothing.
    progress : callable, optional
        ``progress(done, total)`` is called after each time taken.

    Raises
    ------
    ValueError
        If ``repeats`` or ``rounds`` is below 1, or the table was made on another
        machine, with other threads or another MXNet.
    """
    for name, value in (("repeats", repeats), ("rounds", rounds)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; allowed: a whole number from 1")
    machine = this_machine()
    if table is not None:
        _check_machine(table, machine)
    timed = dict(table.grids) if table is not None else {}
    wanted = _grids_to_time(graph, timed)
    points = [
        (block, widths)
        for block, ins, outs in wanted.values()
        for widths in product(ins, outs)
        if _timed_ms(timed.get(block.signature), widths) is None
    ]
    best: dict[tuple, float] = {}
    for turn in range(rounds):
        baselines: dict[tuple, float] = {}
        for number, (block, widths) in enumerate(points):
            key = block.signature, widths
            spent = _block_ms(graph, block, widths, baselines, repeats)
            best[key] = min(spent, best.get(key, spent))
            if progress:
                progress(turn * len(points) + number + 1, rounds * len(points))
    grids = dict(timed)
    for signature, (_, ins, outs) in wanted.items():
        rows = []
        for a in ins:
            earlier = [_timed_ms(timed.get(signature), (a, b)) for b in outs]
            rows.append(
                tuple(
                    best[signature, (a, b)] if ms is None else ms
                    for b, ms in zip(outs, earlier)
                )
            )
        grids[signature] = Grid(ins, outs, tuple(rows))
    if table is not None:
        return LatencyTable(machine, table.call_ms, grids)
    symbol, shapes = _smallest_net()
    return LatencyTable(machine, net_ms(symbol, shapes, 10 * repeats), grids)


def _check_machine(table: LatencyTable, machine: Mapping[str, str]) -> None:
    for name, value in machine.items():
        if table.machine.get(name) != value:
            raise ValueError(
                f"the latency table is for {name} {table.machine.get(name)!r}, this "
                f"machine has {shown(value)}; measure into a new table"
            )


def _grids_to_time(
    graph: Graph, timed: Mapping[str, Grid]
) -> dict[str, tuple[FusedBlock, tuple[int, ...], tuple[int, ...]]]:
    """Return by signature a block to time, and input and output widths of its grid."""
    wanted: dict[str, tuple[FusedBlock, tuple[int, ...], tuple[int, ...]]] = {}
    for block in fused_blocks(graph):
        grid = timed.get(block.signature)
        if grid and LatencyTable.covers(grid, block):
            continue
        widths = (grid.ins, grid.outs) if grid else ((), ())
        first, *earlier = wanted.get(block.signature, (block, *widths))
        ins, outs = (
            tuple(sorted({*old, *new})) for old, new in zip(earlier, grid_points(block))
        )
        wanted[block.signature] = first, ins, outs
    return wanted


def _timed_ms(grid: Grid | None, widths: tuple[int, int]) -> float | None:
    """Return the time that a grid has at exactly these widths."""
    if grid is None or widths[0] not in grid.ins or widths[1] not in grid.outs:
        return None
    return grid.ms[grid.ins.index(widths[0])][grid.outs.index(widths[1])]


def _block_ms(
    graph: Graph,
    block: FusedBlock,
    widths: tuple[int, int],
    baselines: dict[tuple, float],
    repeats: int,
) -> float:
    """Return the milliseconds of one copy of a block; 0 if too short to measure.

    ``baselines`` collects the times of the nets without copies.
    """
    if block.scaling == "whole" and widths[0] == 0:
        return 0.0
    symbol, shapes = net_of_copies(graph, block, widths, 0)
    key = (symbol.tojson(), *sorted(shapes.items()))
    if key not in baselines:
        if all(node["op"] == "null" for node in take_apart(symbol)[0]):
            symbol, shapes = _smallest_net()
        baselines[key] = net_ms(symbol, shapes, repeats)
    symbol, shapes = net_of_copies(graph, block, widths, COPIES)
    spent = net_ms(symbol, shapes, repeats) - baselines[key]
    return max(spent, 0.0) / COPIES


def _smallest_net() -> tuple[mx.sym.Symbol, dict[str, tuple]]:
    return mx.sym.relu(mx.sym.var("data0")), {"data0": (1, 1)}


def net_ms(symbol: mx.sym.Symbol, shapes: Mapping[str, tuple], repeats: int) -> float:
    """Return the smallest time of a net, in milliseconds.

    With one thread this is the CPU time of the process, which other processes on the
    core do not affect. With several, which may wait for each other, it is wall time.

    Parameters
    ----------
    symbol : Symbol
        Its inputs are named ``data0``, ``data1``, ...
    shapes : mapping
        Shapes of inputs and parameters, from which all others follow.
    repeats : int
    """
    clock, values = _clock(), _values(symbol, shapes)
    params = {n: v for n, v in values.items() if not n.startswith("data")}
    block = block_of(symbol, params)
    inputs = [values[n] for n in symbol.list_inputs() if n not in params]
    best = math.inf
    for number in range(WARMUP + repeats):
        start = clock()
        _run(block, inputs)
        if number >= WARMUP:
            best = min(best, 1000 * (clock() - start))
    return best


def _values(symbol: mx.sym.Symbol, shapes: Mapping[str, tuple]) -> dict:
    """Return a value for each variable; zeros and tiny numbers might be faster."""
    variable_shapes, _ = infer_shapes(symbol, shapes)
    return {n: mx.nd.full(s, 0.1) for n, s in variable_shapes.items()}


def nets_ms(
    nets: Sequence[Callable], shape: Sequence[int], *, repeats: int = 25
) -> list[float]:
    """Return the smallest time of each net, in milliseconds; the nets take turns.

    Clock and choice are as in ``net_ms``, so that sums of a table can be compared.

    Parameters
    ----------
    nets : sequence of callable
    shape : sequence of int
        Shape of their input.
    repeats : int
        Passes of each net, after a warm-up.
    """
    clock = _clock()
    batch = mx.nd.full(tuple(shape), 0.1)
    times: list[list[float]] = [[] for _ in nets]
    for _ in range(WARMUP + repeats):
        for net, spent in zip(nets, times):
            _run(net, [batch])  # fill the caches, which other nets have used
            start = clock()
            _run(net, [batch])
            spent.append(1000 * (clock() - start))
    return [min(spent[WARMUP:]) for spent in times]


def _clock() -> Callable[[], float]:
    """Return the clock that ``net_ms`` describes."""
    return time.process_time if threads() == 1 else time.perf_counter


def _run(net: Callable, inputs: Sequence[mx.nd.NDArray]) -> None:
    outputs = net(*inputs)
    for output in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
        output.wait_to_read()
