"""Fused blocks: operators that are timed as one, and the small nets that time them.

nn-Meter (Zhang et al. 2021) calls them kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Callable, Collection, Mapping, Sequence, Tuple

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph, Tensor
from gluon_compress.graph.context import attribute
from gluon_compress.graph.layer_rules import whole_groups
from gluon_compress.graph.operators import (
    CHANNELWISE,
    DENSE,
    FOLLOWER,
    LAYER,
    operator_of,
)
from gluon_compress.graph.symbols import put_together

CHANNEL_MULTIPLE = 8  # kernels are slower for channel counts that are no multiple

# Attributes that do not affect how long an operator takes, or that state widths.
NOT_IN_SIGNATURE = {
    *("num_filter", "num_hidden", "num_group", "workspace", "eps", "momentum"),
    *("fix_gamma", "use_global_stats", "cudnn_off", "cudnn_tune"),
}


@dataclass(frozen=True)
class Side:
    """The number of channels on one side of a block, under any plan.

    Parameters
    ----------
    full : int
        Channels in the unpruned net.
    tensor : Tensor, optional
        The tensor along whose axis they are counted; None if no plan changes them.
    """

    full: int
    tensor: Tensor | None = None

    def width(self, keep_mask: np.ndarray) -> int:
        """Return the number of channels under a ``Graph.keep_mask``."""
        if self.tensor is None:
            return self.full
        return int(keep_mask[self.tensor.positions].sum())


@dataclass(frozen=True)
class FusedBlock:
    """An operator and the operators behind it that are timed with it.

    Parameters
    ----------
    signature : str
        Operators, attributes and shapes except for the widths. Blocks of one signature
        take the same time at the same widths, whatever net they belong to.
    scaling : str
        How its time depends on widths: a ``layer`` has two, input and output; ``tied``
        ones (depthwise layers and channelwise operators) have one; ``whole`` ones are
        timed at full width, and the time is scaled with the output.
    nodes : tuple of int
        In the order of the graph.
    inputs, outputs : Side
        Input and output channels; a block with one width has no ``outputs``.
    multiple : int
        Only multiples of it can be built.
    """

    signature: str
    scaling: str
    nodes: tuple[int, ...]
    inputs: Side
    outputs: Side
    multiple: int = 1

    @property
    def smallest_width(self) -> int:
        """The smallest width, on either side, at which kernels run at full speed."""
        return CHANNEL_MULTIPLE * self.multiple // gcd(CHANNEL_MULTIPLE, self.multiple)


NO_OUTPUTS = Side(0)  # the other side of a block with one width


def fused_blocks(graph: Graph) -> list[FusedBlock]:
    """Return the blocks of a graph, in its order; every operator is in exactly one.

    Operators without a computed input (constants) are left out.
    """
    return blocks_of(graph, _chain)


Chain = Callable[[Graph, int, Mapping[int, Sequence[int]], Collection[int]], Tuple]


def blocks_of(
    graph: Graph,
    chain: Chain,
    is_free: Callable[[Graph, int], bool] = lambda graph, node: False,
) -> list[FusedBlock]:
    """Return the blocks of a graph, in its order, by a rule of what is fused.

    Parameters
    ----------
    graph : Graph
    chain : callable
        ``chain(graph, first, readers, ends)`` returns the nodes of the block that
        starts with a node; ``readers`` has the readers of each node that is read, and
        ``ends`` are those that are outputs.
    is_free : callable
        ``is_free(graph, node)`` tells whether a node that no block has taken takes no
        time. Operators without a computed input (constants) never do.
    """
    readers: dict[int, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        for entry in node["inputs"]:
            readers.setdefault(entry[0], []).append(i)
    ends = {head[0] for head in graph.heads}
    taken: set[int] = set()
    blocks = []
    for i, node in enumerate(graph.nodes):
        if node["op"] == "null" or i in taken or not data_inputs(graph, i):
            continue
        if is_free(graph, i):
            continue
        nodes = chain(graph, i, readers, ends)
        taken.update(nodes)
        blocks.append(fused_block(graph, nodes))
    return blocks


def _chain(
    graph: Graph,
    first: int,
    readers: Mapping[int, Sequence[int]],
    ends: Collection[int],
) -> tuple[int, ...]:
    """Return a node and the followers behind it, which nothing else reads."""
    chain = [first]
    while _scaling(graph, first) != "whole" and chain[-1] not in ends:
        behind = readers.get(chain[-1], ())
        if len(behind) != 1 or latency_class(graph, behind[0]) != FOLLOWER:
            break
        chain.append(behind[0])
    return tuple(chain)


def data_inputs(graph: Graph, i: int) -> list[int]:
    """Return which inputs of a node are not parameters."""
    return [
        k
        for k, entry in enumerate(graph.nodes[i]["inputs"])
        if graph.nodes[entry[0]]["op"] != "null"
        or graph.nodes[entry[0]]["name"] in graph.inputs
    ]


def _shape(graph: Graph, entry: Sequence) -> tuple[int, ...]:
    return graph.tensors[entry[0]][entry[1]].shape


def latency_class(graph: Graph, i: int) -> str:
    """Return how the latency of a node's operator depends on widths."""
    return operator_of(graph.nodes[i]["op"]).latency


