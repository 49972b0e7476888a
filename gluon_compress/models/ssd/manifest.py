"""What the manifest of an SSD states beside its raw head."""

from __future__ import annotations

from typing import Tuple

from pydantic import Field
from typing_extensions import Annotated

from gluon_compress.models.stated import InputSize, Stds
from gluon_compress.validation import Allowed, ClassNames, Positive, Settings

Limit = Annotated[
    int, Field(ge=-1, le=100_000), Allowed("a whole number from -1 to 100000")
]


class AnchorSettings(Settings):
    """Which anchors an SSD has, for an image of which size."""

    size: InputSize
    sizes: Tuple[Positive, ...]
    ratios: Tuple[Tuple[Positive, ...], ...]
    steps: Tuple[Positive, ...]
    lite: bool


class DecodeSettings(Settings):
    """What box deltas are multiplied by."""

    stds: Stds


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
