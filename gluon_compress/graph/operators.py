"""The operator table: everything the package knows about an operator, in one row.

To add an operator, write a row here and the functions it names; no other module needs
to change. The functions see one operator at a time: as an ``OpContext`` (its channels),
a ``SlimContext`` (its attributes after slimming), a ``ZeroContext`` (what makes its
output zero), or as shapes (its MACs).

They are in ``rules``, ``layer_rules``, ``linear``, ``shape_rules`` and ``zero_rules``
of this package, although other packages slim, mask, count, fold and time: what a
convolution does to channels, attributes and MACs is best read in one place, and needs
only NumPy. Those packages import the table; the table imports none of them.

Operators without a row freeze the channels they touch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

from gluon_compress.graph import layer_rules, linear, rules, shape_rules, zero_rules
from gluon_compress.graph.context import OpContext, SlimContext, unknown
from gluon_compress.graph.zero_rules import (
    KeepsZero,
    all_inputs,
    any_input,
    each_input,
    first_input,
    first_input_if,
    first_input_if_scalar,
    never,
)

# How an operator's latency depends on widths, see ``latency.blocks``.
LAYER = "layer"  # on input and output channels, num_filter
DENSE = "dense"  # on input and output features, num_hidden
CHANNELWISE = "channelwise"  # on one width: as many output as input channels
# Channelwise, and timed with the operator before it: alone it would get its input in
# another memory layout, in which BatchNorm takes several times as long.
FOLLOWER = "follower"
WHOLE = "whole"  # timed at full width only


@dataclass(frozen=True)
class Operator:
    """The properties of an operator that other parts of the package use.

    Parameters
    ----------
    rule : callable
        ``rule(OpContext) -> [channel ids of each output]``.
    weight_input : int, optional
        The input that is the weight, for layers that produce channels.
    weight_axis : int
        The axis of the weight along which these channels lie.
    rewrite : callable, optional
        ``rewrite(SlimContext) -> {attribute: text}``: the attributes that state numbers
        or positions of channels, after slimming.
    keeps_zero : callable
        ``keeps_zero(ZeroContext) -> [inputs] or None``: the inputs that must be zero
        for the output to be zero in removed channels; None if it needs a mask after the
        operator.
    sums : callable, optional
        ``sums(attrs, axis, shape) -> bool``: whether the operator sums over this axis
        of input 0, where removed channels must be zero.
    macs : callable, optional
        ``macs(attrs, input shapes, output shape) -> int`` of a batch.
    foldable : bool
        Whether a BatchNorm after it can be folded into weight and bias.
    normalizes : bool
        Whether inputs 1 and 2 are the scale and shift of each channel.
    running_statistics : bool
        Whether inputs 3 and 4 are the running mean and variance, as in BatchNorm.
    size_inputs : bool
        Whether it only reads the shapes of inputs after the first.
    linear : LinearForm, optional
        How it is a matrix product, for fitting its weight to data.
    latency : str
        ``LAYER``, ``DENSE``, ``CHANNELWISE``, ``FOLLOWER`` or ``WHOLE``.
    """

    rule: Callable[[OpContext], list]
    weight_input: int | None = None
    weight_axis: int = 0
    rewrite: Callable[[SlimContext], dict[str, str]] | None = None
    keeps_zero: KeepsZero = never
    sums: Callable[[Mapping, int, Sequence[int]], bool] | None = None
    macs: Callable[[Mapping, Sequence, Sequence], int] | None = None
    foldable: bool = False
    normalizes: bool = False
    running_statistics: bool = False
    size_inputs: bool = False
    linear: linear.LinearForm | None = None
    latency: str = WHOLE


def operator_of(name: str) -> Operator:
    """Return an operator's row, or ``UNKNOWN``."""
    return OPERATORS.get(name, UNKNOWN)


def _alike(names: str, operator: Operator) -> dict[str, Operator]:
    """Return the same row for several operators."""
    return dict.fromkeys(names.split(), operator)


def _convolution(latency: str = LAYER, foldable: bool = True) -> Operator:
    return Operator(
        layer_rules.convolution,
        weight_input=1,
        rewrite=layer_rules.rewrite_convolution,
        sums=layer_rules.sums_channels,
        macs=layer_rules.convolution_macs,
        foldable=foldable,
        linear=linear.CONVOLUTION,
        latency=latency,
    )


def _deformable(weight: int) -> Operator:
    return Operator(
        layer_rules.deformable(weight),
        weight_input=weight,
        rewrite=layer_rules.rewrite_deformable(weight),
        sums=layer_rules.sums_channels,
        macs=layer_rules.deformable_macs(weight),
    )


