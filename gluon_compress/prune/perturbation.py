"""Measures how much a net's outputs change when part of one group is masked."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Sequence

import numpy as np

from gluon_compress.graph import Graph, block_of, pair_of
from gluon_compress.plan.importance import best_first, importance_of
from gluon_compress.prune.masks import mask
from gluon_compress.prune.slimming import traced
from gluon_compress.prune.taylor_importance import arrays_for, gates_of, keep_only

KEPT_SHARE = 0.5


def output_sensitivity(
    net: Any,
    batches: Iterable,
    *,
    criterion: str | Mapping[str, Sequence] = "l1",
    kept: float = KEPT_SHARE,
    shape: Any = None,
    graph: Graph | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Return how much each group affects the outputs of a net, for ``select``.

    Some groups hardly matter in a net, others carry everything, and no norm of their
    own weights shows which. So the least important channels of one group at a time are
    masked; the effect is the mean squared change of the outputs relative to their
    variance over the samples. No training and no labels are needed. Effects differ by
    orders of magnitude, so a few dozen samples suffice.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Not changed. The outputs of a detector are those of the raw head.
    batches : iterable
        Arrays of images, or tuples whose first element is one.
    criterion : str or mapping
        Which channels are masked, as for ``select``.
    kept : float
        Share of a group's channels that stay, above 0 and below 1.
    shape, graph
        As for ``slim``.
    seed : int
        For the criterion ``random``.

    Returns
    -------
    dict
        Group to effect, at least 0, of groups that can lose channels.

    Raises
    ------
    ValueError
        If ``kept`` is out of range, there are fewer than two samples, an output is not
        finite, all outputs are the same for every sample, or the criterion is wrong.
    """
    if not 0 < kept < 1:
        raise ValueError(f"kept is {kept!r}; allowed: above 0 and below 1")
    graph = traced(net, None, shape, graph)
    importance = importance_of(graph, criterion, seed)
    block = block_of(*pair_of(mask(net, None, graph=graph)))
    block.hybridize(static_alloc=True, static_shape=True)
    gates = gates_of(block)
    if not gates:
        return {}
    first = (b[0] if isinstance(b, (tuple, list)) else b for b in batches)
    images = [arrays_for(block, [batch])[0] for batch in first]
    reference = _outputs(block, images)
    variances = _variances(reference)
    effects = {}
    for group in graph.groups:
        if group.frozen:
            continue
        order = best_first(range(group.width), importance[group.name])
        keep_only(gates[group.name], order[: max(int(kept * group.width), 1)])
        outputs = _outputs(block, images)
        effects[group.name] = _change(reference, outputs, variances, group.name)
        keep_only(gates[group.name], order)
    return effects


def _outputs(block: Any, images: Sequence) -> list[np.ndarray]:
    """Return the outputs of a net for all images, one array for each output."""
    rows: list[list] = []
    for batch in images:
        outputs = block(batch)
        several = isinstance(outputs, (list, tuple))
        rows.append([o.asnumpy() for o in (outputs if several else [outputs])])
    return [np.concatenate(parts).astype(np.float64) for parts in zip(*rows)]


def _variances(outputs: Sequence[np.ndarray]) -> list[float]:
    """Return the variance of each output over the samples."""
    if not outputs or len(outputs[0]) < 2:
        raise ValueError("output sensitivity needs at least two samples")
    variances = [float(np.square(o - o.mean(axis=0)).mean()) for o in outputs]
    if not np.isfinite(variances).all():
        raise ValueError("an output of the net is not finite")
    if not any(variances):
        raise ValueError("the net's outputs are the same for every sample")
    return variances


def _change(
    reference: Sequence[np.ndarray],
    outputs: Sequence[np.ndarray],
    variances: Sequence[float],
    group: str,
) -> float:
    """Return the mean over outputs of their squared change over their variance."""
    shares = [
        np.square(b - a).mean() / variance
        for a, b, variance in zip(reference, outputs, variances)
        if variance > 0
    ]
    if not np.isfinite(shares).all():
        raise ValueError(f"an output is not finite with part of group {group!r} masked")
    # Six digits, so that rounding errors of sums do not change plans.
    return float(f"{np.mean(shares):.6g}")
