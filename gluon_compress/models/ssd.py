"""SSD-300: a GluonCV ``SSD`` made from any trunk, or again from its own raw head.

The *raw head* is the symbol with two outputs, class scores ``(B, A, C + 1)`` and box
deltas ``(B, A, 4)``; decode and NMS are not in it. Pruning works on it, and
``from_head`` turns what pruning returns into a ``gluoncv.model_zoo.ssd.SSD`` again,
so whatever is written for GluonCV's SSD works on a slim one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Callable, Sequence

import mxnet as mx
import numpy as np
from gluoncv.data import VOCDetection
from gluoncv.loss import SSDMultiBoxLoss
from gluoncv.model_zoo.ssd import SSD
from mxnet import autograd
from mxnet.gluon import HybridBlock, SymbolBlock

from gluon_compress.distill import adapt

VOC_CLASSES = tuple(VOCDetection.CLASSES)
THIN, WIDE = (1, 2, 0.5), (1, 2, 0.5, 3, 1 / 3)


@dataclass(frozen=True)
class SSDConfig:
    """What an SSD is beside its network: classes, anchors, decode and NMS constants.

    Parameters
    ----------
    classes : tuple of str
        Foreground classes; the background is class 0 of the scores.
    size : int
        Height and width of the input, pixels.
    sizes : tuple of float
        Anchor sizes in pixels, one more than there are maps.
    ratios : tuple of tuple of float
        Anchor aspect ratios (width / height) of each map.
    steps : tuple of float
        Distance in pixels between anchor centres of each map.
    extras : tuple of int
        Channels of the extra stages that follow the trunk.
    stds : tuple of float
        What box deltas are multiplied by (Liu et al. 2016: the "variances").
    nms_thresh, nms_topk, post_nms
        As in ``SSD.set_nms``.
    """

    classes: tuple[str, ...] = VOC_CLASSES
    size: int = 300
    sizes: tuple[float, ...] = (30, 60, 111, 162, 213, 264, 315)
    ratios: tuple[tuple[float, ...], ...] = (THIN, WIDE, WIDE, WIDE, THIN, THIN)
    steps: tuple[float, ...] = (8, 16, 32, 64, 100, 300)
    extras: tuple[int, ...] = (512, 256, 256)
    stds: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    nms_thresh: float = 0.45
    nms_topk: int = 400
    post_nms: int = 100
    predictor_kernel: tuple[int, int] = field(default=(3, 3))

    def __post_init__(self) -> None:
        maps = len(self.ratios)
        if len(self.sizes) != maps + 1 or len(self.steps) != maps:
            raise ValueError(
                f"anchors: {maps} lists of ratios need {maps + 1} sizes and {maps} "
                f"steps, not {len(self.sizes)} and {len(self.steps)}"
            )
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be distinct names, not {self.classes!r}")


def build_ssd(trunk: tuple[HybridBlock, list[mx.sym.Symbol]], config: SSDConfig) -> SSD:
    """Return an SSD on a trunk's taps and the extra stages, not initialised.

    Parameters
    ----------
    trunk : tuple
        What ``resnet_trunk`` or ``mobilenet_trunk`` returns.
    config : SSDConfig

    Returns
    -------
    gluoncv.model_zoo.ssd.SSD
        In training it returns class scores ``(B, A, C + 1)``, box deltas
        ``(B, A, 4)`` and anchors ``(1, A, 4)``; otherwise ids, scores and
        corner boxes after NMS.
    """
    net, taps = trunk
    outputs = _with_extras(taps, config.extras)
    features = SymbolBlock(outputs, mx.sym.var("data"), params=net.collect_params())
    return _ssd(features, config)


def _with_extras(taps: Sequence, widths: Sequence[int]) -> list:
    """Append one 1x1 transition and one 3x3 convolution per width to the taps.

    The last stage takes the 3x3 map to 1x1 without padding, the others halve the
    map, which gives SSD-300's classic 38, 19, 10, 5, 3, 1.
    """
    y, outputs = taps[-1], list(taps)
    for i, width in enumerate(widths):
        y = _conv_bn_relu(y, width // 2, f"trans_{{}}{i}", kernel=(1, 1))
        last = i == len(widths) - 1
        step = {} if last else {"pad": (1, 1), "stride": (2, 2)}
        y = _conv_bn_relu(y, width, f"{{}}{i}", kernel=(3, 3), **step)
        outputs.append(y)
    return outputs


def _conv_bn_relu(x, width: int, name: str, **conv):
    x = mx.sym.Convolution(
        x, num_filter=width, no_bias=True, name="expand_" + name.format("conv"), **conv
    )
    x = mx.sym.BatchNorm(x, fix_gamma=False, name="expand_" + name.format("bn"))
    return mx.sym.Activation(x, act_type="relu", name="expand_" + name.format("relu"))


def _ssd(features: HybridBlock, config: SSDConfig) -> SSD:
    kernel = config.predictor_kernel
    net = SSD(
        network=None,
        base_size=config.size,
        features=lambda **_: features,
        num_filters=None,
        sizes=list(config.sizes),
        ratios=[list(r) for r in config.ratios],
        steps=list(config.steps),
        classes=list(config.classes),
        stds=config.stds,
        anchor_alloc_size=64,
        predictors_kernel=kernel,
        predictors_pad=tuple(k // 2 for k in kernel),
    )
    net.set_nms(config.nms_thresh, config.nms_topk, config.post_nms)
    net.anchor_generators.initialize()  # constants: there is nothing to choose
    return net


def config_of(net: SSD) -> SSDConfig:
    """Read the configuration back from any GluonCV SSD with its usual anchors."""
    generators = list(net.anchor_generators)
    last = generators[-1]._sizes
    conv = net.class_predictors[0].predictor._kwargs
    return SSDConfig(
        classes=tuple(net.classes),
        size=generators[0]._im_size[0],
        sizes=(*(_number(g._sizes[0]) for g in generators), _upper_size(last)),
        ratios=tuple(tuple(g._ratios) for g in generators),
        steps=tuple(_number(2 * _first_centre(g)) for g in generators),
        extras=(),
        stds=tuple(net.bbox_decoder._stds),
        nms_thresh=net.nms_thresh,
        nms_topk=net.nms_topk,
        post_nms=net.post_nms,
        predictor_kernel=tuple(conv["kernel"]),
    )


def _number(value: float) -> float:
    """Drop the float32 noise of values that were stored in an array."""
    return float(np.round(float(value), 4))


def _upper_size(pair: tuple[float, float]) -> float:
    # The generator keeps (s, sqrt(s * next)).
    return _number(pair[1] ** 2 / pair[0])


def _first_centre(generator) -> float:
    return generator.anchors.value.reshape((-1,))[0].asscalar()


def raw_head(net: SSD) -> mx.sym.Symbol:
    """Return the symbol of class scores and box deltas of a GluonCV SSD."""
    with autograd.train_mode():
        scores, deltas, _ = net(mx.sym.var("data"))
    return mx.sym.Group([scores, deltas])


def map_symbols(head: mx.sym.Symbol) -> list[mx.sym.Symbol]:
    """Return the feature maps that the predictors of a raw head read: its taps."""
    graph = json.loads(head.tojson())
    nodes, internals = graph["nodes"], head.get_internals()
    convs = _predictors(nodes, graph["heads"][0][0])
    return [internals[_entry_name(nodes, conv["inputs"][0])] for conv in convs]


def head_block(
    net: SSD, *, taps: bool = False, adapters: Sequence[int] = ()
) -> SymbolBlock:
    """Return the raw head as a block for training that shares the net's parameters.

    GluonCV's SSD fixes its output form at the first hybridized call, this block has
    one form only. Each map's two predictors run as one convolution: with two, the
    order in which MXNet sums their gradients sends every BatchNorm below down its
    slow path, and a step of SSD-300 ResNet50-v1d takes 1.5 times as long.

    Parameters
    ----------
    net : gluoncv.model_zoo.ssd.SSD
        Initialised.
    taps : bool
        Whether the maps that the predictors read are outputs too.
    adapters : sequence of int
        Widths that 1x1 adapters bring these taps to, for a student; they are
        initialised here and belong to the returned block alone.

    Returns
    -------
    SymbolBlock
        Images to class scores ``(B, A, C + 1)``, box deltas ``(B, A, 4)`` and taps.
    """
    maps = list(net.features(mx.sym.var("data")))
    pairs = [
        _predict(tap, scorer.predictor, locator.predictor)
        for tap, scorer, locator in zip(maps, net.class_predictors, net.box_predictors)
    ]
    scores, deltas = (mx.sym.concat(*parts, dim=1) for parts in zip(*pairs))
    scores = scores.reshape((0, -1, net.num_classes + 1))
    outputs = [scores, deltas.reshape((0, -1, 4))]
    if taps or adapters:
        outputs += adapt(maps, adapters) if adapters else maps
    symbol = mx.sym.Group(outputs)
    block = SymbolBlock(symbol, mx.sym.var("data"), params=net.collect_params())
    _initialize(block, symbol, image_size(net))
    return block


def _predict(tap, scorer, locator) -> list:
    """Return a map's flat class scores and box deltas, by one convolution."""
    layers = (scorer, locator)
    widths = [layer._kwargs["num_filter"] for layer in layers]
    y = mx.sym.Convolution(
        tap,
        mx.sym.concat(*[layer.weight.var() for layer in layers], dim=0),
        mx.sym.concat(*[layer.bias.var() for layer in layers], dim=0),
        num_filter=sum(widths),
        kernel=scorer._kwargs["kernel"],
        pad=scorer._kwargs["pad"],
    ).transpose((0, 2, 3, 1))
    ends = (0, widths[0], sum(widths))
    cuts = [y.slice_axis(axis=3, begin=b, end=e) for b, e in zip(ends, ends[1:])]
    return [cut.flatten() for cut in cuts]


