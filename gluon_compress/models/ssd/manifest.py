"""What the manifest of an SSD states beside its raw head, checked before use."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, Mapping

from gluon_compress.checks import (
    class_names,
    key,
    list_of,
    number,
    part,
    section,
    text,
    truth,
    whole,
    wrong,
)
from gluon_compress.data.normalization import MEAN, STD
from gluon_compress.models.ssd.config import SSDConfig
from gluon_compress.models.ssd.raw_head import OUTPUTS
from gluon_compress.sizes import written_size

KIND = "ssd"
ANCHORS = ("size", "sizes", "ratios", "steps", "lite")
NMS = ("nms_thresh", "nms_topk", "post_nms")
POSITIVE = number(0, above=True)


def stated_classes(value: Any, place: str) -> tuple[str, ...]:
    """Accept a list of distinct names."""
    return class_names(list_of(text)(value, place))


def stated_size(value: Any, place: str) -> Any:
    """Accept the side of a square, or height and width."""
    if not isinstance(value, (list, tuple)):
        return whole(1)(value, place)
    if len(value) != 2:
        raise wrong(place, value, "a whole number, or height and width")
    return tuple(whole(1)(side, f"{place}[{i}]") for i, side in enumerate(value))


@section
class Anchors:
    """Which anchors a detector has, for an image of which size."""

    size: Any = key(stated_size)
    sizes: tuple = key(list_of(POSITIVE))
    ratios: tuple = key(list_of(list_of(POSITIVE)))
    steps: tuple = key(list_of(POSITIVE))
    lite: bool = key(truth)


@section
class Decode:
    """What box deltas are multiplied by."""

    stds: tuple = key(list_of(POSITIVE, exactly=4))


@section
class Nms:
    """Which boxes stay, as GluonCV's ``SSD.set_nms`` takes it: -1 is no limit."""

    nms_thresh: float = key(number(-1))
    nms_topk: int = key(whole(-1))
    post_nms: int = key(whole(-1))


@section
class Stated:
    """All that makes a detector of a head."""

    classes: tuple = key(stated_classes)
    anchors: Anchors = key(part(Anchors))
    decode: Decode = key(part(Decode))
    nms: Nms = key(part(Nms))


def manifest_of(config: SSDConfig) -> dict[str, Any]:
    """Return what a manifest states about an SSD beside its raw head."""
    values = {**asdict(config), "size": written_size(config.size)}
    return {
        "kind": KIND,
        "outputs": list(OUTPUTS),
        "classes": list(config.classes),
        "mean": list(MEAN),
        "std": list(STD),
        "anchors": {name: values[name] for name in ANCHORS},
        "decode": {"stds": values["stds"]},
        "nms": {name: values[name] for name in NMS},
    }


def stated_config(manifest: Mapping[str, Any]) -> SSDConfig:
    """Return the configuration that a manifest states; extra stages are in the symbol.

    Raises
    ------
    ValueError
        Naming a key that is missing or unknown, or its value and what is allowed.
    """
    used = {f.name for f in fields(Stated)}
    stated = part(Stated)({k: v for k, v in manifest.items() if k in used}, "")
    constants = {
        **asdict(stated.anchors),
        **asdict(stated.decode),
        **asdict(stated.nms),
    }
    return SSDConfig(classes=stated.classes, extras=(), **constants)
