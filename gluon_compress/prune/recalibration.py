"""Recalibration: BatchNorm's running statistics, measured anew after pruning.

MXNet moves running statistics only in a backward pass, by a step that depends on the
momentum. Here nothing is trained: the statistics of each batch are outputs of a second
symbol, and one forward pass a batch gives them exactly.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import HybridBlock

from gluon_compress.graph import block_of, pair_of, rebuild, trace
from gluon_compress.graph.context import attribute
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import put_together, states, take_apart
from gluon_compress.prune.taylor_importance import arrays_for

KEPT = ("eps", "fix_gamma", "axis")  # attributes that the statistics depend on
EPSILON = 1e-3  # MXNet's default

Moments = tuple  # (samples, mean, variance)


def recalibrate(net: Any, batches: Iterable) -> HybridBlock:
    """Return a net whose BatchNorms have the statistics of the given batches.

    As in training, every BatchNorm normalises by the batch it sees. The running mean
    and variance become those of all samples together: the mean of the batches' means,
    and the mean of their variances plus the variance of their means (Wu and Johnson
    2021, section 3), weighed by the size of the batches. The momentum plays no part,
    and no trained value changes.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Left as it is. With masks or without; statistics are of the net as it is
        masked now, and worthless for channels that are brought back later.
    batches : iterable
        Tuples of arrays, as for ``fit``; the net reads the first, or as many as it
        has inputs. Samples as training sees them, in batches as large as there.

    Returns
    -------
    HybridBlock
        What the net's adapter rebuilds, as ``mask`` and ``slim`` do. A net without
        BatchNorm is copied.

    Raises
    ------
    ValueError
        If there is not one batch, a batch is no tuple, a statistic is not finite, or
        an operator other than BatchNorm keeps running statistics.

    Notes
    -----
    Dropout is left out: inference has none. BatchNorms with ``use_global_stats`` are
    measured too, because training would never repair theirs.
    """
    waiting = iter(batches)
    first = next(waiting, None)
    if first is None:
        raise ValueError("statistics need data, there is not one batch")
    symbol, params = pair_of(net)
    inputs = [name for name in symbol.list_inputs() if name not in params]
    graph = trace(net, _shapes(inputs, first))
    block, names = _measuring(symbol, params)
    found: dict[str, Moments] = {}
    if names:
        for batch in _chain(first, waiting):
            _add_batch(found, names, _outputs(block, batch, len(inputs)), len(batch[0]))
    return rebuild(net, graph, symbol, {**params, **_values(found, names, params)})


def _shapes(inputs: Sequence[str], batch: Any) -> Any:
    """Return the shapes of one sample, as ``trace`` takes them."""
    if not isinstance(batch, (tuple, list)):
        raise ValueError(
            f"a batch is a {type(batch).__name__}; allowed: a tuple of arrays"
        )
    if len(batch) < len(inputs):
        raise ValueError(
            f"a batch has {len(batch)} arrays; the net has the inputs {inputs}"
        )
    shapes = {name: (1, *array.shape[1:]) for name, array in zip(inputs, batch)}
    return shapes if len(shapes) > 1 else next(iter(shapes.values()))


def _chain(first: Any, rest: Iterable) -> Iterable:
    yield first
    yield from rest


def _measuring(symbol: mx.sym.Symbol, params: Mapping) -> tuple[Any, list[dict]]:
    """Return a block of all batch statistics, and what each pair of outputs is for."""
    nodes, _ = take_apart(symbol)
    left, changed = states(nodes), []
    instead: dict[int, list] = {}
    names, heads = [], []
    for i, node in enumerate(nodes):
        node = {**node, "inputs": [instead.get(e[0], e) for e in node["inputs"]]}
        if node["op"] == "Dropout":
            instead[i] = node["inputs"][0]
        if operator_of(node["op"]).running_statistics:
            mean, variance = (nodes[e[0]]["name"] for e in node["inputs"][3:5])
            epsilon = attribute(node["attrs"], "eps", EPSILON)
            names.append({"mean": mean, "variance": variance, "epsilon": epsilon})
            heads += [[i, 1, 0], [i, 2, 0]]
            left -= {mean, variance}
            kept = {k: v for k, v in node["attrs"].items() if k in KEPT}
            node = {**node, "op": "BatchNorm", "attrs": _measured(kept)}
        changed.append(node)
    if left:
        raise ValueError(
            f"{sorted(left)[0]!r} is a running statistic of another operator than "
            "BatchNorm; it cannot be measured"
        )
    if not names:
        return None, []
    measuring = put_together(changed, heads)
    used = set(measuring.list_inputs())
    block = block_of(measuring, {n: v for n, v in params.items() if n in used})
    block.hybridize(static_alloc=True)
    return block, names


def _measured(attrs: dict) -> dict:
    return {**attrs, "output_mean_var": "True", "use_global_stats": "False"}


def _outputs(block: HybridBlock, batch: Sequence, count: int) -> list[np.ndarray]:
    arrays = arrays_for(block, batch[:count])
    with autograd.train_mode():  # without a record: nothing is kept for gradients
        outputs = block(*arrays)
    return [output.asnumpy().astype(np.float64) for output in outputs]


def _add_batch(
    found: dict, names: Sequence[dict], outputs: Sequence[np.ndarray], samples: int
) -> None:
    """Pool the statistics of one more batch with those found before."""
    for layer, mean, scale in zip(names, outputs[::2], outputs[1::2]):
        # What MXNet calls the variance there is 1 / sqrt(variance + epsilon).
        with np.errstate(all="ignore"):
            variance = np.maximum(scale**-2 - layer["epsilon"], 0)
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise ValueError(f"the statistics {layer['mean']!r} are not finite")
        moments = (samples, mean, variance)
        known = found.get(layer["mean"])
        found[layer["mean"]] = _pooled(known, moments) if known else moments


def _pooled(one: Moments, other: Moments) -> Moments:
    """Return the moments of two sets together."""
    total = one[0] + other[0]
    share, gap = other[0] / total, other[1] - one[1]
    variance = one[2] + share * (other[2] - one[2]) + share * (1 - share) * gap**2
    return total, one[1] + share * gap, variance


def _values(found: Mapping, names: Sequence[dict], params: Mapping) -> dict:
    """Return the new running statistics, as arrays like the old ones."""
    result = {}
    for layer in names:
        _, *moments = found[layer["mean"]]
        for name, value in zip((layer["mean"], layer["variance"]), moments):
            old = params[name]
            result[name] = mx.nd.array(value, ctx=old.ctx, dtype=old.dtype)
    return result
