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
        return Attached(net, lambda net: Recorder(), {"batches": self.batches})


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
    for key in ("epochs", "steps_per_epoch"):
        with pytest.raises(ValueError, match=f"{key} is 0; allowed: a whole number fr"):
            gc.compress(ready(chain()), [ROW], data(), **{key: 0})
    _, controller = gc.compress(ready(chain()), [{"algorithm": "quantize"}], data())
    two = {"formats": ["packed"], "images": np.zeros((2, 5))}
    with pytest.raises(ValueError, match=r"the shape of images is \[2, 5\]; allowed"):
        controller.export(tmp_path / "edge", **two)


def stepped(controller, trainer, steps: int) -> None:
    for _ in range(steps):
        with autograd.record():
            loss = controller.net(batch()).square().mean() + controller.loss()
        loss.backward()
        trainer.step(1)
        controller.step()


def compressed(rows, seed: int = 0):
    net, controller = gc.compress(ready(chain()), rows, [(batch(seed=seed),)], epochs=9)
    rates = {"learning_rate": 0.05, "momentum": 0.9}
    return controller, gluon.Trainer(net.collect_params(), "sgd", rates)


def test_a_loop_goes_on_bit_for_bit_from_a_checkpoint(tmp_path):
    rows = [{"algorithm": "sparsify", "level": 0.8}, {"algorithm": "quantize"}]
    whole, trainer = compressed(rows)
    stepped(whole, trainer, 2)
    whole.save(tmp_path / "x.ckpt", trainer)
    stepped(whole, trainer, 2)
    parts, trainer = compressed(rows)
    parts.load(tmp_path / "x.ckpt", trainer)
    stepped(parts, trainer, 2)
    masks = [p for n, p in parts.net.collect_params().items() if n.endswith("_mask")]
    assert sum(int((p.data() == 0).sum().asscalar()) for p in masks) > 0
    pairs = zip(
        whole.net.collect_params().values(), parts.net.collect_params().values()
    )
    for one, other in pairs:
        assert np.array_equal(one.data().asnumpy(), other.data().asnumpy()), one.name


def test_a_checkpoint_of_another_chain_is_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    compressed([{"algorithm": "quantize"}])[0].save(path)
    four, _ = compressed([{"algorithm": "quantize", "weights": {"bits": 4}}])
    before = [p.data().asnumpy() for p in four.net.collect_params().values()]
    message = r"x.ckpt: compression\[0\].weights.bits is 8; allowed: 4, as the net"
    with pytest.raises(ValueError, match=message):
        four.load(path)
    for value, p in zip(before, four.net.collect_params().values()):
        assert np.array_equal(value, p.data().asnumpy())
    other, _ = compressed([{"algorithm": "quantize"}], seed=5)
    with pytest.raises(ValueError, match="x.ckpt: structure is '.*; allowed: .* batch"):
        other.load(path)


def test_a_drop_of_a_metric_needs_a_recipe():
    row = {"algorithm": "sparsify", "level": 0.5, "max_drop": 1}
    message = r"compression\[0\].max_drop is 1; allowed: null in a loop"
    with pytest.raises(ValueError, match=message):
        gc.compress(ready(chain()), [row], data())
