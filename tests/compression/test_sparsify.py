"""The row ``sparsify``: what it refuses, and trainings that resume exactly."""

from __future__ import annotations

from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

import gluon_compress as gc
from gluon_compress import pipeline
from gluon_compress.binarization.training import BinaryScales
from gluon_compress.graph import pair_of
from gluon_compress.pipeline.stages import compress
from gluon_compress.quantization.training import WeightScales
from gluon_compress.recipe import parse_recipe
from gluon_compress.sparsity import training
from images import write_folder
from nets import batch, chain, ready
from recipes import QUIET, job_of
from tiny_nets import NAME

pytestmark = pytest.mark.usefixtures("tiny_nets")

STEPS = {"epochs": 3, "batch_size": 6, "learning_rate": 0.01}
RECIPE = {
    "paper": "none, a test",
    "command": "pytest",
    "hours": 0.01,
    "expected": {},
    "task": "classification",
    "model": {"name": NAME},
    "data": {"kind": "folder", "size": 32, "root": "images"},
    "train": STEPS,
    "finetune": STEPS,
}
ROW = {"algorithm": "sparsify", "level": 0.8, "recalibrate": 1}
QUANTIZE = {"algorithm": "quantize", "batches": 1}
PRUNE = {"algorithm": "prune", "budget": {"macs_ratio": 0.5}, "multiple": 1}


def recipe(*rows, **changes):
    return parse_recipe({**RECIPE, **changes, "compression": list(rows)})


def test_bad_rows_are_one_line_before_any_training():
    with pytest.raises(ValueError, match=r"compression\[0\].level is 2; allowed: a nu"):
        recipe({**ROW, "level": 2})
    late = {**ROW, "train": STEPS, "growth": {"epochs": 3}}
    with pytest.raises(ValueError, match="growth.epochs is 3; allowed: epochs before"):
        recipe(late)
    with pytest.raises(ValueError, match="ignored: pattern 'x' matches no layer"):
        pipeline.decide(recipe({**ROW, "ignored": ["x"]}), ["a", "b", "c"])
    learned = {**ROW, "method": "learned"}
    with pytest.raises(ValueError, match="train is None; allowed: a schedule with"):
        pipeline.decide(recipe(learned), ["a", "b", "c"])


@pytest.mark.parametrize(
    "rows", [(PRUNE, ROW, QUANTIZE), (ROW, PRUNE), (PRUNE, QUANTIZE, ROW)]
)
def test_a_dry_run_goes_through_any_sensible_order(rows):
    _, figures = pipeline.decide(recipe(*rows), ["a", "b", "c"])
    assert figures["compact"]["macs"] < 0.55 * figures["full"]["macs"]


