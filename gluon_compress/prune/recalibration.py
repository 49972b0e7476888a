"""Measures BatchNorm's running statistics again, after pruning.

MXNet updates running statistics only in a backward pass, by a step that depends on the
momentum. Here nothing is trained: a second symbol outputs the statistics of each batch,
so that one forward pass per batch gives them exactly.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, Iterable, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import HybridBlock

from gluon_compress.graph import block_of, inputs_of, pair_of, rebuild, trace
from gluon_compress.graph.context import attribute
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import put_together, states, take_apart
from gluon_compress.prune.taylor_importance import arrays_for

STATISTICS_ATTRS = ("eps", "fix_gamma", "axis")  # what statistics depend on
EPSILON = 1e-3  # MXNet's default

Moments = tuple  # (samples, mean, variance)


def recalibrate(net: Any, batches: Iterable) -> HybridBlock:
    """Return a net with the BatchNorm statistics of the given batches.

    As in training, every BatchNorm normalises with the statistics of the batch. The
    running mean and variance become those of all samples: the mean of the batch means,
    and the mean of the batch variances plus the variance of the means (Wu and Johnson
    2021, section 3), weighted by batch size. The momentum has no influence, and trained
    values do not change.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Not changed. It may have masks: the statistics are those of the masked net, and
        wrong for channels that are restored later.
    batches : iterable
        Tuples of arrays, as for ``fit``; the net reads as many as it has inputs. Use
        the augmentation and the batch size of training.

    Returns
    -------
    HybridBlock
        Of the same kind as the net. A net without BatchNorm is copied.

    Raises
    ------
    ValueError
        If there is no batch, a batch is not a tuple, a statistic is not finite, or an
        operator other than BatchNorm has running statistics.

    Notes
    -----
    Dropout is skipped, as in inference. BatchNorms with ``use_global_stats`` are
    measured too, because training never updates theirs.
    """
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise ValueError("statistics need data: there is no batch")
    symbol, params = pair_of(net)
    inputs = inputs_of(net, symbol, params)
    graph = trace(net, _shapes(inputs, first))
    block, layers, read = _statistics_block(symbol, params, inputs)
    moments: dict[str, Moments] = {}
    if layers:
        for batch in chain([first], remaining):
            outputs = _outputs(block, [batch[i] for i in read])
            _add_batch(moments, layers, outputs, len(batch[0]))
    values = _values(moments, layers, params)
    return rebuild(net, graph, symbol, {**params, **values})


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


def _statistics_block(
    symbol: mx.sym.Symbol, params: Mapping, inputs: Sequence[str]
) -> tuple[Any, list[dict], list[int]]:
    """Return a block of all batch statistics, and the layer of each pair of outputs.

    The last value says which of the net's inputs it takes.
    """
    nodes, _ = take_apart(symbol)
    unmeasured, changed = states(nodes), []
    replaced: dict[int, list] = {}
    layers, heads = [], []
    for i, node in enumerate(nodes):
        node = {**node, "inputs": [replaced.get(e[0], e) for e in node["inputs"]]}
        if node["op"] == "Dropout":
            replaced[i] = node["inputs"][0]
        if operator_of(node["op"]).running_statistics:
            mean, variance = (nodes[e[0]]["name"] for e in node["inputs"][3:5])
            epsilon = attribute(node["attrs"], "eps", EPSILON)
            layers.append({"mean": mean, "variance": variance, "epsilon": epsilon})
            heads += [[i, 1, 0], [i, 2, 0]]
            unmeasured -= {mean, variance}
            node = {**node, "op": "BatchNorm", "attrs": _with_outputs(node["attrs"])}
        changed.append(node)
    if unmeasured:
        raise ValueError(
            f"{min(unmeasured)!r} is a running statistic of another operator than "
            "BatchNorm; it cannot be measured"
        )
    if not layers:
        return None, [], []
    statistics = put_together(changed, heads)
    used = set(statistics.list_inputs())
    values = {n: v for n, v in params.items() if n in used}
    block = block_of(statistics, values, inputs)
    block.hybridize(static_alloc=True)
    return block, layers, [i for i, name in enumerate(inputs) if name in used]


def _with_outputs(attrs: Mapping[str, str]) -> dict[str, str]:
    """Return a BatchNorm's attributes, with its batch statistics as outputs."""
    relevant = {k: v for k, v in attrs.items() if k in STATISTICS_ATTRS}
    return {**relevant, "output_mean_var": "True", "use_global_stats": "False"}


def _outputs(block: HybridBlock, batch: Sequence) -> list[np.ndarray]:
    arrays = arrays_for(block, batch)
    with autograd.train_mode():  # without recording: no gradients are needed
        outputs = block(*arrays)
    return [output.asnumpy().astype(np.float64) for output in outputs]


def _add_batch(
    moments: dict[str, Moments],
    layers: Sequence[dict],
    outputs: Sequence[np.ndarray],
    samples: int,
) -> None:
    """Pool the statistics of a batch with the earlier ones."""
    for layer, mean, scale in zip(layers, outputs[::2], outputs[1::2]):
        # MXNet's "variance" output is 1 / sqrt(variance + epsilon).
        with np.errstate(all="ignore"):
            variance = np.maximum(scale**-2 - layer["epsilon"], 0)
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise ValueError(f"the statistics {layer['mean']!r} are not finite")
        batch_moments = (samples, mean, variance)
        earlier = moments.get(layer["mean"])
        moments[layer["mean"]] = (
            _pooled(earlier, batch_moments) if earlier else batch_moments
        )


def _pooled(first: Moments, second: Moments) -> Moments:
    """Return the moments of the union of two sets of samples."""
    total = first[0] + second[0]
    share, gap = second[0] / total, second[1] - first[1]
    within = first[2] + share * (second[2] - first[2])
    variance = within + share * (1 - share) * gap**2
    return total, first[1] + share * gap, variance


def _values(
    moments: Mapping[str, Moments], layers: Sequence[dict], params: Mapping
) -> dict[str, mx.nd.NDArray]:
    """Return the new running statistics, as arrays like those in ``params``."""
    statistics = {}
    for layer in layers:
        _, *values = moments[layer["mean"]]
        for name, value in zip((layer["mean"], layer["variance"]), values):
            ctx, dtype = params[name].ctx, params[name].dtype
            statistics[name] = mx.nd.array(value, ctx=ctx, dtype=dtype)
    return statistics
