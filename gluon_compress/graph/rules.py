"""How each operator hands on, joins or consumes channels: one small rule per operator.

A rule reads a ``Step`` and returns the atoms of each output; what it says on the way
(``unite``, ``freeze``, ``carry``) is what makes channels one group. Only what is exact
for every selection of channels is allowed, anything else is frozen with its reason.
"""

from __future__ import annotations

from typing import Callable, Sequence

import numpy as np

from gluon_compress.graph.channels import placed, varying
from gluon_compress.graph.context import (
    PRODUCERS,
    SUMS,
    Step,
    axis_of,
    reduced_axes,
    tied_groups,
    unknown_form,
    whole_groups,
)
from gluon_compress.graph.shape_rules import (
    broadcast,
    concat,
    depth_to_space,
    repeat,
    reshape,
    reverse,
    slice_axis,
    slice_like,
    slices,
    space_to_depth,
    split,
    swap_axes,
    tile,
    transpose,
)


def same(step: Step) -> list:
    """One input, the same channels in every output."""
    return [step.ids(0) for _ in step.out_shapes]


def elementwise(step: Step) -> list:
    """Channels at the same position of broadcast inputs live or die together."""
    shape = step.out_shapes[0]
    dims = [(1,) * (len(shape) - len(s)) + tuple(s) for s in step.shapes]
    ids = [
        step.ids(k).reshape((1,) * (len(shape) - len(s)) + step.ids(k).shape)
        for k, s in enumerate(step.shapes)
    ]
    free = [k for k, atoms in enumerate(ids) if varying(atoms)]
    if any(_crossed(ids[k], dims[j]) for k in free for j in free):
        # Only the channels of one axis can be removed from the result.
        axes = min(varying(ids[k]) for k in free)
        for k in [k for k in free if varying(ids[k]) != axes]:
            step.freeze(ids[k], "spans channels of different axes")
            free.remove(k)
    for k in free:
        step.atoms.unite(ids[free[0]], ids[k])
        for j, other in enumerate(ids):
            if j not in free and any(dims[j][axis] > 1 for axis in varying(ids[k])):
                step.atoms.freeze(ids[k], _why_fixed(step, other))
    if free:
        return [ids[free[0]]]
    longest = max(ids, key=lambda a: (a.size, -int(a.reshape(-1)[0])))
    return [longest]


def _crossed(atoms: np.ndarray, dim: Sequence[int]) -> bool:
    """Tell whether a tensor is repeated along axes that atoms vary on."""
    return any(dim[axis] == 1 for axis in varying(atoms))


def _why_fixed(step: Step, other: np.ndarray) -> str:
    code = int(other.reshape(-1)[0])
    reason = step.atoms.reason(code) if code < 0 else ""
    return reason or f"{step.op} {step.name!r} joins it with channels that stay"


def where(step: Step) -> list:
    """As any elementwise operator, but for a condition per sample."""
    alike = len({tuple(shape) for shape in step.shapes}) == 1
    return elementwise(step) if alike else unknown_form(step)


def convolution(step: Step) -> list:
    """Input channels are consumed, output channels are new; groups tie both."""
    if not str(step.attr("layout", "NC")).startswith("NC"):
        return unknown_form(step)
    outs, ins = step.atoms.fresh(step.attr("num_filter")), step.channel(0, 1)
    deconv = step.op == "Deconvolution"
    inner = _tie_groups(step, outs, ins) if tied_groups(step.attrs) else (outs, ins)
    if deconv:
        step.carry(1, 0, ins)
        rest = inner[0]
    else:
        step.carry(1, 0, outs)
        rest = inner[1]
    if rest is not None:
        step.carry(1, 1, rest)
    if len(step.shapes) > 2:
        step.carry(2, 0, outs)
    return [placed(outs, 1, len(step.out_shapes[0]))]


def deformable(step: Step) -> list:
    """As a convolution; each deformable group reads its channels at its own places."""
    weight = PRODUCERS[step.op]
    outs, ins = step.atoms.fresh(step.attr("num_filter")), step.channel(0, 1)
    for k in range(1, weight):
        step.freeze(step.ids(k), "reads places from it")
    step.alike(ins.reshape(step.attr("num_deformable_group", 1), -1))
    inner = _tie_groups(step, outs, ins)[1] if tied_groups(step.attrs) else ins
    step.carry(weight, 0, outs)
    if inner is not None:
        step.carry(weight, 1, inner)
    if len(step.shapes) > weight + 1:
        step.carry(weight + 1, 0, outs)
    return [placed(outs, 1, len(step.out_shapes[0]))]


