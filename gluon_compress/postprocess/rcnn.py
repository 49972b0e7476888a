"""What runs between the stages of a two-stage detector, and behind them.

The first stage scores and moves anchors; the best become *proposals*. The second stage
reads its maps in their places, as *regions*, and gives a class and a box for each, and
masks for the boxes that are left in the end. Anchors, decoding and both NMS are
GluonCV's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Callable, ClassVar, Dict, Mapping, Sequence, Tuple

import cv2
import numpy as np
from pydantic import Field
from typing_extensions import Annotated, Literal

from gluon_compress.boxes import (
    MIN_SIDE,
    STDS,
    center_from_corner,
    corner_from_center,
    nms,
)
from gluon_compress.postprocess.base import FIRST, Detections, Rows, boxes_in_images
from gluon_compress.postprocess.ssd_check import DetectionCheck, compared
from gluon_compress.validation import (
    Positive,
    Settings,
    Share,
    ShareOrZero,
    wrong,
)

STRIDES = (4, 8, 16, 32, 64)  # of the maps that proposals are made from
LEVELS = len(STRIDES)
POOLED = STRIDES[:4]  # of those that regions are read from
UNIT = 32  # pixels: both sides of an input are multiples of it
SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
RATIOS = (0.5, 1.0, 2.0)
CANONICAL_SIDE, CANONICAL_LEVEL = 224, 2  # Lin et al. 2017, equation 1: POOLED[2]

RPN_SCORES, RPN_DELTAS = "rpn_scores", "rpn_deltas"  # (B, A, 1), (B, A, 4)
CLASSES, BOXES = "class_scores", "box_deltas"  # (B, R, C + 1), (B, R, 4 C)
MASKS = "masks"  # (B, N, C, 2 side, 2 side), logits
PROPOSALS = "proposals"  # (B, R, 4)
MAPS = tuple(f"map{i}" for i in range(len(POOLED)))  # what both stages read
REGIONS = "regions"  # (R, 9): image, corner box, and which of the maps is read

FEATURES, HEADS, MASK = FIRST, "heads", "mask"  # the stages
# What runs a stage: arrays by name to arrays by name.
Stage = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


class RCNNPostprocessSettings(Settings):
    """Constants of anchors, proposals, decoding and NMS.

    Parameters
    ----------
    kind : str
        ``rcnn``.
    sizes : tuple of float
        Side of the square anchor of each map, pixels.
    ratios : tuple of float
        Height over width of the anchors of a cell.
    stds : tuple of float
        Factors of box deltas of the second stage; those of the first are 1.
    clip : float
        The largest logarithm of a growth.
    rpn_pre_nms, rpn_post_nms : int
        Boxes that enter, and proposals that leave, the first NMS.
    rpn_nms_thresh : float
        A proposal is dropped if its IoU with a better one exceeds this.
    nms_thresh : float
        A box is dropped if its IoU with a better box of its class exceeds this.
    nms_topk : int
        Number of boxes that enter the second NMS, the best of all classes.
    post_nms : int
        Number of boxes returned.
    least_score : float
        Boxes up to this score are dropped.
    """

    kind: Literal["rcnn"] = "rcnn"
    sizes: Annotated[
        Tuple[Positive, ...], Field(min_length=LEVELS, max_length=LEVELS)
    ] = SIZES
    ratios: Annotated[Tuple[Positive, ...], Field(min_length=1)] = RATIOS
    stds: Tuple[Positive, Positive, Positive, Positive] = STDS
    clip: Positive = 4.14
    rpn_pre_nms: Rows = 1000
    rpn_post_nms: Rows = 200
    rpn_nms_thresh: Share = 0.7
    nms_thresh: Share = 0.5
    nms_topk: Rows = 400
    post_nms: Rows = 100
    least_score: ShareOrZero = 0.01


@dataclass(frozen=True)
class RCNNPostprocess:
    """Makes proposals of what the first stage gives, and boxes of the second.

    Parameters
    ----------
    settings : RCNNPostprocessSettings
    """

    settings: RCNNPostprocessSettings = RCNNPostprocessSettings()

    kind: ClassVar[str] = "rcnn"
    Settings: ClassVar[type] = RCNNPostprocessSettings
    finds_boxes: ClassVar[bool] = True
    arrays: ClassVar[tuple] = ()
    later_stages: ClassVar[tuple] = (HEADS, MASK)

    @classmethod
    def from_state(
        cls, settings: Any, arrays: Mapping[str, np.ndarray]
    ) -> RCNNPostprocess:
        """Return the postprocess that ``state`` described."""
        return cls(settings)

    @property
    def most_detections(self) -> int:
        """How many boxes of an image can be returned."""
        return min(self.settings.post_nms, self.settings.nms_topk)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return its section of the manifest, and no arrays."""
        return self.settings.to_json(), {}

    def check(self, shapes: Mapping[str, Sequence[int]], classes: Sequence) -> None:
        """Raise ValueError unless outputs fit the settings, and the classes them."""
        stated = {name: list(shape) for name, shape in shapes.items()}
        names = (RPN_SCORES, RPN_DELTAS, *MAPS, CLASSES, BOXES)
        for name in names:
            if name not in shapes:
                raise wrong("outputs", stated, f"{', '.join(names)} among them")
        if tuple(shapes[CLASSES])[-1] != len(classes) + 1:
            allowed = f"{tuple(shapes[CLASSES])[-1] - 1} names, as {CLASSES} has"
            raise wrong("classes", list(classes), allowed)
        if tuple(shapes[BOXES])[-1] != 4 * len(classes):
            raise wrong(
                f"the shape of {BOXES}", stated[BOXES], f"(R, {4 * len(classes)})"
            )
        height, width = (POOLED[0] * side for side in shapes[MAPS[0]][-2:])
        anchors = len(self.anchors(height, width))
        for name, last in ((RPN_SCORES, 1), (RPN_DELTAS, 4)):
            if tuple(shapes[name])[-2:] != (anchors, last):
                allowed = f"(B, {anchors}, {last}), as sizes and ratios make it"
                raise wrong(f"the shape of {name}", stated[name], allowed)

    def anchors(self, height: int, width: int) -> np.ndarray:
        """Return the anchors of an input: corner boxes ``(A, 4)`` in pixels."""
        return anchors_for(height, width, self.settings.sizes, self.settings.ratios)

    def proposals(
        self, scores: np.ndarray, deltas: np.ndarray, size: tuple[int, int]
    ) -> np.ndarray:
        """Return the proposals of a batch, best first.

        Parameters
        ----------
        scores : ndarray
            Logits, ``(B, A, 1)``.
        deltas : ndarray
            ``(B, A, 4)``.
        size : (int, int)
            Height and width of the input, pixels.

        Returns
        -------
        ndarray
            Corner boxes ``(B, R, 4)`` within the input, float32; R is ``rpn_post_nms``,
            rows without a proposal are -1.
        """
        settings, anchors = self.settings, self.anchors(*size)
        found = np.full((len(scores), settings.rpn_post_nms, 4), -1, np.float32)
        for rows, score, delta in zip(found, scores[..., 0], deltas):
            best = _best(score, settings.rpn_pre_nms)
            with np.errstate(over="ignore", invalid="ignore"):
                boxes = _decoded(
                    delta[best], anchors[best], (1, 1, 1, 1), settings.clip
                )
            boxes = _within(boxes, size)
            boxes = boxes[np.isfinite(score[best])]
            # Of an area; a box that is not finite has none.
            boxes = boxes[(boxes[:, 2:] - boxes[:, :2] > MIN_SIDE).all(axis=1)]
            chosen = nms(
                boxes,
                np.zeros(len(boxes), int),
                settings.rpn_nms_thresh,
                limit=settings.rpn_post_nms,
            )
            rows[: len(chosen)] = boxes[chosen]
        return found

    def run(
        self,
        stages: Mapping[str, Stage],
        batch: np.ndarray,
        *,
        together: bool = True,
    ) -> Dict[str, np.ndarray]:
        """Return what a net gives for a batch, running its stages in turn.

        Parameters
        ----------
        stages : mapping
            ``features``, from ``data`` ``(B, 3, H, W)`` to ``rpn_scores``,
            ``rpn_deltas`` and ``MAPS``; ``heads``, from ``MAPS`` and ``regions`` to
            ``class_scores`` and ``box_deltas``, one row a region; for masks also
            ``mask``, to ``masks``.
        batch : ndarray
            Inputs ``(B, 3, H, W)``.
        together : bool
            Whether later stages take the regions of several images at once. Exports are
            made for those of one.

        Returns
        -------
        dict
            ``rpn_scores`` and ``rpn_deltas``; ``proposals`` ``(B, R, 4)``;
            ``class_scores`` ``(B, R, C + 1)`` and ``box_deltas`` ``(B, R, 4 C)``; and
            of a net with masks ``masks`` ``(B, N, h, w)``, the probabilities of the
            pixels of the boxes that ``decode`` returns.
        """
        first = stages[FEATURES]({"data": batch})
        maps = {name: first[name] for name in MAPS}
        scores, deltas = first[RPN_SCORES], first[RPN_DELTAS]
        boxes = self.proposals(scores, deltas, (batch.shape[2], batch.shape[3]))
        outputs = {RPN_SCORES: scores, RPN_DELTAS: deltas, PROPOSALS: boxes}
        outputs.update(_in_regions(stages[HEADS], maps, boxes, together))
        if MASK in stages:
            ids, _, found = self.decode(outputs)
            masks = _in_regions(stages[MASK], maps, found, together)[MASKS]
            labels = np.maximum(ids[..., 0], 0).astype(int)
            rows = np.arange(len(labels))[:, None]
            columns = np.arange(labels.shape[1])[None]
            with np.errstate(over="ignore"):
                outputs[MASKS] = 1 / (1 + np.exp(-masks[rows, columns, labels]))
        return outputs

    def decode(self, outputs: Mapping[str, np.ndarray]) -> Detections:
        """Return ids, scores and corner boxes.

        Parameters
        ----------
        outputs : mapping
            ``proposals`` ``(B, R, 4)``, ``class_scores`` ``(B, R, C + 1)``, logits with
            the background first, and ``box_deltas`` ``(B, R, 4 C)``, as
            ``run`` gives them.

        Returns
        -------
        tuple
            Ids ``(B, N, 1)``, scores ``(B, N, 1)`` and corner boxes ``(B, N, 4)`` in
            pixels of the input, float32, best first; N is ``post_nms``, rows without a
            detection are -1. A box or score that is not a finite number is none.
        """
        settings = self.settings
        batch = zip(outputs[PROPOSALS], outputs[CLASSES], outputs[BOXES])
        rows = np.full((len(outputs[CLASSES]), settings.post_nms, 6), -1, np.float32)
        for row, (proposals, logits, deltas) in zip(rows, batch):
            labels, scores, boxes = self._candidates(proposals, logits, deltas)
            chosen = nms(boxes, labels, settings.nms_thresh, limit=settings.post_nms)
            count = len(chosen)
            row[:count, 0], row[:count, 1] = labels[chosen], scores[chosen]
            row[:count, 2:] = boxes[chosen]
        return rows[..., :1], rows[..., 1:2], rows[..., 2:]

    def _candidates(self, proposals: np.ndarray, logits: np.ndarray, deltas) -> tuple:
        """Return labels, scores and boxes of one image's best, best first."""
        shares, boxes = self._all_boxes(proposals, logits, deltas)
        flat = shares.T.ravel()  # by class, then proposal: GluonCV's order
        with np.errstate(invalid="ignore"):
            candidates = np.flatnonzero(flat > self.settings.least_score)
        candidates = candidates[_best(flat[candidates], self.settings.nms_topk)]
        labels, rows = np.divmod(candidates, max(len(proposals), 1))
        chosen = boxes[rows, labels]
        finite = np.isfinite(chosen).all(axis=1)
        return labels[finite], flat[candidates][finite], chosen[finite]

    def _all_boxes(self, proposals: np.ndarray, logits: np.ndarray, deltas) -> tuple:
        """Return the probability ``(R, C)`` and box ``(R, C, 4)`` of every class."""
        classes = logits.shape[1] - 1
        with np.errstate(over="ignore", invalid="ignore"):
            shares = np.exp(logits - logits.max(axis=1, keepdims=True))
            shares = (shares / shares.sum(axis=1, keepdims=True))[:, 1:]
            boxes = _decoded(
                deltas.reshape(-1, 4),
                proposals.repeat(classes, axis=0),
                self.settings.stds,
                self.settings.clip,
            )
        shares = np.where(proposals[:, 2:3] < 0, 0, shares)  # no proposal at all
        return shares, boxes.reshape(-1, classes, 4)

    @staticmethod
    def in_images(
        results: Sequence[np.ndarray], placements: Sequence
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return for each image ids, scores and corner boxes in its pixels."""
        return boxes_in_images(results, placements)

    def compare(
        self,
        outputs: Mapping[str, np.ndarray],
        results: Sequence[np.ndarray],
        expected: Sequence[np.ndarray],
        *,
        tolerance: float,
        side: int,
    ) -> tuple[float, str]:
        """Return the largest difference of detections, and what is wrong with them."""
        checks = []
        parts = zip(
            *(outputs[name] for name in (PROPOSALS, CLASSES, BOXES)),
            np.concatenate(results, axis=2),
            np.concatenate(expected, axis=2),
        )
        for proposals, logits, deltas, actual, wanted in parts:
            shares, boxes = self._all_boxes(proposals, logits, deltas)
            rows, classes = shares.shape
            # As if each class had anchors of its own.
            alone = np.zeros((rows, classes, classes), np.float32)
            alone[:, np.arange(classes), np.arange(classes)] = shares
            allowed = tolerance * float(np.abs(np.hstack([logits, deltas])).max())
            check = DetectionCheck(
                alone.reshape(-1, classes),
                boxes.reshape(-1, 4),
                self.settings,
                side,
                allowed,
            )
            checks.append((check, actual, wanted))
        return compared(checks)


def _in_regions(
    stage: Stage, maps: Mapping[str, np.ndarray], boxes: np.ndarray, together: bool
) -> Dict[str, np.ndarray]:
    """Return what a stage gives for boxes ``(B, R, 4)``: arrays ``(B, R, ...)``."""
    if together:
        found = stage({**maps, REGIONS: regions_of(boxes)})
        return {n: a.reshape(*boxes.shape[:2], *a.shape[1:]) for n, a in found.items()}
    rows = [
        stage({**{n: a[i : i + 1] for n, a in maps.items()}, REGIONS: regions_of(own)})
        for i, own in enumerate(boxes[:, None])
    ]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def regions_of(boxes: np.ndarray) -> np.ndarray:
    """Return regions: the number of the image, a box, and which map it is read from.

    Parameters
    ----------
    boxes : ndarray
        Corner boxes ``(B, R, 4)`` in pixels of the input; -1 for none.

    Returns
    -------
    ndarray
        ``(B R, 9)``, float32: image, corner box, and 1 for one of ``POOLED``, else 0
        (Lin et al. 2017, equation 1). A box that is none is read from no map.
    """
    images, rows = boxes.shape[:2]
    regions = np.zeros((images * rows, 5 + len(POOLED)), np.float32)
    regions[:, 0] = np.arange(images).repeat(rows)
    regions[:, 1:5] = flat = boxes.reshape(-1, 4)
    with np.errstate(all="ignore"):
        sides = flat[:, 2:] - flat[:, :2] + 1
        area = np.maximum(sides[:, 0] * sides[:, 1], 1)
        steps = np.log2(np.sqrt(area) / CANONICAL_SIDE + 1e-6)
    levels = np.clip(np.floor(CANONICAL_LEVEL + steps), 0, len(POOLED) - 1)
    levels = np.nan_to_num(levels).astype(int)
    regions[np.arange(len(regions)), 5 + levels] = flat[:, 2] >= 0
    return regions


@lru_cache(maxsize=32)
def anchors_for(
    height: int, width: int, sizes: Tuple[float, ...], ratios: Tuple[float, ...]
) -> np.ndarray:
    """Return GluonCV's anchors, map by map and row by row, all of a cell together.

    Parameters
    ----------
    height, width : int
        Of the input, pixels.
    sizes : tuple of float
        Of each map, pixels.
    ratios : tuple of float

    Returns
    -------
    ndarray
        Corner boxes ``(A, 4)`` in pixels, float32; not to be changed.
    """
    parts = []
    for stride, size in zip(STRIDES, sizes):
        # In GluonCV's words: of a square of one cell, rounded to pixels, then scaled.
        widths = np.round(np.sqrt(stride * stride / np.array(ratios, np.float64)))
        sides = np.stack([widths, np.round(widths * ratios)], axis=1) * size / stride
        center = (stride - 1) / 2
        own = np.hstack([center - (sides - 1) / 2, center + (sides - 1) / 2])
        rows, columns = -(-height // stride), -(-width // stride)
        y, x = stride * np.mgrid[:rows, :columns]
        places = np.stack([x, y, x, y], axis=-1)[:, :, None]
        parts.append((places + own).reshape(-1, 4))
    anchors = np.concatenate(parts).astype(np.float32)
    anchors.setflags(write=False)
    return anchors


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the numbers of the highest scores, best first; equal ones in order."""
    numbers = np.arange(len(scores))
    if len(scores) > count:
        numbers = np.sort(np.argpartition(-scores, count - 1)[:count])
    return numbers[np.argsort(-scores[numbers], kind="stable")]


def _decoded(
    deltas: np.ndarray, boxes: np.ndarray, stds: Sequence[float], clip: float
) -> np.ndarray:
    """Return the corner boxes that deltas make of corner boxes, all ``(N, 4)``."""
    scaled = deltas * np.asarray(stds, np.float32)
    centers = center_from_corner(boxes)
    size = centers[:, 2:]
    growth = np.exp(np.minimum(scaled[:, 2:], np.float32(clip)))
    center = centers[:, :2] + scaled[:, :2] * size
    return corner_from_center(np.hstack([center, growth * size]))


def _within(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return corner boxes clipped to the input."""
    height, width = size
    return np.clip(boxes, 0, np.array([width, height] * 2, np.float32))


def paste_masks(
    masks: np.ndarray, corner_boxes: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Return the masks of boxes as masks of the image.

    Parameters
    ----------
    masks : ndarray
        Probabilities within boxes, ``(N, h, w)``.
    corner_boxes : ndarray
        ``(N, 4)``, pixels of the image.
    height, width : int
        Of the image, pixels.

    Returns
    -------
    ndarray
        ``(N, height, width)``, bool: where the probability is at least a half.
    """
    result = np.zeros((len(masks), height, width), bool)
    limits = np.array([width, height] * 2)
    for whole, mask, box in zip(result, masks, corner_boxes):
        x0, y0, x1, y1 = np.clip(np.round(box), 0, limits).astype(int)
        if x1 <= x0 or y1 <= y0:
            continue
        # Where each pixel of the image, by its centre, is in the mask.
        x = (np.arange(x0, x1) + 0.5 - box[0]) / (box[2] - box[0]) * mask.shape[1]
        y = (np.arange(y0, y1) + 0.5 - box[1]) / (box[3] - box[1]) * mask.shape[0]
        columns, rows = np.meshgrid(
            (x - 0.5).astype(np.float32), (y - 0.5).astype(np.float32)
        )
        part = cv2.remap(
            mask.astype(np.float32),
            columns,
            rows,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        whole[y0:y1, x0:x1] = part >= 0.5
    return result
