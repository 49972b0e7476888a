"""How an SSD trains: its raw head as a block, its targets and its loss."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

import mxnet as mx
import numpy as np
from gluoncv.loss import SSDMultiBoxLoss
from gluoncv.model_zoo.ssd import SSD
from mxnet.gluon import SymbolBlock

from gluon_compress.boxes import STDS, corner_from_center, iou
from gluon_compress.models.initialize import initialize
from gluon_compress.models.matching import match, matched_targets
from gluon_compress.models.multi_box import multi_box
from gluon_compress.models.named import NamedBlock, named
from gluon_compress.models.object_weights import positive_weights
from gluon_compress.models.ssd.adaptive_matching import Maps, match_adaptively
from gluon_compress.models.ssd.build import config_of
from gluon_compress.models.ssd.predictors import AnnotatedPredictor
from gluon_compress.models.ssd.raw_head import OUTPUTS, map_shapes, tap_numbers
from gluon_compress.models.taps import adapt, subsample, subsampling
from gluon_compress.sizes import written_size

# What a teacher has in common with its student, in a message's words.
ALIKE = {
    "classes": "classes",
    "size": "image size",
    "sizes": "anchor sizes",
    "ratios": "anchor ratios",
    "steps": "anchor steps",
    "lite": "lite anchors",
    "stds": "stds of box deltas",
}


def training_net(
    net: SSD,
    taps: Sequence[str] = (),
    *,
    adapters: Sequence[int] = (),
    stride: int = 1,
    seed: int = 0,
    made: Callable = lambda symbol: symbol,
) -> NamedBlock:
    """Return the raw head as a block for training that shares the net's parameters.

    GluonCV's SSD fixes its output form at the first hybridized call, this block has
    one form only. Each map's two predictors run as one convolution: with two, the
    order in which MXNet sums their gradients sends every BatchNorm below down its
    slow path, and a step of SSD-300 ResNet50-v1d takes 1.5 times as long.

    Parameters
    ----------
    net : gluoncv.model_zoo.SSD
        Initialised.
    taps : sequence of str
        Those of ``map_names`` that are outputs too.
    adapters : sequence of int
        Widths that 1x1 adapters bring these taps to, for a student; they are
        initialised here and belong to the returned block alone.
    stride : int
        Of taps larger than ``taps.SMALL`` cells a side, only every n-th cell in each
        direction is given.
    seed : int
        Decides the adapters' initial values, whatever was drawn before.
    made : callable
        ``made(symbol)`` is the form that is trained.

    Returns
    -------
    NamedBlock
        Images to ``class_scores`` ``(B, A, C + 1)``, ``box_deltas`` ``(B, A, 4)`` and
        the taps by name, ``(B, K, H, W)``.
    """
    maps = list(net.features(mx.sym.var("data")))
    pairs = [
        _predict(tap, scorer, locator)
        for tap, scorer, locator in zip(maps, net.class_predictors, net.box_predictors)
    ]
    scores, deltas = (mx.sym.concat(*parts, dim=1) for parts in zip(*pairs))
    scores = scores.reshape((0, -1, net.num_classes + 1))
    outputs = [scores, deltas.reshape((0, -1, 4))]
    numbers = tap_numbers(net, taps)
    tapped = [maps[i] for i in numbers]
    shapes = map_shapes(net) if numbers else ()
    steps = subsampling([shapes[i][2:] for i in numbers], stride)
    outputs += adapt(tapped, adapters, steps) if adapters else subsample(tapped, steps)
    symbol = made(mx.sym.Group(outputs))
    block = SymbolBlock(
        symbol, mx.sym.var("data", dtype="float32"), params=net.collect_params()
    )
    size = config_of(net).size
    initialize(block, symbol, size, seed=seed)
    return NamedBlock(block, (*OUTPUTS, *taps), (1, 3, *size))


def _predict(tap, scorer, locator) -> list:
    """Return a map's flat class scores and box deltas, by one convolution.

    Predictors with annotations run one by one.
    """
    if any(isinstance(block, AnnotatedPredictor) for block in (scorer, locator)):
        maps = [block(tap) for block in (scorer, locator)]
        return [y.transpose((0, 2, 3, 1)).flatten() for y in maps]
    layers = (scorer.predictor, locator.predictor)
    widths = [layer._kwargs["num_filter"] for layer in layers]
    y = mx.sym.Convolution(
        tap,
        mx.sym.concat(*[layer.weight.var() for layer in layers], dim=0),
        mx.sym.concat(*[layer.bias.var() for layer in layers], dim=0),
        num_filter=sum(widths),
        kernel=layers[0]._kwargs["kernel"],
        pad=layers[0]._kwargs["pad"],
    ).transpose((0, 2, 3, 1))
    ends = (0, widths[0], sum(widths))
    cuts = [y.slice_axis(axis=3, begin=b, end=e) for b, e in zip(ends, ends[1:])]
    return [cut.flatten() for cut in cuts]


def check_teacher(student: SSD, teacher: SSD) -> None:
    """Refuse a teacher whose outputs mean something else than the student's.

    Raises
    ------
    ValueError
        Naming the first of ``ALIKE`` that differs, and both values.
    """
    configs = [vars(config_of(net)) for net in (teacher, student)]
    for name, words in ALIKE.items():
        values = [config[name] for config in configs]
        if values[0] != values[1]:
            shown = [written_size(v) if name == "size" else v for v in values]
            raise ValueError(
                f"{words}: the teacher has {shown[0]}, the student {shown[1]}; a "
                "teacher needs the student's classes and anchors"
            )


def ssd_loss(*, stds: Sequence[float] = STDS, **options: Any) -> Callable:
    """Return SSD's loss for ``fit`` and ``distil_step``: GluonCV's multi-box loss.

    Parameters
    ----------
    stds : sequence of float
        What box deltas are multiplied by.
    **options
        ``iou_guided`` and ``class_weights`` of ``positive_weights``, by which objects
        then count in ``multi_box``.

    Returns
    -------
    callable
        ``loss(outputs, batch) -> (loss, {"class": ..., "box": ...})`` with the raw
        head's outputs, by name or in order, and batches of images, class targets
        ``(B, A)`` and box targets ``(B, A, 4)``; hard negatives are mined 3 to 1 (Liu
        et al. 2016, section 2.2), and all is divided by the positives of the batch.
    """
    plain = SSDMultiBoxLoss()

    def loss(outputs: Mapping | Sequence, batch: Sequence) -> tuple:
        if not isinstance(outputs, Mapping):
            outputs = named(list(outputs)[:2], OUTPUTS)
        scores, deltas = (outputs[name] for name in OUTPUTS)
        arrays = scores, deltas, batch[1], batch[2]
        weights = positive_weights(*arrays, stds=stds, **options)
        if weights is not None:
            scored, located = multi_box(*arrays, weights=weights)
            return scored + located, {"class": scored, "box": located}
        total, scored, located = plain(*arrays)
        return total[0].sum(), {"class": scored[0].sum(), "box": located[0].sum()}

    return loss


class SSDTargets:
    """Turns the labels of a batch into what SSD's loss compares with.

    The targets are those of GluonCV's ``SSDTargetGenerator`` as its training transform
    uses it, in a tenth of the time, which its operators spend on sorting all overlaps.

    Parameters
    ----------
    anchors : NDArray
        Center boxes in pixels, ``(1, A, 4)``.
    iou : float
        Overlap from which an anchor belongs to an object.
    stds : sequence of float
        What box deltas are divided by.
    maps : sequence of (int, int, int), optional
        Height, width and anchors of a cell of each map: anchors are chosen by
        ``match_adaptively`` in place of ``iou``.
    """

    def __init__(
        self,
        anchors: mx.nd.NDArray,
        *,
        iou: float = 0.5,
        stds: Sequence[float] = STDS,
        maps: Maps | None = None,
    ) -> None:
        self.maps = maps
        self.iou, self.stds = np.float32(iou), tuple(stds)
        center = anchors.asnumpy().reshape(-1, 4).astype(np.float32)
        # Column-major, for ``boxes.iou``.
        self.corner_anchors = np.asfortranarray(corner_from_center(center))

    def __call__(self, labels: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the targets of a batch.

        Parameters
        ----------
        labels : sequence of numpy.ndarray
            ``(M, 5+)`` each: corner box in pixels, class id.

        Returns
        -------
        tuple
            Class targets ``(B, A)``, 0 for the background, and box targets
            ``(B, A, 4)``, 0 for the background; float32.
        """
        pairs = [
            matched_targets(label, self.corner_anchors, self._matches, self.stds)
            for label in labels
        ]
        classes, deltas = zip(*pairs)
        return np.stack(classes), np.stack(deltas)

    def _matches(self, corner_boxes: np.ndarray) -> np.ndarray:
        overlaps = iou(corner_boxes, self.corner_anchors)
        if self.maps is None:
            return match(overlaps, self.iou)
        return match_adaptively(corner_boxes, self.corner_anchors, overlaps, self.maps)
