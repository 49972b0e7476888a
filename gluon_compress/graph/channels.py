"""Channel ids, the constraints on them, and tensors described by them.

A *channel id* numbers one channel as an operator produced it. An array of ids describes
a tensor: it has as many axes as the tensor, and each axis is either as long as the
tensor's or 1, which means "the same all along it". A negative number is a *fixed*
channel, which can never be removed; it encodes the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Sequence

import numpy as np

NO_POSITIONS = np.zeros(0, int)


@dataclass(frozen=True)
class Tensor:
    """A tensor's shape, and along ``axis`` the position of each channel.

    ``positions`` number the channels of all groups; -1 is a channel that always stays.
    If ``axis`` is None, no channel can be removed, and there are no positions.
    """

    shape: tuple[int, ...]
    axis: int | None = None
    positions: np.ndarray = field(default_factory=lambda: NO_POSITIONS)

    def kept_shape(self, keep_mask: np.ndarray) -> tuple[int, ...]:
        """Return the shape under a ``Graph.keep_mask``."""
        if self.axis is None:
            return self.shape
        shape = list(self.shape)
        shape[self.axis] = int(keep_mask[self.positions].sum())
        return tuple(shape)


class ChannelIds:
    """Assigns channel ids, collects constraints on them, and solves these."""

    def __init__(self) -> None:
        self.count = 0
        self._reasons = [""]
        self._codes = {"": -1}
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._frozen: list[tuple[np.ndarray, int]] = []
        self._blocks: list[tuple[np.ndarray, str]] = []

    def fresh(self, count: int) -> np.ndarray:
        """Return ``count`` new ids, one axis."""
        self.count += count
        return np.arange(self.count - count, self.count)

    def fixed(self, reason: str, ndim: int = 1) -> np.ndarray:
        """Return the ids of a tensor whose channels all stay, for one reason."""
        if reason not in self._codes:
            self._reasons.append(reason)
            self._codes[reason] = -len(self._reasons)
        return np.full((1,) * ndim, self._codes[reason])

    def reason(self, code: int) -> str:
        """Return the reason that a negative id stands for."""
        return self._reasons[-code - 1]

    def freeze(self, ids: np.ndarray, reason: str) -> None:
        """Keep channels; of several reasons the first is shown."""
        ids = np.unique(ids)
        code = int(self.fixed(reason or "its channels are fixed")[0])
        self._frozen.append((ids[ids >= 0], code))

    def unite(self, left: np.ndarray, right: np.ndarray) -> None:
        """Tie ids at the same positions of two arrays, which broadcast."""
        left, right = (a.ravel() for a in np.broadcast_arrays(left, right))
        for mine, other in ((left, right), (right, left)):
            for code in np.unique(other[other < 0]):
                self.freeze(mine[other == code], self.reason(code))
        both = (left >= 0) & (right >= 0) & (left != right)
        self._pairs.append((left[both], right[both]))

    def balance(self, blocks: np.ndarray, reason: str) -> None:
        """Require that every block (a row) loses the same number of channels.

        This suffices for an operator that cuts its channels into equal parts: kept
        channels stay in order, so each part still gets its own. ``settle_blocks``
        decides which channels are tied, after all other constraints. Channels without a
        partner are frozen for ``reason``.
        """
        self._blocks.append((blocks, reason))

    def settle_blocks(self) -> None:
        """Unite components until each has the same number of channels in all blocks."""
        for blocks, reason in self._blocks:
            labels, codes = self.solve()
            components = labelled(blocks, labels)
            free = components >= 0
            free[free] = codes[components[free]] == 0
            names, first = np.unique(components[free], return_index=True)
            names = names[np.argsort(first)]
            rows = [(components == name).sum(axis=1) for name in names]
            counts = np.array(rows, int).reshape(len(names), len(blocks))
            sets, rest = balanced_sets(counts)
            for rows in sets:
                self.unite(names[rows], names[rows[0]])
            if rest:
                self.freeze(names[rest], reason)
        self._blocks = []

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each id's component and each component's reason code, 0 if free.

        A component is named by its smallest id. The second array is as long as the
        first, and valid at component numbers only.
        """
        labels = np.arange(self.count)
        if self._pairs:
            left, right = (np.concatenate(side) for side in zip(*self._pairs))
            labels = _components(labels, left, right)
        codes = np.zeros(self.count, int)
        for ids, code in reversed(self._frozen):
            codes[labels[ids]] = code
        return labels, codes