class Stop(Exception):
    """Ends a stage from inside."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hooks", "row"),
    [
        (training.MagnitudeMasks, {"growth": {"every": 1, "epochs": 1}}),
        (training.LearnedMasks, {"method": "learned"}),
    ],
)
def test_a_killed_stage_ends_as_one_that_was_not(hooks, row, monkeypatch, tmp_path):
    write_folder(tmp_path / "images", train=4, val=2)
    row = {**ROW, **row, "train": STEPS}
    data = {**RECIPE["data"], "root": str(tmp_path / "images")}
    options = replace(QUIET, save_minutes=0, resume=True)
    job = job_of(recipe(row, data=data), tmp_path, options)
    net, _ = job.task.build(job.classes)
    row = job.recipe.compression[0]
    whole = compress(job, net, row, tmp_path / "whole")
    with monkeypatch.context() as patch:
        counts = iter(range(100))
        end_step = hooks.end_step

        def stop(self, position):
            end_step(self, position)
            if next(counts) == 2:
                raise Stop

        patch.setattr(hooks, "end_step", stop)
        with pytest.raises(Stop):
            compress(job, net, row, tmp_path / "parts")
    parts = compress(job, net, row, tmp_path / "parts")
    first, second = (pair_of(output.net)[1] for output in (whole, parts))
    for (name, value), other in zip(first.items(), second.values()):
        assert np.array_equal(value.asnumpy(), other.asnumpy()), name
    assert whole.notes["sparsity"]["level"] == pytest.approx(0.8, abs=1e-4)
    assert "top1" in whole.notes["before_recalibration"]


def loop(net, controller, steps: int) -> list[float]:
    rates = {"learning_rate": 0.05, "momentum": 0.9}
    trainer = gluon.Trainer(net.collect_params(), "sgd", rates)
    loss_function = gluon.loss.SoftmaxCrossEntropyLoss()
    losses = []
    for _ in range(steps):
        with autograd.record():
            loss = loss_function(net(batch()), mx.nd.array([0, 1])).mean()
            total = loss + controller.loss()
        total.backward()
        trainer.step(1)
        controller.step()
        losses.append(float(loss.asscalar()))
    return losses


def test_masks_grow_in_a_loop_of_the_users_own():
    data = [(batch(),)] * 2
    net, controller = gc.compress(ready(chain()), [ROW], data, epochs=8)
    masks = [p for p in net.collect_params().values() if p.name.endswith("_mask")]
    shares = []
    for _ in range(8):
        values = [p.data().asnumpy() for p in masks]
        shares.append(1 - sum(v.sum() for v in values) / sum(v.size for v in values))
        loop(net, controller, 2)
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[6] == pytest.approx(0.8, abs=0.002)


def test_masks_quantisers_and_binary_weights_of_one_weight(tmp_path):
    quantize = {"algorithm": "quantize", "batches": 1}
    binarize = {"algorithm": "binarize", "target": ["conv1"], "last": True}
    grow = {**ROW, "level": 0.5, "growth": {"every": 1}}
    for rows in ([grow, quantize], [quantize, grow], [grow, binarize, quantize]):
        net, controller = gc.compress(ready(chain()), rows, [(batch(),)], epochs=2)
        weights = [p for n, p in net.collect_params().items() if n.endswith("_weight")]
        loop(net, controller, 2)
        for row in WeightScales(net)._rows:
            value = row.value()
            largest = np.abs(value).reshape(len(value), -1).max(axis=1)
            expected = largest / row.high
            assert row.scale.data().asnumpy() == pytest.approx(expected, rel=1e-6)
        binary = len(BinaryScales(net)._rows)
        for value, scale, *_ in BinaryScales(net)._rows:  # of the weights that stay
            magnitudes = np.abs(value()).mean(axis=(1, 2, 3))
            assert (value() == 0).any()
            assert scale.data().asnumpy() == pytest.approx(magnitudes, rel=1e-6)
        assert len(WeightScales(net)._rows) + binary == len(weights)
        assert binary == (len(rows) == 3)
        made = controller.export(tmp_path / str(len(rows)), formats=["packed"])
        assert made["formats"]["packed"]["steps"] < 1
        masks = [p for n, p in net.collect_params().items() if n.endswith("_mask")]
        assert all((p.data() == 0).sum().asscalar() for p in masks)
        kept = controller._hooks.finished(net)
        zeros = [
            (p.data().asnumpy() == 0).sum()
            for n, p in kept.collect_params().items()
            if n.endswith("_weight")
        ]
        assert sum(zeros) == round(0.5 * sum(p.data().size for p in weights))


def test_patterns_come_after_what_removes_channels():
    rows = [{"algorithm": "sparsify", "pattern": "2:4"}, PRUNE]
    message = r"compression\[0\].algorithm is 'sparsify'; allowed: rows of 'prune' befo"
    with pytest.raises(ValueError, match=message):
        gc.compress(ready(chain()), rows, [(batch(),)])


def linear_data(weight: np.ndarray, seed: int) -> tuple:
    x = np.random.RandomState(seed).normal(size=(32, weight.shape[1]))
    return mx.nd.array(x), mx.nd.array(x @ weight.T)


def test_learned_masks_find_the_weights_that_matter():
    random = np.random.RandomState(0)
    weight = random.normal(size=(10, 50)) * (random.rand(10, 50) < 0.2)
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.Dense(10, in_units=50))
    net.initialize(mx.init.Xavier())
    mx.random.seed(0)
    row = {"algorithm": "sparsify", "method": "learned", "level": 0.8}
    first = [linear_data(weight, 0)]
    net, controller = gc.compress(net, [row], first, epochs=10, steps_per_epoch=30)
    rates = {"learning_rate": 0.01, "momentum": 0.9}
    trainer = gluon.Trainer(net.collect_params(), "sgd", rates)
    for step in range(300):
        x, y = linear_data(weight, step)
        with autograd.record():
            loss = ((net(x) - y) ** 2).mean() + controller.loss()
        loss.backward()
        trainer.step(1)
        controller.step()
    (noise,) = (p for p in net.collect_params().values() if "noise" in p.name)
    assert not noise.data().asnumpy().any()  # at rest
    (mask,) = controller._hooks.hooks[0].final_masks().values()
    assert mask.mean() == pytest.approx(0.2)
    assert mask[weight != 0].mean() > 0.85


def test_an_adaptive_share_rises_as_masks_follow():
    growth = {"curve": "adaptive", "step": 0.1, "margin": 0.05}
    row = {**ROW, "method": "learned", "growth": growth}
    net, controller = gc.compress(ready(chain()), [row], [(batch(),)], epochs=20)
    loop(net, controller, 60)
    logits = [p.data() for p in net.collect_params().values() if "logit" in p.name]
    kept = sum(float(v.sigmoid().sum().asscalar()) for v in logits)
    assert kept / sum(v.size for v in logits) < 0.7
