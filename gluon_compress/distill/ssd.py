"""Distillation losses of SSDs: on class scores, box deltas, and cells near objects."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from mxnet import nd

from gluon_compress.distill import ssd_losses as losses
from gluon_compress.distill.registry import Array, DistillationLoss, Pair
from gluon_compress.distill.ssd_imitation import imitation_masks
from gluon_compress.validation import NonNegative, Positive, Settings, Share

SCORES = "class_scores"  # (B, A, C + 1), class 0 is the background
DELTAS = "box_deltas"  # (B, A, 4)
OUTPUTS = (SCORES, DELTAS)


class ScoreSettings(Settings):
    """Settings of ``scores``.

    Parameters
    ----------
    temperature : float
        Divides both nets' logits.
    """

    temperature: Positive = 2.0


class WeightedScoreSettings(Settings):
    """Settings of ``weighted_scores``.

    Parameters
    ----------
    temperature : float
        Divides both nets' logits.
    background : float
        Weight of the background class.
    """

    temperature: Positive = 2.0
    background: Positive = 1.5


class BoundedBoxSettings(Settings):
    """Settings of ``bounded_boxes``.

    Parameters
    ----------
    margin : float
        By how much the student has to be better than its teacher, in squared deltas.
    """

    margin: NonNegative = 0.0


class ImitationSettings(Settings):
    """Settings of ``imitation``.

    Parameters
    ----------
    near : float
        Share of an object's largest overlap with an anchor from which on a cell counts
        as near the object.
    """

    near: Share = 0.5


def _scores(pair: Pair, settings: ScoreSettings) -> Array:
    scores = pair.student[SCORES], pair.teacher[SCORES]
    return losses.score_loss(*scores, settings.temperature)


def _boxes(pair: Pair, settings: Any) -> Array:
    deltas = pair.student[DELTAS], pair.teacher[DELTAS]
    return losses.box_loss(*deltas, pair.teacher[SCORES])


def _weighted_scores(pair: Pair, settings: WeightedScoreSettings) -> Array:
    return losses.weighted_score_loss(
        pair.student[SCORES],
        pair.teacher[SCORES],
        pair.batch[1],
        temperature=settings.temperature,
        background=settings.background,
    )


def _bounded_boxes(pair: Pair, settings: BoundedBoxSettings) -> Array:
    deltas = pair.student[DELTAS], pair.teacher[DELTAS]
    classes, targets = pair.batch[1:3]
    return losses.bounded_box_loss(*deltas, targets, classes, margin=settings.margin)


def _imitation(pair: Pair, settings: ImitationSettings) -> Array:
    classes, deltas = (target.asnumpy() for target in pair.batch[1:3])
    masks = imitation_masks(classes, deltas, pair.context["anchors"], settings.near)
    device = pair.batch[0].context
    student, teacher = zip(*pair.maps())
    near = [nd.array(mask, ctx=device) for mask in masks]
    return losses.imitation_loss(student, teacher, near)


def _check_imitation(taps: Sequence[str], context: Mapping[str, Any]) -> None:
    anchors = context.get("anchors")
    if anchors is None:
        raise ValueError("distillation loss 'imitation' needs the anchors")
    maps = anchors.maps if anchors.taps is None else anchors.taps
    if len(maps) != len(taps):
        raise ValueError(
            "distillation loss 'imitation' needs one tap for each map of the anchors: "
            f"maps {len(maps)}, taps {len(taps)}"
        )


SSD_LOSSES = {
    "scores": DistillationLoss(
        _scores, (SCORES,), Config=ScoreSettings, kind=("ssd", "refinedet")
    ),
    "boxes": DistillationLoss(_boxes, OUTPUTS, kind="ssd"),
    "weighted_scores": DistillationLoss(
        _weighted_scores, (SCORES,), Config=WeightedScoreSettings, kind="ssd"
    ),
    "bounded_boxes": DistillationLoss(
        _bounded_boxes, (DELTAS,), Config=BoundedBoxSettings, kind="ssd"
    ),
    "imitation": DistillationLoss(
        _imitation,
        on_maps=True,
        Config=ImitationSettings,
        kind=("ssd", "refinedet"),
        check=_check_imitation,
    ),
}
