"""Law 1 on nets that nobody drew: random operators in random order."""

from __future__ import annotations

from typing import Callable

import mxnet as mx
import numpy as np
import pytest

from annotations import fake_quant, weight_mask
from gluon_compress import count, mask, slim, trace
from gluon_compress.graph import annotate
from gluon_compress.graph.operators import operator_of
from nets import SHAPE, batch, difference, plans

S = mx.sym
SEEDS = 28


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


def dense_excite(drawn: Drawn, x, channels: int) -> None:
    """Squeeze and excitation by dense layers, whose output has to grow two axes."""
    y = S.contrib.AdaptiveAvgPooling2D(x, output_size=1)
    y = S.relu(S.FullyConnected(y, num_hidden=4, name=drawn.name()))
    y = S.FullyConnected(y, num_hidden=channels, name=drawn.name())
    gates = (S.hard_sigmoid, S.sigmoid, lambda z: S.softmax(z, axis=1))
    shapes = ((0, 0, 1, 1), (-1, channels, 1, 1), (0, -1, 1, 1))
    y = S.reshape(drawn.some(gates)(y), drawn.some(shapes))
    drawn.add(drawn.some((S.broadcast_mul, S.broadcast_add))(x, y), channels)


def pooled(drawn: Drawn, x, channels: int) -> None:
    how = {"kernel": (3, 3), "pad": (1, 1), "pool_type": drawn.some(("avg", "max"))}
    inside = bool(drawn.dice.randint(2))
    drawn.add(S.Pooling(x, count_include_pad=inside, **how), channels)


def padded(drawn: Drawn, x, channels: int) -> None:
    how = {"mode": drawn.some(("constant", "edge", "reflect")), "constant_value": 0.5}
    x = S.Pad(x, pad_width=(0, 0, 0, 0, 1, 1, 1, 1), **how)
    drawn.add(S.Pooling(x, kernel=(3, 3), pool_type="avg"), channels)


def resized(drawn: Drawn, x, channels: int) -> None:
    x = S.UpSampling(x, scale=2, sample_type="nearest")
    drawn.add(S.contrib.BilinearResize2D(x, height=8, width=8), channels)


def twice(drawn: Drawn, x, channels: int) -> None:
    if channels < 16:
        drawn.add(S.concat(x, x, dim=1), 2 * channels)


def residual_concat(drawn: Drawn, x, channels: int) -> None:
    other, more = drawn.some(drawn.maps[1:])
    if channels + more < 24:
        y = S.concat(x, other, dim=1)
        drawn.add(y + _conv(drawn, y, channels + more), channels + more)


def transposed(drawn: Drawn, x, channels: int) -> None:
    groups = drawn.some([g for g in range(1, channels + 1) if channels % g == 0])
    wide = groups * drawn.dice.randint(1, 3)
    how = {"kernel": (3, 3), "pad": (1, 1), "num_group": groups, "name": drawn.name()}
    drawn.add(S.Deconvolution(x, num_filter=wide, **how), wide)


def deformed(drawn: Drawn, x, channels: int) -> None:
    able = [g for g in (1, 2, 3) if channels % g == 0]
    groups, places = drawn.some(able), drawn.some(able)
    wide = groups * drawn.dice.randint(1, 4)
    where = 0.3 * _conv(drawn, x, 2 * 9 * places)
    how = {"kernel": (3, 3), "pad": (1, 1), "num_group": groups, "name": drawn.name()}
    how["num_deformable_group"] = places
    drawn.add(S.contrib.DeformableConvolution(x, where, num_filter=wide, **how), wide)


