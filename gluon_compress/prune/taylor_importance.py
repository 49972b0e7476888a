"""Measures the importance of channels by the gradients of their masks."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import Parameter

from gluon_compress.graph import Graph, symbol_of
from gluon_compress.graph.annotations import mask_names
from gluon_compress.graph.symbols import take_apart
from gluon_compress.plan.importance import check_finite
from gluon_compress.prune.masks import mask
from gluon_compress.prune.slimming import traced


def taylor(
    net: Any,
    batches: Iterable,
    step_loss: Callable,
    *,
    prepare: Callable | None = None,
    shape: Any = None,
    graph: Graph | None = None,
) -> dict[str, np.ndarray]:
    """Return the first-order importance of every index, for ``select``.

    A mask value is a gate. The derivative of the loss by it is the sum of activation
    times gradient over the channels of the index; its square is the first-order change
    of the loss when the index is removed (Molchanov et al. 2019, equation 8, "gates").
    Importance is the mean of these squares over batches, normalised in each group so
    that groups of different depth can be compared.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Not changed.
    batches : iterable
        Tuples of arrays, as for ``fit``; they are copied to the net's device.
    step_loss : callable
        ``step_loss(net, batch) -> (loss, {part: value})``, as for ``fit``.
    prepare : callable, optional
        Turns the masked net into the block that ``step_loss`` is called with, for
        instance ``Family.training_net`` for a detector.
    shape, graph
        As for ``slim``.

    Returns
    -------
    dict
        Group to importance, of groups that can lose channels.

    Raises
    ------
    ValueError
        If there is no batch, a parameter or a gradient is not finite, or the net
        has no values.
    """
    graph = traced(net, None, shape, graph)
    check_finite(graph)
    masked = mask(net, None, graph=graph)
    gates = gates_of(masked)
    _derive(masked, gates)
    block = prepare(masked) if prepare else masked
    count = 0
    totals: dict[str, Any] = dict.fromkeys(gates, 0.0)
    for batch in batches:
        count += 1
        with autograd.record():
            loss, _ = step_loss(block, arrays_for(masked, batch))
        loss.backward()
        for group, gate in gates.items():
            slopes = sum(gate.grad(device).asnumpy() for device in gate.list_ctx())
            totals[group] = totals[group] + np.square(slopes.astype(np.float64))
    if not count:
        raise ValueError("the criterion needs data: there is no batch")
    for group, total in totals.items():
        if not np.isfinite(total).all():
            raise ValueError(f"the gradient of group {group!r} is not finite")
    return {group: _normalised(total / count) for group, total in totals.items()}


def arrays_for(net: Any, batch: Sequence) -> list[mx.nd.NDArray]:
    """Return a batch as NDArrays on the device of a net's parameters."""
    device = next(iter(net.collect_params().values())).list_ctx()[0]
    # MXNet's readers return arrays in shared or pinned memory, which blocks refuse.
    return [
        (a if isinstance(a, mx.nd.NDArray) else mx.nd.array(a)).as_in_context(device)
        for a in batch
    ]


def gates_of(masked: Any) -> dict[str, Parameter]:
    """Return the mask of each group of a masked net: one value an index."""
    nodes, _ = take_apart(symbol_of(masked))
    parameters = {p.name: p for p in masked.collect_params().values()}
    return {group: parameters[name] for group, name in mask_names(nodes).items()}


def keep_only(gate: Parameter, kept: Sequence[int] | np.ndarray) -> None:
    """Set the mask of a group so that only some indices are kept."""
    gate.set_data(mx.nd.array(np.isin(np.arange(gate.shape[0]), kept)))


def _derive(masked: Any, gates: Mapping[str, Parameter]) -> None:
    """Make masks the only parameters with gradients."""
    for parameter in masked.collect_params().values():
        parameter.grad_req = "null"
    for gate in gates.values():
        gate.grad_req = "write"


def _normalised(importance: np.ndarray) -> np.ndarray:
    norm = np.sqrt(np.square(importance).mean())
    return importance / norm if norm > 0 else importance
