"""Compression in a plain Gluon loop."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

import gluon_compress as gc
from gluon_compress.compression import ALGORITHMS, Algorithm, Attached, StageOutput
from gluon_compress.graph import trace
from gluon_compress.train import Hooks
from gluon_compress.validation import Settings
from nets import SHAPE, batch, chain, ready

ROW = {"algorithm": "delete", "keep": {"conv1": 0.5}, "multiple": 1}


class CountingSettings(Settings):
    """Count.

    Parameters
    ----------
    algorithm : str
        ``count``.
    """

    algorithm: str


class Recorder(Hooks):
    def __init__(self) -> None:
        self.calls: list = []

    def begin_epoch(self, position) -> None:
        self.calls.append(("epoch", position.epoch))

    def see(self, images) -> None:
        self.calls.append(("see", images.shape[0]))

    def loss(self):
        return mx.nd.array([3.0])

    def end_step(self, position) -> None:
        self.calls.append(("step", position.step))


class Counting(Algorithm):
    Settings = CountingSettings
    not_before = ("delete",)

    def dry_run(self, net, settings, context):
        return StageOutput(net)

    apply = dry_run

    def attach(self, net, settings, context):
        self.batches = len(list(context.batches(net, 5)))
        return Attached(net, Recorder(), {"batches": self.batches})


@pytest.fixture
def counting(monkeypatch):
    algorithm = Counting()
    monkeypatch.setitem(ALGORITHMS, "count", algorithm)
    return algorithm


def data():
    labels = mx.nd.array([0, 1])
    return [(batch(seed=seed), labels) for seed in range(2)]


def test_a_plain_gluon_loop_trains_and_exports(tmp_path, counting):
    net, batches = ready(chain()), data()
    before = trace(net, SHAPE)
    net, controller = gc.compress(net, [ROW, {"algorithm": "count"}], batches)
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01})
    loss_function = gluon.loss.SoftmaxCrossEntropyLoss()
    losses = []
    for _ in range(2):
        for images, labels in batches:
            with autograd.record():
                loss = loss_function(net(images), labels).mean() + controller.loss()
            loss.backward()
            trainer.step(1)
            controller.step()
            losses.append(float(loss.asscalar()))
    controller.export(tmp_path / "edge")
    assert gc.check(tmp_path / "edge" / "model")
    widths = {group.name: group.width for group in trace(net, SHAPE).groups}
    assert widths["conv1"] == 3
    assert {g.name: g.width for g in before.groups}["conv1"] == 6
    assert np.all(np.array(losses) > 3)
    assert controller.notes[1] == {"batches": 2}
    recorder = controller._hooks.hooks[1]
    epoch = [("see", 2), ("step", 1), ("see", 2), ("step", 2), ("epoch", 1)]
    assert recorder.calls[:6] == [("epoch", 0), *epoch]
    net(batches[0][0])  # in inference nothing is seen
    assert recorder.calls[-1] == ("epoch", 2)


def test_rows_are_read_from_a_file(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"compression": [ROW]}))
    net, _ = gc.compress(ready(chain()), path, data())
    assert trace(net, SHAPE).group("conv1").width == 3


def test_what_cannot_work_is_one_line(tmp_path, counting):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{**ROW, "kep": 1}]))
    with pytest.raises(ValueError, match=r"rows.json: compression\[0\].kep: no such"):
        gc.compress(ready(chain()), path, data())
    rows = [{"algorithm": "count"}, ROW]
    order = r"compression\[0\].algorithm is 'count'; allowed: rows of 'delete' before"
    with pytest.raises(ValueError, match=order):
        gc.compress(ready(chain()), rows, data())
    with pytest.raises(ValueError, match="batches: there is none"):
        gc.compress(ready(chain()), [ROW], [])
    with pytest.raises(ValueError, match=r"compression is \[\]; allowed: a list of 1"):
        gc.compress(ready(chain()), [], data())
