from __future__ import annotations

import numpy as np
import pytest

from gluon_compress.plan.policies.ddpg import DDPG, Actor, Adam, Critic, DDPGSettings


def numerical(net, compute, name: str, index: tuple) -> float:
    value, step = net.values[name], 1e-6
    start = value[index]
    results = []
    for sign in (1, -1):
        value[index] = start + sign * step
        results.append(compute())
    value[index] = start
    return (results[0] - results[1]) / (2 * step)


def samples(count=7, states=5, seed=0):
    random = np.random.RandomState(seed)
    return random, random.randn(count, states), random.rand(count, 1)


def without_zeros(net, random) -> None:
    """Move all values away from zero, where a ReLU has no derivative."""
    for name, value in net.values.items():
        net.values[name] = random.randn(*value.shape)


def test_gradients_of_the_actor_are_the_differences():
    random, states, slopes = samples()
    actor = Actor(5, 6, random)
    without_zeros(actor, random)
    gradients = actor.gradients(states, slopes)
    for name, value in actor.values.items():
        for index in list(np.ndindex(value.shape))[::3]:
            expected = numerical(
                actor, lambda: (slopes * actor(states)).sum(), name, index
            )
            assert gradients[name][index] == pytest.approx(expected, abs=1e-7)


def test_gradients_of_the_critic_are_the_differences():
    random, states, actions = samples()
    critic = Critic(5, 6, random)
    without_zeros(critic, random)
    slopes = random.randn(7, 1)

    def total(actions=actions):
        return (slopes * critic(states, actions)).sum()

    gradients, by_actions = critic.gradients(states, actions, slopes)
    for name, value in critic.values.items():
        for index in list(np.ndindex(value.shape))[::3]:
            expected = numerical(critic, total, name, index)
            assert gradients[name][index] == pytest.approx(expected, abs=1e-7)
    for i in range(len(actions)):
        moved = np.eye(len(actions))[:, i : i + 1] * 1e-6
        expected = (total(actions + moved) - total(actions - moved)) / 2e-6
        assert by_actions[i, 0] == pytest.approx(expected, abs=1e-7)


def test_adam_takes_the_published_steps():
    values = {"w": np.array([1.0, -2.0])}
    adam = Adam(values, rate=0.1)
    mean = square = 0.0
    expected = values["w"].copy()
    for step, gradient in enumerate(np.array([[0.5, 1.0], [-1.0, 3.0]]), 1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        corrected = mean / (1 - 0.9**step), square / (1 - 0.999**step)
        expected -= 0.1 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        adam.step(values, {"w": gradient})
    np.testing.assert_allclose(values["w"], expected, rtol=1e-5)


def test_an_agent_learns_the_action_that_is_rewarded():
    random = np.random.RandomState(0)
    settings = DDPGSettings(hidden=32, actor_rate=3e-3, critic_rate=3e-3)
    agent = DDPG(2, 2, settings, random)
    states = [np.array([0.0, 1.0]), np.array([1.0, 0.0])]
    for _ in range(300):
        actions = random.rand(2)
        # The first step should act low, the second high.
        agent.remember(states, list(actions), 1 - actions[0] + actions[1])
        agent.update()
    assert agent.action(states[0]) < 0.2
    assert agent.action(states[1]) > 0.8


def test_the_baseline_is_the_moving_average_of_rewards():
    agent = DDPG(2, 1, DDPGSettings(hidden=4), np.random.RandomState(0))
    for reward in (1.0, 0.0, 0.5):
        agent.remember([np.zeros(2)], [0.5], reward)
    assert agent.baseline == pytest.approx(0.5)  # 1, then 0.5, then 0.5


def test_the_memory_forgets_the_oldest_episodes():
    agent = DDPG(2, 3, DDPGSettings(hidden=4, memory=2), np.random.RandomState(0))
    for reward in range(5):
        agent.remember([np.zeros(2)] * 3, [0.5] * 3, float(reward))
    assert [row[2] for row in agent._memory] == [3, 3, 3, 4, 4, 4]
