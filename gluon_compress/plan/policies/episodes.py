"""Episodes: plans that a search tries out, their rewards, and the log of both.

A search is deterministic but for the scores of its plans. So its log is all the state
it has: a search that starts again with the log of an earlier one takes the scores from
there, comes to the same place bit for bit, and goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping

import numpy as np

from gluon_compress.plan.plan import Plan, listed
from gluon_compress.plan.policies.greedy import Greedy
from gluon_compress.plan.problem import PruningProblem
from gluon_compress.storage.atomic import appended
from gluon_compress.storage.reading import parse_json, read_bytes

SEARCH_LOG = "search.jsonl"  # in the folder of a stage
MOST_BYTES = 1 << 28
WINDOW = 50  # episodes that the rules for an early end look at
REPEATS = "the last {} episodes chose the same widths"
HOPELESS = "the rewards of the last {} episodes are too far below the reference's"


def accuracy(score: float, macs: float) -> float:
    """The score itself: for a search under a limit (He et al. 2018, section 3.3)."""
    return score


def accuracy_flops(score: float, macs: float) -> float:
    """Minus the error times the logarithm of the FLOPs (He et al. 2018, equation 4)."""
    return -(1 - score) * math.log(2 * macs)


# From the score of a plan, 0 to 1, and its MACs to a reward; higher is better.
REWARDS: dict[str, Callable[[float, float], float]] = {
    "accuracy": accuracy,
    "accuracy_flops": accuracy_flops,
}


@dataclass(frozen=True)
class Episode:
    """One plan that was tried.

    Parameters
    ----------
    number : int
        From 0.
    widths : tuple of int
        What each group of the problem keeps.
    score, reward : float
    loads : mapping
        Each cost over its limit.
    best : float
        The highest reward so far.
    reference : float
        The reward of the reference.
    """

    number: int
    widths: tuple[int, ...]
    score: float
    reward: float
    loads: Mapping[str, float]
    best: float
    reference: float


@dataclass
class Search(ABC):
    """What all policies that try plans out have in common.

    Parameters
    ----------
    score : callable
        ``score(plan) -> float``, from 0 to 1, higher being better: top-1 or mAP of the
        pruned net, such as ``prune.PlanScore`` measures. If it has a method
        ``expect(plans)``, that is told in advance which plans will come.
    episodes : int
        The number of plans to try.
    reward : str
        A name in ``REWARDS``.
    seed : int
    log : path, optional
        File of JSON lines, one an episode. A search that finds the log of an earlier
        one goes on from its end.
    reference : callable
        The policy to beat. Its plan is scored before the first episode.
    stop_early : bool
        Whether the search ends when it repeats itself or cannot win any more.
    progress : callable, optional
        ``progress(episode)``, called after each ``Episode``.

    Attributes
    ----------
    notes : dict
        After a search, what a plan records of it: episodes, the best score and the
        reference's, and why it ended early.
    """

    score: Callable[[Plan], float]
    episodes: int = 400
    reward: str = "accuracy"
    seed: int = 0
    log: str | os.PathLike | None = None
    reference: Any = field(default_factory=Greedy)
    stop_early: bool = True
    progress: Callable[[Episode], None] | None = None
    notes: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.reward not in REWARDS:
            raise ValueError(f"reward {self.reward!r} is unknown; {listed(REWARDS)}")
        if not isinstance(self.episodes, int) or self.episodes < 1:
            raise ValueError(f"episodes is {self.episodes!r}; allowed: from 1")

    @property
    def fills(self) -> bool:
        """Whether plans use the whole budget, since a smaller net gains no reward."""
        return REWARDS[self.reward] is accuracy

    @abstractmethod
    def __call__(self, problem: PruningProblem) -> np.ndarray:
        """Return the best levels of all episodes."""

    def settings(self) -> dict[str, Any]:
        """Return what decides the course of the search, JSON."""
        return {"episodes": self.episodes, "reward": self.reward, "seed": self.seed}


class Trials:
    """The episodes of one search: scores plans, logs them, and says when to end.

    Parameters
    ----------
    search : Search
    problem : PruningProblem
    name : str
        Of the policy.
    warmup : int
        Episodes before the rules for an early end apply.

    Raises
    ------
    ValueError
        If the log is of another search: another net, budget, seed or setting.
    """

    def __init__(
        self, search: Search, problem: PruningProblem, name: str, warmup: int = 0
    ) -> None:
        self.search, self.problem, self.warmup = search, problem, warmup
        self.episodes: list[Episode] = []
        self.best_levels: np.ndarray | None = None
        self._file = _Log(search.log, self._header(name))
        levels = search.reference(problem)
        self.reference = self._scored(levels, "reference")[1]
        self.reference_score = self._scores[0]

    def _header(self, name: str) -> dict[str, Any]:
        problem = self.problem
        return {
            "format": 1,
            "search": name,
            "groups": [group.name for group in problem.groups],
            "full": [int(row[-1]) for row in problem.widths],
            "budget": {n: float(limit) for n, limit in problem.budget.limits.items()},
            "settings": self.search.settings(),
            "problem": fingerprint(problem),
        }

    @property
    def _scores(self) -> list[float]:
        return [row["score"] for row in self._file.rows]

    def expect(self, ahead: Mapping[int, np.ndarray]) -> None:
        """Tell the score which levels later episodes will try, whatever it returns.

        A score that several workers compute can begin with them. Nothing else changes.

        Parameters
        ----------
        ahead : mapping
            Number of an episode to its levels; those in the log are left out.
        """
        expect = getattr(self.search.score, "expect", None)
        if expect is not None:
            known = self._file.count - 1  # the first row is the reference
            plans = [self.problem.plan(v) for n, v in ahead.items() if n >= known]
            expect(plans)

    def try_out(self, levels: np.ndarray) -> float:
        """Score the plan of some levels, and return its reward."""
        score, reward = self._scored(levels, len(self.episodes))
        best = max(reward, self.episodes[-1].best if self.episodes else -math.inf)
        if not self.episodes or reward > self.episodes[-1].best:
            self.best_levels = levels.copy()
        episode = Episode(
            len(self.episodes),
            tuple(int(width) for width in self.problem.widths_at(levels)),
            score,
            reward,
            self._loads(levels),
            best,
            self.reference,
        )
        self.episodes.append(episode)
        if self.search.progress is not None:
            self.search.progress(episode)
        return reward

    def _loads(self, levels: np.ndarray) -> dict[str, float]:
        loads = self.problem.loads(levels)[0]
        return {n: float(load) for n, load in zip(self.problem.budget.limits, loads)}

    def _scored(self, levels: np.ndarray, number: int | str) -> tuple[float, float]:
        """Return score and reward of levels, from the log or measured now."""
        widths = [int(width) for width in self.problem.widths_at(levels)]
        costs = self.problem.cost_model.costs(np.array([widths]))
        reward, macs = REWARDS[self.search.reward], float(costs["macs"][0])
        score = self._file.next_score(number, widths)
        if score is None:
            score = float(self.search.score(self.problem.plan(levels)))
            if not math.isfinite(score):
                raise ValueError(
                    f"the score of episode {number} is {score}; "
                    "allowed: a finite number, for any plan"
                )
            row = {"episode": number, "widths": widths, "score": score}
            extra = {"reward": reward(score, macs), "loads": self._loads(levels)}
            self._file.append({**row, **extra})
        return score, reward(score, macs)

    def ended(self) -> str | None:
        """Return why there should be no more episodes; empty if all are done."""
        count = len(self.episodes)
        if count >= self.search.episodes:
            return ""
        if not self.search.stop_early or count < self.warmup + WINDOW:
            return None
        recent = self.episodes[-WINDOW:]
        if len({episode.widths for episode in recent}) == 1:
            return REPEATS.format(WINDOW)
        if recent[-1].best < self.reference and self._hopeless(recent):
            return HOPELESS.format(WINDOW)
        return None

    def _hopeless(self, recent: list[Episode]) -> bool:
        """Tell whether rewards on their present line do not come near the reference.

        The line is that of least squares. Where it rises it is prolonged to the last
        episode. The bound is three standard deviations of a prediction above it.
        """
        rewards = np.array([episode.reward for episode in recent])
        count = len(rewards)
        numbers = np.arange(count) - (count - 1) / 2
        squares = float(np.square(numbers).sum())
        slope = float(numbers @ rewards) / squares
        left = rewards - rewards.mean() - slope * numbers
        ahead = numbers[-1]
        if slope > 0:
            ahead += self.search.episodes - len(self.episodes)
        variance = float(np.square(left).sum()) / (count - 2)
        variance *= 1 + 1 / count + ahead**2 / squares
        bound = rewards.mean() + slope * ahead + 3 * math.sqrt(variance)
        return bool(bound < self.reference)

    def finish(self, why: str) -> np.ndarray:
        """Return the best levels, after writing the search's notes."""
        assert self.best_levels is not None
        best = max(self.episodes, key=lambda episode: episode.reward)
        self.search.notes = {
            "search": {
                **self.search.settings(),
                "tried": len(self.episodes),
                "ended_early": why or None,
                "best_episode": best.number,
                "score": best.score,
                "reference": getattr(self.search.reference, "name", "callable"),
                "reference_score": self.reference_score,
                "wins": bool(best.reward > self.reference),
            }
        }
        return self.best_levels


