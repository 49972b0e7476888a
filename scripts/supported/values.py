"""Random values for a model, and what its groups come to."""

from __future__ import annotations

import math
import zlib
from typing import Any, Sequence

import mxnet as mx
import numpy as np

from gluon_compress import slim, trace
from gluon_compress.graph import Graph, pair_of
from gluon_compress.graph.symbols import states
from supported.outputs import difference, flat
from supported.zoo import DETECTORS, build, kind_of

# What layers multiply the variance by. With more than 1, the branches of residual nets
# double it block by block, gates saturate and hide or blow up differences; with the
# first, hundreds of blocks still overflow.
GAINS = (0.5, 0.2, 0.05)
# A change of the image as small as rounding, and by how much it may move the outputs.
# Nets that it moves more show how float32 rounds, not what masks and slimming do.
NUDGE, STEADY = 2.0**-22, 1e-5


def prepared(name: str, shape: Sequence) -> tuple:
    """Return a model with values, what is pruned of it, an image, and its outputs."""
    net, images = build(name), np.random.RandomState(0).uniform(-1, 1, shape)
    graph, images = trace(net, shape), mx.nd.array(images)
    for gain in GAINS:
        fill(net, graph, gain, zlib.crc32(name.encode()))
        # Called, a detector would decode and suppress.
        source = pair_of(net) if kind_of(name) in DETECTORS else net
        whole = net if source is net else slim(source, None, shape=shape)
        outputs, nudged = flat(whole(images)), flat(whole(images * (1 + NUDGE)))
        finite = all(np.isfinite(array).all() for array in (*outputs, *nudged))
        if finite and difference(outputs, nudged) <= STEADY:
            return net, source, images, outputs
    raise ValueError("no random values give it steady outputs")


def fill(net: Any, graph: Graph, gain: float, seed: int) -> None:
    """Give every parameter random values, as training would leave none at 0 or 1."""
    random, shapes = np.random.RandomState(seed), {}
    # As many numbers as a prime, again and again: no two filters are the same.
    pool = random.standard_normal(65521).astype("float32")
    for node, tensors in zip(graph.nodes, graph.tensors):
        shapes[node["name"]] = tensors[0].shape
    for parameter in net.collect_params().values():
        if isinstance(parameter, mx.gluon.Constant):
            parameter.initialize()
        elif parameter.name in shapes:
            shape = parameter.shape = shapes[parameter.name]
            parameter.initialize(mx.init.Zero(), force_reinit=True)
            value = np.resize(pool, shape) * np.sqrt(gain / math.prod(shape[1:]))
            if parameter.name.endswith(("gamma", "running_var", "alpha")):
                value = random.uniform(0.5, 1.5, shape)
            elif len(shape) < 2:
                value = random.normal(0, 0.2, shape)
            parameter.set_data(mx.nd.array(value))


def groups(graph: Graph) -> dict:
    """Return how many groups there are, which are frozen, and whose parameters."""
    why: dict[str, int] = {}
    for group in graph.groups:
        if group.frozen:
            why[group.frozen] = why.get(group.frozen, 0) + group.width * group.size
    running, sizes = states(graph.nodes), {}
    for node, tensors in zip(graph.nodes, graph.tensors):
        setting, name = graph.settings.get(node["name"]), node["name"]
        if name in graph.params and not setting.constant and name not in running:
            sizes[name] = math.prod(tensors[0].shape)
    prunable = sum(size for name, size in sizes.items() if name in graph.axes)
    total = sum(sizes.values())
    sums = {"params": total, "prunable_params": prunable}
    return {"groups": len(graph.groups), "frozen": why, **sums}