def _scalar(test: Callable[[float], bool], latency: str = WHOLE) -> Operator:
    """Return the row of an operator that keeps zero if its scalar passes a test."""
    keeps_zero = first_input_if_scalar(test)
    return Operator(rules.same, keeps_zero=keeps_zero, latency=latency)


UNKNOWN = Operator(unknown)

LAYERS = {
    "Convolution": _convolution(),
    "Convolution_v1": _convolution(WHOLE, foldable=False),
    "Deconvolution": Operator(
        layer_rules.deconvolution,
        weight_input=1,
        weight_axis=1,
        rewrite=layer_rules.rewrite_deconvolution,
        sums=layer_rules.sums_channels,
        macs=layer_rules.deconvolution_macs,
        foldable=True,
        latency=LAYER,
    ),
    "_contrib_DeformableConvolution": _deformable(weight=2),
    "_contrib_ModulatedDeformableConvolution": _deformable(weight=3),
    "FullyConnected": Operator(
        layer_rules.dense,
        weight_input=1,
        rewrite=layer_rules.rewrite_dense,
        sums=layer_rules.sums_channels,
        macs=layer_rules.dense_macs,
        foldable=True,
        linear=linear.DENSE,
        latency=DENSE,
    ),
    "Embedding": Operator(
        layer_rules.embedding,
        weight_input=1,
        weight_axis=1,
        rewrite=layer_rules.rewrite_embedding,
    ),
    # Their inputs are computed, so none is a weight. They have no channel rule yet.
    **_alike("dot batch_dot", Operator(unknown, macs=layer_rules.product_macs)),
}

NORMALIZATION = {
    "BatchNorm": Operator(
        rules.batch_norm, normalizes=True, running_statistics=True, latency=FOLLOWER
    ),
    **_alike(
        "BatchNorm_v1 _contrib_SyncBatchNorm",
        Operator(rules.batch_norm, normalizes=True, running_statistics=True),
    ),
    "InstanceNorm": Operator(rules.instance_norm, normalizes=True),
    **_alike(
        "L2Normalization LRN GroupNorm SoftmaxActivation", Operator(rules.over_channels)
    ),
    **_alike("LayerNorm softmax log_softmax softmin", Operator(rules.over_axis(-1))),
}

ONE_BY_ONE = {
    "Activation": Operator(
        rules.same,
        keeps_zero=first_input_if(zero_rules.activation_keeps_zero),
        latency=FOLLOWER,
    ),
    "relu": Operator(rules.same, keeps_zero=first_input, latency=FOLLOWER),
    "sigmoid": Operator(rules.same, latency=FOLLOWER),
    "LeakyReLU": Operator(rules.leaky_relu, keeps_zero=first_input, latency=FOLLOWER),
    "clip": Operator(
        rules.same,
        keeps_zero=first_input_if(zero_rules.clip_keeps_zero),
        latency=FOLLOWER,
    ),
    **_alike(
        "Dropout _copy _div_scalar _mul_scalar",
        Operator(rules.same, keeps_zero=first_input, latency=CHANNELWISE),
    ),
    "_plus_scalar": _scalar(lambda s: s == 0, CHANNELWISE),
    "_minus_scalar": _scalar(lambda s: s == 0),
    "_maximum_scalar": _scalar(lambda s: s <= 0),
    "_minimum_scalar": _scalar(lambda s: s >= 0),
    "_power_scalar": _scalar(lambda s: s >= 1),
    **_alike(
        "BlockGrad Cast _contrib_div_sqrt_dim _contrib_gradientmultiplier "
        "_contrib_round_ste _contrib_sign_ste abs "
        "amp_cast arcsinh arctan ceil erf expm1 fix floor identity log1p make_loss "
        "negative rint round sign sin sinh smooth_l1 softsign square tanh trunc "
        "zeros_like",
        Operator(rules.same, keeps_zero=first_input),
    ),
    **_alike(
        "_equal_scalar _greater_equal_scalar _greater_scalar _lesser_equal_scalar "
        "_lesser_scalar _mod_scalar _not_equal_scalar _rdiv_scalar _rminus_scalar "
        "_rpower_scalar cbrt cos cosh exp gamma gammaln hard_sigmoid log log10 log2 "
        "logical_not ones_like reciprocal rsqrt sqrt",
        Operator(rules.same),
    ),
}

