"""Layers as symbols, named after what they are for."""

from __future__ import annotations

import mxnet as mx


def convolution(
    x: mx.sym.Symbol,
    width: int,
    name: str,
    *,
    kernel: int = 1,
    stride: int = 1,
    depthwise: bool = False,
    relu: bool = True,
) -> mx.sym.Symbol:
    """Return a convolution without bias, BatchNorm and, if wanted, a ReLU.

    Parameters
    ----------
    x : Symbol
    width : int
        Channels of the output; with ``depthwise`` also those of the input.
    name : str
        Beginning of the names of the three.
    kernel, stride : int
        Both odd sides of the kernel, and the step; the map is padded by zeros.
    depthwise : bool
        Whether each channel has a filter of its own.
    relu : bool
    """
    x = mx.sym.Convolution(
        x,
        num_filter=width,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        pad=(kernel // 2, kernel // 2),
        num_group=width if depthwise else 1,
        no_bias=True,
        name=f"{name}_conv",
    )
    return norm(x, name, relu=relu)


def norm(x: mx.sym.Symbol, name: str, *, relu: bool = True) -> mx.sym.Symbol:
    """Return a BatchNorm and, if wanted, a ReLU."""
    x = mx.sym.BatchNorm(x, fix_gamma=False, eps=1e-5, name=f"{name}_bn")
    return mx.sym.Activation(x, act_type="relu", name=f"{name}_relu") if relu else x
