"""What the manifest of a detector without anchors states, checked before use."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Mapping, Tuple

from gluon_compress.data.normalization import MEAN, STD
from gluon_compress.models.centernet.config import CenterNetConfig
from gluon_compress.postprocess.base import Rows
from gluon_compress.postprocess.centernet import OUTPUTS
from gluon_compress.validation import ClassNames, Count, Settings, ShareOrZero, parse

KIND = "centernet"


class PeakSettings(Settings):
    """Which peaks become boxes."""

    peaks: Rows
    least_score: ShareOrZero
    flip_test: bool


class CenterNetManifest(Settings):
    """All that makes a detector of its maps."""

    classes: ClassNames
    size: Tuple[Count, Count]
    decode: PeakSettings


def manifest_of(config: CenterNetConfig) -> dict[str, Any]:
    """Return what a manifest states about a net beside its maps."""
    values = asdict(config)
    return {
        "kind": KIND,
        "outputs": list(OUTPUTS),
        "classes": list(config.classes),
        "mean": list(MEAN),
        "std": list(STD),
        "size": list(config.size),
        "decode": {name: values[name] for name in PeakSettings.model_fields},
    }


def stated_config(manifest: Mapping[str, Any]) -> CenterNetConfig:
    """Return the configuration that a manifest states.

    Raises
    ------
    ValueError
        Naming a key that is missing or unknown, or its value and what is allowed.
    """
    keys = CenterNetManifest.model_fields
    stated = parse(CenterNetManifest, {k: v for k, v in manifest.items() if k in keys})
    return CenterNetConfig(stated.classes, stated.size, **dict(stated.decode))
