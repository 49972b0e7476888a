"""The nets this package builds by name, and the folder form they are kept in.

A detector's folder is an export of its raw head: symbol, parameters and a manifest
that states what the head does not hold (classes, anchors, decode and NMS constants).
"""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Callable, Mapping, Sequence

import mxnet as mx
from gluoncv.model_zoo.ssd import SSD
from mxnet.gluon import HybridBlock

from gluon_compress.checks import class_names
from gluon_compress.cost import count
from gluon_compress.data import MEAN, STD
from gluon_compress.graph import Graph, register_adapter, trace
from gluon_compress.model_folder import (
    MANIFEST,
    export,
    load_symbol,
    read_manifest,
)
from gluon_compress.models import head, ssd
from gluon_compress.models.classifier import KIND
from gluon_compress.models.manifest import stated_config
from gluon_compress.models.mobilenet import mobilenet_trunk
from gluon_compress.models.resnet import resnet_trunk
from gluon_compress.models.ssd import VOC_CLASSES, SSDConfig, image_size
from gluon_compress.models.trunk import classifier_trunk
from gluon_compress.plan import delete
from gluon_compress.prune import slim

register_adapter(SSD, head.ADAPTER)

ANCHORS = ("size", "sizes", "ratios", "steps", "lite")  # what a manifest says of them

RESNETS = (
    *(f"resnet{depth}_v1b" for depth in (18, 34, 50, 101, 152)),
    *(f"resnet{depth}_v1{form}" for depth in (50, 101, 152) for form in "cds"),
    # GluonCV's own pruned ones, by the share of the parameters that is left.
    *("resnet18_v1b_0.89", "resnet101_v1d_0.76", "resnet101_v1d_0.73"),
    *(f"resnet50_v1d_{share}" for share in ("0.86", "0.48", "0.37", "0.11")),
)
MOBILENETS = tuple(f"mobilenet{width}" for width in ("1.0", "0.75", "0.5", "0.25"))

TRUNKS: dict[str, Callable] = {
    **{name: partial(resnet_trunk, name) for name in RESNETS},
    **{name: partial(mobilenet_trunk, name) for name in MOBILENETS},
}
# A trunk and what its detector's SSDConfig has other than usual.
MODELS: dict[str, tuple[Callable, dict]] = {
    **{f"ssd_300_{name}": (TRUNKS[name], {}) for name in RESNETS},
    **{f"ssd_300_{name}": (TRUNKS[name], ssd.NARROW) for name in MOBILENETS},
    **{f"ssd_300_{name}_lite": (TRUNKS[name], ssd.LITE) for name in MOBILENETS},
}


def build(
    name: str,
    classes: Sequence[str] = VOC_CLASSES,
    *,
    width: float = 1.0,
    trunk: str | os.PathLike | None = None,
    seed: int = 0,
    **config,
) -> SSD:
    """Return an unpretrained detector by name, with its parameters at their start.

    Parameters
    ----------
    name : str
        One of ``MODELS``: ``ssd_300_resnet50_v1d``, ``ssd_300_mobilenet1.0``, and
        ``ssd_300_mobilenet1.0_lite``, the classic MobileNet-SSD, for instance.
    classes : sequence of str
        Foreground classes.
    width : float
        Share of the channels of every layer, in (0, 1], for nets that learn in
        minutes. Which channels is of no interest before training, so a trunk that
        has learnt is not narrowed: ``width`` is 1 then.
    trunk : path, optional
        Folder of a classifier's export to take the trunk from, with its weights;
        pruned or not.
    seed : int
        Decides the starting values.
    **config
        Fields of ``SSDConfig``, where they are to be others than the model's own:
        ``size``, ``sizes``, ``ratios``, ``steps``, ``extras``, ...

    Returns
    -------
    gluoncv.model_zoo.SSD

    Raises
    ------
    ValueError
        For an unknown name or field, a value out of its range, or classes that are
        not distinct names.
    """
    if name not in MODELS:
        raise ValueError(f"model {name!r}; allowed: {', '.join(sorted(MODELS))}")
    known = {f.name for f in fields(SSDConfig)} - {"classes"}
    unknown = sorted(set(config) - known)
    if unknown:
        allowed = ", ".join(sorted(known))
        raise ValueError(f"model option {unknown[0]!r}; allowed: {allowed}")
    if not 0 < width <= 1:
        raise ValueError(f"width {width!r} of {name}; allowed: above 0 to 1")
    if trunk is not None and width != 1:
        raise ValueError(f"width {width!r} of {name}; allowed with a trunk: 1")
    make_trunk, usual = MODELS[name]
    classes = class_names(classes)
    made = make_trunk() if trunk is None else load_trunk(trunk)
    net = ssd.build_ssd(made, SSDConfig(classes, **{**usual, **config}))
    head.initialize(net, seed=seed)
    return net if width == 1 else _narrow(net, width)