def shared(drawn: Drawn, x, channels: int) -> None:
    groups = drawn.some([g for g in range(1, channels + 1) if channels % g == 0])
    shape = (channels, channels // groups, 1, 1)
    weight = S.var(f"{drawn.name()}_weight", shape=shape)
    how = {"num_filter": channels, "num_group": groups, "no_bias": True}
    for _ in range(2):
        x = S.relu(S.Convolution(x, weight, kernel=(1, 1), name=drawn.name(), **how))
    drawn.add(x, channels)


def mixed_up(drawn: Drawn, x, channels: int) -> None:
    """Parts in another order, or a shuffle whose sizes are all written."""
    parts = drawn.some([g for g in range(1, channels + 1) if channels % g == 0])
    if parts > 1 and drawn.dice.randint(2):
        pieces = list(S.split(x, num_outputs=parts, axis=1))
        order = drawn.dice.permutation(parts)
        drawn.add(S.concat(*[pieces[i] for i in order], dim=1), channels)
    else:
        x = S.reshape(x, (0, parts, channels // parts, *SHAPE[2:]))
        x = S.reshape(S.SwapAxis(x, dim1=1, dim2=2), (-1, channels, *SHAPE[2:]))
        drawn.add(x, channels)


def radix(drawn: Drawn, x, channels: int) -> None:
    if channels % 2 == 0:
        x = S.reshape(x, (0, 2, channels // 2, *SHAPE[2:]))
        weights = S.softmax(S.mean(x, axis=(3, 4), keepdims=True), axis=1)
        drawn.add(S.sum(S.broadcast_mul(x, weights), axis=1), channels // 2)


def backwards(drawn: Drawn, x, channels: int) -> None:
    x = S.reverse(x, axis=drawn.some((1, 2)))
    if channels < 8:
        x, channels = S.tile(x, reps=(1, 2, 1, 1)), 2 * channels
    drawn.add(x, channels)


OPERATORS: tuple[Callable, ...] = (
    *(conv, conv, conv, grouped, grouped, activation, leaky, scalars, join, join),
    *(concat, halves, part, excite, shuffle, fold, there_and_back, norm, gate, slopes),
    *(dense_excite, pooled, padded, resized, twice, residual_concat, transposed),
    *(deformed, shared, mixed_up, radix, backwards),
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


@pytest.mark.parametrize("seed", range(SEEDS))
def test_mask_is_slim_on_random_nets(seed):
    net = random_net(seed)
    graph, images = trace(net, SHAPE), batch()
    for plan in plans(graph)[1:3]:
        masked, small = (way(net, plan, graph=graph) for way in (mask, slim))
        assert difference(masked(images), small(images)) < 1e-5
        assert count(trace(small, SHAPE)).rows == count(graph, plan).rows


def annotated(net: tuple, graph) -> object:
    """Return a net with a third of its weights masked, and all quantised coarsely."""
    dice, masks, quantisers = np.random.RandomState(0), {}, {}
    for node in graph.nodes:
        row = operator_of(node["op"])
        if row.weight_input is not None:
            name = graph.nodes[node["inputs"][row.weight_input][0]]["name"]
            value = graph.params[name].asnumpy()
            masks[name] = weight_mask(dice.rand(*value.shape) > 1 / 3)
            axis = row.weight_axis if name not in graph.blocks else None
            width = 1 if axis is None else value.shape[axis]
            quantisers[name] = fake_quant(dice.uniform(0.01, 0.1, width), axis)
    masked = annotate(net, weights=masks, graph=graph)
    return annotate(masked, weights=quantisers)


@pytest.mark.parametrize("seed", range(0, SEEDS, 4))
def test_mask_is_slim_on_random_nets_with_annotated_weights(seed):
    plain = random_net(seed)
    net = annotated(plain, trace(plain, SHAPE))
    graph, images = trace(net), batch()
    assert graph.groups == trace(plain, SHAPE).groups
    for plan in plans(graph)[1:3]:
        masked, small = (way(net, plan, graph=graph) for way in (mask, slim))
        assert difference(masked(images), small(images)) < 1e-5


def test_random_nets_lose_channels():
    # Or the test above would say little.
    groups = [g for seed in range(SEEDS) for g in trace(random_net(seed), SHAPE).groups]
    free = [group for group in groups if not group.frozen]
    assert len(free) > 2 * SEEDS
    assert any(group.size > 1 for group in free)
