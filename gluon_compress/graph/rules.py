"""Channel rules of operators that keep the order of channels.

A rule takes an ``OpContext``, records constraints on channels (``unite``, ``freeze``,
``carry``) and returns the channel ids of each output. Rules must be exact for every
selection of channels; anything else is frozen with a reason. ``layer_rules`` has the
layers with weights, ``shape_rules`` the operators that move positions.
"""

from __future__ import annotations

from typing import Callable, Mapping, Sequence

import numpy as np

from gluon_compress.graph.channels import placed, varying
from gluon_compress.graph.context import (
    OpContext,
    attribute,
    axis_of,
    numbers,
    unknown_form,
)


def same(op: OpContext) -> list:
    """One input, the same channels in every output."""
    return [op.ids(0) for _ in op.out_shapes]


def elementwise(op: OpContext) -> list:
    """Channels at the same position of broadcast inputs are kept together."""
    shape = op.out_shapes[0]
    dims = [(1,) * (len(shape) - len(s)) + tuple(s) for s in op.shapes]
    ids = [
        op.ids(k).reshape((1,) * (len(shape) - len(s)) + op.ids(k).shape)
        for k, s in enumerate(op.shapes)
    ]
    free = [k for k, each in enumerate(ids) if varying(each)]
    if any(_crossed(ids[k], dims[j]) for k in free for j in free):
        # Only the channels of one axis can be removed from the result.
        axes = min(varying(ids[k]) for k in free)
        for k in [k for k in free if varying(ids[k]) != axes]:
            op.freeze(ids[k], "spans channels of different axes")
            free.remove(k)
    for k in free:
        op.channels.unite(ids[free[0]], ids[k])
        for j, other in enumerate(ids):
            if j not in free and any(dims[j][axis] > 1 for axis in varying(ids[k])):
                op.channels.freeze(ids[k], _why_fixed(op, other))
    if free:
        return [ids[free[0]]]
    longest = max(ids, key=lambda a: (a.size, -int(a.reshape(-1)[0])))
    return [longest]


def _crossed(ids: np.ndarray, dim: Sequence[int]) -> bool:
    """Return whether a tensor is repeated along axes on which ids vary."""
    return any(dim[axis] == 1 for axis in varying(ids))


def _why_fixed(op: OpContext, other: np.ndarray) -> str:
    code = int(other.reshape(-1)[0])
    reason = op.channels.reason(code) if code < 0 else ""
    return reason or f"{op.type} {op.name!r} joins it with channels that stay"


def where(op: OpContext) -> list:
    """As any elementwise operator, unless the condition is one per sample."""
    same_shape = len({tuple(shape) for shape in op.shapes}) == 1
    return elementwise(op) if same_shape else unknown_form(op)


def batch_norm(op: OpContext) -> list:
    """Every channel by itself, with its own scale, shift and running statistics."""
    return _normalized(op, axis_of(op, "axis", 1))


def instance_norm(op: OpContext) -> list:
    """Every channel by itself, with its own scale and shift."""
    return _normalized(op, 1)


def _normalized(op: OpContext, axis: int) -> list:
    channels = op.channel(0, axis)
    for k in range(1, len(op.shapes)):
        op.carry(k, 0, channels)
    return [op.ids(0)] + [channels for _ in op.out_shapes[1:]]


def leaky_relu(op: OpContext) -> list:
    """As any activation; PReLU can have one slope per channel."""
    if len(op.shapes) > 1 and op.shapes[1][0] > 1:
        op.carry(1, 0, op.channel(0, 1))
    return same(op)


def spatial(op: OpContext) -> list:
    """Works inside each channel of axis 1; positions come from the other inputs."""
    channels = op.channel(0, 1)
    for k in range(1, len(op.shapes)):
        op.freeze(op.ids(k), "takes positions from it")
    return [placed(channels, 1, len(shape)) for shape in op.out_shapes]


def spatial_like(op: OpContext) -> list:
    """Works inside each channel of axis 1; of later inputs only the size is read."""
    channels = op.channel(0, 1)
    for k in range(1, len(op.shapes)):
        op.channel(k, 1)
    return [placed(channels, 1, len(shape)) for shape in op.out_shapes]


def upsampling(op: OpContext) -> list:
    """Nearest-neighbour enlargement of one input; other forms have no rule."""
    plain = op.attr("sample_type") == "nearest" and len(op.shapes) == 1
    return spatial(op) if plain else unknown_form(op)


def pad(op: OpContext) -> list:
    """Padding of whole axes leaves the channels alone."""
    width = op.attr("pad_width")
    ids = op.ids(0)
    if any(width[2 * a] or width[2 * a + 1] for a in varying(ids)):
        op.freeze(ids, "adds channels")
        return [op.channels.fixed("", ids.ndim)]
    return [ids]


def over_axis(default: int) -> Callable:
    """Return the rule of an operator that normalises over an axis."""

    def rule(op: OpContext) -> list:
        axis, ids = axis_of(op, "axis", default), op.ids(0)
        if varying(ids) == [axis]:
            op.freeze(ids, "normalises over channels")
        elif axis in varying(ids):
            op.tie(ids, [axis])
        return same(op)

    return rule


def over_channels(op: OpContext) -> list:
    """Anything computed over all channels changes with their number."""
    keep = {"spatial": (0, 1)}.get(op.attr("mode"), (0,))
    if any(axis not in keep for axis in varying(op.ids(0))):
        op.freeze(op.ids(0), "normalises over channels")
    return same(op)


def reduction(op: OpContext) -> list:
    """Reduced axes vanish; reducing over channels needs all of them."""
    return _reduced(op, exact=False)


def summation(op: OpContext) -> list:
    """Reduced axes vanish; zeros do not change a sum over channels."""
    return _reduced(op, exact=True)


def _reduced(op: OpContext, *, exact: bool) -> list:
    ids, axes = op.ids(0), reduced_axes(op.attrs, len(op.shapes[0]))
    lost = [axis for axis in varying(ids) if axis in axes]
    if lost and lost == varying(ids):
        if not exact:
            op.freeze(ids, "reduces over channels")
        return [op.channels.fixed("", len(out)) for out in op.out_shapes]
    ids = op.tie(ids, lost)
    keep = op.attr("keepdims", False)
    shape = [n for a, n in enumerate(ids.shape) if keep or a not in axes]
    return [ids.reshape(shape or (1,) * len(op.out_shapes[0]))]


def reduced_axes(attrs: Mapping[str, str], ndim: int) -> list[int]:
    """Return the axes that a reduction removes, counted from the front."""
    axes = [axis % ndim for axis in numbers(attrs, "axis")] or list(range(ndim))
    if attribute(attrs, "exclude", False):
        return [axis for axis in range(ndim) if axis not in axes]
    return axes


def sums_axis(attrs: Mapping, axis: int, shape: Sequence[int]) -> bool:
    """Return whether a reduction sums over an axis."""
    return axis in reduced_axes(attrs, len(shape))


def constant(op: OpContext) -> list:
    """An operator without inputs: its positions stay."""
    reason = f"{op.type} {op.name!r} has a written size"
    return [op.channels.fixed(reason, len(out)) for out in op.out_shapes]
