"""Training schedules: epochs, optimiser settings, and the learning rate over time."""

from __future__ import annotations

import math
from typing import Callable, Dict, Optional, Tuple

from pydantic import Field
from typing_extensions import Annotated, Literal

from gluon_compress.validation import (
    Allowed,
    Count,
    CountOrZero,
    NonNegative,
    OneOf,
    Positive,
    Settings,
    Share,
    ShareOrZero,
)

_Decay = Annotated[
    float, Field(gt=0, lt=1), Allowed("a number above 0 and below 1, or null")
]


class Schedule(Settings):
    """How long to train, and the settings of the optimiser.

    Parameters
    ----------
    epochs : int
        Passes over the training images.
    batch_size : int
        Images in a step.
    learning_rate : float
        Learning rate after the warm-up.
    mode : str
        A name in ``DECAYS``: ``cosine``, ``polynomial``: down to 0 with the power 0.9,
        or ``step``, which multiplies the rate by ``decay`` at each of the
        ``milestones``.
    milestones : tuple of int
        Ascending epochs; only with the mode ``step``.
    decay : float
        Factor of the learning rate at each milestone.
    warmup_epochs : float
        Epochs in which the rate rises linearly; fractions count.
    optimizer : str
        ``sgd``, stochastic gradient descent, or ``adam`` (Kingma and Ba 2015).
    momentum : float
        Momentum of stochastic gradient descent; of Adam the decay of the first moment.
    weight_decay : float
        Of weights; BatchNorm parameters and biases have none.
    clip_norm : float or None
        Limit of the global norm of the gradients; None: no limit.
    validate_every : int
        Epochs between validations; 0: only after the last one.
    ema : float or None
        Decay of an exponential moving average of all that is learnt, for instance
        0.999; the averages are validated and kept in place of the last values. None:
        no averages.
    """

    epochs: Count
    batch_size: Count = 8
    learning_rate: Positive = 0.005
    mode: Annotated[str, OneOf(lambda: DECAYS)] = "cosine"
    milestones: Tuple[Count, ...] = ()
    decay: Share = 0.1
    warmup_epochs: NonNegative = 1.0
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: ShareOrZero = 0.9
    weight_decay: NonNegative = 5e-4
    clip_norm: Optional[Positive] = None
    validate_every: CountOrZero = 1
    ema: Optional[_Decay] = None

    def check(self) -> None:
        """Check that milestones ascend, and that only ``step`` has some."""
        marks = (*self.milestones, self.epochs)
        ascending = all(a < b for a, b in zip(marks, marks[1:]))
        if not ascending or (self.mode == "step") != bool(self.milestones):
            allowed = (
                f"ascending epochs below {self.epochs} with mode 'step', else none"
            )
            raise self.error("milestones", allowed)


def learning_rate(schedule: Schedule, epoch: float) -> float:
    """Return the learning rate at a point of a schedule.

    During the warm-up it rises linearly from a tenth of ``schedule.learning_rate``.
    Then it falls according to ``schedule.mode``.

    Parameters
    ----------
    schedule : Schedule
    epoch : float
        Epochs since the start; fractions count.
    """
    base = schedule.learning_rate
    if epoch < schedule.warmup_epochs:
        return base * (0.1 + 0.9 * epoch / schedule.warmup_epochs)
    return base * DECAYS[schedule.mode](schedule, epoch)


def _cosine(schedule: Schedule, epoch: float) -> float:
    """Half a cosine down to 1 % (Loshchilov and Hutter 2016, equation 5, one cycle)."""
    span = max(schedule.epochs - schedule.warmup_epochs, 1e-9)
    part = min((epoch - schedule.warmup_epochs) / span, 1.0)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part))


def _step(schedule: Schedule, epoch: float) -> float:
    return schedule.decay ** sum(epoch >= m for m in schedule.milestones)


def _polynomial(schedule: Schedule, epoch: float) -> float:
    """Down to 0, almost straight (Liu et al. 2015, section 3.1)."""
    span = max(schedule.epochs - schedule.warmup_epochs, 1e-9)
    return max(1 - (epoch - schedule.warmup_epochs) / span, 0.0) ** 0.9


# The factor of the learning rate after the warm-up, by the schedule's mode.
DECAYS: Dict[str, Callable[[Schedule, float], float]] = {
    "cosine": _cosine,
    "polynomial": _polynomial,
    "step": _step,
}
