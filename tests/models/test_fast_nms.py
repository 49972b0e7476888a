from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo.ssd import SSD
from mxnet.gluon import SymbolBlock

from gluon_compress import models
from gluon_compress.models.ssd import SSDConfig, build_ssd, raw_head

CLASSES = ("a", "b", "c")


def detector(classes=CLASSES, *, size: int = 64, spread: float = 0.5, **nms):
    """Return a tiny detector of two maps, scores apart by their convolutions."""
    x = mx.sym.Convolution(
        mx.sym.var("data"), num_filter=8, kernel=(8, 8), stride=(8, 8), name="first"
    )
    y = mx.sym.Convolution(x, num_filter=8, kernel=(2, 2), stride=(2, 2), name="next")
    config = SSDConfig(
        classes=classes,
        size=size,
        sizes=(10, 30, 50),
        ratios=((1, 2, 0.5), (1, 2, 0.5)),
        steps=(8, 16),
        extras=(),
    )
    trunk = SymbolBlock(mx.sym.Group([x, y]), mx.sym.var("data", dtype="float32"))
    net = build_ssd((trunk, [x, y]), config)
    raw_head.initialize_head(net)
    random = np.random.RandomState(0)
    for predictor in net.class_predictors:
        weight = predictor.predictor.weight
        weight.set_data(mx.nd.array(random.normal(0, spread, weight.shape)))
    if nms:
        net.set_nms(**{"nms_thresh": 0.45, "nms_topk": 400, "post_nms": 100, **nms})
    return net


def both(net, images):
    """Return what a net finds, and what GluonCV's own code finds with it."""
    found = net(images)
    lean = type(net)
    net.__class__ = SSD
    net._clear_cached_op()
    expected = net(images)
    net.__class__ = lean
    net._clear_cached_op()
    return found, expected


def photos(batch: int = 2, size: int = 64) -> mx.nd.NDArray:
    return mx.nd.array(np.random.RandomState(1).normal(size=(batch, 3, size, size)))


def assert_same(found, expected):
    for own, other in zip(found, expected):
        np.testing.assert_array_equal(own.asnumpy(), other.asnumpy())


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("nms_topk", [100, 400, 957, 961, 3000])
def test_detections_are_those_of_gluoncv(hybrid, nms_topk):
    net = detector(nms_topk=nms_topk)  # 320 anchors, 960 boxes
    if hybrid:
        net.hybridize()
    found, expected = both(net, photos())
    valid = (expected[0].asnumpy() >= 0).sum()
    assert valid > 20
    assert_same(found, expected)


def test_detections_of_one_class_are_those_of_gluoncv():
    assert_same(*both(detector(("one",), nms_topk=150), photos()))


def test_detections_at_another_image_size_are_those_of_gluoncv():
    assert_same(*both(detector(nms_topk=400, post_nms=40), photos(size=32)))


def test_boxes_of_equal_scores_come_in_the_order_of_gluoncv():
    net = detector(spread=0, nms_topk=960)
    found, expected = both(net, photos())
    assert len(np.unique(expected[1].asnumpy())) == 1
    assert_same(found, expected)


def test_scores_at_the_least_are_not_valid():
    net = detector(("a", "b"), spread=0, nms_topk=50, post_nms=50)
    for predictor in net.class_predictors:  # a softmax of exactly 1/101 and 99/101
        bias = predictor.predictor.bias
        values = np.zeros(bias.shape, np.float32)
        values[0::3] = np.log(99)
        bias.set_data(mx.nd.array(values))
    found, expected = both(net, photos())
    assert (found[0].asnumpy() == -1).all()
    assert_same(found, expected)


@pytest.mark.parametrize(
    "nms", [{"nms_thresh": 0}, {"nms_topk": -1}, {"post_nms": -1}, {"post_nms": 500}]
)
def test_without_a_limit_it_is_gluoncv_itself(nms):
    assert_same(*both(detector(**nms), photos()))


def test_built_loaded_and_slim_detectors_are_fast(tmp_path):
    from gluon_compress.models.ssd.fast_nms import FastSSD

    net = models.build("ssd_300_mobilenet0.25_lite", CLASSES)
    models.save(net, tmp_path / "model", "net")
    loaded = models.load(tmp_path / "model")
    assert isinstance(net, FastSSD)
    assert isinstance(loaded, FastSSD)
    images = photos(1, 300)
    assert_same(loaded(images), net(images))
