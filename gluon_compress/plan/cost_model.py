"""The cost of thousands of choices at once, as a function of the kept widths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

import numpy as np

from gluon_compress.accelerator import Accelerator, works_of
from gluon_compress.cost import BYTES, count
from gluon_compress.graph import ChannelGroup, Graph, Tensor
from gluon_compress.graph.operators import operator_of
from gluon_compress.latency import LatencyTable
from gluon_compress.latency.blocks import Side
from gluon_compress.latency.table import NS, effective_widths

COSTS = ("macs", "bytes", "params")
LATENCY = "latency_ms"
CYCLES = "cycles"

# Kept widths ``(choices, groups)`` to costs ``(choices,)``, and what makes one.
WidthsToCost = Callable[[np.ndarray], np.ndarray]
CostFunction = Callable[[Graph], WidthsToCost]


class CostModel:
    """What ``count`` returns for any number of kept indices per group, and latency.

    A weight has at most two axes that shrink. Its size, and the MACs it takes part in,
    are therefore a constant times two sums over groups. The time of a block is looked
    up with two such sums.

    Parameters
    ----------
    graph : Graph
    table : LatencyTable, optional
        Adds the cost ``latency_ms``.
    extra : mapping, optional
        Name to cost function, as for ``CostLimit``: adds costs of these names.
    device : Accelerator, optional
        Adds the cost ``cycles``.

    Attributes
    ----------
    groups : list of ChannelGroup
        Those that are not frozen: the columns of widths.

    Raises
    ------
    ValueError
        If the table lacks a block of the graph.
    """

    def __init__(
        self,
        graph: Graph,
        table: LatencyTable | None = None,
        extra: Mapping[str, CostFunction] | None = None,
        device: Accelerator | None = None,
    ) -> None:
        self.groups = [group for group in graph.groups if not group.frozen]
        sums = _GroupSums(graph, [group.name for group in self.groups])
        self._sizes = _WeightSizes(graph, sums)
        total, shrinking = count(graph), self._sizes.costs(self.full[None])
        self._fixed = {  # what does not depend on widths
            name: getattr(total, name) - np.rint(shrinking[name][0]) for name in COSTS
        }
        self._extra: dict[str, WidthsToCost] = {}
        if table is not None:
            self._extra[LATENCY] = _Latency(graph, self.groups, table)
        if device is not None:
            self._extra[CYCLES] = _Cycles(graph, sums, device)
        for name, cost_function in (extra or {}).items():
            self._extra[name] = cost_function(graph)

    @property
    def full(self) -> np.ndarray:
        """The width of every group, ``(groups,)``."""
        return np.array([group.width for group in self.groups], int)

    def costs(self, widths: np.ndarray) -> dict[str, np.ndarray]:
        """Return costs ``(choices,)`` of kept widths ``(choices, groups)``, by name.

        They are whole numbers, as those of ``count``, so that a limit that is met is
        met to the last parameter; latency is rounded to whole nanoseconds.
        """
        sizes = self._sizes.costs(widths)
        costs = {name: np.rint(sizes[name] + self._fixed[name]) for name in COSTS}
        for name, cost in self._extra.items():
            costs[name] = cost(widths)
        return costs


@dataclass(frozen=True)
class _Linear:
    """Numbers of channels as linear functions of the groups' widths.

    Parameters
    ----------
    per_index : ndarray
        How often each group's index occurs, ``(rows, groups)``.
    constant : ndarray
        Channels that always stay, ``(rows,)``.
    """

    per_index: np.ndarray
    constant: np.ndarray

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """Return channels ``(choices, rows)`` of widths ``(choices, groups)``."""
        return widths @ self.per_index.T + self.constant


class _GroupSums:
    """Counts how often the index of each group occurs along an axis.

    Parameters
    ----------
    graph : Graph
    names : sequence of str
        The groups, in the order of the columns.
    """

    def __init__(self, graph: Graph, names: Sequence[str]) -> None:
        self._groups = len(names)
        # By the positions of index 0.
        self._group_of_id = np.full(len(graph.keep_mask({})), -1)
        for k, name in enumerate(names):
            if name in graph.grouping.starts:
                self._group_of_id[graph.grouping.starts[name]] = k

    def along(self, tensors: Sequence[Tensor | None]) -> _Linear:
        """Return the channels of tensors along their axes; 1 where there is none."""
        per_index = np.zeros((len(tensors), self._groups))
        constant = np.ones(len(tensors))
        for row, tensor in enumerate(tensors):
            if tensor is not None:
                ids = np.asarray(tensor.positions)
                constant[row] = (ids < 0).sum()
                groups = self._group_of_id[ids]
                np.add.at(per_index[row], groups[groups >= 0], 1)
        return _Linear(per_index, constant)


class _WeightSizes:
    """MACs, bytes and parameters of the weights that shrink."""

    def __init__(self, graph: Graph, sums: _GroupSums) -> None:
        names = list(graph.axes)
        axes = [(graph.axes[name] + [None])[:2] for name in names]
        self._first = sums.along([first for first, _ in axes])
        self._second = sums.along([second for _, second in axes])
        shapes = {
            node["name"]: outputs[0].shape
            for node, outputs in zip(graph.nodes, graph.tensors)
            if node["op"] == "null"
        }
        full = np.array([np.prod(shapes[name], dtype=float) for name in names])
        # Channels of the axes that shrink, multiplied: the rest is a constant factor.
        shrinking = np.array(
            [
                math.prod(len(np.asarray(t.positions)) for t in graph.axes[name])
                for name in names
            ]
        )
        factor = full / shrinking
        macs = _macs_of_weights(graph)
        trained = np.array([name not in graph.running for name in names], float)
        self._factors = {
            "macs": factor * np.array([macs.get(name, 0.0) for name in names]) / full,
            "bytes": BYTES * factor,
            "params": trained * factor,
        }

    def costs(self, widths: np.ndarray) -> dict[str, np.ndarray]:
        """Return costs ``(choices,)`` of widths ``(choices, groups)``, not rounded."""
        sizes = self._first(widths) * self._second(widths)
        return {name: sizes @ factors for name, factors in self._factors.items()}


def _macs_of_weights(graph: Graph) -> dict[str, float]:
    """Return the MACs of one sample that each weight takes part in, over all uses."""
    macs: dict[str, float] = {}
    for i, node in enumerate(graph.nodes):
        operator = operator_of(node["op"])
        if operator.macs is not None and len(node["inputs"]) > 1:
            entry = node["inputs"][operator.weight_input or 1]
            weight = graph.nodes[entry[0]]["name"]
            if weight in graph.axes:
                shapes = [graph.tensors[e[0]][e[1]].shape for e in node["inputs"]]
                output = graph.tensors[i][0].shape
                layer = operator.macs(node["attrs"], shapes, output)
                macs[weight] = macs.get(weight, 0.0) + layer // graph.batch
    return macs


class _Cycles:
    """Cycles of all layers on an accelerator."""

    def __init__(self, graph: Graph, sums: _GroupSums, device: Accelerator) -> None:
        self._device, self._works = device, works_of(graph)
        sides = [(work.inputs, work.outputs) for work in self._works]
        self._ins, self._outs = (
            self._channels(sums, tensors) for tensors in zip(*sides)
        )

    @staticmethod
    def _channels(sums: _GroupSums, tensors: Sequence[Tensor]) -> _Linear:
        moving = sums.along([t if t.axis == 1 else None for t in tensors])
        full = [t.shape[1] if t.axis != 1 else 0 for t in tensors]
        fixed = np.array([t.axis != 1 for t in tensors])
        return _Linear(moving.per_index, np.where(fixed, full, moving.constant))

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """Return cycles ``(choices,)`` of widths ``(choices, groups)``."""
        ins, outs = self._ins(widths), self._outs(widths)
        return np.sum(
            [
                work.cost(ins[:, i], outs[:, i], self._device)["cycles"]
                for i, work in enumerate(self._works)
            ],
            axis=0,
        )


class _Latency:
    """Milliseconds of all blocks, from a table; all times lie in one array."""

    def __init__(
        self, graph: Graph, groups: Sequence[ChannelGroup], table: LatencyTable
    ) -> None:
        graph, blocks = table.blocks(graph)
        sums = _GroupSums(graph, [group.name for group in groups])
        grids = {block.signature: table.grid(block) for block in blocks}
        by_signature = {block.signature: block for block in blocks}
        times, starts, columns, end = [np.zeros(1)], {}, {}, 1
        for signature, block in by_signature.items():
            grid_times = table.at_effective_widths(block)
            starts[signature], columns[signature] = end, grid_times.shape[1]
            times.append(grid_times.ravel())
            end += grid_times.size
        self._times = np.concatenate(times)
        self._starts = np.array([starts[block.signature] for block in blocks], int)
        self._columns = np.array([columns[block.signature] for block in blocks], int)
        self._inputs = _EffectiveWidthIndex(
            sums,
            [block.inputs for block in blocks],
            [effective_widths(grids[block.signature].ins) for block in blocks],
        )
        self._outputs = _EffectiveWidthIndex(
            sums,
            [block.outputs for block in blocks],
            [effective_widths(grids[block.signature].outs) for block in blocks],
        )
        self._call = table.net_nanoseconds

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """Return milliseconds ``(choices,)`` of widths ``(choices, groups)``."""
        row, column = self._inputs(widths), self._outputs(widths)
        nanoseconds = self._times[self._starts + row * self._columns + column]
        return (self._call + nanoseconds.sum(1)) / NS


class _EffectiveWidthIndex:
    """The index of the effective width that each block's inputs, or outputs, count as.

    Parameters
    ----------
    sums : _GroupSums
    sides : sequence of Side
        Inputs or outputs of each block.
    widths_of_sides : sequence of list of int
        The effective widths of each block's grid on that side, ascending.
    """

    def __init__(
        self,
        sums: _GroupSums,
        sides: Sequence[Side],
        widths_of_sides: Sequence[Sequence[int]],
    ) -> None:
        channels = sums.along([side.tensor for side in sides])
        fixed = np.array([side.tensor is None for side in sides], bool)
        full = [side.full for side in sides]
        self._channels = _Linear(
            channels.per_index, np.where(fixed, full, channels.constant)
        )
        # The index for every width from 0, one side behind the other.
        numbers = [
            np.searchsorted(row, np.arange(row[-1] + 1)) for row in widths_of_sides
        ]
        self._numbers = np.concatenate([np.zeros(0, int), *numbers])
        self._starts = np.cumsum([0, *map(len, numbers)])[:-1]

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """Return indices ``(choices, blocks)`` of widths ``(choices, groups)``."""
        return self._numbers[self._starts + self._channels(widths).astype(int)]
