"""From nodes and shapes to channel groups: what belongs together, and its name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Iterable, Mapping, Sequence

import numpy as np

from gluon_compress.graph.channels import (
    Atoms,
    compress,
    labelled,
    rectangular,
    varying,
)
from gluon_compress.graph.context import PRODUCERS, Step, unknown
from gluon_compress.graph.names import structural_names, unused
from gluon_compress.graph.rules import RULES

# A parameter that is used like any tensor needs an atom per position.
LARGEST = 1 << 20


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that live or die together, index by index.

    Parameters
    ----------
    name : str
        The layer that first produces them; the same in every process.
    width : int
        How many indices can be kept or removed.
    members : tuple of str
        The parameters that have these channels along an axis.
    frozen : str
        Why no channel can be removed, "" if they can.
    size : int
        Channels of the first producer that one index stands for: more than 1 where
        an operator needs channels to go together (grouped convolution, split).
    layers : tuple of str
        The layers whose outputs these channels are, in the order of the network: all
        that make them, and depthwise ones that pass them on.
    """

    name: str
    width: int
    members: tuple[str, ...] = ()
    frozen: str = ""
    size: int = 1
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tensor:
    """A tensor's shape, and along ``axis`` the place of each position's channel.

    ``places`` numbers all channels of all groups; -1 is a channel that always stays.
    """

    shape: tuple[int, ...]
    axis: int | None = None
    places: np.ndarray | None = None

    def kept(self, alive: np.ndarray) -> tuple[int, ...]:
        """Return the shape when only the places marked alive are kept."""
        if self.axis is None:
            return self.shape
        shape = list(self.shape)
        shape[self.axis] = int(alive[self.places].sum())
        return tuple(shape)


@dataclass(frozen=True)
class Groups:
    """What ``find_groups`` finds.

    Parameters
    ----------
    groups : list of ChannelGroup
        In the order of their first producers.
    starts : dict
        Group to the place of its index 0.
    tensors : list
        Per node, its outputs as Tensors; variables have one.
    axes : dict
        Parameter to its axes that have removable channels, a Tensor for each. Where
        blocks of rows have channels of their own along the second, as the weight of a
        grouped convolution may, it is the first block's.
    blocks : dict
        Parameter to the places of every block along its second axis, where they
        differ: (blocks, length).
    names : list of str
        Per node, its name without the counters of the process.
    """

    groups: list[ChannelGroup]
    starts: dict[str, int]
    tensors: list[list[Tensor]]
    axes: dict[str, list[Tensor]]
    blocks: dict[str, np.ndarray]
    names: list[str]


def find_groups(
    nodes: Sequence[dict], heads: Sequence, shapes: Sequence, inputs: Iterable[str]
) -> Groups:
    """Return the channel groups of a symbol.

    Parameters
    ----------
    nodes, heads
        As ``nodes.take_apart`` gives them.
    shapes : sequence
        Of every node's outputs, as ``nodes.output_shapes`` gives them.
    inputs : iterable of str
        Variables that are no parameters.
    """
    # Reasons, too, must not depend on what else the process has built.
    names = structural_names([node["name"] for node in nodes])
    tracing = _Tracing(nodes, names, shapes, inputs)
    for i in range(len(nodes)):
        tracing.visit(i)
    tracing.close(heads)
    return _Naming(tracing).groups()


