"""Makes nets sparse: writes masks of weights into the symbol, and makes them final."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.graph import Graph, annotate, pair_of, rebuild, trace
from gluon_compress.graph.annotations import WEIGHT_MASK, of_kind, strip
from gluon_compress.graph.layers import (
    Layer,
    check_float32,
    chosen_layers,
    layers_of,
)
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.quantization.packing import sparse_bytes
from gluon_compress.sparsity.masks import (
    LOGIT,
    MASK,
    Masks,
    fits_blocks,
    fixed_mask,
    kept_weights,
    learned_mask,
)
from gluon_compress.sparsity.settings import SparsitySettings
from gluon_compress.validation import few, parse, wrong

MOST_NAMES = 6  # of layers, in a message


def sparsify(
    net: Any, config: Any = None, *, shape: Any = None, **settings: Any
) -> Any:
    """Return a net with the smallest weights zero, without any training.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        Trained; not changed.
    config : SparsitySettings or mapping, optional
    shape : tuple, optional
        Of the input, unless the net states it.
    **settings
        The fields of ``SparsitySettings``, in place of ``config``: ``level=0.5``.

    Returns
    -------
    HybridBlock
        Of the same kind as the net. A mask in its symbol keeps the zeros in later
        training, and slimming cuts it. BatchNorm's statistics are those of the dense
        net: ``recalibrate`` measures them anew.

    Raises
    ------
    ValueError
        For a setting that is not allowed, a pattern that matches nothing, or a layer
        that has a mask already.
    """
    if not isinstance(config, SparsitySettings):
        config = parse(SparsitySettings, {**dict(config or {}), **settings})
    if config.method == "learned":
        raise wrong("method", config.method, "magnitude or keep without training")
    graph = trace(net, shape)
    chosen = sparse_layers(graph, config)
    return masked_at(net, graph, chosen, config, config.final)


def sparse_layers(graph: Graph, settings: SparsitySettings) -> List[Layer]:
    """Return the layers that become sparse, one for each weight.

    Raises
    ------
    ValueError
        If a pattern matches no layer, no layer is left, or one has a mask already.
    """
    check_float32(graph)
    every = layers_of(graph)
    chosen = chosen_layers(every, settings.target, settings.ignored)
    chosen = list({layer.weight: layer for layer in chosen}.values())
    if settings.blocks is not None:
        size = settings.blocks[1]
        chosen = [
            layer
            for layer in chosen
            if operator_of(layer.op).weight_axis == 0
            and fits_blocks(graph.params[layer.weight].shape, size)
        ]
    if not chosen:
        pattern = f", pattern {settings.pattern}" if settings.pattern else ""
        raise ValueError(
            f"target is {list(settings.target)}, ignored {list(settings.ignored)}"
            f"{pattern}: no layer is left to make sparse; allowed: settings that leave "
            "one"
        )
    present = {a.target for a in graph.annotated.annotations if a.kind == WEIGHT_MASK}
    double = [layer.name for layer in chosen if layer.weight in present]
    if double:
        raise ValueError(
            f"ignored is {list(settings.ignored)}; allowed: patterns of the layers "
            f"that have masks of weights already, {few(double, MOST_NAMES)}"
        )
    return chosen


def weights_of(graph: Graph, layers: Sequence[Layer]) -> Dict[str, np.ndarray]:
    """Return the values of the layers' weights by name.

    Raises
    ------
    ValueError
        If one is not finite.
    """
    values = {layer.weight: graph.params[layer.weight].asnumpy() for layer in layers}
    for layer in layers:
        if not np.isfinite(values[layer.weight]).all():
            raise ValueError(
                f"the weight of {layer.name!r} holds NaN or infinity; allowed: finite "
                "numbers to compare"
            )
    return values


def masked_at(
    net: Any,
    graph: Graph,
    layers: Sequence[Layer],
    settings: SparsitySettings,
    level: float,
) -> Any:
    """Return a net with final masks: the weights under them are zero themselves."""
    masks = kept_weights(weights_of(graph, layers), settings, level)
    weights = {name: fixed_mask(mask) for name, mask in masks.items()}
    return _zeroed(annotate(net, weights=weights, graph=graph), graph, masks)


def begun(
    net: Any, graph: Graph, layers: Sequence[Layer], settings: SparsitySettings
) -> Any:
    """Return a net with masks that training moves: of ones, or learned."""
    if settings.method != "learned":
        weights = {
            layer.weight: fixed_mask(
                np.ones(graph.params[layer.weight].shape, np.float32)
            )
            for layer in layers
        }
        return annotate(net, weights=weights, graph=graph)
    shapes = {layer.weight: graph.params[layer.weight].shape for layer in layers}
    learned = {n: learned_mask(s, settings.certainty) for n, s in shapes.items()}
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    result = annotate(net, weights=learned, graph=graph)
    for parameter in result.collect_params().values():
        if parameter.name.endswith(f"_{LOGIT}"):
            # Gradients are of the mean over all weights.
            parameter.lr_mult, parameter.wd_mult = settings.rate * count, 0.0
    return result


def finished(net: Any, masks: Masks, shape: Any = None) -> Any:
    """Return a net in training with final masks; that net stays as it is.

    Parameters
    ----------
    net : HybridBlock
        What ``begun`` returned.
    masks : mapping
        Ones and zeros by name of the weight.
    shape : tuple, optional
        Of the input, unless the net states it.
    """
    graph = trace(net, shape)
    symbol, params = pair_of(net)
    nodes, heads = take_apart(symbol)
    present = of_kind(nodes, WEIGHT_MASK)
    others = {
        a.target: params[f"{a.target}_{MASK}"].asnumpy()
        for a in present
        if a.target not in masks
    }
    nodes, heads = strip(nodes, heads, [WEIGHT_MASK])
    plain = put_together(nodes, heads)
    used = set(plain.list_inputs())
    bare = rebuild(net, graph, plain, {n: v for n, v in params.items() if n in used})
    weights = {name: fixed_mask(mask) for name, mask in {**others, **masks}.items()}
    bare_graph = trace(bare, shape)
    result = annotate(bare, weights=weights, graph=bare_graph)
    return _zeroed(result, bare_graph, masks)


def _zeroed(net: Any, graph: Graph, masks: Masks) -> Any:
    """Return a net whose weights under masks are zero."""
    symbol, params = pair_of(net)
    for name, mask in masks.items():
        params[name] = params[name] * mx.nd.array(mask, ctx=params[name].ctx)
    return rebuild(net, trace(net, graph.inputs), symbol, params)


def notes_on(graph: Graph, layers: Sequence[Layer], masks: Masks) -> Dict[str, Any]:
    """Return what is zero, for ``result.json``.

    ``bytes`` of a layer are those of its weight in the format ``packed``.
    """
    rows, total = [], {"weights": 0, "zeros": 0, "bytes": 0}
    for layer in layers:
        mask = masks[layer.weight]
        zeros = int((mask == 0).sum())
        stored = sparse_bytes(mask.size, mask.size - zeros, 32)
        row = {"weights": mask.size, "zeros": zeros, "bytes": stored}
        rows.append({"layer": layer.name, **row})
        total = {key: total[key] + row[key] for key in total}
    every = sum(4 * int(np.prod(v.shape)) for v in graph.params.values())
    return {
        "sparsity": {
            "layers": rows,
            **total,
            "level": total["zeros"] / total["weights"],
            "float32_bytes": every,
            "packed_bytes": every - 4 * total["weights"] + total["bytes"],
        }
    }
