"""Latency tables: milliseconds of fused blocks at widths, and what they add up to.

The time of a block is interpolated between the widths that were timed. Two rules make
it monotone in every width, as a search for widths needs:

- A width counts as the next multiple of ``blocks.CHANNEL_MULTIPLE``, or as the next
  timed width if that comes first. Kernels work on full multiples: a width in between
  costs as much as the next multiple, or more, and then the sum is too small. A plan
  that only latency limits keeps full multiples by itself; other plans should ask for
  multiples of 8 or 16.
- Where a wider block was timed as faster (noise, or another kernel), the time is the
  mean of the largest time so far and the smallest time from there on.

Effects of blocks on each other are left out: each is timed while its code and weights
are in the cache. For nets of many small layers the sum is therefore rather too small.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph
from gluon_compress.latency.blocks import CHANNEL_MULTIPLE, FusedBlock, fused_blocks
from gluon_compress.provenance import cpu_name, threads
from gluon_compress.storage.atomic import read_json, write_json
from gluon_compress.validation import shown

FORMAT = 1
RUNTIME_FORMAT = 2  # of ``runtime_table``
LARGEST_WIDTH = 1 << 20
MOST_PAIRS = 1 << 24  # of effective widths, whose times are computed at once
NS = 1e6  # per millisecond; sums of whole numbers do not depend on their order


def this_machine() -> dict[str, str]:
    """Return what latency depends on here: CPU, threads, MXNet's version.

    ``waiting`` is how threads wait for each other (``OMP_WAIT_POLICY``). Unless it is
    ``active``, they fall asleep between two operators; that costs about 0.1 ms each.
    """
    waiting = os.environ.get("OMP_WAIT_POLICY", "").lower() or "default"
    return {
        "cpu": cpu_name(),
        "threads": str(threads()),
        "waiting": waiting,
        "mxnet": mx.__version__,
    }


@dataclass(frozen=True)
class Grid:
    """Milliseconds of blocks of one signature, as timed.

    Parameters
    ----------
    ins, outs : tuple of int
        Input and output widths, ascending; ``outs`` of a block with one width is
        ``(0,)``.
    ms : tuple of tuple of float
        One row for each of ``ins``, one column for each of ``outs``.
    weights : int
        Weights per input and output channel (per width, if there is one); 0 for blocks
        without weights. Only tables of runtimes state it.
    """

    ins: tuple[int, ...]
    outs: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]
    weights: int = 0

    def monotone(self) -> np.ndarray:
        """Return the times ``(ins, outs)``, changed so that none falls with a width."""
        times = np.array(self.ms, float)
        so_far, from_here = times, times[::-1, ::-1]
        for axis in (0, 1):
            so_far = np.maximum.accumulate(so_far, axis)
            from_here = np.minimum.accumulate(from_here, axis)
        return (so_far + from_here[::-1, ::-1]) / 2

    def nanoseconds(self, ins: int, outs: int) -> float:
        """Return the time at an input and an output width, interpolated in both."""
        first, second = _effective(ins, self.ins), _effective(outs, self.outs)
        columns = [np.interp(first, self.ins, times) for times in self.monotone().T]
        return float(np.rint(NS * np.interp(second, self.outs, columns)))

    def at_effective_widths(self) -> np.ndarray:
        """Return ``nanoseconds`` at all pairs of effective widths."""
        first, second = effective_widths(self.ins), effective_widths(self.outs)
        rows = np.stack([np.interp(first, self.ins, c) for c in self.monotone().T], 1)
        return np.rint(NS * np.stack([np.interp(second, self.outs, r) for r in rows]))


def effective_widths(grid_points: Sequence[int]) -> list[int]:
    """Return the widths that others count as: full multiples, and those timed."""
    multiples = range(CHANNEL_MULTIPLE, grid_points[-1], CHANNEL_MULTIPLE)
    return sorted({*multiples, *grid_points})


def _effective(width: int, grid_points: Sequence[int]) -> int:
    """Return what a width counts as: the next effective width, at most the last."""
    candidates = effective_widths(grid_points)
    return next((w for w in candidates if w >= width), grid_points[-1])


@dataclass(frozen=True)
class LatencyTable:
    """How long the fused blocks of nets take on one machine.

    ``measure_blocks`` makes it. It holds for any net whose blocks have the same
    signatures, and can be used on any machine to plan for the one it was made on.

    Parameters
    ----------
    machine : mapping
        CPU, threads, how they wait, and MXNet's version.
    call_ms : float
        Time of calling a net that does next to nothing.
    grids : mapping
        Signature of a block to its Grid.
    """

    machine: Mapping[str, str]
    call_ms: float
    grids: Mapping[str, Grid] = field(default_factory=dict)

    def blocks(self, graph: Graph) -> tuple[Graph, list[FusedBlock]]:
        """Return the blocks whose times add up to a net's, and the graph they are of.

        That graph's groups that may lose channels have the same names.
        """
        return graph, fused_blocks(graph)

    def nanoseconds(self, block: FusedBlock, ins: int, outs: int) -> float:
        """Return what a block adds to the time of a net, at two widths."""
        return self.grid(block).nanoseconds(ins, outs)

    def at_effective_widths(self, block: FusedBlock) -> np.ndarray:
        """Return ``nanoseconds`` at all pairs of effective widths."""
        return self.grid(block).at_effective_widths()

    @property
    def net_nanoseconds(self) -> float:
        """What every net takes beside its blocks."""
        return float(np.rint(self.call_ms * NS))

    def grid(self, block: FusedBlock) -> Grid:
        """Return the grid of a block.

        Raises
        ------
        ValueError
            If the block was not timed, or only at smaller widths.
        """
        grid = self.grids.get(block.signature)
        if grid is None or not self.covers(grid, block):
            raise ValueError(
                f"the latency table has no times for {block.signature!r} with "
                f"{block.inputs.full} to {block.outputs.full} channels; add them with "
                "gluon-compress latency on the table's machine"
            )
        return grid

    @staticmethod
    def covers(grid: Grid, block: FusedBlock) -> bool:
        """Tell whether a grid covers all widths that a block can have."""
        sides = ((grid.ins, block.inputs), (grid.outs, block.outputs))
        for widths, side in sides:
            smallest = side.full if side.tensor is None else block.smallest_width
            if widths[0] > smallest or side.full > widths[-1]:
                return False
        return True

    def save(self, path: str | os.PathLike) -> None:
        """Write the table as JSON, atomically."""
        grids = {
            signature: {"ins": grid.ins, "outs": grid.outs, "ms": grid.ms}
            for signature, grid in sorted(self.grids.items())
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
            If the file is missing, of another format or invalid; the message names the
            file and the key.
        """
        content = read_json(path)
        version = content.get("format") if isinstance(content, dict) else None
        if version == RUNTIME_FORMAT and not isinstance(version, bool):
            from gluon_compress.latency.runtime_table import RuntimeTable

            return RuntimeTable.parse(path, content)
        if version != FORMAT or isinstance(version, bool):
            raise ValueError(
                f"{path}: format is {shown(version)}; this version reads latency "
                f"tables of format {FORMAT} and {RUNTIME_FORMAT}"
            )
        machine, checked = parsed_head(path, content)
        if not are_times([content.get("call_ms")]):
            raise ValueError(f"{path}: call_ms must be a number from 0")
        return cls(machine, float(content["call_ms"]), checked)