def _scaling(graph: Graph, i: int) -> str:
    """Return how the time of a block that starts with a node depends on widths."""
    node = graph.nodes[i]
    data, out = data_inputs(graph, i), graph.tensors[i][0].shape
    shapes = [_shape(graph, node["inputs"][k]) for k in data]
    kind = latency_class(graph, i)
    if kind in (LAYER, DENSE) and data == [0]:
        tied = kind == LAYER and whole_groups(node["attrs"], shapes[0][1])
        return "tied" if tied else "layer"
    same_width = {s[1] for s in shapes if len(s) > 1} == set(out[1:2])
    channelwise = kind in (CHANNELWISE, FOLLOWER)
    # BatchNorm is the only one whose parameters follow from the width alone.
    no_parameters = len(data) == len(node["inputs"])
    buildable = no_parameters or operator_of(node["op"]).running_statistics
    if same_width and channelwise and buildable:
        axes = {t.axis for t in (graph.tensor(node["inputs"][k]) for k in data)}
        return "tied" if axes <= {1, None} else "whole"
    return "whole"


def fused_block(graph: Graph, nodes: tuple[int, ...]) -> FusedBlock:
    """Return the block that a node makes with those behind it."""
    first = graph.nodes[nodes[0]]
    scaling, attrs = _scaling(graph, nodes[0]), first["attrs"]
    data = first["inputs"][data_inputs(graph, nodes[0])[0]]
    groups, multiple, note = attribute(attrs, "num_group", 1), 1, ""
    if scaling == "layer":
        inputs, outputs = _ends(graph, nodes[0])
        multiple = groups
        note = f" groups={groups}" if groups > 1 else ""
    elif scaling == "tied":
        inputs, outputs = _side(graph, data, 1), NO_OUTPUTS
        if latency_class(graph, nodes[0]) == LAYER:
            multiple = inputs.full // groups
            out = graph.tensors[nodes[0]][0].shape[1]
            note = f" groups of {multiple} to {out // groups}"
    else:
        output = graph.tensors[nodes[0]][0]
        first_axis = min(1, len(output.shape) - 1)
        axis = first_axis if output.axis is None else output.axis
        inputs, outputs = _side(graph, [nodes[0], 0], axis), NO_OUTPUTS
    signature = _signature(graph, nodes, scaling) + note
    return FusedBlock(signature, scaling, nodes, inputs, outputs, multiple)


def _ends(graph: Graph, i: int) -> tuple[Side, Side]:
    """Return the sides of a layer; a dense layer's inputs are features."""
    node = graph.nodes[i]
    out = graph.tensors[i][0]
    if latency_class(graph, i) != DENSE:
        return _side(graph, node["inputs"][0], 1), _side(graph, [i, 0], 1)
    weight = node["inputs"][1]
    name, full = graph.nodes[weight[0]]["name"], _shape(graph, weight)[1]
    along = [t for t in graph.axes.get(name, ()) if t.axis == 1]
    return Side(full, *along[:1]), _side(graph, [i, 0], len(out.shape) - 1)


def _side(graph: Graph, entry: Sequence, axis: int) -> Side:
    tensor = graph.tensors[entry[0]][entry[1]]
    return Side(tensor.shape[axis], tensor if tensor.axis == axis else None)


def _signature(graph: Graph, nodes: tuple[int, ...], scaling: str) -> str:
    """Return the text that identifies a block, without its widths."""
    words = []
    for i in nodes:
        node = graph.nodes[i]
        attrs = [
            f"{key}={value}"
            for key, value in sorted(node["attrs"].items())
            if key not in NOT_IN_SIGNATURE and not key.startswith("__")
        ]
        words.append(" ".join([node["op"], *attrs]))
    shapes = data_shapes(graph, nodes[0], scaling, None)
    sizes = ["x".join("C" if n is None else str(n) for n in s) for s in shapes]
    return " + ".join(words) + " on " + ", ".join(sizes)


def data_shapes(graph: Graph, i: int, scaling: str, width: int | None) -> list[tuple]:
    """Return the shapes of a node's computed inputs at a width."""
    node = graph.nodes[i]
    shapes = [_shape(graph, node["inputs"][k]) for k in data_inputs(graph, i)]
    if scaling == "whole":
        return shapes
    if latency_class(graph, i) == DENSE:
        flatten = attribute(node["attrs"], "flatten", True)
        leading = shapes[0][:1] if flatten else shapes[0][:-1]
        return [(*leading, width)]
    return [(s[0], width, *s[2:]) for s in shapes]


