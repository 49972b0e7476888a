"""Detectors as edge runtimes take them, and these runtimes as predictors.

``fold`` and ``head`` make the graph that ships, ``formats`` writes it for each of the
``runtimes``, ``deploy`` puts a checked folder together, and a ``Predictor`` detects
with it: ``inputs`` before its runtime, ``boxes`` behind.
"""

from gluon_compress.deployment.deploying import deploy
from gluon_compress.deployment.fold import fold
from gluon_compress.deployment.formats import FORMATS
from gluon_compress.deployment.graph import head_graph, whole_graph
from gluon_compress.deployment.postprocess import (
    Decoding,
    corner_boxes,
    detections,
    nms,
)
from gluon_compress.deployment.predictor import Predictor
from gluon_compress.deployment.preprocess import as_rgb, prepared, read_inputs
from gluon_compress.deployment.runtimes import RUNTIMES, fused

__all__ = [
    "FORMATS",
    "RUNTIMES",
    "Decoding",
    "Predictor",
    "as_rgb",
    "corner_boxes",
    "deploy",
    "detections",
    "fold",
    "fused",
    "head_graph",
    "nms",
    "prepared",
    "read_inputs",
    "whole_graph",
]
