"""Backbones: classifiers, and where a detector reads its feature maps from them.

A backbone is a classifier and its *taps*, symbols at strides 8, 16 and 32. Recipes,
files and parameters of public functions call it ``trunk``. A pruned classifier is only
a symbol, so its taps are found by structure: at each stride the last tensor that
everything behind it is computed from.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Callable, Mapping, Sequence

import mxnet as mx
from gluoncv import model_zoo
from mxnet.gluon import HybridBlock

from gluon_compress.graph import block_of
from gluon_compress.graph.symbols import infer_shapes, shapes_of
from gluon_compress.model_folder import MANIFEST, load_symbol, read_manifest
from gluon_compress.models.res2netlite import VARIANTS, res2netlite
from gluon_compress.validation import wrong

CLASSIFIER = "classifier"  # the kind of folders that backbones are taken from
STRIDES = (8, 16, 32)
_SIDE = 256  # a multiple of every stride, so that no size is rounded

RESNETS = (
    *(f"resnet{depth}_v1b" for depth in (18, 34, 50, 101, 152)),
    *(f"resnet{depth}_v1{form}" for depth in (50, 101, 152) for form in "cds"),
    # GluonCV's own pruned ones, by the share of the parameters that is left.
    *("resnet18_v1b_0.89", "resnet101_v1d_0.76", "resnet101_v1d_0.73"),
    *(f"resnet50_v1d_{share}" for share in ("0.86", "0.48", "0.37", "0.11")),
)
MOBILENETS = tuple(f"mobilenet{width}" for width in ("1.0", "0.75", "0.5", "0.25"))


def resnet_backbone(name: str) -> tuple[mx.gluon.HybridBlock, list[mx.sym.Symbol]]:
    """Return a GluonCV ResNet v1b/c/d/s and its taps on the symbol ``data``.

    Parameters
    ----------
    name : str
        A name of GluonCV's model zoo whose net has ``layer1`` to ``layer4``,
        for instance ``resnet50_v1d`` or ``resnet18_v1b``.

    Returns
    -------
    net : HybridBlock
        The classifier, not initialised; its dense layer is not part of the taps.
    taps : list of Symbol
        The outputs of stages 2, 3 and 4, at strides 8, 16 and 32.

    Notes
    -----
    ``last_gamma`` starts every bottleneck as the identity (Goyal et al. 2017, section
    5.1), without which ResNet-50 hardly trains from scratch on a few hundred images.
    GluonCV's basic blocks (ResNet-18 and 34) do not know it.
    """
    net = model_zoo.get_model(name, pretrained=False, last_gamma=True)
    x = net.maxpool(net.relu(net.bn1(net.conv1(mx.sym.var("data")))))
    stage2 = net.layer2(net.layer1(x))
    stage3 = net.layer3(stage2)
    return net, [stage2, stage3, net.layer4(stage3)]


def mobilenet_backbone(name: str) -> tuple[mx.gluon.HybridBlock, list[mx.sym.Symbol]]:
    """Return a GluonCV MobileNet v1 and its taps on the symbol ``data``.

    Parameters
    ----------
    name : str
        ``mobilenet1.0``, ``mobilenet0.75``, ``mobilenet0.5`` or ``mobilenet0.25``.

    Returns
    -------
    net : HybridBlock
        The classifier, not initialised.
    taps : list of Symbol
        The last activations at strides 8, 16 and 32 (256, 512 and 1,024 channels
        for ``mobilenet1.0``).
    """
    # A prefix of our own keeps counters of this process out of all names.
    net = model_zoo.get_model(name, pretrained=False, prefix="mobilenet_")
    # The network ends in global pooling and flatten, which a detector has no use for.
    layers = list(net.features)[:-2]
    x, last_at = mx.sym.var("data"), {}
    stride = 1
    for layer in layers:
        x = layer(x)
        if isinstance(layer, mx.gluon.nn.Conv2D):
            stride *= layer._kwargs["stride"][0]
        last_at[stride] = x
    return net, [last_at[stride] for stride in STRIDES]


def res2netlite_backbone(name: str) -> tuple[HybridBlock, list[mx.sym.Symbol]]:
    """Return a Res2NetLite72 and the outputs of its stages, on the symbol ``data``.

    Parameters
    ----------
    name : str
        One of ``res2netlite.VARIANTS``.
    """
    net = res2netlite(name)
    return net, find_taps(net(mx.sym.var("data")))


BACKBONES: dict[str, Callable] = {
    **{name: partial(resnet_backbone, name) for name in RESNETS},
    **{name: partial(mobilenet_backbone, name) for name in MOBILENETS},
    **{name: partial(res2netlite_backbone, name) for name in VARIANTS},
}


def classifier_backbone(
    symbol: mx.sym.Symbol, params: Mapping[str, mx.nd.NDArray]
) -> tuple[HybridBlock, list[mx.sym.Symbol]]:
    """Return any classifier, given as a symbol, as a backbone with its weights.

    Parameters
    ----------
    symbol : Symbol
        With one image input, in any state of pruning.
    params : mapping
        Its parameters and running statistics.

    Returns
    -------
    net : SymbolBlock
        With the given values.
    taps : list of Symbol
        The last tensors at strides 8, 16 and 32 that are cut points of the graph;
        in a ResNet the outputs of stages 2, 3 and 4.

    Raises
    ------
    ValueError
        If there is no such tensor at one of the strides.
    """
    symbol = _of_data(symbol, params)
    taps = find_taps(symbol, shapes_of(params))
    return block_of(mx.sym.Group(taps), params), taps


def stored_classifier(
    folder: str | os.PathLike,
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return a classifier's export as a symbol of ``data``, and its values.

    Raises
    ------
    ValueError
        If the folder holds another kind of net, or none.
    """
    # What ``export`` alone wrote need not state its kind.
    kind = read_manifest(folder).get("kind", CLASSIFIER)
    if kind != CLASSIFIER:
        raise wrong(f"{Path(folder) / MANIFEST}: kind", kind, repr(CLASSIFIER))
    symbol, params = load_symbol(folder)
    return _of_data(symbol, params), params


