"""Binary weights and inputs: their values, slopes, places and files."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

import gluon_compress as gc
from gluon_compress.binarization import BinarizationSettings
from gluon_compress.binarization.binarisers import (
    baked_inputs,
    binary_input,
    binary_weight,
    weight_scale,
)
from gluon_compress.binarization.binarising import begun, binary_layers, finished
from gluon_compress.deployment.folding import fold
from gluon_compress.graph import pair_of, trace
from gluon_compress.graph.symbols import take_apart
from nets import SHAPE, batch, ready, residual
from runtimes import INSTALLED

BATCHES = [(batch(),)]


def binarised(net, **settings):
    settings = BinarizationSettings(**settings)
    graph = trace(net, SHAPE)
    layers = binary_layers(graph, settings)
    return finished(begun(net, graph, layers, settings, BATCHES))


@pytest.fixture(scope="module")
def dense():
    return ready(residual())


@pytest.fixture(scope="module")
def binary(dense):
    return binarised(dense)


def run(annotation, x: np.ndarray, **values) -> tuple:
    """Return an annotation's output and its gradients for a sum of outputs."""
    names = list(values)
    built = annotation.build(mx.sym.var("x"), **{n: mx.sym.var(n) for n in names})
    arrays = {n: mx.nd.array(v) for n, v in {"x": x, **values}.items()}
    gradients = {n: mx.nd.zeros(a.shape) for n, a in arrays.items()}
    executor = built.bind(mx.cpu(), arrays, gradients)
    output = executor.forward(is_train=True)[0]
    executor.backward(mx.nd.ones(output.shape))
    return output.asnumpy(), {n: g.asnumpy() for n, g in gradients.items()}


@pytest.mark.parametrize("scheme", ["xnor", "dorefa"])
def test_weights_are_signs_times_a_mean(scheme):
    x = np.random.RandomState(0).normal(size=(4, 6)).astype(np.float32)
    scale = weight_scale(x, scheme)
    along = scale.reshape(-1, 1) if scheme == "xnor" else scale
    mean = np.abs(x).mean(axis=1 if scheme == "xnor" else None)
    assert scale == pytest.approx(np.atleast_1d(mean))
    annotation = binary_weight(scale, scheme, axis=0, switch=False)
    output, gradients = run(annotation, x, scale=along)
    assert output == pytest.approx(np.sign(x) * along)
    assert (gradients["x"] == 1).all()


def test_inputs_are_zero_or_the_scale_with_slopes_near_the_threshold():
    x = np.float32([[-1, 0, 0.1, 0.7, 0.81, 1.3, 1.9, 5]])
    annotation = binary_input(2.0, 0.4, size=4, switch=False)
    output, gradients = run(annotation, x, scale=np.ones(1) * 2, threshold=[0.4])
    assert output.tolist() == [[0, 0, 0, 0, 2, 2, 2, 2]]
    near = np.abs(x / 2 - 0.4) < 0.5
    assert np.array_equal(gradients["x"], near.astype(np.float32))
    # By the product rule, of s * ramp(x / s - t + 1/2); the factor is 1 / sqrt(4).
    slope = output / 2 - np.where(near, x / 2, 0)
    assert gradients["scale"] == pytest.approx([slope.sum() / 2], rel=1e-5)
    assert gradients["threshold"] == pytest.approx([-2 * near.sum() / 2])


def test_a_switch_that_is_off_changes_nothing(dense):
    settings = BinarizationSettings(first=True, last=True)
    graph = trace(dense, SHAPE)
    off = begun(dense, graph, binary_layers(graph, settings), settings, BATCHES)
    assert np.allclose(off(batch()).asnumpy(), dense(batch()).asnumpy(), atol=1e-5)
    for parameter in off.collect_params(".*_on").values():
        parameter.set_data(mx.nd.ones(1))
    expected = finished(off)(batch()).asnumpy()
    assert np.allclose(off(batch()).asnumpy(), expected, atol=1e-5)
    assert not np.allclose(expected, dense(batch()).asnumpy(), atol=1e-2)


def test_only_the_layer_reads_the_binary_map(binary):
    nodes, _ = take_apart(pair_of(binary)[0])
    marked = {i for i, n in enumerate(nodes) if "__binary__" in n["attrs"]}
    readers = {
        n["op"]
        for i, n in enumerate(nodes)
        if i not in marked
        for e in n["inputs"]
        if e[0] in marked
    }
    assert readers == {"Convolution"}


def test_masked_and_slim_agree(binary):
    graph = trace(binary, SHAPE)
    for group in graph.groups:
        if not group.frozen:
            plan = gc.Plan({group.name: list(range(1, group.width))})
            small, masked = gc.slim(binary, plan), gc.mask(binary, plan)
            expected = masked(batch()).asnumpy()
            assert np.allclose(small(batch()).asnumpy(), expected, atol=1e-5)


