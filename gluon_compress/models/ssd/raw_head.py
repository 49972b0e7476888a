"""The raw head of an SSD: what is trained, pruned and exported, and the way back.

The *raw head* is the symbol with two outputs, class scores ``(B, A, C + 1)`` and box
deltas ``(B, A, 4)``; decode and NMS are not in it. Pruning works on it, and
``from_raw_head`` turns what pruning returns into a ``gluoncv.model_zoo.SSD`` again,
so whatever is written for GluonCV's SSD works on a slim one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Mapping, Sequence

import mxnet as mx
from gluoncv.model_zoo.ssd import SSD
from mxnet import autograd
from mxnet.gluon import SymbolBlock
from mxnet.gluon.nn import HybridSequential

from gluon_compress.graph import give_value, pair_of
from gluon_compress.graph.context import attribute
from gluon_compress.graph.symbols import (
    infer_shapes,
    put_together,
    shapes_of,
    take_apart,
)
from gluon_compress.models.extra_stages import EXTRAS
from gluon_compress.models.initialize import initialize
from gluon_compress.models.ssd.build import config_of, ssd_around
from gluon_compress.models.ssd.config import SSDConfig
from gluon_compress.models.ssd.predictors import AnnotatedPredictor, find_predictors
from gluon_compress.validation import class_names

OUTPUTS = ("class_scores", "box_deltas")


def raw_head(net: SSD) -> mx.sym.Symbol:
    """Return the symbol of class scores and box deltas of a GluonCV SSD."""
    with autograd.train_mode():
        scores, deltas, _ = net(mx.sym.var("data"))
    return mx.sym.Group([scores, deltas])


def map_symbols(head: mx.sym.Symbol) -> list[mx.sym.Symbol]:
    """Return the feature maps that the predictors of a raw head read: its taps."""
    nodes, heads = take_apart(head)
    maps = [predictor.features for predictor in find_predictors(nodes, heads[0])]
    return list(put_together(nodes, maps))


def backbone_parameters(head: mx.sym.Symbol) -> set[str]:
    """Return the names of all parameters that a raw head has from its classifier."""
    maps = mx.sym.Group(map_symbols(head))
    names = {*maps.list_arguments(), *maps.list_auxiliary_states()} - {"data"}
    return {name for name in names if not name.startswith(EXTRAS)}


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


def map_widths(net: SSD) -> tuple[int, ...]:
    """Return the channels of each map that the predictors read."""
    return tuple(shape[1] for shape in map_shapes(net))


def map_shapes(net: SSD) -> list[tuple[int, ...]]:
    """Return the shape of each map, ``(1, K, H, W)``."""
    maps = mx.sym.Group(list(net.features(mx.sym.var("data"))))
    stated = shapes_of({p.name: p for p in net.collect_params().values()})
    return infer_shapes(maps, {**stated, "data": (1, 3, *config_of(net).size)})[1]


def initialize_head(net: SSD, *, seed: int = 0, ctx: mx.Context | None = None) -> None:
    """Give every parameter of an SSD its initial value, the same for one seed."""
    symbol = raw_head(net)
    block = SymbolBlock(
        symbol, mx.sym.var("data", dtype="float32"), params=net.collect_params()
    )
    initialize(block, symbol, config_of(net).size, seed=seed, ctx=ctx)


def from_raw_head(symbol: mx.sym.Symbol, params: Mapping, config: SSDConfig) -> SSD:
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
    nodes, heads = take_apart(symbol)
    scorers, locators = (find_predictors(nodes, head) for head in heads[:2])
    if not len(scorers) == len(locators) == len(config.ratios):
        raise ValueError(
            f"the symbol has {len(scorers)} class and {len(locators)} box "
            f"predictors; the anchors are for {len(config.ratios)} maps"
        )
    features = SymbolBlock(map_symbols(symbol), mx.sym.var("data", dtype="float32"))
    kernel = attribute(scorers[0].layer["attrs"], "kernel", config.predictor_kernel)
    net = ssd_around(features, replace(config, predictor_kernel=kernel))
    _fill(features.collect_params(), params)
    net.class_predictors = _filled(net.class_predictors, scorers, params)
    net.box_predictors = _filled(net.box_predictors, locators, params)
    return net


def _filled(blocks: HybridSequential, predictors: Sequence, params: Mapping) -> Any:
    """Return predictors with their values, and with annotations where there are any."""
    result = HybridSequential(prefix=blocks.prefix)
    for number, (block, nodes) in enumerate(zip(blocks, predictors)):
        _check_width(block, nodes.layer, f"map{number}")
        for parameter, name in zip(block.predictor.params.values(), nodes.parameters):
            give_value(parameter, params[name])
        if nodes.annotated:
            block = AnnotatedPredictor(block.predictor, nodes, params)
        result.add(block)
    return result


def _check_width(block, conv: dict, name: str) -> None:
    """Refuse a predictor that is not made for these classes and anchors."""
    channels = attribute(conv["attrs"], "num_filter", 0)
    expected = block.predictor._kwargs["num_filter"]
    if channels != expected:
        raise ValueError(
            f"{conv['name']} of {name} gives {channels} channels; the classes and "
            f"anchors need {expected}"
        )


def with_classes(net: SSD, classes: Sequence[str], *, seed: int = 0) -> SSD:
    """Return a detector of other classes with the same features and box predictors.

    Parameters
    ----------
    net : gluoncv.model_zoo.SSD
        Initialised, slim or not; left as it is.
    classes : sequence of str
    seed : int
        Decides the initial values of the class predictors, all of which are new.

    Raises
    ------
    ValueError
        If the classes are not distinct names.
    """
    symbol, params = pair_of(net)
    features = SymbolBlock(map_symbols(symbol), mx.sym.var("data", dtype="float32"))
    result = ssd_around(features, replace(config_of(net), classes=class_names(classes)))
    _fill(features.collect_params(), params)
    nodes, heads = take_apart(symbol)
    locators = find_predictors(nodes, heads[1])
    result.box_predictors = _filled(result.box_predictors, locators, params)
    initialize_head(result, seed=seed)
    return result


def _fill(parameters, values: Mapping) -> None:
    for name, parameter in parameters.items():
        give_value(parameter, values[name])
