"""What the manifest of an SSD states beside its raw head, checked before use."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Mapping, Tuple, Union

from pydantic import Field
from typing_extensions import Annotated

from gluon_compress.data.normalization import MEAN, STD
from gluon_compress.models.ssd.config import SSDConfig
from gluon_compress.models.ssd.raw_head import OUTPUTS
from gluon_compress.sizes import written_size
from gluon_compress.validation import (
    Allowed,
    ClassNames,
    Positive,
    Settings,
    parse,
)

KIND = "ssd"
Limit = Annotated[
    int, Field(ge=-1, le=100_000), Allowed("a whole number from -1 to 100000")
]
Side = Annotated[
    int, Field(ge=1, le=1 << 14), Allowed("a whole number from 1 to 16384")
]


class AnchorSettings(Settings):
    """Which anchors an SSD has, for an image of which size."""

    size: Annotated[
        Union[Side, Tuple[Side, Side]],
        Allowed("a whole number from 1 to 16384, or height and width"),
    ]
    sizes: Tuple[Positive, ...]
    ratios: Tuple[Tuple[Positive, ...], ...]
    steps: Tuple[Positive, ...]
    lite: bool


class DecodeSettings(Settings):
    """What box deltas are multiplied by."""

    stds: Tuple[Positive, Positive, Positive, Positive]


class NmsSettings(Settings):
    """Which boxes stay, as GluonCV's ``SSD.set_nms`` takes it: -1 is no limit."""

    nms_thresh: Annotated[float, Field(ge=-1), Allowed("a number from -1")]
    nms_topk: Limit
    post_nms: Limit


class SSDManifest(Settings):
    """All that makes an SSD of a raw head."""

    classes: ClassNames
    anchors: AnchorSettings
    decode: DecodeSettings
    nms: NmsSettings


def manifest_of(config: SSDConfig) -> dict[str, Any]:
    """Return what a manifest states about an SSD beside its raw head."""
    values = {**asdict(config), "size": written_size(config.size)}
    return {
        "kind": KIND,
        "outputs": list(OUTPUTS),
        "classes": list(config.classes),
        "mean": list(MEAN),
        "std": list(STD),
        "anchors": {name: values[name] for name in AnchorSettings.model_fields},
        "decode": {name: values[name] for name in DecodeSettings.model_fields},
        "nms": {name: values[name] for name in NmsSettings.model_fields},
    }


def stated_config(manifest: Mapping[str, Any]) -> SSDConfig:
    """Return the configuration that a manifest states; extra stages are in the symbol.

    Raises
    ------
    ValueError
        Naming a key that is missing or unknown, or its value and what is allowed.
    """
    keys = SSDManifest.model_fields
    stated = parse(SSDManifest, {k: v for k, v in manifest.items() if k in keys})
    return SSDConfig(
        classes=stated.classes,
        extras=(),
        **dict(stated.anchors),
        **dict(stated.decode),
        **dict(stated.nms),
    )