def test_baked_inputs_compute_the_same(binary):
    symbol, params = pair_of(binary)
    nodes, heads = baked_inputs(*take_apart(symbol), params)
    from gluon_compress.graph import block_of
    from gluon_compress.graph.symbols import put_together

    baked = put_together(nodes, heads)
    used = set(baked.list_inputs())
    assert not any("threshold" in name for name in used)
    net = block_of(baked, {n: v for n, v in params.items() if n in used})
    assert np.allclose(net(batch()).asnumpy(), binary(batch()).asnumpy(), atol=1e-5)


@pytest.mark.parametrize("scheme", ["xnor", "dorefa"])
def test_weights_take_one_bit_in_files(dense, scheme, tmp_path):
    row = {"algorithm": "binarize", "weights": scheme}
    net, controller = gc.compress(dense, [row], BATCHES, epochs=3)
    formats = [f for f in ("mxnet", "onnx", "ncnn", "packed") if f in INSTALLED]
    made = controller.export(tmp_path, formats=formats, images=batch().asnumpy())
    for form in formats:
        assert made["formats"][form]["steps"] < 0.1, form
    notes = controller.notes[0]["binary"]
    assert json.dumps(notes)
    rows = {r["layer"]: r for r in notes["layers"]}
    assert rows["conv1"]["bytes"] == 6 * 8 * 9 / 8 + 4 * 6
    macs = 6 * 8 * 9 * 8 * 8
    assert rows["conv1"]["bit_operations"] == macs
    values, _ = fold(*pair_of(finished(net)), SHAPE)
    size = (tmp_path / "runtimes" / "model-packed.bin").stat().st_size
    assert size < notes["packed_bytes"] + 600
    assert notes["packed_bytes"] < notes["float32_bytes"] - 0.9 * 4 * 6 * 8 * 9


def test_other_layers_can_be_quantised_after(dense, tmp_path):
    rows = [{"algorithm": "binarize"}, {"algorithm": "quantize", "batches": 1}]
    net, controller = gc.compress(dense, rows, BATCHES, epochs=3)
    quantised = {row["layer"] for row in controller.notes[1]["layers"]}
    binary = {row["layer"] for row in controller.notes[0]["binary"]["layers"]}
    assert quantised
    assert not quantised & binary
    formats = [f for f in ("onnx-int8", "packed") if f in INSTALLED]
    made = controller.export(tmp_path, formats=formats, images=batch().asnumpy())
    assert all(row["steps"] <= 2 for row in made["formats"].values())


def test_a_loop_goes_through_the_stages(dense):
    row = {"algorithm": "binarize", "activations_from": 1, "weights_from": 2}
    net, controller = gc.compress(dense, [row], BATCHES, epochs=3, steps_per_epoch=4)
    rates = {"learning_rate": 0.05}
    trainer = gluon.Trainer(net.collect_params(), "sgd", rates)
    loss_function = gluon.loss.SoftmaxCrossEntropyLoss()
    switches, losses = [], []
    before = {n: p.data().asnumpy() for n, p in net.collect_params().items()}
    for _ in range(12):
        on = [p.data().asscalar() for p in net.collect_params(".*_on").values()]
        switches.append(sum(on))
        with autograd.record():
            loss = loss_function(net(batch()), mx.nd.array([0, 1])).mean()
        loss.backward()
        trainer.step(1)
        controller.step()
        losses.append(float(loss.asscalar()))
    assert switches == [0] * 4 + [2] * 4 + [4] * 4
    assert losses[-1] < losses[8]
    for name, parameter in net.collect_params().items():
        if name.endswith(("_scale", "_threshold")):
            assert np.any(parameter.data().asnumpy() != before[name]), name


def test_what_cannot_work_is_one_line(dense, binary):
    with pytest.raises(ValueError, match="no layer is left to binarise"):
        binarised(dense, ignored=["conv*"])
    with pytest.raises(ValueError, match="target: pattern 'x' matches no layer"):
        binarised(dense, target=["x"])
    rows = [{"algorithm": "quantize"}, {"algorithm": "binarize"}]
    with pytest.raises(ValueError, match="allowed: rows of 'binarize' before it"):
        gc.compress(dense, rows, BATCHES)
    with pytest.raises(ValueError, match="allowed: a net in float32"):
        gc.compress(binary, [rows[1]], BATCHES)
    flat = [(mx.nd.zeros(SHAPE) - 1,)]
    row = {**rows[1], "first": True}
    with pytest.raises(ValueError, match="is never above 0 in 1 batches; allowed: i"):
        gc.compress(dense, [row], flat)
    late = {**rows[1], "train": {"epochs": 2}, "weights_from": 2}
    with pytest.raises(
        ValueError, match=r"weights_from is 2; allowed: an epoch of the"
    ):
        gc.compress(dense, [late], BATCHES)
