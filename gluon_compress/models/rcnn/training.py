"""How a two-stage detector trains: its block, what its losses sample, and the losses.

The first stage runs as a block. Its loss decides on which regions the second runs, for
that depends on the objects: the loss calls the second stage itself. What is drawn at
random comes from MXNet's generator, so that a resumed training is exact.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, NamedTuple, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd, nd
from mxnet.gluon import HybridBlock, SymbolBlock

from gluon_compress.boxes import encode_deltas, iou
from gluon_compress.data.batches import pad_labels
from gluon_compress.models.base import Family
from gluon_compress.models.initialize import initialize
from gluon_compress.models.named import NamedBlock
from gluon_compress.models.object_weights import positive_weights
from gluon_compress.models.rcnn import net as parts
from gluon_compress.models.rcnn.config import RCNNConfig
from gluon_compress.models.rcnn.inference import block_on
from gluon_compress.postprocess.rcnn import (
    FEATURES,
    HEADS,
    RPN_DELTAS,
    RPN_SCORES,
    RCNNPostprocess,
    regions_of,
)

# Overlaps of anchors with objects, and without (Ren et al. 2015).
POSITIVE, NEGATIVE = 0.7, 0.3
POSITIVE_SHARE = 0.5  # of the sampled anchors, at most
ROI_OVERLAP = 0.5  # from which a proposal belongs to an object
ROI_SHARE = 0.25  # of the sampled proposals that belong to objects, at most
# Where the losses of boxes become linear, as in GluonCV.
RPN_BEND, ROI_BEND = 1 / 9, 1.0


class TwoStageOutputs(dict):
    """The outputs of the first stage by name, and what the second needs.

    Attributes
    ----------
    maps : list of NDArray
        The pyramid's maps.
    heads : Block
        ``heads(*maps, regions) -> class scores, box deltas``.
    """

    maps: list
    heads: Callable


class TwoStageBlock(NamedBlock):
    """The first stage as a block with names; it has the second stage's parameters too.

    Parameters
    ----------
    features, heads : SymbolBlock
        The stages; the last outputs of ``features`` are the pyramid's maps.
    names : sequence of str
        Of the other outputs.
    shape : sequence of int
        Shape of the input.
    """

    def __init__(
        self,
        features: SymbolBlock,
        heads: SymbolBlock,
        names: Sequence[str],
        shape: Sequence[int],
    ) -> None:
        super().__init__(features, names, shape)
        self.heads = heads

    def forward(self, *inputs: Any) -> Any:
        """Return the outputs as ``TwoStageOutputs``; of a symbol, those with names."""
        outputs = list(self.block(*inputs))
        count = len(self.names)
        if isinstance(inputs[0], mx.sym.Symbol):
            return outputs[:count]
        result = TwoStageOutputs(zip(self.names, outputs[:count]))
        result.maps, result.heads = outputs[count:], self.heads
        return result


def training_net(
    family: Family,
    net: HybridBlock,
    taps: Sequence[str] = (),
    *,
    seed: int = 0,
    **options: Any,
) -> TwoStageBlock:
    """Return the block that trains a two-stage detector.

    Parameters
    ----------
    family : Family
    net, taps, seed, **options
        As ``Family.training_net`` takes them.
    """
    stages, params = parts.stages(family.training_symbol(net)), net.collect_params()
    size, names = family.input_size(net), (RPN_SCORES, RPN_DELTAS)
    first = list(stages[FEATURES])
    tapped = family.tapped(net, stages[FEATURES], taps, **options)
    outputs = mx.sym.Group([*first[: len(names)], *tapped, *first[len(names) :]])
    features = block_on(FEATURES, outputs, params)
    initialize(features, outputs, size, seed=seed)  # adapters, if there are any
    heads = block_on(HEADS, stages[HEADS], params)
    return TwoStageBlock(features, heads, (*names, *taps), (1, 3, *size))


class RCNNTargets:
    """Pads the labels of a batch: all targets depend on what the net proposes."""

    def __call__(self, labels: Sequence[np.ndarray]) -> tuple[np.ndarray]:
        """Return the labels ``(B, M, 6)``, padded with -1, float32.

        Parameters
        ----------
        labels : sequence of numpy.ndarray
            ``(M, 6)`` each: corner box in pixels, class id, difficult.
        """
        return pad_labels(labels)


class Sampled(NamedTuple):
    """What is drawn of boxes for a loss.

    Parameters
    ----------
    rows : numpy.ndarray
        Numbers of the boxes, those with objects first.
    matches : numpy.ndarray
        The object of each, -1 for none.
    """

    rows: np.ndarray
    matches: np.ndarray


class RCNNLoss:
    """The losses of both stages (Ren et al. 2015, equation 1; Girshick 2015).

    ``L = object + proposal + class + box``. Of each image ``rpn_samples`` anchors are
    drawn, at most half of them with objects, and of the proposals and objects
    ``roi_samples``, at most a quarter of them with objects. ``object`` and ``class``
    are mean entropies of what is drawn. ``proposal`` and ``box`` are sums of smooth L1
    losses over what has objects, divided by the number of all that are drawn. These are
    GluonCV's numbers and weights.

    Parameters
    ----------
    postprocess : RCNNPostprocess
        Gives anchors and proposals.
    rpn_samples, roi_samples : int
    **options
        ``iou_guided`` and ``class_weights`` of ``positive_weights``, by which regions
        with objects then count in ``class``.
    """

    def __init__(
        self,
        postprocess: RCNNPostprocess,
        *,
        rpn_samples: int,
        roi_samples: int,
        **options: Any,
    ) -> None:
        self.postprocess, self.options = postprocess, options
        self.rpn_samples, self.roi_samples = rpn_samples, roi_samples

    @classmethod
    def of(
        cls, config: RCNNConfig, postprocess: RCNNPostprocess, **options: Any
    ) -> RCNNLoss:
        """Return the loss of a configuration."""
        return cls(
            postprocess,
            rpn_samples=config.rpn_samples,
            roi_samples=config.roi_samples,
            **options,
        )

    def __call__(
        self, outputs: TwoStageOutputs, batch: Sequence[mx.nd.NDArray]
    ) -> tuple[mx.nd.NDArray, Mapping[str, mx.nd.NDArray]]:
        """Return the loss and its parts.

        Parameters
        ----------
        outputs : TwoStageOutputs
            Of a ``TwoStageBlock``.
        batch : sequence of NDArray
            Images ``(B, 3, H, W)``, and labels ``(B, M, 6)``.
        """
        scores, deltas = outputs[RPN_SCORES], outputs[RPN_DELTAS]
        ctx, size = scores.context, tuple(batch[0].shape[2:])
        with autograd.pause():
            labels = [row[row[:, 4] >= 0] for row in batch[1].asnumpy()]
            anchors = self.postprocess.anchors(*size)
            first = [self.anchor_targets(label, anchors, size) for label in labels]
            boxes = self.postprocess.proposals(scores.asnumpy(), deltas.asnumpy(), size)
            second = [self.region_targets(*pair) for pair in zip(boxes, labels)]
            holds, moves = _arrays(first, ctx)
            regions, classes, shifts = _arrays(second, ctx)
            rows = nd.array(regions_of(regions.asnumpy()), ctx=ctx)
        found, shifted = outputs.heads(*outputs.maps, rows)
        object_, proposal = _first_losses(scores, deltas, holds, moves)
        stds = self.postprocess.settings.stds
        class_, box = second_losses(
            *(found, shifted, classes.reshape(-1), shifts.reshape((-1, 4))),
            stds=stds,
            **self.options,
        )
        names = {"object": object_, "proposal": proposal, "class": class_, "box": box}
        return object_ + proposal + class_ + box, names

    def anchor_targets(
        self, label: np.ndarray, anchors: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what the first stage is to say of the anchors of one image.

        An anchor that lies in the input has an object if it overlaps one by 0.7, or
        overlaps it most of all; it has none if it overlaps none by 0.3.

        Parameters
        ----------
        label : numpy.ndarray
            ``(M, 6)``.
        anchors : numpy.ndarray
            ``(A, 4)``.
        size : (int, int)
            Height and width of the input, pixels.

        Returns
        -------
        tuple of numpy.ndarray
            1 and 0 for anchors with and without an object, -1 for those that are not
            drawn, ``(A, 1)``; and box targets ``(A, 4)``.
        """
        inside = np.flatnonzero(
            (anchors[:, :2] >= 0).all(axis=1)
            & (anchors[:, 2:] < [size[1], size[0]]).all(axis=1)
        )
        holds = np.full((len(anchors), 1), -1, np.float32)
        moves = np.zeros((len(anchors), 4), np.float32)
        drawn = draw(
            *_matched(label, anchors[inside], POSITIVE, NEGATIVE),
            self.rpn_samples,
            POSITIVE_SHARE,
        )
        rows = inside[drawn.rows]
        holds[rows, 0] = drawn.matches >= 0
        with_object, matches = _with_objects(rows, drawn)
        moves[with_object] = encode_deltas(
            label[matches, :4], anchors[with_object], (1, 1, 1, 1)
        )
        return holds, moves

    def region_targets(
        self, proposals: np.ndarray, label: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which regions of one image the second stage reads, and is to say.

        Parameters
        ----------
        proposals : numpy.ndarray
            ``(R, 4)``, -1 for none.
        label : numpy.ndarray
            ``(M, 6)``.

        Returns
        -------
        tuple of numpy.ndarray
            Boxes ``(S, 4)``, S being ``roi_samples``; the class of each ``(S,)``, 0 for
            the background, -1 where there are too few boxes; and box targets
            ``(S, 4)``.
        """
        count = self.roi_samples
        boxes = np.full((count, 4), -1, np.float32)
        classes = np.full(count, -1, np.float32)
        shifts = np.zeros((count, 4), np.float32)
        proposals = proposals[proposals[:, 2] >= 0]
        objects = label[:, :4]
        sides = objects[:, 2:] - objects[:, :2]
        every = np.concatenate([proposals, objects[(sides > 0).all(axis=1)]])
        positive, negative = _matched(
            label, every, ROI_OVERLAP, ROI_OVERLAP, best=False
        )
        drawn = draw(positive, negative, count, ROI_SHARE)
        used = len(drawn.rows)
        boxes[:used] = every[drawn.rows]
        classes[:used] = 0
        at, matches = _with_objects(np.arange(used), drawn)
        classes[at] = label[matches, 4] + 1
        stds = self.postprocess.settings.stds
        shifts[at] = encode_deltas(label[matches, :4], boxes[at], stds)
        return boxes, classes, shifts


def draw(
    matches: np.ndarray, negative: np.ndarray, count: int, share: float
) -> Sampled:
    """Return boxes drawn with MXNet's random numbers.

    Parameters
    ----------
    matches : numpy.ndarray
        The object of each box, -1 for none, ``(N,)``.
    negative : numpy.ndarray
        Whether a box without an object may be drawn, ``(N,)``, bool.
    count : int
        How many are drawn, if there are as many.
    share : float
        Of those with an object, at most, rounded.
    """
    order = np.zeros(0, int)
    if len(matches):
        order = (
            nd.random.uniform(shape=(len(matches),)).asnumpy().argsort(kind="stable")
        )
    with_object = order[matches[order] >= 0][: round(count * share)]
    without = order[(matches[order] < 0) & negative[order]]
    without = without[: count - len(with_object)]
    rows = np.concatenate([with_object, without])
    found = np.where(np.arange(len(rows)) < len(with_object), matches[rows], -1)
    return Sampled(rows, found)


def _with_objects(rows: np.ndarray, drawn: Sampled) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of what has an object, and the objects."""
    has = drawn.matches >= 0
    return rows[has], drawn.matches[has]


def _matched(
    label: np.ndarray,
    boxes: np.ndarray,
    positive: float,
    negative: float,
    *,
    best: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the object of each box, -1 for none, and whether it surely has none.

    With ``best``, the boxes that overlap an object most have it too.
    """
    if not len(label) or not len(boxes):
        return np.full(len(boxes), -1), np.ones(len(boxes), bool)
    with np.errstate(all="ignore"):  # two boxes without an area
        overlaps = np.nan_to_num(iou(label[:, :4], np.asfortranarray(boxes)))
    owner, most = overlaps.argmax(axis=0), overlaps.max(axis=0)
    has = most >= positive
    if best:
        peaks = overlaps.max(axis=1, keepdims=True)
        has |= ((overlaps >= peaks) & (peaks > 0)).any(axis=0)
    return np.where(has, owner, -1), most < negative


def _arrays(rows: Sequence[tuple], ctx: mx.Context) -> list[mx.nd.NDArray]:
    """Return what each image has as arrays of all images."""
    return [nd.array(np.stack(part), ctx=ctx) for part in zip(*rows)]


def smooth_l1(off: mx.nd.NDArray, bend: float) -> mx.nd.NDArray:
    """Return ``x² / (2 bend)`` where ``|x| < bend``, else ``|x| - bend / 2``."""
    return nd.smooth_l1(off, scalar=bend**-0.5)


def _first_losses(scores: Any, deltas: Any, holds: Any, moves: Any) -> tuple:
    """Return the entropy of objects, and the loss of proposals."""
    drawn, positive = holds >= 0, holds > 0
    count = nd.maximum(drawn.sum(), 1)
    # -log p = softplus(-x), and -log(1 - p) = softplus(x) = softplus(-x) + x.
    entropy = nd.Activation(-scores, act_type="softrelu") + (1 - positive) * scores
    apart = smooth_l1(nd.broadcast_mul(deltas - moves, positive), RPN_BEND)
    return (entropy * drawn).sum() / count, apart.sum() / count


def second_losses(
    scores: mx.nd.NDArray,
    deltas: mx.nd.NDArray,
    classes: mx.nd.NDArray,
    shifts: mx.nd.NDArray,
    *,
    stds: Sequence[float],
    **options: Any,
) -> tuple[mx.nd.NDArray, mx.nd.NDArray]:
    """Return the entropy of classes, and the loss of the boxes of their own class.

    Parameters
    ----------
    scores, deltas : NDArray
        Logits ``(S, C + 1)`` and box deltas of each class ``(S, 4 C)`` of S regions.
    classes, shifts : NDArray
        Their targets ``(S,)``, -1 for what is not drawn, and ``(S, 4)``.
    stds : sequence of float
        What box deltas are multiplied by.
    **options
        Of ``positive_weights``.
    """
    drawn, positive = classes >= 0, classes > 0
    count = nd.maximum(drawn.sum(), 1)
    shares = nd.log_softmax(scores, axis=1)
    entropy = -nd.pick(shares, nd.maximum(classes, 0), axis=1)
    width = scores.shape[1] - 1
    own = nd.one_hot(nd.maximum(classes - 1, 0), width) * positive.expand_dims(1)
    own = own.expand_dims(2)
    by_class = deltas.reshape((-1, width, 4))
    if options:
        moved = nd.broadcast_mul(by_class.detach(), own).sum(axis=1)
        weights = positive_weights(scores, moved, classes, shifts, stds=stds, **options)
        entropy = entropy * weights
    off = nd.broadcast_sub(by_class, shifts.expand_dims(1))
    apart = smooth_l1(nd.broadcast_mul(off, own), ROI_BEND)
    return (entropy * drawn).sum() / count, apart.sum() / count
