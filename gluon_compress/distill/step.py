"""The training step of a student: the base loss plus what its teacher adds."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

from mxnet import autograd

from gluon_compress.distill.centernet import CENTERNET_LOSSES
from gluon_compress.distill.classification import CLASSIFICATION_LOSSES
from gluon_compress.distill.features import FEATURE_LOSSES
from gluon_compress.distill.refinedet import REFINEDET_LOSSES
from gluon_compress.distill.registry import Array, DistillationLoss, Pair
from gluon_compress.distill.ssd import SSD_LOSSES
from gluon_compress.models.named import named

LOSSES: dict[str, DistillationLoss] = {
    **SSD_LOSSES,
    **REFINEDET_LOSSES,
    **CENTERNET_LOSSES,
    **FEATURE_LOSSES,
    **CLASSIFICATION_LOSSES,
}


def losses_of(kind: str) -> dict[str, DistillationLoss]:
    """Return the losses that nets of a family can be distilled with, by name."""
    return {n: loss for n, loss in LOSSES.items() if loss.is_for(kind)}


def needs_taps(weights: Mapping[str, float]) -> bool:
    """Return whether any loss that has a weight compares feature maps."""
    return any(w and LOSSES[name].on_maps for name, w in weights.items())


def distil_step(
    teacher: Callable,
    taps: Sequence[str],
    base_loss: Callable,
    *,
    weights: Mapping[str, float],
    settings: Any = None,
    output_names: Sequence[str] = (),
    **context: Any,
) -> Callable:
    """Return a step loss for ``fit``: the base loss plus what the teacher adds.

    Parameters
    ----------
    teacher : callable
        Images to outputs. Called once a batch, in inference form, not recorded.
    taps : sequence of str
        Names of the feature maps that both nets give beside their outputs.
    base_loss : callable
        ``base_loss(outputs, batch) -> (loss, {part: value})``, ``outputs`` as the net
        gives them: ``Family.loss``. A loss without parts is the part ``labels``.
    weights : mapping
        Weight of each of ``LOSSES``; absent is 0.
    settings : mapping or object, optional
        Settings of the losses by name, as in a recipe's ``distillation``: see the
        ``Config`` of each. Default: theirs.
    output_names : sequence of str
        Names of the outputs before the taps, for nets that give lists instead of
        mappings.
    **context
        What the family adds for its losses: ``Family.loss_context``.

    Returns
    -------
    callable
        ``step(net, batch) -> (loss, {part: value})``, the batch being images, then
        targets.

    Raises
    ------
    ValueError
        For an unknown loss or setting, a weight below 0, a loss on feature maps without
        taps, a loss whose context is missing, or, at a step, outputs of student and
        teacher that are missing or differ in shape.
    """
    _check_weights(weights, taps, context)
    used = {name: w for name, w in weights.items() if w}
    _check_settings(settings)
    configs = {name: LOSSES[name].settings(settings) for name in used}
    names = (*output_names, *taps)
    needed = {*taps, *(need for name in used for need in LOSSES[name].needs)}

    def step(net: Callable, batch: Sequence) -> tuple[Array, dict]:
        with autograd.pause():
            theirs = named(teacher(batch[0]), names, source="teacher")
            theirs = {name: array.detach() for name, array in theirs.items()}
        outputs = net(batch[0])
        ours = named(outputs, names, source="student")
        _check_outputs(ours, theirs, needed)
        pair = Pair(ours, theirs, batch, tuple(taps), context)
        loss, parts = base_loss(outputs, batch)
        parts = parts or {"labels": loss}
        for name, weight in used.items():
            part = LOSSES[name].compute(pair, configs[name])
            loss, parts = loss + weight * part, {**parts, name: part}
        return loss, parts

    return step


def _check_weights(
    weights: Mapping[str, float], taps: Sequence[str], context: Mapping[str, Any]
) -> None:
    for name, weight in weights.items():
        if name not in LOSSES:
            allowed = ", ".join(LOSSES)
            raise ValueError(f"distillation loss {name!r}; allowed: {allowed}")
        if not weight >= 0:
            raise ValueError(f"weight of {name!r} is {weight!r}; allowed: from 0")
        if weight and LOSSES[name].on_maps and not taps:
            raise ValueError(f"distillation loss {name!r} needs at least one tap")
        check = LOSSES[name].check
        if weight and check is not None:
            check(taps, context)


def _check_settings(settings: Any) -> None:
    """Refuse a mapping with a key that no loss has; objects may hold anything."""
    allowed = sorted(
        {name for loss in LOSSES.values() for name in loss.Config.model_fields}
    )
    for name in settings if isinstance(settings, Mapping) else ():
        if name not in allowed:
            raise ValueError(f"setting {name!r}; allowed: {', '.join(allowed)}")


def _check_outputs(
    student: Mapping[str, Array], teacher: Mapping[str, Array], needed: set[str]
) -> None:
    for who, arrays in (("student", student), ("teacher", teacher)):
        missing = sorted(needed - set(arrays))
        if missing:
            raise ValueError(
                f"the {who} gives no {missing[0]!r}; its outputs: {', '.join(arrays)}"
            )
    for name in (name for name in student if name in teacher):
        if student[name].shape != teacher[name].shape:
            raise ValueError(
                f"{name}: the student gives {student[name].shape}, the teacher "
                f"{teacher[name].shape}; both need outputs of one shape, and maps of "
                "adapted widths"
            )
