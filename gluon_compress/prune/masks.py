"""Masks channels: multiplies those outside a plan by zero, reversibly."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph, rebuild, symbol_of
from gluon_compress.graph.annotations import (
    CHANNEL_MASK,
    marked,
    mask_names,
    parameter_node,
    sources_of,
)
from gluon_compress.graph.context import attribute
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.plan import Plan
from gluon_compress.prune.mask_placement import MaskPlacement
from gluon_compress.prune.slimming import slim_node, traced


def mask(
    net: Any, plan: Plan | None, *, shape: Any = None, graph: Graph | None = None
) -> Any:
    """Return a net whose channels outside a plan are multiplied by zero.

    Every group that can lose channels gets a parameter ``<group>_mask`` of ones and
    zeros, which is not trained; ``set_mask`` changes it. In inference the outputs equal
    those of ``slim``.

    Parameters
    ----------
    net, plan, shape, graph
        As for ``slim``.

    Raises
    ------
    ValueError
        If the plan does not fit the net, the net has no values, or the shape is needed.
    """
    graph = traced(net, plan, shape, graph)
    sample = _sample(graph)
    writer = _MaskWriter(graph, sample.dtype)
    params = {**graph.params, **graph.annotated.params}
    for name, value in _mask_values(graph, plan).items():
        params[name] = mx.nd.array(value, ctx=sample.ctx, dtype=sample.dtype)
    for name, value in writer.indices.items():
        params[name] = mx.nd.array(value, ctx=sample.ctx, dtype="float32")
    symbol = put_together(writer.nodes, writer.heads)
    used = set(symbol.list_inputs())
    params = {name: value for name, value in params.items() if name in used}
    return rebuild(net, graph, symbol, params)


def set_mask(
    net: Any, plan: Plan | None, *, shape: Any = None, graph: Graph | None = None
) -> None:
    """Change in place which channels of a masked net are kept.

    Parameters
    ----------
    net : HybridBlock
        What ``mask`` returned.
    plan : Plan or None
        None restores every channel.
    shape, graph
        As for ``slim``.

    Raises
    ------
    ValueError
        If the net has no masks or the plan does not fit it.
    """
    nodes, _ = take_apart(symbol_of(net))
    names = mask_names(nodes)
    if not names:
        raise ValueError("the net has no masks; mask(net, plan) returns one with masks")
    values = _mask_values(traced(net, plan, shape, graph), plan)
    parameters = {p.name: p for p in net.collect_params().values()}
    for name in names.values():
        parameters[name].set_data(mx.nd.array(values[name]))


def _sample(graph: Graph) -> mx.nd.NDArray:
    """Return a value with the device and the type that masks need."""
    values = list(graph.params.values())
    # BatchNorm's vectors are float32 even if the other parameters are not.
    weights = [value for value in values if len(value.shape) > 1]
    return (weights or values or [mx.nd.zeros(1)])[0]


def _mask_values(graph: Graph, plan: Plan | None) -> Mapping[str, np.ndarray]:
    keep_mask = graph.keep_mask(plan.keep if plan else {})
    return {
        _mask_name(group.name): keep_mask[graph.positions(group)].astype(np.float32)
        for group in graph.groups
        if not group.frozen
    }


def _mask_name(group: str) -> str:
    return f"{group}_mask"


class _MaskWriter:
    """The nodes of a graph with masks, which are applied after annotations.

    Nodes are numbered as in ``graph.annotated``, except for tensors and edges of the
    mask placement, which are of the plain graph.
    """

    def __init__(self, graph: Graph, dtype: type) -> None:
        self.graph, self.placement, self.dtype = graph, MaskPlacement(graph), dtype
        self.nodes: list[dict] = []
        self.indices: dict[str, np.ndarray] = {}
        self.variables: dict[str, int] = {}
        self.new_numbers: dict[int, int] = {}
        self.products: dict[tuple, int] = {}
        self.readers = self._readers()
        self.starts = [graph.grouping.starts[group.name] for group in graph.groups]
        plain, keep_all = graph.annotated.plain, graph.keep_mask({})
        self.sources = sources_of(graph.annotated.nodes)
        for number, node in enumerate(graph.annotated.nodes):
            i = plain[number]
            if i < 0:
                self._copy(number, node)
            else:
                attrs = slim_node(graph, i, keep_all)["attrs"]
                self._write(number, i, {**node, "attrs": attrs})
        self.heads = [[self.new_numbers[h[0]], *h[1:]] for h in graph.annotated.heads]

    def _write(self, number: int, i: int, node: dict) -> None:
        """Write a plain node, and the masks of its outputs."""
        inputs = self._inputs(i, node)
        folded = self._folds(i)
        if folded:
            inputs[1:3] = self._masked_scale(i, inputs)
        self.new_numbers[number] = self._add({**node, "inputs": inputs})
        if not folded:
            for out in range(len(self.graph.tensors[i])):
                if (i, out) in self.placement.masked:
                    product = self._product((i, out), number, node["name"])
                    self.products[number, out] = product

    def _copy(self, number: int, node: dict) -> None:
        """Write an annotation's node, and the mask of its source."""
        inputs = [[self.new_numbers[e[0]], *e[1:]] for e in node["inputs"]]
        self.new_numbers[number] = self._add({**node, "inputs": inputs})
        source = self.sources.get(number)
        if source is not None:
            tensor = (self.graph.annotated.plain[source[0]], source[1])
            if tensor in self.placement.masked and not self._folds(tensor[0]):
                product = self._product(tensor, number, node["name"])
                self.products[number, 0] = product

    def _inputs(self, i: int, node: dict) -> list:
        result = []
        for k, entry in enumerate(node["inputs"]):
            product = self.products.get((entry[0], entry[1]))
            if product is not None and (i, k) in self.placement.edges:
                result.append([product, 0, 0])
            else:
                result.append([self.new_numbers[entry[0]], *entry[1:]])
        return result

    def _readers(self) -> dict[tuple, list[tuple[int, int]]]:
        """Return the edges that read each output."""
        readers: dict[tuple, list] = {}
        for i, node in enumerate(self.graph.nodes):
            for k, entry in enumerate(node["inputs"]):
                readers.setdefault((entry[0], entry[1]), []).append((i, k))
        return readers

    def _folds(self, i: int) -> bool:
        """Return whether a mask can multiply scale and shift of a BatchNorm instead.

        The result is the same, and training is twice as fast as with a product of maps.
        All readers of the output must need the mask.
        """
        node = self.graph.nodes[i]
        running = operator_of(node["op"]).running_statistics
        if not running or (i, 0) not in self.placement.masked:
            return False
        scale, shift = (self.graph.nodes[e[0]] for e in node["inputs"][1:3])
        if attribute(node["attrs"], "fix_gamma", True) or scale["op"] != "null":
            return False
        values = [self.graph.params[v["name"]] for v in (scale, shift)]
        return all(value.dtype == self.dtype for value in values) and all(
            edge in self.placement.edges for edge in self.readers[i, 0]
        )

    def _masked_scale(self, i: int, inputs: list) -> list:
        """Return the entries of a BatchNorm's scale and shift, masked."""
        name = self.graph.nodes[i]["name"]
        positions = self.graph.tensor((i, 0)).positions
        vector, length = [self._vector(positions, name), 0, 0], len(positions)
        products = []
        for kind, entry in zip(("gamma", "beta"), inputs[1:3]):
            # The shape can no longer be inferred from the BatchNorm's input.
            variable = self.nodes[entry[0]]
            if variable["op"] == "null":
                variable["attrs"] = {**variable["attrs"], "__shape__": f"({length},)"}
            products.append(self._multiplied(f"{name}_{kind}", entry, vector))
        return products

    def _add(self, node: dict) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _op(self, op: str, name: str, inputs: Sequence[int], **attrs: Any) -> int:
        texts = {key: str(value) for key, value in attrs.items()}
        entries = [[i, 0, 0] for i in inputs]
        return self._add({"op": op, "name": name, "attrs": texts, "inputs": entries})

    def _multiplied(self, name: str, entry: list, vector: list) -> list:
        product = {"op": "broadcast_mul", "name": f"{name}_masked", "attrs": {}}
        product = marked(product, CHANNEL_MASK, f"{name}_masked")
        return [self._add({**product, "inputs": [entry, vector]}), 0, 0]

    def _variable(self, name: str, group: str, length: int, dtype: Any) -> int:
        if name not in self.variables:
            node = parameter_node(name, CHANNEL_MASK, group, (length,), dtype)
            self.variables[name] = self._add(node)
        return self.variables[name]

    def _product(self, plain_entry: tuple, number: int, name: str) -> int:
        """Write the product of a node's output, annotated or not, and its mask."""
        tensor, output = self.graph.tensor(plain_entry), plain_entry[1]
        annotated = self.graph.annotated.plain[number] < 0
        if output and not annotated:
            name = f"{name}_{output}"
        vector = self._vector(tensor.positions, name)
        axes = range(len(tensor.shape))
        shape = tuple(-1 if axis == tensor.axis else 1 for axis in axes)
        mask = self._op("Reshape", f"{name}_mask", [vector], shape=shape)
        source = [self.new_numbers[number], 0 if annotated else output, 0]
        return self._multiplied(name, source, [mask, 0, 0])[0]

    def _in_order(self, positions: np.ndarray) -> list:
        """Return the groups of a tensor, in the order in which they begin in it."""
        group_of = np.searchsorted(self.starts, positions[positions >= 0], "right") - 1
        numbers, first = np.unique(group_of, return_index=True)
        return [self.graph.groups[k] for k in numbers[np.argsort(first)]]

    def _vector(self, positions: np.ndarray, name: str) -> int:
        """Return the node of the vector of ones and zeros for a tensor's channels."""
        groups = self._in_order(positions)
        parts = [
            self._variable(_mask_name(g.name), g.name, g.width, self.dtype)
            for g in groups
        ]
        order = np.concatenate([self.graph.positions(g) for g in groups])
        if (positions < 0).any():
            first = {"axis": 0, "begin": 0, "end": 1}
            one = self._op("slice_axis", f"{name}_one", parts[:1], **first)
            parts.append(self._op("ones_like", f"{name}_ones", [one]))
            order = np.append(order, -1)
        joined = parts[0]
        if len(parts) > 1:
            args = {"num_args": len(parts), "dim": 0}
            joined = self._op("Concat", f"{name}_masks", parts, **args)
        if np.array_equal(order, positions):
            return joined
        index_of = {int(p): k for k, p in enumerate(order)}
        self.indices[f"{name}_places"] = np.array([index_of[int(p)] for p in positions])
        index = self._variable(f"{name}_places", "", len(positions), np.float32)
        return self._op("take", f"{name}_order", [joined, index], axis=0)