def image_size(net: SSD) -> int:
    """Return the height and width in pixels that the anchors were made for."""
    return net.anchor_generators[0]._im_size[0]


def map_widths(net: SSD) -> tuple[int, ...]:
    """Return the channels of each map that the predictors read."""
    size = image_size(net)
    maps = mx.sym.Group(map_symbols(raw_head(net)))
    _, shapes, _ = maps.infer_shape(data=(1, 3, size, size))
    return tuple(shape[1] for shape in shapes)


def initialize(net: SSD, *, seed: int = 0, ctx: mx.Context | None = None) -> None:
    """Give every parameter of an SSD its starting value, the same for one seed.

    Convolutions start as in He et al. 2015 (equation 10, fan-out), what a layer
    asks for itself (zero for the last BatchNorm scale of a residual block, Xavier
    for predictors) is respected.
    """
    size = image_size(net)
    mx.random.seed(seed)
    head = raw_head(net)
    block = SymbolBlock(head, mx.sym.var("data"), params=net.collect_params())
    _initialize(block, head, size, ctx)


def _initialize(block, symbol, size: int, ctx: mx.Context | None = None) -> None:
    shapes, _, states = symbol.infer_shape(data=(1, 3, size, size))
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    known = dict(zip(names, (*shapes, *states)))
    for name, parameter in block.collect_params().items():
        if parameter._data is None:  # a shared parameter may have its value already
            parameter.shape = known[name]
            parameter.initialize(_initializer(name), ctx=ctx or mx.cpu())


