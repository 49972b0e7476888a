"""What a student learns from a teacher: scores, boxes and feature taps.

A student and a teacher here are blocks whose outputs are class scores
``(B, A, C + 1)``, box deltas ``(B, A, 4)`` and then any number of taps
``(B, K, H, W)``, in the same order and with the same shapes. Adapters that bring a
student's taps to the teacher's widths live in the training symbol only.
"""

from __future__ import annotations

from typing import Callable, Mapping, Sequence

import mxnet as mx
from mxnet import autograd, nd

Array = mx.nd.NDArray


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
    seen = nd.maximum(_foreground(teacher), _foreground(student).detach())
    target = nd.softmax(teacher, axis=-1, temperature=temperature)
    log_target = nd.log_softmax(teacher, axis=-1, temperature=temperature)
    log_own = nd.log_softmax(student, axis=-1, temperature=temperature)
    divergence = (target * (log_target - log_own)).sum(axis=-1)  # (B, A)
    return temperature**2 * (seen * divergence).sum() / _objects(_foreground(teacher))


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
    distance = nd.smooth_l1(student - teacher, scalar=1.0).sum(axis=-1)
    return (weight * distance).sum() / _objects(weight)


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
    own = nd.L2Normalization(student, mode="channel", eps=1e-6)
    target = nd.L2Normalization(teacher, mode="channel", eps=1e-6)
    return nd.square(own - target).sum(axis=1).mean()


LOSSES = ("scores", "boxes", "features")


def distil_step(
    teacher: Callable,
    taps: Sequence[str],
    base_loss: Callable,
    *,
    weights: Mapping[str, float] | None = None,
    temperature: float = 2.0,
) -> Callable:
    """Return a step loss for ``fit``: the base loss plus what the teacher adds.

    Parameters
    ----------
    teacher : callable
        Images to outputs. Called once a batch, in inference form, not recorded.
    taps : sequence of str
        Names of the outputs after scores and deltas, for messages and parts.
    base_loss : callable
        ``base_loss(outputs, batch) -> (loss, {part: value})``.
    weights : mapping
        Weight of each of ``scores``, ``boxes`` and ``features``; absent is 0. None:
        1 for each, for features if there are taps.
    temperature : float
        Divides both nets' logits.

    Returns
    -------
    callable
        ``step(net, batch) -> (loss, {part: value})``.

    Raises
    ------
    ValueError
        For an unknown loss, a weight below 0, features without taps, a temperature
        that is not positive, or, at a step, outputs of student and teacher that
        differ in number or shape.
    """
    if weights is None:
        weights = dict.fromkeys(LOSSES if taps else LOSSES[:2], 1.0)
    _check_weights(weights, taps)
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature!r}; allowed: above 0")
    used = {name: w for name, w in weights.items() if w}

    def step(net: Callable, batch: Sequence) -> tuple[Array, dict]:
        with autograd.pause():
            targets = [t.detach() for t in teacher(batch[0])]
        outputs = net(batch[0])
        _check_outputs(outputs, targets, taps)
        loss, parts = base_loss(outputs, batch)
        for name, weight in used.items():
            part = _part(name, outputs, targets, temperature)
            loss, parts = loss + weight * part, {**parts, name: part}
        return loss, parts

    return step


def _part(name: str, own: Sequence, target: Sequence, temperature: float) -> Array:
    if name == "scores":
        return score_loss(own[0], target[0], temperature)
    if name == "boxes":
        return box_loss(own[1], target[1], target[0])
    pairs = list(zip(own[2:], target[2:]))
    return nd.add_n(*[feature_loss(s, t) for s, t in pairs]) / len(pairs)


def _foreground(scores: Array) -> Array:
    """Probability that an anchor holds any object, ``(B, A)``."""
    # A sum, because 1 - p loses all digits where the background is certain.
    return nd.softmax(scores, axis=-1).slice_axis(axis=-1, begin=1, end=None).sum(-1)


def _objects(foreground: Array) -> Array:
    """Anchors with an object; images without any count as one, as in SSD's loss."""
    return nd.maximum(foreground.sum(), 1)


def _check_weights(weights: Mapping[str, float], taps: Sequence[str]) -> None:
    for name, weight in weights.items():
        if name not in LOSSES:
            allowed = ", ".join(LOSSES)
            raise ValueError(f"distillation loss {name!r}; allowed: {allowed}")
        if not weight >= 0:
            raise ValueError(f"weight of {name!r} is {weight!r}; allowed: from 0")
    if weights.get("features") and not taps:
        raise ValueError("distillation loss 'features' needs at least one tap")


def _check_outputs(own: Sequence, target: Sequence, taps: Sequence[str]) -> None:
    names = ["class scores", "box deltas", *taps]
    if len(own) != len(names) or len(target) != len(names):
        raise ValueError(
            f"outputs {names} are expected; the student gives {len(own)} and the "
            f"teacher {len(target)}"
        )
    for name, s, t in zip(names, own, target):
        if s.shape != t.shape:
            raise ValueError(
                f"{name}: the student gives {s.shape}, the teacher {t.shape}; "
                "both need the same classes, anchors and adapted widths"
            )


def adapt(taps: Sequence[mx.sym.Symbol], widths: Sequence[int]) -> list[mx.sym.Symbol]:
    """Return taps brought to the given widths by one 1x1 convolution each.

    The convolutions belong to the training symbol alone: a net that is saved or
    exported from its own symbol has none of them.

    Raises
    ------
    ValueError
        If there is not one width a tap.
    """
    if len(taps) != len(widths):
        raise ValueError(f"{len(taps)} taps need as many widths, not {len(widths)}")
    return [
        mx.sym.Convolution(
            tap, kernel=(1, 1), num_filter=width, no_bias=True, name=f"adapter{i}"
        )
        for i, (tap, width) in enumerate(zip(taps, widths))
    ]
