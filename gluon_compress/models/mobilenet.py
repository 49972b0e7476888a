"""MobileNet v1 trunks, the paper's baseline: where the three detector taps are."""

from __future__ import annotations

import mxnet as mx
from gluoncv import model_zoo

STRIDES = (8, 16, 32)


def mobilenet_trunk(name: str) -> tuple[mx.gluon.HybridBlock, list[mx.sym.Symbol]]:
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
