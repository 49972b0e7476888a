"""A classifier of few layers, and the SSD on it, for recipes to name.

Both are built, pruned and stored as a MobileNet is; less is computed.
"""

from __future__ import annotations

import mxnet as mx
from gluoncv.model_zoo.model_zoo import _models
from mxnet.gluon import nn

from gluon_compress.models.backbones import BACKBONES, find_taps
from gluon_compress.models.ssd.config import NARROW
from gluon_compress.models.ssd.family import MODELS

NAME, DETECTOR = "tiny", "ssd_300_tiny"
MAPS = (64, 96, 128)  # channels at strides 8, 16 and 32


class Tiny(nn.HybridBlock):
    """A convolution, and for each halving of the map a depthwise and a 1x1 one."""

    def __init__(self, classes: int = 1000, prefix: str | None = None) -> None:
        super().__init__(prefix=prefix)
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            self._add(8, 3, strides=4, padding=1, in_channels=3)
            width = 8
            for channels in MAPS:
                depthwise = {"groups": width, "in_channels": width}
                self._add(width, 3, strides=2, padding=1, **depthwise)
                self._add(channels, 1, in_channels=width)
                width = channels
            self.features.add(nn.GlobalAvgPool2D(), nn.Flatten())
            self.output = nn.Dense(classes, in_units=width)

    def _add(self, channels: int, kernel: int, **how) -> None:
        self.features.add(
            nn.Conv2D(channels, kernel, use_bias=False, **how),
            nn.BatchNorm(in_channels=channels),
            nn.Activation("relu"),
        )

    def hybrid_forward(self, F, x):
        return self.output(self.features(x))


def tiny(pretrained: bool = False, classes: int = 1000) -> Tiny:
    """Return the classifier, as GluonCV's functions return theirs."""
    return Tiny(classes)


def tiny_backbone() -> tuple[Tiny, list[mx.sym.Symbol]]:
    """Return the classifier and its maps."""
    net = Tiny(prefix="tiny_")
    return net, find_taps(net(mx.sym.var("data")))


def register(monkeypatch) -> None:
    """Let both be built by name."""
    monkeypatch.setitem(_models, NAME, tiny)
    monkeypatch.setitem(BACKBONES, NAME, tiny_backbone)
    monkeypatch.setitem(MODELS, DETECTOR, (NAME, NARROW))
