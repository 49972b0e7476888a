"""How a detector without anchors trains: its targets and its losses.

Zhou et al. 2019 is "Objects as Points"; Law and Deng 2018 is "CornerNet", where radius
and loss of the heat map come from.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np
from mxnet import nd

from gluon_compress.boxes import corner_from_center, iou_of_pairs
from gluon_compress.models.centernet.config import STRIDE
from gluon_compress.models.loss_settings import ClassWeights
from gluon_compress.models.object_weights import iou_weights, weights_of_classes
from gluon_compress.postprocess.centernet import HEAT, OFFSETS, SIZES

OVERLAP = 0.7  # IoU with the object that boxes at the radius still have
SIZE_WEIGHT = 0.1  # of the loss of sizes (Zhou et al. 2019, equation 4)


class CenterNetTargets:
    """Turns the labels of a batch into what the losses compare with.

    Targets equal those of GluonCV's ``CenterNetTargetGenerator``, except that a centre
    on the last pixel lies in the last cell instead of being refused.

    Parameters
    ----------
    classes : int
    cells : (int, int)
        Rows and columns of the maps.
    """

    def __init__(self, classes: int, cells: tuple[int, int]) -> None:
        self.classes, self.cells = classes, cells

    def __call__(self, labels: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Return the targets of a batch.

        Parameters
        ----------
        labels : sequence of numpy.ndarray
            ``(M, 5+)`` each: corner box in pixels, class id. Boxes without an area have
            no targets.

        Returns
        -------
        tuple
            The heat map ``(B, C, h, w)``, 1 at centres and falling off around them;
            width, height and the offset in x and y ``(B, 4, h, w)``, in cells; and 1 at
            centres ``(B, 1, h, w)``. All float32.
        """
        rows, columns = self.cells
        heat = np.zeros((len(labels), self.classes, rows, columns), np.float32)
        boxes = np.zeros((len(labels), 4, rows, columns), np.float32)
        centers = np.zeros((len(labels), 1, rows, columns), np.float32)
        for i, label in enumerate(labels):
            for x0, y0, x1, y1, name in np.asarray(label)[:, :5] / [*[STRIDE] * 4, 1]:
                width, height = x1 - x0, y1 - y0
                if not (width > 0 and height > 0):
                    continue
                x, y = (x0 + x1) / 2, (y0 + y1) / 2
                column = min(max(int(x), 0), columns - 1)
                row = min(max(int(y), 0), rows - 1)
                radius = max(0, int(gaussian_radius(np.ceil(height), np.ceil(width))))
                _draw(heat[i, int(name)], row, column, radius)
                boxes[i, :, row, column] = width, height, x - column, y - row
                centers[i, 0, row, column] = 1
        return heat, boxes, centers


def gaussian_radius(height: float, width: float) -> float:
    """Return how far a centre may move, in cells, as the published code computes it.

    The smallest of three radii at which a box with both corners moved has an IoU of
    ``OVERLAP`` with the object (Law and Deng 2018, section 3.2). The published code
    leaves the leading factor out of two denominators, so its radii are larger.
    """
    total, area = height + width, height * width
    radii = []
    for a, b, c in (
        (1, total, area * (1 - OVERLAP) / (1 + OVERLAP)),
        (4, 2 * total, (1 - OVERLAP) * area),
        (4 * OVERLAP, -2 * OVERLAP * total, (OVERLAP - 1) * area),
    ):
        radii.append((b + np.sqrt(b * b - 4 * a * c)) / 2)
    return float(min(radii))


