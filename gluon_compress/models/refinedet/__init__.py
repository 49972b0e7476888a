"""RefineDetLite: configuration, building, training and manifest."""

from __future__ import annotations

from gluon_compress.models.refinedet.config import RefineDetConfig
from gluon_compress.models.refinedet.training import RefineDetLoss, RefineDetTargets

__all__ = ["RefineDetConfig", "RefineDetLoss", "RefineDetTargets"]
