"""Res2NetLite72: the light classifier that RefineDetLite stands on.

Chen et al. 2020 name it and publish no code. Implementations by others read the paper
in three ways, and each is a variant here. All have a stem of 32 channels at stride 4,
and three stages of 288, 576 and 1,152 channels: a bottleneck that halves the map, and
then 3, 7 and 3 Res2 blocks (Gao et al. 2019). These split channels in four; each part
but the first goes through a 3x3 convolution with what the one before gave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mxnet.gluon import HybridBlock, nn

WIDTHS, BLOCKS, PARTS = (288, 576, 1152), (3, 7, 3), 4


@dataclass(frozen=True)
class Variant:
    """How blocks are read.

    Parameters
    ----------
    squeeze : int
        Res2 blocks work on this share of the channels: one of so many.
    groups : int
        Of 3x3 convolutions in Res2 blocks; 0: one for each channel.
    bottleneck_groups : int
        Of the 3x3 convolution between stages, which works on a quarter of the channels;
        0: one for each channel.
    bound : float or None
        Where activations are cut off: 6 for ReLU6.
    """

    squeeze: int = 4
    groups: int = 0
    bottleneck_groups: int = 0
    bound: float | None = None


VARIANTS = {
    "res2netlite72": Variant(),
    "res2netlite72_wide": Variant(squeeze=1, groups=2, bottleneck_groups=2),
    "res2netlite72_dense": Variant(groups=1, bottleneck_groups=2, bound=6.0),
}


class _Bounded(HybridBlock):
    """ReLU that is cut off."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return F.clip(x, 0, self.bound)


def _activation(variant: Variant) -> HybridBlock:
    return nn.Activation("relu") if variant.bound is None else _Bounded(variant.bound)


def _unit(
    out: int,
    kernel: int = 1,
    *,
    act: HybridBlock | None = None,
    gamma: str = "ones",
    **conv: Any,
) -> nn.HybridSequential:
    """Return a convolution, BatchNorm and an activation."""
    unit = nn.HybridSequential(prefix="")
    unit.add(
        nn.Conv2D(out, kernel, padding=kernel // 2, use_bias=False, **conv),
        nn.BatchNorm(gamma_initializer=gamma),
    )
    if act is not None:
        unit.add(act)
    return unit


class Res2Block(HybridBlock):
    """A residual block whose channels see maps of several scales.

    ``y_1 = x_1``, ``y_2 = conv(x_2)``, ``y_i = conv(x_i + y_(i-1))`` (Gao et al. 2019,
    equation 1). It starts as the identity, as GluonCV's ResNets do.
    """

    def __init__(self, channels: int, variant: Variant) -> None:
        super().__init__()
        part = channels // variant.squeeze // PARTS
        groups = variant.groups or part
        with self.name_scope():
            self.squeeze = _unit(part * PARTS, act=_activation(variant))
            self.convs = nn.HybridSequential(prefix="")
            for _ in range(PARTS - 1):
                act = _activation(variant)
                self.convs.add(_unit(part, 3, groups=groups, act=act))
            self.expand = _unit(channels, gamma="zeros")
            self.act = _activation(variant)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return a map of the same shape."""
        first, *others = F.split(self.squeeze(x), num_outputs=PARTS, axis=1)
        parts = [first, self.convs[0](others[0])]
        for conv, part in zip(list(self.convs)[1:], others[1:]):
            parts.append(conv(part + parts[-1]))
        return self.act(x + self.expand(F.concat(*parts, dim=1)))


class Res2NetLite(HybridBlock):
    """A Res2NetLite72 by its variant.

    Parameters
    ----------
    variant : Variant
    classes : int
    """

    def __init__(self, variant: Variant, classes: int = 1000) -> None:
        super().__init__(prefix="res2netlite_")
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            self.features.add(
                _unit(32, 3, strides=2, act=_activation(variant)),
                nn.MaxPool2D(3, 2, 1),
            )
            for channels, blocks in zip(WIDTHS, BLOCKS):
                self.features.add(_bottleneck(channels, variant))
                for _ in range(blocks):
                    self.features.add(Res2Block(channels, variant))
            self.features.add(nn.GlobalAvgPool2D(), nn.Flatten())
            self.output = nn.Dense(classes, in_units=WIDTHS[-1])

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return scores ``(B, classes)``."""
        return self.output(self.features(x))


def _bottleneck(channels: int, variant: Variant) -> HybridBlock:
    """Return 1x1, 3x3 of stride 2 and 1x1 convolutions, without a shortcut."""
    inside = channels // 4
    groups = variant.bottleneck_groups or inside
    block = nn.HybridSequential(prefix="")
    block.add(
        _unit(inside, act=_activation(variant)),
        _unit(inside, 3, strides=2, groups=groups, act=_activation(variant)),
        _unit(channels, act=_activation(variant)),
    )
    return block


def res2netlite(name: str, classes: int = 1000) -> Res2NetLite:
    """Return a Res2NetLite72 by the name of its variant, not initialised."""
    return Res2NetLite(VARIANTS[name], classes)