def _initializer(name: str) -> mx.init.Initializer | None:
    # By kind: MXNet's own patterns do not know every name that a symbol may use.
    if name.endswith(("gamma", "var")):
        return mx.init.One()
    if name.endswith(("beta", "mean", "bias")):
        return mx.init.Zero()
    return mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2)


def anchors_of(net: SSD) -> mx.nd.NDArray:
    """Return the anchors as center boxes in pixels, ``(1, A, 4)``."""
    size = image_size(net)
    maps = mx.sym.Group(list(net.features(mx.sym.var("data"))))
    _, shapes, _ = maps.infer_shape(data=(1, 3, size, size))
    parts = [
        generator.anchors.value[:, :, :height, :width].reshape((1, -1, 4))
        for generator, (_, _, height, width) in zip(net.anchor_generators, shapes)
    ]
    return mx.nd.concat(*parts, dim=1)


def from_head(symbol: mx.sym.Symbol, params: dict, config: SSDConfig) -> SSD:
    """Return the SSD whose raw head is ``symbol`` with ``params``.

    Parameters
    ----------
    symbol : Symbol
        Class scores and box deltas, as ``raw_head`` gives them.
    params : dict of str to NDArray
        Values of all parameters and running statistics.
    config : SSDConfig
        ``extras`` is not used: the stages are in the symbol.

    Raises
    ------
    ValueError
        If the symbol does not end in one class and one box predictor per map.
    """
    nodes = json.loads(symbol.tojson())
    heads = [entry[0] for entry in nodes["heads"]]
    class_convs, box_convs = (_predictors(nodes["nodes"], head) for head in heads[:2])
    if not len(class_convs) == len(box_convs) == len(config.ratios):
        raise ValueError(
            f"the symbol has {len(class_convs)} class and {len(box_convs)} box "
            f"predictors; the anchors are for {len(config.ratios)} maps"
        )
    features = SymbolBlock(map_symbols(symbol), mx.sym.var("data"))
    net = _ssd(features, config)
    _fill(features.collect_params(), params)
    for blocks, convs in (
        (net.class_predictors, class_convs),
        (net.box_predictors, box_convs),
    ):
        for block, conv in zip(blocks, convs):
            names = [nodes["nodes"][i[0]]["name"] for i in conv["inputs"][1:]]
            for parameter, name in zip(block.predictor.params.values(), names):
                _set(parameter, params[name])
    return net


