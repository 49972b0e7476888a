"""Distillation losses of refinement detectors, beside those they share with SSDs.

``scores`` compares the second step's classes and ``imitation`` cells near objects, as
of an SSD. The second step's box deltas start from anchors that each net moves its own
way, so they are compared after both steps.
"""

from __future__ import annotations

from typing import Any, Mapping

from mxnet import nd

from gluon_compress.boxes import STDS
from gluon_compress.distill import ssd_losses as losses
from gluon_compress.distill.registry import Array, DistillationLoss, Pair
from gluon_compress.distill.ssd import DELTAS, SCORES, ScoreSettings

OBJECTNESS, REFINEMENTS = "objectness", "refinements"  # (B, A, 2) and (B, A, 4)


def _objectness(pair: Pair, settings: ScoreSettings) -> Array:
    scores = pair.student[OBJECTNESS], pair.teacher[OBJECTNESS]
    return losses.score_loss(*scores, settings.temperature)


def _refinements(pair: Pair, settings: Any) -> Array:
    student, teacher = pair.student[REFINEMENTS], pair.teacher[REFINEMENTS]
    return losses.box_loss(student, teacher, pair.teacher[OBJECTNESS])


def _refined_boxes(pair: Pair, settings: Any) -> Array:
    anchors = pair.context.get("anchors")
    stds = STDS if anchors is None else anchors.stds
    student, teacher = (
        deltas_of_both(net, stds) for net in (pair.student, pair.teacher)
    )
    return losses.box_loss(student, teacher, pair.teacher[SCORES])


def deltas_of_both(outputs: Mapping[str, Array], stds: Any) -> Array:
    """Return the box deltas ``(B, A, 4)`` from anchors to boxes after both steps.

    With ``u`` and ``v`` the deltas of the steps times ``stds``: the centre moves by
    ``u_xy + v_xy exp(u_wh)`` sizes of the anchor, and sizes grow by
    ``exp(u_wh + v_wh)``.

    Parameters
    ----------
    outputs : mapping
        ``refinements`` and ``box_deltas``, ``(B, A, 4)`` each.
    stds : sequence of float
    """
    first, second = outputs[REFINEMENTS], outputs[DELTAS]
    scale = nd.array(stds, ctx=first.context).reshape((1, 1, 4))
    (u_xy, u_wh), (v_xy, v_wh) = (
        nd.broadcast_mul(deltas, scale).split(2, axis=2) for deltas in (first, second)
    )
    # A size that is off by a factor of e^4 says nothing; exp of more overflows.
    moved = u_xy + v_xy * nd.exp(nd.clip(u_wh, -4, 4))
    return nd.broadcast_div(nd.concat(moved, u_wh + v_wh, dim=2), scale)


KIND = "refinedet"
REFINEDET_LOSSES = {
    "objectness": DistillationLoss(
        _objectness, (OBJECTNESS,), Config=ScoreSettings, kind=KIND
    ),
    "refinements": DistillationLoss(_refinements, (OBJECTNESS, REFINEMENTS), kind=KIND),
    "refined_boxes": DistillationLoss(
        _refined_boxes, (REFINEMENTS, DELTAS, SCORES), kind=KIND
    ),
}
