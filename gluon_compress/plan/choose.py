"""How many channels each group keeps, and which: the search under a budget."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Callable, Mapping, Sequence

import numpy as np

from gluon_compress.graph import ChannelGroup
from gluon_compress.plan.meter import Meter


@dataclass(frozen=True)
class Choices:
    """What the groups may keep, and what that is worth.

    Parameters
    ----------
    meter : Meter
    limits : mapping
        Name of a total to its limit.
    widths : list of list of int
        Per group, ascending, the numbers of indices it may keep.
    worth : list of ndarray
        Per group, the worth of its indices, best first.
    """

    meter: Meter
    limits: Mapping[str, float]
    widths: list[list[int]]
    worth: list[np.ndarray]

    @property
    def smallest(self) -> np.ndarray:
        """The least that all groups may keep."""
        return np.zeros(len(self.widths), int)

    @property
    def largest(self) -> np.ndarray:
        """The most that all groups may keep."""
        return np.array([len(row) - 1 for row in self.widths], int)

    def load(self, rungs: np.ndarray) -> np.ndarray:
        """Return the largest total over its limit, for rows of places in ``widths``."""
        rungs = np.atleast_2d(rungs)
        columns = [np.array(row)[rungs[:, k]] for k, row in enumerate(self.widths)]
        widths = np.stack(columns, 1) if columns else np.zeros((len(rungs), 0))
        totals = self.meter.totals(widths)
        return np.max([totals[n] / limit for n, limit in self.limits.items()], axis=0)

    def fits(self, rungs: np.ndarray) -> bool:
        """Tell whether all limits are met."""
        return bool(self.load(rungs)[0] <= 1)

    def below(self, counts: Sequence[float]) -> np.ndarray:
        """Return the places of the largest allowed widths up to the given counts."""
        found = [
            max(int(np.searchsorted(row, n + 1e-9, "right")) - 1, 0)
            for row, n in zip(self.widths, counts)
        ]
        return np.array(found, int)

    def step(self, k: int, rung: int) -> np.ndarray:
        """Return the worth of what group ``k`` gains from the rung below this one."""
        return self.worth[k][self.widths[k][rung - 1] : self.widths[k][rung]]


def widths_of(group: ChannelGroup, multiple: int, minimum: int, most: int) -> list[int]:
    """Return the numbers of indices that a group may keep, ascending.

    Multiples (of channels, however many an index stands for) from the minimum, and
    the whole group, so that a group narrower than a multiple stays as it is.
    """
    step = multiple // gcd(multiple, group.size)
    least = min(-(-minimum // group.size), most)
    return [n for n in range(step, most, step) if n >= least] + [most]


def uniform(choices: Choices) -> np.ndarray:
    """Every group keeps the same share; the largest that meets the budget."""
    most = np.array([row[-1] for row in choices.widths])
    shares = sorted({n / row[-1] for row in choices.widths for n in row}, reverse=True)
    rungs = _first_fit(choices, [choices.below(share * most) for share in shares])

    def lowest_share(k: int, rung: int) -> float:
        return -choices.widths[k][rung - 1] / most[k]

    return _filled(choices, rungs, lowest_share)


def ranked(choices: Choices) -> np.ndarray:
    """All channels of all groups compete by worth; the best that fit stay."""
    levels = np.unique(np.concatenate([[], *choices.worth]))
    ascending = [row[::-1] for row in choices.worth]

    def at(level: float) -> np.ndarray:
        counts = [len(r) - np.searchsorted(r, level, "left") for r in ascending]
        return choices.below(counts)

    rungs = _first_fit(choices, _Lazily(at, levels))

    def mean_worth(k: int, rung: int) -> float:
        return float(choices.step(k, rung).mean())

    return _filled(choices, rungs, mean_worth)


def greedy(choices: Choices) -> np.ndarray:
    """Take away, again and again, what is missed least for what it costs.

    What a group misses is the logarithm of the share of its worth that goes: the last
    channels of a narrow group are missed more than as many of a wide one, and no
    group is emptied because its channels are dear.
    """
    totals = [np.maximum(np.cumsum(row), 1e-12) for row in choices.worth]

    def missed(k: int, rung: int) -> float:
        before, after = (choices.widths[k][r] - 1 for r in (rung, rung - 1))
        return float(np.log(totals[k][before] / totals[k][after]))

    rungs = choices.largest.copy()
    while not choices.fits(rungs):
        able = np.flatnonzero(rungs > 0)
        tries = np.repeat(rungs[None], len(able), 0)
        tries[np.arange(len(able)), able] -= 1
        saved = choices.load(rungs)[0] - choices.load(tries)
        lost = np.array([missed(k, rungs[k]) for k in able])
        rungs = tries[int(np.argmin(lost / np.maximum(saved, 1e-12)))]

    def worth_of_step(k: int, rung: int) -> float:
        raised = rungs.copy()
        raised[k] = rung
        added = choices.load(raised)[0] - choices.load(rungs)[0]
        return missed(k, rung) / max(added, 1e-12)

    return _filled(choices, rungs, worth_of_step)


SELECTIONS: dict[str, Callable[[Choices], np.ndarray]] = {
    "uniform": uniform,
    "global": ranked,
    "greedy": greedy,
}


class _Lazily:
    """A sequence whose elements are computed when they are asked for."""

    def __init__(self, function: Callable, inputs: Sequence) -> None:
        self.function, self.inputs = function, inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.function(self.inputs[i])


def _first_fit(choices: Choices, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return the first of ever smaller rows that fits, by bisection."""
    low, high = 0, len(rows)
    while low < high:
        middle = (low + high) // 2
        if choices.fits(rows[middle]):
            high = middle
        else:
            low = middle + 1
    return rows[low] if low < len(rows) else choices.smallest


def _filled(choices: Choices, rungs: np.ndarray, priority: Callable) -> np.ndarray:
    """Give groups more, one step at a time, while the budget is met."""
    rungs, open_groups = rungs.copy(), set(range(len(rungs)))
    while open_groups:
        open_groups = {k for k in open_groups if rungs[k] < choices.largest[k]}
        order = sorted(open_groups, key=lambda k: (-priority(k, rungs[k] + 1), k))
        for k in order:
            rungs[k] += 1
            if choices.fits(rungs):
                break
            rungs[k] -= 1
            open_groups.discard(k)  # what does not fit now never will
    return rungs
