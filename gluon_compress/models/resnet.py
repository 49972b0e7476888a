"""ResNet trunks: where a ResNet's three detector taps are."""

from __future__ import annotations

import mxnet as mx
from gluoncv import model_zoo


def resnet_trunk(name: str) -> tuple[mx.gluon.HybridBlock, list[mx.sym.Symbol]]:
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