def _of_data(symbol: mx.sym.Symbol, params: Mapping) -> mx.sym.Symbol:
    """Return a symbol whose one input is ``data``."""
    inputs = [n for n in symbol.list_arguments() if n not in params]
    if len(inputs) != 1:
        raise ValueError(
            f"a backbone has one input, the image; this one needs {inputs}"
        )
    if inputs[0] == "data":
        return symbol
    return symbol(**{inputs[0]: mx.sym.var("data")})


def stored_backbone(
    folder: str | os.PathLike,
) -> tuple[HybridBlock, list[mx.sym.Symbol]]:
    """Return a classifier's export, pruned or not, as a backbone with its weights.

    Raises
    ------
    ValueError
        As ``stored_classifier`` and ``classifier_backbone``.
    """
    return classifier_backbone(*stored_classifier(folder))


def find_taps(
    symbol: mx.sym.Symbol,
    shapes: Mapping[str, tuple] = MappingProxyType({}),
    strides: Sequence[int] = STRIDES,
) -> list[mx.sym.Symbol]:
    """Return the last cut point of the graph at each stride.

    Parameters
    ----------
    symbol : Symbol
        Of the input ``data``.
    shapes : mapping
        Those of its parameters that are known.
    strides : sequence of int

    Raises
    ------
    ValueError
        If there is none at one of them.
    """
    last = taps_by_stride(symbol, shapes)
    missing = [s for s in strides if s not in last]
    if missing:
        raise ValueError(f"this classifier has no tensor at stride {missing[0]} to tap")
    return [last[stride] for stride in strides]


def taps_by_stride(
    symbol: mx.sym.Symbol, shapes: Mapping[str, tuple] = MappingProxyType({})
) -> dict[int, mx.sym.Symbol]:
    """Return the last cut point of the graph at each stride that it has one at.

    Parameters are those of ``find_taps``. Layers at the end that are made for images of
    one size are not looked at.
    """
    internals, points = symbol.get_internals(), _cut_points(symbol)
    given = {**shapes, "data": (1, 3, _SIDE, _SIDE)}
    for end in reversed(points):
        part = internals[end].get_internals()
        with suppress(ValueError):
            _, maps = infer_shapes(part, given)
            shape_of = dict(zip(part.list_outputs(), maps))
            last = {
                _SIDE // shape_of[name][-1]: name
                for name in points
                if len(shape_of.get(name, ())) == 4
            }
            return {stride: internals[name] for stride, name in last.items()}
    return {}


def _cut_points(symbol: mx.sym.Symbol) -> list[str]:
    """Return the outputs that everything behind them is computed from, in order."""
    stored = json.loads(symbol.tojson())
    nodes = stored["nodes"]
    operators = [i for i, node in enumerate(nodes) if node["op"] != "null"]
    last_use = dict.fromkeys(range(len(nodes)), -1)
    for i in operators:
        for entry in nodes[i]["inputs"]:
            last_use[entry[0]] = i
    for head in stored["heads"]:  # what only one of several outputs needs is none
        last_use[head[0]] = len(nodes)
    points, reach = [], -1
    for i in operators:
        if reach <= i:  # nothing before is used behind
            points.append(nodes[i]["name"] + "_output")
        reach = max(reach, last_use[i])
    return points