class _Log:
    """The file of a search: a header, then one row an episode."""

    def __init__(
        self, path: str | os.PathLike | None, header: Mapping[str, Any]
    ) -> None:
        self.path = None if path is None else Path(path)
        self.rows: list[dict] = []
        self._known: list[dict] = []
        if self.path is None:
            return
        if self.path.exists():
            self._known = self._read(header)
        if not self.path.exists():
            self._write(header)

    def _read(self, header: Mapping[str, Any]) -> list[dict]:
        """Return the rows of the file, and cut off a line that is not whole."""
        assert self.path is not None
        content = read_bytes(self.path, MOST_BYTES)
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:
            self.path.unlink()
            return []
        if whole != content:
            with appended(self.path) as file:
                file.truncate(len(whole))
        first, *rows = [parse_json(line, self.path) for line in whole.splitlines()]
        if not isinstance(first, dict) or not all(map(_is_row, rows)):
            raise ValueError(f"{self.path}: not the log of a search")
        for key, value in header.items():
            if first.get(key) != value:
                raise ValueError(
                    f"{self.path}: the log of another search, its {key!r} is different;"
                    " name another file or remove this one"
                )
        return rows

    @property
    def count(self) -> int:
        """The number of rows in the file."""
        return max(len(self._known), len(self.rows))

    def next_score(self, number: int | str, widths: list[int]) -> float | None:
        """Return the score that the log has for the next episode, if it has one."""
        if len(self.rows) >= len(self._known):
            return None
        row = self._known[len(self.rows)]
        if row["episode"] != number or row["widths"] != widths:
            raise ValueError(
                f"{self.path}: episode {row['episode']} tried other widths than this "
                "search; name another file or remove this one"
            )
        self.rows.append(row)
        return float(row["score"])

    def append(self, row: dict) -> None:
        """Add a row, on the disk before the next episode begins."""
        self.rows.append(row)
        if self.path is not None:
            self._write(row)

    def _write(self, row: Mapping[str, Any]) -> None:
        assert self.path is not None
        with appended(self.path) as file:
            file.write(f"{json.dumps(row)}\n".encode())
            file.flush()
            os.fsync(file.fileno())


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and type(row.get("episode")) in (int, str)
        and isinstance(row.get("widths"), list)
        and isinstance(row.get("score"), float)
        and math.isfinite(row["score"])
    )


def fingerprint(problem: PruningProblem) -> str:
    """Return a hash of a problem: structure, widths, importance, costs and budget."""
    total = hashlib.sha256()
    for group, widths, channels, importance in zip(
        problem.groups, problem.widths, problem.channels, problem.importance
    ):
        total.update(f"{group.name} {widths}".encode())
        total.update(np.asarray(channels, np.int64).tobytes())
        total.update(np.asarray(importance, float).tobytes())
    # Costs between the extremes tell tables of latency apart.
    levels = np.stack(
        [problem.smallest, problem.largest, problem.largest // 2, problem.largest // 3]
    )
    total.update(problem.loads(levels).tobytes())
    return total.hexdigest()
