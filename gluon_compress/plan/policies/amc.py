"""AMC: a reinforcement-learning agent that chooses the width of each channel group."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np

from gluon_compress.graph import ChannelGroup
from gluon_compress.graph.context import numbers
from gluon_compress.graph.operators import operator_of
from gluon_compress.plan.policies.ddpg import DDPG, DDPGSettings
from gluon_compress.plan.policies.episodes import Search, Trials
from gluon_compress.plan.policies.wall import filled, walled_level
from gluon_compress.plan.problem import PruningProblem

STATIC = 8  # fields of a state that do not depend on earlier actions


@dataclass
class AMC(Search):
    """Let an agent choose, group by group, the share of channels that stays.

    An episode goes through the groups in the order of the net. The agent sees the
    group, what has been saved and what still can be, and its last action; it answers
    with a share. The action wall keeps every plan within the budget, whatever it
    limits. The reward of the finished plan goes to all steps (He et al. 2018, sections
    3.1 to 3.3). Coupled layers are one group, hence one action. Where only accuracy
    counts, the widths of random episodes grow in proportion until the budget is used:
    far below it nets are as bad as any, and the agent would see no difference.

    Parameters
    ----------
    warmup : int
        Episodes with random actions, before the agent learns.
    noise : float
        Standard deviation of the exploration after the warm-up: a normal distribution,
        cut off at 0 and 1.
    decay : float
        Factor of the noise from episode to episode.
    least : float
        Share of the channels that an action of 0 stands for; an action of 1 is all.
    agent : DDPGSettings
    """

    warmup: int = 100
    noise: float = 0.5
    decay: float = 0.95
    least: float = 0.2
    agent: DDPGSettings = field(default_factory=DDPGSettings)
    name: ClassVar[str] = "amc"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.warmup, int) or self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup!r}; allowed: from 1")
        for name in ("noise", "decay"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ValueError(f"{name} is {value!r}; allowed: above 0, up to 1")
        if not 0 <= self.least < 1:
            raise ValueError(f"least is {self.least!r}; allowed: from 0, below 1")

    def settings(self) -> dict[str, Any]:
        """Return what decides the course of the search, JSON."""
        own = ("warmup", "noise", "decay", "least")
        values = {name: getattr(self, name) for name in own}
        return {**super().settings(), **values, "agent": asdict(self.agent)}

    def __call__(self, problem: PruningProblem) -> np.ndarray:
        """Return the best levels of all episodes.

        Raises
        ------
        ValueError
            As for ``Trials``, or if a score or an action is not finite.
        """
        trials = Trials(self, problem, self.name, warmup=self.warmup)
        random = np.random.RandomState(self.seed)
        environment = Environment(problem, self.least)
        steps = len(environment.groups)
        agent = DDPG(STATIC + 3, max(steps, 1), self.agent, random)

        def walk(spread: float | None) -> np.ndarray:
            environment.reset()
            for _ in range(steps):
                action = _explored(agent, environment.state(), spread, random)
                environment.step(action)
            levels = environment.levels.copy()
            if spread is None and self.fills:
                levels = filled(problem, levels)
            return levels

        # No reward changes what the warm-up tries.
        first = [walk(None) for _ in range(min(self.warmup, self.episodes))]
        trials.expect(dict(enumerate(first)))
        while (why := trials.ended()) is None:
            number = len(trials.episodes) - self.warmup
            if number < 0:
                levels = first[len(trials.episodes)]
            else:
                levels = walk(self.noise * self.decay**number)
            reward = trials.try_out(levels)
            if steps:
                agent.remember(*environment.followed(levels), reward)
                for _ in range(steps if number >= 0 else 0):
                    agent.update()
        return trials.finish(why)


def _explored(
    agent: DDPG,
    state: np.ndarray,
    spread: float | None,
    random: np.random.RandomState,
) -> float:
    """Return an action with noise; None is uniform noise alone."""
    if spread is None:
        return float(random.rand())
    mean = agent.action(state)
    if not np.isfinite(mean):
        raise ValueError(
            f"the agent's action is {mean}, not finite; allowed: lower rates in agent"
        )
    while True:
        action = mean + spread * random.randn()
        if 0 <= action <= 1:
            return float(action)


class Environment:
    """One pass through the groups of a problem, as the agent sees it.

    A state has eleven fields, like that of the paper: number of the group, whether it
    is depthwise or dense, its width, height and width of its map, stride, kernel size,
    and the share of the cost that depends on the group; then what is saved already,
    what later groups can still save, and the last action. All lie between 0 and 1. The
    cost is that of the limit which the full net exceeds most.

    Parameters
    ----------
    problem : PruningProblem
    least : float
        Share of the channels that an action of 0 stands for.
    """

    def __init__(self, problem: PruningProblem, least: float) -> None:
        self.problem, self.least = problem, least
        largest = problem.largest
        self.groups = [int(k) for k in np.flatnonzero(largest > 0)]
        self._limit = int(problem.loads(largest)[0].argmax())
        self._full = float(problem.loads(largest)[0, self._limit])
        lowered = np.tile(largest, (len(self.groups), 1))
        lowered[np.arange(len(self.groups)), self.groups] = 0
        alone = self._full - problem.loads(lowered)[:, self._limit]
        features = [
            [k, *_features(problem, problem.groups[k]), share]
            for k, share in zip(self.groups, alone)
        ]
        self._static = _between_0_and_1(np.array(features, float).reshape(-1, STATIC))
        self.reset()

    def reset(self) -> None:
        """Begin a new episode."""
        self.levels = self.problem.largest
        self._step, self._action = 0, 1.0

    def state(self) -> np.ndarray:
        """Return the state of the group that is next, ``(11,)``."""
        k = self.groups[self._step]
        low = self.levels.copy()
        low[k:] = 0
        now, reachable = self.problem.loads(np.stack([self.levels, low]))[
            :, self._limit
        ]
        saved, rest = 1 - now / self._full, (now - reachable) / self._full
        return np.array([*self._static[self._step], saved, rest, self._action])

    def step(self, action: float) -> None:
        """Choose the next group's width by an action, under the wall."""
        k = self.groups[self._step]
        share = self.least + (1 - self.least) * action
        self._take(walled_level(self.problem, self.levels, k, share))

    def _take(self, level: int) -> None:
        """Set the next group to a level; the action is what came of it."""
        k = self.groups[self._step]
        self.levels[k], widths = level, self.problem.widths[k]
        realised = (widths[level] / widths[-1] - self.least) / (1 - self.least)
        self._step, self._action = self._step + 1, float(np.clip(realised, 0, 1))

    def followed(self, levels: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
        """Return the states and actions of an episode that comes to some levels."""
        self.reset()
        states, actions = [], []
        for k in self.groups:
            states.append(self.state())
            self._take(int(levels[k]))
            actions.append(self._action)
        return states, actions


def _features(problem: PruningProblem, group: ChannelGroup) -> list[float]:
    """Return kind, width, height and width of the map, stride and kernel of a group."""
    graph = problem.graph
    i = graph.grouping.names.index(group.layers[0]) if group.layers else 0
    node, shape = graph.nodes[i], graph.tensors[i][0].shape
    spatial = [*shape[2:], 1, 1][:2]
    kernel = numbers(node["attrs"], "kernel") or (1,)
    stride = numbers(node["attrs"], "stride") or (1,)
    depthwise = int(node["attrs"].get("num_group", "1")) > 1
    dense = operator_of(node["op"]).weight_input is not None and len(shape) < 4
    kind = 1.0 if dense else 0.5 if depthwise else 0.0
    return [kind, group.width, *spatial, stride[0], kernel[0]]


def _between_0_and_1(features: np.ndarray) -> np.ndarray:
    """Return every column moved and scaled to 0 to 1; constant ones become 0."""
    if not len(features):
        return features
    low, high = features.min(axis=0), features.max(axis=0)
    return (features - low) / np.where(high > low, high - low, 1)
