"""GluonCV's SSD with fast inference: only boxes that NMS looks at are decoded."""

from __future__ import annotations

from gluoncv.model_zoo.ssd import SSD
from mxnet import autograd

MIN_SCORE = 0.01  # GluonCV's: a score up to it counts as none
STEP = 1 << 16  # between the ranks of two classes: more than there are anchors


class FastSSD(SSD):
    """An SSD whose detections are GluonCV's, for a small part of their cost.

    GluonCV decodes a box for every class and anchor and hands them all to its NMS,
    which looks at the best ``nms_topk`` of them. Here these are found first, and they
    alone are decoded and go on, in the same order; which ones, where several have the
    very score of the last, may differ. In training, without a limit or NMS, and if more
    boxes than ``nms_topk`` are to be returned, this is GluonCV's SSD.
    """

    def hybrid_forward(self, F, x):
        """Return ids, scores and corner boxes; in training what GluonCV's returns."""
        limited = 0 < self.post_nms <= self.nms_topk and 0 < self.nms_thresh < 1
        if autograd.is_training() or not limited:
            return super().hybrid_forward(F, x)
        maps = self.features(x)
        scores = self._joined(F, maps, self.class_predictors, self.num_classes + 1)
        deltas = self._joined(F, maps, self.box_predictors, 4)
        anchors = [
            F.reshape(generator(y), shape=(-1, 4))
            for y, generator in zip(maps, self.anchor_generators)
        ]
        anchors = F.concat(*anchors, dim=0)
        best = self._best(F, F.softmax(scores, axis=-1), deltas, anchors)
        rows = F.contrib.box_nms(
            best,
            overlap_thresh=self.nms_thresh,
            topk=self.nms_topk,
            valid_thresh=MIN_SCORE,
            id_index=0,
            score_index=1,
            coord_start=2,
        )
        rows = F.slice_axis(rows, axis=1, begin=0, end=self.post_nms)
        ends = ((0, 1), (1, 2), (2, 6))
        return tuple(F.slice_axis(rows, axis=2, begin=b, end=e) for b, e in ends)

    def _joined(self, F, maps, predictors, width: int):
        """Return what predictors say of all anchors, ``(B, A, width)``."""
        rows = [
            F.flatten(F.transpose(predictor(y), (0, 2, 3, 1)))
            for y, predictor in zip(maps, predictors)
        ]
        return F.reshape(F.concat(*rows, dim=1), shape=(0, -1, width))

    def _best(self, F, shares, deltas, anchors):
        """Return class, score and corner box of the best, ``(B, nms_topk, 6)``."""
        row, label, anchor = self._chosen(F, shares)
        # Without so many boxes some places are beyond the last anchor.
        ones = F.ones_like(F.slice_axis(anchors, axis=1, begin=0, end=1))
        inside = F.broadcast_lesser(anchor, F.reshape(F.sum(ones), shape=(1, 1)))
        anchor = anchor * inside
        score = F.gather_nd(shares, F.stack(row, anchor, label + 1, axis=0)) * inside
        valid = score > MIN_SCORE
        heads = (
            F.where(valid, label, F.ones_like(label) * -1),
            F.where(valid, score, F.zeros_like(score)),
        )
        deltas = F.gather_nd(deltas, F.stack(row, anchor, axis=0))
        pairs = deltas, F.take(anchors, anchor)
        # GluonCV's decoder knows one set of anchors for all images of a batch.
        boxes = self.bbox_decoder(*(F.reshape(p, shape=(1, -1, 4)) for p in pairs))
        boxes = F.reshape(boxes, shape=(-1, self.nms_topk, 4))
        return F.concat(F.stack(*heads, axis=2), boxes, dim=2)

    def _chosen(self, F, shares):
        """Return image, class and anchor of the best scores, each ``(B, nms_topk)``."""
        flat = F.flatten(F.slice_axis(shares, axis=2, begin=1, end=None))  # (B, A * C)
        none = F.zeros((1, self.nms_topk))  # for a net with fewer boxes than that
        none = F.broadcast_like(none, flat, lhs_axes=(0,), rhs_axes=(0,))
        places = F.topk(F.concat(flat, none, dim=1), k=self.nms_topk, axis=1)
        anchor = F.floor((places + 0.5) / self.num_classes)
        # In GluonCV's order, class by class, which its NMS keeps among equal scores.
        ranks = (places - anchor * self.num_classes) * STEP + anchor
        ranks = F.sort(ranks, axis=1)
        label = F.floor((ranks + 0.5) / STEP)
        anchor = ranks - label * STEP
        row = F.expand_dims(F.contrib.arange_like(anchor, axis=0), 1)
        return F.broadcast_add(F.zeros_like(anchor), row), label, anchor