def _tie_groups(step: Step, outs: np.ndarray, ins: np.ndarray) -> tuple:
    """Tie channels of grouped convolution; return what each group has of them."""
    groups, whole = step.attr("num_group", 1), whole_groups(step.attrs, len(ins))
    outs, ins = outs.reshape(groups, -1), ins.reshape(groups, -1)
    if whole:
        step.atoms.unite(ins, ins[:, :1])
        step.atoms.unite(outs, ins[:, :1])
        return None, None
    step.alike(ins)
    step.alike(outs)
    return outs, ins


def dense(step: Step) -> list:
    """Input features are consumed, output features are new."""
    ids, shape, out = step.ids(0), step.shapes[0], step.out_shapes[0]
    units = step.atoms.fresh(step.attr("num_hidden"))
    if step.attr("flatten", True):
        length = int(np.prod(shape[1:]))
        full = np.broadcast_to(ids, (1, *shape[1:])) if varying(ids) else ids
        ins = np.broadcast_to(full.reshape(-1), (length,))
        if ids.shape[0] > 1:
            step.freeze(ids, "mixes the batch")
            ins = step.atoms.fixed("").repeat(length)
    else:
        ins = step.channel(0, len(shape) - 1)
    step.carry(1, 0, units)
    step.carry(1, 1, ins)
    if len(step.shapes) > 2:
        step.carry(2, 0, units)
    return [placed(units, len(out) - 1, len(out))]


def embedding(step: Step) -> list:
    """Output features are new."""
    step.freeze(step.ids(0), "reads indices")
    outs, ndim = step.atoms.fresh(step.attr("output_dim")), len(step.out_shapes[0])
    step.carry(1, 1, outs)
    return [placed(outs, ndim - 1, ndim)]


def batch_norm(step: Step) -> list:
    """Every channel by itself, with its own scale, shift and running statistics."""
    axis = 1 if step.op == "InstanceNorm" else axis_of(step, "axis", 1)
    channels = step.channel(0, axis)
    for k in range(1, len(step.shapes)):
        step.carry(k, 0, channels)
    return [step.ids(0)] + [channels for _ in step.out_shapes[1:]]


def leaky_relu(step: Step) -> list:
    """As any activation; PReLU may have a slope per channel."""
    if len(step.shapes) > 1 and step.shapes[1][0] > 1:
        step.carry(1, 0, step.channel(0, 1))
    return same(step)


def spatial(step: Step) -> list:
    """Works inside each channel of axis 1; other axes must be whole."""
    channels = step.channel(0, 1)
    for k in range(1, len(step.shapes)):
        if step.op in ("Crop", "_contrib_BilinearResize2D"):
            step.channel(k, 1)  # only its height and width are read
        else:
            step.freeze(step.ids(k), "takes positions from it")
    return [placed(channels, 1, len(shape)) for shape in step.out_shapes]


def upsampling(step: Step) -> list:
    """Nearest-neighbour enlargement of one input; other forms have no rule."""
    plain = step.attr("sample_type") == "nearest" and len(step.shapes) == 1
    return spatial(step) if plain else unknown_form(step)


def pad(step: Step) -> list:
    """Padding of whole axes leaves the channels alone."""
    width = step.attr("pad_width")
    ids = step.ids(0)
    if any(width[2 * a] or width[2 * a + 1] for a in varying(ids)):
        step.freeze(ids, "adds channels")
        return [step.atoms.fixed("", ids.ndim)]
    return [ids]


def over_axis(default: int) -> Callable:
    """Return the rule of an operator that normalises over an axis."""

    def rule(step: Step) -> list:
        axis, ids = axis_of(step, "axis", default), step.ids(0)
        if varying(ids) == [axis]:
            step.freeze(ids, "normalises over channels")
        elif axis in varying(ids):
            step.tie(ids, [axis])
        return same(step)

    return rule


def over_channels(step: Step) -> list:
    """Anything computed over all channels changes with their number."""
    keep = {"spatial": (0, 1)}.get(step.attr("mode"), (0,))
    if any(axis not in keep for axis in varying(step.ids(0))):
        step.freeze(step.ids(0), "normalises over channels")
    return same(step)


