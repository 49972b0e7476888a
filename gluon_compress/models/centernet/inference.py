"""The graph that finds boxes with MXNet alone, for programs without a postprocess."""

from __future__ import annotations

from typing import Any

import mxnet as mx

from gluon_compress.models.centernet.config import STRIDE, CenterNetConfig
from gluon_compress.postprocess.centernet import least_logit

NO_PEAK = -1e30  # in place of the score of a cell that is no peak


def results_symbol(symbol: mx.sym.Symbol, config: CenterNetConfig) -> mx.sym.Symbol:
    """Return ids ``(B, N, 1)``, scores ``(B, N, 1)`` and corner boxes ``(B, N, 4)``.

    They are those of ``CenterNetPostprocess``.

    Parameters
    ----------
    symbol : Symbol
        The three maps, from the variable ``data``.
    config : CenterNetConfig
    """
    sym = mx.sym
    # Programs without a manifest read the input's size here; 0 is any batch.
    data = sym.var("data", shape=(0, 3, *config.size))
    if config.flip_test:
        both = sym.concat(data, sym.reverse(data, axis=3), dim=0)
        heat, sizes, offsets = _averaged(symbol(data=both))
    else:
        heat, sizes, offsets = symbol(data=sym.identity(data))
    rows, columns = config.cells
    cells = rows * columns
    high = sym.Pooling(heat, kernel=(3, 3), pad=(1, 1), pool_type="max")
    peak = sym.broadcast_equal(high, heat)
    scores = sym.where(peak, heat, sym.ones_like(heat) * NO_PEAK).reshape((0, -1))
    count = min(config.peaks, len(config.classes) * cells)
    logits, index = sym.topk(scores, k=count, ret_typ="both", axis=1)
    ids = sym.floor((index + 0.5) / cells)  # halves, so that no division is rounded up
    cell = index - ids * cells
    y = sym.floor((cell + 0.5) / columns)
    x = cell - y * columns
    image = sym.contrib.arange_like(cell, axis=0).reshape((-1, 1))
    place = sym.broadcast_add(cell, image * cells)
    width, height = _at(sizes, place)
    right, down = _at(offsets, place)
    x, y = x + right, y + down
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    boxes = sym.stack(*[STRIDE * corner for corner in corners], axis=2)
    valid = (logits > _bound(config.least_score)).reshape((0, 0, 1))
    results = (ids, sym.sigmoid(logits), boxes)
    parts = [result.reshape((0, 0, -1)) for result in results]
    return sym.Group(
        [
            sym.where(sym.broadcast_like(valid, part), part, -sym.ones_like(part))
            for part in parts
        ]
    )


def _bound(least_score: float) -> float:
    """Return the logit of a score, finite and above that of cells that are no peaks."""
    return max(min(least_logit(least_score), -NO_PEAK), NO_PEAK / 2)


def _averaged(maps: Any) -> tuple:
    """Return maps of images from those of images and then their mirrored ones."""
    pairs = [mx.sym.split(one, num_outputs=2, axis=0) for one in maps]
    (own, other), (sizes, mirrored_sizes), (offsets, _) = pairs
    other, mirrored_sizes = (
        mx.sym.reverse(one, axis=3) for one in (other, mirrored_sizes)
    )
    share = (mx.sym.sigmoid(own) + mx.sym.sigmoid(other)) / 2
    rest = (mx.sym.sigmoid(-own) + mx.sym.sigmoid(-other)) / 2
    heat = mx.sym.log(share) - mx.sym.log(rest)
    return heat, (sizes + mirrored_sizes) / 2, offsets


def _at(maps: mx.sym.Symbol, place: mx.sym.Symbol) -> tuple:
    """Return both channels of maps ``(B, 2, h, w)`` at cells counted over the batch."""
    values = maps.transpose((1, 0, 2, 3)).reshape((2, -1))
    parts = mx.sym.split(values, num_outputs=2, axis=0, squeeze_axis=True)
    return tuple(mx.sym.take(part, place) for part in parts)
