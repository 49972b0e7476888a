"""Which formats can be written here, and a detector to write."""

from __future__ import annotations

import importlib.util

import mxnet as mx
import numpy as np

from gluon_compress import build
from gluon_compress.deployment import FORMATS

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


def detector(**options):
    """Return a small detector whose BatchNorm does something; its scores are apart."""
    made = build("ssd_300_mobilenet0.25_lite", CLASSES, width=0.5, **options)
    random = np.random.RandomState(0)
    for name, parameter in made.collect_params().items():
        if name.endswith(("gamma", "var")):
            value = random.uniform(0.5, 1.5, parameter.shape)
        elif name.endswith(("beta", "mean")):
            value = random.normal(0, 0.3, parameter.shape)
        elif "predictor" in name and name.endswith("weight"):
            value = random.normal(0, 0.2, parameter.shape)
        else:
            continue
        parameter.set_data(mx.nd.array(value))
    return made


def classifier(size=(32, 48)):
    """Return a small classifier of an input that is not square."""
    made = build("cifar_resnet20_v1", CLASSES, size=size)
    random = np.random.RandomState(0)
    for name, parameter in made.collect_params().items():
        if name.endswith(("gamma", "var")):
            value = random.uniform(0.5, 1.5, parameter.shape)
            parameter.set_data(mx.nd.array(value))
    return made
