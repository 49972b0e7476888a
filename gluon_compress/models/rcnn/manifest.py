"""What the manifest of a two-stage detector states beside its symbol."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Mapping, Optional, Tuple, Union

from pydantic import Field
from typing_extensions import Annotated

from gluon_compress.data.normalization import MEAN, STD
from gluon_compress.models.rcnn.config import LARGEST, RCNNConfig
from gluon_compress.postprocess.base import Rows
from gluon_compress.sizes import written_size
from gluon_compress.validation import (
    Allowed,
    ClassNames,
    Positive,
    Settings,
    Share,
    ShareOrZero,
    parse,
)

Side = Annotated[int, Field(ge=1, le=LARGEST)]


class RCNNImages(Settings):
    """Of which size inputs are."""

    size: Annotated[
        Union[Side, Tuple[Side, Side]],
        Allowed(f"a whole number from 1 to {LARGEST}, or height and width"),
    ]
    short: Optional[Side]


class RCNNAnchors(Settings):
    """Which anchors a net has."""

    sizes: Tuple[Positive, ...]
    ratios: Tuple[Positive, ...]


class RCNNDecoding(Settings):
    """How box deltas become boxes."""

    stds: Tuple[Positive, Positive, Positive, Positive]
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


SECTIONS: dict[str, type] = {
    "images": RCNNImages,
    "anchors": RCNNAnchors,
    "decode": RCNNDecoding,
    "proposals": RCNNProposals,
    "nms": RCNNNms,
    "sampling": RCNNSampling,
}


def manifest_of(kind: str, outputs: Any, config: RCNNConfig) -> dict[str, Any]:
    """Return what a manifest states about a net beside its symbol."""
    values = {**asdict(config), "size": written_size(config.size)}
    return {
        "kind": kind,
        "outputs": list(outputs),
        "classes": list(config.classes),
        "mean": list(MEAN),
        "std": list(STD),
        **{
            section: {name: values[name] for name in settings.model_fields}  # type: ignore[attr-defined]
            for section, settings in SECTIONS.items()
        },
    }


def stated_config(manifest: Mapping[str, Any]) -> RCNNConfig:
    """Return the configuration that a manifest states; the rest is in the symbol.

    Raises
    ------
    ValueError
        Naming a key that is missing or unknown, or its value and what is allowed.
    """
    keys = RCNNManifest.model_fields
    stated = parse(RCNNManifest, {k: v for k, v in manifest.items() if k in keys})
    values: dict[str, Any] = {}
    for section in SECTIONS:
        values.update(dict(getattr(stated, section)))
    return RCNNConfig(stated.classes, **values)
