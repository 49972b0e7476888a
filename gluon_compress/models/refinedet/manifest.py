"""What the manifest of a RefineDetLite states beside its symbol, checked before use."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Mapping, Tuple, Union

from pydantic import Field
from typing_extensions import Annotated

from gluon_compress.data.normalization import MEAN, STD
from gluon_compress.models.refinedet.config import MAX_SIDE, RefineDetConfig
from gluon_compress.postprocess.refinedet import STEPS
from gluon_compress.postprocess.ssd import Rows
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

KIND = "refinedet"
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class RefineDetAnchors(Settings):
    """Which anchors a net has, for an image of which size."""

    size: Annotated[
        Union[Side, Tuple[Side, Side]],
        Allowed(f"a whole number from 1 to {MAX_SIDE}, or height and width"),
    ]
    sizes: Tuple[Positive, ...]
    ratios: Tuple[Tuple[Positive, ...], ...]


class RefineDetDecoding(Settings):
    """How both steps become boxes."""

    stds: Tuple[Positive, Positive, Positive, Positive]
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


def manifest_of(config: RefineDetConfig) -> dict[str, Any]:
    """Return what a manifest states about a net beside its symbol."""
    values = {**asdict(config), "size": written_size(config.size)}
    return {
        "kind": KIND,
        "outputs": list(STEPS),
        "classes": list(config.classes),
        "mean": list(MEAN),
        "std": list(STD),
        "anchors": {name: values[name] for name in RefineDetAnchors.model_fields},
        "decode": {name: values[name] for name in RefineDetDecoding.model_fields},
        "nms": {name: values[name] for name in RefineDetNms.model_fields},
    }


def stated_config(manifest: Mapping[str, Any]) -> RefineDetConfig:
    """Return the configuration that a manifest states; the rest is in the symbol.

    Raises
    ------
    ValueError
        Naming a key that is missing or unknown, or its value and what is allowed.
    """
    keys = RefineDetManifest.model_fields
    stated = parse(RefineDetManifest, {k: v for k, v in manifest.items() if k in keys})
    return RefineDetConfig(
        classes=stated.classes,
        extras=(),
        **dict(stated.anchors),
        **dict(stated.decode),
        **dict(stated.nms),
    )
