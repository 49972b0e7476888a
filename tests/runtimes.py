"""Which formats can be written here, and a detector and a classifier to write."""

from __future__ import annotations

import importlib.util

import mxnet as mx
import numpy as np

from gluon_compress.deployment import FORMATS
from gluon_compress.graph.symbols import infer_shapes
from gluon_compress.models.centernet.layers import convolution
from gluon_compress.models.classifier import ClassifierConfig
from gluon_compress.models.extra_stages import EXTRAS
from gluon_compress.models.family import FAMILIES
from gluon_compress.models.ssd.config import LITE, SSDConfig

CLASSES = ("blue", "green", "red")
SIZE, ANCHORS = (300, 480), 2952  # of detectors that are not square
NEEDS = {
    "onnx": ("onnx", "onnxruntime"),
    "onnx-dynamic": ("onnx", "onnxruntime"),
    "onnx-int8": ("onnx", "onnxruntime"),
    "onnx-int4": ("onnx", "onnxruntime"),
    "web": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "ncnn": ("onnx", "ncnn", "pnnx"),
    "ncnn-int8": ("onnx", "ncnn", "pnnx"),
}


def missing(name: str) -> list[str]:
    return [m for m in NEEDS.get(name, ()) if importlib.util.find_spec(m) is None]


INSTALLED = [name for name in FORMATS if not missing(name)]
EVERY = [name for name in INSTALLED if not FORMATS[name].needs_quantisers]


def detector(classes=CLASSES, *, size=300):
    """Return an SSD of few layers whose BatchNorm does something; scores are apart.

    It has the anchors of the classic MobileNet-SSD.
    """
    x = convolution(mx.sym.var("data"), 32, "trunk0", kernel=3, stride=4)
    x = convolution(x, 32, "trunk1", kernel=3, stride=2, depthwise=True)
    x = convolution(x, 64, "trunk2")
    maps = [convolution(x, 64, "trunk3", kernel=3, stride=2)]
    x = convolution(maps[0], 64, "trunk4", kernel=3, stride=2, depthwise=True)
    maps.append(convolution(x, 64, "trunk5"))
    for i in range(4):
        name = f"{EXTRAS}{i}"
        maps.append(convolution(maps[-1], 32, name, kernel=3, stride=2))
    heads = [
        predictions(maps, f"{kind}_predictor", length)
        for kind, length in (("class", len(classes) + 1), ("box", 4))
    ]
    config = SSDConfig(classes, size, **{**LITE, "extras": ()})
    symbol = mx.sym.Group(heads)
    return FAMILIES["ssd"].from_symbol(symbol, values_of(symbol, config.size), config)


def predictions(maps, name: str, length: int):
    """Return numbers of all anchors of all maps, ``(B, A, length)``."""
    parts = []
    for i, (x, ratios) in enumerate(zip(maps, LITE["ratios"])):
        anchors = len(ratios) + (i > 0)
        x = mx.sym.Convolution(
            x, num_filter=anchors * length, kernel=(1, 1), name=f"{name}{i}"
        )
        parts.append(mx.sym.flatten(mx.sym.transpose(x, axes=(0, 2, 3, 1))))
    return mx.sym.reshape(mx.sym.concat(*parts, dim=1), shape=(0, -1, length))


def classifier(size=(32, 48)):
    """Return a classifier of few layers, of an input that is not square."""
    x = convolution(mx.sym.var("data"), 32, "stem", kernel=3, stride=2)
    y = convolution(x, 32, "first", kernel=3)
    x = mx.sym.relu(x + convolution(y, 32, "second", kernel=3, relu=False))
    x = convolution(x, 32, "third")
    x = mx.sym.Pooling(x, global_pool=True, kernel=(1, 1), pool_type="avg")
    x = mx.sym.flatten(x)
    symbol = mx.sym.FullyConnected(x, num_hidden=len(CLASSES), name="dense")
    config = ClassifierConfig(CLASSES, size)
    params = values_of(symbol, config.size)
    return FAMILIES["classifier"].from_symbol(symbol, params, config)


def values_of(symbol, size) -> dict:
    """Return random values of a net's parameters."""
    shapes, _ = infer_shapes(symbol, {"data": (1, 3, *size)})
    random, params = np.random.RandomState(0), {}
    for name, shape in shapes.items():
        if name.endswith(("gamma", "var")):
            value = random.uniform(0.5, 1.5, shape)
        elif name.endswith(("beta", "mean")):
            value = random.normal(0, 0.3, shape)
        elif name.endswith("bias"):
            value = np.zeros(shape)
        elif name.startswith("box"):  # boxes are about as large as their anchors
            value = random.normal(0, 0.05, shape)
        else:
            value = random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        params[name] = mx.nd.array(value)
    del params["data"]
    return params
