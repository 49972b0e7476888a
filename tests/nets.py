"""Tiny nets by the shape of their graph, each a few channels wide."""

from __future__ import annotations

from functools import lru_cache
from typing import Callable

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.contrib.cnn import (
    DeformableConvolution,
    ModulatedDeformableConvolution,
)

from gluon_compress.graph import Graph, trace
from gluon_compress.plan import Plan


class Wired(HybridBlock):
    """Layers by name, and a function ``wire(F, layers, x)`` that joins them.

    ``values`` are parameters of its own: name to shape.
    """

    def __init__(self, wire: Callable, values: dict | None = None, **layers):
        super().__init__()
        self.wire, self.layers = wire, layers
        with self.name_scope():
            for name, shape in (values or {}).items():
                setattr(self, name, self.params.get(name, shape=shape, init="zeros"))
            for name, layer in layers.items():
                self.register_child(layer, name)

    def hybrid_forward(self, F, x, **values):
        return self.wire(F, {**self.layers, **values}, x)


def conv(channels, kernel=3, **how):
    how.setdefault("padding", kernel // 2)
    return nn.Conv2D(channels, kernel, **how)


def unit(channels, kernel=3, act="relu", **how):
    """Convolution, BatchNorm, activation."""
    block = nn.HybridSequential()
    block.add(conv(channels, kernel, use_bias=False, **how), nn.BatchNorm())
    if act:
        block.add(nn.Activation(act))
    return block


def chain():
    net = nn.HybridSequential()
    net.add(unit(8), unit(6), nn.GlobalAvgPool2D(), nn.Dense(5))
    return net


def residual():
    def wire(F, m, x):
        x = m["stem"](x)
        return m["out"](F.relu(m["b"](m["a"](x)) + x))

    return Wired(wire, stem=unit(8), a=unit(6), b=unit(8, act=None), out=nn.Dense(5))


def projection():
    def wire(F, m, x):
        x = m["stem"](x)
        return m["out"](F.relu(m["b"](m["a"](x)) + m["side"](x)))

    return Wired(
        wire,
        stem=unit(8),
        a=unit(6),
        b=unit(10, act=None),
        side=unit(10, 1, act=None),
        out=nn.Dense(5),
    )


def concat():
    def wire(F, m, x):
        x = m["stem"](x)
        return m["out"](m["last"](F.concat(m["a"](x), x, m["b"](x), dim=1)))

    return Wired(
        wire, stem=unit(8), a=unit(6), b=unit(4), last=unit(7), out=nn.Dense(5)
    )


def dense_block():
    """BatchNorm after the concatenation: one scale for two groups."""

    def wire(F, m, x):
        x = m["stem"](x)
        x = F.concat(x, m["a"](F.relu(m["bn1"](x))), dim=1)
        return m["out"](m["b"](F.relu(m["bn2"](x))))

    return Wired(
        wire,
        stem=conv(8),
        bn1=nn.BatchNorm(),
        a=conv(6, use_bias=False),
        bn2=nn.BatchNorm(),
        b=conv(4),
        out=nn.Dense(5),
    )


def preactivation():
    def wire(F, m, x):
        x = m["stem"](x)
        x = m["a"](F.relu(m["bn1"](x))) + x
        x = m["b"](F.relu(m["bn2"](x))) + x
        return m["out"](F.relu(m["bn3"](x)))

    return Wired(
        wire,
        stem=conv(8),
        bn1=nn.BatchNorm(),
        bn2=nn.BatchNorm(),
        bn3=nn.BatchNorm(),
        a=conv(8),
        b=conv(8, use_bias=False),
        out=nn.Dense(5),
    )


def depthwise():
    net = nn.HybridSequential()
    net.add(unit(8), unit(8, groups=8), unit(6, 1), nn.GlobalAvgPool2D(), nn.Dense(5))
    return net


def multiplier():
    """Depthwise convolution with two outputs per input."""
    net = nn.HybridSequential()
    net.add(unit(8), unit(16, groups=8), unit(6, 1), nn.Dense(5))
    return net


def few_groups():
    net = nn.HybridSequential()
    net.add(unit(16), unit(24, groups=2), unit(6, 1), nn.Dense(5))
    return net


def many_groups():
    net = nn.HybridSequential()
    net.add(unit(16, 1), unit(16, groups=8), unit(6, 1), nn.Dense(5))
    return net


def shuffle():
    def wire(F, m, x):
        x = m["a"](m["stem"](x))
        x = F.reshape(x, (0, -4, 2, -1, -2)).swapaxes(1, 2).reshape((0, -3, -2))
        return m["out"](m["b"](m["dw"](x)))

    return Wired(
        wire,
        stem=unit(8),
        a=unit(16, 1, groups=2),
        dw=unit(16, groups=16),
        b=unit(12, 1, groups=2),
        out=nn.Dense(5),
    )


def uneven_shuffle():
    """Shuffled blocks of 10 channels from three sources do not meet the next blocks."""

    def wire(F, m, x):
        x = m["a"](m["stem"](x))
        x = F.reshape(x, (0, -4, 3, -1, -2)).swapaxes(1, 2).reshape((0, -3, -2))
        return m["out"](m["b"](x))

    return Wired(
        wire,
        stem=unit(12),
        a=unit(30, 1, groups=3),
        b=unit(12, 1, groups=3),
        out=nn.Dense(5),
    )


def joined_blocks():
    """Two groups of a convolution, of which one has a branch of its own."""

    def wire(F, m, x):
        x = m["stem"](x)
        return m["out"](m["last"](F.concat(m["a"](x), m["b"](x), dim=1)))

    widths = {"a": unit(3), "b": unit(9), "last": unit(8, groups=2)}
    return Wired(wire, stem=unit(8), out=nn.Dense(5), **widths)


def halves_crossed():
    """The first half of the channels waits, the second is halved again."""

    def wire(F, m, x):
        a, b = F.split(m["stem"](x), 2, axis=1)
        c, d = F.split(F.concat(m["a"](b), a, dim=1), 2, axis=1)
        return m["out"](m["last"](F.concat(F.sigmoid(d), c, dim=1)))

    return Wired(wire, stem=unit(12), a=unit(4), last=unit(7), out=nn.Dense(5))


def deconvolution_groups():
    net = nn.HybridSequential()
    net.add(unit(8), nn.Conv2DTranspose(12, 3, groups=2, in_channels=8))
    net.add(nn.BatchNorm(), nn.Activation("sigmoid"), unit(6), nn.Dense(5))
    return net


def deformable_groups():
    """Two halves of the channels read places of their own; filters see a third."""
    how = {"padding": (1, 1), "groups": 3, "num_deformable_group": 2}
    net = nn.HybridSequential()
    net.add(unit(12), DeformableConvolution(15, (3, 3), **how), nn.Activation("tanh"))
    net.add(unit(4), nn.Dense(5))
    return net


def mirrored():
    """Channels in the opposite order, and all of them twice."""

    def wire(F, m, x):
        x = m["stem"](x)
        y = F.tile(F.reverse(F.sigmoid(x), axis=1), reps=(1, 2, 1, 1))
        return m["out"](m["a"](F.concat(F.reverse(y, axis=(2, 3)), x, x, dim=1)))

    return Wired(wire, stem=unit(8), a=unit(6), out=nn.Dense(5))


def shared_groups():
    """One weight, in a convolution of two groups and of one."""

    def wire(F, m, x):
        x, how = m["stem"](x), {"kernel": (1, 1), "no_bias": True, "num_filter": 12}
        x = F.Convolution(x, m["weight"], num_group=2, **how)
        x = F.Convolution(F.slice_axis(x, 1, 0, 6), m["weight"], **how)
        return m["out"](F.sigmoid(x))

    return Wired(wire, {"weight": (12, 6, 1, 1)}, stem=unit(12), out=nn.Dense(5))


def squeeze_excite():
    def wire(F, m, x):
        x = m["stem"](x)
        w = m["up"](m["down"](F.contrib.AdaptiveAvgPooling2D(x, output_size=1)))
        x = F.broadcast_mul(x, w.expand_dims(2).expand_dims(3))
        return m["out"](m["last"](x))

    return Wired(
        wire,
        stem=unit(8),
        down=nn.Dense(4, activation="relu"),
        up=nn.Dense(8, activation="sigmoid"),
        last=unit(6),
        out=nn.Dense(5),
    )


def hard_swish():
    def wire(F, m, x):
        x = m["stem"](x)
        x = x * (F.clip(x + 3, 0, 6) / 6)
        return m["out"](m["last"](x))

    return Wired(wire, stem=unit(8, act=None), last=conv(6), out=nn.Dense(5))


def halves():
    """Half of the channels go on untouched, as in ShuffleNet v2."""

    def wire(F, m, x):
        left, right = F.split(m["stem"](x), 2, axis=1)
        return m["out"](m["last"](F.concat(left, m["a"](right), dim=1)))

    return Wired(wire, stem=unit(12), a=unit(6), last=unit(7), out=nn.Dense(5))


def slices():
    def wire(F, m, x):
        x = m["stem"](x)
        a, b = F.slice_axis(x, 1, 0, 5), F.slice_axis(x, 1, 5, None)
        # MXNet's slice fails on what a convolution on a CPU hands on.
        c = F.slice(x.reshape((0, 0, -1)), begin=(None, 2), end=(None, 9))
        c = c.reshape((0, 0, 8, 8))
        return m["out"](F.concat(m["a"](a), m["b"](b), m["c"](c), dim=1))

    return Wired(wire, stem=unit(12), a=unit(4), b=unit(5), c=unit(6), out=nn.Dense(5))


def gated():
    def wire(F, m, x):
        a, b = F.split_v2(m["stem"](x), (6,), axis=1)
        return m["out"](m["last"](a * F.sigmoid(b)))

    return Wired(wire, stem=conv(12), last=conv(6), out=nn.Dense(5))


def shared():
    """One convolution runs twice, so its inputs and outputs are one group."""

    def wire(F, m, x):
        x = m["stem"](x)
        return m["out"](F.relu(m["a"](F.relu(m["a"](x)))))

    return Wired(wire, stem=unit(8), a=conv(8), out=nn.Dense(5))


def flatten_dense():
    net = nn.HybridSequential()
    net.add(unit(8), nn.MaxPool2D(4), nn.Flatten())
    net.add(nn.Dense(7, activation="relu"), nn.Dropout(0.5), nn.Dense(5))
    return net


def deconvolution():
    net = nn.HybridSequential()
    net.add(unit(8), nn.Conv2DTranspose(6, 2, strides=2), nn.Activation("relu"))
    net.add(nn.Conv2DTranspose(6, 4, strides=2, padding=1, groups=6, in_channels=6))
    net.add(conv(3))
    return net


def deformable():
    net = nn.HybridSequential()
    net.add(unit(8), DeformableConvolution(6, (3, 3), padding=(1, 1)), nn.BatchNorm())
    net.add(nn.Activation("relu"))
    net.add(ModulatedDeformableConvolution(7, (3, 3), padding=(1, 1)), nn.Dense(5))
    return net


def two_outputs():
    def wire(F, m, x):
        x = m["stem"](x)
        y = m["a"](x)
        return m["first"](x), [m["second"](y)]

    return Wired(wire, stem=unit(8), a=unit(6), first=conv(4), second=nn.Dense(5))


def detector_head():
    """Class scores and box deltas of two maps, flat and side by side, as in SSD."""

    def wire(F, m, x):
        a = m["stem"](x)
        b = m["down"](a)

        def flat(*maps):
            parts = [F.flatten(F.transpose(y, (0, 2, 3, 1))) for y in maps]
            return F.concat(*parts, dim=1)

        scores = flat(m["c1"](a), m["c2"](b)).reshape((0, -1, 3))
        return scores, flat(m["l1"](a), m["l2"](b)).reshape((0, -1, 4))

    return Wired(
        wire,
        stem=unit(8),
        down=unit(6, strides=2),
        c1=conv(6),
        c2=conv(9),
        l1=conv(8),
        l2=conv(12),
    )


def yolo_head():
    def wire(F, m, x):
        y = m["head"](m["stem"](x)).reshape((0, 2, 7, -1)).transpose((0, 3, 1, 2))
        centres = F.sigmoid(F.slice_axis(y, -1, 0, 2))
        return F.concat(centres, F.slice_axis(y, -1, 2, None), dim=-1)

    return Wired(wire, stem=unit(8), head=conv(14, 1))


def sigmoid():
    net = nn.HybridSequential()
    net.add(unit(8, act="sigmoid"), conv(6), nn.Activation("softrelu"), nn.Dense(5))
    return net


def scalars():
    """Dead channels are 3 before the second convolution, not 0."""

    def wire(F, m, x):
        x = 2 * m["stem"](x) + 3
        return m["out"](F.clip(m["a"](x), 0.5, 6))

    return Wired(wire, stem=unit(8), a=conv(6), out=nn.Dense(5))


def plain():
    """Convolutions with and without a bias, no BatchNorm at all."""
    net = nn.HybridSequential()
    net.add(conv(8, use_bias=False), nn.LeakyReLU(0.1), conv(6), nn.PReLU())
    net.add(conv(7), nn.ELU(), nn.Dropout(0.3), nn.GlobalMaxPool2D(), nn.Dense(5))
    return net


def channel_prelu():
    net = nn.HybridSequential()
    net.add(conv(8), nn.PReLU(in_channels=8), conv(6), nn.SELU(), nn.Dense(5))
    return net


def layer_scale():
    def wire(F, m, x):
        x = m["stem"](x)
        y = F.broadcast_mul(m["a"](x), m["scale"])
        y = F.broadcast_mul(y, m["vector"].reshape((1, -1, 1, 1)))
        return m["out"](F.broadcast_add(x + y, m["places"]))

    return Wired(
        wire,
        {"scale": (1, 8, 1, 1), "vector": (8,), "places": (1, 1, 8, 8)},
        stem=unit(8),
        a=conv(8),
        out=nn.Dense(5),
    )


def positions():
    """A learned offset for every channel at every place."""

    def wire(F, m, x):
        return m["out"](m["a"](F.broadcast_add(m["stem"](x), m["offset"])))

    return Wired(
        wire, {"offset": (1, 8, 8, 8)}, stem=unit(8), a=conv(6), out=nn.Dense(5)
    )


def instance_norm():
    net = nn.HybridSequential()
    net.add(conv(8), nn.InstanceNorm(), nn.Activation("relu"), conv(6), nn.Dense(5))
    return net


def spatial_gate():
    """A map of one channel multiplies all channels."""

    def wire(F, m, x):
        x = m["stem"](x)
        return m["out"](m["a"](F.broadcast_mul(x, F.sigmoid(m["gate"](x)))))

    return Wired(wire, stem=unit(8), gate=conv(1), a=conv(6), out=nn.Dense(5))


def channel_sum():
    def wire(F, m, x):
        x = m["stem"](x)
        total = F.sum(F.exp(m["a"](x)), axis=1, keepdims=True)
        return m["out"](F.broadcast_mul(m["b"](x), F.log(1 + total)))

    return Wired(wire, stem=unit(8), a=conv(6), b=conv(7), out=nn.Dense(5))


def resampled():
    def wire(F, m, x):
        x = F.UpSampling(m["stem"](x), scale=2, sample_type="nearest")
        x = F.Pad(x, mode="constant", pad_width=(0, 0, 0, 0, 1, 1, 1, 1))
        x = F.contrib.BilinearResize2D(m["a"](x), height=8, width=8)
        x = F.mean(F.max(m["b"](x), axis=3), axis=2)
        return m["out"](F.stack(x, x, axis=2))

    return Wired(wire, stem=unit(8), a=conv(6), b=conv(4), out=nn.Dense(5))


def depth_to_space():
    def wire(F, m, x):
        return m["out"](m["a"](F.depth_to_space(m["stem"](x), 2)))

    return Wired(wire, stem=unit(16), a=conv(6), out=nn.Dense(5))


def perceptron():
    net = nn.HybridSequential()
    net.add(nn.Dense(9, activation="relu"), nn.BatchNorm(), nn.Dense(8))
    net.add(nn.Activation("tanh"), nn.Dense(5))
    return net


def with_input():
    """The input takes part in a concatenation and in an addition."""

    def wire(F, m, x):
        y = m["a"](F.concat(x, m["stem"](x), dim=1))
        return m["out"](m["b"](y) + x)

    return Wired(wire, stem=unit(8), a=unit(6), b=conv(3), out=nn.Dense(5))


def split_attention():
    """Two halves are weighed against each other, channel by channel, and summed."""

    def wire(F, m, x):
        x = F.reshape(m["a"](m["stem"](x)), (0, -4, 2, -1, -2))
        weights = F.softmax(F.mean(x, axis=(3, 4), keepdims=True), axis=1)
        return m["out"](m["last"](F.sum(F.broadcast_mul(x, weights), axis=1)))

    return Wired(wire, stem=unit(8), a=unit(12), last=unit(4), out=nn.Dense(5))


def _around(op: Callable):
    """One operator between two convolutions."""

    def make():
        def wire(F, m, x):
            return m["out"](m["a"](op(F, m["stem"](x))))

        return Wired(wire, stem=conv(8), a=conv(6), out=nn.Dense(5))

    return make


def wide():
    """A residual net wide enough for multiples, with an unlike branch."""

    def wire(F, m, x):
        x = m["stem"](x)
        x = F.relu(m["b"](m["a"](x)) + x)
        return m["out"](m["last"](F.concat(x, m["c"](x), dim=1)))

    widths = {"stem": 48, "a": 80, "b": 48, "c": 24, "last": 64}
    layers = {n: unit(width, act=None) for n, width in widths.items()}
    return Wired(wire, out=conv(5, 1), **layers)


NETS: dict[str, Callable[[], HybridBlock]] = {
    function.__name__: function
    for function in (
        chain,
        residual,
        projection,
        concat,
        dense_block,
        preactivation,
        depthwise,
        multiplier,
        few_groups,
        many_groups,
        shuffle,
        uneven_shuffle,
        joined_blocks,
        halves_crossed,
        shared_groups,
        squeeze_excite,
        hard_swish,
        halves,
        slices,
        gated,
        shared,
        flatten_dense,
        deconvolution,
        deconvolution_groups,
        deformable,
        deformable_groups,
        mirrored,
        two_outputs,
        detector_head,
        yolo_head,
        sigmoid,
        scalars,
        plain,
        channel_prelu,
        layer_scale,
        positions,
        instance_norm,
        spatial_gate,
        channel_sum,
        resampled,
        depth_to_space,
        perceptron,
        split_attention,
        with_input,
    )
}

# One operator in the middle that changes with the number of channels.
MIXING: dict[str, Callable[[], HybridBlock]] = {
    "sort": _around(lambda F, x: F.sort(x, axis=1)),
    "softmax": _around(lambda F, x: F.softmax(x, axis=1)),
    "L2Normalization": _around(lambda F, x: F.L2Normalization(x, mode="channel")),
    "LRN": _around(lambda F, x: F.LRN(x, nsize=3)),
    "mean": _around(lambda F, x: F.broadcast_mul(x, F.mean(x, 1, keepdims=True))),
    "max": _around(lambda F, x: F.broadcast_mul(x, F.max(x, 1, keepdims=True))),
    "slice": _around(
        lambda F, x: F.slice(x, begin=(None, 0), end=(None, 8), step=(None, 2))
    ),
    "Pad": _around(
        lambda F, x: F.Pad(
            F.transpose(x, (0, 2, 1, 3)),
            mode="edge",
            pad_width=(0, 0, 0, 0, 1, 1, 0, 0),
        )
    ),
}

SHAPE = (1, 3, 8, 8)


def ready(net: HybridBlock, shape=SHAPE, seed: int = 0) -> HybridBlock:
    """Initialise a net; every parameter and running statistic gets its own value."""
    mx.random.seed(seed)
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros(shape))
    random = np.random.RandomState(seed)
    for parameter in net.collect_params().values():
        size = parameter.shape
        if parameter.name.endswith(("gamma", "var", "scale", "vector")):
            value = random.uniform(0.5, 1.5, size)
        elif parameter.name.endswith(
            ("beta", "mean", "bias", "offset", "alpha", "places")
        ):
            value = random.normal(0, 0.3, size)
        else:
            value = parameter.data().asnumpy() + random.normal(0, 0.02, size)
        parameter.set_data(mx.nd.array(value))
    return net


