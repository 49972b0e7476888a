"""Masks of weights: which weights stay, and what is written into the symbol."""

from __future__ import annotations

from typing import Dict, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph.annotations import (
    WEIGHT_MASK,
    AnnotationParameter,
    NewAnnotation,
)
from gluon_compress.sparsity.settings import SparsitySettings

MASK = "mask"  # role of the parameter of a fixed mask
LOGIT, NOISE = "logit", "noise"  # roles of those of a learned one
Masks = Dict[str, np.ndarray]


def kept_weights(
    weights: Mapping[str, np.ndarray], settings: SparsitySettings, level: float
) -> Masks:
    """Return which weights stay, as ones and zeros of the weights' shapes.

    Parameters
    ----------
    weights : mapping
        Values by name.
    settings : SparsitySettings
    level : float
        The share of zeros.

    Notes
    -----
    Shares are rounded to whole weights. Every layer keeps at least its largest weight.
    """
    if settings.method == "keep":
        return {name: _as_mask(value != 0) for name, value in weights.items()}
    if settings.blocks is not None:
        size = settings.blocks[1]
        return {name: _by_blocks(v, size, level) for name, v in weights.items()}
    scores = {name: np.abs(value) for name, value in weights.items()}
    if settings.scope == "net" and settings.normalised:
        scores = {name: v / max(_norm(v), 1e-30) for name, v in scores.items()}
    return largest(scores, level, apart=settings.scope == "layer")


def largest(scores: Mapping[str, np.ndarray], level: float, *, apart: bool) -> Masks:
    """Return masks of the largest scores of each array, or of all together.

    Parameters
    ----------
    scores : mapping
    level : float
        The share of zeros.
    apart : bool
        Whether each array has this share.
    """
    if apart:
        return {n: largest({n: s}, level, apart=False)[n] for n, s in scores.items()}
    flat = np.concatenate([score.reshape(-1) for score in scores.values()])
    count = min(int(round(level * flat.size)), flat.size - 1)
    mask = np.ones(flat.size, np.float32)
    if count:
        mask[np.argpartition(flat, count - 1)[:count]] = 0
    result, place = {}, 0
    for name, score in scores.items():
        part = mask[place : place + score.size]
        if not part.any():
            part[np.argmax(score)] = 1
        result[name] = part.reshape(score.shape)
        place += score.size
    return result


def fits_blocks(shape: Sequence[int], size: int) -> bool:
    """Return whether input channels of a weight fall into blocks of a size."""
    return len(shape) > 1 and shape[1] % size == 0


def _by_blocks(weight: np.ndarray, size: int, level: float) -> np.ndarray:
    """Return a mask with equally many zeros in each block of input channels."""
    zeros = int(level * size + 1e-6)
    moved = np.moveaxis(np.abs(weight), 1, -1)
    blocks = moved.reshape(-1, size)
    mask = np.ones(blocks.shape, np.float32)
    order = np.argsort(blocks, axis=1, kind="stable")
    np.put_along_axis(mask, order[:, :zeros], 0, axis=1)
    return np.ascontiguousarray(np.moveaxis(mask.reshape(moved.shape), -1, 1))


def _as_mask(kept: np.ndarray) -> np.ndarray:
    return kept.astype(np.float32)


def _norm(value: np.ndarray) -> float:
    return float(np.sqrt(np.square(value, dtype=np.float64).sum()))


# Annotations.


def _masked(x: mx.sym.Symbol, **parameters: mx.sym.Symbol) -> mx.sym.Symbol:
    return mx.sym.elemwise_mul(x, parameters[MASK])


def fixed_mask(mask: np.ndarray) -> NewAnnotation:
    """Return the annotation that multiplies a weight by ones and zeros."""
    return NewAnnotation(WEIGHT_MASK, _masked, {MASK: _of_weight(mask)})


def learned_mask(shape: Sequence[int], certainty: float) -> NewAnnotation:
    """Return the annotation that multiplies a weight by a mask that is drawn.

    A weight stays where its logit is above the noise. In training the noise is drawn
    from the logistic distribution, so that it stays with the probability
    ``sigmoid(logit)``; at rest it is zero, so that the more probable is chosen. The
    gradient passes as if the mask were the probability (straight through).

    Parameters
    ----------
    shape : sequence of int
        Of the weight.
    certainty : float
        Probability of each weight at the start.
    """
    logit = float(np.log(certainty / (1 - certainty)))
    parameters = {
        LOGIT: _of_weight(np.full(shape, logit, np.float32), trained=True),
        NOISE: _of_weight(np.zeros(shape, np.float32)),
    }
    return NewAnnotation(WEIGHT_MASK, _drawn, parameters)


def _drawn(x: mx.sym.Symbol, **parameters: mx.sym.Symbol) -> mx.sym.Symbol:
    probability = mx.sym.sigmoid(parameters[LOGIT])
    drawn = mx.sym.broadcast_greater(parameters[LOGIT], parameters[NOISE])
    mask = probability + mx.sym.BlockGrad(drawn - probability)
    return mx.sym.elemwise_mul(x, mask)


def _of_weight(value: np.ndarray, *, trained: bool = False) -> AnnotationParameter:
    axes = tuple(range(value.ndim))
    return AnnotationParameter(mx.nd.array(value), axes, trained=trained)
