"""How an SSD infers: preprocess, postprocess, and the graphs that runtimes get."""

from __future__ import annotations

from typing import Sequence

import mxnet as mx
import numpy as np
from gluoncv.model_zoo.ssd import SSD
from mxnet import autograd

from gluon_compress.data import Preprocess
from gluon_compress.graph import pair_of
from gluon_compress.graph.annotations import bake_weights
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.models.ssd.anchors import anchors_of
from gluon_compress.models.ssd.build import config_of
from gluon_compress.models.ssd.fast_nms import MIN_SCORE
from gluon_compress.models.ssd.predictors import find_predictors
from gluon_compress.postprocess import SSDPostprocess
from gluon_compress.postprocess.ssd import JOINED, SSDPostprocessSettings


def preprocess(net: SSD) -> Preprocess:
    """Return what an image goes through before an SSD sees it."""
    height, width = config_of(net).size
    return Preprocess(height=height, width=width)


def postprocess(net: SSD) -> SSDPostprocess:
    """Return what turns an SSD's outputs into boxes.

    Raises
    ------
    ValueError
        For constants of NMS that GluonCV has alone, such as -1 for no limit.
    """
    config = config_of(net)
    settings = SSDPostprocessSettings(
        stds=config.stds,
        nms_thresh=config.nms_thresh,
        nms_topk=config.nms_topk,
        post_nms=config.post_nms,
        least_score=MIN_SCORE,
    )
    return SSDPostprocess(anchors_of(net).asnumpy()[0], settings)


def inference_graph(net: SSD) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return the graph from images to predictions, and its parameters.

    A map's class and box predictors become one convolution whose channels are in the
    order of the output, anchor by anchor: one transpose a map and one concat in all,
    where the raw head has two of each and runtimes lose time between layouts.

    Parameters
    ----------
    net : gluoncv.model_zoo.SSD
        Initialised; left as it is.

    Returns
    -------
    tuple
        A symbol with the output ``predictions`` ``(B, A, C + 5)``, the scores of the
        background and C classes before softmax and four box deltas, and parameters.
    """
    symbol, params = pair_of(net)
    nodes, heads, params = bake_weights(*take_apart(symbol), params)
    scores, rows = net.num_classes + 1, []
    kernel = config_of(net).predictor_kernel
    pairs = list(zip(*(find_predictors(nodes, head) for head in heads[:2])))
    entries = [entry for pair in pairs for entry in _read(pair)]
    tensors = iter(put_together(nodes, entries))
    for i, pair in enumerate(pairs):
        if _is_annotated(pair):
            both = (next(tensors), next(tensors))
            rows.append(_side_by_side(i, both, (scores, 4)))
            continue
        weights, biases = zip(*([params[n] for n in one.parameters] for one in pair))
        params[f"predictor{i}_weight"] = _by_anchor(weights, (scores, 4))
        params[f"predictor{i}_bias"] = _by_anchor(biases, (scores, 4))
        y = mx.sym.Convolution(
            next(tensors),
            num_filter=params[f"predictor{i}_bias"].size,
            kernel=kernel,
            pad=tuple(k // 2 for k in kernel),
            name=f"predictor{i}",
        )
        y = mx.sym.transpose(y, (0, 2, 3, 1), name=f"predictor{i}_last")
        rows.append(y.reshape((0, -1, scores + 4), name=f"predictor{i}_anchors"))
    joined = mx.sym.concat(*rows, dim=1, name=JOINED)
    used = set(joined.list_inputs())
    return joined, {name: value for name, value in params.items() if name in used}


def _is_annotated(pair: Sequence) -> bool:
    return any(predictor.annotated for predictor in pair)


def _read(pair: Sequence) -> list:
    """Return entries: the map of two predictors, or their outputs if annotated."""
    if _is_annotated(pair):
        return [[predictor.end, 0, 0] for predictor in pair]
    return [pair[0].features]


def _side_by_side(i: int, maps: Sequence, depths: Sequence[int]) -> mx.sym.Symbol:
    """Return the predictions of a map from its scores and deltas."""
    parts = []
    for y, depth, kind in zip(maps, depths, ("scores", "deltas")):
        y = mx.sym.transpose(y, (0, 2, 3, 1), name=f"predictor{i}_{kind}_last")
        parts.append(y.reshape((0, -1, depth), name=f"predictor{i}_{kind}"))
    return mx.sym.concat(*parts, dim=2, name=f"predictor{i}_anchors")


def _by_anchor(parameters: Sequence, depths: Sequence[int]) -> mx.nd.NDArray:
    """Return the rows of two predictors' parameters, joined anchor by anchor."""
    values = [parameter.asnumpy() for parameter in parameters]
    tail = values[0].shape[1:]
    parts = [v.reshape(-1, depth, *tail) for v, depth in zip(values, depths)]
    return mx.nd.array(np.concatenate(parts, axis=1).reshape(-1, *tail))


def results_graph(net: SSD) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return the graph from images to ids, scores and corner boxes, NMS included.

    Parameters
    ----------
    net : gluoncv.model_zoo.SSD
        Initialised; left as it is.
    """
    with autograd.predict_mode():
        # Programs without a manifest read the input's size here; 0 is any batch.
        data = mx.sym.var("data", shape=(0, 3, *config_of(net).size))
        symbol = mx.sym.Group(list(net(data)))
    mx.nd.waitall()  # as ``pair_of`` does
    params = {p.name: p.data() for p in net.collect_params().values()}
    return symbol, {n: params[n] for n in symbol.list_inputs() if n in params}
