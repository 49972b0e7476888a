"""How far a net's outputs move when half of one channel group is masked."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Sequence

import numpy as np

from gluon_compress.graph import Graph, block_of, pair_of
from gluon_compress.plan.importance import best_first, importance_of
from gluon_compress.prune.masks import mask
from gluon_compress.prune.slimming import traced
from gluon_compress.prune.taylor_importance import arrays_for, gates_of, keep_only

KEPT = 0.5


def output_sensitivity(
    net: Any,
    batches: Iterable,
    *,
    criterion: str | Mapping[str, Sequence] = "l1",
    kept: float = KEPT,
    shape: Any = None,
    graph: Graph | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Return how much each group changes what a net puts out, for ``select``.

    Some groups do next to nothing in a net, others carry everything, and no norm of a
    group's own weights tells which. So one group at a time loses its least important
    channels, and its effect is the mean squared change of the outputs as a share of
    their variance over the samples. Nothing is trained and no labels are needed; a few
    dozen samples tell groups apart whose effects differ by orders of magnitude.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Left as it is; of a detector, the outputs are those of the raw head.
    batches : iterable
        Arrays of images, or tuples that begin with one.
    criterion : str or mapping
        Which channels go, as for ``select``.
    kept : float
        Share of a group's channels that stay, above 0 and below 1.
    shape, graph
        As for ``slim``.
    seed : int
        For the criterion ``random``.

    Returns
    -------
    dict
        Group to effect, 0 or more; groups that cannot lose channels are left out.

    Raises
    ------
    ValueError
        If ``kept`` is out of range, there are fewer than two samples, an output is not
        finite or all of them are the same for every sample, or the criterion is wrong.
    """
    if not 0 < kept < 1:
        raise ValueError(f"kept is {kept!r}; allowed: above 0 and below 1")
    graph = traced(net, None, shape, graph)
    worth = importance_of(graph, criterion, seed)
    block = block_of(*pair_of(mask(net, None, graph=graph)))
    block.hybridize(static_alloc=True, static_shape=True)
    gates = gates_of(block)
    if not gates:
        return {}
    first = (b[0] if isinstance(b, (tuple, list)) else b for b in batches)
    images = [arrays_for(block, [batch])[0] for batch in first]
    whole = _outputs(block, images)
    spread = _spread(whole)
    found = {}
    for group in graph.groups:
        if group.frozen:
            continue
        order = best_first(range(group.width), worth[group.name])
        stay = order[: max(int(kept * group.width), 1)]
        keep_only(gates[group.name], stay)
        found[group.name] = _change(whole, _outputs(block, images), spread, group.name)
        keep_only(gates[group.name], order)
    return found


def _outputs(block: Any, images: Sequence) -> list[np.ndarray]:
    """Return what a net puts out for all images, each output in one array."""
    rows: list[list] = []
    for batch in images:
        outputs = block(batch)
        many = isinstance(outputs, (list, tuple))
        rows.append([o.asnumpy() for o in (outputs if many else [outputs])])
    return [np.concatenate(parts).astype(np.float64) for parts in zip(*rows)]


def _spread(outputs: Sequence[np.ndarray]) -> list[float]:
    """Return the variance of each output over the samples."""
    if not outputs or len(outputs[0]) < 2:
        raise ValueError("output sensitivity needs at least two samples")
    spread = [float(np.square(o - o.mean(axis=0)).mean()) for o in outputs]
    if not np.isfinite(spread).all():
        raise ValueError("an output of the net is not finite")
    if not any(spread):
        raise ValueError("the net puts out the same for every sample")
    return spread


def _change(
    whole: Sequence[np.ndarray],
    now: Sequence[np.ndarray],
    spread: Sequence[float],
    group: str,
) -> float:
    """Return the mean over outputs of their squared change over their variance."""
    shares = [
        np.square(b - a).mean() / variance
        for a, b, variance in zip(whole, now, spread)
        if variance > 0
    ]
    if not np.isfinite(shares).all():
        raise ValueError(f"an output is not finite with part of group {group!r} masked")
    # Six digits: the last bits of a sum of floats are no reason to plan otherwise.
    return float(f"{np.mean(shares):.6g}")