def net_of_copies(
    graph: Graph, block: FusedBlock, widths: Sequence[int], count: int
) -> tuple[mx.sym.Symbol, dict[str, tuple]]:
    """Return a net of several copies of a block side by side.

    All copies read the same inputs, and each has its own weights. Inputs that are maps
    come from a 1x1 convolution of one channel, so that they have the memory layout that
    convolutions produce. With ``count`` 0 the net returns these inputs.

    Parameters
    ----------
    graph : Graph
    block : FusedBlock
        One of this graph.
    widths : sequence of int
        Input and output channels.
    count : int
        Copies.

    Returns
    -------
    (Symbol, dict)
        The net, and the shapes of its inputs (``data0``, ``data1``, ...) and of the
        parameters whose shapes do not follow from them.
    """
    net = _CopiesNet(graph, block, widths)
    heads = [net.append_copy(number) for number in range(count)]
    return put_together(net.nodes, heads or net.sources), net.shapes


class _CopiesNet:
    """The nodes of a net that times a block, while it is put together.

    Attributes
    ----------
    nodes : list of dict
    sources : list of list
        The outputs that stand for the block's inputs.
    shapes : dict
        Name of a variable to its shape.
    """

    def __init__(self, graph: Graph, block: FusedBlock, widths: Sequence[int]) -> None:
        self._graph, self._block, self._widths = graph, block, widths
        self.nodes: list[dict] = []
        self.sources: list[list[int]] = []
        self.shapes: dict[str, tuple] = {}
        shapes = data_shapes(graph, block.nodes[0], block.scaling, widths[0])
        for k, shape in enumerate(shapes):
            self.sources.append(self._append_source(k, shape))

    def append_copy(self, number: int) -> list[int]:
        """Append a copy of the block; return its output."""
        graph, block, prefix = self._graph, self._block, f"copy{number}_"
        output: list[int] = []
        for i in block.nodes:
            node, inputs = graph.nodes[i], []
            data = data_inputs(graph, i)
            for k, entry in enumerate(node["inputs"]):
                if k in data:
                    inputs.append(output or self.sources[data.index(k)])
                    continue
                name = f"{prefix}{i}_{k}"
                if block.scaling == "whole":  # the other shapes follow from the widths
                    self.shapes[name] = _shape(graph, entry)
                inputs.append(self._append(_variable(name)))
            attrs = {k: v for k, v in node["attrs"].items() if not k.startswith("__")}
            if i == block.nodes[0]:
                attrs.update(resized(graph, block, self._widths))
            output = self._append(_node(node["op"], f"{prefix}{i}", attrs, inputs))
        return output

    def _append_source(self, k: int, shape: tuple) -> list[int]:
        name = f"data{k}"
        source = self._append(_variable(name))
        self.shapes[name] = shape
        if len(shape) != 4 or self._block.scaling == "whole":
            return source
        self.shapes[name] = (shape[0], 1, *shape[2:])
        attrs = {"num_filter": str(shape[1]), "kernel": "(1, 1)", "no_bias": "True"}
        inputs = [source, self._append(_variable(f"entry{k}_weight"))]
        return self._append(_node("Convolution", f"entry{k}", attrs, inputs))

    def _append(self, node: dict) -> list[int]:
        self.nodes.append(node)
        return [len(self.nodes) - 1, 0, 0]


def resized(graph: Graph, block: FusedBlock, widths: Sequence[int]) -> dict[str, str]:
    """Return the attributes of a block's first node that depend on widths."""
    first = block.nodes[0]
    node, kind = graph.nodes[first], latency_class(graph, first)
    if kind not in (LAYER, DENSE) or block.scaling == "whole":
        return {}
    if kind == DENSE:
        return {"num_hidden": str(widths[1])}
    if block.scaling == "layer":
        return {"num_filter": str(widths[1])}
    groups = attribute(node["attrs"], "num_group", 1)
    out = graph.tensors[first][0].shape[1]
    kept_groups = widths[0] // block.multiple
    filters = kept_groups * (out // groups)
    return {"num_group": str(kept_groups), "num_filter": str(filters)}


def _variable(name: str) -> dict:
    return {"op": "null", "name": name, "attrs": {}, "inputs": []}


def _node(op: str, name: str, attrs: Mapping, inputs: list) -> dict:
    return {"op": op, "name": name, "attrs": dict(attrs), "inputs": inputs}


def grid_points(block: FusedBlock) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the input widths and the output widths at which a block is timed."""
    if block.scaling == "whole":
        full = block.inputs.full
        return ((full,) if block.inputs.tensor is None else (0, full)), (0,)
    inputs = _side_grid_points(block.inputs, block.smallest_width)
    return inputs, _side_grid_points(block.outputs, block.smallest_width)


def _side_grid_points(side: Side, smallest: int) -> tuple[int, ...]:
    """Return the smallest width, about 1/4, 1/2 and 3/4 of the full one, and it."""
    if side.tensor is None:
        return (side.full,)
    # Quarters are rounded up, to twice the smallest width where they stay distinct.
    step = 2 * smallest if side.full >= 8 * smallest else smallest
    quarters = [-(-side.full * share // (4 * step)) * step for share in (1, 2, 3)]
    inner = {width for width in (smallest, *quarters) if width < side.full}
    return tuple(sorted(inner | {side.full}))
