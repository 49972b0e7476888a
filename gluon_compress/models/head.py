"""The raw head of an SSD: what is trained, pruned and exported, and the way back.

The *raw head* is the symbol with two outputs, class scores ``(B, A, C + 1)`` and box
deltas ``(B, A, 4)``; decode and NMS are not in it. Pruning works on it, and
``from_head`` turns what pruning returns into a ``gluoncv.model_zoo.SSD`` again,
so whatever is written for GluonCV's SSD works on a slim one.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Callable, Sequence

import mxnet as mx
from gluoncv.loss import SSDMultiBoxLoss
from gluoncv.model_zoo.ssd import SSD
from mxnet import autograd
from mxnet.gluon import SymbolBlock

from gluon_compress.checks import class_names
from gluon_compress.distill import Anchors, adapt, strides, thin
from gluon_compress.graph import NetAdapter, pair_of
from gluon_compress.graph.context import attribute
from gluon_compress.models.initialize import start_values
from gluon_compress.models.ssd import (
    BRANCH,
    SSDConfig,
    anchors_of,
    config_of,
    image_size,
    ssd_around,
)

# What a teacher has in common with its student, in a message's words.
ALIKE = {
    "classes": "classes",
    "size": "image size",
    "sizes": "anchor sizes",
    "ratios": "anchor ratios",
    "steps": "anchor steps",
    "lite": "lite anchors",
    "stds": "stds of box deltas",
}


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


def trunk_parameters(head: mx.sym.Symbol) -> set[str]:
    """Return the names of all that a raw head has from its classifier."""
    maps = mx.sym.Group(map_symbols(head))
    names = {*maps.list_arguments(), *maps.list_auxiliary_states()} - {"data"}
    return {name for name in names if not name.startswith(BRANCH)}


def map_names(net: SSD) -> tuple[str, ...]:
    """Return the names of the maps that the predictors read, largest first."""
    return tuple(f"map{i}" for i in range(len(config_of(net).ratios)))


def tap_numbers(net: SSD, taps: Sequence[str]) -> tuple[int, ...]:
    """Return which of its maps some names are.

    Raises
    ------
    ValueError
        For a name that is none of ``map_names``.
    """
    names = map_names(net)
    for name in taps:
        if name not in names:
            raise ValueError(f"tap {name!r}; allowed: {', '.join(names)}")
    return tuple(map(names.index, taps))


def head_block(
    net: SSD,
    *,
    taps: Sequence[str] = (),
    adapters: Sequence[int] = (),
    stride: int = 1,
    seed: int = 0,
) -> SymbolBlock:
    """Return the raw head as a block for training that shares the net's parameters.

    GluonCV's SSD fixes its output form at the first hybridized call, this block has
    one form only. Each map's two predictors run as one convolution: with two, the
    order in which MXNet sums their gradients sends every BatchNorm below down its
    slow path, and a step of SSD-300 ResNet50-v1d takes 1.5 times as long.

    Parameters
    ----------
    net : gluoncv.model_zoo.SSD
        Initialised.
    taps : sequence of str
        Those of ``map_names`` that are outputs too.
    adapters : sequence of int
        Widths that 1x1 adapters bring these taps to, for a student; they are
        initialised here and belong to the returned block alone.
    stride : int
        Of taps larger than ``distill.adapters.SMALL`` cells a side, only every
        so-manyth cell in each direction is given.
    seed : int
        Decides the adapters' starting values, whatever was drawn before.

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
    numbers = tap_numbers(net, taps)
    tapped = [maps[i] for i in numbers]
    sides = [shape[2] for shape in _map_shapes(net)] if numbers else []
    every = strides([sides[i] for i in numbers], stride)
    outputs += adapt(tapped, adapters, every) if adapters else thin(tapped, every)
    symbol = mx.sym.Group(outputs)
    block = SymbolBlock(
        symbol, mx.sym.var("data", dtype="float32"), params=net.collect_params()
    )
    start_values(block, symbol, image_size(net), seed=seed)
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


def map_widths(net: SSD) -> tuple[int, ...]:
    """Return the channels of each map that the predictors read."""
    return tuple(shape[1] for shape in _map_shapes(net))


def map_anchors(
    net: SSD, taps: Sequence[str] | None = None, *, stride: int = 1
) -> Anchors:
    """Return the anchors of a detector, with the cells of its maps they belong to."""
    maps = tuple(
        (height, width, generator.num_depth)
        for generator, (_, _, height, width) in zip(
            net.anchor_generators, _map_shapes(net)
        )
    )
    numbers = None if taps is None else tap_numbers(net, taps)
    boxes, stds = anchors_of(net).asnumpy()[0], config_of(net).stds
    return Anchors(boxes, maps, stds, numbers, stride)


