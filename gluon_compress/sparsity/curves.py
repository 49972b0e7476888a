"""How the share of zeros grows in training, as functions of the epoch."""

from __future__ import annotations

from typing import Any, Callable, Dict


def _polynomial(settings: Any, done: float) -> float:
    """Fast at first, slower as fewer weights are left (Zhu and Gupta 2017, eq. 1)."""
    first, final = settings.initial, settings.final
    return final + (first - final) * (1 - done) ** settings.growth.power


def _exponential(settings: Any, done: float) -> float:
    """The share that stays falls by one factor in equal times."""
    first, final = 1 - settings.initial, 1 - settings.final
    return 1 - first * (final / first) ** done


def _whole(settings: Any, done: float) -> float:
    """What does not follow from time alone."""
    return settings.final


# ``curve(settings, done)`` with the part of the way that is done, from 0 to 1.
CURVES: Dict[str, Callable[[Any, float], float]] = {
    "polynomial": _polynomial,
    "exponential": _exponential,
    "multistep": _whole,
    "adaptive": _whole,
}


def level_at(settings: Any, epoch: float, epochs: int) -> float:
    """Return the share of zeros at a point of a training.

    Parameters
    ----------
    settings : SparsitySettings
    epoch : float
        Epochs since the start; fractions count.
    epochs : int
        Length of the training.
    """
    growth = settings.growth
    if growth.curve == "multistep":
        return growth.levels[sum(epoch >= step for step in growth.steps)]
    reached = growth.reached(epochs)
    done = min(epoch / reached, 1.0) if reached else 1.0
    return settings.final if done == 1 else CURVES[growth.curve](settings, done)


def adaptive_level(settings: Any, present: float) -> float:
    """Return the next share of zeros for masks that have a share now.

    It is the first of ``initial``, ``initial + step`` and so on that they have not
    reached within ``margin``, at most the final one: a function of the masks alone, so
    that nothing else has to be stored.
    """
    growth, level = settings.growth, settings.initial
    while level < settings.final and present >= level - growth.margin:
        level = min(level + growth.step, settings.final)
    return level
