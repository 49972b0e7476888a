"""SSD: configuration, building, raw head, fast NMS, training and manifest."""

from __future__ import annotations

from gluon_compress.models.anchor_fit import AnchorLayout, fit_anchors
from gluon_compress.models.anchor_grid import AnchorGrid
from gluon_compress.models.ssd.anchors import anchor_grid, anchors_of
from gluon_compress.models.ssd.build import build_ssd, config_of, ssd_around
from gluon_compress.models.ssd.config import VOC_CLASSES, SSDConfig
from gluon_compress.models.ssd.training import SSDTargets, ssd_loss

__all__ = [
    "VOC_CLASSES",
    "AnchorGrid",
    "AnchorLayout",
    "SSDConfig",
    "SSDTargets",
    "anchor_grid",
    "anchors_of",
    "build_ssd",
    "config_of",
    "fit_anchors",
    "ssd_around",
    "ssd_loss",
]
