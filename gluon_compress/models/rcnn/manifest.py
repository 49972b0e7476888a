"""What the manifest of a two-stage detector states beside its symbol."""

from __future__ import annotations

from typing import Optional, Tuple

from gluon_compress.models.stated import InputSize, Side, Stds
from gluon_compress.postprocess.base import Rows
from gluon_compress.validation import (
    ClassNames,
    Positive,
    Settings,
    Share,
    ShareOrZero,
)


class RCNNImages(Settings):
    """Of which size inputs are."""

    size: InputSize
    short: Optional[Side]


class RCNNAnchors(Settings):
    """Which anchors a net has."""

    sizes: Tuple[Positive, ...]
    ratios: Tuple[Positive, ...]


class RCNNDecoding(Settings):
    """How box deltas become boxes."""

    stds: Stds
    clip: Positive


class RCNNProposals(Settings):
    """Which boxes the second stage looks at."""

    rpn_pre_nms: Rows
    rpn_post_nms: Rows
    rpn_nms_thresh: Share


class RCNNNms(Settings):
    """Which boxes stay."""

    nms_thresh: Share
    nms_topk: Rows
    post_nms: Rows
    least_score: ShareOrZero


class RCNNSampling(Settings):
    """What losses look at."""

    rpn_samples: Rows
    roi_samples: Rows


class RCNNManifest(Settings):
    """All that makes a two-stage detector of a symbol."""

    classes: ClassNames
    images: RCNNImages
    anchors: RCNNAnchors
    decode: RCNNDecoding
    proposals: RCNNProposals
    nms: RCNNNms
    sampling: RCNNSampling
