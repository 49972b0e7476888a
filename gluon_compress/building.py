"""``build``: an untrained net by name, at a share of its usual width if asked for."""

from __future__ import annotations

from typing import Any, Sequence

from mxnet.gluon import HybridBlock

from gluon_compress import models
from gluon_compress.plan import delete
from gluon_compress.prune import slim


def build(
    name: str,
    classes: Sequence[str] = models.VOC_CLASSES,
    *,
    width: float = 1.0,
    seed: int = 0,
    **config: Any,
) -> HybridBlock:
    """Return an untrained net by name, with initialised parameters.

    Parameters
    ----------
    name : str
        A model of any family: ``ssd_300_resnet50_v1d``, ``ssd_300_mobilenet1.0``,
        ``ssd_300_mobilenet1.0_lite`` (the classic MobileNet-SSD),
        ``refinedetlite_320``, or a classifier by GluonCV's name.
    classes : sequence of str
        Of a detector, its foreground classes.
    width : float
        Share of the channels of every layer, in (0, 1], for toy nets that train in
        minutes. Which channels does not matter before training; a ``trunk`` that has
        been trained is not narrowed, so ``width`` must be 1 with one.
    seed : int
        Decides the initial values.
    **config
        Settings of the family: ``size``, a number or (height, width), for all; others
        as the ``build`` of the family takes them. Of a detector on a backbone,
        ``trunk``, a folder of a classifier's export, gives it with its weights.

    Returns
    -------
    HybridBlock
        Of one of ``models.FAMILIES``.

    Raises
    ------
    ValueError
        For an unknown name or setting, a value that is not allowed, or classes that
        are not distinct names.
    """
    if not 0 < width <= 1:
        raise ValueError(f"width {width!r} of {name}; allowed: above 0 to 1")
    if config.get("trunk") is not None and width != 1:
        raise ValueError(f"width {width!r} of {name}; allowed with a trunk: 1")
    net = models.build(name, classes, seed=seed, **config)
    return net if width == 1 else narrow(net, width)


def narrow(net: HybridBlock, width: float) -> HybridBlock:
    """Return a net with a share of the channels of every layer, chosen at random."""
    graph = models.graph_of(net)
    plan = delete(graph, {"*": width}, "random", multiple=1, minimum=1)
    return slim(net, plan, graph=graph)
