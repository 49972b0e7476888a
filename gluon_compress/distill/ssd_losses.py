"""What losses of SSDs compute: one function, one equation.

Papers by short name: Chen et al. 2017, "Learning Efficient Object Detection Models
with Knowledge Distillation"; Wang et al. 2019, "Distilling Object Detectors with
Fine-grained Feature Imitation". A teacher's arrays are constants, computed outside of
``autograd.record``.
"""

from __future__ import annotations

from typing import Sequence

from mxnet import autograd, nd
from mxnet.ndarray import NDArray as Array

from gluon_compress.distill.reductions import (
    inner,
    over_last,
    sum_of_squares,
    with_slope,
)
from gluon_compress.models.multi_box import mined


def score_loss(student: Array, teacher: Array, temperature: float) -> Array:
    """Softened class scores, weighted towards anchors where anything is seen.

    ``T^2 sum_a w_a KL(p_t || p_s) / max(sum_a f_a, 1)`` with ``p_t`` and ``p_s`` the
    classes' probabilities at temperature ``T``, ``f_a`` the teacher's foreground
    probability and ``w_a`` the larger of both foreground probabilities, taken as a
    constant (Hinton et al. 2015, equation 1; the weight stands in for hard negative
    mining, because thousands of easy anchors would drown the rest).

    Parameters
    ----------
    student, teacher : NDArray
        Logits, ``(B, A, C + 1)``, class 0 the background.
    temperature : float

    Returns
    -------
    NDArray
        One element.
    """
    with autograd.pause():
        objects = _foreground(teacher)
        seen = nd.maximum(objects, _foreground(student)).expand_dims(-1)
        weight = temperature**2 * seen / _objects(objects)
        # Divided before, for with its own temperature MXNet takes ten times as long.
        softened = [scores / temperature for scores in (teacher, student)]
        target, shares = (nd.softmax(scores, axis=-1) for scores in softened)
        logs = [nd.log_softmax(scores, axis=-1) for scores in softened]
        divergence = over_last(target * (logs[0] - logs[1]), 0)
        value = inner(weight, divergence)
        slope = nd.broadcast_mul(shares - target, weight / temperature)
    return with_slope(value, student, slope)


def box_loss(student: Array, teacher: Array, teacher_scores: Array) -> Array:
    """Smooth L1 between box deltas, weighted by the teacher's foreground probability.

    ``sum_a f_a sum_i smooth_l1(d_ai) / max(sum_a f_a, 1)`` over the four deltas.

    Parameters
    ----------
    student, teacher : NDArray
        Box deltas, ``(B, A, 4)``.
    teacher_scores : NDArray
        Logits, ``(B, A, C + 1)``.

    Returns
    -------
    NDArray
        One element.
    """
    weight = _foreground(teacher_scores)
    distance = over_last(nd.smooth_l1(student - teacher, scalar=1.0), 0)
    return inner(weight, distance) / _objects(weight)


def weighted_score_loss(
    student: Array,
    teacher: Array,
    classes: Array,
    *,
    temperature: float = 1.0,
    background: float = 1.5,
) -> Array:
    """Cross-entropy with softened class scores, in which the background weighs more.

    ``-T^2 / N sum_a sum_c w_c p_t(a, c) log p_s(a, c)``, ``w_0`` the background's
    weight and ``w_c = 1`` for objects (Chen et al. 2017, equation 3). The sum is over
    the N anchors of SSD's own loss: the positives and the hardest negatives, 3 to 1.
    It is not zero for equal nets: the teacher's entropy is part of it. Nor is its
    slope, unless ``w_0`` is 1: the background counts for more than the teacher says.

    Parameters
    ----------
    student, teacher : NDArray
        Logits, ``(B, A, C + 1)``, class 0 the background.
    classes : NDArray
        Class targets, ``(B, A)``, 0 for the background.
    temperature : float
        ``T``; 1 in the paper, which has no factor ``T^2`` for that reason.
    background : float
        ``w_0``.

    Returns
    -------
    NDArray
        One element; 0 for a batch without positives.
    """
    chosen = mined(student, classes)
    target = nd.softmax(teacher / temperature, axis=-1)
    log_own = nd.log_softmax(student / temperature, axis=-1)
    every = target * log_own
    weighed = over_last(every, 0) + (background - 1) * _class(every, 0)
    return -(temperature**2) * (chosen * weighed).sum() / _objects(chosen)


def bounded_box_loss(
    student: Array,
    teacher: Array,
    targets: Array,
    classes: Array,
    *,
    margin: float = 0.0,
) -> Array:
    """Squared distance to the true box deltas, until the teacher's is beaten.

    ``1 / N sum_a [e_s + m > e_t] e_s`` over the N positives, ``e_s`` and ``e_t`` the
    squared distances ``||d - y||^2`` of student and teacher to the target and ``m``
    the margin (Chen et al. 2017, equation 4, without the supervised part).

    Parameters
    ----------
    student, teacher : NDArray
        Box deltas, ``(B, A, 4)``.
    targets : NDArray
        Box targets, ``(B, A, 4)``.
    classes : NDArray
        Class targets, ``(B, A)``; anchors above 0 are positives.
    margin : float
        By how much the student has to be better before it is left alone.

    Returns
    -------
    NDArray
        One element; 0 for a batch without positives.
    """
    positive = classes > 0
    error = nd.square(student - targets).sum(axis=-1)
    bound = nd.square(teacher - targets).sum(axis=-1)
    active = positive * (error.detach() + margin > bound)
    return (active * error).sum() / _objects(positive)


def imitation_loss(
    student: Sequence[Array], teacher: Sequence[Array], near: Sequence[Array]
) -> Array:
    """Squared distance between the features of cells near objects.

    ``1 / (2 N) sum_ij I_ij sum_k (s_kij - t_kij)^2`` with ``I_ij`` 1 for a cell near
    an object and ``N = max(sum_ij I_ij, 1)``, over all maps and images of a batch
    (Wang et al. 2019, section 3.2).

    Parameters
    ----------
    student, teacher : sequence of NDArray
        Taps, ``(B, K, H, W)`` each.
    near : sequence of NDArray
        Ones and zeros, ``(B, H, W)`` each: ``imitation_masks``.

    Returns
    -------
    NDArray
        One element.
    """
    apart = [
        sum_of_squares(s - t, mask.expand_dims(axis=1))
        for s, t, mask in zip(student, teacher, near)
    ]
    cells = nd.add_n(*[mask.sum() for mask in near])
    return nd.add_n(*apart) / (2 * nd.maximum(cells, 1))


def _foreground(scores: Array) -> Array:
    """Probability that an anchor holds any object, ``(B, A)``."""
    # A sum, because 1 - p loses all digits where the background is certain.
    return over_last(nd.softmax(scores, axis=-1), 1)


def _objects(foreground: Array) -> Array:
    """Anchors with an object; images without any count as one, as in SSD's loss."""
    return nd.maximum(foreground.sum(), 1)


def _class(values: Array, number: int) -> Array:
    return values.slice_axis(axis=-1, begin=number, end=number + 1).squeeze(axis=-1)
