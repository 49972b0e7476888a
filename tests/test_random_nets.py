"""Law 1 on nets that nobody drew: random operators in random order."""

from __future__ import annotations

from typing import Callable

import mxnet as mx
import numpy as np
import pytest

from gluon_compress import count, mask, slim, trace
from nets import SHAPE, batch, difference, plans

S = mx.sym


class Drawn:
    """Feature maps drawn so far, and the dice."""

    def __init__(self, seed: int) -> None:
        self.dice = np.random.RandomState(seed)
        self.maps = [(S.var("data"), SHAPE[1])]  # symbol and channels
        self.layers = 0
        conv(self, *self.maps[0])

    def name(self) -> str:
        self.layers += 1
        return f"layer{self.layers}"

    def some(self, values):
        return values[self.dice.randint(len(values))]

    def add(self, symbol, channels: int) -> None:
        self.maps.append((symbol, channels))


def _conv(drawn: Drawn, x, channels: int, kernel: int = 3, groups: int = 1):
    how = {"kernel": (kernel, kernel), "pad": (kernel // 2, kernel // 2)}
    how["no_bias"] = bool(drawn.dice.randint(2))
    name = drawn.name()
    return S.Convolution(x, num_filter=channels, num_group=groups, name=name, **how)


def _norm(drawn: Drawn, x):
    return S.BatchNorm(x, fix_gamma=drawn.dice.rand() < 0.2, name=drawn.name())


def conv(drawn: Drawn, x, channels: int) -> None:
    wide = drawn.some((4, 6, 8, 12))
    x = _conv(drawn, x, wide, drawn.some((1, 3)))
    drawn.add(_norm(drawn, x) if drawn.dice.randint(2) else x, wide)


def grouped(drawn: Drawn, x, channels: int) -> None:
    groups = drawn.some([g for g in range(1, channels + 1) if channels % g == 0])
    wide = groups * drawn.dice.randint(1, 3)
    drawn.add(_norm(drawn, _conv(drawn, x, wide, groups=groups)), wide)


def activation(drawn: Drawn, x, channels: int) -> None:
    kinds = ("relu", "sigmoid", "tanh", "softrelu", "softsign")
    drawn.add(S.Activation(x, act_type=drawn.some(kinds)), channels)


def leaky(drawn: Drawn, x, channels: int) -> None:
    kind = drawn.some(("leaky", "elu", "selu", "gelu"))
    drawn.add(S.LeakyReLU(x, act_type=kind), channels)


def scalars(drawn: Drawn, x, channels: int) -> None:
    x = 2 * x + drawn.some((0, 1, -1))
    drawn.add(S.clip(x, drawn.some((-1, 0, 0.3)), 6), channels)


def join(drawn: Drawn, x, channels: int) -> None:
    alike = [other for other, n in drawn.maps[1:] if n == channels]
    if alike:
        ways = (S.elemwise_add, S.elemwise_sub, S.elemwise_mul, S.maximum)
        drawn.add(drawn.some(ways)(x, drawn.some(alike)), channels)


def concat(drawn: Drawn, x, channels: int) -> None:
    other, more = drawn.some(drawn.maps)
    if channels + more < 32:
        drawn.add(S.concat(x, other, dim=1), channels + more)


def halves(drawn: Drawn, x, channels: int) -> None:
    if channels % 2 == 0:
        for part in S.split(x, num_outputs=2, axis=1):
            drawn.add(part, channels // 2)


def part(drawn: Drawn, x, channels: int) -> None:
    begin, end = sorted(drawn.dice.choice(channels + 1, 2, replace=False).tolist())
    drawn.add(S.slice_axis(x, axis=1, begin=begin, end=end), end - begin)


def excite(drawn: Drawn, x, channels: int) -> None:
    y = S.Pooling(x, global_pool=True, pool_type=drawn.some(("avg", "max")))
    y = S.relu(_conv(drawn, y, 4, 1))
    y = S.sigmoid(_conv(drawn, y, channels, 1))
    drawn.add(S.broadcast_mul(x, y), channels)


def shuffle(drawn: Drawn, x, channels: int) -> None:
    if channels % 2 == 0:
        x = S.swapaxes(S.reshape(x, (0, -4, 2, -1, -2)), dim1=1, dim2=2)
        drawn.add(S.reshape(x, (0, -3, -2)), channels)


def fold(drawn: Drawn, x, channels: int) -> None:
    if channels % 2 == 0:
        x = S.reshape(x, (0, -4, 2, -1, -2))
        drawn.add(drawn.some((S.sum, S.max, S.mean))(x, axis=1), channels // 2)


def there_and_back(drawn: Drawn, x, channels: int) -> None:
    x = S.reshape(S.transpose(x, (0, 2, 3, 1)), (0, -3, 0))
    x = S.reshape(S.transpose(x, (0, 2, 1)), (0, 0, *SHAPE[2:]))
    drawn.add(x, channels)


def norm(drawn: Drawn, x, channels: int) -> None:
    drawn.add(_norm(drawn, x), channels)


def gate(drawn: Drawn, x, channels: int) -> None:
    y = drawn.some((S.sum, S.mean))(x, axis=1, keepdims=True)
    drawn.add(S.broadcast_mul(x, S.sigmoid(y)), channels)


def slopes(drawn: Drawn, x, channels: int) -> None:
    slope = S.var(f"{drawn.name()}_gamma", shape=(channels,))
    drawn.add(S.LeakyReLU(x, slope, act_type="prelu"), channels)


OPERATORS: tuple[Callable, ...] = (
    *(conv, conv, conv, grouped, grouped, activation, leaky, scalars, join, join),
    *(concat, halves, part, excite, shuffle, fold, there_and_back, norm, gate, slopes),
)


def random_net(seed: int) -> tuple:
    """Return a random net as (symbol, params)."""
    drawn = Drawn(seed)
    for _ in range(drawn.dice.randint(4, 13)):
        drawn.some(OPERATORS)(drawn, *drawn.some(drawn.maps[-3:]))
    heads = [_conv(drawn, x, 4, 1) for x, _ in drawn.maps[-2:]]
    symbol = S.Group([heads[0], S.FullyConnected(heads[1], num_hidden=3, name="last")])
    shapes, _, states = symbol.infer_shape(data=SHAPE)
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    params = {}
    for name, shape in zip(names, (*shapes, *states)):
        fan = np.sqrt(np.prod(shape[1:]))
        around = 1 if name.endswith(("gamma", "var")) else 0
        spread = drawn.dice.uniform(-0.5, 0.5, shape) / (1 if around else fan)
        params[name] = mx.nd.array(around + spread)
    del params["data"]
    return symbol, params


@pytest.mark.parametrize("seed", range(40))
def test_mask_is_slim_on_random_nets(seed):
    net = random_net(seed)
    graph, images = trace(net, SHAPE), batch()
    for plan in plans(graph)[1:4]:
        masked, small = (way(net, plan, shape=SHAPE) for way in (mask, slim))
        assert difference(masked(images), small(images)) < 1e-5
        assert count(trace(small, SHAPE)).rows == count(graph, plan).rows


def test_random_nets_lose_channels():
    # Or the test above would say little.
    groups = [g for seed in range(40) for g in trace(random_net(seed), SHAPE).groups]
    free = [group for group in groups if not group.frozen]
    assert len(free) > 60
    assert any(group.size > 1 for group in free)
