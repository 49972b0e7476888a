"""Distillation losses of classifiers."""

from __future__ import annotations

from gluon_compress.distill import losses
from gluon_compress.distill.registry import Array, DistillationLoss, Pair
from gluon_compress.validation import Positive, Settings

SCORES = "class_scores"  # (B, C)


class SoftTargetLossSettings(Settings):
    """Settings of ``soft_targets``.

    Parameters
    ----------
    temperature : float
        Divides both nets' scores.
    """

    temperature: Positive = 2.0


def _soft_targets(pair: Pair, settings: SoftTargetLossSettings) -> Array:
    scores = pair.student[SCORES], pair.teacher[SCORES]
    return losses.soft_target_loss(*scores, settings.temperature)


CLASSIFICATION_LOSSES = {
    "soft_targets": DistillationLoss(
        _soft_targets, (SCORES,), Config=SoftTargetLossSettings, kind="classifier"
    )
}
