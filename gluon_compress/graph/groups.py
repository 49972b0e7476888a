"""Finds the channel groups of a symbol, and names them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Iterable, Mapping, Sequence

import numpy as np

from gluon_compress.graph.channels import (
    ChannelIds,
    Tensor,
    compress,
    labelled,
    rectangular,
    varying,
)
from gluon_compress.graph.context import OpContext
from gluon_compress.graph.names import structural_names, unused
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import CONSTANT

# Parameters that are used like any tensor get a channel id for each element, up to:
LARGEST = 1 << 20


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are kept or removed together, index by index.

    Parameters
    ----------
    name : str
        The first layer that produces them; the same in every process.
    width : int
        Number of indices that can be kept or removed.
    members : tuple of str
        The parameters that have these channels along an axis.
    frozen : str
        Why no channel can be removed; empty if channels can be.
    size : int
        Channels of the first producer per index: more than 1 if an operator ties
        channels together (grouped convolution, split).
    layers : tuple of str
        The layers with these output channels, in the order of the network: producers,
        and depthwise layers that pass them on.
    """

    name: str
    width: int
    members: tuple[str, ...] = ()
    frozen: str = ""
    size: int = 1
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grouping:
    """The channel groups of a graph, and where they lie in its tensors.

    Parameters
    ----------
    groups : list of ChannelGroup
        In the order of their first producers.
    starts : dict
        Group to the position of its index 0.
    tensors : list
        For each node, its outputs as Tensors; variables have one.
    axes : dict
        Parameter to a Tensor for each axis with removable channels. If blocks of rows
        have different channels along the second axis (grouped convolution), it
        describes the first block.
    blocks : dict
        Parameter to the positions of every block along its second axis, (blocks,
        length), if they differ.
    names : list of str
        For each node, its name without the counters of the process.
    """

    groups: list[ChannelGroup]
    starts: dict[str, int]
    tensors: list[list[Tensor]]
    axes: dict[str, list[Tensor]]
    blocks: dict[str, np.ndarray]
    names: list[str]


def find_groups(
    nodes: Sequence[dict], heads: Sequence, shapes: Sequence, inputs: Iterable[str]
) -> Grouping:
    """Return the channel groups of a symbol.

    Parameters
    ----------
    nodes, heads
        As ``symbols.take_apart`` returns them.
    shapes : sequence
        Shapes of every node's outputs, from ``symbols.output_shapes``.
    inputs : iterable of str
        Variables that are not parameters.
    """
    # Reasons name nodes, and must not depend on what else the process has built.
    names = structural_names([node["name"] for node in nodes])
    tracing = _Tracing(nodes, names, shapes, inputs)
    for i in range(len(nodes)):
        tracing.visit(i)
    tracing.close(heads)
    return _Naming(tracing).groups()


