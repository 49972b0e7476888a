"""Masks of single weights and fake quantisers, as tests write them into nets."""

from __future__ import annotations

import mxnet as mx
import numpy as np

from gluon_compress.graph import AnnotationParameter, NewAnnotation
from gluon_compress.graph.annotations import FAKE_QUANT, WEIGHT_MASK


def weight_mask(value: np.ndarray) -> NewAnnotation:
    parameter = AnnotationParameter(mx.nd.array(value), tuple(range(value.ndim)))
    build = lambda x, mask: mx.sym.broadcast_mul(x, mask)  # noqa: E731
    return NewAnnotation(WEIGHT_MASK, build, {"mask": parameter})


def quantize(x, scale):
    """Round to multiples of a scale in int8's range, with a straight-through slope."""
    steps = mx.sym.clip(mx.sym.round(mx.sym.broadcast_div(x, scale)), -127, 127)
    error = mx.sym.broadcast_mul(steps, scale) - x
    return x + mx.sym.BlockGrad(error)


def fake_quant(scales: np.ndarray, axis: int | None) -> NewAnnotation:
    axes = () if axis is None else (axis,)
    scale = AnnotationParameter(mx.nd.array(scales), axes, trained=True)
    return NewAnnotation(FAKE_QUANT, quantize, {"scale": scale})
