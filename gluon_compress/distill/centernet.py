"""Distillation losses of detectors without anchors: on heat maps, sizes and offsets."""

from __future__ import annotations

from typing import Any

from mxnet import nd

from gluon_compress.distill.registry import Array, DistillationLoss, Pair

HEAT, SIZES, OFFSETS = "heat_map", "box_sizes", "center_offsets"
KIND = "centernet"


def heat_map_loss(student: Array, teacher: Array, centers: Array) -> Array:
    """Quality focal loss with the teacher's heat map as its target.

    ``1/N sum |p_s - p_t|^2 KL(p_t || p_s)`` over all cells and classes, p the
    probabilities of a centre and N the centres of the batch (Li et al. 2020,
    "Generalized Focal Loss", equation 5 with beta 2, less the teacher's entropy). It is
    0 for equal nets, and the many cells on which both nets agree hardly count.

    Parameters
    ----------
    student, teacher : NDArray
        Logits, ``(B, C, h, w)``.
    centers : NDArray
        1 at centres of objects, ``(B, 1, h, w)``.

    Returns
    -------
    NDArray
        One element.
    """
    share, target = nd.sigmoid(student), nd.sigmoid(teacher)
    # log (1 - p) = -softplus(x) and log p = x + log (1 - p).
    rest, wanted = (-nd.Activation(x, act_type="softrelu") for x in (student, teacher))
    divergence = target * (teacher - student) + (wanted - rest)
    loss = nd.square(share - target) * divergence
    return loss.sum() / nd.maximum(centers.sum(), 1)


def center_box_loss(
    student: Array, teacher: Array, teacher_heat: Array, centers: Array
) -> Array:
    """L1 distance between sizes and offsets, weighted by the teacher's heat.

    ``sum_i h_i |d_i| / max(sum_i h_i, N)``, the mean over the four numbers of a cell;
    ``h_i`` is the teacher's largest probability of a centre in a cell.

    Parameters
    ----------
    student, teacher : NDArray
        Sizes and offsets, ``(B, 4, h, w)``.
    teacher_heat : NDArray
        Logits, ``(B, C, h, w)``.
    centers : NDArray
        1 at centres of objects, ``(B, 1, h, w)``.

    Returns
    -------
    NDArray
        One element.
    """
    weight = nd.sigmoid(teacher_heat.max(axis=1, keepdims=True))
    apart = nd.broadcast_mul(nd.abs(student - teacher), weight).sum()
    return apart / (student.shape[1] * nd.maximum(weight.sum(), centers.sum() + 1e-6))


def _heat_map(pair: Pair, settings: Any) -> Array:
    return heat_map_loss(pair.student[HEAT], pair.teacher[HEAT], pair.batch[3])


def _box_sizes(pair: Pair, settings: Any) -> Array:
    own, wanted = (
        nd.concat(net[SIZES], net[OFFSETS], dim=1)
        for net in (pair.student, pair.teacher)
    )
    return center_box_loss(own, wanted, pair.teacher[HEAT], pair.batch[3])


CENTERNET_LOSSES = {
    "heat_map": DistillationLoss(_heat_map, (HEAT,), kind=KIND),
    "box_sizes": DistillationLoss(_box_sizes, (HEAT, SIZES, OFFSETS), kind=KIND),
}
