"""What a student learns from a teacher, as losses that see named outputs of both.

``step`` lists the losses by name and adds them to a base loss; ``ssd``, ``centernet``,
``classification`` and ``features`` hold their rows, ``losses`` and ``ssd_losses`` the
equations. ``ssd_ensemble`` makes one teacher of several.
"""

from gluon_compress.distill.centernet import center_box_loss, heat_map_loss
from gluon_compress.distill.losses import (
    channel_loss,
    feature_loss,
    hint_loss,
    soft_target_loss,
)
from gluon_compress.distill.registry import DistillationLoss, Pair
from gluon_compress.distill.ssd_ensemble import ssd_ensemble
from gluon_compress.distill.ssd_imitation import imitation_masks
from gluon_compress.distill.ssd_losses import (
    bounded_box_loss,
    box_loss,
    imitation_loss,
    score_loss,
    weighted_score_loss,
)
from gluon_compress.distill.step import LOSSES, distil_step, losses_of, needs_taps

__all__ = [
    "LOSSES",
    "DistillationLoss",
    "Pair",
    "bounded_box_loss",
    "box_loss",
    "center_box_loss",
    "channel_loss",
    "distil_step",
    "feature_loss",
    "heat_map_loss",
    "hint_loss",
    "imitation_loss",
    "imitation_masks",
    "losses_of",
    "needs_taps",
    "score_loss",
    "soft_target_loss",
    "ssd_ensemble",
    "weighted_score_loss",
]
