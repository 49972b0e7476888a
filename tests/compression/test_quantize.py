"""The row ``quantize``: what it refuses, and a training that resumes exactly."""

from __future__ import annotations

import json
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

import gluon_compress as gc
from gluon_compress import pipeline
from gluon_compress.graph import pair_of, trace
from gluon_compress.pipeline.stages import compress
from gluon_compress.quantization import QuantizationSettings, quantized
from gluon_compress.quantization.hawq import choose_bits, hessian_traces
from gluon_compress.quantization.placement import place
from gluon_compress.quantization.quantising import summary
from gluon_compress.quantization.settings import BitBudget
from gluon_compress.quantization.training import MovingRanges, WeightScales
from gluon_compress.recipe import parse_recipe
from images import write_folder
from nets import SHAPE, batch, chain, ready
from recipes import QUIET, job_of
from tiny_nets import NAME

pytestmark = pytest.mark.usefixtures("tiny_nets")

STEPS = {"epochs": 2, "batch_size": 6, "learning_rate": 0.01}
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
ROW = {"algorithm": "quantize", "batches": 1}
PRUNE = {"algorithm": "prune", "budget": {"macs_ratio": 0.5}, "multiple": 1}
MOVING = {
    "weights": {"ranges": "learned"},
    "activations": {"ranges": "moving", "every": 1},
    "mixed": {"*conv4*": {"weights": 4}},
    "train": STEPS,
}


def recipe(*rows):
    return parse_recipe({**RECIPE, "compression": list(rows)})


def test_bad_rows_are_one_line_before_any_training():
    message = r"compression\[0\].algorithm is 'quantize'; allowed: rows of 'prune' be"
    with pytest.raises(ValueError, match=message):
        recipe(ROW, PRUNE)
    with pytest.raises(ValueError, match=r"compression\[0\].weights.bits is 5; allow"):
        recipe({**ROW, "weights": {"bits": 5}})
    with pytest.raises(ValueError, match="ignored: pattern 'x' matches no layer"):
        pipeline.decide(recipe({**ROW, "ignored": ["x"]}), ["a", "b", "c"])
    budget = {"bytes": 100}
    with pytest.raises(ValueError, match="budget.bytes is 100; allowed: from"):
        pipeline.decide(recipe({**ROW, "budget": budget}), ["a", "b", "c"])


def test_a_dry_run_goes_through_prune_and_quantize():
    _, figures = pipeline.decide(recipe(PRUNE, ROW), ["a", "b", "c"])
    assert figures["compact"]["macs"] < 0.55 * figures["full"]["macs"]


class Stop(Exception):
    """Ends a stage from inside."""


@pytest.mark.slow
def test_a_killed_stage_ends_as_one_that_was_not(monkeypatch, tmp_path):
    write_folder(tmp_path / "images", train=4, val=2)
    content = {**RECIPE, "compression": [{**ROW, **MOVING}]}
    content["data"] = {**RECIPE["data"], "root": str(tmp_path / "images")}
    options = replace(QUIET, save_minutes=0, resume=True)
    job = job_of(parse_recipe(content), tmp_path, options)
    net, _ = job.task.build(job.classes)
    row = job.recipe.compression[0]
    whole = compress(job, net, row, tmp_path / "whole")
    with monkeypatch.context() as patch:
        counts = iter(range(100))
        end_step = MovingRanges.end_step

        def stop(self, position):
            end_step(self, position)
            if next(counts) == 2:
                raise Stop

        patch.setattr(MovingRanges, "end_step", stop)
        with pytest.raises(Stop):
            compress(job, net, row, tmp_path / "parts")
    parts = compress(job, net, row, tmp_path / "parts")
    first, second = (pair_of(output.net)[1] for output in (whole, parts))
    start = pair_of(net)[1]
    for (name, value), other in zip(first.items(), second.values()):
        assert np.array_equal(value.asnumpy(), other.asnumpy()), name
    assert any(name.endswith("_scale") for name in first)
    assert len(first) > len(start)
    notes = whole.notes
    assert notes["quantisers"]["weights"].keys() == {"8", "4"}
    assert notes["weight_bytes"] < 0.3 * notes["float32_bytes"]
    assert "top1" in notes["before_training"]


def loop(net, controller, steps: int) -> list[float]:
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
    loss_function = gluon.loss.SoftmaxCrossEntropyLoss()
    losses = []
    for _ in range(steps):
        with autograd.record():
            loss = loss_function(net(batch()), mx.nd.array([0, 1])).mean()
            loss = loss + controller.loss()
        loss.backward()
        trainer.step(1)
        controller.step()
        losses.append(float(loss.asscalar()))
    return losses


