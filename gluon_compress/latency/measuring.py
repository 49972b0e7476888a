"""Times the units of a graph on this machine, those that a table lacks."""

from __future__ import annotations

import math
import time
from itertools import product
from typing import Callable, Mapping, Sequence

import mxnet as mx

from gluon_compress.graph import Graph, block_of
from gluon_compress.graph.symbols import take_apart
from gluon_compress.latency.blocks import Unit, copies, knots, units_of
from gluon_compress.latency.table import (
    Grid,
    LatencyTable,
    covers,
    this_machine,
    threads,
)

WARMUP, COPIES = 3, 2


def measure_units(
    graph: Graph,
    table: LatencyTable | None = None,
    *,
    repeats: int = 9,
    rounds: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> LatencyTable:
    """Return a table with times for all units of a graph; only missing ones are timed.

    What is timed is the form in which MXNet runs a net by default, operator by
    operator (as ``slim`` returns it, or after ``hybridize()``), for the batch that was
    traced. A unit's time is that of a net with copies of it less that of the net
    without, the smallest of all repeats: what other processes do can only add to it.

    Parameters
    ----------
    graph : Graph
        Traced with the input shape that the latency is for; needs no values.
    table : LatencyTable, optional
        Made on this machine; its times are kept.
    repeats : int
        Passes for each time and round.
    rounds : int
        How often all is timed again, so that a busy minute spoils nothing.
    progress : callable, optional
        Is told how many times of how many are known.

    Raises
    ------
    ValueError
        If ``repeats`` or ``rounds`` is below 1, or the table was made on another
        machine, with other threads or another MXNet.
    """
    for name, value in (("repeats", repeats), ("rounds", rounds)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; allowed: a whole number from 1")
    here = this_machine()
    _check_machine(table, here)
    known, wanted = table.grids if table else {}, _missing(graph, table)
    points = [
        (unit, at)
        for unit, widths in wanted.values()
        for at in product(*widths)
        if _known(known.get(unit.kind), at) is None
    ]
    best: dict = {}
    for turn in range(rounds):
        bases: dict = {}
        for number, (unit, at) in enumerate(points):
            key = (unit.kind, at)
            spent = _unit_ms(graph, unit, at, (bases, repeats))
            best[key] = min(spent, best.get(key, spent))
            if progress:
                progress(turn * len(points) + number + 1, rounds * len(points))
    grids = dict(known)
    for kind, (_, (ins, outs)) in wanted.items():
        old = known.get(kind)
        rows = [[_known(old, (a, b)) for b in outs] for a in ins]
        filled = [
            tuple(best[kind, (a, b)] if ms is None else ms for b, ms in zip(outs, row))
            for a, row in zip(ins, rows)
        ]
        grids[kind] = Grid(ins, outs, tuple(filled))
    call = table.call_ms if table else net_ms(*_next_to_nothing(), 10 * repeats)
    return LatencyTable(here, call, grids)


def _check_machine(table: LatencyTable | None, here: dict) -> None:
    for name in here if table else ():
        if table.machine.get(name) != here[name]:
            raise ValueError(
                f"the latency table is for {name} {table.machine.get(name)!r}, here it "
                f"is {here[name]!r}; measure into a table of its own"
            )


def _missing(graph: Graph, table: LatencyTable | None) -> dict:
    """Return for the kinds to time a unit of it, and all widths of the new grid."""
    known = table.grids if table else {}
    wanted: dict[str, tuple[Unit, tuple]] = {}
    for unit in units_of(graph):
        grid = known.get(unit.kind)
        if grid and covers(grid, unit):
            continue
        _, (ins, outs) = wanted.get(unit.kind, (unit, _of(grid)))
        more_ins, more_outs = knots(unit)
        widths = _united(ins, more_ins), _united(outs, more_outs)
        wanted[unit.kind] = unit, widths
    return wanted


def _of(grid: Grid | None) -> tuple:
    return (grid.ins, grid.outs) if grid else ((), ())


def _united(some: Sequence[int], others: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted({*some, *others}))


def _known(grid: Grid | None, at: tuple[int, int]) -> float | None:
    """Return a time that a grid has at exactly these widths."""
    if grid is None or at[0] not in grid.ins or at[1] not in grid.outs:
        return None
    return grid.ms[grid.ins.index(at[0])][grid.outs.index(at[1])]


def _unit_ms(graph: Graph, unit: Unit, widths: tuple, how: tuple) -> float:
    """Return the milliseconds of one copy of a unit, 0 where it is hardly seen."""
    bases, repeats = how
    if unit.how == "rest" and widths[0] == 0:
        return 0.0
    symbol, given = copies(graph, unit, widths, 0)
    key = (symbol.tojson(), *sorted(given.items()))
    if key not in bases:
        calculates = any(node["op"] != "null" for node in take_apart(symbol)[0])
        base = (symbol, given) if calculates else _next_to_nothing()
        bases[key] = net_ms(*base, repeats)
    spent = net_ms(*copies(graph, unit, widths, COPIES), repeats) - bases[key]
    return max(spent, 0.0) / COPIES


def _next_to_nothing() -> tuple[mx.sym.Symbol, dict]:
    return mx.sym.relu(mx.sym.var("data0")), {"data0": (1, 1)}


def net_ms(symbol: mx.sym.Symbol, given: Mapping[str, tuple], repeats: int) -> float:
    """Return the smallest time of a net, in milliseconds.

    With one thread it is the CPU time of the process, which other processes on the
    core do not lengthen; with several, which may wait for each other, the clock's.

    Parameters
    ----------
    symbol : Symbol
        Its inputs are called ``data0`` and so on.
    given : mapping
        Shapes from which all others follow.
    repeats : int
    """
    clock, values = _clock(), _values(symbol, given)
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


def _values(symbol: mx.sym.Symbol, given: Mapping[str, tuple]) -> dict:
    """Return a value for each variable; neither zeros nor tiny, which may be faster."""
    arguments, _, states = symbol.infer_shape(**given)
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    return {n: mx.nd.full(s, 0.1) for n, s in zip(names, arguments + states)}


def nets_ms(
    nets: Sequence[Callable], shape: Sequence[int], *, repeats: int = 25
) -> list[float]:
    """Return the smallest time of whole nets, in milliseconds, by turns.

    Clock and choice are those of ``net_ms``, so that sums of a table can be compared.

    Parameters
    ----------
    nets : sequence of callable
    shape : sequence of int
        Of their input.
    repeats : int
        Passes of each net, after some that do not count.
    """
    clock = _clock()
    batch = mx.nd.full(tuple(shape), 0.1)
    times: list[list[float]] = [[] for _ in nets]
    for _ in range(WARMUP + repeats):
        for net, spent in zip(nets, times):
            _run(net, [batch])  # the nets before have taken the caches
            start = clock()
            _run(net, [batch])
            spent.append(1000 * (clock() - start))
    return [min(spent[WARMUP:]) for spent in times]


def _clock() -> Callable[[], float]:
    """Return the clock to time with: see ``net_ms``."""
    return time.process_time if threads() == 1 else time.perf_counter


def _run(net: Callable, inputs: Sequence[mx.nd.NDArray]) -> None:
    outputs = net(*inputs)
    for output in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
        output.wait_to_read()
