"""Outputs of nets: as arrays, and how far those of two nets are apart."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np


def flat(outputs: Any) -> list[np.ndarray]:
    """Return all outputs, however nested, as arrays."""
    if isinstance(outputs, (list, tuple)):
        return [array for part in outputs for array in flat(part)]
    return [outputs.asnumpy()]


def difference(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> float:
    """Return the largest difference of outputs, in units of each one's scale."""
    if not all(np.isfinite(array).all() for array in (*left, *right)):
        raise ValueError("the outputs are not finite")
    # An output may be a constant that is 0 everywhere.
    pairs = zip(left, right)
    return float(max(np.abs(a - b).max() / (np.abs(a).max() or 1) for a, b in pairs))