def parsed_head(
    path: str | os.PathLike, content: Mapping[str, Any], *, weights: bool = False
) -> tuple[dict[str, str], dict[str, Grid]]:
    """Return the machine and the grids that a file states.

    Parameters
    ----------
    path : path-like
        For messages.
    content : mapping
    weights : bool
        Whether grids state their weights.

    Raises
    ------
    ValueError
        If either is invalid.
    """
    machine: Any = content.get("machine")
    grids: Any = content.get("units")
    if not _texts(machine):
        raise ValueError(f"{path}: machine is {shown(machine)}; allowed: texts by name")
    if not isinstance(grids, dict):
        raise ValueError(f"{path}: units must be an object {{...}}")
    checked = {
        name: _grid(path, name, stored, weights) for name, stored in grids.items()
    }
    return machine, checked


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def are_times(values: Sequence) -> bool:
    """Return whether all values are finite numbers from 0."""
    return all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v < math.inf
        for v in values
    )


def _widths(value: Any) -> bool:
    if (
        not isinstance(value, list)
        or not value
        or any(type(n) is not int for n in value)
    ):
        return False
    in_range = value[0] >= 0 and value[-1] <= LARGEST_WIDTH
    return in_range and sorted(set(value)) == value


def _grid(path: str | os.PathLike, signature: str, stored: Any, weights: bool) -> Grid:
    """Return the grid that a file states, or raise ValueError."""
    place = f"{path}: units[{shown(signature)}]"
    keys = ("ins", "outs", "weights", "ms") if weights else ("ins", "outs", "ms")
    if not isinstance(stored, dict) or set(stored) != set(keys):
        *most, last = keys
        raise ValueError(
            f"{place} must have {', '.join(most)} and {last}, and nothing else"
        )
    ins, outs, ms = stored["ins"], stored["outs"], stored["ms"]
    for name in ("ins", "outs"):
        if not _widths(stored[name]):
            raise ValueError(
                f"{place}.{name} is {shown(stored[name])}; allowed: ascending "
                f"whole numbers up to {LARGEST_WIDTH}"
            )
    table = isinstance(ms, list) and len(ms) == len(ins)
    table = table and all(isinstance(r, list) and len(r) == len(outs) for r in ms)
    if not table or not all(are_times(row) for row in ms):
        raise ValueError(
            f"{place}.ms must be {len(ins)} rows of {len(outs)} numbers from 0"
        )
    pairs = (ins[-1] // CHANNEL_MULTIPLE + 1) * (outs[-1] // CHANNEL_MULTIPLE + 1)
    if pairs > MOST_PAIRS:
        raise ValueError(f"{place}: widths up to {ins[-1]} and {outs[-1]} are too many")
    rows = tuple(tuple(float(v) for v in row) for row in ms)
    count = stored.get("weights", 0)
    if type(count) is not int or not 0 <= count <= LARGEST_WIDTH:
        raise ValueError(
            f"{place}.weights is {shown(count)}; allowed: a whole number from 0"
        )
    return Grid(tuple(ins), tuple(outs), rows, count)


def predict_latency(graph: Graph, table: LatencyTable, plan: Any = None) -> float:
    """Return the milliseconds that a net takes, with or without a plan applied.

    Parameters
    ----------
    graph : Graph
    table : LatencyTable
        With times for all blocks of the graph.
    plan : Plan, optional

    Raises
    ------
    ValueError
        If the table lacks a block, or the plan does not fit the graph.
    """
    if plan is not None:
        plan.check(graph)
    graph, blocks = table.blocks(graph)
    keep_mask = graph.keep_mask(plan.keep if plan is not None else {})
    total = table.net_nanoseconds
    for block in blocks:
        ins, outs = block.inputs.width(keep_mask), block.outputs.width(keep_mask)
        total += table.nanoseconds(block, ins, outs)
    return float(total / NS)
