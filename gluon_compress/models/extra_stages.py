"""Extra stages: smaller maps behind a backbone's last tap, for large objects."""

from __future__ import annotations

from typing import Any, Sequence

import mxnet as mx

EXTRAS = "expand_"  # prefix of the names of all parameters of extra stages


def with_extras(
    taps: Sequence[mx.sym.Symbol], widths: Sequence[int], *, to_one_cell: bool = False
) -> list[mx.sym.Symbol]:
    """Append one 1x1 transition and one 3x3 convolution per width to the taps.

    Parameters
    ----------
    taps : sequence of Symbol
        Maps, the smallest last.
    widths : sequence of int
        Channels of each stage. Each halves the map.
    to_one_cell : bool
        The last stage takes the 3x3 map to 1x1 without padding, which gives SSD-300's
        classic 38, 19, 10, 5, 3, 1. Else it halves, too.
    """
    y, outputs = taps[-1], list(taps)
    for i, width in enumerate(widths):
        y = conv_bn_relu(y, width // 2, f"{EXTRAS}trans_{{}}{i}")
        last = i == len(widths) - 1 and to_one_cell
        step = {} if last else {"pad": (1, 1), "stride": (2, 2)}
        y = conv_bn_relu(y, width, f"{EXTRAS}{{}}{i}", kernel=(3, 3), **step)
        outputs.append(y)
    return outputs


def conv_bn(x: mx.sym.Symbol, width: int, name: str, **conv: Any) -> mx.sym.Symbol:
    """Return a convolution, 1x1 unless stated, and BatchNorm.

    ``name`` has a place ``{}`` for the kind of layer.
    """
    conv = {"kernel": (1, 1), **conv}
    x = mx.sym.Convolution(
        x, num_filter=width, no_bias=True, name=name.format("conv"), **conv
    )
    return mx.sym.BatchNorm(x, fix_gamma=False, name=name.format("bn"))


def conv_bn_relu(x: mx.sym.Symbol, width: int, name: str, **conv: Any) -> mx.sym.Symbol:
    """Return ``conv_bn`` and ReLU."""
    x = conv_bn(x, width, name, **conv)
    return mx.sym.Activation(x, act_type="relu", name=name.format("relu"))