def _predictors(nodes: list, head: int) -> list[dict]:
    """Walk up from an output to the convolutions that feed its concat."""
    node = nodes[head]
    while node["op"] not in ("Concat", "null"):
        node = nodes[node["inputs"][0][0]]
    convs = []
    for entry in node["inputs"]:
        branch = nodes[entry[0]]
        while branch["op"] not in ("Convolution", "null"):
            branch = nodes[branch["inputs"][0][0]]
        convs.append(branch)
    return [conv for conv in convs if conv["op"] == "Convolution"]


def _entry_name(nodes: list, entry: list) -> str:
    node = nodes[entry[0]]
    return node["name"] if node["op"] == "null" else node["name"] + "_output"


def _fill(parameters, values: dict) -> None:
    for name, parameter in parameters.items():
        _set(parameter, values[name])


def _set(parameter, value: mx.nd.NDArray) -> None:
    parameter.shape = value.shape
    parameter.initialize(init=mx.init.Zero(), ctx=mx.cpu(), force_reinit=True)
    parameter.set_data(value)


def ssd_loss() -> Callable:
    """Return SSD's loss for ``fit`` and ``distil_step``: GluonCV's multi-box loss.

    Returns
    -------
    callable
        ``loss(outputs, batch) -> (loss, {"class": ..., "box": ...})`` with the raw
        head's outputs and batches of images, class targets ``(B, A)`` and box
        targets ``(B, A, 4)``; hard negatives are mined 3 to 1 (Liu et al. 2016,
        section 2.2), everything is divided by the positives of the batch.
    """
    multi_box = SSDMultiBoxLoss()

    def loss(outputs: Sequence, batch: Sequence) -> tuple:
        scores, deltas = outputs[:2]
        total, scored, located = multi_box(scores, deltas, batch[1], batch[2])
        return total[0].sum(), {"class": scored[0].sum(), "box": located[0].sum()}

    return loss


def supervised(base_loss: Callable) -> Callable:
    """Return the step loss that runs the net and applies ``base_loss`` alone."""

    def step(net: Callable, batch: Sequence) -> tuple:
        return base_loss(net(batch[0]), batch)

    return step
