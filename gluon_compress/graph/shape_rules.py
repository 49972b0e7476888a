"""Rules of operators that move positions: reshape, transpose, join, slice, split."""

from __future__ import annotations

import numpy as np

from gluon_compress.graph.channels import placed, varying
from gluon_compress.graph.context import Step, axis_of, numbers, unknown_form


def reshape(step: Step) -> list:
    """Positions keep their row-major order."""
    ids, out = step.ids(0), step.out_shapes[0]
    if not varying(ids):
        return [ids.reshape((1,) * len(out))]
    if step.attr("reverse", False) or (step.op == "Reshape" and not step.attr("shape")):
        return unknown_form(step)
    return [np.broadcast_to(ids, step.shapes[0]).reshape(out)]


def transpose(step: Step) -> list:
    """Axes in another order."""
    axes = numbers(step.attrs, "axes") or None
    return [np.transpose(step.ids(0), axes)]


def swap_axes(step: Step) -> list:
    """Two axes exchanged."""
    return [np.swapaxes(step.ids(0), step.attr("dim1", 0), step.attr("dim2", 0))]


def depth_to_space(step: Step) -> list:
    """Channels become the pixels of blocks; those of one block go together."""
    b, channels = step.attr("block_size"), step.channel(0, 1)
    blocks = channels.reshape(b * b, -1)
    step.atoms.unite(blocks, blocks[:1])
    return [placed(blocks[0], 1, 4)]


def space_to_depth(step: Step) -> list:
    """The pixels of blocks become channels, all channels once for each pixel."""
    b, channels = step.attr("block_size"), step.channel(0, 1)
    return [placed(np.tile(channels, b * b), 1, 4)]


def concat(step: Step) -> list:
    """Inputs side by side along one axis."""
    axis = axis_of(step, "dim", 1) if step.op == "Concat" else None
    if axis is None:  # stack makes the axis
        axis = step.attr("axis", 0) % len(step.out_shapes[0])
        ids = [np.expand_dims(step.ids(k), axis) for k in range(len(step.shapes))]
        lengths = [1] * len(ids)
    else:
        ids = [step.ids(k) for k in range(len(step.shapes))]
        lengths = [shape[axis] for shape in step.shapes]
    shape = np.max([a.shape for a in ids], axis=0)
    full = []
    for atoms, length in zip(ids, lengths):
        shape[axis] = length
        full.append(np.broadcast_to(atoms, shape))
    return [np.concatenate(full, axis)]


def cut(ids: np.ndarray, axis: int, begin: int | None, end: int | None) -> np.ndarray:
    """Return the atoms of a slice along one axis."""
    if ids.shape[axis] == 1:
        return ids
    index = [slice(None)] * ids.ndim
    index[axis] = slice(begin, end)
    return ids[tuple(index)]


def slice_axis(step: Step) -> list:
    """A range of positions along one axis."""
    axis = axis_of(step, "axis", 0)
    return [cut(step.ids(0), axis, step.attr("begin", 0), step.attr("end"))]


def slices(step: Step) -> list:
    """A range of positions along several axes."""
    ids = step.ids(0)
    steps = numbers(step.attrs, "step")
    for axis in varying(ids):
        if axis < len(steps) and steps[axis] not in (None, 1):
            step.freeze(ids, "takes channels in steps")
            return [step.atoms.fixed("", ids.ndim)]
    ends = zip(*(numbers(step.attrs, key) for key in ("begin", "end")))
    for axis, (begin, end) in enumerate(ends):
        ids = cut(ids, axis, begin, end)
    return [ids]


def slice_like(step: Step) -> list:
    """As many positions as another tensor has; of channels only when all stay."""
    ids, like = step.ids(0), step.ids(1)
    axes = numbers(step.attrs, "axes") or range(len(step.shapes[1]))
    axes = {axis % len(step.shapes[0]) for axis in axes}
    if not axes.isdisjoint(varying(like)):
        step.freeze(like, "cuts another tensor's channels by it")
    elif axes.isdisjoint(varying(ids)):
        return [ids]
    step.freeze(ids, "cuts channels by another tensor's")
    return [step.atoms.fixed("", ids.ndim)]


def reverse(step: Step) -> list:
    """Positions along axes in the opposite order."""
    ids = step.ids(0)
    return [np.flip(ids, [axis % ids.ndim for axis in numbers(step.attrs, "axis")])]


def tile(step: Step) -> list:
    """The whole several times along axes; new axes come first."""
    ids, reps = step.ids(0), numbers(step.attrs, "reps")
    ndim = len(step.out_shapes[0])
    ids = ids.reshape((1,) * (ndim - ids.ndim) + ids.shape)
    reps = (1,) * (ndim - len(reps)) + tuple(reps)
    # An axis that is the same all along stays so.
    return [np.tile(ids, [1 if n == 1 else r for r, n in zip(reps, ids.shape)])]


def repeat(step: Step) -> list:
    """Every position along an axis several times."""
    ids, axis = step.ids(0), step.attr("axis")
    if axis is None:
        return unknown_form(step)
    if ids.shape[axis] == 1:
        return [ids]
    return [np.repeat(ids, step.attr("repeats"), axis)]


def split(step: Step) -> list:
    """Equal parts along one axis stay equal; with indices any channel can go."""
    axis, ids = axis_of(step, "axis", 1), step.ids(0)
    squeeze = step.attr("squeeze_axis", False)
    inner = list(numbers(step.attrs, "indices"))[1:]
    parts = len(step.out_shapes)
    if ids.shape[axis] == 1:
        cuts = [ids] * parts
    elif inner:
        cuts = np.split(ids, inner, axis)
    else:
        cuts = np.split(ids, parts, axis)
        if len(varying(ids)) == 1:
            step.alike(ids.reshape(parts, -1))
        else:  # what one place loses, the others lose, too
            for part in cuts[1:]:
                step.atoms.unite(cuts[0], part)
    if squeeze:
        for part in cuts:
            step.atoms.freeze(part, f"{step.op} {step.name!r} takes single channels")
        return [step.atoms.fixed("", len(out)) for out in step.out_shapes]
    return list(cuts)


def broadcast(step: Step) -> list:
    """Axes of length 1 grow; the channels are those of the input."""
    ids, ndim = step.ids(0), len(step.out_shapes[0])
    return [ids.reshape((1,) * (ndim - ids.ndim) + ids.shape)]
