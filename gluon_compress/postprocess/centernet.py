"""Decodes the maps of a detector without anchors: peaks are objects, without NMS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Mapping, Sequence

import numpy as np
from typing_extensions import Literal

from gluon_compress.postprocess.base import Rows, boxes_in_images
from gluon_compress.validation import Count, Settings, ShareOrZero, wrong

HEAT, SIZES, OFFSETS = "heat_map", "box_sizes", "center_offsets"
OUTPUTS = (HEAT, SIZES, OFFSETS)
MIN_TOLERANCE = 1e-4  # of a score, or of the side of the input
NEAR = 2.5  # cells between the centres of boxes of which rounding can leave either


class CenterNetPostprocessSettings(Settings):
    """Constants of decoding.

    Parameters
    ----------
    kind : str
        ``centernet``.
    stride : int
        Pixels of the input from one cell of the maps to the next.
    peaks : int
        Number of boxes returned.
    least_score : float
        Peaks up to this score are dropped.
    flip_test : bool
        Whether the net also runs on the mirrored image, and both are averaged.
    """

    kind: Literal["centernet"] = "centernet"
    stride: Count = 4
    peaks: Rows = 100
    least_score: ShareOrZero = 0.01
    flip_test: bool = False


@dataclass(frozen=True)
class CenterNetPostprocess:
    """Makes a box of each of the highest peaks of the heat map (Zhou et al. 2019).

    A peak is a cell that no neighbour of its class exceeds, of the 3 x 3 around it. Its
    box lies around the cell plus the offset there, and has the size there.

    Parameters
    ----------
    settings : CenterNetPostprocessSettings
    """

    settings: CenterNetPostprocessSettings = CenterNetPostprocessSettings()

    kind: ClassVar[str] = "centernet"
    Settings: ClassVar[type] = CenterNetPostprocessSettings
    finds_boxes: ClassVar[bool] = True
    arrays: ClassVar[tuple] = ()

    @classmethod
    def from_state(
        cls,
        settings: CenterNetPostprocessSettings,
        arrays: Mapping[str, np.ndarray],
    ) -> CenterNetPostprocess:
        """Return the postprocess that ``state`` described."""
        return cls(settings)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return its section of the manifest; it needs no arrays."""
        return self.settings.to_json(), {}

    @property
    def mirrors(self) -> bool:
        """Whether the net has to run on the mirrored batch, too."""
        return self.settings.flip_test

    def check(self, shapes: Mapping[str, Sequence[int]], classes: Sequence) -> None:
        """Raise ValueError unless there are the three maps, and classes fit."""
        if set(shapes) != set(OUTPUTS) or any(len(s) != 4 for s in shapes.values()):
            allowed = f"{', '.join(OUTPUTS)}, with a shape of 4 each"
            raise wrong("outputs", {n: list(s) for n, s in shapes.items()}, allowed)
        _, width, *cells = shapes[HEAT]
        if len(classes) != width:
            allowed = f"{width} names, for {HEAT} has {width} channels"
            raise wrong("classes", list(classes), allowed)
        for name in (SIZES, OFFSETS):
            if list(shapes[name][1:]) != [2, *cells]:
                raise wrong(f"shape of {name}", list(shapes[name]), f"{[1, 2, *cells]}")

    def averaged(
        self, outputs: Mapping[str, np.ndarray], mirrored: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return the average of a batch's outputs and those of the mirrored batch.

        Scores and sizes are averaged; offsets are those of the batch, as GluonCV does.
        """
        own, other = outputs[HEAT], mirrored[HEAT][..., ::-1]
        # The logit of the mean of both probabilities, also where they are almost 1.
        odds = [
            np.logaddexp(-np.logaddexp(0, -a), -np.logaddexp(0, -b))
            for a, b in ((own, other), (-own, -other))
        ]
        sizes = (outputs[SIZES] + mirrored[SIZES][..., ::-1]) / 2
        return {HEAT: odds[0] - odds[1], SIZES: sizes, OFFSETS: outputs[OFFSETS]}

    def decode(
        self, outputs: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ids, scores and corner boxes, best first.

        Parameters
        ----------
        outputs : mapping
            ``heat_map`` ``(B, C, h, w)``, scores before the sigmoid; ``box_sizes`` and
            ``center_offsets`` ``(B, 2, h, w)``, x and y each, in cells.

        Returns
        -------
        tuple
            Ids ``(B, N, 1)``, scores ``(B, N, 1)`` and corner boxes ``(B, N, 4)`` in
            pixels of the input, float32; N is ``peaks``, at most ``C h w``. Rows
            without a detection are -1, those that are not finite are none.
        """
        heat = outputs[HEAT]
        count = min(self.settings.peaks, int(np.prod(heat.shape[1:])))
        rows = np.full((len(heat), count, 6), -1, np.float32)
        for row, logits, sizes, offsets in zip(
            rows, heat, outputs[SIZES], outputs[OFFSETS]
        ):
            ids, ys, xs = self._peaks(logits, count)
            with np.errstate(over="ignore", invalid="ignore"):  # infinite sizes
                center = np.stack([xs, ys], axis=1) + offsets[:, ys, xs].T
                half = sizes[:, ys, xs].T / np.float32(2)
                corners = np.hstack([center - half, center + half])
                boxes = corners.astype(np.float32) * np.float32(self.settings.stride)
                scores = 1 / (1 + np.exp(-logits[ids, ys, xs].astype(np.float32)))
            finite = np.isfinite(boxes).all(axis=1)
            parts = [ids[:, None], scores[:, None], boxes]
            found = np.hstack(parts)[finite]
            row[: len(found)] = found
        return rows[..., :1], rows[..., 1:2], rows[..., 2:]

    @staticmethod
    def in_images(
        results: Sequence[np.ndarray], placements: Sequence
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return for each image ids, scores and corner boxes in its pixels."""
        return boxes_in_images(results, placements)

    def _peaks(self, logits: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
        """Return class, row and column of the highest peaks, best first."""
        padded = np.pad(logits, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        high = np.fmax(np.fmax(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
        high = np.fmax(np.fmax(high[..., :-2], high[..., 1:-1]), high[..., 2:])
        least = least_logit(self.settings.least_score)
        places = np.flatnonzero((logits >= high) & (logits > least))
        values = logits.ravel()[places]
        best = places[np.argsort(-values, kind="stable")[:count]]
        return np.unravel_index(best, logits.shape)

    def compare(
        self,
        outputs: Mapping[str, np.ndarray],
        results: Sequence[np.ndarray],
        expected: Sequence[np.ndarray],
        *,
        tolerance: float,
        side: int,
    ) -> tuple[float, str]:
        """Return the largest difference of detections, and what is wrong with them.

        A detection may be missing for the limits of scores and rows, or because of two
        neighbouring cells of almost the same score another one became the peak.
        """
        scales = [float(np.abs(outputs[name]).max()) for name in (HEAT, SIZES)]
        stride = self.settings.stride
        # A score's slope is at most a quarter; a box has the errors of size and offset.
        allowed = max(scales[0] / 4, 2 * stride * scales[1] / side) * tolerance
        allowed = max(MIN_TOLERANCE, allowed)
        worst = 0.0
        rows = [np.concatenate(parts, axis=2) for parts in (results, expected)]
        for found, right in zip(*rows):
            for some, others in ((found, right), (right, found)):
                off, problem = self._lost(some, others, allowed, side)
                worst = max(worst, off)
                if problem:
                    return worst, (
                        f"differs from the net's boxes, allowed: {allowed:.2g}; "
                        f"{problem}"
                    )
        return worst, ""

    def _lost(
        self, rows: np.ndarray, others: np.ndarray, allowed: float, side: int
    ) -> tuple[float, str]:
        """Return how far rows are from others, and one that is not among them."""
        valid, present = rows[rows[:, 0] >= 0], others[others[:, 0] >= 0]
        least = self.settings.least_score
        if len(present) == len(others):
            least = max(least, float(present[:, 1].min()))
        worst = 0.0
        for row in valid:
            same = present[present[:, 0] == row[0], 1:]
            scale = max(side, float(np.abs(row[2:]).max()))
            apart = np.abs(same - row[1:]) / [1, *[scale] * 4]
            off = float(apart.max(axis=1).min(initial=np.inf))
            if off <= allowed:
                worst = max(worst, off)
                continue
            centers = (same[:, 1:3] + same[:, 3:5] - row[2:4] - row[4:6]) / 2
            near = np.abs(centers).max(axis=1) <= NEAR * self.settings.stride
            tied = near & (same[:, 0] >= row[1] - 2 * allowed)
            if not tied.any() and row[1] > least + 2 * allowed:
                return worst, f"no other is near {np.round(row, 3).tolist()}"
        return worst, ""


def least_logit(least_score: float) -> float:
    """Return the logit of a score; infinite for 0 and 1."""
    if least_score in (0, 1):
        return math.copysign(math.inf, least_score - 0.5)
    return math.log(least_score) - math.log1p(-least_score)
