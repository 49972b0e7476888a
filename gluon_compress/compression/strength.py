"""Searches the strongest compression that costs at most so much accuracy.

A row with ``max_drop`` is applied at several strengths: 1 is what it states, 0 is no
compression. Each trial has a folder of its own in that of the stage, so that a training
in it is resumed; trials depend on nothing else, so that an interrupted search comes to
the same end.
"""

from __future__ import annotations

import logging
from typing import Any, Dict, List, Optional

from mxnet.gluon import HybridBlock

from gluon_compress.compression.algorithm import (
    Algorithm,
    StageContext,
    StageOutput,
)
from gluon_compress.prune import slim
from gluon_compress.validation import Count, Positive, Settings

LOGGER = logging.getLogger(__name__)
POINTS = 100  # of an accuracy of 1


class DropLimit(Settings):
    """How much accuracy a compression may cost.

    Parameters
    ----------
    max_drop : float or None
        Points of the metric, on the validation images: the strongest compression up to
        that stated is searched that costs no more; None: it is as stated.
    trials : int
        How many strengths are tried, with ``max_drop``.
    """

    max_drop: Optional[Positive] = None
    trials: Count = 5


def applied(
    algorithm: Algorithm, net: HybridBlock, settings: Any, context: StageContext
) -> StageOutput:
    """Apply a row of a recipe, at the strength that its ``max_drop`` allows.

    Parameters
    ----------
    algorithm : Algorithm
    net : HybridBlock
        Trained.
    settings : Settings
        Of the algorithm.
    context : StageContext

    Returns
    -------
    StageOutput
        Its notes have ``trials``, and the ``strength`` that was taken; 0: every trial
        costs more, and the net is as before.
    """
    if getattr(settings, "max_drop", None) is None:
        return algorithm.apply(net, settings, context)
    context.to_device(net)
    reference = context.validated(net)
    best: StageOutput | None = None
    trials: List[Dict[str, Any]] = []
    low, strength = 0.0, 1.0
    high = 1.0
    for _ in range(settings.trials):
        row = algorithm.at_strength(settings, strength)
        changed = _changes(settings, row)
        earlier = next((t for t in trials if t["settings"] == changed), None)
        if earlier is None:
            output = algorithm.apply(
                slim(net, None, shape=context.shape),
                row,
                context.within(f"trial_{len(trials) + 1}"),
            )
            context.to_device(output.net)
            accuracy = context.validated(output.net)
            drop = POINTS * (reference - accuracy)
            within = bool(drop <= settings.max_drop)
            LOGGER.info(
                "strength %.3f: %s %.4f, %.2f points lost; %.2f are allowed",
                *(strength, context.metric, accuracy, drop, settings.max_drop),
            )
            trials.append(
                {
                    "strength": strength,
                    "settings": changed,
                    context.metric: accuracy,
                    "drop": drop,
                    "within": within,
                    "notes": dict(output.notes),
                }
            )
            if within:
                best = output
        else:
            within = earlier["within"]
        if within:
            low = strength
            if strength == 1:
                break
        else:
            high = strength
        strength = (low + high) / 2
    notes = {"strength": low, "reference": {context.metric: reference}}
    if best is None:
        best = StageOutput(slim(net, None, shape=context.shape))
    trials = [dict(trial) for trial in trials]
    return StageOutput(
        best.net, {**best.notes, **notes, "trials": trials}, best.artifacts
    )


def _changes(settings: Any, row: Any) -> Dict[str, Any]:
    """Return the settings of a trial that differ from those stated."""
    before, now = settings.to_json(), row.to_json()
    return {key: now[key] for key in now if now[key] != before[key]}
