"""What the manifest of a RefineDetLite states beside its symbol."""

from __future__ import annotations

from typing import Tuple

from gluon_compress.models.stated import InputSize, Stds
from gluon_compress.postprocess.base import Rows
from gluon_compress.validation import (
    ClassNames,
    Positive,
    Settings,
    Share,
    ShareOrZero,
)


class RefineDetAnchors(Settings):
    """Which anchors a net has, for an image of which size."""

    size: InputSize
    sizes: Tuple[Positive, ...]
    ratios: Tuple[Tuple[Positive, ...], ...]


class RefineDetDecoding(Settings):
    """How both steps become boxes."""

    stds: Stds
    least_objectness: ShareOrZero


class RefineDetNms(Settings):
    """Which boxes stay."""

    nms_thresh: Share
    nms_topk: Rows
    post_nms: Rows


class RefineDetManifest(Settings):
    """All that makes a RefineDetLite of a symbol."""

    classes: ClassNames
    anchors: RefineDetAnchors
    decode: RefineDetDecoding
    nms: RefineDetNms