class _Tracing:
    """One pass over the nodes that collects what is said about their channels."""

    def __init__(self, nodes, names, shapes, inputs) -> None:
        self.nodes, self.names, self.shapes = nodes, names, shapes
        self.inputs = set(inputs)
        self.atoms = Atoms()
        self.outputs: list[list[np.ndarray]] = []
        self.carried: dict[int, dict[int, list[np.ndarray]]] = {}
        self.whole: dict[int, np.ndarray] = {}

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
            self.outputs.append([self.atoms.fixed(reason, len(shapes[0]))])
            return
        step = Step(
            node["op"],
            self.names[i],
            node["attrs"],
            [self.shapes[e[0]][e[1]] for e in node["inputs"]],
            shapes,
            lambda k: self._ids(node["inputs"][k]),
            lambda k, axis, atoms: self._carry(node["inputs"][k], axis, atoms),
            self.atoms,
        )
        try:
            found = RULES.get(node["op"], unknown)(step)
        except (ValueError, IndexError, KeyError, TypeError, AssertionError) as error:
            raise ValueError(
                f"the rule of operator {step.op} does not hold for {step.name!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
        found = [self._settled(compress(atoms), step) for atoms in found]
        for atoms, shape in zip(found, shapes):
            assert len(atoms.shape) == len(shape), (node, atoms.shape, shape)
            assert all(a in (1, n) for a, n in zip(atoms.shape, shape)), node
        self.outputs.append(found)

    def _settled(self, atoms: np.ndarray, step: Step) -> np.ndarray:
        """Freeze the channel of a tensor that has only one."""
        if atoms.size > 1 or atoms.reshape(-1)[0] < 0:
            return atoms
        step.freeze(atoms, "has a single channel")
        return self.atoms.fixed("", atoms.ndim)

    def _is_parameter(self, i: int) -> bool:
        return (
            self.nodes[i]["op"] == "null" and self.nodes[i]["name"] not in self.inputs
        )

    def _ids(self, entry: Sequence) -> np.ndarray:
        i, out = entry[:2]
        if not self._is_parameter(i):
            return self.outputs[i][out]
        if i not in self.whole:
            shape = self.shapes[i][0]
            if int(np.prod(shape)) <= LARGEST:
                atoms = self.atoms.fresh(int(np.prod(shape))).reshape(shape)
                atoms = compress(atoms)
            else:
                reason = f"parameter {self.names[i]!r} is not cut"
                atoms = self.atoms.fixed(reason, len(shape))
            single = atoms.size == 1
            self.whole[i] = self.atoms.fixed("", len(shape)) if single else atoms
        return self.whole[i]

    def _carry(self, entry: Sequence, axis: int, atoms: np.ndarray) -> None:
        i = entry[0]
        if not self._is_parameter(i):
            name, computed = self.names[i], self.outputs[i][entry[1]]
            self.atoms.freeze(atoms, f"{name!r} is computed where a parameter is due")
            self.atoms.freeze(computed, f"{name!r} is a layer's weight")
            return
        atoms = atoms.reshape(-1, atoms.shape[-1])
        assert self.shapes[i][0][axis] == atoms.shape[1], (self.nodes[i], axis)
        self.carried.setdefault(i, {}).setdefault(axis, []).append(atoms)

    def close(self, heads: Sequence) -> None:
        """Add what holds for the graph as one: shared parameters, outputs, shapes."""
        uses = Counter(e[0] for node in self.nodes for e in node["inputs"])
        for i, axes in self.carried.items():
            self._close_parameter(i, axes, uses[i])
        for k, (i, out, *_) in enumerate(heads):
            name = self.names[i]
            atoms = self._ids([i, out])
            self.atoms.freeze(atoms, f"network output {k} ({name})")
        while self._tie_rectangles():
            pass
        self.atoms.settle_blocks()

    def _close_parameter(self, i: int, axes: Mapping[int, list], uses: int) -> None:
        name = self.names[i]
        for atoms in axes.values():
            rows = np.lcm.reduce([len(use) for use in atoms])
            atoms[:] = [np.repeat(use, rows // len(use), axis=0) for use in atoms]
            for other in atoms[1:]:
                self.atoms.unite(atoms[0], other)
            if len(atoms) < uses or i in self.whole:
                reason = f"parameter {name!r} is shared by unlike operators"
                self.atoms.freeze(atoms[0], reason)
                if i in self.whole:
                    self.atoms.freeze(self.whole[i], reason)

    def _tie_rectangles(self) -> bool:
        """Tie what would leave a ragged tensor; tell whether anything was tied."""
        labels, codes = self.atoms.solve()
        tied = False
        for atoms in self.all_atoms():
            if len(varying(atoms)) < 2:
                continue
            known = compress(labelled(atoms, labels))
            free = known[known >= 0]
            if len(varying(known)) < 2 or (codes[free] != 0).all():
                continue
            rows = np.moveaxis(known, rectangular(known), 0)
            rows = rows.reshape(len(rows), -1)
            self.atoms.unite(rows, rows[:, :1])
            tied = True
        return tied

    def all_atoms(self) -> list[np.ndarray]:
        """Return the atoms of all tensors and of parameters used as tensors."""
        return [a for outs in self.outputs for a in outs] + list(self.whole.values())


class _Naming:
    """From what was collected to named groups, used once by ``find_groups``."""

    def __init__(self, tracing: _Tracing) -> None:
        self.tracing, self.nodes = tracing, tracing.nodes
        self.labels, self.codes = tracing.atoms.solve()
        self.names = tracing.names
        self.axes = self._parameter_axes()

    def _parameter_axes(self) -> list[tuple[int, int, np.ndarray]]:
        found = []
        for i, axes in self.tracing.carried.items():
            found += [(i, axis, uses[0][0]) for axis, uses in sorted(axes.items())]
        for i, atoms in self.tracing.whole.items():
            axes = varying(atoms := self._known(atoms))
            if len(axes) == 1:
                found.append((i, axes[0], atoms.reshape(-1)))
        return sorted(found, key=lambda row: row[:2])

    def _known(self, atoms: np.ndarray) -> np.ndarray:
        return compress(labelled(atoms, self.labels))

    def groups(self) -> Groups:
        """Return the groups with their places in every tensor."""
        marks = self._signatures()
        members: dict[tuple, list[int]] = {}
        origin: dict[tuple, tuple] = {}
        layers: dict[tuple, dict] = {}
        seen: set[int] = set()
        for i, node in enumerate(self.nodes):
            if node["op"] not in PRODUCERS:
                continue
            channels = self._known(self.tracing.outputs[i][0]).reshape(-1)
            values, first, counts = np.unique(
                channels, return_index=True, return_counts=True
            )
            for at in np.argsort(first):
                label = int(values[at])
                if label < 0:
                    continue
                key = (int(marks[label]), int(self.codes[label]))
                layers.setdefault(key, {})[self.names[i]] = True
                if label not in seen:
                    seen.add(label)
                    members.setdefault(key, []).append(label)
                    origin.setdefault(key, (i, int(counts[at])))
        return self._placed(members, origin, layers)

    def _signatures(self) -> np.ndarray:
        """Return a number per component that tells where it occurs, and how often."""
        marks = np.zeros(len(self.labels), np.uint64)
        everywhere = self.tracing.all_atoms() + [atoms for *_, atoms in self.axes]
        for key, atoms in enumerate(everywhere):
            known = self._known(atoms)
            values, counts = np.unique(known[known >= 0], return_counts=True)
            marks[values] += _mixed(counts.astype(np.uint64), key)
        return marks

    def _placed(self, members: dict, origin: dict, layers: dict) -> Groups:
        place = np.full(len(self.labels) + 1, -1)
        group_of = np.full(len(self.labels) + 1, -1)
        groups, starts, total, used = [], {}, 0, set()
        for number, (key, labels) in enumerate(members.items()):
            name = unused(self.names[origin[key][0]], used)
            frozen = self.tracing.atoms.reason(key[1]) if key[1] else ""
            if not frozen and len(labels) == 1:
                frozen = "a single index cannot be removed"
            starts[name] = total
            group_of[labels] = number
            if not frozen:
                place[labels] = np.arange(total, total + len(labels))
            total += len(labels)
            own = (origin[key][1], tuple(layers[key]))
            groups.append((name, len(labels), frozen, *own))
        carriers = self._carriers(group_of, len(groups))
        result = [
            ChannelGroup(name, width, carriers[k], frozen, *own)
            for k, (name, width, frozen, *own) in enumerate(groups)
        ]
        return Groups(result, starts, *self._tensors(place), self.names)

    def _carriers(self, group_of: np.ndarray, count: int) -> list[tuple[str, ...]]:
        names: list[dict] = [{} for _ in range(count)]
        for i, _, atoms in self.axes:
            known = labelled(atoms, self.labels, -1)
            for number in np.unique(group_of[known]):
                if number >= 0:
                    names[number][self.names[i]] = True
        return [tuple(found) for found in names]

    def _tensors(self, place: np.ndarray) -> tuple[list, dict, dict]:
        def tensor(shape: tuple, atoms: np.ndarray, axis: int | None = None) -> Tensor:
            places = place[labelled(atoms, self.labels, -1)]
            places = compress(places)
            axes = varying(places)
            assert len(axes) < 2
            if not axes:
                return Tensor(shape)
            return Tensor(shape, axes[0] if axis is None else axis, places.reshape(-1))

        tensors = [
            [tensor(s, a) for s, a in zip(shapes, outputs)]
            for shapes, outputs in zip(self.tracing.shapes, self.tracing.outputs)
        ]
        axes: dict[str, list[Tensor]] = {}
        for i, axis, atoms in self.axes:
            found = tensor(self.tracing.shapes[i][0], atoms, axis)
            if found.axis is not None:
                axes.setdefault(self.nodes[i]["name"], []).append(found)
        return tensors, axes, self._blocks(place)

    def _blocks(self, place: np.ndarray) -> dict[str, np.ndarray]:
        found = {}
        for i, axes in self.tracing.carried.items():
            if 1 in axes:
                places = place[labelled(axes[1][0], self.labels, -1)]
                if (places != places[0]).any():
                    found[self.nodes[i]["name"]] = places
        return found


def _mixed(counts: np.ndarray, key: int) -> np.ndarray:
    """Return well-spread 64-bit numbers, so that sums of them tell sets apart."""
    x = counts + np.uint64((key + 1) * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
