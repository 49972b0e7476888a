"""Sensitivity: the accuracy of a net when one channel group at a time is masked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence, Tuple

import numpy as np
from pydantic import Field
from typing_extensions import Annotated

from gluon_compress.graph import ChannelGroup, Graph
from gluon_compress.plan import Sensitivity
from gluon_compress.plan.constraints import matching
from gluon_compress.plan.importance import best_first, importance_of
from gluon_compress.prune.masks import mask
from gluon_compress.prune.slimming import traced
from gluon_compress.prune.taylor_importance import gates_of, keep_only
from gluon_compress.validation import Count, Settings, Share

RATIOS = (0.75, 0.5, 0.25)


class SensitivitySettings(Settings):
    """How the sensitivity of channel groups is measured in a pruning stage.

    Parameters
    ----------
    images : int
        Training images that accuracy is measured on; drawn by the seed, not augmented.
    ratios : tuple of float
        Shares of its channels that each group is measured with.
    """

    images: Count = 512
    ratios: Annotated[Tuple[Share, ...], Field(min_length=1)] = RATIOS


def sensitivity(
    net: Any,
    accuracy: Callable[[Any], float],
    *,
    ratios: Sequence[float] = RATIOS,
    criterion: str | Mapping[str, Sequence] = "l1",
    groups: Sequence[str] = ("*",),
    cache: Any = None,
    shape: Any = None,
    graph: Graph | None = None,
    seed: int = 0,
) -> Sensitivity:
    """Measure the accuracy of a net with each group masked at several widths.

    The net is masked once; a measurement only changes the values of a mask. It costs
    one call of ``accuracy``, and there are groups x ratios of them and one more: a
    few hundred samples are usually enough. The idea is Li et al. 2017, section 3.2.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Left as it is.
    accuracy : callable
        ``accuracy(net) -> float`` from 0, the more the better: top-1, mAP. It is called
        with one and the same masked net every time, and must not train it.
    ratios : sequence of float
        Shares of the channels that are kept, each above 0 and below 1; rounded down to
        whole numbers, one at least, and equal numbers are measured once.
    criterion : str or mapping
        Which channels go first, as for ``select``.
    groups : sequence of str
        Patterns of the groups that are measured.
    cache : path, optional
        Of a JSON file that is written after every group. If it is there, what it holds
        is not measured again. ``accuracy`` and its data are not part of what it is
        compared by: with others, use another file.
    shape, graph
        As for ``slim``.
    seed : int
        For the criterion ``random``.

    Returns
    -------
    Sensitivity
        For ``select(..., selection=BySensitivity(...))`` with the same criterion.

    Raises
    ------
    ValueError
        If a ratio is wrong, an accuracy is not a number from 0, a pattern fits no
        group, the net has no values, or the cache is of another net, criterion or
        ratios.
    """
    ratios = _checked(ratios)
    graph = traced(net, None, shape, graph)
    worth, chosen = importance_of(graph, criterion, seed), matching(graph, groups)
    name = criterion if isinstance(criterion, str) else "given"
    mark = fingerprint(graph, [name, ratios], worth)
    found = _cached(cache, mark)
    masked = mask(net, None, graph=graph)
    gates = gates_of(masked)
    if found is None:
        found = Sensitivity(accuracy(masked), {}, {}, name, mark)
        _store(found, cache)
    for group in graph.groups:
        if group.name not in chosen or group.name in found.curves:
            continue
        gate, points = gates[group.name], []
        order = best_first(range(group.width), worth[group.name])
        for count in _counts(group, ratios):
            keep_only(gate, order[:count])
            points.append((count, accuracy(masked)))
        keep_only(gate, order)
        found = _with(found, group, points)
        _store(found, cache)
    return found


def fingerprint(graph: Graph, how: Any, worth: Mapping[str, np.ndarray]) -> str:
    """Return a sum of a net's structure and values and of what is asked of it.

    Names are not part of it: they depend on what else the process has built.

    Parameters
    ----------
    graph : Graph
    how : JSON value
    worth : mapping
        Group to worth.
    """
    total = hashlib.sha256()
    for node in graph.nodes:
        # Notes for MXNet itself; an initialiser may be named by an address.
        attrs = {k: v for k, v in node["attrs"].items() if not k.startswith("__")}
        # The third number of an entry counts how often the symbol was called.
        inputs = [entry[:2] for entry in node["inputs"]]
        row = [node["op"], sorted(attrs.items()), inputs]
        total.update(json.dumps(row).encode())
        value = graph.params.get(node["name"])
        if node["op"] == "null" and value is not None:
            total.update(f"{value.shape} {value.dtype}".encode())
            total.update(value.asnumpy().tobytes())
    for value in graph.annotated.params.values():
        total.update(f"{value.shape} {value.dtype}".encode())
        total.update(value.asnumpy().tobytes())
    heads = [head[:2] for head in graph.heads]
    shapes = [list(shape) for shape in graph.inputs.values()]
    total.update(json.dumps([heads, shapes, how]).encode())
    for group, values in worth.items():
        total.update(group.encode() + np.asarray(values, float).tobytes())
    return total.hexdigest()


def _checked(ratios: Sequence[float]) -> list[float]:
    for ratio in ratios:
        number = isinstance(ratio, (int, float, np.floating))
        if not number or not 0 < ratio < 1:
            raise ValueError(f"ratio {ratio!r}; allowed: above 0 and below 1")
    if not len(ratios):
        raise ValueError("ratios are empty; allowed: at least one above 0 and below 1")
    return sorted(map(float, ratios), reverse=True)


def _cached(cache: Any, mark: str) -> Sensitivity | None:
    if cache is None or not Path(cache).exists():
        return None
    found = Sensitivity.load(cache)
    if found.fingerprint != mark:
        raise ValueError(
            f"{cache}: measured on another net, criterion or ratios; remove the file "
            "or name another"
        )
    return found


def _store(found: Sensitivity, cache: Any) -> None:
    if cache is not None:
        found.save(cache)


def _counts(group: ChannelGroup, ratios: Sequence[float]) -> list[int]:
    """Return the numbers of indices to keep, the largest first."""
    counts = {max(int(ratio * group.width + 1e-9), 1) for ratio in ratios}
    return sorted(counts, reverse=True)


def _with(found: Sensitivity, group: ChannelGroup, points: list) -> Sensitivity:
    """Return what is known with the curve of one more group."""
    widths = {**found.widths, group.name: group.width}
    return replace(found, widths=widths, curves={**found.curves, group.name: points})
