"""What each distillation loss computes: one function, one equation.

Papers by short name: Chen et al. 2017, "Learning Efficient Object Detection Models
with Knowledge Distillation"; Wang et al. 2019, "Distilling Object Detectors with
Fine-grained Feature Imitation"; Shu et al. 2021, "Channel-wise Knowledge Distillation
for Dense Prediction". A teacher's arrays are meant as constants,
made outside of ``autograd.record``.
"""

from __future__ import annotations

from typing import Sequence

from mxnet import autograd, nd
from mxnet.ndarray import NDArray as Array

TINY = 1e-6  # added to squared lengths, for vectors of zeros
NEGATIVES = 3  # for each positive, as in SSD's own loss (Liu et al. 2016, 2.2)


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
        target, own = (nd.softmax(scores, axis=-1) for scores in softened)
        logs = [nd.log_softmax(scores, axis=-1) for scores in softened]
        divergence = _over_last(target * (logs[0] - logs[1]), 0)
        value = _inner(weight, divergence)
        slope = nd.broadcast_mul(own - target, weight / temperature)
    return _with_slope(value, student, slope)


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
    distance = _over_last(nd.smooth_l1(student - teacher, scalar=1.0), 0)
    return _inner(weight, distance) / _objects(weight)


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
        # MXNet's own normalisation takes four times as long, most of it adding up.
        own, target = (
            nd.rsqrt(_over_channels(t * t) + TINY) for t in (student, teacher)
        )
        together = _over_channels(student * teacher) * own * target
        lengths = 2 - TINY * (own * own + target * target)  # of both vectors, squared
        value = (lengths - 2 * together).sum() / cells
        along = own * own * (together + TINY * own * own)
        slope = _each_channel(2 * along / cells, student) * student
        slope = slope - _each_channel(2 * own * target / cells, teacher) * teacher
    return _with_slope(value, student, slope)


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
    chosen = _mined(student, classes)
    target = nd.softmax(teacher / temperature, axis=-1)
    log_own = nd.log_softmax(student / temperature, axis=-1)
    every = target * log_own
    weighed = _over_last(every, 0) + (background - 1) * _class(every, 0)
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
    return _sum_of_squares(apart) / apart.size


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
        _sum_of_squares(s - t, mask.expand_dims(axis=1))
        for s, t, mask in zip(student, teacher, near)
    ]
    cells = nd.add_n(*[mask.sum() for mask in near])
    return nd.add_n(*apart) / (2 * nd.maximum(cells, 1))


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
    own, target = (tap.reshape((0, 0, -1)) / temperature for tap in (student, teacher))
    with autograd.pause():
        wanted = nd.softmax(target, axis=-1)
        logs = nd.log_softmax(target, axis=-1) - nd.log_softmax(own, axis=-1)
        value = _inner(wanted, logs)
        slope = nd.softmax(own, axis=-1) - wanted
    factor = temperature**2 / (student.shape[0] * student.shape[1])
    return factor * _with_slope(value, own, slope)


def _foreground(scores: Array) -> Array:
    """Probability that an anchor holds any object, ``(B, A)``."""
    # A sum, because 1 - p loses all digits where the background is certain.
    return _over_last(nd.softmax(scores, axis=-1), 1)


def _objects(foreground: Array) -> Array:
    """Anchors with an object; images without any count as one, as in SSD's loss."""
    return nd.maximum(foreground.sum(), 1)


def _class(values: Array, number: int) -> Array:
    return values.slice_axis(axis=-1, begin=number, end=number + 1).squeeze(axis=-1)


def _over_channels(values: Array) -> Array:
    """Return sums over the channels, ``(B, 1, H, W)``."""
    # As a convolution with ones: a thirtieth of the time of a sum over an inner axis.
    ones = nd.ones((1, values.shape[1], 1, 1), ctx=values.context)
    return nd.Convolution(values, ones, kernel=(1, 1), num_filter=1, no_bias=True)


def _each_channel(cells: Array, like: Array) -> Array:
    """Return values of cells ``(B, 1, H, W)`` for every channel of a map."""
    # Half of the time of broadcast_mul, the product with the map included.
    return nd.broadcast_axis(cells, axis=1, size=like.shape[1])


def _over_last(values: Array, begin: int) -> Array:
    """Return sums over the last axis, without the first so many of it."""
    # As a product with ones: MXNet adds up slowly over an inner axis.
    counted = nd.arange(values.shape[-1], ctx=values.context) >= begin
    return nd.dot(values, counted)


def _inner(a: Array, b: Array) -> Array:
    # A sixth of the time of a product and its sum, which MXNet adds one by one.
    return nd.dot(a.reshape((-1,)), b.reshape((-1,)))


def _with_slope(value: Array, at: Array, slope: Array) -> Array:
    """Return a value whose gradient is known, without the operators behind it."""
    linear = _inner(slope, at)
    return linear - linear.detach() + value


def _sum_of_squares(values: Array, mask: Array | None = None) -> Array:
    """Sum of squares, of those that a mask of ones and zeros leaves."""
    constant = values.detach()
    if mask is not None:
        constant = nd.broadcast_mul(constant, mask)
    half = _inner(constant, values)  # its gradient is half the square's
    return 2 * half - half.detach()


def _mined(scores: Array, classes: Array) -> Array:
    """Ones for positives and for the hardest negatives of each image, ``(B, A)``."""
    with autograd.pause():
        positive = classes > 0
        # Losses are above 0: positives come last. Of equal ones, as many as wanted.
        loss = -_class(nd.log_softmax(scores, axis=-1), 0) * (1 - positive) - positive
        count = NEGATIVES * positive.sum(axis=1, keepdims=True)
        return nd.maximum(positive, nd.broadcast_lesser(_ranks(loss), count))


def _ranks(values: Array) -> Array:
    """Place of each value in its row, 0 for the largest, ``(B, A)``."""
    order = nd.argsort(values, axis=1, is_ascend=False)
    rows, places = (nd.arange(n, ctx=values.context) for n in values.shape)
    rows = nd.broadcast_like(rows.expand_dims(1), order)
    places = nd.broadcast_like(places.expand_dims(0), order)
    # One sort and a scatter: a second sort costs as much as the first.
    return nd.scatter_nd(places, nd.stack(rows, order), shape=values.shape)
