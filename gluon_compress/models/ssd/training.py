"""How an SSD trains: its raw head as a block, its targets and its loss."""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace
from typing import Any, Callable, Iterator, Mapping, Sequence

import mxnet as mx
import numpy as np
from gluoncv.loss import SSDMultiBoxLoss
from gluoncv.model_zoo.ssd import SSD
from mxnet.gluon import SymbolBlock

from gluon_compress.boxes import STDS, corner_from_center, encode_deltas, iou
from gluon_compress.models.initialize import initialize
from gluon_compress.models.named import NamedBlock, named
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


FIRST = 64  # anchors of an object that are looked at first
MIN_OVERLAP = 1e-12  # an object is not matched to an anchor that overlaps it by less


def training_net(
    net: SSD,
    taps: Sequence[str] = (),
    *,
    adapters: Sequence[int] = (),
    stride: int = 1,
    seed: int = 0,
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
    symbol = mx.sym.Group(outputs)
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


def ssd_loss() -> Callable:
    """Return SSD's loss for ``fit`` and ``distil_step``: GluonCV's multi-box loss.

    Returns
    -------
    callable
        ``loss(outputs, batch) -> (loss, {"class": ..., "box": ...})`` with the raw
        head's outputs, by name or in order, and batches of images, class targets
        ``(B, A)`` and box targets ``(B, A, 4)``; hard negatives are mined 3 to 1 (Liu
        et al. 2016, section 2.2), and all is divided by the positives of the batch.
    """
    multi_box = SSDMultiBoxLoss()

    def loss(outputs: Mapping | Sequence, batch: Sequence) -> tuple:
        if not isinstance(outputs, Mapping):
            outputs = named(list(outputs)[:2], OUTPUTS)
        scores, deltas = (outputs[name] for name in OUTPUTS)
        total, scored, located = multi_box(scores, deltas, batch[1], batch[2])
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
        count = len(self.corner_anchors)
        classes = np.zeros((len(labels), count), np.float32)
        deltas = np.zeros((len(labels), count, 4), np.float32)
        for label, row, boxes in zip(labels, classes, deltas):
            if len(label):
                label = np.asarray(label, np.float32)
                matches = self._matches(label[:, :4])
                at = np.flatnonzero(matches >= 0)
                row[at] = label[matches[at], 4] + 1
                boxes[at] = encode_deltas(
                    label[matches[at], :4], self.corner_anchors[at], self.stds
                )
        return classes, deltas

    def _matches(self, corner_boxes: np.ndarray) -> np.ndarray:
        overlaps = iou(corner_boxes, self.corner_anchors)
        if self.maps is None:
            return match(overlaps, self.iou)
        return match_adaptively(corner_boxes, self.corner_anchors, overlaps, self.maps)


def match(overlaps: np.ndarray, iou: float | np.floating) -> np.ndarray:
    """Return which object each anchor belongs to.

    Every object gets the free anchor that overlaps it most, the best pairs first. Then
    an anchor that overlaps its best object as much as any does, or at least by ``iou``,
    gets that object (Liu et al. 2016, section 2.2, "matching strategy"). What does not
    overlap at all is never matched: an object without an area belongs to no anchor.

    Thousands of small objects take milliseconds each hundred. Only where hundreds want
    the same anchors, as objects of the size of the image do, is every pair looked at.

    Parameters
    ----------
    overlaps : numpy.ndarray
        ``(M, A)``, M at least 1.
    iou : float

    Returns
    -------
    numpy.ndarray
        ``(A,)``: object index, -1 for the background.
    """
    nearest, most = overlaps.argmax(axis=0), overlaps.max(axis=0)
    best = overlaps.argmax(axis=1)
    peaks = overlaps[np.arange(len(overlaps)), best]
    near = (most >= iou) | (most >= peaks[nearest])
    matches = np.where(near & (most > 0), nearest, -1)
    taken = bytearray(overlaps.shape[1])  # faster to index than an array
    others: dict[int, Any] = {}  # what comes next for an object
    # As in a stable sort of all pairs: of equal ones the first anchor comes first.
    pairs = list(zip((-peaks).tolist(), best.tolist(), range(len(overlaps))))
    twins = _twins(overlaps)  # wait until the one before has its anchor
    later = set(twins.values())
    waiting = [pair for pair in pairs if pair[2] not in later]
    heapify(waiting)
    while waiting:
        value, anchor, chosen = waiting[0]
        if value >= -MIN_OVERLAP:
            break  # and so do all that follow
        if not taken[anchor]:
            taken[anchor] = True
            matches[anchor] = chosen
            twin = twins.get(chosen)
            if twin is None:
                heappop(waiting)
            else:
                others[twin] = others.pop(chosen, None)
                heapreplace(waiting, (value, anchor, twin))
            continue
        if others.get(chosen) is None:
            others[chosen] = _free_anchors(overlaps[chosen], taken)
        following = next(others[chosen], None)
        if following is None:
            heappop(waiting)
        else:
            heapreplace(waiting, (*following, chosen))
    return matches


def _twins(overlaps: np.ndarray) -> dict[int, int]:
    """Return for each object the next one that overlaps all anchors as much."""
    twins: dict[int, int] = {}
    last: dict[int, int] = {}
    for i, row in enumerate(overlaps):
        key = hash(row.tobytes())
        if key in last and np.array_equal(overlaps[last[key]], row):
            twins[last[key]] = i
        last[key] = i
    return twins


def _free_anchors(
    overlaps: np.ndarray, taken: bytearray
) -> Iterator[tuple[float, int]]:
    """Yield the overlap, negative, and number of anchors that are free, best first.

    They are looked up in parts, each twice as long as the one before: what others took
    in the meantime is never sorted, and thousands of objects may wait without memory.
    """
    above, count = np.float32(np.inf), FIRST
    gone = np.frombuffer(taken, bool)  # the same memory
    while above > MIN_OVERLAP:
        free = (overlaps > MIN_OVERLAP) & (overlaps < above) & ~gone
        anchors = np.flatnonzero(free)
        values = overlaps[anchors]
        above = MIN_OVERLAP
        if len(values) > count:
            above = np.partition(values, -count)[-count]
            best = values >= above
            anchors, values = anchors[best], values[best]
        order = np.argsort(-values, kind="stable")
        for value, anchor in zip(values[order].tolist(), anchors[order].tolist()):
            if not taken[anchor]:
                yield -value, anchor
        count *= 2
