"""Blocks as edge runtimes fuse them.

Runtimes compute a convolution together with what follows it: BatchNorm (folded before),
activation, and the sum of a residual branch. Here such operators are one block, and so
is a predictor with the transpose and the reshape behind it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Collection, Mapping, Sequence

import numpy as np

from gluon_compress.graph import Graph
from gluon_compress.graph.context import attribute
from gluon_compress.graph.operators import DENSE, FOLLOWER, LAYER, operator_of
from gluon_compress.latency.blocks import (
    CHANNEL_MULTIPLE,
    NOT_IN_SIGNATURE,
    FusedBlock,
    Side,
    blocks_of,
    data_shapes,
    latency_class,
)

SUMS = ("elemwise_add", "broadcast_add", "_plus", "_Plus")
# Free in inference: a reshape moves nothing, the others are left out.
FREE = (
    *("Reshape", "reshape", "Flatten", "flatten", "expand_dims", "squeeze"),
    *("Dropout", "_copy", "identity", "BlockGrad"),
)
JOINS = ("Concat", "concat")
# What an attribute is where it is not stated, of convolutions and poolings.
DEFAULTS = {
    "dilate": "(1, 1)",
    "stride": "(1, 1)",
    "pad": "(0, 0)",
    "layout": "NCHW",
    "global_pool": "False",
    "pooling_convention": "valid",
}
UNSTATED = {*NOT_IN_SIGNATURE, "no_bias", "adj"}


def runtime_blocks(graph: Graph) -> list[FusedBlock]:
    """Return the blocks of an inference graph in its order.

    What runtimes leave out has none: operators without a computed input, reshapes,
    BatchNorm behind a layer, and the concatenation of finished predictions, which is
    timed with the predictors.
    """
    blocks = blocks_of(graph, _chain, _is_free)
    return [replace(b, signature=_signature(graph, b)) for b in blocks]


def _is_free(graph: Graph, i: int) -> bool:
    return graph.nodes[i]["op"] in FREE or _joins_predictions(graph, i)


def _joins_predictions(graph: Graph, i: int) -> bool:
    shape = graph.tensors[i][0].shape
    return graph.nodes[i]["op"] in JOINS and len(shape) != 4


def _chain(
    graph: Graph,
    first: int,
    readers: Mapping[int, Sequence[int]],
    ends: Collection[int],
) -> tuple[int, ...]:
    """Return a node and those that are computed with it."""
    chain, activated = [first], False
    is_layer = latency_class(graph, first) in (LAYER, DENSE)
    while chain[-1] not in ends and len(readers.get(chain[-1], ())) == 1:
        reader = readers[chain[-1]][0]
        op = graph.nodes[reader]["op"]
        if latency_class(graph, reader) == FOLLOWER:
            activated |= not operator_of(op).running_statistics
        elif op in SUMS and is_layer and not activated:
            # The sum is computed with the last of its inputs.
            inputs = [entry[0] for entry in graph.nodes[reader]["inputs"]]
            summed = any(graph.nodes[k]["op"] in SUMS for k in chain)
            if max(inputs) != chain[-1] or len(inputs) != 2 or summed:
                break
        elif not (is_layer and op in ("transpose", *FREE)):
            break
        chain.append(reader)
    return tuple(chain)


def _signature(graph: Graph, block: FusedBlock) -> str:
    """Return the text that identifies a block, without widths and what is default."""
    words = []
    for i in block.nodes:
        node = graph.nodes[i]
        if i != block.nodes[0] and operator_of(node["op"]).running_statistics:
            continue
        attrs = [
            f"{key}={value}"
            for key, value in sorted(node["attrs"].items())
            if key not in UNSTATED
            and not key.startswith("__")
            and DEFAULTS.get(key) != value
        ]
        words.append(" ".join([node["op"], *attrs]))
    shapes = data_shapes(graph, block.nodes[0], block.scaling, None)
    sizes = ["x".join("C" if n is None else str(n) for n in s) for s in shapes]
    first, groups = graph.nodes[block.nodes[0]], ""
    if latency_class(graph, block.nodes[0]) == LAYER:
        count = attribute(first["attrs"], "num_group", 1)
        if block.scaling == "tied":
            out = graph.tensors[block.nodes[0]][0].shape[1]
            groups = f" groups of {block.multiple} to {out // count}"
        elif count > 1:
            groups = f" groups={count}"
    return " + ".join(words) + " on " + ", ".join(sizes) + groups


def weights_per_pair(graph: Graph, block: FusedBlock) -> int:
    """Return the weights of a block per input and output channel (per width if tied).

    Parameters
    ----------
    graph : Graph
    block : FusedBlock
        One of this graph.
    """
    node = graph.nodes[block.nodes[0]]
    if block.scaling == "whole" or operator_of(node["op"]).weight_input is None:
        return 0
    shape = graph.tensors[node["inputs"][1][0]][0].shape
    size = int(np.prod(shape))
    if block.scaling == "tied":
        return size // block.inputs.full
    return size // (block.inputs.full * block.outputs.full)


def runtime_grid_points(
    block: FusedBlock,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the input and the output widths at which a block is timed."""
    if block.scaling == "whole":
        full = block.inputs.full
        return ((full,) if block.inputs.tensor is None else (0, full)), (0,)
    outs = (0,) if block.scaling == "tied" else _points(block.outputs, block)
    return _points(block.inputs, block), outs


def _points(side: Side, block: FusedBlock) -> tuple[int, ...]:
    """Return a small width, half and the full one; a quarter too where that is much."""
    full, smallest = side.full, block.smallest_width
    if side.tensor is None:
        return (full,)
    step = max(smallest, 16 * smallest // CHANNEL_MULTIPLE)
    shares = (4, 2) if full >= 1024 else (2,)
    inner = {smallest, *(-(-full // (share * step)) * step for share in shares)}
    return tuple(sorted({width for width in inner if width < full} | {full}))