def trunk_of(name: str) -> str:
    """Return GluonCV's name of the classifier that one of ``MODELS`` stands on."""
    return next(n for n in TRUNKS if name in (f"ssd_300_{n}", f"ssd_300_{n}_lite"))


def _narrow(net: SSD, width: float) -> SSD:
    how = {"multiple": 1, "minimum": 1}  # a thin net has every layer all the same
    plan = delete(trace_head(net), {"*": width}, "random", **how)
    return slim(net, plan)


def trace_head(net: SSD) -> Graph:
    """Return the graph of a detector's raw head at its own image size."""
    size = image_size(net)
    return trace(net, shape=(1, 3, size, size))


def size_of(net: SSD) -> dict:
    """Return MACs, FLOPs, parameters and bytes of a detector's raw head."""
    return count(trace_head(net)).figures()


def load_trunk(folder: str | os.PathLike) -> tuple[HybridBlock, list[mx.sym.Symbol]]:
    """Return a classifier's export as a trunk: the block and its three taps.

    Raises
    ------
    ValueError
        If the folder holds the export of a detector, or a file of it is broken.
    """
    if "kind" in read_manifest(folder):  # those of ``export`` need not have one
        read_manifest(folder, KIND)
    return classifier_trunk(*load_symbol(folder))


def save(net: SSD, folder: str | os.PathLike, name: str) -> dict:
    """Write a detector as an export of its raw head, for ``load`` and edge runtimes.

    Parameters
    ----------
    net : gluoncv.model_zoo.SSD
    folder : path
        As in ``gluon_compress.model_folder``.
    name : str
        Of the files.

    Returns
    -------
    dict
        The manifest.
    """
    size = image_size(net)
    return export(net, folder, name, shape=(1, 3, size, size), info=manifest_info(net))


def manifest_info(net: SSD) -> dict:
    """Return what a manifest states about a detector beside its head."""
    config = asdict(ssd.config_of(net))
    return {
        "kind": "ssd",
        "outputs": ["class_scores", "box_deltas"],
        "classes": list(config["classes"]),
        "mean": list(MEAN),
        "std": list(STD),
        "anchors": {k: config[k] for k in ANCHORS},
        "decode": {"stds": config["stds"]},
        "nms": {k: config[k] for k in ("nms_thresh", "nms_topk", "post_nms")},
    }


def load(folder: str | os.PathLike) -> SSD:
    """Return the detector that ``save`` wrote.

    Raises
    ------
    ValueError
        If the folder holds no detector's export, or a file of it is broken.
    """
    manifest = read_manifest(folder, "ssd")
    head_and_values = load_symbol(folder)
    try:
        return from_manifest(manifest, *head_and_values)
    except ValueError as error:
        raise ValueError(f"{Path(folder) / MANIFEST}: {error}") from None


def from_manifest(
    manifest: Mapping, symbol: mx.sym.Symbol, params: Mapping[str, mx.nd.NDArray]
) -> SSD:
    """Return the detector of a raw head, as ``manifest_info`` described it.

    Raises
    ------
    ValueError
        Naming a key of the manifest that is missing or unknown, its value and what is
        allowed, or what does not fit the head.
    """
    return head.from_head(symbol, params, stated_config(manifest))