def test_a_loop_of_the_users_own_trains_and_exports(tmp_path):
    data = [(batch(), mx.nd.array([0, 1]))]
    net, controller = gc.compress(ready(chain()), [ROW], data)
    losses = loop(net, controller, 12)
    assert losses[-1] < losses[0]
    made = controller.export(tmp_path, formats=["packed"], images=batch().asnumpy())
    assert made["formats"]["packed"]["steps"] <= 1
    controller.export(tmp_path, formats=["packed"])  # replaces the earlier one
    with pytest.raises(ValueError, match="formats is 'int3'; allowed: mxnet, onnx"):
        controller.export(tmp_path, formats=["int3"])
    for row in WeightScales(net)._rows:  # scales have followed the weights
        largest = np.abs(row.value()).reshape(len(row.scale.data()), -1)
        expected = largest.max(axis=1) / 127
        assert row.scale.data().asnumpy() == pytest.approx(expected, rel=1e-6)


def test_moving_ranges_follow_the_data():
    moving = {"ranges": "moving", "momentum": 0.5, "every": 1}
    rows = [{**ROW, "activations": moving}]
    net, controller = gc.compress(ready(chain()), rows, [(batch(),)])
    parameter = net.collect_params()["data_scale"]
    before = parameter.data().asscalar()
    controller._hooks.see(4 * batch())
    controller.step()
    after = parameter.data().asscalar()
    assert after == pytest.approx(0.5 * before + 0.5 * 4 * before, rel=0.02)


def test_learned_scales_are_trained():
    rows = [{**ROW, "weights": {"ranges": "learned"}}]
    rows[0]["activations"] = {"ranges": "learned"}
    net, controller = gc.compress(ready(chain()), rows, [(batch(),)])
    scales = {n: p for n, p in net.collect_params().items() if n.endswith("_scale")}
    before = {n: p.data().asnumpy() for n, p in scales.items()}
    loop(net, controller, 2)
    assert len(scales) == 7
    assert all(np.any(p.data().asnumpy() != before[n]) for n, p in scales.items())


def quadratic(net, images):
    """Return a loss whose Hessian is known: that of a dense layer's squared output."""
    return (net(images[0]) ** 2).sum() / 2, {}


def test_the_trace_of_a_quadratic_is_exact_on_average():
    net = gluon.nn.Dense(3, use_bias=False, in_units=4)
    net.initialize()
    x = mx.nd.array(np.random.RandomState(0).normal(size=(5, 4)))
    (name,) = net.collect_params()
    found = hessian_traces(net, [name], [(x,)], quadratic, probes=200)
    exact = 3 * float((x**2).sum().asscalar())
    assert found[name] == pytest.approx(exact, rel=0.1)


def chosen(**limits) -> tuple:
    net = ready(chain())
    graph = trace(net, SHAPE)
    placement = place(graph, QuantizationSettings())
    budget = BitBudget(**limits)

    def loss(block, arrays):
        return (block(arrays[0]) ** 2).sum(), {}

    batches = [(batch(),)]
    return choose_bits(
        graph, placement, budget, block=net, batches=batches, step_loss=loss
    )


def test_bits_meet_the_budget_and_take_from_what_matters_least():
    most, _ = chosen(bytes=1e6)
    assert set(most.values()) == {8}
    full = chosen(bytes=1e6)[1]["costs"]
    bits, notes = chosen(bytes=0.6 * full["bytes"])
    assert notes["costs"]["bytes"] <= 0.6 * full["bytes"]
    assert len(set(bits.values())) > 1
    limit = 0.5 * full["bit_operations"]
    bits, notes = chosen(bit_operations=limit)
    assert notes["costs"]["bit_operations"] <= limit
    assert chosen(bit_operations_ratio=0.5)[0] == bits
    assert json.dumps(notes)


def test_a_checkpoint_of_another_chain_is_refused(tmp_path):
    from gluon_compress.train import Schedule, fit
    from training import Fixed, cross_entropy

    data = Fixed(batch(), mx.nd.array([0, 1]))
    net = ready(chain())
    fit(net, data, cross_entropy, Schedule(epochs=1), tmp_path, options=QUIET)
    learned = {**ROW, "weights": {"ranges": "learned"}}
    other, _ = gc.compress(net, [learned], [(batch(),)])
    options = replace(QUIET, resume=True)
    with pytest.raises(ValueError, match=r"last.ckpt: holds \d+ parameters, the net"):
        fit(other, data, cross_entropy, Schedule(epochs=2), tmp_path, options=options)


def test_the_report_shows_bits_and_bytes():
    from gluon_compress.report.run_report import _bits

    made = quantized(ready(chain()), QuantizationSettings(), [(batch(),)], shape=SHAPE)
    stage = {**made.notes, "quantisers": summary(made.net)}
    (table,) = _bits({"full": {}, "1_quantize": stage})
    assert table.cells[1] == ["conv0", "8", "8", str(8 * 27 + 4 * 8)]
    assert table.cells[-1][-1] == str(made.notes["weight_bytes"])
    assert _bits({"full": {"mAP": 1}}) == []
