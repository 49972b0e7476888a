"""The graph of a RefineDetLite with decoding and NMS, for programs with MXNet alone.

It computes what ``postprocess.RefineDetPostprocess`` does.
"""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np

from gluon_compress.models.refinedet.net import OUTPUTS
from gluon_compress.postprocess.refinedet import RefineDetPostprocessSettings

CONSTANTS = "decode_anchors", "decode_stds"  # parameters: (1, A, 4) and (1, 1, 4)


def with_results(
    symbol: mx.sym.Symbol,
    center_anchors: np.ndarray,
    settings: RefineDetPostprocessSettings,
    classes: int,
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return the symbol of ids, scores and corner boxes, and its constants.

    Parameters
    ----------
    symbol : Symbol
        With the outputs ``OUTPUTS``.
    center_anchors : numpy.ndarray
        Pixels, ``(A, 4)``.
    settings : RefineDetPostprocessSettings
    classes : int

    Returns
    -------
    tuple
        A symbol with the outputs ``(B, post_nms, 1)``, ``(B, post_nms, 1)`` and
        ``(B, post_nms, 4)``, rows without a detection -1; and the parameters
        ``CONSTANTS``.
    """
    objectness, refinements, scores, deltas = list(symbol)[: len(OUTPUTS)]
    anchors, stds = map(mx.sym.var, CONSTANTS)
    moved = _decoded(refinements, _ends(anchors), stds)
    centre, size = _decoded(deltas, moved, stds)
    boxes = mx.sym.concat(centre - size / 2, centre + size / 2, dim=2)
    chance = mx.sym.softmax(objectness, axis=-1).slice_axis(axis=2, begin=1, end=2)
    seen = chance > settings.least_objectness
    shares = mx.sym.broadcast_mul(mx.sym.softmax(scores, axis=-1), seen)
    rows = []
    for number in range(classes):
        share = shares.slice_axis(axis=2, begin=number + 1, end=number + 2)
        label = mx.sym.ones_like(share) * number
        rows.append(mx.sym.concat(label, share, boxes, dim=2))
    found = mx.sym.contrib.box_nms(
        mx.sym.concat(*rows, dim=1),
        overlap_thresh=settings.nms_thresh,
        topk=settings.nms_topk,
        valid_thresh=settings.least_score,
        id_index=0,
        score_index=1,
        coord_start=2,
    )
    count = min(settings.post_nms, classes * len(center_anchors))
    found = found.slice_axis(axis=1, begin=0, end=count)
    ends = ((0, 1), (1, 2), (2, 6))
    results = [found.slice_axis(axis=2, begin=b, end=e) for b, e in ends]
    stds_of_all = np.array(settings.stds, np.float32)[None, None]
    values = center_anchors[None], stds_of_all
    return mx.sym.Group(results), dict(zip(CONSTANTS, map(mx.nd.array, values)))


def _ends(boxes: mx.sym.Symbol) -> list[mx.sym.Symbol]:
    """Return centre and size, or what moves them, ``(B, A, 2)`` each."""
    return [boxes.slice_axis(axis=2, begin=b, end=b + 2) for b in (0, 2)]


def _decoded(deltas: Any, anchors: Any, stds: Any) -> list[mx.sym.Symbol]:
    """Return centre and size of the boxes that deltas make of center anchors."""
    shift, growth = _ends(mx.sym.broadcast_mul(deltas, stds))
    centre, size = anchors
    return [
        mx.sym.broadcast_add(mx.sym.broadcast_mul(shift, size), centre),
        mx.sym.broadcast_mul(mx.sym.exp(growth), size),
    ]
