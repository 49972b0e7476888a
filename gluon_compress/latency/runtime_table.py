"""Latency tables of edge runtimes: the times of blocks, and of a few whole nets."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Mapping

import numpy as np

from gluon_compress.graph import Graph
from gluon_compress.latency.blocks import FusedBlock
from gluon_compress.latency.correction import Correction, fitted
from gluon_compress.latency.runtime_blocks import runtime_blocks
from gluon_compress.latency.table import (
    NS,
    RUNTIME_FORMAT,
    Grid,
    LatencyTable,
    are_times,
    effective_widths,
    parsed_head,
)
from gluon_compress.storage.atomic import write_json
from gluon_compress.validation import shown

MULTIPLES = (32, 16, 8)
DEFAULT_MULTIPLE = 16  # where it was not measured
GAIN = 0.05  # of time, that narrower steps of width must bring
# What a table is for; a table for something else is refused where this is asked for.
TARGET = ("runtime", "precision", "threads", "cpu")


@dataclass(frozen=True)
class WholeNet:
    """A whole net that was timed with a table.

    Parameters
    ----------
    name : str
    blocks : tuple of (str, int, int)
        Signature, input and output width of each block; the output width of a block
        with one width is 0.
    ms : float
    """

    name: str
    blocks: tuple[tuple[str, int, int], ...]
    ms: float


@dataclass(frozen=True)
class RuntimeTable(LatencyTable):
    """How long the blocks of nets take in one runtime, precision and machine.

    ``deployment.measure_table`` makes it, or the runner of a bundle on a device.

    Parameters
    ----------
    machine : mapping
        ``runtime``, ``precision``, ``threads``, ``cpu``, ``instructions``, ``version``
        of the runtime, and ``spread``, how much equal measurements differed.
    call_ms : float
        Not used; what nets take beside their blocks is fitted.
    grids : mapping
        Signature of a block to its Grid.
    nets : tuple of WholeNet
        What ``correction`` is fitted to.
    steps : mapping
        Milliseconds of one block by its width, on both sides, at near widths.
    """

    nets: tuple[WholeNet, ...] = field(default=())
    steps: Mapping[int, float] = field(default_factory=dict)

    def blocks(self, graph: Graph) -> tuple[Graph, list[FusedBlock]]:
        """Return the inference graph of a net, and its blocks as runtimes fuse them."""
        inference = graph.inference()
        return inference, runtime_blocks(inference)

    @staticmethod
    def covers(grid: Grid, block: FusedBlock) -> bool:
        """Tell whether a grid reaches the full widths of a block."""
        if block.inputs.full > grid.ins[-1] or block.outputs.full > grid.outs[-1]:
            return False
        sides = ((grid.ins, block.inputs), (grid.outs, block.outputs))
        return all(side.tensor is not None or side.full >= w[0] for w, side in sides)

    @property
    def multiple(self) -> int:
        """The multiple of channels that is worth it, of ``MULTIPLES``.

        It is the largest one such that no width between is faster by ``GAIN`` than the
        next multiple.
        """
        for multiple in MULTIPLES:
            pairs = [(n, -(-n // multiple) * multiple) for n in self.steps]
            between = [(n, m) for n, m in pairs if n != m and m in self.steps]
            if between and all(
                self.steps[n] >= (1 - GAIN) * self.steps[m] for n, m in between
            ):
                return multiple
        return MULTIPLES[-1] if self.steps else DEFAULT_MULTIPLE

    @cached_property
    def correction(self) -> Correction:
        """The factors that make sums of blocks the times of nets."""
        sums = [self._sums(net) for net in self.nets]
        return fitted(sums, [net.ms * NS for net in self.nets])

    def _sums(self, net: WholeNet) -> tuple[float, float, float]:
        layers = others = weights = 0.0
        for signature, ins, outs in net.blocks:
            grid = self.grids[signature]
            spent = grid.nanoseconds(ins, outs)
            if grid.weights:
                layers, weights = layers + spent, weights + _weights(grid, ins, outs)
            else:
                others += spent
        return layers, others, weights

    def nanoseconds(self, block: FusedBlock, ins: int, outs: int) -> float:
        """Return what a block adds to the time of a net, at two widths."""
        grid = self.grid(block)
        pair = [[_effective(ins, grid.ins)], [_effective(outs, grid.outs)]]
        return float(self._corrected(grid, grid.nanoseconds(ins, outs), *pair)[0, 0])

    def at_effective_widths(self, block: FusedBlock) -> np.ndarray:
        """Return ``nanoseconds`` at all pairs of effective widths."""
        grid = self.grid(block)
        ins, outs = effective_widths(grid.ins), effective_widths(grid.outs)
        return self._corrected(grid, grid.at_effective_widths(), ins, outs)

    def _corrected(self, grid: Grid, spent: Any, ins: list, outs: list) -> np.ndarray:
        correction = self.correction
        if not grid.weights:
            return np.rint(correction.others * np.atleast_2d(spent))
        counts = grid.weights * np.outer(ins, [max(n, 1) for n in outs])
        return np.rint(correction.layers * spent + correction.per_weight * counts)

    @property
    def net_nanoseconds(self) -> float:
        """What every net takes beside its blocks."""
        return float(np.rint(self.correction.per_net))

    def merged(self, newer: RuntimeTable) -> RuntimeTable:
        """Return this table with what another of the same machine has in addition."""
        names = {net.name for net in newer.nets}
        kept = tuple(net for net in self.nets if net.name not in names)
        grids, steps = {**self.grids, **newer.grids}, {**self.steps, **newer.steps}
        return RuntimeTable(newer.machine, 0.0, grids, kept + newer.nets, steps)

    def save(self, path: str | os.PathLike) -> None:
        """Write the table as JSON, atomically."""
        grids = {
            signature: {
                "ins": grid.ins,
                "outs": grid.outs,
                "weights": grid.weights,
                "ms": grid.ms,
            }
            for signature, grid in sorted(self.grids.items())
        }
        nets = [
            {"name": net.name, "blocks": net.blocks, "ms": net.ms} for net in self.nets
        ]
        content = {
            "format": RUNTIME_FORMAT,
            "machine": dict(self.machine),
            "steps": {str(width): ms for width, ms in sorted(self.steps.items())},
            "units": grids,
            "nets": nets,
        }
        write_json(path, content)

    @classmethod
    def parse(cls, path: str | os.PathLike, content: Mapping[str, Any]) -> RuntimeTable:
        """Return the table of a file's content.

        Raises
        ------
        ValueError
            If it is invalid; the message names the file and the key.
        """
        machine, grids = parsed_head(path, content, weights=True)
        for key in ("runtime", "precision", "threads", "cpu"):
            if key not in machine:
                raise ValueError(f"{path}: machine lacks {key!r}")
        steps: Any = content.get("steps")
        nets: Any = content.get("nets")
        if not _are_steps(steps):
            raise ValueError(
                f"{path}: steps is {shown(steps)}; allowed: milliseconds by width"
            )
        if not isinstance(nets, list):
            raise ValueError(f"{path}: nets must be a list [...]")
        parsed = tuple(_net(path, i, net, grids) for i, net in enumerate(nets))
        by_width = {int(width): float(ms) for width, ms in steps.items()}
        return cls(machine, 0.0, grids, parsed, by_width)


def check_target(table: LatencyTable, **target: Any) -> None:
    """Refuse a table that is for another runtime, precision, threads or CPU.

    Parameters
    ----------
    table : LatencyTable
        One without a runtime is for MXNet, operator by operator.
    target : str or int
        Any of ``TARGET``; None: not asked.

    Raises
    ------
    ValueError
        For the first that differs.
    """
    states = {"runtime": "mxnet, not fused", "precision": "float32", **table.machine}
    for name in TARGET:
        wanted = target.get(name)
        if wanted is not None and str(wanted) != states.get(name):
            raise ValueError(
                f"the latency table is for {name} {shown(states.get(name))}, wanted: "
                f"{shown(str(wanted))}; measure another with gluon-compress latency"
            )


def _effective(width: int, points: tuple[int, ...]) -> int:
    return next((w for w in effective_widths(points) if w >= width), points[-1])


def _weights(grid: Grid, ins: int, outs: int) -> float:
    pair = _effective(ins, grid.ins), _effective(outs, grid.outs)
    return grid.weights * pair[0] * max(pair[1], 1)


def _are_steps(value: Any) -> bool:
    if not isinstance(value, dict) or not are_times(list(value.values())):
        return False
    return all(width.isdigit() and 0 < int(width) <= 4096 for width in value)


def _net(
    path: str | os.PathLike, number: int, stored: Any, grids: Mapping[str, Grid]
) -> WholeNet:
    """Return a whole net that a file states, or raise ValueError."""
    place = f"{path}: nets[{number}]"
    if not isinstance(stored, dict) or set(stored) != {"name", "blocks", "ms"}:
        raise ValueError(f"{place} must have name, blocks and ms, and nothing else")
    name, blocks, ms = stored["name"], stored["blocks"], stored["ms"]
    if not isinstance(name, str):
        raise ValueError(f"{place}.name is {shown(name)}; allowed: a text")
    if not are_times([ms]) or ms == 0:
        raise ValueError(f"{place}.ms is {shown(ms)}; allowed: a number above 0")
    if not isinstance(blocks, list) or not all(_is_block(b, grids) for b in blocks):
        raise ValueError(
            f"{place}.blocks must be rows of a signature in units and two widths"
        )
    rows = tuple((row[0], row[1], row[2]) for row in blocks)
    return WholeNet(name, rows, float(ms))


def _is_block(row: Any, grids: Mapping[str, Grid]) -> bool:
    if not isinstance(row, list) or len(row) != 3:
        return False
    signature, *widths = row
    known = isinstance(signature, str) and signature in grids
    return known and all(type(n) is int and n >= 0 for n in widths)
