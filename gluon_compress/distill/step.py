"""The step loss of a student: the losses by name, and what a step hands to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

import mxnet as mx
from mxnet import autograd, nd

from gluon_compress import checks as c
from gluon_compress.checks import key, section
from gluon_compress.distill import losses
from gluon_compress.distill.imitation_mask import Anchors, near_objects

Array = mx.nd.NDArray
_positive = c.number(0, above=True)


@section
class Settings:
    """Constants of the losses; a recipe states the same ones.

    Parameters
    ----------
    temperature : float
        Divides both nets' logits: ``scores`` and ``weighted_scores``.
    background : float
        Weight of the background class in ``weighted_scores``.
    margin : float
        By how much ``bounded_boxes`` wants the student better than its teacher.
    near : float
        Share of an object's largest overlap from which a cell counts as near it,
        in ``imitation``.
    channel_temperature : float
        Divides the features in ``channels``.
    """

    temperature: float = key(_positive, 2.0)
    background: float = key(_positive, 1.5)
    margin: float = key(c.number(0), 0.0)
    near: float = key(c.number(0, 1, above=True), 0.5)
    channel_temperature: float = key(_positive, 4.0)


@dataclass(frozen=True)
class Outputs:
    """What a net says of a batch."""

    scores: Array  # (B, A, C + 1)
    deltas: Array  # (B, A, 4)
    taps: tuple[Array, ...]  # (B, K, H, W) each


@dataclass(frozen=True)
class Comparison:
    """What a loss may look at; ``targets`` are class and box targets of the batch."""

    student: Outputs
    teacher: Outputs
    targets: Sequence[Array]
    near: Sequence[Array]
    settings: Settings


def _scores(at: Comparison) -> Array:
    temperature = at.settings.temperature
    return losses.score_loss(at.student.scores, at.teacher.scores, temperature)


def _boxes(at: Comparison) -> Array:
    return losses.box_loss(at.student.deltas, at.teacher.deltas, at.teacher.scores)


def _features(at: Comparison) -> Array:
    return _mean_over_taps(losses.feature_loss, at)


def _weighted_scores(at: Comparison) -> Array:
    return losses.weighted_score_loss(
        at.student.scores,
        at.teacher.scores,
        at.targets[0],
        temperature=at.settings.temperature,
        background=at.settings.background,
    )


def _bounded_boxes(at: Comparison) -> Array:
    classes, deltas = at.targets
    own, bound, margin = at.student.deltas, at.teacher.deltas, at.settings.margin
    return losses.bounded_box_loss(own, bound, deltas, classes, margin=margin)


def _hints(at: Comparison) -> Array:
    return _mean_over_taps(losses.hint_loss, at)


def _imitation(at: Comparison) -> Array:
    return losses.imitation_loss(at.student.taps, at.teacher.taps, at.near)


def _channels(at: Comparison) -> Array:
    return _mean_over_taps(
        lambda s, t: losses.channel_loss(s, t, at.settings.channel_temperature), at
    )


def _mean_over_taps(loss: Callable, at: Comparison) -> Array:
    pairs = list(zip(at.student.taps, at.teacher.taps))
    return nd.add_n(*[loss(s, t) for s, t in pairs]) / len(pairs)


LOSSES: dict[str, Callable[[Comparison], Array]] = {
    "scores": _scores,
    "boxes": _boxes,
    "features": _features,
    "weighted_scores": _weighted_scores,
    "bounded_boxes": _bounded_boxes,
    "hints": _hints,
    "imitation": _imitation,
    "channels": _channels,
}
ON_TAPS = ("features", "hints", "imitation", "channels")


def needs_taps(weights: Mapping[str, float]) -> bool:
    """Return whether any loss that has a weight compares feature maps."""
    return any(weights.get(name) for name in ON_TAPS)


def distil_step(
    teacher: Callable,
    taps: Sequence[str],
    base_loss: Callable,
    *,
    weights: Mapping[str, float] | None = None,
    settings: Settings | None = None,
    anchors: Anchors | None = None,
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
        Weight of each of ``LOSSES``; absent is 0. None: 1 for ``scores`` and
        ``boxes``, and for ``features`` if there are taps.
    settings : Settings
        None: the defaults.
    anchors : Anchors
        Of both nets; only ``imitation`` needs them.

    Returns
    -------
    callable
        ``step(net, batch) -> (loss, {part: value})``, the batch being images, class
        targets ``(B, A)`` and box targets ``(B, A, 4)``.

    Raises
    ------
    ValueError
        For an unknown loss, a weight below 0, a loss on taps without taps,
        ``imitation`` without anchors, or, at a step, outputs of student and teacher
        that differ in number or shape.
    """
    if weights is None:
        first = ("scores", "boxes", "features") if taps else ("scores", "boxes")
        weights = dict.fromkeys(first, 1.0)
    _check_weights(weights, taps, anchors)
    settings = settings or Settings()
    used = {name: w for name, w in weights.items() if w}

    def step(net: Callable, batch: Sequence) -> tuple[Array, dict]:
        with autograd.pause():
            targets = [t.detach() for t in teacher(batch[0])]
        outputs = net(batch[0])
        _check_outputs(outputs, targets, taps)
        near = _near(batch, anchors, settings) if "imitation" in used else ()
        at = Comparison(
            _named(outputs), _named(targets), tuple(batch[1:3]), near, settings
        )
        loss, parts = base_loss(outputs, batch)
        for name, weight in used.items():
            part = LOSSES[name](at)
            loss, parts = loss + weight * part, {**parts, name: part}
        return loss, parts

    return step


def _named(outputs: Sequence[Array]) -> Outputs:
    return Outputs(outputs[0], outputs[1], tuple(outputs[2:]))


def _near(batch: Sequence[Array], anchors: Anchors, settings: Settings) -> list[Array]:
    classes, deltas = (target.asnumpy() for target in batch[1:3])
    masks = near_objects(classes, deltas, anchors, settings.near)
    return [nd.array(mask, ctx=batch[0].context) for mask in masks]


def _check_weights(
    weights: Mapping[str, float], taps: Sequence[str], anchors: Anchors | None
) -> None:
    for name, weight in weights.items():
        if name not in LOSSES:
            allowed = ", ".join(LOSSES)
            raise ValueError(f"distillation loss {name!r}; allowed: {allowed}")
        if not weight >= 0:
            raise ValueError(f"weight of {name!r} is {weight!r}; allowed: from 0")
        if weight and name in ON_TAPS and not taps:
            raise ValueError(f"distillation loss {name!r} needs at least one tap")
    if weights.get("imitation") and anchors is None:
        raise ValueError("distillation loss 'imitation' needs the anchors")
    if weights.get("imitation"):
        asked = anchors.maps if anchors.taps is None else anchors.taps
        if len(asked) != len(taps):
            raise ValueError(
                "distillation loss 'imitation' needs one tap for each map of the "
                f"anchors: maps {len(asked)}, taps {len(taps)}"
            )


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