@lru_cache(maxsize=None)
def graph_of(name: str) -> Graph:
    """Return the graph of one of ``NETS``, which is traced once."""
    return trace(ready(NETS[name]()), SHAPE)


def batch(shape=SHAPE, seed: int = 1) -> mx.nd.NDArray:
    """Return two random images."""
    size = (2, *shape[1:])
    return mx.nd.array(np.random.RandomState(seed).uniform(-1, 1, size))


def flat(outputs) -> list[np.ndarray]:
    """Return all outputs, however nested, as arrays."""
    if isinstance(outputs, mx.nd.NDArray):
        return [outputs.asnumpy()]
    return [array for part in outputs for array in flat(part)]


def difference(left, right) -> float:
    """Return the largest difference of two outputs, in units of their scale."""
    pairs = list(zip(flat(left), flat(right)))
    assert len(flat(left)) == len(flat(right))
    assert all(a.shape == b.shape for a, b in pairs)
    assert all(np.isfinite(a).all() for pair in pairs for a in pair)
    # A net whose last layer has no bias may put out nothing but zeros.
    return max(float(np.abs(a - b).max() / (np.abs(a).max() or 1)) for a, b in pairs)


def random_plan(graph: Graph, seed: int) -> Plan:
    """Return a plan that keeps a random number of random channels of each group."""
    random, keep = np.random.RandomState(seed), {}
    for group in graph.groups:
        if not group.frozen:
            kept = random.permutation(group.width)[: random.randint(1, group.width + 1)]
            keep[group.name] = sorted(kept.tolist())
    return Plan(keep)


def plans(graph: Graph) -> list[Plan]:
    """Return valid plans: the first or the last channel only, and random ones."""
    free = [group for group in graph.groups if not group.frozen]
    first = Plan({group.name: (0,) for group in free})
    last = Plan({group.name: (group.width - 1,) for group in free})
    return [first, last, *(random_plan(graph, seed) for seed in range(2))]
