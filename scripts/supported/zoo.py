"""Which models of GluonCV's zoo are looked at, their input sizes, how to build them."""

from __future__ import annotations

import re
from typing import Any

# Kind to the names that belong to it; the first that fits counts. Of what exists for
# several data sets, the heads differ, not the net: COCO stands for all of them.
KINDS = {
    "": r".*(_int8|_voc|_custom|_hmdb51|_ucf101|_sthsthv2|_citys|_mhpv1)$",
    "SSD": r"ssd_.*",
    "YOLOv3": r"yolo3_.*",
    "CenterNet": r"center_net_.*",
    "other": r".*(rcnn|pose|kinetics|deeplab|fcn|psp|icnet|fastscnn|danet|smot|siam|"
    r"monodepth|_ade|_coco|_otb).*",
    "classifier": r".*",
}
# Detectors that exist for VOC only.
ALONE = ("ssd_512_resnet101_v2_voc", "ssd_512_resnet152_v2_voc")
SIZES = {
    r"cifar_.*": 32,
    r"inceptionv3|xception.*": 299,
    r"nasnet.*": 331,
    r"ssd_300.*": 300,
    r"yolo3.*": 416,
    r"(ssd|center_net)_.*": 512,
    r".*": 224,
}
DETECTORS = ("SSD", "YOLOv3", "CenterNet", "own")
OWN = "ssd_300_resnet50_v1d"  # of this package


def kind_of(name: str) -> str:
    """Return the kind of a model, "" if it is left out."""
    if name == OWN:
        return "own"
    if name in ALONE:
        return "SSD"
    return next(kind for kind, names in KINDS.items() if re.fullmatch(names, name))


def shape_of(name: str) -> tuple[int, int, int, int]:
    """Return the usual input shape of a model, one image."""
    size = next(size for names, size in SIZES.items() if re.fullmatch(names, name))
    return (1, 3, size, size)


def names() -> dict[str, str]:
    """Return all classifiers and detectors, and the kind of each."""
    from gluoncv.model_zoo.model_zoo import get_model_list

    kinds = {name: kind_of(name) for name in (*sorted(get_model_list()), OWN)}
    return {n: k for n, k in kinds.items() if k in ("classifier", *DETECTORS)}


def build(name: str) -> Any:
    """Return a new model; nothing is downloaded."""
    from gluoncv.model_zoo import get_model

    import gluon_compress

    if name == OWN:
        return gluon_compress.build(name, classes=["a", "b", "c"])
    if kind_of(name) in DETECTORS:
        return get_model(name, pretrained=False, pretrained_base=False)
    try:
        return get_model(name, pretrained=False, pretrained_base=False)
    except (TypeError, Warning):  # most classifiers have no base, and refuse it
        return get_model(name, pretrained=False)
