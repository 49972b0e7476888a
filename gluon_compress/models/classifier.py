"""Classifiers by GluonCV's names, and the folder form they are kept in.

A classifier's folder is an export whose manifest states its classes and its images; a
detector takes its trunk from it (``build(..., trunk=folder)``).
"""

from __future__ import annotations

import os
from inspect import signature
from typing import Any, Callable, Sequence

import mxnet as mx
from gluoncv.model_zoo.model_zoo import _models
from gluoncv.model_zoo.resnetv1b import ResNetV1b
from mxnet import autograd
from mxnet.gluon import HybridBlock, SymbolBlock, nn

from gluon_compress.checks import class_names
from gluon_compress.data import MEAN, STD
from gluon_compress.distill import soft_target_loss
from gluon_compress.graph import block_of, pair_of, symbol_of
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.model_folder import export, load_symbol, read_manifest
from gluon_compress.models.initialize import completed, start_values

KIND = "classifier"


def build_classifier(
    name: str, classes: Sequence[str], *, size: int = 224, seed: int = 0
) -> HybridBlock:
    """Return a classifier of GluonCV's zoo with its parameters at their start.

    Parameters
    ----------
    name : str
        As GluonCV's ``get_model`` takes it.
    classes : sequence of str
    size : int
        Height and width of the images, pixels.
    seed : int
        Decides the starting values.

    Returns
    -------
    HybridBlock
        Images ``(B, 3, size, size)`` to scores ``(B, classes)``.

    Raises
    ------
    ValueError
        For a name GluonCV does not have, a net that is no classifier, or classes that
        are not distinct names.

    Notes
    -----
    Residual blocks that can start as the identity do so (Goyal et al. 2017, section
    5.1), as in GluonCV's own training of ImageNet.
    """
    classes = class_names(classes)
    net = _get(name, len(classes))
    try:
        symbol = symbol_of(net)
        start_values(net, symbol, size, seed=seed)
        _, shapes, _ = symbol.infer_shape(data=(1, 3, size, size))
    except (mx.MXNetError, ValueError) as error:
        gist = str(error).splitlines()[0]
        raise ValueError(f"{name} at {size} pixels: {gist}") from None
    if shapes != [(1, len(classes))]:
        raise ValueError(f"{name} gives {shapes}; allowed: one score for each class")
    return _for_images(net, size)


def _for_images(net: HybridBlock, size: int) -> Any:
    """Let a net state the shape of its input."""
    net.input_shape = (1, 3, size, size)
    return net


def _get(name: str, classes: int) -> HybridBlock:
    make = _models.get(name.lower())
    # Nets that know of a base are detectors and the like, and would fetch it.
    if make is not None and "pretrained_base" not in signature(make).parameters:
        for extra in ({"last_gamma": True}, {}):  # not every net knows it
            try:
                net = make(pretrained=False, classes=classes, **extra)
            except (TypeError, Warning):  # Darknet raises a Warning
                continue
            return _with_classes(net, classes)
    allowed = "classifiers of GluonCV, as resnet50_v1d or mobilenet1.0"
    raise ValueError(f"model {name!r}; allowed: {allowed}")


def _with_classes(net: HybridBlock, classes: int) -> HybridBlock:
    """Give GluonCV's pruned ResNets, whose widths come from a file, other classes."""
    if isinstance(net, ResNetV1b) and net.fc.weight.shape[0] != classes:
        with net.name_scope():
            net.fc = nn.Dense(classes, in_units=net.fc.weight.shape[1])
    return net


def step_loss(net: HybridBlock, batch: Sequence) -> tuple[mx.nd.NDArray, dict]:
    """Return the cross-entropy with target probabilities ``(B, C)``, for ``fit``."""
    images, targets = batch
    return _cross_entropy(net(images), targets), {}


def _cross_entropy(scores: mx.nd.NDArray, targets: mx.nd.NDArray) -> mx.nd.NDArray:
    return -(mx.nd.log_softmax(scores, axis=1) * targets).sum(axis=1).mean()


def taught_step(teacher: Callable, *, weight: float, temperature: float) -> Callable:
    """Return the step loss of a student: ``step_loss`` plus what the teacher adds.

    Parameters
    ----------
    teacher : callable
        Images to scores ``(B, C)``; called once a batch, in inference form.
    weight : float
        Of ``distill.soft_target_loss``.
    temperature : float
    """

    def step(net: HybridBlock, batch: Sequence) -> tuple[mx.nd.NDArray, dict]:
        images, targets = batch
        with autograd.pause():
            wanted = teacher(images)
        scores = net(images)
        soft = soft_target_loss(scores, wanted, temperature)
        labels = _cross_entropy(scores, targets)
        return labels + weight * soft, {"labels": labels, "soft_targets": soft}

    return step


def save_classifier(
    net: Any, folder: str | os.PathLike, name: str, *, classes: Sequence[str], size: int
) -> dict:
    """Write a classifier as an export; return the manifest."""
    info = {"kind": KIND, "classes": list(classes), "mean": list(MEAN)}
    info = {**info, "std": list(STD), "size": size, "outputs": ["class_scores"]}
    return export(net, folder, name, shape=(1, 3, size, size), info=info)


def load_classifier(folder: str | os.PathLike) -> tuple[SymbolBlock, dict]:
    """Return the classifier that ``save_classifier`` wrote, and its manifest.

    Raises
    ------
    ValueError
        If the folder holds no classifier's export, or a file of it is broken.
    """
    manifest = read_manifest(folder, KIND)
    net = block_of(*load_symbol(folder))
    return _for_images(net, manifest["size"]), manifest


def with_classes(
    net: Any, classes: Sequence[str], *, size: int = 224, seed: int = 0
) -> SymbolBlock:
    """Return a classifier of other classes on the same features.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Initialised, slim or not; left as it is.
    classes : sequence of str
    size : int
        Height and width of the images, pixels.
    seed : int
        Decides the starting values of the last layer, which is new.

    Raises
    ------
    ValueError
        If the classes are not distinct names, or the last layer cannot be found.
    """
    classes = class_names(classes)
    symbol, params = pair_of(net)
    nodes, heads = take_apart(symbol)
    last = _last_layer(nodes, heads)
    width = {"FullyConnected": "num_hidden", "Convolution": "num_filter"}[last["op"]]
    last["attrs"] = {**last["attrs"], width: str(len(classes))}
    new = [nodes[entry[0]] for entry in last["inputs"][1:]]
    for variable in new:  # what is stated there are the shapes of before
        variable["attrs"] = {}
    symbol, names = put_together(nodes, heads), {node["name"] for node in new}
    kept = {name: value for name, value in params.items() if name not in names}
    return _for_images(block_of(symbol, completed(symbol, kept, size, seed=seed)), size)


def feature_parameters(symbol: mx.sym.Symbol) -> set[str]:
    """Return the names of all parameters but those of the last layer."""
    nodes, heads = take_apart(symbol)
    last = {nodes[e[0]]["name"] for e in _last_layer(nodes, heads)["inputs"]}
    return {*symbol.list_arguments(), *symbol.list_auxiliary_states()} - last


def _last_layer(nodes: list[dict], heads: Sequence) -> dict:
    """Return the layer whose outputs are the scores."""
    node = nodes[heads[0][0]]
    while node["op"] not in ("FullyConnected", "Convolution"):
        if node["op"] == "null":
            raise ValueError("the net ends in no dense layer or convolution")
        node = nodes[node["inputs"][0][0]]
    return node
