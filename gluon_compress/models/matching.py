"""Which anchors belong to which objects, and what each anchor is to predict."""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace
from typing import Any, Callable, Iterator, Sequence

import numpy as np

from gluon_compress.boxes import encode_deltas

FIRST = 64  # anchors of an object that are looked at first
MIN_OVERLAP = 1e-12  # an object is not matched to an anchor that overlaps it by less


def matched_targets(
    label: np.ndarray,
    corner_anchors: np.ndarray,
    matches_of: Callable[[np.ndarray], np.ndarray],
    stds: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the class and box targets of the anchors of one image.

    Parameters
    ----------
    label : numpy.ndarray
        ``(M, 5+)``: corner box in pixels, class id.
    corner_anchors : numpy.ndarray
        ``(A, 4)``, pixels.
    matches_of : callable
        Corner boxes ``(M, 4)`` to matches ``(A,)``, as ``match`` returns them.
    stds : sequence of float
        What box deltas are divided by.

    Returns
    -------
    tuple of numpy.ndarray
        Classes ``(A,)``, 0 for the background, and box deltas ``(A, 4)``, 0 for the
        background; float32.
    """
    classes = np.zeros(len(corner_anchors), np.float32)
    deltas = np.zeros((len(corner_anchors), 4), np.float32)
    if len(label):
        label = np.asarray(label, np.float32)
        matches = matches_of(label[:, :4])
        at = np.flatnonzero(matches >= 0)
        classes[at] = label[matches[at], 4] + 1
        deltas[at] = encode_deltas(label[matches[at], :4], corner_anchors[at], stds)
    return classes, deltas


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
    above: float | np.floating = np.inf
    count = FIRST
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
