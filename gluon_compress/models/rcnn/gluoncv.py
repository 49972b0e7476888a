"""Takes GluonCV's own two-stage detectors with feature pyramids over, with weights."""

from __future__ import annotations

import re
from typing import Any, Mapping, Sequence

import mxnet as mx
import numpy as np
from gluoncv.model_zoo.rcnn.faster_rcnn import FasterRCNN
from gluoncv.model_zoo.rcnn.mask_rcnn import MaskRCNN
from mxnet.gluon import HybridBlock, Parameter, nn

from gluon_compress.models.rcnn import net as parts
from gluon_compress.models.rcnn.config import RCNNConfig
from gluon_compress.postprocess.rcnn import (
    BOXES,
    CLASSES,
    MASKS,
    POOLED,
    RATIOS,
    STRIDES,
    UNIT,
    anchors_for,
)

_KINDS = ("weight", "bias")


def config_from(
    net: FasterRCNN, size: Any = None, ratios: Sequence[float] = RATIOS
) -> RCNNConfig:
    """Return the configuration of one of GluonCV's detectors.

    Parameters
    ----------
    net : FasterRCNN
        With a pyramid of maps at strides 4 to 64.
    size : int or (int, int), optional
        Largest height and width of an input; default: a square of GluonCV's
        ``max_size``, rounded up.
    ratios : sequence of float
        Of its anchors, which GluonCV does not keep.

    Raises
    ------
    ValueError
        If it has no such pyramid, or its anchors are others.
    """
    if tuple(np.atleast_1d(net._strides)) != STRIDES:
        raise ValueError(
            f"strides of the detector are {net._strides}; allowed: {STRIDES}, as with "
            "a feature pyramid"
        )
    values = [
        generator.anchors.value.asnumpy() for generator in net.rpn.anchor_generator
    ]
    firsts = [value[0, 0, 0, 0].reshape(-1, 4) for value in values]
    sizes = []
    for boxes in firsts:
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        square = np.abs(np.log(sides[:, 0] / sides[:, 1])).argmin()
        sizes.append(float(sides[square, 0]))
    own = anchors_for(STRIDES[-1], STRIDES[-1], tuple(sizes), tuple(ratios))
    starts = np.cumsum([0, *((STRIDES[-1] // s) ** 2 for s in STRIDES[:-1])])
    depth = len(ratios)
    for start, boxes in zip(starts * depth, firsts):
        if (
            boxes.shape != (depth, 4)
            or np.abs(own[start : start + depth] - boxes).max() > 1e-3
        ):
            raise ValueError(
                f"anchors of the detector are others than of ratios {tuple(ratios)}; "
                "allowed: the ratios that it was made with"
            )
    clip = net.box_decoder._clip
    topk, post_nms = net.nms_topk, net.post_nms
    return RCNNConfig(
        tuple(net.classes),
        size=-(-net.max_size // UNIT) * UNIT if size is None else size,
        short=net.short,
        sizes=tuple(sizes),
        ratios=tuple(ratios),
        rpn_pre_nms=net.rpn._test_pre_nms,
        rpn_post_nms=net.rpn._test_post_nms,
        rpn_nms_thresh=net.rpn._nms_thresh,
        nms_thresh=net.nms_thresh,
        **({"clip": clip} if clip and clip > 0 else {}),
        **({"nms_topk": topk} if topk > 0 else {}),
        **({"post_nms": post_nms} if post_nms > 0 else {}),
    )


def symbol_from(net: FasterRCNN, config: RCNNConfig) -> mx.sym.Symbol:
    """Return the symbol of a detector of GluonCV's, on its own trunk."""
    internals = net.features(mx.sym.var("data"))[0].get_internals()
    taps = [
        internals[f"P{i + 2}_conv_lat_output"].get_children()[0]
        for i in range(len(POOLED))
    ]
    dense = [layer for layer in net.box_features if isinstance(layer, nn.Dense)]
    return parts.two_stage(
        taps,
        config,
        fpn_channels=net.features.collect_params("P2_conv1_bias")[
            "P2_conv1_bias"
        ].shape[0],
        rpn_channels=net.rpn.rpn_head.conv1[0].weight.shape[0],
        head_channels=dense[0].weight.shape[0],
        roi_size=net._roi_size[0],
        masks=isinstance(net, MaskRCNN),
    )


def values_from(net: FasterRCNN) -> dict[str, Parameter]:
    """Return the parameters of a detector of GluonCV's, by the names that ours have.

    Raises
    ------
    ValueError
        If one has no value yet.
    """
    found: dict[str, Parameter] = {}
    for name, parameter in net.features.collect_params().items():
        pyramid = re.fullmatch(r"P(\d)_conv(_lat|1)_(weight|bias)", name)
        if pyramid:
            kind = "lateral" if pyramid[2] == "_lat" else "map"
            name = f"{parts.PREFIX}{kind}{int(pyramid[1]) - 2}_{pyramid[3]}"
        found[name] = parameter
    head = net.rpn.rpn_head
    dense = [layer for layer in net.box_features if isinstance(layer, nn.Dense)]
    layers: dict[str, HybridBlock] = {
        "rpn": head.conv1[0],
        "rpn_score": head.score,
        "rpn_box": head.loc,
        **{f"dense{i}": layer for i, layer in enumerate(dense)},
        CLASSES: net.class_predictor,
        BOXES: net.box_predictor,
    }
    if isinstance(net, MaskRCNN):
        *convolutions, up = [c for c in net.mask.deconv if hasattr(c, "weight")]
        layers.update({f"mask_conv{i}": c for i, c in enumerate(convolutions)})
        layers.update({"mask_up": up, MASKS: net.mask.mask})
    for name, layer in layers.items():
        for kind in _KINDS:
            found[f"{parts.PREFIX}{name}_{kind}"] = getattr(layer, kind)
    for parameter in found.values():
        if parameter._data is None:
            raise ValueError(
                f"parameter {parameter.name!r} of the detector has no value; allowed: "
                "an initialised net that was called once"
            )
    return found


def check_names(ours: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse a detector of another structure.

    Raises
    ------
    ValueError
        Naming a parameter that one of both does not have.
    """
    for name in sorted({*ours} ^ {*found}):
        raise ValueError(
            f"the detector differs from GluonCV's with a feature pyramid: {name!r} is "
            f"in {'this' if name in found else 'that'} alone"
        )