def _components(labels: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return connected components by hooking and pointer jumping."""
    while True:
        a, b = labels[left], labels[right]
        apart = a != b
        if not apart.any():
            return labels
        low, high = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
        np.minimum.at(labels, high, low)
        while (labels[labels] != labels).any():
            labels = labels[labels]


def balanced_sets(counts: np.ndarray) -> tuple[list[list[int]], list[int]]:
    """Return small sets of rows with equal sums in all columns, and the other rows.

    Parameters
    ----------
    counts : ndarray
        For each component, in order, its channels in each block.

    Notes
    -----
    Rows of the same excess are taken in their order. So blocks of unrelated channels
    are matched one to one, and matches do not depend on sets that were removed: plans
    for a slim net and for its original can be composed. Otherwise the next row is the
    one that leaves the smallest difference between columns.
    """
    excess = counts - counts.min(axis=1, keepdims=True)
    kinds, kind_of = np.unique(excess, axis=0, return_inverse=True)
    waiting = [list(np.flatnonzero(kind_of == k)[::-1]) for k in range(len(kinds))]
    heads = np.array([rows[-1] for rows in waiting], float)
    sets: list[list[int]] = []
    while np.isfinite(heads).any():
        total = np.zeros(kinds.shape[1], int)
        chosen: list[int] = []
        while not chosen or np.ptp(total):
            if not np.isfinite(heads).any():
                return sets, sorted(chosen)
            spread = np.ptp(total + kinds, axis=1) if chosen else np.zeros(len(kinds))
            kind = min(
                np.flatnonzero(np.isfinite(heads)), key=lambda k: (spread[k], heads[k])
            )
            total = total + kinds[kind]
            chosen.append(int(waiting[kind].pop()))
            heads[kind] = waiting[kind][-1] if waiting[kind] else np.inf
        sets.append(chosen)
    return sets, []


def labelled(
    ids: np.ndarray, labels: np.ndarray, fixed: int | None = None
) -> np.ndarray:
    """Return every id's label; fixed channels become ``fixed``, or stay as is."""
    result = np.array(ids) if fixed is None else np.full(ids.shape, fixed)
    free = ids >= 0
    result[free] = labels[ids[free]]
    return result


def compress(ids: np.ndarray) -> np.ndarray:
    """Return the same ids with axes of equal entries shortened to 1."""
    for axis, length in enumerate(ids.shape):
        if length > 1:
            first = np.take(ids, [0], axis)
            if (ids == first).all():
                ids = first
    return ids


def varying(ids: np.ndarray) -> list[int]:
    """Return the axes along which an array of ids is not constant."""
    return [axis for axis, length in enumerate(ids.shape) if length > 1]


def along(ids: np.ndarray, axis: int, length: int) -> np.ndarray:
    """Return all ids along one axis of an array that is constant elsewhere."""
    return np.broadcast_to(ids.reshape(-1), (length,))


def placed(ids: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """Return ids along one axis as the ids of a tensor of ``ndim`` axes."""
    shape = [1] * ndim
    shape[axis] = len(ids)
    return ids.reshape(shape)


def rectangular(components: np.ndarray) -> int:
    """Return the axis along which positions may be removed, to tie the fewest.

    What is kept of a tensor must be a tensor again, so only one axis can lose
    positions; the others are tied along it.
    """

    def untied(axis: int) -> int:
        rows = np.moveaxis(components, axis, 0).reshape(components.shape[axis], -1)
        tied = ChannelIds()
        names, small = np.unique(rows, return_inverse=True)
        tied.fresh(len(names))
        small = small.reshape(rows.shape)
        tied.unite(small, small[:, :1])
        return len(np.unique(tied.solve()[0]))

    axes: Sequence[int] = varying(components)
    return max(axes, key=untied)
