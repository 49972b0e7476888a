"""Fits anchors to objects, so that more objects overlap one by half."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Iterator, Sequence

import numpy as np

MATCHED = 0.5  # IoU from which an anchor belongs to an object (Liu et al. 2016)
ENOUGH = 0.65  # IoU beyond which a better overlap counts no more
# How much the model's own anchors are preferred; it decides where objects hardly do.
PULL = {"sizes": 0.02, "ratios": 0.1}
FACTORS = (1.6, 1.25, 1.1, 1.04)  # of the moves, from coarse to fine
LEAST_SIZE, LEAST_GROWTH = 4, 1.15  # pixels; of each size to the next
MOST_RATIO = 6.0
LEAST_GAIN = 1e-9
GREATEST_SIZE = 1.1  # of the longer side of the input


@dataclass(frozen=True)
class AnchorLayout:
    """The shapes of a detector's anchors, and the grids that their centres lie on.

    Parameters
    ----------
    sizes : tuple of float
        Of the square anchors of each map, in pixels, and one more at the end.
    ratios : tuple of tuple of float
        Width over height of the anchors of each map; the first is 1.
    steps : tuple of float
        Pixels from one cell of a map to the next.
    cells : tuple of (int, int)
        Rows and columns of each map.
    lite : bool
        Whether the first map has a square of half its size, and none in between.
    """

    sizes: tuple[float, ...]
    ratios: tuple[tuple[float, ...], ...]
    steps: tuple[float, ...]
    cells: tuple[tuple[int, int], ...]
    lite: bool = False

    def shapes(self, number: int) -> np.ndarray:
        """Return width and height of the anchors in a cell of a map, ``(S, 2)``."""
        low, high = self.sizes[number : number + 2]
        between = math.sqrt(low * high)
        wide = [
            (low * math.sqrt(ratio), low / math.sqrt(ratio))
            for ratio in self.ratios[number][1:]  # the first one is always a square
        ]
        if not self.lite:
            return np.array([(low, low), (between, between), *wide])
        more = [(between, between)] if number else []
        return np.array([(low / 2, low / 2), *wide, *more])

    @property
    def count(self) -> int:
        """Number of shapes, over all maps."""
        return sum(len(self.shapes(number)) for number in range(len(self.cells)))

    def overlaps(self, corner_boxes: np.ndarray, number: int) -> np.ndarray:
        """Return the IoU of each box with the best anchor of a map, ``(N,)``.

        Of the anchors of one shape, the one whose centre is nearest overlaps most.
        """
        rows, columns = self.cells[number]
        gap_x = _gap(corner_boxes[:, [0, 2]].mean(axis=1), self.steps[number], columns)
        gap_y = _gap(corner_boxes[:, [1, 3]].mean(axis=1), self.steps[number], rows)
        shapes = self.shapes(number)
        width, height = (corner_boxes[:, 2:] - corner_boxes[:, :2]).T[:, :, None]
        common = _common(width, shapes[:, 0], gap_x[:, None])
        common = common * _common(height, shapes[:, 1], gap_y[:, None])
        union = width * height + shapes.prod(axis=1) - common
        return (common / union).max(axis=1)

    def best_overlaps(self, corner_boxes: np.ndarray) -> np.ndarray:
        """Return the IoU of each box with the best of all anchors, ``(N,)``.

        Parameters
        ----------
        corner_boxes : numpy.ndarray
            ``(N, 4)``, pixels of the net's input.
        """
        maps = range(len(self.cells))
        return np.max([self.overlaps(corner_boxes, k) for k in maps], axis=0)


def recall(overlaps: np.ndarray) -> float:
    """Return the share of objects whose best anchor overlaps them by half."""
    return float((overlaps >= MATCHED).mean())


def fit_anchors(
    layout: AnchorLayout,
    corner_boxes: np.ndarray,
    ids: np.ndarray,
    *,
    size: tuple[int, int],
    keys: Sequence[str] = ("sizes", "ratios"),
) -> AnchorLayout:
    """Return anchors of other sizes and ratios, which overlap more objects by half.

    A pattern search: sizes and ratios, alone and together, are multiplied by ever
    smaller factors as long as that helps. What helps is the recall of the best anchor,
    and after that its IoU up to ``ENOUGH``, each class counting alike. Shapes are tied
    as SSD ties them, and lie on the grids of its maps, so a small object needs a small
    anchor on a fine map. Where objects do not decide, anchors stay near those given.

    Parameters
    ----------
    layout : AnchorLayout
        Where the search starts.
    corner_boxes : numpy.ndarray
        ``(N, 4)``, pixels of the net's input.
    ids : numpy.ndarray
        ``(N,)``, the class of each.
    size : (int, int)
        Height and width of the net's input.
    keys : sequence of str
        What may change: ``sizes``, ``ratios`` or both.

    Returns
    -------
    AnchorLayout
        Sizes are whole pixels, ratios have two decimals. Neither the recall over all
        objects nor its mean over classes is below that of ``layout``.

    Raises
    ------
    ValueError
        If there are fewer objects than shapes of anchors.
    """
    if len(corner_boxes) < layout.count:
        raise ValueError(
            f"there are {len(corner_boxes)} objects to fit anchors to; allowed: from "
            f"{layout.count}, one for each shape of an anchor"
        )
    return _Search(layout, corner_boxes, ids, size, keys).best()


class _Search:
    """A pattern search from a layout; every layout it accepts is at least as good."""

    def __init__(self, layout, corner_boxes, ids, size, keys) -> None:
        self.start, self.keys = layout, keys
        self.greatest = GREATEST_SIZE * max(size)
        self.boxes = np.asarray(corner_boxes, np.float64)
        _, classes, counts = np.unique(ids, return_inverse=True, return_counts=True)
        self.weights = 1 / (len(counts) * counts[classes])  # their sum is 1
        # Most moves change one map or two.
        self.overlaps = lru_cache(maxsize=256)(self._overlaps)
        self.least = self._recalls(self._best_overlaps(layout))

    def best(self) -> AnchorLayout:
        layout, before = self.start, None
        while layout != before:  # coarse moves may help again after fine ones
            before = layout
            for factor in FACTORS:
                layout = self._climbed(layout, factor)
        return layout

    def _climbed(self, layout: AnchorLayout, factor: float) -> AnchorLayout:
        """Return a layout that no move by a factor makes better."""
        score, improved = self._score(layout), True
        while improved:
            improved = False
            for moved in self._moves(layout, factor):
                other = self._score(moved)
                if other > score + LEAST_GAIN:
                    layout, score, improved = moved, other, True
                    break
        return layout

    def _moves(self, layout: AnchorLayout, factor: float) -> Iterator[AnchorLayout]:
        for scale in (factor, 1 / factor):
            if "sizes" in self.keys:
                yield from self._moved_sizes(layout, scale)
            if "ratios" in self.keys:
                yield from self._moved_ratios(layout, scale)

    def _moved_sizes(self, layout: AnchorLayout, scale: float):
        count = len(layout.sizes)
        for length in (count, *range(1, count)):
            for first in range(count - length + 1):
                sizes = np.array(layout.sizes, float)
                sizes[first : first + length] *= scale
                sizes = np.round(sizes)
                if self._is_allowed(sizes):
                    yield replace(layout, sizes=tuple(map(int, sizes)))

    def _is_allowed(self, sizes: np.ndarray) -> bool:
        rising = (sizes[1:] >= LEAST_GROWTH * sizes[:-1]).all()
        return bool(rising and sizes[0] >= LEAST_SIZE and sizes[-1] <= self.greatest)

    def _moved_ratios(self, layout: AnchorLayout, scale: float):
        for number, row in enumerate(layout.ratios):
            for i in range(1, len(row)):
                value = round(row[i] * scale, 2)
                if 1 / MOST_RATIO <= value <= MOST_RATIO and value not in row:
                    changed = (*row[:i], value, *row[i + 1 :])
                    rows = list(layout.ratios)
                    rows[number] = changed
                    yield replace(layout, ratios=tuple(rows))

    def _score(self, layout: AnchorLayout) -> float:
        overlaps = self._best_overlaps(layout)
        recalls = self._recalls(overlaps)
        if any(now < least for now, least in zip(recalls, self.least)):
            return -math.inf
        near = float(self.weights @ np.minimum(overlaps, ENOUGH)) / ENOUGH
        return recalls[1] + near - self._pull(layout)

    def _recalls(self, overlaps: np.ndarray) -> tuple[float, float]:
        """Return the recall of all objects, and the mean over classes."""
        matched = overlaps >= MATCHED
        return float(matched.mean()), round(float(self.weights @ matched), 9)

    def _pull(self, layout: AnchorLayout) -> float:
        """Return the weighted mean squared logarithms of changes."""
        sizes = np.log(layout.sizes) - np.log(self.start.sizes)
        ratios = np.log(_flat(layout.ratios)) - np.log(_flat(self.start.ratios))
        total = PULL["sizes"] * (sizes**2).mean() + PULL["ratios"] * (ratios**2).mean()
        return float(total)

    def _best_overlaps(self, layout: AnchorLayout) -> np.ndarray:
        rows = [
            self.overlaps(k, layout.sizes[k : k + 2], layout.ratios[k])
            for k in range(len(layout.cells))
        ]
        return np.max(rows, axis=0)

    def _overlaps(self, number: int, sizes: tuple, ratios: tuple) -> np.ndarray:
        around = list(self.start.sizes), list(self.start.ratios)
        around[0][number : number + 2], around[1][number] = sizes, ratios
        layout = replace(self.start, sizes=tuple(around[0]), ratios=tuple(around[1]))
        return layout.overlaps(self.boxes, number)


def _flat(ratios: Sequence[Sequence[float]]) -> list[float]:
    return [ratio for row in ratios for ratio in row]


def _gap(centers: np.ndarray, step: float, count: int) -> np.ndarray:
    """Return how far centres are from the nearest of ``count`` cell centres."""
    cells = np.clip(np.floor(centers / step), 0, count - 1)
    return np.abs(centers - (cells + 0.5) * step)


def _common(lengths: np.ndarray, others: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Return the length that intervals share whose centres are a gap apart."""
    shared = np.minimum((lengths + others) / 2 - gap, np.minimum(lengths, others))
    return np.maximum(shared, 0)
