"""The nets: a trunk, a neck that enlarges its map eight times, and three heads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Sequence

import mxnet as mx
from gluoncv.model_zoo.center_net.deconv_resnet import BilinearUpSample
from mxnet.gluon import SymbolBlock

from gluon_compress.graph.deformable import DEFAULT_BOUND, deformable, initial_values
from gluon_compress.graph.symbols import infer_shapes, shapes_of
from gluon_compress.models.backbones import BACKBONES
from gluon_compress.models.centernet.config import TRUNK_STRIDE, CenterNetConfig
from gluon_compress.models.centernet.layers import convolution, norm
from gluon_compress.models.centernet.shufflenet import shufflenet_v2
from gluon_compress.models.initialize import initialize

NECK = (256, 128, 64)  # channels of the maps at strides 16, 8 and 4
HEAD_WIDTH = 64
HEAT_BIAS = -2.19  # the logit of 0.1: how likely a centre is before training
HEADS = ("heat", "size", "offset")

# The block whose parameters a trunk has, if it is one, and the map at stride 32.
Trunk = tuple


@dataclass(frozen=True)
class Structure:
    """A net by name.

    Parameters
    ----------
    trunk : callable
        ``trunk() -> Trunk``, from the variable ``data``.
    neck : callable
        ``neck(map, channels, **settings) -> map`` at stride 4.
    head : callable
        ``head(map, width, name) -> map`` with so many channels.
    size : int
        Pixels a side of its usual input.
    backbone : str, optional
        GluonCV's name of the trunk as a classifier.
    settings : tuple of str
        What the neck takes.
    """

    trunk: Callable[[], Trunk]
    neck: Callable[..., mx.sym.Symbol]
    head: Callable[[mx.sym.Symbol, int, str], mx.sym.Symbol]
    size: int = 512
    backbone: str | None = None
    settings: Sequence[str] = ()


def build_net(
    structure: Structure,
    config: CenterNetConfig,
    *,
    trunk: Trunk | None = None,
    seed: int = 0,
    **settings: Any,
) -> SymbolBlock:
    """Return a block from images to heat map, sizes and offsets, with first values.

    Parameters that have a value keep it. The others start as in other nets, but: taps
    start where an ordinary convolution has them, heat at ``HEAT_BIAS``, sizes and
    offsets near 0, and transposed convolutions interpolate.

    Parameters
    ----------
    structure : Structure
    config : CenterNetConfig
    trunk : Trunk, optional
        In place of the structure's own.
    seed : int
        Decides the initial values.
    **settings
        Of the neck.
    """
    block, x = structure.trunk() if trunk is None else trunk
    params = None if block is None else block.collect_params()
    x = structure.neck(x, _channels(x, params), **settings)
    widths = (len(config.classes), 2, 2)
    heads = zip(HEADS, widths)
    symbol = mx.sym.Group([structure.head(x, w, f"head_{name}") for name, w in heads])
    net = SymbolBlock(symbol, mx.sym.var("data", dtype="float32"), params=params)
    missing = [n for n, p in net.collect_params().items() if p._data is None]
    initialize(net, symbol, config.size, seed=seed)
    for name in missing:
        _set_first_value(net.collect_params()[name])
    return net


def _channels(x: mx.sym.Symbol, params: Any) -> int:
    side = 2 * TRUNK_STRIDE
    stated = {} if params is None else shapes_of({p.name: p for p in params.values()})
    return infer_shapes(x, {**stated, "data": (1, 3, side, side)})[1][0][1]


def _set_first_value(parameter: mx.gluon.Parameter) -> None:
    """Set the value of a parameter that starts otherwise than in other nets."""
    name, value = parameter.name, parameter.data()
    special = initial_values(name, value.shape)
    if special is not None:
        parameter.set_data(special)
    elif name == "head_heat_out_bias":
        parameter.set_data(mx.nd.full(value.shape, HEAT_BIAS))
    elif name.startswith(("head_size_out", "head_offset_out")):
        parameter.set_data(0.1 * value)
    elif name.endswith("_up_weight"):
        BilinearUpSample()(mx.init.InitDesc(name), value)
        parameter.set_data(value)


# CoDeNet.


def codenet_neck(
    x: mx.sym.Symbol,
    channels: int,
    *,
    rung: str = "depthwise",
    bound: int = DEFAULT_BOUND,
) -> mx.sym.Symbol:
    """Return the map at stride 4: deformable convolutions, each enlarged by nearest."""
    for i, width in enumerate(NECK):
        name = f"neck{i}"
        x = deformable(x, channels, width, name, rung=rung, bound=bound)
        x = norm(x, name)
        x = mx.sym.UpSampling(x, scale=2, sample_type="nearest", name=f"{name}_up")
        channels = width
    return x


def codenet_head(x: mx.sym.Symbol, width: int, name: str) -> mx.sym.Symbol:
    """Return the maps of a head: 1 x 1, depthwise 3 x 3, and 1 x 1 with a bias."""
    x = convolution(x, HEAD_WIDTH, f"{name}_point")
    x = convolution(x, HEAD_WIDTH, f"{name}_depth", kernel=3, depthwise=True)
    return mx.sym.Convolution(x, num_filter=width, kernel=(1, 1), name=f"{name}_out")


def _codenet(width: int, size: int, *, pool: bool) -> Structure:
    def trunk() -> Trunk:
        return None, shufflenet_v2(mx.sym.var("data"), width, pool=pool)

    settings = ("rung", "bound")
    return Structure(trunk, codenet_neck, codenet_head, size, settings=settings)


# CenterNet as GluonCV has it.


def _trunk(name: str) -> Trunk:
    net, taps = BACKBONES[name]()
    return net, taps[-1]


def transposed_neck(x: mx.sym.Symbol, channels: int) -> mx.sym.Symbol:
    """Return the map at stride 4: convolutions, each enlarged by a transposed one."""
    for i, width in enumerate(NECK):
        name = f"neck{i}"
        x = mx.sym.Convolution(
            x, num_filter=width, kernel=(3, 3), pad=(1, 1), name=f"{name}_conv"
        )
        x = norm(x, name)
        x = mx.sym.Deconvolution(
            x,
            num_filter=width,
            kernel=(4, 4),
            stride=(2, 2),
            pad=(1, 1),
            no_bias=True,
            name=f"{name}_up",
        )
        x = norm(x, f"{name}_enlarged")
    return x


def two_layer_head(x: mx.sym.Symbol, width: int, name: str) -> mx.sym.Symbol:
    """Return the maps of a head: 3 x 3, and 1 x 1 with a bias."""
    x = mx.sym.Convolution(
        x, num_filter=HEAD_WIDTH, kernel=(3, 3), pad=(1, 1), name=f"{name}_conv"
    )
    x = mx.sym.Activation(x, act_type="relu", name=f"{name}_relu")
    return mx.sym.Convolution(x, num_filter=width, kernel=(1, 1), name=f"{name}_out")


def _centernet(name: str) -> Structure:
    trunk = partial(_trunk, name)
    return Structure(trunk, transposed_neck, two_layer_head, backbone=name)


STRUCTURES: dict[str, Structure] = {
    **{f"center_net_{name}": _centernet(name) for name in BACKBONES},
    # Width, pixels a side and form of the stem, as published.
    "codenet_a": _codenet(1, 256, pool=False),
    "codenet_b": _codenet(1, 256, pool=True),
    "codenet_c": _codenet(1, 512, pool=False),
    "codenet_d": _codenet(2, 512, pool=False),
    "codenet_e": _codenet(2, 512, pool=True),
}
