"""The small nets that time blocks in edge runtimes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph
from gluon_compress.graph.context import attribute
from gluon_compress.graph.operators import DENSE, LAYER, operator_of
from gluon_compress.graph.symbols import infer_shapes
from gluon_compress.latency.blocks import (
    FusedBlock,
    data_inputs,
    data_shapes,
    latency_class,
    resized,
)
from gluon_compress.latency.runtime_blocks import SUMS

ENTRY_CHANNELS = 4  # of a timed net's input, and of its output
PATTERN = 4093  # values that weights repeat: prime, and files compress well


def block_net(
    graph: Graph, block: FusedBlock, widths: Sequence[int], count: int
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray], tuple[int, ...]]:
    """Return a net that computes a block ``count`` times.

    The blocks read one map, which a convolution makes of the input, so that it has the
    layout that convolutions produce. A max pooling with a window of one cell takes a
    few values out of each result, and a small convolution joins them: so all results
    are needed, and a runtime cannot leave a block out. Blocks with a sum add to the
    result of the block before. Nets of one block at the same widths differ by nothing
    but the number of blocks.

    Parameters
    ----------
    graph : Graph
    block : FusedBlock
        Of ``runtime_blocks``.
    widths : (int, int)
        Input and output channels.
    count : int
        At least 1.

    Returns
    -------
    (Symbol, dict, tuple)
        Net and values as ``deployment.formats.InferenceGraph`` takes them, and the
        shape of ``data``.
    """
    first = block.nodes[0]
    shapes = data_shapes(graph, first, block.scaling, widths[0])
    data = mx.sym.var("data")
    if len(shapes[0]) == 4:
        cells = shapes[0][2:]
        shape = (1, ENTRY_CHANNELS, *cells)
        sources = [_entry(data, s, f"entry{k}", cells) for k, s in enumerate(shapes)]
    else:
        shape, sources = tuple(shapes[0]), [data] * len(shapes)
    copies = _Copies(graph, block, widths, data, sources)
    results: list[mx.sym.Symbol] = []
    for number in range(count):
        results.append(copies.append(number, results[-1] if results else None))
    symbol = _joined(graph, block, results)
    return symbol, _values(symbol, shape), shape


def _entry(
    data: mx.sym.Symbol, shape: Sequence[int], name: str, cells: Sequence[int]
) -> mx.sym.Symbol:
    """Return a map of a shape, made of the input."""
    stride = tuple(
        -(-(c - 1) // (s - 1)) if s > 1 else c for c, s in zip(cells, shape[2:])
    )
    y = mx.sym.Convolution(
        data, num_filter=shape[1], kernel=(1, 1), stride=stride, name=name
    )
    return mx.sym.Activation(y, act_type="relu", name=f"{name}_relu")


@dataclass(frozen=True)
class _Copies:
    """Writes equal blocks that read the same maps."""

    graph: Graph
    block: FusedBlock
    widths: Sequence[int]
    data: mx.sym.Symbol
    sources: Sequence[mx.sym.Symbol]

    def append(self, number: int, before: mx.sym.Symbol | None) -> mx.sym.Symbol:
        """Return the result of one block; a sum adds that of the block before."""
        first, *others = self.block.nodes
        y = self._first(first, f"copy{number}_{first}")
        for i in others:
            node = self.graph.nodes[i]
            if operator_of(node["op"]).running_statistics:
                continue  # folded
            inputs = [y]
            if node["op"] in SUMS:
                inputs.append(self._summand() if before is None else before)
            y = _call(node["op"], inputs, node["attrs"], f"copy{number}_{i}")
        return y

    def _first(self, i: int, name: str) -> mx.sym.Symbol:
        node, data = self.graph.nodes[i], data_inputs(self.graph, i)
        attrs = {**node["attrs"], **resized(self.graph, self.block, self.widths)}
        inputs = [
            self.sources[data.index(k)]
            if k in data
            else mx.sym.var(f"{name}_{k}", shape=self._shape(entry))
            for k, entry in enumerate(node["inputs"])
        ]
        is_layer = latency_class(self.graph, i) in (LAYER, DENSE)
        if is_layer and attribute(attrs, "no_bias", False):  # it gets the BatchNorm's
            attrs["no_bias"] = "False"
            inputs.append(mx.sym.var(f"{name}_bias"))
        return _call(node["op"], inputs, attrs, name)

    def _shape(self, entry: Sequence) -> tuple | None:
        """Return the shape of a parameter; those of layers follow from the widths."""
        if self.block.scaling != "whole":
            return None
        return self.graph.tensors[entry[0]][entry[1]].shape

    def _summand(self) -> mx.sym.Symbol:
        """Return a map of the shape of the first block's result."""
        first = self.block.nodes[0]
        cells = self.graph.tensors[first][0].shape[2:]
        whole = data_shapes(self.graph, first, self.block.scaling, 1)[0][2:]
        width = self.widths[1] or self.widths[0]
        return _entry(self.data, (1, width, *cells), "summand", whole)


def _call(op: str, inputs: list, attrs: Mapping[str, str], name: str) -> mx.sym.Symbol:
    operator = getattr(mx.sym, op, None) or getattr(mx.sym._internal, op)
    values = {k: _plain(v) for k, v in attrs.items() if not k.startswith("__")}
    return operator(*inputs, **values, name=name)


def _plain(text: str) -> Any:
    return {"True": True, "False": False}.get(text, text)


def _joined(
    graph: Graph, block: FusedBlock, results: Sequence[mx.sym.Symbol]
) -> mx.sym.Symbol:
    """Return one small output to which every result contributes."""
    last = graph.tensors[block.nodes[-1]][0].shape
    if len(last) != 4:
        return mx.sym.concat(*results, dim=1 if len(last) > 1 else 0, name="out")
    sums = any(graph.nodes[i]["op"] in SUMS for i in block.nodes[1:])
    parts = results[-1:] if sums else results
    if max(last[2:]) > 1:
        parts = [
            mx.sym.Pooling(
                y, kernel=(1, 1), stride=last[2:], pool_type="max", name=f"taken{k}"
            )
            for k, y in enumerate(parts)
        ]
    y = mx.sym.concat(*parts, dim=1, name="taken") if len(parts) > 1 else parts[0]
    return mx.sym.Convolution(y, num_filter=ENTRY_CHANNELS, kernel=(1, 1), name="out")


def _values(symbol: mx.sym.Symbol, shape: tuple) -> dict[str, mx.nd.NDArray]:
    """Return values for all parameters, as large as those of a new net."""
    shapes, _ = infer_shapes(symbol, {"data": shape})
    return {
        name: mx.nd.array(pattern(size, name))
        for name, size in shapes.items()
        if name != "data"
    }


def pattern(shape: Sequence[int], name: str = "") -> np.ndarray:
    """Return weights of about the size of He initialisation, which repeat.

    Files of them compress to almost nothing. Values change no time, as long as they are
    neither zero nor tiny.

    Parameters
    ----------
    shape : sequence of int
    name : str
        Weights of another name have other values.
    """
    seed = sum(name.encode()) % 2**16
    values = np.random.RandomState(seed).standard_normal(PATTERN)
    inputs = int(np.prod(shape[1:])) if len(shape) > 1 else 0
    scale = np.sqrt(2 / inputs) if inputs else 0.1
    return np.resize((values * scale).astype(np.float32), shape)
