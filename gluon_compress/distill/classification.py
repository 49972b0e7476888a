"""Distillation losses of classifiers."""

from __future__ import annotations

from gluon_compress import checks as c
from gluon_compress.checks import key, section
from gluon_compress.distill import losses
from gluon_compress.distill.registry import Array, DistillationLoss, Pair

SCORES = "class_scores"  # (B, C)


@section
class SoftTargetSettings:
    """Settings of ``soft_targets``.

    Parameters
    ----------
    temperature : float
        Divides both nets' scores.
    """

    temperature: float = key(c.number(0, above=True), 2.0)


def _soft_targets(pair: Pair, settings: SoftTargetSettings) -> Array:
    scores = pair.student[SCORES], pair.teacher[SCORES]
    return losses.soft_target_loss(*scores, settings.temperature)


CLASSIFICATION_LOSSES = {
    "soft_targets": DistillationLoss(
        _soft_targets, (SCORES,), Config=SoftTargetSettings, kind="classifier"
    )
}
