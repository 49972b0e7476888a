"""Importance criteria: one score for each index of every group that is not frozen."""

from __future__ import annotations

import zlib
from typing import Callable, Mapping, Sequence

import numpy as np

from gluon_compress.graph import ChannelGroup, Graph
from gluon_compress.graph.context import attribute
from gluon_compress.graph.operators import operator_of


def importance_of(
    graph: Graph, criterion: str | Mapping[str, Sequence], seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the importance of every index of every group that is not frozen.

    Parameters
    ----------
    graph : Graph
    criterion : str or mapping
        A name in ``CRITERIA``, or group to the importance of its indices, as
        ``prune.taylor`` returns it.
    seed : int
        For ``random``.

    Returns
    -------
    dict
        Group to importance ``(width,)``, 0 or more.

    Raises
    ------
    ValueError
        If the criterion is unknown or must be measured on data, the net has no values
        where they are needed or values that are not finite, or the importance of a
        group is missing, of another length or not finite.
    """
    check_finite(graph)
    if isinstance(criterion, Mapping):
        return {group.name: _checked(group, criterion) for group in _free(graph)}
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
    """Refuse a net with NaN or infinite values, which cannot be ranked.

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
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ValueError(
                f"parameter {name!r} holds {array[index]} at {list(index)}; "
                "allowed: finite numbers"
            )


def best_first(indices: Sequence[int], importance: np.ndarray) -> np.ndarray:
    """Return indices by falling importance; equals keep their order.

    Parameters
    ----------
    indices : sequence of int
    importance : ndarray
        Of all indices of the group, ``(width,)``.
    """
    array = np.asarray(indices, int)
    return array[np.argsort(-importance[array], kind="stable")]


def _checked(group: ChannelGroup, importance: Mapping[str, Sequence]) -> np.ndarray:
    """Return a group's importance from a mapping."""
    if group.name not in importance:
        raise ValueError(f"the criterion has no importance for group {group.name!r}")
    values = np.asarray(importance[group.name], float)
    finite = values.shape == (group.width,) and np.isfinite(values).all()
    if not finite or (values < 0).any():
        raise ValueError(
            f"the criterion's importance of group {group.name!r} has shape "
            f"{values.shape}; allowed: {group.width} finite numbers from 0"
        )
    return values


def l1(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Mean absolute weight of the filters of a channel (Li et al. 2017, section 3.1).

    The values of each layer are divided by their root mean square, so that layers of
    different size and scale can be compared. A group that several layers produce gets
    the mean over these layers.
    """
    return _by_weights(graph, lambda rows: np.abs(rows).mean(axis=1))


def l2(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Root mean square weight of the filters of a channel, normalised as ``l1``."""
    return _by_weights(graph, lambda rows: np.sqrt(np.square(rows).mean(axis=1)))


def bn_scale(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Absolute BatchNorm scale (Liu et al. 2017, section 3), mean over its layers.

    This is the spread of a channel after the normalisation. It is comparable between
    layers of any size and depth, so it is not divided by a layer's root mean square:
    training may have made a whole layer small. Groups without a trained scale get their
    ``l2`` importance times the mean scale of the others.
    """
    rows_of_groups = _gather(graph, _scales(graph))
    scales = {n: np.mean(rows, axis=0) for n, rows in rows_of_groups.items() if rows}
    if len(scales) == len(rows_of_groups):
        return scales
    mean_scale = np.mean(np.concatenate(list(scales.values()))) if scales else 1.0
    weights = l2(graph, seed)
    return {
        name: scales[name] if name in scales else mean_scale * weights[name]
        for name in rows_of_groups
    }


def bn_l1(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Product of ``bn_scale`` and ``l1``: a small scale mutes even a large filter."""
    scales, weights = bn_scale(graph, seed), l1(graph, seed)
    return {name: scales[name] * weights[name] for name in weights}


def median(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Mean distance of a channel's filter from the others of its layer (FPGM).

    Filters near the geometric median can be replaced by the others (He et al. 2019,
    equation 4). Normalised as ``l1``.
    """
    return _by_weights(graph, _distances)


def _distances(rows: np.ndarray) -> np.ndarray:
    squares = np.square(rows).sum(axis=1)
    between = squares[:, None] + squares - 2 * rows @ rows.T
    return np.sqrt(np.maximum(between, 0)).mean(axis=1)


def random(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Uniform random numbers that depend on the seed and the group's name only."""
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
# Criteria that must be measured on data, and what measures them.
MEASURED: dict[str, str] = {"taylor": "prune.taylor(net, batches, step_loss)"}


def _free(graph: Graph) -> list[ChannelGroup]:
    return [group for group in graph.groups if not group.frozen]


def _values(graph: Graph, parameter: str) -> np.ndarray:
    """Return the values of a parameter, which ``importance_of`` has checked."""
    array = graph.params[parameter]
    assert array is not None
    return array.asnumpy().astype(np.float64)


def _by_weights(graph: Graph, measure: Callable) -> dict[str, np.ndarray]:
    """Return the mean over a group's producers of their normalised measures."""
    layers = []
    for name, axis in _weights(graph).items():
        weight = _values(graph, name)
        values = measure(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1))
        scale = np.sqrt(np.square(values).mean())
        layers.append((name, axis, values / scale if scale > 0 else values))
    return {n: np.mean(rows, axis=0) for n, rows in _gather(graph, layers).items()}


def _weights(graph: Graph) -> dict[str, int]:
    """Return the weights that produce channels, and the axis of the channels."""
    axis_of = {}
    for node in graph.nodes:
        operator = operator_of(node["op"])
        if operator.weight_input is not None:
            weight = graph.nodes[node["inputs"][operator.weight_input][0]]
            if weight["op"] == "null" and weight["name"] in graph.axes:
                axes = [tensor.axis or 0 for tensor in graph.axes[weight["name"]]]
                axis_of[weight["name"]] = max(axes) if operator.weight_axis else 0
    return axis_of


def _scales(graph: Graph) -> list[tuple]:
    """Return the trained scales of normalisation layers, as rows for ``_gather``."""
    rows = []
    for node in graph.nodes:
        operator = operator_of(node["op"])
        if not operator.normalizes or len(node["inputs"]) < 2:
            continue
        gamma = graph.nodes[node["inputs"][1][0]]["name"]
        fixed = attribute(node["attrs"], "fix_gamma", operator.running_statistics)
        if not fixed and gamma in graph.axes:
            rows.append((gamma, 0, np.abs(_values(graph, gamma))))
    return rows


def _gather(graph: Graph, layers: list[tuple]) -> dict[str, list[np.ndarray]]:
    """Return, per group, the importance that each of its layers gives to its indices.

    An index that stands for several channels gets their mean.

    Parameters
    ----------
    graph : Graph
    layers : list of tuple
        Parameter, axis of its channels, and the importance of each of them.
    """
    result: dict[str, list] = {group.name: [] for group in _free(graph)}
    for name, axis, values in layers:
        tensors = [tensor for tensor in graph.axes[name] if tensor.axis == axis]
        if not tensors:
            continue
        total, ids = len(graph.keep_mask({})), np.asarray(tensors[0].positions)
        removable = ids >= 0
        sums = np.bincount(ids[removable], values[removable], minlength=total)
        counts = np.bincount(ids[removable], minlength=total)
        for group in _free(graph):
            of_group = graph.positions(group)
            if counts[of_group].all():
                result[group.name].append(sums[of_group] / counts[of_group])
    return result
