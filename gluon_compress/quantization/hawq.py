"""Chooses the bits of each layer's weight under a budget, by sensitivity (HAWQ).

The sensitivity of a layer to some bits is the mean trace of the Hessian of the loss by
its weights, times the squared error of rounding them (Dong et al. 2020, HAWQ-V2,
equations 6 and 8). The trace is Hutchinson's estimate: the mean of ``v' H v`` over
random signs ``v``. MXNet does not differentiate twice through symbols, so ``H v`` is
the central difference of two gradients.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd

from gluon_compress.graph import Graph
from gluon_compress.graph.operators import operator_of
from gluon_compress.quantization.placement import QuantiserPlacement, weight_axis
from gluon_compress.quantization.quantisers import least_error_scales, weight_grid
from gluon_compress.quantization.settings import BitBudget
from gluon_compress.validation import wrong

STEP = 1e-2  # of a difference: the norm of the step, as a share of the weights' norm


def hessian_traces(
    block: Any,
    weights: Sequence[str],
    batches: Sequence,
    step_loss: Callable,
    *,
    probes: int,
    seed: int = 0,
) -> dict[str, float]:
    """Return the trace of the Hessian of the loss by each weight.

    Parameters
    ----------
    block : HybridBlock
        What ``step_loss`` is called with; its parameters are as before afterwards.
    weights : sequence of str
        Names of parameters.
    batches : sequence
        Tuples of arrays.
    step_loss : callable
        ``step_loss(block, batch) -> (loss, parts)``.
    probes : int
        Random vectors for each batch.
    seed : int

    Raises
    ------
    ValueError
        If there is no batch, or a trace is not finite.
    """
    if not batches:
        raise ValueError("batches: there is none; a Hessian needs at least one")
    parameters = {p.name: p for p in block.collect_params().values()}
    chosen = {name: parameters[name] for name in weights}
    before = {name: p.list_data()[0].copy() for name, p in parameters.items()}
    random = np.random.RandomState(seed)
    totals = dict.fromkeys(weights, 0.0)
    try:
        for batch in batches:
            for _ in range(probes):
                signs = {
                    name: random.choice([-1.0, 1.0], p.shape).astype(np.float32)
                    for name, p in chosen.items()
                }
                products = _products(block, chosen, before, signs, batch, step_loss)
                for name, product in products.items():
                    totals[name] += float((signs[name] * product).sum())
    finally:
        for name, value in before.items():
            parameters[name].set_data(value)
    count = len(batches) * probes
    traces = {name: total / count for name, total in totals.items()}
    for name, trace in traces.items():
        if not np.isfinite(trace):
            raise ValueError(f"the trace of {name!r} is {trace}; allowed: a number")
    return traces


def _products(
    block: Any,
    chosen: Mapping[str, Any],
    before: Mapping[str, mx.nd.NDArray],
    signs: Mapping[str, np.ndarray],
    batch: Sequence,
    step_loss: Callable,
) -> dict[str, np.ndarray]:
    """Return ``H v`` by a central difference, all layers moved at once."""
    size = np.sqrt(sum(float((before[n] ** 2).sum().asscalar()) for n in chosen))
    count = sum(sign.size for sign in signs.values())
    step = STEP * size / np.sqrt(count)
    gradients = []
    for direction in (step, -step):
        for name, parameter in chosen.items():
            moved = before[name] + direction * mx.nd.array(signs[name])
            parameter.set_data(moved)
        gradients.append(_gradients(block, chosen, batch, step_loss))
    return {
        name: (gradients[0][name] - gradients[1][name]) / (2 * step) for name in chosen
    }


def _gradients(
    block: Any, chosen: Mapping[str, Any], batch: Sequence, step_loss: Callable
) -> dict[str, np.ndarray]:
    device = next(iter(chosen.values())).list_ctx()[0]
    arrays = [
        (a if isinstance(a, mx.nd.NDArray) else mx.nd.array(a)).as_in_context(device)
        for a in batch
    ]
    with autograd.record(train_mode=False):  # with running statistics
        loss, _ = step_loss(block, arrays)
    loss.backward()
    return {
        name: parameter.list_grad()[0].asnumpy().astype(np.float64)
        for name, parameter in chosen.items()
    }


def choose_bits(
    graph: Graph,
    placement: QuantiserPlacement,
    budget: BitBudget,
    *,
    block: Any,
    batches: Sequence,
    step_loss: Callable,
    seed: int = 0,
) -> tuple[Dict[str, int], Dict[str, Any]]:
    """Return the bits of each layer's weight, and notes on the choice.

    Parameters
    ----------
    graph : Graph
        Of the net in float32.
    placement : QuantiserPlacement
        Layers, with the bits of their inputs.
    budget : BitBudget
    block, batches, step_loss, seed
        As for ``hessian_traces``.

    Raises
    ------
    ValueError
        If the budget cannot be met with the fewest bits.
    """
    least_costs(graph, placement, budget)
    weights = list(dict.fromkeys(row.layer.weight for row in placement.layers))
    traces = hessian_traces(
        block, weights, batches, step_loss, probes=budget.probes, seed=seed
    )
    rows = _Choices(graph, placement, budget, traces)
    bits = rows.chosen()
    by_layer = {r.layer.name: bits[r.layer.weight] for r in placement.layers}
    notes = {
        "traces": {r.layer.name: traces[r.layer.weight] for r in placement.layers},
        "bits": by_layer,
        "costs": rows.costs(bits),
    }
    return by_layer, notes


def least_costs(
    graph: Graph, placement: QuantiserPlacement, budget: BitBudget
) -> dict[str, float]:
    """Return what the fewest bits cost.

    Raises
    ------
    ValueError
        If that is more than the budget; it names the limit.
    """
    rows = _Choices(graph, placement, budget, {})
    fewest = dict.fromkeys(rows.sizes, min(budget.bits))
    costs = rows.costs(fewest)
    for name, cost in costs.items():
        limit = getattr(rows.budget, name)
        if limit is not None and cost > limit:
            raise wrong(f"budget.{name}", limit, f"from {cost:.0f}, the fewest bits")
    return costs


class _Choices:
    """The bits that each weight may have, with costs and errors."""

    def __init__(
        self,
        graph: Graph,
        placement: QuantiserPlacement,
        budget: BitBudget,
        traces: Mapping[str, float],
    ) -> None:
        self.options = sorted(map(int, set(budget.bits)))
        self.sizes: Dict[str, tuple[int, int]] = {}  # elements and channels
        self.products: Dict[str, float] = {}  # MACs times bits of the input
        self.errors: Dict[str, Dict[int, float]] = {}
        whole = graph.keep_mask({})
        for row in placement.layers:
            name, node = row.layer.weight, graph.nodes[row.layer.number]
            value, axis = graph.params[name], weight_axis(row.layer.op)
            count = int(np.prod(value.shape))
            self.sizes[name] = (count, value.shape[axis])
            shapes = [graph.kept_shape(e, whole) for e in node["inputs"]]
            macs = operator_of(row.layer.op).macs
            assert macs is not None
            out = graph.tensors[row.layer.number][0].shape
            done = macs(node["attrs"], shapes, out) / graph.batch * row.input_bits
            self.products[name] = self.products.get(name, 0.0) + done
            if name in traces and name not in self.errors:
                mean = max(traces[name], 0.0) / count
                array = value.asnumpy()
                self.errors[name] = {
                    bits: mean * _squared_error(array, bits, axis)
                    for bits in self.options
                }

        self.budget = budget
        if budget.bit_operations_ratio is not None:
            limit = budget.bit_operations_ratio * 8 * sum(self.products.values())
            self.budget = budget.replace(
                bit_operations=limit, bit_operations_ratio=None
            )

    def costs(self, bits: Mapping[str, int]) -> dict[str, float]:
        """Return bytes and bit operations of a choice."""
        total = sum(
            -(-count * bits[name] // 8) + 4 * channels
            for name, (count, channels) in self.sizes.items()
        )
        operations = sum(self.products[name] * bits[name] for name in self.sizes)
        return {"bytes": float(total), "bit_operations": float(operations)}

    def chosen(self) -> Dict[str, int]:
        """Return the best choice that greedy steps from the most bits find.

        Each step takes from the weight whose error grows least for what it saves of
        the limits that are exceeded; of equal ones from the first.
        """
        bits: Dict[str, int] = dict.fromkeys(self.sizes, self.options[-1])
        while True:
            excess = self._excess(bits)
            if not excess:
                return bits
            steps = [
                (self._price(name, bits, excess), i, name)
                for i, name in enumerate(self.sizes)
                if bits[name] > self.options[0]
            ]
            _, _, name = min(steps)
            bits[name] = self._fewer(bits[name])

    def _excess(self, bits: Mapping[str, int]) -> list[str]:
        limits = {n: getattr(self.budget, n) for n in ("bytes", "bit_operations")}
        costs = self.costs(bits)
        return [n for n, limit in limits.items() if limit and costs[n] > limit]

    def _fewer(self, bits: int) -> int:
        return self.options[self.options.index(bits) - 1]

    def _price(
        self, name: str, bits: Mapping[str, int], excess: Sequence[str]
    ) -> float:
        fewer = {**bits, name: self._fewer(bits[name])}
        grown = self.errors[name][fewer[name]] - self.errors[name][bits[name]]
        before, after = self.costs(bits), self.costs(fewer)
        saved = sum((before[n] - after[n]) / getattr(self.budget, n) for n in excess)
        return grown / max(saved, 1e-12)


def _squared_error(weight: np.ndarray, bits: int, axis: int) -> float:
    """Return the squared error of rounding a weight to some bits."""
    _, high = weight_grid(bits)
    scales = least_error_scales(weight, high, axis)
    rows = np.moveaxis(weight, axis, 0).reshape(len(scales), -1).astype(np.float64)
    levels = np.clip(np.rint(rows / scales[:, None]), -high, high)
    return float(np.square(levels * scales[:, None] - rows).sum())
