"""How a net becomes sparse: how many zeros, where, and how they grow."""

from __future__ import annotations

import re
from typing import Optional, Tuple

from pydantic import Field
from typing_extensions import Annotated, Literal

from gluon_compress.sparsity.curves import CURVES
from gluon_compress.validation import (
    Allowed,
    Count,
    CountOrZero,
    NonEmptyStr,
    OneOf,
    Positive,
    Settings,
)

Level = Annotated[
    float, Field(ge=0, lt=1), Allowed("a number from 0, below 1: the share of zeros")
]
Step = Annotated[
    float, Field(gt=0, lt=1), Allowed("a number above 0 and below 1: a share of zeros")
]


class Growth(Settings):
    """How the share of zeros grows over the epochs of a training.

    Parameters
    ----------
    curve : str
        A name in ``sparsity.curves.CURVES``: ``polynomial`` (Zhu and Gupta 2017,
        equation 1), ``exponential``: the share of weights that stay falls by the same
        factor in each epoch, ``multistep``: at given epochs, or ``adaptive``: whenever
        learned masks have reached the last one.
    power : float
        Of ``polynomial``.
    epochs : int or None
        At the start of which epoch, counted from 0, the final share is reached; None:
        after three quarters of the training.
    steps : tuple of int
        Of ``multistep``: the epochs.
    levels : tuple of float
        Of ``multistep``: the share from the start, and from each of ``steps``.
    step, margin : float
        Of ``adaptive``: how far the share rises at once, and how near the masks have
        to come to it before.
    every : int or None
        Masks are chosen anew after so many steps; None: at the start of each epoch.
    """

    curve: Annotated[str, OneOf(lambda: CURVES)] = "polynomial"
    power: Positive = 3.0
    epochs: Optional[CountOrZero] = None
    steps: Tuple[Count, ...] = ()
    levels: Tuple[Level, ...] = ()
    step: Step = 0.05
    margin: Step = 0.03
    every: Optional[Count] = None

    def check(self) -> None:
        """Check that a multistep curve has a level for each part."""
        is_stepped = self.curve == "multistep"
        ascending = all(a < b for a, b in zip(self.steps, self.steps[1:]))
        if bool(self.steps) != is_stepped or not ascending:
            allowed = "ascending epochs with the curve 'multistep', else none"
            raise self.error("steps", allowed)
        count = len(self.steps) + 1 if is_stepped else 0
        if len(self.levels) != count:
            raise self.error("levels", f"{count} shares, one more than steps")

    def reached(self, epochs: int) -> float:
        """Return the epoch of a training at which the final share is reached."""
        if self.curve == "multistep":
            return float(self.steps[-1])
        if self.epochs is not None:
            return float(self.epochs)
        return 0.75 * epochs if self.every else float(3 * epochs // 4)


class SparsitySettings(Settings):
    """How a net becomes sparse.

    Parameters
    ----------
    method : str
        ``magnitude``: the smallest weights become zero; ``learned``: a mask is drawn at
        every step with probabilities that are trained, and pulled to the share of zeros
        (regularisation-based sparsity, after Louizos et al. 2018); ``keep``: what is
        zero now stays so.
    level : float or None
        The share of zeros in the end; None with a ``pattern``, which has its own, and
        with ``keep``.
    initial : float
        The share of zeros at the start.
    pattern : str or None
        ``N:M``, such as ``2:4``: of M neighbouring input channels N stay, at each place
        of the kernel; None: any weights.
    scope : str
        ``net``: the share is that of all layers together; ``layer``: of each layer.
    normalised : bool
        With ``net``: weights are compared as shares of the norm of their layer.
    target, ignored : tuple of str
        Patterns of the layers that become sparse, and of those that do not.
    growth : Growth
        How the share of zeros grows in training.
    weight : float
        With ``learned``: of the term of the loss that pulls to the share of zeros.
    rate : float
        With ``learned``: the learning rate of logits, as a multiple of that of weights
        times the number of weights, by which the gradients of logits are small.
    certainty : float
        With ``learned``: the probability of each weight at the start.
    """

    method: Literal["magnitude", "learned", "keep"] = "magnitude"
    level: Optional[Level] = None
    initial: Level = 0.0
    pattern: Optional[NonEmptyStr] = None
    scope: Literal["net", "layer"] = "net"
    normalised: bool = True
    target: Annotated[Tuple[NonEmptyStr, ...], Field(min_length=1)] = ("*",)
    ignored: Tuple[NonEmptyStr, ...] = ()
    growth: Growth = Growth()
    weight: Positive = 1.0
    rate: Positive = 0.02
    certainty: Step = 0.9

    def check(self) -> None:
        """Check that exactly one key says how many zeros there are in the end."""
        if self.pattern is not None:
            self._check_pattern()
        elif (self.level is None) != (self.method == "keep"):
            allowed = "null with method 'keep', else a share of zeros or a pattern"
            raise self.error("level", allowed)
        if self.initial > self.final:
            raise self.error("initial", f"up to the level, {self.final:g}")
        is_adaptive = self.growth.curve == "adaptive"
        if is_adaptive and self.method != "learned":
            raise self.error("growth.curve", "another with method " + self.method)
        if self.growth.levels and self.growth.levels[-1] != self.final:
            raise self.error("growth.levels", f"the last one {self.final:g}, the level")

    def _check_pattern(self) -> None:
        pair = re.fullmatch(r"(\d{1,2}):(\d{1,2})", self.pattern or "")
        if pair is None or not 0 < int(pair[1]) < int(pair[2]):
            raise self.error("pattern", "N:M with 0 < N < M < 100, such as 2:4")
        if self.level is not None:
            raise self.error("level", f"null with the pattern {self.pattern}")
        if self.method != "magnitude":
            raise self.error("pattern", "null with method " + self.method)

    @property
    def blocks(self) -> Optional[Tuple[int, int]]:
        """N and M of the pattern."""
        if self.pattern is None:
            return None
        kept, size = self.pattern.split(":")
        return int(kept), int(size)

    @property
    def final(self) -> float:
        """The share of zeros in the end; with ``keep`` it is not known here."""
        if self.blocks is not None:
            return 1 - self.blocks[0] / self.blocks[1]
        return self.level or 0.0
