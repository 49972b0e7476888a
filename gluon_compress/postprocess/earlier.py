"""Manifests of detectors that were deployed by earlier versions.

They are of SSDs of square input. In place of the sections ``preprocess`` and
``postprocess`` they state mean and std, the anchors' image size, stds and constants of
NMS at their top level.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Tuple

from gluon_compress.postprocess.ssd import SSDSettings
from gluon_compress.validation import (
    Count,
    Positive,
    Settings,
    Share,
    ShareOrZero,
    parse,
    wrong,
)

USUAL_RESIZE = {"larger": "area", "smaller": "cubic", "otherwise": "linear"}


class EarlierAnchors(Settings):
    """Which image the anchors are for; the rest is in their file."""

    model_config = {"extra": "ignore"}

    size: Count


class EarlierDecode(Settings):
    """What box deltas are multiplied by."""

    stds: Tuple[Positive, Positive, Positive, Positive]


class EarlierNMS(Settings):
    """Which boxes stay."""

    nms_thresh: Share
    nms_topk: Count
    post_nms: Count
    least_score: ShareOrZero


class EarlierManifest(Settings):
    """What such a manifest states of images and boxes."""

    model_config = {"extra": "ignore"}

    input: Dict[str, Any]
    mean: Tuple[ShareOrZero, ShareOrZero, ShareOrZero]
    std: Tuple[Positive, Positive, Positive]
    anchors: EarlierAnchors
    decode: EarlierDecode
    nms: EarlierNMS


def with_sections(manifest: Mapping[str, Any]) -> Dict[str, Any]:
    """Return a manifest with the sections ``preprocess`` and ``postprocess``.

    Raises
    ------
    ValueError
        Naming a key that is missing or unknown, or its value and what is allowed.
    """
    if "preprocess" in manifest or "postprocess" in manifest:
        return dict(manifest)
    earlier = parse(EarlierManifest, dict(manifest))
    size = earlier.anchors.size
    shape = manifest["input"].get("shape")
    if shape != [1, 3, size, size]:
        allowed = f"{[1, 3, size, size]}, for anchors.size is {size}"
        raise wrong("input.shape", shape, allowed)
    interpolation = manifest["input"].get("resize", USUAL_RESIZE)
    if interpolation != USUAL_RESIZE:
        raise wrong("input.resize", interpolation, f"{USUAL_RESIZE}")
    preprocess = {
        "height": size,
        "width": size,
        "mean": list(earlier.mean),
        "std": list(earlier.std),
        "interpolation": interpolation,
    }
    settings = SSDSettings(stds=earlier.decode.stds, **dict(earlier.nms))
    sections = {"preprocess": preprocess, "postprocess": settings.to_json()}
    return {**manifest, **sections}
