"""What a channel is worth: one score per index of every group that can lose some."""

from __future__ import annotations

import zlib
from typing import Callable, Mapping, Sequence

import numpy as np

from gluon_compress.graph import ChannelGroup, Graph
from gluon_compress.graph.context import attribute
from gluon_compress.graph.operators import operator_of


def scores(
    graph: Graph, criterion: str | Mapping[str, Sequence], seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the worth of every index of every group that is not frozen.

    Parameters
    ----------
    graph : Graph
    criterion : str or mapping
        A name in ``CRITERIA``, or group to worth: what ``taylor`` returns.
    seed : int
        For ``random``.

    Raises
    ------
    ValueError
        For an unknown criterion, one that is measured on data, a net without values
        where they are needed or with values that are not finite, or worth that is
        missing, of another length or not finite.
    """
    check_finite(graph)
    if isinstance(criterion, Mapping):
        return {g.name: _given(g, criterion) for g in _free(graph)}
    if criterion in MEASURED:
        raise ValueError(
            f"criterion {criterion!r} needs data: measure with {MEASURED[criterion]} "
            "and give what that returns as the criterion"
        )
    if criterion not in CRITERIA:
        names = ", ".join([*CRITERIA, *MEASURED])
        raise ValueError(f"criterion {criterion!r} is unknown; allowed: {names}")
    if criterion != "random":
        for name, value in graph.params.items():
            if value is None and name in graph.axes:
                raise ValueError(
                    f"criterion {criterion!r} needs values, parameter {name!r} has "
                    "none: initialise or load the net, then trace it"
                )
    return CRITERIA[criterion](graph, seed)


def check_finite(graph: Graph) -> None:
    """Refuse a net with NaN or infinite values: no channel of it can be judged.

    Raises
    ------
    ValueError
        Naming the first such parameter, the value and its index.
    """
    for name, value in graph.params.items():
        if value is None:
            continue
        array = value.asnumpy()
        if not np.isfinite(array).all():
            at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ValueError(
                f"parameter {name!r} holds {array[at]} at {list(at)}; "
                "allowed: finite numbers"
            )


def best_first(kept: Sequence[int], worth: np.ndarray) -> np.ndarray:
    """Return indices by falling worth; of equal ones the first comes first."""
    kept = np.asarray(kept, int)
    return kept[np.argsort(-worth[kept], kind="stable")]


def _given(group: ChannelGroup, worth: Mapping[str, Sequence]) -> np.ndarray:
    if group.name not in worth:
        raise ValueError(f"the criterion has no worth for group {group.name!r}")
    values = np.asarray(worth[group.name], float)
    right = values.shape == (group.width,) and np.isfinite(values).all()
    if not right or (values < 0).any():
        raise ValueError(
            f"the criterion's worth of group {group.name!r} has shape {values.shape}; "
            f"allowed: {group.width} finite numbers from 0"
        )
    return values


def l1(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Mean absolute weight of the filters of a channel (Li et al. 2017, section 3.1).

    Each layer's values are divided by their root mean square, so that layers of
    different size and scale can be compared; a group that several layers produce has
    the mean of theirs.
    """
    return _by_weights(graph, lambda rows: np.abs(rows).mean(axis=1))


def l2(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Root mean square weight of the filters of a channel, normalised as ``l1``."""
    return _by_weights(graph, lambda rows: np.sqrt(np.square(rows).mean(axis=1)))


def bn_scale(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Absolute BatchNorm scale (Liu et al. 2017, section 3), mean over its layers.

    It is the spread of a channel behind the normalisation, on one scale for layers of
    any size and depth, and so is not divided by a layer's own: training may have made
    all of a layer small. Groups without a trained scale have their ``l2`` worth times
    the mean scale of the others.
    """
    gathered = _gather(graph, _scales(graph))
    found = {name: np.mean(rows, axis=0) for name, rows in gathered.items() if rows}
    usual = np.mean(np.concatenate(list(found.values()))) if found else 1.0
    rest = l2(graph, seed) if len(found) < len(gathered) else {}
    return {n: found[n] if n in found else usual * rest[n] for n in gathered}


def bn_l1(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Product of ``bn_scale`` and ``l1``: a small scale mutes even a large filter."""
    scale, weight = bn_scale(graph, seed), l1(graph, seed)
    return {name: scale[name] * weight[name] for name in weight}


def median(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Mean distance of a channel's filter from the others of its layer.

    Filters near the geometric median of all can be replaced by the others (FPGM: He
    et al. 2019, equation 4). Normalised as ``l1``.
    """
    return _by_weights(graph, _distances)


def _distances(rows: np.ndarray) -> np.ndarray:
    squares = np.square(rows).sum(axis=1)
    between = squares[:, None] + squares - 2 * rows @ rows.T
    return np.sqrt(np.maximum(between, 0)).mean(axis=1)


def random(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Evenly distributed numbers; a group's depend on its name and the seed only."""
    result = {}
    for group in _free(graph):
        state = zlib.crc32(f"{seed}:{group.name}".encode())
        result[group.name] = np.random.RandomState(state).rand(group.width)
    return result


CRITERIA: dict[str, Callable[[Graph, int], dict[str, np.ndarray]]] = {
    "l1": l1,
    "l2": l2,
    "bn_scale": bn_scale,
    "bn_l1": bn_l1,
    "median": median,
    "random": random,
}
# Criteria that need a net and data, and where they are measured.
MEASURED: dict[str, str] = {"taylor": "prune.taylor(net, batches, step_loss)"}


def _free(graph: Graph) -> list[ChannelGroup]:
    return [group for group in graph.groups if not group.frozen]


def _by_weights(graph: Graph, measure: Callable) -> dict[str, np.ndarray]:
    """Return the mean over a group's producers of each one's normalised measure."""
    layers = []
    for name, axis in _weights(graph).items():
        weight = graph.params[name].asnumpy().astype(np.float64)
        values = measure(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1))
        scale = np.sqrt(np.square(values).mean())
        layers.append((name, axis, values / scale if scale > 0 else values))
    return {n: np.mean(rows, axis=0) for n, rows in _gather(graph, layers).items()}


def _weights(graph: Graph) -> dict[str, int]:
    """Return the weights that produce channels, and the axis of these."""
    found = {}
    for node in graph.nodes:
        operator = operator_of(node["op"])
        if operator.weight_input is not None:
            weight = graph.nodes[node["inputs"][operator.weight_input][0]]
            if weight["op"] == "null" and weight["name"] in graph.axes:
                axes = [tensor.axis for tensor in graph.axes[weight["name"]]]
                found[weight["name"]] = max(axes) if operator.weight_axis else 0
    return found


def _scales(graph: Graph) -> list[tuple]:
    """Return the trained scales of normalisation layers."""
    found = []
    for node in graph.nodes:
        operator = operator_of(node["op"])
        if not operator.normalizes or len(node["inputs"]) < 2:
            continue
        gamma = graph.nodes[node["inputs"][1][0]]["name"]
        fixed = attribute(node["attrs"], "fix_gamma", operator.running_statistics)
        if not fixed and gamma in graph.axes:
            values = np.abs(graph.params[gamma].asnumpy().astype(np.float64))
            found.append((gamma, 0, values))
    return found


def _gather(graph: Graph, layers: list[tuple]) -> dict[str, list[np.ndarray]]:
    """Return, per group, the rows of worth that layers give to its indices.

    An index that stands for several channels has their mean.
    """
    result: dict[str, list] = {group.name: [] for group in _free(graph)}
    for name, axis, values in layers:
        places = [t.places for t in graph.axes[name] if t.axis == axis]
        if not places:
            continue
        total = len(graph.alive({}))
        known = places[0] >= 0
        sums = np.bincount(places[0][known], values[known], minlength=total)
        counts = np.bincount(places[0][known], minlength=total)
        for group in _free(graph):
            own = graph.places(group)
            if counts[own].all():
                result[group.name].append(sums[own] / counts[own])
    return result
