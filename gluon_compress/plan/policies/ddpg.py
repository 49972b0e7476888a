"""Deep deterministic policy gradient for one action between 0 and 1, in NumPy.

Actor and critic have two hidden layers; at these sizes NumPy is several times faster
than a net of MXNet, and an agent is updated thousands of times. See Lillicrap et al.
2016, algorithm 1, and He et al. 2018, section 3.2, for the rewards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np

Values = dict  # parameter name to array


@dataclass(frozen=True)
class DDPGSettings:
    """The published settings of the agent (He et al. 2018; authors' code).

    Parameters
    ----------
    hidden : int
        Units of each hidden layer.
    actor_rate, critic_rate : float
        Learning rates of Adam.
    batch : int
        Transitions in an update.
    memory : int
        Capacity of the replay memory, in episodes.
    discount : float
        Of the value of the next state.
    follow : float
        Share of the way that the target networks go to the others in an update.
    """

    hidden: int = 300
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    batch: int = 64
    memory: int = 100
    discount: float = 1.0
    follow: float = 0.01


class Actor:
    """State to action: two hidden layers with ReLU, and a sigmoid."""

    def __init__(self, states: int, hidden: int, random: np.random.RandomState) -> None:
        self.values: Values = {
            "w1": _uniform(random, states, hidden),
            "b1": np.zeros(hidden),
            "w2": _uniform(random, hidden, hidden),
            "b2": np.zeros(hidden),
            "w3": random.uniform(-3e-3, 3e-3, (hidden, 1)),
            "b3": np.zeros(1),
        }

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Return actions ``(N, 1)`` of states ``(N, states)``."""
        return self._forward(states)[-1]

    def _forward(self, states: np.ndarray) -> tuple:
        v = self.values
        first = np.maximum(states @ v["w1"] + v["b1"], 0)
        second = np.maximum(first @ v["w2"] + v["b2"], 0)
        return first, second, 1 / (1 + np.exp(-(second @ v["w3"] + v["b3"])))

    def gradients(self, states: np.ndarray, slopes: np.ndarray) -> Values:
        """Return the gradients of ``sum(slopes * actions)``."""
        first, second, action = self._forward(states)
        third = slopes * action * (1 - action)
        inner = (third @ self.values["w3"].T) * (second > 0)
        outer = (inner @ self.values["w2"].T) * (first > 0)
        return {
            **_layer("1", states, outer),
            **_layer("2", first, inner),
            **_layer("3", second, third),
        }


class Critic:
    """State and action to a value: their layers are summed, then two more follow."""

    def __init__(self, states: int, hidden: int, random: np.random.RandomState) -> None:
        self.values: Values = {
            "w1": _uniform(random, states, hidden),
            "b1": np.zeros(hidden),
            "wa": _uniform(random, 1, hidden),
            "ba": np.zeros(hidden),
            "w2": _uniform(random, hidden, hidden),
            "b2": np.zeros(hidden),
            "w3": random.uniform(-3e-3, 3e-3, (hidden, 1)),
            "b3": np.zeros(1),
        }

    def __call__(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return values ``(N, 1)``."""
        return self._forward(states, actions)[-1]

    def _forward(self, states: np.ndarray, actions: np.ndarray) -> tuple:
        v = self.values
        both = states @ v["w1"] + v["b1"] + actions @ v["wa"] + v["ba"]
        first = np.maximum(both, 0)
        second = np.maximum(first @ v["w2"] + v["b2"], 0)
        return first, second, second @ v["w3"] + v["b3"]

    def gradients(
        self, states: np.ndarray, actions: np.ndarray, slopes: np.ndarray
    ) -> tuple[Values, np.ndarray]:
        """Return the gradients of ``sum(slopes * values)``, and by the actions."""
        first, second, _ = self._forward(states, actions)
        inner = (slopes @ self.values["w3"].T) * (second > 0)
        outer = (inner @ self.values["w2"].T) * (first > 0)
        gradients = {
            **_layer("1", states, outer),
            **_layer("a", actions, outer),
            **_layer("2", first, inner),
            **_layer("3", second, slopes),
        }
        return gradients, outer @ self.values["wa"].T


def _layer(name: str, inputs: np.ndarray, slopes: np.ndarray) -> Values:
    """Return the gradients of a layer's weight and bias."""
    return {f"w{name}": inputs.T @ slopes, f"b{name}": slopes.sum(axis=0)}


def _uniform(random: np.random.RandomState, inputs: int, outputs: int) -> np.ndarray:
    bound = inputs**-0.5
    return random.uniform(-bound, bound, (inputs, outputs))


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) with its usual settings."""

    def __init__(self, values: Values, rate: float) -> None:
        self.rate, self.steps = rate, 0
        self.means = {name: np.zeros_like(v) for name, v in values.items()}
        self.squares = {name: np.zeros_like(v) for name, v in values.items()}

    def step(self, values: Values, gradients: Values) -> None:
        """Take a step down the gradients, in place."""
        self.steps += 1
        rate = self.rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for name, gradient in gradients.items():
            mean, square = self.means[name], self.squares[name]
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient * gradient - square)
            values[name] -= rate * mean / (np.sqrt(square) + 1e-8)


class DDPG:
    """An agent: actor, critic, their targets, and a replay memory.

    Parameters
    ----------
    states : int
        Length of a state.
    steps : int
        Transitions of an episode.
    settings : DDPGSettings
    random : RandomState
        Start weights, and the transitions of each update, are drawn from it.
    """

    def __init__(
        self,
        states: int,
        steps: int,
        settings: DDPGSettings,
        random: np.random.RandomState,
    ) -> None:
        self.settings, self.random = settings, random
        self.actor = Actor(states, settings.hidden, random)
        self.critic = Critic(states, settings.hidden, random)
        self.targets = _copied(self.actor), _copied(self.critic)
        self._optimizers = (
            Adam(self.actor.values, settings.actor_rate),
            Adam(self.critic.values, settings.critic_rate),
        )
        self._memory: list[tuple] = []
        self._capacity = settings.memory * steps
        self.baseline: float | None = None

    def action(self, state: np.ndarray) -> float:
        """Return what the actor does in a state."""
        return float(self.actor(state[None])[0, 0])

    def remember(
        self, states: Sequence[np.ndarray], actions: Sequence[float], reward: float
    ) -> None:
        """Store an episode; each of its steps has its reward."""
        nexts = [*states[1:], states[-1]]
        for i, (state, action, following) in enumerate(zip(states, actions, nexts)):
            last = float(i == len(states) - 1)
            self._memory.append((state, action, reward, following, last))
        del self._memory[: -self._capacity]
        if self.baseline is None:
            self.baseline = reward
        self.baseline += 0.5 * (reward - self.baseline)

    def update(self) -> None:
        """Update critic, actor and their targets once."""
        size = min(self.settings.batch, len(self._memory))
        rows = [
            self._memory[i] for i in self.random.choice(len(self._memory), size, False)
        ]
        states, actions, rewards, following, last = (
            np.array(column, float).reshape(size, -1) for column in zip(*rows)
        )
        assert self.baseline is not None
        actor, critic = self.targets
        ahead = critic(following, actor(following)) * (1 - last)
        goals = rewards - self.baseline + self.settings.discount * ahead
        slopes = 2 * (self.critic(states, actions) - goals) / size
        gradients, _ = self.critic.gradients(states, actions, slopes)
        self._optimizers[1].step(self.critic.values, gradients)
        ones = np.full((size, 1), 1 / size)
        _, rise = self.critic.gradients(states, self.actor(states), ones)
        self._optimizers[0].step(self.actor.values, self.actor.gradients(states, -rise))
        sources: tuple[Any, ...] = (self.actor, self.critic)
        for target, source in zip(self.targets, sources):
            for name, value in target.values.items():
                value += self.settings.follow * (source.values[name] - value)


def _copied(net: Any) -> Any:
    copy: Any = object.__new__(type(net))
    copy.values = {name: value.copy() for name, value in net.values.items()}
    return copy
