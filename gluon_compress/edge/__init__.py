"""Detectors as edge runtimes take them, and these runtimes as predictors.

``fold`` and ``head`` make the graph that ships, ``formats`` writes it for each of the
``runtimes``, ``deploy`` puts a checked folder together, and a ``Predictor`` detects
with it: ``inputs`` before its runtime, ``boxes`` behind.
"""

from gluon_compress.edge.boxes import Decoding, corner_boxes, detections, nms
from gluon_compress.edge.deploy import deploy
from gluon_compress.edge.fold import fold
from gluon_compress.edge.formats import FORMATS
from gluon_compress.edge.head import head_graph, whole_graph
from gluon_compress.edge.inputs import as_rgb, prepared, read_inputs
from gluon_compress.edge.predictors import Predictor
from gluon_compress.edge.runtimes import RUNTIMES, fused

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
