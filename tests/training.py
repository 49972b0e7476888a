"""Tiny trainings for the tests of ``fit``: nets, batches, and what a run leaves."""

from __future__ import annotations

import json
from dataclasses import replace

import mxnet as mx
import numpy as np
from mxnet import gluon, nd

from gluon_compress.train import BEST, LAST, LOG, Options, Schedule, fit

QUIET = Options(progress=False)
EAGER = replace(QUIET, save_minutes=0)
# Its one step has the full rate: the cosine starts at its top.
ONE_STEP = Schedule(
    epochs=1, learning_rate=0.5, warmup_epochs=0, momentum=0.0, weight_decay=0.0
)
SHORT = ONE_STEP.replace(epochs=2, learning_rate=0.1, momentum=0.9, weight_decay=0.01)


class Batches:
    """Random images and classes, a function of (epoch, batch) alone."""

    def __init__(self, count: int = 3, size: int = 4) -> None:
        self.count, self.size, self.asked = count, size, []

    def __len__(self) -> int:
        return self.count

    def epoch(self, number: int, start: int = 0):
        self.asked.append((number, start))
        for i in range(start, self.count):
            rng = np.random.RandomState(100 * number + i)
            images = rng.randn(self.size, 2, 4, 4)
            yield nd.array(images), nd.array(rng.randint(0, 3, self.size))


class Fixed:
    """The same batch again and again."""

    def __init__(self, *arrays, count: int = 1) -> None:
        self.arrays, self.count = arrays, count

    def __len__(self) -> int:
        return self.count

    def epoch(self, number: int, start: int = 0):
        for _ in range(start, self.count):
            yield self.arrays


def conv_net(dropout: float = 0.4) -> gluon.HybridBlock:
    """Return a net with everything that a resume could forget."""
    net = gluon.nn.HybridSequential()
    net.add(
        gluon.nn.Conv2D(4, 3, padding=1, in_channels=2),
        gluon.nn.BatchNorm(in_channels=4),
        gluon.nn.Activation("relu"),
        gluon.nn.Dropout(dropout),
        gluon.nn.Dense(3, in_units=64),
    )
    mx.random.seed(5)
    net.initialize(mx.init.Xavier())
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def dense(weight: list, *, bias: bool = False) -> gluon.nn.Dense:
    net = gluon.nn.Dense(1, in_units=len(weight), use_bias=bias)
    net.initialize()
    net.weight.set_data(nd.array([weight]))
    return net


def cross_entropy(net, batch) -> tuple:
    loss = gluon.loss.SoftmaxCrossEntropyLoss()(net(batch[0]), batch[1]).mean()
    return loss, {"half": loss / 2}


def mean_output(net, batch) -> tuple:
    return net(batch[0]).mean(), {}


def figures(net):
    """Return a validation that depends on the parameters alone."""
    return lambda: {"score": float(-net[4].weight.data().norm().asscalar())}


def values(net) -> list:
    return [p.data().asnumpy() for p in net.collect_params().values()]


def same(first: list, second: list) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second))


def records(folder, kind: str) -> list[dict]:
    lines = (folder / LOG).read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


def content(folder) -> dict:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def position(folder) -> dict:
    with np.load(folder / LAST) as stored:
        return json.loads(stored["meta"].tobytes())["meta"]


def run_judged(tmp_path, scores: list):
    """Train with given validation values; return the end and each epoch's values."""
    net, seen, left = conv_net(), [], iter(scores)

    def validate():
        seen.append(values(net))
        return {"mAP": next(left), "cat": np.float32(0.5)}

    schedule = SHORT.replace(epochs=len(scores))
    end = fit(
        net,
        Batches(1),
        cross_entropy,
        schedule,
        tmp_path,
        validate=validate,
        options=QUIET,
    )
    return end, seen


def stored(path) -> list:
    with np.load(path) as arrays:
        names = sorted(n for n in arrays.files if n.startswith("p"))
        return [arrays[n] for n in names]


class Stop(Exception):
    """Ends a run from inside, without the suddenness of a signal."""


def stopped(at: int):
    """Return a step loss that ends the run at its ``at``-th call."""
    calls = iter(range(1000))

    def loss(net, batch):
        if next(calls) == at:
            raise Stop
        return cross_entropy(net, batch)

    return loss


def outcome(folder) -> dict:
    """Return what two runs must agree in: everything but the times."""
    kept = {}
    for name in (LAST, BEST):
        if not (folder / name).exists():
            continue
        with np.load(folder / name) as arrays:
            kept[name] = {n: arrays[n].tobytes() for n in arrays.files}
        meta = json.loads(kept[name].pop("meta"))["meta"]
        kept[name]["meta"] = {k: meta[k] for k in ("epoch", "batch", "step", "best")}
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    return {**kept, LOG: lines}
