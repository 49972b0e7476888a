"""The latency table: milliseconds of units at widths, their file, and what they add to.

A unit's time is interpolated between the widths that were timed. Two rules make it rise
with every width, as a search for widths needs it:

- a width counts as the next multiple of ``units.BLOCK``, or the next width that was
  timed if that comes first. Kernels fill blocks: another width costs as much as the
  full block, or more, and then the sum is too small. A plan that only latency limits
  keeps full blocks by itself; others should ask for multiples of 8 or 16;
- where a wider unit was timed as faster (noise, or another kernel), the mean of the
  largest time so far and the smallest time from there on is taken.

What units do to each other is left out: each is timed while its code and weights are
near. Of nets of many small layers the sum is therefore rather too small.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph
from gluon_compress.latency.blocks import BLOCK, Unit, units_of
from gluon_compress.provenance import cpu_name, threads
from gluon_compress.storage.atomic import read_json, write_json

FORMAT = 1
NS = 1e6  # of a millisecond; times are added as whole numbers, in any order the same


def this_machine() -> dict[str, str]:
    """Return what latency depends on here: CPU, threads, MXNet's version.

    ``waiting`` is how threads wait for each other (``OMP_WAIT_POLICY``). Unless it is
    ``active``, they fall asleep between two operators; that costs about 0.1 ms each.
    """
    waiting = os.environ.get("OMP_WAIT_POLICY", "").lower() or "default"
    facts = {"cpu": cpu_name(), "threads": str(threads()), "waiting": waiting}
    return {**facts, "mxnet": mx.__version__}


@dataclass(frozen=True)
class Grid:
    """Milliseconds of one kind of unit, as timed.

    Parameters
    ----------
    ins, outs : tuple of int
        Widths in ascending order; ``(0,)`` for the second one of a unit with one.
    ms : tuple of tuple of float
        Row by row, one for each of ``ins``.
    """

    ins: tuple[int, ...]
    outs: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    def rising(self) -> np.ndarray:
        """Return the times so that they never fall with a width."""
        times = np.array(self.ms, float)
        so_far, from_here = times, times[::-1, ::-1]
        for axis in (0, 1):
            so_far = np.maximum.accumulate(so_far, axis)
            from_here = np.minimum.accumulate(from_here, axis)
        return (so_far + from_here[::-1, ::-1]) / 2

    def at(self, ins: int, outs: int) -> float:
        """Return the nanoseconds at two widths, interpolated in both."""
        first, second = (
            next((stop for stop in stops(knots) if stop >= width), knots[-1])
            for width, knots in ((ins, self.ins), (outs, self.outs))
        )
        columns = [np.interp(first, self.ins, times) for times in self.rising().T]
        return float(np.rint(NS * np.interp(second, self.outs, columns)))

    def at_stops(self) -> np.ndarray:
        """Return ``at`` for all stops of both sides."""
        first, second = stops(self.ins), stops(self.outs)
        rows = np.stack([np.interp(first, self.ins, c) for c in self.rising().T], 1)
        return np.rint(NS * np.stack([np.interp(second, self.outs, r) for r in rows]))


def stops(knots: Sequence[int]) -> list[int]:
    """Return the widths that others count as: full blocks, and what was timed."""
    return sorted({*range(BLOCK, knots[-1], BLOCK), *knots})


@dataclass(frozen=True)
class LatencyTable:
    """How long the units of nets take on one machine.

    It is made by ``measure_units``, holds for any net of the same kinds of units, and
    may be used on another machine to plan for the one it was made on.

    Parameters
    ----------
    machine : mapping
        CPU, threads, how these wait, and MXNet's version.
    call_ms : float
        Of calling a net that does next to nothing.
    grids : mapping
        Kind of unit to its Grid.
    """

    machine: Mapping[str, str]
    call_ms: float
    grids: Mapping[str, Grid] = field(default_factory=dict)

    def grid(self, unit: Unit) -> Grid:
        """Return the grid of a unit's kind.

        Raises
        ------
        ValueError
            If it was not timed, or not as wide as the unit.
        """
        found = self.grids.get(unit.kind)
        if found is None or not covers(found, unit):
            raise ValueError(
                f"the latency table has no times for {unit.kind!r} with "
                f"{unit.inputs.full} to {unit.outputs.full} channels; add them with "
                "measure_units or scripts/measure_latency.py on the table's machine"
            )
        return found

    def save(self, path: str | os.PathLike) -> None:
        """Write the table as JSON, whole or not at all."""
        grids = {
            kind: {"ins": grid.ins, "outs": grid.outs, "ms": grid.ms}
            for kind, grid in sorted(self.grids.items())
        }
        machine = dict(self.machine)
        content = {"format": FORMAT, "machine": machine, "call_ms": self.call_ms}
        write_json(path, {**content, "units": grids})

    @classmethod
    def load(cls, path: str | os.PathLike) -> LatencyTable:
        """Return the table that a file holds.

        Raises
        ------
        ValueError
            If there is none, it is of another format, or something in it is wrong;
            the message names the file and the place.
        """
        content = read_json(path)
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT or isinstance(found, bool):
            raise ValueError(
                f"{path}: format is {found!r}; this version reads latency tables of "
                f"format {FORMAT}"
            )
        machine, grids = content.get("machine"), content.get("units")
        if not _texts(machine):
            raise ValueError(f"{path}: machine is {machine!r}; allowed: texts by name")
        if not _times([content.get("call_ms")]):
            raise ValueError(f"{path}: call_ms must be a number from 0")
        if not isinstance(grids, dict):
            raise ValueError(f"{path}: units must be an object {{...}}")
        read = {kind: _grid(path, kind, stored) for kind, stored in grids.items()}
        return cls(machine, float(content["call_ms"]), read)


def covers(grid: Grid, unit: Unit) -> bool:
    """Tell whether a grid holds for all widths that a unit may have."""
    sides = ((grid.ins, unit.inputs), (grid.outs, unit.outputs))
    for widths, side in sides:
        least = side.full if side.tensor is None else unit.least
        if not widths[0] <= least or not side.full <= widths[-1]:
            return False
    return True


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _times(values: Sequence) -> bool:
    return all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v < math.inf
        for v in values
    )


def _widths(value: Any) -> bool:
    whole = isinstance(value, list) and value and all(type(n) is int for n in value)
    return bool(whole) and value[0] >= 0 and sorted(set(value)) == value


def _grid(path: str | os.PathLike, kind: str, stored: Any) -> Grid:
    """Return a grid that was read, checked."""
    place = f"{path}: units[{kind!r}]"
    if not isinstance(stored, dict) or set(stored) != {"ins", "outs", "ms"}:
        raise ValueError(f"{place} must have ins, outs and ms, and nothing else")
    ins, outs, ms = stored["ins"], stored["outs"], stored["ms"]
    for name in ("ins", "outs"):
        if not _widths(stored[name]):
            raise ValueError(
                f"{place}.{name} is {stored[name]!r}; allowed: ascending whole numbers"
            )
    right = isinstance(ms, list) and len(ms) == len(ins)
    right = right and all(isinstance(r, list) and len(r) == len(outs) for r in ms)
    if not right or not all(_times(row) for row in ms):
        raise ValueError(
            f"{place}.ms must be {len(ins)} rows of {len(outs)} numbers from 0"
        )
    rows = tuple(tuple(float(v) for v in row) for row in ms)
    return Grid(tuple(ins), tuple(outs), rows)


def predict_latency(graph: Graph, table: LatencyTable, plan: Any = None) -> float:
    """Return the milliseconds that a net takes, or would with a plan applied.

    Parameters
    ----------
    graph : Graph
    table : LatencyTable
        With times for all of its units.
    plan : Plan, optional

    Raises
    ------
    ValueError
        If the table lacks a unit, or the plan does not fit the graph.
    """
    if plan is not None:
        plan.check(graph)
    alive = graph.keep_mask(plan.keep if plan is not None else {})
    total = np.rint(table.call_ms * NS)
    for unit in units_of(graph):
        widths = unit.inputs.kept(alive), unit.outputs.kept(alive)
        total += table.grid(unit).at(*widths)
    return float(total / NS)
