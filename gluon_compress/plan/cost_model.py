"""Costs of thousands of choices at once: totals as a function of the kept widths."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from gluon_compress.cost import BYTES, count
from gluon_compress.graph import Graph, Tensor
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import states
from gluon_compress.latency import LatencyTable
from gluon_compress.latency.blocks import Side, units_of
from gluon_compress.latency.table import NS, stops

LIMITS = ("macs", "bytes", "params")
LATENCY = "latency_ms"


class Meter:
    """The totals of ``count`` for any number of kept indices per group, and latency.

    A weight has at most two axes that shrink, so its size, and the MACs it takes part
    in, are a constant times two sums over groups. A unit's time is a look-up with two
    such sums.

    Parameters
    ----------
    graph : Graph
    table : LatencyTable, optional
        Without it there are no totals of ``latency_ms``.

    Raises
    ------
    ValueError
        If the table lacks a unit of the graph.
    """

    def __init__(self, graph: Graph, table: LatencyTable | None = None) -> None:
        self.graph, self._table = graph, None
        self.groups = [group for group in graph.groups if not group.frozen]
        names = list(graph.axes)
        shapes = {n: s[0].shape for n, s in self._variables().items()}
        axes = [(graph.axes[n] + [None])[:2] for n in names]
        self._first = self._sums([pair[0] for pair in axes])
        self._second = self._sums([pair[1] for pair in axes])
        full = np.array([np.prod(shapes[n], dtype=float) for n in names])
        ends = np.array(
            [np.prod([1.0] + [len(t.places) for t in graph.axes[n]]) for n in names]
        )
        inner = full / ends
        running, macs = states(graph.nodes), self._macs(set(names))
        trained = np.array([n not in running for n in names], float)
        self._factors = {
            "macs": inner * np.array([macs.get(n, 0.0) for n in names]) / full,
            "bytes": BYTES * inner,
            "params": trained * inner,
        }
        total = count(graph)
        widths = self.full[None]
        self._rest = dict.fromkeys(LIMITS, 0.0)
        shrinking = self.totals(widths)
        self._rest = {n: getattr(total, n) - shrinking[n][0] for n in LIMITS}
        if table is not None:
            self._prepare_times(table)
            self._table = table

    @property
    def full(self) -> np.ndarray:
        """Every group's width."""
        return np.array([group.width for group in self.groups], int)

    def totals(self, widths: np.ndarray) -> dict[str, np.ndarray]:
        """Return totals for rows of kept widths ``(choices, groups)``.

        They are whole numbers, as ``count`` gives them, so that a limit that is met
        to the last parameter is met; of latency, whole nanoseconds.
        """
        sizes = self._evaluate(self._first, widths) * self._evaluate(
            self._second, widths
        )
        totals = {n: np.rint(sizes @ self._factors[n] + self._rest[n]) for n in LIMITS}
        if self._table is not None:
            totals[LATENCY] = self._latency(widths)
        return totals

    def _prepare_times(self, table: LatencyTable) -> None:
        """Lay the times of all kinds of units one behind the other, and their stops."""
        units = units_of(self.graph)
        grids = {unit.kind: table.grid(unit) for unit in units}
        times, found, end = [np.zeros(1)], {}, 1
        for kind, grid in grids.items():
            laid = grid.at_stops()
            found[kind] = end, laid.shape[1]
            times.append(laid.ravel())
            end += laid.size
        self._times = np.concatenate(times)
        places = [found[unit.kind] for unit in units]
        self._starts, self._rows = np.array(places, int).reshape(-1, 2).T
        ins = [stops(grids[unit.kind].ins) for unit in units]
        outs = [stops(grids[unit.kind].outs) for unit in units]
        self._ins = *self._channels([u.inputs for u in units]), *_counted(ins)
        self._outs = *self._channels([u.outputs for u in units]), *_counted(outs)
        self._call = np.rint(table.call_ms * NS)

    def _latency(self, widths: np.ndarray) -> np.ndarray:
        row, column = (
            numbers[starts + self._evaluate((times, rest), widths).astype(int)]
            for times, rest, numbers, starts in (self._ins, self._outs)
        )
        spent = self._times[self._starts + row * self._rows + column]
        return (self._call + spent.sum(1)) / NS

    def _channels(self, sides: Sequence[Side]) -> tuple:
        times, rest = self._sums([side.tensor for side in sides])
        fixed = np.array([side.tensor is None for side in sides], bool)
        return times, np.where(fixed, [side.full for side in sides], rest)

    def _variables(self) -> dict[str, list[Tensor]]:
        pairs = zip(self.graph.nodes, self.graph.tensors)
        return {node["name"]: outs for node, outs in pairs if node["op"] == "null"}

    def _sums(self, tensors: Sequence[Tensor | None]) -> tuple:
        """Return how often each group's index occurs along axes, and what stays."""
        times = np.zeros((len(tensors), len(self.groups)))
        rest = np.ones(len(tensors))
        column = np.full(len(self.graph.alive({})), -1)  # of the places of index 0
        for k, group in enumerate(self.groups):
            column[self.graph.found.starts[group.name]] = k
        for row, tensor in enumerate(tensors):
            if tensor is not None:
                rest[row] = (tensor.places < 0).sum()
                found = column[tensor.places]
                np.add.at(times[row], found[found >= 0], 1)
        return times, rest

    @staticmethod
    def _evaluate(sums: tuple, widths: np.ndarray) -> np.ndarray:
        times, rest = sums
        return widths @ times.T + rest

    def _macs(self, names: set) -> dict[str, float]:
        """Return the MACs that each weight takes part in, all its uses together."""
        macs: dict[str, float] = {}
        for i, node in enumerate(self.graph.nodes):
            operator = operator_of(node["op"])
            if operator.macs is not None and len(node["inputs"]) > 1:
                place = node["inputs"][operator.weight_input or 1]
                weight = self.graph.nodes[place[0]]["name"]
                if weight in names:
                    shapes = [
                        self.graph.tensors[e[0]][e[1]].shape for e in node["inputs"]
                    ]
                    out = self.graph.tensors[i][0].shape
                    found = operator.macs(node["attrs"], shapes, out)
                    macs[weight] = macs.get(weight, 0.0) + found // self.graph.batch
        return macs


def _counted(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the stop that each width counts as, row behind row, and the starts."""
    numbers = [np.searchsorted(row, np.arange(row[-1] + 1)) for row in rows]
    starts = np.cumsum([0, *map(len, numbers)])[:-1]
    return np.concatenate([np.zeros(0, int), *numbers]), starts
