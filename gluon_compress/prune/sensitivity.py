"""Measures the accuracy of a net with one channel group masked at a time."""

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
from gluon_compress.plan import Plan, Sensitivity
from gluon_compress.plan.constraints import matching
from gluon_compress.plan.importance import best_first, importance_of
from gluon_compress.prune.plan_score import PlanScore
from gluon_compress.prune.slimming import traced
from gluon_compress.validation import Count, Settings, Share

RATIOS = (0.75, 0.5, 0.25)


class SensitivitySettings(Settings):
    """How the sensitivity of channel groups is measured in a pruning stage.

    Parameters
    ----------
    images : int
        Number of training images to measure on; drawn by the seed, not augmented.
    ratios : tuple of float
        The shares of channels at which each group is measured.
    """

    images: Count = 512
    ratios: Annotated[Tuple[Share, ...], Field(min_length=1)] = RATIOS


def sensitivity(
    net: Any,
    accuracy: Callable[[Any], float] | None = None,
    *,
    score: Callable[[Plan], float] | None = None,
    ratios: Sequence[float] = RATIOS,
    criterion: str | Mapping[str, Sequence] = "l1",
    groups: Sequence[str] = ("*",),
    cache: Any = None,
    shape: Any = None,
    graph: Graph | None = None,
    seed: int = 0,
) -> Sensitivity:
    """Measure the accuracy of a net with each group masked at several widths.

    The net is masked once; each measurement changes the values of a mask and calls
    ``accuracy``, groups x ratios + 1 times. A few hundred samples are usually enough.
    See Li et al. 2017, section 3.2.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Not changed.
    accuracy : callable
        ``accuracy(net) -> float``, at least 0, higher being better: top-1, mAP. It is
        called with the same masked net every time, and must not train it.
    score : callable, optional
        ``score(plan) -> float``, instead of ``accuracy``: that of this net with a
        plan's masks. If it has a method ``expect(plans)``, that is told in advance
        which plans will come, in case it can begin with several.
    ratios : sequence of float
        Shares of channels kept, each above 0 and below 1. They are rounded down to at
        least one channel; equal numbers are measured once.
    criterion : str or mapping
        Which channels are masked first, as for ``select``.
    groups : sequence of str
        Patterns of the groups to measure.
    cache : path, optional
        A JSON file, written after every group. Groups in an existing file are not
        measured again. Its check does not cover ``accuracy`` and its data: use another
        file for others.
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
        If a ratio is not allowed, an accuracy is not a number from 0, a pattern matches
        no group, the net has no values, or the cache is for another net, criterion or
        ratios.
    """
    ratios = _checked(ratios)
    graph = traced(net, None, shape, graph)
    importance, chosen = importance_of(graph, criterion, seed), matching(graph, groups)
    name = criterion if isinstance(criterion, str) else "given"
    mark = fingerprint(graph, [name, ratios], importance)
    result = _cached(cache, mark)
    if score is None:
        if accuracy is None:
            raise ValueError("accuracy and score are None; allowed: one of both")
        score = PlanScore(net, accuracy, graph=graph).measure
    plans = {
        group: {n: _keeping(n, group, importance) for n in _counts(group, ratios)}
        for group in graph.groups
        if group.name in chosen and (not result or group.name not in result.curves)
    }
    expected = [plan for row in plans.values() for plan in row.values()]
    if hasattr(score, "expect"):
        score.expect(expected if result else [Plan({}), *expected])
    if result is None:
        result = Sensitivity(score(Plan({})), {}, {}, name, mark)
        _store(result, cache)
    for group, row in plans.items():
        points = [(count, score(plan)) for count, plan in row.items()]
        result = _with_curve(result, group, points)
        _store(result, cache)
    return result


def fingerprint(
    graph: Graph, settings: Any, importance: Mapping[str, np.ndarray]
) -> str:
    """Return a hash of a net's structure and values, of settings and of importance.

    Names are not included: they depend on what else the process has built.

    Parameters
    ----------
    graph : Graph
    settings : JSON value
    importance : mapping
        Group to importance.
    """
    total = hashlib.sha256()
    for node in graph.nodes:
        # Without MXNet's own notes: the name of an initialiser can be an address.
        attrs = {k: v for k, v in node["attrs"].items() if not k.startswith("__")}
        # Without the third number of an entry, which counts calls of the symbol.
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
    total.update(json.dumps([heads, shapes, settings]).encode())
    for group, values in importance.items():
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
    stored = Sensitivity.load(cache)
    if stored.fingerprint != mark:
        raise ValueError(
            f"{cache}: measured on another net, criterion or ratios; remove the file "
            "or name another"
        )
    return stored


def _store(sensitivity: Sensitivity, cache: Any) -> None:
    if cache is not None:
        sensitivity.save(cache)


def _counts(group: ChannelGroup, ratios: Sequence[float]) -> list[int]:
    """Return the numbers of indices to keep, the largest first."""
    counts = {max(int(ratio * group.width + 1e-9), 1) for ratio in ratios}
    return sorted(counts, reverse=True)


def _keeping(
    count: int, group: ChannelGroup, importance: Mapping[str, np.ndarray]
) -> Plan:
    """Return the plan by which one group keeps so many of its best indices."""
    order = best_first(range(group.width), importance[group.name])
    return Plan({group.name: sorted(int(i) for i in order[:count])})


def _with_curve(
    measured: Sensitivity, group: ChannelGroup, points: list
) -> Sensitivity:
    """Return a sensitivity with the curve of one more group."""
    widths = {**measured.widths, group.name: group.width}
    curves = {**measured.curves, group.name: points}
    return replace(measured, widths=widths, curves=curves)
