"""Bottlenecks by their published layers, in any net, and what trains them."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

import gluon_compress as gc
from center_net import small_detector
from gluon_compress.deployment import deploy
from gluon_compress.graph import block_of, pair_of
from gluon_compress.graph.symbols import infer_shapes
from gluon_compress.quantization.image_range import quantised_by_range
from gluon_compress.splitting import open_head, open_tail, packing, save_halves
from gluon_compress.splitting.bottleneck import (
    ENCODER_END,
    Bottleneck,
    bottleneck_bits,
    decoder,
    encoder,
    halvings,
    places,
    with_bottleneck,
)
from gluon_compress.splitting.distilling import stage_names, trunk_lesson
from runtimes import INSTALLED, classifier, detector

IMAGE = np.random.RandomState(3).randint(0, 255, (45, 60, 3)).astype(np.uint8)
SMALL = Bottleneck("trunk_stem_relu", "pooling0")


def batch_of(net, count=2):
    shape = gc.graph.input_shape(net)
    noise = np.random.RandomState(1).standard_normal((count, *shape[1:]))
    return mx.nd.array(noise.astype(np.float32))


def outputs_of(net, batch):
    outputs = block_of(*pair_of(net))(batch)
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def trained(lesson):
    parameters = lesson.block.collect_params().items()
    return {n: p for n, p in parameters if p.grad_req != "null"}


def layers_of(symbol):
    nodes = gc.graph.symbols.take_apart(symbol)[0]
    convolutions = [n for n in nodes if n["op"] == "Convolution"]
    norms = [n for n in nodes if n["op"] == "BatchNorm"]
    relus = [n for n in nodes if n["op"] == "Activation"]
    return convolutions, norms, relus


def test_the_encoder_is_as_published():
    symbol = encoder(mx.sym.var("data"), 3)
    convolutions, norms, relus = layers_of(symbol)
    widths = [int(n["attrs"]["num_filter"]) for n in convolutions]
    assert widths == [64, 256, 64, 3]
    assert {n["attrs"]["kernel"] for n in convolutions} == {"(2, 2)"}
    assert {n["attrs"]["pad"] for n in convolutions} == {"(1, 1)"}
    assert {n["attrs"]["no_bias"] for n in convolutions} == {"True"}
    assert (len(norms), len(relus)) == (3, 1)
    assert infer_shapes(symbol, {"data": (1, 64, 75, 75)})[1] == [(1, 3, 79, 79)]


@pytest.mark.parametrize(
    ("form", "widths"), [("large", [64, 128, 256, 256]), ("small", [64, 128, 64, 64])]
)
def test_the_decoder_is_as_published(form, widths):
    symbol = decoder(mx.sym.var("data"), form, widths[-1], activated=True)
    convolutions, norms, relus = layers_of(symbol)
    assert [int(n["attrs"]["num_filter"]) for n in convolutions] == widths
    assert {n["attrs"].get("pad", "(0, 0)") for n in convolutions} == {"(0, 0)"}
    assert (len(norms), len(relus)) == (5, 3)
    shapes = infer_shapes(symbol, {"data": (1, 3, 79, 79)})[1]
    assert shapes == [(1, widths[-1], 75, 75)]


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("side", [64, 75, 61, 17])
def test_halved_maps_have_the_size_of_what_they_stand_for(steps, side):
    expected = side
    for _ in range(steps):
        expected = -(-expected // 2)
    symbol = decoder(encoder(mx.sym.var("data"), 3, steps), "large", 8, activated=False)
    shape = infer_shapes(symbol, {"data": (1, 4, side, side + 2)})[1][0]
    assert shape[2] == expected
    assert halvings((4, side, side), (8, expected, expected)) in range(steps + 1)


@pytest.mark.parametrize("bits", packing.BITS)
def test_the_quantiser_in_the_net_is_the_one_of_messages(bits):
    x = np.random.RandomState(0).standard_normal((3, 2, 4, 5)).astype(np.float32)
    x[1] = 2.5  # a map of one value
    symbol = quantised_by_range(mx.sym.var("data"), bits, "q")
    (ours,) = symbol.eval(data=mx.nd.array(x))
    for row, value in zip(ours.asnumpy(), x):
        expected = packing.values(*packing.quantised(value, bits))
        np.testing.assert_array_equal(row, expected)


def test_gradients_pass_the_quantiser_straight():
    x = mx.nd.random.normal(shape=(2, 3, 4, 4))
    x.attach_grad()
    block = block_of(quantised_by_range(mx.sym.var("data"), 4, "q"), {})
    weight = mx.nd.random.normal(shape=x.shape)
    with autograd.record():
        loss = (block(x) * weight).sum()
    loss.backward()
    np.testing.assert_allclose(x.grad.asnumpy(), weight.asnumpy(), rtol=1e-6)


@pytest.fixture(scope="module")
def teacher():
    return small_detector()


@pytest.fixture(scope="module")
def student(teacher):
    return with_bottleneck(teacher, SMALL)


def test_the_rest_of_the_net_stays(teacher, student):
    before, after = pair_of(teacher)[1], pair_of(student)[1]
    kept = set(before) & set(after)
    assert set(before) - kept  # the part that was replaced
    for name in kept:
        np.testing.assert_array_equal(before[name].asnumpy(), after[name].asnumpy())
    nodes = gc.trace(student).nodes
    assert bottleneck_bits(nodes) == 8
    assert student.classes == teacher.classes


@pytest.mark.parametrize(
    ("make", "after", "at"), [(classifier, 2, 4), (detector, 2, 8)]
)
def test_it_goes_into_any_net(make, after, at):
    net = make()
    points = gc.split(net)
    settings = Bottleneck(points[after].name, points[at].name, form="small", bits=4)
    changed = with_bottleneck(net, settings)
    batch = batch_of(net, 1)
    whole = block_of(*pair_of(changed))(batch)
    plain = block_of(*pair_of(net))(batch)
    whole, plain = (
        list(o) if isinstance(o, (list, tuple)) else [o] for o in (whole, plain)
    )
    assert [o.shape for o in whole] == [o.shape for o in plain]
    halves = gc.split(changed, ENCODER_END)
    assert halves.point.shape[0] == 3
    if len(whole) == 1:
        np.testing.assert_array_equal(
            halves.tail(halves.head(batch)).asnumpy(), whole[0].asnumpy()
        )


def test_pruned_and_quantised_nets_take_one(teacher):
    graph = gc.trace(teacher)
    slim = gc.slim(teacher, gc.delete(graph, {"head*": 0.5}))
    assert gc.count(gc.trace(with_bottleneck(slim, SMALL))).macs
    quantised = gc.quantize(teacher, {}, [(batch_of(teacher),)])
    changed = with_bottleneck(quantised, SMALL)
    assert gc.trace(changed).annotated.annotations


def test_what_is_sent_is_not_pruned(student):
    graph = gc.trace(student)
    (sent,) = (g for g in graph.groups if g.name == ENCODER_END)
    assert sent.frozen
    slim = gc.slim(student, gc.delete(graph, {"bottleneck_*conv[012]": 0.5}))
    assert gc.split(slim).at(ENCODER_END).shape == (3, 8, 12)
    assert gc.count(gc.trace(slim)).macs < gc.count(graph).macs / 2


def test_halves_of_a_trained_bottleneck_are_the_net(student, tmp_path):
    save_halves(student, tmp_path, head_formats=("mxnet",), tail_formats=("mxnet",))
    head = open_head(tmp_path / "head", runtime="mxnet")
    tail = open_tail(tmp_path / "tail", runtime="mxnet")
    assert (head.bits, head.pair) == (8, tail.pair)
    deploy(student, tmp_path / "whole")
    whole = gc.Predictor(tmp_path / "whole")([IMAGE])[0]
    found = tail.detect([head.encode(IMAGE)])[0]
    for ours, theirs in zip(found, whole):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"after": "nowhere"}, "after is 'nowhere'"),
        ({"at": "nowhere"}, "at is 'nowhere'"),
        ({"after": "pooling0", "at": "trunk_stem_relu"}, "at is 'trunk_stem_relu'"),
        ({"after": "pooling0", "at": "upsampling0"}, "at is 'of 8 x 16 cells'"),
    ],
)
def test_places_that_do_not_fit_are_one_line(teacher, changes, words):
    settings = {"after": SMALL.after, "at": SMALL.at, **changes}
    with pytest.raises(ValueError, match=words) as error:
        with_bottleneck(teacher, Bottleneck(**settings))
    assert "\n" not in str(error.value)


def test_one_bottleneck_is_enough(student):
    with pytest.raises(ValueError, match="has a bottleneck already"):
        with_bottleneck(student, Bottleneck("trunk_stem_conv", "trunk_stem_relu"))


def resnet():
    """Return a classifier with three stages."""
    return gc.build("cifar_resnet20_v1", ("a", "b", "c"), size=(16, 16))


def lesson_of(net, settings, method):
    where = places(net, settings)
    stages = stage_names(net, where, method)
    changed = with_bottleneck(net, settings)
    return changed, trunk_lesson(changed, net, settings, where, stages)


def test_hnd_compares_one_stage_and_ghnd_the_later_ones_too():
    net = resnet()
    points = [p.name for p in gc.split(net)]
    settings = Bottleneck(points[1], points[7])
    where = places(net, settings)
    assert list(stage_names(net, where, "hnd")) == [points[7]]
    names = list(stage_names(net, where, "ghnd"))
    assert names == [f"cifarresnetv0_stage{i}_activation2" for i in (1, 2, 3)]
    assert list(stage_names(net, where, "ghnd", names[2:])) == [names[0], names[2]]


def test_the_loss_is_the_sum_of_squared_errors_and_only_the_bottleneck_learns():
    net = resnet()
    points = [p.name for p in gc.split(net)]
    settings = Bottleneck(points[1], points[7], form="small")
    student, lesson = lesson_of(net, settings, "ghnd")
    batch = batch_of(net)
    with autograd.record():
        loss, parts = lesson.step_loss(lesson.block, (batch,))
    loss.backward()
    assert loss.asscalar() == pytest.approx(sum(p.asscalar() for p in parts.values()))
    assert {n.split("_")[0] for n in trained(lesson)} == {"bottleneck"}
    own = {p.name: p for p in student.collect_params().values()}
    block = dict(lesson.block.collect_params().items())
    assert all(own[name] is block[name] for name in trained(lesson))
    before = [n for n in own if not n.startswith("bottleneck") and n in block]
    assert not before  # frozen copies have names of their own


def test_a_perfect_student_has_no_loss(teacher):
    where = places(teacher, SMALL)
    stages = stage_names(teacher, where, "hnd")
    student = with_bottleneck(teacher, SMALL)
    lesson = trunk_lesson(student, teacher, SMALL, where, stages)
    batch = batch_of(teacher)
    wanted = gc.split(teacher, "pooling0").head(batch)

    def perfect(before):
        return wanted

    loss, _ = lesson.step_loss(perfect, (batch,))
    assert loss.asscalar() == pytest.approx(0, abs=1e-3)
    assert lesson.step_loss(lambda x: wanted + 1, (batch,))[0].asscalar() == (
        pytest.approx(wanted.size, rel=1e-4)
    )


def test_training_brings_the_student_closer(teacher):
    student, lesson = lesson_of(teacher, SMALL, "hnd")
    trained = [
        p for p in lesson.block.collect_params().values() if p.grad_req != "null"
    ]
    trainer = gluon.Trainer(trained, "adam", {"learning_rate": 1e-3})
    batch, losses = batch_of(teacher), []
    for _ in range(12):
        with autograd.record():
            loss, _ = lesson.step_loss(lesson.block, (batch,))
        loss.backward()
        trainer.step(1)
        losses.append(loss.asscalar())
    assert losses[-1] < 0.9 * losses[0]
    # The net itself has learnt: it shares the parameters.
    values = pair_of(student)[1]
    assert any(np.abs(values[n].asnumpy()).max() > 0 for n in values if "beta" in n)


@pytest.mark.parametrize(
    "form", [f for f in ("onnx-dynamic", "ncnn") if f in INSTALLED]
)
def test_the_whole_net_with_its_quantiser_runs_in_other_runtimes(
    form, student, tmp_path
):
    manifest = deploy(student, tmp_path / "whole", formats=(form,))
    assert manifest["formats"][form]["steps"] < 1
