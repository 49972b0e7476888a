"""What a student learns from a teacher: scores, boxes and feature taps.

A student and a teacher here are blocks whose outputs are class scores
``(B, A, C + 1)``, box deltas ``(B, A, 4)`` and then any number of taps
``(B, K, H, W)``, in the same order and with the same shapes.
"""

from gluon_compress.distill.adapters import adapt, strides, thin
from gluon_compress.distill.imitation_mask import Anchors, near_objects
from gluon_compress.distill.losses import (
    bounded_box_loss,
    box_loss,
    channel_loss,
    feature_loss,
    hint_loss,
    imitation_loss,
    score_loss,
    soft_target_loss,
    weighted_score_loss,
)
from gluon_compress.distill.step import (
    LOSSES,
    ON_TAPS,
    Settings,
    distil_step,
    needs_taps,
)

__all__ = [
    "LOSSES",
    "ON_TAPS",
    "Anchors",
    "Settings",
    "adapt",
    "bounded_box_loss",
    "box_loss",
    "channel_loss",
    "distil_step",
    "feature_loss",
    "hint_loss",
    "imitation_loss",
    "near_objects",
    "needs_taps",
    "score_loss",
    "soft_target_loss",
    "strides",
    "thin",
    "weighted_score_loss",
]
