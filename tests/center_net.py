"""A detector without anchors of a few layers, with deformable convolutions."""

from __future__ import annotations

import mxnet as mx
import numpy as np

from gluon_compress.graph.deformable import deformable, initial_values
from gluon_compress.graph.symbols import infer_shapes
from gluon_compress.models.centernet.build import codenet_head
from gluon_compress.models.centernet.config import CenterNetConfig
from gluon_compress.models.centernet.layers import convolution, norm
from gluon_compress.models.family import FAMILIES

CLASSES, SIZE = ("blue", "green", "red"), (32, 64)


def small_detector(rung: str = "depthwise", *, bound: int = 2, **config):
    """Return a net whose taps reach over the border, and whose scores are apart."""
    x = convolution(mx.sym.var("data"), 8, "trunk_stem", kernel=3, stride=4)
    x = norm(deformable(x, 8, 16, "neck0", rung=rung, bound=bound), "neck0")
    x = mx.sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max")
    x = mx.sym.UpSampling(x, scale=2, sample_type="nearest")
    heads = (("heat", len(CLASSES)), ("size", 2), ("offset", 2))
    symbol = mx.sym.Group([codenet_head(x, w, f"head_{name}") for name, w in heads])
    size = config.pop("size", SIZE)
    shapes, _ = infer_shapes(symbol, {"data": (1, 3, *size)})
    random, params = np.random.RandomState(0), {}
    for name, shape in shapes.items():
        value = random.randn(*shape) / np.sqrt(max(np.prod(shape[1:]), 1))
        if name.endswith(("gamma", "var")):
            value = random.uniform(0.5, 1.5, shape)
        elif initial_values(name, shape) is not None:
            value = 0.7 * random.randn(*shape)
        params[name] = mx.nd.array(value)
    del params["data"]
    config = CenterNetConfig(CLASSES, size, **{"peaks": 20, **config})
    return FAMILIES["centernet"].from_symbol(symbol, params, config)
