"""How the sum of a net's blocks becomes the time of the net, fitted to a few nets.

Blocks are timed one by one, again and again. In a net each runs once: its weights come
from memory, its input may be in another layout than the block before has written, and
the runtime has work of its own for each net. A table of a runtime therefore also has
the times of a few whole nets, measured with it. Four factors are fitted to them, by
least squares of the relative errors:

    time = layers * L + others * O + per_weight * W + per_net

L is the sum of the blocks with weights and O that of the others, W the number of
weights. The prior is the plain sum (1, 1, 0, 0), so that few nets change little; none
is below zero, so that no net becomes faster by more channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

# What the fit may cost: relative errors, squared, for a factor that is 1 off the prior.
TRUST = 0.01
LEAST = 0.5  # of the factors of blocks


@dataclass(frozen=True)
class Correction:
    """Factors of sums, and what is added per weight and net, in nanoseconds."""

    layers: float = 1.0
    others: float = 1.0
    per_weight: float = 0.0
    per_net: float = 0.0

    def nanoseconds(self, layers: float, others: float, weights: float) -> float:
        """Return the time of a net with these sums (nanoseconds) and weights."""
        sums = self.layers * layers + self.others * others
        return sums + self.per_weight * weights + self.per_net


def fitted(sums: Sequence[Sequence[float]], measured: Sequence[float]) -> Correction:
    """Return the correction that fits nets best.

    Parameters
    ----------
    sums : sequence of (float, float, float)
        Of each net: blocks with weights and others, in nanoseconds, and its weights.
    measured : sequence of float
        Nanoseconds.
    """
    if not len(measured):
        return Correction()
    table, times = np.asarray(sums, float), np.asarray(measured, float)
    # One unit of each factor is about the time of the nets.
    scale = np.array(
        [1, 1, times.mean() / max(table[:, 2].mean(), 1), times.mean()], float
    )
    rows = np.column_stack([table, np.ones(len(times))]) * scale / times[:, None]
    prior, least = np.array([1, 1, 0, 0.0]), np.array([LEAST, LEAST, 0, 0])
    trust = np.sqrt(TRUST * np.array([1, 1, 1, 1.0]))
    factors = _bounded(
        np.vstack([rows, np.diag(trust)]),
        np.concatenate([np.ones(len(times)), trust * prior]),
        least,
    )
    return Correction(*(float(v) for v in factors * scale))


def _bounded(rows: np.ndarray, wanted: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Return the least squares with lower bounds; at most four unknowns.

    With so few unknowns, every choice of those at their bound can be tried.
    """
    count = len(least)
    best, best_error = least, np.inf
    for choice in range(2**count):
        free = np.array([choice >> k & 1 for k in range(count)], bool)
        factors = least.copy()
        if free.any():
            rest = wanted - rows[:, ~free] @ least[~free]
            factors[free] = np.linalg.lstsq(rows[:, free], rest, rcond=None)[0]
        error = float(((rows @ factors - wanted) ** 2).sum())
        if (factors >= least - 1e-12).all() and error < best_error:
            best, best_error = factors, error
    return np.maximum(best, least)
