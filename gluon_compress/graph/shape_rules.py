"""Channel rules and rewrites of operators that move positions: reshape, slice, ...

Rewrites update attributes that state positions or lengths along an axis that loses
channels.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from gluon_compress.graph.channels import placed, varying
from gluon_compress.graph.context import (
    OpContext,
    SlimContext,
    axis_of,
    numbers,
    unknown_form,
)


def reshape(op: OpContext) -> list:
    """Positions keep their row-major order."""
    ids, out = op.ids(0), op.out_shapes[0]
    if not varying(ids):
        return [ids.reshape((1,) * len(out))]
    if op.attr("reverse", False):
        return unknown_form(op)
    return [np.broadcast_to(ids, op.shapes[0]).reshape(out)]


def reshape_to(op: OpContext) -> list:
    """As ``reshape``, if the attribute ``shape`` states the shape."""
    written = op.attr("shape") or not varying(op.ids(0))
    return reshape(op) if written else unknown_form(op)


def rewrite_reshape(slim: SlimContext) -> dict[str, str]:
    """Replace the lengths of axes that lose channels."""
    shape, lost = list(numbers(slim.attrs, "shape")), slim.outputs[0].axis
    if lost is not None:
        for position, axis in written_axes(shape, len(slim.inputs[0].shape)):
            if axis == lost:
                shape[position] = slim.out_shapes[0][axis]
    return {"shape": str(tuple(shape))} if shape else {}


def written_axes(shape: Sequence[int], ndim: int) -> list[tuple[int, int]]:
    """Return (position, output axis) of the explicit lengths in a Reshape's shape.

    Parameters
    ----------
    shape : sequence of int
        With MXNet's codes: 0 copies an axis, -1 is inferred, -2 copies the rest, -3
        joins two axes, -4 splits one into the two numbers that follow.
    ndim : int
        Axes of the input.
    """
    result, in_axis, out_axis, position = [], 0, 0, 0
    while position < len(shape):
        code = shape[position]
        if code == -4:
            pair = ((position + 1, out_axis), (position + 2, out_axis + 1))
            result += [entry for entry in pair if shape[entry[0]] > 0]
            position += 2
        elif code > 0:
            result.append((position, out_axis))
        out_axis += {-2: ndim - in_axis, -4: 2}.get(code, 1)
        in_axis += {-2: ndim - in_axis, -3: 2}.get(code, 1)
        position += 1
    return result


def transpose(op: OpContext) -> list:
    """Axes in another order."""
    axes = numbers(op.attrs, "axes") or None
    return [np.transpose(op.ids(0), axes)]


def swap_axes(op: OpContext) -> list:
    """Two axes exchanged."""
    return [np.swapaxes(op.ids(0), op.attr("dim1", 0), op.attr("dim2", 0))]


def depth_to_space(op: OpContext) -> list:
    """Channels become the pixels of blocks; channels of a block are tied."""
    b, channels = op.attr("block_size"), op.channel(0, 1)
    blocks = channels.reshape(b * b, -1)
    op.channels.unite(blocks, blocks[:1])
    return [placed(blocks[0], 1, 4)]


def space_to_depth(op: OpContext) -> list:
    """The pixels of blocks become channels: all channels once for each pixel."""
    b, channels = op.attr("block_size"), op.channel(0, 1)
    return [placed(np.tile(channels, b * b), 1, 4)]


def concat(op: OpContext) -> list:
    """Inputs side by side along one axis."""
    axis = axis_of(op, "dim", 1)
    inputs = [op.ids(k) for k in range(len(op.shapes))]
    return _joined(inputs, axis, [shape[axis] for shape in op.shapes])


def stack(op: OpContext) -> list:
    """Inputs side by side along a new axis."""
    axis = op.attr("axis", 0) % len(op.out_shapes[0])
    inputs = [np.expand_dims(op.ids(k), axis) for k in range(len(op.shapes))]
    return _joined(inputs, axis, [1] * len(inputs))


def _joined(inputs: Sequence[np.ndarray], axis: int, lengths: Sequence[int]) -> list:
    shape, parts = np.max([ids.shape for ids in inputs], axis=0), []
    for ids, length in zip(inputs, lengths):
        shape[axis] = length
        parts.append(np.broadcast_to(ids, shape))
    return [np.concatenate(parts, axis)]


def cut(ids: np.ndarray, axis: int, begin: int | None, end: int | None) -> np.ndarray:
    """Return the channel ids of a slice along one axis."""
    if ids.shape[axis] == 1:
        return ids
    index = [slice(None)] * ids.ndim
    index[axis] = slice(begin, end)
    return ids[tuple(index)]


def slice_axis(op: OpContext) -> list:
    """A range of positions along one axis."""
    axis = axis_of(op, "axis", 0)
    return [cut(op.ids(0), axis, op.attr("begin", 0), op.attr("end"))]


def rewrite_slice_axis(slim: SlimContext) -> dict[str, str]:
    """Move the ends of the range."""
    axis = slim.attr("axis") % len(slim.inputs[0].shape)
    return {key: str(slim.moved(axis, slim.attr(key))) for key in ("begin", "end")}


def slices(op: OpContext) -> list:
    """A range of positions along several axes."""
    ids = op.ids(0)
    steps = numbers(op.attrs, "step")
    for axis in varying(ids):
        if axis < len(steps) and steps[axis] not in (None, 1):
            op.freeze(ids, "takes channels in steps")
            return [op.channels.fixed("", ids.ndim)]
    ends = zip(*(numbers(op.attrs, key) for key in ("begin", "end")))
    for axis, (begin, end) in enumerate(ends):
        ids = cut(ids, axis, begin, end)
    return [ids]


def rewrite_slice(slim: SlimContext) -> dict[str, str]:
    """Move the ends of the ranges."""
    ends = {key: numbers(slim.attrs, key) for key in ("begin", "end")}
    return {
        key: str(tuple(slim.moved(axis, p) for axis, p in enumerate(positions)))
        for key, positions in ends.items()
    }


def slice_like(op: OpContext) -> list:
    """As many positions as another tensor has; channels stay if they are cut."""
    ids, like = op.ids(0), op.ids(1)
    stated = numbers(op.attrs, "axes") or range(len(op.shapes[1]))
    axes = {axis % len(op.shapes[0]) for axis in stated}
    if not axes.isdisjoint(varying(like)):
        op.freeze(like, "cuts another tensor's channels by it")
    elif axes.isdisjoint(varying(ids)):
        return [ids]
    op.freeze(ids, "cuts channels by another tensor's")
    return [op.channels.fixed("", ids.ndim)]


def reverse(op: OpContext) -> list:
    """Positions along axes in the opposite order."""
    ids = op.ids(0)
    return [np.flip(ids, [axis % ids.ndim for axis in numbers(op.attrs, "axis")])]


def tile(op: OpContext) -> list:
    """The tensor repeated along axes; new axes come first."""
    ids, reps = op.ids(0), numbers(op.attrs, "reps")
    ndim = len(op.out_shapes[0])
    ids = ids.reshape((1,) * (ndim - ids.ndim) + ids.shape)
    reps = (1,) * (ndim - len(reps)) + tuple(reps)
    # Axes along which ids are equal keep length 1.
    return [np.tile(ids, [1 if n == 1 else r for r, n in zip(reps, ids.shape)])]


def repeat(op: OpContext) -> list:
    """Every position along an axis several times."""
    ids, axis = op.ids(0), op.attr("axis")
    if axis is None:
        return unknown_form(op)
    if ids.shape[axis] == 1:
        return [ids]
    return [np.repeat(ids, op.attr("repeats"), axis)]


def split(op: OpContext) -> list:
    """Equal parts along one axis stay equal; parts at indices can lose any channel."""
    axis, ids = axis_of(op, "axis", 1), op.ids(0)
    squeeze = op.attr("squeeze_axis", False)
    inner = list(numbers(op.attrs, "indices"))[1:]
    parts = len(op.out_shapes)
    if ids.shape[axis] == 1:
        cuts = [ids] * parts
    elif inner:
        cuts = np.split(ids, inner, axis)
    else:
        cuts = np.split(ids, parts, axis)
        if len(varying(ids)) == 1:
            op.balance(ids.reshape(parts, -1))
        else:  # parts lose the same positions
            for part in cuts[1:]:
                op.channels.unite(cuts[0], part)
    if squeeze:
        for part in cuts:
            op.channels.freeze(part, f"{op.type} {op.name!r} takes single channels")
        return [op.channels.fixed("", len(out)) for out in op.out_shapes]
    return list(cuts)


def rewrite_split(slim: SlimContext) -> dict[str, str]:
    """Move the indices at which parts begin."""
    axis = slim.attr("axis", 1) % len(slim.inputs[0].shape)
    moved = [slim.moved(axis, position) for position in numbers(slim.attrs, "indices")]
    return {"indices": str(moved)} if moved else {}


def broadcast(op: OpContext) -> list:
    """Axes of length 1 grow; the channels are those of the input."""
    ids, ndim = op.ids(0), len(op.out_shapes[0])
    return [ids.reshape((1,) * (ndim - ids.ndim) + ids.shape)]


def rewrite_broadcast(slim: SlimContext) -> dict[str, str]:
    """State the new lengths; 0, "as long as the input", stays."""
    sizes = zip(numbers(slim.attrs, "shape"), slim.out_shapes[0])
    return {"shape": str(tuple(new if old else 0 for old, new in sizes))}
