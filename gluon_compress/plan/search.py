"""How many channels each group keeps, and which: the search under a budget."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cached_property
from typing import Callable, Mapping, Sequence

import numpy as np

from gluon_compress.plan.cost_model import Meter

# What an e-fold of worth weighs against accuracy, where accuracy does not tell.
TIE = 1e-3


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
    effects : list of float
        Per group, what it means to the net.
    lost : list of ndarray, optional
        Per group, the accuracy that is lost at each of its ``widths``.
    """

    meter: Meter
    limits: Mapping[str, float]
    widths: list[list[int]]
    worth: list[np.ndarray]
    effects: list[float]
    lost: list[np.ndarray] | None = None

    @property
    def smallest(self) -> np.ndarray:
        """The least that all groups may keep."""
        return np.zeros(len(self.widths), int)

    @cached_property
    def largest(self) -> np.ndarray:
        """The most that all groups may keep."""
        return np.array([len(row) - 1 for row in self.widths], int)

    @cached_property
    def _table(self) -> np.ndarray:
        """The widths as one array; rows are filled up with their last."""
        longest = max((len(row) for row in self.widths), default=0)
        rows = [[*row, *row[-1:] * (longest - len(row))] for row in self.widths]
        return np.array(rows, int).reshape(len(rows), longest)

    @cached_property
    def _thinness(self) -> list[np.ndarray]:
        """Per group, one over the share of its worth that stays at each width."""
        totals = [np.maximum(np.cumsum(row), 1e-12) for row in self.worth]
        places = [np.array(row, int) - 1 for row in self.widths]
        return [total[-1] / total[at] for total, at in zip(totals, places)]

    def loads(self, rungs: np.ndarray) -> np.ndarray:
        """Return totals over limits ``(rows, limits)`` for rows of places."""
        rungs = np.atleast_2d(rungs)
        widths = self._table[np.arange(rungs.shape[1]), rungs]
        totals = self.meter.totals(widths)
        return np.stack([totals[n] / limit for n, limit in self.limits.items()], 1)

    def load(self, rungs: np.ndarray) -> np.ndarray:
        """Return the largest total over its limit, for rows of places in ``widths``."""
        return self.loads(rungs).max(axis=1)

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

    def missed(self, k: int, rung: int) -> float:
        """Return what group ``k`` misses when it goes down from a rung.

        A sum that is estimated from a share s of its terms is off by a variance that
        goes as 1/s - 1 (Cochran 1977, section 2.6). That is 1 at half, where effects
        are measured, and without bound towards nothing: the last channels of a narrow
        group are missed more than as many of a wide one, and no group is emptied
        because its channels are dear.
        """
        thinner = self._thinness[k][rung - 1] - self._thinness[k][rung]
        return self.effects[k] * float(thinner)


def uniform(choices: Choices) -> np.ndarray:
    """Every group keeps the same share; the largest that meets the budget."""
    most = np.array([row[-1] for row in choices.widths])
    shares = sorted({n / row[-1] for row in choices.widths for n in row}, reverse=True)

    def at(share: float) -> np.ndarray:
        return choices.below(share * most)

    def lowest_share(k: int, rung: int) -> float:
        return -choices.widths[k][rung - 1] / most[k]

    rungs = _first_fit(choices, _Lazily(at, shares))
    return _filled(choices, rungs, lowest_share)


def ranked(choices: Choices) -> np.ndarray:
    """All channels of all groups compete by worth; the best that fit stay."""
    levels = np.unique(np.concatenate([[], *choices.worth]))
    ascending = [row[::-1] for row in choices.worth]

    def at(level: float) -> np.ndarray:
        counts = [len(r) - np.searchsorted(r, level, "left") for r in ascending]
        return choices.below(counts)

    def mean_worth(k: int, rung: int) -> float:
        return float(choices.step(k, rung).mean())

    rungs = _first_fit(choices, _Lazily(at, levels))
    return _filled(choices, rungs, mean_worth)


