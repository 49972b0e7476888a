"""The laws of masks and slim nets on nets that people use, at small sizes."""

from __future__ import annotations

from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from gluoncv import model_zoo
from mxnet import autograd, gluon

from gluon_compress import Budget, Plan, build, count, mask, models, select, slim, trace
from gluon_compress.graph import symbol_of
from gluon_compress.model_folder import Reference, export
from nets import difference, flat, random_plan, ready

# GluonCV names the starting value of a constant after its address in memory.

slow = pytest.mark.slow


def made(name: str, **options):
    """Return a net that downloads nothing."""
    try:
        options = {**options, "pretrained_base": False}
        return model_zoo.get_model(name, pretrained=False, **options)
    except TypeError:  # this net has no base
        del options["pretrained_base"]
        return model_zoo.get_model(name, pretrained=False, **options)


def images(shape: tuple, count: int = 1) -> mx.nd.NDArray:
    size = (count, *shape[1:])
    return mx.nd.array(np.random.RandomState(3).uniform(-1, 1, size))


def step(net, inputs) -> None:
    """Train one step and see that it can be."""
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 1e-3})
    before = {p.name: p.data().copy() for p in net.collect_params().values()}
    with autograd.record():
        outputs = net(inputs)
        nested = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        loss = sum((output**2).mean() for output in nested[:2])
    loss.backward()
    trainer.step(1)
    trained = [p for p in net.collect_params().values() if p.grad_req != "null"]
    assert all(np.isfinite(p.grad().asnumpy()).all() for p in trained)
    changed = [(p.data() != before[p.name]).max().asscalar() for p in trained]
    assert np.mean(changed) > 0.9


CLASSIFIERS = {
    "resnet50_v1d_0.11": 64,  # pruned by GluonCV: the structure, and odd widths
    "mobilenet0.5": 64,
}
HALVED = [
    pytest.param(name, marks=slow if name.startswith("resnet50") else ())
    for name in CLASSIFIERS
]


@pytest.fixture(scope="module", params=HALVED)
def halved(request):
    """Return a classifier, its graph, a plan for half of its MACs, and what is left."""
    shape = (1, 3, *[CLASSIFIERS[request.param]] * 2)
    net = ready(made(request.param), shape)
    graph = trace(net, shape)
    plan = select(graph, Budget.share(count(graph), macs=0.5), "bn_scale")
    small = slim(net, plan, graph=graph)
    own = {"net": net, "graph": graph, "plan": plan, "small": small, "shape": shape}
    return SimpleNamespace(**own)


def test_only_the_classes_are_frozen(halved):
    assert [group.width for group in halved.graph.groups if group.frozen] == [1000]


def test_half_of_the_macs_are_left(halved):
    share = count(halved.graph, halved.plan).macs / count(halved.graph).macs
    assert 0.49 < share <= 0.5
    assert count(halved.graph, halved.plan) == count(trace(halved.small, halved.shape))


def test_mask_of_half_is_slim(halved):
    masked = mask(halved.net, halved.plan, graph=halved.graph)
    inputs = images(halved.shape)
    assert difference(masked(inputs), halved.small(inputs)) < 1e-5


def test_keeping_everything_is_the_net(halved):
    kept = slim(halved.net, Plan.everything(halved.graph), graph=halved.graph)
    inputs = images(halved.shape)
    assert difference(halved.net(inputs), kept(inputs)) < 1e-5


def test_half_exports(halved, tmp_path):
    inputs, small = images(halved.shape), halved.small
    reference = Reference(inputs.asnumpy(), (small(inputs).asnumpy(),))
    manifest = export(small, tmp_path / "out", shape=halved.shape, reference=reference)
    assert manifest["max_difference"]["relative"] < 1e-5


def test_half_trains(halved):
    # The last test of these nets: it changes the values.
    step(halved.small, images(halved.shape, 2))


# Shape of the input, and what is special about the net.
OTHERS = {
    "mobilenetv2_0.5": 64,  # a convolution as classifier
    "mobilenetv3_small": 64,  # hard swish, squeeze and excitation
    "squeezenet1.1": 224,  # concatenations without BatchNorm
    "shufflenet_v1": 96,  # grouped convolutions and channel shuffles
    "shufflenet_v2": 96,  # halves that go on untouched
    "resnest14": 224,  # split attention; DropBlock in training
    "mobile_pose_resnet18_v1b": 128,  # channels become pixels
    "simple_pose_resnet18_v1b": 128,  # deconvolutions
}


