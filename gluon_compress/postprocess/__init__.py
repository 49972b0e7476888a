"""From what a net gives to what a user wants: boxes, or classes with probabilities.

A postprocess is stated in the manifest of a model by its kind and settings, so that
Gluon, every edge runtime and evaluation decode alike. ``POSTPROCESS`` has one row a
kind; a new kind is a class like ``Postprocess`` and its row. NumPy and OpenCV suffice.
"""

from gluon_compress.postprocess.base import Postprocess, boxes_in_images
from gluon_compress.postprocess.softmax import SoftmaxPostprocess
from gluon_compress.postprocess.ssd import SSDPostprocess

POSTPROCESS = {cls.kind: cls for cls in (SSDPostprocess, SoftmaxPostprocess)}

__all__ = [
    "POSTPROCESS",
    "Postprocess",
    "SSDPostprocess",
    "SoftmaxPostprocess",
    "boxes_in_images",
]