def _map_shapes(net: SSD) -> list[tuple[int, ...]]:
    size = image_size(net)
    maps = mx.sym.Group(map_symbols(raw_head(net)))
    return maps.infer_shape(data=(1, 3, size, size))[1]


def check_teacher(student: SSD, teacher: SSD) -> None:
    """Refuse a teacher whose outputs mean something else than the student's.

    Raises
    ------
    ValueError
        Naming the first of ``ALIKE`` that differs, and both values.
    """
    own, other = (vars(config_of(net)) for net in (student, teacher))
    for name, words in ALIKE.items():
        if own[name] != other[name]:
            raise ValueError(
                f"{words}: the teacher has {other[name]}, the student {own[name]}; a "
                "teacher needs the student's classes and anchors"
            )


def initialize(net: SSD, *, seed: int = 0, ctx: mx.Context | None = None) -> None:
    """Give every parameter of an SSD its starting value, the same for one seed."""
    size = image_size(net)
    head = raw_head(net)
    block = SymbolBlock(
        head, mx.sym.var("data", dtype="float32"), params=net.collect_params()
    )
    start_values(block, head, size, seed=seed, ctx=ctx)


def from_head(symbol: mx.sym.Symbol, params: dict, config: SSDConfig) -> SSD:
    """Return the SSD whose raw head is ``symbol`` with ``params``.

    Parameters
    ----------
    symbol : Symbol
        Class scores and box deltas, as ``raw_head`` gives them.
    params : dict of str to NDArray
        Values of all parameters and running statistics.
    config : SSDConfig
        ``extras`` and ``predictor_kernel`` are not used: they are in the symbol.

    Raises
    ------
    ValueError
        If the symbol does not end in one class and one box predictor per map, or they
        are not made for these classes and anchors.
    """
    nodes = json.loads(symbol.tojson())
    heads = [entry[0] for entry in nodes["heads"]]
    class_convs, box_convs = (_predictors(nodes["nodes"], head) for head in heads[:2])
    if not len(class_convs) == len(box_convs) == len(config.ratios):
        raise ValueError(
            f"the symbol has {len(class_convs)} class and {len(box_convs)} box "
            f"predictors; the anchors are for {len(config.ratios)} maps"
        )
    features = SymbolBlock(map_symbols(symbol), mx.sym.var("data", dtype="float32"))
    kernel = attribute(class_convs[0]["attrs"], "kernel", config.predictor_kernel)
    net = ssd_around(features, replace(config, predictor_kernel=kernel))
    _fill(features.collect_params(), params)
    for blocks, convs in (
        (net.class_predictors, class_convs),
        (net.box_predictors, box_convs),
    ):
        for number, (block, conv) in enumerate(zip(blocks, convs)):
            _check_width(block, conv, f"map{number}")
            names = [nodes["nodes"][i[0]]["name"] for i in conv["inputs"][1:]]
            for parameter, name in zip(block.predictor.params.values(), names):
                _set(parameter, params[name])
    return net


def _check_width(block, conv: dict, name: str) -> None:
    """Refuse a predictor that is not made for these classes and anchors."""
    found = attribute(conv["attrs"], "num_filter", 0)
    wanted = block.predictor._kwargs["num_filter"]
    if found != wanted:
        raise ValueError(
            f"{conv['name']} of {name} gives {found} channels; the classes and anchors "
            f"need {wanted}"
        )


def with_classes(net: SSD, classes: Sequence[str], *, seed: int = 0) -> SSD:
    """Return a detector of other classes on the same trunk, branches and box deltas.

    Parameters
    ----------
    net : gluoncv.model_zoo.SSD
        Initialised, slim or not; left as it is.
    classes : sequence of str
    seed : int
        Decides the starting values of the class predictors, all of which are new.

    Raises
    ------
    ValueError
        If the classes are not distinct names.
    """
    symbol, params = pair_of(net)
    features = SymbolBlock(map_symbols(symbol), mx.sym.var("data", dtype="float32"))
    made = ssd_around(features, replace(config_of(net), classes=class_names(classes)))
    _fill(features.collect_params(), params)
    for own, kept in zip(made.box_predictors, net.box_predictors):
        pairs = zip(own.predictor.params.values(), kept.predictor.params.values())
        for parameter, value in pairs:
            _set(parameter, value.data().as_in_context(mx.cpu()))
    initialize(made, seed=seed)
    return made


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


def _input_shape(net: SSD) -> tuple[int, int, int, int]:
    size = image_size(net)
    return (1, 3, size, size)


# What tracing and slimming need to know about this kind of net.
ADAPTER = NetAdapter(
    raw_head,
    lambda net, symbol, params: from_head(symbol, params, config_of(net)),
    _input_shape,
)