def reduction(step: Step) -> list:
    """Reduced axes vanish; over channels only a sum stays exact without the zeros."""
    ids, shape = step.ids(0), step.shapes[0]
    axes = reduced_axes(step.attrs, len(shape))
    lost = [axis for axis in varying(ids) if axis in axes]
    if lost and lost == varying(ids):
        if step.op not in SUMS:
            step.freeze(ids, "reduces over channels")
        return [step.atoms.fixed("", len(out)) for out in step.out_shapes]
    ids = step.tie(ids, lost)
    keep = step.attr("keepdims", False)
    left = [n for a, n in enumerate(ids.shape) if keep or a not in axes]
    return [ids.reshape(left if left else (1,) * len(step.out_shapes[0]))]


def constant(step: Step) -> list:
    """Made from nothing: its positions stay."""
    reason = f"{step.op} {step.name!r} has a written size"
    return [step.atoms.fixed(reason, len(out)) for out in step.out_shapes]


def _rows(rule: Callable, names: str) -> dict:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Callable[[Step], list]] = {
    **_rows(
        same,
        "Activation relu sigmoid tanh softsign hard_sigmoid erf exp expm1 log log1p "
        "log2 log10 sqrt rsqrt cbrt square abs sign floor ceil round rint trunc fix "
        "negative reciprocal sin cos arctan arcsinh sinh cosh gamma gammaln clip "
        "smooth_l1 Cast amp_cast _copy identity BlockGrad make_loss Dropout "
        "zeros_like ones_like logical_not _plus_scalar _minus_scalar _rminus_scalar "
        "_mul_scalar _div_scalar _rdiv_scalar _power_scalar _rpower_scalar "
        "_maximum_scalar _minimum_scalar _mod_scalar _equal_scalar "
        "_not_equal_scalar _greater_scalar _greater_equal_scalar _lesser_scalar "
        "_lesser_equal_scalar _contrib_div_sqrt_dim",
    ),
    **_rows(
        elementwise,
        "elemwise_add elemwise_sub elemwise_mul elemwise_div _Plus _plus _Minus "
        "_minus _Mul _mul _Div _div _grad_add add_n ElementWiseSum _maximum _minimum "
        "_power _equal _not_equal _greater _greater_equal _lesser _lesser_equal "
        "broadcast_add broadcast_plus broadcast_sub broadcast_minus broadcast_mul "
        "broadcast_div broadcast_maximum broadcast_minimum broadcast_power "
        "broadcast_hypot _hypot broadcast_equal broadcast_not_equal "
        "broadcast_greater broadcast_greater_equal broadcast_lesser "
        "broadcast_lesser_equal broadcast_like",
    ),
    **_rows(convolution, "Convolution Deconvolution Convolution_v1"),
    **_rows(
        deformable,
        "_contrib_DeformableConvolution _contrib_ModulatedDeformableConvolution",
    ),
    **_rows(batch_norm, "BatchNorm BatchNorm_v1 InstanceNorm _contrib_SyncBatchNorm"),
    **_rows(
        spatial,
        "Pooling Pooling_v1 _contrib_AdaptiveAvgPooling2D _contrib_BilinearResize2D "
        "ROIPooling _contrib_ROIAlign Crop",
    ),
    **_rows(reduction, "sum sum_axis nansum mean max max_axis min min_axis prod norm"),
    **_rows(reshape, "Reshape reshape Flatten flatten expand_dims squeeze"),
    **_rows(over_channels, "L2Normalization LRN GroupNorm SoftmaxActivation"),
    **_rows(over_axis(-1), "LayerNorm softmax log_softmax softmin"),
    **_rows(concat, "Concat concat stack"),
    **_rows(split, "SliceChannel _split_v2"),
    **_rows(broadcast, "broadcast_axis broadcast_axes broadcast_to"),
    **_rows(constant, "_zeros _ones _full _arange"),
    "Embedding": embedding,
    "FullyConnected": dense,
    "LeakyReLU": leaky_relu,
    "Pad": pad,
    "SwapAxis": swap_axes,
    "UpSampling": upsampling,
    "depth_to_space": depth_to_space,
    "repeat": repeat,
    "reverse": reverse,
    "slice": slices,
    "slice_axis": slice_axis,
    "slice_like": slice_like,
    "space_to_depth": space_to_depth,
    "tile": tile,
    "transpose": transpose,
    "where": where,
}
