"""The nets this package builds by name, and the families they belong to.

``family`` lists the kinds of nets; ``base`` says what each answers. ``ssd`` and
``classifier`` are two of them, on ``backbones``. ``saving`` keeps nets in folders.
"""

from __future__ import annotations

import difflib
from typing import Any, Sequence

from mxnet.gluon import HybridBlock

from gluon_compress.cost import count
from gluon_compress.graph import Graph, trace
from gluon_compress.models.family import (
    FAMILIES,
    Family,
    family_named,
    family_of,
    family_that_builds,
    models_for,
)
from gluon_compress.models.named import NamedBlock, named, supervised_step
from gluon_compress.models.saving import load, save
from gluon_compress.models.ssd.config import VOC_CLASSES, SSDConfig

__all__ = [
    "FAMILIES",
    "VOC_CLASSES",
    "Family",
    "NamedBlock",
    "SSDConfig",
    "build",
    "cost_of",
    "family_named",
    "family_of",
    "family_that_builds",
    "graph_of",
    "input_size",
    "load",
    "models_for",
    "named",
    "save",
    "supervised_step",
    "with_classes",
]


def build(
    name: str, classes: Sequence[str] = VOC_CLASSES, *, seed: int = 0, **config: Any
) -> HybridBlock:
    """Return an untrained net by name, initialised by ``seed``.

    Parameters
    ----------
    name : str
        A model of any family: ``ssd_300_resnet50_v1d``, ``ssd_300_mobilenet1.0_lite``
        (the classic MobileNet-SSD), or a classifier by GluonCV's name.
    classes : sequence of str
    seed : int
        Decides the initial values.
    **config
        Settings of the family: ``size`` for all, others as its ``build`` takes them.

    Raises
    ------
    ValueError
        For an unknown name or setting, a value that is not allowed, or classes that
        are not distinct names.
    """
    family = family_that_builds(name)
    if family is None:
        names = sorted(models_for("detection"))
        nearest = difflib.get_close_matches(str(name), names, n=3, cutoff=0)
        raise ValueError(
            f"model {name!r}; allowed: classifiers of GluonCV and detectors such as "
            f"{', '.join(nearest)}"
        )
    return family.build(name, classes, seed=seed, **config)


def input_size(net: HybridBlock) -> tuple[int, int]:
    """Return height and width of a net's input, pixels."""
    return family_of(net).input_size(net)


def graph_of(net: HybridBlock) -> Graph:
    """Return the graph of a net at its own input size."""
    return trace(net, shape=(1, 3, *input_size(net)))


def cost_of(net: HybridBlock) -> dict:
    """Return MACs, FLOPs, parameters and bytes of a net at its own input size."""
    return count(graph_of(net)).figures()


def with_classes(
    net: HybridBlock, classes: Sequence[str], *, seed: int = 0
) -> HybridBlock:
    """Return a net of other classes on the same features; ``net`` stays as it is."""
    return family_of(net).with_classes(net, classes, seed=seed)
