"""Which anchors belong to an object, by statistics of its own overlaps: ATSS.

Zhang, Chi, Yao, Lei, Li 2020, "Bridging the Gap Between Anchor-based and Anchor-free
Detection via Adaptive Training Sample Selection" (arXiv:1912.02424), algorithm 1.
"""

from __future__ import annotations

from typing import Iterator, Sequence, Tuple

import numpy as np

CELLS = 9  # of each map, nearest to an object, whose anchors are candidates
Maps = Sequence[Tuple[int, int, int]]


def match_adaptively(
    corner_boxes: np.ndarray,
    corner_anchors: np.ndarray,
    overlaps: np.ndarray,
    maps: Maps,
    *,
    cells: int = CELLS,
) -> np.ndarray:
    """Return which object each anchor belongs to.

    Candidates of an object are the anchors of the cells of each map whose centres are
    nearest to its own. Those belong to it that overlap it by the mean plus the standard
    deviation of its candidates' overlaps, and whose centre lies in it. Of several
    objects, an anchor gets the one that it overlaps most. An object without an anchor
    then gets the one that overlaps it most, if any does.

    Parameters
    ----------
    corner_boxes : numpy.ndarray
        ``(M, 4)``, M at least 1.
    corner_anchors : numpy.ndarray
        ``(A, 4)``: map by map, row by row, all of a cell together.
    overlaps : numpy.ndarray
        ``(M, A)``, their IoU.
    maps : sequence of (int, int, int)
        Height, width and anchors of a cell of each map.
    cells : int

    Returns
    -------
    numpy.ndarray
        ``(A,)``: object index, -1 for the background.
    """
    centres = (corner_anchors[:, :2] + corner_anchors[:, 2:]) / 2
    middles = (corner_boxes[:, :2] + corner_boxes[:, 2:]) / 2
    candidates = np.concatenate(
        [_nearest(middles, centres, part, cells) for part in _parts(maps)], axis=1
    )
    values = np.take_along_axis(overlaps, candidates, axis=1)
    # As the authors' code has it, with the unbiased deviation.
    least = values.mean(axis=1) + values.std(axis=1, ddof=1)
    x, y = centres[candidates].transpose(2, 0, 1)
    x0, y0, x1, y1 = corner_boxes.T[:, :, None]
    inside = (x0 < x) & (x < x1) & (y0 < y) & (y < y1)
    chosen = (values >= least[:, None]) & (values > 0) & inside
    shares = np.zeros_like(overlaps)
    rows, columns = np.nonzero(chosen)
    shares[rows, candidates[rows, columns]] = values[rows, columns]
    matches = np.where(shares.max(axis=0) > 0, shares.argmax(axis=0), -1)
    return _with_best_anchors(matches, overlaps)


def _parts(maps: Maps) -> Iterator[tuple[int, int, int]]:
    """Yield the first anchor, the cells and the anchors of a cell of each map."""
    first = 0
    for height, width, each in maps:
        yield first, height * width, each
        first += height * width * each


def _nearest(
    middles: np.ndarray, centres: np.ndarray, part: tuple[int, int, int], cells: int
) -> np.ndarray:
    """Return the anchors ``(M, n)`` of the cells of a map that are nearest."""
    first, count, each = part
    of_cells = centres[first : first + count * each : each]
    distances = ((middles[:, None] - of_cells[None]) ** 2).sum(axis=-1)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :cells]
    anchors = first + nearest[:, :, None] * each + np.arange(each)
    return anchors.reshape(len(middles), -1)


def _with_best_anchors(matches: np.ndarray, overlaps: np.ndarray) -> np.ndarray:
    """Return matches in which objects without an anchor have their best one."""
    matches, taken = matches.copy(), set()
    lonely = np.setdiff1d(np.arange(len(overlaps)), matches)
    for number in lonely[np.argsort(-overlaps[lonely].max(axis=1), kind="stable")]:
        for anchor in np.argsort(-overlaps[number], kind="stable"):
            if overlaps[number, anchor] <= 0:
                break
            if anchor not in taken:
                taken.add(anchor)
                matches[anchor] = number
                break
    return matches
