"""Targets of classifiers: label smoothing and mixup."""

from __future__ import annotations

from typing import Sequence

import numpy as np


class ClassTargets:
    """Turns class ids into the probabilities that a classifier learns.

    Parameters
    ----------
    classes : int
    smoothing : float
        Probability that is spread evenly over all classes (Szegedy et al. 2016,
        section 7).
    """

    def __init__(self, classes: int, *, smoothing: float = 0.0) -> None:
        self.classes, self.smoothing = classes, smoothing

    def __call__(self, labels: Sequence[int]) -> tuple[np.ndarray]:
        """Return one float32 array ``(B, classes)`` whose rows sum to 1.

        Raises
        ------
        ValueError
            For a class id that is out of range.
        """
        ids = np.asarray(labels, int)
        unknown = ids[(ids < 0) | (ids >= self.classes)]
        if len(unknown):
            raise ValueError(
                f"a label has class {unknown[0]}; allowed: 0 to {self.classes - 1}"
            )
        low = self.smoothing / self.classes
        out = np.full((len(ids), self.classes), low, np.float32)
        out[np.arange(len(ids)), ids] += 1 - self.smoothing
        return (out,)


class Mixup:
    """Mixes every image of a batch, and its target, with another one.

    Zhang et al. 2018, section 2. As in GluonCV's ImageNet training, a batch has one
    mixing share and is mixed with itself in reversed order.

    Parameters
    ----------
    alpha : float
        Parameter of the Beta distribution that the share is drawn from, above 0.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def __call__(self, arrays: Sequence[np.ndarray], rng: np.random.Generator) -> tuple:
        """Return images ``(B, 3, H, W)`` and targets ``(B, classes)``, mixed."""
        share = np.float32(rng.beta(self.alpha, self.alpha))
        return tuple(share * a + (1 - share) * a[::-1] for a in arrays)

    @staticmethod
    def closure(rows: Sequence[int], size: int) -> list[int]:
        """Return the rows of a batch that give these when they are mixed alone."""
        return sorted({*rows, *(size - 1 - row for row in rows)})
