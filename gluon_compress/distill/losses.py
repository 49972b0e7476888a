"""What losses of any net compute: one function, one equation.

Shu et al. 2021 is "Channel-wise Knowledge Distillation for Dense Prediction". A
teacher's arrays are constants, computed outside of ``autograd.record``.
"""

from __future__ import annotations

from mxnet import autograd, nd
from mxnet.ndarray import NDArray as Array

from gluon_compress.distill.reductions import (
    each_channel,
    inner,
    over_channels,
    sum_of_squares,
    with_slope,
)

TINY = 1e-6  # added to squared lengths, for vectors of zeros


def soft_target_loss(student: Array, teacher: Array, temperature: float) -> Array:
    """Divergence from a classifier's softened class probabilities.

    ``T^2 KL(p_t || p_s)``, mean over the batch, at temperature ``T`` (Hinton et al.
    2015, equation 1; the factor keeps the size of the gradient).

    Parameters
    ----------
    student, teacher : NDArray
        Logits, ``(B, C)``.
    temperature : float

    Returns
    -------
    NDArray
        One element.
    """
    target = nd.softmax(teacher, axis=-1, temperature=temperature)
    log_target = nd.log_softmax(teacher, axis=-1, temperature=temperature)
    log_own = nd.log_softmax(student, axis=-1, temperature=temperature)
    divergence = (target * (log_target - log_own)).sum(axis=-1)
    return temperature**2 * divergence.mean()


def feature_loss(student: Array, teacher: Array) -> Array:
    """Mean squared distance between the unit feature vectors of every cell.

    A hint loss (Romero et al. 2015, equation 3) on vectors of length one, so that
    taps of different depth weigh the same; it lies between 0 and 4.

    Parameters
    ----------
    student, teacher : NDArray
        Taps, ``(B, K, H, W)``.

    Returns
    -------
    NDArray
        One element.
    """
    cells = student.size // student.shape[1]
    with autograd.pause():
        # One over the length of each cell's vector, of the student and the teacher.
        # MXNet's own normalisation takes four times as long, most of it adding up.
        a, b = (nd.rsqrt(over_channels(t * t) + TINY) for t in (student, teacher))
        together = over_channels(student * teacher) * a * b
        lengths = 2 - TINY * (a * a + b * b)  # of both vectors, squared
        value = (lengths - 2 * together).sum() / cells
        along = a * a * (together + TINY * a * a)
        slope = each_channel(2 * along / cells, student) * student
        slope = slope - each_channel(2 * a * b / cells, teacher) * teacher
    return with_slope(value, student, slope)


def hint_loss(student: Array, teacher: Array) -> Array:
    """Mean squared distance between features.

    ``||V - Z||^2`` divided by the number of values, so that the size of a map does
    not decide its weight (Chen et al. 2017, equation 5; Romero et al. 2015,
    equation 3).

    Parameters
    ----------
    student, teacher : NDArray
        Taps, ``(B, K, H, W)``; the student's adapted to the teacher's width.

    Returns
    -------
    NDArray
        One element.
    """
    apart = student - teacher
    return sum_of_squares(apart) / apart.size


def channel_loss(student: Array, teacher: Array, temperature: float = 4.0) -> Array:
    """Divergence between where in the image each channel is active.

    ``T^2 / K sum_k KL(q_t(k) || q_s(k))``, mean over the batch, with ``q(k)`` the
    softmax of channel ``k`` over all positions at temperature ``T`` (Shu et al. 2021,
    section 3.2). A map of one cell has nothing to tell and gives 0.

    Parameters
    ----------
    student, teacher : NDArray
        Taps, ``(B, K, H, W)``; the student's adapted to the teacher's width.
    temperature : float

    Returns
    -------
    NDArray
        One element.
    """
    # MXNet's softmax takes three times as long with a temperature of its own.
    softened = (tap.reshape((0, 0, -1)) / temperature for tap in (student, teacher))
    logits, target = softened
    with autograd.pause():
        wanted = nd.softmax(target, axis=-1)
        logs = nd.log_softmax(target, axis=-1) - nd.log_softmax(logits, axis=-1)
        value = inner(wanted, logs)
        slope = nd.softmax(logits, axis=-1) - wanted
    factor = temperature**2 / (student.shape[0] * student.shape[1])
    return factor * with_slope(value, logits, slope)
