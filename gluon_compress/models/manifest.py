"""What the manifest of a detector states beside its head, checked before its use."""

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
)
from gluon_compress.models.ssd import SSDConfig

POSITIVE = number(0, above=True)


def stated_classes(value: Any, place: str) -> tuple[str, ...]:
    """Accept a list of distinct names."""
    return class_names(list_of(text)(value, place))


@section
class Anchors:
    """Which anchors a detector has, for an image of which size."""

    size: int = key(whole(1))
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


def stated_config(manifest: Mapping[str, Any]) -> SSDConfig:
    """Return what a manifest states of a detector; its extra stages are in the head.

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