SEVERAL_INPUTS = {
    **_alike(
        "broadcast_add elemwise_add",
        Operator(rules.elementwise, keeps_zero=all_inputs, latency=CHANNELWISE),
    ),
    **_alike(
        "ElementWiseSum _Minus _Plus _grad_add _maximum _minimum _minus _plus add_n "
        "broadcast_maximum broadcast_minimum broadcast_minus broadcast_plus "
        "broadcast_sub elemwise_sub",
        Operator(rules.elementwise, keeps_zero=all_inputs),
    ),
    **_alike(
        "broadcast_mul elemwise_mul",
        Operator(rules.elementwise, keeps_zero=any_input, latency=CHANNELWISE),
    ),
    **_alike("_Mul _mul", Operator(rules.elementwise, keeps_zero=any_input)),
    **_alike(
        "_Div _div _equal _greater _greater_equal _hypot _lesser _lesser_equal "
        "_not_equal _power broadcast_div broadcast_equal broadcast_greater "
        "broadcast_greater_equal broadcast_hypot broadcast_lesser "
        "broadcast_lesser_equal broadcast_not_equal broadcast_power elemwise_div",
        Operator(rules.elementwise),
    ),
    "broadcast_like": Operator(rules.elementwise, size_inputs=True),
    "where": Operator(rules.where),
}

MAPS = {
    "Pooling": Operator(rules.spatial, keeps_zero=first_input, latency=CHANNELWISE),
    **_alike(
        "Pooling_v1 ROIPooling _contrib_AdaptiveAvgPooling2D _contrib_ROIAlign",
        Operator(rules.spatial, keeps_zero=first_input),
    ),
    "Crop": Operator(rules.spatial_like, keeps_zero=first_input),
    "_contrib_BilinearResize2D": Operator(
        rules.spatial_like, keeps_zero=first_input, size_inputs=True
    ),
    "UpSampling": Operator(
        rules.upsampling, keeps_zero=first_input, latency=CHANNELWISE
    ),
    "Pad": Operator(rules.pad, keeps_zero=first_input_if(zero_rules.pad_keeps_zero)),
}

REDUCTIONS = {
    **_alike(
        "nansum sum sum_axis",
        Operator(rules.summation, keeps_zero=first_input, sums=rules.sums_axis),
    ),
    **_alike(
        "max max_axis mean min min_axis prod",
        Operator(rules.reduction, keeps_zero=first_input),
    ),
    "norm": Operator(rules.reduction),
}

SHAPES = {
    **_alike(
        "Flatten expand_dims flatten squeeze",
        Operator(shape_rules.reshape, keeps_zero=first_input),
    ),
    "Reshape": Operator(
        shape_rules.reshape_to,
        rewrite=shape_rules.rewrite_reshape,
        keeps_zero=first_input,
    ),
    "reshape": Operator(
        shape_rules.reshape, rewrite=shape_rules.rewrite_reshape, keeps_zero=first_input
    ),
    "SwapAxis": Operator(shape_rules.swap_axes, keeps_zero=first_input),
    "transpose": Operator(shape_rules.transpose, keeps_zero=first_input),
    "depth_to_space": Operator(shape_rules.depth_to_space, keeps_zero=first_input),
    "space_to_depth": Operator(shape_rules.space_to_depth, keeps_zero=first_input),
    **_alike("Concat concat", Operator(shape_rules.concat, keeps_zero=each_input)),
    "stack": Operator(shape_rules.stack, keeps_zero=each_input),
    "SliceChannel": Operator(shape_rules.split, keeps_zero=first_input),
    "_split_v2": Operator(
        shape_rules.split, rewrite=shape_rules.rewrite_split, keeps_zero=first_input
    ),
    "slice": Operator(
        shape_rules.slices, rewrite=shape_rules.rewrite_slice, keeps_zero=first_input
    ),
    "slice_axis": Operator(
        shape_rules.slice_axis,
        rewrite=shape_rules.rewrite_slice_axis,
        keeps_zero=first_input,
    ),
    "slice_like": Operator(
        shape_rules.slice_like, keeps_zero=first_input, size_inputs=True
    ),
    "reshape_like": Operator(unknown, size_inputs=True),
    "repeat": Operator(shape_rules.repeat, keeps_zero=first_input),
    "reverse": Operator(shape_rules.reverse, keeps_zero=first_input),
    "tile": Operator(shape_rules.tile, keeps_zero=first_input),
    **_alike(
        "broadcast_axes broadcast_axis",
        Operator(shape_rules.broadcast, keeps_zero=first_input),
    ),
    "broadcast_to": Operator(
        shape_rules.broadcast,
        rewrite=shape_rules.rewrite_broadcast,
        keeps_zero=first_input,
    ),
    **_alike("_arange _full _ones _zeros", Operator(rules.constant)),
}

OPERATORS: dict[str, Operator] = {
    **LAYERS,
    **NORMALIZATION,
    **ONE_BY_ONE,
    **SEVERAL_INPUTS,
    **MAPS,
    **REDUCTIONS,
    **SHAPES,
}
