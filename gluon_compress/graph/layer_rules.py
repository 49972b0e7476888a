"""Layers with weights: channel rules, rewrites when slimmed, and MACs.

A layer consumes the channels of its input and makes new ones. Matrix products of
computed tensors have no rule yet; their MACs are counted here.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np

from gluon_compress.graph.channels import placed, varying
from gluon_compress.graph.context import (
    OpContext,
    SlimContext,
    attribute,
    size_of,
    unknown_form,
)

# Marks how the groups of a slim net's convolution were pruned, see ``whole_groups``.
GROUPED = "__channel_groups__"


def tied_groups(attrs: Mapping[str, str]) -> bool:
    """Return whether a convolution has groups, or had some before slimming."""
    return attribute(attrs, "num_group", 1) > 1 or GROUPED in attrs


def whole_groups(attrs: Mapping[str, str], in_channels: int) -> bool:
    """Return whether a grouped convolution loses whole groups, or channels of each.

    Many narrow groups (depthwise is the extreme) are removed as a whole; few wide ones
    lose the same number of channels each. A slim net is treated like its original, so
    that plans for both can be composed.
    """
    groups = attribute(attrs, "num_group", 1)
    if GROUPED in attrs:
        return attrs[GROUPED] == "whole"
    return groups > 1 and groups >= in_channels // groups


# Convolutions.


def convolution(op: OpContext) -> list:
    """Input channels are consumed, output channels are new; groups tie both."""
    if not _channels_first(op):
        return unknown_form(op)
    outs, ins = op.channels.fresh(op.attr("num_filter")), op.channel(0, 1)
    inner = _tie_groups(op, outs, ins)[1] if tied_groups(op.attrs) else ins
    op.carry(1, 0, outs)
    if inner is not None:
        op.carry(1, 1, inner)
    if len(op.shapes) > 2:
        op.carry(2, 0, outs)
    return [placed(outs, 1, len(op.out_shapes[0]))]


def deconvolution(op: OpContext) -> list:
    """As a convolution whose weight has its first two axes swapped."""
    if not _channels_first(op):
        return unknown_form(op)
    outs, ins = op.channels.fresh(op.attr("num_filter")), op.channel(0, 1)
    inner = _tie_groups(op, outs, ins)[0] if tied_groups(op.attrs) else outs
    op.carry(1, 0, ins)
    if inner is not None:
        op.carry(1, 1, inner)
    if len(op.shapes) > 2:
        op.carry(2, 0, outs)
    return [placed(outs, 1, len(op.out_shapes[0]))]


def _channels_first(op: OpContext) -> bool:
    return str(op.attr("layout", "NC")).startswith("NC")


def deformable(weight: int) -> Any:
    """Return the rule of a deformable convolution with its weight at one input.

    Each of its deformable groups reads channels at its own offsets, which are the
    inputs before the weight.
    """

    def rule(op: OpContext) -> list:
        outs, ins = op.channels.fresh(op.attr("num_filter")), op.channel(0, 1)
        for k in range(1, weight):
            op.freeze(op.ids(k), "reads places from it")
        op.balance(ins.reshape(op.attr("num_deformable_group", 1), -1))
        inner = _tie_groups(op, outs, ins)[1] if tied_groups(op.attrs) else ins
        op.carry(weight, 0, outs)
        if inner is not None:
            op.carry(weight, 1, inner)
        if len(op.shapes) > weight + 1:
            op.carry(weight + 1, 0, outs)
        return [placed(outs, 1, len(op.out_shapes[0]))]

    return rule


def _tie_groups(op: OpContext, outs: np.ndarray, ins: np.ndarray) -> tuple:
    """Tie channels of a grouped convolution; return outs and ins of each group.

    If whole groups are removed, it returns None for both.
    """
    groups, in_channels = op.attr("num_group", 1), len(ins)
    outs, ins = outs.reshape(groups, -1), ins.reshape(groups, -1)
    if whole_groups(op.attrs, in_channels):
        op.channels.unite(ins, ins[:, :1])
        op.channels.unite(outs, ins[:, :1])
        return None, None
    op.balance(ins)
    op.balance(outs)
    return outs, ins


def rewrite_convolution(slim: SlimContext) -> dict[str, str]:
    """State the new numbers of filters and groups."""
    return _rewrite_groups(slim, total=slim.shapes[0][1])


def rewrite_deconvolution(slim: SlimContext) -> dict[str, str]:
    """State the new numbers of filters and groups."""
    return _rewrite_groups(slim, total=slim.out_shapes[0][1])


def _rewrite_groups(slim: SlimContext, total: int, weight: int = 1) -> dict[str, str]:
    outs, inner = slim.out_shapes[0][1], slim.shapes[weight][1]
    attrs = {"num_filter": str(outs), "num_group": str(total // inner)}
    if tied_groups(slim.attrs):
        removes_groups = whole_groups(slim.attrs, slim.inputs[0].shape[1])
        attrs[GROUPED] = "whole" if removes_groups else "each"
    return attrs


def rewrite_deformable(weight: int) -> Any:
    """Return what states the new numbers of filters and groups."""

    def rewrite(slim: SlimContext) -> dict[str, str]:
        return _rewrite_groups(slim, total=slim.shapes[0][1], weight=weight)

    return rewrite


def convolution_macs(attrs: Mapping, shapes: Sequence, out: Sequence) -> int:
    """Every output position meets one filter: output size x inputs of a group x k²."""
    return size_of(out) * size_of(shapes[1][1:])


def deformable_macs(weight: int) -> Any:
    """Return the MACs of a convolution, without the computation of offsets."""
    return lambda attrs, shapes, out: size_of(out) * size_of(shapes[weight][1:])


def deconvolution_macs(attrs: Mapping, shapes: Sequence, out: Sequence) -> int:
    """Every input position meets one filter: input size x outputs of a group x k²."""
    return size_of(shapes[0]) * size_of(shapes[1][1:])


# Dense layers, embeddings and products.


def dense(op: OpContext) -> list:
    """Input features are consumed, output features are new."""
    ids, shape, out = op.ids(0), op.shapes[0], op.out_shapes[0]
    units = op.channels.fresh(op.attr("num_hidden"))
    if op.attr("flatten", True):
        length = int(np.prod(shape[1:]))
        full = np.broadcast_to(ids, (1, *shape[1:])) if varying(ids) else ids
        ins = np.broadcast_to(full.reshape(-1), (length,))
        if ids.shape[0] > 1:
            op.freeze(ids, "mixes the batch")
            ins = op.channels.fixed("").repeat(length)
    else:
        ins = op.channel(0, len(shape) - 1)
    op.carry(1, 0, units)
    op.carry(1, 1, ins)
    if len(op.shapes) > 2:
        op.carry(2, 0, units)
    return [placed(units, len(out) - 1, len(out))]


def rewrite_dense(slim: SlimContext) -> dict[str, str]:
    """State the new number of features."""
    return {"num_hidden": str(slim.out_shapes[0][-1])}


def dense_macs(attrs: Mapping, shapes: Sequence, out: Sequence) -> int:
    """Output size x input features."""
    return size_of(out) * shapes[1][1]


def embedding(op: OpContext) -> list:
    """Output features are new."""
    op.freeze(op.ids(0), "reads indices")
    outs, ndim = op.channels.fresh(op.attr("output_dim")), len(op.out_shapes[0])
    op.carry(1, 1, outs)
    return [placed(outs, ndim - 1, ndim)]


def rewrite_embedding(slim: SlimContext) -> dict[str, str]:
    """State the new number of features."""
    return {"output_dim": str(slim.out_shapes[0][-1])}


def product_macs(attrs: Mapping, shapes: Sequence, out: Sequence) -> int:
    """Output size x length of the axis that is summed over."""
    transposed = attribute(attrs, "transpose_a", False)
    if len(shapes[0]) < 3:
        return size_of(out) * shapes[0][0 if transposed else -1]
    return size_of(out) * shapes[0][-2 if transposed else -1]


def sums_channels(attrs: Mapping, axis: int, shape: Sequence[int]) -> bool:
    """A layer sums over its input channels, unless it loses whole groups of them."""
    return not (axis == 1 and whole_groups(attrs, shape[1]))