def greedy(choices: Choices) -> np.ndarray:
    """Take away, again and again, what is missed least for what it costs.

    What a group misses is ``Choices.missed``, what it costs its part of the total that
    is the furthest over its limit.
    """
    return _thinned(choices, choices.missed)


def guided(choices: Choices) -> np.ndarray:
    """Take away, again and again, what costs the least measured accuracy for its cost.

    As Li et al. 2017 (section 3.2) read them, curves of accuracy tell which layers
    can be thinned. Where a curve is flat, what ``greedy`` looks at decides.

    Raises
    ------
    ValueError
        If no accuracy was measured.
    """
    lost = choices.lost
    if lost is None:
        raise ValueError(
            "selection 'sensitivity' needs data: measure with prune.sensitivity(net, "
            "accuracy) and give what that returns as sensitivity"
        )

    def missed(k: int, rung: int) -> float:
        accuracy = float(lost[k][rung - 1] - lost[k][rung])
        return accuracy + TIE * choices.missed(k, rung)

    return _thinned(choices, missed)


SELECTIONS: dict[str, Callable[[Choices], np.ndarray]] = {
    "uniform": uniform,
    "global": ranked,
    "greedy": greedy,
    "sensitivity": guided,
}


def _thinned(choices: Choices, missed: Callable[[int, int], float]) -> np.ndarray:
    """Take the step with the least missed for the load it saves, until all fits.

    The load is that of the worst limit, which may be another one after the step.
    """
    rungs = choices.largest.copy()
    loads = choices.loads(rungs)[0]
    able = np.flatnonzero(rungs > 0).tolist()
    # Per limit, what each group's next step costs at least.
    queues = [[(0.0, k, int(rungs[k])) for k in able] for _ in loads]
    while loads.max() > 1 and rungs.any():
        worst = int(loads.argmax())
        k = _cheapest(choices, (rungs, loads, missed), queues[worst], worst)
        rungs[k] -= 1
        loads = choices.loads(rungs)[0]
        if rungs[k] > 0:
            for queue in queues:
                heapq.heappush(queue, (0.0, k, int(rungs[k])))
    load = loads.max()

    def gain(k: int, rung: int) -> float:
        raised = rungs.copy()
        raised[k] = rung
        return missed(k, rung) / max(choices.load(raised)[0] - load, 1e-12)

    return _filled(choices, rungs, gain)


def _cheapest(choices: Choices, state: tuple, queue: list, worst: int) -> int:
    """Return the group whose next step has the lowest price; of equal ones the first.

    A step saves less of a limit the more the other groups have lost, and of the load
    no more than of the worst limit. So missed over saved of that limit, found earlier,
    is a lower bound of the price, and groups whose bound is above the best price need
    not be looked at again.
    """
    rungs, loads, missed = state
    best, tried = (np.inf, -1), []
    while queue and queue[0][:2] < best:
        _, k, rung = heapq.heappop(queue)
        if rung != rungs[k]:
            continue  # a step that was taken when another limit was the worst
        rungs[k] -= 1
        after = choices.loads(rungs)[0]
        rungs[k] += 1
        lost = missed(k, rung)
        price = lost / max(loads.max() - after.max(), 1e-12)
        bound = lost / max(loads[worst] - after[worst], 1e-12)
        tried.append((min(bound, price), k, rung))
        best = min(best, (price, k))
    for entry in tried:
        heapq.heappush(queue, entry)
    return best[1]


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


def _filled(
    choices: Choices, rungs: np.ndarray, priority: Callable[[int, int], float]
) -> np.ndarray:
    """Give groups more, the highest priority first, while the budget is met."""
    rungs = rungs.copy()

    def next_step(k: int) -> list[tuple]:
        able = rungs[k] < choices.largest[k]
        return [(-priority(k, rungs[k] + 1), k)] if able else []

    queue = [step for k in range(len(rungs)) for step in next_step(k)]
    heapq.heapify(queue)
    while queue:
        _, k = heapq.heappop(queue)
        rungs[k] += 1
        if choices.fits(rungs):
            for step in next_step(k):
                heapq.heappush(queue, step)
        else:
            rungs[k] -= 1  # what does not fit now never will
    return rungs