@pytest.mark.parametrize("name", OTHERS)
def test_mask_is_slim_on_other_nets(name):
    shape = (1, 3, *[OTHERS[name]] * 2)
    net, inputs = ready(made(name), shape), images(shape)
    graph = trace(net, shape)
    assert difference(net(inputs), slim(net, None, graph=graph)(inputs)) < 1e-5
    plan = random_plan(graph, 4)
    masked, small = (way(net, plan, graph=graph) for way in (mask, slim))
    assert difference(masked(inputs), small(inputs)) < 1e-5
    assert count(trace(small, shape)) == count(graph, plan)
    assert count(graph, plan).macs < count(graph).macs


@slow
def test_raw_yolo():
    # As in training: scores and boxes before they are decoded. Its anchors are
    # constants, its maps are enlarged by repetition.
    shape = (1, 3, 96, 96)
    net, inputs = ready(made("yolo3_mobilenet0.25_voc"), shape), images(shape)
    graph = trace(net, shape)
    plan = random_plan(graph, 4)
    masked, small = (way(net, plan, shape=shape) for way in (mask, slim))
    assert difference(masked(inputs), small(inputs)) < 1e-5
    assert count(trace(small, shape)) == count(graph, plan)
    heads = [group for group in graph.groups if group.frozen]
    assert sum(g.width for g in heads) < 0.05 * sum(g.width for g in graph.groups)


# The detector of this package.

CLASSES = ("cat", "dog", "hen")


@pytest.fixture(scope="module")
def detector():
    net = build("ssd_300_resnet18_v1b", classes=CLASSES, seed=1, width=0.25)
    # As after training: zero would hide what a residual branch does.
    for parameter in net.collect_params(".*gamma").values():
        size = parameter.shape
        random = np.random.RandomState(size[0]).uniform(0.5, 1.5, size)
        parameter.set_data(mx.nd.array(random))
    graph = models.graph_of(net)
    plan = select(graph, Budget.share(count(graph), macs=0.5), "l1")
    own = {
        "net": net,
        "graph": graph,
        "plan": plan,
        "small": slim(net, plan, graph=graph),
    }
    return SimpleNamespace(**own)


def raw(net) -> gluon.SymbolBlock:
    """Return the raw head of a detector as a block that infers."""
    data = mx.sym.var("data", dtype="float32")
    return gluon.SymbolBlock(symbol_of(net), data, params=net.collect_params())


PICTURE = (1, 3, 300, 300)


@slow
def test_detector_has_its_predictors_frozen(detector):
    frozen = [group for group in detector.graph.groups if group.frozen]
    anchors = (4, 6, 6, 6, 4, 4)
    widths = sorted(
        [4 * n for n in anchors] + [(len(CLASSES) + 1) * n for n in anchors]
    )
    assert sorted(group.width for group in frozen) == widths
    assert all("network output" in group.frozen for group in frozen)


@slow
def test_half_a_detector_costs_half(detector):
    left = count(models.graph_of(detector.small))
    assert left == count(detector.graph, detector.plan)
    assert 0.49 < left.macs / count(detector.graph).macs <= 0.5


@slow
def test_mask_of_a_detector_is_slim(detector):
    masked, inputs = mask(detector.net, detector.plan), images(PICTURE)
    assert difference(raw(masked)(inputs), raw(detector.small)(inputs)) < 1e-5


@slow
def test_detector_that_keeps_everything_is_the_same(detector):
    kept = slim(detector.net, Plan.everything(detector.graph))
    inputs = images(PICTURE)
    assert difference(raw(detector.net)(inputs), raw(kept)(inputs)) < 1e-5


@slow
def test_half_a_detector_is_stored_and_loaded(detector, tmp_path):
    models.save(detector.small, tmp_path / "small", "small")
    loaded, inputs = models.load(tmp_path / "small"), images(PICTURE)
    assert difference(raw(detector.small)(inputs), raw(loaded)(inputs)) < 1e-6
    assert loaded.classes == list(CLASSES)


@slow
def test_half_a_detector_trains(detector):
    step(detector.small, images(PICTURE, 2))
    outputs = detector.small(images(PICTURE))
    assert all(np.isfinite(output).all() for output in flat(outputs))
