"""Two-stage detectors against GluonCV's own, with its weights."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo.rcnn.faster_rcnn.faster_rcnn import FasterRCNN
from gluoncv.model_zoo.rcnn.mask_rcnn.mask_rcnn import MaskRCNN
from gluoncv.model_zoo.resnetv1b import BasicBlockV1b, ResNetV1b
from gluoncv.nn.feature import FPNFeatureExpander
from mxnet.gluon import nn

from gluon_compress import models
from gluon_compress.models.family import FAMILIES

pytestmark = [
    pytest.mark.filterwarnings("ignore:Cannot decide type:UserWarning"),
    pytest.mark.filterwarnings("ignore:`np.float` is a deprecated:DeprecationWarning"),
]
CLASSES, SIZE = ("cat", "dog"), (64, 96)
ENDS = (
    "layers1_relu1_fwd",
    "layers2_relu1_fwd",
    "layers3_relu1_fwd",
    "layers4_relu1_fwd",
)


def trunk(prefix: str):
    """Return a ResNet of one narrow block a stage."""
    return ResNetV1b(BasicBlockV1b, [1, 1, 1, 1], classes=2, prefix=prefix)


def detector(kind, roi_size: int):
    """Return a detector of GluonCV's whose proposals have an area."""
    features = FPNFeatureExpander(
        network=trunk("trunk_"),
        outputs=ENDS,
        num_filters=[8] * 4,
        use_p6=True,
        no_bias=False,
    )
    box = nn.HybridSequential()
    if roi_size == 14:
        box.add(nn.AvgPool2D(pool_size=(3, 3), strides=2, padding=1))
    for _ in range(2):
        box.add(nn.Dense(16), nn.Activation("relu"))
    more = {"target_roi_scale": 2, "num_fcn_convs": 4, "rcnn_max_dets": 20}
    net = kind(
        features=features,
        top_features=None,
        classes=CLASSES,
        box_features=box,
        short=64,
        max_size=90,
        min_stage=2,
        max_stage=6,
        nms_thresh=0.5,
        nms_topk=-1,
        post_nms=20,
        roi_size=(roi_size, roi_size),
        strides=(4, 8, 16, 32, 64),
        clip=4.14,
        rpn_channel=12,
        base_size=4,
        scales=(2, 4, 8, 16, 32),
        alloc_size=(32, 32),
        rpn_test_pre_nms=100,
        rpn_test_post_nms=40,
        rpn_min_size=1,
        **(more if kind is MaskRCNN else {}),
    )
    mx.random.seed(3)
    for name, parameter in net.collect_params().items():
        if "anchor" in name or "normalized" in name:
            parameter.initialize()
            continue
        start = mx.init.Normal(0.001 if "rpnhead0_conv" in name else 0.05)
        if name.endswith(("gamma", "var")):
            start = mx.init.One()
        elif name.endswith(("beta", "mean")):
            start = mx.init.Zero()
        parameter.initialize(start, force_reinit=True)
    return net


def image() -> mx.nd.NDArray:
    return mx.nd.array(np.random.RandomState(0).randn(1, 3, *SIZE))


@pytest.mark.parametrize(
    ("kind", "name", "roi_size"),
    [(FasterRCNN, "rcnn", 7), (MaskRCNN, "mask_rcnn", 14)],
)
def test_what_is_found_is_what_gluoncv_finds(kind, name, roi_size, monkeypatch):
    # On this branch GluonCV reads regions of other maps that MXNet leaves unwritten.
    monkeypatch.delattr(mx.nd.contrib, "box_encode")
    theirs, family = detector(kind, roi_size), FAMILIES[name]
    ids, scores, boxes, *masks = (part.asnumpy() for part in theirs(image()))
    net = family.from_gluoncv(theirs)
    config = family.config_of(net)
    assert config.size == SIZE[1:] * 2
    assert config.short == 64
    assert config.sizes == (8, 16, 32, 64, 128)
    found = family.results(net, image())
    order = np.argsort(-scores[0, :, 0], kind="stable")[:20]
    valid = ids[0, order, 0] >= 0
    order = order[valid]
    assert len(order) == (found[0] >= 0).sum() > 5
    for own, other in zip(found, (ids, scores, boxes)):
        np.testing.assert_allclose(
            own[0, : len(order)], other[0, order], rtol=1e-4, atol=1e-4
        )
    if masks:
        own = family.outputs(net, image())["masks"]
        np.testing.assert_allclose(own[0][valid], masks[0][0][valid], atol=1e-5)


def test_detectors_that_do_not_fit_are_refused():
    family = FAMILIES["rcnn"]
    theirs = detector(FasterRCNN, 7)
    with pytest.raises(ValueError, match="has no value; allowed: an initialised net"):
        family.from_gluoncv(theirs)
    theirs(image())
    with pytest.raises(ValueError, match="anchors of the detector are others"):
        family.from_gluoncv(theirs, ratios=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="a FasterRCNN; allowed: GluonCV's MaskRCNN"):
        FAMILIES["mask_rcnn"].from_gluoncv(theirs)
    with pytest.raises(ValueError, match="a SymbolBlock; allowed"):
        family.from_gluoncv(models.build("ssd_300_mobilenet0.25_lite", ("a",)).features)