def _draw(heat: np.ndarray, row: int, column: int, radius: int) -> None:
    """Raise a map to a Gaussian around a cell, up to a radius in each direction."""
    sigma = (2 * radius + 1) / 6
    rows, columns = (
        np.arange(max(at - radius, 0), min(at + radius + 1, length))
        for at, length in zip((row, column), heat.shape)
    )
    squares = (rows[:, None] - row) ** 2 + (columns - column) ** 2
    values = np.exp(-squares / (2 * sigma * sigma))
    values[values < np.finfo(values.dtype).eps] = 0
    part = heat[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    np.maximum(part, values, out=part, casting="same_kind")


def center_loss(
    outputs: Mapping,
    batch: Sequence,
    *,
    iou_guided: float | None = None,
    class_weights: ClassWeights | None = None,
) -> tuple[nd.NDArray, dict]:
    """Return the loss of a batch, and its parts.

    Parameters
    ----------
    outputs : mapping
        The three maps by name.
    batch : sequence of NDArray
        Images and the arrays of ``CenterNetTargets``.
    iou_guided, class_weights
        As in ``LossSettings``: what centres count in ``heat``.

    Returns
    -------
    tuple
        The sum of the parts ``heat``, ``offset`` and 0.1 times ``size``; and the parts.
    """
    heat, boxes, centers = batch[1:4]
    count = nd.maximum(centers.sum(), 1)
    boxed = nd.concat(outputs[SIZES], outputs[OFFSETS], dim=1)
    apart = nd.abs(nd.broadcast_mul(boxed - boxes, centers))
    size, offset = (
        apart.slice_axis(axis=1, begin=begin, end=begin + 2).sum() / (2 * count)
        for begin in (0, 2)
    )
    weights = None
    if iou_guided is not None or class_weights is not None:
        maps = [each.asnumpy() for each in (heat, outputs[HEAT], boxed, boxes)]
        strategies: Any = {"iou_guided": iou_guided, "class_weights": class_weights}
        weights = nd.array(center_weights(*maps, **strategies), ctx=heat.context)
    scored = focal_loss(outputs[HEAT], heat, weights)
    parts = {"heat": scored, "size": size, "offset": offset}
    return scored + SIZE_WEIGHT * size + offset, parts


def center_weights(
    heat: np.ndarray,
    logits: np.ndarray,
    boxed: np.ndarray,
    boxes: np.ndarray,
    **strategies: Any,
) -> np.ndarray:
    """Return what each centre counts in the loss of the heat map, ``(B, C, h, w)``.

    Parameters
    ----------
    heat, logits : numpy.ndarray
        The heat map, 1 at centres, and what is predicted of it, ``(B, C, h, w)``.
    boxed, boxes : numpy.ndarray
        Predicted and right width, height and offset in x and y, ``(B, 4, h, w)``.
    **strategies
        ``iou_guided`` and ``class_weights`` as in ``LossSettings``, or None; weights
        are multiplied.
    """
    iou_guided, class_weights = strategies["iou_guided"], strategies["class_weights"]
    image, name, row, column = at = np.nonzero(heat == 1)
    weights = np.ones(heat.shape, np.float32)
    if iou_guided is not None:
        pair = [each[image, :, row, column].astype(float) for each in (boxed, boxes)]
        # A predicted side below 0 is none.
        centers = [np.hstack([p[:, 2:], np.maximum(p[:, :2], 0)]) for p in pair]
        overlaps = iou_of_pairs(*map(corner_from_center, centers))
        weights[at] *= iou_weights(np.nan_to_num(overlaps), iou_guided)
    if class_weights is not None:
        chances = 1 / (1 + np.exp(-logits[at].astype(float)))
        weights[at] *= weights_of_classes(name, chances, class_weights)[name]
    return weights


def focal_loss(
    logits: nd.NDArray, target: nd.NDArray, weights: nd.NDArray | None = None
) -> nd.NDArray:
    """Return the penalty-reduced focal loss of a heat map.

    ``-1/N sum (1 - p)^2 log p`` at the N centres and ``(1 - y)^4 p^2 log(1 - p)``
    elsewhere, with p the sigmoid and y the target (Law and Deng 2018, equation 1, alpha
    2 and beta 4). The logarithms are computed from logits, so that no clipping of p is
    needed, which would stop the gradient of the worst cells.

    Parameters
    ----------
    logits, target : NDArray
        ``(B, C, h, w)``.
    weights : NDArray, optional
        What each centre counts; None: 1.
    """
    share = nd.sigmoid(logits)
    # log p = -softplus(-x) and log(1 - p) = -softplus(x) = log p - x.
    log_other = -nd.Activation(logits, act_type="softrelu")
    log_share = log_other + logits
    positive = target == 1
    far = nd.square(nd.square(1 - target)) * (1 - positive)
    at_centers = positive * nd.square(1 - share) * log_share
    if weights is not None:
        at_centers = at_centers * weights
    elsewhere = far * nd.square(share) * log_other
    return -(at_centers + elsewhere).sum() / nd.maximum(positive.sum(), 1)
