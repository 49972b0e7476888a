"""Reads the manifests of detectors that earlier versions deployed.

They describe SSDs with a square input. Instead of the sections ``preprocess`` and
``postprocess``, their top level states mean and std, the image size of the anchors,
stds and the constants of NMS.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Tuple

from gluon_compress.postprocess.ssd import SSDPostprocessSettings
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
    """The image size of the anchors; the rest is in their file."""

    model_config = {"extra": "ignore"}

    size: Count


class EarlierDecode(Settings):
    """Factors of box deltas."""

    stds: Tuple[Positive, Positive, Positive, Positive]


class EarlierNMS(Settings):
    """Constants of NMS."""

    nms_thresh: Share
    nms_topk: Count
    post_nms: Count
    least_score: ShareOrZero


class EarlierManifest(Settings):
    """The keys of such a manifest."""

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
        If a key is missing, unknown or has a value that is not allowed; the message
        names it.
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
    settings = SSDPostprocessSettings(stds=earlier.decode.stds, **dict(earlier.nms))
    sections = {"preprocess": preprocess, "postprocess": settings.to_json()}
    replaced = set(EarlierManifest.model_fields) - {"input"}
    others = {key: value for key, value in manifest.items() if key not in replaced}
    return {**others, **sections}