class _Tracing:
    """One pass over the nodes that applies their rules and collects the constraints."""

    def __init__(self, nodes, names, shapes, inputs) -> None:
        self.nodes, self.names, self.shapes = nodes, names, shapes
        self.inputs = set(inputs)
        self.channels = ChannelIds()
        self.outputs: list[list[np.ndarray]] = []
        self.carried: dict[int, dict[int, list[np.ndarray]]] = {}
        self.used_as_tensors: dict[int, np.ndarray] = {}

    def visit(self, i: int) -> None:
        """Apply a node's rule.

        Raises
        ------
        ValueError
            If the rule fails; the message names operator and layer.
        """
        node, shapes = self.nodes[i], self.shapes[i]
        if node["op"] == "null":
            reason = f"network input {node['name']!r}"
            self.outputs.append([self.channels.fixed(reason, len(shapes[0]))])
            return
        op = OpContext(
            node["op"],
            self.names[i],
            node["attrs"],
            [self.shapes[e[0]][e[1]] for e in node["inputs"]],
            shapes,
            lambda k: self._ids(node["inputs"][k]),
            lambda k, axis, ids: self._carry(node["inputs"][k], axis, ids),
            self.channels,
        )
        try:
            outputs = operator_of(node["op"]).rule(op)
        except (ValueError, IndexError, KeyError, TypeError, AssertionError) as error:
            raise ValueError(
                f"the rule of operator {op.type} does not hold for {op.name!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
        outputs = [self._settled(compress(ids), op) for ids in outputs]
        for ids, shape in zip(outputs, shapes):
            assert len(ids.shape) == len(shape), (node, ids.shape, shape)
            assert all(a in (1, n) for a, n in zip(ids.shape, shape)), node
        self.outputs.append(outputs)

    def _settled(self, ids: np.ndarray, op: OpContext) -> np.ndarray:
        """Freeze the channel of a tensor with a single one."""
        if ids.size > 1 or ids.reshape(-1)[0] < 0:
            return ids
        op.freeze(ids, "has a single channel")
        return self.channels.fixed("", ids.ndim)

    def _is_parameter(self, i: int) -> bool:
        return (
            self.nodes[i]["op"] == "null" and self.nodes[i]["name"] not in self.inputs
        )

    def _ids(self, entry: Sequence) -> np.ndarray:
        i, out = entry[:2]
        if not self._is_parameter(i):
            return self.outputs[i][out]
        if i not in self.used_as_tensors:
            shape = self.shapes[i][0]
            if CONSTANT in self.nodes[i]["attrs"]:
                reason = f"{self.names[i]!r} is a constant"
                ids = self.channels.fixed(reason, len(shape))
            elif int(np.prod(shape)) <= LARGEST:
                ids = self.channels.fresh(int(np.prod(shape))).reshape(shape)
                ids = compress(ids)
            else:
                reason = f"parameter {self.names[i]!r} is not cut"
                ids = self.channels.fixed(reason, len(shape))
            single = ids.size == 1
            self.used_as_tensors[i] = (
                self.channels.fixed("", len(shape)) if single else ids
            )
        return self.used_as_tensors[i]

    def _carry(self, entry: Sequence, axis: int, ids: np.ndarray) -> None:
        i = entry[0]
        if not self._is_parameter(i):
            name, computed = self.names[i], self.outputs[i][entry[1]]
            self.channels.freeze(ids, f"{name!r} is computed where a parameter is due")
            self.channels.freeze(computed, f"{name!r} is a layer's weight")
            return
        ids = ids.reshape(-1, ids.shape[-1])
        assert self.shapes[i][0][axis] == ids.shape[1], (self.nodes[i], axis)
        self.carried.setdefault(i, {}).setdefault(axis, []).append(ids)

    def close(self, heads: Sequence) -> None:
        """Add the constraints of the graph: shared parameters, outputs, shapes."""
        uses = Counter(e[0] for node in self.nodes for e in node["inputs"])
        for i, axes in self.carried.items():
            self._close_parameter(i, axes, uses[i])
        for k, (i, out, *_) in enumerate(heads):
            name = self.names[i]
            ids = self._ids([i, out])
            self.channels.freeze(ids, f"network output {k} ({name})")
        while self._tie_rectangles():
            pass
        self.channels.settle_blocks()

    def _close_parameter(self, i: int, axes: Mapping[int, list], uses: int) -> None:
        name = self.names[i]
        for ids in axes.values():
            rows = np.lcm.reduce([len(use) for use in ids])
            ids[:] = [np.repeat(use, rows // len(use), axis=0) for use in ids]
            for other in ids[1:]:
                self.channels.unite(ids[0], other)
            if len(ids) < uses or i in self.used_as_tensors:
                reason = f"parameter {name!r} is shared by unlike operators"
                self.channels.freeze(ids[0], reason)
                if i in self.used_as_tensors:
                    self.channels.freeze(self.used_as_tensors[i], reason)

    def _tie_rectangles(self) -> bool:
        """Unite ids that would leave a ragged tensor; return whether there were any."""
        labels, codes = self.channels.solve()
        tied = False
        for ids in self.all_ids():
            if len(varying(ids)) < 2:
                continue
            components = compress(labelled(ids, labels))
            free = components[components >= 0]
            if len(varying(components)) < 2 or (codes[free] != 0).all():
                continue
            rows = np.moveaxis(components, rectangular(components), 0)
            rows = rows.reshape(len(rows), -1)
            self.channels.unite(rows, rows[:, :1])
            tied = True
        return tied

    def all_ids(self) -> list[np.ndarray]:
        """Return the ids of all tensors and of parameters used as tensors."""
        return [a for outs in self.outputs for a in outs] + list(
            self.used_as_tensors.values()
        )


class _Naming:
    """Turns the collected constraints into named groups."""

    def __init__(self, tracing: _Tracing) -> None:
        self.tracing, self.nodes = tracing, tracing.nodes
        self.labels, self.codes = tracing.channels.solve()
        self.names = tracing.names
        # By identity: operators that pass channels on share one array of ids.
        self._compressed: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.axes = self._parameter_axes()

    def _parameter_axes(self) -> list[tuple[int, int, np.ndarray]]:
        rows = []
        for i, carried in self.tracing.carried.items():
            rows += [(i, axis, uses[0][0]) for axis, uses in carried.items()]
        for i, ids in self.tracing.used_as_tensors.items():
            axes = varying(ids := self._components(ids))
            if len(axes) == 1:
                rows.append((i, axes[0], ids.reshape(-1)))
        return sorted(rows, key=lambda row: row[:2])

    def _components(self, ids: np.ndarray) -> np.ndarray:
        if id(ids) not in self._compressed:
            self._compressed[id(ids)] = ids, compress(labelled(ids, self.labels))
        return self._compressed[id(ids)][1]

    def groups(self) -> Grouping:
        """Return the groups with their positions in every tensor."""
        signatures = self._signatures()
        members: dict[int, list[int]] = {}
        origin: dict[int, tuple] = {}
        layers: dict[int, dict] = {}
        assigned = np.zeros(len(self.labels), bool)
        for i, node in enumerate(self.nodes):
            if operator_of(node["op"]).weight_input is None:
                continue
            channels = self._components(self.tracing.outputs[i][0]).reshape(-1)
            labels, first, counts = np.unique(
                channels, return_index=True, return_counts=True
            )
            order = np.argsort(first)
            order = order[labels[order] >= 0]
            labels, counts = labels[order], counts[order]
            kinds, new = signatures[labels], ~assigned[labels]
            for kind in dict.fromkeys(kinds.tolist()):
                layers.setdefault(kind, {})[self.names[i]] = True
                mine = new & (kinds == kind)
                if mine.any():
                    members.setdefault(kind, []).extend(labels[mine].tolist())
                    origin.setdefault(kind, (i, int(counts[mine][0])))
            assigned[labels] = True
        return self._numbered(members, origin, layers)

    def _signatures(self) -> np.ndarray:
        """Return a number per component, the same for those of one group.

        It encodes where the component occurs, how often, and why it is frozen.
        """
        signatures = _mixed(self.codes.astype(np.uint64), -1)
        tensors = self.tracing.all_ids() + [ids for *_, ids in self.axes]
        # Tensors that share one array tell nothing more than one of them.
        distinct = {id(c): c for c in map(self._components, tensors)}
        for key, components in enumerate(distinct.values()):
            free = components[components >= 0]
            values, counts = np.unique(free, return_counts=True)
            signatures[values] += _mixed(counts.astype(np.uint64), key)
        return signatures

    def _numbered(self, members: dict, origin: dict, layers: dict) -> Grouping:
        position_of = np.full(len(self.labels) + 1, -1)
        group_of = np.full(len(self.labels) + 1, -1)
        groups, starts, total = [], {}, 0
        used: set[str] = set()
        for number, (kind, labels) in enumerate(members.items()):
            name = unused(self.names[origin[kind][0]], used)
            code = self.codes[labels[0]]
            frozen = self.tracing.channels.reason(code) if code else ""
            if not frozen and len(labels) == 1:
                frozen = "a single index cannot be removed"
            starts[name] = total
            group_of[labels] = number
            if not frozen:
                position_of[labels] = np.arange(total, total + len(labels))
            total += len(labels)
            size = origin[kind][1]
            group = ChannelGroup(
                name, len(labels), (), frozen, size, tuple(layers[kind])
            )
            groups.append(group)
        carriers = self._carriers(group_of, len(groups))
        groups = [replace(g, members=names) for g, names in zip(groups, carriers)]
        return Grouping(groups, starts, *self._tensors(position_of), self.names)

    def _carriers(self, group_of: np.ndarray, count: int) -> list[tuple[str, ...]]:
        names: list[dict] = [{} for _ in range(count)]
        for i, _, ids in self.axes:
            components = labelled(ids, self.labels, -1)
            for number in np.unique(group_of[components]):
                if number >= 0:
                    names[number][self.names[i]] = True
        return [tuple(parameters) for parameters in names]

    def _tensors(self, position_of: np.ndarray) -> tuple[list, dict, dict]:
        # By identity, as ``_compressed``: the axes that vary, and their positions.
        placed: dict[int, tuple[list[int], np.ndarray]] = {}

        def tensor(shape: tuple, ids: np.ndarray, axis: int | None = None) -> Tensor:
            components = self._components(ids)
            if id(components) not in placed:
                positions = compress(position_of[np.maximum(components, -1)])
                placed[id(components)] = varying(positions), positions.reshape(-1)
            axes, positions = placed[id(components)]
            assert len(axes) < 2
            if not axes:
                return Tensor(shape)
            return Tensor(shape, axes[0] if axis is None else axis, positions)

        tensors = [
            [tensor(s, a) for s, a in zip(shapes, outputs)]
            for shapes, outputs in zip(self.tracing.shapes, self.tracing.outputs)
        ]
        axes: dict[str, list[Tensor]] = {}
        for i, axis, ids in self.axes:
            parameter = tensor(self.tracing.shapes[i][0], ids, axis)
            if parameter.axis is not None:
                axes.setdefault(self.nodes[i]["name"], []).append(parameter)
        return tensors, axes, self._blocks(position_of)

    def _blocks(self, position_of: np.ndarray) -> dict[str, np.ndarray]:
        blocks = {}
        for i, axes in self.tracing.carried.items():
            if 1 in axes:
                positions = position_of[labelled(axes[1][0], self.labels, -1)]
                if (positions != positions[0]).any():
                    blocks[self.nodes[i]["name"]] = positions
        return blocks


def _mixed(counts: np.ndarray, key: int) -> np.ndarray:
    """Return well-mixed 64-bit numbers, so that their sums identify sets."""
    x = counts + np.uint64((key + 1) * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
