"""Turns the outputs of nets into results: boxes, or classes with probabilities.

A model's manifest states its postprocess by kind and settings, so that Gluon, every
edge runtime and evaluation decode in the same way. To add a kind, write a class with
the interface of ``Postprocess`` and add it to ``POSTPROCESS``. It may use NumPy and
OpenCV only.
"""

from __future__ import annotations

from gluon_compress.postprocess.base import Postprocess, boxes_in_images, decoded
from gluon_compress.postprocess.centernet import CenterNetPostprocess
from gluon_compress.postprocess.rcnn import RCNNPostprocess
from gluon_compress.postprocess.refinedet import RefineDetPostprocess
from gluon_compress.postprocess.softmax import SoftmaxPostprocess
from gluon_compress.postprocess.ssd import SSDPostprocess

POSTPROCESS = {
    cls.kind: cls
    for cls in (
        SSDPostprocess,
        RefineDetPostprocess,
        RCNNPostprocess,
        CenterNetPostprocess,
        SoftmaxPostprocess,
    )
}

__all__ = [
    "POSTPROCESS",
    "CenterNetPostprocess",
    "Postprocess",
    "RCNNPostprocess",
    "RefineDetPostprocess",
    "SSDPostprocess",
    "SoftmaxPostprocess",
    "boxes_in_images",
    "decoded",
]
