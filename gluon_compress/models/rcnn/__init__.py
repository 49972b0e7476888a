"""Two-stage detectors: Faster R-CNN and Mask R-CNN with a feature pyramid."""

from __future__ import annotations

from gluon_compress.models.rcnn.config import RCNNConfig

__all__ = ["RCNNConfig"]
